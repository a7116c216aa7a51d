//! `comsctl tls` as an operator types it, and what GnuTLS, QEMU and libvirt's client make of it. Handshakes, and migrations
//! of a VM that does not run, are on the loopback device. What changes owners needs root, and is left out else.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use coms_broker::certificates::make;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("coms-tls-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn authority(&self) -> PathBuf {
        self.0.join("authority")
    }

    fn bundle(&self, host: &str) -> PathBuf {
        self.authority().join("hosts").join(host)
    }

    /// `comsctl tls …` on this authority: exit status, what it printed, what it complained of.
    fn tls(&self, args: &[&str]) -> (i32, String, String) {
        let authority = ["--authority", self.authority().to_str().unwrap()].map(str::to_owned);
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        comsctl(&[&args[..], &authority[..]].concat())
    }

    fn done(&self, args: &[&str]) -> Value {
        let (code, out, err) = self.tls(&[args, &["--json"]].concat());
        assert_eq!(code, 0, "{args:?}: {err}{out}");
        serde_json::from_str(&out).unwrap()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn comsctl(args: &[String]) -> (i32, String, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_comsctl")).arg("tls").args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code().unwrap_or(-1), text(&out.stdout), text(&out.stderr))
}

fn certtool(args: &[&str]) -> Output {
    let tool = Command::new("certtool").args(args).output();
    tool.unwrap_or_else(|e| panic!("certtool: {e}; it is in the package gnutls-bin (tests/setup.sh)"))
}

/// A server that asks for a certificate, as QEMU at a migration's destination does.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(files: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let file = |name: &str| files.join(name).to_str().unwrap().to_owned();
        let mut child = Command::new("gnutls-serv")
            .args([
                "--port",
                &port.to_string(),
                "--echo",
                "--quiet",
                "--require-client-cert",
                "--verify-client-cert",
            ])
            .args(["--x509cafile", &file("ca-cert.pem"), "--x509certfile", &file("server-cert.pem")])
            .args(["--x509keyfile", &file("server-key.pem"), "--dhparams", &file("dh-params.pem")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(child.try_wait().unwrap().is_none(), "gnutls-serv does not take {}", files.display());
            assert!(begun.elapsed() < Duration::from_secs(20), "gnutls-serv does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, port }
    }

    /// What a client sees that has these files and looks for this name.
    fn meets(&self, files: &Path, name: &str, priority: &str) -> Result<String, String> {
        let file = |name: &str| files.join(name).to_str().unwrap().to_owned();
        let mut child = Command::new("gnutls-cli")
            .args(["--port", &self.port.to_string(), "--priority", priority, "--verify-hostname", name])
            .args(["--x509cafile", &file("ca-cert.pem"), "--x509certfile", &file("client-cert.pem")])
            .args(["--x509keyfile", &file("client-key.pem"), "127.0.0.1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(b"word\n").unwrap();
        let out = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        if out.status.success() { Ok(text) } else { Err(text) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const ANY: &str = "NORMAL";
/// Here the client hears in the handshake that it is refused.
const TLS12: &str = "NORMAL:-VERS-ALL:+VERS-TLS1.2";

fn two_hosts(name: &str) -> Dir {
    let dir = Dir::new(name);
    dir.done(&["init"]);
    for (host, ip) in [("h1", "10.1.0.1"), ("h2", "fd00::2")] {
        dir.done(&["issue", host, "--name", &format!("{host}.example"), "--name", host, "--ip", ip]);
    }
    dir
}

#[test]
fn tls_certificates_satisfy_certtool() {
    let dir = two_hosts("certtool");
    for (host, names) in [("h1", ["h1.example", "10.1.0.1"]), ("h2", ["h2", "fd00::2"])] {
        let bundle = dir.bundle(host);
        let file = |name: &str| bundle.join(name).to_str().unwrap().to_owned();
        for cert in ["server-cert.pem", "client-cert.pem"] {
            for name in names {
                let verify =
                    ["--verify", "--load-ca-certificate", &file("ca-cert.pem"), "--infile", &file(cert)];
                let out = certtool(&[&verify[..], &["--verify-hostname", name]].concat());
                assert!(out.status.success(), "{host} {cert} {name}: {out:?}");
                let out = certtool(&[&verify[..], &["--verify-hostname", "h3.example"]].concat());
                assert!(!out.status.success(), "another name passes");
            }
        }
        let info = String::from_utf8(certtool(&["-i", "--infile", &file("server-cert.pem")]).stdout).unwrap();
        for word in [
            "TLS WWW Server",
            "TLS WWW Client",
            "Digital signature",
            "Key encipherment",
            "secp256r1",
            "Authority Key",
        ] {
            assert!(info.to_lowercase().contains(&word.to_lowercase()), "{word}: {info}");
        }
        let info = certtool(&["--dh-info", "--infile", &file("dh-params.pem")]);
        assert!(
            info.status.success() && String::from_utf8_lossy(&info.stdout).contains("generator"),
            "{info:?}"
        );
    }
}

#[test]
fn tls_handshakes_verify_both_ends() {
    let (dir, other) = (two_hosts("handshake"), two_hosts("handshake-other"));
    let server = Server::start(&dir.bundle("h2"));
    let seen = server.meets(&dir.bundle("h1"), "h2.example", ANY).unwrap();
    assert!(seen.contains("TLS1.3"), "{seen}");
    server.meets(&dir.bundle("h1"), "fd00::2", TLS12).unwrap();
    for (files, name, why) in [
        (dir.bundle("h1"), "h1.example", "the name of another host"),
        (other.bundle("h1"), "h2.example", "another authority"),
    ] {
        let seen = server.meets(&files, name, ANY);
        assert!(seen.is_err(), "{why}: {seen:?}");
    }
    // A client that trusts the server, and whom the server does not trust.
    fs::copy(dir.bundle("h1").join("ca-cert.pem"), other.bundle("h1").join("ca-cert.pem")).unwrap();
    let seen = server.meets(&other.bundle("h1"), "h2.example", TLS12);
    assert!(seen.is_err(), "a stranger's certificate: {seen:?}");
}

#[test]
fn tls_init_issue_and_rotate_refuse_what_would_do_harm() {
    let dir = two_hosts("refuse");
    let refused = |args: &[&str], code: i32, word: &str| {
        let (got, out, err) = dir.tls(args);
        assert!(got == code && err.contains(word), "{args:?}: {got} {out}{err}");
    };
    refused(&["init"], 1, "already");
    refused(&["issue", "../h3", "--ip", "10.0.0.3"], 2, "no host's name");
    refused(&["issue", "h3", "--name", "a b"], 2, "--name");
    refused(&["issue", "h3", "--config", "/nonexistent"], 2, "no name or address");
    refused(&["rotate", "leaves"], 1, "after `rotate begin`");
    refused(&["rotate", "finish"], 1, "after `rotate leaves`");
    refused(&["rotate", "installed", "h1", "0000"], 1, "something else");
    dir.done(&["rotate", "begin"]);
    refused(&["rotate", "leaves"], 1, "h1, h2");
    refused(&["rotate", "begin"], 1, "no renewal is under way");
    let config = dir.0.join("broker.toml");
    let text = "[host]\nname = \"h1\"\nregion = \"r\"\n[[hosts]]\nname = \"h3\"\nregion = \"r\"\n\
                libvirt = \"qemu+tls://h3.example/system\"\nmigrate_uri = \"tcp://10.1.0.3\"\n[aliases]\nkey_file = \"/k\"\n";
    fs::write(&config, text).unwrap();
    let made = dir.done(&["issue", "h3", "--config", config.to_str().unwrap()]);
    assert_eq!(made["names"], serde_json::json!(["h3.example", "10.1.0.3"]), "as the configuration has them");
    let again = dir.done(&["issue", "h1"]);
    assert_eq!(
        (&again["names"], &again["key_kept"]),
        (&serde_json::json!(["h1.example", "h1", "10.1.0.1"]), &true.into())
    );
    assert_eq!(dir.done(&["issue", "h1", "--new-key"])["key_kept"], false);
}

/// A QEMU of 16 MiB with these files, not started, that does what it is told and then ends.
fn qemu(files: &Path, endpoint: &str, more: &[&str]) -> Child {
    let object = format!("tls-creds-x509,id=t,dir={},endpoint={endpoint},verify-peer=yes", files.display());
    Command::new("timeout")
        .args([
            "60",
            "qemu-system-x86_64",
            "-machine",
            "pc,accel=tcg",
            "-m",
            "16",
            "-nodefaults",
            "-display",
            "none",
        ])
        .args(["-S", "-monitor", "stdio", "-object", &object])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn listens(port: u16) -> bool {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().any(|l| l.contains(&format!(":{port:04X} 00000000:0000 0A ")))
}

/// Migrates a VM over TLS on the loopback device, from QEMU with these files to QEMU with those, which is looked for by this
/// name. What the source and what the destination say of it, where it failed.
fn migrates(from: &Path, to: &Path, name: &str) -> Result<(), (String, String)> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut destination = qemu(to, "server", &["-incoming", "defer"]);
    let mut there = destination.stdin.take().unwrap();
    write!(there, "migrate_set_parameter tls-creds t\nmigrate_incoming tcp:127.0.0.1:{port}\n").unwrap();
    let begun = Instant::now();
    while !listens(port) {
        assert!(destination.try_wait().unwrap().is_none(), "QEMU at the destination has ended");
        assert!(begun.elapsed() < Duration::from_secs(20), "QEMU at the destination does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut source = qemu(from, "client", &[]);
    let orders = format!(
        "migrate_set_parameter tls-creds t\nmigrate_set_parameter tls-hostname {name}\n\
         migrate tcp:127.0.0.1:{port}\ninfo migrate\nquit\n"
    );
    // One that refused its own files reads nothing.
    let _ = source.stdin.take().unwrap().write_all(orders.as_bytes());
    let out = source.wait_with_output().unwrap();
    let failed = !String::from_utf8_lossy(&out.stdout).contains("Migration status: completed");
    // A destination that refuses may not have come to that yet.
    let mut verdict = String::new();
    if failed {
        let stderr = destination.stderr.take().unwrap();
        let (tx, rx) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stderr).read_line(&mut line);
            tx.send(line)
        });
        verdict = rx.recv_timeout(Duration::from_secs(10)).unwrap_or_default();
    }
    let _ = there.write_all(b"quit\n");
    let arrived = destination.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !failed {
        return Ok(());
    }
    Err((text(&out.stdout) + &text(&out.stderr), verdict + &text(&arrived.stdout) + &text(&arrived.stderr)))
}

#[test]
fn tls_migrations_of_qemu_verify_both_ends() {
    let (dir, other) = (two_hosts("migrate"), two_hosts("migrate-other"));
    let (h1, h2) = (dir.bundle("h1"), dir.bundle("h2"));
    migrates(&h1, &h2, "h2.example").unwrap();
    migrates(&h2, &h1, "10.1.0.1").unwrap();
    for (from, to, name, why) in [
        (&h1, &h2, "h1.example", "does not match the hostname"),
        (&other.bundle("h1"), &h2, "h2.example", "hasn't got a known issuer"),
        (&h1, &other.bundle("h2"), "h2.example", "hasn't got a known issuer"),
    ] {
        let said = migrates(from, to, name).unwrap_err();
        assert!(said.0.contains(why), "{why}: {said:?}");
    }
    // Sources that have nothing against the destination: a stranger who trusts both authorities, and who has nothing to show.
    // The stranger does not show his either: the destination says whose it takes.
    let ca = |of: &Path| fs::read_to_string(of.join("ca-cert.pem")).unwrap();
    let (stranger, nameless) = (other.bundle("h1"), dir.0.join("nameless"));
    fs::write(stranger.join("ca-cert.pem"), ca(&h1) + &ca(&stranger)).unwrap();
    fs::create_dir(&nameless).unwrap();
    fs::write(nameless.join("ca-cert.pem"), ca(&h1)).unwrap();
    for from in [&stranger, &nameless] {
        let why = "No certificate was found";
        let said = migrates(from, &h2, "h2.example").unwrap_err();
        assert!(said.1.contains(why) && !said.0.contains(why), "{}: {said:?}", from.display());
    }
}

/// libvirt checks its own certificate before it connects: to a port at which nobody listens it gets only with a good one.
#[test]
fn tls_certificates_satisfy_libvirts_client() {
    let dir = two_hosts("libvirt");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let pki = dir.0.join("pki");
    fs::create_dir_all(&pki).unwrap();
    let connects = || {
        let uri = format!("qemu+tls://127.0.0.1:{port}/system?pkipath={}", pki.display());
        let out = Command::new("virsh").env("LC_ALL", "C").args(["-c", &uri, "list"]).output();
        String::from_utf8_lossy(&out.unwrap_or_else(|e| panic!("virsh: {e} (tests/setup.sh)")).stderr)
            .into_owned()
    };
    for (from, to) in [("ca-cert", "cacert"), ("client-cert", "clientcert"), ("client-key", "clientkey")] {
        fs::copy(dir.bundle("h1").join(from.to_owned() + ".pem"), pki.join(to.to_owned() + ".pem")).unwrap();
    }
    assert!(connects().contains("Connection refused"), "{}", connects());
    fs::copy(pki.join("cacert.pem"), pki.join("clientcert.pem")).unwrap();
    assert!(connects().contains("basic constraints show a CA"), "{}", connects());
}

/// A tree that stands for a host.
fn tree(dir: &Dir, host: &str) -> PathBuf {
    let root = dir.0.join(format!("root-{host}"));
    fs::create_dir_all(root.join("etc/libvirt")).unwrap();
    fs::write(root.join("etc/hostname"), format!("{host}\n")).unwrap();
    fs::write(root.join("etc/passwd"), "libvirt-qemu:x:64055:106::/:/bin/false\n").unwrap();
    fs::write(root.join("etc/group"), "kvm:x:106:\n").unwrap();
    fs::write(root.join("etc/libvirt/qemu.conf"), "migrate_tls_x509_cert_dir = \"/etc/pki/mig\"\n").unwrap();
    root
}

fn on_host(root: &Path, args: &[&str]) -> (i32, Value, String) {
    let root = ["--root", root.to_str().unwrap(), "--config", "/nonexistent", "--json"];
    let args: Vec<String> = args.iter().chain(&root).map(|a| (*a).to_owned()).collect();
    let (code, out, err) = comsctl(&args);
    (code, serde_json::from_str(&out).unwrap_or_default(), err)
}

fn kinds(found: &Value) -> Vec<&str> {
    let all = found["findings"].as_array().unwrap();
    all.iter().filter(|f| f["severity"] == "fail").filter_map(|f| f["kind"].as_str()).collect()
}

#[test]
fn tls_rotation_over_two_hosts_never_stops_migrations() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: gives files to another user, which needs root");
        return;
    }
    let dir = two_hosts("rotation");
    let roots = ["h1", "h2"].map(|host| (host, tree(&dir, host)));
    let (code, found, _) = on_host(&roots[0].1, &["check"]);
    assert_eq!((code, kinds(&found)), (1, vec!["nothing-installed"]));
    let (_, refused, _) = on_host(&roots[0].1, &["install", dir.bundle("h2").to_str().unwrap()]);
    assert_eq!(kinds(&refused), ["wrong-name"], "another host's bundle");
    assert!(!roots[0].1.join("etc/pki").exists(), "nothing was changed");

    let mut fingerprints = Vec::new();
    for step in ["", "begin", "leaves", "finish"] {
        if !step.is_empty() {
            dir.done(&["rotate", step]);
        }
        for (host, root) in &roots {
            let bundle = dir.bundle(host);
            let (code, done, err) = on_host(root, &["install", bundle.to_str().unwrap()]);
            assert_eq!(code, 0, "{step} {host}: {done} {err}");
            let (code, found, _) = on_host(root, &["check"]);
            assert_eq!((code, &found["receipt"]), (0, &done["receipt"]), "{step} {host}: {found}");
            dir.done(&["rotate", "installed", host, done["receipt"].as_str().unwrap()]);
            fingerprints.push(done["fingerprint_sha256"].clone());
            if step.is_empty() && *host == "h1" {
                continue; // nothing is there to talk to yet
            }
            for (from, to, name) in [(0, 1, "h2"), (1, 0, "h1")] {
                let files = |at: usize| roots[at].1.join("etc/pki/mig");
                let seen = migrates(&files(from), &files(to), name);
                assert!(seen.is_ok(), "{step} {host}: {from} to {to}: {seen:?}");
            }
        }
    }
    fingerprints.sort_by_key(Value::to_string);
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), 8, "each step had a certificate of its own");
    assert_eq!(dir.done(&["rotate"])["step"], "steady");
    assert!(!dir.authority().join("ca-1-key.pem").exists(), "the old authority signs nothing any more");

    // What is in place is for its readers only, and what was there is beside it.
    let pki = roots[0].1.join("etc/pki");
    for (file, uid, mode) in [
        ("mig/server-key.pem", 64055, 0o400),
        ("mig/server-cert.pem", 0, 0o644),
        ("mig/dh-params.pem", 0, 0o644),
        ("libvirt/private/clientkey.pem", 0, 0o600),
        ("CA/cacert.pem", 0, 0o644),
        ("CA/cacert.pem.before", 0, 0o644),
    ] {
        use std::os::unix::fs::MetadataExt;
        let meta = fs::metadata(pki.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert_eq!((meta.uid(), meta.mode() & 0o777), (uid, mode), "{file}");
    }
    // libvirt's may be left out only where nothing needs them.
    let config = dir.0.join("broker.toml");
    let text = "[host]\nname = \"h1\"\nregion = \"r\"\n[[hosts]]\nname = \"h2\"\nregion = \"r\"\nlibvirt = \"qemu+tls://h2/system\"\n";
    fs::write(&config, text).unwrap();
    fs::rename(pki.join("libvirt"), pki.join("elsewhere")).unwrap();
    fs::rename(pki.join("CA"), pki.join("elsewhere-ca")).unwrap();
    assert_eq!(on_host(&roots[0].1, &["check"]).0, 0, "the hosts may be reached by ssh");
    let args =
        ["check", "--root", roots[0].1.to_str().unwrap(), "--config", config.to_str().unwrap(), "--json"];
    let (code, out, _) = comsctl(&args.map(str::to_owned));
    assert!(code == 1 && out.contains("h2 is reached by TLS"), "{out}");
    // The broker would tell others of certificates that QEMU does not use.
    for (named, told) in [("/etc/pki/mig/", false), ("/etc/pki/qemu", true)] {
        fs::write(&config, format!("{text}[encryption]\ncertificates = \"{named}\"\n")).unwrap();
        let (_, out, _) = comsctl(&args.map(str::to_owned));
        assert_eq!(out.contains("other-directory"), told, "{named}: {out}");
    }
    // Damage is found.
    fs::copy(pki.join("mig/ca-cert.pem"), pki.join("mig/client-cert.pem")).unwrap();
    let (code, found, _) = on_host(&roots[0].1, &["check"]);
    assert!(code == 1 && kinds(&found).contains(&"authority-for-leaf"), "{found}");
}

/// Does QEMU load these files?
fn qemu_takes(dir: &Path, endpoint: &str) -> bool {
    let object = format!("tls-creds-x509,id=t,dir={},endpoint={endpoint},verify-peer=yes", dir.display());
    let mut child = Command::new("qemu-system-x86_64")
        .args([
            "-machine",
            "none",
            "-nodefaults",
            "-display",
            "none",
            "-S",
            "-monitor",
            "stdio",
            "-object",
            &object,
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| {
            panic!("qemu-system-x86_64: {e}; it is in the package qemu-system-x86 (tests/setup.sh)")
        });
    // One that refused its files reads no more.
    let _ = child.stdin.take().unwrap().write_all(b"quit\n");
    child.wait().unwrap().success()
}

/// What QEMU here refuses, `check` fails; and the other way round.
#[test]
fn tls_check_fails_what_qemu_refuses() {
    let (dir, other) = (two_hosts("qemu"), two_hosts("qemu-other"));
    let root = tree(&dir, "h1");
    fs::write(root.join("etc/libvirt/qemu.conf"), "user = \"root\"\n").unwrap();
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
    let pki = root.join("etc/pki/qemu");
    fs::create_dir_all(&pki).unwrap();
    let read = |of: &Dir, host: &str, file: &str| fs::read_to_string(of.bundle(host).join(file)).unwrap();
    let good = |file: &str| read(&dir, "h1", file);
    let (ca, cert) = (good("ca-cert.pem"), good("server-cert.pem"));
    let expired = expired_authority(&dir.0);
    for (file, text, kind) in [
        ("ca-cert.pem", ca.clone(), None),
        ("ca-cert.pem", read(&other, "h1", "ca-cert.pem") + &ca, None),
        ("ca-cert.pem", read(&other, "h1", "ca-cert.pem"), Some("other-authority")),
        ("ca-cert.pem", expired.clone() + &ca, Some("expired")),
        ("ca-cert.pem", ca.clone() + &expired, Some("expired")),
        ("ca-cert.pem", ca.clone() + &cert, Some("not-an-authority")),
        ("ca-cert.pem", "no certificate\n".into(), Some("not-pem")),
        ("server-cert.pem", ca.clone(), Some("authority-for-leaf")),
        ("server-cert.pem", cert[..cert.len() / 2].into(), Some("damaged")),
        ("server-cert.pem", read(&other, "h1", "server-cert.pem"), Some("key-mismatch")),
        ("server-key.pem", read(&dir, "h2", "server-key.pem"), Some("key-mismatch")),
        ("server-key.pem", "no key\n".into(), Some("not-pem")),
        ("dh-params.pem", "no parameters\n".into(), Some("dh-params")),
        ("client-key.pem", read(&dir, "h2", "server-key.pem"), Some("key-mismatch")),
    ] {
        for entry in fs::read_dir(dir.bundle("h1")).unwrap() {
            let from = entry.unwrap().path();
            fs::copy(&from, pki.join(from.file_name().unwrap())).unwrap();
        }
        fs::write(pki.join(file), &text).unwrap();
        let endpoints = if file.starts_with("client") { &["client"][..] } else { &["server"][..] };
        let takes = endpoints.iter().all(|e| qemu_takes(&pki, e));
        let (code, found, err) = on_host(&root, &["check"]);
        assert_eq!(takes, kind.is_none(), "QEMU takes {file} of {kind:?}");
        assert_eq!(code, i32::from(!takes), "{file}: {kind:?}: {found} {err}");
        assert!(kind.is_none_or(|k| kinds(&found).contains(&k)), "{kind:?}: {found}");
    }
}

fn expired_authority(dir: &Path) -> String {
    let file = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let template = "cn = \"old\"\nca\ncert_signing_key\nactivation_date = \"2020-01-01 00:00:00\"\nexpiration_date = \"2021-01-01 00:00:00\"\n";
    fs::write(file("template"), template).unwrap();
    let key = certtool(&["--generate-privkey", "--ecc", "--outfile", &file("old-key.pem")]);
    let made = certtool(&[
        "--generate-self-signed",
        "--load-privkey",
        &file("old-key.pem"),
        "--template",
        &file("template"),
    ]);
    assert!(key.status.success() && made.status.success(), "{made:?}");
    String::from_utf8(made.stdout).unwrap()
}

/// Everything below a tree, with what is in it.
fn all_of(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { dirs.push(path) } else { found.push((path.clone(), fs::read(&path).unwrap())) }
        }
    }
    found.sort();
    found
}

#[test]
fn tls_install_takes_a_whole_bundle_or_nothing() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: gives files to another user, which needs root");
        return;
    }
    let dir = two_hosts("whole");
    let root = tree(&dir, "h1");
    let before = all_of(&root);
    let bundle = dir.bundle("h1");
    let refused = |from: &Path| {
        let (code, found, err) = on_host(&root, &["install", from.to_str().unwrap()]);
        assert!(
            code == 1 && kinds(&found).contains(&"unreadable"),
            "{}: {code} {found} {err}",
            from.display()
        );
        assert!(found["receipt"].is_null(), "{found}");
        assert_eq!(all_of(&root), before, "nothing was changed");
    };
    let archive = dir.0.join("h1.tar");
    fs::write(&archive, "not unpacked").unwrap();
    refused(&archive);
    for file in ["server-key.pem", "client-cert.pem", "ca-cert.pem"] {
        let (file, kept) = (bundle.join(file), bundle.join("kept"));
        fs::rename(&file, &kept).unwrap();
        // Even root cannot read it.
        fs::create_dir(&file).unwrap();
        refused(&bundle);
        fs::remove_dir(&file).unwrap();
        fs::rename(&kept, &file).unwrap();
    }
    let (code, done, err) = on_host(&root, &["install", bundle.to_str().unwrap()]);
    assert!(code == 0 && done["receipt"].is_string(), "{done} {err}");
    // Right files in a place that QEMU cannot enter are not installed.
    let pki = root.join("etc/pki/mig");
    fs::set_permissions(&pki, fs::Permissions::from_mode(0o700)).unwrap();
    let (code, done, _) = on_host(&root, &["install", bundle.to_str().unwrap()]);
    assert!(code == 1 && kinds(&done).contains(&"unreadable-by-qemu"), "{done}");
    assert!(done["receipt"].is_null(), "{done}");
    fs::set_permissions(&pki, fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(pki.join("server-key.pem")).unwrap();
    fs::create_dir(pki.join("server-key.pem")).unwrap();
    let (code, found, _) = on_host(&root, &["check"]);
    assert!(code == 1 && kinds(&found).contains(&"unreadable"), "{found}");
}

#[test]
fn tls_only_a_host_that_took_the_step_gets_a_receipt() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: gives files to another user, which needs root");
        return;
    }
    let dir = two_hosts("receipt");
    let root = tree(&dir, "h1");
    let bundle = dir.bundle("h1");
    let install = |more: &[&str]| on_host(&root, &[&["install", bundle.to_str().unwrap()], more].concat());
    let (code, done, _) = install(&["--dry-run"]);
    assert!(code == 0 && done["receipt"].is_null() && !root.join("etc/pki").exists(), "{done}");
    assert!(install(&[]).1["receipt"].is_string());
    dir.done(&["rotate", "begin"]);
    let before = all_of(&root);
    let (code, _, err) = install(&["--qemu-only"]);
    assert!(code == 1 && err.contains("CA/cacert.pem") && all_of(&root) == before, "{code} {err}");
    // As an install leaves it that was cut off by a power failure.
    let pki = root.join("etc/pki");
    fs::copy(bundle.join("ca-cert.pem"), pki.join("mig/ca-cert.pem")).unwrap();
    let (_, found, _) = on_host(&root, &["check"]);
    assert!(found["receipt"].is_null(), "libvirt trusts the old one only: {found}");
    fs::copy(bundle.join("ca-cert.pem"), pki.join("CA/cacert.pem")).unwrap();
    for lagging in ["mig/client-cert.pem", "libvirt/servercert.pem", "libvirt/clientcert.pem"] {
        for new in
            ["mig/server-cert.pem", "mig/client-cert.pem", "libvirt/servercert.pem", "libvirt/clientcert.pem"]
        {
            if new != lagging {
                fs::copy(bundle.join("server-cert.pem"), pki.join(new)).unwrap();
            }
        }
        let (_, found, _) = on_host(&root, &["check"]);
        assert!(found["receipt"].is_null(), "{lagging}: {found}");
        let (code, done, err) = install(&[]);
        assert!(code == 0 && done["receipt"].is_string(), "{done} {err}");
        dir.done(&["issue", "h1"]);
    }
    // libvirt may have files of its own elsewhere, of the same authority.
    let conf = root.join("etc/libvirt/libvirtd.conf");
    fs::write(&conf, "ca_file = \"/srv/pki/ca.pem\"\n").unwrap();
    let (code, _, err) = install(&[]);
    assert!(code == 1 && err.contains("libvirtd.conf"), "{code} {err}");
    fs::remove_dir_all(pki.join("libvirt")).unwrap();
    fs::remove_dir_all(pki.join("CA")).unwrap();
    fs::create_dir_all(root.join("srv/pki")).unwrap();
    let old = dir.authority().join("ca-1-cert.pem");
    fs::copy(&old, root.join("srv/pki/ca.pem")).unwrap();
    let (code, _, err) = install(&["--qemu-only"]);
    assert!(code == 1 && err.contains("/srv/pki/ca.pem"), "{code} {err}");
    // Those of another authority are not this one's business.
    let other = two_hosts("receipt-other");
    fs::copy(other.bundle("h1").join("ca-cert.pem"), root.join("srv/pki/ca.pem")).unwrap();
    let (code, done, err) = install(&["--qemu-only"]);
    assert!(code == 0 && done["receipt"].is_string(), "{done} {err}");
    assert_eq!(on_host(&root, &["check"]).1["receipt"], done["receipt"]);
}

