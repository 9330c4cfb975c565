//! The state in one sentence: the limit that binds, and when it is full.

use std::time::Duration;

use serde::Serialize;
use tower_claude::core::{
    alert::{Alert, Severity},
    toolkit::ReadableDuration,
};

use super::{
    circuits::CircuitState,
    forecast::Forecast,
    incidents::Level,
    models::ModelState,
    scopes::{Limit, ScopeState},
};

/// The share of a limit from which its use is high, as in the alerts.
const HIGH: f64 = 0.8;

/// The longest time to the end of a limit that is worth a warning.
const SOON: u64 = 3_600;

/// The state in one sentence.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Verdict {
    pub(super) level: Level,
    pub(super) text: String,
}

impl Verdict {
    fn new(level: Level, text: String) -> Self {
        Self { level, text }
    }
}

/// The facts that a verdict is made of.
pub(super) struct Facts<'a> {
    pub(super) draining: bool,
    /// The requests of the last minute.
    pub(super) requests: u64,
    pub(super) scopes: &'a [ScopeState],
    pub(super) circuits: &'a [CircuitState],
    pub(super) models: &'a [ModelState],
    pub(super) alerts: &'a [Alert],
}

/// Returns the most urgent fact.
pub(super) fn verdict(facts: &Facts<'_>) -> Verdict {
    let &Facts {
        draining,
        requests,
        scopes,
        circuits,
        models,
        alerts,
    } = facts;
    if draining {
        let text = "The gateway is shutting down and lets open requests end.".to_owned();
        return Verdict::new(Level::Warning, text);
    }
    let critical = alerts
        .iter()
        .find(|alert| alert.kind.severity() == Severity::Critical);
    if let Some(alert) = critical {
        return Verdict::new(Level::Bad, format!("{}.", alert.message));
    }
    let limits = || {
        let all = scopes.iter();
        all.flat_map(|scope| scope.limits.iter().map(move |limit| (scope, limit)))
    };
    let is_full = |limit: &Limit| limit.binds && limit.forecast == Forecast::Full;
    let full = limits()
        .filter(|(_, limit)| is_full(limit))
        .max_by(|(a, _), (b, _)| a.waiting().1.total_cmp(&b.waiting().1));
    if let Some((scope, limit)) = full {
        let name = name(scope, limit);
        let (waiting, wait) = scope.waiting();
        if waiting == 0 {
            let text = format!("The limit of {name} is reached. The next requests may wait.");
            return Verdict::new(Level::Warning, text);
        }
        let wait = readable(wait);
        let text = format!(
            "The limit of {name} is used up: {waiting} waiting, a new request waits about {wait}."
        );
        return Verdict::new(Level::Bad, text);
    }
    if let Some(scope) = scopes.iter().find(|scope| scope.paused > 0.0) {
        let pause = readable(scope.paused);
        let text = format!("{}: after a 429 nothing is sent for {pause}.", scope.name);
        return Verdict::new(Level::Bad, text);
    }
    if let Some(scope) = scopes.iter().find(|scope| scope.waiting().0 > 0) {
        let ((waiting, wait), name) = (scope.waiting(), &scope.name);
        let wait = readable(wait);
        let text = format!("{name}: {waiting} waiting, a new request waits about {wait}.");
        return Verdict::new(Level::Warning, text);
    }
    if let Some(circuit) = circuits.iter().find(|circuit| circuit.state == "open") {
        let mut text = format!("{} is down: its circuit is open", circuit.name);
        let stand_in = models.iter().find(|model| {
            circuit.name.ends_with(&model.asked) && !["", &model.asked].contains(&&*model.served)
        });
        match stand_in {
            Some(model) => text.push_str(&format!(", and {} answers.", model.served)),
            None => text.push_str(", and requests are rejected."),
        }
        return Verdict::new(Level::Warning, text);
    }
    let soonest = limits()
        .filter_map(|(scope, limit)| match limit.forecast {
            Forecast::In(seconds) if seconds <= SOON => Some((seconds, scope, limit)),
            _ => None,
        })
        .min_by_key(|(seconds, ..)| *seconds);
    if let Some((seconds, scope, limit)) = soonest {
        let after = ReadableDuration(Duration::from_secs(seconds));
        let (name, percent) = (name(scope, limit), 100.0 * limit.share);
        let text = format!("The limit of {name} is full in about {after}, now at {percent:.0} %.");
        return Verdict::new(Level::Warning, text);
    }
    let fullest = limits().max_by(|(_, a), (_, b)| a.share.total_cmp(&b.share));
    match fullest {
        Some((scope, limit)) if requests > 0 => {
            let (name, percent) = (name(scope, limit), 100.0 * limit.share);
            if limit.share > HIGH {
                let text = format!("The limit of {name} is at {percent:.0} %.");
                return Verdict::new(Level::Warning, text);
            }
            let text =
                format!("All limits have headroom. The fullest is {name} at {percent:.0} %.");
            Verdict::new(Level::Good, text)
        }
        _ if requests > 0 => Verdict::new(Level::Good, "No limit is known yet.".to_owned()),
        _ => Verdict::new(Level::Good, "No requests in the last minute.".to_owned()),
    }
}

