//! Pure parsers for what the Claude API sends and accepts: rate-limit headers, errors, request peek, SSE, usage, models.
