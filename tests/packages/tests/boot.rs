//! A VM that has its port from the beginning: the unit is passed over while udev has not named the port, and started when
//! it has. Users, rule and unit are as a package lays them out; nothing was installed by a package's scripts.

use coms_lab::{AgentConfig, GuestConfig, Lab, LabConfig, System};
use coms_packages::{Result, must, packages, text, wait};

#[test]
fn the_agent_starts_when_udev_has_named_the_port() -> Result<()> {
    let p = packages()?;
    let root = std::env::temp_dir().join(format!("coms-boot-{}", std::process::id()));
    must(&["dpkg-deb", "--extract", &text(&p.agent_deb), &text(&root)])?;
    let bin = root.join("usr/bin");
    let lab = Lab::new(LabConfig {
        agent: Some(bin.join("coms-agent")),
        cli: Some(bin.join("coms")),
        ..LabConfig::default()
    })?;
    let config = GuestConfig {
        memory_mib: 512,
        system: System::Debian,
        agent: Some(AgentConfig::default()),
        ..GuestConfig::default()
    };
    let guest = lab.boot(config, "h1")?;
    wait("the unit to be started", 120, || {
        Ok(guest.exec(&["systemctl", "is-active", "coms-agent"])?.stdout.trim() == "active")
    })?;
    assert_eq!(guest.sh("stat -L -c %U /dev/virtio-ports/org.coms.agent.0")?, "coms-agent\n");
    assert_eq!(guest.sh("stat -c %U /proc/$(pidof coms-agent)")?, "coms-agent\n");
    std::fs::remove_dir_all(&root)?;
    Ok(lab.finish()?)
}
