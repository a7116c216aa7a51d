//! What the host says, and what it means for the customer.

use super::effect::Check;
use super::request::{Asking, Life, Step, Word};
use super::{Agent, TELL_WAIT, Untold, fields};
use crate::action::{Action, Audience};
use crate::state::{Gap, Outcome, Record};
use coms_protocol::guest_to_host::{ProtectedRequest, RandomStart, RandomStop};
use coms_protocol::host_to_guest::{Completed, HostHello, Progress};
use coms_protocol::session::{Event as Session, EventOf, Now};
use coms_protocol::types::{
    DenyReason, Figures, Initiator, MigrationId, NoticeReason, Phase, Place, RequestId,
};
use coms_protocol::{Guest, GuestToHost, HostToGuest};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

impl Agent {
    pub(super) fn on_link(&mut self, now: Now, event: EventOf<Guest>) {
        match event {
            Session::Established { new_peer, version, hello, peer: _ } => {
                self.on_established(now, new_peer, version, hello);
            }
            Session::Lost => {
                self.link.established = false;
                self.tell("disconnected", fields(json!({})), Audience::Everybody);
            }
            Session::Incompatible { theirs } => {
                let told = json!({ "host_min_version": theirs.min, "host_max_version": theirs.max,
                    "our_min_version": coms_protocol::MIN_VERSION, "our_max_version": coms_protocol::VERSION });
                self.tell("incompatible", fields(told), Audience::Everybody);
            }
            Session::Message(message) => self.on_message(now, message),
            Session::Delivered(message) => match message {
                GuestToHost::Request(request)
                | GuestToHost::ProtectedRequest(ProtectedRequest { request, .. }) => {
                    if self.state.life.asking().is_none_or(|a| a.request.id == request.id) {
                        self.request_queued = false;
                    }
                }
                GuestToHost::Ping(ping) => {
                    if let Some(run) = &mut self.pings {
                        run.delivered(ping.number);
                    }
                }
                GuestToHost::Cancel(cancel) => {
                    self.cancel_queued.take_if(|id| *id == cancel.request);
                }
                GuestToHost::TimeQuery(_) => {}
                GuestToHost::Attend(_)
                | GuestToHost::Ready(_)
                | GuestToHost::Hold(_)
                | GuestToHost::Postpone(_)
                | GuestToHost::Veto(_)
                | GuestToHost::HostsQuery(_) => {}
                GuestToHost::RandomStart(RandomStart { number, .. })
                | GuestToHost::RandomStop(RandomStop { number }) => self.random_delivered(number),
                GuestToHost::RandomQuery(_) | GuestToHost::RegionsQuery(_) | GuestToHost::Protect(_) => {}
            },
            Session::Heartbeat { .. } => {
                // Both ends are awake now anyway: the idle comparison of clocks costs no wake-up of its own.
                let query = self.clocks.ask(now);
                self.actions.push(Action::SendOnce(query.into()));
            }
        }
    }

    fn on_established(&mut self, now: Now, new_peer: bool, version: u16, hello: HostHello) {
        let HostHello { place, enabled } = hello;
        self.link.established = true;
        self.link.version = Some(version);
        self.link.enabled = enabled;
        if self.link.place.as_ref().is_none_or(|p| p.alias != place.alias) {
            self.link.former = self.link.place.replace(place.clone());
        }
        self.clocks.met(place.alias.as_str());
        self.see_place(now, &place);
        // Whoever it is, it knows nothing of what is wanted here until it is told.
        self.attend_said = None;
        if new_peer {
            self.protection_new_peer();
            self.ask_for_regions(now);
            self.clocks.burst(now.mono);
            for number in self.pings.as_mut().map(super::ping::Run::new_peer).unwrap_or_default() {
                self.actions.push(Action::Send(coms_protocol::guest_to_host::Ping { number }.into()));
            }
        }
        if matches!(&self.state.life, Life::Asked(asking) if !asking.said) {
            self.say_request();
        }
        if new_peer {
            self.repeat_cancel();
            self.repeat_random();
        }
        let told = json!({ "alias": place.alias, "region": place.region, "enabled": enabled, "version": version,
            "new_peer": new_peer });
        self.tell("connected", fields(told), Audience::Everybody);
    }

