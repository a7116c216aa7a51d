//! The whole way of an authority's renewal, on two hosts.

use super::authority::Authority;
use super::install::{objections, plan};
use super::put::Put;
use coms_broker::certificates::make::{self, Made};
use coms_broker::certificates::{
    Content, DH_PARAMS, Expected, File, Meta, Name, Owner, Pair, Set, Severity, inspect, receipt,
};
use coms_broker::config::Config;
use coms_broker::isolation::Network;
use std::collections::BTreeSet;
use std::path::Path;

const NOW: i64 = 1_795_305_600;
const QEMU: u32 = 64_055;
const HOSTS: [&str; 2] = ["h1", "h2"];

fn file(path: &str, text: &str) -> File {
    let content = if text.is_empty() { Content::Missing } else { Content::Bytes(text.into()) };
    File { path: path.into(), content, meta: None, above: Vec::new() }
}

fn set(owner: Owner, trusted: &str, of: &Made) -> Set {
    let pair = |name: &str| Pair {
        cert: file(&format!("/p/{name}-cert.pem"), &of.cert_pem),
        key: file(&format!("/p/{name}-key.pem"), &of.key_pem),
    };
    Set {
        owner,
        ca: file("/p/ca-cert.pem", trusted),
        server: pair("server"),
        client: pair("client"),
        dh_params: Some(file("/p/dh-params.pem", DH_PARAMS)),
    }
}

/// The authority's side, without a disk: what it makes at each step, from the first issue to the beginning of a second
/// renewal.
struct Side {
    /// By step, by host.
    bundles: Vec<[Set; 2]>,
}

impl Side {
    fn new() -> Self {
        let authorities =
            [1, 2, 3].map(|n| make::authority(&format!("authority {n}"), [n; 16], NOW).unwrap());
        let made = |number: u32| &authorities[number as usize - 1];
        let mut state = Authority::new();
        let mut bundles = Vec::new();
        let mut keys: [Option<String>; 2] = [None, None];
        for step in [
            None,
            Some(Authority::begin as fn(_) -> _),
            Some(Authority::leaves),
            Some(Authority::finish),
            Some(Authority::begin),
        ] {
            if let Some(step) = step {
                state = step(state).unwrap();
            }
            let trusted: String = state.trusted.iter().map(|n| made(*n).cert_pem.as_str()).collect();
            bundles.push([0, 1].map(|h| {
                let names = [Name::Dns(HOSTS[h].into())];
                let serial = rand::random();
                let made = make::leaf(made(state.issuing), HOSTS[h], &names, keys[h].as_deref(), serial, NOW)
                    .unwrap();
                keys[h] = Some(made.key_pem.clone());
                let receipt = receipt(trusted.as_bytes(), made.cert_pem.as_bytes()).unwrap();
                state.issued(HOSTS[h], vec![HOSTS[h].into()], receipt.clone(), None, NOW);
                state = state.clone().installed(HOSTS[h], &receipt).unwrap();
                set(Owner::Bundle, &trusted, &made)
            }));
        }
        Self { bundles }
    }

    fn installed(&self, step: usize, host: usize) -> Set {
        Set { owner: Owner::Qemu, ..self.bundles[step][host].clone() }
    }

    /// Does the host let what was made at step `to` take the place of what was made at `from`?
    fn lets(&self, host: usize, from: usize, to: usize) -> bool {
        let found = objections(
            &self.bundles[to][host],
            &[self.installed(from, host)],
            &expected(HOSTS[host]),
            false,
            NOW,
        );
        found.iter().all(|f| f.severity < Severity::Fail)
    }
}

fn expected(host: &str) -> Expected {
    Expected { names: vec![Name::Dns(host.into())], ..Expected::default() }
}

/// Would a migration find it in order? As QEMU at `from` connects to QEMU at `to`, and is asked for its own certificate.
fn verifies(from: &Set, to: &Set) -> Result<(), String> {
    // Each loads its own, and is shown the other's.
    let pairs =
        [(&from.ca, &from.client), (&to.ca, &to.server), (&from.ca, &to.server), (&to.ca, &from.client)];
    for (trusting, shown) in pairs {
        let seen = Set { ca: trusting.clone(), server: shown.clone(), client: shown.clone(), ..from.clone() };
        let found = inspect(&seen, &Expected::default(), NOW);
        if let Some(worst) = found.iter().find(|f| f.severity == Severity::Fail) {
            return Err(format!("{worst:?}"));
        }
    }
    Ok(())
}

fn apply(set: &mut Set, put: &Put) {
    let Set { ca, server, client, .. } = set;
    for file in [ca, &mut server.cert, &mut server.key, &mut client.cert, &mut client.key] {
        if file.path == put.to {
            file.content = Content::Bytes(put.bytes.clone());
        }
    }
}

