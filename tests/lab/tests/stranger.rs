//! Who connects to an open migration port and is not the source: what QEMU does with him, in the clear and with TLS.
//!
//! The port for memory is open from the destination's preparation until the source has connected: milliseconds. Here
//! the source's cable is out meanwhile, so that the stranger comes first. The one for disks is open until the move has
//! ended.

use std::{
    process::Output,
    thread,
    time::{Duration, Instant},
};

use coms_lab::{Guest, GuestConfig, Host, HostConfig, Lab, LabConfig, PKI, Result, wait_until};

/// libvirt's first port for migrations, and the next one: memory's, and disks'.
const PORT: u16 = 49152;
const NBD_PORT: u16 = 49153;
/// The disk that hosts do not share, and what libvirt calls it at the NBD port.
const IMAGE: &str = "/var/lib/libvirt/images/vda.raw";
const EXPORT: &str = "drive-virtio-disk0";
const DISK_FLAGS: [&str; 3] = ["--copy-storage-all", "--migrate-disks", "vda"];

struct Meeting {
    /// What the call at the source said.
    moved: Result<()>,
    /// What the destination's QEMU wrote.
    log: String,
    /// What each stranger saw.
    seen: Vec<String>,
}

fn lab(devices_xml: &str) -> Result<(Lab, Guest)> {
    let host = |name: &str, cpu| HostConfig::new(name).cpu(cpu).migration_network();
    // The third is a machine on the same network, and knows what certificates look like.
    let hosts = vec![host("h1", 0), host("h2", 1), host("h3", 1)];
    let lab = Lab::new(LabConfig { hosts, tls: true, ..LabConfig::default() })?;
    for name in ["h1", "h2"] {
        // Made beforehand: neither has a storage pool in which libvirt could do so.
        let made = run(lab.host(name), &format!("mkdir -p $(dirname {IMAGE}) && truncate -s 8M {IMAGE}"))?;
        assert!(made.status.success(), "{made:?}");
    }
    let guest =
        lab.boot(GuestConfig { devices_xml: devices_xml.to_owned(), ..GuestConfig::default() }, "h1")?;
    let mac = said(&run(lab.host("h2"), "cat /sys/class/net/mig0/address")?).trim().to_owned();
    // Without a cable nobody would answer who has the address.
    let there = lab.host("h2").migration_ip();
    let known =
        run(lab.host("h1"), &format!("ip neigh replace {there} lladdr {mac} dev mig0 nud permanent"))?;
    assert!(known.status.success(), "{known:?}");
    Ok((lab, guest))
}

fn disk() -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{IMAGE}'/>\
         <target dev='vda' bus='virtio'/></disk>"
    )
}

/// What the guest has on its disk, and not in its memory.
fn on_disk(guest: &Guest) -> Result<String> {
    guest.sh("sync; echo 3 >/proc/sys/vm/drop_caches; sha256sum /dev/vda")
}

