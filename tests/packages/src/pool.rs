//! Two machines with libvirt and certificates, as an operator has them before he installs anything of ours: host1 and
//! host2, which reach each other as host1.example and host2.example.

use super::machine::Machine;
use super::{Page, Result, as_root, must, text, wait};
use coms_lab::{HostConfig, Lab, LabConfig};
use std::path::Path;

const NAMES: [&str; 2] = ["host1", "host2"];

pub struct Pool {
    pub lab: Lab,
    pub machines: Vec<Machine>,
}

impl Pool {
    pub fn up() -> Result<Pool> {
        let hosts = NAMES.iter().enumerate().map(|(cpu, name)| HostConfig::new(name).cpu(cpu)).collect();
        let lab = Lab::new(LabConfig { hosts, ..LabConfig::default() })?;
        let authority = lab.dir().join("authority");
        make_authority(&authority)?;
        let hosts_file: String = std::iter::once("127.0.0.1 localhost\n".to_owned())
            .chain(lab.hosts().iter().map(|h| format!("{} {}.example {}\n", h.ip(), h.name(), h.name())))
            .collect();
        let mut machines = Vec::new();
        for host in lab.hosts() {
            let address = host.ip().to_string();
            certify(&authority, host.name(), &address)?;
            let read = |file: &str| std::fs::read_to_string(authority.join(file));
            let (cert, key) =
                (read(&format!("{}.pem", host.name()))?, read(&format!("{}.key", host.name()))?);
            let files = [
                ("/etc/hostname", format!("{}\n", host.name())),
                ("/etc/hosts", hosts_file.clone()),
                (
                    "/etc/nsswitch.conf",
                    "passwd: files\ngroup: files\nshadow: files\nhosts: files\n".to_owned(),
                ),
                ("/etc/pki/CA/cacert.pem", read("ca.pem")?),
                ("/etc/pki/libvirt/servercert.pem", cert.clone()),
                ("/etc/pki/libvirt/clientcert.pem", cert),
                ("/etc/pki/libvirt/private/serverkey.pem", key.clone()),
                ("/etc/pki/libvirt/private/clientkey.pem", key),
                (
                    "/etc/libvirt/libvirtd.conf",
                    // Both have the same machine's UUID by their hardware.
                    format!(
                        "host_uuid = \"{}\"\n",
                        std::fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim()
                    ),
                ),
                (
                    "/etc/libvirt/qemu.conf",
                    // No cgroups but systemd's in here, and no other namespaces than the machine's.
                    format!(
                        "migration_address = \"{address}\"\nmigration_host = \"{address}\"\nsecurity_driver = \"none\"\n\
                         cgroup_controllers = [ ]\nnamespaces = [ ]\n"
                    ),
                ),
            ];
            machines.push(Machine::boot(&lab, host, &files)?);
        }
        let pool = Pool { lab, machines };
        for machine in &pool.machines {
            machine.must("systemctl stop libvirtd; systemctl enable --now libvirtd-tls.socket; systemctl start libvirtd")?;
        }
        for (i, machine) in pool.machines.iter().enumerate() {
            let uri = format!("qemu+tls://{}.example/system", NAMES[1 - i]);
            wait("each libvirtd to reach the other", 60, || {
                Ok(machine.run(&format!("virsh -c {uri} list"))?.status == 0)
            })
            .map_err(|e| {
                let said =
                    machine.run(&format!("virsh -c {uri} list")).map(|s| s.out + &s.err).unwrap_or_default();
                format!("{e}: {said}")
            })?;
        }
        Ok(pool)
    }

    pub fn machine(&self, i: usize) -> &Machine {
        &self.machines[i]
    }

    /// A line of README's page for operators, typed on one host. Who opens an editor leaves the page's example there,
    /// as it is to be on that host.
    pub fn typed(&self, i: usize, page: &Page, line: &str) -> Result<String> {
        let machine = self.machine(i);
        println!("{}# {line}", machine.name());
        let line = as_root(line);
        match line.strip_prefix("editor ") {
            Some(file) => machine.write(file.trim(), &as_on(i, &page.toml)).map(|()| String::new()),
            None => {
                let said = machine.must(line)?;
                if line.starts_with("systemctl restart") {
                    // Its socket is there soon after. Who types is slower.
                    wait("the broker's socket", 20, || Ok(machine.run("comsctl guests")?.status == 0))?;
                }
                Ok(said)
            }
        }
    }

    /// All brokers know all hosts, so that a move can begin.
    pub fn wait_for_brokers(&self) -> Result<()> {
        for machine in &self.machines {
            wait("each broker to know each host", 90, || {
                let said = machine.run("comsctl --json hosts")?;
                Ok(serde_json::from_str(&said.out).is_ok_and(|hosts| super::hosts::knows_all_hosts(&hosts)))
            })
            .map_err(|e| {
                let more = machine.run("comsctl hosts; journalctl --no-pager -n 30 -u coms-broker");
                format!("{}: {e}\n{}", machine.name(), more.map(|s| s.out + &s.err).unwrap_or_default())
            })?;
        }
        Ok(())
    }

    /// Asks every host's libvirt.
    pub fn where_is(&self, guest: &str) -> Result<Vec<usize>> {
        let mut found = Vec::new();
        for (i, machine) in self.machines.iter().enumerate() {
            let list = machine.must("virsh -q list --name --state-running")?;
            if list.lines().any(|l| l.trim() == guest) {
                found.push(i);
            }
        }
        Ok(found)
    }

    pub fn finish(self) -> Result<()> {
        for machine in self.machines {
            machine.power_off()?;
        }
        Ok(self.lab.finish()?)
    }
}

/// A configuration as host1 has it, as it is to be on this host.
pub fn as_on(i: usize, example: &str) -> String {
    match i {
        0 => example.to_owned(),
        _ => example.replace("host1", "host#").replace("host2", "host1").replace("host#", "host2"),
    }
}

fn make_authority(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join("ca.info"), "cn = coms-lab\nca\ncert_signing_key\nexpiration_days = 3650\n")?;
    let dir = text(dir);
    must(&[
        "sh",
        "-c",
        &format!(
            "cd '{dir}' && certtool --generate-privkey --key-type rsa --bits 2048 --outfile ca.key && \
         certtool --generate-self-signed --load-privkey ca.key --template ca.info --outfile ca.pem"
        ),
    ])?;
    Ok(())
}

fn certify(dir: &Path, name: &str, address: &str) -> Result<()> {
    let template = format!(
        "cn = {name}.example\ndns_name = {name}.example\nip_address = {address}\ntls_www_server\ntls_www_client\n\
         encryption_key\nsigning_key\nexpiration_days = 365\n"
    );
    std::fs::write(dir.join(format!("{name}.info")), template)?;
    let dir = text(dir);
    must(&[
        "sh",
        "-c",
        &format!(
            "cd '{dir}' && certtool --generate-privkey --key-type rsa --bits 2048 --outfile {name}.key && certtool \
         --generate-certificate --load-ca-certificate ca.pem --load-ca-privkey ca.key --load-privkey {name}.key \
         --template {name}.info --outfile {name}.pem"
        ),
    ])?;
    Ok(())
}
