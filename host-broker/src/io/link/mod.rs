//! Brokers speak to each other directly, to measure the way between two hosts and to have a network stretched at both
//! ends. Everything else goes by libvirt.
//!
//! ```text
//!   who listens                               who connects
//!   MAGIC, 32 random bytes          ───────>
//!                                  <───────   length, JSON (who, whom, 32 random bytes of its own, what), its MAC over
//!                                             the other's random bytes and the JSON
//!   length, JSON (or why not),
//!   MAC over that MAC and the JSON  ───────>
//!                          measure: <─────>   16 random bytes, answered with their MAC, five times; then as much as fits
//!                                             in a second or more, in parts: each ends in 16 random bytes, and is
//!                                             acknowledged with their MAC
//! ```
//! Only configured hosts' addresses are listened to, and only what has the pool's secret ([`AliasKey`]) behind it counts,
//! on both sides. A question is for one host and one conversation, and so is its answer: what was said once, or to somebody
//! else, is worth nothing. Who acknowledges a part has it: nothing that is measured is the other end's word. Nothing is
//! encrypted: what is said here is no secret. All is bounded: bytes, time, and how many at once.
//!
//! [`AliasKey`]: crate::alias::AliasKey

mod client;
mod rate;
mod server;

pub use client::{OneAtATime, ask, measure};
pub use server::{Waiting, listen, serve};

use crate::config::Config;
use crate::network::{PeerAsk, StepError};
use serde::{Deserialize, Serialize};
use std::io::{Error, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MAGIC: &[u8; 8] = b"COMSLNK1";
/// JSON of either side.
const LONGEST: u32 = 8192;
/// Until somebody has said what they want.
const GREETING_LIMIT: Duration = Duration::from_secs(2);
const ECHOES: u32 = 5;
/// A measurement is over after that long, or that many bytes, whichever is first.
const MEASURE_LIMIT: Duration = Duration::from_secs(14);
const PART: usize = 32 * 1024;
/// 64 MiB.
const PARTS: u32 = 2048;

/// The other brokers, as this one is to know them.
#[derive(Debug, Clone)]
pub struct Pool {
    key: [u8; 32],
    /// This host.
    me: String,
    /// From where it connects, so that it is known there.
    from: Option<IpAddr>,
    hosts: Vec<(String, Vec<IpAddr>)>,
    /// A step at the other end may take that long.
    step_limit: Duration,
}

impl Pool {
    pub fn of(config: &Config, key: [u8; 32]) -> Self {
        let addresses = |h: &crate::config::Host| -> Vec<IpAddr> {
            h.link.map(|l| l.ip()).into_iter().chain(h.address).collect()
        };
        Self {
            key,
            me: config.me.name.clone(),
            from: config.link.listen.map(|l| l.ip()).filter(|ip| !ip.is_unspecified()),
            hosts: config.peers.iter().map(|p| (p.name.clone(), addresses(p))).collect(),
            step_limit: config.network.as_ref().map_or(Duration::from_secs(30), |n| n.timeout),
        }
    }

    fn knows(&self, from: IpAddr) -> bool {
        self.hosts.iter().any(|(_, addresses)| addresses.contains(&from.to_canonical()))
    }

    fn is(&self, host: &str, from: IpAddr) -> bool {
        self.hosts.iter().any(|(name, all)| name == host && all.contains(&from.to_canonical()))
    }

    /// A question is signed over what the other side drew, an answer over the question's signature.
    fn mac(&self, side: &[u8; 8], over: &Mac, json: &[u8]) -> Mac {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(side).update(over).update(json);
        *hasher.finalize().as_bytes()
    }
}

type Mac = [u8; 32];

const ASKS: &[u8; 8] = b"asks....";
const ANSWERS: &[u8; 8] = b"answers.";
const MEASURES: &[u8; 8] = b"measures";

#[derive(Debug, Serialize, Deserialize)]
struct Said {
    host: String,
    /// Whom this is for.
    to: String,
    /// Drawn by who asks, so that no answer fits two questions.
    drawn: [u8; 32],
    what: What,
}

/// The last bytes of what is sent to be measured; nobody knows them before they have come.
type Challenge = [u8; 16];
type Receipt = [u8; 8];

/// Makes receipts: what only the two ends of this conversation can.
struct Receipts(Mac);

impl Receipts {
    fn of(pool: &Pool, question: &Mac) -> Self {
        Self(pool.mac(MEASURES, question, b""))
    }

    fn receipt(&self, number: u32, challenge: &Challenge) -> Receipt {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&number.to_be_bytes()).update(challenge);
        let mut receipt = Receipt::default();
        hasher.finalize_xof().fill(&mut receipt);
        receipt
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum What {
    Measure,
    Network(PeerAsk),
}

/// Length, JSON and MAC.
async fn write_signed(stream: &mut TcpStream, json: &[u8], mac: Mac) -> std::io::Result<()> {
    let length = u32::try_from(json.len()).map_err(Error::other)?;
    let mut all = length.to_be_bytes().to_vec();
    all.extend_from_slice(json);
    all.extend_from_slice(&mac);
    stream.write_all(&all).await
}

/// With its signature. None instead of what was said: nobody signed that who has the pool's secret.
async fn read_signed(
    stream: &mut TcpStream,
    mac: impl FnOnce(&[u8]) -> Mac,
) -> std::io::Result<(Option<Vec<u8>>, Mac)> {
    let length = stream.read_u32().await?;
    if length > LONGEST {
        return Err(Error::new(ErrorKind::InvalidData, "longer than anything that is said here"));
    }
    let mut json = vec![0; length as usize];
    stream.read_exact(&mut json).await?;
    let mut signed = [0; 32];
    stream.read_exact(&mut signed).await?;
    // In constant time.
    let is_right = blake3::Hash::from_bytes(signed) == blake3::Hash::from_bytes(mac(&json));
    Ok((is_right.then_some(json), signed))
}

type Answered = Result<(), StepError>;

fn no_answer(at: SocketAddr, why: &str) -> StepError {
    StepError { later: true, text: format!("the broker at {at}: {why}") }
}

#[cfg(test)]
mod tests;
