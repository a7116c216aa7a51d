//! From one scrape to the next: what a histogram, a summary or a gauge says of the time between.
//!
//! A histogram counts for ever; what was since the last scrape is the difference of its buckets, and the quantile lies
//! within one of them: a straight line through it is the best guess, as Prometheus makes it. A counter that fell began
//! anew at zero. A histogram into which nothing came since says nothing: an idle service is neither fast nor slow.

use super::{Bad, Sample, samples};
use crate::reading::{Problem, Reading, plain};
use std::collections::BTreeMap;
use std::time::Duration;

/// Series of one metric that are followed.
const MAX_SERIES: usize = 256;
/// Buckets of one series.
const MAX_BUCKETS: usize = 256;

/// What of a scrape is looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// A histogram, a summary or a gauge.
    pub latency: String,
    /// Only series with these labels.
    pub labels: BTreeMap<String, String>,
    /// Which quantile of a histogram or summary.
    pub quantile: f64,
    /// How many seconds its unit has.
    pub unit_s: f64,
    /// A counter of requests.
    pub requests: Option<String>,
    /// A counter of errors.
    pub errors: Option<String>,
}

/// Counts of one series: by upper bound, not the sums that are in the text.
type Buckets = Vec<(f64, f64)>;

/// What one scrape said.
#[derive(Debug, Default)]
struct Scrape {
    histograms: BTreeMap<String, Buckets>,
    summary: Vec<f64>,
    quantiles: Vec<String>,
    gauge: Vec<f64>,
    counters: BTreeMap<String, f64>,
    /// By wanted name: labels of its series that have not those that are wanted.
    elsewhere: BTreeMap<String, Vec<String>>,
    bad: Vec<Bad>,
    too_many: bool,
}

/// Follows one metric.
#[derive(Debug)]
pub struct Watch {
    wanted: Wanted,
    last: Option<(Duration, Scrape)>,
}

impl Watch {
    /// Nothing was scraped yet.
    pub fn new(wanted: Wanted) -> Self {
        Self { wanted, last: None }
    }

    /// Takes in one scrape.
    pub fn scrape(&mut self, now: Duration, body: &[u8]) -> Reading {
        let text = String::from_utf8_lossy(body);
        let scrape = self.read(&text);
        let mut reading = Reading::default();
        if let Some(bad) = scrape.bad.first() {
            reading.problems.push(Problem::new(
                format!("{} lines cannot be read; line {}: {}", scrape.bad.len(), bad.line, bad.why),
                "the URL must give Prometheus' text format or OpenMetrics",
            ));
        }
        if scrape.too_many {
            reading.problems.push(Problem::new(
                format!("{} has more than {MAX_SERIES} series", self.wanted.latency),
                "name the ones that matter: labels = { path = \"/buy\" }",
            ));
        }
        self.latency(&scrape, &text, &mut reading);
        self.missing_counters(&scrape, &mut reading);
        if let Some((then, last)) = &self.last {
            let elapsed_s = now.saturating_sub(*then).as_secs_f64();
            self.rates(last, &scrape, elapsed_s, &mut reading);
        }
        self.last = Some((now, scrape));
        reading
    }

    fn read(&self, text: &str) -> Scrape {
        let w = &self.wanted;
        let base = w.latency.as_str();
        let counts =
            |name: &str| [&w.requests, &w.errors].into_iter().flatten().any(|c| counter(name) == counter(c));
        let of_latency = |name: &str| name == base || name.strip_suffix("_bucket") == Some(base);
        let mut scrape = Scrape::default();
        for sample in samples(text, move |name| of_latency(name) || counts(name)) {
            match sample {
                Ok(sample) => {
                    let matches = w.labels.iter().all(|(k, v)| {
                        sample.labels.iter().any(|(name, value)| name == k && value.as_ref() == v)
                    });
                    if matches && !of_latency(sample.name) {
                        // Over all its series; each is a counter, and so is their sum.
                        let name = counter(sample.name);
                        if sample.value.is_finite() {
                            *scrape.counters.entry(name.to_owned()).or_default() += sample.value;
                        }
                    } else if matches {
                        self.take(&sample, &mut scrape);
                    } else {
                        let name = counter(if of_latency(sample.name) { base } else { sample.name });
                        let seen = scrape.elsewhere.entry(name.to_owned()).or_default();
                        let shown = self.labels_of(&sample);
                        if seen.len() < 5 && !seen.contains(&shown) {
                            seen.push(shown);
                        }
                    }
                }
                Err(bad) => scrape.bad.push(bad),
            }
        }
        for buckets in scrape.histograms.values_mut() {
            apart(buckets);
        }
        scrape
    }

