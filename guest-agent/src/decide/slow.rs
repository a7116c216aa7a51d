//! From measurements to a request, and back from a move to "did it help".

use super::clients::ROUND_TRIP;
use super::effect::{Before, Check, During, Measuring, ms};
use super::request::{Asking, Life};
use super::{Agent, fields};
use crate::action::Audience;
use crate::event::Sample;
use crate::state::metric_name;
use coms_protocol::guest_to_host::{Evidence, Request, Wishes};
use coms_protocol::host_to_guest::Denied;
use coms_protocol::session::Now;
use coms_protocol::types::{DenyReason, EncryptionLevel, List, Metric, RequestId, RequestReason};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a request's list holds.
const EVIDENCE: usize = 8;

impl Agent {
    pub(super) fn on_probe(&mut self, now: Now, index: usize, sample: &Sample) {
        // The brown-out around a migration is not how a workload normally is.
        let learn = self.moving.is_none() && self.measuring.is_none();
        let Some(watch) = self.watches.get_mut(index) else { return };
        let changes = watch.sample(now.mono, sample, learn);
        let name = watch.name().to_owned();
        if let Some(moving) = &mut self.moving {
            let latency = if let Sample::Took(latency) = sample { Some(*latency) } else { None };
            moving.during.entry(name.clone()).or_default().sample(latency);
        }
        if let Some(measuring) = &mut self.measuring {
            let latency = match sample {
                Sample::Took(latency) => Some(*latency),
                Sample::Failed(_) => None,
            };
            measuring.sample(now.mono, &name, latency);
        }
        for change in changes {
            self.on_change(now, index, &name, change);
        }
        self.measure_machine(now);
    }

    fn on_change(&mut self, now: Now, index: usize, name: &str, change: super::rule::Change) {
        use super::rule::Change;
        let Some(watch) = self.watches.get_mut(index) else { return };
        let standing = watch.standing(now.mono);
        let mut told = fields(json!({
            "workload": name,
            "metric": metric_name(watch.metric()),
            "now_ms": standing.now_us.map(ms),
            "baseline_ms": standing.baseline_us.map(ms),
            "threshold_ms": standing.threshold_us.map(ms),
        }));
        let event = match change {
            Change::Learned(baseline) => {
                self.state.baselines.insert(name.to_owned(), baseline);
                self.unsaved = true;
                "workload_learned"
            }
            Change::Slow => "workload_slow",
            Change::Recovered => "workload_recovered",
            Change::Failing(error) => {
                told.insert("error".to_owned(), error.into());
                "workload_failing"
            }
            Change::Working => "workload_working",
        };
        self.tell(event, told, Audience::Everybody);
        if !self.watches.iter().any(super::rule::Watch::suffers) && self.state.refusals != 0 {
            self.state.refusals = 0;
            self.unsaved = true;
        }
    }

    /// Asks when a workload wants it and nothing speaks against it.
    pub(super) fn ask_if_slow(&mut self, now: Now) {
        let free = self.state.life == Life::Idle
            && self.link.established
            && self.moving.is_none()
            && self.announced.is_none()
            && self.untold.is_none()
            && self.measuring.is_none()
            && now.mono >= self.cooldown_until
            && now.mono >= self.backoff_until;
        self.settle_episode();
        let wanted = self.watches.iter().find_map(|w| w.wants(now.mono)).filter(|_| free);
        let region = self.clients_want(now.mono).filter(|_| free);
        if (wanted.is_some() || self.plugins.wishes() || region.is_some())
            && !self.calendar().text.ask_outside
            && self.closed_until(now.unix_us / 1000).is_some()
        {
            // Not now, by the customer's own windows.
            return;
        }
        let by_rule = wanted.filter(|_| self.may_ask(now));
        // What a plugin wishes has its own reason: not for this machine's figures to refute.
        let wish = self.plugins.take_wish(now.mono, free && by_rule.is_none());
        let by_plugin = wish.is_some().then_some(RequestReason::Plugin);
        // What suffers now goes first: the clients' region was waited for long, and can wait on.
        let by_clients = region.is_some().then_some(RequestReason::Clients);
        let Some(reason) = by_rule.or(by_plugin).or(by_clients) else { return };
        let w = &self.config.wishes;
        let wishes = Wishes {
            region: region.filter(|_| reason == RequestReason::Clients).or_else(|| w.region.clone()),
            avoid_this_host: w.avoid_this_host,
            deadline_s: w.deadline_s,
            max_downtime_ms: w.max_downtime_ms,
            never: List::clipped(w.never.iter().copied()),
        };
        if let Some(wish) = wish {
            self.tell("plugin_wish", fields(wish), Audience::Everybody);
        }
        let evidence = if reason == RequestReason::Clients {
            self.clients_evidence(now.mono)
        } else {
            self.evidence(now.mono, reason != RequestReason::Plugin)
        };
        // What the configuration wants of all moves comes on top when it is said.
        self.ask(now, reason, evidence, wishes, EncryptionLevel::Never);
    }

