//! Step 4: the hosts are asked, and one of them is chosen.

use super::Broker;
use super::admission::{self, Denial};
use super::geo::Known;
use super::guest::{Guest, Move, Plan};
use super::load;
use super::moves::End;
use super::placement::{self, Candidate, Considered, Decision, Demand, Verdict};
use super::requests::REMEASURE;
use crate::action::Action;
use crate::config::Host;
use crate::event::{Answer, Now};
use crate::hypervisor::{Domain, HvError};
use crate::records::MoveState;
use crate::storage::{self, Refusal, RefusalKind};
use coms_protocol::types::{DenyReason, Initiator, MigrationId, Phase};
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;

/// So long after its start this broker waits for its first look at every host. A guest that waits for an answer asks
/// anew within milliseconds of it, and a host far away is not a host that is not there.
const FIRST_LOOKS: Duration = Duration::from_secs(5);

/// A host that does not answer a survey within so long is left out of it ...
const SURVEY_WITHIN: Duration = Duration::from_secs(1);
/// ... or within so long, if one of another site is asked: each answer takes several times there and back, after a look that
/// may be under way.
const SURVEY_WITHIN_FAR: Duration = Duration::from_secs(4);

/// Where no other host will do, one that answered lately is asked again for so long: a libvirtd that stalls for two seconds is
/// not a reason to refuse an order that waited for its guest until now.
const ASK_AGAIN_FOR: Duration = Duration::from_secs(5);

impl Broker {
    /// Step 4 begins: the hosts are asked, once each of them was looked at.
    pub(super) fn survey(&mut self, now: Now, uuid: Uuid, mut plan: Plan) {
        let migration = plan.migration;
        plan.choosing_since = now.mono;
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        guest.mv = Move::Choosing(plan);
        if let Some(record) = self.record_mut(migration).filter(|r| r.state != MoveState::Choosing) {
            record.state = MoveState::Choosing;
            record.waits = None;
        }
        self.tell_phase(now, uuid, migration, Phase::Preparing);
        self.to_survey.push(uuid);
        self.survey_waiting(now);
    }

    /// This broker has just begun, and knows nothing yet of some host.
    pub(super) fn has_looked_at_few(&self, now: Now) -> bool {
        let unseen = |h: &load::History| h.latest().is_none() && h.trouble.is_none();
        now.mono < FIRST_LOOKS && self.hosts.values().any(unseen)
    }

    pub(super) fn survey_waiting(&mut self, now: Now) {
        if self.has_looked_at_few(now) {
            return;
        }
        for uuid in std::mem::take(&mut self.to_survey) {
            self.ask_hosts(now, uuid);
        }
    }

    /// Some host did not answer this time, and did lately.
    fn may_answer_yet(&self, now: Now, decision: &Decision) -> bool {
        let silent = |c: &&Considered| matches!(c.verdict, Verdict::NoAnswer);
        let lately = |c: &Considered| self.hosts.get(&c.host).is_some_and(|h| h.answered_lately(now.mono));
        decision.considered.iter().filter(silent).any(lately)
    }

    fn ask_hosts(&mut self, now: Now, uuid: Uuid) {
        let Some(guest) = self.guests.get(&uuid) else { return };
        let Move::Choosing(plan) = &guest.mv else { return };
        let (migration, needs) = (plan.migration, guest.domain.needs.clone());
        let storage = Box::new(storage::question(&guest.domain.storage, &self.config.storage));
        // Only hosts that answered lately are asked: one that hangs must not hold this up.
        let hosts = self
            .config
            .peers
            .iter()
            .filter(|p| self.hosts.get(&p.name).is_some_and(|h| h.is_fresh(now.mono)));
        let hosts: Vec<_> = hosts.collect();
        let is_far = hosts.iter().any(|p| p.site != self.config.me.site);
        // To see what is in a storage pool it is read anew.
        let within = if is_far || !storage.files.is_empty() { SURVEY_WITHIN_FAR } else { SURVEY_WITHIN };
        let hosts = hosts.into_iter().map(|p| (p.name.clone(), p.libvirt.clone())).collect();
        self.out.push(Action::Survey { uuid, migration, needs, hosts, storage, within });
    }

    /// Its claim, checked: do its vCPUs wait for a CPU of this host? What cannot be known is believed. What was
    /// found, in words for the operator; an error: it is slow by itself.
    fn claim(&self, uuid: Uuid) -> Result<String, String> {
        let least = self.config.limits.min_vcpu_wait;
        let waits = self.hosts.get(&self.config.me.name).and_then(|h| h.vcpu_wait(uuid, self.relieved_at));
        let Some(waits) = waits else {
            return Ok("how long its vCPUs wait for a CPU is not known".to_owned());
        };
        let found = format!("its vCPUs waited for a CPU for {:.0} % of the time", waits * 100.0);
        if waits < least {
            return Err(format!("{found}, and min_vcpu_wait is {:.0} %", least * 100.0));
        }
        Ok(found)
    }

    /// How its disks would go to each host that answered, or why they cannot.
    fn plans(&self, guest: &Guest, answers: &[Answer]) -> BTreeMap<String, Result<storage::Plan, Refusal>> {
        let (domain, policy) = (&guest.domain.storage, &self.config.storage);
        let of = |host: &str| answers.iter().find(|a| a.host == host).map(|a| &a.storage);
        let here = of(&self.config.me.name).and_then(|view| view.as_ref().ok());
        let plan = |host: &Host| {
            let plan = match of(&host.name)? {
                Ok(there) => storage::plan(domain, here, there, policy),
                Err(text) => Err(Refusal { kind: RefusalKind::NotKnown, detail: text.clone() }),
            };
            Some((host.name.clone(), plan))
        };
        self.config.peers.iter().filter_map(plan).collect()
    }

