//! `cargo bench -p tower-claude-benches --bench gateway`: the gateway over loopback, beside a plain
//! pass-through proxy over the same HTTP libraries.
//!
//! Each server is a process of its own: the upstream, the plain proxy and the gateway. The load
//! comes from this process. Rounds of both proxies alternate, and each figure is the median of its
//! rounds. The load, the upstream and the proxy share the processors, so the ratio of requests per
//! second also contains the cost of the load and of the upstream. The processor time per request
//! is that of the proxy alone.

#[cfg(target_os = "linux")]
mod load;
#[cfg(target_os = "linux")]
mod messages;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod proxies;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod upstream;

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let after = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).map(String::as_str)
    };
    let upstream = after("--upstream").and_then(|addr| addr.parse().ok());
    match (after("--role"), upstream) {
        (Some("upstream"), _) => upstream::serve(),
        (Some("plain"), Some(upstream)) => proxies::serve_plain(upstream),
        (Some("gateway"), Some(upstream)) => proxies::serve_gateway(upstream),
        (Some("load"), _) => report::run(has("--bench"), has("--check")),
        // The load has thousands of connections.
        _ => process::run_with_descriptors(&arguments),
    }
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("memory and processor time of other processes are read from /proc");
    ExitCode::SUCCESS
}
