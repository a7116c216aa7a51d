//! QEMU's `yank`: which of its connections belong to a migration, and the order to give them up. All others stay: those of a
//! guest's own network disks, and of its serial lines.

use serde_json::{Value, json};

/// From the answer to `query-yank`. The target of a disk's copy is a node that libvirt names `migration-vda-storage`.
pub(super) fn of_a_migration(told: &str) -> Vec<Value> {
    let told: Value = serde_json::from_str(told).unwrap_or_default();
    let all = told["return"].as_array().cloned().unwrap_or_default();
    let is_one = |instance: &Value| match instance["type"].as_str() {
        Some("migration") => true,
        Some("block-node") => instance["node-name"].as_str().is_some_and(|n| n.starts_with("migration-")),
        Some(_) | None => false,
    };
    all.into_iter().filter(is_one).collect()
}

pub(super) fn order(instances: &[Value]) -> String {
    json!({ "execute": "yank", "arguments": { "instances": instances } }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_migration_opened_is_given_up() {
        let told = r#"{"return":[{"type":"chardev","id":"charchannel0"},{"node-name":"migration-vda-storage","type":"block-node"},
            {"node-name":"libvirt-1-storage","type":"block-node"},{"type":"migration"},{"type":"later"}],"id":"libvirt-400"}"#;
        let found = of_a_migration(told);
        let expected = json!({ "execute": "yank", "arguments": { "instances": [
            { "type": "block-node", "node-name": "migration-vda-storage" }, { "type": "migration" }
        ] } });
        assert_eq!(serde_json::from_str::<Value>(&order(&found)).unwrap(), expected);
        for nothing in ["", "{}", r#"{"return":{}}"#, r#"{"return":[]}"#, r#"{"return":[7,null]}"#] {
            assert!(of_a_migration(nothing).is_empty(), "{nothing}");
        }
    }
}
