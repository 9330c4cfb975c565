//! Reports of redirects to another host.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex},
};

use http::uri::Authority;
use tower_claude_core::toolkit::report_redirect;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};

/// A subscriber that keeps the fields of each event.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() != "message" {
            *self.0 += &format!("{field}={value:?} ");
        }
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "tower_claude"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = format!("{} ", event.metadata().level());
        event.record(&mut Fields(&mut line));
        self.0.lock().expect("no panic").push(line);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn reports(redirects: &[(&str, &str)]) -> Vec<String> {
    let log = Log::default();
    tracing::subscriber::with_default(log.clone(), || {
        for (from, location) in redirects {
            let from: Authority = from.parse().expect("an authority");
            report_redirect(&from, location.as_bytes());
        }
    });
    let lines = log.0.lock().expect("no panic");
    lines.clone()
}

// One test, because the pairs are remembered in the whole process.
#[test]
fn redirect_to_another_host_is_reported_once_for_each_pair_of_hosts() {
    let same = [
        ("a.test", "/v1/messages"),
        ("a.test", "https://A.test:443/x"),
        ("a.test:443", "https://a.test./x"),
        ("a.test:8080", "http://user@a.test:8080/x"),
        ("a.test", "?x"),
        ("a.test", "//a.test/x"),
        ("a.test", "not a URL"),
        ("a.test", ""),
    ];
    assert_eq!(reports(&same), [""; 0]);
    let expected = |from: &str, to: &str| {
        format!(r#"WARN layer="client" decision="redirected" from="{from}" to="{to}" "#)
    };
    let others = [
        ("a.test", "https://b.test/v1/messages"),
        ("A.test:443", "https://b.test:443/other"),
        ("a.test", "https://b.test:8443/"),
        ("b.test", "http://a.test/"),
        ("a.test", "//c.test/x"),
    ];
    let lines = [
        expected("a.test", "b.test"),
        expected("a.test", "b.test:8443"),
        expected("b.test", "a.test"),
        expected("a.test", "c.test"),
    ];
    assert_eq!(reports(&others), lines);
    assert_eq!(reports(&others), [""; 0]);
    // The memory of pairs is bounded.
    let many: Vec<_> = (0..1_000)
        .map(|number| format!("https://{number}.test/"))
        .collect();
    let many: Vec<_> = many
        .iter()
        .map(|location| ("a.test", &**location))
        .collect();
    assert!(reports(&many).len() < 300);
}
