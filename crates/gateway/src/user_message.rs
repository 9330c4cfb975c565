//! Messages for end users in error responses, in their language and with an honest wait.

use std::time::{Duration, SystemTime};

use axum::{
    body::{Body, Bytes},
    response::Response,
};
use futures_util::{StreamExt, stream};
use http::{
    HeaderValue,
    header::{ACCEPT_LANGUAGE, CONTENT_LENGTH, VARY},
};
use serde::{Deserialize, Serialize};
use tower_claude::wire::{is_json, retry_after};

/// The greatest size of an error that gets a message. Those of the API have some 200 bytes.
const GREATEST: usize = 64 << 10;

/// The place of the wait in a text.
const WAIT: &str = "{wait}";

/// A message for end users, in one language.
///
/// A failure that the layers gave up gets the field `user_message` beside the fields of the API,
/// which stay. The language is chosen by `accept-language`. The first message is used if none
/// fits.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct UserMessageConfig {
    /// The language as in `accept-language`, for example `en` or `pt-BR`. Languages are unique.
    pub language: String,
    /// The text if the wait is known. `{wait}` is replaced by it, for example `40 s` or `3 min`.
    pub text: String,
    /// The text if the wait is not known.
    pub text_without_wait: String,
}

impl UserMessageConfig {
    /// Reports what is not valid, as field and reason.
    pub(crate) fn check(&self, report: &mut dyn FnMut(&str, String)) {
        let is_tag = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if self.language.is_empty() || !self.language.bytes().all(is_tag) {
            report("language", format!("{:?} is not a language", self.language));
        }
        if !self.text.contains(WAIT) {
            report("text", format!("has no {WAIT}"));
        }
        if self.text_without_wait.is_empty() || self.text_without_wait.contains(WAIT) {
            report("text_without_wait", format!("is empty or has {WAIT}"));
        }
    }

    fn for_wait(&self, wait: Option<Duration>) -> String {
        match wait {
            Some(wait) => self.text.replace(WAIT, &readable(wait)),
            None => self.text_without_wait.clone(),
        }
    }
}

/// Writes a wait, rounded up. The units are the same in all languages.
fn readable(wait: Duration) -> String {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    match seconds {
        0..90 => format!("{} s", seconds.max(1)),
        90..5_400 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h", seconds.div_ceil(3_600)),
    }
}

/// Returns the message in the language that fits best, by the values of `accept-language`.
fn choose<'a>(messages: &'a [UserMessageConfig], wanted: &str) -> Option<&'a UserMessageConfig> {
    let mut ranges: Vec<(f32, &str)> = wanted
        .split(',')
        .map(|part| {
            let (range, quality) = part.split_once(';').unwrap_or((part, ""));
            let quality = quality.trim().strip_prefix("q=");
            let quality = quality.and_then(|quality| quality.trim().parse().ok());
            (quality.unwrap_or(1.0), range.trim())
        })
        .filter(|(quality, range)| *quality > 0.0 && !range.is_empty())
        .collect();
    ranges.sort_by(|a, b| b.0.total_cmp(&a.0));
    let find = |range: &str| {
        let mut all = messages.iter();
        all.find(|message| message.language.eq_ignore_ascii_case(range))
    };
    let found = ranges.iter().find_map(|(_, range)| {
        // `de-AT-1996`, then `de-AT`, then `de`, then any other `de-…`.
        let ends = range.match_indices('-').map(|(end, _)| &range[..end]);
        let shorter = ends.rev().find_map(find);
        let primary = range.split('-').next().unwrap_or_default();
        let related = || {
            messages.iter().find(|message| {
                let language = message.language.split('-').next();
                language.is_some_and(|language| language.eq_ignore_ascii_case(primary))
            })
        };
        find(range).or(shorter).or_else(related)
    });
    found.or(messages.first())
}

