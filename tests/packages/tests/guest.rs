//! The agent's package in a Debian guest with systemd: installed where there is no port, started by the port that is
//! plugged in, moved, removed, purged.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use coms_lab::{Guest, GuestConfig, GuestFile, System};
use coms_packages::hosts::Hosts;
use coms_packages::{Packages, Result, as_root, packages, page, wait};
use coms_story::{coms, coms_within};
use std::path::Path;
use std::time::Duration;

/// libvirt attaches to it by itself. A VM mostly has it, and with it the controller that hot-plugging needs.
const QGA_PORT: &str = "org.qemu.guest_agent.0";

/// Not where a customer would have it: purging is to leave nothing.
const COUNTRIES: &str = "/root/countries.mmdb";

fn debian(packages: &Packages, name: &str) -> Result<GuestConfig> {
    let file = |deb: &Path| -> Result<GuestFile> {
        let name = deb.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(GuestFile { path: format!("/root/{name}"), mode: 0o644, bytes: std::fs::read(deb)? })
    };
    Ok(GuestConfig {
        name: name.into(),
        memory_mib: 512,
        system: System::Debian,
        persistent: true,
        port: false,
        more_ports: vec![QGA_PORT.into()],
        files: vec![
            file(&packages.agent_deb)?,
            file(&packages.plugins_deb)?,
            coms_story::geo::database(COUNTRIES)?,
        ],
        ..GuestConfig::default()
    })
}

/// A line of README's, typed by root in his home.
fn typed(guest: &Guest, line: &str) -> Result<String> {
    println!("# {line}");
    let line = format!("cd /root; {}", as_root(line));
    let env = ["env", "HOME=/root", "DEBIAN_FRONTEND=noninteractive", "sh", "-c", &line];
    Ok(guest.exec_with(&env, "", Duration::from_secs(180))?.success()?)
}

/// Every file of the guest, but what keeps books of packages and of the machine's running.
fn files(guest: &Guest) -> Result<Vec<String>> {
    let list = guest.exec_with(&["find", "/", "-xdev"], "", Duration::from_secs(120))?.success()?;
    const BOOKS: [&str; 10] = [
        "/var/lib/dpkg/",
        "/var/lib/apt/",
        "/var/cache/",
        "/var/log/",
        "/var/lib/systemd/",
        "/tmp",
        "/var/tmp",
        "/etc/.pwd.lock",
        "/proc",
        "/root/",
    ];
    let kept = |l: &&str| {
        let of_coms = l.contains("coms") && !l.starts_with("/root/") && !l.starts_with("/var/lib/dpkg/");
        of_coms || !(BOOKS.iter().any(|b| l.starts_with(b)) || l.ends_with('-'))
    };
    let mut all: Vec<String> = list.lines().filter(kept).map(str::to_owned).collect();
    all.sort();
    Ok(all)
}

