//! `coms-man DIR` writes the manual pages there, and completions for each shell below it: `make man`.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(1) else {
        eprintln!("coms-man: where to? usage: coms-man DIR, for example: coms-man target/man");
        return ExitCode::from(2);
    };
    match write(Path::new(&dir)) {
        Ok(count) => {
            println!("{count} manual pages and completions in {}", dir.display());
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("coms-man: {}: {e}", dir.display());
            ExitCode::FAILURE
        }
    }
}

fn write(dir: &Path) -> std::io::Result<usize> {
    std::fs::create_dir_all(dir)?;
    let pages = coms_man::pages();
    for page in &pages {
        std::fs::write(dir.join(&page.file), &page.roff)?;
    }
    let completions = coms_man::completions();
    for completion in &completions {
        let path = dir.join(&completion.file);
        std::fs::create_dir_all(path.parent().unwrap_or(dir))?;
        std::fs::write(path, &completion.script)?;
    }
    Ok(pages.len() + completions.len())
}
