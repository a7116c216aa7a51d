//! Everything the agent decides. Pure: events and the time in, actions out; no clock, file or socket.
//!
//! [`Agent::handle`] takes one event, then restores what must always hold ([`Agent::settle`]): what is due is
//! done, the hello names what still waits, and whatever must be remembered is saved *before* anything is said.

mod against;
mod announced;
mod apps;
pub mod blame;
mod cancel;
pub mod clients;
pub mod clock;
mod customer;
pub mod effect;
mod host;
mod inside;
mod own_load;
pub mod ping;
mod plugins;
mod protection;
pub mod random;
mod reload;
pub mod request;
pub mod round;
pub mod rule;
pub mod schedule;
mod simulate;
mod slow;
pub mod window;
pub mod windows;

use crate::action::{Action, Audience, Telling};
use crate::calendar::Calendar;
use crate::config::Config;
pub(crate) use host::rfc3339;

use crate::event::{ClientId, Event, PortState};
use crate::state::{Final, State};
use against::Awaited;
use announced::Announced;
use apps::App;
use blame::Blame;
use clients::Following;
use clock::Clocks;
use coms_protocol::guest_to_host::{Attend, GuestHello};
use coms_protocol::host_to_guest::{Progress, Terms};
use coms_protocol::session::Now;
use coms_protocol::types::{List, MigrationId, Place, RequestId, Text};
use effect::{Before, During, Measuring};
use inside::Unexplained;
use own_load::Episode;
use plugins::Plugins;
use rule::Watch;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A migration whose end was never told is no longer waited for, nor ticked through, after this long.
const MOVING_MAX: Duration = Duration::from_secs(1800);
/// Completed is acknowledged at once, and told once the clocks are compared, or after this long: a guest under load
/// is slow for a moment after it resumed (under TCG its code is translated anew).
const TELL_WAIT: Duration = Duration::from_millis(2000);

/// The link to the host, as status shows it.
#[derive(Debug, Default)]
struct Link {
    port: Option<PortState>,
    port_since: Duration,
    established: bool,
    version: Option<u16>,
    place: Option<Place>,
    /// The place before `place`, if it was another one.
    former: Option<Place>,
    enabled: bool,
}

/// A migration under way.
#[derive(Debug)]
struct Moving {
    migration: MigrationId,
    since: Duration,
    progress: Option<Progress>,
    before: Vec<Before>,
    /// What the workloads show meanwhile.
    during: BTreeMap<String, During>,
    /// That it is prepared, and that memory is copied, was told.
    stage_told: (bool, bool),
}

/// A completed move that is to be told once the clocks are compared.
#[derive(Debug)]
struct Untold {
    number: u64,
    migration: MigrationId,
    due: Duration,
}

/// What was ignored, for status.
#[derive(Debug, Default, Clone, Copy)]
struct Ignored {
    again: u64,
    not_mine: u64,
}

/// The agent's mind.
pub struct Agent {
    config: Config,
    state: State,
    unsaved: bool,
    actions: Vec<Action>,
    watches: Vec<Watch>,
    link: Link,
    moving: Option<Moving>,
    untold: Option<Untold>,
    measuring: Option<Measuring>,
    /// Registered applications.
    apps: BTreeMap<ClientId, App>,
    /// What the present host was told of them.
    attend_said: Option<Attend>,
    /// They wait for their notice.
    terms: Option<Terms>,
    announced: Option<Announced>,
    /// Answers of the host that somebody waits for.
    awaited: Vec<Awaited>,
    /// What `coms window set` said.
    windows_set: Option<Calendar>,
    /// Another host, and nobody has said why yet.
    unexplained: Option<Unexplained>,
    /// When a scheduled move is looked at again.
    schedule_due: Option<Duration>,
    /// Commands that were run.
    next_run: u64,
    clocks: Clocks,
    pings: Option<ping::Run>,
    next_ping: u64,
    /// The session still has the request and will hand it on by itself.
    request_queued: bool,
    /// The session still has this request's cancel.
    cancel_queued: Option<RequestId>,
    cooldown_until: Duration,
    backoff_until: Duration,
    /// Then the rules begin anew: the host's word is that things may be different by then.
    afresh_at: Option<Duration>,
    blame: Blame,
    episode: Option<Episode>,
    hello: GuestHello,
    /// Final words that were told; what was saved still has them until the next saving.
    told: Vec<u64>,
    ignored: Ignored,
    random: random::Standing,
    protection: protection::Standing,
    plugins: Plugins,
    following: Following,
    /// When the configuration was read (ms since 1970).
    loaded_unix_ms: u64,
}

