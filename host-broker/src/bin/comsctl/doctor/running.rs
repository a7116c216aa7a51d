//! What the running broker says, judged.

use super::Finding;
use coms_broker::control::{GuestView, HostView, StandingView};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

/// A clock's distance is known to some seconds only: the mark that tells it is that old when it is read.
pub const CLOCK_NOISE_MS: u64 = 3_000;
/// Tickets age by the wall clock, and leave a minute for clocks that differ.
const CLOCK_WRONG_MS: u64 = 30_000;

/// `why` already says what to do about the way in which it cannot be reached.
pub fn no_broker(socket: &Path, why: &str) -> Finding {
    let remedy = if socket.exists() {
        "sudo comsctl doctor; if it says the same as root: systemctl restart coms-broker"
    } else {
        "systemctl start coms-broker, or name its socket: comsctl --socket FILE doctor"
    };
    Finding::fail("broker", why, remedy)
}

pub fn other_version(socket: &Path) -> Finding {
    let detail = format!("what answers at {} is not understood", socket.display());
    Finding::fail("broker", detail, "systemctl restart coms-broker after an upgrade")
}

/// `why` says which group is needed and how to get into it.
pub fn not_for_this_user(socket: &Path, why: &str) -> Finding {
    let detail = format!("answers at {}, and tells this user nothing", socket.display());
    Finding::fail("broker", detail, why)
}

/// The file was written after the broker had read it.
pub fn changed(file: &Path, s: &StandingView) -> Option<Finding> {
    let read = Duration::from_millis(s.config_read_unix_ms?);
    let written = file.metadata().ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    // It is read a moment before the broker's first look at the clock.
    (written > read + Duration::from_secs(1)).then(|| {
        let detail = format!("{} was changed after the broker read it", file.display());
        Finding::warn("config taken up", detail, "comsctl reload")
    })
}

pub fn standing(s: &StandingView) -> Vec<Finding> {
    let mut found = Vec::new();
    if !s.libvirt {
        found.push(Finding::fail(
            "broker's libvirt",
            "the broker has no connection to the local libvirt",
            "systemctl status libvirtd (or virtqemud); journalctl -u coms-broker",
        ));
    }
    if s.paused {
        found.push(Finding::warn("paused", "customers' moves are paused", "comsctl resume"));
    }
    if s.alarms.is_empty() {
        found.push(Finding::ok("alarms", "none"));
    }
    for alarm in &s.alarms {
        let vm = alarm.domain.as_ref().map(|d| format!("{d}: ")).unwrap_or_default();
        found.push(Finding::fail(
            "alarm",
            format!("{vm}{}", alarm.text),
            "what it says; it goes away by itself once mended (journalctl -u coms-broker tells since when)",
        ));
    }
    found
}

pub fn hosts(hosts: &[HostView]) -> Vec<Finding> {
    hosts.iter().filter(|h| !h.this_host).flat_map(host).collect()
}

fn host(h: &HostView) -> Vec<Finding> {
    if !h.answers {
        let why = h.trouble.as_deref().unwrap_or("no answer yet; the broker may just have started");
        return vec![Finding::fail(
            "host answers",
            format!("{}: {why}", h.name),
            format!("try its URI from /etc/coms/broker.toml here: sudo virsh -c URI list ({})", h.name),
        )];
    }
    let mut found = Vec::new();
    if h.broker.is_none() {
        found.push(Finding::fail(
            "host's broker",
            format!("{}: no broker shows a sign of life there, so no VM is moved to it", h.name),
            format!(
                "on {}: systemctl enable --now coms-broker; where its libvirt has no secret driver: [limits] \
                 require_broker = false here",
                h.name
            ),
        ));
    }
    let ms = h.clock_ahead_ms.unwrap_or(0);
    let off = format!("{}: its clock is {:+.0} s off this host's", h.name, ms as f64 / 1000.0);
    let remedy = "let one service set the clocks of all hosts: timedatectl set-ntp true, chronyc tracking";
    if ms.unsigned_abs() > CLOCK_WRONG_MS {
        found.push(Finding::fail("clocks", off, remedy));
    } else if ms.unsigned_abs() > CLOCK_NOISE_MS {
        found.push(Finding::warn("clocks", off, remedy));
    }
    if found.is_empty() {
        found.push(Finding::ok("host", format!("{}: answers, its broker runs, clocks agree", h.name)));
    }
    found
}

