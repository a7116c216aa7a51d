//! Both doctors on a real lab: well at first, then set up wrong in one way after the other. Each wrong is found, told
//! with what mends it, and ends with exit status 1; mended, it is gone.

use coms_lab::{AgentConfig, Guest, GuestConfig, GuestFile, Signal};
use coms_story::*;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a doctor may take to see what was done.
const SEEN_WITHIN_S: u64 = 40;

/// What a doctor said: its findings and its exit status.
type Said = (i32, Vec<Value>);

fn parse(status: i32, json: &str) -> Result<Said> {
    let found: Vec<Value> = serde_json::from_str(json).map_err(|e| format!("{e}: {json}"))?;
    let fails = found.iter().any(|f| f["status"] == "fail");
    assert_eq!(status, i32::from(fails), "exit status 1 where something fails, else 0: {found:#?}");
    for f in found.iter().filter(|f| f["status"] != "ok") {
        assert!(f["remedy"].as_str().is_some_and(|r| !r.is_empty()), "nothing mends it: {f}");
    }
    Ok((status, found))
}

fn well(said: &Said) -> bool {
    said.0 == 0
}

/// Waits until the doctor tells of it; gives its remedy.
fn finds(doctor: impl Fn() -> Result<Said>, check: &str, status: &str, word: &str) -> Result<String> {
    let mut last = Vec::new();
    let mut remedy = String::new();
    let seen = wait("the doctor", SEEN_WITHIN_S, || {
        last = doctor()?.1;
        let is_it = |f: &&Value| {
            f["check"] == check
                && f["status"] == status
                && f["detail"].as_str().is_some_and(|d| d.contains(word))
        };
        let found = last.iter().find(is_it);
        remedy = found.and_then(|f| f["remedy"].as_str()).unwrap_or_default().to_owned();
        Ok(found.is_some())
    });
    seen.map_err(|e| format!("{check} {status} {word:?}: {e}\n{last:#?}"))?;
    println!("found: {status} {check}: ...{word}... -> {remedy}");
    Ok(remedy)
}

/// `comsctl doctor --json` on a host.
fn comsctl_doctor(stage: &Stage, i: usize, args: &[&str]) -> Result<Said> {
    let all: Vec<&str> = ["doctor"].into_iter().chain(args.iter().copied()).collect();
    let (status, out, err) = stage.comsctl_raw(i, &all)?;
    parse(status, &out).map_err(|e| format!("{e}; {err}").into())
}

/// `coms doctor --json` in a guest.
fn coms_doctor(guest: &Guest, args: &[&str]) -> Result<Said> {
    let argv: Vec<&str> = ["coms", "--json", "doctor"].into_iter().chain(args.iter().copied()).collect();
    let out = guest.exec(&argv)?;
    parse(out.status, &out.stdout)
}

fn file(path: &str, mode: u32, text: &str) -> GuestFile {
    GuestFile { path: path.into(), mode, bytes: text.into() }
}

const AGENT: &str = "[[hooks]]\nevent = \"completed\"\ncommand = [\"/etc/coms/hooks/ok\"]\n";
const USERS: &str = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/tmp:/bin/sh\n";
const GROUPS: &str = "root:x:0:\nann:x:1000:\ncoms:x:990:\ncoms-admin:x:991:\n";

#[test]
fn each_doctor_finds_what_is_set_up_wrong_and_says_what_mends_it() -> Result<()> {
    let settings = Settings { enabled: "[\"vm*\"]".into(), ..Settings::default() };
    let mut stage = Stage::up(settings)?;
    let hook = "#!/bin/sh\nexit 0\n";
    let files = vec![
        file("etc/passwd", 0o644, USERS),
        file("etc/group", 0o644, GROUPS),
        file("etc/coms/hooks/ok", 0o755, hook),
        file("etc/coms/hooks/flat", 0o644, hook),
    ];
    let guest = stage.boot(0, GuestConfig { files, ..GuestConfig::default() }, AGENT)?;
    for i in 0..2 {
        stage
            .wait("a lab without a finding that fails", 20, || Ok(well(&comsctl_doctor(&stage, i, &[])?)))?;
    }
    let said = coms_doctor(&guest, &[])?;
    assert!(well(&said), "{:#?}", said.1);

    in_the_guest(&mut stage, &guest)?;
    guests_without_the_right_port(&stage)?;
    on_the_host(&stage)?;
    the_other_host(&mut stage)?;
    a_paused_leftover(&stage, &guest)?;

    for i in 0..2 {
        stage.wait("all to be mended", 30, || Ok(well(&comsctl_doctor(&stage, i, &[])?)))?;
    }
    stage.wait("all to be mended in the guest", 30, || Ok(well(&coms_doctor(&guest, &[])?)))?;
    stage.finish(&[&guest])
}

