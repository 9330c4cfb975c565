//! A real Prometheus (Debian package prometheus).

use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStderr, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use http_body_util::{BodyExt, Full};

use super::client;

/// A Prometheus that scrapes one address.
pub(crate) struct Prometheus {
    child: Child,
    folder: std::path::PathBuf,
    url: String,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Prometheus {
    /// Starts the server with the rules of this project. `None` if it is not installed, which is an
    /// error in a test run with `CI` set.
    pub(crate) fn start(target: std::net::SocketAddr) -> Option<Self> {
        let folder = std::env::temp_dir().join(format!("tower-claude-{}", target.port()));
        std::fs::create_dir_all(&folder).expect("the folder is made");
        let rules = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../ops/prometheus/rules.yml"
        );
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
             rule_files: [\"{rules}\"]\n\
             scrape_configs:\n- job_name: gateway\n  static_configs: [{{targets: [\"{target}\"]}}]\n"
        );
        std::fs::write(folder.join("prometheus.yml"), config).expect("it is written");
        let child = Command::new("prometheus")
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg("--web.listen-address=127.0.0.1:0")
            .current_dir(&folder)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        match child {
            Ok(child) => {
                let url = String::new();
                let mut server = Self { child, folder, url };
                let log = server.child.stderr.take().expect("it is piped");
                server.url = format!("http://{}", listening(log));
                Some(server)
            }
            Err(error) if std::env::var_os("CI").is_none() => {
                println!("skipped: prometheus does not start: {error}");
                None
            }
            Err(error) => panic!("prometheus does not start: {error}"),
        }
    }

    /// Returns the number of series of an expression, or `None` if there is no answer yet.
    pub(crate) async fn count(&self, expression: &str) -> Option<usize> {
        let query: String = expression
            .bytes()
            .map(|byte| format!("%{byte:02X}"))
            .collect();
        let url = format!("{}/api/v1/query?query={query}", self.url);
        let request = http::Request::get(url).body(Full::default()).unwrap();
        let answer = client().request(request).await.ok()?;
        let answer = answer.into_body().collect().await.ok()?.to_bytes();
        let json: serde_json::Value = serde_json::from_slice(&answer).ok()?;
        assert_ne!(json["status"], "error", "{expression}: {json}");
        Some(json["data"]["result"].as_array()?.len())
    }
}

/// Returns the address that Prometheus has chosen. Reads its log to the end in a thread, so that
/// a full pipe never blocks it.
fn listening(log: ChildStderr) -> String {
    let (sender, address) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            if let (true, Some((_, address))) =
                (line.contains("Listening on"), line.split_once("address="))
            {
                let _ = sender.send(address.trim().to_owned());
            }
        }
    });
    let address = address.recv_timeout(Duration::from_secs(60));
    address.expect("prometheus listens")
}
