//! Credentials of AWS.

use std::{fmt, time::SystemTime};

use aws_credential_types::Credentials as Inner;

/// The name of the source of the credentials in the AWS crates.
const SOURCE: &str = "tower-claude";

/// Credentials of AWS: an access key, its secret, and for temporary ones a session token and a time
/// of expiry. Cheap to clone.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use tower_claude_cloud::bedrock::Credentials;
///
/// let credentials = Credentials::new("AKIDEXAMPLE", "not a real secret")
///     .with_session_token("not a real token".to_owned())
///     .with_expiry(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
/// assert!(!format!("{credentials:?}").contains("not a real"));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials(Inner);

impl Credentials {
    /// Creates credentials that never expire.
    #[must_use]
    pub fn new(access_key_id: impl Into<String>, secret_access_key: impl Into<String>) -> Self {
        Self(Inner::new(
            access_key_id,
            secret_access_key,
            None,
            None,
            SOURCE,
        ))
    }

    /// Sets the session token of temporary credentials. None by default.
    #[must_use]
    pub fn with_session_token(self, token: impl Into<Option<String>>) -> Self {
        let (id, secret) = (self.0.access_key_id(), self.0.secret_access_key());
        Self(Inner::new(
            id,
            secret,
            token.into(),
            self.0.expiry(),
            SOURCE,
        ))
    }

    /// Sets the time after which AWS refuses the credentials. Never by default.
    #[must_use]
    pub fn with_expiry(mut self, at: impl Into<Option<SystemTime>>) -> Self {
        *self.0.expiry_mut() = at.into();
        self
    }

    /// Returns the id of the access key, which is no secret.
    #[must_use]
    pub fn access_key_id(&self) -> &str {
        self.0.access_key_id()
    }

    /// Returns the time after which AWS refuses the credentials. `None` for never.
    #[must_use]
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.0.expiry()
    }

    /// Returns the credentials for the AWS crates.
    pub(super) const fn inner(&self) -> &Inner {
        &self.0
    }
}

impl fmt::Debug for Credentials {
    /// Shows the id of the key and the expiry, and never the secret or the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key_id", &self.access_key_id())
            .field("expires_at", &self.expires_at())
            .finish_non_exhaustive()
    }
}
