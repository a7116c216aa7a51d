//! Random moves, as the guest sees them: it says what it wants, to every broker that it meets, and hears how they
//! stand. When the next one comes it does not know: the host draws, and keeps what it drew to itself.
//!
//! What was said last by hand holds until the configuration's `[random]` changes. A change counts as done once a
//! broker has answered it: one that was said just as the VM left is said again where it arrives.

use super::{Agent, fields, known};
use crate::action::{Action, Audience};
use crate::config::RandomMoves;
use crate::event::{ClientId, Random};
use coms_protocol::GuestToHost;
use coms_protocol::gap::Gaps;
use coms_protocol::guest_to_host::{RandomQuery, RandomStart, RandomStop};
use coms_protocol::host_to_guest::RandomStatus;
use coms_protocol::session::Now;
use coms_protocol::types::RandomState;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;

/// Less than a client's patience. A change waits for the move that is under way.
const ANSWER_LIMIT: Duration = Duration::from_secs(8);
/// Times that a client may have reckoned at once.
const STAYS: usize = 16;

/// What attackers need, as the COMS paper quotes it in its section II.D: the least that its words allow.
const ATTACKS: [(u32, &str); 2] = [
    (180, "to set up a covert channel takes \"several minutes\" (COMS paper, II.D), read here as three"),
    (3600, "to get beside a certain VM takes \"above one hour\" (COMS paper, II.D)"),
];

/// What survives a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// What the configuration said when it was last taken up.
    configured: Option<RandomMoves>,
    /// What holds: that, or what was said by hand since.
    moves: Option<RandomMoves>,
    /// No broker has answered it yet.
    unanswered: bool,
}

/// A client that waits for the host's answer.
#[derive(Debug)]
struct Waiting {
    client: ClientId,
    /// An answer to this number or a later one will do.
    number: u64,
    until: Duration,
    stays_s: Vec<u32>,
}

/// What does not survive it.
#[derive(Debug, Default)]
pub(super) struct Standing {
    number: u64,
    /// The number of the last change that was said.
    said: u64,
    /// The session still has it.
    queued: bool,
    /// What held before a change by hand, should the host refuse it.
    before: Option<Option<RandomMoves>>,
    waiting: Vec<Waiting>,
    /// What the host said last.
    status: Option<RandomStatus>,
}

impl Standing {
    pub(super) fn new(random: u64) -> Self {
        Self { number: random >> 11, ..Self::default() }
    }

    fn next(&mut self) -> u64 {
        self.number = self.number.wrapping_add(1);
        self.number
    }
}

impl Agent {
    /// At the start and at each reload.
    pub(super) fn configure_random(&mut self) {
        if self.config.random == self.state.random.configured {
            return;
        }
        let moves = self.config.random;
        self.state.random = Wanted { configured: moves, moves, unanswered: true };
        self.random.before = None;
        self.unsaved = true;
        self.say_random();
    }

    pub(super) fn on_random(&mut self, now: Now, client: ClientId, wanted: Random) {
        let line = match wanted {
            Random::Start(moves) if Gaps::new(moves.law, moves.least_s, moves.most_s).is_none() => {
                let error = "the range has no width, or the law is unknown; see coms random start --help";
                Some(json!({ "ok": false, "error": error }))
            }
            Random::Start(moves) => self.change_random(now, client, Some(moves)),
            Random::Stop => self.change_random(now, client, None),
            Random::Status { stays_s } => {
                if self.link.established {
                    let number = self.random.next();
                    self.actions.push(Action::Send(RandomQuery { number }.into()));
                    self.random_client(now, client, number, stays_s);
                    None
                } else {
                    Some(self.random_offline())
                }
            }
        };
        if let Some(line) = line {
            self.actions.push(Action::Reply { client, line });
        }
    }

    fn change_random(&mut self, now: Now, client: ClientId, moves: Option<RandomMoves>) -> Option<Value> {
        let wanted = &mut self.state.random;
        if !wanted.unanswered {
            self.random.before = Some(wanted.moves);
        }
        wanted.moves = moves;
        wanted.unanswered = true;
        self.unsaved = true;
        self.random.queued = false;
        self.say_random();
        if !self.link.established {
            return Some(self.random_offline());
        }
        let number = self.random.said;
        self.random_client(now, client, number, Vec::new());
        None
    }

    fn random_client(&mut self, now: Now, client: ClientId, number: u64, mut stays_s: Vec<u32>) {
        stays_s.truncate(STAYS);
        let until = now.mono + ANSWER_LIMIT;
        self.random.waiting.push(Waiting { client, number, until, stays_s });
    }

    fn random_offline(&self) -> Value {
        known(json!({ "ok": true, "connected": false, "wanted": self.state.random.moves }))
    }

    /// Says what holds; to a host that knows it already it means nothing.
    fn say_random(&mut self) {
        if !self.link.established || std::mem::replace(&mut self.random.queued, true) {
            return;
        }
        let number = self.random.next();
        self.random.said = number;
        let message: GuestToHost = match self.state.random.moves {
            Some(RandomMoves { law, least_s, most_s, most_per_day }) => {
                RandomStart { number, law, least_s, most_s, most_per_day }.into()
            }
            None => RandomStop { number }.into(),
        };
        self.actions.push(Action::Send(message));
    }

