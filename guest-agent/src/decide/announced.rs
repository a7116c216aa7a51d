//! A move that is announced: who is asked about it, and what the host is told.
//!
//! ```text
//!   notice --> PuttingOff --> Later --> Asking --> Said --> the move, and its outcome
//!                  |            |          |
//!          windows are against  |          +-- the host is asked to hold while somebody holds
//!          it: verdict awaited  |
//!                               +-- begins far away: asked in time
//! ```
//!
//! Of each announcement the host hears one `ready`, or nothing: then it begins when the notice is over. Nothing is
//! held longer than the terms and the parties' own limits allow; what is waited for is gone, silent or overdue in the
//! end ([`super::round`]).

use super::against::Against;
use super::apps::App;
use super::round::{Limits, Party, Round, Standing, Wanted};
use super::simulate::Simulated;
use super::{Agent, fields};
use crate::action::{Action, Audience};
use crate::event::{ClientId, Ran};
use coms_protocol::GuestToHost;
use coms_protocol::guest_to_host;
use coms_protocol::host_to_guest::{Notice, Terms};
use coms_protocol::session::Now;
use coms_protocol::types::{Initiator, MigrationId};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// A verdict that did not come by then is not waited for.
const VERDICT_WAIT: Duration = Duration::from_secs(3);
/// The host is asked to hold at most so often, and not for a difference like that.
const HOLD_PACE: Duration = Duration::from_millis(500);
/// Asked so early at most, beside what was wanted: a notice this much longer is asked about at once.
const EARLY: Duration = Duration::from_secs(1);

/// A move that is announced.
#[derive(Debug)]
pub(super) struct Announced {
    pub(super) notice: Notice,
    pub(super) terms: Option<Terms>,
    /// Nothing will move.
    pub(super) simulated: Option<Simulated>,
    heard_at: Duration,
    /// The host begins then, as far as is known.
    pub(super) starts_at: Duration,
    /// The host waits for an answer until then.
    waits: bool,
    /// No word that would begin it earlier than this.
    not_before: Option<Duration>,
    /// It was put off, or is to be: a further notice is the new one.
    pub(super) put_off: bool,
    stage: Stage,
    hold_said: Option<(Wanted, Duration)>,
    /// Commands that hold are tried again.
    retries: BTreeMap<String, Duration>,
    /// Commands that run.
    runs: BTreeMap<u64, String>,
}

#[derive(Debug)]
enum Stage {
    /// The windows are against it; the host's verdict is awaited.
    PuttingOff { until: Duration },
    /// It begins far away; asked at this time.
    Later { ask_at: Duration },
    /// They are asked.
    Asking(Round),
    /// Ready was said.
    Said,
}

impl Announced {
    pub(super) fn migration(&self) -> MigrationId {
        self.notice.migration
    }

    pub(super) fn round(&self) -> Option<&Round> {
        match &self.stage {
            Stage::Asking(round) => Some(round),
            Stage::PuttingOff { .. } | Stage::Later { .. } | Stage::Said => None,
        }
    }

    pub(super) fn round_mut(&mut self) -> Option<&mut Round> {
        match &mut self.stage {
            Stage::Asking(round) => Some(round),
            Stage::PuttingOff { .. } | Stage::Later { .. } | Stage::Said => None,
        }
    }

    /// Ready was said, or its time has come.
    pub(super) fn begins(&self, now: Duration) -> bool {
        matches!(self.stage, Stage::Said) || self.starts_at <= now
    }

    /// `begun`: it moves. `connected`: the host can be told something.
    fn next_timeout(&self, begun: bool, connected: bool) -> Option<Duration> {
        let of_stage = match &self.stage {
            Stage::PuttingOff { until } => Some(*until),
            Stage::Later { ask_at } => Some(*ask_at),
            Stage::Asking(round) => round.next_timeout(),
            Stage::Said => None,
        };
        let asking = self.round().is_some();
        let wanted = self.round().and_then(Round::wanted).filter(|_| connected && self.waits);
        let owed = self.hold_said.filter(|(said, _)| wanted.is_some_and(|w| w != *said));
        let retry = self.retries.values().min().copied().filter(|_| asking);
        let not_before = self.not_before.filter(|_| asking);
        let starts = Some(self.starts_at).filter(|_| !begun);
        [of_stage, retry, not_before, owed.map(|(_, at)| at + HOLD_PACE), starts].into_iter().flatten().min()
    }
}

impl Agent {
    pub(super) fn on_terms(&mut self, terms: Terms) {
        self.terms = Some(terms);
    }

