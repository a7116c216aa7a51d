//! A certificate authority of the lab's own, and a certificate per host, for migrations over TLS.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    error::{Doing as _, Result, require_success},
    process,
    requirements::search_path,
};

/// Where a host's QEMU looks for its certificates, inside the host; and its libvirt, for its own connections.
pub const DIR_INSIDE: &str = "/etc/libvirt/pki";

/// What qemu.conf says more, so that `virsh migrate --tls` works and both ends are verified.
pub(crate) fn qemu_conf() -> String {
    format!(
        r#"default_tls_x509_cert_dir = "{DIR_INSIDE}"
migrate_tls_x509_cert_dir = "{DIR_INSIDE}"
migrate_tls_x509_verify = 1
"#
    )
}

/// What libvirtd.conf says more, so that other hosts reach it by TLS.
pub(crate) fn libvirtd_conf() -> String {
    format!(
        r#"auth_tls = "none"
ca_file = "{DIR_INSIDE}/ca-cert.pem"
cert_file = "{DIR_INSIDE}/server-cert.pem"
key_file = "{DIR_INSIDE}/server-key.pem"
"#
    )
}

/// The lab's authority. Nobody trusts it but the hosts that get its certificate.
#[derive(Debug)]
pub(crate) struct Authority {
    dir: PathBuf,
}

impl Authority {
    pub(crate) fn create(dir: PathBuf) -> Result<Authority> {
        fs::create_dir_all(&dir).doing(|| format!("making {}", dir.display()))?;
        let authority = Authority { dir };
        authority.generate_key("ca-key.pem")?;
        let template = "cn = coms-lab\nca\ncert_signing_key\nexpiration_days = 7\n";
        authority.certtool(
            "ca.info",
            template,
            &["--generate-self-signed", "--load-privkey", "ca-key.pem"],
            "ca-cert.pem",
        )?;
        Ok(authority)
    }

    /// Puts a host's key and certificates, for both roles, into its /etc/libvirt.
    pub(crate) fn equip(&self, etc_libvirt: &Path, name: &str, address: Ipv4Addr) -> Result<()> {
        let to = etc_libvirt.join("pki");
        fs::create_dir_all(&to).doing(|| format!("making {}", to.display()))?;
        let (key, certificate) = (format!("{name}-key.pem"), format!("{name}-cert.pem"));
        self.generate_key(&key)?;
        let template = format!(
            "cn = {name}\ndns_name = {name}\nip_address = {address}\n\
             tls_www_server\ntls_www_client\nencryption_key\nsigning_key\nexpiration_days = 7\n"
        );
        let sign = [
            "--generate-certificate",
            "--load-ca-certificate",
            "ca-cert.pem",
            "--load-ca-privkey",
            "ca-key.pem",
            "--load-privkey",
            &key,
        ];
        self.certtool(&format!("{name}.info"), &template, &sign, &certificate)?;
        let copies = [
            ("ca-cert.pem", "ca-cert.pem"),
            (&key, "server-key.pem"),
            (&key, "client-key.pem"),
            (&certificate, "server-cert.pem"),
            (&certificate, "client-cert.pem"),
            // As libvirt's client names them.
            ("ca-cert.pem", "cacert.pem"),
            (&certificate, "clientcert.pem"),
            (&key, "clientkey.pem"),
        ];
        for (from, name) in copies {
            fs::copy(self.dir.join(from), to.join(name))
                .doing(|| format!("copying {from} to {}", to.display()))?;
        }
        Ok(())
    }

    fn generate_key(&self, file: &str) -> Result<()> {
        // libvirtd wants a certificate for key encipherment, which one of an elliptic curve is not.
        self.run(&["--generate-privkey", "--key-type", "rsa", "--bits", "2048", "--outfile", file])
    }

    fn certtool(&self, template_file: &str, template: &str, args: &[&str], certificate: &str) -> Result<()> {
        let path = self.dir.join(template_file);
        fs::write(&path, template).doing(|| format!("writing {}", path.display()))?;
        let rest = ["--template", template_file, "--outfile", certificate];
        self.run(&args.iter().copied().chain(rest).collect::<Vec<_>>())
    }

    fn run(&self, args: &[&str]) -> Result<()> {
        let argv: Vec<&str> = ["certtool"].into_iter().chain(args.iter().copied()).collect();
        let mut command = Command::new("certtool");
        command.args(args).current_dir(&self.dir).env("PATH", search_path());
        let output = process::run(command, &argv, Duration::from_secs(60))?;
        require_success(&argv, output).map(drop)
    }
}
