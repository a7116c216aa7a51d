//! The scenario `notice`: the customer is asked and told.
//!
//! An application in vm1 (the example in shell, packaging/examples/shop.sh) is busy when the operator wants to empty the
//! host. The move is announced, the application holds it, both ends show why it waits; then the application is ready,
//! and the VM moves. The next move is put off by the customer's windows, and one past the broker is told all the same.

use super::follow::{Follow, GuestClock, unix_ms};
use super::screen::Screen;
use crate::{HOSTS, Result, Settings, Stage, coms, events, events_named};
use coms_lab::{Guest, GuestConfig};
use serde_json::{Value, json};
use std::net::Ipv4Addr;

const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 78, 200, 1);
const AGENT: &str = "[asking]\nsettle_s = 1\ncheck_s = 2\n";
/// So long the application stays busy.
const BUSY_S: u64 = 8;

pub(super) fn notice(screen: &mut Screen) -> Result<Vec<String>> {
    screen.phase(
        "Two libvirt hosts with a broker on each, and vm1 with an application that is asked about moves",
    );
    let stage = Stage::up(Settings::default())?;
    let outside = stage.lab.client("outside", OUTSIDE)?;
    let guest = stage.boot(0, GuestConfig::default(), AGENT)?;
    let mut show = Show {
        clock: GuestClock::compare(&guest)?,
        events: Follow::start(&outside, &guest, "coms --json watch")?,
        zero_ms: unix_ms(),
        missing: Vec::new(),
    };
    let example = std::fs::read_to_string(coms_lab::workspace_root().join("packaging/examples/shop.sh"))?;
    guest.exec_with(&["sh", "-c", "cat >/tmp/shop.sh"], &example, std::time::Duration::from_secs(10))?;
    guest.sh("touch /tmp/busy; sh /tmp/shop.sh /tmp/busy >/dev/null 2>/tmp/shop.log &")?;
    show.until(screen, &stage, "the application to register", 20, || {
        Ok(!events_named(&guest, "app_registered")?.is_empty())
    })?;

    screen.phase("The operator wants to empty the host: vm1's application is busy, and holds the move");
    stage.comsctl(0, &["migrate", guest.name(), "--to", HOSTS[1], "--reason", "maintenance", "--no-wait"])?;
    show.until(screen, &stage, "the hold", 20, || Ok(!events_named(&guest, "verdict")?.is_empty()))?;
    let waits = last(&stage, 0)?["waits"].clone();
    screen.note(&format!("the host: comsctl migrations says the move waits: {waits}"));
    let announced = coms(&guest, &["status"])?["announced"]["asked"].clone();
    screen.note(&format!("the guest: coms status says who holds it: {announced}"));
    show.expect(waits["for"] == "guest", "the host's reason for waiting");
    show.expect(announced[0]["state"] == "holding", "the guest's reason for waiting");
    let until = unix_ms() + BUSY_S as f64 * 1000.0;
    show.until(screen, &stage, "the application's work", 20, || Ok(unix_ms() >= until))?;
    show.expect(guest.current_host()?.name() == HOSTS[0], "the move to wait");
    screen.note("the application has done its work");
    guest.sh("rm /tmp/busy")?;
    show.until(screen, &stage, "the outcome and its effect", 60, || {
        Ok(!events_named(&guest, "completed")?.is_empty())
    })?;
    show.expect(guest.current_host()?.name() == HOSTS[1], "the move");
    screen.note(&format!(
        "the application's own words: {}",
        guest.sh("cat /tmp/shop.log")?.trim().replace('\n', "; ")
    ));

    screen.phase(
        "The customer closes the windows for 15 s: the operator's next move is put off until they open",
    );
    coms(&guest, &["window", "close", "--for", "15s"])?;
    let closed_ms = unix_ms();
    stage.comsctl(1, &["migrate", guest.name(), "--to", HOSTS[0], "--no-wait"])?;
    show.until(screen, &stage, "the move, once the windows are open", 60, || {
        Ok(completed(&guest)?.len() == 2)
    })?;
    let waited_ms = unix_ms() - closed_ms;
    show.expect(waited_ms >= 14_000.0, "the windows to be waited for");
    show.expect(!events_named(&guest, "postpone")?.is_empty(), "a postpone");

    screen.phase("Somebody moves vm1 past the broker, with virsh: it is told on arrival all the same");
    // The guest hears that it has arrived before libvirt has put its old copy away.
    stage.wait("the former host to be rid of it", 30, || {
        Ok(!stage.host(1).virsh(&["list", "--all", "--name"])?.lines().any(|l| l.trim() == guest.name()))
    })?;
    guest.migrate_to(HOSTS[1], &[])?;
    show.until(screen, &stage, "the third outcome", 60, || Ok(completed(&guest)?.len() == 3))?;
    let told = completed(&guest)?;
    let initiators: Vec<_> = told.iter().map(|e| e["initiator"].as_str().unwrap_or_default()).collect();
    show.expect(initiators == ["operator", "operator", "foreign"], "who wanted each move");

    screen.phase("What the customer has in the end: coms history");
    screen.line(&guest.sh("coms history")?);
    let missing = std::mem::take(&mut show.missing);
    let result = json!({
        "scenario": "notice",
        "accel": "tcg",
        "shown": missing.is_empty(),
        "not_shown": missing,
        "windows_waited_ms": waited_ms.round(),
        "completed": told,
        "events": events(&guest)?,
    });
    let dir = coms_lab::workspace_root().join("target/demo");
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("notice.json"), serde_json::to_string_pretty(&result)? + "\n")?;
    screen.line(&format!("\n{}/notice.json", dir.display()));
    stage.finish(&[&guest])?;
    Ok(missing)
}

fn completed(guest: &Guest) -> Result<Vec<Value>> {
    events_named(guest, "completed")
}

fn last(stage: &Stage, i: usize) -> Result<Value> {
    let all = stage.comsctl(i, &["migrations"])?;
    Ok(all.as_array().and_then(|a| a.last()).cloned().unwrap_or_default())
}

/// Shows the guest's events as they come.
struct Show {
    clock: GuestClock,
    events: Follow,
    zero_ms: f64,
    missing: Vec<String>,
}

impl Show {
    fn until(
        &mut self,
        screen: &mut Screen,
        stage: &Stage,
        what: &str,
        seconds: u64,
        mut done: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let found = stage.wait(what, seconds, || {
            self.take(screen);
            done()
        });
        std::thread::sleep(std::time::Duration::from_millis(300));
        self.take(screen);
        found
    }

    fn take(&mut self, screen: &mut Screen) {
        for line in self.events.take() {
            let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
            let at: Option<jiff::Timestamp> = event["at"].as_str().and_then(|t| t.parse().ok());
            let at_ms = at.map_or(f64::NAN, |t| self.clock.to_host(t.as_millisecond() as f64));
            screen.event((at_ms - self.zero_ms) / 1000.0, "vm1", &event);
        }
    }

    fn expect(&mut self, shown: bool, what: &str) {
        if !shown {
            self.missing.push(what.to_owned());
        }
    }
}
