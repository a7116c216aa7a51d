//! Where what all plugins say comes together: counted for who looks, and handed on to the agent.

use super::ask::{Asked, Said};
use super::bounds::Budget;
use super::judge::{Heard, judge};
use crate::config::{Config, Kind, Plugin};
use crate::reading::{Moment, Problem, Reading};
use serde_json::{Value, json};
use std::time::Duration;

/// A wish is handed on at most so often; the agent forgets one after 60 s.
const WISH_EVERY: Duration = Duration::from_secs(10);
/// Clients are handed on at most so often.
const CLIENTS_EVERY: Duration = Duration::from_secs(10);
/// Reports to the agent a second of one plugin, and as many more at once.
const REPORTS_PER_S: f64 = 10.0;
const REPORTS_SAVED: f64 = 20.0;

/// What a runner says of its plugin.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// It measured, or said something.
    Reading(Reading),
    /// Lines were not looked at: too many, or too long.
    Dropped {
        /// How many.
        lines: u64,
        /// Why.
        why: &'static str,
    },
    /// Its process runs.
    Started,
    /// Its process ended.
    Ended {
        /// How, and what would be better.
        how: Problem,
        /// Until it is started again.
        again_in: Duration,
    },
}

/// All plugins.
#[derive(Debug)]
pub struct Desk {
    all: Vec<Standing>,
}

/// How one plugin stands.
#[derive(Debug)]
struct Standing {
    plugin: Plugin,
    asked: Option<Asked>,
    budget: Budget,
    samples: u64,
    failures: u64,
    dropped: u64,
    starts: u64,
    runs: bool,
    last: Option<(Duration, Reading)>,
    problem: Option<Problem>,
    /// What became of its last report.
    agent: Option<String>,
    wished: Option<Duration>,
    clients_told: Option<Duration>,
}

impl Desk {
    /// Nothing was said yet.
    pub fn new(config: &Config, now: Duration) -> Self {
        let standing = |plugin: &Plugin| Standing {
            asked: match &plugin.kind {
                Kind::Execd(e) if e.notices || e.hold_s > 0 => {
                    Some(Asked::new(e.notices, e.notice_s, e.hold_s))
                }
                Kind::Execd(_) | Kind::Nagios(_) | Kind::OpenMetrics(_) | Kind::StatsD(_) => None,
            },
            plugin: plugin.clone(),
            budget: Budget::new(REPORTS_PER_S, REPORTS_SAVED, now),
            samples: 0,
            failures: 0,
            dropped: 0,
            starts: 0,
            runs: false,
            last: None,
            problem: None,
            agent: None,
            wished: None,
            clients_told: None,
        };
        Self { all: config.plugins.iter().map(standing).collect() }
    }

    /// Takes in what a plugin said. The report for the agent, and what goes to its socket for applications.
    pub fn handle(&mut self, now: Duration, index: usize, event: Event) -> (Option<Value>, Said) {
        let Some(standing) = self.all.get_mut(index) else { return Default::default() };
        match event {
            Event::Reading(reading) => standing.reading(now, reading),
            Event::Dropped { lines, why } => {
                standing.dropped = standing.dropped.saturating_add(lines);
                standing.problem = Some(Problem::new(why, "print less"));
                Default::default()
            }
            Event::Started => {
                standing.starts += 1;
                standing.runs = true;
                Default::default()
            }
            Event::Ended { how, again_in } => {
                standing.runs = false;
                let what = format!("it ended ({}); started again in {} s", how.what, again_in.as_secs());
                standing.problem = Some(Problem::new(what, how.mend));
                (None, standing.asked.as_mut().map(Asked::plugin_ended).unwrap_or_default())
            }
        }
    }

    /// The agent's answer to a report. None: it took it.
    pub fn answered(&mut self, index: usize, refusal: Option<String>) {
        if let Some(standing) = self.all.get_mut(index) {
            standing.agent = Some(refusal.unwrap_or_else(|| "taken".to_owned()));
        }
    }

