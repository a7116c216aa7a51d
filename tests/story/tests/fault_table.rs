//! The fault table (`coms_story::faults::table`): a sample of it by default, all of it with `COMS_FAULTS=all`.

use coms_story::Result;
use coms_story::faults::arena::Arena;
use coms_story::faults::{report, table};

#[test]
fn the_vm_runs_once_and_every_request_ends_once_whatever_goes_wrong() -> Result<()> {
    let wanted = std::env::var("COMS_FAULTS").unwrap_or_default();
    let rows = table::selected(&wanted);
    assert!(!rows.is_empty(), "COMS_FAULTS={wanted} selects no row");
    let mut lines = Vec::new();
    let mut arena = None;
    for row in &rows {
        println!("{}", row.name());
        let mut at_hand = match arena.take() {
            Some(arena) => arena,
            None => Arena::new()?,
        };
        let line = at_hand.run(row);
        println!(
            "    {} ({:.0} s){}",
            line.got,
            line.seconds,
            line.wrong.iter().map(|w| format!("\n    WRONG: {w}")).collect::<String>()
        );
        // What a row that failed leaves behind must not fail the next one.
        arena = if line.wrong.is_empty() { Some(at_hand) } else { None };
        lines.push(line);
        report::write(&lines)?;
    }
    print!("{}", report::markdown(&lines));
    if let Some(arena) = arena {
        arena.finish(true)?;
    }
    assert!(lines.iter().all(|l| l.wrong.is_empty()), "see the table, also in target/faults/table.md");
    Ok(())
}
