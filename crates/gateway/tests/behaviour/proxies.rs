//! The variables that name a proxy towards the upstreams, with a real proxy.
#![cfg(target_os = "linux")]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use crate::common::{process::GatewayProcess, *};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A proxy that opens tunnels, and records the heads of the requests for them.
struct Proxy {
    addr: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Starts a proxy, whose tunnels all lead to `target`.
    async fn new(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let log = heads.clone();
        let task = tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let log = log.clone();
                tokio::spawn(async move {
                    let head = read_until(&mut client, "\r\n\r\n").await;
                    log.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(head);
                    let mut upstream = TcpStream::connect(target).await.unwrap();
                    client
                        .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
                        .await
                        .unwrap();
                    let _ = copy_bidirectional(&mut client, &mut upstream).await;
                });
            }
        });
        Self { addr, heads, task }
    }

    fn heads(&self) -> Vec<String> {
        let heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        heads.clone()
    }

    fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

async fn message(gateway: &GatewayProcess) -> Got {
    send(gateway.request("POST", "/v1/messages"), REQUEST).await
}

#[tokio::test]
async fn requests_go_through_the_tunnel_of_the_proxy() {
    let upstream = Upstream::with_message().await;
    for variable in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        let proxy = Proxy::new(upstream.addr).await;
        let url = format!("http://user:word@{}", proxy.addr);
        let env = [(variable, &*url)];
        // The name of the host is resolved by the proxy.
        let gateway = GatewayProcess::with_env("http://api.invalid", "", "", &env);
        let got = message(&gateway).await;
        assert_eq!((got.status, got.text()), (200, MESSAGE));
        assert_eq!(upstream.last().headers["host"], "api.invalid");
        let heads = proxy.heads();
        assert_eq!(heads.len(), 1, "{heads:?}");
        assert!(heads[0].starts_with("CONNECT api.invalid:80 "), "{heads:?}");
        // The user and the password in Base64.
        assert!(heads[0].contains("dXNlcjp3b3Jk"), "{heads:?}");
        // They are for the proxy, and the key is for the upstream.
        assert!(!heads[0].contains("key-of-caller"), "{heads:?}");
        let received = upstream.last();
        assert!(!received.headers.contains_key("proxy-authorization"));
    }
}

#[tokio::test]
async fn requests_by_https_are_encrypted_within_the_tunnel() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::new(listener.local_addr().unwrap()).await;
    let env = [("HTTPS_PROXY", &*proxy.url())];
    let gateway = GatewayProcess::with_env("https://api.invalid", "", "", &env);
    let models = gateway.request("GET", "/v1/models");
    let answering = tokio::spawn(send(models, ""));
    let (mut stream, _) = within(listener.accept()).await.unwrap();
    let mut first = [0; 3];
    within(stream.read_exact(&mut first)).await.unwrap();
    // A handshake record of TLS.
    assert_eq!(first, [22, 3, 1]);
    assert!(proxy.heads()[0].starts_with("CONNECT api.invalid:443 "));
    // No certificate comes.
    drop(stream);
    let got = within(answering).await.unwrap();
    assert_eq!((got.status, &*got.error_type()), (502, "api_error"));
}

#[tokio::test]
async fn hosts_in_no_proxy_and_loopback_addresses_are_reached_directly() {
    let upstream = Upstream::with_message().await;
    let port = upstream.addr.port();
    // Another name for this machine, which is no loopback address.
    let any = format!("http://0.0.0.0:{port}");
    let proxy = Proxy::new(upstream.addr).await;
    let url = proxy.url();
    let (http, no) = (("HTTP_PROXY", &*url), ("NO_PROXY", "example.com, 0.0.0.0"));
    let loopback = upstream.url();
    for (base, env, after, tunnels) in [
        (&*any, &[http][..], "", 1),
        (&*any, &[http, no], "", 0),
        (&*any, &[http], "proxy = false", 0),
        (&*loopback, &[http], "", 0),
    ] {
        let before = proxy.heads().len();
        let gateway = GatewayProcess::with_env(base, "", after, env);
        let got = message(&gateway).await;
        assert_eq!(got.status, 200, "{}", got.text());
        let used = proxy.heads().len() - before;
        assert_eq!(used, tunnels, "{base} with {env:?} {after}");
    }
}

#[tokio::test]
async fn proxy_that_rejects_is_reported_as_502() {
    let proxy = Upstream::new(|_| async { json(407, "{}") }).await;
    let env = [("HTTP_PROXY", &*proxy.url())];
    let gateway = GatewayProcess::with_env("http://api.invalid", "", "max_attempts = 1", &env);
    let got = message(&gateway).await;
    assert_eq!((got.status, &*got.error_type()), (502, "api_error"));
}
