//! One move in full.

use super::client::Broker;
use super::tables::{ago, clean};
use super::{Failure, print};
use coms_broker::decide::placement::{Considered, Verdict};
use coms_broker::records::{MoveRecord, Waits, WaitsFor};
use coms_protocol::types::{Initiator, NoticeReason};
use std::fmt::Write;
use std::process::ExitCode;

pub fn show(json: bool, broker: &mut Broker, what: &str) -> Result<ExitCode, Failure> {
    let all = broker.moves(None)?;
    let by_id = what.parse().ok().and_then(|id| all.iter().find(|r| r.migration == id));
    let by_vm = || all.iter().rev().find(|r| r.domain == what || r.uuid.to_string() == what);
    match by_id.or_else(by_vm) {
        Some(record) => print(json, record, in_full),
        None => Err(Failure::refused(format!(
            "this host remembers no move `{}`, and none of a VM of that name; `comsctl migrations` lists them, and \
             other hosts have their own",
            clean(what)
        ))),
    }
}

/// For people: what happened, in the order it happened.
pub fn in_full(r: &MoveRecord) -> String {
    let mut out = String::new();
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(out, "{key:<12} {}", clean(value));
    };
    line("migration", &r.migration.to_string());
    line("vm", &format!("{} ({})", r.domain, r.uuid));
    line("asked by", &who(r));
    if r.why != NoticeReason::Unstated || r.expedited {
        let hurry = if r.expedited { "; expedited, the guest is not asked" } else { "" };
        line("because", &format!("{}{hurry}", r.why));
    }
    line("received", &format!("{} ({})", at(r.received_unix_ms), ago(Some(r.received_unix_ms))));
    let unknown = || "?".to_owned();
    line(
        "way",
        &format!("{} -> {}", r.from.clone().unwrap_or_else(unknown), r.to.clone().unwrap_or_else(unknown)),
    );
    line("state", r.state.name());
    if let Some(waits) = &r.waits {
        line("waits", &waiting(waits));
    }
    if let Some(reason) = &r.reason {
        line("reason", reason);
    }
    if let Some(detail) = &r.detail {
        line("libvirt", detail);
    }
    for (i, c) in r.considered.iter().enumerate() {
        line(if i == 0 { "hosts" } else { "" }, &format!("{}: {}", c.host, verdict(c)));
    }
    for (i, disk) in r.disks.iter().enumerate() {
        line(if i == 0 { "disks" } else { "" }, disk);
    }
    for (i, step) in r.steps.iter().enumerate() {
        let after = step.at_unix_ms.saturating_sub(r.received_unix_ms);
        let text = format!("{} (+{after} ms) {}", at(step.at_unix_ms), step.state.name());
        line(if i == 0 { "steps" } else { "" }, &text);
    }
    for (i, (what, value)) in figures(r).into_iter().enumerate() {
        line(if i == 0 { "figures" } else { "" }, &format!("{what}: {value}"));
    }
    out
}

fn who(r: &MoveRecord) -> String {
    let request = r.request.map(|id| format!(", request {}", id.0)).unwrap_or_default();
    match r.initiator {
        Initiator::Customer => format!("the guest{request}"),
        Initiator::Operator => "the operator (comsctl)".into(),
        Initiator::Foreign => "somebody past the broker (virsh, a manager)".into(),
        Initiator::Schedule => format!("the guest's schedule{request}"),
        Initiator::Random => "the guest's random moves".into(),
        Initiator::Unknown(n) => format!("unknown ({n})"),
    }
}

/// Until when an announced move waits, and why.
pub fn waiting(w: &Waits) -> String {
    let why = match w.waits_for {
        WaitsFor::Notice => "the guest was told and may get ready".into(),
        WaitsFor::Guest { cause, holders } => {
            let holders = if holders > 1 { format!(" ({holders} of them)") } else { String::new() };
            let at_most = if w.at_most_unix_ms > w.until_unix_ms {
                format!("; it may hold until {}", at(w.at_most_unix_ms))
            } else {
                String::new()
            };
            format!("something in the guest is not ready: {cause}{holders}{at_most}")
        }
        WaitsFor::Postponed { cause } => format!("the guest postponed it: {cause}"),
        WaitsFor::OtherMoves => "as many moves as may be made at once are under way".into(),
        WaitsFor::ForeignMove => "somebody past the broker moves it".into(),
    };
    format!("until {}: {why}", at(w.until_unix_ms))
}

