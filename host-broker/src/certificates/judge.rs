//! What is wrong with certificates, in the order in which QEMU and libvirt come upon it.

use super::read::{Certificate, Unread, certificates, public_half};
use super::{Content, Expected, File, Finding, Kind, Meta, Name, Owner, Pair, Set, Severity};
use std::path::Path;

const DAY_S: i64 = 86_400;
/// A leaf is renewed within this time.
const LEAF_WARN_DAYS: i64 = 30;
/// An authority's renewal goes over all hosts three times.
pub const AUTHORITY_WARN_DAYS: i64 = 90;
/// Too late for a leisurely renewal of either.
const FAIL_DAYS: i64 = 7;
/// Behind so many QEMU does not look.
const MAX_AUTHORITIES: usize = 16;

/// A host may have very many addresses.
const SHOWN_NAMES: usize = 6;

const ISSUE: &str = "comsctl tls issue HOST where the authority is, comsctl tls install here";
const COMPARE: &str = "compare with where it was made, and install it again";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Server,
    Client,
}

/// What is wrong with the files that belong together, at this time. Without anything wrong, one [`Kind::Well`].
pub fn inspect(set: &Set, expected: &Expected, now_unix_s: i64) -> Vec<Finding> {
    if set.is_absent() {
        let severity = if set.owner == Owner::Libvirt { Severity::Hint } else { Severity::Fail };
        let detail = match set.owner {
            Owner::Libvirt => "libvirt has no certificates here: right where the URIs of hosts go by ssh",
            Owner::Qemu | Owner::Bundle => "no certificates are here, so nothing can be migrated encrypted",
        };
        return vec![Finding::new(severity, Kind::NothingInstalled, &set.ca.path, detail, ISSUE)];
    }
    let mut found = Vec::new();
    let authorities = authorities(set.owner, &set.ca, now_unix_s, &mut found);
    for (pair, role) in [(&set.server, Role::Server), (&set.client, Role::Client)] {
        pair_of(set.owner, pair, role, authorities.as_deref(), expected, now_unix_s, &mut found);
    }
    for file in [&set.ca, &set.server.cert, &set.client.cert] {
        found.extend(unreadable_by_qemu(set.owner, file, expected));
    }
    found.extend(writable_directories(set));
    // QEMU's user may own its keys: one that was changed only fits no more.
    for file in [&set.ca, &set.server.cert, &set.client.cert].into_iter().chain(&set.dh_params) {
        found.extend(writable_file(set.owner, file));
    }
    if let Some(file) = &set.dh_params {
        found.extend(dh_params(set.owner, file));
    }
    if found.iter().all(|f| f.severity <= Severity::Hint) {
        let until = [&set.server.cert, &set.ca]
            .into_iter()
            .filter_map(File::bytes)
            .filter_map(|b| certificates(b).ok())
            .flatten()
            .map(|c| c.not_after_unix_s)
            .min()
            .unwrap_or(now_unix_s);
        let dir = set.server.cert.path.parent().unwrap_or(Path::new("/"));
        let detail = format!("certificates and keys fit each other and this host, until {}", day(until));
        found.insert(0, Finding::new(Severity::Ok, Kind::Well, dir, detail, ""));
    }
    found
}

fn authorities(owner: Owner, file: &File, now: i64, found: &mut Vec<Finding>) -> Option<Vec<Certificate>> {
    let all = read(owner, file, Severity::Fail, found)?;
    let mut fail = |kind, detail: String, remedy: &str| {
        found.push(Finding::new(Severity::Fail, kind, &file.path, detail, remedy));
    };
    for authority in &all {
        if !authority.is_authority || authority.usage.is_some_and(|u| !u.signs_certificates) {
            let detail = format!(
                "`{}` is no authority's certificate; QEMU and libvirt refuse the file",
                authority.subject
            );
            fail(Kind::NotAnAuthority, detail, "put the authority's certificate there, not a host's");
        }
    }
    for authority in &all {
        // An expired one spoils the whole file, also where others in it are good.
        dates(file, authority, AUTHORITY_WARN_DAYS, "comsctl tls rotate where the authority is", now, found);
    }
    if all.len() > MAX_AUTHORITIES {
        let detail = format!(
            "holds {} authorities; QEMU looks for who made its own certificate among the first {MAX_AUTHORITIES} only",
            all.len()
        );
        let remedy = "take out those by which nothing is signed any more";
        found.push(Finding::new(Severity::Warn, Kind::TooManyAuthorities, &file.path, detail, remedy));
    }
    Some(all)
}

