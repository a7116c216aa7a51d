//! `comsctl tls`: certificates for operators without an authority of their own. Works without the broker.
//!
//! Where the authority is: [`authority`] decides, [`store`] keeps it, [`issue`] and [`rotate`] make what hosts install.
//! On a host: [`install`] and [`check`]. What is wrong with certificates, `coms_broker::certificates` says.

mod authority;
mod check;
mod install;
mod issue;
mod put;
mod rotate;
mod store;
#[cfg(test)]
mod tests;

use super::Failure;
use super::args::tls::TlsCommand;
use super::tables::clean;
pub use check::doctor;
use coms_broker::certificates::installed::Host;
use coms_broker::certificates::{Finding, Severity};
use coms_broker::config::{Config, Host as PeerHost};
use coms_broker::io::migration_link;
use coms_broker::isolation::Network;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

pub fn run(json: bool, command: &TlsCommand) -> Result<ExitCode, Failure> {
    let now_unix_s = jiff::Timestamp::now().as_second();
    match command {
        TlsCommand::Init { at } => issue::init(json, &at.authority, now_unix_s),
        TlsCommand::Issue { host, names, ips, new_key, config, at } => {
            let order = issue::Order { host, names, ips, new_key: *new_key, config };
            issue::issue(json, &at.authority, &order, now_unix_s)
        }
        TlsCommand::Install { dir, qemu_only, dry_run, replace_authority, admin_uri, host } => {
            let order = install::Order {
                dir,
                host,
                qemu_only: *qemu_only,
                dry_run: *dry_run,
                replace_authority: *replace_authority,
                admin_uri,
            };
            install::install(json, &order, now_unix_s)
        }
        TlsCommand::Check { host } => check::check(json, host, now_unix_s),
        TlsCommand::Rotate { step, at } => rotate::rotate(json, &at.authority, step.as_ref(), now_unix_s),
    }
}

/// A host, with what the kernel says of this one's addresses.
fn host_at(root: &Path, config: Option<&Config>) -> Host {
    let mut host = Host::read(root);
    let name = config.and_then(|c| c.migration_interface.as_ref()).filter(|_| root == Path::new("/"));
    if let Some((config, name)) = config.zip(name) {
        let link = migration_link::look(name, &[]).ok().and_then(|facts| facts.interface);
        host.migration = link.map_or_else(Vec::new, |link| towards_peers(config, &link.networks));
    }
    host
}

/// Those addresses to which the others of the migration network come.
fn towards_peers(config: &Config, networks: &[Network]) -> Vec<IpAddr> {
    let peers: Vec<IpAddr> = config.peers.iter().filter_map(PeerHost::migration_address).collect();
    networks.iter().filter(|n| peers.iter().any(|p| n.covers(*p))).map(|n| n.address).collect()
}

/// One line each, the remedy under what it mends.
fn lines(found: &[Finding]) -> String {
    let mut out = String::new();
    for f in found {
        let severity = match f.severity {
            Severity::Ok => "ok  ",
            Severity::Hint => "hint",
            Severity::Warn => "warn",
            Severity::Fail => "FAIL",
        };
        out.push_str(&format!(
            "{severity}  {}: {}{}\n",
            f.file.display(),
            clean(&f.detail),
            arrow(&f.remedy)
        ));
    }
    out
}

fn arrow(remedy: &str) -> String {
    if remedy.is_empty() { String::new() } else { format!(" -> {}", clean(remedy)) }
}
