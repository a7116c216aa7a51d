//! The fault table (`coms_story::faults::table`): a sample of it by default, all of it with `COMS_FAULTS=all`.

use coms_story::Result;
use coms_story::faults::arena::Arena;
use coms_story::faults::report::{self, Line};
use coms_story::faults::row::Row;
use coms_story::faults::table;

#[test]
fn the_vm_runs_once_and_every_request_ends_once_whatever_goes_wrong() -> Result<()> {
    let wanted = std::env::var("COMS_FAULTS").unwrap_or_default();
    let rows = table::selected(&wanted);
    assert!(!rows.is_empty(), "COMS_FAULTS={wanted} selects no row");
    let mut lines = Vec::new();
    let mut arena = None;
    for row in &rows {
        let line = play(row, &mut arena)?;
        lines.push(line);
        report::write(&lines)?;
    }
    print!("{}", report::markdown(&lines));
    if let Some(arena) = arena {
        arena.finish()?;
    }
    assert!(lines.iter().all(|l| l.wrong.is_empty()), "see the table, also in target/faults/table.md");
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
