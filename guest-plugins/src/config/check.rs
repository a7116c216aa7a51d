//! From typed to checked: every value that cannot be meant is refused here, with its key and what would be right.

use super::{
    Check, Config, Execd, Figures, Judging, Kind, Listen, MAX_PLUGINS, Measure, Plugin, Program, Scrape,
    StatsD, raw,
};
use crate::metrics::watch;
use crate::reading::plain;
use crate::statsd;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub(super) struct Bad {
    pub key: String,
    pub what: String,
}

type Checked<T> = Result<T, Bad>;

fn bad<T>(key: &str, what: impl Into<String>) -> Checked<T> {
    Err(Bad { key: key.to_owned(), what: what.into() })
}

fn between(key: &str, value: u64, min: u64, max: u64) -> Checked<u64> {
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    bad(key, format!("is {value}; must be from {min} to {max}"))
}

fn absolute(key: &str, path: PathBuf) -> Checked<PathBuf> {
    if path.is_absolute() {
        return Ok(path);
    }
    bad(key, format!("is \"{}\"; must be a whole path, beginning with /", path.display()))
}

pub(super) fn checked(raw: raw::Raw) -> Checked<Config> {
    if raw.plugin.len() > MAX_PLUGINS {
        return bad("plugin", format!("there are {}; at most {MAX_PLUGINS}", raw.plugin.len()));
    }
    let user = raw.run.user;
    let plugins = raw.plugin.into_iter().map(|p| plugin(p, &user)).collect::<Checked<Vec<_>>>()?;
    let mut names = BTreeSet::new();
    if let Some(twice) = plugins.iter().find(|p| !names.insert(&p.name)) {
        return bad("plugin.name", format!("\"{}\" is used twice; give each its own", twice.name));
    }
    let mut places = BTreeSet::new();
    for p in &plugins {
        if let Kind::StatsD(s) = &p.kind
            && !places.insert(format!("{:?}", s.listen))
        {
            return bad(&format!("plugin \"{}\": listen", p.name), "is used twice; give each its own");
        }
    }
    Ok(Config {
        agent: absolute("agent.socket", raw.agent.socket)?,
        control: absolute("control.socket", raw.control.socket)?,
        control_group: raw.control.group,
        stop: Duration::from_secs(between("run.stop_s", raw.run.stop_s, 0, 10)?),
        plugins,
    })
}

fn plugin(raw: raw::Plugin, default_user: &str) -> Checked<Plugin> {
    if raw.name.is_empty() || raw.name.len() > 64 || plain(&raw.name) != raw.name {
        return bad("plugin.name", "must be 1 to 64 bytes of text without control characters");
    }
    let key = |k: &str| format!("plugin \"{}\": {k}", raw.name);
    misplaced(&raw)?;
    let (least, most_ms) = if raw.kind == raw::Kind::Nagios { (200, 3_600_000) } else { (100, 3_600_000) };
    let interval = Duration::from_millis(between(&key("interval_ms"), raw.interval_ms, least, most_ms)?);
    let timeout =
        Duration::from_millis(between(&key("timeout_ms"), raw.timeout_ms.unwrap_or(10_000), 1, 60_000)?);
    if raw.max_errors_permille.is_some_and(|n| n > 1000) {
        return bad(&key("max_errors_permille"), "must be from 0 to 1000");
    }
    let judging = Judging {
        measure: match raw.measure {
            raw::Measure::Latency => Measure::Latency,
            raw::Measure::Throughput => Measure::Throughput,
        },
        max_errors_permille: raw.max_errors_permille,
    };
    let kind = match raw.kind {
        raw::Kind::Nagios => Kind::Nagios(Check {
            program: program(&raw, default_user)?,
            timeout,
            figures: Figures {
                latency: raw.latency.clone(),
                throughput: raw.throughput.clone(),
                requests: raw.requests.clone(),
                errors: raw.errors.clone(),
            },
        }),
        raw::Kind::Execd => Kind::Execd(execd(&raw, default_user)?),
        raw::Kind::OpenMetrics => Kind::OpenMetrics(scrape(&raw, timeout)?),
        raw::Kind::StatsD => Kind::StatsD(timers(&raw)?),
    };
    Ok(Plugin { kind, interval, judging, may_wish: raw.may_wish == Some(true), name: raw.name })
}

