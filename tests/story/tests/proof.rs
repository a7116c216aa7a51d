//! What must not be read is not read: everything that passes any interface is searched for what a guest holds, of a move in
//! the clear and of one that must be encrypted.
//!
//! Of TLS 1.3 who listens sees the two hellos and no more. That both ends are asked for their certificates is therefore shown
//! from within: whoever connects to the port on which a guest is awaited is asked for one, and without it gets nothing.

use coms_lab::{Guest, GuestConfig, Secret, Tapped, wait_until};
use coms_story::secrecy::*;
use coms_story::*;
use std::time::Duration;

/// Where the guest is awaited while nobody comes.
const OPEN_PORT: u16 = 49_210;
/// An address of nobody's on the migration network, until the destination has it too.
const NOBODY: &str = "10.77.0.99";

#[test]
fn a_move_that_must_be_encrypted_leaves_no_trace_of_what_the_guest_holds() -> Result<()> {
    let stage = Stage::up(settings())?;
    let (guest, secret) = guest_with_secret(&stage, "")?;

    // The control: without it, nothing found would be nothing shown.
    let (told, plain) = tapped(&stage, "plain", || moves(&stage, &guest, 1, &["--encryption", "never"]))?;
    assert_eq!(told["encryption"], "none", "{told}");
    let found = plain.occurrences(secret.bytes())?;
    println!("accel=tcg in the clear: {} frames, {} bytes, {found} times", plain.frames(), plain.bytes()?);
    assert!(found >= secret_copies(&secret), "{found} of {}", secret_copies(&secret));
    let openings = plain.openings(MIGRATION_PORTS)?;
    let memory = openings.iter().filter(|o| o.said.starts_with(b"QEVM")).count();
    assert_eq!(
        (memory, openings.iter().filter(|o| o.tls().is_some()).count()),
        (1, 0),
        "of {}",
        openings.len()
    );

    owner_requires(&stage, &guest)?;
    let (told, sealed) = tapped(&stage, "sealed", || moves(&stage, &guest, 0, &[]))?;
    assert_eq!(told["encryption"], "tls", "{told}");
    let found = sealed.occurrences(secret.bytes())?;
    println!("accel=tcg encrypted: {} frames, {} bytes, {found} times", sealed.frames(), sealed.bytes()?);
    assert_eq!(found, 0);
    // It was listened to: what was carried is there, and how it began.
    assert!(sealed.bytes()? > u64::from(SECRET_MIB) << 20);
    let openings = sealed.openings(MIGRATION_PORTS)?;
    assert!(!openings.is_empty());
    for opening in openings {
        let tls = opening.tls().ok_or_else(|| format!("no TLS: {} -> {}", opening.client, opening.server))?;
        println!("accel=tcg {} -> {}: {tls:04x?}", opening.client, opening.server);
        assert!(tls.offered.contains(&0x0304), "{tls:04x?}");
        assert_eq!(tls.chosen, 0x0304, "{tls:04x?}");
    }
    assert_eq!(
        (&told["enforced"]["ram"], &told["enforced"]["control"]),
        (&"tls".into(), &"tls".into()),
        "{told}"
    );
    runs_at(&guest, 0)?;
    stage.finish(&[&guest])
}

const IMAGE: &str = "/var/lib/libvirt/images/vm1.raw";
const IMAGE_MIB: usize = 24;

/// Moves a disk of one host alone with libvirt's own means, as a broker does, and gives what was heard.
fn copies(stage: &Stage, guest: &Guest, to: usize, name: &str, flags: &[&str]) -> Result<Tapped> {
    stage.host(to).write_file(IMAGE, vec![0; IMAGE_MIB << 20])?;
    let flags = [&["--copy-storage-all"], flags].concat();
    let ((), heard) = tapped(stage, name, || Ok(guest.migrate_to(HOSTS[to], &flags)?))?;
    runs_at(guest, to)?;
    Ok(heard)
}

#[test]
fn nor_does_a_disk_that_is_copied_along() -> Result<()> {
    let stage = Stage::up(settings())?;
    let secret = Secret::new()?;
    // The guest never reads it: what is heard of it is the disk's.
    let full = secret.bytes().repeat((IMAGE_MIB << 20) / secret.bytes().len());
    stage.host(0).write_file(IMAGE, &full)?;
    let devices_xml = format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{IMAGE}'/>\
         <target dev='vda' bus='virtio'/></disk>"
    );
    let guest = stage.lab.boot(GuestConfig { devices_xml, ..GuestConfig::default() }, HOSTS[0])?;

    let plain = copies(&stage, &guest, 1, "disk-plain", &[])?;
    let found = plain.occurrences(secret.bytes())?;
    println!("accel=tcg a disk in the clear: {} bytes, {found} times", plain.bytes()?);
    assert!(found >= (full.len() / secret.bytes().len()) as u64, "{found}");
    let sealed = copies(&stage, &guest, 0, "disk-sealed", &["--tls"])?;
    let found = sealed.occurrences(secret.bytes())?;
    println!("accel=tcg a disk encrypted: {} bytes, {found} times", sealed.bytes()?);
    assert_eq!(found, 0);
    assert!(sealed.bytes()? > full.len() as u64);
    // Memory and disk: two connections at least, and no other.
    let openings = sealed.openings(MIGRATION_PORTS)?;
    let versions: Vec<_> = openings.iter().map(|o| o.tls().map(|tls| tls.chosen)).collect();
    assert!(versions.len() >= 2 && versions.iter().all(|v| *v == Some(0x0304)), "{versions:04x?}");
    assert_eq!(std::fs::read(stage.host(0).path_of(IMAGE))?, full, "copied wrongly");
    stage.finish(&[])
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