fn now_unix_s() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_secs().try_into().unwrap()
}

#[test]
fn tls_an_authority_in_its_last_days_is_renewed_like_any_other() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: gives files to another user, which needs root");
        return;
    }
    let dir = Dir::new("last-days");
    dir.done(&["init"]);
    let begun = now_unix_s() - (make::AUTHORITY_DAYS - 5) * 86_400;
    let old = make::authority("an old one", [3; 16], begun).unwrap();
    fs::write(dir.authority().join("ca-1-cert.pem"), &old.cert_pem).unwrap();
    fs::write(dir.authority().join("ca-1-key.pem"), &old.key_pem).unwrap();
    let made = dir.done(&["issue", "h1", "--name", "h1"]);
    assert!(
        (3..=5).contains(&made["days"].as_i64().unwrap()),
        "the certificate ends with its authority: {made}"
    );
    let root = tree(&dir, "h1");
    let bundle = dir.bundle("h1");
    let install = || {
        let (code, done, err) = on_host(&root, &["install", bundle.to_str().unwrap()]);
        assert_eq!(code, 0, "{done} {err}");
        dir.done(&["rotate", "installed", "h1", done["receipt"].as_str().unwrap()]);
    };
    install();
    let shown = dir.done(&["rotate"]);
    assert!(shown["next"].as_str().unwrap().starts_with("comsctl tls rotate begin"), "{shown}");
    assert!((3..=5).contains(&shown["authority_days_left"].as_i64().unwrap()), "{shown}");
    assert_eq!((&shown["hosts"][0]["due"], &shown["hosts"][0]["days_left"]), (&true.into(), &made["days"]));
    for step in ["begin", "leaves", "finish"] {
        dir.done(&["rotate", step]);
        install();
    }
    let shown = dir.done(&["rotate"]);
    assert!(shown["next"].as_str().unwrap().starts_with("nothing to do"), "{shown}");
    assert_eq!(on_host(&root, &["check"]).0, 0);
}

