//! The end that listens.

use super::super::StartError;
use super::{
    ANSWERS, ASKS, Answered, Challenge, ECHOES, GREETING_LIMIT, MAGIC, MEASURE_LIMIT, Mac, PART, PARTS, Pool,
    Receipts, Said, What, read_signed, write_signed,
};
use crate::event::Event;
use crate::network::{PeerCaller, StepError};
use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tracing::{debug, warn};

/// Conversations at once, of brokers that were known by their signature.
const CONNECTIONS: usize = 16;
/// Of each address, until it has shown who it is: a host's guests may have its address, and must not keep others out.
const UNKNOWN: usize = 4;
/// Whoever knocks as often as they like is worth one line in so long.
const COMPLAIN_EVERY: Duration = Duration::from_secs(300);

pub fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    TcpListener::from_std(listener).map_err(failed)
}

/// Brokers that wait for an answer.
#[derive(Clone, Default)]
pub struct Waiting(Arc<Mutex<HashMap<PeerCaller, oneshot::Sender<Answered>>>>);

impl Waiting {
    pub fn answer(&self, caller: PeerCaller, result: Answered) {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&caller);
        if let Some(waiting) = waiting {
            let _ = waiting.send(result);
        }
    }

    fn wait(&self, caller: PeerCaller) -> oneshot::Receiver<Answered> {
        let (tx, rx) = oneshot::channel();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(caller, tx);
        rx
    }
}

pub fn serve(listener: TcpListener, pool: watch::Receiver<Pool>, tx: mpsc::Sender<Event>) -> Waiting {
    let waiting = Waiting::default();
    let given = waiting.clone();
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut unknown: HashMap<IpAddr, Arc<Semaphore>> = HashMap::new();
        let measuring = Arc::new(Semaphore::new(1));
        let mut complaint = Complaint::default();
        let mut number = 0;
        loop {
            let Ok((stream, from)) = listener.accept().await else {
                // Out of descriptors: wait for some to be freed.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            if !pool.borrow().knows(from.ip()) {
                complaint.about(from.ip(), "it is no host of the configuration ([[hosts]] link, address)");
                continue;
            }
            // Bounded: of configured hosts only.
            unknown.retain(|_, places| places.available_permits() < UNKNOWN);
            let of_this = unknown.entry(from.ip().to_canonical());
            let of_this = of_this.or_insert_with(|| Arc::new(Semaphore::new(UNKNOWN)));
            let Ok(unknown) = of_this.clone().try_acquire_owned() else {
                complaint
                    .about(from.ip(), "too many connections of its are open that have not said who they are");
                continue;
            };
            number += 1;
            let door = Door {
                caller: PeerCaller(number),
                from: from.ip(),
                pool: pool.borrow().clone(),
                waiting: waiting.clone(),
                places: places.clone(),
                measuring: measuring.clone(),
                tx: tx.clone(),
            };
            tokio::spawn(async move {
                if let Err(e) = door.converse(stream, unknown).await {
                    debug!(%from, "another broker: {e}");
                }
            });
        }
    });
    given
}

struct Door {
    caller: PeerCaller,
    from: IpAddr,
    pool: Pool,
    waiting: Waiting,
    places: Arc<Semaphore>,
    measuring: Arc<Semaphore>,
    tx: mpsc::Sender<Event>,
}

impl Door {
    async fn converse(self, mut stream: TcpStream, unknown: OwnedSemaphorePermit) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let nonce: [u8; 32] = rand::random();
        let greeting = async {
            stream.write_all(MAGIC).await?;
            stream.write_all(&nonce).await?;
            read_signed(&mut stream, |json| self.pool.mac(ASKS, &nonce, json)).await
        };
        let (said, question) = tokio::time::timeout(GREETING_LIMIT, greeting).await??;
        let said = said.and_then(|json| serde_json::from_slice::<Said>(&json).ok());
        let refuse = |text: &str| Err(StepError { later: false, text: text.to_owned() });
        let Some(said) = said else {
            let text =
                "does not know this host by its secret: [aliases] key_file must be the same file on both";
            return self.answer(&mut stream, &question, &refuse(text)).await;
        };
        if !self.pool.is(&said.host, self.from) {
            let text = "knows this host by another address, or name; see [[hosts]] link and address there";
            return self.answer(&mut stream, &question, &refuse(text)).await;
        }
        if said.to != self.pool.me {
            let text = format!("it is `{}`; see [[hosts]] link here, and who has that address", self.pool.me);
            return self.answer(&mut stream, &question, &refuse(&text)).await;
        }
        let Ok(_place) = self.places.clone().try_acquire_owned() else {
            let busy = StepError { later: true, text: "too many other brokers are connected".into() };
            return self.answer(&mut stream, &question, &Err(busy)).await;
        };
        drop(unknown);
        match said.what {
            What::Measure => {
                let Ok(turn) = self.measuring.clone().try_acquire_owned() else {
                    let busy = StepError { later: true, text: "another one is measuring".into() };
                    return self.answer(&mut stream, &question, &Err(busy)).await;
                };
                self.answer(&mut stream, &question, &Ok(())).await?;
                let receipts = Receipts::of(&self.pool, &question);
                let measured = tokio::time::timeout(MEASURE_LIMIT, be_measured(&mut stream, &receipts)).await;
                drop(turn);
                measured.unwrap_or(Ok(()))
            }
            What::Network(ask) => {
                let Some(ask) = ask.checked() else {
                    return self
                        .answer(&mut stream, &question, &refuse("does not understand what it is asked"))
                        .await;
                };
                let result = self.waiting.wait(self.caller);
                let (caller, host, ask) = (self.caller, said.host.clone(), Box::new(ask));
                let _ = self.tx.send(Event::PeerAsked { caller, host, ask }).await;
                let result = result.await.unwrap_or_else(|_| refuse("ends"));
                self.answer(&mut stream, &question, &result).await
            }
        }
    }

    async fn answer(&self, stream: &mut TcpStream, question: &Mac, result: &Answered) -> std::io::Result<()> {
        let json = serde_json::to_vec(result)?;
        let mac = self.pool.mac(ANSWERS, question, &json);
        let said = write_signed(stream, &json, mac);
        tokio::time::timeout(GREETING_LIMIT, said).await?
    }
}

/// Gives a receipt for each challenge, and then for each part, once all of it is here.
async fn be_measured(stream: &mut TcpStream, receipts: &Receipts) -> std::io::Result<()> {
    let mut challenge = Challenge::default();
    for number in 0..ECHOES {
        stream.read_exact(&mut challenge).await?;
        stream.write_all(&receipts.receipt(number, &challenge)).await?;
    }
    let mut part = vec![0; PART];
    for number in ECHOES..ECHOES + PARTS {
        match stream.read_exact(&mut part).await {
            Ok(_) => {}
            // It has measured enough.
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => break,
            Err(e) => return Err(e),
        }
        let from = PART - challenge.len();
        challenge.copy_from_slice(&part[from..]);
        stream.write_all(&receipts.receipt(number, &challenge)).await?;
    }
    Ok(())
}

#[derive(Default)]
struct Complaint {
    said: Option<Instant>,
    left_out: u64,
}

impl Complaint {
    fn about(&mut self, from: IpAddr, why: &str) {
        if self.said.is_some_and(|at| at.elapsed() < COMPLAIN_EVERY) {
            self.left_out += 1;
            return;
        }
        self.said = Some(Instant::now());
        let before = std::mem::take(&mut self.left_out);
        warn!(%from, before, "somebody at link.listen is turned away: {why}");
    }
}
