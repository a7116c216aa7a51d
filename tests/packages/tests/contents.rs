//! What is in the packages: every promised file, nothing of this machine, nothing that lintian or rpmlint call an error,
//! and the same bytes when they are made again.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use coms_packages::{Packages, Result, must, packages, run, text};
use serde_json::Value;
use std::path::Path;

/// What the issue promises of each, however the distribution names the place.
const AGENT: [&str; 17] = [
    "/usr/bin/coms",
    "/usr/bin/coms-agent",
    "/etc/coms/agent.toml",
    "systemd/system/coms-agent.service",
    "udev/rules.d/60-coms-agent.rules",
    "/usr/lib/sysusers.d/coms-agent.conf",
    "/usr/share/man/man1/coms.1.gz",
    "/usr/share/man/man1/coms-migrate.1.gz",
    "/usr/share/man/man5/coms-agent.toml.5.gz",
    "/usr/share/man/man8/coms-agent.8.gz",
    "/usr/share/bash-completion/completions/coms",
    "/_coms",
    "/usr/share/fish/vendor_completions.d/coms.fish",
    "/usr/share/doc/coms-agent/examples/hooks/tell-syslog",
    "/usr/share/doc/coms-agent/licences.txt.gz",
    "/usr/share/doc/coms-agent/geolocation.md",
    "/usr/share/doc/coms-agent/coms-agent.cdx.json.gz",
];
const PLUGINS: [&str; 18] = [
    "/usr/bin/coms-plugins",
    "/etc/coms/plugins.toml",
    "systemd/system/coms-plugins.service",
    "/usr/lib/sysusers.d/coms-plugins.conf",
    "/usr/share/man/man5/coms-plugins.toml.5.gz",
    "/usr/share/man/man8/coms-plugins.8.gz",
    "/usr/share/man/man8/coms-plugins-test.8.gz",
    "/usr/share/bash-completion/completions/coms-plugins",
    "/_coms-plugins",
    "/usr/share/fish/vendor_completions.d/coms-plugins.fish",
    "/usr/share/coms-plugins/plugin.schema.json",
    "/usr/share/doc/coms-plugins/PLUGINS.md",
    "/usr/share/doc/coms-plugins/examples/good.sh",
    "/usr/share/doc/coms-plugins/examples/good.py",
    "/usr/share/doc/coms-plugins/examples/postgres.py",
    "/usr/share/doc/coms-plugins/examples/nginx.py",
    "/usr/share/doc/coms-plugins/licences.txt.gz",
    "/usr/share/doc/coms-plugins/coms-plugins.cdx.json.gz",
];
const BROKER: [&str; 18] = [
    "/usr/bin/coms-broker",
    "/usr/bin/comsctl",
    "/etc/coms/broker.toml",
    "/etc/libvirt/hooks/qemu.d/coms-broker",
    "/usr/share/coms-broker/channel.xml",
    "/usr/libexec/coms/stretch-vxlan",
    "/usr/share/doc/coms-broker/network-step.md",
    "/usr/share/doc/coms-broker/encryption.md",
    "systemd/system/coms-broker.service",
    "/usr/lib/sysusers.d/coms-broker.conf",
    "/usr/lib/tmpfiles.d/coms-broker.conf",
    "/usr/share/man/man5/coms-broker.toml.5.gz",
    "/usr/share/man/man8/coms-broker.8.gz",
    "/usr/share/man/man8/comsctl-migrate.8.gz",
    "/usr/share/bash-completion/completions/comsctl",
    "/_comsctl",
    "/usr/share/fish/vendor_completions.d/comsctl.fish",
    "/usr/share/doc/coms-broker/licences.txt.gz",
    "/usr/share/doc/coms-broker/coms-broker.cdx.json.gz",
];
/// What the agent may be, in bytes.
const AGENT_LIMIT: u64 = 3_000_000;

fn all_there(listed: &str, wanted: &[&str], what: &Path) {
    for file in wanted {
        assert!(listed.lines().any(|l| l.ends_with(file)), "{} lacks {file}:\n{listed}", what.display());
    }
}

#[test]
fn every_promised_file_is_there_and_only_roots() -> Result<()> {
    let p = packages()?;
    let wanted = [&AGENT[..], &PLUGINS, &BROKER];
    for (deb, wanted) in p.debs().into_iter().zip(wanted) {
        let listed = must(&["dpkg-deb", "--contents", &text(deb)])?;
        all_there(&listed, wanted, deb);
        assert!(listed.lines().all(|l| l.contains(" root/root ")), "{listed}");
        let conffiles = must(&["dpkg-deb", "--info", &text(deb), "conffiles"])?;
        assert!(conffiles.lines().any(|l| l.starts_with("/etc/coms/")), "{conffiles}");
    }
    for (rpm, wanted) in p.rpms().into_iter().zip(wanted) {
        all_there(&must(&["rpm", "-qpl", &text(rpm)])?, wanted, rpm);
        let config = must(&["rpm", "-qpc", &text(rpm)])?;
        assert!(config.contains("/etc/coms/"), "{config}");
    }
    Ok(())
}