#[test]
fn tls_an_authority_recovers_from_being_killed() {
    let dir = Dir::new("killed");
    let file = |name: &str| dir.authority().join(name);
    // While it was made.
    fs::create_dir(dir.authority()).unwrap();
    for name in ["ca-1-key.pem", "ca-1-cert.pem.new"] {
        fs::write(file(name), "half").unwrap();
    }
    dir.done(&["init"]);
    for host in ["h1", "h2"] {
        dir.done(&["issue", host, "--name", host]);
    }
    // Between the bundles of a step: one host may have got its.
    let state = fs::read(file("state.json")).unwrap();
    dir.done(&["rotate", "begin"]);
    let trusted = fs::read(dir.bundle("h1").join("ca-cert.pem")).unwrap();
    fs::write(file("state.json"), &state).unwrap();
    dir.done(&["rotate"]);
    let shown = dir.done(&["rotate", "begin"]);
    assert_eq!(shown["step"], "begun");
    assert_eq!(fs::read(dir.bundle("h2").join("ca-cert.pem")).unwrap(), trusted, "another new authority");
    // With a certificate and a key that are not of each other.
    fs::write(file("state.json"), &state).unwrap();
    fs::copy(file("ca-1-key.pem"), file("ca-2-key.pem")).unwrap();
    dir.done(&["rotate", "begin"]);
    assert_ne!(fs::read(dir.bundle("h2").join("ca-cert.pem")).unwrap(), trusted);
    for step in ["leaves", "finish"] {
        for host in ["h1", "h2"] {
            let receipt = dir.done(&["issue", host])["receipt"].clone();
            dir.done(&["rotate", "installed", host, receipt.as_str().unwrap()]);
        }
        dir.done(&["rotate", step]);
    }
    // Before the old key was deleted.
    fs::write(file("ca-1-key.pem"), "the old one").unwrap();
    dir.done(&["rotate"]);
    assert!(!file("ca-1-key.pem").exists() && file("ca-2-key.pem").exists());
}

