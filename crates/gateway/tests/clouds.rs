//! Upstreams with targets on several clouds, over sockets.

mod common;

use common::*;
use tower_claude_fake_claude::{FakeClaude, FakeCloud, FakeServer, Fault};
use tower_claude_gateway::{Config, ConfigErrors};

const TARGET: &str = "x-tower-claude-target";

struct Clouds {
    claude: (FakeClaude, FakeServer),
    bedrock: (FakeClaude, FakeServer),
    vertex: (FakeClaude, FakeServer),
}

impl Clouds {
    async fn start() -> Self {
        let served = async |fake: FakeClaude| {
            let server = fake.serve().await.expect("it starts");
            (fake, server)
        };
        let bedrock = FakeCloud::bedrock_messages("us-east-1").bearer("aws-token");
        let vertex = FakeCloud::vertex("p", "global").bearer("google-token");
        Self {
            claude: served(FakeClaude::builder().api_key("key").build()).await,
            bedrock: served(FakeClaude::builder().cloud(bedrock).build()).await,
            vertex: served(FakeClaude::builder().cloud(vertex).build()).await,
        }
    }

    /// Returns the configuration of an upstream with these targets.
    fn config(&self, before: &str, targets: &[&str]) -> Config {
        let mut toml = format!(
            "{before}\n[[upstreams]]\nname = \"main\"\nurl = \"{}\"\nmax_attempts = 3\n",
            self.claude.1.url()
        );
        if targets.contains(&"claude") {
            toml += "key = \"key\"\n";
        }
        for target in targets {
            toml += "[[upstreams.targets]]\n";
            toml += &match *target {
                "claude" => String::new(),
                "bedrock" => format!(
                    "platform = \"bedrock-messages\"\nlocation = \"us-east-1\"\nurl = \"{}\"\n\
                     key = \"aws-token\"\n",
                    self.bedrock.1.url()
                ),
                _ => format!(
                    "platform = \"vertex\"\nproject = \"p\"\nlocation = \"global\"\nurl = \"{}\"\n\
                     token_command = [\"echo\", \"google-token\"]\n",
                    self.vertex.1.url()
                ),
            };
        }
        config(&toml)
    }

    fn received(&self) -> [usize; 3] {
        [&self.claude, &self.bedrock, &self.vertex].map(|(fake, _)| fake.log_len())
    }
}

/// Returns the statuses and targets of messages to a gateway.
async fn send_messages(gateway: &TestGateway, count: usize) -> Vec<(u16, String)> {
    let mut all = Vec::new();
    for number in 0..count {
        let body = STREAM_REQUEST.replace("Hi", &format!("Question {number}"));
        let got = send(gateway.message(), body).await;
        if got.status == 200 {
            assert!(got.text().ends_with("\n\n"), "{}", got.text());
            assert!(got.text().contains("event: message_stop"), "{}", got.text());
        }
        all.push((got.status, got.header(TARGET).to_owned()));
    }
    all
}

#[tokio::test]
async fn outage_of_one_cloud_is_answered_by_the_others() {
    let clouds = Clouds::start().await;
    let targets = ["claude", "bedrock", "vertex"];
    let gateway = TestGateway::new(clouds.config("", &targets)).await;
    // At the same price, new conversations are divided.
    let all = send_messages(&gateway, 24).await;
    assert!(all.iter().all(|(status, _)| *status == 200), "{all:?}");
    for name in ["claude-api", "vertex/global"] {
        assert!(all.iter().any(|(_, target)| target == name), "{all:?}");
    }
    clouds.claude.0.inject(Fault::Unavailable);
    clouds.vertex.0.inject(Fault::Unavailable);
    let all = send_messages(&gateway, 6).await;
    let is_bedrock = |(status, target): &(u16, String)| {
        (*status, &**target) == (200, "bedrock-messages/us-east-1")
    };
    assert!(all.iter().all(is_bedrock), "{all:?}");
    // A count, and the paths that clouds do not have.
    clouds.claude.0.clear_injected();
    let counted = send(
        gateway.request("POST", "/v1/messages/count_tokens"),
        r#"{"model":"claude-sonnet-5-5","messages":[{"role":"user","content":"Hi"}]}"#,
    );
    assert_eq!(counted.await.status, 200);
    let models = gateway
        .request("GET", "/v1/models")
        .header("anthropic-version", "2023-06-01");
    assert_eq!(send(models, "").await.status, 200);
}

