//! The page `/dashboard` of the admin address: headroom, queues, circuits and incidents, live.

mod circuits;
mod forecast;
mod incidents;
mod models;
mod samples;
mod scopes;
mod state;
mod verdict;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    body::{Body, Bytes},
    response::Response,
};
use futures_util::stream;
use http::{
    HeaderName, HeaderValue,
    header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
        X_CONTENT_TYPE_OPTIONS,
    },
};
use tokio::{sync::watch, time::Instant};
use tower_claude::limiter::ScopeSnapshot;

pub(crate) use self::incidents::Incidents;
use self::{
    samples::{Samples, TICK},
    state::{Sources, State},
};

/// The time between two states.
pub(crate) const INTERVAL: std::time::Duration = TICK;

/// The page with its style and its program, so that nothing else is loaded.
const PAGE: &str = concat!(
    include_str!("page/head.html"),
    "<style>",
    include_str!("page/page.css"),
    "</style>",
    include_str!("page/body.html"),
    "<script>",
    include_str!("page/page.js"),
    "</script></html>\n"
);

/// Nothing from elsewhere, and no frame around the page. All texts are set as text, never as HTML.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                      connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// The state of the dashboard.
pub(crate) struct Dashboard {
    started: Instant,
    samples: Mutex<Samples>,
    incidents: Incidents,
    /// The newest state in JSON, as an event of a stream.
    events: watch::Sender<Bytes>,
}

impl Dashboard {
    pub(crate) fn new(incidents: Incidents) -> Self {
        Self {
            started: Instant::now(),
            samples: Mutex::default(),
            incidents,
            events: watch::Sender::new(Bytes::new()),
        }
    }

    /// Takes a sample of the metrics, and sends the new state to all pages.
    /// `scopes` are those of all limiters with their label. The page has a link to the plan if
    /// `has_plan` is true.
    pub(crate) fn update(
        &self,
        metrics: &str,
        scopes: Vec<(Arc<str>, ScopeSnapshot)>,
        draining: bool,
        has_plan: bool,
    ) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.record(metrics);
        let (incidents, alerts) = self.incidents.all();
        let state = State::new(Sources {
            now: Instant::now(),
            started: self.started,
            draining,
            has_plan,
            samples: &samples,
            scopes,
            incidents,
            alerts,
        });
        drop(samples);
        match serde_json::to_string(&state) {
            Ok(json) => {
                self.events.send_replace(format!("data: {json}\n\n").into());
            }
            Err(error) => tracing::error!(%error, "the state of the dashboard cannot be written"),
        }
    }

    /// Returns the page.
    pub(crate) fn page() -> Response {
        response("text/html; charset=utf-8", Body::from(PAGE))
    }

    /// Returns the stream of states. It begins with the newest one.
    pub(crate) fn stream(&self) -> Response {
        let mut events = self.events.subscribe();
        events.mark_changed();
        let events = stream::unfold(events, |mut events| async {
            events.changed().await.ok()?;
            let event = events.borrow_and_update().clone();
            Some((Ok::<_, Infallible>(event), events))
        });
        response("text/event-stream", Body::from_stream(events))
    }
}

pub(crate) fn response(content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    let headers: [(HeaderName, &'static str); 5] = [
        (CONTENT_TYPE, content_type),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in headers {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}
