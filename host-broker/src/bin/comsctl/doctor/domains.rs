//! The domains and storage pools of this host as libvirt shows them; read-only.

use super::Finding;
use coms_broker::hypervisor::PART_NAMESPACE;
use coms_broker::io::libvirt::pool_directory;
use coms_broker::storage::DomainStorage;
use coms_protocol::{LINE_ALIAS, PORT_NAME};
use roxmltree::Document;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;
use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::storage_pool::StoragePool;

/// A libvirt that is stuck is a finding, not a reason to be stuck.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How guest and host could talk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Port {
    Ours,
    /// A channel whose name looks like a misspelt one of ours.
    Misnamed(String),
    /// The channel is ours and not a unix socket that libvirt binds.
    OtherKind,
    None,
}

#[derive(Debug, Clone)]
pub struct Seen {
    pub name: String,
    pub uuid: Uuid,
    /// `comsctl enable` let it take part.
    pub permitted: bool,
    pub port: Port,
    pub storage: DomainStorage,
}

/// A storage pool whose volumes are files.
#[derive(Debug, Clone)]
pub struct Pool {
    pub name: String,
    pub dir: PathBuf,
    pub active: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Here {
    /// Running or not.
    pub domains: Vec<Seen>,
    pub pools: Vec<Pool>,
}

pub fn look(uri: &str) -> Result<Here, String> {
    let uri = uri.to_owned();
    let (tx, rx) = mpsc::channel();
    std::thread::spawn(move || {
        // libvirt would print its errors itself; they are in the finding.
        virt::error::clear_error_callback();
        let seen = Connect::open_read_only(Some(&uri)).and_then(|conn| {
            let all = conn.list_all_domains(0)?;
            // Not every libvirt has a storage driver.
            let pools = conn.list_all_storage_pools(0).unwrap_or_default();
            // What is undefined meanwhile is no finding.
            Ok(Here {
                domains: all.iter().filter_map(|d| seen(d).ok()).collect(),
                pools: pools.iter().filter_map(pool).collect(),
            })
        });
        let _ = tx.send(seen.map_err(|e| e.to_string()));
    });
    rx.recv_timeout(ANSWER_WITHIN)
        .unwrap_or_else(|_| Err(format!("no answer within {} s", ANSWER_WITHIN.as_secs())))
}

fn seen(domain: &Domain) -> Result<Seen, virt::error::Error> {
    let (name, uuid) = (domain.get_name()?, domain.get_uuid_string()?);
    let uuid = Uuid::parse_str(&uuid).unwrap_or_default();
    let xml = domain.get_xml_desc(0)?;
    let doc = Document::parse(&xml).ok();
    let storage = doc.map(|doc| DomainStorage::read(doc.root_element())).unwrap_or_default();
    Ok(Seen { name, uuid, permitted: permitted(&xml), port: port(&xml), storage })
}

fn pool(pool: &StoragePool) -> Option<Pool> {
    let dir = pool_directory(&pool.get_xml_desc(0).ok()?)?;
    Some(Pool { name: pool.get_name().ok()?, dir, active: pool.is_active().ok()? })
}

/// From a domain's XML.
fn permitted(xml: &str) -> bool {
    let part = |n: roxmltree::Node| n.tag_name().namespace() == Some(PART_NAMESPACE);
    Document::parse(xml).is_ok_and(|doc| doc.descendants().any(part))
}

/// From a domain's XML.
fn port(xml: &str) -> Port {
    let Ok(doc) = Document::parse(xml) else { return Port::None };
    let mut best = Port::None;
    for node in doc.descendants().filter(|n| ["channel", "serial", "console"].contains(&n.tag_name().name()))
    {
        let child = |tag: &str, attribute: &str| {
            let found = node.children().find(|c| c.has_tag_name(tag));
            found.and_then(|c| c.attribute(attribute)).unwrap_or_default().to_owned()
        };
        let bound = node.attribute("type") == Some("unix") && child("source", "mode") != "connect";
        let name = child("target", "name");
        if name == PORT_NAME || child("alias", "name") == LINE_ALIAS {
            if bound {
                return Port::Ours;
            }
            best = Port::OtherKind;
        } else if name.to_lowercase().contains("coms") && best == Port::None {
            best = Port::Misnamed(name);
        }
    }
    best
}

pub fn unreachable(uri: &str, why: &str) -> Finding {
    let remedy =
        "systemctl status libvirtd (or virtqemud); a user who is not root must be in the group libvirt";
    Finding::fail("libvirt", format!("{uri}: {why}"), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_our_port_in_each_form_and_tells_what_is_wrong_with_one_that_is_not() {
        let channel = |kind: &str, name: &str| {
            format!(
                "<domain><devices><channel type='{kind}'><target type='virtio' name='{name}'/></channel></devices></domain>"
            )
        };
        let serial = format!(
            "<domain><devices><serial type='unix'><source mode='bind' path='/s'/>\
             <alias name='{LINE_ALIAS}'/></serial></devices></domain>"
        );
        for (xml, expected) in [
            (channel("unix", PORT_NAME), Port::Ours),
            (serial, Port::Ours),
            (channel("pty", PORT_NAME), Port::OtherKind),
            (channel("unix", "org.coms.0"), Port::Misnamed("org.coms.0".into())),
            (channel("unix", "org.qemu.guest_agent.0"), Port::None),
            ("<domain/>".to_owned(), Port::None),
        ] {
            assert_eq!(port(&xml), expected, "{xml}");
        }
        let with = format!("<domain><metadata><c:part xmlns:c='{PART_NAMESPACE}'/></metadata></domain>");
        assert!(permitted(&with) && !permitted("<domain/>"));
    }

    #[test]
    fn a_libvirt_that_is_not_there_is_an_error_and_a_finding() {
        let why = look("nosuchdriver:///system").unwrap_err();
        assert!(unreachable("nosuchdriver:///system", &why).detail.contains("nosuchdriver"), "{why}");
    }
}
