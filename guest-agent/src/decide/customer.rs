//! What the customer wants to know and to happen: the commands of the socket.

use super::host::{record_json, rfc3339};
use super::slow::evidence_json;
use super::{Agent, effect::ms, fields, known, ping};
use crate::action::Action;
use crate::config;
use crate::event::{Cancel, ClientId, Command, Migrate, Ping, PortState};
use crate::state::metric_name;
use coms_protocol::guest_to_host::Wishes;
use coms_protocol::session::Now;
use coms_protocol::types::{List, RequestReason, Text};
use serde_json::{Value, json};

/// Most pings of one run.
const MAX_PINGS: u32 = 1_000_000;

impl Agent {
    pub(super) fn on_command(&mut self, now: Now, client: ClientId, command: Command) {
        let line = match command {
            Command::Status => self.status(now),
            Command::History => {
                let lines = self.state.history.iter().map(|r| Value::Object(record_json(r)));
                json!({ "ok": true, "history": lines.collect::<Vec<_>>() })
            }
            Command::Clients => self.clients_report(now),
            Command::Watch => {
                self.actions.push(Action::Watch(client));
                json!({ "ok": true })
            }
            Command::Migrate(wanted) => return self.on_migrate(now, client, &wanted),
            Command::Cancel(Cancel { scheduled: Some(id), .. }) => {
                return self.on_cancel_scheduled(client, id);
            }
            Command::Window(wanted) => return self.on_window(now, client, wanted),
            Command::Cancel(wanted) => return self.on_cancel(now, client, wanted.watch),
            Command::Register(wanted) => return self.on_register(now, client, &wanted),
            Command::Ready(said) => return self.on_ready(client, said),
            Command::Hold(said) => return self.on_hold(now, client, said),
            Command::Postpone(wanted) => return self.on_postpone(now, client, wanted),
            Command::Veto(wanted) => return self.on_veto(now, client, wanted),
            Command::Hosts => return self.on_hosts_wanted(now, client),
            Command::Simulate(wanted) => return self.on_simulate(now, client, &wanted),
            Command::Random(wanted) => return self.on_random(now, client, wanted),
            Command::Report(report) => return self.on_report(now, client, report),
            Command::Ping(wanted) => match self.on_ping(now, client, wanted) {
                Ok(()) => return,
                Err(error) => json!({ "ok": false, "error": error }),
            },
        };
        self.actions.push(Action::Reply { client, line });
    }

    fn on_migrate(&mut self, now: Now, client: ClientId, wanted: &Migrate) {
        let later = wanted.at.is_some() || wanted.within_s.is_some() || wanted.before.is_some();
        let wishes = Self::manual_wishes(wanted);
        if later && let Ok(wishes) = wishes {
            return self.on_schedule(now, client, wanted, wishes);
        }
        let line = match self.not_outstanding().and(wishes) {
            Err(error) => json!({ "ok": false, "error": error }),
            Ok(wishes) => {
                if wanted.watch {
                    self.actions.push(Action::Watch(client));
                }
                let evidence = self.evidence(now.mono, false);
                let encryption = wanted.encryption.unwrap_or_default();
                let request = self.ask(now, RequestReason::Manual, evidence, wishes, encryption);
                json!({ "ok": true, "request": request, "connected": self.link.established })
            }
        };
        // Before what the request says to watchers: the client must know its number first.
        self.actions.insert(0, Action::Reply { client, line });
    }

    fn not_outstanding(&self) -> Result<(), String> {
        if let Some(waiting) = self.state.life.waiting() {
            let became = waiting.migration.map_or("not answered yet".to_owned(), |m| format!("became {m}"));
            return Err(format!(
                "request {} is outstanding ({became}); one at a time: see `coms status`, wait with `coms watch`, or call it off with `coms cancel`",
                waiting.request
            ));
        }
        Ok(())
    }

    fn manual_wishes(wanted: &Migrate) -> Result<Wishes, String> {
        let region = wanted.region.as_deref().map(|r| {
            let text = Text::clipped(r);
            let whole = !r.is_empty() && text.as_str() == r;
            whole
                .then_some(text)
                .ok_or_else(|| format!("\"{r}\" can be no region: 1 to 64 bytes of plain text"))
        });
        let never = wanted.never.iter().map(|t| config::technique(t).map_err(|e| format!("never {e}")));
        Ok(Wishes {
            region: region.transpose()?,
            avoid_this_host: wanted.avoid_this_host,
            deadline_s: wanted.deadline_s,
            max_downtime_ms: wanted.max_downtime_ms,
            never: List::clipped(never.collect::<Result<Vec<_>, _>>()?),
        })
    }

