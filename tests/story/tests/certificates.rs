//! Certificates that are wrong: a move that must be encrypted is not made, the VM runs on where it was, its owner is told
//! why, and nothing of its memory was sent.

use coms_lab::{Guest, GuestConfig, Papers, Secret};
use coms_story::secrecy::*;
use coms_story::*;

const WRONG: [Papers; 4] = [Papers::OtherAuthority, Papers::Expired, Papers::OtherName, Papers::None];

/// What a client says before it has seen the server's certificate, and that it does not like it, is far shorter.
const HANDSHAKE_BYTES: usize = 4096;

/// Refused for the right reason, with nothing of the secret on any wire.
fn refused_unread(stage: &Stage, guest: &Guest, secret: &Secret, at: usize, papers: Papers) -> Result<()> {
    let (why, heard) =
        tapped(stage, "refused", || is_refused(stage, guest, at, &["--encryption", "required"]))?;
    let found = heard.occurrences(secret.bytes())?;
    println!("accel=tcg {papers:?} at {}: {why}; {} frames, {found} times", HOSTS[1], heard.frames());
    assert!(
        ["not-encryptable", "encryption-failed"].contains(&why.as_str()),
        "{papers:?}: {why}\n{}",
        stage.logs()
    );
    assert_eq!(found, 0, "{papers:?}");
    // Refused by TLS itself, and not before anything was tried: but for what QEMU at the destination refuses to show at all.
    let openings = heard.openings(MIGRATION_PORTS)?;
    match papers {
        Papers::OtherAuthority | Papers::OtherName => {
            assert!(!openings.is_empty(), "{papers:?}: nobody came")
        }
        Papers::Expired | Papers::Stranger | Papers::None | Papers::Right => {}
    }
    // A stranger is refused after he has begun to send, encrypted.
    for opening in openings.iter().filter(|_| papers != Papers::Stranger) {
        assert!(opening.tls().is_some() && opening.said.len() <= HANDSHAKE_BYTES, "{papers:?}: {opening:?}");
    }
    Ok(())
}

#[test]
fn with_wrong_certificates_what_must_be_encrypted_stays_and_its_owner_is_told() -> Result<()> {
    let stage = Stage::up(settings())?;
    let (guest, secret) = guest_with_secret(&stage, GuestConfig::default())?;
    for papers in WRONG {
        give_papers(&stage, 1, papers)?;
        refused_unread(&stage, &guest, &secret, 0, papers)?;
        runs_at(&guest, 0)?;
        if papers != Papers::None {
            give_papers(&stage, 1, Papers::Right)?;
        }
    }

    // Off, and not required: in the clear, and told so. The same ears hear the secret then.
    let possible = ["--encryption", "if-possible"];
    let (told, heard) = tapped(&stage, "off", || moves(&stage, &guest, 1, &possible))?;
    assert_eq!((&told["encryption"], &told["enforced"]["ram"]), (&"none".into(), &"plain".into()), "{told}");
    let found = heard.occurrences(secret.bytes())?;
    println!("accel=tcg None at {}, if possible: in the clear, {found} times", HOSTS[1]);
    assert!(found >= secret_copies(&secret), "{found}");

    // The other way: now the one whom the destination does not trust is the source.
    let path = stage.host(0).log_dir().join(format!("libvirt/qemu/{}.log", guest.name()));
    let before = std::fs::read_to_string(&path)?;
    give_papers(&stage, 1, Papers::Stranger)?;
    refused_unread(&stage, &guest, &secret, 1, Papers::Stranger)?;
    let log = std::fs::read_to_string(&path)?;
    let said = log.strip_prefix(&before).unwrap_or(&log);
    let refusals = ["hasn't got a known issuer", "No certificate was found"];
    assert!(refusals.iter().any(|r| said.contains(r)), "it was not the destination who refused: {said}");
    give_papers(&stage, 1, Papers::Right)?;
    let (told, heard) = tapped(&stage, "right", || moves(&stage, &guest, 0, &["--encryption", "required"]))?;
    assert_eq!(heard.occurrences(secret.bytes())?, 0);
    assert_eq!(told["enforced"]["ram"], "tls", "{told}");
    stage.finish(&[&guest])
}