    pub(super) fn on_notice(&mut self, now: Now, m: &Notice) {
        if self.state.ended(m.migration).is_some() {
            self.ignored.again += 1;
            return;
        }
        self.stop_simulating("a-real-move");
        let terms = self.terms.take_if(|t| t.migration == m.migration);
        self.announce(now, *m, terms, None);
    }

    pub(super) fn announce(
        &mut self,
        now: Now,
        notice: Notice,
        terms: Option<Terms>,
        simulated: Option<Simulated>,
    ) {
        let starts_at = now.mono + Duration::from_millis(notice.starts_in_ms.into());
        let waits = notice.starts_in_ms > 0;
        let mut former = self.announced.take().filter(|a| a.migration() == notice.migration);
        // Commands that still run answer for the new round.
        let runs = former.as_mut().map(|f| std::mem::take(&mut f.runs)).unwrap_or_default();
        let put_off = former.as_ref().is_some_and(|a| a.put_off);
        let own = matches!(notice.initiator, Initiator::Customer | Initiator::Schedule);
        let least = self.config.least_notice;
        // Put off by hand, or until a window opens: ready before that would undo it.
        let shut = waits && !own && self.closed_until(now.unix_us / 1000).is_some();
        let not_before = if put_off || shut {
            Some(starts_at)
        } else {
            let before = former.as_ref().and_then(|a| a.not_before).filter(|t| *t > now.mono);
            // The operator gave time that nothing here asked for: a person may make use of it.
            let given = waits && notice.initiator == Initiator::Operator && self.nobody_to_ask();
            let least = if given { starts_at } else { now.mono + least };
            before.or((least > now.mono && !own).then_some(least))
        };
        let terms = terms.or(former.and_then(|a| a.terms));
        let expedited = terms.is_some_and(|t| t.expedited);
        let mut announced = Announced {
            notice,
            terms,
            simulated,
            heard_at: now.mono,
            starts_at,
            waits,
            not_before: not_before.filter(|_| !expedited),
            put_off: false,
            stage: Stage::Later { ask_at: now.mono },
            hold_said: None,
            retries: BTreeMap::new(),
            runs,
        };
        let told = notice_json(&announced, now.mono);
        self.tell("notice", told, Audience::Everybody);
        announced.stage = Stage::Later { ask_at: self.ask_at(now.mono, &announced) };
        let put_off_now = waits && !own && !expedited && !put_off && announced.simulated.is_none();
        self.announced = Some(announced);
        if put_off_now && self.put_off_by_windows(now) {
            return;
        }
        self.settle_announced(now);
    }

    fn nobody_to_ask(&self) -> bool {
        self.apps.is_empty() && self.config.asked.iter().all(|a| a.before.is_none())
    }

    /// When to ask: at once, but of a move that begins when its notice is over, and not sooner, in time.
    fn ask_at(&self, now: Duration, announced: &Announced) -> Duration {
        let in_time = announced.starts_at.saturating_sub(self.attend().notice);
        let no_hurry = announced.not_before.is_some_and(|t| t >= announced.starts_at);
        if no_hurry && in_time > now + EARLY { in_time } else { now }
    }

    /// The customer's windows speak against a move that begins at the end of its notice: says so, if the terms allow.
    fn put_off_by_windows(&mut self, now: Now) -> bool {
        let Some(announced) = &self.announced else { return false };
        let Some(terms) = announced.terms else { return false };
        let starts_ms = now.unix_us / 1000 + u64::from(announced.notice.starts_in_ms);
        let Some(opens_ms) = self.closed_until(starts_ms) else { return false };
        let wait_s = opens_ms.map(|at| at.saturating_sub(now.unix_us / 1000).div_ceil(1000));
        let wait_s = wait_s.and_then(|s| u32::try_from(s).ok()).filter(|s| *s <= terms.postpone_up_to_s);
        let migration = announced.migration();
        let cause = coms_protocol::types::Cause::Window;
        let message = match wait_s {
            Some(for_s) => Against::Postpone(guest_to_host::Postpone { migration, for_s, cause }),
            None if terms.may_veto => Against::Veto(guest_to_host::Veto { migration, cause }),
            None => {
                let told = json!({ "migration": migration, "why": "the windows are closed for longer than the host waits" });
                self.tell("window_overridden", fields(told), Audience::Everybody);
                return false;
            }
        };
        self.say_against(now, message, None);
        if let Some(announced) = &mut self.announced {
            announced.stage = Stage::PuttingOff { until: now.mono + VERDICT_WAIT };
        }
        true
    }

