//! Alerts to a webhook.

use http::Uri;
use serde::{Deserialize, Serialize};
use tower_claude::core::alert::webhook::{Webhook, WebhookSecret, WebhookSink};

use crate::{
    connector::{client, roots},
    secret::Secret,
};

/// The receiver of alerts, beside the log.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct AlertsConfig {
    /// The URL that alerts are posted to. Default: none. It is a secret, because the URLs of many
    /// receivers have a token.
    pub webhook_url: Option<Secret>,
    /// The secret that the requests are signed with: `whsec_` and 24 to 64 bytes in base64, as in
    /// Standard Webhooks. Required with `webhook_url`.
    pub webhook_secret: Option<Secret>,
}

impl AlertsConfig {
    /// Returns the webhook, or the field that is wrong with the reason.
    fn webhook(&self) -> Result<Option<Webhook>, (&'static str, String)> {
        let (url, secret) = match (&self.webhook_url, &self.webhook_secret) {
            (Some(url), Some(secret)) => (url, secret),
            (None, None) => return Ok(None),
            (Some(_), None) => {
                let message = "is required with webhook_url".to_owned();
                return Err(("webhook_secret", message));
            }
            (None, Some(_)) => {
                return Err(("webhook_url", "is required with webhook_secret".to_owned()));
            }
        };
        let url = url.expose().parse::<Uri>().ok().filter(|url| {
            matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some()
        });
        let Some(url) = url else {
            return Err(("webhook_url", "is not a URL with http or https".to_owned()));
        };
        let secret = WebhookSecret::new(secret.expose());
        let secret = secret.map_err(|error| ("webhook_secret", error.to_string()))?;
        Ok(Some(Webhook::new(url, secret)))
    }

    pub(crate) fn check(&self, report: &mut dyn FnMut(String, String)) {
        if let Err((field, message)) = self.webhook() {
            report(format!("alerts.{field}"), message);
        }
    }

    /// Starts a task that sends alerts until all clones of the sink are dropped. `None` without a
    /// webhook.
    pub(crate) fn start(&self) -> Result<Option<WebhookSink>, rustls::Error> {
        let (Ok(Some(webhook)), Ok(roots)) = (self.webhook(), roots(None)) else {
            return Ok(None);
        };
        let (sink, sender) = webhook.start(client(true, roots)?);
        tokio::spawn(sender.run());
        Ok(Some(sink))
    }
}
