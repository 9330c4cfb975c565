//! All kinds of logs, and what is wrong with them.

use tower_claude_planner::{
    demand::PoolDemand,
    plan::{PlanOptions, plan},
    read::{FileReport, Format, ReadError, read},
    record::Record,
    time::Time,
    traffic::{Outcome, Traffic, TrafficBuilder},
};

fn parse(text: &str) -> Result<(FileReport, Vec<Record>), ReadError> {
    let mut records = Vec::new();
    let report = read("log", text.as_bytes(), None, &mut |_, record| {
        records.push(record);
    })?;
    Ok((report, records))
}

fn traffic(logs: &[&str]) -> Traffic {
    let mut builder = TrafficBuilder::new(None);
    for (number, log) in logs.iter().enumerate() {
        let name = format!("log{number}");
        let report = read(&name, log.as_bytes(), None, &mut |line, record| {
            builder.add(line, &record);
        });
        builder.end_file(report.unwrap());
    }
    builder.build().unwrap()
}

fn time(text: &str) -> Time {
    Time::parse(text).unwrap()
}

#[test]
fn examples_of_the_documentation_are_read() {
    let docs = include_str!("../../../docs/planning.md");
    let examples: Vec<&str> = docs
        .split("```json\n")
        .skip(1)
        .filter_map(|rest| rest.split("\n```").next())
        .collect();
    assert_eq!(examples.len(), 4);
    let (report, records) = parse(&examples.join("\n")).unwrap();
    assert_eq!(
        (report.format, report.records, report.skipped),
        (Format::Events, 4, 0)
    );
    assert_eq!(records[0].wait, Some(1.25));
    assert_eq!(
        records[0].limits.unwrap().input_tokens.unwrap().remaining,
        Some(4_995_000)
    );
    assert_eq!(records[3].requests, Some(113));
    // Every field of the table is a field of the record, and the other way round.
    let table: Vec<&str> = docs
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let mut full = serde_json::to_value(&records[0]).unwrap();
    for record in &records {
        let other = serde_json::to_value(record).unwrap();
        full.as_object_mut()
            .unwrap()
            .extend(other.as_object().unwrap().clone());
    }
    for field in full.as_object().unwrap().keys() {
        assert!(table.contains(&field.as_str()), "{field} is not documented");
    }
    let source = include_str!("../src/record.rs");
    let record = source.split("pub struct RecordedLimits").next().unwrap();
    for field in table {
        assert!(
            record.contains(&format!("pub {field}: ")),
            "{field} is no field"
        );
    }
}