#[test]
fn guests_programs_are_static_the_agent_is_small_and_nothing_names_this_machine() -> Result<()> {
    let p = packages()?;
    let root = std::env::temp_dir().join(format!("coms-contents-{}", std::process::id()));
    for deb in p.debs() {
        must(&["dpkg-deb", "--extract", &text(deb), &text(&root)])?;
    }
    let agent = root.join("usr/bin/coms-agent");
    let size = std::fs::metadata(&agent)?.len();
    println!("coms-agent: {size} bytes");
    assert!(size < AGENT_LIMIT, "coms-agent has {size} bytes");
    for name in ["coms-agent", "coms", "coms-plugins"] {
        let headers = must(&["readelf", "--program-headers", &text(&root.join("usr/bin").join(name))])?;
        assert!(!headers.contains("INTERP"), "{name} is not static:\n{headers}");
    }
    let here = coms_lab::workspace_root().display().to_string();
    for name in ["coms-agent", "coms", "coms-plugins", "coms-broker", "comsctl"] {
        let bytes = std::fs::read(root.join("usr/bin").join(name))?;
        for word in [here.as_str(), "/.cargo/registry"] {
            assert!(!bytes.windows(word.len()).any(|w| w == word.as_bytes()), "{name} names {word}");
        }
    }
    Ok(std::fs::remove_dir_all(&root)?)
}

#[test]
fn the_bill_of_materials_names_every_crate_with_its_licence() -> Result<()> {
    let p = packages()?;
    let known = [
        ("coms-agent", ["tokio", "postcard"]),
        ("coms-plugins", ["tokio", "hdrhistogram"]),
        ("coms-broker", ["virt", "blake3"]),
    ];
    for (package, crates) in known {
        let bom: Value =
            serde_json::from_str(&std::fs::read_to_string(p.dir.join(format!("{package}.cdx.json")))?)?;
        assert_eq!(
            (&bom["bomFormat"], &bom["metadata"]["component"]["name"]),
            (&"CycloneDX".into(), &package.into())
        );
        let all = bom["components"].as_array().ok_or("no components")?;
        for wanted in crates {
            let found =
                all.iter().find(|c| c["name"] == wanted).ok_or_else(|| format!("{package}: {wanted}"))?;
            assert_eq!(found["hashes"][0]["content"].as_str().map(str::len), Some(64), "{found}");
            assert!(found["licenses"][0]["expression"].as_str().is_some_and(|l| !l.is_empty()), "{found}");
        }
        println!("{package}: {} crates", all.len());
    }
    let sums = must(&["sh", "-c", &format!("cd '{}' && sha256sum -c SHA256SUMS", p.dir.display())])?;
    assert_eq!(sums.lines().filter(|l| l.ends_with(": OK")).count(), 9, "{sums}");
    Ok(())
}

#[test]
fn lintian_and_rpmlint_find_no_error_and_no_warning_that_is_not_explained() -> Result<()> {
    let p = packages()?;
    let argv = ["lintian", "--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0"];
    let said = run(&[&argv[..], &p.debs().map(|p| text(p)).each_ref().map(String::as_str)].concat())?;
    println!("{}", said.out);
    assert_eq!(said.status, 0, "{}{}", said.out, said.err);
    let config = text(&coms_lab::workspace_root().join("packaging/rpm/rpmlint.toml"));
    let said = run(&[
        &["rpmlint", "--config", &config],
        &p.rpms().map(|p| text(p)).each_ref().map(String::as_str)[..],
    ]
    .concat())?;
    println!("{}", said.out);
    assert!(said.status == 0 && said.out.contains("0 errors, 0 warnings"), "{}{}", said.out, said.err);
    Ok(())
}

#[test]
fn made_again_they_are_the_same_bytes() -> Result<()> {
    let p = packages()?;
    let again = coms_lab::workspace_root().join("target/packages/again");
    // The moment that they bear: of their commit, which need not be the last one here.
    let bom: Value = serde_json::from_str(&std::fs::read_to_string(p.dir.join("coms-agent.cdx.json"))?)?;
    let made_at = must(&["date", "+%s", "-d", bom["metadata"]["timestamp"].as_str().ok_or("no timestamp")?])?;
    let epoch = format!("SOURCE_DATE_EPOCH={}", made_at.trim());
    let script = text(&coms_lab::workspace_root().join("packaging/make-packages.sh"));
    must(&["env", &epoch, "bash", &script, &text(&again)])?;
    let q = Packages::in_dir(&again)?;
    let sums = [p.dir.join("SHA256SUMS"), q.dir.join("SHA256SUMS")];
    let first = p.debs().into_iter().chain(p.rpms()).chain([&sums[0]]);
    let second = q.debs().into_iter().chain(q.rpms()).chain([&sums[1]]);
    for (a, b) in first.zip(second) {
        assert!(std::fs::read(a)? == std::fs::read(b)?, "{} and {} differ", a.display(), b.display());
    }
    Ok(std::fs::remove_dir_all(&again)?)
}

#[test]
fn the_units_leave_little_open() -> Result<()> {
    // What runs plugins cannot be shut in: they may be set-uid, and nearly all that is counted here would keep them from
    // that (its unit says it all). So this only sees that it does not get worse.
    for (unit, limit) in [("coms-agent", 3.0), ("coms-broker", 4.0), ("coms-plugins", 9.0)] {
        let file = text(&coms_lab::workspace_root().join(format!("packaging/systemd/{unit}.service")));
        let said = run(&["systemd-analyze", "security", "--offline=true", "--no-pager", &file])?;
        let last = said.out.lines().rev().find(|l| l.contains("Overall exposure level"));
        let last = last.ok_or_else(|| format!("{unit}: {}{}", said.out, said.err))?;
        println!("{last}");
        let score = last.split_whitespace().find_map(|w| w.parse::<f64>().ok());
        assert!(score.is_some_and(|s| s < limit), "{last}; the limit is {limit}\n{}", said.out);
    }
    Ok(())
}
