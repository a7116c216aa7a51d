//! The connection that is kept open for events, and the thread libvirt's event loop runs on.

use super::calls::{Connection, internal};
use super::events::Tracker;
use super::ffi::{self, Raw, Sink};
use super::lane::lock;
use crate::hypervisor::{HvError, HvEvent};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use virt_sys as sys;

const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// How often to look whether the connection holds and anybody still listens, should nobody say.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Starts libvirt's event loop, once for the process as libvirt has it. It must run before the first connection
/// is opened: a connection opened earlier has no events and no keepalive.
pub(super) fn start_event_loop() -> Result<(), String> {
    static STARTED: OnceLock<Result<(), String>> = OnceLock::new();
    STARTED
        .get_or_init(|| {
            // Its default handler prints every error on stderr.
            virt::error::clear_error_callback();
            virt::event::event_register_default_impl().map_err(|e| e.message().to_owned())?;
            std::thread::Builder::new()
                .name("libvirt events".to_owned())
                .spawn(|| {
                    loop {
                        if let Err(e) = virt::event::event_run_default_impl() {
                            tracing::error!(error = %e, "libvirt's event loop");
                            std::thread::sleep(BACKOFF_MIN);
                        }
                    }
                })
                .map_err(|e| e.to_string())?;
            Ok(())
        })
        .clone()
}

/// Starts the thread that keeps a connection to `uri` and sends what it hears to `tx`, until nobody listens.
/// `up` is true while the connection holds. `tracker` learns from events and from whoever finds a domain incoming.
pub(super) fn start(
    uri: &str,
    tx: UnboundedSender<HvEvent>,
    up: Arc<AtomicBool>,
    tracker: Arc<Mutex<Tracker>>,
) -> std::io::Result<()> {
    let uri: Arc<str> = uri.into();
    let (closed_tx, closed_rx) = channel();
    let sink = {
        let (tracker, tx) = (tracker.clone(), tx.clone());
        Sink::leak(move |raw| {
            if let Raw::Closed { reason } = raw {
                let _ = closed_tx.send(reason);
                return;
            }
            // The lock is held while sending, so that events leave in the order they came.
            let mut tracker = lock(&tracker);
            for event in tracker.hear(raw) {
                let _ = tx.send(event);
            }
        })
    };
    std::thread::Builder::new().name("libvirt keeper".to_owned()).spawn(move || {
        let keeper = Keeper { uri, tx, up, tracker, sink, closed: closed_rx };
        keeper.keep();
    })?;
    Ok(())
}

struct Keeper {
    uri: Arc<str>,
    tx: UnboundedSender<HvEvent>,
    up: Arc<AtomicBool>,
    tracker: Arc<Mutex<Tracker>>,
    sink: &'static Sink,
    closed: Receiver<i32>,
}

impl Keeper {
    fn keep(&self) {
        let mut backoff = BACKOFF_MIN;
        let mut told = false;
        while !self.tx.is_closed() {
            match self.hold_one(&mut told) {
                Ok(why) => {
                    self.up.store(false, Ordering::Release);
                    told = true;
                    backoff = BACKOFF_MIN;
                    self.tell(HvEvent::Disconnected { detail: why });
                }
                Err(e) => {
                    // Once, not at every attempt.
                    if !told {
                        told = true;
                        self.tell(HvEvent::Disconnected { detail: e.to_string() });
                    }
                    std::thread::sleep(backoff);
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    /// Connects, listens, and returns why the connection ended. Err: it never came up.
    fn hold_one(&self, told: &mut bool) -> Result<String, HvError> {
        let connection = Connection::open(&self.uri)?;
        lock(&self.tracker).reset();
        // Word of connections before this one.
        while self.closed.try_recv().is_ok() {}
        let (_subscription, missing) = ffi::subscribe(connection.raw(), self.sink)
            .map_err(|e| internal("subscribe to events", e.message().to_owned()))?;
        for (event, e) in missing {
            tracing::warn!(event, error = %e, "this libvirt does not report an event; doing without");
        }
        *told = false;
        self.up.store(true, Ordering::Release);
        self.tell(HvEvent::Connected);
        loop {
            match self.closed.recv_timeout(LOOK_EVERY) {
                Ok(reason) if !connection.alive() => return Ok(close_reason(reason).to_owned()),
                Ok(_) | Err(RecvTimeoutError::Timeout) => {
                    if !connection.alive() {
                        return Ok("the connection is dead".to_owned());
                    }
                    if self.tx.is_closed() {
                        return Ok("nobody listens".to_owned());
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Ok("no event sink".to_owned()),
            }
        }
    }

    fn tell(&self, event: HvEvent) {
        let _ = self.tx.send(event);
    }
}

fn close_reason(reason: i32) -> &'static str {
    match u32::try_from(reason) {
        Ok(sys::VIR_CONNECT_CLOSE_REASON_EOF) => "libvirtd closed the connection",
        Ok(sys::VIR_CONNECT_CLOSE_REASON_KEEPALIVE) => "libvirtd no longer answers (keepalive)",
        Ok(sys::VIR_CONNECT_CLOSE_REASON_CLIENT) => "closed by this side",
        _ => "connection error",
    }
}