#[test]
fn bad_lines_are_skipped_counted_and_named() {
    let log = r#"{"t_start":"2026-11-28T09:00:00Z","input":5}
not json
{"t_start":"2026-11-28T09:00:00","input":5}
{"input":5}
{"t_start":"2026-11-28T09:00:01Z","t_end":"2026-11-28T08:00:00Z"}
{"t_start":"2026-11-28T09:00:02Z","input":-1}
{"t_start":"2026-11-28T09:00:02Z","input":99999999999999}
{"t_start":"2026-11-28T09:00:02Z","sample_rate":0}
{"t_start":"2026-11-28T09:00:02Z","wait":-3}

{"t_start":1795856403.5,"input":7,"note":"unknown fields are ignored"}
{"t_start":"2026-11-28T09:00:04Z","inp"#;
    let (report, records) = parse(log).unwrap();
    assert_eq!((report.lines, report.records, report.skipped), (12, 2, 9));
    assert_eq!(records[1].t_start, time("2026-11-28T09:00:03.5Z"));
    let problems: Vec<(u64, &str)> = report
        .problems
        .iter()
        .map(|problem| (problem.line, &*problem.text))
        .collect();
    assert_eq!(problems[0].0, 2);
    assert!(problems[1].1.contains("no offset"), "{problems:?}");
    assert_eq!(problems[2], (4, "no t_start"));
    assert_eq!(problems[3], (5, "t_end is before t_start"));
    let cut = parse("{\"t_start\":\"2026-11-28T09:00:00Z\"}\n{\"t_st")
        .unwrap()
        .0;
    assert_eq!(cut.problems[0].text, "the line is cut off");
}

#[test]
fn useless_files_are_errors_with_their_reason() {
    let message = |text: &str| parse(text).unwrap_err().to_string();
    assert_eq!(message(""), "log: the file is empty");
    assert_eq!(message("\n \n"), "log: the file is empty");
    assert!(message("hello\nworld").starts_with("log:1: no log of a known kind"));
    assert!(message("\u{0}\u{1}\u{2}").starts_with("log:1: no log of a known kind"));
    assert!(message("{\"a\":1}").starts_with("log:1: no log of a known kind"));
    let nothing = message("{\"t_start\":\"tomorrow\"}");
    assert!(
        nothing.starts_with("log:1: no record in this event log: "),
        "{nothing}"
    );
    let mut bytes = b"{\"t_start\":\"2026-11-28T09:00:00Z\"}\n".to_vec();
    bytes.extend([0xff, 0xfe, b'\n']);
    let report = read("log", &bytes[..], None, &mut |_, _| {}).unwrap();
    assert_eq!(report.problems[0].text, "the line is no UTF-8");
}

#[test]
fn logs_of_both_sdks_are_read() {
    let (report, records) = parse(include_str!("data/sdk-python.log")).unwrap();
    assert_eq!((report.format, records.len()), (Format::SdkLog, 4));
    let statuses: Vec<_> = records
        .iter()
        .map(|record| record.status.unwrap())
        .collect();
    assert_eq!(statuses, [429, 200, 200, 404]);
    let attempts: Vec<_> = records
        .iter()
        .map(|record| record.attempt.unwrap())
        .collect();
    assert_eq!(attempts, [1, 2, 1, 1]);
    assert_eq!(records[0].call, records[1].call);
    assert_eq!(records[0].retry_after, Some(1.0));
    assert_eq!(records[0].t_start, time("2026-11-30T13:14:37Z"));
    assert_eq!(
        records[1].limits.unwrap().requests.unwrap().remaining,
        Some(299)
    );
    assert_eq!(
        records[1].request_id.as_deref(),
        Some("req_011Fake00000000000000001")
    );

    // Times of another zone are corrected by the dates of the responses.
    let shifted = include_str!("data/sdk-python.log").replace("[2026-11-30 13:", "[2026-11-30 18:");
    let (_, shifted) = parse(&shifted).unwrap();
    assert_eq!(shifted[0].t_start, records[0].t_start);

    let (report, records) = parse(include_str!("data/sdk-typescript.log")).unwrap();
    assert_eq!((report.format, records.len()), (Format::SdkLog, 4));
    assert_eq!(records[1].attempt, Some(2));
    assert_eq!(records[0].call, records[1].call);
    assert_eq!((records[1].input, records[1].output), (Some(16), Some(16)));
    assert_eq!(records[3].error_type.as_deref(), Some("not_found_error"));
    assert_eq!(records[0].t_start, time("2026-11-30T13:14:38.971Z"));
}

#[test]
fn access_logs_of_nginx_and_envoy_are_read() {
    let nginx = r#"{"time_iso8601":"2026-11-28T10:12:05+01:00","request":"POST /v1/messages HTTP/1.1","status":200,"request_time":"1.608","request_length":19232,"body_bytes_sent":840,"upstream_http_request_id":"req_1","upstream_http_anthropic_ratelimit_requests_limit":"50"}
{"time_iso8601":"2026-11-28T10:12:06+01:00","request":"GET /health HTTP/1.1","status":200}
{"time_local":"28/Nov/2026:09:12:07 +0000","request":"POST /v1/messages?beta=true HTTP/1.1","status":"429","request_time":0.05}"#;
    let (report, records) = parse(nginx).unwrap();
    assert_eq!(
        (report.format, report.records, report.others),
        (Format::AccessLog, 2, 1)
    );
    assert_eq!(records[0].t_start, time("2026-11-28T09:12:03.392Z"));
    assert_eq!(
        (records[0].input, records[0].output),
        (Some(4_808), Some(210))
    );
    assert_eq!(records[0].estimated, ["input", "output"]);
    assert_eq!(records[0].limits.unwrap().requests.unwrap().limit, Some(50));
    assert_eq!((records[1].status, records[1].output), (Some(429), None));
    let envoy = r#"{"start_time":"2026-11-28T09:12:03.412Z","path":"/v1/messages","response_code":200,"duration":1608,"bytes_received":400,"bytes_sent":80}
{"start_time":"2026-11-28T09:12:03.412Z","path":"/v1/messages/count_tokens","response_code":0}"#;
    let (_, records) = parse(envoy).unwrap();
    assert_eq!(records[0].t_end, Some(time("2026-11-28T09:12:05.020Z")));
    assert_eq!(records[1].endpoint.as_deref(), Some("count_tokens"));
    assert_eq!(records[1].status, None);
}

#[test]
fn usage_reports_are_read_as_sums() {
    let new = r#"{
  "data": [
    {"starting_at": "2026-11-28T09:12:00Z", "ending_at": "2026-11-28T09:13:00Z",
     "group": {"model": "claude-sonnet-5-5", "service_tier": "standard"},
     "usage": {"requests": 60, "uncached_input_tokens": 600, "cache_read_input_tokens": 50,
       "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4},
       "output_tokens": 120}},
    {"starting_at": "2026-11-28T09:12:00Z", "ending_at": "2026-11-28T09:13:00Z",
     "group": {"model": "claude-sonnet-5-5", "service_tier": "batch"}, "usage": {"requests": 1}}
  ],
  "has_more": false, "data_refreshed_at": "2026-11-28T12:00:00Z"
}"#;
    let (report, records) = parse(new).unwrap();
    assert_eq!((report.format, report.records), (Format::Analytics, 2));
    assert_eq!(
        (records[0].requests, records[0].cache_write),
        (Some(60), Some(7))
    );
    assert!(report.notes[0].contains("lower bounds"), "{report:?}");
    assert_eq!(records[1].endpoint.as_deref(), Some("batches"));
    let old = r#"{"data":[{"starting_at":"2026-11-28T09:00:00Z","ending_at":"2026-11-28T10:00:00Z","results":[{"uncached_input_tokens":10,"output_tokens":5,"model":"claude-opus-5-5"}]}],"has_more":false}"#;
    let (report, records) = parse(old).unwrap();
    assert_eq!(records[0].input, Some(10));
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.contains("not for peaks")),
        "{report:?}"
    );

    let traffic = traffic(&[new]);
    let pool = traffic.pools()[0];
    let found = tower_claude_planner::demand::PoolDemand::of(&traffic, pool);
    assert!(found.basis.has_sums && found.basis.calls == 60);
    assert_eq!(found.demand.len(), 60);
    assert_eq!(
        found.demand.iter().map(|demand| demand.input).sum::<u64>(),
        600
    );
    assert_eq!(found.demand[1].at - found.demand[0].at, 1_000_000);
}

