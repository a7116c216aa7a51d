//! The configuration, against what it speaks of.

use super::Finding;
use super::domains::{Port, Seen};
use coms_broker::config::{Config, ConfigError, GuestPattern};
use coms_broker::control::GuestView;
use coms_protocol::PORT_NAME;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Where libvirt looks for what it needs to speak TLS.
pub const PKI: &str = "/etc/pki";
/// As libvirt names them, the client's and the authority's.
const TLS_FILES: [&str; 3] = ["CA/cacert.pem", "libvirt/clientcert.pem", "libvirt/private/clientkey.pem"];

pub fn config(file: &Path, loaded: &Result<Config, ConfigError>) -> Vec<Finding> {
    const CHECK: &str = "configuration";
    match loaded {
        Ok(config) => {
            let mut found = vec![Finding::ok(CHECK, format!("{} is usable", file.display()))];
            let unwise = config.unwise().into_iter();
            found
                .extend(unwise.map(|u| Finding::warn(CHECK, format!("{}: {}", u.key, u.leads_to), u.better)));
            found
        }
        Err(e) => {
            let remedy = match e {
                ConfigError::Read { source, .. } if source.kind() == ErrorKind::NotFound => {
                    "write it: the package's broker.toml explains every key; or name another: comsctl doctor --config FILE"
                }
                ConfigError::Read { .. } => "sudo comsctl doctor; it must be a readable file",
                ConfigError::Syntax { .. } | ConfigError::Value { .. } => {
                    "correct it: comsctl config check; then comsctl reload, or systemctl start coms-broker if it does not run"
                }
            };
            vec![Finding::fail(CHECK, e.to_string(), remedy)]
        }
    }
}

/// What libvirt here needs to reach a host by TLS.
pub fn certificates(config: &Config, pki: &Path) -> Vec<Finding> {
    const CHECK: &str = "certificate";
    let peers: Vec<&str> =
        config.peers.iter().filter(|p| p.is_reached_by_tls()).map(|p| p.name.as_str()).collect();
    if peers.is_empty() {
        return Vec::new();
    }
    let peers = peers.join(", ");
    TLS_FILES
        .iter()
        .map(|name| {
            let path = pki.join(name);
            let shown = path.display();
            match File::open(&path).and_then(|f| f.metadata()) {
                Ok(m) if m.len() > 0 => Finding::ok(CHECK, format!("{shown} is there")),
                Ok(_) => Finding::fail(
                    CHECK,
                    format!("{shown} is empty, and TLS to {peers} needs it"),
                    "make and install it: comsctl tls (docs/encryption.md), or by an authority of yours: https://libvirt.org/kbase/tlscerts.html",
                ),
                Err(e) if e.kind() == ErrorKind::PermissionDenied => Finding::warn(
                    CHECK,
                    format!("{shown} cannot be read by who runs this"),
                    "sudo comsctl doctor",
                ),
                Err(e) => Finding::fail(
                    CHECK,
                    format!("{shown}: {e}; TLS to {peers} needs it"),
                    "make and install it: comsctl tls (docs/encryption.md), or by an authority of yours: https://libvirt.org/kbase/tlscerts.html",
                ),
            }
        })
        .collect()
}

/// What keeps VMs away whose moves must be encrypted and are not.
pub const HOOK: &str = "/etc/libvirt/hooks/qemu.d/coms-broker";

pub fn hook(file: &Path) -> Finding {
    const CHECK: &str = "hook";
    let shown = file.display();
    let danger = "VMs whose moves must be encrypted can be moved here in the clear, past the brokers";
    let remedy = "install the package's hook again (chmod 755), then restart libvirtd: it looks for hooks when it starts";
    let runs = |m: &std::fs::Metadata| m.is_file() && m.mode() & 0o111 != 0;
    match std::fs::read_to_string(file).and_then(|text| Ok((text, std::fs::metadata(file)?))) {
        Ok((text, m)) if runs(&m) && text.contains("comsctl hook") => {
            Finding::ok(CHECK, format!("{shown} is there"))
        }
        Ok((_, m)) if !runs(&m) => Finding::warn(CHECK, format!("{shown} is no program: {danger}"), remedy),
        Ok(_) => Finding::warn(
            CHECK,
            format!("{shown} does not call comsctl hook, as of an older package: {danger}"),
            remedy,
        ),
        Err(e) if e.kind() == ErrorKind::PermissionDenied => {
            Finding::warn(CHECK, format!("{shown} cannot be read by who runs this"), "sudo comsctl doctor")
        }
        Err(e) => Finding::warn(CHECK, format!("{shown}: {e}; {danger}"), remedy),
    }
}

/// Of the capabilities in /proc/PID/status.
const CAP_NET_ADMIN: u64 = 1 << 12;

/// What a process may do, by its /proc/PID/status.
fn capabilities(status: &str) -> Option<u64> {
    let set = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    u64::from_str_radix(set.trim(), 16).ok()
}

