//! The secret of a webhook.

use std::{fmt, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};

/// The prefix of secrets in Standard Webhooks.
const PREFIX: &str = "whsec_";

/// A secret that webhooks are signed with. `Debug` does not show its value.
#[derive(Clone)]
pub struct WebhookSecret(Arc<[u8]>);

/// The error of a text that is no secret of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidSecret;

impl WebhookSecret {
    /// Reads a secret: 24 to 64 bytes in base64, with or without `whsec_` before them.
    ///
    /// # Errors
    /// Returns an error for any other text. The error does not repeat it.
    pub fn new(text: &str) -> Result<Self, InvalidSecret> {
        let text = text.trim();
        let text = text.strip_prefix(PREFIX).unwrap_or(text);
        let key = STANDARD.decode(text).map_err(|_| InvalidSecret)?;
        if !(24..=64).contains(&key.len()) {
            return Err(InvalidSecret);
        }
        Ok(Self(key.into()))
    }

    /// Returns the value of the header `webhook-signature`.
    pub(super) fn sign(&self, id: &str, timestamp: u64, body: &str) -> String {
        let content = format!("{id}.{timestamp}.{body}");
        let mac = hmac_sha256::HMAC::mac(content, &self.0);
        format!("v1,{}", STANDARD.encode(mac))
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(***)")
    }
}

impl fmt::Display for InvalidSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a webhook secret is 24 to 64 bytes in base64, such as \"whsec_…\"")
    }
}

impl std::error::Error for InvalidSecret {}