    /// What was measured, the worst first. `suffering`: only of workloads that are not well.
    pub(super) fn evidence(&mut self, now: Duration, suffering: bool) -> Vec<Evidence> {
        let watches = self.watches.iter_mut().filter(|w| !suffering || w.suffers());
        let mut evidence: Vec<_> = watches.filter_map(|w| w.evidence(now)).collect();
        let badness = |e: &Evidence| match (e.metric, e.threshold) {
            (Metric::FailuresPermille, _) => f64::MAX,
            (_, Some(limit)) => e.now as f64 / limit.max(1) as f64,
            (_, None) => 0.0,
        };
        evidence.sort_by(|a, b| badness(b).total_cmp(&badness(a)));
        // A request holds eight: the machine's figures say more than a fifth workload's.
        let machine = self.blame.figures(now).evidence();
        evidence.truncate(EVIDENCE.saturating_sub(machine.len()));
        evidence.extend(machine);
        evidence
    }

    /// Makes a request: saved by [`Agent::settle`] before it is sent.
    pub(super) fn ask(
        &mut self,
        now: Now,
        reason: RequestReason,
        evidence: Vec<Evidence>,
        wishes: Wishes,
        encryption: EncryptionLevel,
    ) -> RequestId {
        let id = RequestId(self.state.next_id());
        let request = Request { id, reason, evidence: List::clipped(evidence), wishes };
        self.tell(
            "asked",
            fields(json!({
                "request": id,
                "reason": reason,
                "evidence": request.evidence.as_slice().iter().map(evidence_json).collect::<Vec<_>>(),
                "wishes": request.wishes,
                "encryption": Some(encryption.or(self.config.encryption)).filter(|l| *l != EncryptionLevel::Never),
            })),
            Audience::Everybody,
        );
        let asked_unix_ms = now.unix_us / 1000;
        self.state.life =
            Life::Asked(Asking { request, asked_unix_ms, said: false, cancelled: false, encryption });
        self.unsaved = true;
        self.request_queued = false;
        self.say_request();
        id
    }

    /// The host could not judge it, or not now: no fault of the request, so the waiting does not double. After
    /// `OthersFirst` the neighbours are others: then the rules begin anew, and it is asked only if they still
    /// want it.
    pub(super) fn wait_for_turn(&mut self, now: Now, asking: &Asking, denied: &Denied) {
        if !is_automatic(asking) {
            return;
        }
        let wait = denied.retry_after_s.map_or(self.config.asking.backoff, |s| Duration::from_secs(s.into()));
        self.no_request_for(now, wait + spread(wait, asking.request.id));
        if denied.reason == DenyReason::OthersFirst {
            self.afresh_at = Some(self.backoff_until);
        }
    }

    pub(super) fn settle_afresh(&mut self, now: Now) {
        if self.afresh_at.take_if(|at| *at <= now.mono).is_some() {
            self.watches.iter_mut().for_each(super::rule::Watch::afresh);
            self.blame.afresh();
        }
    }

    fn no_request_for(&mut self, now: Now, wait: Duration) {
        self.backoff_until = now.mono + wait;
        self.state.backoff_until_ms = now.unix_us / 1000 + u64::try_from(wait.as_millis()).unwrap_or(0);
        self.unsaved = true;
    }

    /// No automatic request for a while, longer with each refusal in a row.
    pub(super) fn back_off(&mut self, now: Now, asking: &Asking, retry_after_s: Option<u32>) {
        if !is_automatic(asking) {
            return;
        }
        let doublings = self.state.refusals.min(20);
        self.state.refusals = self.state.refusals.saturating_add(1);
        let c = self.config.asking;
        let own = c.backoff.saturating_mul(1 << doublings).min(c.backoff_max);
        let asked = Duration::from_secs(u64::from(retry_after_s.unwrap_or(0)));
        self.no_request_for(now, own.max(asked) + spread(own, asking.request.id));
    }

