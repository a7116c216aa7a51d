//! What becomes of each disk and device of a domain that goes to one host.

use super::{Copy, Device, Disk, DomainStorage, Image, Plan, Question, Refusal, RefusalKind, Source, View};
use crate::config::Storage;
use std::collections::BTreeMap;
use std::path::{Component, Path};

/// Beside what an image takes now: what its tables grow by while it is copied.
const SLACK_BYTES: u64 = 16 << 20;

/// What must be known of this host and of each destination before a plan can be made.
pub fn question(storage: &DomainStorage, policy: &Storage) -> Question {
    let mut asked = Question::default();
    for disk in &storage.disks {
        let Source::File(path) = &disk.image.source else { continue };
        if is_below(path, &policy.shared) || !(disk.readonly || policy.copy) {
            continue;
        }
        asked.files.insert(path.clone());
        let bases = disk.chain.iter().filter(|_| !disk.readonly);
        asked.files.extend(bases.filter_map(|base| match &base.source {
            Source::File(path) => Some(path.clone()),
            Source::Empty | Source::Block(_) | Source::Network(_) | Source::Other(_) => None,
        }));
    }
    for device in &storage.devices {
        match device {
            Device::Tpm => asked.tpm = true,
            Device::Filter(name) => drop(asked.filters.insert(name.clone())),
            Device::Secret(uuid) => drop(asked.secrets.insert(*uuid)),
            Device::SecretByUsage(_) | Device::Stays(_) => {}
        }
    }
    asked
}

/// `here` and `there` are both hosts' answers to [`question`].
pub fn plan(
    storage: &DomainStorage,
    here: Option<&View>,
    there: &View,
    policy: &Storage,
) -> Result<Plan, Refusal> {
    if storage.too_many {
        return no(RefusalKind::Device, "it has more disks or devices than are looked at");
    }
    for device in &storage.devices {
        ready(device, here, there)?;
    }
    let mut plan = Plan::default();
    for disk in &storage.disks {
        let (note, copy) = match of_disk(disk, here, there, policy)? {
            Way::Stays(why) => (why, None),
            Way::Copied(copy) => {
                let how = match &copy.base {
                    Some((base, _)) => format!("the overlay of {base} is copied"),
                    None => "copied".to_owned(),
                };
                (how, Some(copy))
            }
        };
        plan.notes.push(format!("{}: {} {note}", disk.target, name(&disk.image)));
        plan.copies.extend(copy);
    }
    has_room(&plan, there)?;
    let sum = plan.copies.iter().fold(0u64, |sum, c| sum.saturating_add(c.needs_bytes));
    match policy.max_gib {
        Some(most) if sum > most.saturating_mul(1 << 30) => no(
            RefusalKind::TooMuch,
            format!("{} MiB would have to be copied, and [storage] max_gib is {most}", sum >> 20),
        ),
        Some(_) | None => Ok(plan),
    }
}

/// What becomes of one disk.
enum Way {
    /// It is there as well, or libvirt says whether it is; why, for the operator.
    Stays(String),
    Copied(Copy),
}

fn of_disk(disk: &Disk, here: Option<&View>, there: &View, policy: &Storage) -> Result<Way, Refusal> {
    let stays = |why: &str| Ok(Way::Stays(why.to_owned()));
    let path = match &disk.image.source {
        Source::Empty => return stays("is empty"),
        Source::Network(_) => return stays("is reached over the network from both hosts"),
        Source::File(path) | Source::Block(path) if is_below(path, &policy.shared) => {
            return stays("is shared ([storage] shared)");
        }
        // As it was before anything was copied: libvirt finds out whether it is safe, and refuses what is not.
        Source::Block(_) | Source::Other(_) if disk.readonly || !policy.copy => {
            return stays("is libvirt's to judge");
        }
        Source::Block(path) => {
            let what = format!("{path} is a block device, and only images in files are copied");
            return no(RefusalKind::Disk, format!("{}: {what}; {SHARED_HINT}", disk.target));
        }
        Source::Other(kind) => {
            let what = format!("a disk of libvirt's type `{kind}` is not copied");
            return no(RefusalKind::Disk, format!("{}: {what}", disk.target));
        }
        Source::File(path) => path,
    };
    if disk.readonly {
        let seen = there.files.get(path);
        return match seen.map(|s| (&s.pool, &s.volume)) {
            Some((Some(pool), None)) => no(
                RefusalKind::NoPlace,
                format!("{}: {path} is read-only, and pool {} there lacks it", disk.target, pool.name),
            ),
            Some((Some(_), Some(_))) => stays("is read-only and there"),
            Some((None, _)) => stays("is read-only; libvirt finds out whether it is there"),
            None => changed(path),
        };
    }
    if !policy.copy {
        return stays("is libvirt's to judge: [storage] copy is off");
    }
    copied(disk, path, told(here)?, there, policy)
}

