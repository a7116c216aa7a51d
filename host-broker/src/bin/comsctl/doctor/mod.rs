//! `comsctl doctor`: what is set up wrong on this host, and what mends it. Works without the broker too: what only
//! the broker knows is left out then, and that it does not answer is a finding itself.

mod access;
mod domains;
mod files;
mod isolation;
mod running;
mod setup;
mod storage;

use super::client::Broker;
use super::tables::clean;
use super::{Failure, print};
use coms_broker::config::Config;
use coms_broker::control::{GuestView, Reply, Request};
use coms_broker::io::peer::GROUPS;
pub use running::CLOCK_NOISE_MS;
use serde::Serialize;
use std::path::Path;
use std::process::ExitCode;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ok,
    Warn,
    Fail,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub status: Status,
    pub detail: String,
    /// What mends it; empty where all is well.
    pub remedy: String,
}

impl Finding {
    fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, status: Status::Ok, detail: detail.into(), remedy: String::new() }
    }

    fn warn(check: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, status: Status::Warn, detail: detail.into(), remedy: remedy.into() }
    }

    fn fail(check: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, status: Status::Fail, detail: detail.into(), remedy: remedy.into() }
    }
}

/// Looks at everything; `socket` where the caller named one.
pub fn doctor(json: bool, file: &Path, socket: Option<&Path>) -> Result<ExitCode, Failure> {
    let mut found = Vec::new();
    let config = Config::load(file);
    found.extend(setup::config(file, &config));
    let config = config.ok();
    let default = Path::new(super::args::SOCKET);
    let socket = socket.or(config.as_ref().map(|c| c.socket.as_path())).unwrap_or(default);
    let guests_of_broker = ask_the_broker(socket, file, &mut found);
    if let Some(config) = &config {
        found.extend(access::socket_open(socket));
        found.push(access::groups(&config.access, Path::new(GROUPS)));
        found.extend(files::state_directory(&config.state));
        found.push(files::alias_key(config));
        let (installed, for_libvirt) = super::tls::doctor(config);
        if !for_libvirt {
            found.extend(setup::certificates(config, Path::new(setup::PKI)));
        }
        found.extend(installed);
        found.push(setup::hook(Path::new(setup::HOOK)));
        let broker = Broker::connect(socket).ok().and_then(|b| b.pid());
        let status = broker.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/status")).ok());
        found.extend(setup::network_step(config, status.as_deref()));
        found.extend(isolation::link(config));
        match domains::look(&config.me.libvirt) {
            Ok(here) => {
                found.push(Finding::ok("libvirt", format!("{} answers", config.me.libvirt)));
                found.extend(setup::ports(config, &here.domains));
                found.extend(storage::storage(config, Some(&here)));
            }
            Err(e) => {
                found.push(domains::unreachable(&config.me.libvirt, &e));
                found.extend(storage::storage(config, None));
                // The broker's view has only guests with the port, and still finds patterns without any.
                found.extend(guests_of_broker.iter().flat_map(|g| setup::patterns(config, g)));
            }
        }
    }
    let failed = found.iter().any(|f| f.status == Status::Fail);
    print(json, &found, |f| lines(f))?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What only the broker knows. Its guests, where it answers.
fn ask_the_broker(socket: &Path, file: &Path, found: &mut Vec<Finding>) -> Option<Vec<GuestView>> {
    let mut broker = match Broker::connect(socket) {
        Ok(broker) => broker,
        Err(Failure { text, .. }) => {
            found.push(running::no_broker(socket, &text));
            return None;
        }
    };
    let standing = match broker.ask(&Request::Standing) {
        Ok(Reply::Standing { standing }) => standing,
        Ok(Reply::Refused { text }) => {
            found.push(running::not_for_this_user(socket, &text));
            return None;
        }
        Ok(_) => {
            found.push(running::other_version(socket));
            return None;
        }
        Err(Failure { text, .. }) => {
            found.push(running::no_broker(socket, &text));
            return None;
        }
    };
    found.push(Finding::ok("broker", format!("answers at {}", socket.display())));
    found.extend(running::standing(&standing));
    found.extend(running::changed(file, &standing));
    if let Ok(Reply::Hosts { hosts }) = broker.ask(&Request::Hosts) {
        found.extend(running::hosts(&hosts));
    }
    match broker.ask(&Request::Guests) {
        Ok(Reply::Guests { guests }) => {
            found.extend(running::agents(&guests));
            Some(guests)
        }
        Ok(_) | Err(_) => None,
    }
}

/// One line each, the remedy under what it mends.
fn lines(found: &[Finding]) -> String {
    let mut out = String::new();
    for f in found {
        let status = match f.status {
            Status::Ok => "ok  ",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
        };
        let remedy = if f.remedy.is_empty() { String::new() } else { format!(" -> {}", clean(&f.remedy)) };
        out.push_str(&format!("{status}  {}: {}{remedy}\n", f.check, clean(&f.detail)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_status_check_and_remedy_and_no_control_character() {
        let text = lines(&[Finding::ok("a", "fine"), Finding::fail("b", "\x1b[31mwrong\nok", "mend it")]);
        let (first, second) = text.trim_end().split_once('\n').unwrap();
        assert_eq!(first, "ok    a: fine");
        assert!(second.starts_with("FAIL  b: ") && second.ends_with(" -> mend it"), "{second}");
        assert!(!second.contains(['\x1b', '\n']), "{second}");
    }
}