    fn on_message(&mut self, now: Now, message: HostToGuest) {
        match message {
            HostToGuest::Accepted(m) => self.on_taken(now, "accepted", m.request, m.migration),
            HostToGuest::AlreadyRunning(m) => self.on_taken(now, "already_running", m.request, m.migration),
            HostToGuest::Denied(m) => {
                let Step::Refused(asking) = self.hear(Word::Denied { request: m.request }) else { return };
                self.end_moving(now);
                let why = Some(m.reason.name().to_owned());
                self.remember(now, Some(&asking), Ending { why, ..Ending::of(Outcome::Denied) });
                match m.reason {
                    DenyReason::OthersFirst | DenyReason::Paused => self.wait_for_turn(now, &asking, &m),
                    DenyReason::NotEnabled
                    | DenyReason::Cooldown
                    | DenyReason::TooManyMoves
                    | DenyReason::NoDestination
                    | DenyReason::NoDestinationInRegion
                    | DenyReason::NoBetterHost
                    | DenyReason::CannotMove
                    | DenyReason::NoTechnique
                    | DenyReason::Policy
                    | DenyReason::DeadlinePassed
                    | DenyReason::TooOften
                    | DenyReason::HostTrouble
                    | DenyReason::BadRequest
                    | DenyReason::Busy
                    | DenyReason::DestinationRefused
                    | DenyReason::OwnLoad
                    | DenyReason::NoNearerHost
                    | DenyReason::LinkUnfit
                    | DenyReason::Unreachable
                    | DenyReason::NotEncryptable
                    | DenyReason::MigrationLinkDown
                    | DenyReason::DiskNotMovable
                    | DenyReason::DiskNotReady
                    | DenyReason::DiskNoRoom
                    | DenyReason::DeviceNotMovable
                    | DenyReason::DeviceNotReady
                    | DenyReason::Unknown(_) => self.back_off(now, &asking, m.retry_after_s),
                }
                let retry_s = self.backoff_until.saturating_sub(now.mono).as_secs();
                let told = json!({ "request": m.request, "reason": m.reason, "retry_after_s": m.retry_after_s,
                    "next_automatic_request_s": (retry_s > 0).then_some(retry_s) });
                self.tell_finally("denied", fields(told));
            }
            HostToGuest::Resend(m) => {
                if self.hear(Word::Resend { request: m.request }) == Step::SayAgain {
                    self.end_moving(now);
                    self.say_request();
                }
            }
            HostToGuest::Notice(m) => self.on_notice(now, &m),
            HostToGuest::Progress(m) => self.on_progress(now, m),
            HostToGuest::Completed(m) => self.on_completed(now, m),
            HostToGuest::Failed(m) => {
                let why = Some(m.reason.name().to_owned());
                let end =
                    Ending { why, ..Ending::of(Outcome::Failed).named(m.migration, m.request, m.figures) };
                let asking = self.on_stayed(now, end);
                if let Some(asking) = asking {
                    self.back_off(now, &asking, None);
                }
            }
            HostToGuest::Cancelled(m) => {
                let why = Some(format!("by-{}", m.by.name()));
                let end =
                    Ending { why, ..Ending::of(Outcome::Cancelled).named(m.migration, m.request, m.figures) };
                let asking = self.on_stayed(now, end);
                if let Some(asking) = asking {
                    self.back_off(now, &asking, None);
                }
            }
            HostToGuest::Pong(m) => {
                let known = self.pings.as_mut().is_some_and(|run| run.answer(m.number, now.mono));
                self.ignored.not_mine += u64::from(!known);
            }
            HostToGuest::TimeReply(m) => {
                let step = self.clocks.answered(now, m.number, m.host_unix_us);
                if let Some(by_us) = step.filter(|_| self.moving.is_none() && self.untold.is_none()) {
                    self.clock_stepped(by_us);
                }
            }
            HostToGuest::Terms(m) => self.on_terms(m),
            HostToGuest::Verdict(m) => self.on_verdict(now, m),
            HostToGuest::Hosts(m) => self.on_hosts(&m),
            HostToGuest::RandomStatus(m) => self.on_random_status(m),
            HostToGuest::Regions(m) => self.on_regions(now, &m),
            HostToGuest::Protected(m) => self.on_protected(m),
            HostToGuest::Enforced(m) => self.on_enforced(m),
        }
    }

