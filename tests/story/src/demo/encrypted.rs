//! The scenario `encrypted`: what must not be read, cannot be read (the COMS paper's module C).
//!
//! vm1 holds a secret, and somebody listens at every interface of both hosts and of the wires between them. Moved in the
//! clear, the secret is there for the taking; moved as its owner requires, it is not. Then the move cannot be encrypted,
//! and is not made; and somebody tries past the brokers, and may not.

use super::encrypted_table::{Moved, table};
use super::follow::{Follow, GuestClock, unix_ms};
use super::screen::Screen;
use crate::secrecy::{
    MIGRATION_PORTS, SECRET_MIB, give_papers, guest_with_secret, is_refused, moves, owner_requires, runs_at,
    secret_copies, settings, tapped,
};
use crate::{HOSTS, Result, Stage, events};
use coms_lab::{Guest, GuestConfig, Papers, Secret};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 78, 200, 1);
/// Moves of each kind, after the one that is listened to.
const TIMES: usize = 3;
/// The audience sees that something goes on at least this often.
const SILENCE: Duration = Duration::from_secs(2);

pub(super) fn encrypted(screen: &mut Screen) -> Result<Vec<String>> {
    screen
        .phase("Two libvirt hosts with certificates, a broker on each, and vm1 with a secret in its memory");
    let mut show = Show { events: None, zero_ms: unix_ms(), missing: Vec::new() };
    let stage = show.during(screen, "the hosts are brought up", || Stage::up(settings()))?;
    let (guest, secret) = show.during(screen, "vm1 starts and fills its memory", || {
        guest_with_secret(&stage, GuestConfig::default())
    })?;
    screen.note(&format!(
        "vm1 runs on {}, {SECRET_MIB} MiB of it are a secret of {} random bytes, over and over; logs: {}",
        HOSTS[0],
        secret.bytes().len(),
        stage.lab.dir().display()
    ));
    let outside = stage.lab.client("outside", OUTSIDE)?;
    show.events = Some((Follow::start(&outside, &guest, "coms --json watch")?, GuestClock::compare(&guest)?));

    screen.phase("1. vm1 moves in the clear, and somebody listens at every interface");
    let plain = Act { name: "in-the-clear", wish: &["--encryption", "never"] };
    let plain = plain.play(&mut show, screen, (&stage, &guest, &secret))?;
    show.expect(plain.found >= secret_copies(&secret), "the secret in what a plain move sends");
    show.expect(plain.openings == ["no TLS"], "a plain move that is not TLS");

    screen.phase("2. Its owner requires encryption: moves = \"required\" in agent.toml, and a reload");
    show.during(screen, "the host is told", || owner_requires(&stage, &guest))?;
    let sealed = Act { name: "required", wish: &[] };
    let sealed = sealed.play(&mut show, screen, (&stage, &guest, &secret))?;
    show.expect(sealed.found == 0, "no trace of the secret in what an encrypted move sends");
    show.expect(sealed.bytes > u64::from(SECRET_MIB) << 20, "an encrypted move that was listened to");
    let tls = !sealed.openings.is_empty() && sealed.openings.iter().all(|o| o == "TLS 1.3");
    show.expect(tls, "TLS 1.3 in the handshake that was heard");
    screen.line(&table(&plain.moved, &sealed.moved));

    screen.phase(&format!("3. {} loses its certificates: vm1 stays where it is, and hears why", HOSTS[1]));
    show.during(screen, "the brokers notice", || give_papers(&stage, 1, Papers::None))?;
    let (why, heard) = show.during(screen, "vm1 asks to be moved", || {
        tapped(&stage, "refused", || is_refused(&stage, &guest, 0, &[]))
    })?;
    let leaked = heard.occurrences(secret.bytes())?;
    screen.note(&format!(
        "denied: {why}; vm1 runs on, and what crossed the wires has the secret {leaked} times"
    ));
    show.expect(why == "not-encryptable", "the reason");
    show.expect(leaked == 0, "no trace of the secret in what a refused move sends");

    screen
        .phase("4. Certificates are back; somebody moves vm1 past the brokers, with virsh and in the clear");
    show.during(screen, "the brokers notice", || give_papers(&stage, 1, Papers::Right))?;
    let past = show.during(screen, "virsh migrate", || Ok(guest.migrate_to(HOSTS[1], &[])))?;
    let hook = past.err().map(|e| e.to_string()).unwrap_or_default();
    screen.note(&format!("virsh: {}", hook.lines().last().unwrap_or("it moved").trim()));
    show.expect(hook.contains("must be encrypted"), "the hook's refusal of a move past the brokers");
    runs_at(&guest, 0)?;

    let missing = std::mem::take(&mut show.missing);
    if missing.is_empty() {
        screen.phase(&format!(
            "What was shown: in the clear, the secret was {} times in what crossed the wires; encrypted, 0 times.\n\
             What could not be encrypted was not moved: by the broker, by the hook; and its owner was told.",
            plain.found
        ));
    }
    let result = json!({
        "scenario": "encrypted",
        "accel": "tcg",
        "shown": missing.is_empty(),
        "not_shown": missing,
        "secret_mib": SECRET_MIB,
        "secret_bytes": secret.bytes().len(),
        "plain": plain.json(),
        "encrypted": sealed.json(),
        "refused": { "reason": why, "found": leaked },
        "past_the_brokers": hook.lines().last(),
        "events": events(&guest)?,
    });
    let dir = coms_lab::workspace_root().join("target/demo");
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("encrypted.json"), serde_json::to_string_pretty(&result)? + "\n")?;
    screen.line(&format!("\n{}/encrypted.json", dir.display()));
    stage.finish(&[&guest])?;
    Ok(missing)
}

