//! Both ends on loopback.

use super::*;
use crate::event::Event;
use crate::network::{End, Verb};
use coms_protocol::types::MigrationId;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn pool(me: &str, key: u8, hosts: &[&str]) -> Pool {
    Pool {
        key: [key; 32],
        me: me.into(),
        from: None,
        hosts: hosts.iter().map(|h| (h.to_string(), vec![HERE])).collect(),
        step_limit: Duration::from_secs(30),
    }
}

struct There {
    at: SocketAddr,
    events: mpsc::Receiver<Event>,
    waiting: Waiting,
    _pool: watch::Sender<Pool>,
}

fn there(known: Pool) -> There {
    let listener = listen(SocketAddr::new(HERE, 0)).unwrap();
    let at = listener.local_addr().unwrap();
    let (tx, events) = mpsc::channel(8);
    let (_pool, open) = watch::channel(known);
    There { at, events, waiting: serve(listener, open, tx), _pool }
}

fn run(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

fn receive() -> PeerAsk {
    let end = |name: &str| End { name: name.into(), site: None, address: HERE };
    let (verb, vm, migration) = (Verb::Receive, Uuid::nil(), MigrationId(1));
    PeerAsk { verb, vm, migration, interfaces: Vec::new(), here: end("h1"), there: end("h2") }
}

#[test]
fn a_way_is_measured() {
    run(async {
        let there = there(pool("h2", 1, &["h1"]));
        let figures = measure(&pool("h1", 1, &[]), "h2", there.at, OneAtATime::default()).await.unwrap();
        assert!(figures.rtt_ms > 0.0 && figures.rtt_ms < 1000.0, "{figures:?}");
        assert!(figures.rate_mib_s > 1.0, "{figures:?}");
    });
}

#[test]
fn two_at_once_take_turns() {
    run(async {
        let there = there(pool("h2", 1, &["h1", "h3"]));
        let (one, other) = (pool("h1", 1, &[]), pool("h3", 1, &[]));
        let (a, b) = tokio::join!(
            measure(&one, "h2", there.at, OneAtATime::default()),
            measure(&other, "h2", there.at, OneAtATime::default())
        );
        assert!(a.is_ok() && b.is_ok(), "{a:?} {b:?}");
    });
}

#[test]
fn who_is_not_known_is_not_listened_to() {
    run(async {
        let me = pool("h1", 1, &[]);
        let other_secret = there(pool("h2", 2, &["h1"]));
        let e = measure(&me, "h2", other_secret.at, OneAtATime::default()).await.unwrap_err();
        assert!(e.text.contains("key_file"), "{e:?}");
        let other_name = there(pool("h2", 1, &["h3"]));
        let e = measure(&me, "h2", other_name.at, OneAtATime::default()).await.unwrap_err();
        assert!(e.text.contains("another address, or name"), "{e:?}");
        let nobody = there(pool("h2", 1, &[]));
        let e = ask(&me, "h2", nobody.at, &receive()).await.unwrap_err();
        assert!(e.later && e.text.contains("hung up at once: it has 127.0.0.1 as no host"), "{e:?}");
        let gone = SocketAddr::new(HERE, 1);
        let e = measure(&me, "h2", gone, OneAtATime::default()).await.unwrap_err();
        assert!(e.text.contains("127.0.0.1:1: nothing listens there: [link] listen"), "{e:?}");
    });
}

#[test]
fn what_is_asked_comes_to_the_broker_and_its_answer_back() {
    run(async {
        let mut there = there(pool("h2", 1, &["h1"]));
        let waiting = there.waiting.clone();
        let answering = async {
            let Some(Event::PeerAsked { caller, host, ask }) = there.events.recv().await else { panic!() };
            assert_eq!((host.as_str(), *ask), ("h1", receive()));
            waiting.answer(caller, Err(StepError { later: false, text: "no\x1b such bridge".into() }));
        };
        let me = pool("h1", 1, &[]);
        let wanted = receive();
        let (answer, ()) = tokio::join!(ask(&me, "h2", there.at, &wanted), answering);
        let e = answer.unwrap_err();
        assert!(!e.later && e.text.ends_with("no such bridge"), "{e:?}");
        // Preparing is nothing that one broker asks another to do.
        let wrong = PeerAsk { verb: Verb::Prepare, ..receive() };
        assert!(!ask(&me, "h2", there.at, &wrong).await.unwrap_err().later);
    });
}

/// A question that was recorded is worth nothing in the next conversation.
#[test]
fn what_was_signed_once_does_not_count_again() {
    run(async {
        let there = there(pool("h2", 1, &["h1"]));
        let me = pool("h1", 1, &[]);
        let greet = async || {
            let mut stream = TcpStream::connect(there.at).await.unwrap();
            let (mut magic, mut nonce) = ([0; 8], [0; 32]);
            stream.read_exact(&mut magic).await.unwrap();
            stream.read_exact(&mut nonce).await.unwrap();
            (stream, nonce)
        };
        let said = Said { host: "h1".into(), to: "h2".into(), drawn: [0; 32], what: What::Measure };
        let json = serde_json::to_vec(&said).unwrap();
        let (_, old) = greet().await;
        let (mut stream, nonce) = greet().await;
        assert_ne!(old, nonce);
        let question = me.mac(ASKS, &old, &json);
        write_signed(&mut stream, &json, question).await.unwrap();
        let answer = read_signed(&mut stream, |json| me.mac(ANSWERS, &question, json)).await.unwrap();
        let answer: Answered = serde_json::from_slice(&answer.0.unwrap()).unwrap();
        assert!(answer.unwrap_err().text.contains("secret"));
    });
}

#[test]
fn who_hangs_up_midway_is_told_in_words() {
    run(async {
        let listener = tokio::net::TcpListener::bind((HERE, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let hanging_up = async {
            for answers in [false, true] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let nonce = [7; 32];
                stream.write_all(MAGIC).await.unwrap();
                stream.write_all(&nonce).await.unwrap();
                let there = pool("h2", 1, &["h1"]);
                let said = read_signed(&mut stream, |json| there.mac(ASKS, &nonce, json)).await.unwrap();
                assert!(said.0.is_some());
                if answers {
                    let json = serde_json::to_vec(&Answered::Ok(())).unwrap();
                    let mac = there.mac(ANSWERS, &said.1, &json);
                    write_signed(&mut stream, &json, mac).await.unwrap();
                    stream.read_u8().await.unwrap();
                }
            }
        };
        let me = pool("h1", 1, &[]);
        let asking = async {
            let e = ask(&me, "h2", at, &receive()).await.unwrap_err();
            assert!(
                e.later && e.text.ends_with("it hung up before it answered; its log may say why"),
                "{e:?}"
            );
            let e = measure(&me, "h2", at, OneAtATime::default()).await.unwrap_err();
            assert!(e.text.ends_with("it hung up while the way was measured"), "{e:?}");
        };
        tokio::join!(hanging_up, asking);
    });
}

/// Who has recorded a whole conversation and takes the other host's place has nothing of it.
#[test]
fn an_answer_that_was_recorded_is_none_to_the_next_question() {
    run(async {
        let there = there(pool("h2", 1, &["h1"]));
        let listener = tokio::net::TcpListener::bind((HERE, 0)).await.unwrap();
        let between = listener.local_addr().unwrap();
        let recording = async {
            // The first time it passes all on; then it plays the other host.
            let (mut asks, _) = listener.accept().await.unwrap();
            let mut answers = TcpStream::connect(there.at).await.unwrap();
            let mut greeting = [0; 40];
            answers.read_exact(&mut greeting).await.unwrap();
            asks.write_all(&greeting).await.unwrap();
            let mut said = vec![0; 65536];
            let n = asks.read(&mut said).await.unwrap();
            answers.write_all(&said[..n]).await.unwrap();
            let mut answer = vec![0; 65536];
            let n = answers.read(&mut answer).await.unwrap();
            answer.truncate(n);
            asks.write_all(&answer).await.unwrap();
            drop((asks, answers));
            let (mut asks, _) = listener.accept().await.unwrap();
            asks.write_all(&greeting).await.unwrap();
            assert!(asks.read(&mut said).await.unwrap() > 0);
            asks.write_all(&answer).await.unwrap();
            while asks.read(&mut said).await.is_ok_and(|n| n > 0) {}
        };
        let asking = async {
            let me = pool("h1", 1, &[]);
            let e = measure(&me, "h2", between, OneAtATime::default()).await.unwrap_err();
            assert!(
                e.text.contains("hung up while the way was measured"),
                "the answer itself was right: {e:?}"
            );
            let e = measure(&me, "h2", between, OneAtATime::default()).await.unwrap_err();
            assert!(e.text.contains("no answer to what was asked"), "{e:?}");
        };
        tokio::join!(recording, asking);
    });
}

#[test]
fn what_is_for_one_host_is_not_for_another() {
    run(async {
        let mut other = there(pool("h3", 1, &["h1"]));
        let e = ask(&pool("h1", 1, &[]), "h2", other.at, &receive()).await.unwrap_err();
        assert!(!e.later && e.text.contains("it is `h3`"), "{e:?}");
        assert!(other.events.try_recv().is_err(), "nothing was done");
    });
}

/// One that has the secret, and says that it has what it has not.
#[test]
fn receipts_are_not_given_in_advance() {
    run(async {
        let listener = tokio::net::TcpListener::bind((HERE, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let lying = async {
            for echoes in [0, ECHOES] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (nonce, there) = ([7; 32], pool("h2", 1, &["h1"]));
                stream.write_all(MAGIC).await.unwrap();
                stream.write_all(&nonce).await.unwrap();
                let said = read_signed(&mut stream, |json| there.mac(ASKS, &nonce, json)).await.unwrap();
                let json = serde_json::to_vec(&Answered::Ok(())).unwrap();
                write_signed(&mut stream, &json, there.mac(ANSWERS, &said.1, &json)).await.unwrap();
                let receipts = Receipts::of(&there, &said.1);
                for number in 0..echoes {
                    let mut challenge = Challenge::default();
                    stream.read_exact(&mut challenge).await.unwrap();
                    stream.write_all(&receipts.receipt(number, &challenge)).await.unwrap();
                }
                let _ = stream.write_all(&[0; 64]).await;
                let mut rest = vec![0; PART];
                while stream.read(&mut rest).await.is_ok_and(|n| n > 0) {}
            }
        };
        let asking = async {
            for _ in 0..2 {
                let e = measure(&pool("h1", 1, &[]), "h2", at, OneAtATime::default()).await.unwrap_err();
                assert!(e.text.contains("acknowledged what it did not have"), "{e:?}");
            }
        };
        tokio::join!(lying, asking);
    });
}

/// A guest behind its host's address keeps nobody else's broker out.
#[test]
fn who_says_nothing_takes_no_place_of_others() {
    run(async {
        let other: IpAddr = [127, 0, 0, 2].into();
        let mut known = pool("h2", 1, &["h1"]);
        known.hosts.push(("h3".into(), vec![other]));
        let there = there(known);
        let mut silent = Vec::new();
        for _ in 0..40 {
            silent.push(TcpStream::connect(there.at).await.unwrap());
        }
        let me = Pool { from: Some(other), ..pool("h3", 1, &[]) };
        let figures = measure(&me, "h2", there.at, OneAtATime::default()).await;
        assert!(figures.is_ok(), "{figures:?}");
    });
}