/// Adds a message to an error response, if there is one and the response is JSON.
pub(crate) async fn add(
    messages: &[UserMessageConfig],
    wanted: Option<&HeaderValue>,
    response: Response,
) -> Response {
    let wanted = wanted.and_then(|wanted| wanted.to_str().ok());
    let Some(message) = choose(messages, wanted.unwrap_or_default()) else {
        return response;
    };
    if !is_json(response.headers()) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let mut body = body.into_data_stream();
    let mut read = Vec::new();
    let next = loop {
        match body.next().await {
            None => break None,
            Some(Ok(data)) if read.len() + data.len() <= GREATEST => read.extend_from_slice(&data),
            Some(next) => break Some(next),
        }
    };
    let read = Bytes::from(read);
    if let Some(next) = next {
        // It broke off, or it is no error of the API.
        let all = stream::iter([Ok(read), next]).chain(body);
        return Response::from_parts(parts, Body::from_stream(all));
    }
    let text = message.for_wait(retry_after(&parts.headers, SystemTime::now()));
    let Some(new) = with_field(&read, &text) else {
        return Response::from_parts(parts, Body::from(read));
    };
    parts.headers.insert(CONTENT_LENGTH, new.len().into());
    let name = HeaderValue::from_static(ACCEPT_LANGUAGE.as_str());
    parts.headers.append(VARY, name);
    Response::from_parts(parts, Body::from(new))
}

/// Returns a JSON object with one more field at its end. `None` if it is not an object, or has the
/// field.
fn with_field(body: &[u8], text: &str) -> Option<Vec<u8>> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(body).ok()?;
    if object.contains_key("user_message") {
        return None;
    }
    let end = body.trim_ascii_end().strip_suffix(b"}")?;
    let comma = if object.is_empty() { "" } else { "," };
    let text = serde_json::Value::from(text);
    let mut new = end.to_vec();
    new.extend_from_slice(format!("{comma}\"user_message\":{text}}}").as_bytes());
    Some(new)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn messages(languages: &[&str]) -> Vec<UserMessageConfig> {
        let message = |language: &&str| UserMessageConfig {
            language: (*language).to_owned(),
            text: format!("{language} {WAIT}"),
            text_without_wait: (*language).to_owned(),
        };
        languages.iter().map(message).collect()
    }

    #[test]
    fn language_is_chosen_by_quality_and_then_by_its_shorter_forms() {
        let messages = messages(&["en", "de", "pt-BR"]);
        for (wanted, language) in [
            ("", "en"),
            ("fr", "en"),
            ("de", "de"),
            ("DE-at-1996", "de"),
            ("fr, de;q=0.5, en;q=0.7", "en"),
            ("en;q=0, de;q=0.1", "de"),
            ("pt", "pt-BR"),
            ("*", "en"),
            ("de;q=nonsense", "de"),
            (";;,,-", "en"),
        ] {
            let chosen = choose(&messages, wanted).unwrap();
            assert_eq!(chosen.language, language, "{wanted}");
        }
        assert!(choose(&[], "en").is_none());
    }

    #[test]
    fn wait_is_rounded_up_to_a_unit_that_people_use() {
        for (millis, text) in [
            (0, "1 s"),
            (1_001, "2 s"),
            (89_000, "89 s"),
            (90_000, "2 min"),
            (3_601_000, "61 min"),
            (7_300_000, "3 h"),
        ] {
            assert_eq!(readable(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn field_is_added_and_the_bytes_before_stay() {
        let body = b"{ \"type\":\"error\",\n\"error\": {\"type\":\"x\"} }\n";
        let new = with_field(body, "say \"hi\"").unwrap();
        assert!(new.starts_with(b"{ \"type\":\"error\",\n\"error\": {\"type\":\"x\"} "));
        let json: serde_json::Value = serde_json::from_slice(&new).unwrap();
        assert_eq!(json["user_message"], "say \"hi\"");
        assert_eq!(with_field(b"{}", "a").unwrap(), b"{\"user_message\":\"a\"}");
        for other in ["", "[1]", "{\"a\":", "{\"user_message\":1}", "<html>"] {
            assert_eq!(with_field(other.as_bytes(), "a"), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_header_chooses_a_language(wanted in ".{0,40}") {
            prop_assert!(choose(&messages(&["en", "de"]), &wanted).is_some());
        }
    }
}
