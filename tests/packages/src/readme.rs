//! README's pages, as what they are: commands to be typed.

use super::Result;

/// What a page has typed.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// Lines of its first block of `sh`, without comments: the first steps.
    pub lines: Vec<String>,
    /// Likewise of the other blocks.
    pub more: Vec<Vec<String>>,
    /// Its first block of `toml`, and of `ini`: what a line that opens an editor is to leave in a file of that kind.
    pub toml: String,
    pub ini: String,
}

/// The page below this heading of README.md.
pub fn page(heading: &str) -> Result<Page> {
    let path = coms_lab::workspace_root().join("README.md");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    parse(&text, heading).ok_or_else(|| format!("README.md has no page `{heading}` with commands").into())
}

fn parse(text: &str, heading: &str) -> Option<Page> {
    let (_, page) = text.split_once(&format!("\n## {heading}\n"))?;
    let page = page.split("\n## ").next()?;
    let blocks = |language: &str| -> Vec<&str> {
        let fence = format!("```{language}\n");
        let begun = page.split(&fence).skip(1);
        begun.filter_map(|rest| rest.split_once("```").map(|(block, _)| block)).collect()
    };
    let command = |line: &str| line.split(" #").next().unwrap_or(line).trim().to_owned();
    let commands = |block: &str| block.lines().map(command).filter(|l| !l.is_empty()).collect();
    let mut all = blocks("sh").into_iter().map(commands);
    let first = |language: &str| blocks(language).first().map(|&block| block.to_owned()).unwrap_or_default();
    Some(Page { lines: all.next()?, more: all.collect(), toml: first("toml"), ini: first("ini") })
}

impl Page {
    /// What an editor leaves in a file: the page's example of its kind, and whether that is the whole file.
    pub fn example(&self, file: &str) -> (&str, bool) {
        if file.ends_with(".toml") {
            (&self.toml, self.toml.contains("[host]\n"))
        } else {
            (&self.ini, false)
        }
    }
}

/// Root has no need of sudo, and a small system has none.
pub fn as_root(line: &str) -> &str {
    line.strip_prefix("sudo ").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_without_comments_until_the_next_page() {
        let text = "# x\n\n## A\n\nDo:\n\n```sh\nsudo a --b   # why\n\nc \"#1\"\n```\n```toml\n[k]\n```\n\
                    ```ini\nl = 1\n```\n```sh\nlater\n```\n\n## B\n```sh\nd\n```\n```toml\n[host]\n```\n";
        let (a, b) = (parse(text, "A").unwrap(), parse(text, "B").unwrap());
        assert_eq!(a.lines, ["sudo a --b", "c \"#1\""]);
        assert_eq!(a.more, [["later"]]);
        assert_eq!((a.toml.as_str(), a.ini.as_str()), ("[k]\n", "l = 1\n"));
        assert_eq!(b.lines, ["d"]);
        assert!(parse(text, "C").is_none());
        assert_eq!((as_root("sudo x"), as_root("y sudo")), ("x", "y sudo"));
        assert_eq!((a.example("x.toml"), a.example("y.conf")), (("[k]\n", false), ("l = 1\n", false)));
        assert_eq!(b.example("x.toml"), ("[host]\n", true));
    }
}
