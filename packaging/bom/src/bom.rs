//! The bill of materials: CycloneDX 1.5, as JSON.

use super::Result;
use super::cargo::{Crate, Facts, Tree};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub fn bom(tree: &Tree, facts: &BTreeMap<Crate, Facts>, made_at: jiff::Timestamp) -> Result<Value> {
    let component = |kind: &str, this: &Crate| -> Result<Value> {
        let facts = facts.get(this).ok_or_else(|| format!("cargo knows nothing of {}", this.name))?;
        let mut component = json!({
            "type": kind,
            "bom-ref": purl(this),
            "name": this.name,
            "version": this.version,
            "purl": purl(this),
            "licenses": [{ "expression": facts.licence }],
        });
        if let Some(sum) = &facts.checksum {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": sum }]);
        }
        Ok(component)
    };
    let components: Vec<Value> =
        tree.crates.iter().map(|this| component("library", this)).collect::<Result<_>>()?;
    let dependencies: Vec<Value> = tree
        .needs
        .iter()
        .map(|(this, needs)| json!({ "ref": purl(this), "dependsOn": needs.iter().map(purl).collect::<Vec<_>>() }))
        .collect();
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": made_at.to_string(),
            "tools": { "components": [{ "type": "application", "name": "coms-bom", "version": env!("CARGO_PKG_VERSION") }] },
            "component": component("application", &tree.root)?,
        },
        "components": components,
        "dependencies": dependencies,
    }))
}

fn purl(this: &Crate) -> String {
    format!("pkg:cargo/{}@{}", this.name, this.version.replace('+', "%2B"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_crate_is_a_component_and_its_needs_are_listed() {
        let this = |name: &str| Crate { name: name.into(), version: "1.0.0+x".into() };
        let (a, b) = (this("a"), this("b"));
        let tree = Tree {
            root: a.clone(),
            crates: [b.clone()].into(),
            needs: [(a.clone(), [b.clone()].into()), (b.clone(), [].into())].into(),
        };
        let fact = |sum: Option<&str>| Facts {
            licence: "MIT".into(),
            dir: "/".into(),
            checksum: sum.map(str::to_owned),
        };
        let facts = [(a, fact(None)), (b.clone(), fact(Some("00ff")))].into();
        let bom = bom(&tree, &facts, jiff::Timestamp::from_second(0).unwrap()).unwrap();
        assert_eq!(bom["metadata"]["timestamp"], "1970-01-01T00:00:00Z");
        assert_eq!(bom["components"][0]["purl"], "pkg:cargo/b@1.0.0%2Bx");
        assert_eq!(bom["components"][0]["hashes"][0]["content"], "00ff");
        assert_eq!(bom["dependencies"][0]["dependsOn"][0], purl(&b));
        assert!(super::bom(&tree, &BTreeMap::new(), jiff::Timestamp::UNIX_EPOCH).is_err());
    }
}
