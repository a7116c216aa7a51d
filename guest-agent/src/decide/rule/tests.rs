use super::*;
use crate::decide::tests::config;
use proptest::prelude::*;

fn workload(rule: &str) -> Workload {
    let text = format!(
        "[[workload]]\nname = \"w\"\nprobe = {{ tcp = \"127.0.0.1:1\" }}\ninterval_ms = 100\nwindow_s = 1\nmin_samples = 3\n{rule}"
    );
    config(&text).workloads.remove(0)
}

struct Run {
    watch: Watch,
    ms: u64,
    changes: Vec<Change>,
}

impl Run {
    fn new(rule: &str) -> Self {
        Self { watch: Watch::new(&workload(rule), None), ms: 10_000, changes: vec![] }
    }

    /// Ten samples a second; None fails.
    fn seconds(&mut self, seconds: u64, latency_ms: Option<u64>) -> &mut Self {
        for _ in 0..seconds * 10 {
            self.sample(latency_ms, true);
        }
        self
    }

    fn sample(&mut self, latency_ms: Option<u64>, learn: bool) {
        self.ms += 100;
        let sample =
            latency_ms.map_or(Sample::Failed("no".into()), |ms| Sample::Took(Duration::from_millis(ms)));
        self.changes.extend(self.watch.sample(Duration::from_millis(self.ms), &sample, learn));
    }

    fn state(&mut self) -> &'static str {
        self.watch.standing(Duration::from_millis(self.ms)).state
    }

    fn wants(&self) -> Option<RequestReason> {
        self.watch.wants(Duration::from_millis(self.ms))
    }
}

#[test]
fn slow_must_hold_and_well_must_be_clearly_well() {
    let mut run = Run::new("slower_than_ms = 50\nfor_s = 5\nhealthy_below = 0.8");
    assert_eq!(run.seconds(3, Some(10)).state(), "healthy");
    assert_eq!(run.seconds(3, Some(60)).state(), "rising");
    assert_eq!(run.seconds(2, Some(10)).state(), "healthy", "a spell is no illness");
    assert!(run.changes.is_empty());
    assert_eq!(run.seconds(7, Some(60)).state(), "slow");
    assert_eq!(run.wants(), Some(RequestReason::WorkloadSlow));
    assert_eq!(run.seconds(3, Some(45)).state(), "slow", "below the limit, not below 0.8 of it");
    assert_eq!(run.seconds(3, Some(30)).state(), "healthy");
    assert_eq!(run.changes, [Change::Slow, Change::Recovered]);
    assert_eq!(run.wants(), None);
}

#[test]
fn failing_is_never_fast() {
    let mut run = Run::new("slower_than_ms = 50\nfor_s = 1\non_failure = \"ask\"");
    run.seconds(4, Some(90));
    assert_eq!(run.state(), "slow");
    assert_eq!(run.seconds(4, None).state(), "failing");
    assert_eq!(run.wants(), Some(RequestReason::WorkloadFailing));
    let evidence = run.watch.evidence(Duration::from_millis(run.ms)).unwrap();
    assert_eq!((evidence.metric, evidence.now), (Metric::FailuresPermille, 1000));
    assert_eq!(run.watch.standing(Duration::from_millis(run.ms)).now_us, None, "no latency at all");
    for _ in 0..5 {
        run.sample(Some(1), true);
    }
    assert_eq!(run.state(), "slow", "fast ones among failures prove nothing");
    assert_eq!(run.seconds(2, Some(1)).state(), "healthy");
}

#[test]
fn failures_are_ignored_unless_asked_for() {
    let mut run = Run::new("slower_than_ms = 50\nfor_s = 1");
    assert_eq!(run.seconds(10, None).state(), "failing");
    assert_eq!(run.wants(), None);
    assert!(matches!(&run.changes[..], [Change::Failing(why)] if why == "no"));
}

#[test]
fn the_baseline_is_learned_from_healthy_time_only() {
    let mut run = Run::new("slower_than_factor = 2.0\nlearn_s = 6\nfor_s = 1");
    assert_eq!(run.seconds(2, Some(10)).state(), "learning");
    run.seconds(2, None);
    for _ in 0..30 {
        run.sample(Some(500), false);
    }
    run.seconds(1, Some(80));
    assert_eq!(run.state(), "learning", "failures and migrations teach nothing, a bad second little");
    run.seconds(6, Some(10));
    let learned = run.changes.iter().find_map(|c| match c {
        Change::Learned(b) => Some(b.us),
        Change::Slow | Change::Recovered | Change::Failing(_) | Change::Working => None,
    });
    assert!((9_900..10_200).contains(&learned.unwrap()), "{learned:?}");
    assert_eq!(run.seconds(60, Some(15)).state(), "healthy");
    assert!((19_800..20_400).contains(&run.watch.threshold_us().unwrap()), "does not creep");
    assert_eq!(run.seconds(5, Some(25)).state(), "slow");
}

#[test]
fn a_learned_baseline_outlives_a_restart_but_not_another_probe() {
    let w = workload("slower_than_factor = 2.0\nlearn_s = 6");
    let mut watch = Watch::new(&w, None);
    let known = Baseline { us: 1000, of: watch.of.clone() };
    assert_eq!(Watch::new(&w, Some(&known)).threshold_us(), Some(2000));
    let other = Workload { probe: crate::config::Probe::Command(vec!["/bin/true".into()]), ..w };
    watch = Watch::new(&other, Some(&known));
    assert_eq!(watch.threshold_us(), None);
}

#[test]
fn so_slow_that_few_samples_fit_is_slow() {
    let mut run = Run::new("slower_than_ms = 50\nfor_s = 2");
    for _ in 0..8 {
        run.ms += 900;
        run.sample(Some(1000), true);
    }
    assert_eq!(run.state(), "slow");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_slow_that_was_not_above_the_limit_for_long_enough(
        samples in prop::collection::vec(prop::option::weighted(0.9, 1..100u64), 0..300),
    ) {
        let mut run = Run::new("slower_than_ms = 50\nfor_s = 3");
        // Decided only where there are samples enough.
        let mut last_low = run.ms;
        for latency in samples {
            run.sample(latency, true);
            let standing = run.watch.standing(Duration::from_millis(run.ms));
            if standing.samples >= 3 && standing.now_us.is_some_and(|us| us <= 50_000) {
                last_low = run.ms;
            }
            if run.changes.pop() == Some(Change::Slow) {
                prop_assert!(run.ms - last_low >= 3000, "{} ms", run.ms - last_low);
            }
        }
    }
}
