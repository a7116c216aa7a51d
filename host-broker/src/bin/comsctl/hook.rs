//! `comsctl hook`: what libvirt's hook asks where a VM arrives. Prints nothing, for libvirt would take that for the VM's
//! new definition, and calls no libvirt, which waits for it. Exit status 1 keeps the VM away.

use super::Failure;
use coms_broker::alias::AliasKey;
use coms_broker::config::Config;
use coms_broker::hook::{Here, MOST_BYTES, may_arrive};
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// As libvirt calls its hooks: the VM, the operation, its part.
pub fn hook(config: &Path, vm: &str, operation: &str, part: &str) -> Result<ExitCode, Failure> {
    // A domain that is restored, started or attached to anew is none of this.
    if (operation, part) != ("migrate", "begin") {
        return Ok(ExitCode::SUCCESS);
    }
    let mut xml = Vec::new();
    let most = u64::try_from(MOST_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    std::io::stdin()
        .take(most)
        .read_to_end(&mut xml)
        .map_err(|e| Failure::refused(format!("{}: its XML cannot be read: {e}", shown(vm))))?;
    match may_arrive(&xml, || here(config)) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(why) => Err(Failure::refused(format!("{} does not come to this host: {why}", shown(vm)))),
    }
}

fn here(file: &Path) -> Result<Here, String> {
    let config = Config::load(file).map_err(|e| one_line(&e.to_string()))?;
    let key = match &config.alias_key_file {
        None => None,
        Some(path) => {
            let secret = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
            Some(AliasKey::new(&secret).waybill_key())
        }
    };
    // A clock before 1970 is one that says nothing: no waybill is from then.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_unix_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    Ok(Here { name: config.me.name, key, now_unix_ms })
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A VM's name is its manager's: no control character of it reaches a log.
fn shown(vm: &str) -> String {
    one_line(&super::tables::clean(vm))
}
