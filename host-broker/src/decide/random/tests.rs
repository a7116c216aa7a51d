//! A pool of brokers and one guest that moves among them at random: the promises as scripts, and what a guest can
//! learn from 10^5 draws as statistics.

#![expect(clippy::wildcard_enum_match_arm, reason = "a script looks for what it is about")]

mod pool;

use crate::decide::load::Load;
use crate::decide::placement::{self, Candidate, Demand};
use crate::schedule::Schedule;
use coms_protocol::gap::Gaps;
use coms_protocol::types::{GapLaw, RandomState};
use pool::{Pool, Stay};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const DRAWS: usize = 100_000;

fn good(seed: u64) -> impl FnMut() -> u64 + Send + 'static {
    let mut rng = StdRng::seed_from_u64(seed);
    move || rng.next_u64()
}

/// What so many random moves look like from inside the guest: four hosts, and the broker's own functions, fed in the
/// broker's order.
fn history(law: GapLaw, mut draw: impl FnMut() -> u64, moves: usize) -> Vec<Stay> {
    let gaps = Gaps::new(law, 20, 50).unwrap();
    let hosts: Vec<Candidate> = (0..4).map(host).collect();
    let pool: Vec<String> = hosts.iter().map(|h| h.name.clone()).collect();
    let demand = Demand { memory_kib: 1 << 20, region: None, only: None, relief: None, nearer_than: None };
    let mut from = 0;
    let mut stay = |_| {
        let gap_ms = gaps.gap_ms(draw());
        let _migration = draw();
        let others: Vec<_> = hosts.iter().filter(|h| h.name != pool[from]).cloned().collect();
        let chosen = placement::draw(&others, &demand, &pool, draw()).chosen.unwrap();
        let _attempt = draw();
        let to = pool.iter().position(|h| *h == chosen).unwrap();
        let stay = Stay { from, to, gap_ms, called_unix_ms: 0 };
        from = to;
        stay
    };
    (0..moves).map(&mut stay).collect()
}

fn host(i: usize) -> Candidate {
    let load = Load { cpus: 1, per_cpu: Some(i as f64), memory_kib: 16 << 20, committed_kib: 0, domains: i };
    Candidate {
        name: format!("h{i}"),
        region: "r".into(),
        load: Some(load),
        can_run: Ok(()),
        has_it: false,
        has_broker: true,
        from_wish: crate::decide::geo::Known::default(),
        cut_off: None,
        not_encrypted: None,
        storage: Ok(()),
    }
}

/// Chi-square over counts that should all be alike, and how far it is beyond what chance explains: in standard
/// deviations of a chi-square's cube root (Wilson and Hilferty), which is normal enough.
fn surprise(counts: &[usize], expected: &[f64], freedom: usize) -> f64 {
    let chi: f64 = counts.iter().zip(expected).map(|(n, e)| (*n as f64 - e).powi(2) / e).sum();
    let v = 2.0 / (9.0 * freedom as f64);
    ((chi / freedom as f64).cbrt() - (1.0 - v)) / v.sqrt()
}

fn even(counts: &[usize]) -> f64 {
    let all: usize = counts.iter().sum();
    surprise(counts, &vec![all as f64 / counts.len() as f64; counts.len()], counts.len() - 1)
}

/// Are two numbers drawn for one move, or for two, independent? Each pair in a table of `rows` by `columns`.
fn dependent(pairs: impl Iterator<Item = (usize, usize)>, rows: usize, columns: usize) -> f64 {
    let mut table = vec![0usize; rows * columns];
    pairs.for_each(|(r, c)| table[r * columns + c] += 1);
    let row = |r: usize| table[r * columns..(r + 1) * columns].iter().sum::<usize>() as f64;
    let column = |c: usize| (0..rows).map(|r| table[r * columns + c]).sum::<usize>() as f64;
    let all = table.iter().sum::<usize>() as f64;
    let expected: Vec<f64> =
        (0..rows * columns).map(|i| row(i / columns) * column(i % columns) / all).collect();
    surprise(&table, &expected, (rows - 1) * (columns - 1))
}

/// Where in its law a gap lies, from 0 to just below `parts`.
fn part(gaps: &Gaps, gap_ms: u64, parts: usize) -> usize {
    let beyond = gaps.longer_than(gap_ms as f64 / 1000.0);
    (((1.0 - beyond) * parts as f64) as usize).min(parts - 1)
}

