//! Clients that do not follow redirects.

use reqwest::{Client, ClientBuilder, redirect::Policy};

/// Returns a builder of clients that do not follow redirects.
///
/// reqwest's own default follows them. On the way to another host it removes `authorization`, but
/// not `x-api-key`, and after a 307 or 308 it sends the prompt there as well.
///
/// ```
/// # fn main() -> Result<(), reqwest::Error> {
/// use std::time::Duration;
///
/// let client = tower_claude_reqwest::client_builder()
///     .connect_timeout(Duration::from_secs(10))
///     .build()?;
/// # let _ = client;
/// # Ok(())
/// # }
/// ```
pub fn client_builder() -> ClientBuilder {
    Client::builder().redirect(Policy::none())
}

/// Returns a client that does not follow redirects. See [`client_builder`].
///
/// # Errors
/// Returns the error of [`ClientBuilder::build`].
pub fn client() -> Result<Client, reqwest::Error> {
    client_builder().build()
}
