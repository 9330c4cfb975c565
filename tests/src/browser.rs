//! A headless Chromium, driven by the protocol of chromedriver.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};

/// The longest time that the driver may take for a command.
const LONG: Duration = Duration::from_secs(20);

/// A script that returns the texts with too little contrast for people with weak eyes (WCAG 2,
/// level AA).
pub const LOW_CONTRAST: &str = r#"
const channel = (value) => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
const parse = (text) => {
  const numbers = text.match(/[\d.]+/g).map(Number);
  const scale = text.startsWith("color") ? 1 : 255;
  return { rgb: numbers.slice(0, 3).map((value) => value / scale), alpha: numbers[3] ?? 1 };
};
const light = (rgb) => 0.2126 * channel(rgb[0]) + 0.7152 * channel(rgb[1]) + 0.0722 * channel(rgb[2]);
const behind = (element) => {
  const layers = [];
  for (let at = element; at; at = at.parentElement) {
    layers.push(parse(getComputedStyle(at).backgroundColor));
    if (layers.at(-1).alpha === 1) break;
  }
  return layers.reverse().reduce((under, over) => under.map((value, i) => value * (1 - over.alpha) + over.rgb[i] * over.alpha), [1, 1, 1]);
};
const low = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || ["SCRIPT", "STYLE", "NOSCRIPT"].includes(element.tagName)) continue;
  const [a, b] = [light(parse(getComputedStyle(element).color).rgb), light(behind(element))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) low.push(`${walker.currentNode.data}: ${ratio.toFixed(2)}`);
}
return low;
"#;

/// The page of a browser.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    /// The profile of the browser.
    folder: PathBuf,
    client: Client<HttpConnector, Full<Bytes>>,
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

/// Returns the port that a driver has chosen, which it prints.
fn port_of(driver: &mut Child) -> u16 {
    let output = driver.stdout.take().expect("it is piped");
    let mut lines = BufReader::new(output).lines();
    let port = lines.find_map(|line| {
        let line = line.expect("it is UTF-8");
        let (_, port) = line.split_once("successfully on port ")?;
        port.trim_end_matches('.').parse().ok()
    });
    // A driver whose output is closed would end at its next line.
    std::thread::spawn(move || lines.for_each(drop));
    port.expect("chromedriver prints its port")
}

impl Browser {
    /// Starts a browser. `None` if none is installed, which is an error in a test run with `CI`
    /// set.
    pub async fn start() -> Option<Self> {
        use std::os::unix::process::CommandExt;

        let driver = Command::new("chromedriver")
            .arg("--port=0")
            .process_group(0)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut driver = match driver {
            Ok(driver) => driver,
            Err(error) if std::env::var_os("CI").is_none() => {
                println!("skipped: chromedriver does not start: {error}");
                return None;
            }
            Err(error) => panic!("chromedriver does not start: {error}"),
        };
        let port = port_of(&mut driver);
        let folder = std::env::temp_dir().join(format!("tower-claude-chromium-{port}"));
        let mut browser = Self {
            driver,
            folder,
            client: Client::builder(TokioExecutor::new()).build_http(),
            session: format!("http://127.0.0.1:{port}"),
        };
        browser.wait_for_driver().await;
        let profile = format!("--user-data-dir={}", browser.folder.display());
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
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
                let request = request.body(Full::default()).unwrap();
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
        let request = request.body(Full::from(body.to_string())).unwrap();
        let answered = async {
            let response = self.client.request(request).await.unwrap();
            let status = response.status();
            (status, response.into_body().collect().await.unwrap())
        };
        let answered = tokio::time::timeout(LONG, answered).await;
        let (status, body) = answered.expect("the driver answers");
        let json: Value = serde_json::from_slice(&body.to_bytes()).expect("it is JSON");
        assert_eq!(status, 200, "{path}: {json}");
        json["value"].clone()
    }

    /// Opens a page and waits until it is loaded.
    pub async fn open(&self, url: &str) {
        let body = json!({ "url": url });
        self.call(Method::POST, "/url", &body).await;
    }

