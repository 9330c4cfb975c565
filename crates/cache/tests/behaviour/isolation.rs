//! R19: no response crosses tenants, credentials or requests, no error is stored, and no secret is
//! logged.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer, ServiceExt, service_fn};
use tower_claude_cache::{CacheLayer, Cacheable};
use tower_claude_core::{RequestBody, Tenant, event::Event};
use tower_claude_tests::paused;

use crate::api::TTL;

/// Number of requests: a million in an optimized build.
const CASES: usize = if cfg!(debug_assertions) {
    10_000
} else {
    1_000_000
};

/// A request of few possible values, so that many are equal, with all that must distinguish it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Asked {
    tenant: Option<u8>,
    key: u8,
    beta: u8,
    prompt: u8,
    stream: bool,
}

impl Asked {
    fn random(random: &mut fastrand::Rng) -> Self {
        Self {
            tenant: random.bool().then(|| random.u8(..4)),
            key: random.u8(..3),
            beta: random.u8(..2),
            prompt: random.u8(..4),
            stream: random.bool(),
        }
    }

    /// Returns the body in a random equivalent form.
    fn request(&self, random: &mut fastrand::Rng) -> Request<RequestBody> {
        let mut fields = vec![
            r#""model":"claude-sonnet-5-5""#.to_owned(),
            format!(r#""stream":{}"#, self.stream),
            format!(
                r#""messages":[{{"role":"user","content":"secret-prompt {}"}}]"#,
                self.prompt
            ),
            format!(r#""metadata":{{"user_id":"{}"}}"#, random.u8(..)),
        ];
        random.shuffle(&mut fields);
        let joint = if random.bool() { "," } else { " ,\n " };
        let body = format!("{{{}}}", fields.join(joint));
        let mut request = Request::post("/v1/messages")
            .header("x-api-key", format!("secret-key {}", self.key))
            .header(
                "anthropic-beta",
                if self.beta == 0 { "a,b" } else { "b, c" },
            );
        if self.beta == 0 && random.bool() {
            request = Request::post("/v1/messages")
                .header("x-api-key", format!("secret-key {}", self.key))
                .header("anthropic-beta", "b")
                .header("anthropic-beta", "a");
        }
        let mut request = request.body(RequestBody::from(body)).expect("a request");
        if let Some(tenant) = self.tenant {
            request
                .extensions_mut()
                .insert(Tenant(format!("secret-tenant {tenant}").into()));
        }
        request.extensions_mut().insert(Cacheable::new());
        request
    }

    /// Returns status, content type and body of the API response, which contains the request.
    fn answer(&self, failed: bool) -> (u16, &'static str, String) {
        let text = format!("{self:?}").replace('"', "'");
        if failed {
            return (
                529,
                "application/json",
                format!(
                    r#"{{"type":"error","error":{{"type":"overloaded_error","message":"{text}"}}}}"#
                ),
            );
        }
        if self.stream {
            let start = crate::api::START;
            let delta = crate::api::DELTA.replace("Hi", &text);
            let end = [crate::api::END, crate::api::STOP].concat();
            return (
                200,
                "text/event-stream",
                [start, crate::api::CONTENT, &delta, &end].concat(),
            );
        }
        (
            200,
            "application/json",
            crate::api::MESSAGE.replace("Hi", &text),
        )
    }
}

#[test]
fn response_never_crosses_tenant_credential_or_request() {
    let seed = 7;
    let told = Arc::new(Mutex::new(String::new()));
    let (mut hits, mut errors) = (0, 0);
    paused(async {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut layer = new_layer(&told);
        for case in 0..CASES {
            // An occasional new cache, so that there are misses too.
            if case % 2_000 == 0 {
                layer = new_layer(&told);
            }
            let asked = Asked::random(&mut random);
            let failed = random.u8(..3) == 0;
            let (status, kind, text) = asked.answer(failed);
            let sent = text.clone();
            let service = layer.layer(service_fn(move |_: Request<RequestBody>| {
                let response = Response::builder()
                    .status(status)
                    .header("content-type", kind);
                let response = response.body(Full::new(Bytes::from(sent.clone())));
                async move { Ok::<_, std::convert::Infallible>(response.expect("valid")) }
            }));
            let response = service
                .oneshot(asked.request(&mut random))
                .await
                .expect("an answer");
            let said = response.headers()["x-tower-claude-cache"].clone();
            let got = response.status().as_u16();
            let _ = write!(told.lock().expect("not poisoned"), "{:?}", response);
            let (body, _, _) = tower_claude_tests::read(response.into_body()).await;
            if said == "hit" {
                hits += 1;
                assert_eq!(
                    (got, &*body),
                    (200, asked.answer(false).2.as_bytes()),
                    "{asked:?}"
                );
            } else {
                errors += usize::from(failed);
                assert_eq!((got, &*body), (status, text.as_bytes()));
            }
            let mut told = told.lock().expect("not poisoned");
            assert!(!told.contains("secret"), "{told}");
            told.clear();
        }
        let _ = write!(
            told.lock().expect("not poisoned"),
            "{layer:?} {:?}",
            layer.handle().store()
        );
    });
    assert!(!told.lock().expect("not poisoned").contains("secret"));
    println!("{CASES} cases, {hits} hits, {errors} errors");
    assert!(hits > CASES / 4 && errors > CASES / 100);
}

fn new_layer(told: &Arc<Mutex<String>>) -> CacheLayer {
    let told = told.clone();
    CacheLayer::new(TTL).with_observer(move |event: &Event<'_>| {
        let _ = write!(told.lock().expect("not poisoned"), "{event:?}");
    })
}
