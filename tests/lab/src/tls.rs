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
/// Where QEMU looks there for a Diffie-Hellman group.
const DH_PARAMS: &str = "dh-params.pem";

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

/// Where the lab's authority is, below the lab's directory.
pub(crate) const AUTHORITY: &str = "ca";

/// What a host's QEMU has to show when it is moved to or from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Papers {
    /// What it had from the start.
    Right,
    /// Everything in order, but of an authority that no other host trusts; and it trusts no other.
    OtherAuthority,
    /// The same, but it trusts the others' authority as well: as a source it has nothing against a destination that has
    /// something against it.
    Stranger,
    /// Good until 2020.
    Expired,
    /// Somebody else's name and address.
    OtherName,
    /// None: TLS is off.
    None,
}

#[derive(Clone, Copy)]
enum What {
    Authority,
    Certificate,
    Key,
}

const QEMU_FILES: [(What, &str); 5] = [
    (What::Authority, "ca-cert.pem"),
    (What::Key, "server-key.pem"),
    (What::Key, "client-key.pem"),
    (What::Certificate, "server-cert.pem"),
    (What::Certificate, "client-cert.pem"),
];
const LIBVIRT_CLIENT_FILES: [(What, &str); 3] =
    [(What::Authority, "cacert.pem"), (What::Certificate, "clientcert.pem"), (What::Key, "clientkey.pem")];

const GOOD: &str = "expiration_days = 7";
const OVER: &str = "activation_date = \"2019-01-01 00:00:00\"\nexpiration_date = \"2020-01-01 00:00:00\"";

/// What certtool is to write into a certificate for both roles.
fn holder(name: &str, addresses: &[Ipv4Addr], dates: &str) -> String {
    let addresses: String = addresses.iter().map(|ip| format!("ip_address = {ip}\n")).collect();
    format!(
        "cn = {name}\ndns_name = {name}\n{addresses}\
         tls_www_server\ntls_www_client\nencryption_key\nsigning_key\n{dates}\n"
    )
}

