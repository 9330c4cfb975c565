//! What a response head says.

use http::response::Parts;
use tower_claude_core::{Class, ClassifyResponse};

use crate::call::Call;

/// What is known of a response by its head.
pub(crate) enum Judged {
    /// To be held until it is worth handing on.
    Success,
    /// Failed, and why.
    Failed(Class),
    /// The body must be read first.
    Unread,
}

impl<C: ClassifyResponse> Call<C> {
    /// What the head says, or an inner layer has said already. That a layer refused on this side
    /// is a fact, which no classifier overrules.
    pub(crate) fn judge(&self, head: &Parts) -> Judged {
        let left = head.extensions.get::<Class>().copied();
        let class = left
            .filter(|class| class.local || self.config.reuse_class)
            .or_else(|| self.classifier.head(head.status, &head.headers));
        match class {
            Some(class) if class.is_success() => Judged::Success,
            Some(class) => Judged::Failed(class),
            // Reading a whole answer to judge it would hold back a stream.
            None if head.status.is_success() => Judged::Success,
            None => Judged::Unread,
        }
    }
}