#[tokio::test]
async fn clouds_alone_serve_messages_and_no_other_path() {
    let clouds = Clouds::start().await;
    let gateway = TestGateway::new(clouds.config("", &["vertex"])).await;
    let all = send_messages(&gateway, 2).await;
    assert_eq!(all, vec![(200, "vertex/global".to_owned()); 2]);
    let models = send(gateway.request("GET", "/v1/models"), "").await;
    assert_eq!(
        (models.status, &*models.error_type()),
        (404, "not_found_error")
    );
    // A request that no target can serve names each with its reason.
    let body = STREAM_REQUEST.replacen('{', r#"{"inference_geo":"us","#, 1);
    let refused = send(gateway.message(), body).await;
    assert_eq!(refused.status, 400, "{}", refused.text());
    for part in ["vertex/global", "inference_geo"] {
        assert!(refused.text().contains(part), "{}", refused.text());
    }
    assert_eq!(clouds.received(), [0, 0, 2]);
}

#[tokio::test]
async fn credential_of_a_caller_goes_to_the_claude_api_only() {
    let clouds = Clouds::start().await;
    let config = clouds.config("client_keys = true", &["claude", "vertex"]);
    let gateway = TestGateway::new(config).await;
    for number in 0..8 {
        let body = STREAM_REQUEST.replace("Hi", &format!("Question {number}"));
        let request = gateway.request("POST", "/v1/messages");
        let request = request.header("anthropic-version", "2023-06-01");
        let got = send(request.header("x-api-key", "key"), body).await;
        assert_eq!((got.status, got.header(TARGET)), (200, "claude-api"));
    }
    let config = clouds.config("client_keys = true", &["vertex"]);
    let gateway = TestGateway::new(config).await;
    let got = send(gateway.message(), REQUEST).await;
    assert_ne!(got.status, 200, "{}", got.text());
    assert_eq!(clouds.received()[2], 0);
}

#[test]
fn errors_of_targets_name_line_and_field() {
    let errors = |targets: &str| {
        let toml = format!("[[upstreams]]\nname = \"main\"\n{targets}");
        let ConfigErrors(errors) = Config::from_toml(&toml).expect_err("is not valid");
        let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
        lines.join("\n")
    };
    let target = |fields: &str| errors(&format!("key = \"k\"\n[[upstreams.targets]]\n{fields}"));
    for (fields, expected) in [
        (
            "platform = \"azure\"",
            "line 5: upstreams[0].targets[0].platform: unknown variant",
        ),
        (
            "platform = \"vertex\"\nkey = \"k\"",
            "targets[0].project: is required for vertex",
        ),
        (
            "platform = \"vertex\"\nproject = \"p\"\nlocation = \"a/b\"\nkey = \"k\"",
            "line 7: upstreams[0].targets[0].location: ",
        ),
        (
            "platform = \"bedrock-messages\"\nlocation = \"us-east-1\"",
            "targets[0].key: or token_command or credentials_command is required",
        ),
        (
            "platform = \"bedrock-messages\"\nlocation = \"us-east-1\"\nkey = \"k\"\n\
             token_command = [\"a\"]",
            "targets[0].token_command: a target has one source of credentials",
        ),
        (
            "platform = \"bedrock-messages\"\nlocation = \"us-east-1\"\nkey = \"k\"\n\
             profile = \"us\"",
            "targets[0].profile: only InvokeModel",
        ),
        (
            "key = \"k\"",
            "targets[0].key: is set by the key of the upstream",
        ),
        (
            "url = \"https://a\"",
            "targets[0].url: is set by the url of the upstream",
        ),
        (
            "[[upstreams.targets]]",
            "targets[1].name: \"claude-api\" is not unique",
        ),
        (
            "name = \"eu\"\n[[upstreams.targets]]\nplatform = \"vertex\"\nproject = \"p\"\n\
             location = \"eu\"\nkey = \"k\"",
            "targets[0].name: \"eu\" is the area of a target",
        ),
        (
            "platform = \"vertex\"\nproject = \"p\"\nlocation = \"us\"\nkey = \"k\"\n\
             url = \"https://host/path\"",
            "targets[0].url: \"https://host/path\" has a path",
        ),
        (
            "platform = \"vertex\"\nproject = \"p\"\nlocation = \"us\"\n\
             credentials_command = [\"a\"]",
            "targets[0].credentials_command: is for Amazon Bedrock only",
        ),
        ("weight = 0", "targets[0].weight: "),
        ("colour = \"red\"", "targets[0].colour: unknown field"),
    ] {
        let found = target(fields);
        assert!(found.contains(expected), "{fields}: {found}");
    }
    let without_key = errors("[[upstreams.targets]]\n");
    assert!(
        without_key.contains("upstreams[0].key: is required"),
        "{without_key}"
    );
    #[cfg(not(feature = "bedrock"))]
    assert!(
        target("platform = \"bedrock\"\nlocation = \"us-east-1\"\nkey = \"k\"")
            .contains("targets[0].platform: needs a build with the feature `bedrock`")
    );
}

/// A region of Bedrock with signed requests and event streams, whose key comes from a command.
#[cfg(feature = "bedrock")]
#[tokio::test]
async fn invoke_model_is_signed_with_the_credentials_of_a_command() {
    let region = FakeCloud::bedrock("us-west-2").access_key("AKID", "secret");
    let fake = FakeClaude::builder().cloud(region).build();
    let server = fake.serve().await.expect("it starts");
    let config = config(&format!(
        r#"[[upstreams]]
name = "main"
[[upstreams.targets]]
platform = "bedrock"
location = "us-west-2"
profile = "us"
url = "{}"
credentials_command = ["echo", '{{"Version":1,"AccessKeyId":"AKID","SecretAccessKey":"secret"}}']
"#,
        server.url()
    ));
    let gateway = TestGateway::new(config).await;
    let all = send_messages(&gateway, 3).await;
    assert_eq!(all, vec![(200, "bedrock/us-west-2/us".to_owned()); 3]);
}
