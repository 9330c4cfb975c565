//! Prices, bills and money.

mod common;

use common::text;
use tower_claude_wire::{
    Bill, Billing, Lifecycle, ModelCatalog, Money, Platform, Prices, RateCard, Usage,
};

#[test]
fn prices_agree_with_the_table_of_economics() {
    let table = text("model_economics.csv");
    let mut rows = table.lines().map(fields);
    let header = rows.next().unwrap();
    let column = |row: &[String], name: &str| {
        let at = header.iter().position(|column| column == name).unwrap();
        row[at].clone()
    };
    let nanos = |text: &str| (text.parse::<f64>().unwrap() * 1_000.0).round() as u64;
    let mut checked = 0;
    for row in rows {
        let of = |name: &str| column(&row, name);
        let model = ModelCatalog::builtin().lookup(&of("model_id"));
        if of("lifecycle") == "retired" {
            assert_eq!(model.lifecycle, Lifecycle::Retired, "{}", model.id);
            assert_eq!(
                model.about.retires_on.as_deref(),
                Some(&*of("retired_date"))
            );
            for alias in of("aliases").split("; ").filter(|alias| !alias.is_empty()) {
                let named = ModelCatalog::builtin().lookup(alias);
                assert_eq!(
                    (named.id, named.lifecycle),
                    (model.id.clone(), Lifecycle::Retired)
                );
            }
            continue;
        }
        if of("input_usd_mtok").ends_with('?') {
            assert_eq!(model.about.prices, None, "{}", model.id);
            continue;
        }
        let prices = model.about.prices.as_ref().unwrap();
        let long = of("prompt_tokens_rule").contains('>');
        let card = prices.card(if long { 100_001 } else { 100_000 }, false);
        for (ours, theirs) in [
            (card.input, "input_usd_mtok"),
            (card.output, "output_usd_mtok"),
            (card.cache_write_5m, "cache_write_5m"),
            (card.cache_write_1h, "cache_write_1h"),
            (card.cache_read, "cache_read"),
            (card.input / 2, "batch_input"),
            (card.output / 2, "batch_output"),
        ] {
            assert_eq!(ours, nanos(&of(theirs)), "{}: {theirs}", model.id);
        }
        bill_of_each_kind_of_token(&model.id, long, &of, nanos);
        let fast = prices.fast.map(|card| (card.input, card.output));
        let expected = of("fast_input");
        let expected =
            (!expected.is_empty()).then(|| (nanos(&expected), nanos(&of("fast_output"))));
        assert_eq!(fast, expected, "{}", model.id);
        let us = if of("us_geo_multiplier") == "1.1" {
            110
        } else {
            100
        };
        assert_eq!(prices.us_percent, us, "{}", model.id);
        let group = of("rate_group");
        assert_eq!(
            *model.rate_group,
            *group.trim_end_matches('?'),
            "{}",
            model.id
        );
        assert_eq!(model.context.to_string(), of("context_tokens"));
        assert_eq!(model.max_output.to_string(), of("max_output_tokens"));
        let cached = model.capabilities.min_cache_tokens.unwrap();
        assert_eq!(cached.to_string(), of("cache_min_tokens"), "{}", model.id);
        checked += 1;
    }
    assert_eq!(
        checked, 19,
        "18 models with prices, and two cards of one of them"
    );
    let fast = ModelCatalog::builtin().lookup("claude-fable-5-2");
    let fast = fast.about.prices.as_ref().unwrap().fast.unwrap();
    assert_eq!(
        (fast.cache_write_5m, fast.cache_write_1h, fast.cache_read),
        (20_000, 32_000, 400)
    );
}

/// Returns the fields of a line of comma-separated values.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            _ => fields.last_mut().unwrap().push(c),
        }
    }
    fields
}

