//! `comsctl tls install`: on a host. [`plan`] decides what goes where; `put` does it.

use super::super::args::tls::HostRoot;
use super::super::{Failure, print};
use super::check::config;
use super::put::{self, Put};
use super::{clean, host_at, lines};
use coms_broker::certificates::conf::QemuConf;
use coms_broker::certificates::installed::{Host, bundle};
use coms_broker::certificates::{
    DH_PARAMS, Expected, File, Finding, Kind, Owner, Set, Severity, behind, confirmation, fingerprint,
    inspect, inspect_replacement, writable_directories,
};
use serde_json::json;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// libvirtd answers at once or hangs.
const ADMIN_WITHIN: Duration = Duration::from_secs(10);

pub struct Order<'a> {
    pub dir: &'a Path,
    pub host: &'a HostRoot,
    pub qemu_only: bool,
    pub dry_run: bool,
    pub replace_authority: bool,
    pub admin_uri: &'a str,
}

pub fn install(json: bool, order: &Order<'_>, now_unix_s: i64) -> Result<ExitCode, Failure> {
    let config = config(&order.host.config)?;
    let host = host_at(&order.host.root, config.as_ref());
    let new = bundle(order.dir);
    let places = if order.qemu_only { vec![host.qemu()] } else { vec![host.qemu(), host.libvirt()] };
    let expected = host.expected(config.as_ref());
    let mut found = objections(&new, &places, &expected, order.replace_authority, now_unix_s);
    if found.iter().any(|f| f.severity == Severity::Fail) {
        if json {
            print(true, &json!({ "done": false, "findings": found }), |_| String::new())?;
            return Ok(ExitCode::FAILURE);
        }
        return Err(Failure::refused(format!("nothing was changed\n{}", lines(&found).trim_end())));
    }
    if let Some(why) = leaves_libvirt_behind(&host, &new, order.qemu_only) {
        return Err(Failure::refused(format!("nothing was changed\n{why}")));
    }
    let Some(user) = &host.qemu_user else {
        return Err(Failure::refused(
            "as whom QEMU runs is not known, so for whom its keys are is not either; is libvirt installed? else name the user in /etc/libvirt/qemu.conf (user = \"…\")".into(),
        ));
    };
    let writable: Vec<Finding> = places.iter().flat_map(writable_directories).collect();
    if !writable.is_empty() {
        return Err(Failure::refused(format!("nothing was changed\n{}", lines(&writable).trim_end())));
    }
    let puts = plan(&new, &places, user.uid).map_err(|path| {
        Failure::refused(format!("nothing was changed: {} cannot be read", path.display()))
    })?;
    let here: Vec<Put> = puts.iter().map(|p| Put { to: host.path(&p.to), ..p.clone() }).collect();
    let mut told = None;
    if !order.dry_run {
        for p in &here {
            if let Some(dir) = p.to.parent() {
                put::directory(dir, if dir.ends_with("private") { 0o700 } else { 0o755 })?;
            }
        }
        put::all(&here, true)?;
        let is_this_host = order.host.root == Path::new("/");
        told = (is_this_host && !order.qemu_only).then(|| tell_libvirtd(order.admin_uri));
        found.extend(still_wrong(&host, &expected, order.qemu_only, now_unix_s));
    }
    report(json, order, &host, &new, &puts, &found, told)
}

/// Of one authority, libvirt's files go with QEMU's: else this host confirms a step that its libvirt has not taken.
fn leaves_libvirt_behind(host: &Host, new: &Set, qemu_only: bool) -> Option<String> {
    if qemu_only {
        let files = host.libvirt_files();
        return behind(new, &host.qemu(), &files).map(|path| {
            format!(
                "libvirt's connections use this authority, too, and {} is not as the new one needs it: install without --qemu-only; or replace libvirt's files yourself; or remove them, where hosts reach each other by ssh",
                path.display()
            )
        });
    }
    host.libvirt_elsewhere().first().map(|other| {
        format!(
            "{} names other files for libvirt (ca_file, cert_file, key_file) than those that would be put in place: take these lines out; or put the files there yourself, and install --qemu-only",
            other.file.display()
        )
    })
}

