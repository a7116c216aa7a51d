//! How well a move must be encrypted, and whether it can be.
//!
//! ```text
//!   the guest's standing wish ┐
//!   the request's level       ├─ the strongest ──> never: plain    if possible: TLS, or plain
//!   the operator's rules      ┘                    required: TLS and an encrypted control connection, or not at all
//! ```
//! An operator's rule `never` forbids TLS between two hosts. It weakens nobody's `required`: such a move is not made.
//! The way there is judged by what both brokers say of their certificates (the signs of life) and by the URI under
//! which the destination's libvirt is reached; what comes of it on the wire, QEMU and libvirt enforce.

pub(super) mod sealed;

use super::Broker;
use super::guest::Plan;
use crate::config::{Encryption, Host};
use crate::event::Now;
use crate::seal::is_required;
use crate::ticket::Channels;
use coms_protocol::types::{DenyReason, EncryptionLevel, Initiator, Protection};
use std::time::Duration;
use uuid::Uuid;

/// For so long TLS with a host with which it did not come about is tried only where it must be.
const TLS_RESTS: Duration = Duration::from_secs(600);

/// What holds for one move, or for all of a guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    pub level: EncryptionLevel,
    /// Who demands it; None: nobody demands anything.
    pub by: Option<Initiator>,
    /// The operator wants no TLS there.
    pub forbidden: bool,
}

/// A move, as far as rules speak of it.
#[derive(Debug, Clone, Copy)]
pub struct Way<'a> {
    pub uuid: Uuid,
    pub name: &'a str,
    pub from: &'a str,
    /// None: wherever to.
    pub to: Option<&'a str>,
}

/// The strongest of what is wanted. `wanted` is the customer's: standing wish and request together.
pub fn demand(policy: &Encryption, way: Way<'_>, wanted: EncryptionLevel) -> Demand {
    let rules = policy.rules.iter().filter(|rule| rule.covers(way.uuid, way.name, way.from, way.to));
    let mut operator = policy.default;
    let mut forbidden = false;
    for rule in rules {
        operator = operator.or(rule.level);
        forbidden |= rule.level == EncryptionLevel::Never;
    }
    let level = operator.or(wanted);
    let customers = EncryptionLevel::Never.or(wanted) == level;
    let who = if customers { Initiator::Customer } else { Initiator::Operator };
    let by = (level != EncryptionLevel::Never).then_some(who);
    Demand { level, by, forbidden }
}

/// What the two ends of a way are ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// QEMU's certificates are there.
    pub here: bool,
    pub there: bool,
    pub control: Protection,
}

/// Why the move cannot be made by TLS, for the operator.
fn no_tls(demand: Demand, ends: Ends) -> Option<&'static str> {
    if demand.forbidden {
        Some("a rule of [encryption] says never")
    } else if !ends.here {
        Some("this host has no certificates for QEMU")
    } else if !ends.there {
        Some("its broker shows no certificates for QEMU")
    } else {
        None
    }
}

/// How the move is made; or why it is not, in words for the operator.
pub fn judge(demand: Demand, ends: Ends) -> Result<Channels, String> {
    let control = ends.control;
    let no_tls = no_tls(demand, ends);
    let protected = |ram| Channels { ram, disk: Protection::None, control };
    match demand.level {
        EncryptionLevel::Never => Ok(protected(Protection::Plain)),
        EncryptionLevel::IfPossible if no_tls.is_none() => Ok(protected(Protection::Tls)),
        EncryptionLevel::IfPossible => Ok(protected(Protection::Plain)),
        EncryptionLevel::Required | EncryptionLevel::Unknown(_) => {
            if let Some(why) = no_tls {
                return Err(format!("encryption is required, and {why}"));
            }
            match control {
                Protection::Tls | Protection::Ssh => Ok(protected(Protection::Tls)),
                Protection::None | Protection::Local | Protection::Plain | Protection::Unknown(_) => {
                    let why = "encryption is required, and hosts[].libvirt is not encrypted: qemu+tls or qemu+ssh, \
                               without no_verify or known_hosts_verify";
                    Err(why.into())
                }
            }
        }
    }
}

