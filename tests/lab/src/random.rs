//! Names that nobody else has.

use std::{fs::File, io::Read as _};

use crate::error::{Doing as _, Result};

pub(crate) fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .doing(|| "reading /dev/urandom".into())?;
    Ok(bytes)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A lab's name: short, as it ends up in socket paths.
pub(crate) fn random_id() -> Result<String> {
    random_bytes::<3>().map(|bytes| hex(&bytes))
}

/// A version 4 UUID.
pub(crate) fn random_uuid() -> Result<String> {
    let mut bytes = random_bytes::<16>()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex(&bytes);
    Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}
