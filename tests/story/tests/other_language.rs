//! An agent without a line of our Rust in it, `tests/python/coms_client.py`, in a real guest that is moved there, back
//! and there again.

use coms_lab::{Guest, GuestConfig, GuestFile};
use coms_story::*;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Debian's, which `make setup` installs: one with its libraries elsewhere would not start in the guest.
const PYTHON: &str = "/usr/bin/python3";
const CLIENT: &str = "/opt/coms/coms_client.py";
/// The guest has no site-packages, and what it compiles is gone with it.
const FLAGS: &str = "-S -E -B";
/// More would not be a small guest any more.
const MOST_BYTES: usize = 30 << 20;

/// Python, the client, and of the standard library and the shared libraries what the client loads.
fn python() -> Result<Vec<GuestFile>> {
    let sources = coms_lab::workspace_root().join("tests/python");
    // Run once, so that what is loaded late is loaded.
    let list = "import sys, coms_client\n\
        import encodings.ascii, encodings.latin_1, encodings.utf_8\n\
        sys.argv[1:] = '--port /nowhere --state /nowhere --timeout 0 status'.split()\n\
        assert coms_client.main() == 3\n\
        for m in list(sys.modules.values()):\n    print(getattr(m, '__file__', None) or '')\n\
        print([l.split()[-1] for l in open('/proc/self/maps') if '.so' in l])";
    let output = Command::new(PYTHON)
        .args(FLAGS.split(' '))
        .args(["-c", list])
        .current_dir(&sources)
        .output()
        .map_err(|e| format!("{PYTHON}: {e}; `make setup` installs it"))?;
    if !output.status.success() {
        return Err(format!("{PYTHON}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let text = String::from_utf8(output.stdout)?;
    let paths: BTreeSet<PathBuf> = text
        .split(['\n', '\'', ' ', ',', '[', ']'])
        .filter(|w| w.starts_with('/') && !w.starts_with(&*sources.to_string_lossy()))
        .map(PathBuf::from)
        .collect();
    let file = |path: &str, mode, from: &Path| -> Result<GuestFile> {
        let bytes = std::fs::read(from).map_err(|e| format!("{}: {e}", from.display()))?;
        Ok(GuestFile { path: path.to_owned(), mode, bytes })
    };
    let mut files = vec![
        file(PYTHON, 0o755, Path::new(PYTHON))?,
        file("/lib64/ld-linux-x86-64.so.2", 0o755, Path::new("/lib64/ld-linux-x86-64.so.2"))?,
    ];
    for name in ["coms_client.py", "coms_wire.py"] {
        files.push(file(&format!("/opt/coms/{name}"), 0o755, &sources.join(name))?);
    }
    for path in paths {
        // A library is asked for as libz.so.1 and lies in libz.so.1.2.13.
        let name = path.to_string_lossy();
        let wanted = match name.split_once(".so.") {
            Some((library, version)) => {
                format!("{library}.so.{}", version.split('.').next().unwrap_or(version))
            }
            None => name.clone().into_owned(),
        };
        files.push(file(&wanted, 0o755, &path)?);
    }
    let bytes = files.iter().map(|f| f.bytes.len()).sum::<usize>();
    println!("python in the guest: {} files, {} KiB", files.len(), bytes >> 10);
    assert!(bytes < MOST_BYTES, "{bytes} bytes of Python");
    Ok(files)
}

/// The client's events in one of its outputs.
fn told(guest: &Guest, log: &str) -> Result<Vec<Value>> {
    let text = guest.sh(&format!("cat {log}"))?;
    text.lines().map(|l| serde_json::from_str(l).map_err(|e| format!("{e}: {text}").into())).collect()
}

fn named<'a>(events: &'a [Value], name: &str) -> Vec<&'a Value> {
    events.iter().filter(|e| e["event"] == name).collect()
}

/// Starts the client and leaves it running.
fn start(guest: &Guest, args: &str, log: &str) -> Result<()> {
    guest.sh(&format!(
        "setsid {PYTHON} {FLAGS} {CLIENT} {args} </dev/null >{log} 2>&1 & echo $! >/run/client.pid"
    ))?;
    Ok(())
}

fn kill(guest: &Guest) -> Result<()> {
    guest.sh("kill -9 $(cat /run/client.pid)")?;
    Ok(())
}

/// What both brokers say of a finished move of this request.
fn books_agree(stage: &Stage, guest: &Guest, completed: &Value, from: usize, to: usize) -> Result<()> {
    let migration = completed["migration"].as_str().ok_or("no migration id")?;
    stage.wait("the source to know that it left", 20, || {
        Ok(stage.record(from, migration)?["state"] == "left")
    })?;
    stage.wait("the destination to know that the guest knows", 20, || {
        Ok(stage.record(to, migration)?["state"] == "completed")
    })?;
    stage.wait("the ticket to be removed", 20, || Ok(ticket(stage, to, guest)?.is_none()))
}

#[test]
fn an_agent_in_python_asks_survives_the_move_and_hears_of_it_once() -> Result<()> {
    let stage = Stage::up(Settings::default())?;
    let config = GuestConfig { memory_mib: 320, files: python()?, ..GuestConfig::default() };
    let guest = stage.lab.boot(config, HOSTS[0])?;

    // Hello: it knows its place, and the operator knows its name.
    start(&guest, "migrate --wait --linger 20", "/var/log/there.jsonl")?;
    stage
        .wait("the client to hear that it was moved", 120, || {
            Ok(guest.sh("cat /var/log/there.jsonl")?.contains("\"completed\""))
        })
        .map_err(|e| format!("{e}\n{}", guest.sh("cat /var/log/there.jsonl").unwrap_or_default()))?;
    assert_eq!(guest.current_host()?.name(), HOSTS[1]);
    stage.wait("the destination's operator to see the agent", 20, || {
        Ok(stage.comsctl(1, &["guests"])?[0]["agent"] == "coms_client.py 0.1")
    })?;
    let there = told(&guest, "/var/log/there.jsonl")?;
    let completed = named(&there, "completed")[0].clone();
    books_agree(&stage, &guest, &completed, 0, 1)?;

    // It would hear a second answer now: the process that asked lives on.
    std::thread::sleep(Duration::from_secs(3));
    let there = told(&guest, "/var/log/there.jsonl")?;
    let asked = named(&there, "asked")[0]["request"].clone();
    assert_eq!(named(&there, "accepted").len(), 1, "{there:?}");
    assert_eq!(named(&there, "completed").len(), 1, "{there:?}");
    assert_eq!((&completed["answers"], &completed["request"]), (&asked, &asked));
    assert_eq!(
        (&completed["from"]["region"], &completed["to"]["region"]),
        (&REGIONS[0].into(), &REGIONS[1].into())
    );
    assert!(completed["figures"]["downtime_ms"].as_u64().is_some_and(|ms| ms > 0), "{completed}");
    let met = named(&there, "connected");
    let (first, last) = (met[0], met[met.len() - 1]);
    assert_ne!(first["epoch"], last["epoch"], "the port changed hands under the one process: {there:?}");
    assert_eq!(
        (&first["place"]["region"], &last["place"]["region"]),
        (&REGIONS[0].into(), &REGIONS[1].into())
    );
    assert_eq!((&last["place"], &last["enabled"]), (&completed["to"], &true.into()));
    println!("accel=tcg python there: {completed}");

    // Back again, by a new process: another epoch, the same state.
    stage.wait("the client to end", 60, || {
        Ok(guest.sh("kill -0 $(cat /run/client.pid) 2>/dev/null && echo lives || echo ended")?.trim()
            == "ended")
    })?;
    let words = format!("{PYTHON} {FLAGS} {CLIENT} migrate --wait");
    let argv: Vec<&str> = words.split(' ').collect();
    let out = guest.exec_with(&argv, "", Duration::from_secs(120))?;
    assert_eq!(out.status, 0, "{}{}\n{}", out.stdout, out.stderr, stage.logs());
    let back: Vec<Value> = out.stdout.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    assert_eq!(guest.current_host()?.name(), HOSTS[0]);
    assert_eq!(named(&back, "completed").len(), 1, "{back:?}");
    assert_eq!(named(&back, "completed")[0]["to"], completed["from"], "a host keeps its alias");
    assert_ne!(named(&back, "asked")[0]["request"], asked);
    books_agree(&stage, &guest, named(&back, "completed")[0], 1, 0)?;

    // There once more, and it is killed in the middle: its successor hears the answer to what it had asked.
    start(&guest, "migrate --wait", "/var/log/killed.jsonl")?;
    stage.wait("the request to be accepted", 60, || {
        Ok(guest.sh("cat /var/log/killed.jsonl")?.contains("\"accepted\""))
    })?;
    kill(&guest)?;
    let asked = named(&told(&guest, "/var/log/killed.jsonl")?, "asked")[0]["request"].clone();
    let out = guest.exec_with(&argv, "", Duration::from_secs(120))?;
    assert_eq!(out.status, 0, "{}{}\n{}", out.stdout, out.stderr, stage.logs());
    let heir: Vec<Value> = out.stdout.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    assert!(named(&heir, "asked").is_empty(), "{heir:?}");
    let completed: Vec<_> = named(&heir, "completed").into_iter().map(|c| c["answers"].clone()).collect();
    assert_eq!(completed, [asked], "{heir:?}");
    assert_eq!(guest.current_host()?.name(), HOSTS[1]);

    // And it measures its way to the host.
    let words = format!("{PYTHON} {FLAGS} {CLIENT} --timeout 60 ping --count 20");
    let out = guest.exec_with(&words.split(' ').collect::<Vec<_>>(), "", Duration::from_secs(90))?;
    assert_eq!((out.status, out.stdout.matches("\"pong\"").count()), (0, 20), "{}{}", out.stdout, out.stderr);
    stage.finish(&[&guest])
}