#[test]
fn spans_are_read_once_for_a_call_and_its_attempts() {
    let span = |id: &str, parent: &str, state: &str| {
        format!(
            r#"{{"spanId":"{id}","parentSpanId":"{parent}","traceState":"{state}","startTimeUnixNano":"1795857123412000000","endTimeUnixNano":"1795857125020000000","attributes":[
            {{"key":"gen_ai.request.model","value":{{"stringValue":"claude-sonnet-5-5"}}}},
            {{"key":"gen_ai.usage.input_tokens","value":{{"intValue":"100"}}}},
            {{"key":"gen_ai.usage.cache_read.input_tokens","value":{{"intValue":"60"}}}},
            {{"key":"gen_ai.usage.output_tokens","value":{{"intValue":7}}}},
            {{"key":"http.request.resend_count","value":{{"intValue":"1"}}}},
            {{"key":"tower_claude.wait_ms","value":{{"intValue":"250"}}}},
            {{"key":"http.response.status_code","value":{{"intValue":"200"}}}}]}}"#
        )
    };
    let document = |spans: &[String]| {
        let spans = spans.join(",");
        format!(r#"{{"resourceSpans":[{{"resource":{{}},"scopeSpans":[{{"spans":[{spans}]}}]}}]}}"#)
    };
    let log = document(&[span("a", "", ""), span("b", "a", "")]).replace('\n', " ");
    let (report, records) = parse(&log).unwrap();
    assert_eq!(
        (report.format, report.records, report.others),
        (Format::Otlp, 1, 1)
    );
    let record = &records[0];
    assert_eq!(
        (record.input, record.cache_read, record.output),
        (Some(40), Some(60), Some(7))
    );
    assert_eq!(
        (record.attempt, record.call.as_deref()),
        (Some(2), Some("a"))
    );
    assert_eq!(record.t_start, Time(1_795_857_123_162_000));
    let (_, sampled) = parse(&document(&[span("c", "", "ot=th:c")])).unwrap();
    assert_eq!(sampled[0].sample_rate, Some(0.25));
}