/// Of the `n - 1` others, in the pool's order.
fn choice(stay: &Stay) -> usize {
    stay.to - usize::from(stay.to > stay.from)
}

/// The largest surprise that anything in this history holds, and what it is.
fn worst(law: GapLaw, stays: &[Stay]) -> (f64, String) {
    let gaps = Gaps::new(law, 20, 50).unwrap();
    let part = |s: &Stay| part(&gaps, s.gap_ms, 10);
    let mut found = Vec::new();
    let count = |n: usize, of: &dyn Fn(&Stay) -> usize| {
        let mut counts = vec![0; n];
        stays.iter().for_each(|s| counts[of(s)] += 1);
        counts
    };
    found.push((even(&count(3, &choice)), "choice among the others".to_owned()));
    found.push((even(&count(4, &|s| s.to)), "destination".to_owned()));
    found.push((even(&count(10, &part)), "gap against its law".to_owned()));
    found.push((dependent(stays.iter().map(|s| (part(s), choice(s))), 10, 3), "gap and choice".to_owned()));
    for lag in 1..=3 {
        let pairs = || stays.iter().zip(&stays[lag..]);
        found.push((dependent(pairs().map(|(a, b)| (part(a), part(b))), 10, 10), format!("gaps, lag {lag}")));
        found.push((
            dependent(pairs().map(|(a, b)| (choice(a), choice(b))), 3, 3),
            format!("choices, lag {lag}"),
        ));
        found.push((
            dependent(pairs().map(|(a, b)| (part(a), choice(b))), 10, 3),
            format!("gap and a later choice, lag {lag}"),
        ));
        found.push((
            dependent(pairs().map(|(a, b)| (choice(a), part(b))), 3, 10),
            format!("choice and a later gap, lag {lag}"),
        ));
    }
    found.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
}

/// Learns from the first half what follows what, plays the second half: how often it is right.
fn right(
    stays: &[Stay],
    of: &dyn Fn(&Stay) -> usize,
    values: usize,
    known: &dyn Fn(&[Stay]) -> usize,
) -> f64 {
    let seen = 3;
    let contexts = stays.windows(seen + 1).map(|w| (known(&w[..seen]), of(&w[seen])));
    let all: Vec<_> = contexts.collect();
    let (learnt, played) = all.split_at(all.len() / 2);
    let size = all.iter().map(|(c, _)| c + 1).max().unwrap();
    let mut table = vec![0usize; size * values];
    learnt.iter().for_each(|(c, v)| table[c * values + v] += 1);
    let guess = |c: usize| (0..values).max_by_key(|v| table[c * values + v]).unwrap();
    played.iter().filter(|(c, v)| guess(*c) == *v).count() as f64 / played.len() as f64
}

#[test]
fn what_was_drawn_tells_nothing_of_what_will_be() {
    for (law, seed) in [(GapLaw::Exponential, 11), (GapLaw::Uniform, 12)] {
        let stays = history(law, good(seed), DRAWS);
        let (surprise, what) = worst(law, &stays);
        println!("{law}: largest surprise {surprise:.2} sigma ({what})");
        assert!(surprise < 4.0, "{law}: {what}: {surprise:.1} sigma");

        // Somebody who knows all of the past and the law, and bets.
        let gaps = Gaps::new(law, 20, 50).unwrap();
        let past = |w: &[Stay]| w.iter().fold(0, |c, s| (c * 3 + choice(s)) * 4 + part(&gaps, s.gap_ms, 4));
        let sigma = |p: f64| (p * (1.0 - p) / (DRAWS as f64 / 2.0)).sqrt();
        for (name, of, values) in [
            ("destination", &choice as &dyn Fn(&Stay) -> usize, 3),
            ("half of the law", &|s: &Stay| part(&gaps, s.gap_ms, 2), 2),
        ] {
            let right = right(&stays, of, values, &past);
            let blind = 1.0 / values as f64;
            println!("{law}: next {name} bet right {right:.4}, blind {blind:.4}");
            assert!((right - blind).abs() < 4.0 * sigma(blind), "{law} {name}: {right}");
        }

        // What has passed of the present stay tells what the law says, and no more.
        for passed_s in [20.0, 25.0, 35.0, 45.0] {
            let within = passed_s + 2.0;
            let over = |s: f64| stays.iter().filter(|g| g.gap_ms as f64 > s * 1000.0).count() as f64;
            let seen = 1.0 - over(within) / over(passed_s);
            let says = 1.0 - gaps.longer_than(within) / gaps.longer_than(passed_s);
            let sigma = (says * (1.0 - says) / over(passed_s)).sqrt();
            println!("{law}: after {passed_s} s, moved within 2 s: {seen:.4}, by the law {says:.4}");
            assert!((seen - says).abs() < 4.0 * sigma, "{law} after {passed_s} s: {seen} instead of {says}");
        }
    }
}

