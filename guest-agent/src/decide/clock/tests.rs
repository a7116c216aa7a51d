use super::*;
use proptest::prelude::*;

/// Asks every few milliseconds; the answers take any path times. `ahead` is host less guest, in µs.
fn compare(clocks: &mut Clocks, guest_us: &mut u64, ahead: u64, paths: &[(u64, u64)]) {
    for (there, back) in paths {
        let now = |us| Now { mono: Duration::from_micros(us), unix_us: 1_000_000_000 + us };
        let query = clocks.ask(now(*guest_us));
        let host = *guest_us + there + ahead;
        *guest_us += there + back;
        clocks.answered(now(*guest_us), query.number, host);
        *guest_us += 1000;
    }
}

proptest! {
    #[test]
    fn the_true_gap_is_within_the_bound(
        ahead in 0..10_000_000_000u64,
        gap in 0..5_000_000u64,
        before in prop::collection::vec((0..50_000u64, 0..50_000u64), 1..40),
        after in prop::collection::vec((0..50_000u64, 0..50_000u64), 1..40),
        pause in 0..10_000_000u64,
    ) {
        let mut clocks = Clocks::new(7);
        let mut guest = 1_000_000;
        clocks.met("a");
        compare(&mut clocks, &mut guest, ahead, &before);
        prop_assert_eq!(clocks.stood(), None, "nothing to compare with");
        guest += pause;
        clocks.met("b");
        compare(&mut clocks, &mut guest, ahead + gap, &after);
        let stood = clocks.stood().unwrap();
        prop_assert!((stood.gap_us - i128::from(gap)).abs() <= stood.error_us, "{stood:?} for {gap}");
        // And no wider than the quickest answers, the drift and the rounding make it.
        let quickest = |p: &[(u64, u64)]| p.iter().map(|(a, b)| a + b).min().unwrap() / 2;
        let most = quickest(&before) + quickest(&after) + (guest - 1_000_000) * 2 / 1000 + 10;
        prop_assert!(stood.error_us <= i128::from(most), "{stood:?}, {most}");
    }
}

#[test]
fn lies_and_strangers_do_no_harm() {
    let mut clocks = Clocks::new(u64::MAX);
    let now = Now { mono: Duration::from_secs(5), unix_us: 0 };
    clocks.met("a");
    clocks.answered(now, 12, 0);
    for host in [0, u64::MAX, 5, u64::MAX / 2] {
        let query = clocks.ask(now);
        clocks.answered(now, query.number, host);
        clocks.answered(now, query.number, host);
    }
    clocks.met("b");
    let query = clocks.ask(now);
    clocks.answered(now, query.number, u64::MAX);
    assert!(clocks.stood().is_some());
}

#[test]
fn a_clock_that_is_set_is_told_from_one_that_stood() {
    let mut clocks = Clocks::new(1);
    let at = |ms: u64, set: u64| Now { mono: Duration::from_millis(ms), unix_us: (ms + set) * 1000 };
    clocks.met("a");
    let q = clocks.ask(at(10, 0));
    clocks.answered(at(10, 0), q.number, 20_000);
    clocks.met("b");
    let q = clocks.ask(at(20, 40));
    clocks.answered(at(20, 40), q.number, 70_000);
    let stood = clocks.stood().unwrap();
    assert!((stood.gap_us - 40_000).abs() <= stood.error_us && stood.error_us < 20, "{stood:?}");
    assert_eq!(stood.set_us, 40_000);
}

#[test]
fn a_burst_ends_and_a_migration_keeps_asking() {
    let mut clocks = Clocks::new(1);
    clocks.met("a");
    let at = |ms: u64| Now { mono: Duration::from_millis(ms), unix_us: 0 };
    clocks.burst(at(0).mono);
    let asked = |clocks: &mut Clocks, from: u64, to: u64| {
        (from..to).filter(|ms| clocks.poll(at(*ms)).is_some()).count()
    };
    assert_eq!(asked(&mut clocks, 0, 10_000), BURST as usize);
    assert_eq!(clocks.next_timeout(), None, "idle costs nothing");
    clocks.set_moving(true, at(10_000).mono);
    assert_eq!(asked(&mut clocks, 10_000, 11_000), 4);
    clocks.set_moving(false, at(11_000).mono);
    assert!(asked(&mut clocks, 11_000, 20_000) <= 1);
}

#[test]
fn the_hosts_clock_is_compared_with_the_guests() {
    let mut clocks = Clocks::new(0);
    let now = |ms: u64| Now { mono: Duration::from_millis(ms), unix_us: 1_000_000_000 + ms * 1000 };
    assert_eq!(clocks.ahead(now(0)), None);
    clocks.met("lion");
    assert_eq!(clocks.ahead(now(0)), None, "met, not asked");
    let query = clocks.ask(now(100));
    // The host's clock is 5 s ahead; the answer took 10 ms, half each way.
    clocks.answered(now(110), query.number, now(105).unix_us + 5_000_000);
    let (ahead, error) = clocks.ahead(now(110)).unwrap();
    assert!((ahead - 5_000_000).abs() <= error && (5_000..5_100).contains(&error), "{ahead} +- {error}");
    let later = clocks.ahead(now(1_000_110)).unwrap();
    assert!(later.1 >= error + 1_000_000, "what is old is less sure: {later:?}");
}
