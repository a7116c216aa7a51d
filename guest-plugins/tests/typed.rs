//! What people type while they write a plugin: `coms plugin check` and `test`. Each mistake is told with what mends it, also
//! with one sample only.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::Place;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};

fn plugin(kind: &str, argv: &[&str], more: &str) -> String {
    format!("[[plugin]]\nname = \"p\"\nkind = \"{kind}\"\ncommand = {argv:?}\n{more}\n")
}

/// Exit code, standard output, standard error.
fn test(place: &Place, plugins: &str, options: &[&str]) -> (Option<i32>, String, String) {
    place.configure(plugins);
    let out = place.run(&[&["test", "p"], options].concat());
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (out.status.code(), text(out.stdout), text(out.stderr))
}

#[track_caller]
fn says(text: &str, all: &[&str]) {
    for words in all {
        assert!(text.contains(words), "{words:?} is not in:\n{text}");
    }
}

#[test]
fn check_warns_of_users_and_programs_that_are_not_there() {
    let place = Place::new("");
    let plain = place.script("plain", "#!/bin/sh\n");
    std::fs::set_permissions(&plain, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let good = place.script("good", "#!/bin/sh\n");
    let named = |name: &str, argv: &str, more: &str| {
        plugin("nagios", &[argv], more).replace("\"p\"", &format!("{name:?}"))
    };
    place.configure(
        &(named("user", good.to_str().unwrap(), "user = \"no-such-user\"")
            + &named("path", "/no/such/check", "")
            + &named("mode", plain.to_str().unwrap(), "")
            + &named("well", good.to_str().unwrap(), "")),
    );
    let out = place.run(&["check"]);
    let text = String::from_utf8(out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(0), "{text}");
    says(&text, &["4 plugins", "user: there is no user no-such-user\n  mend: name another one"]);
    says(&text, &["path: /no/such/check is not there", "plain is not executable\n  mend: chmod +x"]);
    assert!(!text.contains("well:"), "{text}");
    let told: Value = serde_json::from_slice(&place.run(&["check", "--json"]).stdout).unwrap();
    let warned: Vec<_> = told["warnings"].as_array().unwrap().iter().map(|w| &w["plugin"]).collect();
    assert_eq!(warned, ["user", "path", "mode"], "{told}");
}

#[test]
fn a_program_that_cannot_be_run_is_told_with_one_sample_too() {
    let place = Place::new("");
    for kind in ["execd", "nagios"] {
        let (code, out, _) = test(&place, &plugin(kind, &["/no/such/program"], ""), &["--count", "1"]);
        assert_eq!(code, Some(1), "{out}");
        says(&out, &["warning: /no/such/program is not there", "127", "wrong:", "mend:  is the path right"]);
        says(&out, &["nothing was measured: 1 of 1 samples are failures; "]);
    }
    let broken = place.script("broken", "#!/bin/sh\nno-such-command\nexit 126\n");
    let (_, out, err) = test(&place, &plugin("execd", &[broken.to_str().unwrap()], ""), &["--count", "1"]);
    says(&out, &["wrong: it ended (exit status: 126)", "mend:  is the path right"]);
    says(&err, &["no-such-command: not found"]);
    assert!(!err.contains('\u{1b}'), "no colours but on a terminal: {err:?}");
}

#[test]
fn what_comes_behind_the_only_sample_is_not_lost() {
    let place = Place::new("");
    let once = place.script(
        "once",
        "#!/bin/sh\necho '{\"v\":1,\"latency_ms\":3}'\necho 'a complaint' >&2\nsleep 0.1\nexit 0\n",
    );
    let (code, out, err) = test(&place, &plugin("execd", &[once.to_str().unwrap()], ""), &["--count", "1"]);
    assert_eq!(code, Some(1), "{out}");
    says(
        &out,
        &["would hear: 3.000 ms", "wrong: it ended (exit status: 0)", "mend:  a plugin of kind execd stays"],
    );
    says(&err, &["a complaint"]);
    assert!(!out.contains("  2  after"), "one sample was wanted: {out}");
}

#[test]
fn keys_that_nobody_knows_and_figures_that_cannot_be_are_told() {
    let place = Place::new("");
    let lines = place.script(
        "lines",
        "#!/bin/sh\necho '{\"v\":1,\"latency\":3}'\necho '{\"v\":1,\"latency_ms\":3,\"requests\":2,\"errors\":5}'\nread -r _\n",
    );
    let lines = plugin("execd", &[lines.to_str().unwrap()], "");
    let (code, out, _) = test(&place, &lines, &["--count", "2"]);
    assert_eq!(code, Some(1), "{out}");
    says(&out, &["wrong: latency is no key of version 1; ignored", "wrong: the line says nothing"]);
    says(&out, &["note:  5 errors of 2 requests: counted as 5 of 5", "1 of 2 were measurements; 2 things"]);
}

#[test]
fn exit_codes_that_count_are_shown() {
    let place = Place::new("");
    let slow = place.script("slow", "#!/bin/sh\necho 'SLOW|time=3s;1;2'\nexit $1\n");
    for (exit, words) in [("1", "exit code 1 (WARNING)"), ("2", "exit code 2 (CRITICAL)")] {
        let check = plugin("nagios", &[slow.to_str().unwrap(), exit], "");
        let (code, out, _) = test(&place, &check, &["--count", "1"]);
        assert_eq!(code, Some(0), "{out}");
        says(&out, &["would hear: 3000.000 ms", "note:  ", words, "all is well"]);
    }
}

#[test]
fn silence_is_told_with_where_to_look() {
    let place = Place::new("");
    let mute = place.script("mute", "#!/bin/sh\nread -r _\n");
    let (code, out, _) = test(&place, &plugin("execd", &[mute.to_str().unwrap()], ""), &["--for", "1s"]);
    assert_eq!(code, Some(1));
    says(&out, &["said nothing within 1 s: does it flush"]);
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let statsd = format!(
        "[[plugin]]\nname = \"p\"\nkind = \"statsd\"\nlisten = \"127.0.0.1:{port}\"\nlatency = \"q\"\n"
    );
    let (_, out, _) = test(&place, &statsd, &["--for", "1s"]);
    says(&out, &[&format!("nothing came to 127.0.0.1:{port}; does the application send there?")]);
    if common::is_root() {
        let (_, out, _) =
            test(&place, &plugin("nagios", &["/bin/true"], "user = \"no-such-user\""), &["--count", "1"]);
        says(&out, &["failed: cannot be started: there is no user no-such-user", "mend:  name another one"]);
    }
}

#[test]
fn the_first_scrape_of_a_histogram_is_no_sample_and_misspelt_counters_are_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/metrics", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let count = AtomicU64::new(0);
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0u8; 1024]);
            let n = count.fetch_add(10, Ordering::Relaxed) + 10;
            let body = format!(
                "q_seconds_bucket{{path=\"/buy\",le=\"0.2\"}} {n}\nq_seconds_bucket{{path=\"/buy\",le=\"+Inf\"}} {n}\nreq_total {n}\n"
            );
            let _ = write!(stream, "HTTP/1.0 200 OK\r\n\r\n{body}");
        }
    });
    let place = Place::new("");
    let scrape = |more: &str| {
        format!(
            "[[plugin]]\nname = \"p\"\nkind = \"openmetrics\"\nurl = \"{url}\"\nlatency = \"q_seconds\"\nquantile = 0.5\ninterval_ms = 200\n{more}\n"
        )
    };
    let (code, out, _) = test(&place, &scrape(""), &["--count", "1"]);
    assert_eq!(code, Some(0), "{out}");
    says(&out, &["the first scrape: nothing to compare with yet", "would hear: 100.000 ms", "1 of 1 were"]);
    let (code, out, _) = test(&place, &scrape("requests = \"reqs_total\""), &["--count", "2"]);
    assert_eq!(code, Some(1), "{out}");
    says(&out, &["wrong: there is no counter reqs_total"]);
    let (code, out, _) = test(&place, &scrape("errors = \"errs_total\""), &["--count", "1"]);
    assert_eq!(code, Some(0), "{out}");
    says(&out, &["note:  there is no counter errs_total (yet"]);
    let (_, out, _) = test(&place, &scrape("labels = { path = \"/sell\" }"), &["--count", "1"]);
    says(&out, &["no series of it has path=\"/sell\"", "there are: path=\"/buy\""]);
    let (_, out, _) =
        test(&place, &scrape("requests = \"req\"\nlabels = { path = \"/buy\" }"), &["--count", "1"]);
    says(&out, &["req is there, but no series of it has path=\"/buy\""]);
}

#[test]
fn holds_and_wishes_are_told_with_how_to_try_them() {
    let place = Place::new("");
    let says_all = place.script(
        "all",
        "#!/bin/sh\necho '{\"v\":1,\"latency_ms\":3,\"bad_moment\":\"backup\",\"wish\":\"slow disk\"}'\nread -r _\n",
    );
    let argv = [says_all.to_str().unwrap()];
    let (code, out, _) = test(&place, &plugin("execd", &argv, "notices = true"), &["--count", "1"]);
    assert_eq!(code, Some(1), "{out}");
    says(&out, &["hold_s is 0", "mend:  set hold_s", "its wish is not handed on"]);
    let (code, out, _) =
        test(&place, &plugin("execd", &argv, "hold_s = 60\nmay_wish = true"), &["--count", "1"]);
    assert_eq!(code, Some(0), "{out}");
    says(&out, &["waits, at most 60 s (try it: coms simulate --wait)", "a wish to be moved"]);
}
