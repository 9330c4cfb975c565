//! URLs and settings.

use std::time::Duration;

use crate::{config::RedisConfig, error::RedisError};

#[test]
fn invalid_url_is_named_without_its_password() {
    let wrong = [
        "",
        "localhost:6379",
        "http://user:secret@localhost",
        "redis://",
        "redis://user:secret@",
        "redis://user:secret@localhost:port",
        "redis://user:secret@localhost:99999",
        "redis://user:secret@localhost/database",
        "redis://user:sec@ret@local host",
        "redis://:secret@0.0.0.0",
        "unix:",
        "unix:///path?pass=secret&db=x",
        #[cfg(not(feature = "tls"))]
        "rediss://user:secret@localhost",
        "rediss://user:secret@localhost#insecurely",
    ];
    for url in wrong {
        let error = RedisConfig::new(url).expect_err(url);
        assert!(
            matches!(error, RedisError::InvalidUrl { .. }),
            "{url}: {error}"
        );
        let texts = format!("{error} {error:?}");
        assert!(
            !texts.contains("secret") && !texts.contains("sec@"),
            "{url}: {texts}"
        );
    }
    #[cfg(not(feature = "tls"))]
    {
        let error = RedisConfig::new("rediss://localhost").expect_err("no TLS");
        assert!(error.to_string().contains("cargo feature `tls`"), "{error}");
    }
    assert!(RedisConfig::sentinel([], "main").is_err());
    assert!(RedisConfig::sentinel(["redis://localhost", "x"], "main").is_err());
}

#[test]
fn known_forms_of_a_url_are_accepted() {
    let right = [
        "redis://localhost",
        " redis://user:p%40ss@localhost:7000/3?protocol=resp2\n",
        "valkey://127.0.0.1",
        "redis://[::1]:6379",
        "unix:///path/to/socket?db=1&user=ann&pass=secret",
        "redis+unix:///path",
        #[cfg(feature = "tls")]
        "rediss://user:secret@localhost:6380",
    ];
    for url in right {
        let config = RedisConfig::new(url)
            .expect(url)
            .with_login("bob", "hidden");
        let text = format!("{config:?}");
        for secret in ["secret", "hidden", "p%40ss", "p@ss", "ann"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[test]
fn keys_have_a_prefix_a_version_and_one_hash_tag() {
    let config = RedisConfig::new("redis://localhost").expect("valid");
    assert_eq!(config.key(&[0x1f, 0xa0], "b"), b"tc1:{1fa0}:b");
    let config = config.with_prefix("{my}-app:");
    assert_eq!(config.key(&[1], "b"), b"my-app:1:{01}:b");
}

#[test]
fn hash_depends_on_the_key_and_on_the_bounds_of_parts() {
    let config = RedisConfig::new("redis://localhost").expect("valid");
    let hash = config.hash(&[b"ab", b"c"]);
    assert_eq!(
        hash,
        RedisConfig::new("redis://other")
            .expect("valid")
            .hash(&[b"ab", b"c"])
    );
    assert_ne!(hash, config.hash(&[b"a", b"bc"]));
    assert_ne!(hash, config.hash(&[b"abc"]));
    assert_ne!(
        hash,
        config.clone().with_hash_key("mine").hash(&[b"ab", b"c"])
    );
}

#[test]
fn deadline_is_kept_in_its_range() {
    let of = |millis| {
        let config = RedisConfig::new("redis://localhost").expect("valid");
        config.with_deadline(Duration::from_millis(millis)).deadline
    };
    assert_eq!(
        [of(0), of(20), of(10_000)],
        [5, 20, 250].map(Duration::from_millis)
    );
}
