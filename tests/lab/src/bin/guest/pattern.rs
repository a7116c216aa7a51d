//! Memory whose every page says what it must contain: the proof that a move lost none of it.
//!
//! Pages are rewritten in turn, cycle after cycle. Each word of a page follows from the page's number and the
//! cycle in which it was written, and before a page is rewritten it is checked against the last cycle: a page
//! that was lost, mixed up or taken from an older copy is found, whichever it is.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::Outcome;

const WORDS_PER_PAGE: usize = 4096 / 8;
const PAGES_PER_MIB: usize = (1 << 20) / 4096;
/// The writer's last words: `cycles pages bad_words first_bad_page`.
const STATUS: &str = "/run/coms-lab-pattern";
/// While it exists, the writer does not rest.
const HURRY: &str = "/run/coms-lab-pattern.hurry";

/// What a word of a page must be.
fn word(page: usize, cycle: u64, index: usize) -> u64 {
    let mut x = (page as u64) << 40 ^ cycle << 12 ^ index as u64;
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ x >> 27
}

/// Writes and checks `mib` MiB, `mib_s` of it a second, without end.
pub(crate) fn run(mib: usize, mib_s: usize) -> Outcome {
    let pages = mib * PAGES_PER_MIB;
    let mut memory = vec![0_u64; pages * WORDS_PER_PAGE];
    for (page, words) in memory.chunks_exact_mut(WORDS_PER_PAGE).enumerate() {
        write(words, page, 0);
    }
    let (mut bad, mut first_bad) = (0_usize, None);
    let rest = Duration::from_millis(1000 / mib_s.max(1) as u64);
    for cycle in 1_u64.. {
        for (page, words) in memory.chunks_exact_mut(WORDS_PER_PAGE).enumerate() {
            let wrong = words.iter().enumerate().filter(|(i, w)| **w != word(page, cycle - 1, *i)).count();
            if wrong > 0 {
                bad += wrong;
                first_bad.get_or_insert(page);
            }
            write(words, page, cycle);
            if page % PAGES_PER_MIB == PAGES_PER_MIB - 1 && !Path::new(HURRY).exists() {
                thread::sleep(rest);
            }
        }
        let first_bad = first_bad.map_or("-".to_owned(), |page| page.to_string());
        fs::write(format!("{STATUS}.new"), format!("{cycle} {pages} {bad} {first_bad}\n"))?;
        fs::rename(format!("{STATUS}.new"), STATUS)?;
    }
    Ok(())
}

fn write(words: &mut [u64], page: usize, cycle: u64) {
    for (index, w) in words.iter_mut().enumerate() {
        *w = word(page, cycle, index);
    }
}

/// Waits until every page has been checked since now; fails if one was ever wrong. Prints the writer's status.
pub(crate) fn verify() -> Outcome {
    let status = || -> Result<Vec<String>, Box<dyn std::error::Error>> {
        let text = fs::read_to_string(STATUS).map_err(|e| format!("no pattern is being written: {e}"))?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    };
    let cycles = |status: &[String]| status.first().and_then(|c| c.parse::<u64>().ok()).unwrap_or(0);
    let begun = cycles(&status()?);
    fs::write(HURRY, "")?;
    let start = Instant::now();
    // The cycle in hand may have passed a page already; the one after it has not.
    while cycles(&status()?) < begun + 2 {
        if start.elapsed() > Duration::from_secs(60) {
            return Err("the pattern's writer does not get on".into());
        }
        thread::sleep(Duration::from_millis(10));
    }
    fs::remove_file(HURRY)?;
    let status = status()?;
    println!("{}", status.join(" "));
    match status.get(2).map(String::as_str) {
        Some("0") => Ok(()),
        Some(_) | None => Err(format!("memory is not what was written: {}", status.join(" ")).into()),
    }
}