    /// Lets the request's life hear a word; counts what changes nothing.
    pub(super) fn hear(&mut self, word: Word) -> Step {
        let life = std::mem::replace(&mut self.state.life, Life::Idle);
        let (life, step) = life.hear(word, |m| self.state.ended(m));
        self.state.life = life;
        match step {
            Step::Again => self.ignored.again += 1,
            Step::NotMine => self.ignored.not_mine += 1,
            Step::Taken | Step::TakenAndOver(..) | Step::Refused(_) | Step::SayAgain | Step::Over(_) => {
                self.unsaved = true;
            }
        }
        step
    }

    fn on_taken(&mut self, now: Now, event: &str, request: RequestId, migration: MigrationId) {
        match self.hear(Word::Taken { request, migration }) {
            Step::Taken => {
                self.tell(
                    event,
                    fields(json!({ "request": request, "migration": migration })),
                    Audience::Everybody,
                );
                self.begin_moving(now, migration);
            }
            Step::TakenAndOver(asking, outcome) => self.on_late_answer(migration, &asking, outcome),
            Step::Again | Step::NotMine | Step::Refused(_) | Step::SayAgain | Step::Over(_) => {}
        }
    }

    /// A migration that was told before turns out to be the answer to the request.
    fn on_late_answer(&mut self, migration: MigrationId, asking: &Asking, outcome: Outcome) {
        let request = asking.request.id;
        let first =
            self.state.record_of(migration).is_some_and(|r| *r.request.get_or_insert(request) == request);
        let untold = self.untold.as_ref().filter(|u| u.migration == migration).map(|u| u.number);
        if let Some(number) = untold.filter(|_| first) {
            // Not told yet: it is told as the answer.
            return self.refresh_final(number, migration);
        }
        let told = json!({ "request": request, "migration": migration, "outcome": outcome });
        self.tell_finally("answered", fields(told));
    }

    /// Brings a kept final word up to date with the history.
    fn refresh_final(&mut self, number: u64, migration: MigrationId) {
        let Some(mut told) = self.state.record_of(migration).map(|r| record_json(r)) else { return };
        told.insert("final".to_owned(), number.into());
        if let Some(kept) = self.state.outbox.iter_mut().find(|f| f.number == number) {
            kept.fields = told;
        }
        self.unsaved = true;
    }

    fn on_progress(&mut self, now: Now, m: Progress) {
        if self.state.ended(m.migration).is_some() {
            self.ignored.again += 1;
            return;
        }
        if m.phase != Phase::Announced {
            self.begin_moving(now, m.migration);
        }
        if let Some(moving) = &mut self.moving {
            moving.progress = Some(m);
        }
        self.tell_stage(&m);
        self.tell("progress", fields(m), Audience::Watchers);
    }

    /// The stages that everybody hears of, each once: it is prepared, memory is copied.
    fn tell_stage(&mut self, m: &Progress) {
        let Some(moving) = &mut self.moving else { return };
        let told = fields(json!({ "migration": m.migration }));
        let (prepared, started) = &mut moving.stage_told;
        match m.phase {
            Phase::Preparing if !std::mem::replace(prepared, true) => {
                self.tell("preparing", told, Audience::Everybody);
            }
            Phase::Copying | Phase::SwitchingOver | Phase::PostCopy if !std::mem::replace(started, true) => {
                // Until then it was only announced: what was slow meanwhile is none of its doing.
                moving.during.clear();
                self.tell_all("started", told);
            }
            Phase::Preparing
            | Phase::Copying
            | Phase::SwitchingOver
            | Phase::PostCopy
            | Phase::Announced
            | Phase::Unknown(_) => {}
        }
    }

    /// Ends a migration in the books. None: heard before.
    fn end(
        &mut self,
        migration: MigrationId,
        request: Option<RequestId>,
        outcome: Outcome,
    ) -> Option<Option<Asking>> {
        match self.hear(Word::Outcome { migration, request, how: outcome }) {
            Step::Over(asking) => {
                self.state.end(migration, outcome);
                Some(asking)
            }
            Step::TakenAndOver(asking, outcome) => {
                self.on_late_answer(migration, &asking, outcome);
                None
            }
            Step::Again | Step::NotMine | Step::Taken | Step::Refused(_) | Step::SayAgain => None,
        }
    }