impl Agent {
    /// A mind with a past. `in_log`: the numbers of final words that the log has. `random`: never the same
    /// twice.
    pub fn new(config: Config, state: State, in_log: &BTreeSet<u64>, random: u64, now: Now) -> Self {
        let watches = config.workloads.iter().map(|w| Watch::new(w, state.baselines.get(&w.name))).collect();
        let wall_ms = now.unix_us / 1000;
        // A wall clock that was set back must not make the wait longer than it ever was.
        let wait = |until_ms: u64, most: Duration| {
            now.mono + Duration::from_millis(until_ms.saturating_sub(wall_ms)).min(most)
        };
        let windows_set = state.windows.as_ref().and_then(|w| Calendar::new(w).ok());
        let mut agent = Self {
            blame: Blame::new(state.usual.as_ref()),
            episode: None,
            afresh_at: None,
            cooldown_until: wait(state.cooldown_until_ms, config.asking.cooldown),
            backoff_until: wait(
                state.backoff_until_ms,
                config.asking.backoff_max.max(Duration::from_secs(86_400)),
            ),
            config,
            state,
            unsaved: true,
            actions: Vec::new(),
            watches,
            link: Link::default(),
            moving: None,
            untold: None,
            measuring: None,
            apps: BTreeMap::new(),
            attend_said: None,
            terms: None,
            announced: None,
            awaited: Vec::new(),
            next_run: 0,
            windows_set,
            unexplained: None,
            schedule_due: None,
            clocks: Clocks::new(random >> 11),
            pings: None,
            next_ping: random >> 11,
            request_queued: false,
            cancel_queued: None,
            hello: GuestHello::default(),
            told: Vec::new(),
            ignored: Ignored::default(),
            random: random::Standing::new(random),
            protection: protection::Standing::new(random),
            plugins: Plugins::default(),
            following: Following::default(),
            loaded_unix_ms: wall_ms,
        };
        agent.take_up(in_log, now);
        agent.configure_random();
        agent.count_anew();
        agent.settle(now);
        agent
    }

    /// Takes up what a former life left: untold final words, a migration under way, an effect to measure.
    fn take_up(&mut self, in_log: &BTreeSet<u64>, now: Now) {
        self.state.outbox.retain(|f| !in_log.contains(&f.number));
        for Final { number, event, fields } in self.state.outbox.clone() {
            self.tell(&event, fields, Audience::Everybody);
            self.told.push(number);
        }
        if let Some(migration) = self.state.life.migration() {
            self.begin_moving(now, migration);
        }
        if let Some(check) = self.state.check.clone() {
            let asking = self.config.asking;
            self.measuring = Some(Measuring::begin(check, now.mono, asking.settle, asking.check));
        }
    }

    /// Takes in one event.
    pub fn handle(&mut self, now: Now, event: Event) {
        for number in std::mem::take(&mut self.told) {
            self.state.outbox.retain(|f| f.number != number);
        }
        match event {
            Event::Link(event) => self.on_link(now, event),
            Event::Port(state) => {
                self.link.port = Some(state);
                self.link.port_since = now.mono;
            }
            Event::Probe { workload, outcome } => self.on_probe(now, workload, &outcome),
            Event::Measured(measured) => self.on_measured(&measured),
            Event::Clients(seen) => self.on_seen(now, seen),
            Event::Command { client, command } => self.on_command(now, client, command),
            Event::ClientGone(client) => {
                if self.pings.as_ref().is_some_and(|p| p.client() == client) {
                    self.pings = None;
                }
                self.app_gone(client);
                self.random_gone(client);
            }
            Event::Ran(ran) => self.on_ran(now, ran),
            Event::TickerStopped { worst } => self.on_ticker(worst),
            Event::Reloaded(config) => self.on_reload(now, config),
            Event::Timer => {}
        }
        self.settle(now);
    }