fn pair_of(
    owner: Owner,
    pair: &Pair,
    role: Role,
    authorities: Option<&[Certificate]>,
    expected: &Expected,
    now: i64,
    found: &mut Vec<Finding>,
) {
    // libvirt serves TLS on hosts that listen for it only.
    let missing = match (owner, role) {
        (Owner::Libvirt, Role::Server) => Severity::Warn,
        (Owner::Libvirt, Role::Client) | (Owner::Qemu | Owner::Bundle, _) => Severity::Fail,
    };
    let cert = read(owner, &pair.cert, missing, found).and_then(|all| all.into_iter().next());
    if let Some(cert) = &cert {
        leaf(owner, &pair.cert, cert, role, authorities, now, found);
        if role == Role::Server {
            names(&pair.cert, cert, expected, found);
        }
    }
    key(owner, &pair.key, missing, cert.as_ref(), expected, found);
}

fn leaf(
    owner: Owner,
    file: &File,
    cert: &Certificate,
    role: Role,
    authorities: Option<&[Certificate]>,
    now: i64,
    found: &mut Vec<Finding>,
) {
    dates(file, cert, LEAF_WARN_DAYS, ISSUE, now, found);
    let mut add = |severity, kind, detail: String, remedy: &str| {
        found.push(Finding::new(severity, kind, &file.path, detail, remedy));
    };
    if cert.is_authority {
        let detail = format!(
            "`{}` is an authority's certificate, which QEMU and libvirt refuse for a host",
            cert.subject
        );
        add(Severity::Fail, Kind::AuthorityForLeaf, detail, ISSUE);
    }
    if cert.usage.is_some_and(|u| !u.signs) {
        let detail = "its key usage lacks digital signature, without which QEMU and libvirt refuse it";
        add(Severity::Fail, Kind::KeyUsage, detail.into(), ISSUE);
    } else if cert.usage.is_some_and(|u| !u.enciphers_keys) {
        // Also of a key that cannot encipher, as one on an elliptic curve.
        let severity = if owner == Owner::Qemu { Severity::Warn } else { Severity::Fail };
        let detail = "its key usage lacks key encipherment, without which libvirt 9 and QEMU before its stable releases of December 2025 refuse it";
        add(severity, Kind::KeyUsage, detail.into(), ISSUE);
    }
    let (may, kind, what) = match role {
        Role::Server => (cert.purpose.is_none_or(|p| p.server), Kind::NotForServer, "server"),
        Role::Client => (cert.purpose.is_none_or(|p| p.client), Kind::NotForClient, "client"),
    };
    if !may {
        let refused = cert.purpose.is_some_and(|p| p.critical);
        let severity = if refused { Severity::Fail } else { Severity::Warn };
        let who = if refused { "QEMU and libvirt refuse it" } else { "QEMU and libvirt let it pass today" };
        add(severity, kind, format!("its extended key usage does not name a TLS {what}; {who}"), ISSUE);
    }
    if let Some(authorities) = authorities
        && !authorities.iter().any(|a| cert.is_signed_by(a))
    {
        let known: Vec<&str> = authorities.iter().map(|a| a.subject.as_str()).collect();
        let detail = format!(
            "was made by `{}`, and not by who is trusted here: `{}`",
            cert.issuer,
            known.join("`, `")
        );
        add(Severity::Fail, Kind::OtherAuthority, detail, "install certificate and authority of one bundle");
    }
}

fn names(file: &File, cert: &Certificate, expected: &Expected, found: &mut Vec<Finding>) {
    let has: Vec<String> = cert.names.iter().map(Name::to_string).collect();
    let has = if has.is_empty() { "no name".to_owned() } else { has.join(", ") };
    let covers = |wanted: &Name| cert.names.iter().any(|n| is_same(n, wanted));
    let off_network: Vec<String> = expected
        .migration
        .iter()
        .filter(|ip| !covers(&Name::Ip(**ip)))
        .map(|ip| format!("--ip {ip}"))
        .collect();
    if !off_network.is_empty() {
        let detail = format!(
            "is for {has}, and not for this host's address on the migration network ([host] migration_interface in broker.toml), to which others migrate"
        );
        let remedy = format!(
            "comsctl tls issue HOST {} …, with all its names, where the authority is",
            off_network.join(" ")
        );
        found.push(Finding::new(Severity::Fail, Kind::NameMissing, &file.path, detail, remedy));
    }
    if let Some(must) = expected.must.as_ref().filter(|m| !covers(m)) {
        let detail = format!(
            "is for {has}, and libvirt here tells others to migrate to `{must}` (migration_host in qemu.conf)"
        );
        found.push(Finding::new(Severity::Fail, Kind::NameMissing, &file.path, detail, ISSUE));
    } else if !expected.names.is_empty()
        && !expected.names.iter().any(|name| covers(name) || cert.names.iter().any(|n| is_short_of(name, n)))
    {
        let wanted: Vec<String> = expected.names.iter().take(SHOWN_NAMES).map(Name::to_string).collect();
        let detail = format!("is for {has}; this host is {}", wanted.join(", "));
        let remedy = "is it another host's? else: comsctl tls issue HOST --name NAME --ip ADDRESS, with what others call it";
        found.push(Finding::new(Severity::Fail, Kind::WrongName, &file.path, detail, remedy));
    } else if let Some(usual) = expected.usual.as_ref().filter(|u| !covers(u)) {
        let detail = format!(
            "is for {has}, and libvirt here tells others to migrate to `{usual}`, unless their migrate_uri says otherwise"
        );
        let remedy = format!(
            "set migration_host in qemu.conf to one of those, or: comsctl tls issue HOST --name {usual} …"
        );
        found.push(Finding::new(Severity::Warn, Kind::NameMissing, &file.path, detail, remedy));
    }
}