/// A key of another kind would be silently without effect.
fn misplaced(raw: &raw::Plugin) -> Checked<()> {
    use raw::Kind::{Execd, Nagios, OpenMetrics, StatsD};
    let keys: [(&str, bool, &[raw::Kind]); 20] = [
        ("timeout_ms", raw.timeout_ms.is_some(), &[Nagios, OpenMetrics]),
        ("command", raw.command.is_some(), &[Nagios, Execd]),
        ("user", raw.user.is_some(), &[Nagios, Execd]),
        ("env", raw.env.is_some(), &[Nagios, Execd]),
        ("memory_mib", raw.memory_mib.is_some(), &[Nagios, Execd]),
        ("processes", raw.processes.is_some(), &[Nagios, Execd]),
        ("latency", raw.latency.is_some(), &[Nagios, OpenMetrics, StatsD]),
        ("throughput", raw.throughput.is_some(), &[Nagios]),
        ("requests", raw.requests.is_some(), &[Nagios, OpenMetrics, StatsD]),
        ("errors", raw.errors.is_some(), &[Nagios, OpenMetrics, StatsD]),
        ("may_wish", raw.may_wish.is_some(), &[Execd]),
        ("signal", raw.signal.is_some(), &[Execd]),
        ("notices", raw.notices.is_some(), &[Execd]),
        ("notice_s", raw.notice_s.is_some(), &[Execd]),
        ("hold_s", raw.hold_s.is_some(), &[Execd]),
        ("quantile", raw.quantile.is_some(), &[OpenMetrics, StatsD]),
        ("url", raw.url.is_some(), &[OpenMetrics]),
        ("labels", raw.labels.is_some(), &[OpenMetrics]),
        ("unit", raw.unit.is_some(), &[OpenMetrics]),
        ("listen", raw.listen.is_some(), &[StatsD]),
    ];
    match keys.iter().find(|(_, given, kinds)| *given && !kinds.contains(&raw.kind)) {
        Some((key, _, kinds)) => {
            let names: Vec<_> = kinds.iter().map(|k| format!("{k:?}").to_lowercase()).collect();
            bad(&format!("plugin \"{}\": {key}", raw.name), format!("is only for kind {}", names.join(", ")))
        }
        None => Ok(()),
    }
}

fn missing<T>(raw: &raw::Plugin, what: &str, example: &str) -> Checked<T> {
    bad(&format!("plugin \"{}\": {what}", raw.name), format!("is missing; such as {example}"))
}