    /// What the workloads show now, as the "before" of a move.
    pub(super) fn before(&mut self, now: Duration) -> Vec<Before> {
        let mut all = Vec::new();
        for watch in &mut self.watches {
            let standing = watch.standing(now);
            all.push(Before {
                workload: watch.name().to_owned(),
                metric: watch.metric(),
                us: standing.now_us,
                failing: standing.state == "failing",
            });
        }
        all.extend(self.clients_before());
        all
    }

    /// Begins to measure what a completed move did.
    pub(super) fn begin_check(
        &mut self,
        now: Now,
        mut check: Check,
        during: BTreeMap<String, During>,
        asking: Option<&Asking>,
    ) {
        // What the request was made with counts, not what was measured in the brown-out after it.
        let evidence = asking.map_or(&[][..], |a| a.request.evidence.as_slice());
        // Shares of clients are a region's, which may be called like a workload.
        let of_workload =
            |e: &&Evidence| !matches!(e.metric, Metric::ClientsPermille | Metric::TrafficPermille);
        for e in evidence.iter().filter(of_workload) {
            let Some(b) = check.before.iter_mut().find(|b| b.workload == e.workload.as_str()) else {
                continue;
            };
            b.failing = e.metric == Metric::FailuresPermille;
            b.us = if b.failing { None } else { Some(e.now) };
        }
        let for_clients = asking.is_some_and(|a| a.request.reason == RequestReason::Clients);
        let rank = |b: &Before| match b.workload.as_str() {
            ROUND_TRIP if for_clients => Some(0),
            name => evidence.iter().filter(of_workload).position(|e| e.workload.as_str() == name),
        };
        check.before.sort_by_key(|b| rank(b).unwrap_or(usize::MAX));
        self.clients_moved();
        for watch in &mut self.watches {
            watch.moved();
        }
        self.blame.moved();
        let c = self.config.asking;
        self.measuring = Some(Measuring::begin(check.clone(), now.mono, c.settle, c.check).after(during));
        self.state.check = Some(check);
        self.unsaved = true;
    }

    /// Tells whether the move helped, once that is measured.
    pub(super) fn settle_effect(&mut self, now: Now) {
        let Some(measuring) = self.measuring.take_if(|m| m.until() <= now.mono) else { return };
        self.state.check = None;
        self.unsaved = true;
        let (migration, request, effect) = measuring.result();
        let Some(effect) = effect else { return };
        let mut told = fields(&effect);
        told.extend(fields(json!({ "migration": migration, "request": request })));
        if let Some(record) = self.state.record_of(migration) {
            record.effect = Some(effect);
        }
        // What was measured is saved before it is told: killed in between, the next life tells it.
        let number = self.keep_final("effect", told);
        self.release_except_to_apps(number);
    }
}

/// Made by a rule. What somebody asked for by hand or for a time has nothing to do with how often rules may ask.
fn is_automatic(asking: &Asking) -> bool {
    match asking.request.reason {
        RequestReason::Manual | RequestReason::Schedule => false,
        RequestReason::WorkloadSlow
        | RequestReason::WorkloadFailing
        | RequestReason::Plugin
        | RequestReason::Clients
        | RequestReason::Unknown(_) => true,
    }
}

/// Up to an eighth more, another one for each request: guests that were refused together part.
fn spread(wait: Duration, request: RequestId) -> Duration {
    wait * (request.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60) as u32 / 128
}

/// Evidence for people: milliseconds where it is a latency.
pub(super) fn evidence_json(e: &Evidence) -> Value {
    if e.workload.as_str().is_empty() {
        // Of the machine.
        return Value::Object(fields(json!({
            "metric": e.metric.name(),
            "now": e.now,
            "baseline": e.baseline,
            "threshold": e.threshold,
            "samples": e.samples,
        })));
    }
    if let Metric::ClientsPermille | Metric::TrafficPermille = e.metric {
        return Value::Object(fields(json!({
            "region": e.workload,
            "metric": metric_name(e.metric),
            "now_permille": e.now,
            "here_permille": e.baseline,
            "threshold_permille": e.threshold,
            "for_s": e.for_s,
            "connections": e.samples,
        })));
    }
    let latency = e.metric != Metric::FailuresPermille;
    let in_ms = |us: Option<u64>| us.filter(|_| latency).map(ms);
    Value::Object(fields(json!({
        "workload": e.workload,
        "metric": metric_name(e.metric),
        "now_ms": in_ms(Some(e.now)),
        "baseline_ms": in_ms(e.baseline),
        "threshold_ms": in_ms(e.threshold),
        "failures_permille": (!latency).then_some(e.now),
        "for_s": e.for_s,
        "samples": e.samples,
    })))
}
