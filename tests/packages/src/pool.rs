//! Two machines with libvirt and certificates, as an operator has them before he installs anything of ours: host1 and
//! host2, which reach each other as host1.example and host2.example.

use super::machine::Machine;
use super::{Page, Result, as_root, must, text, wait};
use coms_lab::{HostConfig, Lab, LabConfig};
use std::path::Path;

pub const NAMES: [&str; 2] = ["host1", "host2"];

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
            let files = [
                ("/etc/hostname", format!("{}\n", host.name())),
                ("/etc/hosts", hosts_file.clone()),
                (
                    "/etc/nsswitch.conf",
                    "passwd: files\ngroup: files\nshadow: files\nhosts: files\n".to_owned(),
                ),
                (
                    "/etc/libvirt/libvirtd.conf",
                    // Both have the same machine's UUID by their hardware.
                    format!(
                        "host_uuid = \"{}\"\n",
                        std::fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim()
                    ),
                ),
            ];
            let machine = Machine::boot(&lab, host, &files)?;
            set_up_libvirt(&machine, &host.ip().to_string(), &authority)?;
            machines.push(machine);
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

    /// A line of README's, typed on one host. Who opens an editor leaves the page's example there, as it is to be on
    /// that host; who copies to another host needs no ssh.
    pub fn typed(&self, i: usize, page: &Page, line: &str) -> Result<String> {
        let machine = self.machine(i);
        println!("{}# {line}", machine.name());
        let line = as_root(line);
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["editor", file] => {
                let (example, whole) = page.example(file);
                let before = if whole { String::new() } else { machine.must(&format!("cat {file}"))? };
                machine.write(file, &(before + &as_on(i, example))).map(|()| String::new())
            }
            ["scp", "-rp", from, to] => {
                let wrong = || format!("{line}: not to root of a host");
                let (host, to) =
                    to.strip_prefix("root@").and_then(|to| to.split_once(':')).ok_or_else(wrong)?;
                let there = self.machines.iter().find(|m| m.name() == host).ok_or_else(wrong)?;
                must(&["cp", "-rp", &machine.path_of(from), &there.path_of(to)])
            }
            _ => {
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

/// What an operator changes there: files that can be changed again. None is open to all.
fn set_up_libvirt(machine: &Machine, address: &str, authority: &Path) -> Result<()> {
    let name = machine.name();
    certify(authority, name, address)?;
    let read = |file: String| std::fs::read_to_string(authority.join(file));
    let (cert, key) = (read(format!("{name}.pem"))?, read(format!("{name}.key"))?);
    machine.must("mkdir -p /etc/pki/CA /etc/pki/libvirt; mkdir -m 700 /etc/pki/libvirt/private")?;
    machine.write("/etc/pki/CA/cacert.pem", &read("ca.pem".into())?)?;
    for end in ["server", "client"] {
        machine.write(&format!("/etc/pki/libvirt/{end}cert.pem"), &cert)?;
        machine.write(&format!("/etc/pki/libvirt/private/{end}key.pem"), &key)?;
    }
    // No cgroups but systemd's in here, and no other namespaces than the machine's.
    let conf = format!(
        "migration_address = \"{address}\"\nsecurity_driver = \"none\"\ncgroup_controllers = [ ]\nnamespaces = [ ]\n"
    );
    machine.write("/etc/libvirt/qemu.conf", &conf)?;
    machine.must("chmod 600 /etc/libvirt/qemu.conf /etc/pki/libvirt/private/*").map(|_| ())
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
