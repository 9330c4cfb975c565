//! The requests of a batch: their form at the creation, and their results.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use serde_json::value::RawValue;
use tower_claude_wire::ApiError;

use super::call::PATH;
use super::outcome::BatchOutcome;
use super::store::{Item, ItemResult};
use crate::model::CacheTokens;
use crate::reply::ErrorReply;
use crate::script::ReceivedRequest;
use crate::sse::{Content, ReplyMessage};
use crate::state::Shared;
use crate::validate::{self, ValidCall};

/// The API's own limit on the requests of one batch.
const MAX_REQUESTS: usize = 100_000;
/// The longest `custom_id`.
const MAX_CUSTOM_ID: usize = 64;

type JsonFields<'a> = HashMap<String, &'a RawValue>;

/// A request of a batch, as received.
pub(super) struct ItemRequest<'a> {
    pub(super) custom_id: String,
    /// A JSON object.
    params: &'a str,
}

/// Reads the body of a creation. The `params` are not checked, since the API does that later.
pub(super) fn read(body: &[u8]) -> Result<Vec<ItemRequest<'_>>, ErrorReply> {
    let fields: JsonFields<'_> = serde_json::from_slice(body)
        .map_err(|_| ErrorReply::invalid("The request body is not valid JSON"))?;
    let mut extra: Vec<&String> = fields.keys().filter(|name| *name != "requests").collect();
    extra.sort_unstable();
    if let Some(name) = extra.first() {
        return invalid(format!("{name}: Extra inputs are not permitted"));
    }
    let Some(requests) = fields.get("requests") else {
        return invalid("requests: Field required".to_owned());
    };
    let requests: Vec<&RawValue> = serde_json::from_str(requests.get())
        .map_err(|_| ErrorReply::invalid("requests: Input should be a valid list"))?;
    if requests.is_empty() {
        return invalid("requests: List should have at least 1 item after validation".to_owned());
    }
    if requests.len() > MAX_REQUESTS {
        let message = format!(
            "requests: {} > {MAX_REQUESTS}, which is the maximum allowed number of requests in a batch",
            requests.len()
        );
        return Err(ErrorReply::new(413, "request_too_large", message));
    }
    let mut ids = HashSet::new();
    let mut items = Vec::with_capacity(requests.len());
    for (index, request) in requests.into_iter().enumerate() {
        let item = read_item(index, request)?;
        if !ids.insert(item.custom_id.clone()) {
            return invalid(format!(
                "requests.{index}.custom_id: '{}' is not unique in the batch",
                item.custom_id
            ));
        }
        items.push(item);
    }
    Ok(items)
}

fn read_item(index: usize, request: &RawValue) -> Result<ItemRequest<'_>, ErrorReply> {
    let Ok(fields) = serde_json::from_str::<JsonFields<'_>>(request.get()) else {
        return invalid(format!("requests.{index}: Input should be an object"));
    };
    let Some(id) = fields.get("custom_id") else {
        return invalid(format!("requests.{index}.custom_id: Field required"));
    };
    let Ok(custom_id) = serde_json::from_str::<String>(id.get()) else {
        let message = format!("requests.{index}.custom_id: Input should be a valid string");
        return invalid(message);
    };
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !(1..=MAX_CUSTOM_ID).contains(&custom_id.len()) || !custom_id.bytes().all(is_allowed) {
        return invalid(format!(
            "requests.{index}.custom_id: String should match pattern '^[a-zA-Z0-9_-]{{1,{MAX_CUSTOM_ID}}}$'"
        ));
    }
    let Some(params) = fields.get("params").map(|params| params.get()) else {
        return invalid(format!("requests.{index}.params: Field required"));
    };
    if !params.starts_with('{') {
        return invalid(format!(
            "requests.{index}.params: Input should be an object"
        ));
    }
    Ok(ItemRequest { custom_id, params })
}

/// Makes the results of all requests. `number` is the number of the batch.
///
/// The last request is processed first, and what it writes to the prompt cache of the batches is
/// read by the others.
pub(super) fn process(
    shared: &Shared,
    headers: &HeaderMap,
    number: usize,
    requests: Vec<ItemRequest<'_>>,
    outcomes: &HashMap<String, BatchOutcome>,
) -> Vec<Item> {
    let items = requests.into_iter().enumerate().rev();
    let items = items.map(|(index, request)| {
        let id = format!("Fake{number:010}B{index:06}");
        let selected = || {
            let select = shared.config.select_outcome.as_ref()?;
            select(&request.custom_id, request.params.as_bytes())
        };
        let outcome = outcomes.get(&request.custom_id).cloned().or_else(selected);
        Item {
            result: result(shared, headers, &id, request.params, outcome.as_ref()),
            custom_id: request.custom_id,
        }
    });
    let mut items: Vec<Item> = items.collect();
    items.reverse();
    items
}

