//! Memory and disks leave a host by the migration network or not at all, and what the kernel does where nothing guards that.

use coms_lab::{Guest, GuestConfig, Passed};
use coms_story::disks::{COPIED, IMAGES, disk, pool};
use coms_story::isolated::{self, INTERFACE, PORTS, passed};
use coms_story::*;
use serde_json::Value;
use std::time::{Duration, Instant};

const NOTHING: Passed = Passed { packets: 0, bytes: 0 };
/// Less than any guest of the lab has to move.
const MUCH: u64 = 10 << 20;
/// A disk that is copied, all of it.
const IMAGE: &str = "/var/lib/libvirt/images/vm1.raw";
const IMAGE_BYTES: u64 = 8 << 20;

fn hosts() -> Result<Stage> {
    Stage::up(Settings { migration_network: true, places: COPIED.into(), ..Settings::default() })
}

fn up() -> Result<(Stage, Guest)> {
    let stage = hosts()?;
    let guest = stage.boot(0, GuestConfig::default(), "")?;
    Ok((stage, guest))
}

fn up_with_disk() -> Result<(Stage, Guest)> {
    let stage = hosts()?;
    for i in [0, 1] {
        pool(stage.host(i), "images", IMAGES)?;
    }
    stage.host(0).write_file(IMAGE, vec![7; IMAGE_BYTES as usize])?;
    let config = GuestConfig { devices_xml: disk("vda", "raw", IMAGE), ..GuestConfig::default() };
    let guest = stage.boot(0, config, "")?;
    Ok((stage, guest))
}

/// What was copied is at one host only.
fn image_is_gone(stage: &Stage, from: usize) -> Result<()> {
    stage.wait("the other image to be gone", 20, || Ok(!stage.host(from).path_of(IMAGE).exists()))
}

/// The guest asks, waits, and says what it heard.
fn asks(guest: &Guest) -> Result<(i32, Value)> {
    coms_within(guest, &["migrate", "--wait"], Duration::from_secs(90))
}

/// The newest of the moves that a host remembers.
fn newest(stage: &Stage, i: usize) -> Result<Value> {
    let all = stage.comsctl(i, &["migrations"])?;
    let moves = all.as_array().ok_or("no list of moves")?;
    moves.iter().max_by_key(|m| m["received_unix_ms"].as_u64()).cloned().ok_or_else(|| "no moves".into())
}

fn log(stage: &Stage, i: usize) -> String {
    std::fs::read_to_string(stage.host(i).log_dir().join("coms-broker.log")).unwrap_or_default()
}

/// The broker of the first host, which looks each second, says so once more than before.
fn seen(stage: &Stage, what: &str, change: impl FnOnce() -> Result<()>) -> Result<()> {
    let times = || log(stage, 0).matches(what).count();
    let before = times();
    change()?;
    stage.wait(what, 15, || Ok(times() > before))
}

/// What it says when all is well again.
const OVER: &str = "over: no VM is moved";
/// A connection's last words come a moment after the outcome.
const SILENT_AFTER: Duration = Duration::from_secs(3);

#[test]
fn memory_and_disks_go_by_the_migration_network_and_a_link_that_is_down_is_a_refusal() -> Result<()> {
    let (stage, guest) = up_with_disk()?;
    for (from, to) in [(0, 1), (1, 0)] {
        let captures = [stage.host(0).capture(PORTS)?, stage.host(1).capture(PORTS)?];
        let (status, told) = asks(&guest)?;
        assert_eq!(status, 0, "{told}\n{}", stage.logs());
        assert_eq!(guest.current_host()?.name(), HOSTS[to]);
        let memory = told["bytes"].as_u64().ok_or_else(|| format!("no figures of its memory: {told}"))?;
        assert!(memory > MUCH, "{told}");
        for (i, capture) in captures.iter().enumerate() {
            let (own, other) = passed(capture)?;
            println!(
                "accel=tcg {} -> {}: host {i}: {INTERFACE} {own:?}, else {other:?}",
                HOSTS[from], HOSTS[to]
            );
            // Either alone would be less.
            assert!(own.bytes > memory + IMAGE_BYTES && other == NOTHING, "{own:?} {other:?} of {memory}");
        }
        image_is_gone(&stage, from)?;
    }

    let here = stage.host(0);
    type Break = fn(&coms_lab::Host, bool) -> Result<()>;
    let breaks: [(&str, Break); 3] = [
        ("mig0 is down", |host, whole| isolated::set_up(host, whole)),
        ("mig0 has no carrier", |host, whole| Ok(host.set_migration_cable(whole)?)),
        ("without mig0 the kernel would send", |host, whole| isolated::guard(host, whole)),
    ];
    for (what, set) in breaks {
        std::thread::sleep(SILENT_AFTER);
        let capture = here.capture(PORTS)?;
        seen(&stage, what, || set(here, false))?;
        let (status, told) = asks(&guest)?;
        assert_eq!((status, &told["reason"]), (1, &Value::from("migration-link-down")), "{what}: {told}");
        assert_eq!(guest.current_host()?.name(), HOSTS[0]);
        let record = newest(&stage, 0)?.to_string();
        assert!(record.contains(what), "{what}: {record}");
        // The operator's order is no way around it.
        let (status, out, err) = stage.comsctl_raw(0, &["migrate", guest.name()])?;
        assert_ne!(status, 0, "{what}: {out}{err}");
        assert_eq!(passed(&capture)?, (NOTHING, NOTHING), "{what}");
        seen(&stage, OVER, || set(here, true))?;
    }
    let (status, told) = asks(&guest)?;
    assert_eq!(status, 0, "{told}\n{}", stage.logs());
    stage.finish(&[&guest])
}

