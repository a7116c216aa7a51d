//! Every byte that a broker sent to a guest, searched for what a guest must not know.

use crate::{HOSTS, Result, SITES, Stage};
use coms_protocol::frame::Decoder;

/// Fails if a host's name, an address, a URI or a path was sent to a guest, whole frames and raw bytes alike;
/// and if nothing was sent at all, for then nothing was checked.
pub fn check_nothing_of_the_host_was_told(stage: &Stage, guests: usize) -> Result<()> {
    let mut forbidden: Vec<String> =
        ["qemu+", "qemu:", "tcp:", "://", "/system", "/var/lib", "/run/", "libvirt", "virErr", "mig0"]
            .into_iter()
            .chain(HOSTS)
            .chain(SITES)
            .map(str::to_lowercase)
            .collect();
    let mut hosts = Vec::new();
    for host in stage.lab.hosts() {
        forbidden.push(host.ip().to_string());
        forbidden.push(host.migration_ip().to_string());
        hosts.push(host);
    }
    let mut recorded = 0;
    for host in hosts {
        let Ok(dir) = std::fs::read_dir(host.path_of("/var/lib/coms/links")) else { continue };
        for file in dir {
            let bytes = std::fs::read(file?.path())?;
            recorded += usize::from(!bytes.is_empty());
            search(&bytes, &forbidden)?;
            let mut rest = bytes.as_slice();
            let mut decoder = Decoder::new();
            while let Some(body) = decoder.next_frame(&mut rest) {
                search(&body, &forbidden)?;
            }
        }
    }
    if guests > 0 && recorded == 0 {
        return Err("no byte sent to a guest was recorded: nothing was checked".into());
    }
    Ok(())
}

fn search(bytes: &[u8], forbidden: &[String]) -> Result<()> {
    let lower = bytes.to_ascii_lowercase();
    for word in forbidden {
        if lower.windows(word.len()).any(|w| w == word.as_bytes()) {
            return Err(format!("a guest was told {word:?}: {:?}", String::from_utf8_lossy(bytes)).into());
        }
    }
    Ok(())
}
