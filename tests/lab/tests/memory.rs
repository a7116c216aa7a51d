//! What a guest has written is there after a move.

use coms_lab::{GuestConfig, HostConfig, Lab, LabConfig};
use std::time::Duration;

/// A quiet guest with timers, started programs and a pattern: what is written between two rounds of copying is
/// little, and has to be noticed. `COMS_MOVES` plays more.
#[test]
fn plain_moves_of_a_quiet_guest_keep_its_memory() {
    let moves = std::env::var("COMS_MOVES").map_or(6, |n| n.parse().unwrap());
    let hosts = [HostConfig::new("h1").cpu(0).rate_mbit(400), HostConfig::new("h2").cpu(1).rate_mbit(400)];
    let lab = Lab::new(LabConfig { hosts: hosts.into(), ..LabConfig::default() }).unwrap();
    let mut lost = Vec::new();
    let mut guest = None;
    for n in 0..moves {
        let at_hand = guest.take().unwrap_or_else(|| {
            let config = GuestConfig {
                name: format!("vm{n}"),
                persistent: true,
                memory_mib: 160,
                ..GuestConfig::default()
            };
            let guest = lab.boot(config, "h1").unwrap();
            guest.start_pattern(16, 4).unwrap();
            guest.sh("(while sleep 0.5; do /bin/true; done) >/dev/null 2>&1 </dev/null &").unwrap();
            std::thread::sleep(Duration::from_secs(2));
            guest
        });
        let to = if at_hand.current_host().unwrap().name() == "h1" { "h2" } else { "h1" };
        at_hand.migrate_to(to, &[]).unwrap();
        // What was lost shows itself when it is used.
        std::thread::sleep(Duration::from_millis(500));
        let console = at_hand.console_text();
        let fell = console.lines().find(|l| l.contains("BUG: ") || l.contains("Kernel panic"));
        let verdict = match fell {
            Some(line) => Err(line.to_owned()),
            None => at_hand.verify_pattern().map_err(|e| e.to_string()),
        };
        match verdict {
            Ok(_) => guest = Some(at_hand),
            Err(how) => {
                println!("move {n}: {how}");
                lost.push(how);
                at_hand.destroy().unwrap();
            }
        }
    }
    println!("accel=tcg {} of {moves} moves lost memory", lost.len());
    assert!(lost.is_empty(), "{lost:#?}");
}
