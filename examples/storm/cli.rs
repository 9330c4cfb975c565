//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Replays a real arrival trace against a fake Claude API that enforces its limits: once with a
/// plain client that retries as the official SDKs do, once through the tower-claude layers. Both
/// run at the same time, each against a server of its own with the same seed, limits and incidents.
#[derive(Debug, Parser)]
#[command(name = "storm", after_long_help = EXPLAIN)]
pub(crate) struct Cli {
    /// Trace to replay instead of the built-in one (CSV: TIMESTAMP,ContextTokens,GeneratedTokens)
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,

    /// Seed of the lengths of the texts, of the incidents and of the affected requests
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,

    /// Seconds into which the arrivals of the trace are compressed
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=90))]
    pub(crate) seconds: u64,

    /// Incidents in the run
    #[arg(long, value_enum, value_name = "KIND", default_value_t = Incident::Storm)]
    pub(crate) incident: Incident,

    /// Print one JSON object, last on standard output
    #[arg(long)]
    pub(crate) json: bool,

    /// Send three tiny requests to the real API instead (needs `ANTHROPIC_API_KEY`) and print the
    /// headroom learned
    #[arg(long, conflicts_with_all = ["trace", "seconds", "json", "incident"])]
    pub(crate) live: bool,
}

/// A kind of incident in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Incident {
    /// Three short windows of 529s, resets and broken streams, against three layers
    Storm,
    /// The model is down for a third of the run, the first fallback model has met its spend cap,
    /// one request in five repeats an older one. Runs against all six layers
    Outage,
}

const EXPLAIN: &str = "\
What the numbers mean:
  succeeded           the whole answer arrived: JSON with a stop_reason, or a stream up to message_stop without error
  failed after content  the answer broke off when its caller had seen content already; it must not be sent again
  attempts, 429s, tokens  from the server's own log; tokens are those it charged
  outside incidents   429s at a time when no scripted incident was on
  529s seen           final answers with status 529 that reached the caller
  p50, p99            from arrival to the whole answer, of the requests that succeeded. The limit is 0.9 of what the
                      trace asks for: a client that gives up early waits less
  use of the limit    input tokens charged by the server / what its bucket could have granted while requests were
                      waiting, outside incidents. A request waits from its arrival to the admission of its last
                      charged attempt (to its end if there is none), but not while its client pauses after a failure
                      that was no 429, and up to 50 ms are the way to the server, not a wait. In each stretch of time
                      in which any request waits, the bucket could have granted its level at the start, as far as
                      there was demand for it, and its rate times the length of the stretch.
                      Not printed for an outage, in which requests wait for another model instead.

  from the cache      answered without the server; by another model, one that stood in (--incident outage)

Exit code: 0 after a full run, 1 when the layers failed another request than those the server broke after content,
2 for a trace that cannot be read or wrong arguments.";