/// The operator's network step, where one is named; `status` is the running broker's.
pub fn network_step(config: &Config, status: Option<&str>) -> Option<Finding> {
    const CHECK: &str = "network step";
    let program = config.network.as_ref()?.command.first()?;
    let is_ours = Path::new(program).file_name().is_some_and(|name| name == "stretch-vxlan");
    if is_ours && status.and_then(capabilities).is_some_and(|all| all & CAP_NET_ADMIN == 0) {
        return Some(Finding::fail(
            CHECK,
            format!("the broker runs without CAP_NET_ADMIN, and {program} can make no network"),
            "systemctl edit coms-broker: add what docs/network-step.md says, then restart it",
        ));
    }
    let runs = File::open(program).and_then(|f| f.metadata()).map(|m| m.is_file() && m.mode() & 0o111 != 0);
    Some(match runs {
        Ok(true) => Finding::ok(CHECK, format!("{program} is there")),
        Ok(false) => Finding::fail(
            CHECK,
            format!("{program} is no program: VMs that should move to another site are denied `unreachable`"),
            format!("chmod 755 {program}, or name another one in [network] step"),
        ),
        Err(e) => Finding::fail(
            CHECK,
            format!("{program}: {e}; VMs that should move to another site are denied `unreachable`"),
            "install it, or name another one in [network] step (docs/network-step.md)",
        ),
    })
}

/// VMs that may take part and cannot, and entries that speak of no VM.
pub fn ports(config: &Config, domains: &[Seen]) -> Vec<Finding> {
    let mut found = Vec::new();
    for pattern in &config.enabled {
        if !domains.iter().any(|d| pattern.matches(d.uuid, &d.name)) {
            found.push(no_vm(pattern, "matches no VM of this host"));
        }
    }
    for d in domains.iter().filter(|d| d.permitted || config.is_enabled(d.uuid, &d.name)) {
        let port = format!("<channel type='unix'><target type='virtio' name='{PORT_NAME}'/></channel>");
        let add = format!("virsh edit {}: add {port} to <devices>, then shut it down and start it", d.name);
        found.push(match &d.port {
            Port::Ours => Finding::ok("port", format!("{}: has it", d.name)),
            Port::Misnamed(name) => Finding::fail(
                "port",
                format!("{}: its channel is called `{name}`", d.name),
                format!("virsh edit {}: call it {PORT_NAME}, then shut it down and start it", d.name),
            ),
            Port::OtherKind => Finding::fail(
                "port",
                format!("{}: its port is no unix socket that libvirt binds", d.name),
                add.replace("add ", "make it "),
            ),
            Port::None => Finding::fail(
                "port",
                format!("{}: takes part and has no port", d.name),
                format!("comsctl enable {}", d.name),
            ),
        });
    }
    found
}

/// The same from the broker's view, which has only VMs with the port.
pub fn patterns(config: &Config, guests: &[GuestView]) -> Vec<Finding> {
    let unused = config.enabled.iter().filter(|p| !guests.iter().any(|g| p.matches(g.uuid, &g.name)));
    unused.map(|p| no_vm(p, "matches no VM with the port")).collect()
}

