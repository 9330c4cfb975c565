//! Connections to upstreams, directly or through a proxy.

use std::{
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Uri, uri::Scheme};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::{
        legacy::{
            self,
            connect::{HttpConnector, proxy::Tunnel},
        },
        proxy::matcher::Matcher,
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::net::TcpStream;
use tower_claude::{RequestBody, core::BoxError};
use tower_service::Service;

use crate::key_text::is_loopback;

/// The HTTP client of an upstream. It follows no redirects.
pub(crate) type Client = legacy::Client<HttpsConnector<ProxyConnector>, RequestBody>;

/// The time for the TCP connection to an upstream.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The time for which an unused connection is kept.
const POOL_IDLE: Duration = Duration::from_secs(90);

/// Creates a client. It uses HTTP/1.1, so that a connection that fails or stalls breaks one
/// response only.
///
/// # Errors
/// Returns the error of rustls if its cryptography supports no version of TLS.
pub(crate) fn client(uses_proxy: bool, roots: RootCertStore) -> Result<Client, rustls::Error> {
    let mut direct = HttpConnector::new();
    direct.enforce_http(false);
    direct.set_nodelay(true);
    direct.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let connector = ProxyConnector {
        direct,
        proxies: uses_proxy.then(|| Arc::new(Matcher::from_env())),
    };
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(connector);
    Ok(legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE)
        .build(connector))
}

/// Returns the certificates that are trusted: those of Mozilla's list, and those of a file in PEM.
///
/// # Errors
/// Returns the reason if the file cannot be read, has no certificate, or an invalid one.
pub(crate) fn roots(file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    let Some(file) = file else {
        return Ok(roots);
    };
    let failed = |error: String| format!("the file {}: {error}", file.display());
    let all = CertificateDer::pem_file_iter(file).map_err(|error| failed(error.to_string()))?;
    let before = roots.len();
    for certificate in all {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        let added = roots.add(certificate);
        added.map_err(|error| failed(error.to_string()))?;
    }
    if roots.len() == before {
        return Err(failed("has no certificate".to_owned()));
    }
    Ok(roots)
}

/// A connector that uses the proxy which the environment names for a URL, by a tunnel.
#[derive(Clone, Debug)]
pub(crate) struct ProxyConnector {
    direct: HttpConnector,
    proxies: Option<Arc<Matcher>>,
}

impl Service<Uri> for ProxyConnector {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.direct.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let is_local = uri.host().is_some_and(is_loopback);
        let proxies = self.proxies.as_ref().filter(|_| !is_local);
        match proxies.and_then(|proxies| proxies.intercept(&uri)) {
            None => {
                let connecting = self.direct.call(uri);
                Box::pin(async move { Ok(connecting.await?) })
            }
            Some(proxy) => {
                let mut tunnel = Tunnel::new(proxy.uri().clone(), self.direct.clone());
                if let Some(auth) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(auth.clone());
                }
                Box::pin(async move { Ok(tunnel.call(with_port(uri)?).await?) })
            }
        }
    }
}

/// Returns a URL with its port. Without one a [`Tunnel`] would lead to port 443.
fn with_port(uri: Uri) -> Result<Uri, http::Error> {
    if uri.port().is_some() || uri.scheme() != Some(&Scheme::HTTP) {
        return Ok(uri);
    }
    let authority = format!("{}:80", uri.host().unwrap_or_default());
    let mut parts = uri.into_parts();
    parts.authority = Some(authority.parse()?);
    Ok(Uri::from_parts(parts)?)
}
