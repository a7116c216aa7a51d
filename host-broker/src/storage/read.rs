//! From a domain's live XML.

use super::{Device, Disk, DomainStorage, Image, MOST, Source};
use roxmltree::Node;
use uuid::Uuid;

/// Backing images of one disk that are looked at.
const CHAIN: usize = 16;

impl DomainStorage {
    /// `domain` is the `<domain>` element of a running domain: only there libvirt tells what an overlay is of.
    pub fn read(domain: Node<'_, '_>) -> Self {
        let mut found = Self::default();
        let devices = domain.children().filter(|n| n.has_tag_name("devices")).flat_map(|d| d.children());
        for node in devices.filter(Node::is_element) {
            match node.tag_name().name() {
                "disk" => found.disks.push(disk(node)),
                "tpm" => found.devices.push(tpm(node)),
                "interface" => {
                    if node.attribute("type") == Some("hostdev") {
                        found.devices.push(Device::Stays("a network card of this host (interface hostdev)"));
                    }
                    let filter = child(node, "filterref").and_then(|f| f.attribute("filter"));
                    found.devices.extend(filter.map(|name| Device::Filter(name.to_owned())));
                }
                "hostdev" => found.devices.push(Device::Stays("a device of this host (hostdev)")),
                "filesystem" => {
                    found.devices.push(Device::Stays("a directory of this host (filesystem)"));
                }
                "shmem" => found.devices.push(Device::Stays("memory shared with this host (shmem)")),
                "smartcard" if node.attribute("mode") == Some("host") => {
                    found.devices.push(Device::Stays("a smartcard of this host"));
                }
                _ => {}
            }
            found.devices.extend(node.descendants().filter_map(secret));
            // More than that is not held, whatever there is.
            if found.disks.len() > MOST || found.devices.len() > MOST {
                found.too_many = true;
                found.disks.truncate(MOST);
                found.devices.truncate(MOST);
                break;
            }
        }
        found
    }
}

fn disk(node: Node<'_, '_>) -> Disk {
    let target = child(node, "target").and_then(|t| t.attribute("dev")).unwrap_or_default().to_owned();
    let format = child(node, "driver").and_then(|d| d.attribute("type")).unwrap_or_default();
    let image = image(node, format);
    let cdrom = node.attribute("device") == Some("cdrom");
    let readonly = cdrom || child(node, "readonly").is_some();
    let shareable = child(node, "shareable").is_some();
    let (mut chain, mut chain_known) = (Vec::new(), false);
    let mut next = child(node, "backingStore");
    while let Some(node) = next {
        // Without a type it is the end.
        if node.attribute("type").is_none() {
            chain_known = true;
            break;
        }
        if chain.len() == CHAIN {
            break;
        }
        let format = child(node, "format").and_then(|f| f.attribute("type")).unwrap_or_default();
        chain.push(self::image(node, format));
        next = child(node, "backingStore");
    }
    Disk { target, image, readonly, shareable, chain, chain_known }
}

/// A `<disk>` or a `<backingStore>`.
fn image(node: Node<'_, '_>, format: &str) -> Image {
    let source = child(node, "source");
    let of = |name| source.and_then(|s| s.attribute(name)).filter(|text| !text.is_empty());
    let kind = node.attribute("type").unwrap_or_default();
    let place = match kind {
        "file" => of("file").map_or(Source::Empty, |path| Source::File(path.to_owned())),
        "block" => of("dev").map_or(Source::Empty, |path| Source::Block(path.to_owned())),
        "network" => Source::Network(of("protocol").unwrap_or_default().to_owned()),
        other => Source::Other(other.to_owned()),
    };
    let encrypted = [Some(node), source].into_iter().flatten().any(|n| child(n, "encryption").is_some());
    // External data, of which the image is only the table.
    let split = source.is_some_and(|s| child(s, "dataStore").is_some());
    let place = if split { Source::Other("file with a dataStore".to_owned()) } else { place };
    Image { source: place, format: format.to_owned(), encrypted }
}

fn tpm(node: Node<'_, '_>) -> Device {
    match child(node, "backend").and_then(|b| b.attribute("type")) {
        Some("emulator") => Device::Tpm,
        _ => Device::Stays("a TPM of this host (backend passthrough or external)"),
    }
}

/// `<secret uuid='...'>` of a disk, or `<encryption secret='...'>` of a TPM's state.
fn secret(node: Node<'_, '_>) -> Option<Device> {
    let uuid = match node.tag_name().name() {
        "secret" => node.attribute("uuid"),
        "encryption" => Some(node.attribute("secret")?),
        _ => return None,
    };
    Some(match uuid.map(Uuid::parse_str) {
        Some(Ok(uuid)) => Device::Secret(uuid),
        Some(Err(_)) | None => Device::SecretByUsage(node.attribute("usage").unwrap_or_default().to_owned()),
    })
}

fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|n| n.has_tag_name(name))
}
