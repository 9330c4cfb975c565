//! The fake on a port, for tests of programs in any language.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use tower_claude_fake_claude::{FakeClaude, FakeCloud, GroupLimits};

/// A fake Claude API that enforces rate limits and fails on request.
///
/// Control it over HTTP: `POST /fake/replies`, `POST /fake/faults`, `POST /fake/batches`, `GET
/// /fake/log`, `DELETE /fake/`.
#[derive(Parser)]
struct Args {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:8787")]
    listen: SocketAddr,
    /// Requests per minute of each rate group. Default: the Start tier.
    #[arg(long)]
    requests_per_minute: Option<u64>,
    /// Output tokens of a response without a scripted reply.
    #[arg(long, default_value_t = 16)]
    output_tokens: u64,
    /// Output tokens per second. Default: all at once.
    #[arg(long)]
    tokens_per_second: Option<f64>,
    /// Seconds in which a batch is processed.
    #[arg(long)]
    batch_seconds: Option<f64>,
    /// The only accepted key. Default: any.
    #[arg(long)]
    api_key: Option<String>,
    /// A cloud platform in place of the Claude API: `bedrock:REGION`, `bedrock-messages:REGION` or
    /// `vertex:PROJECT:LOCATION`.
    #[arg(long, value_parser = cloud)]
    cloud: Option<FakeCloud>,
    /// An accepted bearer token of the cloud. Default: any credential.
    #[arg(long, requires = "cloud")]
    bearer: Vec<String>,
    /// An accepted access key of AWS as `ID:SECRET`. Default: any credential.
    #[arg(long, requires = "cloud", value_parser = access_key)]
    access_key: Vec<(String, String)>,
}

/// Parses a cloud platform and its location.
fn cloud(text: &str) -> Result<FakeCloud, String> {
    let parts: Vec<&str> = text.split(':').collect();
    match parts[..] {
        _ if parts.contains(&"") => Err("a part is empty".to_owned()),
        ["bedrock", region] => Ok(FakeCloud::bedrock(region)),
        ["bedrock-messages", region] => Ok(FakeCloud::bedrock_messages(region)),
        ["vertex", project, location] => Ok(FakeCloud::vertex(project, location)),
        _ => {
            Err("not bedrock:REGION, bedrock-messages:REGION or vertex:PROJECT:LOCATION".to_owned())
        }
    }
}

fn access_key(text: &str) -> Result<(String, String), String> {
    let (id, secret) = text.split_once(':').ok_or("not ID:SECRET")?;
    Ok((id.to_owned(), secret.to_owned()))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let mut builder = FakeClaude::builder().output_tokens(args.output_tokens);
    if let Some(requests) = args.requests_per_minute {
        builder = builder.limits(GroupLimits::new().with_requests_per_minute(requests));
    }
    if let Some(rate) = args.tokens_per_second {
        builder = builder.tokens_per_second(rate);
    }
    if let Some(seconds) = args.batch_seconds {
        let time = Duration::try_from_secs_f64(seconds).map_err(std::io::Error::other)?;
        builder = builder.batch_time(time);
    }
    if let Some(key) = args.api_key {
        builder = builder.api_key(key);
    }
    if let Some(mut cloud) = args.cloud {
        for token in args.bearer {
            cloud = cloud.bearer(token);
        }
        for (id, secret) in args.access_key {
            cloud = cloud.access_key(id, secret);
        }
        builder = builder.cloud(cloud);
    }
    let server = builder.build().serve_on(args.listen).await?;
    println!("{}", server.url());
    std::future::pending().await
}
