//! Two sites that share no layer 2: a VM moves from one to the other over a stretched LAN, and its clients stay.

use std::{
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use coms_lab::{GuestConfig, Host, HostConfig, Lab, LabConfig, Result, Talk, workspace_root};

/// In France and in Sweden.
const NEAR: (Ipv4Addr, u8) = (Ipv4Addr::new(2, 4, 0, 0), 24);
const FAR: (Ipv4Addr, u8) = (Ipv4Addr::new(2, 248, 0, 0), 24);
const ROUND_TRIP: Duration = Duration::from_millis(40);
const TALK: Talk = Talk { bytes: 200, pause: Duration::from_millis(50) };

/// The shipped step, for the LAN that every guest is on.
fn network_step(verb: &str, here: &Host, there: &Host) -> Result<()> {
    let script = workspace_root().join("packaging/network/stretch-vxlan");
    let (here_ip, there_ip) =
        (format!("COMS_HERE_ADDRESS={}", here.ip()), format!("COMS_THERE_ADDRESS={}", there.ip()));
    let argv = [
        "env",
        &here_ip,
        &there_ip,
        "COMS_VM=vm1",
        "COMS_BRIDGES=guests",
        &script.display().to_string(),
        verb,
    ];
    let output = here.run(&argv)?;
    assert!(output.status.success(), "{argv:?}: {output:?}");
    Ok(())
}

#[test]
fn open_connections_survive_a_move_between_sites_over_a_stretched_lan() -> Result<()> {
    let hosts = vec![HostConfig::new("h1").cpu(0), HostConfig::new("h2").cpu(1).site(1)];
    let lab = Lab::new(LabConfig { hosts, ..LabConfig::default() })?;
    let (h1, h2) = (lab.host("h1"), lab.host("h2"));
    let guest = lab.boot(GuestConfig::default(), "h1")?;
    let near = lab.client_at(0, "near", NEAR, None)?;
    let far = lab.client_at(1, "far", FAR, Some(100))?;
    let neighbour = lab.client("beside", Ipv4Addr::new(10, 78, 3, 3))?;

    let begin = Instant::now();
    let addresses =
        |net: Ipv4Addr| (1..=5).map(|i| Ipv4Addr::from_bits(net.to_bits() + i)).collect::<Vec<_>>();
    let near_talk = near.converse(guest.ip(), &addresses(NEAR.0), TALK)?;
    let far_talk = far.converse(guest.ip(), &addresses(FAR.0), TALK)?;
    let beside_talk = neighbour.converse(guest.ip(), &[neighbour.ip()], TALK)?;
    // What may be on its way at once bounds it: 128 KiB and a little in 40 ms.
    let download = far.download(guest.stream_address(), Some(128 << 10))?;
    thread::sleep(Duration::from_secs(5));
    let moved = Instant::now();
    let medians = || [&near_talk, &far_talk, &beside_talk].map(|talk| talk.median_since(begin));
    let [near_rtt, far_rtt, _] = medians();
    println!(
        "accel=tcg before: median answers {:?}, download {:.1} Mbit/s",
        medians(),
        download.mbit_s(begin, moved)
    );
    assert!(near_rtt < Some(ROUND_TRIP) && far_rtt >= Some(ROUND_TRIP), "{near_rtt:?} {far_rtt:?}");

    network_step("prepare", h1, h2)?;
    network_step("receive", h2, h1)?;
    let heard = neighbour.announcements()?;
    let start = Instant::now();
    guest.migrate_to("h2", &[])?;
    let arrived = Instant::now();
    println!("accel=tcg virsh migrate over the line: {:?}", arrived - start);
    assert_eq!(guest.current_host()?.name(), "h2");
    assert_eq!(heard.next(Duration::from_secs(10)), Some(guest.ip()), "announced over the stretched LAN");

    thread::sleep(Duration::from_secs(5));
    for (who, talk, count) in [("near", &near_talk, 5), ("far", &far_talk, 5), ("beside", &beside_talk, 1)] {
        assert_eq!(talk.alive_since(arrived + Duration::from_secs(2)), count, "{who}: {:?}", talk.seen());
    }
    assert_eq!(download.broke(), None);
    let settled = arrived + Duration::from_secs(2);
    let [near_rtt, far_rtt, beside_rtt] =
        [&near_talk, &far_talk, &beside_talk].map(|talk| talk.median_since(settled));
    println!(
        "accel=tcg after: median answers {:?}, download {:.1} Mbit/s",
        [near_rtt, far_rtt, beside_rtt],
        download.mbit_s(settled, Instant::now())
    );
    assert!(
        download.mbit_s(settled, Instant::now()) > download.mbit_s(begin, moved) * 1.5,
        "who is nearer gets more of it"
    );
    assert!(far_rtt < Some(ROUND_TRIP), "who is at its site reaches it there: {far_rtt:?}");
    assert!(near_rtt >= Some(ROUND_TRIP) && beside_rtt >= Some(ROUND_TRIP), "{near_rtt:?} {beside_rtt:?}");

    // Without the stretched LAN, who is at the old site would not reach it: the test could fail.
    network_step("release", h1, h2)?;
    let cut = Instant::now();
    thread::sleep(Duration::from_secs(3));
    assert_eq!(beside_talk.alive_since(cut + Duration::from_secs(1)), 0);
    assert_eq!(far_talk.alive_since(cut + Duration::from_secs(1)), 5);
    network_step("prepare", h1, h2)?;

    // And back: both its routers find it at home again.
    guest.migrate_to("h1", &[])?;
    let back = Instant::now();
    network_step("release", h1, h2)?;
    network_step("release", h2, h1)?;
    thread::sleep(Duration::from_secs(4));
    for (who, talk, count) in [("near", &near_talk, 5), ("far", &far_talk, 5), ("beside", &beside_talk, 1)] {
        assert_eq!(talk.alive_since(back + Duration::from_secs(2)), count, "{who}: {:?}", talk.seen());
    }

    // A line that is slowed down, and one that is cut.
    lab.set_sites_apart(Duration::from_millis(100))?;
    thread::sleep(Duration::from_secs(2));
    assert!(
        far_talk.median_since(Instant::now() - Duration::from_secs(1)) >= Some(Duration::from_millis(200))
    );
    lab.set_line(false)?;
    let cut = Instant::now();
    thread::sleep(Duration::from_secs(2));
    assert_eq!(far_talk.alive_since(cut + Duration::from_millis(500)), 0);
    drop((near_talk, far_talk, beside_talk, download));
    lab.finish()
}
