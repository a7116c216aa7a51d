//! coms-plugins as it is installed: by its unit, as its users, in a Debian guest with systemd; and a plugin whose wish moves
//! the VM.
//!
//! Not played yet, so `make test` does not run it. Needs the guest of `tests/setup.sh bench`:
//! `cargo test -p coms-story --test plugins`.

use coms_lab::{GuestConfig, GuestFile, System};
use coms_story::*;
use serde_json::Value;

const AGENT: &str = "[asking]\nsettle_s = 1\ncheck_s = 2\n[[workload]]\nname = \"database\"\nprobe = { plugin = \"db\" }\n\
    interval_ms = 300\nmetric = \"p50\"\nwindow_s = 3\nslower_than_ms = 1000\nfor_s = 0\nmin_samples = 3\n";
const PLUGINS: &str = "[[plugin]]\nname = \"db\"\nkind = \"execd\"\ncommand = [\"/etc/coms/plugins/db\"]\nmay_wish = true\n\
    [[plugin]]\nname = \"who\"\nkind = \"nagios\"\ncommand = [\"/etc/coms/plugins/who\"]\ninterval_ms = 1000\n\
    [[plugin]]\nname = \"storm\"\nkind = \"execd\"\ncommand = [\"/etc/coms/plugins/storm\"]\nprocesses = 20\nmemory_mib = 32\n";
const DB: &str = "#!/bin/sh\nwhile :; do cat /run/says; sleep 0.3; done\n";
const WHO: &str = "#!/bin/sh\n{ id -un; id -Gn; cat /proc/self/cgroup; grep -E 'CapEff|CapAmb|NoNewPrivs' /proc/self/status; \
    touch /etc/mine /run/coms/mine 2>&1; } > /run/who/new; mv /run/who/new /run/who/who\necho 'OK|time=7ms'\n";
const STORM: &str = "#!/bin/sh\nf() { f | f & f; }\n( while :; do f; done ) 2>/dev/null\n";
const CGROUP: &str = "/sys/fs/cgroup/system.slice/coms-plugins.service";

fn file(path: &str, mode: u32, bytes: impl Into<Vec<u8>>) -> GuestFile {
    GuestFile { path: path.into(), mode, bytes: bytes.into() }
}

#[test]
fn by_its_unit_it_bounds_strangers_and_a_wish_moves_the_vm() -> Result<()> {
    let root = coms_lab::workspace_root();
    let packaged = |path: &str| std::fs::read(root.join("packaging").join(path));
    let files = vec![
        file("/usr/bin/coms-plugins", 0o755, std::fs::read(coms_lab::build_plugins()?)?),
        file("/etc/systemd/system/coms-plugins.service", 0o644, packaged("systemd/coms-plugins.service")?),
        file("/usr/lib/sysusers.d/coms-agent.conf", 0o644, packaged("sysusers.d/coms-agent.conf")?),
        file("/usr/lib/sysusers.d/coms-plugins.conf", 0o644, packaged("sysusers.d/coms-plugins.conf")?),
        file("/etc/coms/plugins.toml", 0o644, PLUGINS),
        file("/etc/coms/plugins/db", 0o755, DB),
        file("/etc/coms/plugins/who", 0o755, WHO),
        file("/etc/coms/plugins/storm", 0o755, STORM),
    ];
    let stage = Stage::up(Settings::default())?;
    let config = GuestConfig { memory_mib: 512, system: System::Debian, files, ..GuestConfig::default() };
    let guest = stage.boot(0, config, AGENT)?;
    // What a package does at its installation.
    guest.sh("systemd-sysusers && systemctl daemon-reload && systemctl reload coms-agent")?;
    guest.sh(
        "mkdir -m 777 /run/who; echo '{\"v\":1,\"latency_ms\":5}' > /run/says; systemctl start coms-plugins",
    )?;

    let list = || -> Result<Value> { Ok(serde_json::from_str(&guest.sh("coms plugin list --json")?)?) };
    stage
        .wait("both to have measured", 60, || {
            let list = list().unwrap_or_default();
            let measured = |i: usize| list["plugins"][i]["samples"].as_u64() > Some(2);
            Ok(measured(0) && measured(1) && list["plugins"][0]["agent"] == "taken")
        })
        .map_err(|e| {
            format!(
                "{e}\n{}",
                guest.sh("coms plugin list; journalctl -u coms-plugins | tail -40").unwrap_or_default()
            )
        })?;
    let who = guest.sh("cat /run/who/who")?;
    println!("{who}");
    let lines: Vec<&str> = who.lines().collect();
    assert_eq!(lines[..2], ["coms-probe", "coms-probe"], "{who}");
    assert!(who.contains("coms-plugins.service/plugin-1"), "a cgroup of its own: {who}");
    assert!(who.contains("CapEff:\t0000000000000000") && who.contains("CapAmb:\t0000000000000000"), "{who}");
    assert!(who.contains("NoNewPrivs:\t0"), "a set-uid check works: {who}");
    assert!(who.contains("/etc/mine") && who.contains("/run/coms/mine"), "it may write neither: {who}");

    let storm = guest.sh(&format!(
        "cd {CGROUP}/plugin-2 && cat pids.max pids.current memory.max && grep max pids.events"
    ))?;
    println!("the storm: {}", storm.replace('\n', " "));
    let numbers: Vec<u64> = storm.split_whitespace().filter_map(|w| w.parse().ok()).collect();
    assert_eq!((numbers[0], numbers[2]), (20, 32 << 20), "{storm}");
    assert!(numbers[1] <= 20 && numbers[3] > 0, "{storm}");

    guest.sh("echo '{\"v\":1,\"latency_ms\":5,\"wish\":{\"why\":\"the disk is slow\",\"evidence\":{\"await_ms\":220}}}' > /run/says")?;
    stage.wait("the move", 90, || Ok(!events_named(&guest, "completed")?.is_empty()))?;
    guest.sh("echo '{\"v\":1,\"latency_ms\":5}' > /run/says")?;
    assert_eq!(guest.current_host()?.name(), HOSTS[1]);
    assert_eq!(events_named(&guest, "asked")?[0]["reason"], "plugin");
    let why = events_named(&guest, "plugin_wish")?[0]["why"].clone();
    assert_eq!(why, "the disk is slow (await_ms 220)");
    stage.wait("its effect", 60, || Ok(!events_named(&guest, "effect")?.is_empty()))?;
    let completed = &events_named(&guest, "completed")?[0];
    println!(
        "accel=tcg the wish's move: downtime {} ms, effect {}",
        completed["downtime_ms"],
        events_named(&guest, "effect")?[0]
    );

    guest.sh("systemctl stop coms-plugins")?;
    let left = guest.sh("pgrep -u coms-probe; systemctl show -P Result coms-plugins")?;
    assert_eq!(left.trim(), "success", "nothing stays behind");
    stage.finish(&[&guest])
}
