//! For each plugin that has a say in moves: a connection of its own, registered as an application.

use super::feed::{Ends, refusal};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::warn;

const AGAIN: Duration = Duration::from_secs(2);

/// What the agent says to a plugin.
pub(super) enum Told {
    /// A line.
    Line(usize, Value),
    /// It went away, and with it the registration.
    Lost(usize),
}

/// What registers.
pub(super) struct Registered {
    pub index: usize,
    pub name: String,
    pub notice_s: u32,
    pub hold_s: u32,
}

pub(super) async fn run(
    path: PathBuf,
    who: Registered,
    mut words: mpsc::Receiver<Value>,
    to: mpsc::Sender<Told>,
) {
    let register = json!({ "command": "register", "name": format!("plugin {}", who.name),
        "notice_s": who.notice_s, "hold_s": who.hold_s });
    loop {
        if let Ok(stream) = UnixStream::connect(&path).await {
            let mut ends = Ends::new(stream);
            if ends.say(&register).await.is_ok() {
                talk(&mut ends, &who, &mut words, &to).await;
            }
        }
        if to.send(Told::Lost(who.index)).await.is_err() {
            return;
        }
        sleep(AGAIN).await;
        // About a notice that nobody remembers.
        while words.try_recv().is_ok() {}
    }
}

/// Until one of both ends.
async fn talk(ends: &mut Ends, who: &Registered, words: &mut mpsc::Receiver<Value>, to: &mpsc::Sender<Told>) {
    loop {
        tokio::select! {
            word = words.recv() => match word {
                Some(word) if ends.say(&word).await.is_ok() => {}
                Some(_) | None => return,
            },
            line = ends.hear() => {
                let Ok(Some(line)) = line else { return };
                if let Some(why) = refusal(&line) {
                    warn!("plugin {}: the agent says no: {why}", who.name);
                }
                if to.send(Told::Line(who.index, line)).await.is_err() {
                    return;
                }
            }
        }
    }
}