#[test]
fn response_heads_are_read() {
    let log = "HTTP/1.1 200 OK\r\ndate: Sat, 28 Nov 2026 09:12:03 GMT\r\nrequest-id: req_1\r\nanthropic-ratelimit-requests-limit: 50\r\nanthropic-ratelimit-requests-remaining: 49\r\n\r\n{\"id\":\"msg\"}\n\
        * Connection\n< HTTP/1.1 429 Too Many Requests\n< date: Sat, 28 Nov 2026 09:12:09 GMT\n< retry-after: 3\n";
    let (report, records) = parse(log).unwrap();
    assert_eq!((report.format, records.len()), (Format::Headers, 2));
    assert_eq!(
        records[0].limits.unwrap().requests.unwrap().remaining,
        Some(49)
    );
    assert_eq!(
        (records[1].status, records[1].retry_after),
        (Some(429), Some(3.0))
    );
}

#[test]
fn duplicates_other_endpoints_and_clocks_are_counted_and_corrected() {
    let first = r#"{"t_start":"2026-11-28T09:00:00Z","request_id":"req_1","status":200,"output":1}
{"t_start":"2026-11-28T09:00:00Z","request_id":"req_1","status":200,"output":1}
{"t_start":"2026-11-28T09:00:01Z","endpoint":"count_tokens","status":200}
{"t_start":"2026-11-28T09:00:02Z","call":"a","attempt":1,"status":529,"request_id":"req_2"}
{"t_start":"2026-11-28T09:00:03Z","call":"a","attempt":1,"status":529,"request_id":"req_3"}"#;
    // This process is 40 s ahead of the server.
    let second = r#"{"t_start":"2026-11-28T09:01:10Z","t_end":"2026-11-28T09:01:11Z","date":"2026-11-28T09:00:30Z","status":200,"process":"worker"}
{"t_start":"2026-11-28T13:01:10Z","t_end":"2026-11-28T13:01:11Z","date":"2026-11-28T13:00:30Z","status":429,"process":"worker","error_code":"enforced_spend_limit_reached"}"#;
    let traffic = traffic(&[first, second]);
    let coverage = &traffic.coverage;
    assert_eq!(
        (
            coverage.duplicates,
            coverage.other_endpoints,
            coverage.records
        ),
        (1, 1, 5)
    );
    assert_eq!(coverage.skews[0].0, "worker");
    assert!(
        (coverage.skews[0].1 - 39.5).abs() < 1.0,
        "{:?}",
        coverage.skews
    );
    let last = traffic.rows.last().unwrap();
    assert_eq!(
        last.start / 1_000_000,
        time("2026-11-28T13:00:30Z").0 / 1_000_000
    );
    assert_eq!(last.outcome, Outcome::SpendLimit);
    assert_eq!(coverage.holes.len(), 1);
    assert!(traffic.place(last).ends_with("log1:2"));
}

#[test]
fn demand_of_a_retried_call_is_one_arrival_with_the_tokens_of_the_answer() {
    let log = r#"{"t_start":"2026-11-28T09:00:00Z","wait":2,"call":"a","attempt":1,"status":429,"model":"claude-sonnet-5-5"}
{"t_start":"2026-11-28T09:00:08Z","call":"a","attempt":2,"status":200,"model":"claude-sonnet-5-5","input":9,"output":4}
{"t_start":"2026-11-28T09:00:09Z","status":429,"model":"claude-sonnet-5-5"}
{"t_start":"2026-11-28T09:00:10Z","call":"b","attempt":1,"status":400,"model":"claude-sonnet-5-5"}"#;
    let traffic = traffic(&[log]);
    let found = tower_claude_planner::demand::PoolDemand::of(&traffic, traffic.pools()[0]);
    assert_eq!(found.demand.len(), 1);
    let demand = found.demand[0];
    assert_eq!(demand.at, time("2026-11-28T09:00:00Z").0);
    assert_eq!((demand.input, demand.output), (9, 4));
    let basis = found.basis;
    assert_eq!(
        (basis.calls, basis.retries, basis.unlinked_failures),
        (1, 1, 1)
    );
    assert!(basis.is_understated());
    assert_eq!(traffic.rows[0].sent - traffic.rows[0].start, 2_000_000);
}

