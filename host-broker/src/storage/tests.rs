use super::*;
use crate::config::Storage;
use proptest::prelude::*;

const GIB: u64 = 1 << 30;

fn read(devices: &str) -> DomainStorage {
    let xml = format!("<domain type='kvm'><devices>{devices}</devices></domain>");
    DomainStorage::read(roxmltree::Document::parse(&xml).unwrap().root_element())
}

/// As libvirt 9.0 shows it of a running VM.
fn disk(target: &str, format: &str, source: &str, chain: &str) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='{format}'/>{source}{chain}\
         <target dev='{target}' bus='virtio'/><alias name='virtio-disk0'/></disk>"
    )
}

fn plain(target: &str, format: &str, path: &str) -> String {
    disk(target, format, &format!("<source file='{path}' index='1'/>"), "<backingStore/>")
}

const OVERLAY_CHAIN: &str = "<backingStore type='file' index='3'><format type='qcow2'/>\
    <source file='/srv/base/debian.qcow2'/><backingStore/></backingStore>";

fn overlay(path: &str) -> String {
    disk("vda", "qcow2", &format!("<source file='{path}'/>"), OVERLAY_CHAIN)
}

fn policy() -> Storage {
    Storage {
        shared: vec!["/srv/nfs".into()],
        bases: vec!["/srv/base".into()],
        copy: true,
        copy_in_the_clear: true,
        remove_source: false,
        max_gib: None,
    }
}

fn pool(name: &str, available_bytes: u64) -> Option<Pool> {
    Some(Pool { name: name.into(), network: None, available_bytes })
}

fn volume(format: &str, capacity_bytes: u64, allocation_bytes: u64) -> Option<Volume> {
    Some(Volume { format: format.into(), capacity_bytes, allocation_bytes })
}

fn view(files: &[(&str, Option<Pool>, Option<Volume>)]) -> View {
    let seen = |(path, pool, volume): &(&str, Option<Pool>, Option<Volume>)| {
        ((*path).to_owned(), Seen { pool: pool.clone(), volume: volume.clone() })
    };
    View { files: files.iter().map(seen).collect(), ..View::default() }
}

const RAW: &str = "/images/vm.raw";
const QCOW2: &str = "/images/vm.qcow2";
const BASE: &str = "/srv/base/debian.qcow2";

/// Both ends of a raw disk of 2 GiB.
fn raw_ends() -> (View, View) {
    (
        view(&[(RAW, pool("default", 0), volume("raw", 2 * GIB, GIB))]),
        view(&[(RAW, pool("images", 10 * GIB), None)]),
    )
}

fn overlay_ends() -> (View, View) {
    let base = volume("qcow2", 20 * GIB, GIB);
    (
        view(&[
            (QCOW2, pool("default", 0), volume("qcow2", 20 * GIB, 200 << 20)),
            (BASE, pool("base", 0), base.clone()),
        ]),
        view(&[(QCOW2, pool("default", 5 * GIB), None), (BASE, pool("base", 0), base)]),
    )
}

fn kind(result: Result<Plan, Refusal>) -> RefusalKind {
    match result {
        Ok(plan) => panic!("not refused: {plan:?}"),
        Err(e) => e.kind,
    }
}

#[test]
fn reads_a_running_vm() {
    let found = read(&format!(
        "{}{}<disk type='network' device='disk'><driver name='qemu' type='raw'/><auth username='a'>\
         <secret type='ceph' uuid='11111111-2222-3333-4444-555555555555'/></auth><source protocol='rbd' \
         name='p/i'/><backingStore/><target dev='vdc'/></disk>\
         <disk type='file' device='cdrom'><target dev='sda'/><readonly/></disk>\
         <interface type='bridge'><filterref filter='clean-traffic'/></interface>\
         <tpm model='tpm-crb'><backend type='emulator' version='2.0'><encryption \
         secret='22222222-2222-3333-4444-555555555555'/></backend></tpm>\
         <hostdev mode='subsystem' type='pci'/><shmem name='s'/>\
         <tpm model='tpm-tis'><backend type='passthrough'/></tpm>",
        overlay(QCOW2),
        plain("vdb", "raw", RAW),
    ));
    let image = |source, format: &str| Image { source, format: format.into(), encrypted: false };
    assert_eq!(
        found.disks[0],
        Disk {
            target: "vda".into(),
            image: image(Source::File(QCOW2.into()), "qcow2"),
            readonly: false,
            shareable: false,
            chain: vec![image(Source::File(BASE.into()), "qcow2")],
            chain_known: true,
        }
    );
    assert_eq!(found.disks[1].chain, []);
    assert_eq!(found.disks[2].image.source, Source::Network("rbd".into()));
    assert_eq!((&found.disks[3].image.source, found.disks[3].readonly), (&Source::Empty, true));
    let devices = &found.devices;
    assert!(matches!(&devices[0], Device::Secret(uuid) if uuid.to_string().starts_with("11111111")));
    assert_eq!(devices[1..3], [Device::Filter("clean-traffic".into()), Device::Tpm]);
    assert!(matches!(&devices[3], Device::Secret(uuid) if uuid.to_string().starts_with("22222222")));
    assert!(devices[4..].iter().all(|d| matches!(d, Device::Stays(_))) && devices.len() == 7, "{devices:?}");
    let asked = question(&found, &policy());
    assert_eq!(asked.files, [BASE, QCOW2, RAW].map(str::to_owned).into());
    assert!(asked.tpm && asked.filters.len() == 1 && asked.secrets.len() == 2);
}

