//! From typed to checked: every value that cannot be meant is refused here, with its key and what would be right.

use super::{
    Access, Asking, Config, Port, Probe, Rule, Wishes, Workload, asked, clients, hook, random, raw, target,
};
use crate::calendar::Calendar;
use crate::decide::clients::ROUND_TRIP;
use coms_protocol::types::{EncryptionLevel, Metric, Technique, Text};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// Most workloads; the evidence of a request carries as many.
const MAX_WORKLOADS: usize = 8;
const DAY_S: u64 = 86_400;

pub(super) struct Bad {
    pub key: String,
    pub what: String,
}

pub(super) type Checked<T> = Result<T, Bad>;

pub(super) fn bad<T>(key: &str, what: impl Into<String>) -> Checked<T> {
    Err(Bad { key: key.to_owned(), what: what.into() })
}

pub(super) fn between(key: &str, value: u64, min: u64, max: u64) -> Checked<u64> {
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    bad(key, format!("is {value}; must be from {min} to {max}"))
}

fn seconds(key: &str, value: u64, min: u64, max: u64) -> Checked<Duration> {
    between(key, value, min, max).map(Duration::from_secs)
}

fn absolute(key: &str, path: PathBuf) -> Checked<PathBuf> {
    if path.is_absolute() {
        return Ok(path);
    }
    bad(key, format!("is \"{}\"; must be a whole path, beginning with /", path.display()))
}

pub(super) fn checked(raw: raw::Raw) -> Checked<Config> {
    let workloads = raw.workload.into_iter().map(workload).collect::<Checked<Vec<_>>>()?;
    if workloads.len() > MAX_WORKLOADS {
        return bad("workload", format!("there are {}; at most {MAX_WORKLOADS}", workloads.len()));
    }
    let mut names = BTreeSet::new();
    for w in &workloads {
        if !names.insert(&w.name) {
            return bad("workload.name", format!("\"{}\" is used twice; give each its own", w.name));
        }
    }
    if names.contains(&ROUND_TRIP.to_owned()) {
        return bad(
            "workload.name",
            format!("\"{ROUND_TRIP}\" is what the clients' round trips are called; take another"),
        );
    }
    Ok(Config {
        port: port(raw.port)?,
        access: access(&raw.socket)?,
        socket: absolute("socket.path", raw.socket.path)?,
        state: absolute("state.path", raw.state.path)?,
        events: absolute("events.path", raw.events.path)?,
        events_max_bytes: between("events.max_mib", raw.events.max_mib, 1, 1024)? * 1024 * 1024,
        asking: asking(&raw.asking)?,
        wishes: wishes(raw.wishes)?,
        hooks: hook::checked(raw.hooks)?,
        least_notice: asked::least(&raw.notice)?,
        asked: asked::checked(raw.asked)?,
        random: raw.random.map(random::checked).transpose()?,
        clients: clients::checked(raw.clients)?,
        encryption: encryption_level(&raw.encryption.moves)
            .map_err(|what| Bad { key: "encryption.moves".to_owned(), what })?,
        windows: Calendar::new(&raw.windows)
            .map_err(|(key, what)| Bad { key: format!("windows.{key}"), what })?,
        workloads,
    })
}

/// A level by its name.
pub fn encryption_level(name: &str) -> Result<EncryptionLevel, String> {
    EncryptionLevel::named(name).ok_or_else(|| {
        let names: Vec<_> = EncryptionLevel::KNOWN.iter().map(|level| level.name()).collect();
        format!("\"{}\" is no level of encryption; must be {}", name.escape_debug(), names.join(", "))
    })
}

fn access(raw: &raw::Socket) -> Checked<Access> {
    let group = |key: &str, name: &str| {
        let plain = |c: char| c.is_ascii_graphic() && !matches!(c, ':' | ',' | '/');
        if (1..=32).contains(&name.len()) && name.chars().all(plain) {
            return Ok(name.to_owned());
        }
        bad(key, format!("is \"{}\"; must be a group's name or number", name.escape_debug()))
    };
    Ok(Access {
        status_group: group("socket.status_group", &raw.status_group)?,
        change_group: group("socket.change_group", &raw.change_group)?,
        plugins_group: group("socket.plugins_group", &raw.plugins_group)?,
    })
}

fn port(raw: raw::Port) -> Checked<Port> {
    let path = raw.path.map(|p| absolute("port.path", p)).transpose()?;
    match (raw.transport, path) {
        (raw::Transport::Virtio, path) => Ok(Port::Virtio { path }),
        (raw::Transport::Unix, Some(path)) => Ok(Port::Unix { path }),
        (raw::Transport::Unix, None) => {
            bad("port.path", "is missing; transport = \"unix\" needs the socket's path")
        }
        (raw::Transport::Serial, Some(path)) => Ok(Port::Serial { path }),
        (raw::Transport::Serial, None) => bad(
            "port.path",
            "is missing; transport = \"serial\" needs the line, like \"/dev/ttyS1\" or \"/dev/hvc0\"",
        ),
    }
}

fn asking(raw: &raw::Asking) -> Checked<Asking> {
    let asking = Asking {
        cooldown: seconds("asking.cooldown_s", raw.cooldown_s, 0, 30 * DAY_S)?,
        backoff: seconds("asking.backoff_s", raw.backoff_s, 1, DAY_S)?,
        backoff_max: seconds("asking.backoff_max_s", raw.backoff_max_s, 1, 30 * DAY_S)?,
        settle: seconds("asking.settle_s", raw.settle_s, 0, 3600)?,
        check: seconds("asking.check_s", raw.check_s, 1, 3600)?,
        ask_for_own_load: raw.ask_for_own_load,
    };
    if asking.backoff_max < asking.backoff {
        return bad(
            "asking.backoff_max_s",
            format!("is {}; must not be below backoff_s = {}", raw.backoff_max_s, raw.backoff_s),
        );
    }
    Ok(asking)
}

