//! Differences between a request and its translation for a target.

use std::borrow::Cow;
use std::fmt;

/// The reason why a target cannot serve a request.
///
/// ```
/// use tower_claude_wire::cloud::Unportable;
/// let reason = Unportable::new("container", "Vertex has no code execution");
/// assert_eq!(reason.to_string(), "container: Vertex has no code execution");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Unportable {
    /// The field of the body or the header, e.g. `mcp_servers` or `tools[].type`.
    pub path: &'static str,
    /// The reason, as a sentence without a period.
    pub why: &'static str,
}

impl Unportable {
    /// Creates a reason.
    #[must_use]
    pub const fn new(path: &'static str, why: &'static str) -> Self {
        Self { path, why }
    }
}

impl fmt::Display for Unportable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.why)
    }
}

impl std::error::Error for Unportable {}

/// One thing that a translation dropped or changed, although the sender may have relied on it.
///
/// Steps that keep the meaning, such as the model id of the target, are no losses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Loss {
    /// A beta that the target does not know was dropped.
    Beta(Box<str>),
    /// A header was dropped.
    Header(Box<str>),
    /// A field of the body was dropped.
    Field(&'static str),
    /// A field of the body was replaced.
    Changed {
        /// The field.
        path: &'static str,
        /// The replacement, in a few words.
        to: &'static str,
    },
}

impl Loss {
    /// Returns the beta, header or field.
    #[must_use]
    pub fn subject(&self) -> &str {
        match self {
            Self::Beta(name) | Self::Header(name) => name,
            Self::Field(path) | Self::Changed { path, .. } => path,
        }
    }
}

impl fmt::Display for Loss {
    /// Writes for example `beta advisor-tool-2026-03-01` or `cache_control.ttl=5m`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beta(name) => write!(f, "beta {name}"),
            Self::Header(name) => write!(f, "header {name}"),
            Self::Field(path) => f.write_str(path),
            Self::Changed { path, to } => write!(f, "{path}={to}"),
        }
    }
}

/// All losses of one request, each of them once.
///
/// Stands in the extensions of a response of the cloud layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses(Vec<Loss>);

impl Losses {
    /// Adds a loss, unless it is there already.
    pub fn push(&mut self, loss: Loss) {
        if !self.0.contains(&loss) {
            self.0.push(loss);
        }
    }

    /// Returns true if nothing was lost.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the number of losses.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the losses, in the order in which they occurred.
    pub fn iter(&self) -> std::slice::Iter<'_, Loss> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Losses {
    type Item = &'a Loss;
    type IntoIter = std::slice::Iter<'a, Loss>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Losses {
    /// Writes the losses with commas between them, as visible ASCII, so that the text is a valid
    /// header value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, loss) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            f.write_str(&visible(&loss.to_string()))?;
        }
        Ok(())
    }
}

/// Returns the text with `?` in place of control characters and of all beyond ASCII.
fn visible(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c == ' ' || c.is_ascii_graphic();
    if text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let plain = text.chars().map(|c| if is_plain(c) { c } else { '?' });
    Cow::Owned(plain.collect())
}