const SHARED_HINT: &str = "if both hosts see the same one, name its directory in [storage] shared";

fn copied(disk: &Disk, path: &str, here: &View, there: &View, policy: &Storage) -> Result<Way, Refusal> {
    let target = &disk.target;
    let (Some(at_home), Some(away)) = (here.files.get(path), there.files.get(path)) else {
        return changed(path);
    };
    let (Some(pool), Some(pool_there)) = (&at_home.pool, &away.pool) else {
        let whose = if at_home.pool.is_none() { "this host" } else { "the destination" };
        let detail = format!("{target}: the directory of {path} is no active storage pool of {whose}");
        return no(RefusalKind::NoPlace, format!("{detail}; {SHARED_HINT}"));
    };
    if let (Some(mounted), Some(mounted_there)) = (&pool.network, &pool_there.network)
        && mounted == mounted_there
    {
        return Ok(Way::Stays(format!("is shared: both pools mount {mounted}")));
    }
    // libvirt leaves such disks out by itself, but not one that it is told to copy.
    if disk.shareable {
        let what =
            format!("{target}: {path} is shareable: of a copy the other VMs that use it would see nothing");
        return no(RefusalKind::Disk, format!("{what}; {SHARED_HINT}"));
    }
    let Some(volume) = &at_home.volume else {
        return no(RefusalKind::NoPlace, format!("{target}: pool {} here does not know {path}", pool.name));
    };
    if away.volume.is_some() {
        let what = format!("{target}: {path} exists at the destination and was not made for this move");
        return no(
            RefusalKind::InTheWay,
            format!("{what}; it is never overwritten: remove it there, or {SHARED_HINT}"),
        );
    }
    if disk.image.encrypted || disk.chain.iter().any(|i| i.encrypted) {
        return no(
            RefusalKind::Disk,
            format!("{target}: {path} is encrypted, and such images are not copied"),
        );
    }
    let format = disk.image.format.as_str();
    if !matches!(format, "raw" | "qcow2") {
        let what = format!("{target}: {path} has the format `{format}`");
        return no(RefusalKind::Disk, format!("{what}; raw and qcow2 images are copied"));
    }
    // What a guest wrote into a raw image may look like another format, of another size.
    if volume.format != format {
        let looks = &volume.format;
        let what = format!("{target}: {path} is used as {format} and looks like {looks}");
        return no(RefusalKind::Disk, format!("{what}: its size cannot be told"));
    }
    if format == "qcow2" && !disk.chain_known {
        return no(
            RefusalKind::Disk,
            format!("{target}: libvirt does not tell what {path} is an overlay of"),
        );
    }
    for base in &disk.chain {
        is_there(target, base, here, there, policy)?;
    }
    let base = disk.chain.first().and_then(|i| match &i.source {
        Source::File(path) => Some((path.clone(), i.format.clone())),
        Source::Empty | Source::Block(_) | Source::Network(_) | Source::Other(_) => None,
    });
    let needs_bytes = match format {
        "raw" => volume.capacity_bytes,
        _ => volume.allocation_bytes.saturating_add(SLACK_BYTES),
    };
    Ok(Way::Copied(Copy {
        target: target.clone(),
        path: path.to_owned(),
        format: format.to_owned(),
        capacity_bytes: volume.capacity_bytes,
        needs_bytes,
        base,
    }))
}