#[test]
fn a_disk_of_this_host_alone_is_copied() {
    let (here, there) = raw_ends();
    let storage = read(&plain("vda", "raw", RAW));
    let made = plan(&storage, Some(&here), &there, &policy()).unwrap();
    let copy = Copy {
        target: "vda".into(),
        path: RAW.into(),
        format: "raw".into(),
        capacity_bytes: 2 * GIB,
        needs_bytes: 2 * GIB,
        base: None,
    };
    assert_eq!((made.copies.clone(), made.incremental()), (vec![copy], false));
    assert!(made.notes[0].contains("copied"), "{:?}", made.notes);
    // Without the operator's word libvirt decides, as ever, and nobody is asked.
    let off = Storage { copy: false, ..policy() };
    assert!(question(&storage, &off).is_empty());
    assert_eq!(plan(&storage, None, &View::default(), &off).unwrap().copies, []);
}

#[test]
fn of_an_overlay_whose_base_is_there_only_itself_is_sent_and_beside_it_any_other_disk() {
    let (mut here, mut there) = overlay_ends();
    let (raw_here, raw_there) = raw_ends();
    here.files.extend(raw_here.files);
    there.files.extend(raw_there.files);
    let storage = read(&(overlay(QCOW2) + &plain("vdb", "raw", RAW)));
    let made = plan(&storage, Some(&here), &there, &policy()).unwrap();
    assert!(made.incremental());
    assert_eq!(made.targets(), ["vda", "vdb"]);
    assert_eq!(made.copies[0].base, Some((BASE.into(), "qcow2".into())));
    // Thin: 20 GiB for the guest, 200 MiB to be sent.
    assert_eq!(made.copies[0].needs_bytes, 216 << 20);
}

#[test]
fn a_base_that_is_not_surely_the_same_refuses() {
    let storage = read(&overlay(QCOW2));
    let (here, there) = overlay_ends();
    let unsaid = Storage { bases: Vec::new(), ..policy() };
    assert_eq!(kind(plan(&storage, Some(&here), &there, &unsaid)), RefusalKind::NoPlace);
    let with = |base| {
        let mut there = there.clone();
        there.files.get_mut(BASE).unwrap().volume = base;
        plan(&storage, Some(&here), &there, &policy())
    };
    assert!(with(volume("qcow2", 20 * GIB, 7)).is_ok(), "the same image may take another room");
    for other in [None, volume("raw", 20 * GIB, GIB), volume("qcow2", 21 * GIB, GIB)] {
        assert_eq!(kind(with(other)), RefusalKind::NoPlace);
    }
    // On a shared path it needs no pool.
    let shared = Storage { shared: vec!["/srv/base".into()], bases: Vec::new(), ..policy() };
    let mut nothing_said = there;
    nothing_said.files.remove(BASE);
    assert!(plan(&storage, Some(&here), &nothing_said, &shared).is_ok());
    // Where the chain ends libvirt must say.
    let unknown = read(&disk("vda", "qcow2", &format!("<source file='{QCOW2}'/>"), ""));
    assert_eq!(kind(plan(&unknown, Some(&here), &nothing_said, &shared)), RefusalKind::Disk);
}

