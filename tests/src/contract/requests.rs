//! Requests other than a small JSON document.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Body;
use tower::ServiceExt;
use tower_claude_core::RequestBody;
use tower_layer::Layer;
use tower_service::Service;

use super::{Subject, answer, assert_nothing_alive, prompt, request_of};
use crate::{Broken, FrameBody, Piece, Reply, Script, clock::in_time, paused};

const MIB: usize = 1024 * 1024;
/// A length that exceeds the default limit of the request buffer by one.
const CHUNKS: usize = RequestBody::DEFAULT_LIMIT / MIB + 1;

/// Checks empty bodies, and bodies that are not a JSON object.
///
/// # Panics
/// If the layer breaks this point of the contract.
pub fn other_request_bodies_come_through<L: Subject>(layer: impl Fn() -> L) {
    paused(async {
        let bodies: [&'static [u8]; 7] = [
            b"",
            b"[1,2]",
            b"\"text\"",
            b"{\"model\":",
            b"\xff\xfe\0",
            b"{}",
            b"{\"model\":7}",
        ];
        for body in bodies {
            let script = Script::always(Reply::message());
            let request = request_of(FrameBody::full(body));
            let got = answer(&layer(), &script, request).await.expect("an answer");
            assert_eq!(
                got.status,
                200,
                "refused {:?}",
                String::from_utf8_lossy(body)
            );
            assert_eq!(
                script.seen()[0].body,
                body,
                "the request's bytes were changed"
            );
        }
    });
}

/// Checks that a body that an outer layer has buffered is not copied.
///
/// # Panics
/// If the layer breaks this point of the contract.
pub fn buffered_request_is_not_copied<L, R>(layer: impl Fn() -> L)
where
    L: Layer<Script>,
    L::Service: Service<Request<RequestBody>, Response = Response<R>, Error = Broken>,
    R: Body<Data = Bytes, Error = Broken> + Unpin,
{
    paused(async {
        let body = Bytes::from(prompt());
        let (head, _) = request_of(FrameBody::default()).into_parts();
        let request = Request::from_parts(head, RequestBody::from(body.clone()));
        let script = Script::always(Reply::message());
        let service = layer().layer(script.clone());
        let response = in_time(service.oneshot(request)).await;
        assert_eq!(response.expect("served").status(), 200);
        let seen = &script.seen()[0].body;
        assert_eq!(*seen, body);
        assert_eq!(seen.as_ptr(), body.as_ptr(), "a buffered body was copied");
    });
}

/// Checks that a body over the buffer limit passes through as a stream, with a known length or
/// without.
///
/// # Panics
/// If the layer breaks this point of the contract.
pub fn request_over_the_limit_streams<L: Subject>(layer: impl Fn() -> L) {
    paused(async {
        let pieces = || (0..CHUNKS).map(|i| Piece::Data(chunk(i)));
        for body in [FrameBody::new(pieces()), FrameBody::new(pieces()).exact()] {
            let script = Script::always(Reply::message());
            let got = answer(&layer(), &script, request_of(body))
                .await
                .expect("an answer");
            assert_eq!(got.status, 200, "a body over the limit was refused");
            let seen = script.seen();
            assert_eq!(
                seen[0].body.len(),
                CHUNKS * MIB,
                "a body over the limit was cut"
            );
            for (i, part) in seen[0].body.chunks(MIB).enumerate() {
                assert!(
                    part == chunk(i),
                    "a body over the limit was changed in MiB {i}"
                );
            }
            assert_nothing_alive(&script, "a long request");
        }
    });
}

/// Returns a MiB of a byte that depends on the place.
fn chunk(i: usize) -> Bytes {
    vec![u8::try_from(i % 251).unwrap_or_default(); MIB].into()
}

/// Checks a body that fails while it is read. The caller is at fault, so nothing is sent and the
/// layer answers with 400.
///
/// # Panics
/// If the layer breaks this point of the contract.
pub fn request_that_fails_while_read<L: Subject>(layer: impl Fn() -> L) {
    paused(async {
        for prefix in [&[][..], &["{\"model\":"][..], &["{\"mod", "el\":"][..]] {
            let mut pieces: Vec<_> = prefix
                .iter()
                .map(|part| Piece::Data(Bytes::from_static(part.as_bytes())))
                .collect();
            pieces.push(Piece::Wait);
            pieces.push(Piece::Error(Broken("upload cut")));
            let script = Script::always(Reply::message());
            let request = request_of(FrameBody::new(pieces));
            let got = answer(&layer(), &script, request)
                .await
                .expect("an answer of the layer");
            assert_eq!(script.calls(), 0, "a request without its end was sent");
            assert_eq!(got.status, 400, "a broken upload is an invalid request");
            let rejection = got.rejected().expect("tagged as a rejection");
            assert!(rejection.class().local, "the server is blamed");
            assert_nothing_alive(&script, "a request that failed while it was read");
        }
    });
}

/// Checks that the trailers of a request pass through.
///
/// # Panics
/// If the layer breaks this point of the contract.
pub fn request_trailers_come_through<L: Subject>(layer: impl Fn() -> L) {
    paused(async {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", HeaderValue::from_static("abc"));
        let body = prompt();
        let pieces = [
            Piece::Data(body.clone().into()),
            Piece::Trailers(trailers.clone()),
        ];
        let script = Script::always(Reply::message());
        let request = request_of(FrameBody::new(pieces));
        answer(&layer(), &script, request).await.expect("an answer");
        let seen = script.seen();
        assert_eq!(seen[0].body, body, "the request's bytes were changed");
        assert_eq!(
            seen[0].trailers,
            Some(trailers),
            "the request's trailers were lost"
        );
    });
}
