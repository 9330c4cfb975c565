//! Credentials of targets that a command prints.

use std::{process::Stdio, sync::Arc, time::Duration};

use tokio::{io::AsyncReadExt, process::Command, time::timeout};
use tower_claude::{
    cloud::{Authorize, Bearer, Issued},
    core::BoxError,
    wire::cloud::Target,
};

use crate::{secret::Secret, target_config::TargetConfig};

/// The time after which a command must have printed its credentials.
const TIME_LIMIT: Duration = Duration::from_secs(25);

/// The greatest size of what a command prints.
const MOST_BYTES: u64 = 64 << 10;

/// The time for which a printed token is used. Google's last up to an hour, but a command may print
/// one that was issued before.
const TOKEN_LIFETIME: Duration = Duration::from_secs(600);

/// Returns the source of the credentials of a target. `None` if the target takes those of the
/// caller.
pub(crate) fn authorize(
    config: &TargetConfig,
    target: &Target,
) -> Result<Option<Arc<dyn Authorize>>, &'static str> {
    if let Some(key) = &config.key {
        let bearer = Bearer::fixed(Secret::expose(key));
        let bearer = bearer.map_err(|_| "the key of a target is not a valid value of a header")?;
        return Ok(Some(Arc::new(bearer)));
    }
    if !config.token_command.is_empty() {
        let command = config.token_command.clone();
        let bearer = Bearer::refreshing(move || {
            let command = command.clone();
            async move {
                let printed = run(&command).await?;
                let token = String::from_utf8(printed)?;
                match token.lines().next().map(str::trim) {
                    Some(token) if !token.is_empty() => {
                        Ok(Issued::lasting(token.to_owned(), TOKEN_LIFETIME))
                    }
                    _ => Err(format!("{:?} printed no token", name(&command)).into()),
                }
            }
        });
        return Ok(Some(Arc::new(bearer)));
    }
    aws(config, target)
}

#[cfg(not(feature = "bedrock"))]
fn aws(config: &TargetConfig, _: &Target) -> Result<Option<Arc<dyn Authorize>>, &'static str> {
    match config.credentials_command.is_empty() {
        true => Ok(None),
        false => Err("credentials of AWS need a build with the feature `bedrock`"),
    }
}

#[cfg(feature = "bedrock")]
fn aws(config: &TargetConfig, target: &Target) -> Result<Option<Arc<dyn Authorize>>, &'static str> {
    use tower_claude::cloud::bedrock::SigV4;

    if config.credentials_command.is_empty() {
        return Ok(None);
    }
    let service = target.aws_service();
    let service = service.ok_or("credentials of AWS are for Amazon Bedrock only")?;
    let command = config.credentials_command.clone();
    let source = move || {
        let command = command.clone();
        async move { process_credentials(&run(&command).await?) }
    };
    let signer = SigV4::new(source, service, target.location());
    // The host decides about the service, because a private endpoint may serve either API.
    Ok(Some(Arc::new(signer.for_target(target))))
}

/// Reads what a [`credential_process`] prints.
///
/// [`credential_process`]: https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html
#[cfg(feature = "bedrock")]
fn process_credentials(
    printed: &[u8],
) -> Result<tower_claude::cloud::bedrock::Credentials, BoxError> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Printed {
        version: u32,
        access_key_id: String,
        secret_access_key: String,
        session_token: Option<String>,
        expiration: Option<jiff::Timestamp>,
    }

    // The text of the error would show a part of the secret.
    let printed: Printed = serde_json::from_slice(printed).map_err(|error| {
        format!(
            "no credentials at column {} of what it printed",
            error.column()
        )
    })?;
    if printed.version != 1 {
        return Err(format!("the credentials have version {}", printed.version).into());
    }
    let credentials = tower_claude::cloud::bedrock::Credentials::new(
        printed.access_key_id,
        printed.secret_access_key,
    );
    Ok(credentials
        .with_session_token(printed.session_token)
        .with_expiry(printed.expiration.map(std::time::SystemTime::from)))
}

