//! The fault table (`coms_story::faults::table`): a sample of it by default, all of it with `COMS_FAULTS=all`.
//! With `COMS_FAULTS_S`, no row is begun after so many seconds; `COMS_FAULTS=open` goes on with the rest.

use coms_story::Result;
use coms_story::faults::arena::Arena;
use coms_story::faults::report::{Line, Report};
use coms_story::faults::row::Row;
use coms_story::faults::table;
use std::time::{Duration, Instant};

#[test]
fn the_vm_runs_once_and_every_request_ends_once_whatever_goes_wrong() -> Result<()> {
    let wanted = std::env::var("COMS_FAULTS").unwrap_or_default();
    let at_most = std::env::var("COMS_FAULTS_S").ok().and_then(|s| s.parse().ok()).map(Duration::from_secs);
    let start = Instant::now();
    let mut report = if wanted == "all" { Report::default() } else { Report::so_far() };
    let rows = table::selected(&wanted, &report);
    assert!(!rows.is_empty(), "COMS_FAULTS={wanted} selects no row");
    let mut arena = None;
    let (mut wrong, mut played) = (Vec::new(), 0);
    for row in &rows {
        if at_most.is_some_and(|s| start.elapsed() > s) {
            break;
        }
        let line = play(row, &mut arena)?;
        report.add(&line)?;
        played += 1;
        if !line.wrong.is_empty() {
            wrong.push(row.name());
        }
    }
    print!("{}", report.markdown());
    println!("played {played} of {} rows chosen, in {:.0} s", rows.len(), start.elapsed().as_secs_f64());
    if let Some(arena) = arena {
        arena.finish()?;
    }
    assert!(wrong.is_empty(), "{wrong:#?}: see the table, also in target/faults/table.md");
    Ok(())
}

/// What a row that failed leaves behind must not fail the next one: only who did well is used again.
fn play(row: &Row, arena: &mut Option<Arena>) -> Result<Line> {
    println!("{}", row.name());
    let mut at_hand = match arena.take() {
        Some(arena) => arena,
        None => Arena::new()?,
    };
    let line = at_hand.run(row);
    println!("    {} ({:.0} s)", line.got, line.seconds);
    for wrong in &line.wrong {
        println!("    WRONG: {wrong}");
    }
    if line.wrong.is_empty() {
        *arena = Some(at_hand);
    } else {
        at_hand.wreck();
    }
    Ok(line)
}