/// The same host, for people; not for TLS.
fn is_short_of(short: &Name, full: &Name) -> bool {
    match (short, full) {
        (Name::Dns(short), Name::Dns(full)) => full.split('.').next() == Some(short),
        (Name::Ip(_), _) | (_, Name::Ip(_)) => false,
    }
}

/// As GnuTLS has it: `*` covers one label.
fn is_same(has: &Name, wanted: &Name) -> bool {
    match (has, wanted) {
        (Name::Dns(has), Name::Dns(wanted)) => {
            let wild = has
                .strip_prefix("*.")
                .is_some_and(|d| wanted.split_once('.').is_some_and(|(_, rest)| rest == d));
            has == wanted || wild
        }
        (Name::Ip(has), Name::Ip(wanted)) => has == wanted,
        (Name::Ip(_), Name::Dns(_)) | (Name::Dns(_), Name::Ip(_)) => false,
    }
}

fn key(
    owner: Owner,
    file: &File,
    missing: Severity,
    cert: Option<&Certificate>,
    expected: &Expected,
    found: &mut Vec<Finding>,
) {
    let Some(bytes) = bytes(owner, file, missing, found) else { return };
    let mut add = |severity, kind, detail: String, remedy: &str| {
        found.push(Finding::new(severity, kind, &file.path, detail, remedy));
    };
    match public_half(bytes) {
        Err(Unread::NotPem) => {
            add(Severity::Fail, Kind::NotPem, "holds no private key in PEM".into(), COMPARE)
        }
        Err(Unread::Damaged(why)) => {
            add(Severity::Fail, Kind::Damaged, format!("its private key cannot be read: {why}"), COMPARE)
        }
        Err(Unread::Encrypted) => add(
            Severity::Warn,
            Kind::KeyNotJudged,
            "has a password, so whether it fits its certificate cannot be told".into(),
            "QEMU needs the password as a libvirt secret: migrate_tls_x509_secret_uuid in qemu.conf",
        ),
        Ok(None) => add(
            Severity::Hint,
            Kind::KeyNotJudged,
            "is of a kind that is not known here, so whether it fits its certificate cannot be told".into(),
            "",
        ),
        Ok(Some(public)) => {
            if cert.is_some_and(|c| c.public_key != public) {
                let detail = "is not the key of the certificate beside it".into();
                add(Severity::Fail, Kind::KeyMismatch, detail, "install certificate and key of one bundle");
            }
        }
    }
    found.extend(readable_by_others(owner, file, expected));
    found.extend(unreadable_by_qemu(owner, file, expected));
}

fn unreadable_by_qemu(owner: Owner, file: &File, expected: &Expected) -> Option<Finding> {
    let (Owner::Qemu, Some(who), Some(meta)) = (owner, &expected.qemu, file.meta) else { return None };
    let closed = file.above.iter().any(|dir| !dir.lets(who, 0o1));
    (closed || !meta.lets(who, 0o4)).then(|| {
        let what = if closed { "is in a directory that is closed to" } else { "cannot be read by" };
        let detail = format!("{what} QEMU's user {}: migrations would fail", who.name);
        let remedy = "comsctl tls install does it right; or chown and chmod (certificates 644, keys 400 of QEMU's user, directories 755)";
        Finding::new(Severity::Fail, Kind::UnreadableByQemu, &file.path, detail, remedy)
    })
}