    /// What a series has where the wanted labels should be; without any of them, what it has.
    fn labels_of(&self, sample: &Sample<'_>) -> String {
        let is_wanted = |name: &str| self.wanted.labels.contains_key(name);
        let any = sample.labels.iter().any(|(n, _)| is_wanted(n));
        let shown = sample.labels.iter().filter(|(n, _)| if any { is_wanted(n) } else { *n != "le" });
        let shown: Vec<_> = shown.take(4).map(|(n, v)| plain(&format!("{n}=\"{v}\""))).collect();
        if shown.is_empty() { "one without labels".to_owned() } else { shown.join(" ") }
    }

    /// A metric that is there, but none of its series has the labels.
    fn misses_labels(&self, scrape: &Scrape, name: &str) -> Option<Problem> {
        let seen = scrape.elsewhere.get(counter(name))?;
        let wanted = self.wanted.labels.iter().map(|(k, v)| format!("{k}=\"{v}\""));
        let wanted = wanted.collect::<Vec<_>>().join(" ");
        Some(Problem::new(
            format!("{name} is there, but no series of it has {wanted}"),
            format!("there are: {}; labels count for the latency and for both counters", seen.join("; ")),
        ))
    }

    /// A misspelt counter would never be missed.
    fn missing_counters(&self, scrape: &Scrape, reading: &mut Reading) {
        let w = &self.wanted;
        let missing = |name: &&String| !scrape.counters.contains_key(counter(name));
        // One of requests is there when there are latencies; where those are wrong, that is told first.
        if let Some(name) = w.requests.as_ref().filter(missing).filter(|_| reading.problems.is_empty()) {
            let no_such = || {
                Problem::new(format!("there is no counter {}", plain(name)), "curl the URL and look for it")
            };
            reading.problems.push(self.misses_labels(scrape, name).unwrap_or_else(no_such));
        }
        // One of errors may come with the first error.
        if let Some(name) = w.errors.as_ref().filter(missing) {
            let no_such =
                || format!("there is no counter {} (yet: it may come with the first error)", plain(name));
            let text =
                self.misses_labels(scrape, name).map_or_else(no_such, |p| format!("{}; {}", p.what, p.mend));
            reading.note(&text);
        }
    }

    fn take(&self, sample: &Sample<'_>, scrape: &mut Scrape) {
        let label = |name: &str| sample.labels.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_ref());
        if sample.name.len() > self.wanted.latency.len() {
            let Some(bound) = label("le").and_then(super::number) else { return };
            let series: String = sample
                .labels
                .iter()
                .filter(|(n, _)| *n != "le")
                .map(|(n, v)| format!("{n}={v}\u{0}"))
                .collect();
            if scrape.histograms.len() >= MAX_SERIES && !scrape.histograms.contains_key(&series) {
                scrape.too_many = true;
                return;
            }
            let buckets = scrape.histograms.entry(series).or_default();
            if buckets.len() < MAX_BUCKETS
                && sample.value.is_finite()
                && sample.value >= 0.0
                && !bound.is_nan()
            {
                buckets.push((bound, sample.value));
            }
        } else if let Some(quantile) = label("quantile") {
            if quantile.parse().is_ok_and(|q: f64| (q - self.wanted.quantile).abs() < 1e-9) {
                scrape.summary.push(sample.value);
            } else if scrape.quantiles.len() < 8 {
                scrape.quantiles.push(plain(quantile));
            }
        } else if scrape.gauge.len() < MAX_SERIES {
            scrape.gauge.push(sample.value);
        }
    }

    fn latency(&self, scrape: &Scrape, text: &str, reading: &mut Reading) {
        let w = &self.wanted;
        // Of several series of a summary or gauge the slowest one counts: quantiles cannot be added up.
        let worst = |values: &[f64]| values.iter().copied().filter(|v| !v.is_nan()).max_by(f64::total_cmp);
        if !scrape.histograms.is_empty() {
            self.histogram(scrape, reading);
        } else if !scrape.summary.is_empty() || !scrape.quantiles.is_empty() {
            match worst(&scrape.summary) {
                Some(value) => reading.set_latency(value * w.unit_s, &w.latency),
                // NaN: nothing came within the summary's own window.
                None if !scrape.summary.is_empty() => {}
                None => reading.problems.push(Problem::new(
                    format!("{} is a summary without quantile {}", w.latency, w.quantile),
                    format!("quantile must be one of {}", scrape.quantiles.join(", ")),
                )),
            }
        } else if let Some(value) = worst(&scrape.gauge) {
            reading.set_latency(value * w.unit_s, &w.latency);
        } else if let Some(problem) = self.misses_labels(scrape, &w.latency) {
            reading.problems.push(problem);
        } else if scrape.gauge.is_empty() {
            reading
                .problems
                .push(Problem::new(format!("there is no metric {}", w.latency), self.similar(text)));
        }
    }

    /// What might have been meant.
    fn similar(&self, text: &str) -> String {
        let types: Vec<_> = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")).collect();
        let is_time = |l: &&str| l.contains("seconds") || l.contains("duration") || l.contains("latency");
        let name = |l: &str| l.split(' ').next().map(plain).unwrap_or_default();
        let word = self.wanted.latency.split('_').next().unwrap_or_default();
        let near = types
            .iter()
            .filter(|l| is_time(l) && l.contains(word))
            .chain(types.iter().filter(|l| is_time(l)));
        let mut names: Vec<String> = Vec::new();
        for found in near.map(|l| name(l)) {
            if names.len() < 5 && !names.contains(&found) {
                names.push(found);
            }
        }
        if names.is_empty() {
            return "curl the URL and look for a name with _seconds; leave out _bucket, _sum and _count"
                .to_owned();
        }
        format!("among others there are: {}", names.join(", "))
    }

    fn histogram(&self, scrape: &Scrape, reading: &mut Reading) {
        // The first scrape counts since the service started: nothing to compare with.
        let Some((_, last)) = &self.last else { return };
        let mut since: Vec<(f64, f64)> = Vec::new();
        for (series, buckets) in &scrape.histograms {
            let before = last.histograms.get(series).map_or(&[][..], Vec::as_slice);
            since.extend(difference(before, buckets));
        }
        since.sort_by(|a, b| a.0.total_cmp(&b.0));
        let Some(found) = quantile(&since, self.wanted.quantile) else { return };
        match found {
            Found::Within(value) => reading.set_latency(value * self.wanted.unit_s, &self.wanted.latency),
            Found::Beyond(bound) => {
                reading.set_latency(bound * self.wanted.unit_s, &self.wanted.latency);
                reading.problems.push(Problem::new(
                    format!("the quantile lies beyond the largest bucket, {bound}: it is that or more"),
                    "give the histogram larger buckets, or take a smaller quantile",
                ));
            }
        }
    }

    fn rates(&self, last: &Scrape, scrape: &Scrape, elapsed_s: f64, reading: &mut Reading) {
        let since = |name: &Option<String>| {
            let name = name.as_deref()?;
            let name = counter(name);
            let (before, now) = (last.counters.get(name)?, scrape.counters.get(name)?);
            Some(if now < before { *now } else { now - before })
        };
        reading.requests = since(&self.wanted.requests);
        reading.errors = since(&self.wanted.errors);
        let counted = || {
            let of = |s: &BTreeMap<String, Buckets>| s.values().flatten().map(|b| b.1).sum::<f64>();
            let (before, now) = (of(&last.histograms), of(&scrape.histograms));
            (!scrape.histograms.is_empty() && now >= before).then_some(now - before)
        };
        if elapsed_s > 0.0 {
            reading.throughput_per_s = reading.requests.or_else(counted).map(|n| n / elapsed_s);
        }
    }
}

