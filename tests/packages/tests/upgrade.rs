//! Upgrades and downgrades of both packages, in both orders, between the version before this one and this one: the guest
//! is moved in every mixed state, and what was configured stays.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use coms_lab::{Guest, GuestConfig, GuestFile, System, workspace_root};
use coms_packages::pool::{Pool, as_on};
use coms_packages::{Result, one_in, wait};
use std::path::{Path, PathBuf};
use std::time::Duration;

const VM: &str = "web-1";
/// The VM's channel is there from the beginning: the version before this one had no `comsctl enable`.
const BROKER_TOML: &str = "[host]\nname = \"host1\"\nregion = \"eu-west\"\n# mine\n[[hosts]]\nname = \"host2\"\nregion = \"eu-west\"\nlibvirt = \
     \"qemu+tls://host2.example/system\"\n[guests]\nenabled = [\"web-*\"]\n[limits]\ncooldown_s = 0\nrequests_per_minute = 60\n";
const AGENT_TOML: &str = "# mine\n[asking]\ncooldown_s = 1\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Previous,
    This,
}

/// A version's packages that are exchanged; the one before this had no others.
struct Debs {
    agent: PathBuf,
    broker: PathBuf,
}

fn debs_in(dir: &str) -> Result<Debs> {
    let dir = workspace_root().join("target").join(dir);
    Ok(Debs { agent: one_in(&dir, "coms-agent_", ".deb")?, broker: one_in(&dir, "coms-broker_", ".deb")? })
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

struct Play {
    pool: Pool,
    guest: Guest,
    previous: Debs,
    this: Debs,
    moves: usize,
}

impl Play {
    fn of(&self, which: Which) -> &Debs {
        match which {
            Which::Previous => &self.previous,
            Which::This => &self.this,
        }
    }

    /// Upgrades or downgrades the brokers of both hosts. In between nothing moves towards the older one: it leaves no sign
    /// of life that the newer one knows.
    fn brokers(&mut self, which: Which) -> Result<()> {
        let deb = file_name(&self.of(which).broker);
        for i in 0..2 {
            println!("{}: {deb}", self.pool.machine(i).name());
            let keep = "-o Dpkg::Options::=--force-confold";
            self.pool
                .machine(i)
                .must(&format!("apt-get install -y --allow-downgrades {keep} ./{deb} 2>&1"))?;
            assert!(
                self.pool.machine(i).must("cat /etc/coms/broker.toml")?.contains("# mine"),
                "the configuration stays"
            );
        }
        self.moved(&format!("coms-broker {which:?}"))
    }

    fn agent(&mut self, which: Which) -> Result<()> {
        let deb = file_name(&self.of(which).agent);
        println!("{VM}: {deb}");
        let line = format!(
            "cd /root; apt-get install -y --allow-downgrades -o Dpkg::Options::=--force-confold ./{deb} 2>&1"
        );
        let env = ["env", "HOME=/root", "DEBIAN_FRONTEND=noninteractive", "sh", "-c", &line];
        self.guest.exec_with(&env, "", Duration::from_secs(180))?.success()?;
        assert!(self.guest.sh("cat /etc/coms/agent.toml")?.contains("# mine"), "the configuration stays");
        self.moved(&format!("coms-agent {which:?}"))
    }

    /// The guest asks, is moved, and is told by the other host's broker what it took.
    fn moved(&mut self, state: &str) -> Result<()> {
        self.pool.wait_for_brokers()?;
        let from = match self.pool.where_is(VM)?.as_slice() {
            [one] => *one,
            other => return Err(format!("{VM} runs at {other:?}").into()),
        };
        wait("the agent to be heard", 90, || {
            let seen = self.pool.machine(from).run("comsctl --json guests")?.out;
            let connected = self.guest.sh("coms --json status")?;
            let heard = seen.contains("\"agent\": \"coms-agent");
            Ok(heard && connected.split_whitespace().collect::<String>().contains("\"connected\":true"))
        })?;
        let out = self.guest.exec_with(&["coms", "migrate", "--wait"], "", Duration::from_secs(180))?;
        println!(
            "  {state}: coms migrate --wait: exit {}: {}",
            out.status,
            out.stdout.trim().replace('\n', " | ")
        );
        if out.status != 0 {
            let logs: String = self
                .pool
                .machines
                .iter()
                .filter_map(|m| m.run("journalctl --no-pager -n 40 -u coms-broker").ok())
                .map(|s| s.out)
                .collect();
            return Err(format!("{state}: {}{}\n{logs}", out.stdout, out.stderr).into());
        }
        assert_eq!(self.pool.where_is(VM)?, [1 - from], "{state}: it runs at the other host, and only there");
        let history = self.guest.sh("coms --json history")?;
        self.moves += 1;
        let told = history.matches("completed").count();
        assert!(told >= 1, "{state}: {history}");
        Ok(())
    }
}

#[test]
fn up_and_down_in_both_orders_with_a_move_in_every_mixed_state() -> Result<()> {
    let (this, previous) = (debs_in("packages")?, debs_in("packages-previous")?);
    let pool = Pool::up()?;
    for (i, machine) in pool.machines.iter().enumerate() {
        for deb in [&previous.broker, &this.broker] {
            machine.copy_in(deb, &format!("/root/{}", file_name(deb)))?;
        }
        machine.must(&format!("apt-get install -y ./{} 2>&1", file_name(&previous.broker)))?;
        machine.write("/etc/coms/broker.toml", &as_on(i, BROKER_TOML))?;
        machine.must("systemctl restart coms-broker")?;
    }
    let file = |deb: &Path| -> Result<GuestFile> {
        Ok(GuestFile { path: format!("/root/{}", file_name(deb)), mode: 0o644, bytes: std::fs::read(deb)? })
    };
    let config = GuestConfig {
        name: VM.into(),
        memory_mib: 512,
        system: System::Debian,
        persistent: true,
        files: vec![file(&previous.agent)?, file(&this.agent)?],
        ..GuestConfig::default()
    };
    let guest = pool.lab.boot(config, "host1")?;
    let install = format!(
        "cd /root; apt-get install -y ./{} 2>&1 && printf '{AGENT_TOML}' >/etc/coms/agent.toml && systemctl restart coms-agent",
        file_name(&previous.agent)
    );
    guest
        .exec_with(
            &["env", "HOME=/root", "DEBIAN_FRONTEND=noninteractive", "sh", "-c", &install],
            "",
            Duration::from_secs(180),
        )?
        .success()?;
    let mut play = Play { pool, guest, previous, this, moves: 0 };
    play.moved("the previous version on all")?;
    // Hosts first, then the guest; back in the same order; and the guest first.
    play.brokers(Which::This)?;
    play.agent(Which::This)?;
    play.brokers(Which::Previous)?;
    play.agent(Which::Previous)?;
    play.agent(Which::This)?;
    play.brokers(Which::This)?;
    play.agent(Which::Previous)?;
    play.brokers(Which::Previous)?;
    println!("accel=tcg; {} moves, each in another state", play.moves);
    play.pool.finish()
}
