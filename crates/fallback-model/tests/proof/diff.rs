//! The differences between two requests, found with an independent parser.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::HeaderMap;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// A field, its original value and the value that is sent.
pub(crate) type Difference = (String, Option<Value>, Option<Value>);

pub(crate) fn object(json: &[u8]) -> Map<String, Value> {
    match serde_json::from_slice(json) {
        Ok(Value::Object(map)) => map,
        other => panic!("no object: {other:?}"),
    }
}

/// Raw values by key.
pub(crate) fn raw(json: &[u8]) -> BTreeMap<String, &RawValue> {
    serde_json::from_slice(json).unwrap()
}

/// Returns all fields, with `output_config` split so that `{}` equals an absent field.
fn flat(json: &[u8]) -> BTreeMap<String, Value> {
    let mut flat = BTreeMap::new();
    for (key, value) in object(json) {
        match value {
            Value::Object(config) if key == "output_config" => {
                for (key, value) in config {
                    flat.insert(format!("output_config.{key}"), value);
                }
            }
            value => {
                flat.insert(key, value);
            }
        }
    }
    flat
}

pub(crate) fn differences(
    asked: (&HeaderMap, &Bytes),
    sent: (&HeaderMap, &Bytes),
) -> Vec<Difference> {
    let (old, new) = (flat(asked.1), flat(sent.1));
    let mut found: Vec<Difference> = Vec::new();
    for key in old
        .keys()
        .chain(new.keys().filter(|key| !old.contains_key(*key)))
    {
        if key != "model" && old.get(key) != new.get(key) {
            found.push((key.clone(), old.get(key).cloned(), new.get(key).cloned()));
        }
    }
    let beta = |headers: &HeaderMap| {
        let line = headers.get("anthropic-beta")?.to_str().unwrap().to_owned();
        Some(Value::String(line))
    };
    let (old, new) = (beta(asked.0), beta(sent.0));
    if old != new {
        found.push(("anthropic-beta".to_owned(), old, new));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// Returns the keys of an object in their order.
pub(crate) fn order(json: &[u8]) -> Vec<String> {
    // serde_json's map sorts; the position of the quoted key does not.
    let mut keys: Vec<(usize, String)> = raw(json)
        .into_iter()
        .map(|(key, value)| (value.get().as_ptr() as usize, key))
        .collect();
    keys.sort();
    keys.into_iter().map(|(_, key)| key).collect()
}