#[test]
fn what_is_shared_is_not_copied() {
    let (here, there) = raw_ends();
    let devices = plain("vda", "raw", "/srv/nfs/vm.raw")
        + "<disk type='network'><source protocol='nbd'/><target dev='vdb'/></disk>\
           <disk type='block'><source dev='/srv/nfs/lun'/><target dev='vdc'/></disk>\
           <disk type='file' device='cdrom'><target dev='sda'/></disk>";
    let made = plan(&read(&devices), None, &View::default(), &policy()).unwrap();
    assert_eq!((made.copies.len(), made.notes.len()), (0, 4));
    for path in ["/srv/nfs-old/vm.raw", "/srv/nfs/../vm.raw", "/srv"] {
        let storage = read(&plain("vda", "raw", path));
        assert!(question(&storage, &policy()).files.contains(path), "{path} is not below /srv/nfs");
    }
    // Both hosts' pools mount the same thing, and nobody had to say so.
    let mount = |mut view: View, what: &str| {
        view.files.get_mut(RAW).unwrap().pool.as_mut().unwrap().network = Some(what.into());
        view
    };
    let storage = read(&plain("vda", "raw", RAW));
    let same =
        plan(&storage, Some(&mount(here.clone(), "nas:/a")), &mount(there.clone(), "nas:/a"), &policy());
    assert_eq!(same.unwrap().copies, []);
    let other = plan(&storage, Some(&mount(here, "nas:/a")), &mount(there, "nas:/b"), &policy());
    assert_eq!(other.unwrap().copies.len(), 1);
}

#[test]
fn a_disk_that_other_vms_use_too_is_not_copied() {
    let shareable = |path| plain("vda", "raw", path).replace("<target", "<shareable/><target");
    let storage = read(&shareable(RAW));
    assert!(storage.disks[0].shareable);
    let (here, there) = raw_ends();
    assert_eq!(kind(plan(&storage, Some(&here), &there, &policy())), RefusalKind::Disk);
    // Where all of them find the same file, it is.
    let mount = |mut view: View| {
        view.files.get_mut(RAW).unwrap().pool.as_mut().unwrap().network = Some("nas:/a".into());
        view
    };
    let shared = plan(&storage, Some(&mount(here)), &mount(there), &policy()).unwrap();
    assert_eq!(shared.copies, []);
    let shared = plan(&read(&shareable("/srv/nfs/vm.raw")), None, &View::default(), &policy()).unwrap();
    assert_eq!(shared.copies, []);
}

#[test]
fn what_cannot_be_copied_is_refused_with_its_reason() {
    let (here, there) = raw_ends();
    let refused = |devices: &str, here: &View, there: &View| {
        let refusal = plan(&read(devices), Some(here), there, &policy()).unwrap_err();
        assert!(!refusal.detail.is_empty());
        refusal.kind
    };
    let raw = plain("vda", "raw", RAW);
    let without_pool = view(&[(RAW, None, None)]);
    assert_eq!(refused(&raw, &here, &without_pool), RefusalKind::NoPlace);
    assert_eq!(refused(&raw, &without_pool, &there), RefusalKind::NoPlace);
    let taken = view(&[(RAW, pool("images", 10 * GIB), volume("raw", 2 * GIB, 0))]);
    assert_eq!(refused(&raw, &here, &taken), RefusalKind::InTheWay);
    let small = view(&[(RAW, pool("images", 2 * GIB - 1), None)]);
    assert_eq!(refused(&raw, &here, &small), RefusalKind::NoRoom);
    assert_eq!(refused(&raw, &here, &View::default()), RefusalKind::NotKnown);
    assert_eq!(kind(plan(&read(&raw), None, &there, &policy())), RefusalKind::NotKnown);
    // A guest has written another format's head into its raw disk: its size is whatever the guest wrote there.
    let posing = view(&[(RAW, pool("default", 0), volume("qcow2", 1, GIB))]);
    assert_eq!(refused(&raw, &posing, &there), RefusalKind::Disk);
    let vmdk = view(&[(RAW, pool("default", 0), volume("vmdk", GIB, GIB))]);
    assert_eq!(refused(&plain("vda", "vmdk", RAW), &vmdk, &there), RefusalKind::Disk);
    let source = format!("<source file='{RAW}'><encryption format='luks'/></source>");
    assert_eq!(refused(&disk("vda", "raw", &source, "<backingStore/>"), &here, &there), RefusalKind::Disk);
    for other in [
        "<disk type='block'><source dev='/dev/sdb'/><target dev='vda'/></disk>",
        "<disk type='nvme'><source type='pci'/><target dev='vda'/></disk>",
        "<disk type='volume'><source pool='p' volume='v'/><target dev='vda'/></disk>",
    ] {
        assert_eq!(refused(other, &here, &there), RefusalKind::Disk, "{other}");
    }
    let most = Storage { max_gib: Some(1), ..policy() };
    assert_eq!(kind(plan(&read(&raw), Some(&here), &there, &most)), RefusalKind::TooMuch);
    let many = read(&plain("vda", "raw", RAW).repeat(MOST + 1));
    assert!(many.too_many && plan(&many, Some(&here), &there, &policy()).is_err());
}

