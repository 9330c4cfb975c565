//! Paths of requests.

use super::target::{Dialect, Target};
use crate::models::Platform;

/// Returns a model id as one segment of a path.
///
/// Letters, digits and `-._~:@` stand for themselves. So does `;` on Bedrock, as in the official
/// SDKs. All else is percent-encoded, the slashes of an ARN among it.
///
/// ```
/// use tower_claude_wire::cloud::{Dialect, model_segment};
/// let arn = "arn:aws:bedrock:us-east-1:1:application-inference-profile/x";
/// let segment = "arn:aws:bedrock:us-east-1:1:application-inference-profile%2Fx";
/// assert_eq!(model_segment(Dialect::InvokeModel, arn), segment);
/// ```
#[must_use]
pub fn model_segment(dialect: Dialect, id: &str) -> String {
    // Python's and JavaScript's encoders, on which the SDKs rely, differ here.
    let stays: &[u8] = match dialect {
        Dialect::RawPredict => b"-._~:@",
        _ => b"-._~:;",
    };
    let mut segment = String::with_capacity(id.len() + 8);
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || stays.contains(&byte) {
            segment.push(char::from(byte));
        } else {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            segment.push('%');
            segment.push(char::from(HEX[usize::from(byte >> 4)]));
            segment.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    segment
}

impl Target {
    /// Returns the path of a Messages request for the target's id of a model. A path of the
    /// dialect `Messages` names neither the model nor the stream.
    ///
    /// ```
    /// use tower_claude_wire::cloud::Target;
    /// let target = Target::bedrock("us-east-1")?;
    /// let path = "/model/us.anthropic.claude-opus-5-5/invoke-with-response-stream";
    /// assert_eq!(target.messages_path("us.anthropic.claude-opus-5-5", true), path);
    /// # Ok::<(), tower_claude_wire::cloud::InvalidTarget>(())
    /// ```
    #[must_use]
    pub fn messages_path(&self, model_id: &str, stream: bool) -> String {
        match (self.dialect(), stream) {
            (Dialect::Messages, _) if self.platform() == Platform::Bedrock => {
                "/anthropic/v1/messages".to_owned()
            }
            (Dialect::Messages, _) => "/v1/messages".to_owned(),
            (Dialect::InvokeModel, stream) => {
                let segment = model_segment(Dialect::InvokeModel, model_id);
                let action = if stream {
                    "invoke-with-response-stream"
                } else {
                    "invoke"
                };
                format!("/model/{segment}/{action}")
            }
            (Dialect::RawPredict, stream) => {
                let segment = model_segment(Dialect::RawPredict, model_id);
                let action = if stream {
                    "streamRawPredict"
                } else {
                    "rawPredict"
                };
                format!("{}/{segment}:{action}", self.publisher_path())
            }
        }
    }

    /// Returns the path of a request that counts tokens. `None` for `InvokeModel`, which cannot.
    #[must_use]
    pub fn count_tokens_path(&self) -> Option<String> {
        match self.dialect() {
            Dialect::InvokeModel => None,
            Dialect::RawPredict => {
                Some(format!("{}/count-tokens:rawPredict", self.publisher_path()))
            }
            Dialect::Messages => Some(self.messages_path("", false) + "/count_tokens"),
        }
    }

    fn publisher_path(&self) -> String {
        let project = self.project().unwrap_or_default();
        let location = self.location();
        format!("/v1/projects/{project}/locations/{location}/publishers/anthropic/models")
    }
}