fn readable_by_others(owner: Owner, file: &File, expected: &Expected) -> Option<Finding> {
    let meta = file.meta?;
    let open_to_group = meta.mode & 0o070 != 0
        && meta.gid != 0
        && !(owner == Owner::Qemu && expected.qemu.as_ref().is_some_and(|q| q.gids.contains(&meta.gid)));
    (meta.mode & 0o007 != 0 || open_to_group).then(|| {
        let detail = format!("is open to others than it is for (mode {:o})", meta.mode & 0o777);
        let remedy = format!(
            "chmod {} {}; where strangers have accounts: comsctl tls issue HOST --new-key, install, then all three steps of comsctl tls rotate, for the old certificate stays good until it expires",
            if owner == Owner::Qemu { "440" } else { "600" },
            file.path.display()
        );
        Finding::new(Severity::Fail, Kind::ReadableByOthers, &file.path, detail, remedy)
    })
}

/// Directories above the files in which others can put files of theirs in the place of these.
pub fn writable_directories(set: &Set) -> Vec<Finding> {
    let mut found: Vec<Finding> = Vec::new();
    for file in set.files().filter(|_| set.owner != Owner::Bundle) {
        let mut dirs: Vec<&Path> = file.path.ancestors().skip(1).collect();
        dirs.reverse();
        for (dir, meta) in dirs.into_iter().zip(&file.above).filter(|(_, meta)| meta.lets_others_replace()) {
            if !found.iter().any(|f| f.file == dir) {
                found.push(writable(dir, *meta));
            }
        }
    }
    found
}

fn writable_file(owner: Owner, file: &File) -> Option<Finding> {
    let meta = file.meta.filter(|m| owner != Owner::Bundle && m.is_writable_by_others())?;
    Some(writable(&file.path, meta))
}

fn writable(path: &Path, meta: Meta) -> Finding {
    let detail = format!(
        "can be changed by others than root (user {}, mode {:o}), who decide then whom this host trusts",
        meta.uid,
        meta.mode & 0o7777
    );
    let remedy = format!("chown root {0}; chmod go-w {0}", path.display());
    Finding::new(Severity::Fail, Kind::WritableByOthers, path, detail, remedy)
}

fn dh_params(owner: Owner, file: &File) -> Option<Finding> {
    const REMEDY: &str = "comsctl tls install puts one there";
    let hint = |detail: &str| Some(Finding::new(Severity::Hint, Kind::DhParams, &file.path, detail, REMEDY));
    match &file.content {
        Content::Missing if owner == Owner::Qemu => hint(
            "is not there: QEMU 7.2 makes parameters anew for each incoming migration, which takes up to half a second",
        ),
        Content::Missing => None,
        Content::Denied(why) => hint(&format!("cannot be read: {why}")),
        Content::Unreadable(why) => {
            let detail =
                format!("cannot be read, and QEMU refuses every incoming encrypted migration: {why}");
            Some(Finding::new(Severity::Fail, Kind::Unreadable, &file.path, detail, REMEDY))
        }
        Content::Bytes(bytes) => {
            let text = String::from_utf8_lossy(bytes);
            let begin = text.find("-----BEGIN DH PARAMETERS-----");
            let well = begin.is_some_and(|at| text[at..].contains("-----END DH PARAMETERS-----"));
            (!well).then(|| {
                let detail =
                    "is no PEM file with DH PARAMETERS, and QEMU refuses every incoming encrypted migration";
                Finding::new(Severity::Fail, Kind::DhParams, &file.path, detail, REMEDY)
            })
        }
    }
}

fn dates(file: &File, cert: &Certificate, warn_days: i64, remedy: &str, now: i64, found: &mut Vec<Finding>) {
    let left_s = cert.not_after_unix_s - now;
    let (severity, kind, detail) = if now < cert.not_before_unix_s {
        let detail = format!(
            "`{}` is valid from {} on; is this host's clock right?",
            cert.subject,
            day(cert.not_before_unix_s)
        );
        (Severity::Fail, Kind::NotYetValid, detail)
    } else if left_s < 0 {
        (
            Severity::Fail,
            Kind::Expired,
            format!("`{}` expired on {}", cert.subject, day(cert.not_after_unix_s)),
        )
    } else if left_s < warn_days * DAY_S {
        let severity = if left_s < FAIL_DAYS * DAY_S { Severity::Fail } else { Severity::Warn };
        let detail = format!(
            "`{}` expires on {}, in {} days",
            cert.subject,
            day(cert.not_after_unix_s),
            left_s / DAY_S
        );
        (severity, Kind::ExpiresSoon, detail)
    } else {
        return;
    };
    found.push(Finding::new(severity, kind, &file.path, detail, remedy));
}

