//! VMs with disks that only their host has, with overlays, with disks that all hosts reach, with keys, a network filter, a
//! TPM, or a device of their host: what is copied is the same afterwards, what cannot go is refused and told, and what
//! fails leaves nothing behind.

use coms_lab::{Guest, GuestConfig, Host, Signal};
use coms_story::disks::{IMAGES, Writer, disk, pool};
use coms_story::faults::arena::is_stopped;
use coms_story::faults::check::told_of;
use coms_story::faults::row::Initiator;
use coms_story::faults::strike;
use coms_story::*;
use serde_json::Value;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const BASES: &str = "/var/lib/libvirt/bases";
const SHARED: &str = "/var/lib/libvirt/shared";
const MIB: u64 = 1 << 20;
/// Of the disk that is encrypted, as libvirt knows its key.
const KEY: &str = "0f8a1d0e-57a4-4c0e-9c5f-6a1b1f5f0c11";
const PASSPHRASE: &str = "correct horse";
/// Keeps a guest's TCP port from being reached.
const FILTER: &str = "no-echo";

fn up(storage: &str) -> Result<Stage> {
    let places = format!("[storage]\ncopy_in_the_clear = true\n{storage}");
    let stage = Stage::up(Settings { places, stop_points: true, ..Settings::default() })?;
    for i in [0, 1] {
        pool(stage.host(i), "images", IMAGES)?;
        pool(stage.host(i), "bases", BASES)?;
    }
    Ok(stage)
}

fn boot(stage: &Stage, devices_xml: String) -> Result<Guest> {
    stage.boot(0, GuestConfig { devices_xml, memory_mib: 160, ..GuestConfig::default() }, "")
}

