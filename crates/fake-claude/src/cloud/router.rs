//! Several servers behind their host names.

use std::task::{Context, Poll};

use bytes::Buf;
use http::header::HOST;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::body::FakeBody;
use crate::error::FakeError;
use crate::fake::FakeClaude;
use crate::service::ResponseFuture;

/// Several servers behind their host names, as a network with a name service has them.
///
/// A request goes to the server with its host: that of the URI, or of the `host` header. A server
/// of a cloud has the host of its platform ([`FakeCloud::host`](crate::FakeCloud::host)), and any
/// other is `api.anthropic.com`. A request to another host fails with [`FakeError::UnknownHost`].
///
/// ```
/// use tower_claude_fake_claude::{FakeClaude, FakeCloud, FakeHosts};
///
/// let east = FakeClaude::builder().cloud(FakeCloud::bedrock("us-east-1")).build();
/// let hosts = FakeHosts::new()
///     .with_server(FakeClaude::default())
///     .with_server(east.clone())
///     .with_host("proxy.internal", east);
/// # let _ = hosts;
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct FakeHosts {
    servers: Vec<(String, FakeClaude)>,
}

impl FakeHosts {
    /// Creates a network without servers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a server with the host of its platform.
    pub fn with_server(self, server: FakeClaude) -> Self {
        let host = server.host();
        self.with_host(host, server)
    }

    /// Adds a server with another host. A later server replaces an earlier one of the same host.
    pub fn with_host(mut self, host: impl Into<String>, server: FakeClaude) -> Self {
        let host = host.into();
        self.servers.retain(|(known, _)| *known != host);
        self.servers.push((host, server));
        self
    }

    fn server(&self, host: &str) -> Option<&FakeClaude> {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let is = |known: &str| known.eq_ignore_ascii_case(host) || known.eq_ignore_ascii_case(name);
        let found = self.servers.iter().find(|(known, _)| is(known));
        found.map(|(_, server)| server)
    }
}

impl<B> Service<Request<B>> for FakeHosts
where
    B: Body + Send + 'static,
    B::Data: Buf + Send,
{
    type Response = Response<FakeBody>;
    type Error = FakeError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), FakeError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        let host = request.uri().authority().map(http::uri::Authority::as_str);
        let header = || request.headers().get(HOST)?.to_str().ok();
        let server = host.or_else(header).and_then(|host| self.server(host));
        match server {
            Some(server) => server.clone().call(request),
            None => Box::pin(async { Err(FakeError::UnknownHost) }),
        }
    }
}
