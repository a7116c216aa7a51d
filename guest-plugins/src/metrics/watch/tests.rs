use super::*;
use proptest::prelude::*;

const S: Duration = Duration::from_secs(1);

fn wanted() -> Wanted {
    Wanted {
        latency: "http_seconds".into(),
        labels: BTreeMap::new(),
        quantile: 0.95,
        unit_s: 1.0,
        requests: None,
        errors: None,
    }
}

fn counting() -> Wanted {
    Wanted { requests: Some("http_requests_total".into()), errors: Some("http_errors".into()), ..wanted() }
}

fn histogram(buckets: &[(&str, u64)], more: &str) -> String {
    let lines: String =
        buckets.iter().map(|(le, n)| format!("http_seconds_bucket{{le=\"{le}\"{more}}} {n}\n")).collect();
    format!("# TYPE http_seconds histogram\n{lines}")
}

fn after(watch: &mut Watch, texts: &[&str]) -> Reading {
    let mut last = Reading::default();
    for (i, text) in texts.iter().enumerate() {
        last = watch.scrape(S * (i as u32 * 10), text.as_bytes());
    }
    last
}

#[test]
fn the_quantile_is_of_what_came_since_the_last_scrape() {
    let mut watch = Watch::new(wanted());
    let first = histogram(&[("0.1", 1_000_000), ("1", 1_000_000), ("+Inf", 1_000_000)], "");
    let second = histogram(&[("0.1", 1_000_000), ("1", 1_000_100), ("+Inf", 1_000_100)], "");
    assert_eq!(watch.scrape(S, first.as_bytes()).latency_us, None, "since when is not known");
    let r = watch.scrape(S * 11, second.as_bytes());
    // All hundred between 0.1 and 1: the 95th lies at 0.1 + 0.9 * 0.95.
    assert_eq!((r.latency_us, r.throughput_per_s, r.problems.len()), (Some(955_000), Some(10.0), 0));
    let r = watch.scrape(S * 21, second.as_bytes());
    assert_eq!((r.latency_us, r.failed, r.problems.len()), (None, None, 0), "idle is neither fast nor slow");
}

#[test]
fn a_service_that_restarted_begins_anew() {
    let before = histogram(&[("0.1", 1000), ("1", 1000), ("+Inf", 1000)], "") + "http_requests_total 1000\n";
    let anew = histogram(&[("0.1", 0), ("1", 20), ("+Inf", 20)], "")
        + "http_requests_total 20\nhttp_errors_total 3\n";
    let r = after(&mut Watch::new(counting()), &[&before, &anew]);
    assert_eq!((r.latency_us, r.requests, r.errors), (Some(955_000), Some(20.0), None));
}

#[test]
fn one_of_several_series_may_restart() {
    let two = |a: [u64; 2], b: [u64; 2]| {
        let one = |n: [u64; 2], host: &str| {
            histogram(&[("0.1", n[0]), ("+Inf", n[1])], &format!(",host=\"{host}\""))
        };
        one(a, "a") + &one(b, "b")
    };
    let r = after(&mut Watch::new(wanted()), &[&two([500, 500], [90, 90]), &two([10, 10], [180, 180])]);
    assert!((95_000..=95_100).contains(&r.latency_us.unwrap()), "{r:?}");
    // Only the one that matters.
    let mut only = wanted();
    only.labels.insert("host".into(), "a".into());
    let r = after(&mut Watch::new(only), &[&two([500, 500], [90, 90]), &two([500, 500], [180, 180])]);
    assert_eq!(r.latency_us, None, "nothing came to a");
}

#[test]
fn beyond_the_largest_bucket_it_is_at_least_that() {
    let r = after(
        &mut Watch::new(wanted()),
        &[
            &histogram(&[("0.1", 0), ("2.5", 0), ("+Inf", 0)], ""),
            &histogram(&[("0.1", 1), ("2.5", 1), ("+Inf", 9)], ""),
        ],
    );
    assert_eq!((r.latency_us, r.problems.len()), (Some(2_500_000), 1));
}

#[test]
fn summaries_and_gauges() {
    let mut watch = Watch::new(Wanted { latency: "rpc".into(), unit_s: 1e-3, ..wanted() });
    let r = watch.scrape(
        S,
        b"# TYPE rpc summary\nrpc{quantile=\"0.5\"} 3\nrpc{quantile=\"0.95\"} 17\nrpc_sum 9\nrpc_count 4\n",
    );
    assert_eq!((r.latency_us, r.problems.len()), (Some(17_000), 0));
    let r = watch.scrape(S, b"rpc{quantile=\"0.95\"} NaN\n");
    assert_eq!((r.latency_us, r.problems.len()), (None, 0), "nothing within the summary's window");
    let r = watch.scrape(S, b"rpc{quantile=\"0.9\"} 3\nrpc{quantile=\"0.99\"} 5\n");
    assert!(r.problems[0].mend.contains("0.9, 0.99"), "{r:?}");
    let r = watch.scrape(S, b"rpc{shard=\"a\"} 4\nrpc{shard=\"b\"} 9\n");
    assert_eq!(r.latency_us, Some(9_000), "the slowest gauge");
    assert_eq!(watch.scrape(S, b"rpc -4\n").problems.len(), 1, "no time");
}

