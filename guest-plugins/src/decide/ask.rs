//! A plugin that is asked about moves: what it says to the agent, as a registered application would.
//!
//! ```text
//!              notice, bad moment            good moment, or "ready"
//!   no move ---------------------> Holding ------------------------->  Answered
//!      |                                                                  ^
//!      | notice, good moment, has time to answer     "ready"              |
//!      +---------------------> Asked -------------------------------------+
//!      |                         | bad moment: Holding                    |
//!      +-- notice, good moment, hears of none or has no time -------------+
//! ```
//!
//! Who says nothing is not waited for longer than its notice_s, and nobody longer than its hold_s: the agent sees to that.

use crate::reading::Moment;
use serde_json::{Value, json};

/// The notice that is registered for a plugin: a hold is said for it at once, but not before the notice is over.
pub fn notice_s(notice_s: u32, hold_s: u32) -> u32 {
    notice_s.max(u32::from(hold_s > 0))
}

/// One plugin's standing towards moves.
#[derive(Debug)]
pub struct Asked {
    wants_notices: bool,
    /// It has time to answer a notice; without, its last word counts.
    may_answer: bool,
    hold_s: u32,
    moment: Moment,
    state: State,
}

#[derive(Debug, PartialEq)]
enum State {
    NoMove,
    Asked(String),
    Holding(String),
    Answered(String),
}

/// What comes of it.
#[derive(Debug, Default, PartialEq)]
pub struct Said {
    /// Commands to the agent.
    pub agent: Vec<Value>,
    /// A line for the plugin's standard input.
    pub plugin: Option<Value>,
}

impl Asked {
    /// No move is known of.
    pub fn new(wants_notices: bool, notice_s: u32, hold_s: u32) -> Self {
        let may_answer = wants_notices && notice_s > 0;
        Self { wants_notices, may_answer, hold_s, moment: Moment::Good, state: State::NoMove }
    }

    /// Whether a move is unwelcome now.
    pub fn moment(&self) -> &Moment {
        &self.moment
    }

    /// The connection to the agent was lost: a notice that is out is told anew to who registers.
    pub fn lost(&mut self) {
        self.state = State::NoMove;
    }

    /// Its process ended: what it said last does not hold for ever.
    pub fn plugin_ended(&mut self) -> Said {
        self.says(Some(Moment::Good), false)
    }

    /// A line of the agent's.
    pub fn hears(&mut self, line: &Value) -> Said {
        let text = |key: &str| line.get(key).and_then(Value::as_str);
        let (Some(event), Some(migration)) = (text("event"), text("migration")) else {
            return Said::default();
        };
        let mut said = Said::default();
        match event {
            "notice" => {
                let migration = migration.to_owned();
                let may_hold = self.hold_s > 0 && line.get("hold_up_to_ms").and_then(Value::as_u64) > Some(0);
                self.state = match &self.moment {
                    Moment::Bad(_) if may_hold => {
                        said.agent.push(self.hold(&migration));
                        State::Holding(migration)
                    }
                    Moment::Good if self.may_answer => State::Asked(migration),
                    Moment::Bad(_) | Moment::Good => {
                        said.agent.push(ready(&migration));
                        State::Answered(migration)
                    }
                };
            }
            "completed" | "failed" | "cancelled" => self.state = State::NoMove,
            _ => {}
        }
        if self.wants_notices {
            let mut line = line.clone();
            if let Value::Object(map) = &mut line {
                map.insert("v".to_owned(), crate::contract::VERSION.into());
            }
            said.plugin = Some(line);
        }
        said
    }

