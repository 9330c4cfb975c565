//! The rounds, and the table of their figures.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use crate::{
    load::{self, IdleStreams, Round},
    messages::EVENTS,
    process::Server,
};

/// The connections of the clients that send requests for JSON.
const CLIENTS: [usize; 3] = [1, 32, 256];

/// The streams that are open at the same time.
const STREAMS: usize = 16;

/// The silent streams.
const IDLE_STREAMS: usize = 10_000;

/// The file descriptors of a proxy beside those of its streams.
const OTHER_DESCRIPTORS: usize = 64;

const MIB: f64 = 1024.0 * 1024.0;

/// The number and length of rounds.
struct Effort {
    rounds: usize,
    time: Duration,
    idle_streams: usize,
}

/// The figures of one round at one proxy.
struct Figures {
    round: Round,
    /// The processor time of the proxy for each request.
    cpu: f64,
}

/// Measures and prints. Without `is_bench`, every part runs only once and shortly.
pub(crate) fn run(is_bench: bool, is_check: bool) -> ExitCode {
    let effort = if is_bench {
        Effort {
            rounds: 7,
            time: Duration::from_millis(1500),
            idle_streams: IDLE_STREAMS,
        }
    } else {
        Effort {
            rounds: 1,
            time: Duration::from_millis(50),
            idle_streams: 16,
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let is_good = runtime.block_on(measure(&effort));
    if is_check && !is_good {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

async fn measure(effort: &Effort) -> bool {
    let upstream = Server::start("upstream", None);
    let plain = Server::start("plain", Some(upstream.addr));
    let gateway = Server::start("gateway", Some(upstream.addr));
    let mut is_good = true;
    println!("| load | proxy | per second | p50 | p99 | proxy's processor time | ratio |");
    println!("|---|---|---|---|---|---|---|");
    for clients in CLIENTS {
        let name = format!("requests, {clients} clients");
        let send = async |addr: SocketAddr| load::requests(addr, clients, effort.time).await;
        is_good &= compare(&name, 1, 0.8, effort, &plain, &gateway, send).await;
    }
    let (resident, peak) = gateway.memory();
    let name = format!("events, {STREAMS} streams");
    let send = async |addr: SocketAddr| load::streams(addr, STREAMS, effort.time).await;
    is_good &= compare(&name, EVENTS, 0.9, effort, &plain, &gateway, send).await;
    println!();
    let (_, peak_of_plain) = plain.memory();
    println!(
        "Memory of the gateway: {:.1} MiB after the requests (peak {:.1}), {:.1} MiB after the streams \
         (peak {:.1}). Goal: at most 60. Plain proxy: peak {:.1} MiB.",
        resident as f64 / MIB,
        peak as f64 / MIB,
        gateway.memory().0 as f64 / MIB,
        gateway.memory().1 as f64 / MIB,
        peak_of_plain as f64 / MIB,
    );
    is_good &= gateway.memory().1 as f64 <= 60.0 * MIB;
    drop((plain, gateway));
    let gateway = Server::start("gateway", Some(upstream.addr));
    is_good & hold(&gateway, effort.idle_streams).await
}

/// Measures both proxies in turns, prints a row for each, and returns true if the goal is met.
/// `unit` is the number of events in a response.
async fn compare(
    name: &str,
    unit: usize,
    goal: f64,
    effort: &Effort,
    plain: &Server,
    gateway: &Server,
    send: impl AsyncFn(SocketAddr) -> Round,
) -> bool {
    let (mut of_plain, mut of_gateway) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        for (server, figures) in [(plain, &mut of_plain), (gateway, &mut of_gateway)] {
            let before = server.cpu();
            let round = send(server.addr).await;
            let cpu = (server.cpu() - before).as_secs_f64() / round.times.len().max(1) as f64;
            figures.push(Figures { round, cpu });
        }
    }
    let rounds = of_plain.iter().zip(&of_gateway);
    let ratios =
        rounds.map(|(plain, gateway)| gateway.round.per_second() / plain.round.per_second());
    let ratio = median(ratios);
    for (proxy, figures, ratio) in [
        ("plain", &of_plain, String::new()),
        ("gateway", &of_gateway, format!("{ratio:.2} (goal {goal})")),
    ] {
        let unit = unit as f64;
        let rate = median(figures.iter().map(|row| row.round.per_second())) * unit;
        let cpu = median(figures.iter().map(|row| row.cpu)) * 1e6 / unit;
        let time = |share| {
            let times = figures
                .iter()
                .map(|row| row.round.quantile(share).as_secs_f64());
            median(times) * 1e3
        };
        let (middle, late) = (time(0.5), time(0.99));
        println!(
            "| {name} | {proxy} | {rate:.0} | {middle:.2} ms | {late:.2} ms | {cpu:.1} µs | {ratio} |"
        );
    }
    ratio >= goal
}

/// Holds silent streams open until each has had a heartbeat, and prints their memory.
async fn hold(gateway: &Server, count: usize) -> bool {
    // A stream is a connection of the client and one to the upstream.
    let fitting = gateway.descriptors().saturating_sub(OTHER_DESCRIPTORS) / 2;
    if fitting < count {
        println!(
            "The limit of file descriptors allows {fitting} streams, and not {count}, since a \
             stream takes two."
        );
    }
    let count = count.min(fitting);
    // The first streams start what all share.
    drop(IdleStreams::open(gateway.addr, 16).await);
    let (before, _) = gateway.memory();
    let mut streams = IdleStreams::open(gateway.addr, count).await;
    let (opened, _) = gateway.memory();
    streams.wait_for_pings().await;
    let (held, _) = gateway.memory();
    let each = |memory: u64| memory.saturating_sub(before) as f64 / count as f64 / 1024.0;
    println!(
        "{count} silent streams: {:.1} KiB each when opened, {:.1} KiB after a heartbeat. Goal: at \
         most 40. Memory of the gateway: {:.1} MiB before, {:.1} MiB with them.",
        each(opened),
        each(held),
        before as f64 / MIB,
        held as f64 / MIB
    );
    each(held) <= 40.0
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
