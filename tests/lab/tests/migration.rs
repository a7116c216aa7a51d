//! The lab does what it is for: guests run, migrate live, and are reached wherever they are.

use std::time::{Duration, Instant};

use coms_lab::{AgentConfig, GuestConfig, GuestFile, Lab, LabConfig, Signal, Workload};

const TICKET: &str = "<ticket>here</ticket>";

#[test]
fn a_guest_goes_there_and_back_and_is_reached_all_the_time() {
    let begin = Instant::now();
    let lab = Lab::new(LabConfig::default()).unwrap();
    let up = begin.elapsed();
    let config = GuestConfig {
        name: "vm1".into(),
        workload: Some(Workload::default()),
        files: vec![GuestFile {
            path: "/etc/coms/plugins/mine".into(),
            mode: 0o755,
            bytes: b"#!/bin/sh\n".into(),
        }],
        ..GuestConfig::default()
    };
    let guest = lab.boot(config, "h1").unwrap();
    println!("accel=tcg hosts up after {up:?}, guest answers after {:?}", begin.elapsed());
    assert_eq!(guest.current_host().unwrap().name(), "h1");

    // Inside: its name, its port, its files, its work.
    assert_eq!(guest.sh("hostname").unwrap(), "vm1\n");
    assert_eq!(guest.sh("cat").unwrap(), "");
    assert_eq!(guest.exec_with(&["cat"], "said", Duration::from_secs(5)).unwrap().stdout, "said");
    assert_eq!(guest.exec(&["sh", "-c", "exit 3"]).unwrap().status, 3);
    assert!(guest.exec(&["no-such-program"]).unwrap_err().to_string().contains("no-such-program"));
    assert!(guest.exec_with(&["sleep", "9"], "", Duration::from_millis(100)).is_err());
    guest.sh("test -c /dev/virtio-ports/org.coms.agent.0 && test -x /etc/coms/plugins/mine").unwrap();

    let far = lab.client("far", "81.2.69.142".parse().unwrap()).unwrap();
    let (page, _) = far.http_get(guest.http_address(), Duration::from_secs(10)).unwrap();
    assert!(page.starts_with("worked: "), "{page}");

    // What is written into the metadata travels.
    let key = ["--key", "coms", "--uri", "urn:coms:domain:1"];
    let set: Vec<&str> =
        ["metadata", "vm1"].into_iter().chain(key).chain(["--live", "--set", TICKET]).collect();
    lab.host("h1").virsh(&set).unwrap();

    let echo = lab.client("near", "10.78.1.1".parse().unwrap()).unwrap().udp_echo(guest.ip()).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    for (from, to) in [("h1", "h2"), ("h2", "h1")] {
        let start = Instant::now();
        guest.migrate_to(to, &[]).unwrap();
        let took = start.elapsed();
        assert_eq!(guest.current_host().unwrap().name(), to);
        assert_eq!(lab.host(from).virsh(&["list", "--all", "--name"]).unwrap(), "");
        assert_eq!(guest.sh("hostname").unwrap(), "vm1\n");
        let get: Vec<&str> = ["metadata", "vm1"].into_iter().chain(key).collect();
        assert!(lab.host(to).virsh(&get).unwrap().contains("here"));
        let gap = echo.worst_gap(start, Instant::now());
        println!("accel=tcg {from} to {to}: virsh {took:?}, worst echo gap {gap:?}");
        // Less than an interval cannot be; seconds mean that the LAN lost the guest.
        assert!((Duration::from_millis(2)..Duration::from_secs(3)).contains(&gap), "{gap:?}");
    }
    let answered = echo.record().iter().filter(|echo| echo.received.is_some()).count();
    assert!(answered > 500, "only {answered} packets came back");

    let rounds = guest.sh("cat /var/log/workload.rounds").unwrap();
    assert!(
        rounds.lines().count() > 3 && rounds.lines().all(|line| line.split(' ').count() == 3),
        "{rounds}"
    );
    let mut rounds_ms: Vec<u32> =
        rounds.lines().filter_map(|line| line.split(' ').nth(2)?.parse().ok()).collect();
    rounds_ms.sort_unstable();
    println!("accel=tcg {} rounds, median {:?} ms", rounds_ms.len(), rounds_ms.get(rounds_ms.len() / 2));
    assert!(guest.console_text().contains("vm1 is up"));

    // Its host's libvirtd may come and go without it.
    let host = lab.host("h1");
    host.stop_libvirtd(Signal::KILL).unwrap();
    assert_eq!(host.libvirtd_pid(), None);
    assert!(guest.current_host().is_err());
    assert_eq!(guest.sh("hostname").unwrap(), "vm1\n");
    host.start_libvirtd().unwrap();
    assert_eq!(guest.current_host().unwrap().name(), "h1");

    guest.destroy().unwrap();
    lab.finish().unwrap();
}