#[test]
fn installed_without_a_port_plugged_in_moved_removed_and_purged() -> Result<()> {
    let p = packages()?;
    let hosts = Hosts::up(&p)?;
    let guest = hosts.lab.boot(debian(&p, "web-1")?, "host1")?;
    // What a first boot still brings.
    wait("the guest to have booted", 120, || {
        let state = guest.exec(&["systemctl", "is-system-running"])?.stdout;
        Ok(["running", "degraded"].contains(&state.trim()))
    })?;
    let before = files(&guest)?;
    let failed_before = guest.sh("systemctl --failed --no-legend --plain | sort")?;

    let readme = page("I own a VM")?;
    let (install, rest) = readme.lines.split_first().ok_or("no lines")?;
    let [asked, clients, plugins] = readme.more.as_slice() else {
        return Err(format!("README's page has other blocks now: {:?}", readme.more).into());
    };
    let said = typed(&guest, install)?;
    println!("{said}");
    without_the_port_it_is_harmless(&guest, &failed_before)?;
    plugged_in_it_starts(&hosts, &guest)?;
    for line in rest {
        println!("{}", typed(&guest, line)?);
    }
    its_customer_moved_it(&hosts, &guest)?;
    what_it_is(&guest)?;
    it_counts_its_clients_and_captures_where_its_unit_is_let(&guest, clients)?;
    nothing_is_plugged_while_it_moves(&hosts, &guest)?;
    its_configuration_stays(&guest, install)?;
    unplugged_and_plugged_in_again(&hosts, &guest)?;
    asked_and_postponed(&hosts, &guest, asked)?;
    plugins_measure(&guest, plugins)?;

    // What needs the agent goes with it.
    typed(&guest, "apt-get remove -y coms-agent")?;
    assert_eq!(guest.exec(&["pidof", "coms-plugins"])?.status, 1, "it does not run any more");
    assert_eq!(guest.sh("grep '^# mine' /etc/coms/agent.toml")?, "# mine\n");
    assert_eq!(guest.exec(&["pidof", "coms-agent"])?.status, 1, "it does not run any more");
    typed(&guest, "rm /etc/coms/plugins/*; apt-get purge -y coms-agent coms-plugins")?;
    let after = files(&guest)?;
    let left: Vec<&String> = after.iter().filter(|f| !before.contains(f)).collect();
    // Empty directories that the image had for others' use.
    let of_image = |f: &str| ["/etc/coms", "/var/lib/coms"].contains(&f);
    let gone: Vec<&String> = before.iter().filter(|f| !after.contains(f) && !of_image(f)).collect();
    assert!(left.is_empty() && gone.is_empty(), "left: {left:#?}; gone: {gone:#?}");
    let names = guest
        .sh("getent passwd coms-agent coms-plugins coms-probe; getent group coms coms-admin coms-agent coms-plugins coms-probe; ls -d /run/coms*; true")?;
    assert_eq!(names, "", "users and groups are gone, too");
    assert_eq!(guest.sh("systemctl --failed --no-legend --plain | sort")?, failed_before);

    shut_off(&hosts, &guest)?;
    hosts.finish()
}

fn without_the_port_it_is_harmless(guest: &Guest, failed_before: &str) -> Result<()> {
    assert_eq!(guest.exec(&["systemctl", "is-active", "coms-agent"])?.stdout.trim(), "inactive");
    assert_eq!(guest.exec(&["systemctl", "is-enabled", "coms-agent"])?.stdout.trim(), "enabled");
    assert_eq!(guest.exec(&["pidof", "coms-agent"])?.status, 1, "nothing runs");
    assert_eq!(guest.sh("systemctl --failed --no-legend --plain | sort")?, failed_before);
    assert_eq!(coms_within(guest, &["status"], Duration::from_secs(20))?.0, 3, "and `coms` says so");
    Ok(())
}

fn plugged_in_it_starts(hosts: &Hosts, guest: &Guest) -> Result<()> {
    let (status, said) = hosts.comsctl(0, &["enable", guest.name()])?;
    println!("comsctl enable: {said}");
    assert_eq!(status, 0, "{said}");
    for how in [&["dumpxml"][..], &["dumpxml", "--inactive"]] {
        let xml = hosts.host(0).virsh(&[how, &[guest.name()]].concat())?;
        assert!(xml.contains("org.coms.agent.0") && xml.contains("urn:coms:part:1"), "{how:?}: {xml}");
    }
    wait("the unit to start by itself", 60, || {
        Ok(guest.exec(&["systemctl", "is-active", "coms-agent"])?.stdout.trim() == "active")
    })?;
    wait("the broker to see the agent", 60, || {
        let seen = hosts.seen(0, guest)?;
        Ok(seen["enabled"] == true
            && seen["agent"].is_string()
            && coms(guest, &["status"])?["connected"] == true)
    })
    .map_err(|e| {
        let journal =
            guest.sh("journalctl --no-pager -u coms-agent; ls -l /dev/virtio-ports/ /dev/vport*; true");
        format!("{e}\n{}", journal.unwrap_or_default()).into()
    })
}

