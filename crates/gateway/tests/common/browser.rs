//! A headless Chromium, driven by the protocol of chromedriver.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use http::{Method, Request};
use serde_json::{Value, json};

use super::{LONG, TestClient, client, send_with};

/// The page of a browser.
pub(crate) struct Browser {
    driver: Child,
    /// The profile of the browser.
    folder: PathBuf,
    client: TestClient,
    /// The URL of the session.
    session: String,
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser ends with its driver, which has the same process group.
        let group = format!("-{}", self.driver.id());
        let _ = Command::new("kill").args(["-TERM", "--", &group]).status();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Browser {
    /// Starts a browser. `None` if none is installed, which is an error in a test run with `CI` set.
    pub(crate) async fn start() -> Option<Self> {
        use std::os::unix::process::CommandExt;

        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let addr = port.local_addr().expect("it has an address");
        drop(port);
        let driver = Command::new("chromedriver")
            .arg(format!("--port={}", addr.port()))
            .process_group(0)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let driver = match driver {
            Ok(driver) => driver,
            Err(error) if std::env::var_os("CI").is_none() => {
                println!("skipped: chromedriver does not start: {error}");
                return None;
            }
            Err(error) => panic!("chromedriver does not start: {error}"),
        };
        let folder = std::env::temp_dir().join(format!("tower-claude-chromium-{}", addr.port()));
        let mut browser = Self {
            driver,
            folder,
            client: client(),
            session: format!("http://{addr}"),
        };
        browser.wait_for_driver().await;
        let profile = format!("--user-data-dir={}", browser.folder.display());
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {"args": [
                "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                "--hide-scrollbars", profile,
            ]},
        }}});
        let session = browser.call(Method::POST, "/session", &capabilities).await;
        let id = session["sessionId"].as_str().expect("it has an id");
        browser.session = format!("{}/session/{id}", browser.session);
        Some(browser)
    }

    async fn wait_for_driver(&self) {
        let is_up = async {
            loop {
                let request = Request::get(format!("{}/status", self.session));
                let request = request.body(http_body_util::Full::default()).unwrap();
                if self.client.request(request).await.is_ok() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(LONG, is_up).await.expect("it starts");
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> Value {
        let url = format!("{}{path}", self.session);
        let request = Request::builder().method(method).uri(url);
        let got = send_with(&self.client, request, body.to_string()).await;
        let json: Value = serde_json::from_slice(&got.body).expect("it is JSON");
        assert_eq!(got.status, 200, "{path}: {json}");
        json["value"].clone()
    }

    pub(crate) async fn open(&self, url: &str) {
        let body = json!({ "url": url });
        self.call(Method::POST, "/url", &body).await;
    }

    /// Runs a script in the page, and returns what it returns.
    pub(crate) async fn run(&self, script: &str) -> Value {
        let body = json!({ "script": script, "args": [] });
        self.call(Method::POST, "/execute/sync", &body).await
    }

    /// Returns the text of the first element that matches.
    pub(crate) async fn text(&self, selector: &str) -> String {
        let script = format!("return document.querySelector({selector:?})?.innerText ?? ''");
        self.run(&script).await.as_str().unwrap().to_owned()
    }

    /// Waits until an element has a text with all of these parts.
    pub(crate) async fn wait_for(&self, selector: &str, parts: &[&str]) {
        for _ in 0..200 {
            let text = self.text(selector).await;
            if parts.iter().all(|part| text.contains(part)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let text = self.text(selector).await;
        panic!("{selector} has no {parts:?}: {text:?}");
    }

    /// Presses keys, one after the other.
    pub(crate) async fn press(&self, keys: &[char]) {
        let actions = keys.iter().flat_map(|key| {
            ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key.to_string() }))
        });
        let actions: Vec<_> = actions.collect();
        let body = json!({ "actions": [{ "type": "key", "id": "keys", "actions": actions }] });
        self.call(Method::POST, "/actions", &body).await;
    }

    /// Calls a command of the browser's own protocol.
    async fn command(&self, name: &str, params: Value) -> Value {
        let body = json!({ "cmd": name, "params": params });
        self.call(Method::POST, "/goog/cdp/execute", &body).await
    }

    pub(crate) async fn set_size(&self, width: u64, height: u64) {
        let params = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500,
        });
        self.command("Emulation.setDeviceMetricsOverride", params)
            .await;
    }

    /// Sets what the user prefers: `light` or `dark`, and if motion is reduced.
    pub(crate) async fn prefer(&self, scheme: &str, reduced_motion: bool) {
        let motion = if reduced_motion {
            "reduce"
        } else {
            "no-preference"
        };
        let params = json!({ "features": [
            { "name": "prefers-color-scheme", "value": scheme },
            { "name": "prefers-reduced-motion", "value": motion },
        ]});
        self.command("Emulation.setEmulatedMedia", params).await;
    }

    /// Returns a picture of the whole page in PNG, encoded in base 64.
    pub(crate) async fn picture(&self, width: u64) -> String {
        self.set_size(width, 900).await;
        let height = self
            .run("return document.documentElement.scrollHeight")
            .await;
        self.set_size(width, height.as_u64().unwrap()).await;
        let params = json!({ "format": "png" });
        let picture = self.command("Page.captureScreenshot", params).await;
        picture["data"].as_str().unwrap().to_owned()
    }

    /// Returns the errors and warnings of the page.
    pub(crate) async fn log(&self) -> Vec<Value> {
        let body = json!({ "type": "browser" });
        let log = self.call(Method::POST, "/se/log", &body).await;
        log.as_array().unwrap().clone()
    }
}
