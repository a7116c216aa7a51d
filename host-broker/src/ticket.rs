//! The ticket: what travels with the VM in its domain's metadata, so that the destination's broker knows of a
//! move without having heard of it. Ids, numbers and enumerations only; nothing a guest wrote.
//!
//! ```xml
//! <coms:ticket xmlns:coms='urn:coms:domain:1' v='1' migration='m…' attempt='…' request='7' initiator='customer'
//!   technique='pre-copy' source='uuid' destination='uuid' written_unix_ms='…' expires_unix_ms='…' autostart='no' agent='yes'
//!   ram='2' disk='0' control='2'/>
//! ```
//! Written before the migrate call (libvirt admits no metadata change during one), removed by the destination
//! once the guest has the outcome, or by the source after a failure.

use coms_protocol::types::{Initiator, MigrationId, Protection, RequestId, Technique};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The metadata namespace.
pub const NAMESPACE: &str = "urn:coms:domain:1";

/// What protects each channel of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channels {
    /// Memory and devices' state.
    pub ram: Protection,
    /// Copies of disks.
    pub disk: Protection,
    /// libvirt's own connection.
    pub control: Protection,
}

/// One attempt to move one VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    pub migration: MigrationId,
    /// Random per attempt: a ticket left over from an older one is told apart by it.
    pub attempt: u64,
    pub request: Option<RequestId>,
    pub initiator: Initiator,
    pub technique: Technique,
    /// libvirt's host UUIDs.
    pub source: Uuid,
    pub destination: Uuid,
    pub written_unix_ms: u64,
    pub expires_unix_ms: u64,
    /// The domain starts with its host: libvirt forgets that on the way.
    pub autostart: bool,
    /// Its agent answered when it left: it should answer where it arrives.
    pub agent: bool,
    /// As it was enforced; None: nobody knows.
    pub channels: Option<Channels>,
}

/// Why a text is no ticket of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    #[error("the ticket is no XML: {0}")]
    Xml(String),
    #[error("the ticket's `{0}` is missing or out of shape")]
    Field(&'static str),
}

impl Ticket {
    pub fn to_xml(self) -> String {
        let request = self.request.map(|r| format!(" request='{}'", r.0)).unwrap_or_default();
        let channels = |c: Channels| {
            let Channels { ram, disk, control } = c;
            format!(" ram='{}' disk='{}' control='{}'", ram.number(), disk.number(), control.number())
        };
        let channels = self.channels.map(channels).unwrap_or_default();
        format!(
            "<ticket v='1' migration='{}' attempt='{}'{request} initiator='{}' technique='{}' source='{}' \
             destination='{}' written_unix_ms='{}' expires_unix_ms='{}' autostart='{}' agent='{}'{channels}/>",
            self.migration,
            self.attempt,
            self.initiator.number(),
            self.technique.number(),
            self.source,
            self.destination,
            self.written_unix_ms,
            self.expires_unix_ms,
            if self.autostart { "yes" } else { "no" },
            if self.agent { "yes" } else { "no" },
        )
    }

    pub fn from_xml(text: &str) -> Result<Self, TicketError> {
        let doc = roxmltree::Document::parse(text).map_err(|e| TicketError::Xml(e.to_string()))?;
        let node = doc.root_element();
        if node.tag_name().name() != "ticket" {
            return Err(TicketError::Field("ticket"));
        }
        fn field<T: std::str::FromStr>(
            node: roxmltree::Node<'_, '_>,
            name: &'static str,
        ) -> Result<T, TicketError> {
            node.attribute(name).and_then(|v| v.parse().ok()).ok_or(TicketError::Field(name))
        }
        if field::<u16>(node, "v")? != 1 {
            return Err(TicketError::Field("v"));
        }
        let channel = |name| field(node, name).map(Protection::from_number);
        // One of before tells of none.
        let channels = match node.attribute("ram") {
            None => None,
            Some(_) => {
                Some(Channels { ram: channel("ram")?, disk: channel("disk")?, control: channel("control")? })
            }
        };
        Ok(Ticket {
            migration: field(node, "migration")?,
            attempt: field(node, "attempt")?,
            request: node.attribute("request").map(|_| field(node, "request").map(RequestId)).transpose()?,
            initiator: Initiator::from_number(field(node, "initiator")?),
            technique: Technique::from_number(field(node, "technique")?),
            source: field(node, "source")?,
            destination: field(node, "destination")?,
            written_unix_ms: field(node, "written_unix_ms")?,
            expires_unix_ms: field(node, "expires_unix_ms")?,
            autostart: node.attribute("autostart") == Some("yes"),
            agent: node.attribute("agent") == Some("yes"),
            channels,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_back_what_it_wrote(m: u64, attempt: u64, request: Option<u64>, who in 0u16..4, how in 0u16..7,
                                    s: u128, d: u128, w: u64, e: u64, autostart: bool, agent: bool,
                                    channels: Option<(u16, u16, u16)>) {
            let channel = Protection::from_number;
            let channels = channels.map(|(ram, disk, control)| Channels {
                ram: channel(ram), disk: channel(disk), control: channel(control),
            });
            let ticket = Ticket {
                migration: MigrationId(m), attempt, request: request.map(RequestId),
                initiator: Initiator::from_number(who), technique: Technique::from_number(how),
                source: Uuid::from_u128(s), destination: Uuid::from_u128(d),
                written_unix_ms: w, expires_unix_ms: e, autostart, agent, channels,
            };
            prop_assert_eq!(Ticket::from_xml(&ticket.to_xml()), Ok(ticket));
        }

        #[test]
        fn never_panics(text in ".{0,200}") { let _ = Ticket::from_xml(&text); }
    }

    #[test]
    fn refuses_a_ticket_without_a_field() {
        let xml = "<ticket v='1' migration='m0000000000000001' attempt='1'/>";
        assert_eq!(Ticket::from_xml(xml), Err(TicketError::Field("initiator")));
    }
}
