//! The moves that were, for whoever asks later.

use super::Broker;
use crate::action::Action;
use crate::records::{MoveRecord, MoveState};
use coms_protocol::types::{Initiator, MigrationId};
use uuid::Uuid;

/// Moves remembered for `comsctl migrations`.
pub(super) const RECORDS: usize = 500;
/// ... of which refusals to any one guest.
pub(super) const REFUSALS: usize = 8;

impl Broker {
    pub(super) fn record_mut(&mut self, migration: MigrationId) -> Option<&mut MoveRecord> {
        self.records_touched = true;
        self.records.iter_mut().rev().find(|r| r.migration == migration)
    }

    pub(super) fn add_record(&mut self, mut record: MoveRecord) {
        record.note_step(self.unix_ms);
        let refused = |r: &MoveRecord| r.state == MoveState::Denied;
        let own = |r: &&MoveRecord| r.uuid == record.uuid && refused(r);
        if self.records.iter().filter(own).count() >= REFUSALS
            && let Some(oldest) = self.records.iter().position(|r| own(&r))
        {
            self.records.remove(oldest);
        }
        if self.records.len() >= RECORDS {
            // Refusals first, which cost a guest nothing; never one that is still being written.
            let oldest = self.records.iter().position(refused);
            let oldest = oldest.or_else(|| self.records.iter().position(|r| r.state.is_final()));
            self.records.remove(oldest.unwrap_or(0));
        }
        self.records.push_back(record);
    }

    /// Keeps a finished (or arriving) move across restarts.
    pub(super) fn save_record(&mut self, migration: MigrationId) {
        let unix_ms = self.unix_ms;
        if let Some(record) = self.record_mut(migration) {
            record.note_step(unix_ms);
            let record = Box::new(record.clone());
            self.out.push(Action::Record(record));
        }
    }

    /// When this guest last moved, from either end.
    pub(super) fn last_moved_unix_ms(&self, uuid: Uuid) -> Option<u64> {
        self.moved_unix_ms.get(&uuid).copied()
    }

    /// Apart from the records, which are as many as they are: no guest can crowd out another's rest.
    pub(super) fn moved(&mut self, uuid: Uuid, unix_ms: u64, by: Initiator) {
        if by != Initiator::Random {
            self.moved_unix_ms.insert(uuid, unix_ms);
        }
    }
}
