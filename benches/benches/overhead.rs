//! `cargo bench -p tower-claude-benches`: see the crate page for the options.

fn main() -> std::process::ExitCode {
    tower_claude_benches::run(std::env::args().skip(1))
}
