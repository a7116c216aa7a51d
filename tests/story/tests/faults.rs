//! Moves that do not take place: the VM runs on, and its guest hears why, once.

use coms_lab::{Guest, GuestConfig, Signal};
use coms_story::*;
use serde_json::Value;
use std::time::Duration;

/// Asks, and gives the one final answer.
fn ask(guest: &Guest) -> Result<Value> {
    let (status, answer) = coms_within(guest, &["migrate", "--wait"], Duration::from_secs(90))?;
    assert_eq!(status, 1, "{answer}");
    Ok(answer)
}

/// The source sees the destination, and its broker's sign of life that came after.
fn sees_beta(stage: &Stage) -> Result<bool> {
    let beta = stage.comsctl(0, &["hosts"])?[1].clone();
    Ok(beta["answers"] == true && !beta["broker"].is_null())
}

/// Whatever happened: it runs here, it is told once, and no ticket is left to mislead anyone.
fn stayed(stage: &Stage, guest: &Guest, answer: &Value) -> Result<()> {
    assert_eq!(guest.current_host()?.name(), HOSTS[0]);
    guest.sh("true")?;
    let request = &answer["request"];
    let finals = ["denied", "failed", "cancelled", "completed", "answered"];
    let told = events(guest)?
        .into_iter()
        .filter(|e| finals.iter().any(|f| e["event"] == *f) && e["request"] == *request);
    assert_eq!(told.count(), 1, "one final answer to {request}: {:?}", events(guest)?);
    stage.wait("the ticket to be gone", 10, || Ok(ticket(stage, 0, guest)?.is_none()))
}

#[test]
fn a_move_that_cannot_be_leaves_the_guest_running_and_says_why() -> Result<()> {
    let settings = Settings {
        limits: "cooldown_s = 0\nrequests_per_minute = 600\nmax_total_s = 8".into(),
        hosts: vec![(0, Some(80)), (1, Some(80))],
        ..Settings::default()
    };
    let mut stage = Stage::up(settings)?;
    let guest = stage.boot(0, GuestConfig { persistent: true, ..GuestConfig::default() }, "")?;

    // The destination refuses: its operator's hook says no.
    stage.host(1).write_program(
        "/etc/libvirt/hooks/qemu",
        "#!/bin/sh\n[ \"$2\" != migrate ] || { echo 'qemu+tcp://hostbeta/system says no' >&2; exit 1; }\n",
    )?;
    stage.host(1).stop_libvirtd(Signal::TERM)?;
    stage.host(1).start_libvirtd()?;
    stage.wait("the source to see the destination again", 30, || sees_beta(&stage))?;
    let answer = ask(&guest)?;
    assert_eq!(
        (&answer["event"], &answer["reason"]),
        (&"denied".into(), &"destination-refused".into()),
        "{answer}\n{}",
        stage.logs()
    );
    stayed(&stage, &guest, &answer)?;
    // libvirt's words are the operator's, not the guest's.
    let all = stage.comsctl(0, &["migrations"])?;
    let record = all.as_array().and_then(|a| a.last()).cloned().unwrap_or_default();
    assert!(record["detail"].as_str().is_some_and(|d| d.contains("says no")), "{record}");
    stage.host(1).write_program("/etc/libvirt/hooks/qemu", "#!/bin/sh\nexit 0\n")?;

    // Somebody aborts it: virsh, past the broker.
    guest.start_dirtying(128, 200)?;
    let abort = || -> Result<()> {
        wait("a job to abort", 20, || {
            Ok(stage.host(0).virsh(&["domjobinfo", guest.name()])?.contains("Data remaining"))
        })?;
        // Well into the copying.
        std::thread::sleep(Duration::from_millis(1500));
        stage.host(0).virsh(&["domjobabort", guest.name()])?;
        Ok(())
    };
    let answer = std::thread::scope(|s| {
        let aborting = s.spawn(abort);
        let answer = ask(&guest);
        aborting.join().map_err(|_| "aborting panicked")??;
        answer
    })?;
    // libvirt mostly says that it was aborted; sometimes the broken connection that follows from it wins.
    let said = (answer["event"].as_str().unwrap_or_default(), answer["why"].as_str().unwrap_or_default());
    assert!(
        [("cancelled", "by-foreign"), ("failed", "source-error")].contains(&said),
        "{answer}\n{}",
        stage.logs()
    );
    stayed(&stage, &guest, &answer)?;

    // It never converges: the operator's time limit ends it.
    let answer = ask(&guest)?;
    assert_eq!((&answer["event"], &answer["why"]), (&"failed".into(), &"time-limit".into()), "{answer}");
    stayed(&stage, &guest, &answer)?;
    guest.stop_dirtying()?;

    // The destination is down, and known to be: not asked, not chosen.
    stage.host(1).stop_libvirtd(Signal::KILL)?;
    stage.wait("the source to see that the destination is down", 30, || {
        Ok(stage.comsctl(0, &["hosts"])?[1]["answers"] == false)
    })?;
    let answer = ask(&guest)?;
    assert_eq!(
        (&answer["event"], &answer["reason"]),
        (&"denied".into(), &"no-destination".into()),
        "{answer}"
    );
    stayed(&stage, &guest, &answer)?;
    let all = stage.comsctl(0, &["migrations"])?;
    let record = all.as_array().and_then(|a| a.last()).cloned().unwrap_or_default();
    assert_eq!(record["considered"][0]["verdict"], "no-answer", "the reason is recorded: {record}");

    // Back again, with the link as wide as it goes, all is well: nothing of the above is left behind.
    for i in 0..2 {
        stage.host(i).set_rate_mbit(None)?;
    }
    stage.host(1).start_libvirtd()?;
    stage.wait("the destination to answer", 30, || sees_beta(&stage))?;
    let (status, answer) = coms_within(&guest, &["migrate", "--wait"], Duration::from_secs(90))?;
    assert_eq!(status, 0, "{answer}\n{}", stage.logs());
    assert_eq!(guest.current_host()?.name(), HOSTS[1]);

    // What the operator has not enabled, has the port and nothing more.
    stage.reconfigure(|s| s.enabled = "[\"another\"]".into())?;
    stage.wait_for_agent(&guest)?;
    let answer = ask(&guest)?;
    assert_eq!((&answer["event"], &answer["reason"]), (&"denied".into(), &"not-enabled".into()), "{answer}");
    assert_eq!(coms(&guest, &["status"])?["enabled"], false);
    stage.finish(&[&guest])
}

