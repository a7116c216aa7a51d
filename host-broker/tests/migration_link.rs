//! What the kernel shows of a migration network, and what it then does: in a network of the test's own. Needs root, or
//! user namespaces.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "helpers of tests")]

use coms_broker::io::migration_link::look;
use coms_broker::isolation::{Fault, Way, fault};
use std::net::IpAddr;
use std::process::Command;

const GUARD: &str = "unreachable 10.9.0.0/24 metric 4294967295";
const GUARD6: &str = "unreachable fd09::/64 metric 4294967295";

/// Whether this is the network of the test's own: if not, the test is run again in one, and its result is this one's.
fn is_alone(test: &str) -> bool {
    const ALONE: &str = "COMS_TEST_IS_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut again = Command::new("unshare");
    again.args(["--map-root-user", "--net", "--kill-child", "--fork"]);
    again.arg(std::env::current_exe().unwrap());
    let out = again.args(["--exact", test, "--nocapture"]).env(ALONE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    println!("{said}");
    assert!(out.status.success() && said.contains("1 passed"), "in a network of its own (unshare --net)");
    false
}

fn ip(line: &str) {
    let argv: Vec<&str> = line.split(' ').collect();
    let out = Command::new("ip").args(&argv).output().unwrap();
    assert!(out.status.success(), "ip {line}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Two links with somebody at their other ends; the default route is by the one that is not for migrations.
fn make() {
    for (name, other) in [("eth0", "eth0p"), ("mig0", "mig0p")] {
        ip(&format!("link add {name} type veth peer name {other}"));
        for end in [name, other] {
            ip(&format!("link set {end} up"));
        }
    }
    for line in [
        "address add 10.1.0.1/24 dev eth0",
        "address add 10.9.0.1/24 dev mig0",
        "route add default via 10.1.0.254",
    ] {
        ip(line);
    }
    for line in [
        "-6 address add fd01::1/64 dev eth0 nodad",
        "-6 address add fd09::1/64 dev mig0 nodad",
        "-6 route add default via fd01::fe",
    ] {
        ip(line);
    }
}

/// Up again, with the address that the kernel forgets with the link.
fn back() {
    ip("link set mig0 up");
    ip("-6 address replace fd09::1/64 dev mig0 nodad");
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn found(to: &str) -> Option<Fault> {
    let to = address(to);
    fault(&look("mig0", &[to]).unwrap(), to)
}

/// By which interface the kernel would send.
fn way(to: &str) -> Option<String> {
    match look("mig0", &[address(to)]).unwrap().ways.remove(0).way {
        Way::Leads { interface, .. } => Some(interface),
        Way::None(_) => None,
    }
}

#[test]
fn the_kernel_does_what_was_foretold_with_a_guard_and_without() {
    if !is_alone("the_kernel_does_what_was_foretold_with_a_guard_and_without") {
        return;
    }
    make();
    for (there, guard, by) in
        [("10.9.0.2", GUARD, "eth0 (route to 0.0.0.0/0)"), ("fd09::2", GUARD6, "eth0 (route to ::/0)")]
    {
        let family = if there.contains(':') { "-6" } else { "-4" };
        // Without a guard: foretold, and so it is.
        let Some(Fault::Unguarded { by: foretold, .. }) = found(there) else { panic!("{:?}", found(there)) };
        assert_eq!(foretold, format!("by {by}"));
        assert_eq!(way(there).as_deref(), Some("mig0"));
        ip("link set mig0 down");
        assert_eq!((found(there), way(there).as_deref()), (Some(Fault::Down), Some("eth0")), "{there}");
        back();
        // With it nothing leaves.
        ip(&format!("{family} route add {guard}"));
        assert_eq!((found(there), way(there).as_deref()), (None, Some("mig0")), "{there}");
        ip("link set mig0 down");
        assert_eq!((found(there), way(there)), (Some(Fault::Down), None), "{there}");
        back();
        assert_eq!(found(there), None, "{there}");
    }
}

#[test]
fn each_thing_that_can_be_wrong_is_seen() {
    if !is_alone("each_thing_that_can_be_wrong_is_seen") {
        return;
    }
    make();
    const THERE: &str = "10.9.0.2";
    ip(&format!("route add {GUARD}"));
    assert_eq!(found(THERE), None);
    ip("link set mig0p down");
    assert_eq!(found(THERE), Some(Fault::NoCarrier));
    ip("link set mig0p up");
    assert_eq!(found(THERE), None);
    assert_eq!(found("10.9.1.2"), Some(Fault::OtherNetwork));
    assert_eq!(found("10.9.0.1"), Some(Fault::Own));
    // A route of the host alone wins over the network's.
    ip("route add 10.9.0.2/32 via 10.1.0.254");
    assert_eq!(found(THERE), Some(Fault::Elsewhere { from: None, by: "by eth0".into() }));
    ip("route del 10.9.0.2/32 via 10.1.0.254");
    ip("route add 10.9.0.2/32 via 10.9.0.7 dev mig0");
    assert_eq!(found(THERE), Some(Fault::Elsewhere { from: None, by: "by way of a router".into() }));
    ip("route del 10.9.0.2/32 via 10.9.0.7 dev mig0");
    ip("route add 10.9.0.2/32 dev mig0 src 10.1.0.1");
    assert_eq!(found(THERE), Some(Fault::Elsewhere { from: None, by: "from 10.1.0.1".into() }));
    ip("route del 10.9.0.2/32 dev mig0 src 10.1.0.1");
    // A rule may send it through another table, where the guard is not.
    ip("route add 10.9.0.0/24 dev mig0 src 10.9.0.1 table 7");
    ip("route add default via 10.1.0.254 table 7");
    ip("rule add to 10.9.0.0/24 lookup 7");
    let Some(Fault::Unguarded { by, .. }) = found(THERE) else { panic!("{:?}", found(THERE)) };
    assert_eq!(by, "by eth0 (route to 0.0.0.0/0)");
    ip(&format!("route add {GUARD} table 7"));
    assert_eq!(found(THERE), None);
    ip("link del mig0");
    assert_eq!(found(THERE), Some(Fault::Missing));
}

/// By which interface the kernel sends what is on its way already, asked as people ask.
fn sent(to: &str, from: &str) -> Option<String> {
    let out = Command::new("ip").args(["route", "get", to, "from", from]).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let after = said.split(" dev ").nth(1)?;
    after.split(' ').next().map(str::to_owned)
}

#[test]
fn where_rules_send_elsewhere_it_is_foretold_and_so_it_is() {
    if !is_alone("where_rules_send_elsewhere_it_is_foretold_and_so_it_is") {
        return;
    }
    make();
    for (there, own, net, guard, router) in [
        ("10.9.0.2", "10.9.0.1", "10.9.0.0/24", GUARD, "10.1.0.254"),
        ("fd09::2", "fd09::1", "fd09::/64", GUARD6, "fd01::fe"),
    ] {
        let (family, all) = if there.contains(':') { ("-6", "::/0") } else { ("-4", "0.0.0.0/0") };
        let does = |line: &str| ip(&format!("{family} {line}"));
        // A table of its own, which has no other route: the kernel goes on to the main one, which has.
        does(&format!("route add {net} dev mig0 table 100"));
        does(&format!("rule add to {net} lookup 100"));
        let foretold = found(there);
        let Some(Fault::Unguarded { by, table, .. }) = &foretold else { panic!("{foretold:?}") };
        assert_eq!((by.as_str(), *table), (format!("by eth0 (route to {all} of table 254)").as_str(), 100));
        assert_eq!(way(there).as_deref(), Some("mig0"), "{there}");
        ip("link set mig0 down");
        assert_eq!(way(there).as_deref(), Some("eth0"), "{there}");
        back();
        does(&format!("route add {net} dev mig0 table 100"));
        does(&format!("route add {guard} table 100"));
        assert_eq!(found(there), None, "{there}");
        ip("link set mig0 down");
        assert_eq!((way(there), sent(there, own)), (None, None), "{there}");
        back();
        does(&format!("rule del to {net} lookup 100"));

        // What has the interface's address goes by another table: a connection is begun there, and none of it stays there.
        does(&format!("route add {guard}"));
        does(&format!("route add default via {router} dev eth0 table 200"));
        does(&format!("rule add from {own} lookup 200"));
        assert_eq!((way(there).as_deref(), sent(there, own).as_deref()), (Some("mig0"), Some("eth0")));
        let elsewhere = Fault::Elsewhere { from: Some(address(own)), by: "by eth0".into() };
        assert_eq!(found(there), Some(elsewhere), "{there}");
        // With a route of its own there, that table needs a guard, too.
        does(&format!("route add {net} dev mig0 table 200"));
        let foretold = found(there);
        let Some(Fault::Unguarded { table: 200, .. }) = &foretold else { panic!("{foretold:?}") };
        does(&format!("route add {guard} table 200"));
        assert_eq!(found(there), None, "{there}");
        ip("link set mig0 down");
        assert_eq!((way(there), sent(there, own)), (None, None), "{there}");
        back();
    }
}