/// The same for one that copies disks where that is not done in the clear: by TLS, whoever wants what, or not at all. The
/// destination's QEMU takes the copy, and gives it, until the end of the move and from whoever connects.
pub fn judge_with_disks(demand: Demand, ends: Ends) -> Result<Channels, String> {
    if let Some(why) = no_tls(demand, ends) {
        let key = "[storage] copy_in_the_clear = true would allow it";
        return Err(format!("its disks would be copied in the clear, for {why}; {key}"));
    }
    judge(Demand { level: demand.level.or(EncryptionLevel::IfPossible), ..demand }, ends)
}

/// What protects a libvirt connection to this URI of another host.
pub fn control(uri: &str) -> Protection {
    let (scheme, rest) = uri.split_once("://").unwrap_or((uri, ""));
    let query = rest.split_once('?').map_or("", |(_, query)| query);
    // To whom it leads is not known then, and so neither who listens.
    let unverified = query.split(['&', ';']).filter_map(|p| p.split_once('=')).any(|(key, value)| {
        (key.eq_ignore_ascii_case("no_verify") && value != "0")
            || (key.eq_ignore_ascii_case("known_hosts_verify") && value != "normal")
    });
    match scheme.split_once('+').map(|(_, transport)| transport) {
        _ if unverified => Protection::Plain,
        // libvirt's own choice for a remote URI.
        None | Some("tls") => Protection::Tls,
        Some("ssh" | "libssh" | "libssh2") => Protection::Ssh,
        // Another host's libvirt behind a socket of this one: what carries it there is not known (`unix`), nor what a
        // command does (`ext`).
        Some(_) => Protection::Plain,
    }
}

impl Broker {
    /// What holds for a move of this guest from here to this host, or for each.
    fn demanded(&self, uuid: Uuid, to: Option<&str>, wanted: EncryptionLevel) -> Demand {
        let name = self.guests.get(&uuid).map_or("", |g| g.domain.name.as_str());
        let way = Way { uuid, name, from: &self.config.me.name, to };
        demand(&self.config.encryption, way, wanted)
    }

    /// How a move of this guest to this host would be made now, with what its request wants; with copies of disks or without.
    pub(super) fn channels_to(
        &self,
        now: Now,
        uuid: Uuid,
        wanted: EncryptionLevel,
        there: &Host,
        copies: bool,
    ) -> Result<Channels, String> {
        let Some(guest) = self.guests.get(&uuid) else { return Err("the domain is gone".into()) };
        let demand = self.demanded(uuid, Some(&there.name), guest.seal.strongest().or(wanted));
        let ready = |host: &str| {
            self.hosts.get(host).and_then(|h| h.broker(now.mono)).is_some_and(|mark| mark.tls.is_some())
        };
        let only_by_tls = copies && !self.config.storage.copy_in_the_clear;
        // What need not be encrypted goes without, for a while. What must be is tried again: it may be mended.
        let broke = self.tls_failed.get(&there.name).is_some_and(|at| *at + TLS_RESTS > now.mono);
        let ends = Ends {
            here: ready(&self.config.me.name),
            there: ready(&there.name)
                && !(broke && !only_by_tls && demand.level == EncryptionLevel::IfPossible),
            control: control(&there.libvirt),
        };
        if only_by_tls { judge_with_disks(demand, ends) } else { judge(demand, ends) }
    }

    /// Writing the ticket takes its time, up to half a minute, and what is demanded may have grown since it was settled.
    pub(super) fn still_enough(
        &self,
        now: Now,
        uuid: Uuid,
        plan: &Plan,
        there: &Host,
        settled: Option<Channels>,
    ) -> Result<(), (DenyReason, String)> {
        let copies = plan.copies_disks_to(&there.name);
        let found = self
            .channels_to(now, uuid, plan.encryption, there, copies)
            .map_err(|why| (DenyReason::NotEncryptable, why))?;
        let tls = |c: Channels| c.ram == Protection::Tls;
        if tls(found) && !settled.is_some_and(tls) {
            return Err((DenyReason::Busy, "how it is to be encrypted has changed since its ticket".into()));
        }
        Ok(())
    }

    /// Whether the move that is planned must be encrypted.
    pub(super) fn must_be_encrypted(&self, uuid: Uuid, plan: &Plan) -> bool {
        let strongest = self.guests.get(&uuid).map_or(EncryptionLevel::Never, |g| g.seal.strongest());
        is_required(self.demanded(uuid, plan.destination.as_deref(), strongest.or(plan.encryption)).level)
    }

