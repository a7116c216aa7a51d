//! `comsctl hook` as libvirt calls it, and the packaged script around it: nothing on standard output, whatever happens.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use coms_broker::alias::AliasKey;
use coms_broker::seal::{NAMESPACE, Seal, Waybill};
use coms_protocol::types::EncryptionLevel;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};
use uuid::Uuid;

const VM: Uuid = Uuid::from_u128(7);
const SECRET: &[u8] = b"the pool's secret, of all hosts";

struct Host {
    dir: PathBuf,
}

impl Host {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("coms-hook-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let key = dir.join("alias.key");
        std::fs::write(&key, SECRET).unwrap();
        let text =
            format!("[host]\nname = \"h2\"\nregion = \"r\"\n[aliases]\nkey_file = \"{}\"\n", key.display());
        std::fs::write(dir.join("broker.toml"), text).unwrap();
        Self { dir }
    }

    fn asks(&self, program: &Path, args: &[&str], xml: &str) -> Output {
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Who is not interested does not read it.
        let _ = child.stdin.take().unwrap().write_all(xml.as_bytes());
        let out = child.wait_with_output().unwrap();
        assert!(out.stdout.is_empty(), "libvirt would take it for the VM's definition: {out:?}");
        out
    }

    /// The exit status, and what libvirt would show.
    fn hook(&self, operation: &str, xml: &str) -> (Option<i32>, String) {
        let config = self.dir.join("broker.toml").display().to_string();
        let args = ["hook", "--config", &config, "--", "-vm1", operation, "begin", "-"];
        let out = self.asks(Path::new(env!("CARGO_BIN_EXE_comsctl")), &args, xml);
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn xml(to: Option<&str>, secret: &[u8]) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let key = AliasKey::new(secret).waybill_key();
    let waybill = to.map(|to| Waybill::issue(Some(&key), VM, to, now, 60_000));
    let seal =
        Seal { level: EncryptionLevel::Required, wish: EncryptionLevel::Required, at: Vec::new(), waybill }
            .to_xml();
    let seal = seal.replacen("<seal", &format!("<coms:seal xmlns:coms='{NAMESPACE}'"), 1);
    format!("<domain type='kvm'><name>vm1</name><uuid>{VM}</uuid><metadata>{seal}</metadata></domain>")
}

#[test]
fn a_sealed_vm_comes_with_a_waybill_for_this_host_or_not_at_all() {
    let host = Host::new("comes");
    assert_eq!(host.hook("migrate", "<domain><name>vm1</name></domain>"), (Some(0), String::new()));
    assert_eq!(host.hook("migrate", &xml(Some("h2"), SECRET)), (Some(0), String::new()));
    for (xml, why) in [
        (xml(None, SECRET), "has no waybill"),
        (xml(Some("h3"), SECRET), "for the host `h3`"),
        (xml(Some("h2"), b"of another pool altogether"), "not signed with this host's secret"),
        (xml(Some("h2"), SECRET).replace("level='2'", "level=''"), "`level` is missing"),
    ] {
        let (status, said) = host.hook("migrate", &xml);
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("does not come to this host") && said.contains(why), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        // It is there already, and starts anew.
        assert_eq!(host.hook("restore", &xml).0, Some(0));
    }
}

#[test]
fn a_host_that_cannot_judge_takes_in_what_needs_no_judgement_only() {
    let host = Host::new("judges");
    std::fs::remove_file(host.dir.join("alias.key")).unwrap();
    let (status, said) = host.hook("migrate", &xml(Some("h2"), SECRET));
    assert!(
        status == Some(1) && said.contains("cannot judge its waybill") && said.contains("alias.key"),
        "{said}"
    );
    assert_eq!(host.hook("migrate", "<domain><name>vm1</name></domain>").0, Some(0));
}

#[test]
fn the_packaged_script_asks_at_migrations_only() {
    let host = Host::new("script");
    let text = include_str!("../../packaging/libvirt/hook");
    let comsctl = env!("CARGO_BIN_EXE_comsctl");
    let config = host.dir.join("broker.toml").display().to_string();
    // As the package installs it, but for where its programs and files are.
    let script = text
        .replace("exec /usr/bin/comsctl hook", &format!("exec {comsctl} hook --config {config}"))
        .replace("/usr/bin/comsctl", comsctl)
        .replace("/etc/coms/no-incoming", &host.dir.join("no-incoming").display().to_string());
    let file = host.dir.join("hook");
    std::fs::write(&file, script).unwrap();
    let run = |args: &[&str], xml: &str| {
        let args = [&[file.to_str().unwrap()][..], args].concat();
        let out = host.asks(Path::new("/bin/sh"), &args, xml);
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    let sealed = xml(None, SECRET);
    assert_eq!(run(&["vm1", "start", "begin", "-"], &sealed), (Some(0), String::new()));
    assert_eq!(run(&["vm1", "migrate", "begin", "-"], &xml(Some("h2"), SECRET)), (Some(0), String::new()));
    let (status, said) = run(&["vm1", "migrate", "begin", "-"], &sealed);
    assert!(status == Some(1) && said.contains("vm1 does not come to this host"), "{said}");
    std::fs::write(host.dir.join("no-incoming"), "").unwrap();
    let (status, said) = run(&["vm1", "migrate", "begin", "-"], "<domain/>");
    assert!(status == Some(1) && said.contains("takes no VMs now"), "{said}");
}
