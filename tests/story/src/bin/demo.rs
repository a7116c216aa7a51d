//! `make demo`: see `coms_story::demo`.

fn main() -> std::process::ExitCode {
    coms_story::demo::main(std::env::args().skip(1).collect())
}
