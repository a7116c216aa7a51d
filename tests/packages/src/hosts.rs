//! Hosts of the lab with the broker as it is in its package, for tests that are about the guest.

use super::{Packages, Result, must, text, wait};
use coms_lab::{Guest, Host, HostConfig, Lab, LabConfig, Process, Signal};
use serde_json::Value;
use std::path::PathBuf;

const NAMES: [&str; 2] = ["host1", "host2"];

pub struct Hosts {
    pub lab: Lab,
    brokers: Vec<Process>,
    /// Where the broker's package is unpacked.
    root: PathBuf,
}

impl Hosts {
    /// Two hosts whose brokers let nobody take part whom the operator did not enable.
    pub fn up(packages: &Packages) -> Result<Hosts> {
        let hosts = NAMES.iter().enumerate().map(|(cpu, name)| HostConfig::new(name).cpu(cpu)).collect();
        let lab = Lab::new(LabConfig { hosts, ..LabConfig::default() })?;
        let root = lab.dir().join("broker");
        must(&["dpkg-deb", "--extract", &text(&packages.broker_deb), &text(&root)])?;
        let mut all = Hosts { lab, brokers: Vec::new(), root };
        for i in 0..NAMES.len() {
            let (me, other) = (all.host(i), all.host(1 - i));
            let toml = format!(
                "[host]\nname = \"{}\"\nregion = \"r\"\n[[hosts]]\nname = \"{}\"\nregion = \"r\"\nlibvirt = \"{}\"\n\
                 [limits]\ncooldown_s = 0\n",
                me.name(),
                other.name(),
                other.libvirt_uri_remote()
            );
            me.write_file("/etc/coms/broker.toml", toml)?;
            let broker = me.spawn(all.root.join("usr/bin/coms-broker"), &[], &[], "coms-broker.log")?;
            all.brokers.push(broker);
        }
        for i in 0..NAMES.len() {
            wait("each broker to know each host's load", 60, || {
                Ok(knows_all_hosts(&all.comsctl(i, &["hosts"])?.1))
            })?;
        }
        Ok(all)
    }

    pub fn host(&self, i: usize) -> &Host {
        self.lab.host(NAMES[i])
    }

    /// Runs `comsctl --json` on a host: its exit status, and what it said, which is text if it is no JSON.
    pub fn comsctl(&self, i: usize, args: &[&str]) -> Result<(i32, Value)> {
        let program = text(&self.root.join("usr/bin/comsctl"));
        let out = self.host(i).run(&[&[program.as_str(), "--json"], args].concat())?;
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        let value = serde_json::from_str(&said).unwrap_or(Value::String(said + &err));
        Ok((out.status.code().unwrap_or(-1), value))
    }

    /// A guest as a host's broker sees it.
    pub fn seen(&self, i: usize, guest: &Guest) -> Result<Value> {
        let (_, all) = self.comsctl(i, &["guests"])?;
        let found = all.as_array().and_then(|all| all.iter().find(|g| g["name"] == guest.name()));
        Ok(found.cloned().unwrap_or(Value::Null))
    }

    pub fn finish(self) -> Result<()> {
        for broker in self.brokers {
            broker.stop(Signal::TERM)?;
        }
        std::fs::remove_dir_all(&self.root)?;
        Ok(self.lab.finish()?)
    }
}

/// From `comsctl hosts --json`: moves can begin.
pub fn knows_all_hosts(hosts: &Value) -> bool {
    let known = |h: &Value| {
        // Before brokers left signs of life, nothing was said of them.
        let broker = h["this_host"] == true || h.get("broker").is_none_or(|b| !b.is_null());
        h["answers"] == true && !h["load_per_cpu"].is_null() && broker
    };
    hosts.as_array().is_some_and(|all| all.iter().all(known))
}
