//! The leader's call to the inner service, and the callers that poll it.

use std::{
    collections::HashMap,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, Weak},
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::{Request, Response, response::Parts};
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_claude_core::{Kind, RequestBody};
use tower_service::Service;

use crate::{
    answer::head::{Head, is_out_of_time},
    coalesce::{
        shared_fetch::{LeaderGuard, Subscriber},
        state::{FetchEnd, FetchParams},
        waker_set::{WakerSet, lock},
    },
    request::key::UnkeyedFields,
};

/// The leader's own result, beside the response that all subscribers share.
pub(crate) enum LeaderResult<P, E> {
    /// The head. The body is read from the shared fetch.
    Shared(Parts, SizeHint),
    /// A response that is not shared.
    Own(P),
    Error(E),
}

/// The calls that one service and its clones make, by fetch.
///
/// A call may borrow from its service, so it cannot be kept with the fetch in the layer. It is kept
/// here, so that each caller of the service can poll it. The call of a leader that is cancelled, or
/// is not polled, therefore continues.
pub(crate) struct CallTable<S: Service<Request<RequestBody>>>(Mutex<CellMap<S>>);

/// The cells with the number of their members.
type CellMap<S> = HashMap<usize, (usize, Arc<CallCell<S>>)>;

/// The call of one fetch.
pub(crate) struct CallCell<S: Service<Request<RequestBody>>>(Mutex<CellState<S>>);

struct CellState<S: Service<Request<RequestBody>>> {
    /// The call, while no member polls it. Empty if a detached task makes it.
    call: Option<Pin<Box<LeaderCall<S>>>>,
    /// The subscriber that made the call, until it leaves.
    leader: Option<u64>,
    result: Option<KeptResult<S>>,
}

/// A result until the leader takes it.
struct KeptResult<S: Service<Request<RequestBody>>> {
    leader: u64,
    /// The request that another member may take the result for, if the leader has left. `None` if
    /// the result is for the leader only.
    fits: Option<UnkeyedFields>,
    result: LeaderResult<S::Response, S::Error>,
}

/// A caller's share in the call of its fetch. The call ends with its last member.
pub(crate) struct Member<S: Service<Request<RequestBody>>> {
    table: Arc<CallTable<S>>,
    cell: Arc<CallCell<S>>,
    fetch: usize,
    id: u64,
}

impl<S: Service<Request<RequestBody>>> Default for CallTable<S> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<S: Service<Request<RequestBody>>> CallTable<S> {
    /// Adds a member for this subscriber.
    pub(crate) fn join(self: &Arc<Self>, subscriber: &Subscriber) -> Member<S> {
        let fetch = subscriber.fetch_id();
        let mut cells = lock(&self.0);
        let (members, cell) = cells.entry(fetch).or_insert_with(|| {
            let state = CellState {
                call: None,
                leader: None,
                result: None,
            };
            (0, Arc::new(CallCell(Mutex::new(state))))
        });
        *members += 1;
        let cell = cell.clone();
        drop(cells);
        Member {
            table: self.clone(),
            cell,
            fetch,
            id: subscriber.id(),
        }
    }
}

impl<S: Service<Request<RequestBody>>> Member<S> {
    /// Returns a member for another fetch.
    pub(crate) fn join(&self, subscriber: &Subscriber) -> Self {
        self.table.join(subscriber)
    }

    /// Returns the call that this member makes as the leader.
    pub(crate) fn lead(
        &self,
        service: S,
        request: Request<RequestBody>,
        leader: (LeaderGuard, FetchParams),
        task: Option<Subscriber>,
    ) -> LeaderCall<S> {
        lock(&self.cell.0).leader = Some(self.id);
        LeaderCall {
            call: None,
            service,
            request: Some(request),
            leader: Some(leader),
            id: self.id,
            cell: Arc::downgrade(&self.cell),
            task,
            timer: None,
        }
    }

    /// Keeps the call, so that all members can poll it.
    pub(crate) fn keep(&self, call: Pin<Box<LeaderCall<S>>>) {
        let old = lock(&self.cell.0).call.replace(call);
        drop(old);
    }

    /// Returns true if this member made the call that the members poll.
    pub(crate) fn drives(&self) -> bool {
        let state = lock(&self.cell.0);
        state.call.is_some() && state.leader == Some(self.id)
    }

    /// Takes the result of the call, if this member made it, or if that member has left and its
    /// request had the same unkeyed fields.
    pub(crate) fn take_result(
        &self,
        unkeyed: &UnkeyedFields,
    ) -> Option<LeaderResult<S::Response, S::Error>> {
        let mut state = lock(&self.cell.0);
        let kept = state.result.as_ref()?;
        let is_free = state.leader != Some(kept.leader) && kept.fits.as_ref() == Some(unkeyed);
        if kept.leader == self.id || is_free {
            return state.result.take().map(|kept| kept.result);
        }
        None
    }

    /// Polls the call for all members. Returns true if it is complete.
    pub(crate) fn poll(&self, wakers: &Arc<WakerSet>) -> bool
    where
        LeaderCall<S>: Future<Output = ()>,
    {
        let call = lock(&self.cell.0).call.take();
        // Absent if another member polls it.
        let Some(mut call) = call else { return false };
        if !call.is_current() {
            return false;
        }
        if wakers.take_woken() {
            let waker = Waker::from(wakers.clone());
            let mut cx = Context::from_waker(&waker);
            if call.as_mut().poll(&mut cx).is_ready() {
                return true;
            }
        }
        self.keep(call);
        if wakers.woken().is_some() {
            // A member that was woken in between could not poll.
            wakers.wake_all();
        }
        false
    }
}

