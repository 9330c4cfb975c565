//! The request of each attempt.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, Request};
use tower_claude_core::{RequestBody, SavedRequest};

use super::RetryCall;

/// The SDKs' count of retries. Kept true where the caller sends it.
const RETRY_COUNT: HeaderName = HeaderName::from_static("x-stainless-retry-count");

impl<C> RetryCall<C> {
    /// Keeps the request until it can be sent.
    pub(crate) fn wait_with(&mut self, request: Request<RequestBody>) {
        self.first = Some(Box::new(request));
    }

    /// The request of this attempt.
    pub(crate) fn launch(&mut self) -> Request<RequestBody> {
        let mut request = match self.first.take() {
            Some(mut request) => {
                self.launch_first(&mut request);
                *request
            }
            None => self.launch_again(),
        };
        if let (retries @ 1.., Some(before)) = (self.number - 1, counted(request.headers())) {
            let count = before.saturating_add(u64::from(retries));
            request.headers_mut().insert(RETRY_COUNT, count.into());
        }
        request
    }

    fn launch_again(&mut self) -> Request<RequestBody> {
        let kept = match self.begin_attempt() {
            true => self.kept.take().map(SavedRequest::into_request),
            false => self.kept.as_ref().map(|kept| kept.copy()),
        };
        let mut request = kept.expect("an attempt is made only while the request is there");
        self.claim.mark(&mut request);
        request
    }

    /// Makes this the request of the first attempt. It is kept for the next where there can be one, unless a layer
    /// outside keeps it already.
    pub(crate) fn launch_first(&mut self, request: &mut Request<RequestBody>) {
        let context = self.claim.get();
        let kept = context.and_then(|context| context.original_of(request));
        self.launch_kept(request, kept);
    }

    /// The same for a request that is kept already.
    pub(crate) fn launch_kept(
        &mut self,
        request: &mut Request<RequestBody>,
        kept: Option<Arc<SavedRequest>>,
    ) {
        if !self.begin_attempt() {
            self.kept = kept.or_else(|| SavedRequest::of(request));
        }
        if self.claim.own().is_some() {
            self.claim.mark(request);
        }
    }

    /// Whether it is the last.
    fn begin_attempt(&mut self) -> bool {
        if let Some(later) = &mut self.later {
            later.payment.sent();
        }
        if let Some(context) = self.claim.get() {
            context.begin_attempt();
        }
        self.is_nested() || self.config.policy.is_last(self.number, self.spent)
    }
}

/// The caller's own count of retries, if there is one.
fn counted(headers: &HeaderMap) -> Option<u64> {
    headers.get(RETRY_COUNT)?.to_str().ok()?.parse().ok()
}
