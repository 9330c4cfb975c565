//! Traces over OTLP (feature `otlp`): the spans of the layers, in a span of each request.
//!
//! The standard variables `OTEL_*` configure the export. It is on if there is an endpoint.

use std::{
    env, fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    extract::Request,
    middleware::{Next, from_fn},
    response::Response,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry::{
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::TracerProvider,
};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use tokio::{runtime::Handle, time::timeout};
use tower_claude_gateway::{Config, Gateway, OnSend, StartError};
use tracing::{Instrument, Level, Span, field::Empty};
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt};
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

use crate::{CommandError, failed};

/// The target of the spans of the layers, and of the span of each request.
const SPANS: &str = "tower_claude::span";

/// The variables with the endpoint. Either of them switches the export on.
const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
];

/// The most that is read of an answer of the collector.
const MOST_READ: usize = 1 << 20;

/// The export of traces, if there is an endpoint.
pub(crate) struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// Starts the export, if an endpoint is set. Needs a tokio runtime with several threads.
    ///
    /// # Errors
    /// Returns an error if a variable is not valid.
    pub(crate) fn start() -> Result<Self, CommandError> {
        let is_set = |name: &str| env::var(name).is_ok_and(|value| !value.is_empty());
        let is_disabled = env::var("OTEL_SDK_DISABLED").is_ok_and(|value| value == "true");
        if is_disabled || !ENDPOINTS.into_iter().any(is_set) {
            return Ok(Self(None));
        }
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(rustls::crypto::ring::default_provider())
            .map_err(failed)?
            .https_or_http()
            .enable_http1()
            .build();
        let client = ExportClient {
            client: Client::builder(TokioExecutor::new()).build(connector),
            runtime: Handle::current(),
            timeout: export_timeout(),
            is_failing: Arc::default(),
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .build()
            .map_err(failed)?;
        let attributes = env::var("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        let mut resource = Resource::builder();
        if !is_set("OTEL_SERVICE_NAME") && !attributes.contains("service.name=") {
            resource = resource.with_service_name(env!("CARGO_BIN_NAME"));
        }
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .build();
        Ok(Self(Some(provider)))
    }

    /// Returns the layer that turns spans of tracing into those of OpenTelemetry.
    pub(crate) fn layer<S>(&self) -> Option<impl Layer<S> + use<S>>
    where
        S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    {
        let provider = self.0.as_ref()?;
        // The lines at INFO become events of the spans.
        let targets = Targets::new()
            .with_target("tower_claude", Level::INFO)
            .with_target(SPANS, Level::DEBUG);
        let layer = OpenTelemetryLayer::new(provider.tracer("tower-claude"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_target(false);
        Some(layer.with_filter(targets))
    }

    /// Opens the addresses of a gateway whose requests have spans.
    ///
    /// # Errors
    /// Returns the error of the gateway.
    pub(crate) async fn bind(&self, config: Config) -> Result<Gateway, StartError> {
        if self.0.is_none() {
            return Gateway::bind(config).await;
        }
        let on_send: OnSend = Arc::new(inject);
        let gateway = Gateway::bind_with(config, Some(on_send)).await?;
        Ok(gateway.with_layer(from_fn(in_span)))
    }

    /// Exports what is left.
    pub(crate) async fn end(self) {
        let Some(provider) = self.0 else { return };
        let ended = tokio::task::spawn_blocking(move || provider.shutdown());
        if let Ok(Err(error)) = ended.await {
            tracing::warn!(%error, "traces are not exported");
        }
    }
}

/// Answers a request in a span that continues the trace of the client. It ends with the body of the
/// response.
async fn in_span(request: Request, next: Next) -> Response {
    let (method, path) = (request.method().as_str(), request.uri().path());
    let span = tracing::debug_span!(
        target: SPANS,
        "request",
        otel.name = format!("{method} {path}"),
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method,
        http.response.status_code = Empty,
        url.path = path,
    );
    let parent = TraceContextPropagator::new().extract(&Headers(request.headers()));
    // It fails only if the layer for OpenTelemetry is missing.
    let _ = span.set_parent(parent);
    let response = next.run(request).instrument(span.clone()).await;
    let status = response.status();
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    response.map(|body| Body::new(InSpan { body, _span: span }))
}

/// A body that keeps a span open until it is dropped.
struct InSpan {
    body: Body,
    _span: Span,
}

impl HttpBody for InSpan {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Replaces the trace of the client by that of the present span.
fn inject(headers: &mut HeaderMap) {
    let context = Span::current().context();
    TraceContextPropagator::new().inject_context(&context, &mut HeadersMut(headers));
}

/// Headers as a source of a trace.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

/// Headers that get a trace.
struct HeadersMut<'a>(&'a mut HeaderMap);

impl Injector for HeadersMut<'_> {
    fn set(&mut self, name: &str, value: String) {
        let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::try_from(value))
        else {
            return;
        };
        // A trace without state has an empty text, which is no valid `tracestate`.
        if value.is_empty() {
            self.0.remove(name);
        } else {
            self.0.insert(name, value);
        }
    }
}

/// The HTTP client of the exporter. The exporter runs on a thread of its own, and the client on the
/// runtime.
#[derive(Clone)]
struct ExportClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    runtime: Handle,
    timeout: Duration,
    is_failing: Arc<AtomicBool>,
}

impl ExportClient {
    async fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<Bytes>, HttpError> {
        let response = self.client.request(request.map(Full::new)).await?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MOST_READ).collect().await?.to_bytes();
        Ok(http::Response::from_parts(parts, body))
    }

    /// Logs the first failure after a success. The exporter itself is silent.
    fn report(&self, result: &Result<http::Response<Bytes>, HttpError>) {
        let failure = match result {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("the collector answers {}", response.status())),
            Err(error) => Some(error.to_string()),
        };
        let was_failing = self.is_failing.swap(failure.is_some(), Ordering::Relaxed);
        if let Some(error) = failure.filter(|_| !was_failing) {
            tracing::warn!(error, "traces are not exported");
        }
    }
}

/// Returns the time for one request to the collector. 10 s by default.
fn export_timeout() -> Duration {
    let variables = [
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
        "OTEL_EXPORTER_OTLP_TIMEOUT",
    ];
    let millis = variables
        .iter()
        .find_map(|name| env::var(name).ok()?.parse().ok());
    Duration::from_millis(millis.unwrap_or(10_000))
}

impl fmt::Debug for ExportClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExportClient").finish_non_exhaustive()
    }
}

impl HttpClient for ExportClient {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: http::Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<http::Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let client = self.clone();
        let exchange = self.runtime.spawn(async move {
            let sending = timeout(client.timeout, client.send(request));
            let result = sending.await.unwrap_or_else(|elapsed| Err(elapsed.into()));
            client.report(&result);
            result
        });
        Box::pin(async move { exchange.await? })
    }
}
