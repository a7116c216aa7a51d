//! Does the moves: two hosts, one guest, a peer, and what each kind of move needs.

use super::Sample;
use super::plan::{Case, Load, Part, Settings, Step, Way};
use super::ssh::{self, Tunnels};
use super::watch::watched;
use coms_lab::{Client, Download, Guest, GuestConfig, Host, HostConfig, Lab, LabConfig};
use coms_story::{HOSTS, Result};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

const MEMORY_MIB: u32 = 512;
/// The rest is the kernel's, the file system's, and what TCP has under way.
pub const MOST_FILLED_MIB: usize = 380;
/// What libvirt and QEMU do after a move is over by then.
const REST: Duration = Duration::from_millis(500);
/// By then a stream has found its rate.
const STREAM_SETTLES: Duration = Duration::from_secs(3);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 78, 2, 1);
/// Where QEMU looks for a Diffie-Hellman group.
const GROUP: &str = "/etc/libvirt/pki/dh-params.pem";
const GROUP_AWAY: &str = "/etc/libvirt/pki/dh-params.away";

pub struct Stage {
    settings: Settings,
    lab: Lab,
    guest: Guest,
    peer: Client,
    here: usize,
    stream: Option<Download>,
    tunnels: Option<Tunnels>,
    capped: bool,
    has_group: bool,
}

impl Stage {
    pub fn up(settings: Settings) -> Result<Stage> {
        let hosts = HOSTS[..2].iter().enumerate().map(|(cpu, name)| HostConfig::new(name).cpu(cpu)).collect();
        let lab = Lab::new(LabConfig { hosts, tls: true, ..LabConfig::default() })?;
        let config = GuestConfig { memory_mib: MEMORY_MIB, port: false, ..GuestConfig::default() };
        let guest = lab.boot(config, HOSTS[0])?;
        let mib = settings.filled_mib;
        // Nothing that could be left out or sent as zeros.
        let fill = format!(
            "mkdir /filled && mount -t tmpfs -o size={mib}m filled /filled && \
             dd if=/dev/urandom of=/filled/random bs=1M count={mib} && sync"
        );
        guest.exec_with(&["sh", "-c", &fill], "", Duration::from_secs(180))?.success()?;
        let peer = lab.client("peer", PEER)?;
        Ok(Stage {
            settings,
            lab,
            guest,
            peer,
            here: 0,
            stream: None,
            tunnels: None,
            capped: false,
            has_group: true,
        })
    }

    fn host(&self, i: usize) -> &Host {
        self.lab.host(HOSTS[i])
    }

    /// Makes one move; its figures, if it counts.
    pub fn play(&mut self, step: &Step) -> Result<Option<Sample>> {
        self.prepare(step.case)?;
        std::thread::sleep(REST);
        let (from, to) = (self.here, 1 - self.here);
        let destination = self.host(to).libvirt_uri_remote();
        let through_ssh = ssh::migrate_uri();
        let mut call = vec!["migrate", "--live", "--p2p"];
        match step.case.way {
            Way::Plain => {}
            Way::Tls | Way::TlsOwnGroup => call.push("--tls"),
            Way::PlainMultifd => call.extend(["--parallel", "--parallel-connections", "2"]),
            Way::TlsMultifd => call.extend(["--tls", "--parallel", "--parallel-connections", "2"]),
            Way::Ssh => call.extend(["--migrateuri", &through_ssh]),
        }
        call.extend([self.guest.name(), &destination]);
        let begun = Instant::now();
        let source = self.host(from);
        let ((), took, seen) = watched(source, &self.guest, || Ok(source.virsh(&call).map(drop)?))?;
        let peer_mbit_s = self.stream.as_ref().map(|stream| stream.mbit_s(begun, begun + took));
        self.here = to;
        let stats = Statistics::of(self.host(to), &self.guest)?;
        let least = self.settings.filled_mib as f64 * f64::from(1 << 20);
        if seen.sent_bytes < least {
            return Err(format!(
                "{} bytes left the source, and {least} cannot be left out: the figures would be of something else",
                seen.sent_bytes
            )
            .into());
        }
        if let Some(why) = self.stream.as_ref().and_then(Download::broke) {
            return Err(format!("the peer's stream broke: {why}").into());
        }
        Ok((step.part != Part::WarmUp).then(|| Sample {
            part: step.part,
            case: step.case,
            round: step.round,
            from: HOSTS[from].into(),
            job_ms: stats.job_ms,
            call_ms: took.as_secs_f64() * 1e3,
            downtime_ms: stats.downtime_ms,
            memory_bytes: stats.memory_bytes,
            sent_bytes: seen.sent_bytes,
            link_mbit_s: seen.link_mbit_s,
            cpu_source_s: seen.cpu_source_s,
            cpu_destination_s: seen.cpu_destination_s,
            peer_mbit_s,
        }))
    }

