//! What the stories of disks share: storage pools, disks that only one host has, and a guest that writes all the time.

use crate::{Result, wait};
use coms_lab::{Guest, Host};
use std::time::Duration;

/// A storage pool, once [`pool`] has made it one.
pub const IMAGES: &str = "/var/lib/libvirt/images";
/// Lines of `broker.toml`: disks go along, and back again.
pub const COPIED: &str = "[storage]\ncopy = true\ncopy_in_the_clear = true\nremove_source = true";
/// What a writer writes at once.
const BLOCK: &str = "64k";

pub fn pool(host: &Host, name: &str, dir: &str) -> Result<()> {
    std::fs::create_dir_all(host.path_of(dir))?;
    host.virsh(&["pool-create-as", name, "dir", "--target", dir])?;
    Ok(())
}

pub fn disk(target: &str, format: &str, file: &str) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='{format}'/><source file='{file}'/>\
         <target dev='{target}' bus='virtio'/></disk>"
    )
}

/// Something in the guest that writes to a disk all the time, and keeps in memory what it wrote.
#[derive(Debug, Clone, Copy)]
pub struct Writer {
    /// `vda`
    pub device: &'static str,
    /// The first block of 64 KiB that it writes to.
    pub first: u32,
    pub blocks: u32,
}

impl Writer {
    pub fn start(&self, guest: &Guest) -> Result<()> {
        let Self { device, first, blocks } = self;
        // sync alone does not tell a disk without a file system to write what it holds back.
        guest.sh(&format!(
            "cd /tmp; {}>{device}.model; \
             setsid sh -c 'i=0; while [ ! -e stop ]; do i=$((i+1)); n=$((i * 37 % {blocks})); \
             dd if=/dev/urandom of={device}.block bs={BLOCK} count=1; \
             dd if={device}.block of={device}.model bs={BLOCK} seek=$n conv=notrunc; \
             dd if={device}.block of=/dev/{device} bs={BLOCK} seek=$((n + {first})) conv=notrunc,fsync; \
             echo $i >{device}.written; done; touch {device}.stopped' </dev/null >/dev/null 2>&1 &",
            self.read()
        ))?;
        wait("the guest to write", 20, || Ok(self.written(guest).is_ok_and(|n| n > 3)))
    }

    /// How many blocks so far.
    pub fn written(&self, guest: &Guest) -> Result<u64> {
        Ok(guest.sh(&format!("cat /tmp/{}.written", self.device))?.trim().parse()?)
    }

    /// Ends it, with all others, and reads from the disk what it wrote there.
    pub fn ends_with_all_there(&self, guest: &Guest) -> Result<()> {
        guest.sh("touch /tmp/stop")?;
        let stopped = format!("test -e /tmp/{}.stopped", self.device);
        wait("the guest to have written", 20, || Ok(guest.sh(&stopped).is_ok()))?;
        let line = format!(
            "cd /tmp; sync; echo 3 >/proc/sys/vm/drop_caches; {} | cmp - {}.model",
            self.read(),
            self.device
        );
        guest.exec_with(&["sh", "-c", &line], "", Duration::from_secs(60))?.success()?;
        Ok(())
    }

    fn read(&self) -> String {
        let Self { device, first, blocks } = self;
        format!("dd if=/dev/{device} bs={BLOCK} skip={first} count={blocks} 2>/dev/null")
    }
}
