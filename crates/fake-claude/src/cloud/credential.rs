//! Credentials of cloud platforms.

use std::fmt;
use std::time::Duration;

/// A credential that a cloud platform accepts, for some time.
#[derive(Clone, PartialEq, Eq)]
#[must_use]
pub struct FakeCredential {
    pub(crate) secret: Secret,
    /// The time since the server's start until which it is valid.
    pub(crate) until: Option<Duration>,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Secret {
    AccessKey {
        id: String,
        secret: String,
        session: Option<String>,
    },
    Bearer(String),
}

impl FakeCredential {
    /// Creates an access key of AWS.
    pub fn access_key(id: impl Into<String>, secret: impl Into<String>) -> Self {
        Self {
            secret: Secret::AccessKey {
                id: id.into(),
                secret: secret.into(),
                session: None,
            },
            until: None,
        }
    }

    /// Creates a bearer token: an OAuth token of Google, or an API key of Amazon Bedrock.
    pub fn bearer(token: impl Into<String>) -> Self {
        Self {
            secret: Secret::Bearer(token.into()),
            until: None,
        }
    }

    /// Sets the session token of a temporary access key. Does nothing to a bearer token.
    pub fn session_token(mut self, token: impl Into<String>) -> Self {
        if let Secret::AccessKey { session, .. } = &mut self.secret {
            *session = Some(token.into());
        }
        self
    }

    /// Sets the time from the start of the server until which the credential is valid. By default
    /// it does not expire.
    pub fn valid_for(mut self, time: Duration) -> Self {
        self.until = Some(time);
        self
    }

    pub(crate) fn has_expired(&self, now: Duration) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// Returns the id of an access key, or the token.
    pub(crate) fn name(&self) -> &str {
        match &self.secret {
            Secret::AccessKey { id, .. } => id,
            Secret::Bearer(token) => token,
        }
    }
}

impl fmt::Debug for FakeCredential {
    /// Leaves the secret out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.secret {
            Secret::AccessKey { .. } => "access_key",
            Secret::Bearer(_) => "bearer",
        };
        f.debug_struct("FakeCredential")
            .field("kind", &kind)
            .field("until", &self.until)
            .finish_non_exhaustive()
    }
}
