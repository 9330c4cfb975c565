//! RetryLayer: error classification, backoff with jitter, retry-after, a shared retry budget.
