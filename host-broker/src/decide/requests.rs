//! Step 3: somebody wants a move. Admitted or not, and answered.

use super::Broker;
use super::admission::{self, Denial, Situation};
use super::announce;
use super::guest::{FOLLOWERS, Guest, Move, Plan, WAITING};
use crate::action::{Action, Level};
use crate::control::Reply;
use crate::event::{Caller, Now};
use crate::hypervisor::JobFigures;
use crate::records::{MoveRecord, MoveState};
use coms_protocol::guest_to_host::{Request, Waiting, Wishes};
use coms_protocol::host_to_guest::{Accepted, AlreadyRunning, Cancelled, Denied, HostToGuest, Resend};
use coms_protocol::types::{
    DenyReason, EncryptionLevel, Figures, Initiator, MigrationId, NoticeReason, RequestId, RequestReason,
};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use uuid::Uuid;

/// A guest that was told to measure again does so over about this long.
pub(super) const REMEASURE: Duration = Duration::from_secs(30);
/// Rest after a move that failed, unless the cooldown is shorter.
const FAILED_REST: Duration = Duration::from_secs(30);
/// How long after an arrival its guest's agent may still come back to hear of it.
const AGENT_MAY_COME: Duration = Duration::from_secs(60);

impl Broker {
    /// A guest asks. Answered exactly once per id with something final; the same id again repeats the answer.
    pub(super) fn request(&mut self, now: Now, uuid: Uuid, request: Request, encryption: EncryptionLevel) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let known = guest.waiting.iter().any(|w| w.request == request.id)
            || guest.mv.plan().is_some_and(|p| p.requests.contains(&request.id));
        guest.waiting.retain(|w| w.request != request.id);
        if let Some(answer) = guest.answer_to(request.id).cloned() {
            return self.tell(uuid, answer);
        }
        // What this broker had asked for again may have been on its way: it is the same request.
        if !known {
            guest.asked_at.push_back(now.mono);
        }
        while guest.asked_at.front().is_some_and(|at| *at + Duration::from_secs(60) < now.mono) {
            guest.asked_at.pop_front();
        }
        // One more than can be allowed is enough to refuse.
        guest.asked_at.truncate(self.config.limits.requests_per_minute as usize + 1);
        let as_waiting = Waiting { request: request.id, migration: None };
        let may_learn_more = guest.undecided || self.my_uuid.is_none();
        if guest.arrival.as_ref().is_some_and(|a| a.answers(as_waiting)) || may_learn_more {
            // It became the move that brought the VM here, or may have: the outcome comes first.
            if guest.waiting.len() >= WAITING {
                return self.deny(
                    uuid,
                    request.id,
                    Denial { reason: DenyReason::TooOften, retry_after_s: Some(60) },
                );
            }
            guest.waiting.push(as_waiting);
            return self.answer_waiting(uuid);
        }
        if !guest.mv.is_none() {
            return self.follow(now, uuid, request.id, encryption);
        }
        let (reason, suffers) = match request.reason {
            RequestReason::WorkloadSlow | RequestReason::WorkloadFailing => (NoticeReason::Workload, true),
            RequestReason::Manual => (NoticeReason::Manual, false),
            // What a plugin saw may be the network or a disk: waiting vCPUs are no test of it.
            RequestReason::Plugin => (NoticeReason::Workload, false),
            RequestReason::Schedule => (NoticeReason::Schedule, false),
            // Nearer to what, if it does not say?
            RequestReason::Clients if request.wishes.region.is_none() => {
                return self.deny(uuid, request.id, Denial::new(DenyReason::NoNearerHost));
            }
            RequestReason::Clients => (NoticeReason::Clients, false),
            RequestReason::Unknown(_) => (NoticeReason::Unstated, false),
        };
        let scheduled = reason == NoticeReason::Schedule;
        let wish = Wish {
            wants_relief: suffers,
            wishes: request.wishes,
            encryption,
            ..Wish::of(if scheduled { Initiator::Schedule } else { Initiator::Customer }, reason)
        };
        if let Err(denial) = self.begin(now, uuid, Some(request.id), wish) {
            self.deny(uuid, request.id, denial);
        }
    }

    /// The operator orders a move.
    pub(super) fn order(&mut self, now: Now, caller: Caller, uuid: Uuid, wish: Wish) {
        let reply = if let Some(plan) = self.guests.get(&uuid).and_then(|g| g.mv.plan()) {
            Reply::Refused { text: format!("it is being moved already, as {}", plan.migration) }
        } else {
            match self.begin(now, uuid, None, wish) {
                Ok(migration) => Reply::Started { migration },
                Err(denial) => Reply::Refused { text: explain(denial) },
            }
        };
        self.out.push(Action::Reply { caller, reply: Box::new(reply) });
    }

    /// A second request while a move is being made: that move answers it too.
    fn follow(&mut self, now: Now, uuid: Uuid, request: RequestId, encryption: EncryptionLevel) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let settled = guest.mv.is_settled();
        let Some(plan) = guest.mv.plan_mut() else { return };
        let migration = plan.migration;
        if !plan.requests.contains(&request) {
            // How it is made stands already, and perhaps not as this one wants it.
            if settled && plan.encryption.or(encryption) != plan.encryption {
                let denial = Denial { reason: DenyReason::Busy, retry_after_s: Some(5) };
                return self.deny(uuid, request, denial);
            }
            plan.encryption = plan.encryption.or(encryption);
            if plan.requests.len() >= FOLLOWERS {
                return self.deny(uuid, request, Denial::new(DenyReason::TooOften));
            }
            plan.requests.push(request);
            // Before it is accepted: a broker that takes the move up is not told again.
            self.keep_announced(now);
        }
        let Some(plan) = self.guests.get(&uuid).and_then(|g| g.mv.plan()) else { return };
        if plan.requests.first() == Some(&request) {
            if plan.accepted {
                self.tell(uuid, Accepted { request, migration });
            }
        } else {
            self.tell(uuid, AlreadyRunning { request, migration });
        }
    }

    pub(super) fn begin(
        &mut self,
        now: Now,
        uuid: Uuid,
        request: Option<RequestId>,
        wish: Wish,
    ) -> Result<MigrationId, Denial> {
        let moves_running = self.moves_running();
        if wish.wants_relief && self.others_are_relieved(now) {
            return Err(Denial::after(DenyReason::OthersFirst, REMEASURE));
        }
        let since_last_move =
            self.last_moved_unix_ms(uuid).map(|at| Duration::from_millis(now.unix_ms.saturating_sub(at)));
        let migration = MigrationId((self.draw)());
        let rest_after_failure = self.rest_after_failure(now, uuid);
        let enabled = self.guests.get(&uuid).is_some_and(|g| self.takes_part(&g.domain));
        let Some(guest) = self.guests.get_mut(&uuid) else {
            return Err(Denial::new(DenyReason::HostTrouble));
        };
        if guest.came.is_some() {
            return Err(Denial { reason: DenyReason::Busy, retry_after_s: Some(5) });
        }
        // The next move would take the place of the ticket that the answer rests on. An operator need not wait for
        // a guest whose agent is gone.
        let agent_may_answer = |since: Duration| guest.agent.is_some() || since + AGENT_MAY_COME > now.mono;
        if guest.arrival.as_ref().is_some_and(|a| a.owes_an_answer() && agent_may_answer(a.since)) {
            return Err(Denial { reason: DenyReason::Busy, retry_after_s: Some(5) });
        }
        let admitted = admission::admit(
            &self.config.limits,
            &Situation {
                enabled,
                since_last_move,
                moves_running,
                requests_last_minute: guest.asked_at.len(),
                wishes: &wish.wishes,
                // A random move was checked by rules of its own.
                by_operator: matches!(wish.initiator, Initiator::Operator | Initiator::Random),
                paused: self.paused,
                rest_after_failure,
            },
        );
        let record = MoveRecord {
            request,
            from: Some(self.config.me.name.clone()),
            why: wish.reason,
            expedited: wish.expedited,
            ..MoveRecord::begun(migration, &guest.domain, wish.initiator, now.unix_ms)
        };
        let technique = match admitted {
            Ok(technique) => technique,
            // Not worth a record: a guest that asks too often would fill them with itself.
            Err(denial) if denial.reason == DenyReason::TooOften => return Err(denial),
            Err(denial) => {
                let reason = Some(denial.reason.to_string());
                self.add_record(MoveRecord {
                    state: MoveState::Denied,
                    reason,
                    ended_unix_ms: Some(now.unix_ms),
                    ..record
                });
                return Err(denial);
            }
        };
        let plan = Plan {
            migration,
            requests: request.into_iter().collect(),
            initiator: wish.initiator,
            reason: wish.reason,
            expedited: wish.expedited,
            wishes: wish.wishes,
            encryption: wish.encryption,
            technique,
            only: wish.only,
            wants_relief: wish.wants_relief,
            received: now.mono,
            choosing_since: now.mono,
            accepted: false,
            destination: None,
            considered: Vec::new(),
            ranked: VecDeque::new(),
            claim: None,
            figures: JobFigures::default(),
            cancelled_by: None,
            link_lost: None,
            disks: BTreeMap::new(),
            kept: None,
        };
        let spans = announce::spans(&self.config.notices, guest.attends(), plan.expedited, wish.notice);
        let at_once = spans == (Duration::ZERO, Duration::ZERO);
        let state = if at_once { MoveState::Choosing } else { MoveState::Announced };
        self.add_record(MoveRecord { state, ..record });
        self.announce(now, uuid, plan, spans);
        Ok(migration)
    }

    /// Moves away from here that use the host. One that a former broker began counts as long as its job runs.
    pub(super) fn moves_running(&self) -> usize {
        let moving = |g: &&Guest| g.mv.is_under_way() || (g.undecided && g.domain.job_active);
        self.guests.values().filter(moving).count()
    }

    /// Several guests that suffer on one host mostly suffer from one cause: one of them leaves, and the others are
    /// measured again before the next one may.
    pub(super) fn others_are_relieved(&self, now: Now) -> bool {
        // One that is only announced would keep the others waiting for as long as its guest likes.
        let relieves = |g: &Guest| g.mv.is_under_way() && g.mv.plan().is_some_and(|p| p.wants_relief);
        let moving = self.guests.values().any(relieves);
        moving || self.relief_rest_until > now.mono
    }

    fn rest_after_failure(&self, now: Now, uuid: Uuid) -> Option<Duration> {
        let until = *self.failed_at.get(&uuid)? + FAILED_REST.min(self.config.limits.cooldown);
        until.checked_sub(now.mono).filter(|rest| !rest.is_zero())
    }

    /// A move that had not begun does not take place: everyone who waits for it hears why.
    pub(super) fn call_off(&mut self, now: Now, uuid: Uuid, denial: Denial, detail: Option<String>) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let Some(plan) = guest.mv.plan().cloned() else { return };
        guest.mv = Move::None;
        self.undo_network(now, uuid, plan.migration);
        self.discard_disks(now, uuid, plan.migration);
        if let Some(record) = self.record_mut(plan.migration) {
            record.state = MoveState::Denied;
            record.waits = None;
            record.reason = Some(denial.reason.to_string());
            record.detail = detail;
            record.ended_unix_ms = Some(now.unix_ms);
        }
        self.save_record(plan.migration);
        self.keep_announced(now);
        // Announced, and nobody's request: its guest hears all the same that it does not come.
        if plan.accepted && plan.requests.is_empty() {
            let (migration, by, figures) = (plan.migration, Initiator::Operator, Figures::default());
            self.tell(uuid, Cancelled { migration, request: None, by, figures });
        }
        for request in plan.requests {
            self.deny(uuid, request, denial);
        }
    }

    pub(super) fn deny(&mut self, uuid: Uuid, request: RequestId, denial: Denial) {
        if denial.reason != DenyReason::TooOften {
            self.log(Level::Info, Some(uuid), format!("request {request} denied: {}", denial.reason));
        }
        let Denial { reason, retry_after_s } = denial;
        self.answer(uuid, request, Denied { request, reason, retry_after_s });
    }

    /// Tells something final and remembers it.
    pub(super) fn answer(&mut self, uuid: Uuid, request: RequestId, answer: impl Into<HostToGuest>) {
        let answer = answer.into();
        if let Some(guest) = self.guests.get_mut(&uuid) {
            guest.remember_answer(request, answer.clone());
        }
        self.tell(uuid, answer);
    }

    /// Each request that the last hello named gets its answer as soon as this host can give one. What the hello
    /// says of outcomes is not believed; what this host does not know, the guest is asked to send again.
    pub(super) fn answer_waiting(&mut self, uuid: Uuid) {
        let may_learn_more = self.my_uuid.is_none();
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let mut say: Vec<HostToGuest> = Vec::new();
        for w in std::mem::take(&mut guest.waiting) {
            let plan = guest
                .mv
                .plan()
                .filter(|p| p.requests.contains(&w.request) || w.migration == Some(p.migration));
            let arrival = guest.arrival.as_ref().filter(|a| a.answers(w));
            let enforced = arrival.and_then(|a| a.enforced.clone());
            if let Some(answer) = guest.answer_to(w.request) {
                say.push(answer.clone());
            } else if let Some(plan) = plan {
                if plan.accepted {
                    say.push(Accepted { request: w.request, migration: plan.migration }.into());
                }
            } else if let Some(completed) = arrival.and_then(|a| a.told.clone()) {
                say.extend(enforced.map(HostToGuest::from));
                say.push(completed.into());
            } else if arrival.is_some() || guest.undecided || may_learn_more {
                guest.waiting.push(w);
            } else {
                say.push(Resend { request: w.request }.into());
            }
        }
        for message in say {
            self.tell(uuid, message);
        }
    }
}

/// What is wanted of a move, and by whom.
pub(super) struct Wish {
    pub(super) wishes: Wishes,
    pub(super) encryption: EncryptionLevel,
    pub(super) initiator: Initiator,
    pub(super) reason: NoticeReason,
    /// Only to this host.
    pub(super) only: Option<String>,
    pub(super) wants_relief: bool,
    /// The operator's hurry.
    pub(super) expedited: bool,
    /// The operator's own; else what policy and the guest agree on.
    pub(super) notice: Option<Duration>,
}

impl Wish {
    pub(super) fn of(initiator: Initiator, reason: NoticeReason) -> Self {
        Self {
            wishes: Wishes::default(),
            encryption: EncryptionLevel::Never,
            initiator,
            reason,
            only: None,
            wants_relief: false,
            expedited: false,
            notice: None,
        }
    }
}

/// A denial in words for the operator.
fn explain(denial: Denial) -> String {
    let retry = denial.retry_after_s.map(|s| format!("; try again in {s} s")).unwrap_or_default();
    format!("refused: {}{retry}", denial.reason)
}