/// Checks the bill of each kind of token, and each rule of claude-api.md 5.7, against a row.
fn bill_of_each_kind_of_token(
    model: &str,
    long: bool,
    of: &impl Fn(&str) -> String,
    nanos: impl Fn(&str) -> u64,
) {
    let geo = of("us_geo_multiplier") == "1.1";
    // A prompt that is long by its uncached input only, whose price is subtracted again.
    let base = if long { 100_001 } else { 1_000 };
    let cost = |counts: &str, billing: Billing| {
        let json = format!(r#"{{"input_tokens":{base},{counts}}}"#);
        bill(model, &json, billing).map(|bill| bill.cost.picos())
    };
    let none = r#""output_tokens":0"#;
    let kinds = [
        ("output_tokens", "output_usd_mtok"),
        ("cache_creation_input_tokens", "cache_write_5m"),
        ("cache_read_input_tokens", "cache_read"),
    ];
    let terms = [(false, false), (true, false), (false, true), (true, true)];
    for (us, batch) in terms {
        let billing = Billing::default().with_us(us).with_batch(batch);
        let percent = if us && geo { 110 } else { 100 } * if batch { 50 } else { 100 };
        let expected = |price: u64, tokens: u64| i128::from(price * tokens * percent) / 10;
        let start = cost(none, billing).unwrap();
        assert_eq!(start, expected(nanos(&of("input_usd_mtok")), base));
        for (kind, price) in kinds {
            let counts = match kind {
                "output_tokens" => r#""output_tokens":7"#.to_owned(),
                _ => format!(r#""output_tokens":0,"{kind}":7"#),
            };
            let more = cost(&counts, billing).unwrap() - start;
            assert_eq!(more, expected(nanos(&of(price)), 7), "{model} {kind}");
        }
        let split = r#""output_tokens":0,"cache_creation_input_tokens":7,
            "cache_creation":{"ephemeral_5m_input_tokens":4,"ephemeral_1h_input_tokens":3}"#;
        let (short, hour) = (nanos(&of("cache_write_5m")), nanos(&of("cache_write_1h")));
        let more = cost(split, billing).unwrap() - start;
        assert_eq!(more, expected(short, 4) + expected(hour, 3), "{model}");
        // A search is never multiplied.
        let search = r#""output_tokens":0,"server_tool_use":{"web_search_requests":2}"#;
        let more = cost(search, billing).unwrap() - start;
        assert_eq!(more, 20_000_000_000, "{model}: 2 cents");
    }
    if of("fast_input").is_empty() {
        assert_eq!(cost(none, Billing::default().with_fast(true)), None);
        return;
    }
    let fast = [
        (Billing::default().with_fast(true), none.to_owned()),
        (Billing::default(), format!(r#"{none},"speed":"fast""#)),
    ];
    for (billing, counts) in fast {
        let price = i128::from(nanos(&of("fast_input")) * base) * 1_000;
        assert_eq!(cost(&counts, billing), Some(price), "{model}");
    }
}

fn bill(model: &str, usage: &str, billing: Billing) -> Option<Bill> {
    let usage = Usage::from_usage_object(usage.as_bytes()).unwrap();
    ModelCatalog::builtin().bill(model, &usage, billing)
}

fn cost(model: &str, usage: &str) -> Option<Money> {
    bill(model, usage, Billing::default()).map(|bill| bill.cost)
}

#[test]
fn cost_depends_on_the_length_of_the_whole_prompt() {
    let cost = |usage: &str| cost("claude-haiku-5-5", usage).map(Money::nanos);
    let short = r#"{"input_tokens":1,"cache_read_input_tokens":90000,"cache_creation_input_tokens":9999,"output_tokens":2}"#;
    assert_eq!(cost(short), Some(100 + 90_000 * 10 + 9_999 * 125 + 2 * 500));
    let long = short.replace("9999,", "10000,");
    assert_eq!(
        cost(&long),
        Some(500 + 90_000 * 50 + 10_000 * 625 + 2 * 2_500)
    );
    let most = (1 << 26) - 1;
    let all = format!(r#"{{"input_tokens":{most},"output_tokens":{most}}}"#);
    assert_eq!(cost(&all), Some(most * (500 + 2_500)));
}

#[test]
fn cost_of_an_odd_token_is_not_rounded() {
    // 10 nano-dollars, half of it, and a surcharge of a tenth.
    let read = r#"{"input_tokens":0,"output_tokens":0,"cache_read_input_tokens":1,
        "service_tier":"batch","inference_geo":"us"}"#;
    let cost = cost("claude-haiku-5-5", read).unwrap();
    assert_eq!(cost.picos(), 5_500);
    assert_eq!(cost.to_string(), "$0.0000000055");
    assert_eq!(cost.times(2).nanos(), 11);
}

#[test]
fn cost_follows_what_the_usage_reports() {
    let with = |more: &str, billing| {
        let usage = format!(r#"{{"input_tokens":1000,"output_tokens":0{more}}}"#);
        bill("claude-opus-5-5", &usage, billing).map(|bill| bill.cost.micros())
    };
    let plain = Billing::default();
    let asked = plain.with_fast(true).with_us(true).with_batch(true);
    assert_eq!(with("", plain), Some(4_000));
    assert_eq!(
        with("", asked),
        Some(4_400),
        "fast, half price, a surcharge"
    );
    let ran = r#","speed":"standard","service_tier":"standard","inference_geo":"not_available""#;
    assert_eq!(with(ran, asked), Some(4_000));
    assert_eq!(with(r#","inference_geo":"us""#, plain), Some(4_400));
    assert_eq!(
        with(r#","inference_geo":"global""#, plain.with_us(true)),
        Some(4_000)
    );
    assert_eq!(
        with(r#","speed":null,"service_tier":null"#, plain),
        Some(4_000)
    );
    for unknown in [
        r#","service_tier":"priority""#,
        r#","service_tier":"gold""#,
        r#","speed":"slow""#,
        r#","fallback_credit":{"tokens":5}"#,
    ] {
        assert_eq!(with(unknown, plain), None, "{unknown}");
    }
    assert_eq!(with(r#","fallback_credit":null"#, plain), Some(4_000));
}

#[test]
fn cost_of_an_unknown_price_is_none() {
    let usage = r#"{"input_tokens":1,"output_tokens":1}"#;
    assert!(cost("anthropic/claude-opus-4.8", usage).is_some());
    for model in ["my-model", "claude-opus-9", "claude-mythos-preview", ""] {
        assert_eq!(cost(model, usage), None, "{model}");
    }
    for partial in ["{}", r#"{"input_tokens":1}"#, r#"{"output_tokens":1}"#] {
        assert_eq!(cost("claude-opus-5-5", partial), None, "{partial}");
    }
    for platform in [
        Platform::Bedrock,
        Platform::Vertex,
        Platform::GoogleAnthropic,
    ] {
        let there = Billing::default().with_platform(platform);
        assert_eq!(bill("claude-opus-5-5", usage, there), None);
    }
}

#[test]
fn hour_of_more_tokens_than_were_written_counts_as_all() {
    let usage = r#"{"input_tokens":0,"output_tokens":0,"cache_creation_input_tokens":10,
        "cache_creation":{"ephemeral_1h_input_tokens":99}}"#;
    assert_eq!(
        cost("claude-opus-5-5", usage),
        Some(Money::from_nanos(80_000))
    );
    let unsummed = r#"{"input_tokens":0,"output_tokens":0,
        "cache_creation":{"ephemeral_5m_input_tokens":4,"ephemeral_1h_input_tokens":6}}"#;
    let expected = Money::from_nanos(4 * 5_000 + 6 * 8_000);
    assert_eq!(cost("claude-opus-5-5", unsummed), Some(expected));
}

#[test]
fn savings_of_the_cache_are_negative_without_reads() {
    let of = |usage| bill("claude-opus-5-5", usage, Billing::default()).unwrap();
    let written = of(
        r#"{"input_tokens":0,"output_tokens":9,"cache_creation_input_tokens":1000,
        "server_tool_use":{"web_search_requests":1}}"#,
    );
    assert_eq!(written.cache_savings(), Money::from_micros(-1_000));
    assert_eq!(written.batch_savings(), Money::ZERO);
    let read = of(
        r#"{"input_tokens":5,"output_tokens":9,"cache_read_input_tokens":1000,
        "service_tier":"batch"}"#,
    );
    assert_eq!(read.cache_savings(), Money::from_micros(1_900));
    assert_eq!(read.batch_savings(), read.cost);
    assert_eq!(read.unbatched, read.cost.times(2));
}

#[test]
fn iterations_are_billed_at_the_prices_of_their_models() {
    let iterations = r#"[
        {"type":"message","model":"claude-fable-5","input_tokens":535,"output_tokens":0},
        {"type":"compaction","input_tokens":1000,"output_tokens":100},
        {"type":"unheard_of"},
        {"type":"fallback_message","model":"claude-opus-4-8","input_tokens":412,"output_tokens":264,
         "cache_creation_input_tokens":10,"cache_creation":{"ephemeral_1h_input_tokens":10}}]"#;
    let of = |output: u64, iterations: &str, more: &str| {
        let usage = format!(
            r#"{{"input_tokens":412,"output_tokens":{output},"iterations":{iterations}{more}}}"#
        );
        cost("claude-fable-5", &usage).map(Money::nanos)
    };
    let all = 1_535 * 10_000 + 100 * 50_000 + 412 * 5_000 + 264 * 25_000 + 10 * 10_000;
    assert_eq!(of(264, iterations, ""), Some(all));
    // The list of an earlier event of the stream does not have the last tokens.
    assert_eq!(of(370, iterations, ""), Some(all + 6 * 25_000));
    let us = r#","inference_geo":"us","server_tool_use":{"web_search_requests":3}"#;
    assert_eq!(of(264, iterations, us), Some(all * 11 / 10 + 30_000_000));
    let unknown = iterations.replace("claude-opus-4-8", "claude-opus-9");
    assert_eq!(of(264, &unknown, ""), None);
    let many = format!(
        "[{}]",
        [r#"{"input_tokens":1,"output_tokens":1}"#; 257].join(",")
    );
    assert_eq!(of(264, &many, ""), None, "more than are kept");
    let most = format!(
        "[{}]",
        [r#"{"input_tokens":1,"output_tokens":1}"#; 256].join(",")
    );
    assert_eq!(of(256, &most, ""), Some(256 * 60_000));
}

#[test]
fn iterations_are_each_as_long_as_their_own_prompt() {
    let usage = r#"{"input_tokens":60000,"output_tokens":0,"iterations":[
        {"input_tokens":60000,"output_tokens":0},{"input_tokens":60000,"output_tokens":0}]}"#;
    let cost = cost("claude-haiku-5-5", usage);
    assert_eq!(cost, Some(Money::from_nanos(120_000 * 100)));
}

#[test]
fn own_prices_replace_those_of_the_catalog() {
    let mut prices = Prices::new(RateCard::new(3_200, 16_000));
    prices.platforms = vec![Platform::Bedrock];
    let catalog = ModelCatalog::builtin().clone();
    let dated = "claude-haiku-4-5-20251001";
    let catalog = catalog
        .with_model(dated, ModelCatalog::builtin().lookup(dated))
        .with_prices("claude-haiku-4-5", Some(&prices))
        .with_prices("my-deployment", Some(&prices))
        .with_prices("claude-opus-5-5", None);
    let usage = Usage::from_usage_object(br#"{"input_tokens":10,"output_tokens":1}"#).unwrap();
    let cost = |model: &str, platform| {
        let billing = Billing::default().with_platform(platform);
        let bill = catalog.bill(model, &usage, billing)?;
        Some(bill.cost.nanos())
    };
    for model in ["claude-haiku-4-5", dated, "my-deployment"] {
        assert_eq!(cost(model, Platform::Bedrock), Some(48_000), "{model}");
        assert_eq!(cost(model, Platform::ClaudeApi), None, "{model}");
    }
    assert_eq!(cost("claude-opus-5-5", Platform::ClaudeApi), None);
    assert!(catalog.lookup("my-deployment").known);
}

#[test]
fn price_rules_are_read_from_the_data_file() {
    let catalog = ModelCatalog::from_json(
        r#"{"as_of":"2026-11-29","models":{"m":{"context":1,"max_output":1,"tokenizer":"new",
        "price":{"input":1,"output":2,"cache_write_5m":1,"cache_write_1h":1,"cache_read":1,
        "batch":0.4,"web_search":8,"us_geo":1.25,"platforms":["vertex"]}}}}"#,
    );
    let prices = catalog.unwrap().lookup("m").about.prices.clone().unwrap();
    assert_eq!((prices.batch_percent, prices.us_percent), (40, 125));
    assert_eq!(prices.web_search, 8_000_000);
    assert!(prices.hold_on(Platform::Vertex) && !prices.hold_on(Platform::ClaudeApi));
}

#[test]
fn money_is_written_in_dollars() {
    let text = |picos: i128| Money::from_picos(picos).to_string();
    assert_eq!(text(0), "$0");
    assert_eq!(text(1), "$0.000000000001");
    assert_eq!(text(-1_500_000_000_000), "-$1.5");
    assert_eq!(text(12_000_000_000_000), "$12");
    let money = Money::from_micros(1_995_000);
    assert_eq!(
        format!("{money:.2} {money:.0} {money:.20}"),
        "$2.00 $2 $1.995000000000"
    );
    assert_eq!(format!("{:>8.1}", -money), "   -$2.0");
    assert_eq!(format!("{:.2}", Money::from_micros(-4_999)), "$0.00");
    assert!(!text(i128::MIN).is_empty());
}

#[test]
fn money_saturates_and_rounds_half_away_from_zero() {
    let most = Money::from_picos(i128::MAX);
    assert_eq!(most + most, most);
    assert_eq!(most.times(u64::MAX), most);
    assert_eq!(-most - most - most, Money::from_picos(i128::MIN));
    assert_eq!(-Money::from_picos(i128::MIN), most);
    assert_eq!((most.nanos(), most.micros()), (i64::MAX, i64::MAX));
    assert_eq!((-most).nanos(), i64::MIN);
    let micros = |picos| Money::from_picos(picos).micros();
    assert_eq!([micros(499_999), micros(500_000)], [0, 1]);
    assert_eq!([micros(-499_999), micros(-500_000)], [0, -1]);
    let sum: Money = [Money::from_nanos(3), Money::from_dollars(-1)].iter().sum();
    assert!(sum.is_negative());
    assert_eq!(sum.dollars(), -0.999999997);
}
