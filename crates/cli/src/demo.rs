//! `tower-claude serve --demo`: a fake API, and callers that use the gateway.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::time::sleep;
use tower_claude_fake_claude::{FakeClaude, FakeServer, Fault, GroupLimits, Incident};
use tower_claude_gateway::{Config, UpstreamConfig};

use crate::{CommandError, failed, print_line};

/// The number of callers at the start and at the end.
const CALLERS: (usize, usize) = (6, 18);

/// The time until one more caller comes.
const NEXT_CALLER: Duration = Duration::from_secs(15);

/// The longest pause of a caller between two requests, in milliseconds.
const LONGEST_PAUSE: u64 = 1_500;

/// The share of the requests that the cache may answer.
const CACHEABLE: f64 = 0.1;

/// The limits of each group of models at the fake API. All callers together want more output.
const REQUESTS_PER_MINUTE: u64 = 500;
const INPUT_TOKENS_PER_MINUTE: u64 = 50_000;
const OUTPUT_TOKENS_PER_MINUTE: u64 = 40_000;

/// The start and the end of the first incident, in which two thirds of the requests fail.
const INCIDENT: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(60));

/// The time from an incident to the next, and the number of incidents.
const NEXT_INCIDENT: Duration = Duration::from_secs(300);
const INCIDENTS: u32 = 12;

/// The model that the callers ask for, and the one that stands in for it.
const MODELS: [&str; 2] = ["claude-sonnet-5-5", "claude-haiku-5-5"];

/// A fake API on a port.
pub(crate) struct Demo {
    server: FakeServer,
}

impl Demo {
    /// Starts the fake API.
    ///
    /// # Errors
    /// Returns an error if no port is free.
    pub(crate) async fn start() -> Result<Self, CommandError> {
        let limits = GroupLimits::new()
            .with_requests_per_minute(REQUESTS_PER_MINUTE)
            .with_input_tokens_per_minute(INPUT_TOKENS_PER_MINUTE)
            .with_output_tokens_per_minute(OUTPUT_TOKENS_PER_MINUTE);
        let mut fake = FakeClaude::builder()
            .limits(limits)
            .time_to_first_token(Duration::from_millis(300))
            .tokens_per_second(80.0)
            .output_tokens(120)
            .keep_requests(0);
        for number in 0..INCIDENTS {
            let later = number * NEXT_INCIDENT;
            let (from, until) = (INCIDENT.0 + later, INCIDENT.1 + later);
            let incident = Incident::new(from, until, Fault::Overloaded);
            fake = fake.incident(incident.with_probability(0.66).with_group("sonnet-5.5"));
        }
        Ok(Self {
            server: fake.build().serve().await.map_err(failed)?,
        })
    }

    /// Returns the configuration of a gateway in front of the fake API.
    ///
    /// # Errors
    /// Returns an error if the fake API has no valid URL.
    pub(crate) fn config(&self) -> Result<Config, CommandError> {
        let mut upstream = UpstreamConfig::default();
        upstream.name = "fake".to_owned();
        upstream.url = self.server.url();
        upstream.fallback = MODELS.map(str::to_owned).to_vec();
        upstream.cache = Some(Duration::from_secs(20));
        let mut config = Config::default();
        config.upstreams = vec![upstream];
        config.validate().map_err(failed)?;
        Ok(config)
    }

    /// Prints a request that can be tried.
    pub(crate) fn print_usage(&self, gateway: SocketAddr) {
        let [model, _] = MODELS;
        let (from, until) = (INCIDENT.0.as_secs(), INCIDENT.1.as_secs());
        let minutes = NEXT_INCIDENT.as_secs() / 60;
        print_line(format_args!(
            "demo: {} to {} callers use a fake API, {model} fails from {from} s to {until} s, \
             and again every {minutes} minutes",
            CALLERS.0, CALLERS.1
        ));
        print_line(format_args!(
            "\ntry it:\n  curl -N http://{gateway}/v1/messages -H 'x-api-key: any' \\"
        ));
        print_line(format_args!(
            "    -H 'anthropic-version: 2023-06-01' -H 'content-type: application/json' \\"
        ));
        print_line(format_args!(
            "    -d '{{\"model\":\"{model}\",\"max_tokens\":64,\"stream\":true,\
             \"messages\":[{{\"role\":\"user\",\"content\":\"Hi\"}}]}}'\n"
        ));
    }

    /// Starts the callers, who end with the process, and a line about them every ten seconds.
    pub(crate) fn spawn_load(self, gateway: SocketAddr) {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let (done, mut results) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            for number in 0..CALLERS.1 {
                if number >= CALLERS.0 {
                    sleep(NEXT_CALLER).await;
                }
                tokio::spawn(call_forever(client.clone(), gateway, done.clone()));
            }
        });
        tokio::spawn(async move {
            // The fake API lives as long as this task.
            let _server = self.server;
            let (mut good, mut failed) = (0_u64, 0_u64);
            let mut next = tokio::time::interval(Duration::from_secs(10));
            loop {
                tokio::select! {
                    Some(is_good) = results.recv() => match is_good {
                        true => good += 1,
                        false => failed += 1,
                    },
                    _ = next.tick() => print_line(format_args!("callers: {good} answered, {failed} failed")),
                }
            }
        });
    }
}

type HttpClient = Client<HttpConnector, Full<Bytes>>;

/// Sends streaming requests with random pauses.
async fn call_forever(
    client: HttpClient,
    gateway: SocketAddr,
    done: tokio::sync::mpsc::UnboundedSender<bool>,
) {
    loop {
        sleep(Duration::from_millis(fastrand::u64(..LONGEST_PAUSE))).await;
        if done.send(call(&client, gateway).await).is_err() {
            return;
        }
    }
}

/// Returns true if a request was answered to the end of its stream.
async fn call(client: &HttpClient, gateway: SocketAddr) -> bool {
    let body = format!(
        "{{\"model\":\"{}\",\"max_tokens\":200,\"stream\":true,\
         \"messages\":[{{\"role\":\"user\",\"content\":\"Tell me about rivers.\"}}]}}",
        MODELS[0]
    );
    let is_cacheable = fastrand::f64() < CACHEABLE;
    let request = Request::post(format!("http://{gateway}/v1/messages"))
        .header("x-tower-claude-cache", is_cacheable.to_string())
        .header("x-api-key", "demo")
        .header("anthropic-version", "2023-06-01")
        .header("content-type", "application/json")
        .body(Full::from(body));
    let Ok(request) = request else {
        return false;
    };
    let Ok(response) = client.request(request).await else {
        return false;
    };
    let is_success = response.status().is_success();
    let body = response.into_body().collect().await;
    is_success && body.is_ok_and(|body| body.to_bytes().ends_with(b"\"message_stop\"}\n\n"))
}