#[test]
fn what_is_missing_or_unreadable_is_said_with_what_there_is() {
    let mut watch = Watch::new(wanted());
    let r = watch.scrape(
        S,
        b"# TYPE http_request_duration_seconds histogram\nhttp_request_duration_seconds_count 1\n",
    );
    assert!(r.problems[0].what.contains("no metric http_seconds"));
    assert!(r.problems[0].mend.contains("http_request_duration_seconds"), "{r:?}");
    let r = watch.scrape(S, b"http_seconds{le= 1\nhttp_seconds_bucket{le=\"1\"} x\n");
    assert!(r.problems[0].what.contains("2 lines"), "{r:?}");
    assert!(!watch.scrape(S, b"<html>not found</html>").problems.is_empty());
}

#[test]
fn a_counter_that_is_not_there_is_missed_and_one_of_errors_may_come_later() {
    let there = histogram(&[("0.1", 1), ("+Inf", 1)], "");
    let r = Watch::new(counting()).scrape(S, there.as_bytes());
    assert!(r.problems.len() == 1 && r.problems[0].what.contains("no counter http_requests_total"), "{r:?}");
    assert!(r.notes[0].contains("no counter http_errors (yet"), "{r:?}");
    assert!(r.is_empty(), "problems and notes measure nothing");
    let r = Watch::new(counting()).scrape(S, (there.clone() + "http_requests_total 1\n").as_bytes());
    assert_eq!((r.problems.len(), r.notes.len()), (0, 1), "{r:?}");
    let all = there + "http_requests_total 1\nhttp_errors_total 0\n";
    let r = Watch::new(counting()).scrape(S, all.as_bytes());
    assert_eq!((r.problems.len(), r.notes.len()), (0, 0), "{r:?}");
}

#[test]
fn labels_that_nothing_has_are_told_with_those_that_are_there() {
    let mut sell = wanted();
    sell.labels.insert("path".into(), "/sell".into());
    let buy = histogram(&[("0.1", 1), ("+Inf", 1)], ",path=\"/buy\"");
    let r = Watch::new(sell.clone()).scrape(S, buy.as_bytes());
    assert_eq!(r.problems[0].what, "http_seconds is there, but no series of it has path=\"/sell\"");
    assert!(r.problems[0].mend.contains("there are: path=\"/buy\";"), "{r:?}");
    let codes = histogram(&[("0.1", 1), ("+Inf", 1)], ",code=\"200\"");
    let r = Watch::new(sell.clone()).scrape(S, codes.as_bytes());
    assert!(r.problems[0].mend.contains("there are: code=\"200\";"), "no such label at all: {r:?}");
    // The latency has it, the counters have not.
    let mut counted = Wanted { labels: sell.labels, ..counting() };
    let sells =
        histogram(&[("0.1", 1), ("+Inf", 1)], ",path=\"/sell\"") + "http_requests_total 1\nhttp_errors 2\n";
    let r = Watch::new(counted.clone()).scrape(S, sells.as_bytes());
    assert!(r.problems[0].what.contains("http_requests_total is there, but no series"), "{r:?}");
    assert!(r.notes[0].contains("http_errors is there") && r.notes[0].contains("without labels"), "{r:?}");
    counted.labels.clear();
    assert_eq!(Watch::new(counted).scrape(S, sells.as_bytes()).problems, []);
}

#[test]
fn buckets_that_make_no_sense_do_no_harm() {
    let r = after(
        &mut Watch::new(wanted()),
        &[
            &histogram(&[("1", 0), ("0.1", 0), ("+Inf", 0)], ""),
            &histogram(&[("1", 3), ("0.1", 9), ("x", 4), ("+Inf", 1)], ""),
        ],
    );
    assert!(r.latency_us.unwrap() <= 100_000, "{r:?}");
}

proptest! {
    /// Whatever is observed, the guess lies within the bucket that the true quantile lies in.
    #[test]
    fn the_guess_is_in_the_right_bucket(times in proptest::collection::vec(0.0f64..3.0, 1..200), q in 0.01f64..0.999) {
        let bounds = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5];
        let count = |b: f64| times.iter().filter(|t| **t <= b).count() as f64;
        let mut counts: Buckets = bounds.iter().map(|b| (*b, count(*b))).collect();
        counts.push((f64::INFINITY, times.len() as f64));
        apart(&mut counts);
        let mut sorted = times.clone();
        sorted.sort_by(f64::total_cmp);
        let truth = sorted[((q * times.len() as f64).ceil() as usize - 1).min(times.len() - 1)];
        let upper = bounds.iter().copied().find(|b| truth <= *b);
        match quantile(&counts, q).unwrap() {
            Found::Within(guess) => {
                let upper = upper.unwrap();
                let lower = bounds.iter().copied().rfind(|b| *b < upper).unwrap_or(0.0);
                prop_assert!((lower..=upper).contains(&guess), "{guess} not in {lower}..{upper}");
            }
            Found::Beyond(bound) => prop_assert!(upper.is_none() && bound == 2.5),
        }
    }

    #[test]
    fn any_bytes(bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..600), 1..4)) {
        let mut watch = Watch::new(wanted());
        for (i, body) in bodies.iter().enumerate() {
            let _ = watch.scrape(S * i as u32, body);
        }
    }
}