    /// Failed or cancelled: the VM runs where it was. Returns the request that this answered.
    fn on_stayed(&mut self, now: Now, end: Ending) -> Option<Asking> {
        let migration = end.migration?;
        let asking = self.end(migration, end.request, end.outcome)?;
        if self.moving.as_ref().is_some_and(|m| m.migration == migration) {
            self.end_moving(now);
        }
        let record = self.remember(now, asking.as_ref(), end);
        self.tell_finally(record.outcome.name(), record_json(&record));
        self.end_announced(migration, record.outcome.name(), record_json(&record));
        asking
    }

    fn on_completed(&mut self, now: Now, m: Completed) {
        let told_before = self.state.ended(m.migration);
        let Some(asking) = self.end(m.migration, m.request, Outcome::Completed) else { return };
        // One still waits for its clocks: tell it as it is, rather than mix the two up.
        if let Some(earlier) = self.untold.take() {
            self.release_final(earlier.number);
        }
        self.explained(&m.to);
        // What its source told of a foreign move under another id ends here too.
        let noticed = self.announced.as_ref().filter(|a| a.notice.initiator == Initiator::Foreign);
        let begun_as = noticed.map(|a| a.notice.migration).filter(|id| *id != m.migration);
        if let Some(id) = begun_as {
            self.state.end(id, Outcome::Completed);
        }
        let here = |p: &Place| p.alias == m.to.alias;
        let former = [self.link.former.as_ref(), self.link.place.as_ref()];
        let from = m.from.clone().or_else(|| former.into_iter().flatten().find(|p| !here(p)).cloned());
        let end = Ending {
            initiator: Some(m.initiator),
            technique: Some(m.technique),
            encryption: Some(m.encryption),
            enforced: self.enforced_in(m.migration),
            from,
            to: Some(m.to.clone()),
            told_after_ms: m.told_after_ms,
            told_before,
            begun_as,
            // A request that had its answer keeps that one.
            ..Ending::of(Outcome::Completed).named(
                m.migration,
                m.request.filter(|_| told_before.is_none()),
                m.figures,
            )
        };
        let record = self.remember(now, asking.as_ref(), end);
        let number = self.keep_final("completed", record_json(&record));
        self.end_announced(m.migration, "completed", record_json(&record));
        // Announced by a host that the guest has left.
        self.announced.take_if(|a| a.simulated.is_none());
        self.untold = Some(Untold { number, migration: m.migration, due: now.mono + TELL_WAIT });

        let (before, during) = match &mut self.moving {
            Some(moving) if moving.migration == m.migration || Some(moving.migration) == begun_as => {
                (std::mem::take(&mut moving.before), std::mem::take(&mut moving.during))
            }
            Some(_) | None => (self.before(now.mono), BTreeMap::new()),
        };
        // Whatever else was said to be under way: the VM has just moved.
        self.end_moving(now);
        self.state.refusals = 0;
        // A random move was not made for a workload's sake: it does not stand in the way of one that is.
        if m.initiator != Initiator::Random {
            let cooldown = self.config.asking.cooldown;
            self.cooldown_until = now.mono + cooldown;
            self.state.cooldown_until_ms =
                now.unix_us / 1000 + u64::try_from(cooldown.as_millis()).unwrap_or(0);
        }
        let check = Check { migration: m.migration, request: record.request, before };
        self.begin_check(now, check, during, asking.as_ref());
    }

    pub(super) fn on_ticker(&mut self, worst: Duration) {
        let Some(migration) = self.untold.as_ref().map(|u| u.migration) else { return };
        if let Some(record) = self.state.record_of(migration) {
            record.gap.ticker_gap_ms = Some((worst.as_secs_f64() * 10_000.0).round() / 10.0);
        }
    }