    /// The certificate that this host's QEMU shows to others.
    pub(super) fn my_certificate(&self, now: Now) -> Option<String> {
        self.hosts.get(&self.config.me.name)?.broker(now.mono)?.tls.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{EncryptionRule, GuestPattern};
    use EncryptionLevel::{IfPossible, Never, Required};
    use proptest::prelude::*;

    fn any_level() -> impl Strategy<Value = EncryptionLevel> {
        (0u16..4).prop_map(EncryptionLevel::from_number)
    }

    fn any_rule() -> impl Strategy<Value = EncryptionRule> {
        let names = || prop::collection::vec(prop::sample::select(vec!["h1", "h2", "h3"]), 0..3);
        let guests = prop::collection::vec(prop::sample::select(vec!["web-*", "db", "*"]), 0..2);
        (guests, names(), names(), (0u16..3)).prop_map(|(guests, hosts, to, level)| EncryptionRule {
            guests: guests.into_iter().map(|g| GuestPattern::Name(g.into())).collect(),
            hosts: hosts.into_iter().map(str::to_owned).collect(),
            to: to.into_iter().map(str::to_owned).collect(),
            level: EncryptionLevel::from_number(level),
        })
    }

    fn any_policy() -> impl Strategy<Value = Encryption> {
        let rules = prop::collection::vec(any_rule(), 0..5);
        (rules, 0u16..3).prop_map(|(rules, default)| Encryption {
            certificates: None,
            tell_certificate: true,
            default: EncryptionLevel::from_number(default),
            rules,
        })
    }

    fn way<'a>(name: &'a str, to: Option<&'a str>) -> Way<'a> {
        Way { uuid: Uuid::nil(), name, from: "h1", to }
    }

    fn any_ends() -> impl Strategy<Value = Ends> {
        (any::<bool>(), any::<bool>(), 0u16..6).prop_map(|(here, there, c)| Ends {
            here,
            there,
            control: Protection::from_number(c),
        })
    }

    proptest! {
        /// Whatever else is wanted, nobody gets less than he wants, nor less than `default`, nor less for one more rule.
        #[test]
        fn nothing_weakens(policy in any_policy(), wanted in any_level(), rule in any_rule(), at in 0usize..5) {
            let there = way("web-1", Some("h2"));
            let found = demand(&policy, there, wanted);
            prop_assert_eq!(found.level.or(wanted), found.level);
            prop_assert_eq!(found.level.or(policy.default), found.level);
            prop_assert_eq!(found.by.is_none(), found.level == Never);
            let mut more = policy.clone();
            more.rules.insert(at.min(more.rules.len()), rule);
            let then = demand(&more, there, wanted);
            prop_assert_eq!(then.level.or(found.level), then.level);
            prop_assert!(then.forbidden || !found.forbidden);
            // What holds wherever to, holds there.
            let anywhere = demand(&policy, way("web-1", None), wanted);
            prop_assert_eq!(found.level.or(anywhere.level), found.level);
        }

        /// Required means TLS and an encrypted control connection, or no move, whatever the operator says.
        #[test]
        fn required_fails_closed(policy in any_policy(), ends in any_ends(), unknown: bool) {
            let wanted = if unknown { EncryptionLevel::Unknown(7) } else { Required };
            let found = demand(&policy, way("db", Some("h3")), wanted);
            match judge(found, ends) {
                Ok(channels) => {
                    prop_assert_eq!(channels.ram, Protection::Tls);
                    prop_assert!(ends.here && ends.there && !found.forbidden);
                    prop_assert!([Protection::Tls, Protection::Ssh].contains(&channels.control));
                }
                Err(why) => prop_assert!(!why.is_empty()),
            }
        }

        /// Disks go by TLS or the move is not made, whatever is wanted; and nothing more is asked of it than else.
        #[test]
        fn disks_are_not_copied_in_the_clear(policy in any_policy(), wanted in any_level(), ends in any_ends()) {
            let found = demand(&policy, way("db", Some("h3")), wanted);
            let tls = ends.here && ends.there && !found.forbidden;
            match (judge_with_disks(found, ends), judge(found, ends)) {
                (Ok(channels), Ok(plain)) => {
                    prop_assert_eq!(channels, Channels { ram: Protection::Tls, ..plain });
                    prop_assert!(tls);
                }
                (Err(why), Ok(_)) => prop_assert!(!tls && why.contains("copy_in_the_clear"), "{}", why),
                (with_disks, Err(_)) => prop_assert!(with_disks.is_err()),
            }
        }

        /// What is not required is never a reason not to move, and TLS is what both ends are ready for.
        #[test]
        fn the_rest_moves(forbidden: bool, ends in any_ends()) {
            let of = |level| judge(Demand { level, by: None, forbidden }, ends).map(|c| c.ram);
            prop_assert_eq!(of(Never), Ok(Protection::Plain));
            let tls = ends.here && ends.there && !forbidden;
            prop_assert_eq!(of(IfPossible), Ok(if tls { Protection::Tls } else { Protection::Plain }));
        }
    }

    #[test]
    fn rules_speak_of_guests_hosts_and_links() {
        let rule = |guests: &[&str], hosts: &[&str], to: &[&str], level| EncryptionRule {
            guests: guests.iter().map(|g| GuestPattern::Name((*g).into())).collect(),
            hosts: hosts.iter().map(|h| (*h).to_owned()).collect(),
            to: to.iter().map(|h| (*h).to_owned()).collect(),
            level,
        };
        let level = |rule: EncryptionRule, name: &str, to: Option<&str>| {
            let policy =
                Encryption { certificates: None, tell_certificate: true, default: Never, rules: vec![rule] };
            demand(&policy, way(name, to), Never).level
        };
        let tenant = || rule(&["acme-*"], &[], &[], Required);
        assert_eq!(level(tenant(), "acme-db", None), Required);
        assert_eq!(level(tenant(), "other", Some("h2")), Never);
        // A host: moves from it and to it.
        let host = || rule(&[], &["h2"], &[], Required);
        assert_eq!((level(host(), "a", Some("h2")), level(host(), "a", Some("h3"))), (Required, Never));
        assert_eq!(level(host(), "a", None), Never, "not every way leads there");
        assert_eq!(level(rule(&[], &["h1"], &[], Required), "a", None), Required);
        // A link: either way.
        let link = |a: &str, b: &str| rule(&[], &[a], &[b], IfPossible);
        assert_eq!(
            (level(link("h1", "h2"), "a", Some("h2")), level(link("h2", "h1"), "a", Some("h2"))),
            (IfPossible, IfPossible)
        );
        assert_eq!(
            (level(link("h1", "h2"), "a", Some("h3")), level(link("h1", "h2"), "a", None)),
            (Never, Never)
        );
    }

    #[test]
    fn who_demands_it_is_said() {
        let policy =
            |default| Encryption { certificates: None, tell_certificate: true, default, rules: Vec::new() };
        let by = |default, wanted| demand(&policy(default), way("a", None), wanted).by;
        assert_eq!(by(Never, Never), None);
        assert_eq!(by(Never, Required), Some(Initiator::Customer));
        assert_eq!(by(Required, IfPossible), Some(Initiator::Operator));
        assert_eq!(by(Required, Required), Some(Initiator::Customer));
    }

    #[test]
    fn a_uri_tells_what_protects_the_control_connection() {
        for (uri, found) in [
            ("qemu+tls://h2/system", Protection::Tls),
            ("qemu://h2/system", Protection::Tls),
            ("qemu+tls://h2/system?pkipath=/etc/pki/x", Protection::Tls),
            ("qemu+tls://h2/system?no_verify=0", Protection::Tls),
            ("qemu+tls://h2/system?no_verify=1", Protection::Plain),
            ("qemu+ssh://root@h2/system?keyfile=/k", Protection::Ssh),
            ("qemu+ssh://h2/system?keyfile=/k&no_verify=1", Protection::Plain),
            ("qemu+libssh2://h2/system", Protection::Ssh),
            ("qemu+libssh://h2/system?known_hosts=/k&known_hosts_verify=normal", Protection::Ssh),
            ("qemu+libssh://h2/system?known_hosts_verify=ignore", Protection::Plain),
            ("qemu+libssh2://h2/system?known_hosts_verify=auto", Protection::Plain),
            ("qemu+unix:///system?socket=/s", Protection::Plain),
            ("qemu+tcp://h2/system", Protection::Plain),
            ("qemu+ext://h2/system?command=nc", Protection::Plain),
        ] {
            assert_eq!(control(uri), found, "{uri}");
        }
    }
}
