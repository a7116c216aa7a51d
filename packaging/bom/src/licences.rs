//! The licences of all crates that are linked in: who wants which, then each text once.

use super::Result;
use super::cargo::{Crate, Facts, Tree};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Files that hold a licence or must go with it, as their names begin.
const NAMES: [&str; 5] = ["license", "licence", "copying", "notice", "unlicense"];

pub fn licences(tree: &Tree, facts: &BTreeMap<Crate, Facts>) -> Result<String> {
    let mut list = String::new();
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for this in &tree.crates {
        let facts = facts.get(this).ok_or_else(|| format!("cargo knows nothing of {}", this.name))?;
        // Writing to a String cannot fail.
        let _ = writeln!(list, "{} {}: {}", this.name, this.version, facts.licence);
        for (file, text) in files(facts)? {
            texts.entry(text).or_default().push(format!("{} {} ({file})", this.name, this.version));
        }
    }
    let mut out =
        format!("Crates that are linked into {}, and their licences (SPDX).\n\n{list}", tree.root.name);
    for (text, owners) in texts {
        let _ = write!(out, "\n{}\n{}\n\n{}\n", "=".repeat(80), owners.join("\n"), text.trim_end());
    }
    Ok(out)
}

fn files(facts: &Facts) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(&facts.dir).map_err(|e| format!("{}: {e}", facts.dir.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let lower = name.to_lowercase();
        if path.is_file() && NAMES.iter().any(|begin| lower.starts_with(begin)) {
            let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            found.push((name, String::from_utf8_lossy(&bytes).replace('\r', "")));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_two_crates_share_is_there_once() {
        let top = std::env::temp_dir().join(format!("coms-bom-{}", std::process::id()));
        let this = |name: &str| Crate { name: name.into(), version: "1.0.0".into() };
        let mut facts = BTreeMap::new();
        for (name, text) in [("a", "mine"), ("b", "the text\r\n"), ("c", "the text\n")] {
            let dir = top.join(name);
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("LICENSE-MIT"), text).unwrap();
            std::fs::write(dir.join("main.rs"), "no licence").unwrap();
            facts.insert(this(name), Facts { licence: "MIT".into(), dir, checksum: None });
        }
        let tree = Tree { root: this("a"), crates: [this("b"), this("c")].into(), needs: BTreeMap::new() };
        let text = licences(&tree, &facts);
        std::fs::remove_dir_all(&top).unwrap();
        let text = text.unwrap();
        assert_eq!(text.matches("the text").count(), 1, "{text}");
        assert!(text.contains("b 1.0.0: MIT\nc 1.0.0: MIT\n"), "{text}");
        assert!(!text.contains("no licence") && !text.contains("mine"), "{text}");
    }
}
