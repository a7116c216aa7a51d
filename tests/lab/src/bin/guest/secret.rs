//! What a guest holds and nobody else may read: pages full of a pattern, in memory or on a disk.

use std::{
    fs::{self, File},
    hint::black_box,
    io::Write as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::Outcome;

/// There once memory is full of it.
const HELD: &str = "/run/coms-lab-secret";
const PAGE: usize = 4096;

/// Holds it in memory, and comes back when it is there.
pub(crate) fn start(mib: &str, hex: &str) -> Outcome {
    let _ = fs::remove_file(HELD);
    crate::load::start("secret", &[mib, hex])?;
    let begun = Instant::now();
    while !Path::new(HELD).exists() {
        if begun.elapsed() > Duration::from_secs(25) {
            return Err("memory is not full of the secret after 25 s".into());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

pub(crate) fn hold(mib: usize, hex: &str) -> Outcome {
    let page = page(hex)?;
    let mut memory = vec![0; mib << 20];
    for part in memory.chunks_exact_mut(PAGE) {
        part.copy_from_slice(&page);
    }
    fs::write(HELD, "")?;
    loop {
        black_box(&memory);
        thread::sleep(Duration::from_secs(3600));
    }
}

/// Writes it to a disk or file, down to the disk.
pub(crate) fn write(path: &str, mib: usize, hex: &str) -> Outcome {
    let page = page(hex)?;
    let mut file = File::options().create(true).truncate(false).write(true).open(path)?;
    for _ in 0..(mib << 20) / PAGE {
        file.write_all(&page)?;
    }
    Ok(file.sync_all()?)
}

fn page(hex: &str) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let digits = hex.as_bytes().chunks_exact(2);
    let byte = |two: &[u8]| u8::from_str_radix(&String::from_utf8_lossy(two), 16);
    let secret: Vec<u8> = digits.map(byte).collect::<Result<_, _>>()?;
    if secret.is_empty() || !PAGE.is_multiple_of(secret.len()) {
        return Err(format!("a secret of {} bytes does not fill pages", secret.len()).into());
    }
    Ok(secret.repeat(PAGE / secret.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_full_of_it() {
        let full = page("00ff10").map_err(|e| e.to_string());
        assert_eq!(full.unwrap_err(), "a secret of 3 bytes does not fill pages");
        let full = page("00ff10aa").unwrap();
        assert_eq!((full.len(), &full[4090..]), (4096, &[0x10, 0xaa, 0, 0xff, 0x10, 0xaa][..]));
        assert!(page("").is_err() && page("zz").is_err());
    }
}