    /// What is to be done, in order.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// When [`Event::Timer`] is due.
    pub fn next_timeout(&self) -> Option<Duration> {
        [
            self.clocks.next_timeout().filter(|_| self.link.established),
            self.pings.as_ref().and_then(ping::Run::next_timeout),
            self.untold.as_ref().map(|u| u.due),
            self.measuring.as_ref().map(Measuring::until),
            self.moving.as_ref().map(|m| m.since + MOVING_MAX),
            self.afresh_at,
            self.verdict_timeout(),
            self.announced_timeout(),
            self.awaited_timeout(),
            self.random_timeout(),
            self.protection_timeout(),
            self.schedule_due,
            self.unexplained_timeout(),
            self.clients_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// What must survive a restart, for a last saving.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Does what is due and restores what must always hold.
    fn settle(&mut self, now: Now) {
        if self.link.established
            && let Some(query) = self.clocks.poll(now)
        {
            self.actions.push(Action::SendOnce(query.into()));
        }
        self.settle_pings(now);
        self.settle_random(now);
        if self.moving.as_ref().is_some_and(|m| m.since + MOVING_MAX <= now.mono) {
            self.end_moving(now);
            // Its end was never told, and will not be.
            self.announced.take_if(|a| a.simulated.is_none());
        }
        self.settle_announced(now);
        self.settle_awaited(now);
        self.settle_windows(now);
        self.settle_attend();
        self.settle_untold(now);
        self.settle_unexplained(now);
        self.settle_effect(now);
        self.settle_afresh(now);
        self.settle_schedules(now);
        self.settle_count(now);
        self.settle_regions(now);
        self.ask_if_slow(now);
        self.settle_protection(now);

        let waiting = List::clipped(self.state.life.waiting());
        let hello = GuestHello { agent: Text::clipped(crate::AGENT), waiting };
        if hello != self.hello {
            self.hello = hello.clone();
            self.actions.insert(0, Action::SetHello(hello));
        }
        if std::mem::take(&mut self.unsaved) {
            self.actions.insert(0, Action::Save(Box::new(self.state.clone())));
        }
    }

    fn settle_pings(&mut self, now: Now) {
        let Some(run) = &mut self.pings else { return };
        while let Some(number) = run.poll(now.mono) {
            let ping = coms_protocol::guest_to_host::Ping { number };
            self.actions.push(Action::Send(ping.into()));
        }
        if run.is_over(now.mono) {
            self.actions.push(Action::Reply { client: run.client(), line: run.report() });
            self.pings = None;
        }
    }

    fn tell(&mut self, event: &str, fields: Map<String, Value>, to: Audience) {
        // What is told must be a name that a hook can have.
        debug_assert!(to != Audience::Everybody || crate::config::EVENTS.contains(&event), "{event}");
        self.actions.push(Action::Tell(Telling { event: event.to_owned(), fields, to }));
    }

    /// Tells everybody, registered applications included.
    fn tell_all(&mut self, event: &str, fields: Map<String, Value>) {
        self.tell(event, fields.clone(), Audience::Everybody);
        self.tell(event, fields, Audience::Apps);
    }

    /// Tells the last word about something: once, also across a restart at any moment.
    fn tell_finally(&mut self, event: &str, fields: Map<String, Value>) {
        let number = self.keep_final(event, fields);
        self.release_final(number);
    }

    /// Keeps a final word for later.
    fn keep_final(&mut self, event: &str, mut fields: Map<String, Value>) -> u64 {
        let number = self.state.next_id();
        fields.insert("final".to_owned(), number.into());
        self.state.outbox.push(Final { number, event: event.to_owned(), fields });
        self.unsaved = true;
        number
    }

    fn release_final(&mut self, number: u64) {
        if let Some(last) = self.release_except_to_apps(number) {
            self.tell(&last.event, last.fields, Audience::Apps);
        }
    }

    /// For what registered applications do not ask about.
    fn release_except_to_apps(&mut self, number: u64) -> Option<Final> {
        let last = self.state.outbox.iter().find(|f| f.number == number).cloned()?;
        self.tell(&last.event, last.fields.clone(), Audience::Everybody);
        self.told.push(number);
        Some(last)
    }

    /// Says the outstanding request, if there is a host to say it to; otherwise the next one that is met hears it.
    fn say_request(&mut self) {
        if !self.link.established {
            return;
        }
        let Some(asking) = self.state.life.asking().cloned() else { return };
        let Some(message) = self.with_its_level(&asking.request, asking.encryption) else { return };
        if let Some(asking) = self.state.life.asking_mut() {
            self.unsaved |= !std::mem::replace(&mut asking.said, true);
        }
        if !std::mem::replace(&mut self.request_queued, true) {
            self.actions.push(Action::Send(message));
            self.follow_with_cancel(&asking);
        }
    }

    fn begin_moving(&mut self, now: Now, migration: MigrationId) {
        if self.moving.as_ref().is_some_and(|m| m.migration == migration) {
            return;
        }
        if self.moving.is_none() {
            self.actions.push(Action::StartTicker);
        }
        let before = self.before(now.mono);
        self.moving = Some(Moving {
            migration,
            since: now.mono,
            progress: None,
            before,
            during: BTreeMap::new(),
            stage_told: (false, false),
        });
        self.clocks.set_moving(true, now.mono);
        self.clocks.burst(now.mono);
    }

    fn end_moving(&mut self, now: Now) {
        if self.moving.take().is_some() {
            self.actions.push(Action::StopTicker);
        }
        self.clocks.set_moving(false, now.mono);
    }
}

/// A telling as one line for the journal.
pub(crate) fn sentence(telling: &Telling) -> String {
    let mut out = telling.event.clone();
    for (key, value) in &telling.fields {
        match value {
            Value::String(text) => out.push_str(&format!(" {key}={text}")),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                out.push_str(&format!(" {key}={value}"));
            }
        }
    }
    out
}

/// An object without its unknown (null) fields, at every depth.
pub(crate) fn known(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            Value::Object(map.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, known(v))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(known).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

/// The known fields of an object.
pub(crate) fn fields(value: impl serde::Serialize) -> Map<String, Value> {
    match serde_json::to_value(value).map(known) {
        Ok(Value::Object(map)) => map,
        // Only structs and maps with text keys come here; they are always objects.
        Ok(_) | Err(_) => Map::new(),
    }
}

#[cfg(test)]
mod tests;