fn in_the_guest(stage: &mut Stage, guest: &Guest) -> Result<()> {
    let doctor = || coms_doctor(guest, &[]);
    // Hooks that cannot run. They are in the file that the agent has, and it has taken it up.
    let wrong = AGENT.replace("hooks/ok", "hooks/none") + &AGENT.replace("hooks/ok", "hooks/flat");
    guest.exec_with(&["tee", "/etc/coms/agent.toml"], &wrong, Duration::from_secs(5))?.success()?;
    guest.sh("kill -HUP $(pidof coms-agent)")?;
    finds(doctor, "hook", "fail", "/etc/coms/hooks/none does not exist")?;
    let remedy = finds(doctor, "hook", "fail", "/etc/coms/hooks/flat is not executable")?;
    assert_eq!(guest.sh(&format!("{remedy}; echo done"))?, "done\n", "the remedy is a command");
    assert!(!doctor()?.1.iter().any(|f| f["detail"].as_str().is_some_and(|d| d.contains("flat is not"))));
    guest.exec_with(&["tee", "/etc/coms/agent.toml"], "[port]\ntransport = 1\n", Duration::from_secs(5))?;
    finds(doctor, "config", "fail", "/etc/coms/agent.toml")?;
    guest.exec_with(&["tee", "/etc/coms/agent.toml"], AGENT, Duration::from_secs(5))?.success()?;
    guest.sh("kill -HUP $(pidof coms-agent)")?;
    wait("the hooks to be mended", 10, || Ok(well(&doctor()?)))?;

    // A user in neither group.
    let ann = || {
        let who = ["start-stop-daemon", "-S", "-c", "1000:1000", "-x", "/usr/bin/coms", "--"];
        let out = guest.exec(&[&who[..], &["--json", "doctor"]].concat())?;
        parse(out.status, &out.stdout)
    };
    finds(ann, "daemon", "fail", "refuses to tell this user anything")?;
    let remedy = finds(ann, "groups", "fail", "neither coms nor coms-admin")?;
    assert!(remedy.contains("usermod -aG coms-admin"), "{remedy}");

    // A clock that is ten minutes off, really.
    let turn = |seconds: &str| guest.sh(&format!("date -s \"@$(($(date +%s){seconds}))\""));
    turn("+600")?;
    // A new agent compares the clocks at once; one that runs does so at its next heartbeat.
    guest.sh("kill -9 $(pidof coms-agent)")?;
    stage.wait_for_agent(guest)?;
    let remedy = finds(doctor, "host-clock", "fail", "the host's clock is -")?;
    assert!(remedy.contains("NTP"), "{remedy}");
    turn("-600")?;
    guest.sh("kill -9 $(pidof coms-agent)")?;
    stage.wait_for_agent(guest)?;

    // Nobody at the other end; and the host's own doctor says so, too.
    stage.stop_broker(0, Signal::KILL)?;
    finds(doctor, "host", "fail", "nobody is at the port's other end")?;
    let remedy = finds(|| comsctl_doctor(stage, 0, &[]), "broker", "fail", "a broker that was killed")?;
    assert!(remedy.contains("systemctl restart coms-broker"), "{remedy}");
    stage.start_broker(0)?;
    stage.wait_for_agent(guest)
}

