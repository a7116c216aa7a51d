//! The story that the product exists for, without a hand on it: neighbours get busy, the agent's rule fires, the
//! broker moves the guest, and the guest finds that it helped. `make demo` shows the same with its control run.

use coms_lab::{GuestConfig, Workload};
use coms_story::*;

const AGENT: &str = r#"
[asking]
settle_s = 2
check_s = 6

[[workload]]
name = "rounds"
probe = { http = "http://127.0.0.1:8080/" }
interval_ms = 200
metric = "p50"
window_s = 4
slower_than_factor = 1.6
for_s = 4
learn_s = 12
"#;

#[test]
fn a_guest_squeezed_by_its_neighbours_asks_moves_and_finds_that_it_helped() -> Result<()> {
    measured(squeezed)
}

fn squeezed() -> Result<()> {
    let stage = Stage::up(Settings::default())?;
    let mut neighbours = Vec::new();
    for n in 1..=3u8 {
        let config = GuestConfig {
            name: format!("noisy{n}"),
            ip: [10, 78, 1, n].into(),
            memory_mib: 128,
            port: false,
            ..GuestConfig::default()
        };
        neighbours.push(stage.lab.boot(config, HOSTS[0])?);
    }
    let config = GuestConfig { workload: Some(Workload::default()), ..GuestConfig::default() };
    let guest = stage.boot(0, config, AGENT)?;
    stage.wait("the agent to learn its baseline", 60, || {
        Ok(coms(&guest, &["status"])?["workloads"][0]["state"] == "healthy")
    })?;
    assert!(events_named(&guest, "asked")?.is_empty(), "it asked while all was well");

    for neighbour in &neighbours {
        neighbour.start_hog(1)?;
    }
    stage.wait("the agent to ask", 60, || Ok(!events_named(&guest, "asked")?.is_empty()))?;
    stage.wait("the outcome", 60, || Ok(!events_named(&guest, "completed")?.is_empty()))?;
    stage.wait("its effect", 60, || Ok(!events_named(&guest, "effect")?.is_empty()))?;
    assert_eq!(guest.current_host()?.name(), HOSTS[1]);

    let asked = &events_named(&guest, "asked")?[0];
    let evidence = &asked["evidence"][0];
    assert_eq!(
        (&asked["reason"], &evidence["workload"]),
        (&"workload-slow".into(), &"rounds".into()),
        "{asked}"
    );
    let number = |v: &serde_json::Value| v.as_f64().unwrap_or_default();
    assert!(number(&evidence["now_ms"]) > 1.6 * number(&evidence["baseline_ms"]), "{evidence}");
    let completed = events_named(&guest, "completed")?;
    assert_eq!((completed.len(), &completed[0]["request"]), (1, &asked["request"]));
    let effect = &events_named(&guest, "effect")?[0];
    assert_eq!(effect["verdict"], "helped", "{effect}");
    println!("accel=tcg {effect}");
    stage.finish(&[&guest])
}