    /// Link, load, certificates and tunnels as this kind of move wants them.
    fn prepare(&mut self, case: Case) -> Result<()> {
        if case.capped != self.capped {
            for i in 0..2 {
                self.host(i).set_rate_mbit(case.capped.then_some(self.settings.link_mbit_s))?;
            }
            self.capped = case.capped;
        }
        match (case.load, self.stream.is_some()) {
            (Load::Busy, false) => {
                let at = self.guest.stream_address();
                self.stream = Some(self.peer.download_at(at, self.settings.busy_mbit_s)?);
                std::thread::sleep(STREAM_SETTLES);
            }
            (Load::Idle, true) => self.stream = None,
            (Load::Busy, true) | (Load::Idle, false) => {}
        }
        let wants_group = case.way != Way::TlsOwnGroup;
        if wants_group != self.has_group {
            for i in 0..2 {
                let (from, to) = if wants_group { (GROUP_AWAY, GROUP) } else { (GROUP, GROUP_AWAY) };
                let (from, to) = (self.host(i).path_of(from), self.host(i).path_of(to));
                std::fs::rename(&from, &to).map_err(|e| format!("{}: {e}", from.display()))?;
            }
            self.has_group = wants_group;
        }
        if case.way == Way::Ssh && self.tunnels.is_none() {
            self.tunnels = Some(Tunnels::up([self.host(0), self.host(1)])?);
        }
        Ok(())
    }

    pub fn finish(self) -> Result<()> {
        drop((self.stream, self.tunnels));
        self.guest.destroy()?;
        Ok(self.lab.finish()?)
    }
}

/// What libvirt tells of the move that just ended.
struct Statistics {
    job_ms: f64,
    downtime_ms: f64,
    memory_bytes: f64,
}

impl Statistics {
    /// Kept by the destination: the source knows the guest no more.
    fn of(destination: &Host, guest: &Guest) -> Result<Statistics> {
        let text = destination.virsh(&["domjobinfo", guest.name(), "--completed", "--rawstats"])?;
        let statistics = Statistics::parse(&text);
        statistics.map_err(|missing| format!("domjobinfo --completed tells no {missing}: {text}").into())
    }

    fn parse(text: &str) -> Result<Statistics, &'static str> {
        let of = |key: &'static str| {
            let line = text.lines().find_map(|l| l.trim().strip_prefix(key)?.trim_start().strip_prefix(':'));
            line.and_then(|value| value.trim().parse::<f64>().ok()).ok_or(key)
        };
        Ok(Statistics {
            job_ms: of("time_elapsed")?,
            downtime_ms: of("downtime")?,
            memory_bytes: of("memory_processed")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libvirts_figures_are_told_from_those_of_like_names() {
        let text = "Job type: 3\n\noperation: 6\ntime_elapsed: 6390\ntime_elapsed_net: 6391\ndowntime_net: 4\ndowntime: 301\n\
                    memory_total: 536879104\nmemory_processed: 405274624\n";
        let found = Statistics::parse(text).map(|s| (s.job_ms, s.downtime_ms, s.memory_bytes));
        assert_eq!(found, Ok((6390.0, 301.0, 405_274_624.0)));
        let missing = Statistics::parse(&text.replace("downtime:", "down:")).err();
        assert_eq!(missing, Some("downtime"));
    }
}
