//! The moves on disk, one JSON line per change. Bounded in size, and an append costs about its own line: what is
//! kept is rewritten only when the file has doubled since.

use crate::records::{MoveRecord, MoveState};
use coms_protocol::types::MigrationId;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// Never rewritten below this.
const SMALL: u64 = 4 * 1024 * 1024;
/// The youngest, kept in full for `comsctl migrations`.
const REMEMBERED: usize = 500;
/// Of older ones each guest's newest move counts, for its cooldown: of so many guests, and for a day longer than the
/// longest cooldown.
const GUESTS: usize = 2000;
const REST_MS: u64 = 31 * 86_400 * 1000;

pub struct Journal {
    path: PathBuf,
    file: File,
    /// Rewritten when it is larger than this.
    rewrite_beyond: u64,
}

impl Journal {
    /// Also what it holds, oldest first.
    pub fn open(path: &Path) -> std::io::Result<(Self, Vec<MoveRecord>)> {
        let past = read_past(path, unix_ms());
        let file = open_to_append(path)?;
        let mut journal = Self { path: path.to_owned(), file, rewrite_beyond: SMALL };
        if journal.file.metadata()?.len() > SMALL {
            journal.rewrite(&past)?;
        }
        Ok((journal, past))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn append(&mut self, record: &MoveRecord) -> std::io::Result<()> {
        self.add_line(record)?;
        // A refusal that is lost with the power is no loss.
        if record.state == MoveState::Denied { Ok(()) } else { self.file.sync_data() }
    }

    fn add_line(&mut self, record: &MoveRecord) -> std::io::Result<()> {
        if self.file.metadata()?.len() > self.rewrite_beyond {
            self.rewrite(&read_past(&self.path, unix_ms()))?;
        }
        let mut line = serde_json::to_string(record)?;
        line.push('\n');
        self.file.write_all(line.as_bytes())
    }

    fn rewrite(&mut self, past: &[MoveRecord]) -> std::io::Result<()> {
        let mut text = Vec::new();
        for record in past {
            serde_json::to_writer(&mut text, record)?;
            text.push(b'\n');
        }
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(new, &self.path)?;
        self.file = open_to_append(&self.path)?;
        self.rewrite_beyond = SMALL.max(2 * text.len() as u64);
        Ok(())
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

fn open_to_append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// The last line of each move, in order.
fn read_past(path: &Path, unix_ms: u64) -> Vec<MoveRecord> {
    let mut last: HashMap<MigrationId, usize> = HashMap::new();
    let mut past: Vec<Option<MoveRecord>> = Vec::new();
    // A torn last line of a killed broker is skipped like any other that does not parse.
    for line in fs::read_to_string(path).unwrap_or_default().lines() {
        if let Ok(record) = serde_json::from_str::<MoveRecord>(line) {
            if let Some(before) = last.insert(record.migration, past.len()) {
                past[before] = None;
            }
            past.push(Some(record));
        }
    }
    keep(past.into_iter().flatten().collect(), unix_ms)
}

/// The youngest, and before them the newest move of each guest that may still rest from it.
fn keep(mut past: Vec<MoveRecord>, unix_ms: u64) -> Vec<MoveRecord> {
    let youngest = past.split_off(past.len().saturating_sub(REMEMBERED));
    let moved =
        |r: &MoveRecord| matches!(r.state, MoveState::Left | MoveState::Arrived | MoveState::Completed);
    let rests = |r: &MoveRecord| {
        moved(r) && r.ended_unix_ms.is_some_and(|ended| ended.saturating_add(REST_MS) > unix_ms)
    };
    let mut guests: HashSet<Uuid> = youngest.iter().filter(|r| moved(r)).map(|r| r.uuid).collect();
    let mut kept: Vec<MoveRecord> =
        past.into_iter().rev().filter(|r| rests(r) && guests.insert(r.uuid)).collect();
    kept.truncate(GUESTS);
    kept.reverse();
    for record in &mut kept {
        // Nobody asks for the rest of it any more.
        record.considered.clear();
        record.steps.clear();
        record.detail = None;
    }
    kept.extend(youngest);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::tests::record;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let file = format!("coms-journal-{name}-{}.jsonl", std::process::id());
            Self(std::env::temp_dir().join(file))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    #[test]
    fn the_last_line_of_each_move_counts_and_refusals_do_not_push_out_moves() {
        let scratch = Scratch::new("last-line");
        let mut lines = String::new();
        let mut all = vec![record(0, 8, MoveState::Completed)];
        all.extend([record(1, 9, MoveState::Arrived), record(1, 9, MoveState::Completed)]);
        all.extend((2..=REMEMBERED as u64 + 100).map(|i| record(i, 7, MoveState::Denied)));
        for r in &all {
            lines += &(serde_json::to_string(r).unwrap() + "\n");
        }
        fs::write(&scratch.0, lines + "{\"torn").unwrap();
        let past = read_past(&scratch.0, 1000);
        let first: Vec<_> = past.iter().take(2).map(|r| (r.migration.0, r.state)).collect();
        assert_eq!(first, [(0, MoveState::Completed), (1, MoveState::Completed)]);
        assert_eq!(past.len(), REMEMBERED + 2);
    }

    #[test]
    fn each_guests_newest_move_is_kept_while_it_may_rest() {
        let mut all: Vec<_> = (0..10_000).map(|id| record(id, u128::from(id % 3), MoveState::Left)).collect();
        all.extend((10_000..10_500).map(|id| record(id, 9, MoveState::Denied)));
        let kept = |unix_ms| keep(all.clone(), unix_ms).iter().map(|r| r.migration.0).collect::<Vec<_>>();
        assert_eq!(kept(20_000)[..4], [9997, 9998, 9999, 10_000]);
        assert_eq!(kept(REST_MS + 9998)[..2], [9999, 10_000]);
        assert_eq!(kept(REST_MS + 10_000).len(), REMEMBERED);
    }

    #[test]
    fn many_moves_stay_bounded_in_size_and_in_the_cost_of_an_append() {
        let scratch = Scratch::new("many");
        let (mut journal, _) = Journal::open(&scratch.0).unwrap();
        let start = unix_ms();
        let (mut rewrites, mut largest, mut before) = (0, 0, 0);
        for n in 0..100_000u64 {
            let mut one = record(n, u128::from(n % 10_000), MoveState::Completed);
            one.ended_unix_ms = Some(start);
            journal.add_line(&one).unwrap();
            let len = journal.file.metadata().unwrap().len();
            rewrites += u32::from(len < before);
            largest = largest.max(len);
            before = len;
        }
        let line = before
            / u64::from(u32::try_from(fs::read_to_string(&scratch.0).unwrap().lines().count()).unwrap());
        assert!(largest <= 2 * SMALL, "{largest} bytes");
        // Each rewrite is paid for by at least half a file of appends.
        assert!(
            rewrites > 0 && u64::from(rewrites) <= 100_000 * line / (SMALL / 2) + 1,
            "{rewrites} rewrites"
        );
        let past = read_past(&scratch.0, start);
        assert!(past.len() <= REMEMBERED + GUESTS && past.last().unwrap().migration.0 == 99_999);
    }
}