/// Whoever can change whom a host trusts, or put another file in its place, is trusted himself.

#[test]
fn tls_trust_that_others_can_change_is_no_trust() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: gives files to another user, which needs root");
        return;
    }
    let dir = two_hosts("writable");
    let root = tree(&dir, "h1");
    let bundle = dir.bundle("h1");
    let install = || on_host(&root, &["install", bundle.to_str().unwrap()]);
    assert_eq!(install().0, 0);
    let found = |what: &str| {
        let (code, found, _) = on_host(&root, &["check"]);
        assert!(code == 1 && kinds(&found).contains(&"writable-by-others"), "{what}: {code} {found}");
    };
    let mode =
        |path: &str, bits| fs::set_permissions(root.join(path), fs::Permissions::from_mode(bits)).unwrap();
    for (path, open, right) in [
        ("etc/pki/mig", 0o777, 0o755),
        ("etc/pki/mig/ca-cert.pem", 0o666, 0o644),
        ("etc/pki/CA", 0o757, 0o755),
        ("etc", 0o777, 0o755),
    ] {
        mode(path, open);
        found(path);
        if root.join(path).is_dir() {
            let (code, done, err) = install();
            assert!(
                code == 1 && (err.contains("others") || kinds(&done).contains(&"writable-by-others")),
                "{done} {err}"
            );
        }
        mode(path, right);
        assert_eq!(on_host(&root, &["check"]).0, 0, "{path}");
    }
    let pki = root.join("etc/pki/mig");
    std::os::unix::fs::chown(&pki, Some(64055), None).unwrap();
    found("of QEMU's user");
    std::os::unix::fs::chown(&pki, Some(0), None).unwrap();
    // The authority's own directory, too.
    let shared = dir.0.join("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
    let (code, _, err) = comsctl(&["init", "--authority", shared.to_str().unwrap()].map(str::to_owned));
    assert!(code == 1 && err.contains("others"), "{code} {err}");
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(comsctl(&["init", "--authority", shared.to_str().unwrap()].map(str::to_owned)).0, 0);
}