    fn on_ping(&mut self, now: Now, client: ClientId, wanted: Ping) -> Result<(), String> {
        if self.pings.is_some() {
            return Err("another `coms ping` is running; wait for it, or stop it".to_owned());
        }
        if !(1..=MAX_PINGS).contains(&wanted.count) {
            return Err(format!("count is {}; must be from 1 to {MAX_PINGS}", wanted.count));
        }
        let run = ping::Run::new(client, wanted, self.next_ping, now.mono);
        self.next_ping = self.next_ping.wrapping_add(u64::from(wanted.count));
        self.pings = Some(run);
        Ok(())
    }

    fn status(&mut self, now: Now) -> Value {
        let ago = |since: std::time::Duration| now.mono.saturating_sub(since).as_secs();
        let left =
            |until: std::time::Duration| Some(until.saturating_sub(now.mono).as_secs()).filter(|s| *s > 0);
        let workloads: Vec<_> = self
            .watches
            .iter_mut()
            .map(|w| {
                let s = w.standing(now.mono);
                json!({
                    "workload": w.name(),
                    "state": s.state,
                    "since_s": s.since.map(ago),
                    "metric": metric_name(w.metric()),
                    "now_ms": s.now_us.map(ms),
                    "baseline_ms": s.baseline_us.map(ms),
                    "threshold_ms": s.threshold_us.map(ms),
                    "samples": s.samples,
                    "failures": s.failures,
                    "learned_percent": s.learned_percent,
                })
            })
            .collect();
        let request = self.state.life.asking().map(|asking| {
            json!({
                "request": asking.request.id,
                "state": if self.state.life.migration().is_some() { "accepted" } else { "asked" },
                "migration": self.state.life.migration(),
                "reason": asking.request.reason,
                "cancelling": asking.cancelled.then_some(true),
                "asked_at": rfc3339(asking.asked_unix_ms),
                "evidence": asking.request.evidence.as_slice().iter().map(evidence_json).collect::<Vec<_>>(),
                "wishes": asking.request.wishes,
            })
        });
        let moving = self.moving.as_ref().map(|m| {
            let mut map = m.progress.map(fields).unwrap_or_default();
            map.insert("migration".to_owned(), json!(m.migration));
            map.insert("since_s".to_owned(), ago(m.since).into());
            map
        });
        let (port, port_error) = match &self.link.port {
            None => (None, None),
            Some(PortState::Missing(why)) => (Some("missing"), Some(why.clone())),
            Some(PortState::HostAbsent) => (Some("host-absent"), None),
            Some(PortState::Up) => (Some("up"), None),
        };
        let clock = self.clocks.ahead(now).filter(|_| self.link.established);
        known(json!({
            "ok": true,
            "agent": crate::AGENT,
            "port": port,
            "port_error": port_error,
            "port_since_s": port.is_some().then(|| ago(self.link.port_since)),
            "connected": self.link.established,
            "version": self.link.version,
            "place": self.link.place,
            "enabled": self.link.place.as_ref().map(|_| self.link.enabled),
            "host_clock_ahead_ms": clock.map(|(ahead, _)| ahead as f64 / 1000.0),
            "host_clock_error_ms": clock.map(|(_, error)| error as f64 / 1000.0),
            "config_loaded_unix_ms": self.loaded_unix_ms,
            "workloads": workloads,
            "machine": self.machine(now.mono),
            "request": request,
            "moving": moving,
            "announced": self.announced_json(now.mono),
            "apps": self.apps_json(),
            "random": self.random_json(),
            "encryption": self.protection_json(),
            "clients": self.clients_json(),
            "following": self.following_json(now),
            "scheduled": self.schedules_json(),
            "windows": self.has_windows().then(|| self.windows_json(now.unix_us / 1000)),
            "measuring_effect": self.measuring.is_some(),
            "cooldown_s": left(self.cooldown_until),
            "backoff_s": left(self.backoff_until),
            "last": self.state.history.back().map(record_json),
            "moves": self.state.history.iter().filter(|r| r.outcome == crate::state::Outcome::Completed).count(),
            "repeated_outcomes": self.ignored.again,
            "ignored_messages": self.ignored.not_mine,
        }))
    }
}
