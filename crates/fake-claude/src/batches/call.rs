//! The endpoints of Message Batches and their bounds.

use http::Method;

/// The path of the endpoints.
pub(crate) const PATH: &str = "/v1/messages/batches";
/// The API's own limit on the body of a creation.
pub(crate) const MAX_BODY: usize = 256 * 1024 * 1024;
/// The default number of requests that all batches may have in processing, of the Start tier.
pub(crate) const QUEUE: usize = 200_000;

/// Call of one of the endpoints, with the id in its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BatchCall {
    Create,
    List,
    Retrieve(String),
    Results(String),
    Cancel(String),
    Delete(String),
}

impl BatchCall {
    /// Returns the call for the part of a path after [`PATH`]. `None` if there is no such endpoint.
    ///
    /// # Errors
    /// Returns the allowed methods if the method is another.
    pub(crate) fn of(method: &Method, path: &str) -> Result<Option<Self>, &'static str> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let (id, action) = path.split_once('/').unwrap_or((path, ""));
        let id = id.to_owned();
        let call = match (&*id, action, method.as_str()) {
            ("", "", "POST") => Self::Create,
            ("", "", "GET") => Self::List,
            ("", "", _) => return Err("GET, POST"),
            ("", ..) => return Ok(None),
            (_, "", "GET") => Self::Retrieve(id),
            (_, "", "DELETE") => Self::Delete(id),
            (_, "", _) => return Err("GET, DELETE"),
            (_, "results", "GET") => Self::Results(id),
            (_, "results", _) => return Err("GET"),
            (_, "cancel", "POST") => Self::Cancel(id),
            (_, "cancel", _) => return Err("POST"),
            _ => return Ok(None),
        };
        Ok(Some(call))
    }
}