/// Runs a program in a host; it must succeed.
fn run(host: &Host, argv: &[&str]) -> Result<String> {
    let out = host.run(argv)?;
    if !out.status.success() {
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        return Err(format!("{argv:?} on {}: {err}", host.name()).into());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn sha256(path: &Path) -> Result<String> {
    let out = Command::new("sha256sum").arg(path).output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

/// What the guest itself reads from its disk, and not from its memory.
fn sha256_inside(guest: &Guest, device: &str) -> Result<String> {
    let line = format!("sync; echo 3 > /proc/sys/vm/drop_caches; sha256sum {device}");
    let told = guest.exec_with(&["sh", "-c", &line], "", Duration::from_secs(200))?.success()?;
    Ok(told.split(' ').next().unwrap_or_default().to_owned())
}

fn fill(guest: &Guest, device: &str, mib: u64, at_mib: u64) -> Result<()> {
    // sync alone does not tell a disk without a file system to write what it holds back.
    let line = format!("dd if=/dev/urandom of={device} bs=1M count={mib} seek={at_mib} conv=notrunc,fsync");
    guest.exec_with(&["sh", "-c", &line], "", Duration::from_secs(200))?.success()?;
    Ok(())
}

fn ask(guest: &Guest) -> Result<(i32, Value)> {
    coms_within(guest, &["migrate", "--wait"], Duration::from_secs(200))
}

fn moves(stage: &Stage, guest: &Guest, to: usize) -> Result<()> {
    let (status, told) = ask(guest)?;
    assert_eq!((status, &told["event"]), (0, &"completed".into()), "{told}\n{}", stage.logs());
    assert_eq!(guest.current_host()?.name(), HOSTS[to]);
    Ok(())
}

/// Refused with this reason, and the operator can read why.
fn refused(stage: &Stage, guest: &Guest, from: usize, reason: &str, word: &str) -> Result<()> {
    let (status, told) = ask(guest)?;
    assert_eq!((status, &told["reason"]), (1, &reason.into()), "{told}\n{}", stage.logs());
    let last = last(stage, from)?;
    let detail = last["detail"].as_str().unwrap_or_default();
    assert!(detail.contains(word), "{last}");
    assert!(!told.to_string().contains("/var/lib"), "a path was told: {told}");
    assert_eq!(guest.current_host()?.name(), HOSTS[from]);
    Ok(())
}

/// The last move that a host's broker knows.
fn last(stage: &Stage, i: usize) -> Result<Value> {
    let all = stage.comsctl(i, &["migrations"])?;
    all.as_array().and_then(|all| all.last().cloned()).ok_or_else(|| "no move is known".into())
}

/// What two files have at their beginning is the same.
fn same_beginning(a: &Path, b: &Path, mib: u64) -> Result<bool> {
    let beginning = |path: &Path| -> Result<Vec<u8>> {
        let mut bytes = std::fs::read(path)?;
        bytes.truncate((mib * MIB) as usize);
        Ok(bytes)
    };
    Ok(beginning(a)? == beginning(b)?)
}

/// The guest asks, and the broker of its host stands still just before this. Which request it is, and the broker.
fn stands_still(stage: &mut Stage, guest: &Guest, at: usize, before: &str) -> Result<(u64, u32)> {
    stage.host(at).write_file(BROKER_STOPS_AT, before)?;
    let request = coms(guest, &["migrate"])?["request"].as_u64().ok_or("no number of a request")?;
    let pid = stage.broker(at).ok_or("no broker to stop")?.pid();
    stage.wait("the broker to stand still", 30, || Ok(is_stopped(pid)))?;
    Ok((request, pid))
}

/// Killed, and another one started.
fn kill_broker(stage: &mut Stage, at: usize) -> Result<()> {
    stage.stop_broker(at, Signal::KILL)?;
    stage.start_broker(at)
}

/// What the guest has heard of a request: once it has heard an end.
fn ends_of(stage: &Stage, guest: &Guest, request: u64) -> Result<Vec<String>> {
    let mut ends = Vec::new();
    stage.wait("the request's end", 60, || {
        ends = told_of(&events(guest)?, Some(request), Initiator::Customer);
        Ok(!ends.is_empty())
    })?;
    Ok(ends)
}

/// The doctor of a host says that an image may be left.
fn is_alarmed(stage: &Stage, at: usize) -> Result<bool> {
    let (_, findings, _) = stage.comsctl_raw(at, &["doctor"])?;
    Ok(findings.contains("some of these may be there: /var/lib/libvirt/images/vm1.raw"))
}

/// Begins a move of a disk over a slow link, and waits until its copy is under way.
fn begins(stage: &Stage, guest: &Guest, from: usize, image: &Path) -> Result<String> {
    coms(guest, &["migrate"])?;
    stage.wait("the copy to be under way", 30, || {
        Ok(last(stage, from)?["state"] == "copying" && image.exists())
    })?;
    Ok(last(stage, from)?["migration"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_disk_of_its_host_alone_is_copied_while_its_guest_writes_and_brokers_are_killed() -> Result<()> {
    let mut stage = up("copy = true")?;
    let file = format!("{IMAGES}/vm1.raw");
    let image = |stage: &Stage, i| -> PathBuf { stage.host(i).path_of(&file) };
    run(stage.host(0), &["truncate", "-s", "96M", &file])?;
    let guest = boot(&stage, disk("vda", "raw", &file))?;
    fill(&guest, "/dev/vda", 64, 0)?;
    let writer = Writer { device: "vda", first: 64 * 16, blocks: 32 * 16 };
    writer.start(&guest)?;
    let before = writer.written(&guest)?;
    // Its broker is killed before it has had the image made: the next one is asked again, and nothing is in the way.
    let (early, _) = stands_still(&mut stage, &guest, 0, "action MakeDisks")?;
    assert!(!image(&stage, 1).exists());
    kill_broker(&mut stage, 0)?;
    assert_eq!(ends_of(&stage, &guest, early)?, ["completed"]);
    assert_eq!(guest.current_host()?.name(), HOSTS[1]);
    assert!(!is_alarmed(&stage, 0)?, "what it says may be left is the VM's own");
    assert!(writer.written(&guest)? > before + 3, "it wrote all the time");
    writer.ends_with_all_there(&guest)?;
    assert!(same_beginning(&image(&stage, 0), &image(&stage, 1), 64)?, "copied wrongly");
    assert_eq!(sha256_inside(&guest, "/dev/vda")?, sha256(&image(&stage, 1))?, "it has another disk");
    let record = last(&stage, 0)?;
    assert_eq!(record["state"], "left", "{record}");
    assert!(record["disk_bytes"].as_u64().is_some_and(|b| b >= 60 * MIB), "{record}");
    assert!(record["disks"][0].as_str().is_some_and(|d| d.contains("copied")), "{record}");

    // What is at the source stays, and is never overwritten.
    let kept = sha256(&image(&stage, 0))?;
    assert_eq!(image(&stage, 0).metadata()?.len(), 96 * MIB);
    refused(&stage, &guest, 1, "disk-not-ready", "exists at the destination")?;
    assert_eq!(sha256(&image(&stage, 0))?, kept);

    // Until the operator removes it. Then: no pool, and one that is too small.
    let there = stage.host(0);
    there.virsh(&["vol-delete", "vm1.raw", "--pool", "images"])?;
    there.virsh(&["pool-destroy", "images"])?;
    refused(&stage, &guest, 1, "disk-not-ready", "no active storage pool of the destination")?;
    run(there, &["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", IMAGES])?;
    pool(there, "images", IMAGES)?;
    refused(&stage, &guest, 1, "disk-no-room", "MiB are needed")?;
    there.virsh(&["pool-destroy", "images"])?;
    run(there, &["umount", IMAGES])?;
    pool(there, "images", IMAGES)?;

    // What would keep it here a doctor tells beforehand.
    let complains = || -> Result<bool> {
        let (_, told, _) = stage.comsctl_raw(1, &["doctor"])?;
        Ok(told.contains("vm1: it has images in /var/lib/libvirt/images, which is no active storage pool"))
    };
    assert!(!complains()?);
    stage.host(1).virsh(&["pool-destroy", "images"])?;
    assert!(complains()?);
    pool(stage.host(1), "images", IMAGES)?;
    // Its broker is killed when the image is there and it does not know that yet. It may be anybody's: it stays, and the next
    // one says where.
    let (late, _) = stands_still(&mut stage, &guest, 1, "event DisksMade")?;
    let made = image(&stage, 0).metadata()?.len();
    kill_broker(&mut stage, 1)?;
    assert_eq!(ends_of(&stage, &guest, late)?, ["denied:disk-not-ready"]);
    assert!(last(&stage, 1)?["detail"].as_str().is_some_and(|d| d.contains("exists at the destination")));
    stage.wait("an alarm", 10, || is_alarmed(&stage, 1))?;
    assert_eq!((made, image(&stage, 0).metadata()?.len()), (96 * MIB, 96 * MIB));
    assert_eq!((guest.qemu_pids()?.len(), guest.current_host()?.name()), (1, HOSTS[1]));
    stage.host(0).virsh(&["vol-delete", "vm1.raw", "--pool", "images"])?;

    // A move that does not happen leaves nothing at the destination: cancelled ...
    stage.host(1).set_rate_mbit(Some(40))?;
    let id = begins(&stage, &guest, 1, &image(&stage, 0))?;
    assert!(!is_alarmed(&stage, 1)?, "what it says may be left is this move's");
    stage.comsctl(1, &["cancel", &id])?;
    stage.wait("the copy to be gone", 40, || Ok(!image(&stage, 0).exists()))?;
    stage.wait("the guest to hear of it", 20, || Ok(!events_named(&guest, "cancelled")?.is_empty()))?;
    // ... or broken off while no broker runs.
    begins(&stage, &guest, 1, &image(&stage, 0))?;
    stage.stop_broker(1, Signal::KILL)?;
    stage.host(1).virsh(&["domjobabort", guest.name()])?;
    stage.start_broker(1)?;
    stage.wait("the next broker to remove the copy", 60, || Ok(!image(&stage, 0).exists()))?;
    stage.wait_for_load()?;
    stage.wait_for_agent(&guest)?;
    assert_eq!(guest.current_host()?.name(), HOSTS[1]);
    stage.wait("the guest to hear of that, too", 60, || {
        Ok(events(&guest)?.iter().filter(|e| e["event"] == "failed" || e["event"] == "cancelled").count()
            >= 2)
    })?;

    // By policy the source's copy goes, once the VM runs at its destination.
    stage.host(1).set_rate_mbit(None)?;
    stage.reconfigure(|s| {
        s.places = "[storage]\ncopy = true\ncopy_in_the_clear = true\nremove_source = true".into()
    })?;
    stage.wait_for_agent(&guest)?;
    fill(&guest, "/dev/vda", 4, 70)?;
    // Whether the destination's broker lives is nothing to the image that is just made there.
    let (other, pid) = stands_still(&mut stage, &guest, 1, "event DisksMade")?;
    stage.stop_broker(0, Signal::KILL)?;
    strike::signal(pid, "CONT")?;
    stage.start_broker(0)?;
    assert_eq!(ends_of(&stage, &guest, other)?, ["completed"]);
    assert_eq!(guest.current_host()?.name(), HOSTS[0]);
    stage.wait("the source's copy to be removed", 20, || Ok(!image(&stage, 1).exists()))?;
    assert_eq!(sha256_inside(&guest, "/dev/vda")?, sha256(&image(&stage, 0))?);
    // One end each, still.
    for (request, end) in [(early, "completed"), (late, "denied:disk-not-ready"), (other, "completed")] {
        assert_eq!(ends_of(&stage, &guest, request)?, [end]);
    }
    stage.finish(&[&guest])
}

#[test]
fn a_vm_that_powers_off_in_the_middle_of_its_copy_leaves_the_good_one_and_no_half_one() -> Result<()> {
    let stage = up("copy = true\nremove_source = true")?;
    let file = format!("{IMAGES}/vm1.raw");
    let image = |i| stage.host(i).path_of(&file);
    run(stage.host(0), &["truncate", "-s", "32M", &file])?;
    let guest = boot(&stage, disk("vda", "raw", &file))?;
    fill(&guest, "/dev/vda", 32, 0)?;
    let known = sha256(&image(0))?;
    stage.host(0).set_rate_mbit(Some(20))?;
    let id = begins(&stage, &guest, 0, &image(1))?;
    stage.wait("a part of it to be there", 30, || Ok(image(1).metadata()?.blocks() * 512 > MIB))?;
    // It may be off before it can say that it is.
    let _ = guest.sh("poweroff -f");
    stage.wait("the half copy to be gone", 60, || Ok(!image(1).exists()))?;
    stage.wait("its broker to have said so", 20, || {
        Ok(stage.logs().contains(&format!("{id}: removed again")))
    })?;
    assert!(!stage.logs().contains("were copied") && image(0).exists(), "{}", stage.logs());
    assert_eq!(sha256(&image(0))?, known);
    stage.finish(&[&guest])
}

/// Has a host's libvirt know what this XML says.
fn define(host: &Host, what: &str, xml: &str) -> Result<()> {
    host.write_file("/var/lib/libvirt/define.xml", xml)?;
    host.virsh(&[what, "/var/lib/libvirt/define.xml"])?;
    Ok(())
}

fn filter(port: u16) -> String {
    format!(
        "<filter name='{FILTER}' chain='ipv4'><rule action='drop' direction='in'><ip protocol='tcp' \
         dstportstart='{port}'/></rule></filter>"
    )
}

/// The operator has a running guest's network card filtered.
fn put_filter(host: &Host, guest: &Guest) -> Result<()> {
    let xml = host.virsh(&["dumpxml", guest.name()])?;
    let card = xml.find("<interface").zip(xml.find("</interface>")).and_then(|(from, to)| xml.get(from..to));
    let card = card.ok_or("it has no network card")?;
    let xml = format!("{card}<filterref filter='{FILTER}'/></interface>");
    host.write_file("/var/lib/libvirt/card.xml", xml)?;
    host.virsh(&["update-device", guest.name(), "/var/lib/libvirt/card.xml", "--live"])?;
    Ok(())
}

/// Without its key.
fn define_secret(host: &Host) -> Result<()> {
    define(
        host,
        "secret-define",
        &format!("<secret ephemeral='no' private='yes'><uuid>{KEY}</uuid></secret>"),
    )
}

fn set_secret(host: &Host) -> Result<()> {
    host.write_file("/var/lib/libvirt/key", PASSPHRASE)?;
    host.virsh(&["secret-set-value", KEY, "--file", "/var/lib/libvirt/key", "--plain"])?;
    Ok(())
}

#[test]
fn of_an_overlay_only_itself_is_sent_beside_a_whole_disk_and_what_all_hosts_reach_stays_where_it_is()
-> Result<()> {
    let stage = up(&format!("copy = true\nbases = [\"{BASES}\"]\nshared = [\"{SHARED}\"]"))?;
    let (base, overlay) = (format!("{BASES}/base.raw"), format!("{IMAGES}/vm1.qcow2"));
    let whole = format!("{IMAGES}/whole.raw");
    let (kept, served) = (format!("{SHARED}/kept.raw"), "/var/lib/libvirt/served.raw");
    let source = stage.host(0);
    run(source, &["sh", "-c", &format!("head -c {} /dev/urandom > {base}", 64 * MIB)])?;
    run(source, &["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", &base, &overlay])?;
    for i in [0, 1] {
        stage.host(i).write_file(&kept, vec![7; MIB as usize])?;
    }
    // Encrypted, and what serves it does not know the key.
    let key = format!("secret,id=key,data={PASSPHRASE}");
    let luks = ["-f", "luks", "-o", "key-secret=key,iter-time=10", served, "8M"];
    let argv = [&["qemu-img", "create", "-q", "--object", &key][..], &luks].concat();
    // It times its hash by the CPU time that the kernel accounts in ticks, and gives up where that is none yet.
    wait("qemu-img to have timed its hash", 30, || match run(source, &argv) {
        Ok(_) => Ok(true),
        Err(e) if e.to_string().contains("Unable to get accurate CPU usage") => Ok(false),
        Err(e) => Err(e),
    })?;
    define_secret(source)?;
    set_secret(source)?;
    define(source, "nwfilter-define", &filter(7))?;
    run(source, &["sh", "-c", &format!("head -c {} /dev/urandom > {whole}", 16 * MIB)])?;
    let address = source.ip().to_string();
    let options = ["-f", "raw", "-t", "--shared=4", "-p", "10809", "-b", &address, served];
    let server = source.spawn("/usr/bin/qemu-nbd", &options, &[], "nbd.log")?;
    let devices = disk("vda", "qcow2", &overlay)
        + &disk("vdd", "raw", &whole)
        + &format!(
            "<disk type='network' device='disk'><driver name='qemu' type='raw' cache='none'/>\
             <source protocol='nbd'><host name='{address}' port='10809'/><encryption format='luks'><secret \
             type='passphrase' uuid='{KEY}'/></encryption></source><target dev='vdb' bus='virtio'/></disk>\
             <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{kept}'/>\
             <target dev='vdc' bus='virtio'/><readonly/></disk>"
        );
    let guest = boot(&stage, devices)?;
    fill(&guest, "/dev/vda", 4, 8)?;
    // Whole sectors: what was never written reads as anything where it is decrypted.
    guest.sh("echo before | dd of=/dev/vdb conv=sync,notrunc,fsync")?;
    let outside = stage.lab.client("outside", [10, 78, 200, 1].into())?;
    let answers = |port| outside.connect((guest.ip(), port).into(), Duration::from_secs(2)).is_ok();
    assert!(answers(7));
    put_filter(source, &guest)?;
    assert!(!answers(7) && answers(19), "the filter is for one port");

    // What it needs besides its disks, one after the other.
    let there = stage.host(1);
    refused(&stage, &guest, 0, "device-not-ready", &format!("secret {KEY} is not defined there"))?;
    define_secret(there)?;
    refused(&stage, &guest, 0, "device-not-ready", "`no-echo` is not defined there (virsh nwfilter-define)")?;
    define(there, "nwfilter-define", &filter(8))?;
    refused(&stage, &guest, 0, "device-not-ready", "`no-echo` is another one there")?;
    there.virsh(&["nwfilter-undefine", FILTER])?;
    define(there, "nwfilter-define", &filter(7))?;
    refused(&stage, &guest, 0, "disk-not-ready", "has its base")?;

    std::fs::copy(stage.host(0).path_of(&base), stage.host(1).path_of(&base))?;
    // That the secret there has no value is libvirt's to find out: at the call, before anything is sent.
    refused(&stage, &guest, 0, "destination-refused", "secret")?;
    set_secret(there)?;
    // What it writes on the way is at the disks' ends.
    let writers =
        [("vda", 62 * 16), ("vdd", 14 * 16)].map(|(device, first)| Writer { device, first, blocks: 2 * 16 });
    for writer in writers {
        writer.start(&guest)?;
    }
    let written = || writers.iter().map(|w| w.written(&guest)).collect::<Result<Vec<u64>>>();
    let before = written()?;
    moves(&stage, &guest, 1)?;
    assert!(!answers(7) && answers(19), "the filter is in force there, too");
    let after = written()?;
    assert!(before.iter().zip(&after).all(|(b, a)| a > b), "it wrote all the time: {before:?} {after:?}");
    for writer in writers {
        writer.ends_with_all_there(&guest)?;
    }
    let record = last(&stage, 0)?;
    let sent = record["disk_bytes"].as_u64().unwrap_or_default();
    // As far as libvirt told of it while it copied.
    assert!((4 * MIB..40 * MIB).contains(&sent), "of 64 MiB 4 are its own, and all 16 of another: {record}");
    let notes = record["disks"].to_string();
    for part in ["the overlay of", "whole.raw copied", "over the network from both hosts", "is shared"] {
        assert!(notes.contains(part), "{part}: {notes}");
    }
    // As the hosts find them; at the source they are as they were when it left.
    let flat = format!("{BASES}/flat.raw");
    let image = |i: usize, file: &str| stage.host(i).path_of(file);
    for i in [0, 1] {
        run(stage.host(i), &["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", &overlay, &flat])?;
    }
    assert!(same_beginning(&image(0, &flat), &image(1, &flat), 62)?, "the overlay was copied wrongly");
    assert!(same_beginning(&image(0, &whole), &image(1, &whole), 14)?, "the whole disk was copied wrongly");
    assert_eq!(sha256_inside(&guest, "/dev/vda")?, sha256(&image(1, &flat))?);
    assert_eq!(sha256_inside(&guest, "/dev/vdd")?, sha256(&image(1, &whole))?);
    let info = run(stage.host(1), &["qemu-img", "info", "-U", "--output=json", &overlay])?;
    assert!(info.contains(&base), "it stands on its base there: {info}");
    // The served disk is the same one from both hosts.
    guest.sh(
        "echo after | dd of=/dev/vdb seek=1 conv=sync,notrunc,fsync; echo 3 > /proc/sys/vm/drop_caches",
    )?;
    let both = guest.sh("dd if=/dev/vdb count=2 2>/dev/null | tr -d '\\000'")?;
    assert_eq!(both, "before\nafter\n");
    assert!(!stage.host(1).path_of(served).exists());
    let stored = std::fs::read(stage.host(0).path_of(served))?;
    assert!(stored.starts_with(b"LUKS") && !stored.windows(6).any(|w| w == b"before"), "it is encrypted");
    server.stop(Signal::TERM)?;
    stage.finish(&[&guest])
}

#[test]
fn a_blob_that_its_tpm_sealed_opens_after_the_move() -> Result<()> {
    let stage = up("")?;
    define_secret(stage.host(0))?;
    set_secret(stage.host(0))?;
    // What it keeps on its host is encrypted.
    let tpm = format!(
        "<tpm model='tpm-tis'><backend type='emulator' version='2.0'><encryption secret='{KEY}'/></backend></tpm>"
    );
    let guest = boot(&stage, tpm)?;
    let tool = "coms-lab-guest";
    let opens =
        || -> Result<String> { Ok(guest.exec(&[tool, "tpm-unseal", "/tmp/blob"])?.success()?.trim().into()) };
    guest.exec(&[tool, "tpm-seal", "open sesame", "/tmp/blob"])?.success()?;
    assert_eq!(opens()?, "open sesame");

    // A host that has no swtpm is no destination.
    let there = stage.host(1);
    let restart = |argv: &[&str]| -> Result<()> {
        run(there, argv)?;
        there.stop_libvirtd(Signal::TERM)?;
        there.start_libvirtd()?;
        // With libvirtd went its broker's sign of life; it leaves another one soon.
        std::thread::sleep(Duration::from_secs(6));
        stage.wait_for_load()
    };
    restart(&["mount", "--bind", "/dev/null", "/usr/bin/swtpm"])?;
    refused(&stage, &guest, 0, "device-not-ready", "swtpm")?;
    restart(&["umount", "/usr/bin/swtpm"])?;
    refused(&stage, &guest, 0, "device-not-ready", &format!("secret {KEY} is not defined there"))?;
    define_secret(there)?;
    set_secret(there)?;

    moves(&stage, &guest, 1)?;
    assert_eq!(opens()?, "open sesame", "the TPM there is another one");
    // What was sealed there opens there: it is not only a copy that can be read.
    guest.exec(&[tool, "tpm-seal", "again", "/tmp/blob"])?.success()?;
    assert_eq!(opens()?, "again");

    let other = with_usb_device(&stage)?;
    refused(&stage, &other, 0, "device-not-movable", "a device of this host (hostdev)")?;
    stage.finish(&[&guest, &other])
}

/// A guest that may use a USB device of its host. None is plugged in, nor has the machine to have USB at all: its domain says
/// that it starts without, too.
fn with_usb_device(stage: &Stage) -> Result<Guest> {
    let host = stage.host(0);
    run(host, &["mount", "-t", "tmpfs", "tmpfs", "/sys/bus"])?;
    run(host, &["mkdir", "-p", "/sys/bus/usb/devices"])?;
    let devices_xml = "<hostdev mode='subsystem' type='usb'><source startupPolicy='optional'><vendor id='0x1234'/>\
                       <product id='0xbeef'/></source></hostdev>";
    let config = GuestConfig {
        name: "vm2".into(),
        ip: [10, 78, 0, 2].into(),
        memory_mib: 160,
        devices_xml: devices_xml.into(),
        ..GuestConfig::default()
    };
    stage.boot(0, config, "")
}