/// README's lines for those who want to be asked. What they leave behind is taken back: the windows would put off other
/// moves.
fn asked_and_postponed(hosts: &Hosts, guest: &Guest, lines: &[String]) -> Result<()> {
    for line in lines {
        if line.contains("ID") {
            // Whatever time it is, so that the move waits.
            typed(guest, "coms window close --for 10m")?;
            let (status, said) =
                hosts.comsctl(0, &["migrate", guest.name(), "--notice", "10m", "--no-wait"])?;
            assert_eq!(status, 0, "{said}");
            let mut id = String::new();
            wait("the announced move", 30, || {
                let status = coms(guest, &["status"])?;
                status["announced"]["migration"].as_str().unwrap_or_default().clone_into(&mut id);
                Ok(!id.is_empty())
            })?;
            println!("{}", typed(guest, &line.replace("ID", &id))?);
            assert_eq!(guest.current_host()?.name(), "host1");
            let (status, said) = hosts.comsctl(0, &["cancel", &id])?;
            assert_eq!(status, 0, "{said}");
        } else {
            println!("{}", typed(guest, line)?);
        }
    }
    let status = coms(guest, &["status"])?;
    let scheduled = status["scheduled"][0]["scheduled"].to_string();
    println!("{}", typed(guest, &format!("coms cancel --scheduled {scheduled}; coms window reset"))?);
    wait("nothing to be announced any more", 30, || Ok(coms(guest, &["status"])?["announced"].is_null()))
}

/// README's lines for those who measure for themselves; and a Nagios check beside.
fn plugins_measure(guest: &Guest, lines: &[String]) -> Result<()> {
    let append = |file: &str, text: &str| -> Result<()> {
        guest.exec_with(&["sh", "-c", &format!("cat >>{file}")], text, Duration::from_secs(20))?.success()?;
        Ok(())
    };
    let mut to_add = String::new();
    for line in lines {
        if let Some(file) = as_root(line).strip_prefix("editor ") {
            let file = file.trim();
            append(file, &said_to_add(&to_add, file).ok_or("nothing was said to be added")?)?;
            if file.ends_with("plugins.toml") {
                append(file, CHECK)?;
                append("/etc/coms/plugins/check", "#!/bin/sh\necho \"OK - $(id -un)|time=7ms\"\n")?;
                guest.sh("chmod 755 /etc/coms/plugins/check")?;
            } else {
                append(file, JUDGED)?;
            }
            continue;
        }
        let said = typed(guest, line)?;
        println!("{said}");
        if line.contains("plugin new") {
            to_add = said;
        }
    }
    let is = |what: &str| guest.sh(&format!("systemctl show -P {what} coms-plugins"));
    assert_eq!((is("ActiveState")?.trim(), is("UnitFileState")?.trim()), ("active", "enabled"));
    wait("the agent to hear both plugins' measurements", 60, || {
        let status = coms(guest, &["status"])?;
        let heard = |name: &str| {
            let all = status["workloads"].as_array();
            let one = all.and_then(|all| all.iter().find(|w| w["workload"] == name));
            one.is_some_and(|w| w["samples"].as_u64() > Some(2))
        };
        Ok(heard("mine") && heard("check"))
    })
    .map_err(|e| {
        let more = "coms status; coms plugin list; journalctl --no-pager -n 40 -u coms-plugins -u coms-agent";
        format!("{e}\n{}", guest.sh(more).unwrap_or_default())
    })?;
    println!("{}", guest.sh("coms status; coms plugin list")?);
    let memory =
        guest.sh("grep -E '^(Rss|Pss):' /proc/$(systemctl show -P MainPID coms-plugins)/smaps_rollup")?;
    println!("accel=tcg; coms-plugins in the systemd guest: {}", memory.replace('\n', " "));
    Ok(())
}

const CHECK: &str = "\n[[plugin]]\nname = \"check\"\nkind = \"nagios\"\ncommand = [\"/etc/coms/plugins/check\"]\n\
    interval_ms = 1000\n";
const JUDGED: &str = "\n[[workload]]\nname = \"check\"\nprobe = { plugin = \"check\" }\ninterval_ms = 1000\nslower_than_factor = 2.0\n";

/// What `coms plugin new` said is to be added to this file.
fn said_to_add(said: &str, file: &str) -> Option<String> {
    let (_, rest) = said.split_once(&format!("{file}:\n"))?;
    let block = rest.split("\n\n").next()?;
    Some(std::iter::once("\n".to_owned()).chain(block.lines().map(|l| format!("{}\n", l.trim()))).collect())
}

