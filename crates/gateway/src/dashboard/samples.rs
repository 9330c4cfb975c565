//! The last ten minutes of the metrics, for rates and trends.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

/// The time between two samples.
pub(super) const TICK: Duration = Duration::from_secs(2);

/// The number of samples that are kept: those of ten minutes.
const KEPT: usize = 301;

/// The ticks of a minute.
const MINUTE: usize = 30;

/// The ticks between two points of a trend.
const STEP: usize = 5;

/// The time between two points of a trend in seconds.
pub(super) const STEP_SECONDS: f64 = 10.0;

/// The metrics that are sampled.
const METRICS: [&str; 11] = [
    "tower_claude_charged_total",
    "tower_claude_responses_total",
    "tower_claude_retries_total",
    "tower_claude_refused_total",
    "tower_claude_cache_total",
    "tower_claude_cost_nanodollars_total",
    "tower_claude_level",
    "tower_claude_capacity",
    "tower_claude_circuit_state",
    "gen_ai_client_inference_duration_count",
    "gen_ai_client_inference_usage_cache_read_input_tokens",
];

/// The samples of all series of [`METRICS`].
#[derive(Debug, Default)]
pub(super) struct Samples {
    /// By the text of the series, for example `name{label="value"}`.
    series: HashMap<Box<str>, Series>,
    /// The number of samples that were taken and are kept.
    count: usize,
}

/// The samples of one series, the newest last. A series begins when it is first seen, before which
/// it counts as 0.
#[derive(Debug)]
pub(super) struct Series {
    metric: &'static str,
    labels: Vec<(Box<str>, Box<str>)>,
    values: VecDeque<f64>,
}

impl Samples {
    /// Takes a sample from a page of metrics in the text format of Prometheus.
    pub(super) fn record(&mut self, page: &str) {
        self.count = (self.count + 1).min(KEPT);
        for line in page.lines() {
            let Some((name, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let Ok(value) = value.parse() else {
                continue;
            };
            if let Some(series) = self.series.get_mut(name) {
                series.push(value);
            } else if let Some(mut series) = Series::parse(name) {
                series.push(value);
                self.series.insert(name.into(), series);
            }
        }
    }

    /// Returns all series of a metric, in no order.
    pub(super) fn of(&self, metric: &'static str) -> impl Iterator<Item = &Series> {
        let all = self.series.values();
        all.filter(move |series| series.metric == metric)
    }

    /// Returns the series with these values of labels.
    pub(super) fn find(&self, metric: &'static str, labels: &[(&str, &str)]) -> Option<&Series> {
        self.of(metric).find(|series| {
            labels
                .iter()
                .all(|(name, value)| series.label(name) == *value)
        })
    }

    /// Returns the increase of a counter in the last minute, over all series that `is_wanted`
    /// returns true for.
    pub(super) fn last_minute(
        &self,
        metric: &'static str,
        is_wanted: impl Fn(&Series) -> bool,
    ) -> f64 {
        let wanted = self.of(metric).filter(|series| is_wanted(series));
        wanted.map(Series::last_minute).sum()
    }

    /// Returns the ticks of the points of a trend, as the number of ticks before the newest sample,
    /// the oldest point first.
    pub(super) fn points(&self) -> impl Iterator<Item = usize> {
        let count = self.count.saturating_sub(1) / STEP;
        (0..=count).rev().map(|point| point * STEP)
    }
}

impl Series {
    /// Parses the text of a series. `None` for a metric that is not sampled.
    fn parse(text: &str) -> Option<Self> {
        let (name, labels) = text.split_once('{').unwrap_or((text, ""));
        let metric = METRICS.into_iter().find(|metric| *metric == name)?;
        Some(Self {
            metric,
            labels: parse_labels(labels),
            values: VecDeque::new(),
        })
    }

    fn push(&mut self, value: f64) {
        if self.values.len() >= KEPT {
            self.values.pop_front();
        }
        self.values.push_back(value);
    }

    /// Returns the value of a label, or an empty text.
    pub(super) fn label(&self, name: &str) -> &str {
        let found = self.labels.iter().find(|(label, _)| **label == *name);
        found.map_or("", |(_, value)| value)
    }

    /// Returns the value so many ticks before the newest sample.
    pub(super) fn at(&self, ago: usize) -> f64 {
        let index = self.values.len().checked_sub(1 + ago);
        index.map_or(0.0, |index| self.values[index])
    }

    /// Returns the newest value.
    pub(super) fn last(&self) -> f64 {
        self.at(0)
    }

    /// Returns the increase in the minute that ended so many ticks before the newest sample.
    pub(super) fn minute_until(&self, ago: usize) -> f64 {
        (self.at(ago) - self.at(ago + MINUTE)).max(0.0)
    }

    /// Returns the increase in the last minute.
    pub(super) fn last_minute(&self) -> f64 {
        self.minute_until(0)
    }

    /// Returns the increase between the point of a trend before and this one.
    pub(super) fn step_until(&self, ago: usize) -> f64 {
        (self.at(ago) - self.at(ago + STEP)).max(0.0)
    }
}

/// Parses `name="value",…}`. A value has the escapes `\\`, `\"` and `\n`.
fn parse_labels(text: &str) -> Vec<(Box<str>, Box<str>)> {
    let mut labels = Vec::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once("=\"") {
        let mut value = String::new();
        let mut chars = after.chars();
        while let Some(char) = chars.next() {
            match char {
                '"' => break,
                '\\' => match chars.next() {
                    Some('n') => value.push('\n'),
                    Some(char) => value.push(char),
                    None => break,
                },
                char => value.push(char),
            }
        }
        labels.push((name.trim_start_matches(',').into(), value.into()));
        rest = chars.as_str();
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(requests: u32) -> String {
        format!(
            "# TYPE tower_claude_charged_total counter\n\
             tower_claude_charged_total{{scope=\"a \\\"b\\\\\",dimension=\"requests\"}} {requests}\n\
             tower_claude_unknown{{scope=\"a\"}} 7\n\
             tower_claude_cache_total{{outcome=\"hit\"}} 1\n\nnot a line"
        )
    }

    #[test]
    fn labels_are_read_with_their_escapes() {
        let mut samples = Samples::default();
        samples.record(&page(1));
        assert_eq!(samples.series.len(), 2);
        let series = samples.of("tower_claude_charged_total").next().unwrap();
        assert_eq!(series.label("scope"), "a \"b\\");
        assert_eq!(series.label("dimension"), "requests");
        assert_eq!(series.label("missing"), "");
        assert!(
            samples
                .find("tower_claude_cache_total", &[("outcome", "miss")])
                .is_none()
        );
    }

    #[test]
    fn counter_counts_from_zero_before_it_is_seen() {
        let mut samples = Samples::default();
        samples.record("");
        samples.record(&page(5));
        assert_eq!(
            samples.last_minute("tower_claude_charged_total", |_| true),
            5.0
        );
    }

    #[test]
    fn minute_and_steps_are_windows_of_the_samples() {
        let mut samples = Samples::default();
        for requests in 0..400 {
            samples.record(&page(requests));
        }
        let series = samples.of("tower_claude_charged_total").next().unwrap();
        assert_eq!(series.values.len(), KEPT);
        assert_eq!(series.last_minute(), 30.0);
        assert_eq!(series.minute_until(10), 30.0);
        assert_eq!(series.step_until(0), 5.0);
        let points: Vec<_> = samples.points().collect();
        assert_eq!(points.len(), 61);
        assert_eq!((points[0], points[60]), (300, 0));
    }
}