impl<S: Service<Request<RequestBody>>> Drop for Member<S> {
    fn drop(&mut self) {
        let mut state = lock(&self.cell.0);
        if state.leader == Some(self.id) {
            state.leader = None;
        }
        drop(state);
        let mut cells = lock(&self.table.0);
        let is_last = cells.get_mut(&self.fetch).is_some_and(|(members, _)| {
            *members -= 1;
            *members == 0
        });
        let cell = is_last.then(|| cells.remove(&self.fetch));
        drop(cells);
        drop(cell);
    }
}

impl<S: Service<Request<RequestBody>>> CallCell<S> {
    /// Leaves the result for the leader.
    fn put(&self, kept: KeptResult<S>) {
        let old = lock(&self.0).result.replace(kept);
        drop(old);
    }
}

pin_project! {
    /// The future of a call that fills the cache, as [`Detach`](crate::Detach) gets it.
    #[must_use = "futures do nothing unless polled"]
    pub struct LeaderCall<S>
    where
        S: Service<Request<RequestBody>>,
    {
        #[pin]
        call: Option<S::Future>,
        service: S,
        request: Option<Request<RequestBody>>,
        // Before the subscriber: leadership must be given up while the fetch still has a
        // subscriber.
        leader: Option<(LeaderGuard, FetchParams)>,
        id: u64,
        cell: Weak<CallCell<S>>,
        // Set if the call is detached: it then reads the body to its end.
        task: Option<Subscriber>,
        // Ends a detached call that makes no progress.
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<S> LeaderCall<S>
where
    S: Service<Request<RequestBody>>,
{
    /// Returns false if another subscriber has made a new call.
    fn is_current(&self) -> bool {
        (self.leader.as_ref()).is_none_or(|(guard, _)| guard.is_current())
    }
}

impl<S, R> Future for LeaderCall<S>
where
    S: Service<Request<RequestBody>, Response = Response<R>>,
    R: Body<Data = Bytes> + Unpin + Send + 'static,
    R::Error: Send + 'static,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(task) = &self.task {
            // A subscriber may raise the priority of the call.
            task.register(cx.waker());
        }
        if self.as_mut().poll_call(cx).is_ready() {
            let this = self.as_mut().project();
            let drained = match this.task {
                Some(task) => task.poll_drain(cx),
                None => Poll::Ready(()),
            };
            if drained.is_ready() {
                *this.task = None;
                return Poll::Ready(());
            }
        }
        self.poll_stall(cx)
    }
}

impl<S, R> LeaderCall<S>
where
    S: Service<Request<RequestBody>, Response = Response<R>>,
    R: Body<Data = Bytes> + Unpin + Send + 'static,
    R::Error: Send + 'static,
{
    /// Makes the call, and publishes its result.
    fn poll_call(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        while this.leader.is_some() {
            let result = if let Some(call) = this.call.as_mut().as_pin_mut() {
                let result = ready!(call.poll(cx));
                this.call.set(None);
                result
            } else {
                match (ready!(this.service.poll_ready(cx)), this.request.take()) {
                    (Ok(()), Some(request)) => {
                        this.call.set(Some(this.service.call(request)));
                        continue;
                    }
                    (Ok(()), None) => break,
                    (Err(error), _) => Err(error),
                }
            };
            if let Some((guard, params)) = this.leader.take() {
                publish(result, guard, params, *this.id, this.cell);
            }
        }
        Poll::Ready(())
    }

    /// Ends a detached call that has made no progress for too long.
    fn poll_stall(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let Some(task) = this.task.as_ref() else {
            return Poll::Pending;
        };
        loop {
            let Some(at) = task.stalls_at() else {
                return Poll::Pending;
            };
            if at <= Instant::now() {
                break;
            }
            let timer = this.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
            if timer.deadline() != at {
                timer.as_mut().reset(at);
            }
            ready!(timer.as_mut().poll(cx));
        }
        this.call.set(None);
        // Without a head, another subscriber makes a new call.
        let leader = this.leader.take();
        if leader.is_none() {
            task.stall();
        }
        drop(leader);
        *this.task = None;
        Poll::Ready(())
    }
}

/// Leaves the result for the leader, and publishes it to the other subscribers afterwards.
fn publish<S, R>(
    result: Result<Response<R>, S::Error>,
    guard: LeaderGuard,
    params: FetchParams,
    leader: u64,
    cell: &Weak<CallCell<S>>,
) where
    S: Service<Request<RequestBody>, Response = Response<R>>,
    R: Body<Data = Bytes> + Unpin + Send + 'static,
    R::Error: Send + 'static,
{
    let fits = Some(params.unkeyed);
    let put = |fits, result| {
        if let Some(cell) = cell.upgrade() {
            cell.put(KeptResult {
                leader,
                fits,
                result,
            });
        }
    };
    let response = match result {
        Ok(response) => response,
        Err(error) => {
            put(fits, LeaderResult::Error(error));
            return guard.fail(FetchEnd::LeaderFailed(Kind::Transport));
        }
    };
    let (parts, body) = response.into_parts();
    if is_out_of_time(&parts) {
        // The subscribers may have more time. Dropping the guard makes one of them the leader.
        put(None, LeaderResult::Own(Response::from_parts(parts, body)));
        return drop(guard);
    }
    let head = Head::from_parts(&parts).filter(|_| guard.is_current());
    match head {
        Some(head) => {
            put(fits, LeaderResult::Shared(parts, body.size_hint()));
            guard.open(head, params, Box::new(body));
        }
        None => {
            put(fits, LeaderResult::Own(Response::from_parts(parts, body)));
            guard.fail(FetchEnd::NotShareable);
        }
    }
}

impl<S> fmt::Debug for LeaderCall<S>
where
    S: Service<Request<RequestBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaderCall").finish_non_exhaustive()
    }
}
