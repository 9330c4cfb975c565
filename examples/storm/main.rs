//! Replays a real arrival trace against a fake Claude API that enforces its limits: with a plain
//! client, and through the layers. `storm --help` explains the numbers.
#![forbid(unsafe_code)]

mod answer;
mod cli;
mod incidents;
mod layers;
mod live;
mod load;
mod measure;
mod plain;
mod print;
mod replay;
mod report;
mod sdk;
mod trace;
mod whole;

use std::process::ExitCode;

use clap::Parser as _;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::cli::{Cli, Incident};
use crate::layers::Layers;
use crate::load::Load;
use crate::plain::Plain;
use crate::report::Run;
use crate::whole::Whole;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.live {
        return live::run().await;
    }
    let trace = match trace::load(cli.trace.as_deref()) {
        Ok(trace) => trace,
        Err(error) => {
            eprintln!("storm: {error}");
            return ExitCode::from(2);
        }
    };
    let load = Load::new(&trace, cli.seconds, cli.seed, cli.incident);
    print::announce(&cli, &load);
    match storm(&load).await {
        Ok((plain, layers)) => print::results(&cli, &plain, &layers),
        Err(error) => {
            eprintln!("storm: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs both clients at the same time, each against a server of its own.
async fn storm(load: &Load) -> std::io::Result<(Run, Run)> {
    // Progress bars are hidden if standard error is no terminal.
    let bars = MultiProgress::new();
    let (plain_bar, layers_bar) = (bar(&bars, "plain", load), bar(&bars, "layers", load));
    let plain = async {
        let (server, client) = (load.server(), Plain::new());
        let port = server.serve().await?;
        let send = |request, pauses| {
            let client = client.clone();
            async move { client.send(request, &pauses).await }
        };
        let done = replay::replay(load, &server, &port.url(), &plain_bar, send).await;
        Ok(server.with_log(|log| Run::new(load, &done, log)))
    };
    let layers = async {
        let server = load.server();
        let port = server.serve().await?;
        if load.incident == Incident::Outage {
            let client = Whole::new(load);
            let send = |request, pauses| {
                let client = client.clone();
                async move { client.send(request, pauses).await }
            };
            let done = replay::replay(load, &server, &port.url(), &layers_bar, send).await;
            let run = server.with_log(|log| Run::new(load, &done, log));
            return Ok(run.with_extras(client.extras()));
        }
        let client = Layers::new(load);
        let send = |request, pauses| {
            let client = client.clone();
            async move { client.send(request, pauses).await }
        };
        let done = replay::replay(load, &server, &port.url(), &layers_bar, send).await;
        Ok(server.with_log(|log| Run::new(load, &done, log)))
    };
    tokio::try_join!(plain, layers)
}

fn bar(bars: &MultiProgress, name: &'static str, load: &Load) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:>7} {bar:40} {pos:>5}/{len} {elapsed}");
    let bar = bars.add(ProgressBar::new(load.jobs.len() as u64));
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.with_prefix(name)
}
