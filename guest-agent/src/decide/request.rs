//! The life of the one outstanding request.
//!
//! ```text
//!            ask                    accepted, already running
//!   Idle ----------->  Asked  ------------------------------->  Accepted
//!    ^                  | ^  <-------------------------------      |
//!    |   denied         | |        resend (say it again)           |
//!    +------------------+ +--- resend                              |
//!    +-------------------------------------------------------------+
//!              completed, failed, cancelled, denied
//! ```
//!
//! A request ends once. A migration ends once too, also one that nobody here asked for: what is heard of it
//! again (another broker repeats what it cannot know was heard) is a [`Step::Again`] and only acknowledged. But
//! completed outranks failed and cancelled: then the migration ends anew. A request keeps the answer that it had.

use crate::state::Outcome;
use coms_protocol::guest_to_host::{Request, Waiting};
use coms_protocol::types::{EncryptionLevel, MigrationId, RequestId};
use serde::{Deserialize, Serialize};

/// The outstanding request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Life {
    /// There is none.
    Idle,
    /// Said, or about to be said; no answer yet.
    Asked(Asking),
    /// It became a migration, or joined one.
    Accepted(Taken),
}

/// A request and when it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asking {
    /// As it was sent, and will be sent again if need be.
    pub request: Request,
    /// Milliseconds since 1970.
    pub asked_unix_ms: u64,
    /// A host may have heard of it: the session had it while there was a host.
    #[serde(default = "yes")]
    pub said: bool,
    /// The customer does not want it any more.
    #[serde(default)]
    pub cancelled: bool,
    /// Its move must be encrypted so well at least; what is wanted of all moves comes on top.
    #[serde(default)]
    pub encryption: EncryptionLevel,
}

// A state from before this was remembered.
fn yes() -> bool {
    true
}

/// A request that became a migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// The request.
    pub asking: Asking,
    /// What its outcome will be told under.
    pub migration: MigrationId,
}

/// What the host said, as far as a request's life is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Accepted, or answered by a migration that runs already.
    Taken {
        /// The request.
        request: RequestId,
        /// The migration.
        migration: MigrationId,
    },
    /// Refused.
    Denied {
        /// The request.
        request: RequestId,
    },
    /// The host does not know it.
    Resend {
        /// The request.
        request: RequestId,
    },
    /// A migration ended.
    Outcome {
        /// Which.
        migration: MigrationId,
        /// The request that the host says was behind it.
        request: Option<RequestId>,
        /// How.
        how: Outcome,
    },
}

/// What a word means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The request became this migration: wait for its outcome.
    Taken,
    /// The migration that answers the request had ended before: that was the answer.
    TakenAndOver(Asking, Outcome),
    /// The request is refused, finally.
    Refused(Asking),
    /// Say the request again.
    SayAgain,
    /// A migration ended, and with it the request if there is one.
    Over(Option<Asking>),
    /// Heard before.
    Again,
    /// About a request that is not outstanding.
    NotMine,
}

impl Life {
    /// The outstanding request.
    pub fn asking(&self) -> Option<&Asking> {
        match self {
            Life::Idle => None,
            Life::Asked(asking) => Some(asking),
            Life::Accepted(taken) => Some(&taken.asking),
        }
    }

    /// The outstanding request.
    pub fn asking_mut(&mut self) -> Option<&mut Asking> {
        match self {
            Life::Idle => None,
            Life::Asked(asking) => Some(asking),
            Life::Accepted(taken) => Some(&mut taken.asking),
        }
    }

    /// What the hello says of it.
    pub fn waiting(&self) -> Option<Waiting> {
        match self {
            Life::Idle => None,
            Life::Asked(asking) => Some(Waiting { request: asking.request.id, migration: None }),
            Life::Accepted(taken) => {
                Some(Waiting { request: taken.asking.request.id, migration: Some(taken.migration) })
            }
        }
    }

    /// The migration it became.
    pub fn migration(&self) -> Option<MigrationId> {
        match self {
            Life::Idle | Life::Asked(_) => None,
            Life::Accepted(taken) => Some(taken.migration),
        }
    }

    /// The life after a word. `ended` tells how a migration ended, if it did.
    pub fn hear(self, word: Word, ended: impl Fn(MigrationId) -> Option<Outcome>) -> (Life, Step) {
        match word {
            Word::Taken { request, migration } => self.taken(request, migration, ended(migration)),
            Word::Denied { request } => match self.take(request) {
                (Some(asking), rest) => (rest, Step::Refused(asking)),
                (None, other) => (other, Step::NotMine),
            },
            Word::Resend { request } => match self.take(request) {
                (Some(asking), _) => (Life::Asked(asking), Step::SayAgain),
                (None, other) => (other, Step::NotMine),
            },
            Word::Outcome { migration, request, how } => {
                // Only the destination says completed, and only of a VM that runs there: what was told before of
                // this migration was true of something else, such as a request that had joined it.
                let outranks = |before: &Outcome| how == Outcome::Completed && *before != Outcome::Completed;
                self.over(migration, request, ended(migration).filter(|before| !outranks(before)))
            }
        }
    }

    /// Takes the request out, if it is the outstanding one.
    fn take(self, id: RequestId) -> (Option<Asking>, Life) {
        match self {
            Life::Asked(asking) | Life::Accepted(Taken { asking, .. }) if asking.request.id == id => {
                (Some(asking), Life::Idle)
            }
            Life::Idle | Life::Asked(_) | Life::Accepted(_) => (None, self),
        }
    }

    fn taken(self, request: RequestId, migration: MigrationId, ended: Option<Outcome>) -> (Life, Step) {
        if self.migration() == Some(migration) && self.asking().is_some_and(|a| a.request.id == request) {
            return (self, Step::Again);
        }
        match (self.take(request), ended) {
            ((Some(asking), rest), Some(outcome)) => (rest, Step::TakenAndOver(asking, outcome)),
            ((Some(asking), _), None) => (Life::Accepted(Taken { asking, migration }), Step::Taken),
            ((None, other), _) => (other, Step::NotMine),
        }
    }

    fn over(
        self,
        migration: MigrationId,
        request: Option<RequestId>,
        ended: Option<Outcome>,
    ) -> (Life, Step) {
        let answers = self.migration() == Some(migration)
            || request.is_some_and(|r| self.asking().is_some_and(|a| a.request.id == r));
        match (answers, ended) {
            // Told before, but without this request: now it has its answer.
            (true, Some(outcome)) => match self {
                Life::Idle => (Life::Idle, Step::Again),
                Life::Asked(asking) | Life::Accepted(Taken { asking, .. }) => {
                    (Life::Idle, Step::TakenAndOver(asking, outcome))
                }
            },
            (false, Some(_)) => (self, Step::Again),
            (true, None) => {
                let asking = self.asking().cloned();
                (Life::Idle, Step::Over(asking))
            }
            (false, None) => (self, Step::Over(None)),
        }
    }
}