#[test]
fn hosts_and_links_do_what_their_configuration_says() {
    let lab = Lab::new(LabConfig::default()).unwrap();
    let (h1, h2) = (lab.host("h1"), lab.host("h2"));

    // Private names, files, processes on their CPU.
    let said = |host: &coms_lab::Host, line: &str| {
        let output = host.run(&["sh", "-c", line]).unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    assert_eq!(said(h1, "hostname"), "h1");
    assert_eq!(said(h2, "grep Cpus_allowed_list /proc/self/status"), "Cpus_allowed_list:\t1");
    h1.write_file("/etc/coms/broker.toml", "alias = \"north\"\n").unwrap();
    assert_eq!(said(h1, "cat /etc/coms/broker.toml"), "alias = \"north\"");
    assert_eq!(
        said(h2, "ls /etc/coms /run/coms /var/lib/coms"),
        "/etc/coms:\n\n/run/coms:\n\n/var/lib/coms:"
    );
    assert_eq!(said(h1, "touch /run/coms/here; getent hosts h2"), format!("{}       h2", h2.ip()));
    assert!(h1.path_of("/run/coms/here").exists());
    assert_eq!(
        said(h1, "ls /sys/class/net/eth0/operstate && ls -A /sys/fs/cgroup"),
        "/sys/class/net/eth0/operstate"
    );

    // A program of ours runs in the background and is stopped by a signal.
    let mut process =
        h1.spawn("sh", &["-c", "echo $GREETING; exec sleep 60"], &[("GREETING", "hello")], "s.log").unwrap();
    coms_lab::wait_until("its greeting", Duration::from_secs(5), || Ok(process.log_text() == "hello\n"))
        .unwrap();
    assert!(process.try_wait().unwrap().is_none());
    assert!(!process.stop(Signal::TERM).unwrap().success());

    // The other host's libvirt is reached until the cable is pulled.
    let reach = ["virsh", "-c", &h2.libvirt_uri_remote(), "hostname"];
    assert_eq!(String::from_utf8_lossy(&h1.run(&reach).unwrap().stdout).trim(), "h2");
    h1.set_link(false).unwrap();
    let knock = format!("timeout 1 bash -c ': </dev/tcp/{}/16509' || echo silent", h2.ip());
    assert_eq!(said(h1, &knock), "silent");
    h1.set_link(true).unwrap();
    assert_eq!(String::from_utf8_lossy(&h1.run(&reach).unwrap().stdout).trim(), "h2");
    lab.finish().unwrap();
}

#[test]
fn an_agent_runs_and_a_limited_link_makes_its_encrypted_migration_slower() {
    let stand_in = std::env::temp_dir().join(format!("stand-in-agent-{}", std::process::id()));
    std::fs::write(
        &stand_in,
        "#!/bin/sh\necho started with $1 and $(cat /etc/coms/agent.toml)\nsleep 1\nexit 7\n",
    )
    .unwrap();
    let lab =
        Lab::new(LabConfig { tls: true, agent: Some(stand_in.clone()), ..LabConfig::default() }).unwrap();
    std::fs::remove_file(stand_in).unwrap();
    let agent =
        AgentConfig { toml: Some("a = 1".into()), args: vec!["--flag".into()], ..AgentConfig::default() };
    let config = GuestConfig { persistent: true, agent: Some(agent), ..GuestConfig::default() };
    let guest = lab.boot(config, "h1").unwrap();
    // Or the destination's QEMU makes a group of its own first.
    assert!(
        lab.host("h2").read_file("/etc/libvirt/pki/dh-params.pem").unwrap().contains("BEGIN DH PARAMETERS")
    );
    lab.host("h1").set_rate_mbit(Some(100)).unwrap();
    let start = Instant::now();
    guest.migrate_to("h2", &["--tls"]).unwrap();
    let took = start.elapsed();
    println!("accel=tcg with TLS over 100 Mbit/s: {took:?}");
    // An idle guest of 256 MiB has some 60 MiB that are not zero: 5 s.
    assert!(took > Duration::from_secs(3), "{took:?}");
    assert_eq!(lab.host("h2").virsh(&["list", "--all", "--persistent", "--name"]).unwrap(), "vm1");
    assert_eq!(lab.host("h1").virsh(&["list", "--all", "--name"]).unwrap(), "");

    let agent_said = guest.sh("cat /var/log/coms-agent.stderr").unwrap();
    assert!(agent_said.matches("started with --flag and a = 1").count() > 1, "{agent_said}");
    assert!(agent_said.contains("exit status: 7; starting it again"), "{agent_said}");
    assert!(guest.console_text().contains("coms-agent: started with --flag"), "{}", guest.console_text());

    // A bad neighbour, on demand.
    let list = "for file in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$file; echo; done 2>/dev/null";
    let running = || {
        guest
            .sh(list)
            .unwrap()
            .lines()
            .filter(|line| line.starts_with("/init ") && line.contains(" run "))
            .count()
    };
    guest.start_hog(2).unwrap();
    guest.start_dirtying(16, 8).unwrap();
    assert_eq!(running(), 2);
    guest.stop_hog().unwrap();
    guest.stop_dirtying().unwrap();
    assert_eq!(running(), 0);
    guest.destroy().unwrap();
    lab.finish().unwrap();
}