/// The same through brokers and all that they do for a move.
#[test]
fn brokers_draw_as_the_law_says() {
    let mut pool = Pool::new(4, good(15));
    pool.start(GapLaw::Exponential, 20, 50, None);
    let stays: Vec<_> = (0..1500).map(|_| pool.next_move()).collect();
    let (surprise, what) = worst(GapLaw::Exponential, &stays);
    assert!(surprise < 4.0, "{what}: {surprise:.1} sigma");
}

#[test]
fn the_statistics_would_see_a_bad_generator() {
    // One that is as even as can be and never surprises, and one whose neighbours resemble each other.
    let mut x = 1u64;
    let regular = move || {
        x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        x
    };
    let (mut rng, mut last) = (StdRng::seed_from_u64(3), 0u64);
    let sticky = move || {
        if rng.next_u64().is_multiple_of(10) {
            last = rng.next_u64();
        }
        last
    };
    for (name, stays) in [
        ("regular", history(GapLaw::Uniform, regular, 20_000)),
        ("sticky", history(GapLaw::Uniform, sticky, 20_000)),
    ] {
        let (surprise, what) = worst(GapLaw::Uniform, &stays);
        println!("{name}: {surprise:.1} sigma ({what})");
        assert!(surprise > 6.0, "{name}: {what}: {surprise:.1}");
    }
}

#[test]
fn the_schedule_travels_and_each_move_is_counted_once() {
    let mut pool = Pool::new(3, good(1));
    pool.start(GapLaw::Exponential, 20, 50, None);
    for n in 1..=20 {
        let stay = pool.next_move();
        assert!((20_000..=50_000).contains(&stay.gap_ms) && stay.from != stay.to, "{stay:?}");
        assert_eq!(pool.query().made, n);
    }
}

#[test]
fn a_broker_that_was_killed_reads_the_same_moment_again() {
    let mut pool = Pool::new(3, good(2));
    pool.start(GapLaw::Exponential, 20, 50, None);
    pool.next_move();
    let before = pool.schedule();
    pool.pass(5);
    pool.kill_broker();
    pool.settle();
    assert_eq!(pool.schedule(), before);
    let stay = pool.next_move();
    assert_eq!(stay.called_unix_ms / 1000, before.unwrap().next_unix_ms.unwrap().div_ceil(1000));
    assert_eq!(pool.query().made, 2);
}

#[test]
fn asked_again_as_after_each_move_changes_nothing() {
    let mut pool = Pool::new(3, good(3));
    pool.start(GapLaw::Uniform, 20, 50, Some(100));
    let drawn = pool.schedule();
    for _ in 0..10 {
        pool.pass(1);
        assert_eq!(pool.start(GapLaw::Uniform, 20, 50, Some(100)).state, RandomState::On);
    }
    assert_eq!(pool.schedule(), drawn, "asking does not draw");
}

#[test]
fn stopped_is_stopped_and_starting_again_does_not_fill_the_budget() {
    let mut pool = Pool::new(3, good(4));
    pool.start(GapLaw::Uniform, 20, 50, Some(3));
    pool.next_move();
    pool.next_move();
    let status = pool.stop();
    assert_eq!((status.state, status.made), (RandomState::Off, 2));
    assert_eq!(pool.moves_within(3600), 0);
    let status = pool.start(GapLaw::Exponential, 20, 40, Some(3));
    assert_eq!((status.state, status.made), (RandomState::On, 2));
    pool.next_move();
    assert_eq!(pool.moves_within(3600), 0, "the third was the last");
}

#[test]
fn a_used_up_budget_is_told_once_and_fills_again_by_itself() {
    let mut pool = Pool::new(3, good(5));
    pool.start(GapLaw::Uniform, 20, 50, Some(5));
    for _ in 0..5 {
        pool.next_move();
    }
    assert_eq!(pool.moves_within(23 * 3600), 0);
    assert_eq!(pool.told_unasked(), [RandomState::BudgetUsedUp]);
    pool.kill_broker();
    pool.settle();
    assert_eq!(pool.query().state, RandomState::BudgetUsedUp);
    assert_eq!(pool.moves_within(2 * 3600 + 60), 5, "a day later");
    // The first is the fresh broker's, which cannot know what the guest knows.
    let told = [RandomState::BudgetUsedUp, RandomState::On, RandomState::BudgetUsedUp];
    assert_eq!(pool.told_unasked(), told);
}

