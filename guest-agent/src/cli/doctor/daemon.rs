//! The daemon and its socket: is there one, only one, of this version, and may this user talk to it.

use super::{Finding, fail, ok, under, warn};
use crate::client::{Client, Trouble};
use coms_agent::config::Access;
use coms_agent::event::Command;
use coms_agent::io::peer::group_id;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Who asks.
pub(super) struct Me {
    pub uid: u32,
    pub groups: Vec<u32>,
}

/// What the daemon says of itself.
pub(super) struct Daemon {
    pub status: Result<Value, Trouble>,
    pub pid: Option<i32>,
    pub uid: Option<u32>,
}

pub(super) fn me() -> Me {
    let mut groups = vec![rustix::process::getegid().as_raw()];
    groups.extend(rustix::process::getgroups().unwrap_or_default().into_iter().map(|g| g.as_raw()));
    Me { uid: rustix::process::geteuid().as_raw(), groups }
}

pub(super) fn ask(socket: &Path) -> Daemon {
    match Client::connect(socket) {
        Ok(mut client) => {
            let (pid, uid) = client.daemon().unzip();
            Daemon { status: client.ask(&Command::Status), pid, uid }
        }
        Err(trouble) => Daemon { status: Err(trouble), pid: None, uid: None },
    }
}

pub(super) fn check(root: &Path, socket: &Path, access: &Access, daemon: &Daemon, me: &Me) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &daemon.status {
        Ok(status) => findings.push(version(status)),
        Err(Trouble::Unreachable(why)) => {
            findings.push(fail(
                "daemon",
                why,
                "systemctl enable --now coms-agent; journalctl -u coms-agent says why it does not run",
            ));
        }
        Err(Trouble::Refused(why)) => {
            findings.push(fail("daemon", "it runs, but refuses to tell this user anything", why))
        }
    }
    findings.extend(single(root));
    findings.extend(socket_open(&under(root, socket)));
    findings.push(groups(root, access, me));
    findings
}

fn version(status: &Value) -> Finding {
    let theirs = status.get("agent").and_then(Value::as_str).unwrap_or("unknown");
    if theirs == coms_agent::AGENT {
        return ok("daemon", format!("{theirs} runs"));
    }
    let what = format!("{theirs} runs, but {} is installed", coms_agent::AGENT);
    warn("daemon", what, "systemctl restart coms-agent (it forgets nothing)")
}

fn single(root: &Path) -> Option<Finding> {
    let processes = fs::read_dir(under(root, "/proc")).ok()?;
    let agents: Vec<_> = processes
        .filter_map(Result::ok)
        .filter(|p| fs::read_to_string(p.path().join("comm")).is_ok_and(|c| c.trim_end() == "coms-agent"))
        .map(|p| p.file_name().to_string_lossy().into_owned())
        .filter(|pid| pid.bytes().all(|b| b.is_ascii_digit()))
        .collect();
    (agents.len() > 1).then(|| {
        let what = format!("{} agents run (processes {}); only one can have the port", agents.len(), agents.join(", "));
        warn("one-agent", what, "end those that systemctl status coms-agent does not show, unless they serve containers with a port of their own")
    })
}

/// The daemon decides who may what; the file must let everybody come and be told.
fn socket_open(socket: &Path) -> Option<Finding> {
    let mode = |path: &Path| path.metadata().ok().map(|m| m.permissions().mode() & 0o777);
    let what = match (mode(socket)?, socket.parent().and_then(mode)) {
        (file, _) if file & 0o666 != 0o666 => {
            format!("{} has mode {file:o} instead of 666", socket.display())
        }
        (_, Some(dir)) if dir & 0o001 == 0 => {
            format!("the directory of {} has mode {dir:o}: others cannot come through", socket.display())
        }
        (_, _) => return None,
    };
    Some(fail(
        "socket",
        what,
        "systemctl restart coms-agent makes it anew (the agent itself checks who may do what)",
    ))
}

fn groups(root: &Path, access: &Access, me: &Me) -> Finding {
    let table = fs::read_to_string(under(root, "/etc/group")).unwrap_or_default();
    let ids = [&access.status_group, &access.change_group].map(|name| (name, group_id(&table, name)));
    let missing: Vec<_> = ids.iter().filter(|(_, id)| id.is_none()).map(|(name, _)| name.as_str()).collect();
    if !missing.is_empty() {
        let what =
            format!("there is no group {}; what it would allow, only root may", missing.join(", nor "));
        let make: Vec<_> = missing.iter().map(|g| format!("sudo groupadd --system {g}")).collect();
        return warn("groups", what, format!("{}; then sudo systemctl reload coms-agent", make.join("; ")));
    }
    let is_in = |id: Option<u32>| id.is_some_and(|id| me.groups.contains(&id));
    if me.uid == 0 {
        return ok("groups", "root may look and change");
    }
    if is_in(ids[1].1) {
        return ok("groups", format!("this user may look and change ({})", access.change_group));
    }
    let listed = |group: &str| {
        let passwd = fs::read_to_string(under(root, "/etc/passwd")).unwrap_or_default();
        let uid = me.uid.to_string();
        let user =
            passwd.lines().find(|l| l.split(':').nth(2) == Some(&uid)).and_then(|l| l.split(':').next());
        let members =
            table.lines().find(|l| l.split(':').next() == Some(group)).and_then(|l| l.split(':').nth(3));
        user.zip(members).is_some_and(|(u, m)| m.split(',').any(|member| member == u))
    };
    for group in [&access.change_group, &access.status_group].into_iter().filter(|g| listed(g)) {
        if !is_in(group_id(&table, group)) {
            let what = format!("this user was added to {group}, but this session began before that");
            return warn("groups", what, "log in again");
        }
    }
    let add = |group: &str| format!("sudo usermod -aG {group} \"$USER\", then log in again");
    if is_in(ids[0].1) {
        return ok("groups", format!("this user may look; to change: {}", add(&access.change_group)));
    }
    let what = format!("this user is in neither {} nor {}", access.status_group, access.change_group);
    fail("groups", what, format!("{} (or {} only to look)", add(&access.change_group), access.status_group))
}