/// Runs a command, and returns what it printed.
async fn run(command: &[String]) -> Result<Vec<u8>, BoxError> {
    let Some((program, arguments)) = command.split_first() else {
        return Err("the command is empty".into());
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{:?}: {error}", name(command)))?;
    let mut printed = Vec::new();
    let ended = async {
        // Closed at the end, so that a command that goes on to print ends.
        if let Some(stdout) = child.stdout.take() {
            stdout.take(MOST_BYTES).read_to_end(&mut printed).await?;
        }
        child.wait().await
    };
    let status = match timeout(TIME_LIMIT, ended).await {
        Ok(status) => status?,
        Err(_) => return Err(format!("{:?} takes too long", name(command)).into()),
    };
    if !status.success() {
        return Err(format!("{:?} ended with {status}", name(command)).into());
    }
    Ok(printed)
}

/// Returns the name of a command without its arguments, which may hold secrets.
fn name(command: &[String]) -> &str {
    command.first().map_or("", |program| &**program)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[tokio::test]
    async fn command_is_run_and_its_failures_are_named() {
        assert_eq!(run(&shell("echo token")).await.unwrap(), b"token\n");
        let failed = run(&shell("echo secret; exit 3")).await.unwrap_err();
        assert_eq!(failed.to_string(), "\"sh\" ended with exit status: 3");
        let missing = run(&["no-such-program".to_owned()]).await.unwrap_err();
        assert!(missing.to_string().contains("no-such-program"), "{missing}");
        assert!(run(&[]).await.is_err());
        assert!(run(&shell("head -c 200000 /dev/zero")).await.is_err());
    }

    #[cfg(feature = "bedrock")]
    #[tokio::test]
    async fn private_endpoint_of_the_runtime_gets_signatures_for_the_runtime() {
        use tower_claude::cloud::Authorization;

        let host = "https://vpce-1.bedrock-runtime.us-east-1.vpce.amazonaws.com";
        let printed = r#"{"Version":1,"AccessKeyId":"AKID","SecretAccessKey":"secret"}"#;
        let config = TargetConfig {
            platform: crate::target_config::PlatformName::BedrockMessages,
            location: "us-east-1".to_owned(),
            url: Some(host.to_owned()),
            credentials_command: ["echo", printed].map(str::to_owned).to_vec(),
            ..TargetConfig::default()
        };
        let target = config.target("").unwrap();
        let signer = authorize(&config, &target).unwrap().unwrap();
        let request = http::Request::post(format!("{host}/anthropic/v1/messages"));
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        let now = std::time::SystemTime::now();
        let body = bytes::Bytes::new();
        let Authorization::Wait(wait) = signer.authorize(&mut head, &body, now) else {
            panic!("the command has not run yet");
        };
        wait.await.unwrap();
        let signed = signer.authorize(&mut head, &body, now);
        assert!(matches!(signed, Authorization::Done(_)), "{signed:?}");
        let signature = head.headers[http::header::AUTHORIZATION].to_str().unwrap();
        let scope = "/us-east-1/bedrock/aws4_request";
        assert!(signature.contains(scope), "{signature}");
    }

    #[cfg(feature = "bedrock")]
    #[test]
    fn credentials_of_a_process_are_read_and_errors_show_no_secret() {
        let printed = br#"{"Version":1,"AccessKeyId":"AKID","SecretAccessKey":"canary",
            "SessionToken":"t","Expiration":"2026-12-01T10:00:00Z"}"#;
        let credentials = process_credentials(printed).unwrap();
        assert_eq!(credentials.access_key_id(), "AKID");
        assert!(credentials.expires_at().is_some());
        let endless = br#"{"Version":1,"AccessKeyId":"AKID","SecretAccessKey":"canary"}"#;
        assert!(process_credentials(endless).unwrap().expires_at().is_none());
        for bad in [
            &br#"{"Version":2,"AccessKeyId":"AKID","SecretAccessKey":"canary"}"#[..],
            br#"{"Version":1,"AccessKeyId":"AKID","SecretAccessKey":["canary"]}"#,
            b"canary",
            b"",
        ] {
            let error = process_credentials(bad).unwrap_err();
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }
}
