//! The broker's package on two clean Debian machines with a systemd and a libvirtd of their own: README's page for
//! operators, line by line, to a real migration; libvirt's hook; the page for encryption; removed and purged.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod encryption;

use coms_lab::{GuestConfig, build_agent};
use coms_packages::machine::Machine;
use coms_packages::pool::Pool;
use coms_packages::{Page, Result, as_root, packages, page, wait};

#[test]
fn the_operators_page_ends_in_a_migration() -> Result<()> {
    let p = packages()?;
    let page = page("I run hosts")?;
    let pool = Pool::up()?;
    let deb = p.broker_deb.file_name().unwrap().to_string_lossy().into_owned();
    let installs =
        page.lines.iter().position(|l| l.contains("apt install")).ok_or("README installs nothing")?;
    let moves =
        page.lines.iter().position(|l| l.contains("comsctl migrate")).ok_or("README moves nothing")?;
    let enables =
        page.lines.iter().position(|l| l.contains("comsctl enable")).ok_or("README enables nothing")?;
    assert!(installs < enables && enables < moves);
    for i in 0..2 {
        pool.machine(i).copy_in(&p.broker_deb, &format!("/root/{deb}"))?;
        for line in &page.lines[..enables] {
            println!("{}", pool.typed(i, &page, line)?);
        }
        assert_eq!(
            pool.machine(i).must("systemctl is-active coms-broker; systemctl is-enabled coms-broker")?,
            "active\nenabled\n"
        );
    }
    println!("{}", pool.machine(0).must("systemd-analyze security --no-pager coms-broker | tail -n 1")?);
    // A VM that knows nothing of us yet: its libvirt does, by the controller that other ports brought.
    let guest = pool.lab.boot(web_1()?, "host1")?;
    pool.wait_for_brokers()?;
    for line in &page.lines[enables..] {
        if line.contains("comsctl guests") || line.contains("comsctl migrate") {
            wait("its agent to answer", 60, || {
                Ok(pool.machine(0).must("comsctl --json guests")?.contains("coms-agent"))
            })?;
        }
        println!("{}", pool.typed(0, &page, line)?);
    }
    assert_eq!(pool.where_is("web-1")?, [1], "it runs at the other host, and only there");
    assert_eq!(guest.sh("echo alive")?, "alive\n");
    the_rest_of_the_page(&pool, &page)?;
    the_hook_keeps_moves_away(&pool)?;
    encryption::turned_on_and_renewed(&pool)?;
    let at = pool.where_is("web-1")?;

    for i in 0..2 {
        let machine = pool.machine(i);
        machine.must("apt-get remove -y coms-broker")?;
        assert_ne!(machine.run("systemctl is-active coms-broker")?.status, 0);
        machine.must("test -e /etc/coms/broker.toml")?;
        machine.must("rm -f /etc/coms/no-incoming; apt-get purge -y coms-broker")?;
        let left = machine.must("find / -xdev -name '*coms*' ! -path '/root/*' ! -path '/var/lib/dpkg/*' ! -path '/var/log/*' ! -path '/proc/*' ! -path '/var/lib/apt/*' ! -path '/var/cache/*' ! -path '/tmp/*' ! -path '/run/coms-lab*' ! -path '/var/lib/libvirt/*'; getent group coms coms-admin; ls -d /run/coms /var/lib/coms 2>/dev/null; true")?;
        assert_eq!(left, "", "left on {}", machine.name());
    }
    assert!(at.len() == 1 && pool.where_is("web-1")? == at, "VMs outlive it");
    pool.finish()
}