fn verdict(c: &Considered) -> String {
    let load =
        |l: &Option<f64>| l.map_or("load not known yet".into(), |l| format!("load {:.0} %", l * 100.0));
    match &c.verdict {
        Verdict::Chosen { load: l, committed_kib } => {
            format!("chosen, the least busy: {}, {} MiB taken", load(l), committed_kib / 1024)
        }
        Verdict::Busier { load: l, committed_kib } => {
            format!("could take it and is busier: {}, {} MiB taken", load(l), committed_kib / 1024)
        }
        Verdict::Nearest { apart, load: l } => {
            format!("chosen, the nearest to the wished region: {apart} from it, {}", load(l))
        }
        Verdict::Nearer { apart, load: l } => {
            format!(
                "is nearer to the wished region, and another one went first: {apart} from it, {}",
                load(l)
            )
        }
        Verdict::Farther { apart, here } => {
            format!("is no nearer to the wished region: {apart} from it, {here} from here")
        }
        Verdict::DistanceUnknown => {
            "nobody says how far it is from the wished region ([[distances]], or coordinates in [[regions]])"
                .into()
        }
        Verdict::CutOff { detail } => {
            format!("is at another site, out of reach of the VM's clients: {detail}")
        }
        Verdict::NotEncryptable { detail } => format!("a move there would not be encrypted: {detail}"),
        Verdict::LinkUnfit { detail, .. } => format!("the way there is not fit: {detail}"),
        Verdict::MigrationLinkDown { detail } => format!("not over the migration network: {detail}"),
        Verdict::NetworkRefused { detail } => format!("the VM's network was not stretched there: {detail}"),
        Verdict::StorageUnfit { detail, .. } => format!("cannot take its disks or devices: {detail}"),
        Verdict::NoAnswer => "did not answer in time".into(),
        Verdict::CannotRun { detail } => format!("cannot run it: {detail}"),
        Verdict::HasItAlready => "has a VM of this identity already".into(),
        Verdict::NoBroker => "its broker shows no sign of life (systemctl status coms-broker there)".into(),
        Verdict::TooLittleMemory { free_kib, needed_kib } => {
            format!("has too little memory: {} MiB free, {} MiB needed", free_kib / 1024, needed_kib / 1024)
        }
        Verdict::OtherRegion => "is not in the region that was wished for".into(),
        Verdict::NotTheOneAskedFor => "is not the one that was asked for".into(),
        Verdict::NotInPool => "is not in the pool of random moves".into(),
        Verdict::Drawn { among } => format!("drawn among {among} that fit"),
        Verdict::NotDrawn => "fits, and was not drawn".into(),
        Verdict::NoRelief { load, here } => {
            format!("would be no relief: load {:.0} % there, {:.0} % here", load * 100.0, here * 100.0)
        }
    }
}

fn figures(r: &MoveRecord) -> Vec<(&'static str, String)> {
    let ms = |v: Option<u64>| v.map(|v| format!("{v} ms"));
    let f = &r.figures;
    let all = [
        ("way there and back", r.link.map(|l| format!("{:.1} ms", l.rtt_ms))),
        ("way's rate", r.link.map(|l| format!("{:.1} MiB/s", l.rate_mib_s))),
        ("request to migrate call", r.request_to_call_ms.map(|v| format!("{v:.1} ms"))),
        ("preparing", ms(f.prepare_ms)),
        ("libvirt's job in all", ms(f.total_ms)),
        ("guest stopped (downtime)", ms(f.downtime_ms)),
        ("resuming", ms(f.resume_ms)),
        ("memory sent", f.bytes.map(|b| format!("{:.1} MiB", b as f64 / f64::from(1u32 << 20)))),
        ("disks sent", r.disk_bytes.map(|b| format!("{:.1} MiB", b as f64 / f64::from(1u32 << 20)))),
        ("pages with content", f.pages.map(|v| v.to_string())),
        ("rounds of copying", f.rounds.map(|v| v.to_string())),
        ("still to copy", r.bytes_remaining.map(|b| format!("{} MiB", b >> 20))),
        ("memory crossed", r.channels.map(|c| c.ram.to_string())),
        ("disks crossed", r.channels.map(|c| c.disk.to_string())),
        ("control connection", r.channels.map(|c| c.control.to_string())),
        ("resumed to told", r.resumed_to_told_ms.map(|v| format!("{v:.1} ms"))),
    ];
    all.into_iter().filter_map(|(what, value)| Some((what, value?))).collect()
}

fn at(unix_ms: u64) -> String {
    let known = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    known.map_or_else(|| "?".into(), |t| format!("{t:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use coms_broker::records::{MoveState, Step};
    use coms_protocol::types::{Cause, Figures, MigrationId, RequestId};

    #[test]
    fn says_who_when_why_there_and_what_it_took_and_lets_no_control_character_through() {
        let text = in_full(&MoveRecord {
            migration: MigrationId(7),
            domain: "web-1".into(),
            uuid: uuid::Uuid::nil(),
            initiator: Initiator::Customer,
            why: NoticeReason::Workload,
            expedited: false,
            request: Some(RequestId(3)),
            from: Some("h1".into()),
            to: Some("h2".into()),
            state: MoveState::Failed,
            reason: Some("destination-lost".into()),
            detail: Some("\x1b[31munable to connect".into()),
            considered: vec![
                Considered {
                    host: "h2".into(),
                    verdict: Verdict::Chosen { load: Some(0.25), committed_kib: 2048 },
                },
                Considered { host: "h3".into(), verdict: Verdict::NoAnswer },
            ],
            received_unix_ms: 1_000_000,
            request_to_call_ms: Some(12.34),
            resumed_to_told_ms: None,
            ended_unix_ms: Some(1_003_000),
            figures: Figures { downtime_ms: Some(40), ..Figures::default() },
            channels: None,
            bytes_remaining: None,
            disk_bytes: Some(3 << 20),
            disks: vec!["vda: /images/vm.raw copied".into()],
            link: None,
            waits: Some(Waits {
                until_unix_ms: 1_005_000,
                at_most_unix_ms: 1_300_000,
                waits_for: WaitsFor::Guest { cause: Cause::App, holders: 2 },
            }),
            steps: vec![Step { at_unix_ms: 1_000_500, state: MoveState::Copying }],
        });
        for part in [
            "the guest, request 3",
            "because      workload",
            "until 1970-01-01T00:16:45.000Z: something in the guest is not ready: app (2 of them); it may hold until \
             1970-01-01T00:21:40.000Z",
            "1970-01-01T00:16:40.000Z",
            "h1 -> h2",
            "destination-lost",
            "unable to connect",
            "h2: chosen, the least busy: load 25 %, 2 MiB taken",
            "h3: did not answer in time",
            "disks        vda: /images/vm.raw copied",
            "disks sent: 3.0 MiB",
            "(+500 ms) copying",
            "request to migrate call: 12.3 ms",
            "guest stopped (downtime): 40 ms",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(!text.contains('\x1b'), "{text}");
    }
}
