use super::*;
use proptest::prelude::*;

/// A machine that is measured; what it costs, how its tasks wait and what comes in is up to the test.
struct Machine {
    blame: Blame,
    ms: u64,
    seen: Counters,
    /// A unit's CPU time, in microseconds.
    unit_us: f64,
    waits_permille: u64,
    steal_permille: u64,
    packets_per_s: u64,
}

impl Machine {
    fn new() -> Self {
        let zero = Some(0);
        Self {
            blame: Blame::new(None),
            ms: 1000,
            seen: Counters {
                waited_us: zero,
                all_ticks: zero,
                steal_ticks: zero,
                packets: zero,
                ..Counters::default()
            },
            unit_us: 250.0,
            waits_permille: 20,
            steal_permille: 0,
            packets_per_s: 50,
        }
    }

    fn passes(&mut self, ms: u64) {
        self.ms += ms;
        self.seen.at = Duration::from_millis(self.ms);
        let add = |to: &mut Option<u64>, more: u64| *to = to.map(|t| t + more);
        add(&mut self.seen.waited_us, ms * self.waits_permille);
        add(&mut self.seen.all_ticks, ms * 1000);
        add(&mut self.seen.steal_ticks, ms * self.steal_permille);
        add(&mut self.seen.packets, ms * self.packets_per_s / 1000);
    }

    /// A probe each 500 ms for so many seconds; how often it was measured, and whether something was learned.
    fn seconds(&mut self, seconds: u64, well: bool) -> (usize, usize) {
        let (mut measured, mut learned) = (0, 0);
        for _ in 0..seconds * 2 {
            self.passes(500);
            let Some(units) = self.blame.poll(self.seen.at, well) else { continue };
            measured += 1;
            let before = self.seen;
            // The measuring makes a crowd itself: that must not count.
            self.seen.waited_us = self.seen.waited_us.map(|w| w + 5000);
            let cost = Duration::from_secs_f64(self.unit_us * f64::from(units) / 1e6);
            let m = Measured { before, after: self.seen, units, cost: Some(cost) };
            learned += usize::from(self.blame.measured(&m, well, true));
        }
        (measured, learned)
    }

    fn verdict(&self) -> Verdict {
        judge(&self.blame.figures(self.seen.at)).0
    }

    /// One that knows what is usual.
    fn learned() -> Self {
        let mut machine = Self::new();
        assert_eq!(machine.seconds(60, true).1, 1, "learned once");
        machine
    }
}

#[test]
fn usual_is_learned_while_all_is_well_and_then_it_rests() {
    let mut machine = Machine::learned();
    let usual = machine.blame.usual().unwrap().clone();
    assert_eq!(usual.calibration_us, 2500, "a million rounds");
    assert_eq!((usual.own_wait_permille, usual.packets_per_s), (Some(20), Some(50)));
    let (measured, _) = machine.seconds(600, true);
    assert!((9..=11).contains(&measured), "once a minute: {measured}");
    // Half a second apart, five milliseconds each: one percent.
    assert_eq!(machine.seconds(30, false).0, 60);
    let usual = machine.blame.usual().unwrap().clone();
    machine.unit_us = 900.0;
    machine.seconds(60, false);
    assert_eq!(*machine.blame.usual().unwrap(), usual, "bad times are not usual");
}

#[test]
fn neighbours_own_load_and_a_flood_are_told_apart() {
    let mut machine = Machine::learned();
    machine.seconds(8, false);
    assert_eq!(machine.verdict(), Verdict::Unclear, "slow, and nothing to see");

    machine.waits_permille = 1950;
    machine.seconds(8, false);
    assert_eq!(machine.verdict(), Verdict::Own);
    let (_, why) = judge(&machine.blame.figures(machine.seen.at));
    assert!(why.contains("1.9 of its own tasks") || why.contains("2.0 of its own tasks"), "{why}");

    machine.unit_us *= 2.0;
    machine.seconds(8, false);
    assert_eq!(machine.verdict(), Verdict::Host, "both: the host's part can be mended");

    machine.unit_us /= 2.0;
    machine.steal_permille = 200;
    machine.seconds(8, false);
    assert_eq!(machine.verdict(), Verdict::Host, "steal");

    machine.steal_permille = 0;
    machine.waits_permille = 20;
    machine.packets_per_s = 2000;
    machine.seconds(8, false);
    assert_eq!(machine.verdict(), Verdict::Own, "a flood");
    machine.packets_per_s = 140;
    machine.seconds(8, false);
    assert_eq!(machine.verdict(), Verdict::Unclear, "some more is no flood");
}

#[test]
fn a_guest_whose_tasks_always_wait_is_not_blamed_for_that() {
    let mut machine = Machine::new();
    machine.waits_permille = 800;
    machine.seconds(60, true);
    machine.seconds(8, false);
    assert_eq!(machine.verdict(), Verdict::Unclear);
}