#[test]
fn two_disks_of_one_pool_need_room_for_both() {
    let two = ["/images/a.raw", "/images/b.raw"];
    let ends =
        |free, volume: Option<Volume>| view(&two.map(|path| (path, pool("images", free), volume.clone())));
    let storage = read(&(plain("vda", "raw", two[0]) + &plain("vdb", "raw", two[1])));
    let here = ends(0, volume("raw", 2 * GIB, 0));
    assert!(plan(&storage, Some(&here), &ends(4 * GIB, None), &policy()).is_ok());
    assert_eq!(kind(plan(&storage, Some(&here), &ends(4 * GIB - 1, None), &policy())), RefusalKind::NoRoom);
}

#[test]
fn a_read_only_image_must_be_there_where_that_can_be_told() {
    let iso = "<disk type='file' device='cdrom'><source file='/iso/a.iso'/><target dev='sda'/></disk>";
    let there = |pool: Option<Pool>, volume| view(&[("/iso/a.iso", pool, volume)]);
    let result = |view: &View| plan(&read(iso), None, view, &Storage::default());
    assert_eq!(kind(result(&there(pool("iso", 0), None))), RefusalKind::NoPlace);
    assert!(result(&there(pool("iso", 0), volume("raw", 1, 1))).is_ok());
    assert!(result(&there(None, None)).is_ok(), "libvirt finds out");
}

#[test]
fn devices_go_where_their_host_is_ready_for_them() {
    let (secret, state) = (Uuid::from_u128(5), Uuid::from_u128(6));
    let devices = format!(
        "<tpm><backend type='emulator'><encryption secret='{state}'/></backend></tpm>\
         <interface><filterref filter='f'/></interface>\
         <disk type='network'><auth><secret uuid='{secret}'/></auth><source protocol='rbd'/></disk>"
    );
    let storage = read(&devices);
    let filters =
        |all: &[(&str, &str)]| all.iter().map(|(name, rules)| ((*name).into(), (*rules).into())).collect();
    let ready = View {
        tpm: true,
        // The first includes the second.
        filters: filters(&[("f", "drop"), ("g", "accept")]),
        secrets: [secret, state].into(),
        ..View::default()
    };
    let planned = |here: Option<&View>, there: &View| plan(&storage, here, there, &Storage::default());
    assert!(planned(Some(&ready), &ready).is_ok());
    for (lacking, word) in [
        (View { tpm: false, ..ready.clone() }, "swtpm"),
        (View { filters: BTreeMap::new(), ..ready.clone() }, "`f` is not defined there"),
        (View { filters: filters(&[("f", "drop")]), ..ready.clone() }, "`g` is not defined there"),
        (
            View { filters: filters(&[("f", "drop"), ("g", "drop")]), ..ready.clone() },
            "`g` is another one there",
        ),
        (View { secrets: [state].into(), ..ready.clone() }, "secret-define"),
        (View { secrets: [secret].into(), ..ready.clone() }, "secret-define"),
    ] {
        let refusal = planned(Some(&ready), &lacking).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::DeviceNotReady, "{refusal:?}");
        assert!(refusal.detail.contains(word), "{word}: {refusal:?}");
    }
    assert_eq!(
        kind(planned(None, &ready)),
        RefusalKind::NotKnown,
        "with what would its filters be compared?"
    );
    for stays in [
        "<hostdev mode='subsystem' type='usb'/>",
        "<filesystem type='mount'><driver type='virtiofs'/></filesystem>",
        "<interface type='hostdev'/>",
        "<tpm><backend type='external'/></tpm>",
        "<disk type='network'><auth><secret usage='u'/></auth><source protocol='rbd'/></disk>",
    ] {
        let refused = plan(&read(stays), None, &ready, &Storage::default());
        assert_eq!(kind(refused), RefusalKind::Device, "{stays}");
    }
}

#[test]
fn each_refusal_has_a_reason_that_names_no_path() {
    use RefusalKind::*;
    for kind in [Disk, NoPlace, InTheWay, NoRoom, TooMuch, Device, DeviceNotReady, NotKnown] {
        assert!(!matches!(kind.reason(), DenyReason::Unknown(_)), "{kind:?}");
    }
}

proptest! {
    /// Whatever stands in the XML: bounded, and nothing is copied that a host did not confirm.
    #[test]
    fn nothing_is_copied_unasked(paths in proptest::collection::vec("[a-z/.]{0,12}", 0..80), format in "raw|qcow2|vdi") {
        let devices: String = paths.iter().map(|p| plain("vda", &format, &format!("/{p}"))).collect();
        let storage = read(&devices);
        prop_assert!(storage.disks.len() <= MOST && storage.devices.len() <= MOST);
        if let Ok(plan) = plan(&storage, Some(&View::default()), &View::default(), &policy()) {
            prop_assert!(plan.copies.is_empty());
        }
    }
}