fn web_1() -> Result<GuestConfig> {
    let built = build_agent()?;
    let file = |path: &str, from: &std::path::Path| -> Result<coms_lab::GuestFile> {
        Ok(coms_lab::GuestFile { path: path.into(), mode: 0o755, bytes: std::fs::read(from)? })
    };
    Ok(GuestConfig {
        name: "web-1".into(),
        persistent: true,
        port: false,
        more_ports: vec!["org.qemu.guest_agent.0".into()],
        agent: Some(coms_lab::AgentConfig::default()),
        files: vec![file("usr/bin/coms-agent", &built.agent)?, file("usr/bin/coms", &built.cli)?],
        ..GuestConfig::default()
    })
}

/// Its other lines, each where the VM is by then. What they leave behind is taken back.
fn the_rest_of_the_page(pool: &Pool, page: &Page) -> Result<()> {
    let [lines] = page.more.as_slice() else {
        return Err(format!("README's page has other blocks now: {:?}", page.more).into());
    };
    for line in lines {
        let here = pool.where_is("web-1")?[0];
        if line.contains("--notice") {
            announced_and_called_off(pool.machine(here), line)?;
            continue;
        }
        println!("{}", pool.typed(here, page, line)?);
        if line.contains("comsctl migrate ") {
            wait("it to arrive", 30, || Ok(pool.where_is("web-1")? == [1 - here]))?;
        }
    }
    let here = pool.where_is("web-1")?[0];
    pool.machine(here).must("comsctl resume; rm /etc/coms/no-incoming")?;
    assert_eq!(here, 0, "moved by one of them");
    // Where the hook's part begins.
    pool.machine(0).must("comsctl migrate web-1")?;
    wait("it to arrive", 30, || Ok(pool.where_is("web-1")? == [1]))
}

/// Nobody waits for the ten minutes: it is seen to be announced, and called off.
fn announced_and_called_off(machine: &Machine, line: &str) -> Result<()> {
    println!("{}# {line}", machine.name());
    machine.must(&format!("{} --no-wait", as_root(line)))?;
    let all: serde_json::Value = serde_json::from_str(&machine.must("comsctl --json migrations")?)?;
    let last = all.as_array().and_then(|all| all.last()).ok_or("no migrations")?;
    assert_eq!(last["state"], "announced", "{last}");
    let id = last["migration"].as_str().ok_or("no id")?;
    println!("{}", machine.must(&format!("comsctl cancel {id}"))?);
    let over = || Ok(machine.must(&format!("comsctl --json show {id}"))?.contains("\"cancelled\""));
    wait("it to be called off", 20, over)
}

/// Whoever moves it.
fn the_hook_keeps_moves_away(pool: &Pool) -> Result<()> {
    let (here, there) = (pool.machine(1), pool.machine(0));
    // libvirt looks for hooks when it starts.
    there.must("touch /etc/coms/no-incoming; systemctl restart libvirtd")?;
    pool.wait_for_brokers()?;
    let said = here.run(
        "virsh migrate --live --p2p --persistent --undefinesource web-1 qemu+tls://host1.example/system",
    )?;
    assert!(said.status != 0 && said.err.contains("this host takes no VMs now"), "{}{}", said.out, said.err);
    // For a while after that restart the other broker does not know what is there.
    let moves = |machine: &Machine, wanted: &str| {
        let mut last = String::new();
        wait(wanted, 90, || {
            let said = machine.run("comsctl migrate web-1")?;
            last = said.out + &said.err + &machine.run("comsctl show web-1")?.out;
            Ok(last.contains(wanted))
        })
        .map_err(|e| format!("{e}: {last}"))
        .inspect(|()| println!("{}", last))
    };
    moves(here, "destination-refused")?;
    assert_eq!(pool.where_is("web-1")?, [1]);
    there.must("rm /etc/coms/no-incoming")?;
    moves(here, "host2 -> host1")?;
    wait("it to arrive", 30, || Ok(pool.where_is("web-1")? == [0]))?;
    moves(there, "host1 -> host2")?;
    wait("it to arrive", 30, || Ok(pool.where_is("web-1")? == [1]))?;
    assert_eq!(pool.where_is("web-1")?, [1]);
    Ok(())
}
