//! A gateway in front of the Claude API, for clients in any language.
//!
//! A client changes its base URL and gets what the layers of [`tower_claude`] do: it waits before a
//! rate limit rejects it, failed requests are sent again, and requests to a model that is down go
//! to another one. The gateway adds no logic of its own beyond HTTP, keys and configuration.
//!
//! ```no_run
//! use tower_claude_gateway::{Config, Gateway};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::from_toml(
//!     r#"
//!     listen = "127.0.0.1:8787"
//!     [[upstreams]]
//!     name = "main"
//!     key = { env = "ANTHROPIC_API_KEY" }
//!     "#,
//! )?;
//! let gateway = Gateway::bind(config).await?;
//! println!("http://{}", gateway.addr());
//! gateway.run(std::future::pending()).await;
//! # Ok(())
//! # }
//! ```
//!
//! # What passes unchanged
//!
//! Method, path, query, body, status and all headers, also unknown ones and those of errors. The
//! exceptions:
//!
//! | Part | Change |
//! |---|---|
//! | headers of one connection (`connection` and those that it names, `te`, `trailer`, …), `host`, `expect` | set anew by each side |
//! | `accept-encoding` | `identity`, so that the layers can read responses |
//! | credentials and `cookie` | replaced by the key of the upstream, if it has one |
//! | body of a request to Messages | another `model`, and what the fallback changes with it, if a fallback is configured |
//! | headers of a stream | `cache-control: no-cache, no-transform` and `x-accel-buffering: no` |
//! | body of a stream | `ping` events in a silence, and an `error` event where it is cut |
//! | response to Messages that was given up | `x-should-retry: false`, because the retries of an SDK would repeat those of the gateway |
//! | error that was given up | a `user_message`, if the configuration has some |
//! | `results_url` of batches | the URL of the gateway |
//! | response without a `request-id` | gets one |
//!
//! # Paths
//!
//! `POST /v1/messages` and `POST /v1/messages/count_tokens` pass the layers. Their rate limits are
//! separate, so a count never waits for a message. All other paths pass as streams, past the
//! layers. The gateway itself answers `/`, `/healthz` and `/readyz`, and at the admin address
//! `/metrics`, `/dashboard` and `/plan`. A path that a wrong base URL leads to is answered with 404
//! and a hint.
//!
//! # Keys
//!
//! Without gateway keys and upstream keys, each caller uses its own API key. With gateway keys
//! ([`KeyConfig`]), which begin with [`KEY_PREFIX`], the upstream's key replaces those of the
//! caller. A gateway key never goes upstream, and a key of Anthropic goes to Anthropic's hosts and
//! to this machine only.
#![forbid(unsafe_code)]

pub mod admin;
mod base_url;
mod client_service;
mod config;
mod config_error;
mod config_text;
mod connector;
mod credentials;
mod dashboard;
mod early_head;
mod gateway;
mod gateway_error;
mod headers;
mod key_text;
mod keys;
mod log;
mod plan;
mod request_body;
mod results_url;
mod router;
mod secret;
mod server;
mod sse;
mod target_config;
mod telemetry;
mod toml_reader;
mod upstream;
mod user_message;
mod webhook;

pub use client_service::ClientService;
pub use config::{
    Auth, Config, KeyConfig, LimitsConfig, PriorityName, ServerConfig, StreamConfig, TierName,
    UpstreamConfig,
};
pub use config_error::{ConfigError, ConfigErrors};
pub use gateway::{Gateway, GatewayHandle, StartError};
pub use key_text::{KEY_PREFIX, NoRandomBytes, new_key};
pub use log::LogConfig;
pub use plan::{PlanInput, PlanPage, RenderPlan};
pub use secret::Secret;
pub use target_config::{PlatformName, TargetConfig, TargetLimitsConfig};
pub use upstream::OnSend;
pub use user_message::UserMessageConfig;
pub use webhook::AlertsConfig;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