fn wishes(raw: raw::Wishes) -> Checked<Wishes> {
    Ok(Wishes {
        region: raw.region.map(|r| region("wishes.region", &r)).transpose()?,
        avoid_this_host: raw.avoid_this_host,
        deadline_s: raw.deadline_s,
        max_downtime_ms: raw.max_downtime_ms,
        never: raw
            .never
            .iter()
            .map(|t| technique(t).map_err(|what| Bad { key: "wishes.never".to_owned(), what }))
            .collect::<Checked<_>>()?,
    })
}

fn region(key: &str, region: &str) -> Checked<Text<64>> {
    let text = Text::clipped(region);
    if region.is_empty() || text.as_str() != region {
        return bad(
            key,
            "must be 1 to 64 bytes of text without control characters, one of the operator's regions",
        );
    }
    Ok(text)
}

/// A technique by its name. The error lists the names.
pub(crate) fn technique(name: &str) -> Result<Technique, String> {
    Technique::KNOWN.iter().copied().find(|t| t.name() == name).ok_or_else(|| {
        let names: Vec<_> = Technique::KNOWN.iter().map(|t| t.name()).collect();
        format!("has \"{name}\"; must be of {}", names.join(", "))
    })
}

fn workload(raw: raw::Workload) -> Checked<Workload> {
    if raw.name.is_empty() || Text::<64>::clipped(&raw.name).as_str() != raw.name {
        return bad("workload.name", "must be 1 to 64 bytes of text without control characters");
    }
    let key = |k: &str| format!("workload \"{}\": {k}", raw.name);
    let interval = between(&key("interval_ms"), raw.interval_ms, 10, 3_600_000)?;
    let timeout = between(&key("timeout_ms"), raw.timeout_ms, 1, 60_000)?;
    let window = seconds(&key("window_s"), raw.window_s, 1, DAY_S)?;
    let wrong = |k: &str, what: String| Bad { key: key(k), what };
    let probe = match raw.probe {
        raw::Probe::Http(url) => Probe::Http(target::url(&url).map_err(|e| wrong("probe.http", e))?),
        raw::Probe::Tcp(to) => Probe::Tcp(target::address(&to).map_err(|e| wrong("probe.tcp", e))?),
        raw::Probe::Command(argv) => {
            match argv.first() {
                Some(program) if program.starts_with('/') => {}
                Some(program) => {
                    let what = format!(
                        "begins with \"{program}\"; must be a program's whole path, beginning with /"
                    );
                    return Err(wrong("probe.command", what));
                }
                None => {
                    return Err(wrong(
                        "probe.command",
                        "is empty; must be a program and its arguments".to_owned(),
                    ));
                }
            }
            Probe::Command(argv)
        }
        raw::Probe::Plugin(plugin) => {
            if plugin.is_empty() || Text::<64>::clipped(&plugin).as_str() != plugin {
                return bad(&key("probe.plugin"), "must be the name of a plugin in /etc/coms/plugins.toml");
            }
            Probe::Plugin(plugin)
        }
    };
    if let Some(ms) = raw.slower_than_ms
        && !(0.001..=60_000.0).contains(&ms)
    {
        return bad(&key("slower_than_ms"), format!("is {ms}; must be from 0.001 to 60000"));
    }
    if let Some(factor) = raw.slower_than_factor
        && !(1.05..=1000.0).contains(&factor)
    {
        return bad(
            &key("slower_than_factor"),
            format!("is {factor}; must be from 1.05 to 1000 times the baseline"),
        );
    }
    if !(0.1..=1.0).contains(&raw.healthy_below) {
        let what = format!("is {}; must be a fraction of the threshold from 0.1 to 1", raw.healthy_below);
        return bad(&key("healthy_below"), what);
    }
    let most = u64::try_from(window.as_millis()).unwrap_or(u64::MAX) / interval;
    if raw.min_samples == 0 || u64::from(raw.min_samples) > most {
        return bad(
            &key("min_samples"),
            format!(
                "is {}; must be from 1 to the {most} probes that fit into window_s = {} at interval_ms = {interval} (make the window longer or the interval shorter)",
                raw.min_samples, raw.window_s
            ),
        );
    }
    let learn = seconds(&key("learn_s"), raw.learn_s, 1, 30 * DAY_S)?;
    if raw.slower_than_factor.is_some() && learn < window * 3 {
        return bad(
            &key("learn_s"),
            format!("is {}; must be at least three windows, {} s", raw.learn_s, raw.window_s * 3),
        );
    }
    Ok(Workload {
        probe,
        interval: Duration::from_millis(interval),
        timeout: Duration::from_millis(timeout),
        rule: Rule {
            metric: match raw.metric {
                raw::Percentile::P50 => Metric::LatencyP50Us,
                raw::Percentile::P95 => Metric::LatencyP95Us,
                raw::Percentile::P99 => Metric::LatencyP99Us,
            },
            window,
            slower_than: raw.slower_than_ms.map(|ms| Duration::from_secs_f64(ms / 1000.0)),
            slower_than_factor: raw.slower_than_factor,
            hold: seconds(&key("for_s"), raw.for_s, 0, DAY_S)?,
            healthy_below: raw.healthy_below,
            learn,
            min_samples: raw.min_samples,
            ask_on_failure: matches!(raw.on_failure, raw::OnFailure::Ask),
        },
        name: raw.name,
    })
}