/// What speaks against it, and what else is to be said of the new files.
pub fn objections(
    new: &Set,
    places: &[Set],
    expected: &Expected,
    replace: bool,
    now_unix_s: i64,
) -> Vec<Finding> {
    let mut found = inspect(new, expected, now_unix_s);
    // What is good for some days only is better than what is there for fewer; and how else could it be renewed?
    for f in found.iter_mut().filter(|f| f.kind == Kind::ExpiresSoon) {
        f.severity = Severity::Warn;
    }
    if !replace {
        found.extend(places.iter().flat_map(|old| inspect_replacement(old, new)));
    }
    found
}

/// What fails with the files in place: a directory above them that is closed to QEMU, say.
fn still_wrong(host: &Host, expected: &Expected, qemu_only: bool, now_unix_s: i64) -> Vec<Finding> {
    let mut found = inspect(&host.qemu(), expected, now_unix_s);
    if !qemu_only {
        found.extend(inspect(&host.libvirt(), &expected.clone().of_libvirt(), now_unix_s));
    }
    found.retain(|f| f.severity == Severity::Fail && f.kind != Kind::ExpiresSoon);
    found
}

/// What is to be put where, in this order; or what cannot be read. A reader between any two of them finds files that fit: who is trusted comes
/// first, and a certificate before its key, which is the same as before where `issue` kept it. What is there already is
/// not touched.
pub fn plan<'a>(new: &'a Set, places: &[Set], qemu_uid: u32) -> Result<Vec<Put>, &'a Path> {
    if let Some(file) = new.files().find(|f| f.bytes().is_none()) {
        return Err(&file.path);
    }
    let mut puts = Vec::new();
    let mut put = |file: &File, to: &File, mode, uid| {
        if let Some(bytes) = file.bytes() {
            let same = to.bytes() == Some(bytes) && to.meta.is_none_or(|m| m.uid == uid && m.mode == mode);
            if !same {
                puts.push(Put { to: to.path.clone(), bytes: bytes.to_vec(), mode, uid: Some(uid) });
            }
        }
    };
    for to in places {
        put(&new.ca, &to.ca, 0o644, 0);
    }
    for to in places {
        for (from, to) in [(&new.server, &to.server), (&new.client, &to.client)] {
            put(&from.cert, &to.cert, 0o644, 0);
        }
        // QEMU's user owns its keys instead of sharing them by its group, in which on Debian are all who may use /dev/kvm.
        let (mode, uid) = if to.owner == Owner::Qemu { (0o400, qemu_uid) } else { (0o600, 0) };
        put(&new.server.key, &to.server.key, mode, uid);
        put(&new.client.key, &to.client.key, mode, uid);
    }
    for to in
        places.iter().filter_map(|p| p.dh_params.as_ref()).filter(|f| f.bytes() != Some(DH_PARAMS.as_bytes()))
    {
        puts.push(Put { to: to.path.clone(), bytes: DH_PARAMS.into(), mode: 0o644, uid: Some(0) });
    }
    Ok(puts)
}

/// The daemon's name, which is also its server's.
fn daemon(uri: &str) -> &str {
    uri.split([':', '+']).next().unwrap_or(uri)
}

/// It runs and was not told, so that it goes on showing the certificate of before, and trusting whom it trusted.
fn is_stuck(trouble: &str) -> bool {
    let is_daemon = |pid: fs::DirEntry| {
        let name = fs::read_to_string(pid.path().join("comm")).unwrap_or_default();
        ["libvirtd", "virtproxyd"].contains(&name.trim())
    };
    // Of one that serves no TLS.
    !trouble.contains("no tls service found")
        && fs::read_dir("/proc").is_ok_and(|all| all.flatten().any(is_daemon))
}