#[test]
fn lost_in_mid_copy_the_move_ends_and_the_vm_runs_where_it_was() -> Result<()> {
    let (stage, guest) = up_with_disk()?;
    let here = stage.host(0);
    // Slow enough to be met in the middle.
    isolated::run(here, "tc qdisc replace dev mig0 root tbf rate 40mbit burst 256kb latency 100ms")?;
    type Break = fn(&coms_lab::Host) -> Result<()>;
    // While memory follows its disk, and while the disk is copied.
    let breaks: [(&str, u64, Break, Break); 2] = [
        (
            "carrier",
            IMAGE_BYTES + (3 << 20),
            |host| Ok(host.set_migration_cable(false)?),
            |host| Ok(host.set_migration_cable(true)?),
        ),
        ("link down", 3 << 20, |host| isolated::set_up(host, false), |host| isolated::set_up(host, true)),
    ];
    for (i, (what, sent, lose, mend)) in breaks.into_iter().enumerate() {
        let capture = here.capture(PORTS)?;
        coms(&guest, &["migrate"])?;
        stage.wait("it to be on its way", 20, || Ok(passed(&capture)?.0.bytes > sent))?;
        let lost = Instant::now();
        lose(here)?;
        stage.wait("the end of the move", 20, || {
            let asked = Instant::now();
            let heard = events_named(&guest, "failed")?.len() == i + 1;
            // Its QEMU would wait for TCP, and the guest with it.
            assert!(
                asked.elapsed() < Duration::from_secs(3),
                "{what}: it stood still for {:?}",
                asked.elapsed()
            );
            Ok(heard)
        })?;
        println!("accel=tcg, {what} lost in mid-copy: the guest knew after {:?}", lost.elapsed());
        let failed = events_named(&guest, "failed")?;
        assert_eq!(failed[i]["why"], "migration-link-lost", "{failed:?}");
        assert_eq!(guest.current_host()?.name(), HOSTS[0]);
        assert_eq!(here.virsh(&["domstate", guest.name()])?, "running");
        let (own, other) = passed(&capture)?;
        assert!(own.bytes > 3 << 20 && other == NOTHING, "{what}: {own:?} {other:?}");
        seen(&stage, OVER, || mend(here))?;
        stage.wait("nothing of it at the destination", 20, || {
            Ok(stage.host(1).virsh(&["list", "--all", "--name"])?.is_empty())
        })?;
        image_is_gone(&stage, 1)?;
    }

    // Control: the same loss without the guard, and what had been sent and not acknowledged goes the other way.
    let capture = here.capture(PORTS)?;
    coms(&guest, &["migrate"])?;
    stage.wait("it to be on its way", 20, || Ok(passed(&capture)?.0.bytes > 3 << 20))?;
    isolated::run(
        here,
        "printf 'route del unreachable 10.79.0.0/24 metric 4294967295\\nlink set mig0 down\\n' | ip -batch -",
    )?;
    stage.wait("the end of the move", 20, || Ok(events_named(&guest, "failed")?.len() == 3))?;
    let (_, other) = passed(&capture)?;
    println!("accel=tcg, lost in mid-copy without a guard: {other:?} by the other network");
    assert!(other.packets > 0, "the kernel took no other way: what was shown above shows nothing");
    stage.finish(&[&guest])
}

/// Control: it is not libvirt or QEMU that stays on the network.
#[test]
fn without_a_guard_and_a_broker_a_whole_vm_goes_by_another_network() -> Result<()> {
    let (stage, guest) = up()?;
    for i in 0..2 {
        isolated::guard(stage.host(i), false)?;
        isolated::set_up(stage.host(i), false)?;
    }
    let capture = stage.host(0).capture(PORTS)?;
    let there = stage.host(1).migration_ip().to_string();
    let uri = format!("tcp://{there}");
    guest.migrate_to(HOSTS[1], &["--migrateuri", &uri, "--listen-address", &there])?;
    let (_, other) = passed(&capture)?;
    println!("accel=tcg, by virsh and without a guard: {other:?} by the other network");
    assert!(other.bytes > MUCH, "{other:?}");
    // With the guard the same call fails, and the VM stays.
    for i in 0..2 {
        isolated::guard(stage.host(i), true)?;
    }
    let back = stage.host(0).migration_ip().to_string();
    let uri = format!("tcp://{back}");
    std::thread::sleep(SILENT_AFTER);
    let capture = stage.host(1).capture(PORTS)?;
    let refused = guest.migrate_to(HOSTS[0], &["--migrateuri", &uri, "--listen-address", &back]);
    assert!(refused.is_err() && guest.current_host()?.name() == HOSTS[1], "{refused:?}");
    assert_eq!(passed(&capture)?.1, NOTHING);
    stage.finish(&[&guest])
}