#[test]
fn the_operator_bounds_what_may_be_asked_for() {
    let mut pool = Pool::new(3, good(6));
    for (least, most) in [(19, 50), (50, 50), (50, 20), (20, u32::MAX)] {
        let status = pool.start(GapLaw::Uniform, least, most, None);
        assert_eq!((status.state, status.least_s), (RandomState::BadRange, 20), "{least} {most}");
    }
    assert_eq!(pool.start(GapLaw::Unknown(9), 20, 50, None).state, RandomState::BadRange);
    assert_eq!(pool.moves_within(3600), 0);
    assert_eq!(pool.start(GapLaw::Uniform, 20, 50, Some(65_000)).most_per_day, 4000, "the operator's");
    pool.configure(|c| c.random.pool.clear());
    assert_eq!(pool.query().state, RandomState::NotOffered);
    assert_eq!(pool.moves_within(3600), 0, "begun before it was withdrawn");
}

#[test]
fn pause_holds_them_and_resume_does_not_let_all_go_at_once() {
    let mut pool = Pool::new(3, good(7));
    pool.start(GapLaw::Uniform, 20, 50, None);
    pool.pause(true);
    assert_eq!(pool.moves_within(3600), 0);
    assert_eq!(pool.told_unasked(), [RandomState::Paused]);
    pool.pause(false);
    let at = pool.now_unix_ms();
    let stay = pool.next_move();
    assert!(stay.called_unix_ms > at, "a gap drawn meanwhile");
    assert_eq!(pool.told_unasked(), [RandomState::On]);
}

#[test]
fn without_a_fit_host_it_stays_says_so_and_tries_again_later() {
    let mut pool = Pool::new(3, good(8));
    pool.start(GapLaw::Uniform, 20, 50, None);
    pool.full = true;
    assert_eq!(pool.moves_within(600), 0);
    assert!((10..=30).contains(&pool.surveys), "{}", pool.surveys);
    assert_eq!(pool.told_unasked(), [RandomState::NoDestination]);
    pool.full = false;
    pool.next_move();
    assert_eq!(pool.query().made, 1, "what was not made is not charged");
}

#[test]
fn only_hosts_of_the_pool_are_destinations_and_only_fit_ones() {
    let mut pool = Pool::new(4, good(9));
    pool.configure(|c| c.random.pool.retain(|h| h != "h2"));
    pool.start(GapLaw::Uniform, 20, 50, None);
    for _ in 0..200 {
        assert_ne!(pool.next_move().to, 2);
    }
}

#[test]
fn another_move_is_not_met_and_the_gap_is_drawn_anew_after_it() {
    let mut pool = Pool::new(3, good(10));
    pool.start(GapLaw::Uniform, 20, 50, None);
    let before = pool.schedule().unwrap();
    // The operator's move is under way when the random one is due.
    pool.order_and_hold();
    assert_eq!(pool.moves_within(120), 0);
    assert_eq!(pool.surveys, 1, "the operator's own");
    pool.let_go();
    pool.settle();
    let after = pool.schedule().unwrap();
    assert_ne!((after.host, after.next_unix_ms), (before.host, before.next_unix_ms));
    assert_eq!(pool.query().made, 0, "the operator's move is not charged");
    pool.next_move();
}

#[test]
fn a_guests_own_request_is_not_made_to_rest_by_a_random_move() {
    let mut pool = Pool::new(3, good(13));
    pool.start(GapLaw::Uniform, 20, 50, None);
    pool.next_move();
    assert!(pool.ask_is_taken(), "the cooldown of 600 s is for its own moves");
}

#[test]
fn a_broken_schedule_ends_random_moves_and_nothing_else() {
    let mut pool = Pool::new(3, good(14));
    pool.start(GapLaw::Uniform, 20, 50, None);
    pool.xml = pool.xml.map(|x| x.replace("v='1'", "v='2'"));
    pool.kill_broker();
    assert_eq!(pool.moves_within(600), 0);
    assert_eq!(pool.query().state, RandomState::Off);
    assert!(Schedule::from_xml(pool.xml.as_deref().unwrap()).is_err());
    assert_eq!(pool.start(GapLaw::Uniform, 20, 50, None).state, RandomState::On);
}
