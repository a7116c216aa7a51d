//! `[encryption]`: from what was typed to what may be relied on.

use super::check::{Wrong, guest_pattern, wrong};
use super::raw::TypedEncryption;
use super::{Encryption, EncryptionRule};
use coms_protocol::types::EncryptionLevel;
use std::collections::BTreeSet;

impl TypedEncryption {
    pub(super) fn check(self, hosts: &BTreeSet<String>) -> Result<Encryption, Wrong> {
        if let Some(path) = self.certificates.as_ref().filter(|p| !p.is_absolute()) {
            let what = format!("`{}` is relative", path.display());
            let right = "write the directory of qemu.conf's migrate_tls_x509_cert_dir";
            return wrong("encryption.certificates", what, right);
        }
        let mut rules = Vec::new();
        for (i, rule) in self.rules.into_iter().enumerate() {
            let key = |key: &str| format!("encryption.rules[{i}].{key}");
            for (name, list) in [("hosts", &rule.hosts), ("to", &rule.to)] {
                if let Some(no) = list.iter().find(|h| !hosts.contains(*h)) {
                    let right = "name hosts of this file: host.name and hosts[].name";
                    return wrong(
                        key(name),
                        format!("`{}` is no host of this file", no.escape_debug()),
                        right,
                    );
                }
            }
            if rule.hosts.is_empty() && !rule.to.is_empty() {
                let right = "name the hosts at the one end in `hosts`, those at the other in `to`";
                return wrong(key("hosts"), "is not set, and `to` is", right);
            }
            let guests = rule.guests.into_iter().map(|g| guest_pattern(&key("guests"), g));
            rules.push(EncryptionRule {
                guests: guests.collect::<Result<_, _>>()?,
                hosts: rule.hosts,
                to: rule.to,
                level: level(&key("level"), &rule.level)?,
            });
        }
        let default = level("encryption.default", &self.default)?;
        Ok(Encryption {
            certificates: self.certificates,
            default,
            tell_certificate: self.tell_certificate,
            rules,
        })
    }
}

fn level(key: &str, name: &str) -> Result<EncryptionLevel, Wrong> {
    match EncryptionLevel::named(name) {
        Some(level) => Ok(level),
        None => {
            let right = "write \"never\", \"if-possible\" or \"required\"";
            wrong(key, format!("`{}` is no level", name.escape_debug()), right)
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use coms_protocol::types::EncryptionLevel;
    use std::path::Path;

    const GOOD: &str = r#"
        [host]
        name = "h1"
        region = "r"
        [[hosts]]
        name = "h2"
        region = "r"
        libvirt = "qemu+tls://h2/system"
        [encryption]
        certificates = "/etc/pki/qemu"
        default = "if-possible"
        [[encryption.rules]]
        guests = ["acme-*"]
        level = "required"
        [[encryption.rules]]
        hosts = ["h1"]
        to = ["h2"]
        level = "never"
    "#;

    #[test]
    fn reads_levels_and_rules_and_says_what_is_wrong() {
        let parse = |text: &str| Config::parse(Path::new("broker.toml"), text);
        let c = parse(GOOD).unwrap().encryption;
        assert_eq!((c.default, c.rules.len()), (EncryptionLevel::IfPossible, 2));
        assert_eq!(c.rules[0].level, EncryptionLevel::Required);
        for (from, to, key) in [
            ("\"/etc/pki/qemu\"", "\"pki\"", "encryption.certificates"),
            ("\"if-possible\"", "\"unknown\"", "encryption.default"),
            ("\"required\"", "\"Required\"", "encryption.rules[0].level"),
            ("\"acme-*\"", "\"\"", "encryption.rules[0].guests"),
            ("to = [\"h2\"]", "to = [\"h3\"]", "encryption.rules[1].to"),
            ("hosts = [\"h1\"]", "", "encryption.rules[1].hosts"),
        ] {
            let changed = GOOD.replacen(from, to, 1);
            assert_ne!(changed, GOOD, "{from}");
            let text = parse(&changed).unwrap_err().to_string();
            assert!(text.contains(&format!("`{key}`")), "{key}: {text}");
        }
    }
}
