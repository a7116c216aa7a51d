//! `coms doctor`: looks at everything that the agent needs and says how to mend what is wrong. Changes nothing, and
//! does without the daemon what can be done without it.
//!
//! Each check is a function from what it looks at (with `/` replaced in tests) to findings; [`examine`] puts them in
//! the order in which to mend them.

mod clients;
mod clock;
mod daemon;
mod files;
mod host;
mod port;
mod programs;
mod rules;
mod workloads;

use crate::args::{Args, Doctor};
use coms_agent::config::{Config, DEFAULT_PATH};
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    /// As it should be.
    Ok,
    /// It works, but perhaps not as meant.
    Warn,
    /// It does not work.
    Fail,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    check: String,
    status: Status,
    detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

fn ok(check: impl Into<String>, detail: impl Into<String>) -> Finding {
    Finding { check: check.into(), status: Status::Ok, detail: detail.into(), remedy: None }
}

fn warn(check: impl Into<String>, detail: impl Into<String>, remedy: impl Into<String>) -> Finding {
    let remedy = Some(remedy.into());
    Finding { check: check.into(), status: Status::Warn, detail: detail.into(), remedy }
}

fn fail(check: impl Into<String>, detail: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { status: Status::Fail, ..warn(check, detail, remedy) }
}

/// A file of the system; `root` is `/`, but for tests and for looking with the daemon's eyes.
fn under(root: &Path, path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Examines, prints; true: nothing failed.
pub(crate) fn run(args: &Args, wanted: &Doctor) -> bool {
    let findings = examine(args.socket.as_deref(), wanted.config.as_deref());
    let mut out = std::io::stdout();
    // A closed pipe is no error.
    let _ = if args.json {
        writeln!(out, "{}", serde_json::to_string(&findings).unwrap_or_default())
    } else {
        writeln!(out, "{}", text(&findings))
    };
    findings.iter().all(|f| f.status != Status::Fail)
}

fn text(findings: &[Finding]) -> String {
    let mut lines = Vec::new();
    for f in findings {
        let status = match f.status {
            Status::Ok => "ok  ",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
        };
        let remedy = f.remedy.as_ref().map(|r| format!("; {r}")).unwrap_or_default();
        // One line each, whatever a file or a program said.
        let said = format!("{}{remedy}", f.detail).split_whitespace().collect::<Vec<_>>().join(" ");
        lines.push(format!("{status}  {}: {said}", f.check));
    }
    lines.join("\n")
}

fn examine(socket: Option<&Path>, file: Option<&Path>) -> Vec<Finding> {
    let root = Path::new("/");
    let read = Config::load_or_defaults(file);
    let path = file.unwrap_or(Path::new(DEFAULT_PATH));
    let mut findings = vec![rules::file(path, &read)];
    // What is wrong with the file is said; the rest is looked at as it would be without it.
    let Ok(config) = read.or_else(|_| Config::defaults()) else { return findings };
    let me = daemon::me();
    let daemon = daemon::ask(socket.unwrap_or(&config.socket));
    let running = daemon.status.as_ref().ok();
    findings.extend(rules::changed(path, running));
    findings.extend(rules::check(&config, running));
    findings.extend(daemon::check(root, socket.unwrap_or(&config.socket), &config.access, &daemon, &me));
    findings.extend(port::check(root, &config.port, daemon.pid, running));
    findings.extend(host::check(running));
    findings.push(clock::check(coms_agent::io::kernel::clock_is_synchronised()));
    // With the daemon's eyes, as far as this user may: under systemd it sees less than a shell does.
    let eyes = daemon.pid.map(|pid| PathBuf::from(format!("/proc/{pid}/root")));
    let eyes = eyes.filter(|_| me.uid == 0).unwrap_or_else(|| root.to_owned());
    if me.uid == 0 || daemon.uid == Some(me.uid) {
        findings.extend(files::check(&eyes, &config));
    } else {
        findings.push(warn(
            "files",
            "only root can see whether the agent may write its files",
            "sudo coms doctor",
        ));
    }
    findings.extend(programs::check(root, &eyes, &config));
    findings.extend(workloads::check(&config, running));
    findings.extend(clients::check(&eyes, &config, running));
    findings
}

#[cfg(test)]
mod tests;
