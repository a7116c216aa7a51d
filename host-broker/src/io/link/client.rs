//! The end that connects.

use super::rate::{Times, rate_mib_s};
use super::{
    ANSWERS, ASKS, Answered, Challenge, ECHOES, GREETING_LIMIT, MAGIC, Mac, PART, PARTS, Pool, Receipt,
    Receipts, Said, What, no_answer, read_signed, write_signed,
};
use crate::network::{LinkFigures, PeerAsk, StepError};
use std::io::{Error, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc};

const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// The other end measures one at a time; it is asked again for so long.
const BUSY_FOR: Duration = Duration::from_secs(15);
const TRY_AGAIN: Duration = Duration::from_millis(500);
const MEASURED_WITHIN: Duration = Duration::from_secs(20);
/// Until this broker's own turn to measure comes.
const TURN_WITHIN: Duration = Duration::from_secs(30);
/// Beyond what its step may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Two measurements at once would measure each other.
#[derive(Clone)]
pub struct OneAtATime(Arc<Semaphore>);

impl Default for OneAtATime {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

/// Host `to` listens at `at`.
pub async fn measure(
    pool: &Pool,
    to: &str,
    at: SocketAddr,
    turn: OneAtATime,
) -> Result<LinkFigures, StepError> {
    let queue = |text: String| StepError { later: true, text };
    let turn = tokio::time::timeout(TURN_WITHIN, turn.0.acquire()).await;
    let waited = format!("ways to others were still being measured after {} s", TURN_WITHIN.as_secs());
    let _turn = turn.map_err(|_| queue(waited))?.map_err(|e| queue(e.to_string()))?;
    let by = Instant::now() + BUSY_FOR;
    let (mut stream, receipts) = loop {
        match start_measuring(pool, to, at).await {
            Ok(begun) => break begun,
            Err(e) if !e.later => return Err(e),
            Err(_) if Instant::now() >= by => {
                return Err(StepError { later: true, ..no_answer(at, "others are measuring there") });
            }
            Err(_) => tokio::time::sleep(TRY_AGAIN).await,
        }
    };
    let lost = |why: &str| StepError { later: false, ..no_answer(at, why) };
    match tokio::time::timeout(MEASURED_WITHIN, measure_over(&mut stream, &receipts)).await {
        Ok(figures) => figures.map_err(|e| lost(&in_words(&e, "while the way was measured"))),
        Err(_) => Err(lost(&format!("not measured within {} s", MEASURED_WITHIN.as_secs()))),
    }
}

/// Only the other end's being busy is worth another try.
async fn start_measuring(pool: &Pool, to: &str, at: SocketAddr) -> Result<(TcpStream, Receipts), StepError> {
    let once = |e: StepError| StepError { later: false, ..e };
    let (mut stream, question) = say(pool, to, at, What::Measure).await.map_err(once)?;
    match tokio::time::timeout(GREETING_LIMIT, hear(pool, at, &mut stream, &question)).await {
        Ok(Ok(answer)) => answer.map(|()| (stream, Receipts::of(pool, &question))),
        Ok(Err(e)) => Err(once(e)),
        Err(_) => Err(once(no_answer(at, "it does not answer"))),
    }
}

pub async fn ask(pool: &Pool, to: &str, at: SocketAddr, ask: &PeerAsk) -> Answered {
    let work = async {
        let (mut stream, question) = say(pool, to, at, What::Network(ask.clone())).await?;
        hear(pool, at, &mut stream, &question).await?
    };
    let limit = pool.step_limit + ANSWER_LIMIT;
    let late = |_| Err(no_answer(at, &format!("no answer within {} s", limit.as_secs())));
    tokio::time::timeout(limit, work).await.unwrap_or_else(late)
}

/// With the question's signature, which its answer is signed over.
async fn say(pool: &Pool, to: &str, at: SocketAddr, what: What) -> Result<(TcpStream, Mac), StepError> {
    let failed = |e: Error| no_answer(at, &in_words(&e, "before it said anything"));
    let said = Said { host: pool.me.clone(), to: to.to_owned(), drawn: rand::random(), what };
    let json = serde_json::to_vec(&said);
    let json = json.map_err(|e| no_answer(at, &e.to_string()))?;
    let work = async {
        let mut stream = connect(pool.from, at).await?;
        stream.set_nodelay(true)?;
        let (mut magic, mut nonce) = ([0; 8], [0; 32]);
        let me = stream.local_addr()?.ip();
        // Who is turned away hears nothing at all.
        let turned_away = |e: Error| {
            if !hung_up(&e) {
                return e;
            }
            Error::other(format!(
                "it hung up at once: it has {me} as no host of its configuration ([[hosts]] link or address there), or \
                 too many others are connected"
            ))
        };
        stream.read_exact(&mut magic).await.map_err(turned_away)?;
        stream.read_exact(&mut nonce).await?;
        if magic != *MAGIC {
            return Err(Error::other("it is no coms-broker of this version that listens there"));
        }
        let question = pool.mac(ASKS, &nonce, &json);
        write_signed(&mut stream, &json, question).await?;
        Ok((stream, question))
    };
    let late = |_| Err(no_answer(at, "it does not answer"));
    tokio::time::timeout(CONNECT_LIMIT + GREETING_LIMIT, work)
        .await
        .map_or_else(late, |done| done.map_err(failed))
}

async fn connect(from: Option<IpAddr>, at: SocketAddr) -> Result<TcpStream, Error> {
    let socket = if at.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(from) = from.filter(|ip| ip.is_ipv4() == at.is_ipv4()) {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    socket.connect(at).await
}

async fn hear(
    pool: &Pool,
    at: SocketAddr,
    stream: &mut TcpStream,
    question: &Mac,
) -> Result<Answered, StepError> {
    let json = read_signed(stream, |json| pool.mac(ANSWERS, question, json)).await;
    let unheard = |e| no_answer(at, &in_words(&e, "before it answered; its log may say why"));
    let json = json.map_err(unheard)?.0.ok_or_else(|| {
        let text = "its secret is another one: [aliases] key_file must be the same file on both hosts (or this is no \
                    answer to what was asked)";
        StepError { later: false, ..no_answer(at, text) }
    })?;
    let strange = |e| no_answer(at, &format!("what it answers is not understood: {e}"));
    let answer = serde_json::from_slice::<Answered>(&json).map_err(strange)?;
    Ok(answer.map_err(|e| StepError { text: no_answer(at, &clean(&e.text)).text, ..e }))
}

/// What became of a connection, where the system's own words say neither that nor what would be right.
fn in_words(e: &Error, when: &str) -> String {
    if hung_up(e) {
        format!("it hung up {when}")
    } else if e.kind() == ErrorKind::ConnectionRefused {
        "nothing listens there: [link] listen in its broker.toml must be this address".to_owned()
    } else if e.kind() == ErrorKind::AddrNotAvailable {
        format!("[link] listen here is no address of this host: {e}")
    } else {
        e.to_string()
    }
}

fn hung_up(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// From another host: bounded already by the length of what it may say.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

async fn measure_over(stream: &mut TcpStream, receipts: &Receipts) -> Result<LinkFigures, Error> {
    let mut rtt = Duration::MAX;
    for number in 0..ECHOES {
        let challenge: Challenge = rand::random();
        let sent = Instant::now();
        stream.write_all(&challenge).await?;
        let mut receipt = Receipt::default();
        stream.read_exact(&mut receipt).await?;
        rtt = rtt.min(sent.elapsed());
        has_it(receipt, receipts.receipt(number, &challenge))?;
    }
    let times = Times::of(rtt);
    let (mut read, mut write) = stream.split();
    let began = Instant::now();
    let until = began + times.all();
    let (tx, mut open) = mpsc::channel::<Challenge>(PARTS as usize);
    let sending = async {
        let mut part = vec![0; PART];
        for _ in 0..PARTS {
            let challenge: Challenge = rand::random();
            let from = PART - challenge.len();
            part[from..].copy_from_slice(&challenge);
            tx.send(challenge).await.map_err(Error::other)?;
            write.write_all(&part).await?;
        }
        std::future::pending::<Result<(), Error>>().await
    };
    let counting = async {
        let mut arrived = Vec::new();
        for number in ECHOES..ECHOES + PARTS {
            let mut receipt = Receipt::default();
            let next = tokio::time::timeout_at(until.into(), read.read_exact(&mut receipt)).await;
            let Ok(next) = next else { break };
            next?;
            let challenge = open.try_recv().map_err(|_| unearned())?;
            has_it(receipt, receipts.receipt(number, &challenge))?;
            arrived.push(began.elapsed());
        }
        Ok::<_, Error>(arrived)
    };
    let arrived = tokio::select! {
        counted = counting => counted?,
        sent = sending => return Err(sent.err().unwrap_or_else(|| Error::other("nothing was counted"))),
    };
    let rate_mib_s = rate_mib_s(&arrived, &times);
    Ok(LinkFigures { rtt_ms: rtt.as_secs_f64() * 1000.0, rate_mib_s })
}

fn has_it(receipt: Receipt, right: Receipt) -> Result<(), Error> {
    if receipt == right { Ok(()) } else { Err(unearned()) }
}

fn unearned() -> Error {
    Error::new(ErrorKind::InvalidData, "it acknowledged what it did not have")
}