#[test]
fn table_in_csv_is_read() {
    let log = "t_start,input,output,model,status\n2026-11-28T09:00:00Z,5,6,claude-opus-5-5,200\n2026-11-28T09:00:00Z,5\n2026-11-28T09:00:01Z,x,6,claude-opus-5-5,200\n";
    let (report, records) = parse(log).unwrap();
    assert_eq!(
        (report.format, records.len(), report.skipped),
        (Format::Table, 1, 2)
    );
    assert_eq!(report.problems[0].text, "the row is cut off");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400), format in 0..7_usize) {
        let formats = [Format::Events, Format::AccessLog, Format::SdkLog, Format::Analytics, Format::Otlp, Format::Headers, Format::Table];
        let _ = read("log", &bytes[..], None, &mut |_, _| {});
        let _ = read("log", &bytes[..], Some(formats[format]), &mut |_, _| {});
    }

    #[test]
    fn no_damaged_log_panics(at in 0..20_000_usize, length in 0..300_usize, which in 0..2_usize) {
        let log = [include_str!("data/sdk-python.log"), include_str!("data/sdk-typescript.log")][which];
        let mut bytes = log.as_bytes().to_vec();
        let at = at.min(bytes.len());
        let end = (at + length).min(bytes.len());
        bytes.drain(at..end);
        let mut count = 0;
        if let Ok(report) = read("log", &bytes[..], None, &mut |_, _| count += 1) {
            proptest::prop_assert_eq!(report.records, count);
        }
    }
}

#[test]
fn rows_that_an_event_log_has_lost_are_counted_and_are_no_requests() {
    let log = r#"{"t_start":"2026-11-28T09:00:00Z","status":200,"input":5,"output":1}
{"t_start":"2026-11-28T09:00:01Z","t_end":"2026-11-28T09:00:09Z","endpoint":"other","because":"not_logged","process":"a","requests":1234}"#;
    let traffic = traffic(&[log]);
    let coverage = &traffic.coverage;
    assert_eq!(
        (
            coverage.not_logged,
            coverage.records,
            coverage.other_endpoints
        ),
        (1_234, 1, 0)
    );
    let report = plan(&traffic, &PlanOptions::default(), &mut |_, _| {}).unwrap();
    let has_warning = |warning: &String| warning.contains("lost 1,234 rows");
    assert!(report.warnings.iter().any(has_warning), "{report:?}");
}

#[test]
fn absurd_counts_are_skipped_in_every_kind_of_log() {
    let most = u64::MAX;
    let table = format!("t_start,input\n2026-11-28T09:00:00Z,{most}\n2026-11-28T09:00:00Z,1");
    let access = format!(
        "{{\"msec\":1795857123.4,\"status\":200,\"input_tokens\":{most}}}\n{{\"msec\":1795857123.4,\"status\":200,\"input_tokens\":1}}"
    );
    for log in [table, access] {
        let (report, records) = parse(&log).unwrap();
        assert_eq!((report.skipped, records.len()), (1, 1), "{log}");
        assert!(report.problems[0].text.contains("2^40"), "{report:?}");
    }
    let spans = format!(
        r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{"startTimeUnixNano":"1795857123000000000","attributes":[{{"key":"gen_ai.request.model","value":{{"stringValue":"m"}}}},{{"key":"gen_ai.usage.cache_read.input_tokens","value":{{"intValue":"{most}"}}}},{{"key":"gen_ai.usage.cache_creation.input_tokens","value":{{"intValue":"{most}"}}}}]}}]}}]}}]}}"#
    );
    assert!(parse(&spans).unwrap_err().to_string().contains("2^40"));
}

#[test]
fn sums_of_one_period_are_one_demand() {
    let row = |key: &str, input: u64| {
        format!(
            r#"{{"t_start":"2026-11-28T09:12:00Z","t_end":"2026-11-28T09:13:00Z","model":"claude-sonnet-5-5","requests":60,"input":{input},"key":"{key}"}}"#
        )
    };
    let log = [row("a", 600), row("b", 1_800)].join("\n");
    let traffic = traffic(&[&log]);
    let demand = PoolDemand::of(&traffic, traffic.pools()[0]);
    assert_eq!((demand.demand.len(), demand.basis.calls), (60, 120));
    assert!(
        demand
            .demand
            .iter()
            .all(|part| part.limited() == [2_000, 40, 0])
    );
}