fn result(
    shared: &Shared,
    headers: &HeaderMap,
    id: &str,
    params: &str,
    outcome: Option<&BatchOutcome>,
) -> ItemResult {
    let config = &shared.config;
    let request_id = format!("req_011{id}");
    let mut script = None;
    match outcome {
        Some(BatchOutcome::Canceled) => return ItemResult::Canceled,
        Some(BatchOutcome::Expired) => return ItemResult::Expired,
        Some(BatchOutcome::Errored {
            error_type,
            message,
        }) => {
            let body = ApiError::body(error_type, message, Some(&request_id));
            return ItemResult::Errored(body.into());
        }
        Some(BatchOutcome::Succeeded(reply)) => script = Some(reply.clone()),
        None => {}
    }
    let call = match validate::item(config, headers, params.as_bytes()) {
        Ok(call) => call,
        Err(problem) => return ItemResult::Errored(problem.body(&request_id)),
    };
    if let (None, Some(select)) = (&script, &config.select_reply) {
        script = select(&ReceivedRequest {
            method: Method::POST,
            uri: Uri::from_static(PATH),
            headers: headers.clone(),
            body: Bytes::copy_from_slice(params.as_bytes()),
        });
    }
    let content = Content::of(&call, script, config.tokens_per_event);
    let cache = cache_tokens(shared, &call);
    let message = ReplyMessage {
        service_tier: "batch",
        ..ReplyMessage::of(&call, cache, format!("msg_01{id}"))
    };
    ItemResult::Succeeded(message.whole(
        content.script.as_ref(),
        &content.stop_reason,
        content.tokens,
    ))
}

/// Returns the cached tokens of a request, which counts as processed at the creation of its batch.
fn cache_tokens(shared: &Shared, call: &ValidCall) -> CacheTokens {
    let mut state = shared.lock();
    let now = shared.now().nanos;
    let (tokens, write) = state.cache_tokens(call, now);
    if let Some(write) = write {
        state.cache.begin_response(now, write);
    }
    tokens
}

fn invalid<T>(message: String) -> Result<T, ErrorReply> {
    Err(ErrorReply::invalid(message))
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn creation_with_a_wrong_form_names_the_field() {
        let id = |id: &str| format!(r#"{{"requests":[{{"custom_id":"{id}","params":{{}}}}]}}"#);
        let pattern =
            "requests.0.custom_id: String should match pattern '^[a-zA-Z0-9_-]{1,64}$'".to_owned();
        let cases = [
            ("[]", "The request body is not valid JSON"),
            ("{}", "requests: Field required"),
            (
                r#"{"requests":{}}"#,
                "requests: Input should be a valid list",
            ),
            (
                r#"{"requests":[],"a":1}"#,
                "a: Extra inputs are not permitted",
            ),
            (
                r#"{"requests":[]}"#,
                "requests: List should have at least 1 item after validation",
            ),
            (
                r#"{"requests":[1]}"#,
                "requests.0: Input should be an object",
            ),
            (
                r#"{"requests":[{}]}"#,
                "requests.0.custom_id: Field required",
            ),
            (
                r#"{"requests":[{"custom_id":1}]}"#,
                "requests.0.custom_id: Input should be a valid string",
            ),
            (&id(""), &pattern),
            (&id("a b"), &pattern),
            (&id("é"), &pattern),
            (&id(&"a".repeat(65)), &pattern),
            (
                r#"{"requests":[{"custom_id":"a"}]}"#,
                "requests.0.params: Field required",
            ),
            (
                r#"{"requests":[{"custom_id":"a","params":[]}]}"#,
                "requests.0.params: Input should be an object",
            ),
            (
                r#"{"requests":[{"custom_id":"a","params":{}},{"custom_id":"a","params":{}}]}"#,
                "requests.1.custom_id: 'a' is not unique in the batch",
            ),
        ];
        for (body, expected) in cases {
            let error = read(body.as_bytes()).err().expect("an error");
            assert_eq!((error.status.as_u16(), &*error.message), (400, expected));
        }
        assert!(read(id(&"aZ-_09".repeat(10)).as_bytes()).is_ok());
    }

    #[test]
    fn batch_of_more_than_100_000_requests_is_too_large() {
        let body = |count: usize| {
            let items: Vec<String> = (0..count)
                .map(|index| format!(r#"{{"custom_id":"{index}","params":{{}}}}"#))
                .collect();
            format!(r#"{{"requests":[{}]}}"#, items.join(","))
        };
        let error = read(body(100_001).as_bytes()).err().expect("an error");
        assert_eq!(
            (error.status.as_u16(), error.kind),
            (413, "request_too_large")
        );
        let whole = body(100_000);
        assert_eq!(
            read(whole.as_bytes()).ok().map(|items| items.len()),
            Some(100_000)
        );
    }
}
