//! What somebody should look at: raised once, shown as long as it lasts, and its end is logged too.

use super::Broker;
use crate::action::Level;
use crate::control::{Alarm, StandingView};
use crate::event::Now;
use uuid::Uuid;

/// What an alarm is about; one of each kind per guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A paused copy of unknown worth is here.
    LeftPaused,
    /// A guest that had an agent says nothing since it arrived.
    Silent,
    /// The other hosts cannot see this broker.
    NoMark,
    /// A stretched network cannot be taken down.
    Network,
    /// The migration network cannot be used.
    MigrationLink,
    /// Images that were made for a move that failed are still at its destination.
    Disks,
}

impl Broker {
    /// Said once; the text may change while it lasts.
    pub(super) fn raise(&mut self, now: Now, kind: Kind, guest: Option<Uuid>, text: String) {
        let domain = guest.and_then(|u| self.guests.get(&u)).map(|g| g.domain.name.clone());
        let is_new = !self.alarms.contains_key(&(kind, guest));
        let alarm = self.alarms.entry((kind, guest)).or_insert(Alarm {
            domain,
            uuid: guest,
            since_unix_ms: now.unix_ms,
            text: String::new(),
        });
        alarm.text.clone_from(&text);
        if is_new {
            self.log(Level::Alarm, guest, text);
        }
    }

    /// It is over; fine if it never was.
    pub(super) fn settled(&mut self, kind: Kind, guest: Option<Uuid>) {
        if let Some(alarm) = self.alarms.remove(&(kind, guest)) {
            self.log(Level::Info, guest, format!("over: {}", alarm.text));
        }
    }

    /// The guest is not here any more, and with it what was wrong.
    pub(super) fn settled_with(&mut self, guest: Uuid) {
        self.settled(Kind::LeftPaused, Some(guest));
        self.settled(Kind::Silent, Some(guest));
    }

    pub(super) fn standing_view(&self) -> StandingView {
        StandingView {
            paused: self.paused,
            libvirt: self.connected,
            config_read_unix_ms: self.config_read_unix_ms,
            alarms: self.alarms.values().cloned().collect(),
        }
    }
}
