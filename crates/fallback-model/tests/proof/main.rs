//! Every ordered pair of models, with every parameter and every combination of parameters that
//! interact. An API with an independent table rejects the request before the rewrite and accepts it
//! after, and nothing else has changed.

mod cases;
mod diff;
mod judge;

use std::collections::BTreeMap;

use bytes::Bytes;
use cases::Case;
use diff::{differences, object, order, raw};
use judge::Judge;
use serde_json::Value;
use tower_claude_fallback_model::{Losses, RewriteOptions, Rewritten, Unportable, Why};
use tower_claude_wire::{Lifecycle, ModelCatalog};

#[derive(Clone, Copy, Default, Debug)]
struct Count {
    /// Taken by the target as it is.
    portable: u32,
    /// Of these, with a default made explicit or a pointless field taken out.
    said_more: u32,
    /// Rejected before and taken after.
    rewritten: u32,
    /// Rightly refused.
    unportable: u32,
    losses: u32,
}

fn models() -> Vec<String> {
    let served = |model: &&tower_claude_wire::Model| model.lifecycle != Lifecycle::Retired;
    let catalog = ModelCatalog::builtin();
    let mut ids: Vec<String> = catalog
        .models()
        .filter(served)
        .map(|m| m.id.to_string())
        .collect();
    ids.sort();
    ids
}

fn rewrite(
    options: &RewriteOptions,
    case: &Case,
    from: &str,
    to: &str,
) -> Result<Rewritten, Unportable> {
    let catalog = ModelCatalog::builtin();
    options.rewrite(&case.headers(), &case.body(from), from, to, catalog)
}

struct Proof {
    judge: Judge,
    counts: BTreeMap<(String, String), Count>,
}

impl Proof {
    fn new() -> Self {
        Self {
            judge: Judge::new(),
            counts: BTreeMap::new(),
        }
    }

    async fn pair(&mut self, case: &Case, from: &str, to: &str) {
        let what = || {
            format!(
                "{from} -> {to}, {}: {}",
                case.version,
                text(&case.body(from))
            )
        };
        let before = self.judge.judge(&case.headers(), &case.body(to)).await;
        let count = *self
            .counts
            .entry((from.to_owned(), to.to_owned()))
            .or_default();
        let mut count = count;
        match rewrite(&RewriteOptions::new(), case, from, to) {
            Ok(rewritten) => {
                let after = self.judge.judge(&rewritten.headers, &rewritten.body).await;
                assert_eq!(after, Ok(()), "{}\n{}", what(), text(&rewritten.body));
                self.nothing_else(case, from, to, &rewritten, &what);
                let needed = |why| !matches!(why, Why::Default | Why::Pointless);
                let needed = rewritten.losses.iter().any(|loss| needed(loss.why));
                if before.is_ok() {
                    assert!(
                        !needed,
                        "{}: lost without need: {:?}",
                        what(),
                        rewritten.losses
                    );
                    count.portable += 1;
                    count.said_more += u32::from(!rewritten.losses.is_empty());
                } else {
                    assert!(!rewritten.losses.is_empty(), "{}", what());
                    count.rewritten += 1;
                    self.each_is_needed(case, &rewritten, &what).await;
                }
                count.losses += rewritten.losses.len() as u32;
            }
            Err(unportable) => {
                assert!(before.is_err(), "{}: {unportable}", what());
                self.rightly(case, to, &unportable, &what).await;
                count.unportable += 1;
                let all = RewriteOptions::new()
                    .with_forced_tool_choice_lost(true)
                    .with_inference_geo_lost(true);
                if let Ok(rewritten) = rewrite(&all, case, from, to) {
                    let after = self.judge.judge(&rewritten.headers, &rewritten.body).await;
                    assert_eq!(after, Ok(()), "{}", what());
                    self.nothing_else(case, from, to, &rewritten, &what);
                    let lost = rewritten
                        .losses
                        .iter()
                        .find(|loss| loss.field == unportable.field);
                    assert_eq!(
                        lost.map(|loss| loss.why),
                        Some(Why::Unsupported),
                        "{}",
                        what()
                    );
                } else {
                    assert!(
                        ["messages", "tools"].contains(&&*unportable.field),
                        "{}",
                        what()
                    );
                }
            }
        }
        self.counts.insert((from.to_owned(), to.to_owned()), count);
    }

