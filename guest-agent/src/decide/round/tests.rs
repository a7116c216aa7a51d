use super::*;
use proptest::prelude::*;

fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn app(n: u64) -> Party {
    Party::App(ClientId(n))
}

fn limits(notice: u64, hold: u64) -> Limits {
    Limits { notice: s(notice), hold: s(hold) }
}

#[test]
fn who_says_nothing_is_waited_for_as_long_as_it_said() {
    let mut round = Round::begin(s(100), s(60));
    round.join(s(100), app(1), limits(10, 60));
    round.join(s(100), app(2), limits(20, 0));
    assert!(round.ready(&app(1)) && !round.is_over());
    assert_eq!((round.wanted(), round.next_timeout()), (None, Some(s(120))));
    assert!(round.expire(s(119)).is_empty());
    assert_eq!(round.expire(s(120)), [(app(2), Standing::Silent)]);
    assert!(round.is_over() && round.expire(s(121)).is_empty(), "said once");
}

#[test]
fn a_hold_ends_by_the_apps_own_limit_and_by_the_hosts() {
    let mut round = Round::begin(s(0), s(60));
    round.join(s(0), app(1), limits(5, 20));
    assert_eq!(round.hold(s(1), &app(1), s(600)), Ok(s(25)), "its own limit");
    assert_eq!(round.wanted(), Some(Wanted { until: s(25), cause: Cause::App, holders: 1 }));
    round.join(s(0), Party::Command("c".into()), limits(5, 600));
    assert_eq!(round.hold(s(2), &Party::Command("c".into()), s(600)), Ok(s(60)), "the host's");
    assert_eq!(round.wanted().map(|w| (w.until, w.holders)), Some((s(60), 2)));
    assert_eq!(round.expire(s(25)), [(app(1), Standing::Overdue)]);
    assert!(round.hold(s(25), &app(1), s(1)).is_err(), "no hold after the limit");
    assert_eq!(round.wanted().map(|w| w.cause), Some(Cause::Command));
    assert!(round.leave(&Party::Command("c".into())) && round.is_over());
}

#[test]
fn a_short_hold_does_not_end_anothers_time_to_answer() {
    let mut round = Round::begin(s(0), s(60));
    round.join(s(0), app(1), limits(5, 20));
    round.join(s(0), app(2), limits(30, 0));
    assert_eq!(round.hold(s(1), &app(1), s(2)), Ok(s(3)));
    assert_eq!(round.wanted().map(|w| (w.until, w.holders)), Some((s(30), 1)));
}

#[test]
fn where_the_host_does_not_hold_nobody_does() {
    let mut round = Round::begin(s(0), s(0));
    round.join(s(0), app(1), limits(5, 20));
    assert!(round.hold(s(1), &app(1), s(2)).is_err());
    let mut round = Round::begin(s(0), s(60));
    round.join(s(0), app(1), limits(5, 20));
    assert!(round.hold(s(1), &app(1), s(2)).is_ok());
    round.hold_refused();
    assert!(round.is_over() && round.wanted().is_none());
}

#[derive(Debug, Clone)]
enum Said {
    Join(u64, u64, u64),
    Leave(u64),
    Ready(u64),
    Hold(u64, u64),
    Pass(u64),
}

fn said() -> impl Strategy<Value = Said> {
    let who = 0..4u64;
    prop_oneof![
        (who.clone(), 0..40u64, 0..40u64).prop_map(|(a, n, h)| Said::Join(a, n, h)),
        who.clone().prop_map(Said::Leave),
        who.clone().prop_map(Said::Ready),
        (who, 0..100u64).prop_map(|(a, f)| Said::Hold(a, f)),
        (1..20u64).prop_map(Said::Pass),
    ]
}

proptest! {
    #[test]
    fn no_hold_is_longer_than_the_terms_and_nobody_who_left_is_waited_for(
        terms in 0..60u64, script in prop::collection::vec(said(), 0..60)
    ) {
        let mut round = Round::begin(s(0), s(terms));
        let (mut now, mut here) = (s(0), BTreeMap::new());
        let mut joined_last = s(0);
        for step in script {
            match step {
                Said::Join(a, n, h) => {
                    round.join(now, app(a), limits(n, h));
                    here.insert(a, (now, n, h));
                    joined_last = now;
                }
                Said::Leave(a) => { prop_assert_eq!(round.leave(&app(a)), here.remove(&a).is_some()); }
                Said::Ready(a) => { prop_assert_eq!(round.ready(&app(a)), here.contains_key(&a)); }
                Said::Hold(a, f) => if let Ok(until) = round.hold(now, &app(a), s(f)) {
                    prop_assert!(until > now && until <= s(terms) && until <= now + s(f));
                },
                Said::Pass(n) => now += s(n),
            }
            round.expire(now);
            prop_assert!(round.parties().all(|(p, _)| matches!(p, Party::App(c) if here.contains_key(&c.0))));
            if let Some(wanted) = round.wanted() {
                prop_assert!(wanted.until <= s(terms) && usize::from(wanted.holders) <= here.len());
            }
            if here.is_empty() { prop_assert!(round.is_over()); }
            prop_assert!(round.next_timeout().is_none_or(|t| t > now), "no timer stays in the past");
        }
        // Left alone it ends by itself.
        round.expire(joined_last.max(now) + s(40 + 40 + 60));
        prop_assert!(round.is_over());
    }
}
