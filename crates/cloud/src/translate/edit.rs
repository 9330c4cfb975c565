//! Edits of JSON that leave all else as it was written.

use tower_claude_wire::{Elements, Fields, cloud::Unportable};

/// The reason to reject a body that is not the JSON of a request. It is not left to the target,
/// because its parts were not found.
pub(super) const NOT_JSON: Unportable = Unportable::new("body", "not a JSON object");

/// The fate of one member of an object.
pub(super) enum Fate {
    Keep,
    Drop,
    Replace(Vec<u8>),
}

impl From<Option<Vec<u8>>> for Fate {
    /// Replaces a value that was edited.
    fn from(edited: Option<Vec<u8>>) -> Self {
        edited.map_or(Self::Keep, Self::Replace)
    }
}

/// Returns the object with its members edited, or `None` if all of them stay.
///
/// White space between members is not kept in an object with an edit.
pub(super) fn edit_object<'a>(
    json: &'a [u8],
    mut edit: impl FnMut(&str, &'a [u8]) -> Result<Fate, Unportable>,
) -> Result<Option<Vec<u8>>, Unportable> {
    let fields = Fields::open(json).ok_or(NOT_JSON)?;
    let mut edited: Option<Vec<u8>> = None;
    let mut kept_until = 1;
    let mut kept_any = false;
    let start = json.iter().position(|byte| *byte == b'{').unwrap_or(0) + 1;
    for field in fields {
        let field = field.map_err(|_| NOT_JSON)?;
        let fate = edit(&field.name, field.value_in(json))?;
        match (&fate, &mut edited) {
            (Fate::Keep, None) => {
                kept_until = field.span.end;
                kept_any = true;
                continue;
            }
            (_, Some(_)) => {}
            (_, slot @ None) => {
                let kept = if kept_any {
                    &json[start..kept_until]
                } else {
                    &[]
                };
                let mut out = Vec::with_capacity(json.len());
                out.push(b'{');
                out.extend_from_slice(kept);
                *slot = Some(out);
            }
        }
        let Some(out) = &mut edited else {
            continue;
        };
        if matches!(fate, Fate::Drop) {
            continue;
        }
        if out.len() > 1 {
            out.push(b',');
        }
        match fate {
            Fate::Replace(value) => {
                out.extend_from_slice(&json[field.span.start..field.value]);
                out.extend_from_slice(&value);
            }
            _ => out.extend_from_slice(&json[field.span]),
        }
    }
    if let Some(out) = &mut edited {
        out.push(b'}');
    }
    Ok(edited)
}

/// Returns the array with its elements edited, or `None` if all of them stay. Any other value
/// stays.
pub(super) fn edit_array<'a>(
    json: &'a [u8],
    mut edit: impl FnMut(&'a [u8]) -> Result<Option<Vec<u8>>, Unportable>,
) -> Result<Option<Vec<u8>>, Unportable> {
    let Some(elements) = Elements::open(json) else {
        return Ok(None);
    };
    let mut edited: Option<Vec<u8>> = None;
    let mut copied = 0;
    for element in elements {
        let Some(replacement) = edit(element)? else {
            continue;
        };
        // The element is a part of the array.
        let at = element.as_ptr().addr() - json.as_ptr().addr();
        let out = edited.get_or_insert_with(|| Vec::with_capacity(json.len()));
        out.extend_from_slice(&json[copied..at]);
        out.extend_from_slice(&replacement);
        copied = at + element.len();
    }
    if let Some(out) = &mut edited {
        out.extend_from_slice(&json[copied..]);
    }
    Ok(edited)
}

/// Returns the raw value of a member, the last of duplicates.
pub(super) fn find<'a>(json: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let fields = Fields::open(json)?.map_while(Result::ok);
    let found = fields.filter(|field| field.name == name).last()?;
    json.get(found.value..found.span.end)
}

/// Returns true if a value is absent, `null`, or an empty array or object.
pub(super) fn is_empty(value: Option<&[u8]>) -> bool {
    let Some(value) = value else {
        return true;
    };
    match value {
        b"null" => true,
        [b'[', inner @ .., b']'] | [b'{', inner @ .., b'}'] => inner.trim_ascii().is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(json: &str, edit: impl Fn(&str) -> Fate) -> Option<String> {
        let edited = edit_object(json.as_bytes(), |name, _| Ok(edit(name))).unwrap();
        edited.map(|edited| String::from_utf8(edited).unwrap())
    }

    #[test]
    fn member_is_dropped_or_replaced_and_all_else_stays() {
        let json = r#" { "a" : [1, 2],"b":2 , "c": "\u00e9" } "#;
        let drop =
            |key: &'static str| move |name: &str| if name == key { Fate::Drop } else { Fate::Keep };
        assert_eq!(object(json, drop("x")), None);
        assert_eq!(object(json, drop("a")).unwrap(), r#"{"b":2,"c": "\u00e9"}"#);
        assert_eq!(
            object(json, drop("b")).unwrap(),
            r#"{ "a" : [1, 2],"c": "\u00e9"}"#
        );
        assert_eq!(object(json, drop("c")).unwrap(), r#"{ "a" : [1, 2],"b":2}"#);
        assert_eq!(object(json, |_| Fate::Drop).unwrap(), "{}");
        let replace = |name: &str| {
            if name == "b" {
                Fate::Replace(b"null".to_vec())
            } else {
                Fate::Keep
            }
        };
        assert_eq!(
            object(json, replace).unwrap(),
            r#"{ "a" : [1, 2],"b":null,"c": "\u00e9"}"#
        );
    }

    #[test]
    fn text_that_is_no_object_is_refused() {
        for json in ["", "[]", "{", "{\"a\":1", "null", "{\"a\" 1}"] {
            let edited = edit_object(json.as_bytes(), |_, _| Ok(Fate::Keep));
            assert_eq!(edited, Err(NOT_JSON), "{json}");
        }
    }

    #[test]
    fn element_is_replaced_and_all_else_stays() {
        let edit = |json: &str| {
            let edited = edit_array(json.as_bytes(), |element| {
                Ok((element == b"2").then(|| b"22".to_vec()))
            });
            edited
                .unwrap()
                .map(|edited| String::from_utf8(edited).unwrap())
        };
        assert_eq!(edit("[ 1 , 2,3 , 2 ]").unwrap(), "[ 1 , 22,3 , 22 ]");
        assert_eq!(edit("[1]"), None);
        assert_eq!(edit("\"2\""), None);
    }

    #[test]
    fn empty_values_are_empty() {
        for json in ["null", "[]", "[ ]", "{}", "{\n}"] {
            assert!(is_empty(Some(json.as_bytes())), "{json}");
        }
        assert!(is_empty(None));
        for json in ["0", "false", "\"\"", "[1]", "[[]]"] {
            assert!(!is_empty(Some(json.as_bytes())), "{json}");
        }
    }
}