fn program(raw: &raw::Plugin, default_user: &str) -> Checked<Program> {
    let key = |k: &str| format!("plugin \"{}\": {k}", raw.name);
    let Some(argv) = raw.command.clone() else {
        return missing(raw, "command", r#"["/usr/lib/nagios/plugins/check_http", "-H", "127.0.0.1"]"#);
    };
    match argv.first() {
        Some(program) if program.starts_with('/') => {}
        Some(program) => {
            let what = format!("begins with \"{program}\"; must be a program's whole path, beginning with /");
            return bad(&key("command"), what);
        }
        None => return bad(&key("command"), "is empty; must be a program and its arguments"),
    }
    let user = raw.user.clone().unwrap_or_else(|| default_user.to_owned());
    if user.is_empty() || user == "root" || user == "0" {
        return bad(&key("user"), "must be a user other than root: plugins are strangers");
    }
    let env = raw.env.clone().unwrap_or_default();
    let is_name = |k: &str| !k.is_empty() && !k.contains(['=', '\0']);
    if env.len() > 64 || !env.iter().all(|(k, v)| is_name(k) && !v.contains('\0')) {
        return bad(&key("env"), "must be at most 64 variables, without = or NUL in their names");
    }
    let memory_mib = raw.memory_mib.unwrap_or(256);
    Ok(Program {
        argv,
        user,
        env,
        memory_mib: if memory_mib == 0 { 0 } else { between(&key("memory_mib"), memory_mib, 8, 1 << 20)? },
        processes: between(&key("processes"), raw.processes.unwrap_or(32), 1, 4096)?,
    })
}

fn execd(raw: &raw::Plugin, default_user: &str) -> Checked<Execd> {
    let key = |k: &str| format!("plugin \"{}\": {k}", raw.name);
    let seconds = |k: &str, given: Option<u64>, default: u64| {
        between(&key(k), given.unwrap_or(default), 0, 3600).map(|s| u32::try_from(s).unwrap_or(0))
    };
    let (notice_s, hold_s) = (seconds("notice_s", raw.notice_s, 0)?, seconds("hold_s", raw.hold_s, 0)?);
    let notices = raw.notices.unwrap_or(notice_s > 0);
    if notice_s > 0 && !notices {
        return bad(
            &key("notice_s"),
            "needs notices = true: without, it hears of no notice that it could answer",
        );
    }
    Ok(Execd {
        program: program(raw, default_user)?,
        collect: raw.signal == Some(raw::Signal::Stdin),
        notices,
        notice_s,
        hold_s,
    })
}

fn quantile(raw: &raw::Plugin) -> Checked<f64> {
    let q = raw.quantile.unwrap_or(0.95);
    if (0.01..=0.9999).contains(&q) {
        return Ok(q);
    }
    bad(
        &format!("plugin \"{}\": quantile", raw.name),
        format!("is {q}; must be from 0.01 to 0.9999, such as 0.95"),
    )
}

fn scrape(raw: &raw::Plugin, timeout: Duration) -> Checked<Scrape> {
    let key = |k: &str| format!("plugin \"{}\": {k}", raw.name);
    let Some(url) = &raw.url else { return missing(raw, "url", "\"http://127.0.0.1:9100/metrics\"") };
    let Some(latency) = raw.latency.clone() else {
        return missing(raw, "latency", "\"http_request_duration_seconds\", a histogram, summary or gauge");
    };
    let (addresses, host, path) = match target(url) {
        Ok(target) => target,
        Err(what) => return bad(&key("url"), what),
    };
    let unit = raw.unit.clone().unwrap_or_else(|| {
        let of = |end: &str| latency.ends_with(end);
        let unit = if of("_milliseconds") || of("_ms") {
            "ms"
        } else if of("_microseconds") || of("_us") {
            "us"
        } else {
            "s"
        };
        unit.to_owned()
    });
    let unit_s = match unit.as_str() {
        "s" => 1.0,
        "ms" => 1e-3,
        "us" => 1e-6,
        "ns" => 1e-9,
        other => return bad(&key("unit"), format!("is \"{other}\"; must be s, ms, us or ns")),
    };
    let labels = raw.labels.clone().unwrap_or_default();
    let (requests, errors) = (raw.requests.clone(), raw.errors.clone());
    let wanted = watch::Wanted { latency, labels, quantile: quantile(raw)?, unit_s, requests, errors };
    Ok(Scrape { addresses, host, path, timeout, wanted })
}

/// `http://127.0.0.1:9100/metrics`: addresses to try, host, path.
fn target(url: &str) -> Result<(Vec<SocketAddr>, String, String), String> {
    const RIGHT: &str =
        "must be like http://127.0.0.1:9100/metrics: plain HTTP of this machine, by number or localhost";
    let wrong = || format!("is \"{}\"; {RIGHT}", plain(url));
    let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
    let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    if path.chars().any(|c| c.is_control() || c == ' ') || host.contains('@') {
        return Err(wrong());
    }
    let addresses = match host.parse::<SocketAddr>() {
        Ok(address) => vec![address],
        Err(_) => {
            let port_of = |t: &str| if t.is_empty() { Some(80) } else { t.strip_prefix(':')?.parse().ok() };
            if let Some(port) = host.strip_prefix("localhost").and_then(port_of) {
                vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]
            } else {
                let ip: IpAddr = host.trim_matches(['[', ']']).parse().map_err(|_| wrong())?;
                vec![(ip, 80).into()]
            }
        }
    };
    Ok((addresses, host.to_owned(), path.to_owned()))
}

fn timers(raw: &raw::Plugin) -> Checked<StatsD> {
    let key = |k: &str| format!("plugin \"{}\": {k}", raw.name);
    let Some(latency) = raw.latency.clone() else {
        return missing(raw, "latency", "\"shop.query\", a timer");
    };
    let Some(listen) = &raw.listen else {
        return missing(raw, "listen", "\"127.0.0.1:8125\" or \"unix:/run/coms-plugins/statsd.sock\"");
    };
    let listen = match listen.strip_prefix("unix:") {
        Some(path) => Listen::Unix(absolute(&key("listen"), path.into())?),
        None => match listen.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Listen::Udp(address),
            Ok(_) | Err(_) => {
                let what = "must be a loopback address and port (nobody else may measure here), or unix:PATH";
                return bad(&key("listen"), what);
            }
        },
    };
    let wanted = statsd::Wanted { latency, requests: raw.requests.clone(), errors: raw.errors.clone() };
    Ok(StatsD { listen, wanted, quantile: quantile(raw)? })
}