    /// The verdict was no, or did not come: asked as if there were no windows.
    pub(super) fn put_off_refused(&mut self, now: Now) {
        let Some(announced) = &mut self.announced else { return };
        announced.put_off = false;
        if let Stage::PuttingOff { until } = &mut announced.stage {
            *until = now.mono;
        }
    }

    /// The verdict was yes. A later beginning comes as another notice; where there is none, it was late enough
    /// already, and ready before that would undo what was asked for.
    pub(super) fn put_off_granted(&mut self, now: Now, migration: MigrationId, starts_in_ms: u64) {
        let Some(announced) = self.announced.as_mut().filter(|a| a.migration() == migration) else { return };
        let starts_at = now.mono + Duration::from_millis(starts_in_ms);
        announced.not_before = Some(announced.not_before.map_or(starts_at, |t| t.max(starts_at)));
    }

    /// The host's answer to a hold.
    pub(super) fn hold_answered(
        &mut self,
        now: Now,
        migration: MigrationId,
        granted: bool,
        starts_in_ms: u64,
    ) {
        let Some(announced) = self.announced.as_mut().filter(|a| a.migration() == migration) else { return };
        if granted {
            announced.starts_at = now.mono + Duration::from_millis(starts_in_ms);
        } else if let Some(round) = announced.round_mut() {
            round.hold_refused();
        }
    }

    /// Asks everybody, from now on.
    fn begin_round(&mut self, now: Duration) {
        let Some(announced) = &mut self.announced else { return };
        let hold_up_to = announced.terms.map_or(0, |t| t.hold_up_to_ms);
        let hold_until = announced.heard_at + Duration::from_millis(hold_up_to.into());
        let mut round = Round::begin(now, hold_until.saturating_sub(now));
        for (client, App { limits, .. }) in &self.apps {
            round.join(now, Party::App(*client), *limits);
        }
        let commands: Vec<_> = self.config.asked.iter().filter(|a| a.before.is_some()).cloned().collect();
        for a in &commands {
            let limits = Limits { notice: a.timeout, hold: a.hold };
            round.join(now, Party::Command(a.name.clone()), limits);
        }
        announced.stage = Stage::Asking(round);
        let told = notice_json(announced, now);
        self.tell("notice", told, Audience::Apps);
        for a in commands {
            self.run_before(now, &a.name);
        }
    }

    /// Registered while a move was announced: asked as the others, with the time that is left.
    pub(super) fn join_round(&mut self, now: Now, client: ClientId) {
        let Some(app) = self.apps.get(&client) else { return };
        let limits = app.limits;
        let Some(announced) = &mut self.announced else { return };
        if let Stage::Asking(round) = &mut announced.stage {
            round.join(now.mono, Party::App(client), limits);
            let mut line = notice_json(announced, now.mono);
            line.insert("event".to_owned(), "notice".into());
            self.actions.push(Action::Reply { client, line: Value::Object(line) });
        }
    }

    fn run_before(&mut self, now: Duration, name: &str) {
        let Some(asked) = self.config.asked.iter().find(|a| a.name == name).cloned() else { return };
        let Some((announced, argv)) = self.announced.as_mut().zip(asked.before) else { return };
        if announced.runs.values().any(|running| running == name) {
            return;
        }
        self.next_run += 1;
        announced.runs.insert(self.next_run, asked.name.clone());
        let mut line = notice_json(announced, now);
        line.insert("event".to_owned(), "before".into());
        self.actions.push(Action::Run {
            run: self.next_run,
            name: asked.name,
            argv,
            timeout: asked.timeout,
            line,
        });
    }

    /// A command ended.
    pub(super) fn on_ran(&mut self, now: Now, ran: Ran) {
        let before = self.announced.as_mut().and_then(|a| a.runs.remove(&ran.run));
        let mut told =
            fields(json!({ "name": ran.name, "when": if before.is_some() { "before" } else { "after" } }));
        told.extend(ran.how.clone());
        if let Some(name) = before {
            let told_of = self.announced.as_ref().map(Announced::migration);
            told.extend(self.marked(json!({ "migration": told_of, "answer": self.command_answer(&ran) })));
            self.command_answered(now.mono, name, ran.exit_code);
        }
        self.tell("asked_command", told, Audience::Everybody);
    }