/// README's page asked for a move and waited.
fn its_customer_moved_it(hosts: &Hosts, guest: &Guest) -> Result<()> {
    assert_eq!(guest.current_host()?.name(), "host2");
    let history = coms(guest, &["history"])?;
    println!("accel=tcg; coms history: {history}");
    assert!(history.to_string().contains("completed"), "{history}");
    // The permission went along; host2's broker has no list either.
    wait("the other broker to see it take part", 30, || {
        let seen = hosts.seen(1, guest)?;
        Ok(seen["enabled"] == true && seen["agent"].is_string())
    })
}

fn what_it_is(guest: &Guest) -> Result<()> {
    let pid = guest.sh("systemctl show -P MainPID coms-agent")?;
    let pid = pid.trim();
    let status = guest.sh(&format!("cat /proc/{pid}/status"))?;
    let field =
        |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().trim().to_owned();
    for set in ["CapEff:", "CapPrm:", "CapBnd:", "CapAmb:"] {
        assert_eq!(u64::from_str_radix(&field(set), 16)?, 0, "{set} {status}");
    }
    assert_eq!(guest.sh(&format!("stat -c %U /proc/{pid}"))?, "coms-agent\n");
    assert_eq!(guest.sh("stat -L -c '%U %a' /dev/virtio-ports/org.coms.agent.0")?, "coms-agent 600\n");
    let memory = guest.sh(&format!("grep -E '^(Rss|Pss):' /proc/{pid}/smaps_rollup"))?;
    let unit = guest.sh("systemctl show -P MemoryCurrent coms-agent; systemd-analyze security --no-pager coms-agent | tail -n 1")?;
    println!("accel=tcg; agent in the systemd guest: {}; unit: {}", memory.replace('\n', " "), unit.trim());
    Ok(())
}

/// README's line for those who follow their clients, and agent.toml's for a capture of short connections, typed as they are
/// there; taken back afterwards.
fn it_counts_its_clients_and_captures_where_its_unit_is_let(
    guest: &Guest,
    lines_of_readme: &[String],
) -> Result<()> {
    let toml = guest.sh("cat /etc/coms/agent.toml")?;
    let said = toml.split_once("systemctl edit coms-agent, and add:\n").ok_or("no lines for the unit")?.1;
    let lines: Vec<&str> = said.lines().map_while(|l| l.strip_prefix("#   ")).collect();
    assert!(lines.len() >= 3, "{lines:?}");
    let why_not = |restart: &str| -> Result<String> {
        guest.sh(restart)?;
        // The agent comes back to its host, and has looked at its clients.
        wait("the agent to count clients", 120, || {
            Ok(coms_within(guest, &["clients"], Duration::from_secs(20))?.0 == 0
                && coms(guest, &["clients"])?["connections"].is_u64())
        })?;
        Ok(coms(guest, &["clients"])?["capture_error"].as_str().unwrap_or_default().to_owned())
    };
    // Who reads the database is the agent's user, who may not look into root's home.
    guest.sh(&format!(
        "cp /etc/coms/agent.toml /root/agent.toml; mv {COUNTRIES} /var/lib/coms/countries.mmdb; \
         sed -i 's|^\\[clients\\]$|&\\ndatabase = \"/var/lib/coms/countries.mmdb\"\\ncapture = true|' /etc/coms/agent.toml"
    ))?;
    let without = why_not("systemctl restart coms-agent")?;
    assert!(without.contains("CAP_NET_RAW"), "{without:?}");
    for line in lines_of_readme {
        println!("{}", typed(guest, line)?);
    }
    let place = "/etc/systemd/system/coms-agent.service.d";
    let text = lines.join("\\n");
    let with = why_not(&format!(
        "mkdir -p {place}; printf '{text}\\n' >{place}/override.conf; systemctl daemon-reload; systemctl restart coms-agent"
    ))?;
    assert_eq!(with, "");
    guest.sh(&format!(
        "cp /root/agent.toml /etc/coms/agent.toml; rm -r {place} /var/lib/coms/countries.mmdb; systemctl daemon-reload; \
         systemctl restart coms-agent"
    ))?;
    wait("the agent to talk again", 60, || Ok(coms(guest, &["status"])?["connected"] == true))
}