/// Has libvirtd read its certificates again. Its error else.
fn tell_libvirtd(uri: &str) -> Result<(), String> {
    let mut child = Command::new("virt-admin")
        .args(["-c", uri, "server-update-tls", daemon(uri)])
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("virt-admin cannot be started: {e}"))?;
    let begun = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if begun.elapsed() < ADMIN_WITHIN => std::thread::sleep(Duration::from_millis(20)),
            Ok(None) | Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("no answer within {} s", ADMIN_WITHIN.as_secs()));
            }
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut text = String::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(1000).read_to_string(&mut text);
    }
    Err(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn report(
    json: bool,
    order: &Order<'_>,
    host: &Host,
    new: &Set,
    puts: &[Put],
    found: &[Finding],
    told: Option<Result<(), String>>,
) -> Result<ExitCode, Failure> {
    let fingerprint = new.server.cert.bytes().and_then(fingerprint);
    let files: Vec<_> = puts.iter().map(|p| &p.to).collect();
    let trouble = told.as_ref().and_then(|t| t.as_ref().err()).map(|why| clean(why));
    let stuck = trouble.as_deref().is_some_and(is_stuck);
    let fails = stuck || found.iter().any(|f| f.severity == Severity::Fail);
    let receipt = if order.dry_run || fails {
        None
    } else {
        // Of what is in place now.
        confirmation(&host.qemu(), &host.libvirt_files()).ok().flatten()
    };
    let conf = QemuConf::lines(&host.qemu_dir);
    let value = json!({
        "done": !order.dry_run, "findings": found, "files": files, "fingerprint_sha256": fingerprint, "receipt": receipt,
        "libvirtd_told": told.as_ref().map(|t| t.is_ok()), "libvirtd_trouble": trouble, "qemu_conf": conf,
    });
    print(json, &value, |_| {
        let mut out = lines(found);
        let did = if order.dry_run { "would put" } else { "put" };
        for file in &files {
            out.push_str(&format!("{did}  {}\n", file.display()));
        }
        if files.is_empty() {
            out.push_str("all of it is installed already\n");
        }
        if let Some(trouble) = &trouble {
            let next = match (stuck, daemon(order.admin_uri)) {
                (true, daemon) => format!(
                    "it shows and trusts what it did before: systemctl restart {daemon} (VMs run on), then comsctl tls check for the receipt; where virtproxyd serves TLS: install again with --admin-uri virtproxyd:///system"
                ),
                (false, daemon) => {
                    format!("{daemon} does not run, or serves no TLS: it reads its files when it starts")
                }
            };
            out.push_str(&format!(
                "libvirtd could not be told of its new certificate: {trouble}\n  {next}\n"
            ));
        } else if told.is_some() {
            out.push_str("libvirtd has taken up its new certificate\n");
        }
        out.push_str(&format!(
            "/etc/libvirt/qemu.conf must hold, or leave to defaults that say the same:\n  {}\n",
            conf.join("\n  ")
        ));
        if let Some(fingerprint) = &fingerprint {
            out.push_str(&format!("certificate {fingerprint}\n"));
        }
        if let Some(receipt) = &receipt {
            out.push_str(&format!(
                "receipt {receipt}\nnext: rm -r {}; where the authority is: comsctl tls rotate installed HOST {receipt}\n",
                order.dir.display(),
            ));
        }
        out
    })?;
    Ok(if fails { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_libvirtd_that_cannot_be_told_is_a_reason_and_no_hang() {
        let begun = Instant::now();
        let trouble = tell_libvirtd("libvirtd:///system?socket=/nonexistent/admin-sock").unwrap_err();
        assert!(!trouble.is_empty() && !trouble.contains('\n'), "{trouble:?}");
        assert!(begun.elapsed() < ADMIN_WITHIN, "{trouble}");
    }

    #[test]
    fn the_daemon_is_the_one_that_the_uri_names() {
        for uri in ["virtproxyd:///system", "virtproxyd+unix:///system?socket=/s"] {
            assert_eq!(daemon(uri), "virtproxyd");
        }
        assert!(!is_stuck("error: internal error: no tls service found, unable to update tls files"));
    }
}
