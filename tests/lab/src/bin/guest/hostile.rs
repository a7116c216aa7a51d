//! A guest without manners, and one with them that tells how fast it is answered.

use std::{
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use coms_lab::nonsense::{Kind, Nonsense};
use coms_protocol::{
    HostToGuest,
    guest_to_host::{Ping, Request, Wishes},
    types::{List, RequestId, RequestReason},
};
use serde_json::json;

use crate::{
    Outcome,
    port::{Honest, Port},
};

/// Far beyond what an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often the honest one asks. Together below what the broker hears of a guest while others use up what is left
/// over: five requests a second at 1.1 KiB, and ten pings at 0.1 KiB.
const TURN: Duration = Duration::from_millis(100);
const TURNS_PER_REQUEST: u64 = 2;

/// Says nonsense of one kind for so long (`quiet`: makes as much and keeps it), then behaves, and tells how the
/// port took that.
pub(crate) fn nonsense(kind: &str, ms: u64) -> Outcome {
    let (quiet, kind) = match kind {
        "quiet" => (true, Kind::Messages),
        name => (false, Kind::named(name).ok_or_else(|| format!("no nonsense is called {name}"))?),
    };
    let seed = now_ns()?;
    let mut source = Nonsense::new(kind, seed | 1);
    let mut port = Port::open()?;
    let mut buffer = vec![0; 64 << 10];
    let (mut unsaid, mut pieces, mut bytes) = (Vec::new(), 0_u64, 0_u64);
    let until = Instant::now() + Duration::from_millis(ms);
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|l| !l.is_zero()) {
        let begun = Instant::now();
        let heard = port.read(&mut buffer)?;
        source.hear(&buffer[..heard]);
        if unsaid.is_empty() {
            unsaid = source.piece();
            pieces += 1;
        }
        if quiet {
            unsaid.clear();
            continue;
        }
        let said = port.write(&unsaid)?;
        bytes += said as u64;
        unsaid.drain(..said);
        match kind.pace() {
            Some(pace) if unsaid.is_empty() => thread::sleep(pace.saturating_sub(begun.elapsed())),
            Some(_) | None if said == 0 => port.wait(true, left)?,
            Some(_) | None => {}
        }
    }
    // What is left unsaid stays so: the nonsense ends in the middle of a frame.
    let mut honest = Honest::new(&mut port, seed.rotate_left(32) | 1);
    let met = honest.meet(PATIENCE)?;
    let pong = honest.round_trip(Ping { number: seed }.into(), PATIENCE, |m| pong(m) == Some(seed))?;
    let told = json!({
        "pieces": pieces,
        "bytes": bytes,
        "knew_the_broker": source.knows_the_broker(),
        "hellos_until_met": honest.hellos(),
        "met_us": us(met),
        "pong_us": us(pong),
    });
    println!("{told}");
    Ok(())
}

/// Asks for so long, always at the same pace, and prints how long each answer took.
pub(crate) fn ask(ms: u64) -> Outcome {
    let first = now_ns()?;
    let mut port = Port::open()?;
    let mut honest = Honest::new(&mut port, first | 1);
    honest.meet(PATIENCE)?;
    // The hello that answers the broker's goes first, in its own time.
    honest.rest(TURN)?;
    let (mut requests, mut pings) = (Vec::new(), Vec::new());
    let until = Instant::now() + Duration::from_millis(ms);
    let mut turn = 0;
    while Instant::now() < until {
        let begun = Instant::now();
        let number = first + turn;
        if turn % TURNS_PER_REQUEST == 0 {
            let id = RequestId(number);
            let (evidence, wishes) = (List::default(), Wishes::default());
            let request = Request { id, reason: RequestReason::Manual, evidence, wishes };
            let refused = |m: &HostToGuest| matches!(m, HostToGuest::Denied(d) if d.request == id);
            requests.push(us(honest.round_trip(request.into(), PATIENCE, refused)?));
        }
        let answers = |m: &HostToGuest| pong(m) == Some(number);
        pings.push(us(honest.round_trip(Ping { number }.into(), PATIENCE, answers)?));
        honest.rest(TURN.saturating_sub(begun.elapsed()))?;
        turn += 1;
    }
    println!("{}", json!({ "requests_us": requests, "pings_us": pings }));
    Ok(())
}

fn pong(message: &HostToGuest) -> Option<u64> {
    if let HostToGuest::Pong(pong) = message { Some(pong.number) } else { None }
}

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn now_ns() -> Result<u64, Box<dyn std::error::Error>> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?)
}