    /// A line of the agent's to a plugin that is registered with it.
    pub fn hears(&mut self, index: usize, line: &Value) -> Said {
        let asked = self.all.get_mut(index).and_then(|s| s.asked.as_mut());
        asked.map(|a| a.hears(line)).unwrap_or_default()
    }

    /// That plugin's connection was lost.
    pub fn lost(&mut self, index: usize) {
        if let Some(asked) = self.all.get_mut(index).and_then(|s| s.asked.as_mut()) {
            asked.lost();
        }
    }

    /// For `coms plugin list`. `agent`: how the connection to it stands.
    pub fn status(&self, now: Duration, agent: &str) -> Value {
        let plugins: Vec<_> = self.all.iter().map(|s| s.status(now)).collect();
        json!({ "ok": true, "program": crate::PROGRAM, "agent": agent, "plugins": plugins })
    }
}

impl Standing {
    fn reading(&mut self, now: Duration, reading: Reading) -> (Option<Value>, Said) {
        let heard = judge(&reading, self.plugin.judging);
        match &heard {
            Some(Heard::TookUs(_)) => self.samples += 1,
            Some(Heard::Failed(_)) => self.failures += 1,
            None => {}
        }
        if let Some(problem) = reading.problems.first() {
            self.problem = Some(problem.clone());
        } else if heard.is_some() {
            self.problem = None;
        }
        let said = match &mut self.asked {
            Some(asked) => asked.says(reading.moment.clone(), reading.ready),
            None => Said::default(),
        };
        if self.asked.is_none() && (reading.moment.is_some() || reading.ready) {
            self.problem = Some(Problem::new(
                "it says whether the moment is good, which nobody hears",
                "set hold_s (the longest that it may hold a move), and notices = true if it is to hear of moves",
            ));
        }
        let hears_no_hold = matches!(&self.plugin.kind, Kind::Execd(e) if e.notices && e.hold_s == 0);
        if hears_no_hold && matches!(reading.moment, Some(Moment::Bad(_))) {
            self.problem = Some(Problem::new(
                "a bad moment holds no move: hold_s is 0",
                "set hold_s: the longest that it may hold a move",
            ));
        }
        let due = |last: Option<Duration>, every: Duration| last.is_none_or(|at| at + every <= now);
        let mut wish = None;
        if reading.wish.is_some() && !self.plugin.may_wish {
            self.problem =
                Some(Problem::new("it wishes to be moved, and may not", "set may_wish = true if it may"));
        } else if due(self.wished, WISH_EVERY) {
            wish = reading.wish.clone();
        }
        let clients = reading.clients.clone().filter(|_| due(self.clients_told, CLIENTS_EVERY));
        let report = self.report(now, heard, wish, clients);
        self.last = Some((now, reading));
        (report, said)
    }

    fn report(
        &mut self,
        now: Duration,
        heard: Option<Heard>,
        wish: Option<String>,
        clients: Option<Vec<crate::reading::Client>>,
    ) -> Option<Value> {
        if heard.is_none() && wish.is_none() && clients.is_none() {
            return None;
        }
        if !self.budget.take(now) {
            self.dropped += 1;
            self.problem = Some(Problem::new(
                format!("more than {REPORTS_PER_S} measurements a second; the rest is not told"),
                "measure less often",
            ));
            return None;
        }
        let mut report = json!({ "command": "report", "plugin": self.plugin.name });
        match heard {
            Some(Heard::TookUs(us)) => report["took_us"] = us.into(),
            Some(Heard::Failed(why)) => report["failed"] = why.into(),
            None => {}
        }
        if let Some(wish) = wish {
            self.wished = Some(now);
            report["wish"] = wish.into();
        }
        if let Some(clients) = clients {
            self.clients_told = Some(now);
            report["clients"] = clients.iter().map(|c| format!("{} {}", c.address, c.weight)).collect();
        }
        Some(report)
    }