/// Whether an overlay's base is the same there. That its content is, the operator says by naming its directory.
fn is_there(target: &str, base: &Image, here: &View, there: &View, policy: &Storage) -> Result<(), Refusal> {
    let Source::File(path) = &base.source else {
        return no(RefusalKind::Disk, format!("{target}: its base {} is no file", name(base)));
    };
    if is_below(path, &policy.shared) {
        return Ok(());
    }
    if !is_below(path, &policy.bases) {
        let what = format!("{target}: its base {path} is in no directory of [storage] bases or shared");
        return no(RefusalKind::NoPlace, format!("{what}: nobody says that it is the same at both hosts"));
    }
    let (Some(at_home), Some(away)) = (here.files.get(path), there.files.get(path)) else {
        return changed(path);
    };
    match (&at_home.volume, &away.volume) {
        (Some(a), Some(b))
            if a.capacity_bytes == b.capacity_bytes && a.format == b.format && a.format == base.format =>
        {
            Ok(())
        }
        (Some(a), Some(b)) => no(
            RefusalKind::NoPlace,
            format!(
                "{target}: its base {path} differs: {} of {} bytes here, {} of {} bytes at the destination",
                a.format, a.capacity_bytes, b.format, b.capacity_bytes
            ),
        ),
        (None, _) => {
            no(RefusalKind::NoPlace, format!("{target}: no active storage pool here knows its base {path}"))
        }
        (_, None) => no(
            RefusalKind::NoPlace,
            format!("{target}: no active storage pool at the destination has its base {path}"),
        ),
    }
}

fn ready(device: &Device, here: Option<&View>, there: &View) -> Result<(), Refusal> {
    match device {
        Device::Tpm if !there.tpm => {
            lacks("its TPM is emulated, and libvirt there finds no swtpm and swtpm_setup".to_owned())
        }
        Device::Filter(name) if !there.filters.contains_key(name) => lacks(no_filter(name)),
        Device::Filter(_) => same_filters(told(here)?, there),
        Device::Secret(uuid) if !there.secrets.contains(uuid) => {
            lacks(format!("secret {uuid} is not defined there (virsh secret-define, secret-set-value)"))
        }
        Device::SecretByUsage(usage) => {
            no(RefusalKind::Device, format!("its secret is named by usage `{usage}`; name it by uuid"))
        }
        Device::Stays(what) => no(RefusalKind::Device, format!("it uses {what}, which no move takes along")),
        Device::Tpm | Device::Secret(_) => Ok(()),
    }
}

/// All of this VM's, with those that they include. Rules under a known name that are other ones would let through what they
/// should not, and nobody would notice.
fn same_filters(here: &View, there: &View) -> Result<(), Refusal> {
    for (name, rules) in &here.filters {
        match there.filters.get(name) {
            Some(same) if same == rules => {}
            Some(_) => {
                let what = format!("its network filter `{name}` is another one there");
                return lacks(format!("{what} (compare virsh nwfilter-dumpxml {name} at both hosts)"));
            }
            None => return lacks(no_filter(name)),
        }
    }
    Ok(())
}

fn no_filter(name: &str) -> String {
    format!("its network filter `{name}` is not defined there (virsh nwfilter-define)")
}

fn lacks<T>(what: String) -> Result<T, Refusal> {
    no(RefusalKind::DeviceNotReady, what)
}

/// What this host has, where that must be known.
fn told(here: Option<&View>) -> Result<&View, Refusal> {
    let silent = "this host's libvirt did not tell of its pools and filters in time";
    here.map_or_else(|| no(RefusalKind::NotKnown, silent), Ok)
}

/// Each pool must take all that comes to it.
fn has_room(plan: &Plan, there: &View) -> Result<(), Refusal> {
    let mut needs: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for copy in &plan.copies {
        let Some(pool) = there.files.get(&copy.path).and_then(|s| s.pool.as_ref()) else { continue };
        let (sum, _) = needs.entry(&pool.name).or_insert((0, pool.available_bytes));
        *sum = sum.saturating_add(copy.needs_bytes);
    }
    match needs.into_iter().find(|(_, (needed, free))| needed > free) {
        Some((pool, (needed, free))) => no(
            RefusalKind::NoRoom,
            format!("pool {pool} there has {} MiB free, and {} MiB are needed", free >> 20, needed >> 20),
        ),
        None => Ok(()),
    }
}

/// By whole names, and never by a path that leads out again.
fn is_below(path: &str, dirs: &[String]) -> bool {
    let path = Path::new(path);
    let straight = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    straight && dirs.iter().any(|dir| path.starts_with(dir))
}

fn name(image: &Image) -> &str {
    match &image.source {
        Source::Empty => "no medium",
        Source::File(path) | Source::Block(path) => path,
        Source::Network(protocol) => protocol,
        Source::Other(kind) => kind,
    }
}

fn changed<T>(path: &str) -> Result<T, Refusal> {
    no(RefusalKind::NotKnown, format!("{path}: the VM has changed since the hosts were asked"))
}

fn no<T>(kind: RefusalKind, detail: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { kind, detail: detail.into() })
}
