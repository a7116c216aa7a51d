//! Who counts as a client, in the real agent, by real packets: in a network of the test's own, without an uplink, so that
//! addresses may be those of real countries.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;
#[path = "../src/io/geo/tests/made.rs"]
mod made;

use common::Machine;
use made::{Value, database};
use serde_json::Value as Json;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

const HERE: Ipv4Addr = Ipv4Addr::new(193, 0, 6, 139);
const HERE6: &str = "2001:67c:2e8::1";
const PORT: u16 = 8080;
const UDP_PORT: u16 = 5353;
/// A million packets take their time on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const FORGED: u32 = 1_000_000;

/// Whether this is the network of the test's own: if not, the test is run again in one, and its result is this one's.
fn is_alone(test: &str) -> bool {
    const ALONE: &str = "COMS_TEST_IS_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    // Who is not root becomes root of it, as far as the kernel lets them.
    let mut again = Command::new("unshare");
    again.args(["--map-root-user", "--net"]).arg(std::env::current_exe().unwrap());
    let out = again.args(["--exact", test, "--nocapture"]).env(ALONE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    println!("{said}");
    assert!(out.status.success() && said.contains("1 passed"), "in a network of its own (unshare --net)");
    false
}

fn ip(line: &str) {
    let out = Command::new("ip").args(line.split(' ')).output().unwrap();
    assert!(out.status.success(), "ip {line}: {}", String::from_utf8_lossy(&out.stderr));
}

fn network() {
    ip("link set lo up");
    ip(&format!("addr add {HERE}/32 dev lo"));
    ip(&format!("addr add {HERE6}/128 dev lo nodad"));
    // Each address of these is this machine's.
    for (prefix, _) in [("81.2.69.1/24", "FR"), ("82.2.0.1/24", "SE"), ("83.2.0.1/24", "DK")] {
        ip(&format!("addr add {prefix} dev lo"));
    }
    for n in 1..=5 {
        ip(&format!("addr add 2a01:e0a:{n}::1/64 dev lo nodad"));
    }
    // Here is nobody: what is sent there is lost.
    ip("link add away type veth peer name hole");
    ip("link set away up arp off");
    ip("link set hole up");
    ip("route add 84.0.0.0/16 dev away");
}

fn machine(more: &str) -> Machine {
    let machine = Machine::new(&format!(
        "{more}regions = {{ fr = [\"FR\"], se = [\"SE\"], dk = [\"DK\"], de = [\"DE\"] }}\n"
    ));
    let place = |letters| Value::Map(vec![("country_code", Value::Text(letters))]);
    let networks = [
        ("193.0.6.0", 24, place("NL")),
        ("81.2.69.0", 24, place("FR")),
        ("82.2.0.0", 24, place("SE")),
        ("83.2.0.0", 24, place("DK")),
        ("84.0.0.0", 16, place("DE")),
        ("2a01:e0a::", 32, place("FR")),
    ];
    std::fs::write(machine.path("places.mmdb"), database(6, &networks)).unwrap();
    let config = std::fs::read_to_string(machine.path("agent.toml")).unwrap();
    let path = machine.path("places.mmdb").display().to_string();
    std::fs::write(machine.path("agent.toml"), config.replace("PLACES", &path)).unwrap();
    machine
}

const CLIENTS: &str =
    "[clients]\ndatabase = \"PLACES\"\nsample_s = 1\nwindow_s = 3600\nports = [8080, 5353]\n";

/// Answers each request of 100 bytes with 5000, and hangs up.
fn serve() {
    let listener = TcpListener::bind((IpAddr::from([0u16; 8]), PORT)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // Who only knocks is not waited for.
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            if stream.read_exact(&mut [0; 100]).is_ok() {
                let _ = stream.write_all(&[1; 5000]);
            }
        }
    });
    let socket = UdpSocket::bind((HERE, UDP_PORT)).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 2000];
        loop {
            let (n, from) = socket.recv_from(&mut buffer).unwrap();
            // Who says less is not answered.
            if n >= 50 {
                socket.send_to(&[2; 1000], from).unwrap();
            }
        }
    });
}

fn visit(from: IpAddr) {
    let to: IpAddr = if from.is_ipv4() { HERE.into() } else { HERE6.parse().unwrap() };
    let to = SocketAddr::new(to, PORT);
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.bind(&SockAddr::from(SocketAddr::new(from, 0))).unwrap();
    socket.connect(&SockAddr::from(to)).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.write_all(&[0; 100]).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer.len(), 5000);
}

fn visits() {
    (1..=30).for_each(|n| visit(IpAddr::from([81, 2, 69, n])));
    (1..=5).for_each(|n| visit(IpAddr::from([0x2a01, 0xe0a, n, 0, 0, 0, 0, 1])));
}

/// Clients and bytes of a region.
fn share(all: &Json, region: &str) -> (u64, u64) {
    let found = all["regions"].as_array().into_iter().flatten().find(|r| r["region"] == region);
    let number = |key: &str| found.and_then(|r| r[key].as_u64()).unwrap_or(0);
    (number("clients"), number("traffic_bytes"))
}

fn until(machine: &Machine, what: &str, mut done: impl FnMut(&Json) -> bool) -> Json {
    let begun = Instant::now();
    loop {
        let all = machine.json(&["clients"]);
        if done(&all) {
            return all;
        }
        assert!(begun.elapsed() < PATIENCE, "never {what}: {all}\n{}", machine.stderr());
        thread::sleep(Duration::from_millis(100));
    }
}

/// After two more looks all that has been is counted.
fn looked(machine: &Machine) -> Json {
    let begun = Instant::now();
    thread::sleep(Duration::from_millis(2500));
    until(machine, "looked at", |all| all["seen_s"].as_u64().is_some_and(|s| s < begun.elapsed().as_secs()))
}

