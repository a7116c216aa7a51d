//! The hooks with real programs.

use super::*;
use std::path::Path;
use std::time::Duration;

fn hook(events: &[&str], script: &str, ms: u64) -> Hook {
    Hook {
        events: events.iter().map(|e| (*e).to_owned()).collect(),
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        timeout: Duration::from_millis(ms),
    }
}

fn hooks(all: &[Hook]) -> Hooks {
    let mut hooks = Hooks::default();
    hooks.set(all);
    hooks
}

fn line(value: Value) -> Map<String, Value> {
    let Value::Object(map) = value else { unreachable!() };
    map
}

async fn ended(hooks: &mut Hooks) -> Map<String, Value> {
    tokio::time::timeout(Duration::from_secs(20), hooks.ended()).await.unwrap().fields
}

fn lines(file: &Path) -> Vec<String> {
    std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_hook_gets_the_event_and_nothing_raw() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let script = format!("cat > {0}; env | sort >> {0}", out.display());
    let mut hooks = hooks(&[hook(&["completed"], &script, 10_000)]);
    let event = json!({ "event": "completed", "migration": "m-1", "downtime_ms": 46, "enabled": true,
        "to": { "region": "eu $(touch /tmp/x)", "alias": "lion" }, "why": "two\nLINES=1", "long": "x".repeat(300),
        "evidence": [1] });
    hooks.tell("denied", &line(json!({ "event": "denied" })));
    hooks.tell("completed", &line(event.clone()));
    let told = ended(&mut hooks).await;
    assert_eq!(
        (&told["for"], &told["command"], &told["exit_code"]),
        (&json!("completed"), &json!("/bin/sh"), &json!(0))
    );
    assert!(told["took_ms"].is_u64());
    let got = lines(&out);
    assert_eq!(serde_json::from_str::<Value>(&got[0]).unwrap(), event, "as the log has it, on one line");
    let environment: Vec<_> =
        got[1..].iter().filter(|l| l.starts_with("COMS_")).map(String::as_str).collect();
    assert_eq!(
        environment,
        [
            "COMS_DOWNTIME_MS=46",
            "COMS_ENABLED=true",
            "COMS_EVENT=completed",
            "COMS_MIGRATION=m-1",
            "COMS_TO_ALIAS=lion",
            "COMS_TO_REGION=eu $(touch /tmp/x)"
        ]
    );
    assert!(!got.iter().any(|l| l.starts_with("LINES") || l.starts_with("CARGO")), "{got:?}");
}

#[tokio::test]
async fn each_ending_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    let slow = format!("(sleep 2; echo late > {}) & sleep 60", mark.display());
    let mut all = hooks(&[
        hook(&["asked"], "exit 3", 10_000),
        hook(&["denied"], "kill -9 $$", 10_000),
        hook(&["failed"], &slow, 200),
        Hook { command: vec!["/no/such".into()], ..hook(&["notice"], "", 1000) },
        // Reads nothing of more than a pipe holds.
        hook(&["effect"], "exec true", 10_000),
    ]);
    for (event, field, wanted) in [
        ("asked", "exit_code", json!(3)),
        ("denied", "signal", json!(9)),
        ("failed", "timed_out", json!(true)),
    ] {
        all.tell(event, &line(json!({ "event": event })));
        let told = ended(&mut all).await;
        assert_eq!((&told["for"], &told[field]), (&json!(event), &wanted), "{told:?}");
    }
    all.tell("notice", &Map::new());
    assert!(ended(&mut all).await["error"].as_str().unwrap().contains("cannot be started"));
    all.tell("effect", &line(json!({ "long": "x".repeat(1 << 20) })));
    assert_eq!(ended(&mut all).await["exit_code"], 0);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(!mark.exists(), "a child of a hook outlived its time limit");
}

#[tokio::test]
async fn the_queue_is_bounded_and_a_hook_follows_the_order_of_its_events() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    // The first waits, so that the others queue up behind it.
    let gate = dir.path().join("gate");
    let script =
        format!("while ! test -e {}; do sleep 0.02; done; echo $COMS_N >> {}", gate.display(), out.display());
    let mut hooks = hooks(&[hook(&[], &script, 20_000), hook(&["completed"], "exit 7", 10_000)]);
    for n in 0..100 {
        hooks.tell("asked", &line(json!({ "n": n })));
    }
    assert_eq!(
        (hooks.running.len(), hooks.waiting.len()),
        (1, MAX_WAITING),
        "each hook alone, and a bounded queue"
    );
    // Another hook is not held up.
    hooks.tell("completed", &line(json!({ "n": 100 })));
    assert_eq!(ended(&mut hooks).await["exit_code"], 7);
    std::fs::write(&gate, "").unwrap();
    // The newest are kept: one place went to the other hook's run, one to its own of the same event.
    for _ in 0..MAX_WAITING {
        assert_eq!(ended(&mut hooks).await["exit_code"], 0);
    }
    let ran: Vec<u32> = lines(&out).iter().map(|l| l.parse().unwrap()).collect();
    assert_eq!(ran.first(), Some(&0), "it ran already");
    assert_eq!(ran.last(), Some(&100));
    assert!(ran.is_sorted() && ran[1] > 30, "the oldest were dropped: {ran:?}");
}

#[tokio::test]
async fn no_more_than_four_at_once_and_all_end_with_the_agent() {
    let mark = format!("{}.125", 87_000 + std::process::id() % 1000);
    let sleeping = || {
        std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(Result::ok)
            .filter(|p| {
                let line = std::fs::read(p.path().join("cmdline")).unwrap_or_default();
                line.starts_with(b"sleep\0") && String::from_utf8_lossy(&line).contains(&mark)
            })
            .count()
    };
    let one = hook(&["asked"], &format!("sleep {mark} & sleep {mark}"), 60_000);
    let mut hooks = hooks(&vec![one; 6]);
    hooks.tell("asked", &Map::new());
    assert_eq!((hooks.running.len(), hooks.waiting.len()), (AT_ONCE, 2));
    let begun = Instant::now();
    while sleeping() < 2 * AT_ONCE {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", sleeping());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(hooks);
    while sleeping() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "hooks outlive the agent");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
