//! The connection over which the agent hears what was measured: one report, one answer.

use crate::reading::plain;
use serde_json::Value;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// The agent answers at once, or hangs.
const PATIENCE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_secs(1);
const MAX_LINE: u64 = 64 * 1024;

/// How the connection stands, for people.
pub(super) type Link = Arc<Mutex<String>>;

pub(super) fn set(link: &Link, text: impl Into<String>) {
    *link.lock().unwrap_or_else(PoisonError::into_inner) = text.into();
}

/// A report, and the plugin that it is of.
pub(super) type Report = (usize, Value);
/// What the agent answered. None: it took it.
pub(super) type Answer = (usize, Option<String>);

/// Hands reports on for as long as there are any. What comes while there is no agent is lost: an old measurement says
/// nothing about now.
pub(super) async fn run(
    path: PathBuf,
    mut reports: mpsc::Receiver<Report>,
    answers: mpsc::Sender<Answer>,
    link: Link,
) {
    loop {
        match UnixStream::connect(&path).await {
            Ok(stream) => {
                set(&link, "connected");
                let why = talk(stream, &mut reports, &answers).await;
                let Err(e) = why else { return };
                set(&link, format!("{}: lost: {e}", path.display()));
            }
            Err(e) => set(&link, format!("{}: cannot be reached: {e}", path.display())),
        }
        sleep(AGAIN).await;
        while let Ok((index, _)) = reports.try_recv() {
            let _ = answers.try_send((index, Some("there is no agent".to_owned())));
        }
    }
}

/// Ok: there are no more reports.
async fn talk(
    stream: UnixStream,
    reports: &mut mpsc::Receiver<Report>,
    answers: &mpsc::Sender<Answer>,
) -> io::Result<()> {
    let mut ends = Ends::new(stream);
    loop {
        let (index, report) = tokio::select! {
            report = reports.recv() => match report {
                Some(report) => report,
                None => return Ok(()),
            },
            // It says nothing unasked but that it goes.
            line = ends.hear() => match line? {
                Some(line) => return Err(io::Error::other(refusal(&line).unwrap_or_else(|| plain(&line.to_string())))),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            },
        };
        ends.say(&report).await?;
        let line =
            timeout(PATIENCE, ends.hear()).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let line = line.ok_or(io::ErrorKind::UnexpectedEof)?;
        let _ = answers.try_send((index, refusal(&line)));
    }
}

/// Why the agent said no.
pub(super) fn refusal(line: &Value) -> Option<String> {
    line.get("error").and_then(Value::as_str).map(plain)
}

/// The agent's socket, by lines.
pub(super) struct Ends {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    held: Vec<u8>,
}

impl Ends {
    pub(super) fn new(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { reader: BufReader::with_capacity(2048, reader), writer, held: Vec::new() }
    }

    pub(super) async fn say(&mut self, line: &Value) -> io::Result<()> {
        timeout(PATIENCE, self.writer.write_all(format!("{line}\n").as_bytes()))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// The next line. Can be given up at any moment: half a line is held. None: it hung up.
    pub(super) async fn hear(&mut self) -> io::Result<Option<Value>> {
        let room = MAX_LINE.saturating_sub(self.held.len() as u64);
        let n = (&mut self.reader).take(room).read_until(b'\n', &mut self.held).await?;
        if n == 0 && room == 0 {
            return Err(io::Error::other("a line without an end"));
        }
        if !self.held.ends_with(b"\n") {
            return Ok(None);
        }
        let line = std::mem::take(&mut self.held);
        serde_json::from_slice(&line).map(Some).map_err(io::Error::other)
    }
}