#[test]
fn one_stall_is_no_sign() {
    let mut machine = Machine::learned();
    machine.seconds(6, false);
    machine.passes(500);
    let units = machine.blame.poll(machine.seen.at, false).unwrap();
    let (before, cost) = (machine.seen, Some(Duration::from_secs(2)));
    machine.passes(2000);
    machine.blame.measured(&Measured { before, after: machine.seen, units, cost }, false, true);
    machine.seconds(2, false);
    assert_eq!(machine.verdict(), Verdict::Unclear);
}

#[test]
fn nothing_is_claimed_that_was_not_measured() {
    let mut machine = Machine::new();
    machine.waits_permille = 990;
    machine.seconds(10, false);
    assert!(machine.blame.is_ready(machine.seen.at));
    assert_eq!(machine.verdict(), Verdict::Unclear, "no usual to compare with");
    let figures = machine.blame.figures(machine.seen.at);
    let metrics: Vec<_> = figures.evidence().iter().map(|e| (e.metric, e.baseline)).collect();
    assert!(metrics.contains(&(Metric::OwnWaitPermille, None)), "{metrics:?}");

    // No thread, no counters: still an answer, and still measured again.
    let mut blame = Blame::new(None);
    for s in 1..20u64 {
        let at = Duration::from_secs(s);
        let units = blame.poll(at, false).unwrap();
        let seen = Counters { at, ..Counters::default() };
        blame.measured(&Measured { before: seen, after: seen, units, cost: None }, false, true);
    }
    let figures = blame.figures(Duration::from_secs(20));
    assert!(blame.is_ready(Duration::from_secs(20)) && figures.evidence().is_empty(), "{figures:?}");
    assert_eq!(judge(&figures).0, Verdict::Unclear);
    assert!(!blame.is_ready(Duration::from_secs(2000)), "old news");
}

#[test]
fn without_pressure_figures_a_crowd_says_it() {
    let mut machine = Machine::new();
    machine.seen.waited_us = None;
    machine.seen.crowded = Some(false);
    machine.seconds(60, true);
    machine.seen.crowded = Some(true);
    machine.seconds(8, false);
    assert_eq!(machine.verdict(), Verdict::Own);
}

#[test]
fn another_host_is_learned_anew_and_another_programs_figures_do_not_count() {
    let mut machine = Machine::learned();
    machine.blame.moved();
    assert!(!machine.blame.is_ready(machine.seen.at));
    machine.unit_us = 400.0;
    machine.seconds(2, true);
    assert_eq!(machine.blame.usual().unwrap().calibration_us, 2500, "until enough is known");
    machine.seconds(30, true);
    assert_eq!(machine.blame.usual().unwrap().calibration_us, 4000);

    let mut usual = machine.blame.usual().unwrap().clone();
    assert!(Blame::new(Some(&usual)).usual().is_some());
    usual.of = "coms-agent 0.0.1".to_owned();
    assert!(Blame::new(Some(&usual)).usual().is_none());
}

proptest! {
    /// Whatever the figures are: own only when the host's part is known to be as usual, host only with a sign of it.
    #[test]
    fn a_verdict_has_its_reason(
        cost in prop::option::of(0..u64::MAX), usual in prop::option::of(0..u64::MAX), steal in prop::option::of(0..2000u64),
        waits in prop::option::of(0..2000u64), waited in prop::option::of(0..2000u64),
        packets in prop::option::of(any::<u64>()), before in prop::option::of(any::<u64>()),
    ) {
        let f = Figures {
            measurements: 12,
            calibration_us: cost,
            calibration_usual_us: usual,
            steal_permille: steal,
            own_wait_permille: waits,
            own_wait_usual_permille: waited,
            packets_per_s: packets,
            packets_usual_per_s: before,
        };
        let dear = cost.zip(usual).map(|(c, u)| c as f64 >= u.max(1) as f64 * DEARER);
        let stolen = steal.is_some_and(|s| s >= STOLEN_PERMILLE);
        match judge(&f).0 {
            Verdict::Host => prop_assert!(stolen || dear == Some(true)),
            Verdict::Own => {
                prop_assert!(!stolen && dear == Some(false));
                prop_assert!(waits >= Some(WAITS_PERMILLE) || packets > before);
            }
            Verdict::Unclear => prop_assert!(!stolen && dear != Some(true)),
        }
    }
}

#[test]
fn one_measurement_that_went_wrong_does_not_make_the_next_one_long() {
    let mut machine = Machine::learned();
    let mut longest = Duration::ZERO;
    for n in 0..200 {
        machine.passes(1000);
        let Some(units) = machine.blame.poll(machine.seen.at, false) else { continue };
        let cost = Duration::from_secs_f64(machine.unit_us * f64::from(units) / 1e6);
        longest = longest.max(cost);
        // A clock that stood still meanwhile.
        let seen_cost = if n % 20 == 0 { Duration::from_micros(3) } else { cost };
        let m = Measured { before: machine.seen, after: machine.seen, units, cost: Some(seen_cost) };
        machine.blame.measured(&m, false, true);
    }
    assert!(longest.as_secs_f64() * 1e6 < PIECE_US * 8.0, "{longest:?}");
    let now = machine.blame.figures(machine.seen.at).calibration_us;
    assert!(now.is_some_and(|us| (2400..2600).contains(&us)), "{now:?}");
}