#[test]
fn daemons_come_and_go_and_the_guest_is_still_moved_and_told() -> Result<()> {
    let settings = Settings { hosts: vec![(0, Some(200)), (1, Some(200))], ..Settings::default() };
    let mut stage = Stage::up(settings)?;
    let guest = stage.boot(0, GuestConfig { persistent: true, ..GuestConfig::default() }, "")?;

    // The local libvirtd is restarted, the agent too: both ends find each other again.
    stage.host(0).stop_libvirtd(Signal::TERM)?;
    stage.host(0).start_libvirtd()?;
    guest.sh("kill -9 $(pidof coms-agent)")?;
    std::thread::sleep(Duration::from_secs(2));
    stage.wait_for_agent(&guest)?;
    stage.wait("the broker to know its guest again", 20, || {
        Ok(stage.comsctl(0, &["guests"])?[0]["agent"].as_str().is_some_and(|a| a.starts_with("coms-agent")))
    })?;

    // The destination's broker is away while its guest arrives: the outcome is told when it is back.
    stage.stop_broker(1, Signal::KILL)?;
    coms(&guest, &["migrate"])?;
    stage.wait("the guest to be at the destination", 60, || Ok(guest.current_host()?.name() == HOSTS[1]))?;
    assert!(events_named(&guest, "completed")?.is_empty(), "nobody there to tell");
    stage.start_broker(1)?;
    stage.wait("the guest to be told", 20, || Ok(events_named(&guest, "completed")?.len() == 1))?;
    stage.wait("the ticket to be gone", 10, || Ok(ticket(&stage, 1, &guest)?.is_none()))?;

    // A request made while nobody listens is kept, and the agent may die in between.
    stage.wait("the source to be rid of it", 10, || {
        Ok(stage.host(0).virsh(&["list", "--all", "--name"])?.trim().is_empty())
    })?;
    stage.stop_broker(1, Signal::KILL)?;
    let asked = coms(&guest, &["migrate"])?;
    guest.sh("kill -9 $(pidof coms-agent)")?;
    stage.start_broker(1)?;
    stage.wait("the guest to be back", 60, || Ok(guest.current_host()?.name() == HOSTS[0]))?;
    stage.wait("the guest to be told", 20, || {
        Ok(events_named(&guest, "completed")?.iter().filter(|e| e["request"] == asked["request"]).count()
            == 1)
    })?;
    assert_eq!(events_named(&guest, "completed")?.len(), 2);
    stage.finish(&[&guest])
}
