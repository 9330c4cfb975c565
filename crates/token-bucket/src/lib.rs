//! TokenBucketLayer paces requests and tokens to the Claude API before the API has to refuse.