/// As people write it.
pub fn day(unix_s: i64) -> String {
    let at = jiff::Timestamp::from_second(unix_s).map(|t| t.strftime("%Y-%m-%d").to_string());
    at.unwrap_or_else(|_| "a day beyond the calendar".into())
}

/// The certificates of a file, or why there are none.
fn read(owner: Owner, file: &File, missing: Severity, found: &mut Vec<Finding>) -> Option<Vec<Certificate>> {
    let bytes = bytes(owner, file, missing, found)?;
    let (kind, detail) = match certificates(bytes) {
        Ok(all) => return Some(all),
        Err(Unread::NotPem | Unread::Encrypted) if bytes.first() == Some(&0x30) => {
            (Kind::NotPem, "is DER; QEMU and libvirt read PEM".to_owned())
        }
        Err(Unread::NotPem | Unread::Encrypted) => (Kind::NotPem, "holds no certificate in PEM".to_owned()),
        Err(Unread::Damaged(why)) => (Kind::Damaged, format!("cannot be read: {why}")),
    };
    found.push(Finding::new(Severity::Fail, kind, &file.path, detail, COMPARE));
    None
}

fn bytes<'a>(owner: Owner, file: &'a File, missing: Severity, found: &mut Vec<Finding>) -> Option<&'a [u8]> {
    let finding = match &file.content {
        Content::Bytes(bytes) => return Some(bytes),
        Content::Missing => Finding::new(missing, Kind::Missing, &file.path, "is not there", ISSUE),
        Content::Unreadable(why) => Finding::new(
            Severity::Fail,
            Kind::Unreadable,
            &file.path,
            format!("cannot be read: {why}"),
            COMPARE,
        ),
        // Who looks may be nobody for whom it is; who installs has to read all of it.
        Content::Denied(why) => Finding::new(
            if owner == Owner::Bundle { Severity::Fail } else { Severity::Warn },
            Kind::Unreadable,
            &file.path,
            format!("cannot be read: {why}"),
            "as root: sudo comsctl tls …",
        ),
    };
    found.push(finding);
    None
}

/// Whether what is to be put in the place of what is there leaves every host with the authorities of all certificates that
/// any host shows, whichever of the others have been changed already. ca-cert.pem holds them oldest first.
pub fn inspect_replacement(old: &Set, new: &Set) -> Vec<Finding> {
    let all = |file: &File| file.bytes().and_then(|b| certificates(b).ok()).unwrap_or_default();
    let (old_trust, new_trust) = (all(&old.ca), all(&new.ca));
    let leaf = |set: &Set| all(&set.server.cert).into_iter().next();
    let (Some(old_leaf), Some(new_leaf)) = (leaf(old), leaf(new)) else {
        return Vec::new();
    };
    let place = |leaf: &Certificate, trust: &[Certificate]| trust.iter().position(|a| leaf.is_signed_by(a));
    // What does not work already cannot be broken.
    if place(&old_leaf, &old_trust).is_none() {
        return Vec::new();
    }
    const ELSE: &str = "or --replace-authority, and migrations fail until all hosts have theirs";
    let fail = |file: &File, detail: &str, remedy: &str| {
        Finding::new(Severity::Fail, Kind::BreaksTrust, &file.path, detail, format!("{remedy}; {ELSE}"))
    };
    let mut found = Vec::new();
    if place(&new_leaf, &old_trust).is_none() {
        found.push(fail(
            &old.ca,
            "does not trust who made the new certificate yet, so other hosts may not either",
            "give all hosts both authorities first (comsctl tls rotate where the authority is)",
        ));
    }
    match (place(&old_leaf, &new_trust), place(&new_leaf, &new_trust)) {
        (None, _) => found.push(fail(
            &new.ca,
            "does not hold who made the certificate that is installed here, and which other hosts may still show",
            "give all hosts certificates of the new authority first (comsctl tls rotate where the authority is)",
        )),
        (Some(before), Some(now)) if now < before => found.push(fail(
            &new.server.cert,
            "goes back to an older authority than the certificate that is installed here, and other hosts may have gone on",
            "copy the newest bundle here (hosts/HOST where the authority is)",
        )),
        (Some(_), _) => {}
    }
    if old_trust.last().is_some_and(|newest| !new_trust.iter().any(|a| a.der == newest.der)) {
        found.push(fail(
            &new.ca,
            "lacks the newest authority that is trusted here, and other hosts may show certificates of it",
            "copy the newest bundle here (hosts/HOST where the authority is)",
        ));
    }
    found
}
