//! Secrets in the configuration.

use std::{env, fmt, fs, sync::Arc};

use serde::{Deserialize, Serialize, Serializer};

/// A secret, such as the key of an upstream. Neither `Debug` nor serialization shows its value.
///
/// In TOML it is a text, `"${NAME}"` or `{ env = "NAME" }` for a variable of the environment, or
/// `{ file = "PATH" }` for the first line of a file.
#[derive(Clone, Deserialize, PartialEq, Eq)]
#[serde(try_from = "SecretSource")]
pub struct Secret {
    value: Arc<str>,
    /// The place that the value was read from.
    source: Arc<str>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a secret is a text, \"${NAME}\", { env = \"NAME\" } or { file = \"PATH\" }"
)]
enum SecretSource {
    Text(String),
    Env { env: String },
    File { file: String },
}

impl TryFrom<SecretSource> for Secret {
    type Error = String;

    fn try_from(source: SecretSource) -> Result<Self, String> {
        match source {
            SecretSource::Text(text) => {
                let name = text
                    .strip_prefix("${")
                    .and_then(|rest| rest.strip_suffix('}'));
                match name {
                    Some(name) => Self::from_env(name),
                    None => Ok(Self::new(&text)),
                }
            }
            SecretSource::Env { env } => Self::from_env(&env),
            SecretSource::File { file } => {
                let text = fs::read_to_string(&file);
                let text = text.map_err(|error| format!("the file {file:?}: {error}"))?;
                Ok(Self {
                    value: text.lines().next().unwrap_or_default().into(),
                    source: format!("file {file}").into(),
                })
            }
        }
    }
}

impl Secret {
    /// Creates a secret of this value.
    #[must_use]
    pub fn new(value: &str) -> Self {
        Self {
            value: value.into(),
            source: "text".into(),
        }
    }

    fn from_env(name: &str) -> Result<Self, String> {
        match env::var(name) {
            Ok(value) if !value.is_empty() => Ok(Self {
                value: value.into(),
                source: format!("env {name}").into(),
            }),
            _ => Err(format!("the environment variable {name:?} is not set")),
        }
    }

    /// Returns the value.
    pub(crate) fn expose(&self) -> &str {
        &self.value
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.source)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("*** ({})", self.source))
    }
}
