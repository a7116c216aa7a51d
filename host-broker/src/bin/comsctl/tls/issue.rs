//! `comsctl tls init` and `issue`: where the authority is.

use super::super::{Failure, print};
use super::authority::{Authority, DAY_S};
use super::store::Store;
use coms_broker::certificates::make;
use coms_broker::certificates::{AUTHORITY_WARN_DAYS, Name, day, fingerprint, not_after_unix_s, receipt};
use coms_broker::config::Config;
use serde_json::json;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

pub fn init(json: bool, dir: &Path, now_unix_s: i64) -> Result<ExitCode, Failure> {
    let store = Store::create(dir)?;
    let state = Authority::new();
    let cert = new_authority(&store, state.issuing, now_unix_s)?;
    store.save(&state)?;
    let value = json!({ "authority": dir, "fingerprint_sha256": cert, "next": state.next(false) });
    print(json, &value, |_| {
        let dir = dir.display();
        format!(
            "{dir}: an authority, good for ten years\nkeep a copy of it; who can read it can pretend to be any host\nnext: {}\n",
            state.next(false)
        )
    })
}

/// Makes it and says its fingerprint.
pub fn new_authority(store: &Store, number: u32, now_unix_s: i64) -> Result<Option<String>, Failure> {
    let day = jiff::Timestamp::from_second(now_unix_s)
        .map(|t| t.strftime("%Y-%m-%d").to_string())
        .unwrap_or_default();
    // Those who verify look an authority up by this: no two have the same, also of two operators.
    let subject = format!("migration authority {number} of {day}, {:08x}", rand::random::<u32>());
    let made = make::authority(&subject, rand::random(), now_unix_s).map_err(failed)?;
    store.put_authority(number, &made)?;
    Ok(fingerprint(made.cert_pem.as_bytes()))
}

fn failed(e: make::MakeError) -> Failure {
    Failure::refused(e.to_string())
}

pub struct Order<'a> {
    pub host: &'a str,
    pub names: &'a [String],
    pub ips: &'a [IpAddr],
    pub new_key: bool,
    pub config: &'a Path,
}

pub fn issue(json: bool, dir: &Path, order: &Order<'_>, now_unix_s: i64) -> Result<ExitCode, Failure> {
    let host = order.host;
    let is_name = (1..=64).contains(&host.len())
        && !host.starts_with(['.', '-'])
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if !is_name {
        return Err(Failure::usage(format!(
            "`{}` is no host's name; as in broker.toml: 1 to 64 letters, digits, dots, dashes, underscores",
            super::clean(host)
        )));
    }
    let (store, mut state) = Store::open(dir)?;
    let names = names(order, &state)?;
    let kept = make_bundle(&store, &mut state, host, &names, order.new_key, now_unix_s)?;
    store.save(&state)?;
    let bundle = store.bundle(host);
    let record = state.hosts.get(host);
    let days = record.map(|h| h.days_left(now_unix_s));
    let until = day(record.and_then(|h| h.not_after_unix_s).unwrap_or(now_unix_s));
    let authority_days = authority_days_left(&store, &state, now_unix_s)?;
    let shown: Vec<String> = names.iter().map(Name::to_string).collect();
    let value = json!({
        "host": host, "bundle": bundle, "names": shown, "key_kept": kept, "days": days,
        "receipt": record.map(|h| &h.receipt), "authority_days_left": authority_days,
    });
    print(json, &value, |_| {
        let authority = if authority_days < AUTHORITY_WARN_DAYS {
            format!("its authority expires in {authority_days} days, and it with it: comsctl tls rotate\n")
        } else {
            String::new()
        };
        let key = if kept { "its key is the one it has" } else { "with a new key" };
        let bundle = bundle.display();
        format!(
            "{bundle}: for {}, good until {until}, {key}\n{authority}next: sudo scp -rp {bundle} root@{host}:/root/tls-{host}; there: sudo comsctl tls install /root/tls-{host}\n",
            shown.join(", ")
        )
    })
}

/// Makes what a host is to install now. Whether it keeps its key.
pub fn make_bundle(
    store: &Store,
    state: &mut Authority,
    host: &str,
    names: &[Name],
    new_key: bool,
    now_unix_s: i64,
) -> Result<bool, Failure> {
    let by = store.authority(state.issuing)?;
    let key = if new_key { None } else { store.key_of(host) };
    let made = make::leaf(&by, host, names, key.as_deref(), rand::random(), now_unix_s).map_err(failed)?;
    let trusted = store.trusted(state)?;
    let receipt = receipt(trusted.as_bytes(), made.cert_pem.as_bytes()).ok_or_else(|| {
        Failure::refused("the authority's certificates cannot be read; restore them from your copy".into())
    })?;
    store.put_bundle(host, &trusted, &made)?;
    let ends = not_after_unix_s(made.cert_pem.as_bytes());
    state.issued(host, names.iter().map(Name::to_string).collect(), receipt, ends, now_unix_s);
    Ok(key.is_some())
}

/// Until the first of those whom hosts are given to trust expires: it spoils the others.
pub fn authority_days_left(store: &Store, state: &Authority, now_unix_s: i64) -> Result<i64, Failure> {
    let ends = not_after_unix_s(store.trusted(state)?.as_bytes());
    Ok((ends.unwrap_or(now_unix_s) - now_unix_s) / DAY_S)
}

/// As typed, else as last time, else as the configuration has them.
fn names(order: &Order<'_>, state: &Authority) -> Result<Vec<Name>, Failure> {
    let host = order.host;
    let mut names = Vec::new();
    for text in order.names {
        let wrong =
            || Failure::usage(format!("--name {}: no DNS name, such as {host}.example", super::clean(text)));
        names.push(Name::parse(text).filter(|n| matches!(n, Name::Dns(_))).ok_or_else(wrong)?);
    }
    names.extend(order.ips.iter().copied().map(Name::Ip));
    if names.is_empty()
        && let Some(record) = state.hosts.get(host)
    {
        names = record.names.iter().filter_map(|n| Name::parse(n)).collect();
    }
    let mut why = String::new();
    if names.is_empty() {
        match Config::load(order.config) {
            Ok(config) => names = names_of(&config, host),
            Err(e) => why = format!(" ({e})"),
        }
    }
    if names.is_empty() {
        return Err(Failure::usage(format!(
            "no name or address of `{host}` is known{why}; say how the other hosts reach it: --name {host}.example --ip 10.1.0.2"
        )));
    }
    names.dedup();
    Ok(names)
}

/// How this configuration reaches a host.
pub fn names_of(config: &Config, host: &str) -> Vec<Name> {
    if config.me.name == host {
        return super::host_at(Path::new("/"), Some(config)).names(Some(config));
    }
    let Some(peer) = config.peers.iter().find(|p| p.name == host) else { return Vec::new() };
    let uris = [Some(&peer.libvirt), peer.migrate_uri.as_ref()];
    let mut names: Vec<Name> = uris.into_iter().flatten().filter_map(|uri| Name::of_uri(uri)).collect();
    names.dedup();
    names
}