    fn status(&self, now: Duration) -> Value {
        let last = self.last.as_ref();
        let moment = self.asked.as_ref().map(|a| match a.moment() {
            Moment::Good => "good".to_owned(),
            Moment::Bad(why) if why.is_empty() => "bad".to_owned(),
            Moment::Bad(why) => format!("bad: {why}"),
        });
        json!({
            "plugin": self.plugin.name,
            "kind": self.plugin.kind.name(),
            "interval_ms": u64::try_from(self.plugin.interval.as_millis()).unwrap_or(u64::MAX),
            "samples": self.samples,
            "failures": self.failures,
            "dropped": self.dropped,
            "starts": self.starts,
            "runs": self.runs,
            "last": last.map(|(_, reading)| reading),
            "last_s": last.map(|(at, _)| now.saturating_sub(*at).as_secs()),
            "moment": moment,
            "problem": self.problem,
            "agent": self.agent,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn desk(body: &str) -> Desk {
        let text = format!("[[plugin]]\nname = \"db\"\nkind = \"execd\"\ncommand = [\"/bin/x\"]\n{body}");
        Desk::new(&Config::parse(&text, Path::new("x")).unwrap(), Duration::ZERO)
    }

    fn line(desk: &mut Desk, at_ms: u64, line: &str) -> (Option<Value>, Said) {
        let reading = crate::contract::understand(line.as_bytes());
        desk.handle(Duration::from_millis(at_ms), 0, Event::Reading(reading))
    }

    fn problem(desk: &Desk) -> Value {
        desk.status(Duration::ZERO, "connected")["plugins"][0]["problem"]["what"].clone()
    }

    #[test]
    fn what_is_measured_is_reported_and_no_more_than_the_agent_takes() {
        let mut desk = desk("");
        let (report, _) = line(&mut desk, 0, r#"{"v":1,"latency_ms":5}"#);
        assert_eq!(report, Some(json!({ "command": "report", "plugin": "db", "took_us": 5000 })));
        let reported =
            (0..1000).filter(|i| line(&mut desk, *i, r#"{"v":1,"failed":"x"}"#).0.is_some()).count();
        assert!((19..=30).contains(&reported), "{reported}");
        let status = desk.status(Duration::from_secs(1), "connected");
        let p = &status["plugins"][0];
        assert_eq!((&p["samples"], &p["failures"]), (&json!(1), &json!(1000)));
        assert!(p["dropped"].as_u64() > Some(900), "{p}");
    }

    #[test]
    fn a_wish_is_handed_on_only_where_it_may_be_and_not_all_the_time() {
        let wish = r#"{"v":1,"wish":"slow disk"}"#;
        let mut may_not = desk("");
        assert_eq!(line(&mut may_not, 0, wish).0, None);
        assert!(problem(&may_not).as_str().unwrap().contains("may not"));
        let mut may = desk("may_wish = true");
        assert_eq!(line(&mut may, 0, wish).0.unwrap()["wish"], "slow disk");
        assert_eq!(line(&mut may, 5000, wish).0, None);
        assert!(line(&mut may, 10_000, wish).0.is_some());
    }

    #[test]
    fn who_may_not_hold_is_told_how_it_could() {
        let mut desk = desk("");
        line(&mut desk, 0, r#"{"v":1,"bad_moment":true}"#);
        assert!(problem(&desk).as_str().unwrap().contains("nobody hears"));
        let mut hears = self::desk("notices = true\nnotice_s = 5");
        line(&mut hears, 0, r#"{"v":1,"bad_moment":true}"#);
        assert!(problem(&hears).as_str().unwrap().contains("hold_s is 0"));
    }

    #[test]
    fn a_plugin_that_ends_is_counted_and_holds_nothing() {
        let mut desk = desk("hold_s = 60");
        line(&mut desk, 0, r#"{"v":1,"bad_moment":"backup"}"#);
        let notice = json!({ "event": "notice", "migration": "m1", "hold_up_to_ms": 9 });
        assert_eq!(desk.hears(0, &notice).agent[0]["command"], "hold");
        let how = crate::decide::check::ended("exit code 1", Some(1));
        let ended = Event::Ended { how, again_in: Duration::from_secs(1) };
        let (_, said) = desk.handle(Duration::ZERO, 0, ended);
        assert_eq!(said.agent[0]["command"], "ready");
        assert!(problem(&desk).as_str().unwrap().contains("exit code 1"));
    }
}