#[test]
fn others_come_to_the_address_that_is_in_their_network() {
    let text = "[host]\nname = \"h1\"\nregion = \"r\"\nmigration_interface = \"mig0\"\n[[hosts]]\nname = \"h2\"\nregion = \"r\"\n\
                libvirt = \"qemu+tls://h2/system\"\nmigrate_uri = \"tcp://10.9.0.2\"\n";
    let config = Config::parse(Path::new("/etc/coms/broker.toml"), text).unwrap();
    let network = |ip: &str, prefix| Network { address: ip.parse().unwrap(), prefix };
    let all = [network("fe80::1", 64), network("10.8.0.1", 24), network("10.9.0.1", 24)];
    assert_eq!(super::towards_peers(&config, &all), ["10.9.0.1".parse::<std::net::IpAddr>().unwrap()]);
}

/// Every way through a renewal, with installs in any order, also of a bundle that somebody forgot to remove: between any
/// two files that are put in place, both directions verify.
#[test]
fn no_moment_of_a_renewal_in_which_a_migration_fails() {
    let side = Side::new();
    let steps = side.bundles.len();
    let lets: Vec<(usize, usize, usize)> = (0..2)
        .flat_map(|host| (0..steps).flat_map(move |from| (0..steps).map(move |to| (host, from, to))))
        .filter(|(host, from, to)| side.lets(*host, *from, *to))
        .collect();
    // What was made last, and what each host has installed.
    let mut todo = vec![(0, [0, 0])];
    let mut seen: BTreeSet<(usize, [usize; 2])> = todo.iter().copied().collect();
    let mut tried = BTreeSet::new();
    while let Some((made, has)) = todo.pop() {
        let mut next = Vec::new();
        // The authority goes on only when both have confirmed what was made last, by their receipts.
        if made + 1 < steps && has == [made, made] {
            next.push((made + 1, has));
        }
        for (host, from, to) in
            lets.iter().copied().filter(|(host, from, to)| has[*host] == *from && *to <= made)
        {
            let mut now = [0, 1].map(|h| side.installed(has[h], h));
            if tried.insert((host, from, to, has[1 - host])) {
                for put in plan(&side.bundles[to][host], &[now[host].clone()], QEMU).unwrap() {
                    apply(&mut now[host], &put);
                    for (a, b) in [(0, 1), (1, 0)] {
                        let seen = verifies(&now[a], &now[b]);
                        assert!(
                            seen.is_ok(),
                            "{made} {has:?}: host {host} to {to}, {}: {seen:?}",
                            put.to.display()
                        );
                    }
                }
            }
            let mut has = has;
            has[host] = to;
            next.push((made, has));
        }
        todo.extend(next.into_iter().filter(|state| seen.insert(*state)));
    }
    assert!(seen.contains(&(steps - 1, [steps - 1; 2])), "the renewal never ends: {seen:?}");
}

#[test]
fn a_step_left_out_is_refused_by_the_host_too() {
    let side = Side::new();
    assert!(side.lets(0, 0, 0) && side.lets(0, 0, 1));
    assert!(!side.lets(0, 0, 2), "it does not trust the new authority yet");
    assert!(!side.lets(0, 1, 0), "others may show certificates of the new one already");
    let installed = [side.installed(0, 0)];
    let fails = |new: &Set, replace: bool| {
        let found = objections(new, &installed, &expected("h1"), replace, NOW);
        found.iter().any(|f| f.severity == Severity::Fail)
    };
    assert!(fails(&side.bundles[0][1], true), "another host's");
    assert!(!fails(&side.bundles[2][0], true), "unless told so");
}

#[test]
fn who_is_trusted_comes_first_and_keys_are_for_their_reader_only() {
    let side = Side::new();
    let empty = |owner| {
        let none = Made { cert_pem: String::new(), key_pem: String::new() };
        Set { dh_params: Some(file("/p/dh-params.pem", "")), ..set(owner, "", &none) }
    };
    let puts = plan(&side.bundles[0][0], &[empty(Owner::Qemu), empty(Owner::Libvirt)], QEMU).unwrap();
    assert!(puts[..2].iter().all(|p| p.to == Path::new("/p/ca-cert.pem")), "{puts:?}");
    let keys: Vec<_> =
        puts.iter().filter(|p| p.to.to_string_lossy().contains("key")).map(|p| (p.mode, p.uid)).collect();
    let (qemu, root) = ((0o400, Some(QEMU)), (0o600, Some(0)));
    assert_eq!(keys, [qemu, qemu, root, root]);
    let mut there = Set { owner: Owner::Qemu, ..side.bundles[0][0].clone() };
    assert_eq!(
        plan(&side.bundles[0][0], std::slice::from_ref(&there), QEMU).unwrap(),
        [],
        "nothing to do twice"
    );
    there.server.key.meta = Some(Meta { uid: 0, gid: 0, mode: 0o600 });
    let puts = plan(&side.bundles[0][0], &[there], QEMU).unwrap();
    assert_eq!((puts.len(), puts[0].mode), (1, 0o400), "the right bytes under the wrong owner are put again");
    let mut half = side.bundles[0][0].clone();
    half.client.key.content = Content::Denied("not yours".into());
    assert_eq!(plan(&half, &[], QEMU), Err(half.client.key.path.as_path()), "all of it or nothing");
}
