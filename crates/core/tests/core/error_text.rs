//! The text of an error and of its sources.

use std::{error::Error, fmt, io};

use tower_claude_core::{BoxError, Classify, ClaudeClassify, HttpClassify, toolkit::error_text};

/// An error with a source.
#[derive(Debug)]
struct Outer(&'static str, Option<Box<Outer>>);

impl fmt::Display for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for Outer {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.1.as_deref().map(|source| source as _)
    }
}

fn chain(texts: &[&'static str]) -> Outer {
    let (first, rest) = texts.split_first().expect("an error");
    let source = (!rest.is_empty()).then(|| Box::new(chain(rest)));
    Outer(first, source)
}

#[test]
fn text_has_all_sources_once() {
    let text = |texts| error_text(&chain(texts));
    assert_eq!(
        text(&["client error", "tcp connect error", "refused"]),
        "client error: tcp connect error: refused"
    );
    assert_eq!(text(&["connect: refused", "refused"]), "connect: refused");
    assert_eq!(text(&["", "refused"]), "refused");
}

#[test]
fn text_is_one_bounded_line() {
    let line = error_text(&chain(&["a\nERROR forged", "\u{1b}[31mred"]));
    assert_eq!(line, r"a\nERROR forged: \u{1b}[31mred");
    let long = error_text(&chain(&[Box::leak("é".repeat(400).into_boxed_str())]));
    assert!(long.len() <= 303 && long.ends_with('…'), "{long}");
    let mut deep = chain(&["end"]);
    for _ in 0..1_000 {
        deep = Outer("x", Some(Box::new(deep)));
    }
    assert_eq!(error_text(&deep), "x");
}

#[test]
fn text_has_no_secret_of_a_url() {
    for (text, expected) in [
        (
            "error sending request for url (https://user:pass@host:8080/v1/messages?key=secret#part)",
            "error sending request for url (https://host:8080/v1/messages)",
        ),
        ("https://host?key=secret", "https://host"),
        ("https://secret@host", "https://host"),
        (
            "GET https://a:b@c@host/x failed",
            "GET https://host/x failed",
        ),
        (
            "two http://u@a/?s and \"http://u@b/#s\"",
            "two http://a/ and \"http://b/\"",
        ),
        ("path?query is no url", "path?query is no url"),
        ("://", "://"),
        ("https://host/a@b", "https://host/a@b"),
    ] {
        assert_eq!(error_text(&Outer(Box::leak(text.into()), None)), expected);
    }
}

#[test]
fn classifiers_return_the_cause_of_known_errors() {
    let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
    let boxed: BoxError = Box::new(chain(&["client error", "certificate expired"]));
    assert_eq!(
        ClaudeClassify::default().cause(&refused()).as_deref(),
        Some("connection refused")
    );
    assert_eq!(
        ClaudeClassify::default().cause(&boxed).as_deref(),
        Some("client error: certificate expired")
    );
    assert_eq!(
        HttpClassify::default().cause(&refused()).as_deref(),
        Some("connection refused")
    );
    // The type of this error is not known.
    assert_eq!(ClaudeClassify::default().cause(&chain(&["own"])), None);
}
