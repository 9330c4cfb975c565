//! The Claude API, Amazon Bedrock and Google Vertex AI as one pool: 12 conversations over nine
//! minutes, with an outage of Bedrock and a throttled Vertex.
//!
//! `cargo run --example three_clouds`. The clouds are fake ones, which verify signatures, tokens,
//! paths and bodies, and time is paused.

use std::{collections::BTreeMap, error::Error, time::Duration};

use http_body_util::BodyExt;
use tokio::{task::JoinSet, time::sleep};
use tower::{Layer, ServiceExt};
use tower_claude::{
    RequestBody, SpreadLayer,
    cloud::{
        Bearer, CloudLayer, Issued,
        bedrock::{Credentials, SigV4},
    },
    recommended,
    spread::Route,
    wire::{
        Usage,
        cloud::{Profile, Target},
    },
};
use tower_claude_fake_claude::{FakeClaude, FakeCloud, FakeHosts, Fault, GroupLimits, Incident};

const MINUTE: Duration = Duration::from_secs(60);
const CONVERSATIONS: usize = 12;
const TURNS: usize = 18;

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn Error>> {
    let outage = Incident::new(4 * MINUTE, 5 * MINUTE, Fault::Unavailable);
    let throttled = GroupLimits::new().with_input_tokens_per_minute(25_000);
    let claude = FakeClaude::builder().api_key("key").build();
    let bedrock = FakeClaude::builder()
        .cloud(FakeCloud::bedrock("us-west-2").access_key("AKIDEXAMPLE", "a secret"))
        .incident(outage)
        .build();
    let vertex = FakeClaude::builder()
        .cloud(FakeCloud::vertex("my-project", "global").bearer("token"))
        .limits(throttled)
        .build();
    let servers = [&claude, &bedrock, &vertex];
    let network = FakeHosts::new()
        .with_server(claude.clone())
        .with_server(bedrock.clone())
        .with_server(vertex.clone());

    let west = Target::bedrock("us-west-2")?.with_profile(Profile::Global)?;
    let google = Target::vertex("my-project", "global")?;
    // Each credential goes to the host of its target only. A real program asks aws-config here...
    let aws = SigV4::fixed(
        Credentials::new("AKIDEXAMPLE", "a secret"),
        "bedrock",
        "us-west-2",
    );
    // ... and a metadata server here.
    let tokens =
        Bearer::refreshing(|| async { Ok(Issued::lasting("token".to_owned(), 60 * MINUTE)) });
    let clouds = CloudLayer::new()
        .with_target(west.clone(), aws)
        .with_target(google.clone(), tokens)
        .with_target(Target::claude_api(), Bearer::fixed("key")?);
    let check = clouds.clone();
    let spread = SpreadLayer::new([Target::claude_api(), west, google])
        .with_check(move |request, target| check.check(request, target));
    let stack = recommended()
        .with_spread(spread)
        .with_prompt_cache()
        .layer(clouds.layer(network));

    let mut conversations = JoinSet::new();
    for number in 0..CONVERSATIONS {
        let stack = stack.clone();
        conversations.spawn(async move {
            sleep(Duration::from_secs(2) * number as u32).await;
            let mut turns = Vec::new();
            for turn in 0..TURNS {
                let call = stack.clone().oneshot(request(number, turn));
                let response = call.await.map_err(|error| error.to_string())?;
                let status = response.status();
                let route = response.extensions().get::<Route>();
                let place = route.map_or("none".to_owned(), |route| route.target.name().to_owned());
                let body = response.into_body().collect().await;
                let body = body.map_err(|error| error.to_string())?.to_bytes();
                let usage = Usage::from_message(&body).unwrap_or_default();
                turns.push((status, place, usage.cache_read_input_tokens.unwrap_or(0)));
                sleep(MINUTE / 2).await;
            }
            Ok::<_, String>((number, turns))
        });
    }
    let mut failed = 0;
    let mut moved = BTreeMap::new();
    while let Some(ended) = conversations.join_next().await {
        let (number, turns) = ended??;
        failed += turns.iter().filter(|(status, ..)| *status != 200).count();
        let mut places: Vec<_> = turns.into_iter().map(|(_, place, _)| place).collect();
        places.dedup();
        moved.insert(number, places);
    }

    println!("{} requests, {failed} failed", CONVERSATIONS * TURNS);
    println!("target                     sent  answered  429  5xx  input read from its cache");
    for server in servers {
        server.with_log(|log| {
            let count = |is: &dyn Fn(u16) -> bool| log.iter().filter(|it| is(it.status)).count();
            let read: u64 = log.iter().map(|it| it.cache_read).sum();
            let paid: u64 = log.iter().map(|it| it.charged_input).sum();
            println!(
                "{:<25} {:>5} {:>9} {:>4} {:>4} {:>6.1} %",
                server.host().split(':').next().unwrap_or_default(),
                log.len(),
                count(&|status| status == 200),
                count(&|status| status == 429),
                count(&|status| status >= 500),
                100.0 * read as f64 / (read + paid).max(1) as f64,
            );
        });
    }
    println!("the way of each conversation:");
    for (number, places) in &moved {
        println!("  {number:>2}: {}", places.join(" > "));
    }
    let stayed = moved.values().filter(|places| places.len() == 1).count();
    println!("{stayed} of {CONVERSATIONS} stayed where their prompt cache is");
    if failed > 0 {
        return Err(format!("{failed} requests failed").into());
    }
    Ok(())
}

/// Returns the request of one turn: a long document, and all turns so far.
fn request(number: usize, turn: usize) -> http::Request<RequestBody> {
    let document = format!("Document {number}. {}", "It has many words. ".repeat(1_200));
    let mut messages = format!(r#"{{"role":"user","content":"{document} Summarize it."}}"#);
    for earlier in 0..turn {
        messages += &format!(
            r#",{{"role":"assistant","content":"Answer {earlier} to it."}},{{"role":"user","content":"And {earlier}?"}}"#
        );
    }
    let body =
        format!(r#"{{"model":"claude-sonnet-5-5","max_tokens":200,"messages":[{messages}]}}"#);
    http::Request::post("https://api.anthropic.com/v1/messages")
        .header("x-api-key", "key")
        .header("anthropic-version", "2023-06-01")
        .body(RequestBody::from(body))
        .expect("a valid request")
}
