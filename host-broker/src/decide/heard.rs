//! What guests' links bring.

use super::{Broker, alarms};
use crate::event::{LinkEvent, Now};
use coms_protocol::guest_to_host::GuestToHost;
use coms_protocol::host_to_guest::HostToGuest;
use coms_protocol::types::EncryptionLevel;
use uuid::Uuid;

impl Broker {
    pub(super) fn link(&mut self, now: Now, uuid: Uuid, event: LinkEvent) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        match event {
            LinkEvent::Established { hello, new_peer } => {
                guest.agent = Some(hello.agent.to_string());
                guest.waiting = hello.waiting.as_slice().to_vec();
                if new_peer {
                    guest.attend = None;
                }
                self.settled(alarms::Kind::Silent, Some(uuid));
                self.answer_waiting(uuid);
                if new_peer {
                    self.let_go(now, uuid);
                    self.tell_announced(now, uuid);
                    self.seal_new_peer(now, uuid);
                }
            }
            LinkEvent::Lost => {
                guest.agent = None;
                self.let_go(now, uuid);
            }
            LinkEvent::Said(GuestToHost::Request(request)) => {
                self.request(now, uuid, request, EncryptionLevel::Never)
            }
            LinkEvent::Said(GuestToHost::ProtectedRequest(m)) => self.request(now, uuid, m.request, m.level),
            LinkEvent::Said(GuestToHost::Protect(m)) => self.protect(now, uuid, m),
            // Answered on the spot by the link: they ask nothing of the broker.
            LinkEvent::Said(GuestToHost::Cancel(cancel)) => {
                self.cancelled_by_guest(now, uuid, cancel.request)
            }
            LinkEvent::Said(GuestToHost::Ping(_) | GuestToHost::TimeQuery(_)) => {}
            LinkEvent::Said(GuestToHost::Attend(m)) => self.attend(now, uuid, m),
            LinkEvent::Said(GuestToHost::Ready(m)) => self.ready(now, uuid, m),
            LinkEvent::Said(GuestToHost::Hold(m)) => self.hold(now, uuid, m),
            LinkEvent::Said(GuestToHost::Postpone(m)) => self.postpone(now, uuid, m),
            LinkEvent::Said(GuestToHost::Veto(m)) => self.veto(now, uuid, m),
            LinkEvent::Said(GuestToHost::HostsQuery(m)) => self.hosts_for(now, uuid, m.number),
            LinkEvent::Said(GuestToHost::RandomStart(start)) => self.random_start(now, uuid, start),
            LinkEvent::Said(GuestToHost::RandomStop(stop)) => self.random_stop(now, uuid, stop.number),
            LinkEvent::Said(GuestToHost::RegionsQuery(query)) => self.regions_for(uuid, query.number),
            LinkEvent::Said(GuestToHost::RandomQuery(query)) => self.random_query(now, uuid, query.number),
            LinkEvent::Delivered(HostToGuest::Completed(c)) => {
                self.completed_delivered(now, uuid, c.migration)
            }
            LinkEvent::Delivered(_) => {}
        }
    }
}
