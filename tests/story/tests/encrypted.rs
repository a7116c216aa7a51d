//! Moves that must be encrypted: they are, or they are not made, whoever begins them, and the guest is told which.

use coms_lab::{Guest, GuestConfig, Signal};
use coms_story::*;
use serde_json::Value;
use std::time::Duration;

const REQUIRED: &str = "[encryption]\nmoves = \"required\"\n";

fn pki(file: &str) -> String {
    format!("{}/{file}", coms_lab::PKI)
}

/// Asks in the guest; the exit status and the last word.
fn asks(guest: &Guest, more: &[&str]) -> Result<(i32, Value)> {
    let args: Vec<&str> = ["migrate", "--wait"].into_iter().chain(more.iter().copied()).collect();
    coms_within(guest, &args, Duration::from_secs(60))
}

/// Moves at its wish, and returns what the guest was told.
fn moves(stage: &Stage, guest: &Guest, to: usize, more: &[&str]) -> Result<Value> {
    let (status, last) = asks(guest, more)?;
    assert_eq!(status, 0, "{last}\n{}", stage.logs());
    assert_eq!(guest.current_host()?.name(), HOSTS[to]);
    let told = events_named(guest, "completed")?.last().cloned().unwrap_or_default();
    stage.wait("the ticket to be removed", 10, || Ok(ticket(stage, to, guest)?.is_none()))?;
    println!(
        "accel=tcg {} is at {}: {}, job {} ms, downtime {} ms",
        guest.name(),
        HOSTS[to],
        told["enforced"],
        told["total_ms"],
        told["downtime_ms"]
    );
    Ok(told)
}

fn is_denied(stage: &Stage, guest: &Guest, at: usize, more: &[&str]) -> Result<()> {
    let (status, last) = asks(guest, more)?;
    assert_eq!(status, 1, "{last}\n{}", stage.logs());
    let denied = events_named(guest, "denied")?.last().cloned().unwrap_or_default();
    assert_eq!(denied["reason"], "not-encryptable", "{denied}\n{}", stage.logs());
    runs_at(guest, at)
}

fn runs_at(guest: &Guest, at: usize) -> Result<()> {
    assert_eq!(guest.current_host()?.name(), HOSTS[at]);
    assert_eq!(guest.sh("echo alive")?.trim(), "alive");
    Ok(())
}