fn name(scope: &ScopeState, limit: &Limit) -> String {
    format!("{} of {}", limit.dimension, scope.name)
}

fn readable(seconds: f64) -> ReadableDuration {
    ReadableDuration(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dashboard::scopes::Queue;

    fn limit(dimension: &'static str, share: f64, forecast: Forecast) -> Limit {
        Limit {
            dimension,
            limit: 100,
            unit: "a minute",
            left: 50,
            capacity: 100,
            used: (100.0 * share) as u64,
            share,
            trend: vec![share],
            forecast,
            learned: true,
            binds: true,
        }
    }

    fn scope(name: &str, queued: usize, limits: Vec<Limit>) -> ScopeState {
        ScopeState {
            name: name.to_owned(),
            in_flight: 1,
            paused: 0.0,
            queues: vec![Queue {
                priority: "normal",
                queued,
                wait: 4.0,
            }],
            limits,
        }
    }

    fn of(scopes: &[ScopeState]) -> (Level, String) {
        with(scopes, &[], &[])
    }

    fn with(
        scopes: &[ScopeState],
        circuits: &[CircuitState],
        models: &[ModelState],
    ) -> (Level, String) {
        let verdict = verdict(&Facts {
            draining: false,
            requests: 9,
            scopes,
            circuits,
            models,
            alerts: &[],
        });
        (verdict.level, verdict.text)
    }

    #[test]
    fn limit_that_is_full_and_has_waiting_requests_comes_first() {
        let growing = limit("requests", 0.9, Forecast::In(60));
        let full = limit("output tokens", 1.0, Forecast::Full);
        let (level, text) = of(&[scope("a", 0, vec![growing]), scope("b", 3, vec![full])]);
        assert_eq!(level, Level::Bad);
        let wanted = "The limit of output tokens of b is used up: 3 waiting, a new request waits \
                      about 4 s.";
        assert_eq!(text, wanted);
    }

    #[test]
    fn limit_that_fills_soonest_is_named_with_its_time() {
        let later = limit("requests", 0.5, Forecast::In(1_200));
        let soon = limit("input tokens", 0.7, Forecast::In(300));
        let (level, text) = of(&[scope("a", 0, vec![later, soon])]);
        assert_eq!(level, Level::Warning);
        assert_eq!(
            text,
            "The limit of input tokens of a is full in about 5 min, now at 70 %."
        );
    }

    #[test]
    fn pause_after_a_429_and_a_queue_without_a_full_limit_are_named_as_such() {
        let limit = || vec![limit("requests", 0.3, Forecast::Steady)];
        let mut paused = scope("a", 2, limit());
        paused.paused = 7.0;
        let (level, text) = of(&[paused]);
        assert_eq!(level, Level::Bad);
        assert_eq!(text, "a: after a 429 nothing is sent for 7 s.");
        let (level, text) = of(&[scope("a", 2, limit())]);
        assert_eq!(level, Level::Warning);
        assert_eq!(text, "a: 2 waiting, a new request waits about 4 s.");
    }

    #[test]
    fn late_forecast_is_no_warning() {
        let late = limit("requests", 0.3, Forecast::In(7_000));
        let (level, text) = of(&[scope("a", 0, vec![late])]);
        assert_eq!(level, Level::Good);
        assert_eq!(
            text,
            "All limits have headroom. The fullest is requests of a at 30 %."
        );
    }

    #[test]
    fn open_circuit_comes_before_a_forecast() {
        let soon = limit("requests", 0.7, Forecast::In(300));
        let circuit = CircuitState {
            name: "messages/claude-sonnet-5-5".to_owned(),
            state: "open",
        };
        let scopes = [scope("a", 0, vec![soon])];
        let of = |served: &str| ModelState {
            asked: "claude-sonnet-5-5".to_owned(),
            served: served.to_owned(),
            calls: 3,
        };
        let models = [of(""), of("claude-sonnet-5-5"), of("claude-haiku-5-5")];
        let text = |models| with(&scopes, std::slice::from_ref(&circuit), models).1;
        let down = "messages/claude-sonnet-5-5 is down: its circuit is open, and ";
        assert_eq!(text(&models), format!("{down}claude-haiku-5-5 answers."));
        assert_eq!(text(&models[..2]), format!("{down}requests are rejected."));
    }
}