    /// The hosts have answered: choose one of them.
    pub(super) fn surveyed(
        &mut self,
        now: Now,
        uuid: Uuid,
        migration: MigrationId,
        domain: Result<Domain, HvError>,
        answers: &[Answer],
    ) {
        let Some(guest) = self.guests.get(&uuid) else { return };
        let Move::Choosing(plan) = &guest.mv else { return };
        if plan.migration != migration {
            return;
        }
        if let Some(by) = plan.cancelled_by {
            let plan = plan.clone();
            return self.did_not_leave(now, uuid, &plan, End::Cancelled(by));
        }
        let fit = match &domain {
            Ok(domain) => admission::movable(domain).map_err(|denial| (denial, None)),
            Err(e) => Err((
                Denial { reason: DenyReason::HostTrouble, retry_after_s: Some(10) },
                Some(e.to_string()),
            )),
        };
        if let Err((denial, detail)) = fit {
            return self.call_off(now, uuid, denial, detail);
        }
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        if let Ok(domain) = domain {
            guest.domain = domain;
        }
        let Some(guest) = self.guests.get(&uuid) else { return };
        let Move::Choosing(plan) = &guest.mv else { return };
        let claim = if plan.wants_relief { self.claim(uuid).map(Some) } else { Ok(None) };
        let claim = match claim {
            Ok(claim) => claim,
            Err(found) => {
                let denial = Denial::after(DenyReason::OwnLoad, REMEASURE);
                return self.call_off(now, uuid, denial, Some(found));
            }
        };
        let load_here = self
            .hosts
            .get(&self.config.me.name)
            .and_then(|h| h.load(self.config.me.cpus, self.config.me.memory_kib))
            .and_then(|l| l.per_cpu);
        let disks = self.plans(guest, answers);
        let candidates: Vec<Candidate> = self
            .config
            .peers
            .iter()
            .map(|peer| {
                let answer = answers.iter().find(|a| a.host == peer.name);
                let planned = disks.get(&peer.name).map_or(Ok(None), |plan| plan.as_ref().map(Some));
                let copies = planned.is_ok_and(|plan| plan.is_some_and(|p| !p.copies.is_empty()));
                Candidate {
                    name: peer.name.clone(),
                    region: peer.region.clone(),
                    load: answer.and_then(|_| self.hosts.get(&peer.name)?.load(peer.cpus, peer.memory_kib)),
                    can_run: answer.map_or(Ok(()), |a| a.can_run.clone()),
                    has_it: answer.is_some_and(|a| a.has_it),
                    has_broker: !self.config.limits.require_broker
                        || self.hosts.get(&peer.name).is_some_and(|h| h.broker(now.mono).is_some()),
                    from_wish: self.apart_from_wish(plan, &peer.region).unwrap_or_default(),
                    cut_off: self.cut_off(uuid, peer),
                    not_encrypted: self.channels_to(now, uuid, plan.encryption, peer, copies).err(),
                    storage: planned.map(drop).map_err(Refusal::clone),
                }
            })
            .collect();
        let demand = Demand {
            memory_kib: guest.domain.memory_kib,
            region: plan.wishes.region.as_ref().map(|r| r.as_str().to_owned()),
            only: plan.only.clone(),
            relief: load_here
                .filter(|_| plan.wants_relief && !plan.wishes.avoid_this_host)
                .map(|here| (here, self.config.limits.min_load_gain)),
            nearer_than: self.apart_from_wish(plan, &self.config.me.region),
        };
        let decision = match plan.initiator {
            Initiator::Random => {
                placement::draw(&candidates, &demand, &self.config.random.pool, (self.draw)())
            }
            Initiator::Customer
            | Initiator::Operator
            | Initiator::Foreign
            | Initiator::Schedule
            | Initiator::Unknown(_) => placement::choose(&candidates, &demand),
        };
        if let Some(record) = self.record_mut(migration) {
            record.considered = decision.considered.clone();
            record.to = decision.chosen.clone();
        }
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let Some(plan) = guest.mv.plan_mut() else { return };
        plan.considered = decision.considered.clone();
        plan.ranked = decision.ranked.iter().cloned().collect();
        plan.claim = claim;
        let since = plan.choosing_since;
        plan.disks = disks.into_iter().filter_map(|(host, plan)| Some((host, plan.ok()?))).collect();
        let late = self.is_late(now, uuid);
        match decision.chosen.clone() {
            // By the next look at any host, or the next tick.
            None if !late && now.mono < since + ASK_AGAIN_FOR && self.may_answer_yet(now, &decision) => {
                self.to_survey.push(uuid);
            }
            None => {
                if let Some(Refusal { kind, detail }) = decision.only_storage_in_the_way() {
                    let denial = Denial { reason: kind.reason(), retry_after_s: kind.retry_after_s() };
                    return self.call_off(now, uuid, denial, Some(detail));
                }
                let reason = if decision.only_encryption_in_the_way() {
                    DenyReason::NotEncryptable
                } else if decision.only_its_network_in_the_way() {
                    DenyReason::Unreachable
                } else if demand.nearer_than == Some(Known::SAME) || decision.only_distance_in_the_way() {
                    DenyReason::NoNearerHost
                } else if decision.only_region_in_the_way() || decision.only_the_table_in_the_way() {
                    DenyReason::NoDestinationInRegion
                } else if decision.only_load_in_the_way() {
                    DenyReason::NoBetterHost
                } else {
                    DenyReason::NoDestination
                };
                self.call_off(now, uuid, Denial { reason, retry_after_s: Some(30) }, None);
            }
            Some(_) if late => self.call_off(now, uuid, Denial::new(DenyReason::DeadlinePassed), None),
            Some(_) => self.set_out(now, uuid),
        }
    }
}
