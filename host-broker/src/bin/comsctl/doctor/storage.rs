//! `[storage]`, against this host's directories, pools and VMs. What the other hosts have, their own doctors tell.

use super::Finding;
use super::domains::{Here, Pool, Seen};
use coms_broker::config::{Config, Storage};
use coms_broker::storage::{DomainStorage, question};
use rustix::fs::{Access, access, statvfs};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const CHECK: &str = "storage";
/// A VM whose image cannot grow stands still.
const ROOM_PERCENT: u64 = 5;

/// What is known of a directory.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// On the same file system as `/`.
    on_root: bool,
    can_be_written: bool,
    size_bytes: u64,
    free_bytes: u64,
}

/// Nothing, where the operator left `[storage]` alone. `here`: what libvirt tells, where it does.
pub fn storage(config: &Config, here: Option<&Here>) -> Vec<Finding> {
    let policy = &config.storage;
    if *policy == Storage::default() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (key, dirs) in [("shared", &policy.shared), ("bases", &policy.bases)] {
        for dir in dirs {
            let named = format!("{dir} ([storage] {key})");
            found.extend(judged(&named, look(Path::new(dir)), key == "shared", key == "shared"));
        }
    }
    if let Some(here) = here.filter(|_| policy.copy) {
        found.extend(pools(&here.pools));
        let taking_part = |d: &&Seen| d.permitted || config.is_enabled(d.uuid, &d.name);
        found
            .extend(here.domains.iter().filter(taking_part).flat_map(|d| in_no_pool(d, policy, &here.pools)));
    }
    if found.is_empty() {
        found.push(Finding::ok(CHECK, "directories and pools are there and have room"));
    }
    found
}

fn pools(all: &[Pool]) -> Vec<Finding> {
    if !all.iter().any(|p| p.active) {
        let detail = "[storage] copy is on, and no storage pool of this host is active: no disk can be copied to or from it";
        let remedy = "virsh pool-define-as images dir --target /var/lib/libvirt/images; virsh pool-autostart images; \
                      virsh pool-start images";
        return vec![Finding::warn(CHECK, detail, remedy)];
    }
    let of = |p: &Pool| {
        let named = format!("{} (pool {})", p.dir.display(), p.name);
        if p.active {
            return judged(&named, look(&p.dir), true, false);
        }
        let detail = format!("{named} is not active: disks there are not copied");
        vec![Finding::warn(CHECK, detail, format!("virsh pool-start {}", p.name))]
    };
    all.iter().flat_map(of).collect()
}

/// Disks that would be copied, in directories from which nothing is.
fn in_no_pool(domain: &Seen, policy: &Storage, pools: &[Pool]) -> Vec<Finding> {
    let disks = domain.storage.disks.iter().filter(|d| !d.readonly).cloned().collect();
    let asked = question(&DomainStorage { disks, ..DomainStorage::default() }, policy);
    let dirs: BTreeSet<&Path> = asked.files.iter().filter_map(|file| Path::new(file).parent()).collect();
    let is_pool = |dir: &Path| pools.iter().any(|p| p.active && p.dir == dir);
    let lost = dirs.into_iter().filter(|dir| !is_pool(dir)).map(|dir| {
        let shown = dir.display();
        Finding::warn(
            CHECK,
            format!("{}: it has images in {shown}, which is no active storage pool: it cannot be moved", domain.name),
            format!("virsh pool-define-as NAME dir --target {shown}, then pool-autostart and pool-start; or name it in [storage] shared"),
        )
    });
    lost.collect()
}

fn look(dir: &Path) -> std::io::Result<Place> {
    let meta = std::fs::metadata(dir)?;
    if !meta.is_dir() {
        return Err(ErrorKind::NotADirectory.into());
    }
    let disk = statvfs(dir)?;
    Ok(Place {
        on_root: std::fs::metadata("/")?.dev() == meta.dev(),
        can_be_written: access(dir, Access::WRITE_OK | Access::EXEC_OK).is_ok(),
        size_bytes: disk.f_blocks.saturating_mul(disk.f_frsize),
        free_bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
    })
}

