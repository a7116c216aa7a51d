//! The few facts the broker takes from libvirt's XML.

use crate::hypervisor::{Mark, Needs};
use crate::network::{INTERFACES, Interface, STRETCHED, is_bridge};
use crate::storage::{Copy, DomainStorage};
use coms_protocol::{LINE_ALIAS, PORT_NAME};
use roxmltree::{Document, Node};
use std::collections::BTreeMap;
use std::path::PathBuf;
use uuid::Uuid;

/// Where the broker's ticket lives in a domain's metadata, and where the schedule of random moves does.
pub(super) const TICKET_NAMESPACE: &str = crate::ticket::NAMESPACE;
pub(super) const SCHEDULE_NAMESPACE: &str = crate::schedule::NAMESPACE;
/// Where it says that its moves are to be encrypted.
pub(super) const SEAL_NAMESPACE: &str = crate::seal::NAMESPACE;
/// Where it says that the operator lets the domain take part.
pub(super) const PART_NAMESPACE: &str = crate::hypervisor::PART_NAMESPACE;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub channel: Option<PathBuf>,
    pub needs: Needs,
    pub ticket_xml: Option<String>,
    pub random_xml: Option<String>,
    pub seal_xml: Option<String>,
    pub permitted: bool,
    pub interfaces: Vec<Interface>,
    pub storage: DomainStorage,
}

/// How a domain and we could talk, as far as it can be changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Port {
    /// Our channel, as it stands in the XML: libvirt takes away what looks exactly like this.
    pub element: Option<String>,
    /// A serial line of ours, which was made by hand.
    pub line: bool,
    /// Channels can be added while it runs.
    pub controller: bool,
}

pub(super) fn port(xml: &str) -> Result<Port, roxmltree::Error> {
    let doc = Document::parse(xml)?;
    let mut port = Port::default();
    for node in child(doc.root_element(), "devices").into_iter().flat_map(|devices| devices.children()) {
        match node.tag_name().name() {
            "channel" if child(node, "target").and_then(|t| t.attribute("name")) == Some(PORT_NAME) => {
                port.element = xml.get(node.range()).map(str::to_owned);
            }
            "serial" | "console" => {
                let alias = child(node, "alias").and_then(|a| a.attribute("name"));
                port.line |= alias == Some(LINE_ALIAS);
            }
            "controller" => port.controller |= node.attribute("type") == Some("virtio-serial"),
            _ => {}
        }
    }
    Ok(port)
}

/// What a domain is given. libvirt chooses the socket's path, anew at each host.
pub(super) fn new_port() -> String {
    format!("<channel type='unix'><target type='virtio' name='{PORT_NAME}'/></channel>")
}

/// From a domain's XML; from that of a domain which does not run, there is no channel path to be had.
pub(super) fn facts(xml: &str) -> Result<Facts, roxmltree::Error> {
    let doc = Document::parse(xml)?;
    let domain = doc.root_element();
    let os_type = child(domain, "os").and_then(|os| child(os, "type"));
    let attribute =
        |node: Option<Node>, name| node.and_then(|n| n.attribute(name)).unwrap_or_default().to_owned();

    let devices = child(domain, "devices");
    let unix = |tag: &'static str| {
        devices
            .into_iter()
            .flat_map(|devices| devices.children())
            .filter(move |n| n.has_tag_name(tag) && n.attribute("type") == Some("unix"))
    };
    let bound = |n: Node| {
        let source = child(n, "source").filter(|s| s.attribute("mode") == Some("bind"))?;
        source.attribute("path").map(PathBuf::from)
    };
    let has_alias = |n: &Node| child(*n, "alias").and_then(|a| a.attribute("name")) == Some(LINE_ALIAS);
    let channel = unix("channel")
        .filter(|n| child(*n, "target").and_then(|t| t.attribute("name")) == Some(PORT_NAME))
        .find_map(bound)
        // A guest without virtio-serial: any line of that alias. The virtio port goes first; it hangs up.
        .or_else(|| unix("serial").chain(unix("console")).filter(has_alias).find_map(bound));

    // Of a libvirt network, too, the live XML names the bridge.
    let card = |n: Node| {
        let mac = child(n, "mac").and_then(|m| m.attribute("address")).unwrap_or_default();
        let bridge = child(n, "source").and_then(|s| s.attribute("bridge"));
        // Never left out: a VM of which one card is forgotten would be half reachable.
        Interface::new(mac, bridge).unwrap_or_else(Interface::unknown)
    };
    let cards = devices.into_iter().flat_map(|devices| devices.children());
    let cards = cards.filter(|n| n.has_tag_name("interface")).take(INTERFACES + 1);

    // libvirt declares the namespace on the element itself, so its text stands alone.
    let metadata = child(domain, "metadata");
    let element = |namespace: &str| {
        let mut children = metadata.into_iter().flat_map(|metadata| metadata.children());
        let node = children.find(|n| n.is_element() && n.tag_name().namespace() == Some(namespace))?;
        xml.get(node.range()).map(str::to_owned)
    };

    Ok(Facts {
        channel,
        needs: Needs {
            virt_type: attribute(Some(domain), "type"),
            arch: attribute(os_type, "arch"),
            machine: attribute(os_type, "machine"),
        },
        ticket_xml: element(TICKET_NAMESPACE),
        random_xml: element(SCHEDULE_NAMESPACE),
        seal_xml: element(SEAL_NAMESPACE),
        permitted: element(PART_NAMESPACE).is_some(),
        interfaces: cards.map(card).collect(),
        storage: DomainStorage::read(domain),
    })
}

