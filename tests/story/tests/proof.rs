//! What must not be read is not read: everything that passes any interface is searched for what a guest holds in its memory and
//! on its disk, of a move in the clear and of one that must be encrypted.
//!
//! Of TLS 1.3 who listens sees the two hellos and no more. That both ends are asked for their certificates is therefore shown
//! from within: whoever connects to the port on which a guest is awaited is asked for one, and without it gets nothing.

use coms_lab::{Guest, GuestConfig, Opening, Secret, wait_until};
use coms_story::disks::{COPIED, IMAGES, disk, pool};
use coms_story::secrecy::*;
use coms_story::*;
use serde_json::Value;
use std::time::Duration;

/// Where the guest is awaited while nobody comes.
const OPEN_PORT: u16 = 49_210;
/// An address of nobody's on the migration network, until the destination has it too.
const NOBODY: &str = "10.77.0.99";

const IMAGE: &str = "/var/lib/libvirt/images/vm1.raw";
const IMAGE_MIB: usize = 24;

/// How often a disk's secret is there if each block passes an interface once.
fn disk_copies(secret: &Secret) -> usize {
    (IMAGE_MIB << 20) / secret.bytes().len()
}

/// A guest that holds a secret in its memory, and has another one on a disk that only its host has. It never reads that:
/// what is heard of it is the disk's.
fn guest_with_disk(stage: &Stage) -> Result<(Guest, Secret, Secret)> {
    for i in [0, 1] {
        pool(stage.host(i), "images", IMAGES)?;
    }
    let on_disk = Secret::new()?;
    stage.host(0).write_file(IMAGE, on_disk.bytes().repeat(disk_copies(&on_disk)))?;
    let config = GuestConfig { devices_xml: disk("vda", "raw", IMAGE), ..GuestConfig::default() };
    let (guest, in_memory) = guest_with_secret(stage, config)?;
    Ok((guest, in_memory, on_disk))
}

/// Guest and operator are told the same of each channel.
fn all_know(stage: &Stage, guest: &Guest, from: usize, told: &Value, channels: [&str; 3]) -> Result<()> {
    let shown = stage.comsctl(from, &["show", guest.name()])?;
    for who in [&told["enforced"], &shown["channels"]] {
        assert_eq!(
            ["ram", "disk", "control"].map(|c| who[c].as_str().unwrap_or_default()),
            channels,
            "{who}"
        );
    }
    Ok(())
}

#[test]
fn a_move_that_must_be_encrypted_leaves_no_trace_of_what_the_guest_holds_or_has_on_its_disk() -> Result<()> {
    let stage = Stage::up(Settings { places: COPIED.into(), ..settings() })?;
    let (guest, in_memory, on_disk) = guest_with_disk(&stage)?;

    // The control: without it, nothing found would be nothing shown.
    let (told, plain) = tapped(&stage, "plain", || moves(&stage, &guest, 1, &["--encryption", "never"]))?;
    assert_eq!(told["encryption"], "none", "{told}");
    all_know(&stage, &guest, 0, &told, ["plain", "plain", "tls"])?;
    let found = [plain.occurrences(in_memory.bytes())?, plain.occurrences(on_disk.bytes())?];
    println!("accel=tcg in the clear: {} frames, {} bytes, {found:?} times", plain.frames(), plain.bytes()?);
    let least = [secret_copies(&in_memory), disk_copies(&on_disk) as u64];
    assert!(found[0] >= least[0] && found[1] >= least[1], "{found:?} of {least:?}");
    let openings = plain.openings(MIGRATION_PORTS)?;
    let memory = openings.iter().filter(|o| o.said.starts_with(b"QEVM")).count();
    assert_eq!((memory, openings.iter().filter(|o| o.tls().is_some()).count()), (1, 0));
    assert!(openings.iter().any(Opening::is_of_disks));

    stage
        .wait("the copy at the former host to be gone", 20, || Ok(!stage.host(0).path_of(IMAGE).exists()))?;
    owner_requires(&stage, &guest)?;
    let (told, sealed) = tapped(&stage, "sealed", || moves(&stage, &guest, 0, &[]))?;
    assert_eq!(told["encryption"], "tls", "{told}");
    all_know(&stage, &guest, 1, &told, ["tls"; 3])?;
    let found = [sealed.occurrences(in_memory.bytes())?, sealed.occurrences(on_disk.bytes())?];
    println!("accel=tcg encrypted: {} frames, {} bytes, {found:?} times", sealed.frames(), sealed.bytes()?);
    assert_eq!(found, [0, 0]);
    // It was listened to: what was carried is there, and how it began. Memory and disk: two connections at least, and no
    // other.
    assert!(sealed.bytes()? > ((SECRET_MIB as usize + IMAGE_MIB) << 20) as u64);
    let openings = sealed.openings(MIGRATION_PORTS)?;
    assert!(openings.iter().any(Opening::is_of_disks) && !openings.iter().all(Opening::is_of_disks));
    for opening in openings {
        let tls = opening.tls().ok_or_else(|| format!("no TLS: {} -> {}", opening.client, opening.server))?;
        println!("accel=tcg {} -> {}: {tls:04x?}", opening.client, opening.server);
        assert!(tls.offered.contains(&0x0304), "{tls:04x?}");
        assert_eq!(tls.chosen, 0x0304, "{tls:04x?}");
    }
    runs_at(&guest, 0)?;
    let image = std::fs::read(stage.host(0).path_of(IMAGE))?;
    assert!(image == on_disk.bytes().repeat(disk_copies(&on_disk)), "copied wrongly");
    stage.finish(&[&guest])
}