    fn command_answer(&self, ran: &Ran) -> &'static str {
        match ran.exit_code {
            Some(0) => "ready",
            Some(code) if code == crate::config::Asked::HOLD => "hold",
            Some(_) | None => "no reason to wait",
        }
    }

    fn command_answered(&mut self, now: Duration, name: String, exit_code: Option<i32>) {
        let asked = self.config.asked.iter().find(|a| a.name == name);
        let (hold, retry) = asked.map_or((Duration::ZERO, Duration::from_secs(5)), |a| (a.hold, a.retry));
        let Some(announced) = &mut self.announced else { return };
        let party = Party::Command(name.clone());
        let Some(round) = announced.round_mut() else { return };
        let holds = exit_code == Some(crate::config::Asked::HOLD);
        // Its hold is what it may take in all; each try renews nothing beyond that.
        if holds && round.hold(now, &party, hold + retry).is_ok() {
            announced.retries.insert(name, now + retry);
        } else {
            // Also without a right to hold: there is nothing to wait for then.
            round.ready(&party);
        }
    }

    /// Does what is due about the announced move.
    pub(super) fn settle_announced(&mut self, now: Now) {
        let Some(announced) = &mut self.announced else { return };
        match &announced.stage {
            Stage::PuttingOff { until } if *until <= now.mono => {
                let ask_at = self.announced.as_ref().map(|a| self.ask_at(now.mono, a));
                if let Some((announced, ask_at)) = self.announced.as_mut().zip(ask_at) {
                    announced.stage = Stage::Later { ask_at };
                }
                return self.settle_announced(now);
            }
            Stage::Later { ask_at } if *ask_at <= now.mono => self.begin_round(now.mono),
            Stage::PuttingOff { .. } | Stage::Later { .. } | Stage::Asking(_) | Stage::Said => {}
        }
        self.settle_round(now);
        let begins = self.announced.as_ref().is_some_and(|a| a.simulated.is_none() && a.begins(now.mono));
        if begins && let Some(migration) = self.announced.as_ref().map(Announced::migration) {
            self.begin_moving(now, migration);
        }
        self.settle_simulated(now);
    }

    fn settle_round(&mut self, now: Now) {
        let Some(announced) = &mut self.announced else { return };
        announced.not_before.take_if(|t| *t <= now.mono);
        let Stage::Asking(round) = &mut announced.stage else { return };
        let over = round.expire(now.mono);
        let migration = announced.notice.migration;
        let due = |at: &Duration| *at <= now.mono;
        let again: Vec<_> =
            announced.retries.iter().filter(|(_, at)| due(at)).map(|(name, _)| name.clone()).collect();
        announced.retries.retain(|_, at| !due(at));
        for (party, standing) in over {
            let event = match standing {
                Standing::Overdue => "app_overdue",
                Standing::Silent
                | Standing::Undecided { .. }
                | Standing::Ready
                | Standing::Holding { .. } => "app_silent",
            };
            if let Some(announced) = &mut self.announced
                && let Party::Command(name) = &party
            {
                announced.retries.remove(name);
            }
            let told = self.marked(json!({ "migration": migration, "app": self.name_of(&party) }));
            self.tell(event, told, Audience::Everybody);
        }
        for name in again {
            let still = self.announced.as_ref().and_then(Announced::round).is_some_and(|r| {
                r.parties()
                    .any(|(p, s)| *p == Party::Command(name.clone()) && matches!(s, Standing::Holding { .. }))
            });
            if still {
                self.run_before(now.mono, &name);
            }
        }
        self.say_ready_or_hold(now);
    }

    fn say_ready_or_hold(&mut self, now: Now) {
        let Some(announced) = &mut self.announced else { return };
        let Stage::Asking(round) = &announced.stage else { return };
        let migration = announced.notice.migration;
        let real = announced.simulated.is_none();
        // The hello that comes next begins everything anew; words from before would only be late.
        if !announced.waits || real && !self.link.established {
            return;
        }
        if round.is_over() {
            if announced.not_before.is_none() && announced.starts_at > now.mono {
                announced.stage = Stage::Said;
                if real {
                    self.actions.push(Action::Send(guest_to_host::Ready { migration }.into()));
                }
                let told = self.marked(json!({ "migration": migration }));
                self.tell("ready", told, Audience::Everybody);
            }
            return;
        }
        let Some(wanted) = round.wanted() else { return };
        let news = announced.hold_said.is_none_or(|(said, at)| said != wanted && now.mono >= at + HOLD_PACE);
        if !news {
            return;
        }
        announced.hold_said = Some((wanted, now.mono));
        let for_ms = (wanted.until.saturating_sub(now.mono)).as_millis();
        let for_ms = u32::try_from(for_ms).unwrap_or(u32::MAX).max(1);
        let hold = guest_to_host::Hold { migration, for_ms, cause: wanted.cause, holders: wanted.holders };
        if real {
            self.actions.push(Action::Send(GuestToHost::Hold(hold)));
        } else {
            announced.starts_at = announced.starts_at.max(wanted.until);
        }
        let told = self.marked(fields(hold));
        self.tell("hold", told, Audience::Everybody);
    }

    /// The move ended, however it did. What runs after it runs now.
    pub(super) fn end_announced(
        &mut self,
        migration: MigrationId,
        event: &str,
        mut line: Map<String, Value>,
    ) {
        self.announced.take_if(|a| a.migration() == migration);
        self.terms.take_if(|t| t.migration == migration);
        line.insert("event".to_owned(), event.into());
        for asked in self.config.asked.clone() {
            let Some(argv) = asked.after else { continue };
            self.next_run += 1;
            let (name, timeout) = (asked.name, asked.timeout);
            self.actions.push(Action::Run { run: self.next_run, name, argv, timeout, line: line.clone() });
        }
    }

    pub(super) fn announced_timeout(&self) -> Option<Duration> {
        let announced = self.announced.as_ref()?;
        let (begun, connected, simulated) = match &announced.simulated {
            Some(simulated) => (simulated.has_begun(), true, simulated.next_timeout()),
            None => (self.moving.is_some(), self.link.established, None),
        };
        [announced.next_timeout(begun, connected), simulated].into_iter().flatten().min()
    }

    fn name_of(&self, party: &Party) -> String {
        match party {
            Party::App(client) => self.apps.get(client).map_or_else(String::new, |a| a.name.clone()),
            Party::Command(name) => name.clone(),
        }
    }

    /// Fields, marked where nothing moves.
    pub(super) fn marked(&self, value: impl serde::Serialize) -> Map<String, Value> {
        let mut out = fields(value);
        if self.announced.as_ref().is_some_and(|a| a.simulated.is_some()) {
            out.insert("simulated".to_owned(), true.into());
        }
        out
    }

    /// The announced move, for status: when it begins and who is waited for.
    pub(super) fn announced_json(&self, now: Duration) -> Option<Value> {
        let announced = self.announced.as_ref()?;
        let mut map = notice_json(announced, now);
        let left = |until: Duration| until.saturating_sub(now).as_secs();
        let party = |(party, standing): (&Party, Standing)| {
            let (state, for_s) = match standing {
                Standing::Undecided { until } => ("undecided", Some(left(until))),
                Standing::Holding { until } => ("holding", Some(left(until))),
                Standing::Ready => ("ready", None),
                Standing::Silent => ("silent", None),
                Standing::Overdue => ("overdue", None),
            };
            let kind = if matches!(party, Party::App(_)) { "app" } else { "command" };
            json!({ "kind": kind, "name": self.name_of(party), "state": state, "for_s": for_s })
        };
        let stage = match &announced.stage {
            Stage::PuttingOff { .. } => "waits for the host's verdict: the windows are closed",
            Stage::Later { .. } => "applications are asked in time",
            Stage::Asking(_) => "applications are asked",
            Stage::Said => "ready",
        };
        map.insert("stage".to_owned(), stage.into());
        let parties: Vec<_> =
            announced.round().into_iter().flat_map(|r| r.parties().map(party).collect::<Vec<_>>()).collect();
        map.insert("asked".to_owned(), parties.into());
        Some(Value::Object(map))
    }
}

/// What a notice tells, with its terms and the time that is left.
pub(super) fn notice_json(announced: &Announced, now: Duration) -> Map<String, Value> {
    let mut map = fields(announced.notice);
    let left = announced.starts_at.saturating_sub(now).as_millis();
    map.insert("starts_in_ms".to_owned(), u64::try_from(left).unwrap_or(u64::MAX).into());
    if let Some(terms) = &announced.terms {
        let since = u64::try_from(now.saturating_sub(announced.heard_at).as_millis()).unwrap_or(u64::MAX);
        let hold_ms = u64::from(terms.hold_up_to_ms).saturating_sub(since);
        map.extend(fields(terms));
        map.insert("hold_up_to_ms".to_owned(), hold_ms.into());
    }
    if announced.simulated.is_some() {
        map.insert("simulated".to_owned(), true.into());
    }
    map
}
