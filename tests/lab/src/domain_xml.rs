//! A guest as libvirt's domain XML.

use std::{net::Ipv4Addr, path::Path};

use coms_protocol::{LINE_ALIAS, PORT_NAME};

use crate::{
    debian,
    guest::{GuestConfig, Line},
    requirements::kernel_dir,
};

/// Where a host's QEMU writes what the guest says on its console, inside the host.
pub(crate) fn console_path(name: &str) -> String {
    format!("/var/log/libvirt/{name}.console")
}

/// The same on every host: nothing in it names one.
pub(crate) fn domain_xml(config: &GuestConfig, uuid: &str, initrd: &Path) -> String {
    let name = &config.name;
    let (kernel, disk, options) = match debian::dir(config.system) {
        None => (kernel_dir(), String::new(), ""),
        // Read-only, which libvirt holds to be safe to migrate wherever the file is.
        Some(dir) => {
            let disk = format!(
                "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}/disk.img'/>\
                 <target dev='vda' bus='virtio'/><readonly/></disk>",
                dir.display()
            );
            // The address is the one that PID 1 gave to eth0.
            (dir, disk, " net.ifnames=0 systemd.show_status=no")
        }
    };
    let ports =
        config.port.then_some(PORT_NAME).into_iter().chain(config.more_ports.iter().map(String::as_str));
    let channels: String = ports
        .map(|port| format!("<channel type='unix'><target type='virtio' name='{port}'/></channel>"))
        .collect();
    let line = match config.line {
        None => String::new(),
        Some(Line::Isa) => line(name, "serial", "isa-serial"),
        Some(Line::Hvc) => line(name, "console", "virtio"),
    };
    let metadata = match config.metadata_xml.as_str() {
        "" => String::new(),
        xml => format!("<metadata>{xml}</metadata>"),
    };
    let odd_memory = odd_memory(config.memory_mib);
    // libvirt adds a USB controller where a device needs one, unless there is to be none.
    let usb =
        if config.devices_xml.contains("type='usb'") { "" } else { "<controller type='usb' model='none'/>" };
    format!(
        r#"<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  {metadata}
  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu>{vcpus}</vcpu>
  <os>
    <type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type>
    <kernel>{kernel}/vmlinuz</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>console=ttyS0 quiet panic=0 rdinit=/init tsc=unstable{options}</cmdline>
  </os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>destroy</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    {usb}
    {disk}
    {devices}
    <interface type='bridge'>
      <mac address='{mac}'/>
      <source bridge='guests'/>
      <model type='virtio'/>
      <rom enabled='no'/>
    </interface>
    <serial type='file'><source path='{console}' append='on'/><target port='0'/></serial>
    {line}
    {channels}
    <video><model type='none'/></video>
    <memballoon model='virtio' freePageReporting='on'/>
  </devices>
  {odd_memory}
</domain>
"#,
        devices = config.devices_xml,
        vcpus = config.vcpus,
        memory_mib = config.memory_mib,
        kernel = kernel.display(),
        initrd = initrd.display(),
        mac = mac(config.ip),
        console = console_path(name),
    )
}

/// 8 KiB more memory than libvirt can say.
///
/// QEMU before 9.0 loses writes of an emulated guest while it migrates: where it takes the dirty bits of a block of
/// memory 64 pages at a time, it does not tell the emulated CPU, which goes on writing to those pages unnoticed (mended
/// by QEMU's commit 03bfc2188f, "Fix migration dirty bitmap coherency with TCG memory access"). A block whose length
/// is no multiple of 64 pages it goes through page by page, and rightly.
fn odd_memory(memory_mib: u32) -> String {
    let kib = u64::from(memory_mib) * 1024 + 8;
    let bytes = kib * 1024;
    let args = [
        "-m".to_owned(),
        format!("{kib}k"),
        "-object".to_owned(),
        format!("memory-backend-ram,id=odd.ram,size={bytes}"),
        "-machine".to_owned(),
        "memory-backend=odd.ram".to_owned(),
    ];
    let args: String = args.iter().map(|arg| format!("<qemu:arg value='{arg}'/>")).collect();
    format!("<qemu:commandline>{args}</qemu:commandline>")
}

/// A line with a socket on the host; libvirt gives channels a path by itself, but not these.
fn line(name: &str, tag: &str, target: &str) -> String {
    format!(
        "<{tag} type='unix'><source mode='bind' path='/var/lib/libvirt/qemu/{name}.line'/>\
         <target type='{target}' port='1'/><alias name='{LINE_ALIAS}'/></{tag}>"
    )
}

/// In QEMU's range, and the guest's own by its address.
pub(crate) fn mac(ip: Ipv4Addr) -> String {
    let [_, b, c, d] = ip.octets();
    format!("52:54:00:{b:02x}:{c:02x}:{d:02x}")
}