/// The host's UUID in virConnectGetCapabilities.
pub(super) fn host_uuid(capabilities: &str) -> Option<Uuid> {
    let doc = Document::parse(capabilities).ok()?;
    let uuid = child(child(doc.root_element(), "host")?, "uuid")?.text()?;
    Uuid::parse_str(uuid.trim()).ok()
}

/// A broker's sign of life, as a secret's definition.
pub(super) fn mark_xml(uuid: Uuid, mark: &Mark) -> String {
    // Its own name and version, numbers, and bridges' names: nothing to be escaped.
    let Mark { broker, beat, unix_ms, stretched, tls } = mark;
    let stretched = stretched.join(" ");
    let tls = tls.as_deref().unwrap_or("none");
    format!(
        "<secret ephemeral='yes' private='yes'><uuid>{uuid}</uuid>\
         <description>{broker}; beat {beat}; unix_ms {unix_ms}; stretched {stretched}; tls {tls}</description></secret>"
    )
}

/// Back from libvirt. Only this host's brokers write it, but whoever may manage the host can: its text is bounded.
pub(super) fn mark(xml: &str) -> Option<Mark> {
    let doc = Document::parse(xml).ok()?;
    let text = child(doc.root_element(), "description")?.text()?;
    let mut parts = text.split("; ");
    let broker = parts.next()?.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(64).collect();
    let beat = parts.next()?.strip_prefix("beat ")?.parse().ok()?;
    let unix_ms = parts.next()?.strip_prefix("unix_ms ")?.parse().ok()?;
    // One of before says none.
    let stretched = parts.next().and_then(|p| p.strip_prefix("stretched ")).unwrap_or_default();
    let stretched = stretched.split(' ').filter(|name| is_bridge(name)).take(STRETCHED).map(str::to_owned);
    let stretched = stretched.collect();
    let is_print = |text: &&str| text.len() == 64 && text.chars().all(|c| c.is_ascii_hexdigit());
    let tls = parts.next().and_then(|p| p.strip_prefix("tls ")).filter(is_print).map(str::to_owned);
    Some(Mark { broker, beat, unix_ms, stretched, tls })
}

/// Whether a host's libvirt, by its domain capabilities, can emulate a TPM: it finds swtpm and its helper.
pub(super) fn emulates_tpm(capabilities: &str) -> bool {
    let Ok(doc) = Document::parse(capabilities) else { return false };
    let devices = child(doc.root_element(), "devices");
    let tpm = devices.and_then(|d| child(d, "tpm")).filter(|t| t.attribute("supported") == Some("yes"));
    let mut kinds = tpm.into_iter().flat_map(|t| t.descendants());
    kinds.any(|n| n.has_tag_name("value") && n.text() == Some("emulator"))
}

pub(super) fn volume_format(volume: &str) -> String {
    let find = || {
        let doc = Document::parse(volume).ok()?;
        let format = child(child(doc.root_element(), "target")?, "format")?.attribute("type")?;
        Some(format.to_owned())
    };
    find().unwrap_or_default()
}