/// A counter's name, with or without `_total`.
fn counter(name: &str) -> &str {
    name.strip_suffix("_total").unwrap_or(name)
}

/// From running totals to the count of each bucket.
fn apart(buckets: &mut Buckets) {
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    buckets.dedup_by(|a, b| a.0 == b.0);
    let mut below = 0.0;
    for (_, count) in buckets {
        let total = count.max(below);
        *count = total - below;
        below = total;
    }
}

/// What came into each bucket since. One that holds less than before: all began anew.
fn difference(before: &[(f64, f64)], now: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let was = |bound: f64| before.iter().find(|(b, _)| *b == bound).map_or(0.0, |(_, n)| *n);
    let total = |all: &[(f64, f64)]| all.iter().map(|b| b.1).sum::<f64>();
    let reset = total(now) < total(before) || now.iter().any(|(bound, n)| *n < was(*bound));
    now.iter().map(|(bound, n)| (*bound, if reset { *n } else { n - was(*bound) })).collect()
}

#[derive(Debug, PartialEq)]
enum Found {
    Within(f64),
    /// In the last bucket, which has no upper end: this is its lower one.
    Beyond(f64),
}

/// The quantile of counts by upper bound, sorted. None: nothing was counted.
fn quantile(counts: &[(f64, f64)], q: f64) -> Option<Found> {
    let all: f64 = counts.iter().map(|c| c.1).sum();
    if all <= 0.0 {
        return None;
    }
    let rank = q * all;
    let (mut below, mut lower) = (0.0, 0.0);
    let mut rest = counts;
    while let Some((bound, _)) = rest.first().copied() {
        // Several series: buckets with the same bound are one.
        let same = rest.iter().take_while(|c| c.0 == bound).count();
        let count: f64 = rest[..same].iter().map(|c| c.1).sum();
        rest = &rest[same..];
        if count > 0.0 && below + count >= rank {
            if bound.is_infinite() {
                return Some(Found::Beyond(lower));
            }
            let lower = if bound > 0.0 { f64::max(lower, 0.0) } else { bound };
            return Some(Found::Within(lower + (bound - lower) * ((rank - below) / count).clamp(0.0, 1.0)));
        }
        below += count;
        if bound.is_finite() {
            lower = bound;
        }
    }
    Some(Found::Beyond(lower))
}

#[cfg(test)]
mod tests;