/// Moves of one kind: one that is listened to, and some that are measured.
struct Act {
    name: &'static str,
    wish: &'static [&'static str],
}

/// What was heard of the first, and how long the others took.
struct Heard {
    found: u64,
    bytes: u64,
    frames: u64,
    /// Of each connection to a port of migrations.
    openings: Vec<String>,
    moved: Vec<Moved>,
}

impl Act {
    fn play(
        &self,
        show: &mut Show,
        screen: &mut Screen,
        (stage, guest, secret): (&Stage, &Guest, &Secret),
    ) -> Result<Heard> {
        let (_, tapped) = show
            .during(screen, "vm1 moves", || tapped(stage, self.name, || moves(stage, guest, 1, self.wish)))?;
        let found =
            show.during(screen, "what was heard is searched", || Ok(tapped.occurrences(secret.bytes())?))?;
        let versions = tapped.openings(MIGRATION_PORTS)?.into_iter().map(|opening| match opening.tls() {
            Some(tls) if tls.chosen == 0x0304 => "TLS 1.3".to_owned(),
            Some(tls) => format!("TLS, version {:04x}", tls.chosen),
            None => "no TLS".to_owned(),
        });
        let heard = Heard {
            found,
            bytes: tapped.bytes()?,
            frames: tapped.frames(),
            openings: versions.collect(),
            moved: Vec::new(),
        };
        screen.note(&format!(
            "heard: {:.0} MiB in {} frames, none lost; to ports of migrations: {}; the secret: {found} times",
            heard.bytes as f64 / f64::from(1 << 20),
            heard.frames,
            heard.openings.join(", ")
        ));
        screen.note(&format!("{TIMES} more, not listened to, for the clock"));
        let mut at = 1;
        let mut moved = Vec::new();
        for _ in 0..TIMES {
            let told = show.during(screen, "vm1 moves", || moves(stage, guest, 1 - at, self.wish))?;
            moved.push(Moved::of(&told));
            at = 1 - at;
        }
        Ok(Heard { moved, ..heard })
    }
}

impl Heard {
    fn json(&self) -> Value {
        json!({
            "found": self.found,
            "bytes": self.bytes,
            "frames": self.frames,
            "openings": self.openings,
            "total_ms": self.moved.iter().map(|m| m.total_ms).collect::<Vec<_>>(),
            "downtime_ms": self.moved.iter().map(|m| m.downtime_ms).collect::<Vec<_>>(),
        })
    }
}

/// Shows the guest's events as they come, and that something goes on where none do.
struct Show {
    events: Option<(Follow, GuestClock)>,
    zero_ms: f64,
    missing: Vec<String>,
}

impl Show {
    fn during<T: Send>(
        &mut self,
        screen: &mut Screen,
        what: &str,
        work: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        thread::scope(|scope| {
            let (begun, mut shown) = (Instant::now(), Instant::now());
            let working = scope.spawn(work);
            while !working.is_finished() {
                thread::sleep(Duration::from_millis(50));
                if self.take(screen) {
                    shown = Instant::now();
                }
                if shown.elapsed() >= SILENCE {
                    screen.note(&format!("... {what}: {:.0} s", begun.elapsed().as_secs_f64()));
                    shown = Instant::now();
                }
            }
            self.take(screen);
            working.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn take(&self, screen: &mut Screen) -> bool {
        let Some((follow, clock)) = &self.events else { return false };
        let lines = follow.take();
        for event in lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            let at: Option<jiff::Timestamp> = event["at"].as_str().and_then(|t| t.parse().ok());
            let at_ms = at.map_or(f64::NAN, |t| clock.to_host(t.as_millisecond() as f64));
            screen.event((at_ms - self.zero_ms) / 1000.0, "vm1", &event);
        }
        !lines.is_empty()
    }

    fn expect(&mut self, shown: bool, what: &str) {
        if !shown {
            self.missing.push(what.to_owned());
        }
    }
}
