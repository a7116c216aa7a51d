//! A message and its answer through both daemons, against qemu-guest-agent's guest-ping on its raw port, in the same
//! guest, in turns, at the same pace.
//!
//! `coms ping` is timed by the agent (from its event loop through the port to the broker's and back), guest-ping by a
//! small client in the host (through the port to qemu-guest-agent and back): each crosses the port once each way.
//!
//! Beside them, without a goal, what the port itself takes: the same client, and in the guest a program that writes
//! back what it reads. No agent can be quicker than that.

use crate::pool::Pool;
use crate::report::{Finding, Judged};
use crate::stats::{percentile, ratio};
use crate::{amount, part};
use coms_lab::{Guest, GuestConfig, System};
use coms_story::{Result, coms_within};
use serde_json::{Value, json};
use std::time::Duration;

const BLOCKS: usize = 20;
/// From one message to the next: below what the broker takes from one guest.
const INTERVAL_MS: u64 = 5;
/// Not the name that libvirt takes for itself: nobody else talks on it.
const QGA_PORT: &str = "org.qemu.guest_agent.raw";
const BARE_PORT: &str = "org.coms.bare.0";
const SIDES: [Side; 3] = [Side::Coms, Side::GuestPing, Side::BarePort];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Side {
    Coms,
    GuestPing,
    BarePort,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Side::Coms => "coms",
            Side::GuestPing => "guest-ping",
            Side::BarePort => "bare port",
        }
    }
}

pub fn run() -> Result<(Value, Vec<Finding>)> {
    let each = amount("COMS_BENCH_MESSAGES", 10_000)?.div_ceil(BLOCKS);
    let pool = Pool::up(&[0])?;
    let config = GuestConfig {
        memory_mib: 512,
        system: System::Debian,
        more_ports: vec![QGA_PORT.into(), BARE_PORT.into()],
        ..GuestConfig::default()
    };
    let guest = pool.boot(0, config, "")?;
    let qga = format!("/usr/sbin/qemu-ga --method=virtio-serial --path=/dev/virtio-ports/{QGA_PORT}");
    guest.sh(&format!("systemd-run --quiet --unit=qga-raw {qga}"))?;
    guest
        .sh(&format!("systemd-run --quiet --unit=bare-port /usr/bin/coms-lab-guest port-echo {BARE_PORT}"))?;
    let (qga, bare) = (socket_of(&pool, &guest, QGA_PORT)?, socket_of(&pool, &guest, BARE_PORT)?);
    let take = |side: Side, count: usize| match side {
        Side::Coms => ours(&guest, count),
        Side::GuestPing => theirs(&pool, &qga, count, &[]),
        Side::BarePort => theirs(&pool, &bare, count, &["--echo"]),
    };
    // Everything was used once, and the guest has come to rest.
    std::thread::sleep(Duration::from_secs(10));
    for side in SIDES {
        take(side, 50)?;
    }

    let mut blocks = Vec::new();
    for block in 0..BLOCKS {
        let mut order = SIDES;
        order.rotate_left(block % SIDES.len());
        for side in order {
            blocks.push(json!({ "side": side.name(), "rtt_us": take(side, each)? }));
        }
    }
    pool.finish()?;

    let side = |side: Side| -> Vec<f64> {
        let of = blocks.iter().filter(|b| b["side"] == side.name());
        of.flat_map(|b| b["rtt_us"].as_array().into_iter().flatten()).filter_map(Value::as_f64).collect()
    };
    let (ours, theirs, bare) = (side(Side::Coms), side(Side::GuestPing), side(Side::BarePort));
    let mut findings = Vec::new();
    for (name, statistic, p, at_most) in [("message-p50", "p50", 0.5, 0.3), ("message-p99", "p99", 0.99, 1.0)]
    {
        let found = ratio(&ours, &theirs, p);
        let what = "round trip of a message through agent and broker / guest-ping on its raw port";
        findings.push(
            Finding::new(name, what, "ratio", statistic, found)
                .of(ours.len(), percentile(&ours, 0.5) / percentile(&theirs, 0.5))
                .goal(at_most, Judged::Value)
                .detail("coms_us", percentile(&ours, p))
                .detail("guest_ping_us", percentile(&theirs, p))
                .detail("bare_port_us", percentile(&bare, p))
                .detail("guest_pings", theirs.len()),
        );
    }
    for (name, statistic, p) in [("bare-port-p50", "p50", 0.5), ("bare-port-p99", "p99", 0.99)] {
        let found = ratio(&bare, &theirs, p);
        let what = "round trip through the bare port / guest-ping: what no agent can go below";
        findings.push(
            Finding::new(name, what, "ratio", statistic, found)
                .of(bare.len(), percentile(&bare, p) / percentile(&theirs, p)),
        );
    }
    Ok((json!(blocks), findings))
}

fn ours(guest: &Guest, count: usize) -> Result<Vec<u64>> {
    let (count_text, interval) = (count.to_string(), INTERVAL_MS.to_string());
    let args = ["ping", "--times", "--count", &count_text, "--interval-ms", &interval];
    let (status, report) = coms_within(guest, &args, Duration::from_secs(120))?;
    let times: Vec<u64> = serde_json::from_value(report["rtt_us"].clone()).unwrap_or_default();
    if status != 0 || times.len() != count {
        return Err(
            format!("coms {args:?}: exit {status}, {} of {count} answered: {report}", times.len()).into()
        );
    }
    Ok(times)
}

fn theirs(pool: &Pool, socket: &str, count: usize, more: &[&str]) -> Result<Vec<u64>> {
    let (program, count, interval) = (part::program()?, count.to_string(), INTERVAL_MS.to_string());
    let argv = [&program, "part-qga", "--socket", socket, "--count", &count, "--interval-ms", &interval];
    let argv: Vec<&str> = argv.into_iter().chain(more.iter().copied()).collect();
    let output = pool.host(0).run(&argv)?;
    if !output.status.success() {
        return Err(format!("guest-ping: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Where the host's end of the port is, from the live XML.
fn socket_of(pool: &Pool, guest: &Guest, port: &str) -> Result<String> {
    let xml = pool.host(0).virsh(&["dumpxml", guest.name()])?;
    let channels = xml.split("<channel").find(|c| c.contains(&format!("name='{port}'")));
    let path = channels.and_then(|c| c.split_once("path='")?.1.split_once('\''));
    path.map(|(path, _)| path.to_owned()).ok_or_else(|| format!("no socket of {port} in {xml}").into())
}