/// Whether every broker sees that this host has its certificates, or that it has not.
fn seen_ready(stage: &Stage, of: usize, ready: bool) -> Result<()> {
    stage.wait("the brokers to know of the certificates", 20, || {
        for i in 0..2 {
            let hosts = stage.comsctl(i, &["hosts"])?;
            let host = hosts.as_array().and_then(|all| all.iter().find(|h| h["name"] == HOSTS[of]));
            if host.is_none_or(|h| h["certificate_sha256"].is_string() != ready) {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

/// The guest's wish is in its domain's metadata, and no waybill.
fn sealed(stage: &Stage, guest: &Guest, at: usize) -> Result<()> {
    stage.wait("the seal to be there without a waybill", 20, || {
        let seal = stage.host(at).virsh(&["metadata", guest.name(), "--uri", "urn:coms:seal:1", "--live"]);
        Ok(seal.is_ok_and(|xml| {
            xml.contains("level='2'") | xml.contains("level=\"2\"") && !xml.contains("mac=")
        }))
    })
}

fn fingerprint(stage: &Stage, of: usize) -> Result<String> {
    let file = pki("server-cert.pem");
    let out = stage.host(of).run(&["certtool", "--fingerprint", "--hash=sha256", "--infile", &file])?;
    let text = String::from_utf8_lossy(&out.stdout).to_lowercase();
    Ok(text.chars().filter(char::is_ascii_hexdigit).collect::<String>())
}

#[test]
fn what_must_be_encrypted_is_or_does_not_move_whoever_wants_it() -> Result<()> {
    let stage = Stage::up(Settings { encryption: Some(String::new()), ..Settings::default() })?;
    for i in 0..2 {
        seen_ready(&stage, i, true)?;
    }
    let guest = stage.boot(0, GuestConfig::default(), REQUIRED)?;
    stage.wait("the host to keep the wish", 20, || {
        let found = coms(&guest, &["status"])?["encryption"].clone();
        Ok(found["in_force"] == "required" && found["by"] == "customer" && found["kept_by_host"] == true)
    })?;
    sealed(&stage, &guest, 0)?;

    // It moves, and hears what was enforced.
    let told = moves(&stage, &guest, 1, &[])?;
    assert_eq!(told["encryption"], "tls");
    let enforced = &told["enforced"];
    assert_eq!(
        (&enforced["ram"], &enforced["disk"], &enforced["control"]),
        (&"tls".into(), &"none".into(), &"tls".into()),
        "{told}"
    );
    assert_eq!(enforced["destination_certificate_sha256"], fingerprint(&stage, 1)?.as_str(), "{told}");
    sealed(&stage, &guest, 1)?;

    // Somebody past the brokers: not so, with TLS or without, for only a broker's move shows that it is encrypted.
    let there = stage.host(0).libvirt_uri_remote();
    for more in [&["--live"][..], &["--live", "--p2p"], &["--live", "--tls"]] {
        let args = [&["migrate"][..], more, &[guest.name(), &there]].concat();
        let refused = stage.host(1).virsh(&args).map_err(|e| e.to_string());
        let why = refused.err().ok_or("virsh moved what must be encrypted")?;
        println!("virsh {args:?}: {}", why.lines().last().unwrap_or_default());
        assert!(why.contains("must be encrypted") && why.contains("no waybill"), "{why}");
        runs_at(&guest, 1)?;
    }

    // The destination has no certificates, as its own broker sees: nothing is tried, not even for the operator.
    let kept = stage.host(0).read_file(&pki("server-cert.pem"))?;
    stage.host(0).write_file(&pki("server-cert.pem"), "")?;
    seen_ready(&stage, 0, false)?;
    is_denied(&stage, &guest, 1, &[])?;
    let (status, out, err) = stage.comsctl_raw(1, &["migrate", guest.name()])?;
    assert_eq!(status, 1, "{out} {err}");
    runs_at(&guest, 1)?;

    // A guest that wants it where it is possible goes all the same, and hears that it was not.
    let second = GuestConfig { name: "vm2".into(), ip: "10.78.0.2".parse()?, ..GuestConfig::default() };
    let second = stage.boot(1, second, "")?;
    let told = moves(&stage, &second, 0, &["--encryption", "if-possible"])?;
    assert_eq!((&told["encryption"], &told["enforced"]["ram"]), (&"none".into(), &"plain".into()), "{told}");
    stage.host(0).write_file(&pki("server-cert.pem"), &kept)?;
    seen_ready(&stage, 0, true)?;
    let told = moves(&stage, &second, 1, &["--encryption", "if-possible"])?;
    assert_eq!(told["encryption"], "tls", "{told}");

    // What no broker can see: the key there is another certificate's. TLS refuses, and the VM runs on.
    let key = stage.host(0).read_file(&pki("server-key.pem"))?;
    stage.host(0).write_file(&pki("server-key.pem"), stage.host(1).read_file(&pki("server-key.pem"))?)?;
    is_denied(&stage, &guest, 1, &[])?;
    sealed(&stage, &guest, 1)?;
    stage.host(0).write_file(&pki("server-key.pem"), &key)?;
    let told = moves(&stage, &guest, 0, &[])?;
    assert_eq!(told["enforced"]["ram"], "tls", "{told}");
    stage.finish(&[&guest, &second])
}

/// What the seal says, once it says this and holds no waybill.
fn seal_says(stage: &Stage, guest: &Guest, at: usize, words: &[&str]) -> Result<()> {
    stage.wait(&format!("the seal to say {words:?}"), 20, || {
        let seal = stage.host(at).virsh(&["metadata", guest.name(), "--uri", "urn:coms:seal:1", "--live"]);
        let says = |xml: String| {
            let xml = xml.replace('"', "'");
            words.iter().all(|w| xml.contains(w)) && !xml.contains("expires_unix_ms=")
        };
        Ok(seal.is_ok_and(says))
    })
}

fn virsh_is_refused(stage: &Stage, guest: &Guest, from: usize) -> Result<()> {
    let there = stage.host(1 - from).libvirt_uri_remote();
    let refused = stage.host(from).virsh(&["migrate", "--live", guest.name(), &there]);
    let why = refused.err().ok_or("virsh moved what must be encrypted")?.to_string();
    assert!(why.contains("must be encrypted") && why.contains("no waybill"), "{why}");
    runs_at(guest, from)
}

#[test]
fn the_operators_rules_bind_moves_past_the_brokers_and_brokers_that_were_killed() -> Result<()> {
    let mut stage = Stage::up(Settings {
        encryption: Some(String::new()),
        notice: "notice_max_s = 60".into(),
        stop_points: true,
        ..Settings::default()
    })?;
    let guest = stage.boot(0, GuestConfig::default(), "")?;
    let host = format!("hosts = [\"{}\"]", HOSTS[1]);
    let link = format!("hosts = [\"{}\"]\nto = [\"{}\"]", HOSTS[0], HOSTS[1]);
    let at = format!("at='{}'", HOSTS[1]);
    for (rule, says) in
        [(format!("guests = [\"{}\"]", guest.name()), "level='2'"), (host, at.as_str()), (link, at.as_str())]
    {
        let rule = format!("[[encryption.rules]]\n{rule}\nlevel = \"required\"\n");
        stage.reconfigure(|s| s.encryption = Some(rule))?;
        seal_says(&stage, &guest, 0, &[says])?;
        virsh_is_refused(&stage, &guest, 0)?;
    }

    // Killed when the waybill was written and nobody called: the next one takes it back.
    stage.wait_for_agent(&guest)?;
    for i in 0..2 {
        seen_ready(&stage, i, true)?;
    }
    stage.host(0).write_file(BROKER_STOPS_AT, "event TicketWritten")?;
    coms(&guest, &["migrate"])?;
    stage.wait("the broker to stop behind its waybill", 30, || {
        Ok(!stage.host(0).path_of(BROKER_STOPS_AT).exists())
    })?;
    let seal = stage.host(0).virsh(&["metadata", guest.name(), "--uri", "urn:coms:seal:1", "--live"])?;
    assert!(seal.contains("expires_unix_ms="), "{seal}");
    stage.stop_broker(0, Signal::KILL)?;
    stage.start_broker(0)?;
    seal_says(&stage, &guest, 0, &[&at])?;
    virsh_is_refused(&stage, &guest, 0)?;
    stage.wait("the request to have an end", 30, || Ok(!events_named(&guest, "failed")?.is_empty()))?;
    stage.wait_for_load()?;
    let told = moves(&stage, &guest, 1, &[])?;
    assert_eq!(told["enforced"]["ram"], "tls", "{told}");

    // Without rules: a request that joins what is announced, and says its level once.
    stage.reconfigure(|s| s.encryption = Some(String::new()))?;
    stage.wait_for_agent(&guest)?;
    for i in 0..2 {
        seen_ready(&stage, i, true)?;
    }
    let (status, out, err) =
        stage.comsctl_raw(1, &["migrate", guest.name(), "--no-wait", "--notice", "20s"])?;
    assert_eq!(status, 0, "{out} {err}");
    let count = |name: &str| events_named(&guest, name).map(|all| all.len());
    let (accepted, completed) = (count("accepted")?, count("completed")?);
    coms(&guest, &["migrate", "--encryption", "required"])?;
    stage.wait("the request to be accepted", 10, || Ok(count("accepted")? > accepted))?;
    stage.stop_broker(1, Signal::KILL)?;
    stage.start_broker(1)?;
    stage.wait("the announced move to be made", 60, || Ok(count("completed")? > completed))?;
    let told = events_named(&guest, "completed")?.last().cloned().unwrap_or_default();
    assert_eq!((&told["encryption"], &told["enforced"]["ram"]), (&"tls".into(), &"tls".into()), "{told}");
    runs_at(&guest, 0)?;
    stage.finish(&[&guest])
}
