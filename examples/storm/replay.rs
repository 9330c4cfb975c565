//! Sends the requests of a load at their times.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

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
use crate::incidents::Span;
use crate::load::{CONNECTIONS, Load};

/// The result of one request. Times are since the start of the server.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) index: usize,
    pub(crate) arrived: Duration,
    pub(crate) ended: Duration,
    pub(crate) ending: Ending,
    pub(crate) pauses: Vec<Span>,
}

/// The pauses that a client makes for one request after failures other than a 429. The request then
/// has no demand.
#[derive(Clone)]
pub(crate) struct Pauses {
    server: FakeClaude,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Pauses {
    fn new(server: &FakeClaude) -> Self {
        Self {
            server: server.clone(),
            spans: Arc::default(),
        }
    }

    /// Records a pause of this length that begins now.
    pub(crate) fn note(&self, length: Duration) {
        let from = self.server.elapsed();
        let until = from + length;
        self.lock().push(Span { from, until });
    }

    fn take(&self) -> Vec<Span> {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Span>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An HTTP client over plain sockets.
pub(crate) fn http_client<B>() -> Client<HttpConnector, B>
where
    B: Body + Send,
    B::Data: Send,
{
    let mut connector = HttpConnector::new();
    // The body follows the head in a packet of its own; without this it waits for an
    // acknowledgement.
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(CONNECTIONS as usize)
        .build(connector)
}

/// Sends every request of the load at its time to `server` by `send`, and waits for all of them.
/// Returns the results in order of the trace.
pub(crate) async fn replay<F, Fut>(
    load: &Load,
    server: &FakeClaude,
    base: &str,
    bar: &ProgressBar,
    send: F,
) -> Vec<Done>
where
    F: Fn(Request<Bytes>, Pauses) -> Fut,
    Fut: Future<Output = Ending> + Send + 'static,
{
    let mut running = JoinSet::new();
    let start = Instant::now();
    for (index, job) in load.jobs.iter().enumerate() {
        sleep_until(start + job.at).await;
        let pauses = Pauses::new(server);
        let answer = send(load.request(index, base), pauses.clone());
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
                pauses: pauses.take(),
            }
        });
    }
    let mut done = running.join_all().await;
    done.sort_by_key(|done| done.index);
    done
}
