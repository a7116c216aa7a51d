//! How soon a request becomes a migrate call, and how soon the guest knows that it has arrived.
//!
//! Three hosts; the libvirtd of the third hangs from just before the first request on, so the broker does not know it
//! yet. The guest goes to and fro between the other two: idle first, then with its CPU busy.

use crate::amount;
use crate::pool::Pool;
use crate::report::{Finding, Judged};
use crate::stats::{estimate, percentile};
use coms_broker::records::{MoveRecord, MoveState};
use coms_lab::{Guest, GuestConfig};
use coms_protocol::types::MigrationId;
use coms_story::{HOSTS, Result, coms, events_named, wait};
use serde_json::{Value, json};
use std::time::Duration;

const REST: Duration = Duration::from_millis(300);

pub fn run() -> Result<(Value, Vec<Finding>)> {
    let moves = amount("COMS_BENCH_MOVES", 200)?;
    let busy_moves = amount("COMS_BENCH_BUSY_MOVES", 60)?;
    let pool = Pool::up(&[0, 1, 1])?;
    let guest = pool.boot(0, GuestConfig::default(), "")?;
    // One each way that does not count.
    let mut here = to_and_fro(&pool, &guest, 0, 2, false)?.1;

    let hung = pool.host(2).libvirtd_pid().ok_or("the third host has no libvirtd")?;
    signal(hung, "STOP")?;
    let measured: Result<Vec<Value>> = (|| {
        let (mut samples, now) = to_and_fro(&pool, &guest, here, moves, false)?;
        here = now;
        guest.start_hog(1)?;
        let (busy, _) = to_and_fro(&pool, &guest, here, busy_moves, true)?;
        guest.stop_hog()?;
        samples.extend(busy);
        Ok(samples)
    })();
    signal(hung, "CONT")?;
    let mut samples = measured?;
    // What the guest was told, beside what the broker saw.
    for told in events_named(&guest, "completed")? {
        if let Some(sample) = samples.iter_mut().find(|s| s["migration"] == told["migration"]) {
            sample["told_after_ms"] = told["told_after_ms"].clone();
        }
    }
    pool.finish()?;

    let of = |busy: bool, key: &str| -> Vec<f64> {
        let side = samples.iter().filter(|s| s["busy"] == busy);
        side.filter_map(|s| s[key].as_f64()).collect()
    };
    let calls = of(false, "request_to_call_ms");
    let what = "request received -> migrate call, one of three hosts' libvirtd stopped";
    let mut findings = vec![
        Finding::new("request-to-call", what, "ms", "p99", estimate(&calls, 0.99))
            .of(calls.len(), percentile(&calls, 0.5))
            .goal(50.0, Judged::Value)
            .detail("p50_ms", percentile(&calls, 0.5))
            .detail("max_ms", percentile(&calls, 1.0)),
    ];
    for (busy, name, load) in [(false, "told-idle", "idle"), (true, "told-busy", "CPU-bound")] {
        let told = of(busy, "resumed_to_told_ms");
        let what = format!("resumed at the destination -> completed acted on in the guest, {load} guest");
        findings.push(
            Finding::new(name, &what, "ms", "p95", estimate(&told, 0.95))
                .of(told.len(), percentile(&told, 0.5))
                .goal(500.0, Judged::Value)
                .detail("p50_ms", percentile(&told, 0.5))
                .detail("max_ms", percentile(&told, 1.0))
                .detail("sent_after_p50_ms", percentile(&of(busy, "told_after_ms"), 0.5)),
        );
    }
    Ok((json!(samples), findings))
}

/// Moves at the guest's wish; the samples, and where it is then.
fn to_and_fro(
    pool: &Pool,
    guest: &Guest,
    mut here: usize,
    moves: usize,
    busy: bool,
) -> Result<(Vec<Value>, usize)> {
    let mut samples = Vec::new();
    for _ in 0..moves {
        let there = 1 - here;
        coms(guest, &["migrate"])?;
        let begun = newest(pool, here)?;
        let migration = begun.migration;
        let mut arrived = None;
        wait("the guest to be told", 60, || {
            std::thread::sleep(Duration::from_millis(50));
            arrived = record(pool, there, migration)?.filter(|r| r.state == MoveState::Completed);
            Ok(arrived.is_some())
        })
        .map_err(|e| format!("{e}\n{begun:?}\n{}\n{}", pool.log(here), pool.log(there)))?;
        let mut left = None;
        wait("the source to be rid of it", 60, || {
            left = record(pool, here, migration)?.filter(|r| r.state == MoveState::Left);
            Ok(left.is_some())
        })?;
        let (Some(left), Some(arrived)) = (left, arrived) else { return Err("no record".into()) };
        samples.push(json!({
            "migration": migration,
            "busy": busy,
            "from": HOSTS[here],
            "request_to_call_ms": left.request_to_call_ms,
            "resumed_to_told_ms": arrived.resumed_to_told_ms,
        }));
        here = there;
        std::thread::sleep(REST);
    }
    Ok((samples, here))
}

fn newest(pool: &Pool, i: usize) -> Result<MoveRecord> {
    let mut found = None;
    wait("the request to become a move", 10, || {
        found = pool.records_of(i)?.pop().filter(|r| !r.state.is_final());
        Ok(found.is_some())
    })?;
    found.ok_or_else(|| "no record of the move".into())
}

fn record(pool: &Pool, i: usize, migration: MigrationId) -> Result<Option<MoveRecord>> {
    Ok(pool.records_of(i)?.into_iter().find(|r| r.migration == migration))
}

fn signal(pid: u32, name: &str) -> Result<()> {
    let status = std::process::Command::new("kill").args([format!("-{name}"), pid.to_string()]).status()?;
    if status.success() { Ok(()) } else { Err(format!("kill -{name} {pid}: {status}").into()) }
}
