//! Hosts with brokers, as an operator would run them: nothing is recorded, the log says what it says by default.
//! (The story's stage records every byte to every guest, which would be measured too.)

use coms_broker::control::{GuestView, HostView, Reply, Request};
use coms_broker::records::MoveRecord;
use coms_lab::{AgentConfig, Guest, GuestConfig, Host, HostConfig, Lab, LabConfig, Process, Signal};
use coms_story::Result;
use coms_story::{HOSTS, REGIONS, coms, programs, wait};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// What a broker's log should say: with the duration of each migrate call, which is written where it is taken.
const LOG: &str = "info,coms_broker::io::libvirt=debug";

pub struct Pool {
    pub lab: Lab,
    /// In the hosts' order; None while stopped.
    brokers: Vec<Option<Process>>,
}

impl Pool {
    /// Hosts up, one CPU each, brokers running and ready.
    pub fn up(cpus: &[usize]) -> Result<Pool> {
        let programs = programs()?;
        let hosts = cpus.iter().zip(HOSTS).map(|(cpu, name)| HostConfig::new(name).cpu(*cpu)).collect();
        let lab = Lab::new(LabConfig {
            hosts,
            agent: Some(programs.guest.agent.clone()),
            cli: Some(programs.guest.cli.clone()),
            ..LabConfig::default()
        })?;
        let mut pool = Pool { lab, brokers: cpus.iter().map(|_| None).collect() };
        pool.start_brokers()?;
        Ok(pool)
    }

    pub fn host(&self, i: usize) -> &Host {
        self.lab.host(HOSTS[i])
    }

    pub fn start_brokers(&mut self) -> Result<()> {
        for i in 0..self.brokers.len() {
            let host = self.host(i);
            host.write_file("/etc/coms/alias.key", "the pool's secret")?;
            host.write_file("/etc/coms/broker.toml", self.broker_toml(i))?;
            let broker = host.spawn(&programs()?.broker, &[], &[("COMS_LOG", LOG)], "coms-broker.log")?;
            self.brokers[i] = Some(broker);
        }
        for i in 0..self.brokers.len() {
            wait("each broker to know each host's load", 40, || {
                let hosts = self.hosts_of(i);
                Ok(hosts.is_ok_and(|all| all.iter().all(|h| h.answers && h.load_per_cpu.is_some())))
            })?;
        }
        Ok(())
    }

    pub fn stop_brokers(&mut self) -> Result<()> {
        for broker in self.brokers.iter_mut().filter_map(Option::take) {
            broker.stop(Signal::TERM)?;
        }
        Ok(())
    }

    pub fn broker_pid(&self, i: usize) -> Result<u32> {
        Ok(self.brokers[i].as_ref().ok_or("no broker runs there")?.pid())
    }

    fn broker_toml(&self, me: usize) -> String {
        let mut toml = format!(
            "[host]\nname = \"{}\"\nregion = \"{}\"\ncpus = 1\n\n[guests]\nenabled = [\"*\"]\n\n[aliases]\nkey_file = \
             \"/etc/coms/alias.key\"\n\n[limits]\ncooldown_s = 0\nrequests_per_minute = 600\n",
            HOSTS[me], REGIONS[me],
        );
        for i in (0..self.brokers.len()).filter(|i| *i != me) {
            toml.push_str(&format!(
                "\n[[hosts]]\nname = \"{}\"\nregion = \"{}\"\nlibvirt = \"{}\"\ncpus = 1\n",
                HOSTS[i],
                REGIONS[i],
                self.host(i).libvirt_uri_remote()
            ));
        }
        toml
    }

    /// A guest with the agent, which the broker hears.
    pub fn boot(&self, i: usize, config: GuestConfig, agent_toml: &str) -> Result<Guest> {
        let agent = Some(AgentConfig { toml: Some(agent_toml.into()), ..AgentConfig::default() });
        let guest = self.lab.boot(GuestConfig { agent, ..config }, HOSTS[i])?;
        self.wait_for_agent(&guest, i)?;
        Ok(guest)
    }

    /// Both ends of its port know each other, and the broker has the load of all hosts.
    pub fn wait_for_agent(&self, guest: &Guest, i: usize) -> Result<()> {
        wait(&format!("the agent of {}", guest.name()), 60, || {
            let heard = self.guests_of(i)?.iter().any(|g| g.name == guest.name() && g.agent.is_some());
            Ok(heard && coms(guest, &["status"])?["connected"] == true)
        })
        .map_err(|e| format!("{e}\n{}", self.log(i)).into())
    }

    /// Asks a broker over its own socket: no process is started that would be measured.
    pub fn ask(&self, i: usize, request: &Request) -> Result<Reply> {
        let mut stream = UnixStream::connect(self.host(i).path_of("/run/coms/broker.sock"))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all((serde_json::to_string(request)? + "\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }

    pub fn hosts_of(&self, i: usize) -> Result<Vec<HostView>> {
        let reply = self.ask(i, &Request::Hosts)?;
        let Reply::Hosts { hosts } = reply else { return Err(format!("hosts: {reply:?}").into()) };
        Ok(hosts)
    }

    pub fn guests_of(&self, i: usize) -> Result<Vec<GuestView>> {
        let reply = self.ask(i, &Request::Guests)?;
        let Reply::Guests { guests } = reply else { return Err(format!("guests: {reply:?}").into()) };
        Ok(guests)
    }

    /// All moves that a broker remembers, newest last.
    pub fn records_of(&self, i: usize) -> Result<Vec<MoveRecord>> {
        let reply = self.ask(i, &Request::Migrations { id: None })?;
        let Reply::Migrations { migrations } = reply else {
            return Err(format!("migrations: {reply:?}").into());
        };
        Ok(migrations)
    }

    /// A broker's log, all of it.
    pub fn log(&self, i: usize) -> String {
        std::fs::read_to_string(self.host(i).log_dir().join("coms-broker.log")).unwrap_or_default()
    }

    pub fn finish(mut self) -> Result<()> {
        self.stop_brokers()?;
        Ok(self.lab.finish()?)
    }
}
