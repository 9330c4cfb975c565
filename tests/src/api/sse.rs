//! Events of a stream.

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident = $event:literal, $data:literal;)*) => {$(
        $(#[$doc])*
        pub const $name: &str = concat!("event: ", $event, "\ndata: ", $data, "\n\n");
    )*};
}

events! {
    /// The start, with usage.
    START = "message_start", r#"{"type":"message_start","message":{"id":"m","usage":{"input_tokens":3,"output_tokens":1}}}"#;
    /// A ping.
    PING = "ping", r#"{"type":"ping"}"#;
    /// The first content.
    CONTENT = "content_block_start", r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#;
    /// More content.
    DELTA = "content_block_delta", r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}"#;
    /// The end.
    STOP = "message_stop", r#"{"type":"message_stop"}"#;
    /// An overload inside the stream.
    ERROR = "error", r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
}
