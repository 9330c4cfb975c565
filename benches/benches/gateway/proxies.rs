//! The proxies that are compared. Both have a runtime with as many threads as processors.

use std::net::SocketAddr;

use http::{Request, Uri, uri::PathAndQuery};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use tower_claude_gateway::{Config, Gateway};

use crate::process;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Serves until the process ends: passes each request on, and its response back, both as streams.
pub(crate) fn serve_plain(upstream: SocketAddr) -> ! {
    runtime().block_on(async {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client: Client<_, Incoming> = Client::builder(TokioExecutor::new()).build(connector);
        let listener = process::listen().await;
        process::announce(listener.local_addr().expect("an address"));
        loop {
            let Ok((connection, _)) = listener.accept().await else {
                continue;
            };
            connection.set_nodelay(true).expect("a socket");
            let client = client.clone();
            let service = service_fn(move |mut request: Request<Incoming>| {
                let target = request.uri().path_and_query().map(PathAndQuery::as_str);
                let target = format!("http://{upstream}{}", target.unwrap_or_default());
                *request.uri_mut() = target.parse::<Uri>().expect("a URI");
                client.request(request)
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(connection), service));
        }
    })
}

/// Serves until the process ends, with the default configuration.
pub(crate) fn serve_gateway(upstream: SocketAddr) -> ! {
    runtime().block_on(async {
        let toml = format!(
            "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n\
             server.max_connections = 20000\n\
             [[upstreams]]\nname = \"bench\"\nurl = \"http://{upstream}\"\n"
        );
        let config = Config::from_toml(&toml).expect("a valid configuration");
        let gateway = Gateway::bind(config).await.expect("a free port");
        process::announce(gateway.addr());
        gateway.run(std::future::pending()).await;
    });
    std::process::exit(0)
}
