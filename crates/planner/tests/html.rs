//! The pages in a real browser, by any means of reading them.

use std::{
    io::BufReader,
    path::{Path, PathBuf},
};

use tower_claude_planner::{
    diagnose::diagnose,
    event::Event,
    evidence::{EvidenceOptions, evidence},
    html,
    limits::LimitTable,
    plan::{PlanOptions, plan},
    read::read,
    traffic::{Traffic, TrafficBuilder},
};
use tower_claude_tests::browser::{Browser, LOW_CONTRAST};

const TAB: char = '\u{E004}';

const DAY: u64 = 86_400;

/// A Monday, in Unix seconds.
const MONDAY: u64 = 1_793_577_600;

fn traffic(name: &str, text: &[u8], model: Option<&str>) -> Traffic {
    let mut builder = TrafficBuilder::new(model);
    let report = read(name, BufReader::new(text), None, &mut |line, record| {
        builder.add(line, &record);
    });
    builder.end_file(report.expect("it is a log"));
    builder.build().expect("it has records")
}

/// Returns the trace that is shipped: one hour without statuses.
fn trace() -> Traffic {
    let path = workspace().join("examples/data/azure-llm-code-2023.csv");
    let text = std::fs::read(path).expect("the trace is there");
    traffic("azure-llm-code-2023.csv", &text, Some("claude-sonnet-5-5"))
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Returns an event log of many days with busy office hours, nightly work, growth and some 429s.
fn weeks(days: u64, nightly: &str) -> Traffic {
    let mut log = Log::new();
    for day in 0..days {
        let growth = 1.07_f64.powf(day as f64 / 7.0);
        let is_weekend = day % 7 >= 5;
        for hour in 0..24 {
            let office = (-((hour as f64 - 14.0) / 3.5).powi(2)).exp();
            let busy = if is_weekend { office * 0.2 } else { office };
            let calls = 4.0 + 45.0 * growth * busy;
            let start = (MONDAY + day * DAY + hour * 3_600) as f64;
            // Half of the calls come alone, the others at about the same time as some more.
            let mut burst = start;
            for call in 0..calls as u64 {
                if call % 20 == 0 {
                    burst = start + log.random.f64() * 3_500.0;
                }
                let at = match call % 2 {
                    0 => start + log.random.f64() * 3_600.0,
                    _ => burst + log.random.f64() * 30.0,
                };
                log.call(at, "chat", 380_000);
            }
            if hour == 2 {
                for index in 0..(60.0 * growth) as u64 {
                    log.call(start + index as f64 * 0.7, nightly, 9_000);
                }
            }
        }
    }
    traffic("events.jsonl", log.text.as_bytes(), None)
}

/// A tag that is HTML.
const NIGHTLY: &str = "nightly <img src=https://example.com/x>";

/// An event log under construction.
struct Log {
    random: fastrand::Rng,
    text: String,
    number: u64,
}

impl Log {
    fn new() -> Self {
        Self {
            random: fastrand::Rng::with_seed(18),
            text: String::new(),
            number: 0,
        }
    }

    /// Adds a call. Some calls get a 429 first, and some wait for a limiter.
    fn call(&mut self, at: f64, tag: &str, size: u64) {
        self.number += 1;
        let number = self.number;
        let prompt = size / 4 + (size as f64 * self.random.f64().powi(3)) as u64;
        let (read, output) = (prompt / 3, 100 + self.random.u64(0..900));
        let until = at + 2.0 + output as f64 / 60.0;
        let wait = if number.is_multiple_of(41) { 1.5 } else { 0.0 };
        let limits = "{\"requests\":{\"limit\":5000},\"input_tokens\":{\"limit\":2000000},\
                      \"output_tokens\":{\"limit\":400000}}";
        let head = format!(
            "\"model\":\"claude-sonnet-5-5\",\"call\":\"c{number}\",\"key\":\"52bab30a\",\
             \"tag\":\"{tag}\",\"input\":{},\"cache_read\":{read}",
            prompt - read
        );
        let refused = number.is_multiple_of(197);
        let mut add = |line: String| {
            self.text.push_str(&line);
            self.text.push('\n');
        };
        if refused {
            add(format!(
                "{{\"t_start\":{at:.3},\"t_end\":{:.3},\"attempt\":1,{head},\"status\":429,\
                 \"error_type\":\"rate_limit_error\",\"request_id\":\"req_011CSHo{number:05}\"}}",
                at + 0.1
            ));
        }
        let (start, attempt) = if refused { (at + 3.0, 2) } else { (at, 1) };
        add(format!(
            "{{\"t_start\":{start:.3},\"t_end\":{:.3},\"wait\":{wait},\"attempt\":{attempt},{head},\
             \"output\":{output},\"status\":200,\"limits\":{limits}}}",
            until + wait + start - at
        ));
    }
}

fn plan_of(traffic: &Traffic, tier: Option<&str>) -> String {
    let mut options = PlanOptions::default();
    options.limits = tier.map(|tier| LimitTable::tier(tier).unwrap());
    if tier.is_none() && traffic.names.find("chat").is_some() {
        let nightly = match traffic.names.find(NIGHTLY) {
            Some(_) => NIGHTLY,
            None => "nightly",
        };
        options.what_ifs = ["cache=0.6", &format!("batch=tag:{nightly}"), "keys=3"]
            .map(|what_if| what_if.parse().unwrap())
            .to_vec();
        let event: Event = "2026-12-05T18:00 4x 2h".parse().unwrap();
        options.events = vec![event];
    }
    let report = plan(traffic, &options, &mut |_, _| {}).unwrap();
    html::plan(&report, traffic)
}

fn diagnosis_of(traffic: &Traffic) -> String {
    html::diagnosis(&diagnose(traffic, None, None).unwrap(), traffic)
}

fn evidence_of(traffic: &Traffic, ask: Option<u64>) -> String {
    let mut options = EvidenceOptions::new("sonnet-5.5");
    options.ask = ask;
    options.done = vec!["nightly work goes through the Batches API".to_owned()];
    html::evidence(&evidence(traffic, &options).unwrap(), traffic)
}

/// A folder of pages, which is removed at the end.
struct Pages(PathBuf);

impl Pages {
    fn new(name: &str) -> Self {
        let name = format!("tower-claude-pages-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn write(&self, name: &str, html: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, html).unwrap();
        format!("file://{}", path.display())
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Checks that a page loads nothing, fits each width and can be read.
async fn every_reader_can_use(browser: &Browser, name: &str, url: &str) {
    browser.requested().await;
    browser.log().await;
    browser.open(url).await;
    for scheme in ["light", "dark"] {
        browser.prefer(scheme, true).await;
        let low = browser.run(LOW_CONTRAST).await;
        assert_eq!(low, serde_json::json!([]), "{name} {scheme}");
    }
    browser
        .run("document.querySelectorAll('details').forEach((one) => one.open = true)")
        .await;
    for width in [1_280, 390, 360, 320] {
        browser.set_size(width, 800).await;
        let wide = browser
            .run("return document.documentElement.scrollWidth")
            .await;
        assert_eq!(wide.as_u64(), Some(width), "{name} is wider");
        let outside = browser.run(OUTSIDE).await;
        assert_eq!(outside, serde_json::json!([]), "{name} at {width}");
    }
    let urls = browser.requested().await;
    assert!(urls.iter().any(|requested| requested == url), "{urls:?}");
    let others: Vec<_> = urls
        .iter()
        .filter(|requested| *requested != url && !is_inside(requested))
        .collect();
    assert!(others.is_empty(), "{name}: {others:?}");
    assert_eq!(
        browser.log().await,
        Vec::<serde_json::Value>::new(),
        "{name}"
    );
    let unnamed = "return [...document.querySelectorAll('svg')].filter((svg) => \
                   !svg.closest('[role=img][aria-label], [aria-hidden=true]')).length";
    assert_eq!(
        browser.run(unnamed).await,
        0,
        "{name}: pictures without a text"
    );
    assert_eq!(browser.run("return document.scripts.length").await, 0);
}

/// Returns true for what a browser loads from itself, such as its first page.
fn is_inside(url: &str) -> bool {
    let schemes = ["data:", "about:", "chrome:", "chrome-extension:"];
    schemes.iter().any(|scheme| url.starts_with(scheme))
}

/// Returns the texts that stand out of the page or of their cell.
const OUTSIDE: &str = r#"
const width = document.documentElement.clientWidth;
return [...document.querySelectorAll("td, th, dd, dt, p, li, h2, h3, h4, svg text, pre")]
  .filter((element) => {
    const box = element.getBoundingClientRect();
    return box.width && (box.left < -1 || box.right > width + 1 || (!element.ownerSVGElement && element.scrollWidth > element.clientWidth + 1));
  })
  .map((element) => element.textContent);
"#;

/// Writes the pictures for the documentation, or pages and pictures of all kinds into the folder
/// `PAGES`, to look at.
#[tokio::test]
#[ignore = "writes docs/plan-*.png and docs/evidence-*.png"]
async fn pictures_for_the_documentation() {
    let browser = Browser::start().await.expect("a browser is installed");
    let weeks = weeks(35, "nightly");
    let mut all = vec![
        ("plan", plan_of(&weeks, None)),
        ("evidence", evidence_of(&weeks, Some(4_000_000))),
    ];
    let folder = std::env::var_os("PAGES").map(PathBuf::from);
    if folder.is_some() {
        all.extend([
            ("diagnosis", diagnosis_of(&weeks)),
            ("plan-trace", plan_of(&trace(), None)),
            ("evidence-trace", evidence_of(&trace(), None)),
            ("plan-day", plan_of(&self::weeks(1, NIGHTLY), Some("start"))),
            ("plan-call", plan_of(&one_call(), None)),
            ("plan-pools", plan_of(&two_pools(), None)),
        ]);
    }
    let docs = workspace().join("docs");
    let pages = Pages::new("pictures");
    for (name, html) in all {
        let url = pages.write(&format!("{name}.html"), &html);
        browser.open(&url).await;
        let (folder, most) = match &folder {
            Some(folder) => (folder, u64::MAX),
            None => (&docs, 2_380),
        };
        for (form, width, scheme) in [("desktop", 1_060, "light"), ("phone", 360, "dark")] {
            browser.prefer(scheme, true).await;
            let path = folder.join(format!("{name}-{form}.png"));
            browser.write_picture(width, most, &path).await;
        }
        if folder != &docs {
            std::fs::write(folder.join(format!("{name}.html")), &html).unwrap();
            browser.show_print(true).await;
            let path = folder.join(format!("{name}-paper.png"));
            browser.write_picture(794, most, &path).await;
            browser.show_print(false).await;
        }
    }
}

#[tokio::test]
async fn plan_can_be_read_by_everyone_and_loads_nothing() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let pages = Pages::new("plan");
    for (name, html) in [
        ("weeks", plan_of(&weeks(22, NIGHTLY), None)),
        ("trace", plan_of(&trace(), None)),
        ("day", plan_of(&weeks(1, NIGHTLY), Some("start"))),
        ("call", plan_of(&one_call(), None)),
        ("pools", plan_of(&two_pools(), None)),
        ("extremes", plan_of(&extremes(), None)),
    ] {
        let url = pages.write(&format!("{name}.html"), &html);
        every_reader_can_use(&browser, name, &url).await;
    }
}

#[tokio::test]
async fn evidence_can_be_read_by_everyone_and_printed() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let pages = Pages::new("evidence");
    for (name, html) in [
        ("weeks", evidence_of(&weeks(22, NIGHTLY), Some(4_000_000))),
        ("trace", evidence_of(&trace(), None)),
        ("call", evidence_of(&one_call(), None)),
    ] {
        let url = pages.write(&format!("{name}.html"), &html);
        every_reader_can_use(&browser, name, &url).await;
        // The text to paste is reached by key.
        browser.press(&[TAB, TAB]).await;
        let focused = browser.run("return document.activeElement.tagName").await;
        assert_eq!(focused, "PRE", "{name}");
        // A4 has 794 pixels. Folded tables are not printed.
        browser.show_print(true).await;
        browser.set_size(794, 1_123).await;
        let wide = browser
            .run("return document.documentElement.scrollWidth")
            .await;
        assert_eq!(wide, 794, "{name} is wider than paper");
        let outside = browser.run(OUTSIDE).await;
        assert_eq!(outside, serde_json::json!([]), "{name} on paper");
        let low = browser.run(LOW_CONTRAST).await;
        assert_eq!(low, serde_json::json!([]), "{name} on paper");
        let printed = browser.printed_pages().await;
        assert!((1..=5).contains(&printed), "{name}: {printed} pages");
        browser.show_print(false).await;
    }
}

#[tokio::test]
async fn diagnosis_can_be_read_by_everyone_and_loads_nothing() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let pages = Pages::new("diagnosis");
    for (name, html) in [
        ("weeks", diagnosis_of(&weeks(22, NIGHTLY))),
        ("trace", diagnosis_of(&trace())),
        ("call", diagnosis_of(&one_call())),
        ("extremes", diagnosis_of(&extremes())),
    ] {
        let url = pages.write(&format!("{name}.html"), &html);
        every_reader_can_use(&browser, name, &url).await;
    }
}

/// Returns the shortest record: one call at one time, with little known about it.
fn one_call() -> Traffic {
    let line = "{\"t_start\":1793577600,\"model\":\"claude-sonnet-5-5\",\"input\":7}\n";
    traffic("one.jsonl", line.as_bytes(), None)
}

/// Returns a record of two pools over eight hours. The limits of one of them are not published.
fn two_pools() -> Traffic {
    let mut text = String::new();
    for minute in 0..480_u64 {
        for (model, calls) in [("own-model", 3), ("claude-haiku-5-5", 1)] {
            for call in 0..calls {
                let at = MONDAY + minute * 60 + call * 7;
                let input = 900 + minute * 13 % 700;
                text.push_str(&format!(
                    "{{\"t_start\":{at},\"model\":\"{model}\",\"pool\":\"{model}\",\
                     \"input\":{input},\"output\":80,\"status\":200}}\n"
                ));
            }
        }
    }
    traffic("pools.jsonl", text.as_bytes(), None)
}

/// Returns a record with long names and the largest numbers.
fn extremes() -> Traffic {
    let name = "n".repeat(400);
    let mut text = String::new();
    for (index, input) in [u64::MAX, u64::MAX, 0, 1].into_iter().enumerate() {
        let at = MONDAY + index as u64 * 40_000;
        let status = if index % 2 == 0 { 200 } else { 429 };
        text.push_str(&format!(
            "{{\"t_start\":{at},\"model\":\"{name}\",\"pool\":\"{name}\",\"tag\":\"{name}\",\
             \"input\":{input},\"output\":{input},\"status\":{status},\"request_id\":\"{name}{index}\"}}\n"
        ));
    }
    traffic(&format!("{name}.jsonl"), text.as_bytes(), None)
}

/// A name that is HTML, ends attributes, and turns the text around.
const NAME: &str = "\"><script>alert(1)</script>\u{202e}'&amp;";

#[test]
fn names_from_logs_are_text_in_every_page() {
    let name = serde_json::to_string(NAME).unwrap();
    let mut text = String::new();
    for second in 0..40 {
        let (status, tail) = match second % 2 {
            0 => (200, "\"output\":9".to_owned()),
            _ => (429, format!("\"request_id\":{name}")),
        };
        let line = format!(
            "{{\"t_start\":{},\"pool\":{name},\"model\":{name},\"tag\":{name},\"key\":{name},\
             \"process\":{name},\"input\":5,\"status\":{status},{tail}}}\n",
            1_793_577_600 + second * 7_200
        );
        text.push_str(&line);
    }
    let traffic = traffic(NAME, text.as_bytes(), None);
    let mut options = EvidenceOptions::new(NAME);
    options.done = vec![NAME.to_owned()];
    let evidence = html::evidence(&evidence(&traffic, &options).unwrap(), &traffic);
    for page in [plan_of(&traffic, None), diagnosis_of(&traffic), evidence] {
        assert!(page.contains("&lt;script&gt;alert(1)"), "the name is shown");
        assert!(!page.contains("<script"));
        assert!(!page.contains("\"&gt;\">"));
        assert!(!page.contains('\u{202e}'));
        assert!(page.contains("&#39;&amp;amp;"));
    }
}

#[test]
fn pages_of_the_same_traffic_are_the_same() {
    let traffic = weeks(1, NIGHTLY);
    assert_eq!(plan_of(&traffic, None), plan_of(&traffic, None));
    assert_eq!(diagnosis_of(&traffic), diagnosis_of(&traffic));
}
