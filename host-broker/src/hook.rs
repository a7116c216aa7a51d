//! What libvirt's hook asks where a VM arrives: may it? (`comsctl hook`, called by
//! `/etc/libvirt/hooks/qemu.d/coms-broker` with the domain's XML.)
//!
//! Everybody's moves pass here, also those past the brokers: a VM with a seal that requires encryption comes with a
//! waybill of a broker or not at all. What cannot be understood and may hold a seal does not come either.

use crate::seal::{NAMESPACE, Refused, Seal, SealError, WaybillKey};
use roxmltree::Document;
use uuid::Uuid;

/// More XML than this is not looked at. libvirt's own limit for it is larger; no VM comes near either.
pub const MOST_BYTES: usize = 1024 * 1024;

/// This host, as far as a waybill is concerned.
pub struct Here {
    /// Its name in the pool's configurations.
    pub name: String,
    /// The pool's secret, where it has one.
    pub key: Option<WaybillKey>,
    pub now_unix_ms: u64,
}

/// Why a VM does not come in. What stands here is what `virsh migrate` shows to whoever began the move.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSo {
    #[error(
        "its XML is longer than {MOST_BYTES} bytes, and whether its moves must be encrypted cannot be seen"
    )]
    TooLong,
    #[error("its XML cannot be read ({0}), and it says something of encryption")]
    Unreadable(String),
    #[error("it names no UUID")]
    NoUuid,
    #[error("{0}")]
    Seal(#[from] SealError),
    #[error("its moves must be encrypted, and {0}")]
    Refused(#[from] Refused),
    #[error("its moves must be encrypted, and this host cannot judge its waybill: {0}")]
    NoJudge(String),
}

/// Whether the domain may come in. `here` is asked for only where there is something to judge.
pub fn may_arrive(xml: &[u8], here: impl FnOnce() -> Result<Here, String>) -> Result<(), NotSo> {
    if xml.len() > MOST_BYTES {
        return Err(NotSo::TooLong);
    }
    if !xml.windows(NAMESPACE.len()).any(|w| w == NAMESPACE.as_bytes()) {
        return Ok(());
    }
    let unreadable = |e: String| NotSo::Unreadable(e);
    let text = std::str::from_utf8(xml).map_err(|e| unreadable(e.to_string()))?;
    let doc = Document::parse(text).map_err(|e| unreadable(e.to_string()))?;
    let domain = doc.root_element();
    let child = |name: &str| domain.children().find(|n| n.has_tag_name(name));
    // Whoever writes a second one means no good.
    let metadata = child("metadata").into_iter().flat_map(|m| m.children());
    let seals: Vec<_> = metadata.filter(|n| n.tag_name().namespace() == Some(NAMESPACE)).collect();
    if seals.is_empty() {
        return Ok(());
    }
    let uuid = child("uuid").and_then(|n| n.text()).and_then(|t| Uuid::parse_str(t.trim()).ok());
    let uuid = uuid.ok_or(NotSo::NoUuid)?;
    let mut here = Some(here);
    let mut known: Option<Here> = None;
    for node in seals {
        let seal = Seal::from_node(node)?;
        if seal.requires_nothing() {
            continue;
        }
        if let Some(ask) = here.take() {
            known = Some(ask().map_err(NotSo::NoJudge)?);
        }
        let Some(Here { name, key, now_unix_ms }) = &known else { continue };
        seal.admits(key.as_ref(), uuid, name, *now_unix_ms)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::Waybill;
    use coms_protocol::types::EncryptionLevel;

    const VM: &str = "00000000-0000-0000-0000-000000000007";
    const NOW: u64 = 1_800_000_000_000;

    fn xml(seals: &[Seal]) -> String {
        let elements: String = seals
            .iter()
            .map(|s| s.to_xml().replacen("<seal", &format!("<coms:seal xmlns:coms='{NAMESPACE}'"), 1))
            .collect();
        format!("<domain type='kvm'><name>a</name><uuid>{VM}</uuid><metadata>{elements}</metadata></domain>")
    }

    fn seal(level: EncryptionLevel, to: Option<&str>) -> Seal {
        let key = WaybillKey([1; 32]);
        let vm = Uuid::parse_str(VM).unwrap();
        let waybill = to.map(|to| Waybill::issue(Some(&key), vm, to, NOW, 600_000));
        Seal { level, wish: level, at: Vec::new(), waybill }
    }

    fn ask(xml: &str) -> Result<(), NotSo> {
        may_arrive(xml.as_bytes(), || {
            Ok(Here { name: "h2".into(), key: Some(WaybillKey([1; 32])), now_unix_ms: NOW })
        })
    }

    #[test]
    fn what_requires_encryption_comes_with_a_waybill_or_not_at_all() {
        use EncryptionLevel::{IfPossible, Required};
        assert_eq!(ask(&xml(&[])), Ok(()));
        assert_eq!(ask(&xml(&[seal(IfPossible, None)])), Ok(()));
        assert_eq!(ask(&xml(&[seal(Required, Some("h2"))])), Ok(()));
        assert_eq!(ask(&xml(&[seal(Required, None)])), Err(NotSo::Refused(Refused::NoWaybill)));
        let elsewhere = ask(&xml(&[seal(Required, Some("h3"))]));
        assert_eq!(elsewhere, Err(NotSo::Refused(Refused::ForAnother("h3".into()))));
        // A rule of the source's operator for this host, or for another.
        let at = |host: &str, to| Seal { at: vec![host.into()], ..seal(EncryptionLevel::Never, to) };
        assert_eq!(ask(&xml(&[at("h2", None)])), Err(NotSo::Refused(Refused::NoWaybill)));
        assert_eq!(ask(&xml(&[at("h2", Some("h2"))])), Ok(()));
        assert_eq!(ask(&xml(&[at("h3", None)])), Ok(()));
        // A second seal does not hide the first.
        let two = ask(&xml(&[seal(IfPossible, None), seal(Required, None)]));
        assert_eq!(two, Err(NotSo::Refused(Refused::NoWaybill)));
    }

    #[test]
    fn who_needs_no_judgement_asks_for_none() {
        let nobody = || Err("no configuration".to_owned());
        assert_eq!(may_arrive(xml(&[]).as_bytes(), nobody), Ok(()));
        assert_eq!(may_arrive(xml(&[seal(EncryptionLevel::IfPossible, None)]).as_bytes(), nobody), Ok(()));
        let judged = may_arrive(xml(&[seal(EncryptionLevel::Required, Some("h2"))]).as_bytes(), nobody);
        assert!(matches!(judged, Err(NotSo::NoJudge(_))));
    }

    #[test]
    fn what_is_not_understood_stays_out_if_it_may_hold_a_seal() {
        assert_eq!(ask("<no xml"), Ok(()), "libvirt's own business");
        assert!(matches!(
            ask(&xml(&[seal(EncryptionLevel::Required, Some("h2"))])[1..]),
            Err(NotSo::Unreadable(_))
        ));
        let strange =
            xml(&[seal(EncryptionLevel::Required, Some("h2"))]).replace("level='2'", "level='much'");
        assert_eq!(ask(&strange), Err(NotSo::Seal(SealError::Field("level"))));
        let nameless = xml(&[seal(EncryptionLevel::Required, Some("h2"))]).replace(VM, "none");
        assert_eq!(ask(&nameless), Err(NotSo::NoUuid));
        assert_eq!(ask(&" ".repeat(MOST_BYTES + 1)), Err(NotSo::TooLong));
    }
}