/// A running guest that takes part and whose agent says nothing.
pub fn agents(guests: &[GuestView]) -> Vec<Finding> {
    let runs = |g: &&GuestView| g.enabled && g.state == "running";
    guests
        .iter()
        .filter(runs)
        .map(|g| match &g.agent {
            Some(agent) => Finding::ok("agent", format!("{}: {agent}", g.name)),
            None => Finding::warn(
                "agent",
                format!("{}: has the port, and no agent answers on it", g.name),
                "in the guest: systemctl enable --now coms-agent; coms doctor",
            ),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;
    use coms_broker::control::Alarm;

    fn well() -> HostView {
        HostView {
            name: "h2".into(),
            region: "north".into(),
            this_host: false,
            answers: true,
            trouble: None,
            cpus: None,
            load_per_cpu: None,
            memory_mib: None,
            committed_mib: None,
            domains: None,
            broker: Some("coms-broker 0.1.0".into()),
            clock_ahead_ms: Some(900),
            certificate_sha256: None,
        }
    }

    fn statuses(found: &[Finding]) -> Vec<(&str, Status)> {
        found.iter().map(|f| (f.check, f.status)).collect()
    }

    #[test]
    fn a_host_that_is_well_is_one_line_and_this_host_is_none() {
        assert_eq!(statuses(&hosts(&[well()])), [("host", Status::Ok)]);
        assert_eq!(hosts(&[HostView { this_host: true, ..well() }]), []);
    }

    #[test]
    fn a_host_that_does_not_answer_fails_with_libvirts_words() {
        let silent = HostView { answers: false, trouble: Some("refused".into()), broker: None, ..well() };
        let found = hosts(&[silent]);
        assert_eq!(statuses(&found), [("host answers", Status::Fail)]);
        assert!(found[0].detail.contains("refused"), "{found:?}");
    }

    #[test]
    fn a_host_without_a_broker_fails() {
        let bare = HostView { broker: None, ..well() };
        assert_eq!(statuses(&hosts(&[bare])), [("host's broker", Status::Fail)]);
    }

    #[test]
    fn clocks_warn_beyond_the_noise_and_fail_where_tickets_would_age() {
        for (ms, check, status) in [
            (3_000, "host", Status::Ok),
            (-3_001, "clocks", Status::Warn),
            (30_000, "clocks", Status::Warn),
            (-30_001, "clocks", Status::Fail),
            (i64::MIN, "clocks", Status::Fail),
        ] {
            let found = hosts(&[HostView { clock_ahead_ms: Some(ms), ..well() }]);
            assert_eq!(statuses(&found), [(check, status)], "{ms}");
        }
    }

    #[test]
    fn alarms_a_pause_and_a_lost_libvirt_are_told() {
        let alarm = Alarm {
            domain: Some("web-1".into()),
            uuid: None,
            since_unix_ms: 0,
            text: "a paused copy".into(),
        };
        let found = standing(&StandingView { paused: true, alarms: vec![alarm], ..StandingView::default() });
        let expected =
            [("broker's libvirt", Status::Fail), ("paused", Status::Warn), ("alarm", Status::Fail)];
        assert_eq!(statuses(&found), expected);
        assert!(found[2].detail.starts_with("web-1: a paused copy"), "{found:?}");
        let calm = StandingView { libvirt: true, ..StandingView::default() };
        assert_eq!(statuses(&standing(&calm)), [("alarms", Status::Ok)]);
    }

    #[test]
    fn a_file_changed_after_it_was_read_warns() {
        let file = std::env::temp_dir().join(format!("coms-doctor-changed-{}", std::process::id()));
        std::fs::write(&file, "").unwrap();
        let now = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let read = |ms| StandingView { config_read_unix_ms: ms, ..StandingView::default() };
        assert_eq!(changed(&file, &read(Some(now))), None);
        assert_eq!(changed(&file, &read(None)), None, "a broker that does not say");
        let found = changed(&file, &read(Some(now - 60_000))).unwrap();
        assert_eq!((found.check, found.status), ("config taken up", Status::Warn));
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    fn a_silent_agent_warns_where_the_guest_runs_and_takes_part() {
        let guest = |enabled, state: &str, agent: Option<&str>| GuestView {
            name: "web-1".into(),
            uuid: uuid::Uuid::nil(),
            enabled,
            state: state.into(),
            agent: agent.map(Into::into),
            migration: None,
            last_moved_unix_ms: None,
        };
        assert_eq!(statuses(&agents(&[guest(true, "running", None)])), [("agent", Status::Warn)]);
        assert_eq!(statuses(&agents(&[guest(true, "running", Some("a"))])), [("agent", Status::Ok)]);
        assert_eq!(agents(&[guest(false, "running", None), guest(true, "shut-off", None)]), []);
    }

    #[test]
    fn a_socket_that_is_not_there_and_one_that_is_stale_have_other_remedies() {
        let dir = std::env::temp_dir().join(format!("coms-doctor-sock-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let socket = dir.join("broker.sock");
        assert!(no_broker(&socket, "x").remedy.contains("systemctl start"));
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let mut found = Vec::new();
        assert!(super::super::ask_the_broker(&socket, Path::new("/none"), &mut found).is_none());
        assert_eq!(statuses(&found), [("broker", Status::Fail)]);
        assert!(found[0].detail.contains("killed left this socket"), "{found:?}");
        assert!(found[0].remedy.contains("restart"), "{found:?}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
