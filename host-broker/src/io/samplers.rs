//! One task per host of the pool that looks at it every few seconds. A changed configuration starts and ends only
//! those that it changes.

use super::libvirt::Libvirt;
use crate::config::Config;
use crate::event::Event;
use crate::hypervisor::HvError;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// How often each host is looked at.
const SAMPLE_EVERY: Duration = Duration::from_secs(2);
/// A host that takes longer is held for one that does not answer until it does: a survey would wait for it.
const SLOW: Duration = Duration::from_secs(1);
/// One of another site: a look is a dozen calls and one more for each domain, one after the other, over a line that VMs are
/// copied over as well.
const SLOW_FAR: Duration = Duration::from_secs(4);

/// A host, its URI if it is another one, and how long a look at it may take.
type Looked = (String, Option<String>, Duration);

pub struct Samplers {
    libvirt: Libvirt,
    tx: mpsc::Sender<Event>,
    running: BTreeMap<Looked, AbortHandle>,
}

impl Samplers {
    pub fn new(libvirt: Libvirt, tx: mpsc::Sender<Event>) -> Self {
        Self { libvirt, tx, running: BTreeMap::new() }
    }

    /// These hosts are looked at from now on, and no others.
    pub fn set(&mut self, config: &Config) {
        let peers = config.peers.iter().map(|p| {
            let slow = if p.site == config.me.site { SLOW } else { SLOW_FAR };
            (p.name.clone(), Some(p.libvirt.clone()), slow)
        });
        let me = (config.me.name.clone(), None, SLOW);
        let wanted: Vec<Looked> = std::iter::once(me).chain(peers).collect();
        self.running.retain(|host, task| {
            let stays = wanted.contains(host);
            if !stays {
                task.abort();
            }
            stays
        });
        for host in wanted {
            let (libvirt, tx) = (&self.libvirt, &self.tx);
            self.running
                .entry(host.clone())
                .or_insert_with(|| tokio::spawn(sample(libvirt.clone(), host, tx.clone())).abort_handle());
        }
    }
}

async fn sample(libvirt: Libvirt, (host, remote, slow): Looked, tx: mpsc::Sender<Event>) {
    let mut every = tokio::time::interval(SAMPLE_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let result = match &remote {
            Some(uri) => {
                let mut look = std::pin::pin!(libvirt.sample(uri));
                match tokio::time::timeout(slow, &mut look).await {
                    Ok(result) => result,
                    Err(_) => {
                        let late = HvError::Unreachable {
                            operation: "looking at the host",
                            uri: uri.clone(),
                            detail: format!("no answer for {} s", slow.as_secs()),
                        };
                        let late = Event::Sampled { host: host.clone(), result: Err(late) };
                        if tx.send(late).await.is_err() {
                            return;
                        }
                        look.await
                    }
                }
            }
            None => libvirt.local_sample().await,
        };
        if tx.send(Event::Sampled { host: host.clone(), result }).await.is_err() {
            return;
        }
    }
}