/// What a network filter says, and the names of those that it includes. Without its UUID, which is another on each host, and
/// in one form, however the host's libvirt writes it.
pub(super) fn filter(xml: &str) -> (String, Vec<String>) {
    let Ok(doc) = Document::parse(xml) else { return (xml.to_owned(), Vec::new()) };
    let (mut rules, mut included) = (String::new(), Vec::new());
    for node in doc.root_element().descendants().filter(|n| n.is_element() && !n.has_tag_name("uuid")) {
        let attributes: BTreeMap<_, _> = node.attributes().map(|a| (a.name(), a.value())).collect();
        let (depth, tag) = (node.ancestors().count(), node.tag_name().name());
        rules.push_str(&format!("{depth} {tag} {attributes:?}\n"));
        if tag == "filterref" {
            included.extend(node.attribute("filter").map(str::to_owned));
        }
    }
    (rules, included)
}

/// What a pool mounts over the network, as its definition says.
pub(super) fn mounted(pool: &str) -> Option<String> {
    let doc = Document::parse(pool).ok()?;
    let root = doc.root_element();
    if root.attribute("type") != Some("netfs") {
        return None;
    }
    let source = child(root, "source")?;
    let host = child(source, "host")?.attribute("name")?;
    let dir = child(source, "dir")?.attribute("path")?;
    Some(format!("{host}:{dir}"))
}

/// Where a pool's files are, of one whose volumes are files.
pub fn target_dir(pool: &str) -> Option<PathBuf> {
    let doc = Document::parse(pool).ok()?;
    let root = doc.root_element();
    matches!(root.attribute("type"), Some("dir" | "fs" | "netfs")).then_some(())?;
    let path = child(child(root, "target")?, "path")?.text()?;
    Some(PathBuf::from(path.trim()))
}

/// Whether a domain's XML names a file, wherever it does: as a disk, as what a disk is an overlay of, as anything else.
/// `volume` is the same file by its pool and its name there.
pub(super) fn names(domain: &str, path: &str, volume: (&str, &str)) -> Result<bool, roxmltree::Error> {
    let doc = Document::parse(domain)?;
    let names = |n: Node| {
        let in_pool = (n.attribute("pool"), n.attribute("volume")) == (Some(volume.0), Some(volume.1));
        in_pool
            || n.attributes().any(|a| a.value() == path)
            || n.text().is_some_and(|text| text.trim() == path)
    };
    Ok(doc.descendants().any(names))
}

/// An empty image for a disk to be copied into. It takes room as it is filled.
pub(super) fn volume(name: &str, copy: &Copy) -> String {
    let compat = if copy.format == "qcow2" { "<compat>1.1</compat>" } else { "" };
    let base = copy.base.as_ref().map(|(path, format)| {
        let (path, format) = (escaped(path), escaped(format));
        format!("<backingStore><path>{path}</path><format type='{format}'/></backingStore>")
    });
    format!(
        "<volume><name>{}</name><capacity unit='bytes'>{}</capacity><allocation unit='bytes'>0</allocation>\
         <target><format type='{}'/>{compat}</target>{}</volume>",
        escaped(name),
        copy.capacity_bytes,
        escaped(&copy.format),
        base.unwrap_or_default()
    )
}

fn escaped(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&apos;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
        out
    })
}

fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|n| n.has_tag_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVE: &str = r#"<domain type='qemu' id='3'>
  <name>vm1</name>
  <metadata>
    <other:x xmlns:other="urn:other">1</other:x>
    <coms:ticket xmlns:coms="urn:coms:domain:1" id="7">a &amp; b</coms:ticket>
  </metadata>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
  <devices>
    <interface type='bridge'>
      <mac address='52:54:00:00:00:01'/><source bridge='br0'/><target dev='vnet3'/>
    </interface>
    <interface type='user'><mac address='52:54:00:00:00:02'/></interface>
    <channel type='unix'>
      <source mode='bind' path='/run/other'/>
      <target type='virtio' name='org.qemu.guest_agent.0' state='connected'/>
    </channel>
    <channel type='unix'>
      <source mode='bind' path='/var/lib/libvirt/qemu/channel/target/domain-3-vm1/org.coms.agent.0'/>
      <target type='virtio' name='org.coms.agent.0' state='disconnected'/>
    </channel>
  </devices>
