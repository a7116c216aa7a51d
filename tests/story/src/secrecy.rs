//! What the stories and the demo of encryption share: a guest with a secret, moves that are listened to, and certificates
//! that are wrong.

use crate::{HOSTS, Result, Settings, Stage, coms, coms_within, events_named};
use coms_lab::{Guest, GuestConfig, Papers, Secret, Tapped};
use serde_json::Value;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Where libvirt lets QEMU listen for memory and disks, unless told otherwise.
pub const MIGRATION_PORTS: RangeInclusive<u16> = 49_152..=49_215;
/// What the guest holds of its secret.
pub const SECRET_MIB: u32 = 48;
pub const REQUIRED: &str = "[encryption]\nmoves = \"required\"\n";

/// Two hosts with certificates, libvirt reached by TLS, and the hook.
pub fn settings() -> Settings {
    Settings { encryption: Some(String::new()), ..Settings::default() }
}

/// A guest whose memory holds something that must not be read.
pub fn guest_with_secret(stage: &Stage, agent_toml: &str) -> Result<(Guest, Secret)> {
    for i in 0..2 {
        fingerprint_is(stage, i, "there", |f| f.is_some())?;
    }
    let guest = stage.boot(0, GuestConfig::default(), agent_toml)?;
    let secret = Secret::new()?;
    guest.hold_secret(&secret, SECRET_MIB)?;
    Ok((guest, secret))
}

/// How often the secret is there if each page passes an interface once.
pub fn secret_copies(secret: &Secret) -> u64 {
    (u64::from(SECRET_MIB) << 20) / secret.bytes().len() as u64
}

/// Does something while somebody listens at every interface.
pub fn tapped<T>(stage: &Stage, name: &str, what: impl FnOnce() -> Result<T>) -> Result<(T, Tapped)> {
    let wiretap = stage.lab.wiretap(name)?;
    let done = what()?;
    Ok((done, wiretap.finish()?))
}

/// Asks in the guest, and waits; the exit status and the last word.
pub fn asks(guest: &Guest, more: &[&str]) -> Result<(i32, Value)> {
    let args: Vec<&str> = ["migrate", "--wait"].into_iter().chain(more.iter().copied()).collect();
    coms_within(guest, &args, Duration::from_secs(60))
}

/// Moves at the guest's wish, and returns what the guest was told.
pub fn moves(stage: &Stage, guest: &Guest, to: usize, more: &[&str]) -> Result<Value> {
    let before = events_named(guest, "completed")?.len();
    let (status, last) = asks(guest, more)?;
    if status != 0 {
        return Err(format!("it did not move: {last}\n{}", stage.logs()).into());
    }
    stage.wait("the former host to be rid of it, and the ticket gone", 30, || {
        let left = stage.host(1 - to).virsh(&["list", "--all", "--name"])?;
        Ok(!left.lines().any(|l| l.trim() == guest.name()) && crate::ticket(stage, to, guest)?.is_none())
    })?;
    let told = events_named(guest, "completed")?;
    match told.last() {
        Some(last) if told.len() == before + 1 && guest.current_host()?.name() == HOSTS[to] => {
            Ok(last.clone())
        }
        Some(_) | None => Err(format!("not one more outcome, or elsewhere: {told:?}").into()),
    }
}

/// Asks for a move that cannot be encrypted, and returns why it was not made.
pub fn is_refused(stage: &Stage, guest: &Guest, at: usize, more: &[&str]) -> Result<String> {
    let ends = || -> Result<Vec<Value>> {
        Ok([events_named(guest, "denied")?, events_named(guest, "failed")?].concat())
    };
    let before = ends()?;
    let (status, last) = asks(guest, more)?;
    let after = ends()?;
    let new: Vec<&Value> = after.iter().filter(|e| !before.contains(e)).collect();
    let [end] = new.as_slice() else {
        return Err(format!("exit {status}, {last}, ends {new:?}\n{}", stage.logs()).into());
    };
    runs_at(guest, at)?;
    let why = if end["event"] == "failed" { &end["why"] } else { &end["reason"] };
    match why.as_str() {
        Some(why) if status == 1 => Ok(why.to_owned()),
        Some(_) | None => Err(format!("exit {status}, {last}: {end}").into()),
    }
}

/// It runs there, and answers.
pub fn runs_at(guest: &Guest, at: usize) -> Result<()> {
    let (host, said) = (guest.current_host()?.name().to_owned(), guest.sh("echo alive")?);
    if host == HOSTS[at] && said.trim() == "alive" {
        return Ok(());
    }
    Err(format!("{} is at {host}, not at {}; it says {said:?}", guest.name(), HOSTS[at]).into())
}

/// Waits until both brokers say this of a host's certificate.
fn fingerprint_is(stage: &Stage, of: usize, what: &str, done: impl Fn(Option<&str>) -> bool) -> Result<()> {
    stage.wait(&format!("the brokers to know: the certificate of {} is {what}", HOSTS[of]), 20, || {
        for i in 0..2 {
            let hosts = stage.comsctl(i, &["hosts"])?;
            let host = hosts.as_array().and_then(|all| all.iter().find(|h| h["name"] == HOSTS[of]));
            if host.is_none_or(|h| !done(h["certificate_sha256"].as_str())) {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

/// What a broker says of a host's certificate.
pub fn fingerprint(stage: &Stage, of: usize) -> Result<Option<String>> {
    let hosts = stage.comsctl(0, &["hosts"])?;
    let host = hosts.as_array().and_then(|all| all.iter().find(|h| h["name"] == HOSTS[of]));
    Ok(host.and_then(|h| h["certificate_sha256"].as_str()).map(str::to_owned))
}

/// Gives a host's QEMU papers, and waits until the brokers have seen that there are others.
pub fn give_papers(stage: &Stage, of: usize, papers: Papers) -> Result<()> {
    let before = fingerprint(stage, of)?;
    stage.lab.give_papers(HOSTS[of], papers)?;
    match papers {
        Papers::None => fingerprint_is(stage, of, "gone", |f| f.is_none()),
        // A broker that sees what is wrong with them may say that there are none.
        Papers::OtherAuthority | Papers::Stranger | Papers::Expired | Papers::OtherName => {
            fingerprint_is(stage, of, "another", |f| f != before.as_deref())
        }
        Papers::Right => fingerprint_is(stage, of, "there", |f| f.is_some() && f != before.as_deref()),
    }
}

/// The owner says how well moves are to be encrypted, and takes it up; waits until the host has it.
pub fn owner_requires(stage: &Stage, guest: &Guest) -> Result<()> {
    let tee = ["tee", "/etc/coms/agent.toml"];
    guest.exec_with(&tee, REQUIRED, Duration::from_secs(10))?.success()?;
    guest.sh("kill -HUP $(pidof coms-agent)")?;
    stage.wait("the host to keep the wish", 20, || {
        let found = coms(guest, &["status"])?["encryption"].clone();
        Ok(found["in_force"] == "required" && found["kept_by_host"] == true)
    })
}