    /// Tells a completed move once the clocks are compared, or have had their time.
    pub(super) fn settle_untold(&mut self, now: Now) {
        // Asked is not answered: right after a move the answers may take longer than the burst of questions.
        let quiet = self.clocks.is_quiet() && self.clocks.stood().is_some() && self.moving.is_none();
        let Some(untold) =
            self.untold.take_if(|u| u.due <= now.mono || quiet && u.due < now.mono + TELL_WAIT)
        else {
            return;
        };
        let stood = self.clocks.stood();
        let to_ms = |us: i128| us as f64 / 1000.0;
        if let Some((record, stood)) = self.state.record_of(untold.migration).zip(stood) {
            record.gap = Gap {
                guest_gap_ms: Some(to_ms(stood.gap_us)),
                guest_gap_error_ms: Some(to_ms(stood.error_us)),
                // Less is the reading of two clocks one after the other.
                clock_set_ms: (stood.set_us.abs() >= 1000).then(|| to_ms(stood.set_us)),
                ticker_gap_ms: record.gap.ticker_gap_ms,
            };
        }
        self.refresh_final(untold.number, untold.migration);
        self.release_final(untold.number);
    }

    pub(super) fn remember(&mut self, now: Now, asking: Option<&Asking>, end: Ending) -> Record {
        let announced = self.announced.as_ref().filter(|a| Some(a.migration()) == end.migration);
        let terms = announced.and_then(|a| a.terms);
        let record = Record {
            ended_unix_ms: now.unix_us / 1000,
            asked_unix_ms: asking.map(|a| a.asked_unix_ms),
            outcome: end.outcome,
            migration: end.migration,
            request: asking.map(|a| a.request.id).or(end.request),
            reason: asking.map(|a| a.request.reason),
            initiator: end.initiator,
            why: end.why,
            technique: end.technique,
            encryption: end.encryption,
            enforced: end.enforced,
            from: end.from,
            to: end.to,
            figures: end.figures,
            told_after_ms: end.told_after_ms,
            told_before: end.told_before,
            begun_as: end.begun_as,
            notice_reason: terms.map(|t| t.reason).filter(|r| *r != NoticeReason::Unstated),
            expedited: terms.is_some_and(|t| t.expedited),
            gap: Gap::default(),
            effect: None,
        };
        self.state.remember(record.clone());
        self.unsaved = true;
        record
    }
}

/// What an outcome told, whichever it is.
pub(super) struct Ending {
    pub(super) outcome: Outcome,
    pub(super) migration: Option<MigrationId>,
    pub(super) request: Option<RequestId>,
    pub(super) why: Option<String>,
    pub(super) initiator: Option<Initiator>,
    pub(super) technique: Option<coms_protocol::types::Technique>,
    pub(super) encryption: Option<coms_protocol::types::Encryption>,
    pub(super) enforced: Option<crate::state::Enforcement>,
    pub(super) from: Option<Place>,
    pub(super) to: Option<Place>,
    pub(super) figures: Figures,
    pub(super) told_after_ms: Option<u64>,
    pub(super) told_before: Option<Outcome>,
    pub(super) begun_as: Option<MigrationId>,
}

impl Ending {
    pub(super) fn of(outcome: Outcome) -> Self {
        Self {
            outcome,
            migration: None,
            request: None,
            why: None,
            initiator: None,
            technique: None,
            encryption: None,
            enforced: None,
            from: None,
            to: None,
            figures: Figures::default(),
            told_after_ms: None,
            told_before: None,
            begun_as: None,
        }
    }

    fn named(self, migration: MigrationId, request: Option<RequestId>, figures: Figures) -> Self {
        Self { migration: Some(migration), request, figures, ..self }
    }
}

/// A line of the history as JSON: times in RFC 3339, nothing unknown.
pub(super) fn record_json(record: &Record) -> serde_json::Map<String, Value> {
    let mut map = fields(record);
    for (key, shown) in [("ended_unix_ms", "ended_at"), ("asked_unix_ms", "asked_at")] {
        if let Some(at) = map.remove(key).and_then(|v| v.as_u64()) {
            map.insert(shown.to_owned(), rfc3339(at).into());
        }
    }
    map
}

/// Milliseconds since 1970 as people write it.
pub(crate) fn rfc3339(unix_ms: u64) -> String {
    i64::try_from(unix_ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| "unknown".to_owned(), |t| t.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}