/// Runs in a host, whatever comes of it; all that was said.
fn says(stage: &Stage, at: usize, line: &str) -> Result<String> {
    let out = stage.host(at).run(&["sh", "-c", line])?;
    Ok(String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
}

/// A TLS client at the open port that trusts the lab's authority, and shows these.
fn stranger(stage: &Stage, at: &str, shows: &str) -> Result<String> {
    let ca = format!("{}/ca-cert.pem", coms_lab::PKI);
    // Its input stays open for a while: the refusal comes after the client's own end of the handshake.
    let line =
        format!("sleep 3 | timeout 20 gnutls-cli --x509cafile {ca} {shows} --port {OPEN_PORT} {at} 2>&1");
    says(stage, 0, &line)
}

fn qemu_log(stage: &Stage, at: usize, guest: &Guest) -> Result<String> {
    Ok(stage.host(at).read_file(&format!("/var/log/libvirt/qemu/{}.log", guest.name()))?)
}

#[test]
fn who_shows_no_certificate_at_the_open_port_gets_nothing_and_the_guest_comes_all_the_same() -> Result<()> {
    let stage = Stage::up(settings())?;
    let guest = stage.boot(0, GuestConfig::default(), "")?;
    let there = stage.host(1).ip().to_string();

    // The source is sent to nobody, so that the port stays open.
    let nobody = format!("ip neighbor replace {NOBODY} lladdr 02:00:00:00:00:99 dev eth0 nud permanent");
    assert_eq!(says(&stage, 0, &nobody)?, "");
    let uri = format!("tcp://{NOBODY}:{OPEN_PORT}");
    let flags = ["--tls", "--migrateuri", &uri, "--listen-address", "0.0.0.0", "--tls-destination", HOSTS[1]];
    let (seen, moved) = std::thread::scope(|scope| {
        let moving = scope.spawn(|| guest.migrate_to(HOSTS[1], &flags));
        let seen = || -> Result<(String, String)> {
            let listens = format!("ss -Htln 'sport = :{OPEN_PORT}'");
            wait_until("the port to be open", Duration::from_secs(20), || {
                let out = stage.host(1).run(&["sh", "-c", &listens])?;
                Ok(!out.stdout.is_empty())
            })?;
            let said = stranger(&stage, &there, "")?;
            Ok((said, qemu_log(&stage, 1, &guest)?))
        };
        let seen = seen();
        // Now the destination is where the source looks for it.
        let mut mended = says(&stage, 1, &format!("ip address add {NOBODY}/32 dev eth0"));
        if mended.as_ref().is_ok_and(String::is_empty) {
            mended = says(&stage, 0, &format!("ip neighbor del {NOBODY} dev eth0"));
        }
        let moved = moving.join().map_err(|_| "a panic".to_owned());
        (seen.map(|seen| (seen, mended)), moved)
    });
    let ((said, log), mended) = seen?;
    assert_eq!(mended?, "");
    println!("a stranger: {said}\nQEMU: {}", log.lines().last().unwrap_or_default());
    assert!(said.contains("Server has requested a certificate"), "{said}");
    assert!(said.contains("Description: (TLS1.3-X.509)"), "{said}");
    assert!(said.contains("Successfully sent 0 certificate(s)"), "{said}");
    // With TLS 1.3 the client's part of the handshake ends before the server looks at what it was shown.
    assert!(said.contains("Server has terminated the connection abnormally"), "{said}");
    assert!(log.contains("Verify failed: No certificate was found"), "{log}");
    moved??;
    runs_at(&guest, 1)?;
    stage.finish(&[&guest])
}