/// What is wrong with a directory. `written`: images there are written; `mounted`: it is to be a file system of its own.
fn judged(named: &str, place: std::io::Result<Place>, written: bool, mounted: bool) -> Vec<Finding> {
    let place = match place {
        Ok(place) => place,
        Err(e) if e.kind() == ErrorKind::PermissionDenied => {
            return vec![Finding::warn(CHECK, format!("{named}: {e}"), "sudo comsctl doctor")];
        }
        Err(e) => {
            let remedy = "mount or make it; or correct /etc/coms/broker.toml, then comsctl reload";
            return vec![Finding::fail(CHECK, format!("{named}: {e}"), remedy)];
        }
    };
    let mut found = Vec::new();
    if mounted && place.on_root {
        let detail = format!(
            "{named} is on this host's root file system, and all hosts are to see the same files there"
        );
        found.push(Finding::warn(CHECK, detail, "findmnt; mount what belongs there"));
    }
    if written && !place.can_be_written {
        let detail = format!("{named} cannot be written by who runs this");
        let remedy = "as root: sudo comsctl doctor; if it says so there too, look at the mount (findmnt) and at chattr";
        // Others than root need not be able to.
        let is_root = rustix::process::geteuid().is_root();
        found.push(if is_root { Finding::fail } else { Finding::warn }(CHECK, detail, remedy));
    }
    if written && place.free_bytes / ROOM_PERCENT < place.size_bytes / 100 {
        let (free, size) = (place.free_bytes >> 20, place.size_bytes >> 20);
        let detail = format!("{named}: {free} MiB free of {size}: VMs whose images cannot grow are paused");
        found.push(Finding::warn(
            CHECK,
            detail,
            "make room; copies of VMs that have left are named in journalctl -u coms-broker",
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;
    use uuid::Uuid;

    fn config(storage: &str) -> Config {
        let text = format!(
            "[host]\nname = \"h1\"\nregion = \"r\"\n[guests]\nenabled = [\"web-*\"]\n[storage]\n{storage}"
        );
        Config::parse(Path::new("broker.toml"), &text).unwrap()
    }

    fn pool(name: &str, dir: &Path, active: bool) -> Pool {
        Pool { name: name.into(), dir: dir.into(), active }
    }

    fn vm(name: &str, devices: &str) -> Seen {
        let xml = format!("<domain><devices>{devices}</devices></domain>");
        let storage = DomainStorage::read(roxmltree::Document::parse(&xml).unwrap().root_element());
        let port = super::super::domains::Port::Ours;
        Seen { name: name.into(), uuid: Uuid::nil(), permitted: false, port, storage }
    }

    fn disk(file: &str, more: &str) -> String {
        format!("<disk type='file'><source file='{file}'/><target dev='vda'/>{more}</disk>")
    }

    fn words(found: &[Finding]) -> Vec<(Status, &str)> {
        found.iter().map(|f| (f.status, f.detail.as_str())).collect()
    }

    #[test]
    fn a_host_that_copies_nothing_has_nothing_to_be_judged() {
        assert_eq!(storage(&config(""), Some(&Here::default())), []);
    }

    #[test]
    fn directories_are_there_are_mounted_can_be_written_and_have_room() {
        let place =
            || Place { on_root: false, can_be_written: true, size_bytes: 100 << 20, free_bytes: 5 << 20 };
        assert_eq!(judged("d", Ok(place()), true, true), []);
        for (place, status, word) in [
            (Err(ErrorKind::NotFound.into()), Status::Fail, "not found"),
            (Err(ErrorKind::NotADirectory.into()), Status::Fail, "not a directory"),
            (Err(ErrorKind::PermissionDenied.into()), Status::Warn, "permission denied"),
            (Ok(Place { on_root: true, ..place() }), Status::Warn, "root file system"),
            (Ok(Place { free_bytes: (5 << 20) - 500, ..place() }), Status::Warn, "4 MiB free of 100"),
        ] {
            let found = judged("d", place, true, true);
            assert!(
                found.len() == 1 && found[0].status == status && found[0].detail.contains(word),
                "{found:?}"
            );
        }
        let sealed = Place { can_be_written: false, on_root: true, free_bytes: 0, ..place() };
        assert_eq!(judged("d", Ok(sealed), true, false).len(), 2);
        assert_eq!(judged("bases are only read", Ok(sealed), false, false), []);
        // The machine's own.
        assert!(look(Path::new("/")).is_ok_and(|place| place.on_root && place.size_bytes > 0));
        assert!(look(Path::new("/etc/passwd")).is_err());
    }

    #[test]
    fn pools_are_active_and_hold_the_images_of_those_that_take_part() {
        let dir = std::env::temp_dir();
        let image = |n: u8| disk(&dir.join(format!("{n}.raw")).display().to_string(), "");
        let told = |pools: Vec<Pool>, domains: Vec<Seen>| {
            let found = storage(&config("copy = true\nshared = [\"/proc\"]"), Some(&Here { domains, pools }));
            // How full this machine is, and that /proc takes no files, is not what is asked here.
            found
                .into_iter()
                .filter(|f| !f.detail.contains("free of") && !f.detail.contains("/proc"))
                .collect::<Vec<_>>()
        };
        let found = told(vec![pool("a", &dir, false)], vec![]);
        assert!(
            matches!(words(&found)[..], [(Status::Warn, text)] if text.contains("no storage pool")),
            "{found:?}"
        );
        let found = told(
            vec![pool("a", &dir, true), pool("b", Path::new("/b"), false)],
            vec![vm("web-1", &image(1))],
        );
        assert!(
            matches!(words(&found)[..], [(Status::Warn, text)] if text.contains("/b (pool b) is not active")),
            "{found:?}"
        );
        let found = told(vec![pool("a", Path::new("/nonexistent"), true)], vec![]);
        assert!(
            matches!(words(&found)[..], [(Status::Fail, text)] if text.contains("/nonexistent")),
            "{found:?}"
        );
        // Shared, read-only, and of a VM that does not take part.
        let elsewhere = disk("/srv/x.raw", "");
        let well = disk("/proc/1.raw", "") + &disk("/iso/a.iso", "<readonly/>") + &image(2);
        let found = told(vec![pool("a", &dir, true)], vec![vm("web-1", &well), vm("db", &elsewhere)]);
        assert!(found.iter().all(|f| f.status == Status::Ok), "{found:?}");
        let found = told(vec![pool("a", &dir, true)], vec![vm("web-1", &elsewhere)]);
        assert!(
            matches!(words(&found)[..], [(Status::Warn, text)] if text.contains("web-1: it has images in /srv,")),
            "{found:?}"
        );
    }
}
