//! The certificates that QEMU here needs for encrypted moves, as far as this broker tells of them: whether they are there,
//! and the fingerprint of the one that others are shown. What is wrong with them `comsctl doctor` finds.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Without the client's two a host can be moved to, and not from: libvirt asks both ends for theirs.
const FILES: [&str; 5] =
    ["ca-cert.pem", "server-cert.pem", "server-key.pem", "client-cert.pem", "client-key.pem"];
/// A chain of certificates is a few KiB.
const MOST_BYTES: u64 = 256 * 1024;

/// SHA-256, in hexadecimal, of the server's certificate; None unless all files are there and can be read.
pub fn installed(dir: &Path) -> Option<String> {
    for name in FILES {
        let mut first = [0; 1];
        File::open(dir.join(name)).ok()?.read_exact(&mut first).ok()?;
    }
    let mut pem = Vec::new();
    File::open(dir.join("server-cert.pem")).ok()?.take(MOST_BYTES).read_to_end(&mut pem).ok()?;
    crate::certificates::fingerprint(&pem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_that_is_missing_or_empty_is_not_ready() {
        let dir = std::env::temp_dir().join(format!("coms-certificate-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let pem = crate::certificates::make::authority("h1", [1; 16], 1_800_000_000).unwrap().cert_pem;
        for name in FILES {
            assert_eq!(installed(&dir), None, "before {name}");
            std::fs::write(dir.join(name), &pem).unwrap();
        }
        assert_eq!(installed(&dir), crate::certificates::fingerprint(pem.as_bytes()));
        assert!(installed(&dir).is_some());
        std::fs::write(dir.join("client-key.pem"), "").unwrap();
        assert_eq!(installed(&dir), None);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