#[cfg(test)]
mod tests {
    use super::super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("plugins.toml")).map_err(|e| e.to_string())
    }

    fn one(body: &str) -> Result<Plugin, String> {
        parse(&format!("[[plugin]]\nname = \"p\"\n{body}")).map(|mut c| c.plugins.remove(0))
    }

    #[test]
    fn each_kind_in_its_shortest_form() {
        let check = one("kind = \"nagios\"\ncommand = [\"/bin/check\"]").unwrap();
        let Kind::Nagios(c) = &check.kind else { panic!("{check:?}") };
        assert_eq!(
            (c.program.user.as_str(), c.program.memory_mib, c.program.processes),
            ("coms-probe", 256, 32)
        );
        assert!(matches!(one("kind = \"execd\"\ncommand = [\"/bin/x\"]").unwrap().kind, Kind::Execd(_)));
        let metrics = one(
            "kind = \"openmetrics\"\nurl = \"http://localhost:9100/metrics\"\nlatency = \"q_milliseconds\"",
        );
        let Kind::OpenMetrics(s) = metrics.unwrap().kind else { panic!() };
        assert_eq!((s.addresses.len(), s.path.as_str(), s.wanted.unit_s), (2, "/metrics", 1e-3));
        let statsd = one("kind = \"statsd\"\nlisten = \"unix:/run/s\"\nlatency = \"shop.query\"").unwrap();
        assert!(matches!(statsd.kind, Kind::StatsD(StatsD { listen: Listen::Unix(_), .. })));
        assert_eq!(parse("").unwrap().plugins, []);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_key_and_what_would_be_right() {
        for (body, words) in [
            ("kind = \"nagios\"", "command: is missing"),
            ("kind = \"nagios\"\ncommand = [\"check_http\"]", "whole path"),
            ("kind = \"nagios\"\ncommand = [\"/c\"]\nurl = \"http://x\"", "only for kind openmetrics"),
            ("kind = \"nagios\"\ncommand = [\"/c\"]\nhold_s = 3", "hold_s: is only for kind execd"),
            ("kind = \"nagios\"\ncommand = [\"/c\"]\nuser = \"root\"", "other than root"),
            ("kind = \"nagios\"\ncommand = [\"/c\"]\ninterval_ms = 10", "from 200 to"),
            ("kind = \"execd\"\ncommand = [\"/c\"]\nnotices = false\nnotice_s = 4", "needs notices"),
            ("kind = \"openmetrics\"\nlatency = \"x\"", "url: is missing"),
            ("kind = \"openmetrics\"\nlatency = \"x\"\nurl = \"https://a/\"", "must be like http://"),
            (
                "kind = \"openmetrics\"\nlatency = \"x\"\nurl = \"http://shop.example/\"",
                "by number or localhost",
            ),
            (
                "kind = \"openmetrics\"\nlatency = \"x\"\nurl = \"http://[::1]:9/\"\nquantile = 95",
                "from 0.01",
            ),
            ("kind = \"statsd\"\nlatency = \"x\"\nlisten = \"0.0.0.0:8125\"", "loopback"),
            ("kind = \"perl\"", "unknown variant"),
            ("kind = \"nagios\"\ncommand = [\"/c\"]\nlabel = \"x\"", "unknown field"),
        ] {
            let error = one(body).unwrap_err();
            assert!(error.contains(words), "{body}: {error}");
        }
        let twice = "[[plugin]]\nname = \"a\"\nkind = \"nagios\"\ncommand = [\"/c\"]\n".repeat(2);
        assert!(parse(&twice).unwrap_err().contains("used twice"));
    }

    /// The commented file that is installed: each line behind `#` that is a key is right, and shows a default.
    #[test]
    fn the_installed_file_is_right_also_without_its_comments() {
        let text = include_str!("../../../packaging/config/plugins.toml");
        assert_eq!(parse(text).unwrap(), parse("").unwrap());
        let bare: Vec<_> = text
            .lines()
            .map(|l| match l.strip_prefix('#') {
                Some(l) if l.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => l,
                _ => l,
            })
            .collect();
        let config = parse(&bare.join("\n")).unwrap();
        let kinds: Vec<_> = config.plugins.iter().map(|p| p.kind.name()).collect();
        assert_eq!(kinds, ["nagios", "execd", "openmetrics", "statsd"]);
    }
}