    pub(super) fn random_delivered(&mut self, number: u64) {
        self.random.queued &= number != self.random.said;
    }

    /// Another broker: it may never have heard of it.
    pub(super) fn repeat_random(&mut self) {
        let wanted = &self.state.random;
        if wanted.moves.is_some() || wanted.unanswered {
            self.say_random();
        } else if !self.random.waiting.is_empty() {
            let number = self.random.next();
            self.actions.push(Action::Send(RandomQuery { number }.into()));
        }
    }

    pub(super) fn on_random_status(&mut self, status: RandomStatus) {
        let plain = |s: RandomStatus| RandomStatus { number: None, made: 0, ..s };
        let last = self.random.status.replace(status);
        let same = match last {
            Some(last) => plain(last) == plain(status),
            // What nobody asked for is no news.
            None => status.state == RandomState::Off,
        };
        let refused =
            matches!(status.state, RandomState::NotOffered | RandomState::BadRange | RandomState::Unknown(_));
        if status.number == Some(self.random.said) && self.state.random.unanswered {
            self.state.random.unanswered = false;
            self.unsaved = true;
            if let Some(before) = self.random.before.take().filter(|_| refused) {
                self.state.random.moves = before;
            }
        }
        if !same {
            self.tell("random", fields(shown(&status)), Audience::Everybody);
        }
        let Some(number) = status.number else { return };
        let (answered, waiting) =
            std::mem::take(&mut self.random.waiting).into_iter().partition(|w| w.number <= number);
        self.random.waiting = waiting;
        for Waiting { client, stays_s, .. } in answered {
            let line = match refused.then(|| refusal(&status)) {
                Some(error) => json!({ "ok": false, "state": status.state, "error": error }),
                None => report(&status, &stays_s),
            };
            self.actions.push(Action::Reply { client, line });
        }
    }

    pub(super) fn random_timeout(&self) -> Option<Duration> {
        self.random.waiting.iter().map(|w| w.until).min()
    }

    pub(super) fn settle_random(&mut self, now: Now) {
        let (late, waiting) =
            std::mem::take(&mut self.random.waiting).into_iter().partition(|w| w.until <= now.mono);
        self.random.waiting = waiting;
        for Waiting { client, .. } in late {
            let error = "the host has not answered yet; a change is said again to the next broker that is met. One \
                         that never answers is older than random moves: ask the operator";
            self.actions.push(Action::Reply { client, line: json!({ "ok": false, "error": error }) });
        }
    }

    pub(super) fn random_gone(&mut self, client: ClientId) {
        self.random.waiting.retain(|w| w.client != client);
    }

    /// For `coms status`: nothing if there is nothing to say.
    pub(super) fn random_json(&self) -> Option<Value> {
        self.random.status.filter(|s| s.state != RandomState::Off).map(|s| shown(&s))
    }
}

fn refusal(status: &RandomStatus) -> String {
    match status.state {
        RandomState::BadRange => format!(
            "the host refuses the range or the law: gaps from {} s to {} s may be asked for",
            status.least_s, status.most_s
        ),
        RandomState::NotOffered => "the operator does not offer random moves to this VM".to_owned(),
        RandomState::On
        | RandomState::Off
        | RandomState::BudgetUsedUp
        | RandomState::NoDestination
        | RandomState::Paused
        | RandomState::Unknown(_) => format!("the host answers: {}", status.state),
    }
}

fn shown(s: &RandomStatus) -> Value {
    let has_terms = s.most_s > 0;
    let gaps = Gaps::new(s.law, s.least_s, s.most_s).filter(|_| s.state != RandomState::BadRange);
    known(json!({
        "state": s.state,
        "law": has_terms.then_some(s.law),
        "least_s": has_terms.then_some(s.least_s),
        "most_s": has_terms.then_some(s.most_s),
        "mean_s": gaps.map(|g| (g.mean_s() * 10.0).round() / 10.0),
        "most_per_day": s.most_per_day,
        "made": s.made,
        "pool": (s.pool > 0).then_some(s.pool),
    }))
}

/// How they stand, and how likely a stay outlasts what attackers need.
fn report(s: &RandomStatus, stays_s: &[u32]) -> Value {
    let gaps = Gaps::new(s.law, s.least_s, s.most_s).filter(|_| s.state == RandomState::On);
    let own = stays_s.iter().map(|stay_s| (*stay_s, "as asked"));
    let stays: Option<Vec<Value>> = gaps.map(|gaps| {
        let line = |(stay_s, what): (u32, &str)| {
            json!({ "longer_than_s": stay_s, "chance": gaps.longer_than(stay_s.into()), "what": what })
        };
        own.chain(ATTACKS).map(line).collect()
    });
    let mut map = fields(shown(s));
    map.insert("ok".to_owned(), true.into());
    map.insert("connected".to_owned(), true.into());
    if let Some(stays) = stays {
        map.insert("stays".to_owned(), stays.into());
    }
    Value::Object(map)
}
