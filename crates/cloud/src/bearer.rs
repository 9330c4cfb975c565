//! Bearer tokens.

use std::{fmt, time::SystemTime};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue,
    header::{AUTHORIZATION, InvalidHeaderValue},
    request::Parts,
};
use tower_claude_core::BoxError;

use crate::{
    authorize::{Authorization, Authorize},
    refresh::{Issued, Lookup, Refreshing},
};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// A bearer token: an OAuth token of Google, an API key of Amazon Bedrock, or an API key of the
/// Claude API.
#[derive(Clone)]
pub struct Bearer(Token);

#[derive(Clone)]
enum Token {
    Fixed(HeaderValue),
    Refreshing(Refreshing<HeaderValue>),
}

impl Bearer {
    /// Creates a bearer of a token that never changes.
    ///
    /// # Errors
    /// If the token has characters that a header cannot have.
    pub fn fixed(token: &str) -> Result<Self, InvalidHeaderValue> {
        Ok(Self(Token::Fixed(header(token)?)))
    }

    /// Creates a bearer of tokens from a source, e.g. a metadata server.
    ///
    /// The source is called when the first request needs a token, and again five minutes before a
    /// token expires, or half of its life before if that is later. Requests use the old token
    /// meanwhile. Of many requests without a token, one calls the source and all wait, for at most
    /// 30 seconds. After a failure the source rests for one second.
    ///
    /// The source runs in a task of the Tokio runtime, so a caller that gives up does not end it.
    ///
    /// With the crate `gcp_auth`, for Vertex AI:
    ///
    /// ```
    /// use tower_claude_cloud::{Bearer, Issued};
    ///
    /// # mod gcp_auth {
    /// #     // This crate does not depend on `gcp_auth`, which has 97 dependencies.
    /// #     use std::{io, sync::Arc, time::SystemTime};
    /// #     pub(crate) struct Provider;
    /// #     impl Provider {
    /// #         pub(crate) async fn token(&self, _: &[&str]) -> io::Result<Arc<Token>> {
    /// #             Ok(Arc::new(Token))
    /// #         }
    /// #     }
    /// #     pub(crate) struct Token;
    /// #     impl Token {
    /// #         pub(crate) fn as_str(&self) -> &str { "" }
    /// #         pub(crate) fn expires_at(&self) -> SystemTime { SystemTime::UNIX_EPOCH }
    /// #     }
    /// #     pub(crate) async fn provider() -> io::Result<Arc<Provider>> { Ok(Arc::new(Provider)) }
    /// # }
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let provider = gcp_auth::provider().await?;
    /// let bearer = Bearer::refreshing(move || {
    ///     let provider = provider.clone();
    ///     async move {
    ///         let scopes = ["https://www.googleapis.com/auth/cloud-platform"];
    ///         let token = provider.token(&scopes).await?;
    ///         Ok(Issued::until(token.as_str().to_owned(), token.expires_at().into()))
    ///     }
    /// });
    /// # drop(bearer);
    /// # Ok(())
    /// # }
    /// ```
    pub fn refreshing<S, F>(source: S) -> Self
    where
        S: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<Issued<String>, BoxError>> + Send + 'static,
    {
        let source = move || {
            let token = source();
            async move {
                let token = token.await?;
                let invalid = "the token has characters that a header cannot have";
                let mut value = None;
                let issued = token.map(|token| value = header(&token).ok());
                let value = value.ok_or(invalid)?;
                Ok::<_, BoxError>(issued.map(|()| value))
            }
        };
        Self(Token::Refreshing(Refreshing::new(source)))
    }
}

impl Authorize for Bearer {
    fn authorize(&self, head: &mut Parts, _: &Bytes, _: SystemTime) -> Authorization {
        let (token, number) = match &self.0 {
            Token::Fixed(token) => (token.clone(), 0),
            Token::Refreshing(tokens) => match tokens.current() {
                Lookup::Found(token, number) => (HeaderValue::clone(&token), number),
                Lookup::Wait(wait) => return Authorization::Wait(wait),
                Lookup::Failed(error) => return Authorization::Failed(error),
            },
        };
        head.headers.remove(API_KEY);
        head.headers.insert(AUTHORIZATION, token);
        Authorization::Done(number)
    }

    fn reject(&self, number: u64) -> bool {
        match &self.0 {
            Token::Fixed(_) => false,
            Token::Refreshing(tokens) => tokens.reject(number),
        }
    }
}

impl fmt::Debug for Bearer {
    /// Leaves the token out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Token::Fixed(_) => "Bearer(fixed)",
            Token::Refreshing(_) => "Bearer(refreshing)",
        })
    }
}

fn header(token: &str) -> Result<HeaderValue, InvalidHeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))?;
    value.set_sensitive(true);
    Ok(value)
}
