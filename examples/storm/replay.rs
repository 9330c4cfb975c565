//! Sending the requests of a load at their times.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body::Body;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use indicatif::ProgressBar;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tower_claude_fake_claude::FakeClaude;

use crate::answer::Ending;
use crate::load::Load;

/// What became of one request. Times are since the server's start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    pub(crate) index: usize,
    pub(crate) arrived: Duration,
    pub(crate) ended: Duration,
    pub(crate) ending: Ending,
}

/// An HTTP client over plain sockets.
pub(crate) fn http_client<B>() -> Client<HttpConnector, B>
where
    B: Body + Send,
    B::Data: Send,
{
    let mut connector = HttpConnector::new();
    // The body follows the head in a packet of its own; without this it waits for an acknowledgement.
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).build(connector)
}

/// Sends every request of the load at its time to `server` by `send`, and waits for all of them. In order of the trace.
pub(crate) async fn replay<F, Fut>(
    load: &Load,
    server: &FakeClaude,
    base: &str,
    bar: &ProgressBar,
    send: F,
) -> Vec<Done>
where
    F: Fn(Request<Bytes>, u64) -> Fut,
    Fut: Future<Output = Ending> + Send + 'static,
{
    let mut running = JoinSet::new();
    let start = Instant::now();
    for (index, job) in load.jobs.iter().enumerate() {
        sleep_until(start + job.at).await;
        let answer = send(load.request(index, base), index as u64);
        let (server, bar) = (server.clone(), bar.clone());
        running.spawn(async move {
            let arrived = server.elapsed();
            let ending = answer.await;
            bar.inc(1);
            Done {
                index,
                arrived,
                ended: server.elapsed(),
                ending,
            }
        });
    }
    let mut done = running.join_all().await;
    done.sort_by_key(|done| done.index);
    done
}
