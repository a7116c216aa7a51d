//! `comsctl tls check`, and the same for `comsctl doctor`.

use super::super::args::tls::HostRoot;
use super::super::doctor::{self, Status};
use super::super::{Failure, print};
use super::{host_at, lines};
use coms_broker::certificates::{Finding, Kind, Severity, confirmation, fingerprint};
use coms_broker::config::Config;
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;

pub fn check(json: bool, of: &HostRoot, now_unix_s: i64) -> Result<ExitCode, Failure> {
    let config = config(&of.config)?;
    let host = host_at(&of.root, config.as_ref());
    let found = host.inspect(config.as_ref(), now_unix_s);
    let qemu = host.qemu();
    let fingerprint = qemu.server.cert.bytes().and_then(fingerprint);
    let confirmed = confirmation(&qemu, &host.libvirt_files());
    let (receipt, no_receipt) = (confirmed.as_ref().ok(), confirmed.as_ref().err());
    let value = json!({
        "findings": found, "qemu_dir": host.qemu_dir, "fingerprint_sha256": fingerprint, "receipt": receipt,
        "no_receipt": no_receipt,
    });
    print(json, &value, |_| {
        let mut out = lines(&found);
        if let Some(fingerprint) = &fingerprint {
            out.push_str(&format!("certificate {fingerprint}\n"));
        }
        match &confirmed {
            Ok(Some(receipt)) => out.push_str(&format!("receipt {receipt}\n")),
            Ok(None) => {}
            Err(why) => out.push_str(&format!(
                "no receipt: {why}; before comsctl tls rotate goes on where the authority is, install the whole bundle here\n"
            )),
        }
        out
    })?;
    let failed = found.iter().any(|f| f.severity == Severity::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A host that is being set up may have none yet; a wrong one would be judged by half.
pub fn config(file: &Path) -> Result<Option<Config>, Failure> {
    if !file.exists() {
        return Ok(None);
    }
    Config::load(file).map(Some).map_err(|e| Failure::refused(e.to_string()))
}

/// What doctor says where certificates are installed or the operator wants some, and whether libvirt's are among them.
pub fn doctor(config: &Config) -> (Vec<doctor::Finding>, bool) {
    let host = host_at(Path::new("/"), Some(config));
    let for_libvirt = !host.libvirt().is_absent();
    let wanted = config.encryption.wants_any() || config.storage.copies_by_tls();
    let none_for_qemu = host.qemu().is_absent();
    if none_for_qemu && !for_libvirt && !wanted && host.other_directory(config).is_none() {
        return (Vec::new(), false);
    }
    // Nobody has to encrypt. An owner who wants to is refused with that reason.
    let nobody_wants = |f: &Finding| {
        none_for_qemu && !wanted && f.kind == Kind::NothingInstalled && f.file.starts_with(&host.qemu_dir)
    };
    let now_unix_s = jiff::Timestamp::now().as_second();
    let found = host.inspect(Some(config), now_unix_s).into_iter().map(|f| doctor::Finding {
        check: "certificate",
        status: match f.severity {
            Severity::Fail if nobody_wants(&f) => Status::Ok,
            Severity::Ok | Severity::Hint => Status::Ok,
            Severity::Warn => Status::Warn,
            Severity::Fail => Status::Fail,
        },
        detail: format!("{}: {}", f.file.display(), f.detail),
        remedy: f.remedy,
    });
    (found.collect(), for_libvirt)
}
