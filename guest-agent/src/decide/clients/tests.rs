//! Counting and places by themselves; then, in `asking`, the rule and the whole mind.

use super::super::tests::{at, config as whole};
use super::count::{Counter, Flow, MAX_CLIENTS, MAX_FLOWS};
use super::place::Located;
use super::*;
use crate::config::Config;
use coms_protocol::types::{Coordinates, Country, List};
use std::hash::RandomState;
use std::net::Ipv4Addr;

mod asking;

const KEYS: &str = "[clients]\ndatabase = \"/x.mmdb\"\nregions = { west = [\"FR\"], north = [\"SE\"] }\n";

fn config(more: &str) -> Config {
    whole(&format!("{KEYS}{more}"))
}

fn clients(more: &str) -> Clients {
    config(more).clients.unwrap()
}

fn counter(more: &str) -> Counter {
    let config = clients(more);
    let regions = Regions::new(&config.regions, &[]);
    Counter::new(&config, regions, RandomState::new())
}

fn flow(peer: impl Into<IpAddr>, cookie: u64, bytes: u64) -> Flow {
    let own = IpAddr::from([193, 0, 0, 1]);
    Flow { peer: peer.into(), own, cookie, acked: bytes + 2, received: 0, rtt_us: Some(40_000) }
}

/// 81.x is in France, 85.x in Sweden, 91.x in a country of no region, anything else nowhere.
fn locate(address: IpAddr) -> Located {
    let letters = match address {
        IpAddr::V4(v4) => match v4.octets()[0] {
            81 => "FR",
            85 => "SE",
            91 => "BR",
            _ => "",
        },
        IpAddr::V6(_) => "FR",
    };
    Located { country: Country::new(letters), at: None }
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Clients and traffic of a region.
fn of(look: &Look, region: &str) -> (u64, u64) {
    look.regions.iter().find(|r| r.name == region).map(|r| (r.clients, r.traffic)).unwrap()
}

fn one_look(counter: &mut Counter, at: Duration, flows: &[Flow]) -> Look {
    counter.begin(at);
    flows.iter().for_each(|f| counter.see(f, locate));
    counter.end()
}

#[test]
fn only_new_bytes_count_and_a_long_past_does_not() {
    let mut counter = counter("window_s = 60");
    let old = Ipv4Addr::new(81, 0, 0, 1);
    let look = one_look(&mut counter, s(0), &[flow(old, 1, 1 << 40)]);
    assert_eq!(of(&look, "west"), (1, 0), "it is a client; when its bytes came is not known");
    let new = Ipv4Addr::new(85, 0, 0, 1);
    let look = one_look(&mut counter, s(5), &[flow(old, 1, (1 << 40) + 500), flow(new, 2, 998)]);
    assert_eq!((of(&look, "west"), of(&look, "north")), ((1, 500), (1, 1000)));
    assert_eq!((look.flows, look.one_of), (2, 1));
    let rtt = look.rtt_us.unwrap();
    assert!((39_000..41_000).contains(&rtt), "{rtt}");
    // Gone, and forgotten when the window has passed.
    assert_eq!(of(&one_look(&mut counter, s(30), &[]), "north"), (1, 1000));
    let look = one_look(&mut counter, s(70), &[flow(old, 1, (1 << 40) + 600)]);
    assert_eq!((of(&look, "west"), of(&look, "north")), ((1, 100), (0, 0)));
}

#[test]
fn who_did_not_answer_or_is_nobody_out_there_is_no_client() {
    let mut counter = counter("leave_out = [\"81.9.0.0/16\", \"2a01::/32\"]");
    let mut silent = flow(Ipv4Addr::new(81, 0, 0, 1), 1, 0);
    // Our SYN is all that was acknowledged, whatever came in.
    (silent.acked, silent.received) = (1, 5000);
    let mut flows = vec![silent];
    let out = [
        "10.1.2.3",
        "172.20.0.1",
        "192.168.1.1",
        "127.0.0.1",
        "169.254.9.9",
        "100.64.0.1",
        "224.0.0.1",
        "0.0.0.0",
        "::1",
        "fe80::1",
        "fd00::1",
        "::ffff:10.1.2.3",
        "81.9.1.1",
        "::ffff:81.9.1.1",
        "2a01::5",
        "193.0.0.1",
    ];
    flows.extend((2..).zip(out).map(|(cookie, a)| flow(a.parse::<IpAddr>().unwrap(), cookie, 10)));
    let look = one_look(&mut counter, s(0), &flows);
    assert_eq!((look.flows, look.left_out), (0, out.len() as u64));
    assert_eq!(of(&look, "west").0, 0);
    // The same one, in each of its forms; and a network of IPv6 is one client.
    let same = ["81.0.0.7", "::ffff:81.0.0.7", "2001:db8::1", "2001:db8:0:77:2:0:0:9"];
    let flows: Vec<_> = (50..).zip(same).map(|(c, a)| flow(a.parse::<IpAddr>().unwrap(), c, 10)).collect();
    let look = one_look(&mut counter, s(1), &flows);
    assert_eq!((look.flows, of(&look, "west").0), (4, 2));
}

#[test]
fn a_million_clients_cost_no_more_than_some_thousands_and_their_shares_stay_true() {
    let mut counter = counter("");
    one_look(&mut counter, s(0), &[]);
    let mut look = Look::default();
    for turn in 0..4u32 {
        counter.begin(s(5 + u64::from(turn) * 5));
        for n in 0..250_000u32 {
            // 70 % are in Sweden, and each of those carries half as much.
            let number = turn * 250_000 + n;
            let [_, b, c, d] = number.to_be_bytes();
            let (first, bytes) = if number % 10 < 7 { (85, 998) } else { (81, 1998) };
            counter.see(&flow(Ipv4Addr::new(first, b, c, d), u64::from(number) + 1, bytes), locate);
            let [flows, clients, _] = counter.held();
            assert!(flows <= MAX_FLOWS && clients <= MAX_CLIENTS, "{flows} {clients}");
        }
        look = counter.end();
    }
    let all = placed(&look);
    let near = |value: u64, wanted: f64, off: f64| {
        let ratio = value as f64 / wanted;
        assert!((1.0 - off..1.0 + off).contains(&ratio), "{value} for {wanted}: {look:?}");
    };
    near(all.clients, 1e6, 0.06);
    // 16,384 of them are told apart at most: their share is off by a hundredth, rarely more.
    let north = shares_of(&look, "north");
    near(north.clients, 700.0, 0.04);
    near(north.traffic, 1000.0 * 0.7 / (0.7 + 0.6), 0.05);
    assert!(look.one_of >= 32, "{}", look.one_of);
    // A crowd that has gone: everybody is counted again.
    for turn in 0..40 {
        look = one_look(&mut counter, s(2000 + 5 * turn), &[flow(Ipv4Addr::new(81, 0, 0, 1), 7, 100 * turn)]);
    }
    assert_eq!((look.one_of, of(&look, "west").0), (1, 1));
}

#[test]
fn one_client_with_very_many_connections_does_not_crowd_the_others_out() {
    let mut counter = counter("window_s = 60");
    one_look(&mut counter, s(0), &[]);
    for turn in 1..12u64 {
        counter.begin(s(5 * turn));
        for cookie in 0..40_000 {
            counter.see(&flow(Ipv4Addr::new(81, 0, 0, 1), 1000 + cookie, 998 * turn), locate);
        }
        for n in 0..100u8 {
            counter.see(&flow(Ipv4Addr::new(85, 0, 0, n), n.into(), 998 * turn), locate);
        }
        let look = counter.end();
        assert_eq!((look.one_of, of(&look, "west").0, of(&look, "north").0), (1, 1, 100), "{turn}");
        assert!(counter.held()[0] <= 1124, "{:?}", counter.held());
    }
    // Idle ones are no clients of now, and still not more than those.
    let idle: Vec<_> = (0..40_000).map(|c| flow(Ipv4Addr::new(81, 0, 0, 1), 1000 + c, 998 * 11)).collect();
    for turn in 60..90 {
        let look = one_look(&mut counter, s(5 * turn), &idle[..1024]);
        assert!(counter.held()[0] <= 1124);
        if turn > 75 {
            assert_eq!(of(&look, "west").0, 0, "{turn}");
        }
    }
    let look = one_look(&mut counter, s(500), &idle);
    assert_eq!((look.one_of, counter.held()[0]), (1, 1024));
}

#[test]
fn what_plugins_name_is_weighed_as_they_say() {
    let config = clients("");
    let regions = Regions::new(&config.regions, &[]);
    let named: Vec<(IpAddr, f64)> =
        [("81.1.0.0", 3.0), ("85.1.0.0", 1.0), ("10.0.0.0", 99.0), ("2001:db8::", 4.0), ("9.9.9.9", 1.0)]
            .map(|(a, w)| (a.parse().unwrap(), w))
            .to_vec();
    let look = Counter::listed(&config, regions, RandomState::new(), &named, locate);
    assert!(look.by_plugin && look.rtt_us.is_none());
    assert_eq!((look.left_out, look.unplaced.clients), (1, 1));
    assert_eq!(shares_of(&look, "west"), rule::Shares { traffic: 874, clients: 666 });
}

#[test]
fn own_lists_go_before_the_operators_and_coordinates_come_last() {
    let entry = |name, at: Option<(i16, i16)>, countries: &[&str]| RegionEntry {
        name: Text::clipped(name),
        at: at.map(|(latitude_cdeg, longitude_cdeg)| Coordinates { latitude_cdeg, longitude_cdeg }),
        countries: List::clipped(countries.iter().filter_map(|c| Country::new(c))),
    };
    let operator = [
        entry("eu-west", Some((4880, 230)), &["FR", "BE"]),
        entry("asia", Some((3570, 13970)), &["JP"]),
        entry("us", Some((3900, -7700)), &[]),
    ];
    let own = vec![("eu-west".to_owned(), vec![Country::new("JP").unwrap()])];
    let regions = Regions::new(&own, &operator);
    assert_eq!(regions.len(), 3, "one region for one name");
    let at = |letters: &str, at: Option<(f64, f64)>| {
        let place = Located { country: Country::new(letters), at };
        regions.of(&place).map(|i| regions.name(i).to_owned())
    };
    assert_eq!(at("JP", None).as_deref(), Some("eu-west"), "as the customer says");
    assert_eq!(at("BE", Some((39.0, -77.0))).as_deref(), Some("eu-west"), "a list goes before distances");
    assert_eq!(at("BR", None), None);
    assert_eq!(at("BR", Some((-23.5, -46.6))).as_deref(), Some("us"));
    // Across the date line: from the Aleutians it is not far to Japan.
    assert_eq!(at("US", Some((52.0, -179.0))).as_deref(), Some("asia"));
    assert_eq!(
        Regions::new(&[], &[]).of(&Located { country: Country::new("FR"), at: Some((1.0, 1.0)) }),
        None
    );
}