fn nothing_is_plugged_while_it_moves(hosts: &Hosts, guest: &Guest) -> Result<()> {
    // Slow enough to be met on its way.
    hosts.host(1).set_rate_mbit(Some(60))?;
    let (status, begun) = hosts.comsctl(1, &["migrate", guest.name(), "--no-wait"])?;
    assert_eq!(status, 0, "{begun}");
    wait("the move to copy", 60, || {
        let (_, moves) = hosts.comsctl(1, &["migrations"])?;
        Ok(moves.as_array().and_then(|m| m.last()).is_some_and(|m| m["state"] == "copying"))
    })?;
    for what in ["disable", "enable"] {
        let (status, said) = hosts.comsctl(1, &[what, guest.name()])?;
        println!("comsctl {what}, while it is being moved: {said}");
        assert!(status == 1 && said.to_string().contains("being moved"), "{what}: {status} {said}");
    }
    hosts.host(1).set_rate_mbit(None)?;
    wait("it to arrive", 120, || Ok(guest.current_host().is_ok_and(|h| h.name() == "host1")))?;
    wait("its agent to know", 60, || Ok(coms(guest, &["status"])?["connected"] == true))
}

/// Installed again, as an upgrade does.
fn its_configuration_stays(guest: &Guest, install: &str) -> Result<()> {
    guest.sh("echo '# mine' >>/etc/coms/agent.toml")?;
    let pid = guest.sh("systemctl show -P MainPID coms-agent")?;
    typed(guest, &install.replace("install", "install --reinstall"))?;
    assert_eq!(guest.sh("tail -n 1 /etc/coms/agent.toml")?, "# mine\n");
    wait("the new agent to run", 30, || {
        let now = guest.sh("systemctl show -P MainPID coms-agent")?;
        Ok(now != pid && now.trim() != "0" && coms(guest, &["status"])?["connected"] == true)
    })
}

fn unplugged_and_plugged_in_again(hosts: &Hosts, guest: &Guest) -> Result<()> {
    let (status, said) = hosts.comsctl(0, &["disable", guest.name()])?;
    assert_eq!(status, 0, "{said}");
    for how in [&["dumpxml"][..], &["dumpxml", "--inactive"]] {
        let xml = hosts.host(0).virsh(&[how, &[guest.name()]].concat())?;
        assert!(!xml.contains("org.coms.agent.0") && !xml.contains("urn:coms:part:1"), "{how:?}: {xml}");
    }
    wait("the port to go", 30, || {
        Ok(guest.exec(&["test", "-e", "/dev/virtio-ports/org.coms.agent.0"])?.status == 1)
    })?;
    assert!(hosts.seen(0, guest)?.is_null());
    let (status, said) = hosts.comsctl(0, &["enable", guest.name()])?;
    assert_eq!(status, 0, "{said}");
    wait("the agent to talk again", 60, || {
        Ok(hosts.seen(0, guest)?["agent"].is_string() && coms(guest, &["status"])?["connected"] == true)
    })
}

fn shut_off(hosts: &Hosts, guest: &Guest) -> Result<()> {
    let host = hosts.host(0);
    host.virsh(&["destroy", guest.name()])?;
    wait("the broker to see it shut off", 20, || Ok(hosts.seen(0, guest)?.is_null()))?;
    let has_port = || -> Result<bool> {
        Ok(host.virsh(&["dumpxml", "--inactive", guest.name()])?.contains("org.coms.agent.0"))
    };
    assert!(has_port()?);
    for (what, there) in [("disable", false), ("enable", true)] {
        let (status, said) = hosts.comsctl(0, &[what, guest.name()])?;
        println!("comsctl {what}, shut off: {said}");
        assert_eq!((status, has_port()?), (0, there), "{what}: {said}");
    }
    host.virsh(&["start", guest.name()])?;
    wait("the broker to see it with its port", 30, || Ok(hosts.seen(0, guest)?["enabled"] == true))?;
    host.virsh(&["destroy", guest.name()])?;
    host.virsh(&["undefine", guest.name()])?;
    Ok(())
}