fn sum(bytes: &[u8], mut sum: u32) -> u32 {
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    sum
}

/// A segment from an address that is nobody's, with whatever number of ours is guessed.
fn forged(n: u32, flags: u8) -> [u8; 40] {
    let mut packet = [0u8; 40];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&40u16.to_be_bytes());
    packet[8] = 64;
    packet[9] = 6;
    packet[12..16].copy_from_slice(&[84, 0, (n >> 8) as u8, n as u8]);
    packet[16..20].copy_from_slice(&HERE.octets());
    packet[20..22].copy_from_slice(&(1024 + (n >> 16) as u16).to_be_bytes());
    packet[22..24].copy_from_slice(&PORT.to_be_bytes());
    packet[24..28].copy_from_slice(&n.wrapping_mul(2_654_435_761).to_be_bytes());
    packet[28..32].copy_from_slice(&n.wrapping_mul(40_503).to_be_bytes());
    packet[32] = 5 << 4;
    packet[33] = flags;
    packet[34..36].copy_from_slice(&1024u16.to_be_bytes());
    let mut check = sum(&packet[12..], 6 + 20);
    while check > 0xffff {
        check = (check & 0xffff) + (check >> 16);
    }
    packet[36..38].copy_from_slice(&(!(check as u16)).to_be_bytes());
    packet
}

/// What came in as TCP segments, by the kernel's count.
fn segments() -> u64 {
    let text = std::fs::read_to_string("/proc/net/snmp").unwrap();
    let line = text.lines().filter(|l| l.starts_with("Tcp: ")).nth(1).unwrap();
    line.split(' ').nth(10).unwrap().parse().unwrap()
}

fn resident_kib(machine: &Machine) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", machine.pid())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn short_connections_and_udp_count_where_they_are_captured_and_a_million_forged_syns_do_not() {
    const ME: &str =
        "short_connections_and_udp_count_where_they_are_captured_and_a_million_forged_syns_do_not";
    if !is_alone(ME) {
        return;
    }
    network();
    serve();

    // The kernel's list, looked at each second, misses nearly all of them.
    let mut machine = self::machine(CLIENTS);
    machine.start();
    until(&machine, "the first look", |all| all["seen_s"].is_u64());
    visits();
    let all = looked(&machine);
    assert!(share(&all, "fr").0 < 20, "{all}");
    machine.kill();

    let mut machine = self::machine(&format!("{CLIENTS}capture = true\ncapture_udp = true\n"));
    machine.start();
    until(&machine, "the first look", |all| all["seen_s"].is_u64());
    let mut rounds = 0;
    let all = until(&machine, "all clients", |all| {
        let (clients, _) = share(all, "fr");
        // One that began right before a look is on neither list; it comes again.
        if clients < 35 && all["seen_s"] == 0 {
            visits();
            rounds += 1;
        }
        clients >= 35
    });
    let (clients, bytes) = share(&looked(&machine), "fr");
    assert_eq!(clients, 35, "one for each address, or network of IPv6: {all}");
    assert!((5100 * 35..5102 * 35 * rounds + 35).contains(&bytes), "{bytes} bytes in {rounds} rounds: {all}");
    assert_eq!(all["capture_error"], Json::Null, "{all}");

    // Twenty who answer the answer; and twenty who only talk, or never are answered.
    let to = SocketAddr::from((HERE, UDP_PORT));
    for n in 1..=20 {
        let socket = UdpSocket::bind((Ipv4Addr::new(82, 2, 0, n), 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        for _ in 0..2 {
            socket.send_to(&[3; 60], to).unwrap();
            socket.recv(&mut [0; 2000]).unwrap();
        }
        let silent = UdpSocket::bind((Ipv4Addr::new(83, 2, 0, n), 0)).unwrap();
        (0..100).for_each(|_| assert_eq!(silent.send_to(&[3; 10], to).unwrap(), 10));
    }
    let all = looked(&machine);
    assert_eq!(share(&all, "se"), (20, 20 * 1060), "{all}");
    assert_eq!(share(&all, "dk"), (0, 0), "{all}");

    const SYN: u8 = 2;
    const FIN_ACK: u8 = 17;
    let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
    let to = SockAddr::from(to);
    let (before, begun) = (segments(), Instant::now());
    for n in 0..FORGED {
        raw.send_to(&forged(n, SYN), &to).unwrap();
        if n % 4 == 0 {
            raw.send_to(&forged(n, FIN_ACK), &to).unwrap();
        }
    }
    let took = begun.elapsed();
    let came = segments() - before;
    let all = looked(&machine);
    println!("{FORGED} forged SYNs and {} forged ends in {took:.1?}: {came} segments came in", FORGED / 4);
    assert!(came >= u64::from(FORGED), "{came} of them came in");
    assert_eq!(share(&all, "de"), (0, 0), "{all}");
    assert_eq!(share(&all, "fr").0, 35, "{all}");
    let kib = resident_kib(&machine);
    println!("the agent has {kib} KiB");
    assert!(kib < 48 * 1024, "{kib} KiB");

    // And who is there is still seen.
    let old = share(&all, "fr").1;
    until(&machine, "counted after the flood", |all| {
        visits();
        share(all, "fr").1 >= old + 5100 * 35
    });
    let state = std::fs::read_to_string(machine.path("lib/agent.json")).unwrap_or_default();
    let said =
        std::fs::read_to_string(machine.path("log/events.jsonl")).unwrap() + &machine.stderr() + &state;
    for address in ["81.2.69.", "82.2.0.", "2a01:"] {
        assert!(!said.contains(address), "{address} is in {said}");
    }
}