/// One has none, another has one by another name.
fn guests_without_the_right_port(stage: &Stage) -> Result<()> {
    let config = |n: u8, ports: &[&str]| GuestConfig {
        name: format!("vm{n}"),
        ip: [10, 78, 0, n].into(),
        memory_mib: 128,
        port: false,
        more_ports: ports.iter().map(|p| (*p).to_owned()).collect(),
        agent: Some(AgentConfig::default()),
        ..GuestConfig::default()
    };
    let none = stage.lab.boot(config(2, &[]), HOSTS[0])?;
    let misnamed = stage.lab.boot(config(3, &["org.coms.agent.1"]), HOSTS[0])?;
    let host = || comsctl_doctor(stage, 0, &[]);
    let remedy = finds(host, "port", "fail", "vm2: takes part and has no port")?;
    assert_eq!(remedy, "comsctl enable vm2");
    finds(host, "port", "fail", "vm3: its channel is called `org.coms.agent.1`")?;
    let remedy = finds(|| coms_doctor(&none, &[]), "port", "fail", "no virtio-serial device at all")?;
    assert!(remedy.contains("<channel type='unix'>"), "{remedy}");
    finds(|| coms_doctor(&misnamed, &[]), "port", "fail", "are org.coms.agent.1, none is org.coms.agent.0")?;
    none.destroy()?;
    Ok(misnamed.destroy()?)
}

/// Files and users of the broker's own host.
fn on_the_host(stage: &Stage) -> Result<()> {
    let doctor = || comsctl_doctor(stage, 0, &[]);
    let host = stage.host(0);
    let mode = |inside: &str, mode| {
        std::fs::set_permissions(host.path_of(inside), std::fs::Permissions::from_mode(mode))
    };
    mode("/etc/coms/alias.key", 0o644)?;
    let remedy = finds(doctor, "alias key", "fail", "mode 644")?;
    assert!(remedy.contains("chmod 600 /etc/coms/alias.key"), "{remedy}");
    mode("/etc/coms/alias.key", 0o600)?;

    mode("/run/coms/broker.sock", 0o660)?;
    finds(doctor, "socket", "fail", "mode 660 instead of 666")?;
    mode("/run/coms/broker.sock", 0o666)?;

    // Somebody in neither group; the program where they can run it, wherever this project is.
    let program = std::env::temp_dir().join(format!("comsctl-{}", std::process::id()));
    std::fs::copy(stage.comsctl_program()?, &program)?;
    let program_of_all = program.display().to_string();
    let stranger = || {
        let who = ["setpriv", "--reuid", "61000", "--regid", "61000", "--clear-groups", "--"];
        let what = [program_of_all.as_str(), "--json", "doctor"];
        let out = host.run(&[&who[..], &what[..]].concat())?;
        parse(out.status.code().unwrap_or(-1), &String::from_utf8_lossy(&out.stdout))
    };
    let remedy = finds(stranger, "broker", "fail", "tells this user nothing")?;
    assert!(remedy.contains("coms"), "{remedy}");
    finds(stranger, "groups", "warn", "no group coms")?;
    std::fs::remove_file(&program)?;

    // TLS is configured, and its files are not there.
    let toml = host.read_file("/etc/coms/broker.toml")?;
    host.write_file("/etc/coms/tls.toml", toml.replace("qemu+tcp://", "qemu+tls://"))?;
    let with = |file: &'static str| move || comsctl_doctor(stage, 0, &["--config", file]);
    let remedy = finds(with("/etc/coms/tls.toml"), "certificate", "fail", "/etc/pki/libvirt/clientcert.pem")?;
    assert!(remedy.contains("tlscerts"), "{remedy}");
    host.write_file("/etc/coms/wrong.toml", toml.replace("[limits]", "[limitz]"))?;
    finds(with("/etc/coms/wrong.toml"), "configuration", "fail", "limitz")?;
    finds(with("/etc/coms/none.toml"), "configuration", "fail", "none.toml")?;

    // Changed, and not taken up: the remedy does it.
    host.write_file(
        "/etc/coms/broker.toml",
        toml.replace("requests_per_minute = 600", "requests_per_minute = 60"),
    )?;
    assert_eq!(
        finds(doctor, "config taken up", "warn", "was changed after the broker read it")?,
        "comsctl reload"
    );
    let told = stage.comsctl(0, &["reload"])?;
    assert!(told["done"].as_str().is_some_and(|d| d.contains("changed: limits")), "{told}");
    assert!(!doctor()?.1.iter().any(|f| f["check"] == "config taken up"));
    stage.comsctl(0, &["pause"])?;
    assert_eq!(finds(doctor, "paused", "warn", "customers' moves are paused")?, "comsctl resume");
    stage.comsctl(0, &["resume"])?;
    stage.wait("all to be mended", 20, || Ok(well(&doctor()?)))
}

