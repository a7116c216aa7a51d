//! Who connects to an open migration port and is not the source: what QEMU does with him, in the clear and with TLS.
//!
//! The port is open from the destination's preparation until the source has connected: milliseconds. Here the source's
//! cable is out meanwhile, so that the stranger comes first.

use std::{
    process::Output,
    thread,
    time::{Duration, Instant},
};

use coms_lab::{Guest, GuestConfig, Host, HostConfig, Lab, LabConfig, Result, wait_until};

/// libvirt's first port for migrations.
const PORT: u16 = 49152;

struct Meeting {
    /// What the call at the source said.
    moved: Result<()>,
    /// What the destination's QEMU wrote.
    log: String,
    /// What each stranger saw.
    seen: Vec<String>,
}

fn lab() -> Result<(Lab, Guest)> {
    let host = |name: &str, cpu| HostConfig::new(name).cpu(cpu).migration_network();
    // The third is a machine on the same network, and knows what certificates look like.
    let hosts = vec![host("h1", 0), host("h2", 1), host("h3", 1)];
    let lab = Lab::new(LabConfig { hosts, tls: true, ..LabConfig::default() })?;
    let guest = lab.boot(GuestConfig::default(), "h1")?;
    let mac = said(&run(lab.host("h2"), "cat /sys/class/net/mig0/address")?).trim().to_owned();
    // Without a cable nobody would answer who has the address.
    let there = lab.host("h2").migration_ip();
    let known =
        run(lab.host("h1"), &format!("ip neigh replace {there} lladdr {mac} dev mig0 nud permanent"))?;
    assert!(known.status.success(), "{known:?}");
    Ok((lab, guest))
}

fn run(host: &Host, line: &str) -> Result<Output> {
    host.run(&["bash", "-c", line])
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A move of the guest from h1 to h2 during which these lines of shell are run at h3 before the source gets through.
fn meet(lab: &Lab, guest: &Guest, flags: &[&str], strangers: &[String]) -> Result<Meeting> {
    let (from, to) = (lab.host("h1"), lab.host("h2"));
    let there = to.migration_ip().to_string();
    let uri = format!("tcp://{there}");
    let flags: Vec<&str> =
        ["--migrateuri", &uri, "--listen-address", &there].into_iter().chain(flags.iter().copied()).collect();
    from.set_migration_cable(false)?;
    let (moved, seen) = thread::scope(|scope| {
        let moving = scope.spawn(|| guest.migrate_to("h2", &flags));
        let visits = || -> Result<Vec<String>> {
            let open = format!("ss -Hltn 'sport = :{PORT}'");
            wait_until("the open port", Duration::from_secs(30), || Ok(!run(to, &open)?.stdout.is_empty()))?;
            // On the one address only: the management network finds no port.
            let listens = said(&run(to, &open)?);
            assert!(listens.contains(&format!("{there}:{PORT}")), "{listens}");
            let elsewhere = format!("timeout 2 bash -c ': </dev/tcp/{}/{PORT}' && echo open", to.ip());
            assert!(!said(&run(lab.host("h3"), &elsewhere)?).contains("open\n"));
            strangers.iter().map(|line| Ok(said(&run(lab.host("h3"), line)?))).collect()
        };
        let seen = visits();
        // Whatever came of it: the call at the source is to end.
        let plugged = from.set_migration_cable(true);
        let moved = moving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        plugged.and(seen).map(|seen| (moved, seen))
    })?;
    let path = to.log_dir().join(format!("libvirt/qemu/{}.log", guest.name()));
    let log = std::fs::read_to_string(&path).unwrap_or_default();
    Ok(Meeting { moved, log, seen })
}

/// Says something that is no migration, and gives what comes back.
fn plain(to: &str) -> String {
    format!(
        "exec 2>/dev/null 3<>/dev/tcp/{to}/{PORT}; head -c 4096 /dev/zero >&3; timeout 3 head -c 100000 <&3 | wc -c; exec 3>&-"
    )
}

#[test]
fn with_tls_a_stranger_gets_nothing_is_logged_and_stops_nothing() {
    let (lab, guest) = lab().unwrap();
    let there = lab.host("h2").migration_ip().to_string();
    // Somebody else's authority, and a certificate of it with every right.
    let other = "set -e; cd $(mktemp -d); \
        certtool --generate-privkey --key-type ecdsa --outfile ca.key 2>/dev/null; \
        printf 'cn = other\\nca\\ncert_signing_key\\nexpiration_days = 2\\n' >ca.info; \
        certtool --generate-self-signed --load-privkey ca.key --template ca.info --outfile ca.pem 2>/dev/null; \
        certtool --generate-privkey --key-type ecdsa --outfile own.key 2>/dev/null; \
        printf 'cn = h1\\ndns_name = h1\\ntls_www_client\\nsigning_key\\nexpiration_days = 2\\n' >own.info; \
        certtool --generate-certificate --load-ca-certificate ca.pem --load-ca-privkey ca.key --load-privkey own.key \
        --template own.info --outfile own.pem 2>/dev/null";
    let tls = |more: &str| {
        format!("timeout 10 gnutls-cli --no-ca-verification {more} -p {PORT} {there} </dev/zero")
    };
    let strangers =
        [plain(&there), tls(""), format!("{other}; {}", tls("--x509certfile own.pem --x509keyfile own.key"))];
    let before = Instant::now();
    let met = meet(&lab, &guest, &["--tls"], &strangers).unwrap();
    println!(
        "accel=tcg, three strangers before the source: {:?} in all\n{:#?}\n{}",
        before.elapsed(),
        met.seen,
        met.log
    );
    // Not a byte for who does not speak TLS beyond TLS's own word for "no" (an alert of 7 bytes).
    let bytes: u64 = met.seen[0].trim().parse().unwrap_or(u64::MAX);
    assert!(bytes <= 7, "{:?}", met.seen[0]);
    for seen in &met.seen[1..] {
        assert!(seen.contains("lert") || seen.contains("error"), "{seen}");
    }
    let refusals: Vec<&str> = met.log.lines().filter(|l| is_refusal(l)).collect();
    assert!(refusals.len() >= 3, "{refusals:#?}");
    // The port stayed open for the one with the right certificate.
    met.moved.unwrap();
    assert_eq!(guest.current_host().unwrap().name(), "h2");
    lab.finish().unwrap();
}

/// What QEMU 7.2 writes of a handshake that came to nothing.
fn is_refusal(line: &str) -> bool {
    ["TLS handshake failed", "certificate", "Certificate"].iter().any(|word| line.contains(word))
}

/// Control, and the reason to encrypt: in the clear whoever comes first is taken for the source.
#[test]
fn in_the_clear_a_stranger_is_heard_and_the_move_fails() {
    let (lab, guest) = lab().unwrap();
    let there = lab.host("h2").migration_ip().to_string();
    let met = meet(&lab, &guest, &[], &[plain(&there)]).unwrap();
    println!("{:#?}\n{}\n{:?}", met.seen, met.log, met.moved);
    assert!(met.log.contains("Not a migration stream"), "{}", met.log);
    assert!(met.moved.is_err());
    assert_eq!(guest.current_host().unwrap().name(), "h1");
    assert_eq!(guest.sh("hostname").unwrap().trim(), guest.name());
    lab.finish().unwrap();
}