fn run(host: &Host, line: &str) -> Result<Output> {
    host.run(&["bash", "-c", line])
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// By the migration network, as a broker calls libvirt.
fn migrate(lab: &Lab, guest: &Guest, flags: &[&str]) -> Result<()> {
    let there = lab.host("h2").migration_ip().to_string();
    let uri = format!("tcp://{there}");
    let mut flags = flags.to_vec();
    flags.extend(["--migrateuri", &uri, "--listen-address", &there]);
    if flags.contains(&DISK_FLAGS[0]) {
        flags.extend(["--disks-uri", &uri]);
    }
    guest.migrate_to("h2", &flags)
}

/// A move of the guest from h1 to h2 during which these lines of shell are run at h3, against this port, before the
/// source gets through.
fn meet(lab: &Lab, guest: &Guest, port: u16, flags: &[&str], strangers: &[String]) -> Result<Meeting> {
    let (from, to) = (lab.host("h1"), lab.host("h2"));
    let there = to.migration_ip().to_string();
    from.set_migration_cable(false)?;
    let (moved, seen) = thread::scope(|scope| {
        let moving = scope.spawn(|| migrate(lab, guest, flags));
        let visits = || -> Result<Vec<String>> {
            let open = format!("ss -Hltn 'sport = :{port}'");
            wait_until("the open port", Duration::from_secs(30), || Ok(!run(to, &open)?.stdout.is_empty()))?;
            // On the one address only: the management network finds no port.
            let listens = said(&run(to, &open)?);
            assert!(listens.contains(&format!("{there}:{port}")), "{listens}");
            let elsewhere = format!("timeout 2 bash -c ': </dev/tcp/{}/{port}' && echo open", to.ip());
            assert!(!said(&run(lab.host("h3"), &elsewhere)?).contains("open\n"));
            strangers.iter().map(|line| Ok(said(&run(lab.host("h3"), line)?))).collect()
        };
        let seen = visits();
        // Whatever came of it: the call at the source is to end.
        let plugged = from.set_migration_cable(true);
        let moved = moving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        plugged.and(seen).map(|seen| (moved, seen))
    })?;
    Ok(Meeting { moved, log: log(lab, guest), seen })
}

/// What the destination's QEMU wrote.
fn log(lab: &Lab, guest: &Guest) -> String {
    let path = lab.host("h2").log_dir().join(format!("libvirt/qemu/{}.log", guest.name()));
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Makes, in a directory of its own, somebody else's authority and a certificate of it with every right.
const OTHER: &str = "set -e; cd $(mktemp -d); \
    certtool --generate-privkey --key-type ecdsa --outfile ca.key 2>/dev/null; \
    printf 'cn = other\nca\ncert_signing_key\nexpiration_days = 2\n' >ca.info; \
    certtool --generate-self-signed --load-privkey ca.key --template ca.info --outfile ca.pem 2>/dev/null; \
    certtool --generate-privkey --key-type ecdsa --outfile own.key 2>/dev/null; \
    printf 'cn = h1\ndns_name = h1\ntls_www_client\nsigning_key\nexpiration_days = 2\n' >own.info; \
    certtool --generate-certificate --load-ca-certificate ca.pem --load-ca-privkey ca.key --load-privkey own.key \
    --template own.info --outfile own.pem 2>/dev/null";

/// Says something that is no migration, and gives what comes back.
fn plain(to: &str) -> String {
    format!(
        "exec 2>/dev/null 3<>/dev/tcp/{to}/{PORT}; head -c 4096 /dev/zero >&3; timeout 3 head -c 100000 <&3 | wc -c; exec 3>&-"
    )
}

#[test]
fn with_tls_a_stranger_gets_nothing_is_logged_and_stops_nothing() {
    let (lab, guest) = lab("").unwrap();
    let there = lab.host("h2").migration_ip().to_string();
    let tls = |more: &str| {
        format!("timeout 10 gnutls-cli --no-ca-verification {more} -p {PORT} {there} </dev/zero")
    };
    let strangers =
        [plain(&there), tls(""), format!("{OTHER}; {}", tls("--x509certfile own.pem --x509keyfile own.key"))];
    let before = Instant::now();
    let met = meet(&lab, &guest, PORT, &["--tls"], &strangers).unwrap();
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
    let (lab, guest) = lab("").unwrap();
    let there = lab.host("h2").migration_ip().to_string();
    let met = meet(&lab, &guest, PORT, &[], &[plain(&there)]).unwrap();
    println!("{:#?}\n{}\n{:?}", met.seen, met.log, met.moved);
    assert!(met.log.contains("Not a migration stream"), "{}", met.log);
    assert!(met.moved.is_err());
    assert_eq!(guest.current_host().unwrap().name(), "h1");
    assert_eq!(guest.sh("hostname").unwrap().trim(), guest.name());
    lab.finish().unwrap();
}

/// Asks for the list of disks at the NBD port, which shows whether he is let in.
fn list(to: &str, more: &str) -> String {
    format!("timeout 10 qemu-nbd {more} --list -b {to} -p {NBD_PORT} && echo let in")
}

#[test]
fn with_tls_a_stranger_at_the_disks_port_gets_nothing_and_is_logged() {
    let (lab, guest) = lab(&disk()).unwrap();
    let there = lab.host("h2").migration_ip().to_string();
    guest.sh("dd if=/dev/urandom of=/dev/vda bs=1M count=8 conv=fsync").unwrap();
    let before = on_disk(&guest).unwrap();
    let tls = |dir: &str| {
        let creds = format!("tls-creds-x509,id=t,endpoint=client,sanity-check=off,dir={dir}");
        list(&there, &format!("--object {creds} --tls-creds t"))
    };
    // They know the true authority, so that it is not they who refuse. GnuTLS keeps back a certificate of an authority
    // that the other side did not name: QEMU says of both that there was none.
    let knows = format!("{OTHER}; cp {PKI}/ca-cert.pem .; {}", tls("."));
    let others = knows.replace("; cp", "; mv own.pem client-cert.pem; mv own.key client-key.pem; cp");
    // Control: who has a certificate of it gets in, by the same program.
    let strangers = [list(&there, ""), knows, others, tls(PKI)];
    let flags = [&DISK_FLAGS[..], &["--tls"]].concat();
    let met = meet(&lab, &guest, NBD_PORT, &flags, &strangers).unwrap();
    println!("accel=tcg, three strangers at the disks' port, and one who may: {:#?}\n{}", met.seen, met.log);
    let [plain, no_paper, others_paper, right] = &met.seen[..] else { panic!("{:?}", met.seen) };
    assert!(plain.contains("TLS negotiation required"), "{plain}");
    for seen in [plain, no_paper, others_paper] {
        assert!(!seen.contains(EXPORT) && !seen.contains("let in"), "{seen}");
    }
    assert!(right.contains(EXPORT) && right.contains("let in"), "{right}");
    let refusals: Vec<&str> = met.log.lines().filter(|l| is_refusal(l)).collect();
    assert!(refusals.len() >= 2, "{refusals:#?}");
    met.moved.unwrap();
    assert_eq!(guest.current_host().unwrap().name(), "h2");
    assert_eq!(on_disk(&guest).unwrap(), before);
    lab.finish().unwrap();
}

/// Control, and the reason not to copy in the clear: he has the disk, and nobody notices.
#[test]
fn in_the_clear_a_stranger_reads_and_writes_the_disk_and_the_move_succeeds() {
    let (lab, guest) = lab(&disk()).unwrap();
    let (from, to) = (lab.host("h1"), lab.host("h2"));
    let there = to.migration_ip().to_string();
    guest.sh("yes mine | head -c 8388608 | dd of=/dev/vda bs=1M conv=fsync").unwrap();
    // Memory takes long enough, once the disk is there.
    let slow = run(from, "tc qdisc replace dev mig0 root tbf rate 40mbit burst 256kb latency 100ms").unwrap();
    assert!(slow.status.success(), "{slow:?}");
    let disk = format!("nbd://{there}:{NBD_PORT}/{EXPORT}");
    let visit = || -> Result<[String; 3]> {
        let copied = format!("ss -Htn state established 'sport = :{PORT}'");
        wait_until("memory on its way", Duration::from_secs(60), || {
            Ok(!run(to, &copied)?.stdout.is_empty())
        })?;
        let io = |what: &str| format!("timeout 10 qemu-io -f raw -c '{what}' {disk}");
        let visits = [list(&there, ""), io("read -v 0 16"), io("write -P 0x21 4M 1M")];
        let [a, b, c] = visits.map(|line| run(lab.host("h3"), &line).map(|o| said(&o)));
        Ok([a?, b?, c?])
    };
    let (seen, moved) = thread::scope(|scope| {
        let moving = scope.spawn(|| migrate(&lab, &guest, &DISK_FLAGS));
        let seen = visit();
        (seen, moving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let [listed, read, wrote] = seen.unwrap();
    println!("{listed}\n{read}\n{wrote}\n{}", log(&lab, &guest));
    assert!(listed.contains(EXPORT) && read.contains("mine.mine."), "{listed}\n{read}");
    moved.unwrap();
    assert_eq!(guest.current_host().unwrap().name(), "h2");
    let found = guest
        .sh("echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda bs=1M skip=4 count=1 | head -c 9")
        .unwrap();
    assert_eq!(found, "!!!!!!!!!", "{wrote}");
    lab.finish().unwrap();
}
