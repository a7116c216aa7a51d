//! Counts clients aside, in a thread of its own: thousands of connections and a database of megabytes are nothing that
//! the link to the host should wait for. What comes back is sums; see [`crate::decide::clients`].

use super::capture::Capture;
use super::geo::GeoFile;
use super::{now, sock_diag};
use crate::decide::clients::Count;
use crate::decide::clients::count::Counter;
use crate::event::{Event, Seen};
use std::hash::RandomState;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::warn;

/// The thread that counts, if one does. Ends when dropped.
#[derive(Default)]
pub(super) struct Clients(Option<Sender<Box<Count>>>);

impl Clients {
    /// So from now on, or not at all.
    pub(super) fn set(&mut self, count: Option<Box<Count>>, events: &mpsc::Sender<Event>) {
        let Some(count) = count else {
            self.0 = None;
            return;
        };
        let sent = match &self.0 {
            Some(to) => to.send(count).map_err(|e| e.0),
            None => Err(count),
        };
        let Err(count) = sent else { return };
        let (to, orders) = channel();
        let events = events.clone();
        let worker = thread::Builder::new().name("clients".to_owned()).stack_size(256 * 1024);
        match worker.spawn(move || Worker::new(*count).run(&orders, &events)) {
            Ok(_) => self.0 = Some(to),
            Err(e) => warn!("no thread to count clients with: {e}"),
        }
    }
}

struct Worker {
    count: Count,
    geo: GeoFile,
    counter: Counter,
    capture: Option<Capture>,
    /// Why there is no capture, to be told.
    no_capture: Option<String>,
    due: Duration,
    /// When the last look began.
    looked: Duration,
}

impl Worker {
    fn new(count: Count) -> Self {
        let (at, geo) = (now().mono, GeoFile::new(&count.config.database));
        let mut worker = Self {
            counter: Self::counter(&count),
            geo,
            count,
            capture: None,
            no_capture: None,
            due: at,
            looked: at,
        };
        worker.start_capture();
        worker
    }

    fn counter(count: &Count) -> Counter {
        Counter::new(&count.config, count.regions.clone(), RandomState::new())
    }

    fn start_capture(&mut self) {
        self.capture = None;
        if self.count.config.capture {
            match Capture::start(&self.count.config) {
                Ok(capture) => self.capture = Some(capture),
                Err(why) => self.no_capture = Some(why),
            }
        }
    }

    fn run(mut self, orders: &Receiver<Box<Count>>, events: &mpsc::Sender<Event>) {
        loop {
            match orders.recv_timeout(self.due.saturating_sub(now().mono)) {
                Ok(count) => self.set(*count),
                Err(RecvTimeoutError::Timeout) => {
                    let at = now().mono;
                    self.due = (self.due + self.count.config.sample).max(at);
                    let news =
                        [self.geo.refresh().map(Seen::Database), self.no_capture.take().map(Seen::NoCapture)];
                    for seen in news.into_iter().flatten().chain(self.look(at)) {
                        if events.blocking_send(Event::Clients(seen)).is_err() {
                            return;
                        }
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn set(&mut self, count: Count) {
        let old = std::mem::replace(&mut self.count, count);
        if self.count.config.database != old.config.database {
            self.geo = GeoFile::new(&self.count.config.database);
        }
        if self.count.config != old.config {
            self.start_capture();
        }
        // What connections carried while plugins were believed is not carried now.
        let other_source = self.count.listed.is_some() != old.listed.is_some();
        if other_source || (&self.count.config, &self.count.regions) != (&old.config, &old.regions) {
            self.counter = Self::counter(&self.count);
        }
        self.due = now().mono;
    }

    fn look(&mut self, at: Duration) -> Option<Seen> {
        let geo = self.geo.get()?;
        let since = std::mem::replace(&mut self.looked, at);
        // Before the kernel's list: what has ended by now is not on it.
        let short = self.capture.as_ref().map(Capture::take).unwrap_or_default();
        let Count { config, regions, listed } = &self.count;
        if let Some(listed) = listed {
            let locate = |a| geo.locate(a);
            let look = Counter::listed(config, regions.clone(), RandomState::new(), listed, locate);
            return Some(Seen::Look(Box::new(look)));
        }
        self.counter.begin(at);
        let counter = &mut self.counter;
        // Older ones were on the list before.
        for short in short.iter().filter(|s| s.begun.is_none_or(|begun| begun >= since)) {
            counter.see(&short.flow, |a| geo.locate(a));
        }
        let seen = sock_diag::connections(&config.ports, |flow| counter.see(flow, |a| geo.locate(a)));
        let look = self.counter.end();
        Some(match seen {
            Ok(()) => Seen::Look(Box::new(look)),
            Err(e) => {
                // Only a part was seen, or nothing.
                self.counter.forget_past();
                Seen::Trouble(format!("the kernel's list of connections (sock_diag) cannot be read: {e}"))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::clients::count::Flow;
    use crate::decide::clients::place::{Located, Regions};
    use std::net::IpAddr;

    #[test]
    fn what_was_carried_while_plugins_were_believed_is_not_carried_now() {
        let text = "[clients]\ndatabase = \"/no/such.mmdb\"\n";
        let config =
            crate::config::Config::parse(text, std::path::Path::new("agent.toml")).unwrap().clients.unwrap();
        let count = Count { config, regions: Regions::new(&[], &[]), listed: None };
        let mut worker = Worker::new(count.clone());
        let peer = IpAddr::from([81, 2, 69, 1]);
        let flow = Flow { peer, own: [193, 0, 0, 1].into(), cookie: 1, acked: 99, received: 0, rtt_us: None };
        worker.counter.begin(Duration::ZERO);
        worker.counter.see(&flow, |_| Located::default());
        let listed = Some(vec![(peer, 1.0)]);
        worker.set(Count { listed: listed.clone(), ..count.clone() });
        assert_eq!(worker.counter.held()[0], 0);
        worker.counter.see(&flow, |_| Located::default());
        worker.set(Count { listed: Some(Vec::new()), ..count.clone() });
        assert_eq!(worker.counter.held()[0], 1, "the same source");
        worker.set(count);
        assert_eq!(worker.counter.held()[0], 0);
    }
}