    /// Runs a script in the page, and returns what it returns.
    pub async fn run(&self, script: &str) -> Value {
        let body = json!({ "script": script, "args": [] });
        self.call(Method::POST, "/execute/sync", &body).await
    }

    /// Returns the text of the first element that matches.
    pub async fn text(&self, selector: &str) -> String {
        let script = format!("return document.querySelector({selector:?})?.innerText ?? ''");
        self.run(&script).await.as_str().unwrap().to_owned()
    }

    /// Waits until an element has a text with all of these parts.
    pub async fn wait_for(&self, selector: &str, parts: &[&str]) {
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
    pub async fn press(&self, keys: &[char]) {
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

    /// Sets the size of the window in CSS pixels.
    pub async fn set_size(&self, width: u64, height: u64) {
        let params = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500,
        });
        self.command("Emulation.setDeviceMetricsOverride", params)
            .await;
    }

    /// Sets what the user prefers: `light` or `dark`, and if motion is reduced.
    pub async fn prefer(&self, scheme: &str, reduced_motion: bool) {
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

    /// Returns a picture of the page, of at most this height, in PNG, encoded in base 64.
    async fn picture(&self, width: u64, most: u64) -> String {
        self.set_size(width, 900).await;
        let height = self
            .run("return document.documentElement.scrollHeight")
            .await;
        let height = height.as_u64().unwrap().min(most);
        self.set_size(width, height).await;
        let params = json!({ "format": "png" });
        let picture = self.command("Page.captureScreenshot", params).await;
        picture["data"].as_str().unwrap().to_owned()
    }

    /// Writes a picture of the page, of at most this height, into a PNG file.
    pub async fn write_picture(&self, width: u64, most: u64, path: &Path) {
        let picture = self.picture(width, most).await;
        let mut decode = Command::new("base64")
            .arg("-d")
            .stdin(Stdio::piped())
            .stdout(std::fs::File::create(path).expect("the file can be made"))
            .spawn()
            .expect("base64 is installed");
        let mut input = decode.stdin.take().expect("it is piped");
        input.write_all(picture.as_bytes()).expect("it is read");
        drop(input);
        assert!(decode.wait().expect("it ends").success());
    }

    /// Returns the errors and warnings of the page since the last call.
    pub async fn log(&self) -> Vec<Value> {
        self.entries("browser").await
    }

    async fn entries(&self, kind: &str) -> Vec<Value> {
        let log = self
            .call(Method::POST, "/se/log", &json!({ "type": kind }))
            .await;
        log.as_array().unwrap().clone()
    }

    /// Returns the URLs that the browser was to load since the last call.
    pub async fn requested(&self) -> Vec<String> {
        let entries = self.entries("performance").await;
        let messages = entries.iter().filter_map(|entry| {
            let message: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
            Some(message["message"].clone())
        });
        let sent = messages.filter(|message| message["method"] == "Network.requestWillBeSent");
        sent.filter_map(|sent| Some(sent["params"]["request"]["url"].as_str()?.to_owned()))
            .collect()
    }

    /// Lets the page look as on paper, or as on a screen.
    pub async fn show_print(&self, is_print: bool) {
        let media = if is_print { "print" } else { "screen" };
        self.command("Emulation.setEmulatedMedia", json!({ "media": media }))
            .await;
    }

    /// Returns the number of pages of A4 paper that the page fills.
    pub async fn printed_pages(&self) -> usize {
        let params = json!({ "paperWidth": 8.27, "paperHeight": 11.69, "printBackground": false });
        let pdf = self.command("Page.printToPDF", params).await;
        let pdf = pdf["data"].as_str().expect("it is printed").to_owned();
        let mut decode = Command::new("base64")
            .arg("-d")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("base64 is installed");
        let mut input = decode.stdin.take().expect("it is piped");
        let written = std::thread::spawn(move || input.write_all(pdf.as_bytes()));
        let output = decode.wait_with_output().expect("it ends");
        written.join().unwrap().expect("it is read");
        let text = String::from_utf8_lossy(&output.stdout);
        text.matches("/Type /Page\n").count()
    }
}