    /// A word of the plugin's.
    pub fn says(&mut self, moment: Option<Moment>, is_ready: bool) -> Said {
        let mut said = Said::default();
        let good_again = moment == Some(Moment::Good);
        if let Some(moment) = moment {
            self.moment = moment;
        }
        let bad = matches!(self.moment, Moment::Bad(_));
        let state = std::mem::replace(&mut self.state, State::NoMove);
        self.state = match state {
            // Ready counts for this move, whatever the moment.
            State::Asked(m) | State::Holding(m) if is_ready => {
                said.agent.push(ready(&m));
                State::Answered(m)
            }
            State::Asked(m) if bad && self.hold_s > 0 => {
                said.agent.push(self.hold(&m));
                State::Holding(m)
            }
            State::Holding(m) if good_again => {
                said.agent.push(ready(&m));
                State::Answered(m)
            }
            State::Answered(m) if bad && self.hold_s > 0 && !is_ready => {
                // Too late where the move begins already; the agent says so.
                said.agent.push(self.hold(&m));
                State::Holding(m)
            }
            state @ (State::NoMove | State::Asked(_) | State::Holding(_) | State::Answered(_)) => state,
        };
        said
    }

    fn hold(&self, migration: &str) -> Value {
        json!({ "command": "hold", "migration": migration, "for_s": self.hold_s })
    }
}

fn ready(migration: &str) -> Value {
    json!({ "command": "ready", "migration": migration })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice() -> Value {
        json!({ "event": "notice", "migration": "m01", "hold_up_to_ms": 5000 })
    }

    fn commands(said: &Said) -> Vec<&str> {
        said.agent.iter().filter_map(|c| c["command"].as_str()).collect()
    }

    fn bad() -> Option<Moment> {
        Some(Moment::Bad("backup".into()))
    }

    #[test]
    fn a_bad_moment_holds_until_it_is_over() {
        let mut asked = Asked::new(false, 0, 60);
        assert_eq!(asked.says(bad(), false), Said::default(), "no move, nothing to say");
        let said = asked.hears(&notice());
        assert_eq!(
            (commands(&said), &said.agent[0]["for_s"], &said.plugin),
            (vec!["hold"], &json!(60), &None)
        );
        assert_eq!(asked.says(bad(), false), Said::default(), "said once");
        assert_eq!(commands(&asked.says(Some(Moment::Good), false)), ["ready"]);
        assert_eq!(asked.says(Some(Moment::Good), false), Said::default());
    }

    #[test]
    fn who_wants_notices_is_told_and_answers() {
        let mut asked = Asked::new(true, 5, 60);
        let said = asked.hears(&notice());
        assert_eq!((commands(&said), &said.plugin.as_ref().unwrap()["v"]), (vec![], &json!(1)));
        assert_eq!(commands(&asked.says(bad(), false)), ["hold"]);
        assert_eq!(commands(&asked.says(None, true)), ["ready"], "ready, though the moment is bad");
        let over = json!({ "event": "completed", "migration": "m01" });
        assert!(asked.hears(&over).plugin.is_some());
        assert_eq!(asked.says(None, true), Said::default());
    }

    #[test]
    fn who_may_not_hold_or_does_not_care_is_ready() {
        assert_eq!(commands(&Asked::new(false, 0, 60).hears(&notice())), ["ready"]);
        let mut none = Asked::new(false, 0, 0);
        none.says(bad(), false);
        assert_eq!(commands(&none.hears(&notice())), ["ready"]);
        let mut refused = Asked::new(false, 0, 60);
        refused.says(bad(), false);
        let no_hold = json!({ "event": "notice", "migration": "m01", "hold_up_to_ms": 0 });
        assert_eq!(commands(&refused.hears(&no_hold)), ["ready"]);
    }

    #[test]
    fn no_time_to_answer_is_enough_to_hold_and_nobody_is_waited_for_in_vain() {
        assert_eq!((notice_s(0, 60), notice_s(5, 60), notice_s(0, 0)), (1, 5, 0));
        let mut hears = Asked::new(true, 0, 60);
        let said = hears.hears(&notice());
        assert_eq!((commands(&said), said.plugin.is_some()), (vec!["ready"], true));
    }

    #[test]
    fn a_plugin_that_ends_holds_nothing() {
        let mut asked = Asked::new(true, 5, 60);
        asked.says(bad(), false);
        asked.hears(&notice());
        assert_eq!(commands(&asked.plugin_ended()), ["ready"]);
        assert_eq!(*asked.moment(), Moment::Good);
    }
}
