//! Three hosts: where to, and what a host that hangs may cost.

use coms_lab::GuestConfig;
use coms_story::*;
use serde_json::Value;
use std::time::{Duration, Instant};

fn neighbour(name: &str, last: u8, busy: bool) -> GuestConfig {
    GuestConfig {
        name: name.into(),
        ip: [10, 78, 1, last].into(),
        memory_mib: 128,
        port: false,
        hog_threads: u32::from(busy),
        ..GuestConfig::default()
    }
}

fn verdicts(record: &Value) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    record["considered"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|c| (text(&c["host"]), text(&c["verdict"])))
        .collect()
}

#[test]
fn the_host_with_more_vms_but_less_load_is_chosen_and_a_hung_one_delays_nobody() -> Result<()> {
    // The guest's host and the idle-looking crowd share a CPU; the busy host has the other for itself.
    let stage = Stage::up(Settings { hosts: vec![(0, None), (1, None), (0, None)], ..Settings::default() })?;
    let guest = stage.boot(0, GuestConfig::default(), "")?;
    let busy = stage.lab.boot(neighbour("busy", 1, true), HOSTS[1])?;
    let crowd = [
        stage.lab.boot(neighbour("idle1", 2, false), HOSTS[2])?,
        stage.lab.boot(neighbour("idle2", 3, false), HOSTS[2])?,
    ];
    stage.wait("the loads to show", 40, || {
        let hosts = stage.comsctl(0, &["hosts"])?;
        let load = |i: usize| hosts[i]["load_per_cpu"].as_f64().unwrap_or(-1.0);
        Ok(load(1) > 0.5 && (0.0..0.3).contains(&load(2)) && hosts[2]["domains"] == 2)
    })?;

    let (status, answer) = coms_within(&guest, &["migrate", "--wait"], Duration::from_secs(60))?;
    assert_eq!(status, 0, "{answer}\n{}", stage.logs());
    assert_eq!(guest.current_host()?.name(), HOSTS[2], "more VMs, less load");
    let record = stage.record(0, answer["migration"].as_str().unwrap_or_default())?;
    let expected = [(HOSTS[1], "busier"), (HOSTS[2], "chosen")].map(|(h, v)| (h.to_owned(), v.to_owned()));
    assert_eq!(verdicts(&record), expected, "{record}");
    // The guest may wish for a region; it names the operator's regions, never hosts.
    let (status, answer) =
        coms_within(&guest, &["migrate", "--wait", "--region", "nowhere"], Duration::from_secs(60))?;
    assert_eq!((status, &answer["reason"]), (1, &"no-destination-in-region".into()), "{answer}");

    // A destination's libvirtd hangs (it is stopped, its sockets stay open): requests go on to the others.
    stage.wait("the source to be rid of the guest", 10, || {
        Ok(stage.host(0).virsh(&["list", "--all", "--name"])?.trim().is_empty())
    })?;
    let hung = stage.host(1).libvirtd_pid().ok_or("no libvirtd")?;
    signal(hung, "STOP")?;
    let moved = stage
        .wait("the hang to be noticed", 40, || Ok(stage.comsctl(2, &["hosts"])?[2]["answers"] == false))
        .and_then(|()| {
            let asked = Instant::now();
            let (status, answer) = coms_within(&guest, &["migrate", "--wait"], Duration::from_secs(60))?;
            assert_eq!(status, 0, "{answer}\n{}", stage.logs());
            println!("accel=tcg with one libvirtd hung: told {:?} after asking", asked.elapsed());
            stage.record(2, answer["migration"].as_str().unwrap_or_default())
        });
    signal(hung, "CONT")?;
    let record = moved?;
    assert_eq!(guest.current_host()?.name(), HOSTS[0]);
    let waited_ms = record["request_to_call_ms"].as_f64().ok_or("no figure")?;
    println!("accel=tcg with one libvirtd hung: request to migrate call {waited_ms} ms");
    assert!(waited_ms < 500.0, "a hung libvirtd delayed the call by {waited_ms} ms");
    assert!(verdicts(&record).contains(&(HOSTS[1].to_owned(), "no-answer".to_owned())), "{record}");

    // It stalls for a moment only, and the operator wants no other host: the order waits for it, and is not refused.
    stage.wait("the hung one to answer again", 40, || {
        Ok(stage.comsctl(0, &["hosts"])?[1]["answers"] == true
            && !stage.comsctl(0, &["hosts"])?[1]["broker"].is_null())
    })?;
    signal(hung, "STOP")?;
    let order = ["migrate", guest.name(), "--to", HOSTS[1], "--expedite", "--no-wait"];
    let ordered = stage.comsctl(0, &order);
    std::thread::sleep(Duration::from_millis(2500));
    signal(hung, "CONT")?;
    let id = ordered?["migration"].as_str().ok_or("the order has no id")?.to_owned();
    stage.wait("the order to be carried out", 60, || {
        let record = stage.record(0, &id)?;
        let state = record["state"].as_str().unwrap_or_default();
        assert!(!["denied", "failed", "cancelled"].contains(&state), "{record}");
        Ok(guest.current_host()?.name() == HOSTS[1])
    })?;

    for other in crowd.into_iter().chain([busy]) {
        other.destroy()?;
    }
    stage.finish(&[&guest])
}

fn signal(pid: u32, name: &str) -> Result<()> {
    let status = std::process::Command::new("kill").args([format!("-{name}"), pid.to_string()]).status()?;
    if status.success() { Ok(()) } else { Err(format!("kill -{name} {pid}: {status}").into()) }
}