    /// The losses are the exact difference; all other fields keep their bytes and their order.
    fn nothing_else(
        &self,
        case: &Case,
        from: &str,
        to: &str,
        new: &Rewritten,
        what: &dyn Fn() -> String,
    ) {
        let (headers, body) = (case.headers(), case.body(from));
        let (mut old, mut others) = (headers.clone(), new.headers.clone());
        old.insert("content-length", new.body.len().into());
        for headers in [&mut old, &mut others] {
            headers.remove("anthropic-beta");
        }
        assert_eq!(old, others, "{}", what());
        if new.losses.is_empty() {
            let swapped = text(&body).replace(&format!("\"{from}\""), &format!("\"{to}\""));
            assert_eq!(text(&new.body), swapped, "{}", what());
            let beta = |headers: &http::HeaderMap| headers.get("anthropic-beta").cloned();
            assert_eq!(beta(&headers), beta(&new.headers), "{}", what());
            return;
        }
        let found = differences((&headers, &body), (&new.headers, &new.body));
        let mut told: Vec<diff::Difference> = new
            .losses
            .iter()
            .map(|loss| {
                let value = |json: &Option<Bytes>| {
                    let json = json.as_ref()?;
                    Some(match loss.field {
                        "anthropic-beta" => Value::String(text(json)),
                        _ => serde_json::from_slice(json).unwrap(),
                    })
                };
                (loss.field.to_owned(), value(&loss.asked), value(&loss.sent))
            })
            .collect();
        told.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(told, found, "{}\n{}", what(), text(&new.body));

        let (asked, sent) = (raw(&body), raw(&new.body));
        let changed = |key: &str| {
            let is = |field: &str| {
                field == key || key == "output_config" && field.starts_with("output_config.")
            };
            key == "model" || new.losses.iter().any(|loss| is(loss.field))
        };
        for (key, value) in &asked {
            if !changed(key) {
                let kept = sent.get(key).map(|kept| kept.get());
                assert_eq!(kept, Some(value.get()), "{}: {key}", what());
            }
        }
        for key in ["messages", "system", "tools"] {
            assert!(!changed(key), "{}: {key}", what());
        }
        assert_eq!(object(&new.body)["model"], to);
        let kept = |keys: Vec<String>| {
            keys.into_iter()
                .filter(|key| asked.contains_key(key) && sent.contains_key(key))
        };
        let (old_order, new_order): (Vec<_>, Vec<_>) = (
            kept(order(&body)).collect(),
            kept(order(&new.body)).collect(),
        );
        assert_eq!(old_order, new_order, "{}", what());
    }

    /// Each field that was asked and not sent as asked: with it put back, the target rejects the
    /// request.
    async fn each_is_needed(&mut self, case: &Case, new: &Rewritten, what: &dyn Fn() -> String) {
        let lost_thinking = is_lost(&new.losses, "thinking");
        for loss in &new.losses {
            let Some(asked) = &loss.asked else { continue };
            // A lowered effort is all that is left of thinking that was not wanted; `fallbacks` are
            // the client's now.
            let is_trace = loss.field == "output_config.effort"
                && loss.why == Why::Translated
                && lost_thinking;
            if loss.why == Why::Pointless || is_trace {
                continue;
            }
            let mut body = object(&new.body);
            let asked: Value = serde_json::from_slice(asked).unwrap();
            match loss.field.split_once('.') {
                Some((outer, inner)) => {
                    let outer = body
                        .entry(outer)
                        .or_insert_with(|| Value::Object(Default::default()));
                    outer[inner] = asked;
                }
                None => {
                    body.insert(loss.field.to_owned(), asked);
                }
            }
            let body = Bytes::from(Value::Object(body).to_string());
            let put_back = self.judge.judge(&case.headers(), &body).await;
            assert!(
                put_back.is_err(),
                "{}: {} was lost without need",
                what(),
                loss.field
            );
        }
    }

    /// Checks that the target rejects an unportable field alone.
    async fn rightly(
        &mut self,
        case: &Case,
        to: &str,
        unportable: &Unportable,
        what: &dyn Fn() -> String,
    ) {
        let field = &*unportable.field;
        assert!(case.has(field), "{}: {field}", what());
        let alone = case.only(&[field]);
        let verdict = self.judge.judge(&alone.headers(), &alone.body(to)).await;
        assert!(verdict.is_err(), "{}: {field} would be taken", what());
    }
}

fn is_lost(losses: &Losses, field: &str) -> bool {
    losses
        .iter()
        .any(|loss| loss.field == field && loss.sent.is_none())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn prove(name: &str, cases: &[Case]) {
    let mut proof = Proof::new();
    let models = models();
    for from in &models {
        let mut sane = Vec::new();
        for case in cases {
            // What the original rejects never gets as far as a fallback.
            if proof
                .judge
                .judge(&case.headers(), &case.body(from))
                .await
                .is_ok()
            {
                sane.push(case);
            }
        }
        assert!(sane.len() > 10, "{from}");
        for to in &models {
            for case in &sane {
                proof.pair(case, from, to).await;
            }
        }
    }
    let mut all = Count::default();
    for ((from, to), count) in &proof.counts {
        all.portable += count.portable;
        all.said_more += count.said_more;
        all.rewritten += count.rewritten;
        all.unportable += count.unportable;
        all.losses += count.losses;
        if from.contains("sonnet") && to.contains("haiku") {
            println!("{name}: {from} -> {to}: {count:?}");
        }
    }
    let pairs = proof.counts.len();
    assert_eq!(pairs, models.len() * models.len());
    println!(
        "{name}: {} models, {pairs} pairs, {} cases: {all:?}, {} verdicts",
        models.len(),
        cases.len(),
        proof.judge.asked
    );
    assert!(all.portable > 0 && all.rewritten > 0 && all.unportable > 0);
}

#[tokio::test(start_paused = true)]
async fn every_parameter_alone_is_rewritten_exactly() {
    prove("alone", &cases::alone()).await;
}

#[tokio::test(start_paused = true)]
async fn every_combination_of_interacting_parameters_is_rewritten_exactly() {
    // A debug build takes ten times as long for each case. No parameter has a multiple of five
    // values, so that all values occur.
    let step = if cfg!(debug_assertions) { 5 } else { 1 };
    let cases: Vec<_> = cases::together().into_iter().step_by(step).collect();
    prove("together", &cases).await;
}
