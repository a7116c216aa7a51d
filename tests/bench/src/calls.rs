//! The migrate call with a broker around it and without: the same guest, flags and code, in the order with, without,
//! without, with, so that both sides have both directions equally often.
//!
//! *With*: a broker at both hosts, its agent talking; the guest asks, and the source's broker makes the call, asks
//! for its progress and tells the guest. *Without*: no broker runs anywhere, nothing is attached to the port, and a
//! small program in the source host makes the same call with the broker's own code. Both durations are taken by the
//! same line of that code, around libvirt's call.

use crate::pool::Pool;
use crate::report::{Finding, Judged};
use crate::stats::{percentile, ratio};
use crate::{amount, part};
use coms_broker::records::MoveState;
use coms_lab::{Guest, GuestConfig};
use coms_story::{HOSTS, Result, coms, wait};
use serde_json::{Value, json};
use std::time::Duration;

/// What libvirt and QEMU do after a move is over by then.
const REST: Duration = Duration::from_millis(1500);
const ORDER: [bool; 4] = [true, false, false, true];

pub fn run() -> Result<(Value, Vec<Finding>)> {
    let pairs = amount("COMS_BENCH_PAIRS", 40)?.next_multiple_of(2);
    let mut pool = Pool::up(&[0, 1])?;
    let guest = pool.boot(0, GuestConfig { memory_mib: 512, ..GuestConfig::default() }, "")?;
    // Of each side one that does not count: everything was used once.
    let mut here = 0;
    let mut samples = Vec::new();
    let mut brokers = true;
    for (number, with) in [true, false].into_iter().chain(ORDER.repeat(pairs / 2)).enumerate() {
        let there = 1 - here;
        if with != brokers {
            match with {
                true => pool.start_brokers()?,
                false => pool.stop_brokers()?,
            }
            brokers = with;
        }
        if with {
            pool.wait_for_agent(&guest, here)?;
        }
        std::thread::sleep(REST);
        let call_us = if with { with_broker(&pool, &guest, here)? } else { without(&pool, &guest, here)? };
        let at = guest.current_host()?.name().to_owned();
        if at != HOSTS[there] {
            return Err(format!("move {number} ended at {at}").into());
        }
        if number >= 2 {
            samples.push(json!({ "with_broker": with, "from": here, "call_us": call_us }));
        }
        here = there;
    }
    pool.finish()?;

    let side = |with: bool| -> Vec<f64> {
        let ours = samples.iter().filter(|s| s["with_broker"] == with);
        ours.filter_map(|s| Some(s["call_us"].as_f64()? / 1000.0)).collect()
    };
    let (with, without) = (side(true), side(false));
    let found = ratio(&with, &without, 0.5);
    let what = "duration of the migrate call with the broker around it / without (512 MiB guest)";
    let finding = Finding::new("calls", what, "ratio", "p50", found)
        .of(with.len(), found.value)
        .goal(1.05, Judged::UpperEnd)
        .detail("with_p50_ms", percentile(&with, 0.5))
        .detail("without_p50_ms", percentile(&without, 0.5))
        .detail("pairs", with.len());
    Ok((json!(samples), vec![finding]))
}

fn with_broker(pool: &Pool, guest: &Guest, from: usize) -> Result<u64> {
    let before = calls_in(&pool.log(from)).len();
    coms(guest, &["migrate"])?;
    // Nobody asks anybody while it runs.
    std::thread::sleep(Duration::from_millis(1500));
    wait("the migrate call to return", 60, || {
        let records = pool.records_of(from)?;
        // The record is of the event that the domain left; the call returns a little later.
        let returned = calls_in(&pool.log(from)).len() > before;
        Ok(returned && records.last().is_some_and(|r| r.state == MoveState::Left))
    })?;
    match calls_in(&pool.log(from)).get(before..) {
        Some([call_us]) => Ok(*call_us),
        other => Err(format!("the broker's log has {other:?} for one migrate call").into()),
    }
}

fn without(pool: &Pool, guest: &Guest, from: usize) -> Result<u64> {
    let (source, destination) = (pool.host(from), pool.host(1 - from));
    let program = part::program()?;
    let (uri, to) = (source.libvirt_uri_inside(), destination.libvirt_uri_remote());
    let output =
        source.run(&[&program, "part-move", "--uuid", guest.uuid(), "--to", &to, "--libvirt", uri])?;
    let said = String::from_utf8_lossy(&output.stderr);
    match calls_in(&said).as_slice() {
        [call_us] if output.status.success() => Ok(*call_us),
        _ => Err(format!("the call without a broker: {}: {said}", output.status).into()),
    }
}

/// Durations of the migrate calls that a log tells of.
fn calls_in(log: &str) -> Vec<u64> {
    let calls = log.lines().filter(|l| l.contains("migrate call returned"));
    calls.filter_map(|l| l.split_once("call_us=")?.1.split_whitespace().next()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_call_is_found_in_the_log_as_it_is_written() {
        let log = "2026 DEBUG libvirt: other\n2026 DEBUG migrate call returned guest=0 call_us=1923456\n";
        assert_eq!(super::calls_in(log), [1_923_456]);
    }
}