/// Gives a host's QEMU these papers. It reads them anew for every migration; libvirtd, which has its files from here too,
/// only when it starts.
pub(crate) fn give(
    run_dir: &Path,
    pki: &Path,
    name: &str,
    addresses: &[Ipv4Addr],
    papers: Papers,
) -> Result<()> {
    let ours = Authority::at(run_dir.join(AUTHORITY));
    let issue = |authority: &Authority, kind: &str, template: String| {
        let stem = format!("{name}-{kind}");
        authority.issue(&stem, &template)?;
        authority.copy(&stem, pki, &QEMU_FILES)
    };
    match papers {
        Papers::Right => ours.copy(name, pki, &QEMU_FILES),
        Papers::OtherAuthority => {
            let other = Authority::create(run_dir.join("ca-other"))?;
            issue(&other, "other-authority", holder(name, addresses, GOOD))
        }
        Papers::Stranger => {
            give(run_dir, pki, name, addresses, Papers::OtherAuthority)?;
            let (ours, path) = (run_dir.join(AUTHORITY).join("ca-cert.pem"), pki.join("ca-cert.pem"));
            let read = |path: &Path| fs::read_to_string(path).doing(|| format!("reading {}", path.display()));
            let both = read(&ours)? + &read(&path)?;
            fs::write(&path, both).doing(|| format!("writing {}", path.display()))
        }
        Papers::Expired => issue(&ours, "expired", holder(name, addresses, OVER)),
        Papers::OtherName => {
            let somebody = Ipv4Addr::new(10, 77, 9, 9);
            issue(&ours, "other-name", holder("somebody", &[somebody], GOOD))
        }
        Papers::None => {
            for (_, file) in QEMU_FILES {
                let path = pki.join(file);
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(error).doing(|| format!("deleting {}", path.display()));
                    }
                    Ok(()) | Err(_) => {}
                }
            }
            Ok(())
        }
    }
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
        // One of RFC 7919's groups. Without it each destination's QEMU searches for a group of its own, before every move:
        // 0.1 to 0.4 s of CPU time for what no handshake of TLS 1.3 uses.
        authority.run(&["--get-dh-params", "--bits", "2048", "--outfile", DH_PARAMS])?;
        let template = "cn = coms-lab\nca\ncert_signing_key\nexpiration_days = 7\n";
        authority.certtool(
            "ca.info",
            template,
            &["--generate-self-signed", "--load-privkey", "ca-key.pem"],
            "ca-cert.pem",
        )?;
        Ok(authority)
    }

    /// One that was created before.
    fn at(dir: PathBuf) -> Authority {
        Authority { dir }
    }

    /// Puts a host's key and certificates, for both roles, into its /etc/libvirt.
    pub(crate) fn equip(&self, etc_libvirt: &Path, name: &str, addresses: &[Ipv4Addr]) -> Result<()> {
        let to = etc_libvirt.join("pki");
        fs::create_dir_all(&to).doing(|| format!("making {}", to.display()))?;
        self.issue(name, &holder(name, addresses, GOOD))?;
        self.copy(name, &to, &QEMU_FILES)?;
        let group = to.join(DH_PARAMS);
        fs::copy(self.dir.join(DH_PARAMS), &group).doing(|| format!("copying {}", group.display()))?;
        self.copy(name, &to, &LIBVIRT_CLIENT_FILES)
    }

    /// Makes a key, and a certificate of what the template says.
    fn issue(&self, stem: &str, template: &str) -> Result<()> {
        let (key, certificate) = (format!("{stem}-key.pem"), format!("{stem}-cert.pem"));
        self.generate_key(&key)?;
        let sign = [
            "--generate-certificate",
            "--load-ca-certificate",
            "ca-cert.pem",
            "--load-ca-privkey",
            "ca-key.pem",
            "--load-privkey",
            &key,
        ];
        self.certtool(&format!("{stem}.info"), template, &sign, &certificate)
    }

    fn copy(&self, stem: &str, to: &Path, files: &[(What, &str)]) -> Result<()> {
        for (what, name) in files {
            let from = match what {
                What::Authority => "ca-cert.pem".to_owned(),
                What::Certificate => format!("{stem}-cert.pem"),
                What::Key => format!("{stem}-key.pem"),
            };
            fs::copy(self.dir.join(&from), to.join(name))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What certtool says of a host's certificate, as seen by who trusts this authority.
    fn verified(authority: &Path, pki: &Path, name: &str) -> bool {
        let (ca, certificate) = (authority.join("ca-cert.pem"), pki.join("server-cert.pem"));
        let mut command = Command::new("certtool");
        command.env("PATH", search_path()).args(["--verify", "--verify-hostname", name]);
        command.arg("--load-ca-certificate").arg(ca).arg("--infile").arg(certificate);
        command.output().unwrap().status.success()
    }

    #[test]
    fn papers_are_wrong_in_the_way_they_are_meant_to_be() -> Result<()> {
        let dir = std::env::temp_dir().join(format!("coms-papers-{}", std::process::id()));
        let address = &[Ipv4Addr::new(10, 77, 0, 1)];
        let ca = dir.join(AUTHORITY);
        Authority::create(ca.clone())?.equip(&dir, "h1", address)?;
        let pki = dir.join("pki");
        assert!(verified(&ca, &pki, "h1"));
        for papers in [Papers::OtherAuthority, Papers::Stranger, Papers::Expired, Papers::OtherName] {
            give(&dir, &pki, "h1", address, papers)?;
            assert!(!verified(&ca, &pki, "h1"), "{papers:?}");
            give(&dir, &pki, "h1", address, Papers::Right)?;
            assert!(verified(&ca, &pki, "h1"), "after {papers:?}");
        }
        // Twice, as after a test that was not undone.
        give(&dir, &pki, "h1", address, Papers::OtherAuthority)?;
        give(&dir, &pki, "h1", address, Papers::OtherAuthority)?;
        assert!(verified(&dir.join("ca-other"), &pki, "h1"));
        give(&dir, &pki, "h1", address, Papers::None)?;
        give(&dir, &pki, "h1", address, Papers::None)?;
        let mut left: Vec<_> = fs::read_dir(&pki)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["cacert.pem", "clientcert.pem", "clientkey.pem", "dh-params.pem"]);
        fs::remove_dir_all(&dir).unwrap();
        Ok(())
    }
}