/// Its broker dead, its clock wrong, then not to be reached at all.
fn the_other_host(stage: &mut Stage) -> Result<()> {
    // The sign of life of its broker, for a broker whose clock is wrong: only there the test plays its part, because
    // both hosts of the lab have one clock.
    let list = stage.host(1).virsh(&["secret-list"])?;
    let is_uuid = |word: &&str| word.len() == 36 && word.matches('-').count() == 4;
    let mark = list.split_whitespace().find(is_uuid).ok_or("no sign of life")?.to_owned();
    stage.stop_broker(1, Signal::KILL)?;
    let doctor = |stage: &Stage| comsctl_doctor(stage, 0, &[]);
    let remedy = finds(|| doctor(stage), "host's broker", "fail", HOSTS[1])?;
    assert!(remedy.contains("systemctl enable --now coms-broker"), "{remedy}");
    let clock_off = || {
        let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() + 100_000;
        let xml = format!(
            "<secret ephemeral='yes' private='yes'><uuid>{mark}</uuid>\
             <description>coms-broker 0.1.0; beat {unix_ms}; unix_ms {unix_ms}</description></secret>"
        );
        stage.host(1).write_file("/var/lib/coms/mark.xml", xml)?;
        stage.host(1).virsh(&["secret-define", "/var/lib/coms/mark.xml"])?;
        doctor(stage)
    };
    let remedy = finds(clock_off, "clocks", "fail", "its clock is +")?;
    assert!(remedy.contains("timedatectl set-ntp true"), "{remedy}");
    stage.host(1).stop_libvirtd(Signal::TERM)?;
    let remedy = finds(|| doctor(stage), "host answers", "fail", HOSTS[1])?;
    assert!(remedy.contains("virsh -c URI list"), "{remedy}");
    stage.host(1).start_libvirtd()?;
    stage.start_broker(1)?;
    stage.wait("the other host to be well again", 60, || Ok(well(&doctor(stage)?)))
}

/// libvirtd dies at both ends of a switch-over: what is left is a paused copy of which nobody knows whether it is the
/// only one.
fn a_paused_leftover(stage: &Stage, guest: &Guest) -> Result<()> {
    let doctor = || comsctl_doctor(stage, 0, &[]);
    let hang = |signal: &str| -> Result<()> {
        let pid = stage.host(1).libvirtd_pid().ok_or("no libvirtd at the destination")?.to_string();
        let status = Command::new("kill").args([signal, &pid]).status()?;
        if status.success() { Ok(()) } else { Err(format!("kill {signal} {pid}: {status}").into()) }
    };
    // Slow enough to be met while it copies.
    stage.host(0).set_rate_mbit(Some(80))?;
    let begun = stage.comsctl(0, &["migrate", guest.name(), "--no-wait"])?;
    let id = begun["migration"].as_str().ok_or("no id")?.to_owned();
    stage.wait("memory to be copied", 30, || {
        Ok(stage.record(0, &id)?["bytes_remaining"].as_u64() > Some(0))
    })?;
    hang("-STOP")?;
    stage.host(0).set_rate_mbit(None)?;
    stage.wait("the switch-over", 60, || {
        Ok(stage.host(0).virsh(&["domstate", guest.name()])?.contains("paused"))
    })?;
    // By then it has asked the destination to finish; killed earlier, it resumes the guest when it is back.
    std::thread::sleep(Duration::from_secs(1));
    stage.host(0).stop_libvirtd(Signal::KILL)?;
    finds(doctor, "broker's libvirt", "fail", "no connection to the local libvirt")?;
    stage.host(0).start_libvirtd()?;
    let left = finds(doctor, "alarm", "fail", "a paused copy was left here by a broken move");
    hang("-CONT")?;
    left?;
    // Now the destination can speak: whether it heard the end of the move before its source was gone is libvirt's luck.
    stage.wait("the VM to run again", 60, || Ok(guest.current_host().is_ok()))?;
    let host = guest.current_host()?.name().to_owned();
    println!("the VM goes on at {host}");
    if host == HOSTS[1] {
        finds(doctor, "alarm", "fail", "remove this copy with virsh destroy")?;
        stage.host(0).virsh(&["destroy", guest.name()])?;
    }
    stage.wait_for_agent(guest)
}
