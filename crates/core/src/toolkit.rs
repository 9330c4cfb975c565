//! Building blocks for authors of layers.
//!
//! A layer that is a policy of the [`driver`](crate::driver) needs few of them, because the driver
//! buffers requests, tracks responses and creates rejections. A layer with a service of its own
//! needs more.
//!
//! | Task | Items |
//! |---|---|
//! | Accept any request body | [`BufferRequest`], [`HttpInner`], [`Collect`] |
//! | Send a request again | [`SavedRequest`], [`CloneSource`], [`take_ready`] |
//! | Read a response | [`BodyTracker`], [`ExpectedBody`], [`ErrorBody`] |
//! | Read a request | [`ApiPath`], [`requested_model`], [`requests_stream`], [`host`], [`host_hash`], [`Credential`], [`Sender`] |
//! | Classify and describe the errors of clients | [`classify_client_error`], [`error_text`] |
//! | Report a response from another host | [`report_redirect`], [`OtherHost`] |
//! | Look up the state of a scope | [`ScopeRef`], [`AsScope`], [`get_by_scope`] |
//! | Agree on scopes with other processes | [`set_credential_key`] |
//! | Share reservations | [`Ledger`], [`ReservationHandle`], [`LimiterId`] |
//! | Correct limits by a response | [`Observation`], [`LimitWarning`] |
//! | Take over the wait after a 429 | [`PausedByLimiter`] |
//! | Learn from the actual usage | [`PendingEstimate`], [`UsageListener`] |
//! | Predict prompt cache reads | [`PrefixMemory`], [`Prefixes`], [`Prefix`], [`CacheReads`] |

pub use crate::body_tracker::{BodyTracker, ExpectedBody};
pub use crate::buffer_request::{BufferRequest, BufferRequestFuture, HttpInner};
pub use crate::clone_source::{CloneSource, take_ready};
pub use crate::collect::Collect;
pub use crate::cost::{PendingEstimate, UsageListener};
pub use crate::credential::{Credential, Sender, host_hash, set_credential_key};
pub use crate::endpoint::{ApiPath, PathForm};
pub use crate::error_body::{ERROR_BODY_LIMIT, ErrorBody};
pub use crate::host::host;
pub use crate::ledger::{Ledger, LimitWarning, LimiterId, Observation, ReservationHandle};
pub use crate::paused_by_limiter::PausedByLimiter;
pub use crate::prefix::{CacheReads, Prefix, PrefixMemory, Prefixes};
pub use crate::readable_duration::ReadableDuration;
pub use crate::redirect::{OtherHost, report_redirect};
pub use crate::request::{requested_model, requests_stream};
pub use crate::saved_request::SavedRequest;
pub use crate::scope::{AsScope, ScopeRef, get_by_scope};
pub use crate::transport_error::{classify_client_error, error_text};
