//! Whether a host may confirm that it has installed what its authority made for it last. Its receipt is of QEMU's files; it is
//! given only where libvirt has none of an earlier step.

use super::read::{Certificate, certificates};
use super::{Content, File, Set, receipt};
use std::path::Path;

/// libvirt's own files, wherever its daemons and clients look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LibvirtFiles {
    pub authorities: Vec<File>,
    pub servers: Vec<File>,
    pub clients: Vec<File>,
}

/// The receipt of what is installed. None: there is nothing to make one of. The error: why there is to be none.
pub fn confirmation(qemu: &Set, libvirt: &LibvirtFiles) -> Result<Option<String>, String> {
    let (Some(ca), Some(cert)) = (qemu.ca.bytes(), qemu.server.cert.bytes()) else { return Ok(None) };
    if all(&qemu.client.cert) != all(&qemu.server.cert) {
        return Err(format!("{} is another certificate than the server's", qemu.client.cert.path.display()));
    }
    match behind(qemu, qemu, libvirt) {
        Some(path) => Err(format!("{} is of an earlier step", path.display())),
        None => Ok(receipt(ca, cert)),
    }
}

/// One of libvirt's files that has to do with the authority of QEMU's, which are `new` or about to be, and is not the same.
/// Those of an authority that is nobody's here are let alone.
pub fn behind<'a>(new: &Set, old: &Set, libvirt: &'a LibvirtFiles) -> Option<&'a Path> {
    let ours: Vec<Certificate> = [&new.ca, &old.ca].into_iter().flat_map(all).collect();
    let differs = |file: &File, wanted: &File| {
        let has = all(file);
        let is_ours = has.iter().any(|c| ours.iter().any(|a| a == c || c.is_signed_by(a)));
        let is_unread = has.is_empty() && file.content != Content::Missing;
        is_unread || is_ours && has != all(wanted)
    };
    [
        (&libvirt.authorities, &new.ca),
        (&libvirt.servers, &new.server.cert),
        (&libvirt.clients, &new.client.cert),
    ]
    .into_iter()
    .flat_map(|(files, wanted)| files.iter().map(move |file| (file, wanted)))
    .find_map(|(file, wanted)| differs(file, wanted).then_some(file.path.as_path()))
}

fn all(file: &File) -> Vec<Certificate> {
    file.bytes().and_then(|bytes| certificates(bytes).ok()).unwrap_or_default()
}