/// No failure: it may be on another host of the pool just now.
fn no_vm(pattern: &GuestPattern, why: &str) -> Finding {
    let shown = match pattern {
        GuestPattern::Uuid(uuid) => uuid.to_string(),
        GuestPattern::Name(name) => name.clone(),
    };
    Finding::warn(
        "guests.enabled",
        format!("`{shown}` {why}"),
        "fine if it is on another host of the pool; else compare with: virsh list --all",
    )
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;
    use coms_broker::storage::DomainStorage;
    use uuid::Uuid;

    const FILE: &str = "/etc/coms/broker.toml";
    const GOOD: &str = r#"
        [host]
        name = "h1"
        region = "north"
        [[hosts]]
        name = "h2"
        region = "south"
        libvirt = "qemu+tls://h2/system"
        [guests]
        enabled = ["web-*"]
        [aliases]
        key_file = "/etc/coms/alias.key"
    "#;

    fn judged(text: &str) -> Vec<Finding> {
        config(Path::new(FILE), &Config::parse(Path::new(FILE), text))
    }

    fn good() -> Config {
        Config::parse(Path::new(FILE), GOOD).unwrap()
    }

    #[test]
    fn the_hook_is_there_runs_and_asks() {
        use super::super::Status;
        use std::os::unix::fs::PermissionsExt;
        let file = std::env::temp_dir().join(format!("coms-doctor-hook-{}", std::process::id()));
        let mode = |bits| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(bits)).unwrap();
        assert_eq!(hook(&file).status, Status::Warn, "not there");
        std::fs::write(&file, "#!/bin/sh\nexec /usr/bin/comsctl hook -- \"$@\"\n").unwrap();
        mode(0o644);
        assert!(hook(&file).detail.contains("is no program"));
        mode(0o755);
        assert_eq!(hook(&file).status, Status::Ok);
        std::fs::write(&file, "#!/bin/sh\nexit 0\n").unwrap();
        assert!(hook(&file).detail.contains("older package"));
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    fn a_usual_file_is_one_line() {
        let found = judged(GOOD);
        assert_eq!((found.len(), found[0].status), (1, Status::Ok), "{found:?}");
    }

    #[test]
    fn a_file_that_is_missing_or_wrong_fails_and_says_where() {
        let none = Path::new("/nonexistent/broker.toml");
        let found = config(none, &Config::load(none));
        assert_eq!(found[0].status, Status::Fail);
        assert!(found[0].remedy.contains("--config"), "{found:?}");
        for (text, word) in
            [(GOOD.replace("\"h2\"", "\"h1\""), "hosts[0].name"), (GOOD.replace("[host]", "[host"), FILE)]
        {
            let found = judged(&text);
            assert_eq!(found[0].status, Status::Fail);
            assert!(found[0].detail.contains(word), "{found:?}");
        }
    }

    #[test]
    fn tcp_recorded_links_and_unwise_limits_warn() {
        for (text, key) in [
            (GOOD.replace("+tls", "+tcp"), "hosts[0].libvirt"),
            (GOOD.to_owned() + "[debug]\nrecord_links = \"/l\"", "debug.record_links"),
            (GOOD.to_owned() + "[limits]\ncooldown_s = 1", "limits.cooldown_s"),
        ] {
            let found = judged(&text);
            assert!(
                found.iter().any(|f| f.status == Status::Warn && f.detail.starts_with(key)),
                "{key}: {found:?}"
            );
        }
    }

    #[test]
    fn tls_needs_three_files_with_content() {
        let pki = std::env::temp_dir().join(format!("coms-doctor-pki-{}", std::process::id()));
        let failed = |c: &Config| certificates(c, &pki).iter().filter(|f| f.status == Status::Fail).count();
        assert_eq!(failed(&good()), 3);
        for name in TLS_FILES {
            let path = pki.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, if name.contains("key") { "" } else { "pem" }).unwrap();
        }
        assert_eq!(failed(&good()), 1, "the key is empty");
        let tcp = Config::parse(Path::new(FILE), &GOOD.replace("+tls", "+tcp")).unwrap();
        assert_eq!(certificates(&tcp, &pki), []);
        let elsewhere = GOOD.replace("h2/system", "h2/system?pkipath=/srv/pki");
        assert_eq!(certificates(&Config::parse(Path::new(FILE), &elsewhere).unwrap(), &pki), []);
        std::fs::remove_dir_all(&pki).unwrap();
    }

    #[test]
    fn a_network_step_must_be_a_program() {
        assert_eq!(network_step(&good(), None), None);
        for (program, status) in
            [("/bin/sh", Status::Ok), ("/etc/passwd", Status::Fail), ("/no/such/step", Status::Fail)]
        {
            let text = format!("{GOOD}[network]\nstep = [\"{program}\"]\nbridges = [\"br0\"]");
            let found = network_step(&Config::parse(Path::new(FILE), &text).unwrap(), None).unwrap();
            assert_eq!(found.status, status, "{found:?}");
        }
    }

    #[test]
    fn the_shipped_step_needs_a_right_that_the_unit_does_not_have() {
        let step = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/network/stretch-vxlan");
        let with = |step: &str| {
            let network = format!("[network]\nstep = [\"{step}\"]\nbridges = [\"br0\"]\n[guests]");
            let text = GOOD.replacen("[guests]", &network, 1);
            Config::parse(Path::new(FILE), &text).unwrap()
        };
        let status = |set: &str| format!("Name:\tcoms-broker\nCapEff:\t{set}\nCapBnd:\t000001ffffffffff\n");
        let judged = |step: &str, set: &str| network_step(&with(step), Some(&status(set))).unwrap().status;
        assert_eq!(judged(step, "0000000000000002"), Status::Fail);
        assert_eq!(judged(step, "0000000000001002"), Status::Ok);
        assert_eq!(
            judged("/bin/true", "0000000000000002"),
            Status::Ok,
            "another step may need another right"
        );
    }

    #[test]
    fn a_vm_that_takes_part_needs_the_port_and_each_entry_a_vm() {
        let seen = |name: &str, port| Seen {
            name: name.into(),
            uuid: Uuid::nil(),
            permitted: false,
            port,
            storage: DomainStorage::default(),
        };
        for (port, expected) in [
            (Port::Ours, Status::Ok),
            (Port::None, Status::Fail),
            (Port::OtherKind, Status::Fail),
            (Port::Misnamed("org.coms".into()), Status::Fail),
        ] {
            let found = ports(&good(), &[seen("web-1", port), seen("db", Port::None)]);
            assert_eq!((found.len(), found[0].check, found[0].status), (1, "port", expected), "{found:?}");
        }
        let found = ports(&good(), &[seen("db", Port::Ours)]);
        assert_eq!((found[0].check, found[0].status), ("guests.enabled", Status::Warn));
    }

    #[test]
    fn without_libvirt_the_brokers_guests_tell_of_entries_without_a_vm() {
        assert_eq!(patterns(&good(), &[])[0].status, Status::Warn);
    }
}