</domain>"#;

    #[test]
    fn a_running_domain() {
        let facts = facts(LIVE).unwrap();
        assert_eq!(
            facts.channel,
            Some(PathBuf::from("/var/lib/libvirt/qemu/channel/target/domain-3-vm1/org.coms.agent.0"))
        );
        assert_eq!(
            facts.needs,
            Needs { virt_type: "qemu".into(), arch: "x86_64".into(), machine: "pc-q35-7.2".into() }
        );
        let card = |mac: &str, bridge: Option<&str>| Interface::new(mac, bridge).unwrap();
        let cards = [card("52:54:00:00:00:01", Some("br0")), card("52:54:00:00:00:02", None)];
        assert_eq!(facts.interfaces, cards);
        assert_eq!(
            facts.ticket_xml.as_deref(),
            Some(r#"<coms:ticket xmlns:coms="urn:coms:domain:1" id="7">a &amp; b</coms:ticket>"#)
        );
    }

    #[test]
    fn no_network_card_is_left_out() {
        let strange = LIVE.replace("52:54:00:00:00:02", "none of the kind");
        assert_eq!(facts(&strange).unwrap().interfaces[1], Interface::unknown());
        let card =
            "<interface type='bridge'><mac address='52:54:00:00:00:03'/><source bridge='br0'/></interface>";
        let many = LIVE.replace("<interface type='user'>", &(card.repeat(30) + "<interface type='user'>"));
        assert!(facts(&many).unwrap().interfaces.len() > INTERFACES, "so that it can be refused");
    }

    #[test]
    fn a_port_without_a_path_or_of_another_kind_is_none_of_ours() {
        for channel in [
            "<channel type='unix'><target type='virtio' name='org.coms.agent.0'/></channel>",
            "<channel type='unix'><source mode='connect' path='/x'/><target name='org.coms.agent.0'/></channel>",
            "<channel type='spicevmc'><source mode='bind' path='/x'/><target name='org.coms.agent.0'/></channel>",
            "<channel type='unix'><source mode='bind' path='/x'/><target name='org.coms.agent.1'/></channel>",
        ] {
            let xml = format!("<domain type='kvm'><devices>{channel}</devices></domain>");
            let facts = facts(&xml).unwrap();
            assert_eq!((facts.channel, facts.ticket_xml), (None, None), "{channel}");
            assert_eq!(facts.needs.machine, "");
        }
    }

    #[test]
    fn a_serial_line_is_found_by_its_alias() {
        let found = |devices: &str| {
            facts(&format!("<domain type='kvm'><devices>{devices}</devices></domain>")).unwrap().channel
        };
        let line = |tag: &str, alias: &str| {
            format!(
                "<{tag} type='unix'><source mode='bind' path='/run/{tag}'/><target port='1'/><alias name='{alias}'/></{tag}>"
            )
        };
        for tag in ["serial", "console"] {
            let devices = line("serial", "serial0") + &line(tag, "ua-org-coms-agent-0");
            assert_eq!(found(&devices), Some(PathBuf::from(format!("/run/{tag}"))));
            for other in ["serial1", "org-coms-agent-0", "ua-org-coms-agent-1"] {
                assert_eq!(found(&line(tag, other)), None, "{other}");
            }
        }
        let both = "<channel type='unix'><source mode='bind' path='/run/virtio'/><target name='org.coms.agent.0'/></channel>";
        let both = line("serial", "ua-org-coms-agent-0") + both;
        assert_eq!(found(&both), Some(PathBuf::from("/run/virtio")), "virtio first");
        let pty =
            "<serial type='pty'><source path='/dev/pts/1'/><alias name='ua-org-coms-agent-0'/></serial>";
        assert_eq!(found(pty), None);
    }

    #[test]
    fn what_can_be_plugged_and_unplugged() {
        let found = port(LIVE).unwrap();
        let element = found.element.unwrap();
        assert!(element.starts_with("<channel type='unix'>") && element.ends_with("</channel>"), "{element}");
        assert!(element.contains("domain-3-vm1/org.coms.agent.0"), "{element}");
        assert!((found.line, found.controller) == (false, false));
        let devices = |inside: &str| format!("<domain><devices>{inside}</devices></domain>");
        let serial = "<controller type='virtio-serial' index='0'/><serial><alias name='ua-org-coms-agent-0'/></serial>";
        assert_eq!(port(&devices(serial)).unwrap(), Port { element: None, line: true, controller: true });
        assert_eq!(port(&devices("")).unwrap(), Port::default());
        assert!(port(&devices(&new_port())).unwrap().element.is_some());
    }

    #[test]
    fn the_permission_is_an_element_of_its_own() {
        let with = LIVE.replace("</metadata>", "<coms:part xmlns:coms=\"urn:coms:part:1\"/></metadata>");
        assert!(facts(&with).unwrap().permitted && !facts(LIVE).unwrap().permitted);
    }

    #[test]
    fn whether_a_host_emulates_tpms() {
        let with = |tpm: &str| format!("<domainCapabilities><devices>{tpm}</devices></domainCapabilities>");
        let both = "<tpm supported='yes'><enum name='backendModel'><value>passthrough</value>\
                    <value>emulator</value></enum></tpm>";
        assert!(emulates_tpm(&with(both)));
        assert!(!emulates_tpm(&with(&both.replace("emulator", "external"))));
        assert!(!emulates_tpm(&with("<tpm supported='no'/>")) && !emulates_tpm("nonsense"));
    }

    #[test]
    fn a_filter_is_the_same_however_it_is_written_and_another_one_by_any_rule() {
        let own = "<filter name='f' chain='root' priority='-700'><uuid>1</uuid><filterref filter='no-spoof'/>\
                   <rule action='drop' direction='in' priority='500'><tcp dstportstart='7'/></rule></filter>";
        let other = "<filter chain='root' name='f' priority='-700'>\n  <uuid>2</uuid>\n  <filterref filter='no-spoof'/>\n\
                     <rule direction='in' priority='500' action='drop'>\n<tcp dstportstart='7'/></rule>\n</filter>\n";
        let (rules, included) = filter(own);
        assert_eq!((&rules, included), (&filter(other).0, vec!["no-spoof".to_owned()]));
        for (from, to) in [
            ("'drop'", "'accept'"),
            ("'7'", "'8'"),
            ("'500'", "'501'"),
            ("<filterref filter='no-spoof'/>", ""),
            ("<tcp dstportstart='7'/></rule>", "</rule><tcp dstportstart='7'/>"),
        ] {
            assert_ne!(filter(&own.replace(from, to)).0, rules, "{from} -> {to}");
        }
        assert_ne!(filter("no xml").0, filter("no xml either").0);
    }

    #[test]
    fn an_image_is_described_so_that_its_name_says_nothing_else() {
        let copy = Copy {
            target: "vda".into(),
            path: "/i/a'&<b>.qcow2".into(),
            format: "qcow2".into(),
            capacity_bytes: 4096,
            needs_bytes: 0,
            base: Some(("/b/\"'.raw".into(), "raw".into())),
        };
        let xml = volume("a'&<b>.qcow2", &copy);
        let doc = Document::parse(&xml).unwrap();
        let root = doc.root_element();
        assert_eq!(child(root, "name").unwrap().text(), Some("a'&<b>.qcow2"));
        let base = child(root, "backingStore").unwrap();
        assert_eq!(child(base, "path").unwrap().text(), Some("/b/\"'.raw"));
        assert_eq!(volume_format(&xml), "qcow2");
    }

    #[test]
    fn a_file_is_found_wherever_a_domain_names_it() {
        let names = |devices: &str| {
            let xml = format!("<domain><devices>{devices}</devices></domain>");
            names(&xml, "/i/a.raw", ("images", "a.raw")).unwrap()
        };
        for names_it in [
            "<disk><source file='/i/a.raw'/></disk>",
            "<disk><source file='/i/b'/><backingStore><source file='/i/a.raw'/></backingStore></disk>",
            "<disk type='volume'><source pool='images' volume='a.raw'/></disk>",
            "<loader>/i/a.raw</loader>",
        ] {
            assert!(names(names_it), "{names_it}");
        }
        assert!(!names(
            "<disk><source file='/i/a.raw2'/></disk><disk><source pool='p' volume='a.raw'/></disk>"
        ));
    }

    #[test]
    fn what_a_pool_mounts() {
        let pool = |kind: &str| {
            format!("<pool type='{kind}'><source><host name='nas'/><dir path='/vol/vms'/></source></pool>")
        };
        assert_eq!(mounted(&pool("netfs")).as_deref(), Some("nas:/vol/vms"));
        assert_eq!(mounted(&pool("dir")), None);
    }

    #[test]
    fn not_xml_is_an_error() {
        assert!(facts("<domain").is_err());
    }

    #[test]
    fn the_host_uuid() {
        let id = "3d9e5c2a-6d2b-4a3e-9c4f-1d2e3f405162";
        let xml = format!("<capabilities><host><uuid>{id}</uuid><cpu/></host><guest/></capabilities>");
        assert_eq!(host_uuid(&xml), Some(Uuid::parse_str(id).unwrap()));
        assert_eq!(host_uuid("<capabilities><host/></capabilities>"), None);
        assert_eq!(host_uuid("nonsense"), None);
    }
}
