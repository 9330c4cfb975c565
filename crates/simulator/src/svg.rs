//! Charts of the simulation.

use std::fmt::Write as _;

use crate::{
    client::StrategyKind,
    scenario,
    simulation::{Sample, Tally},
};

/// Minutes in a chart.
const MINUTES: usize = 12;
/// Seconds per point.
const STEP: usize = 5;

const WIDTH: f64 = 1_180.0;
const LEFT: f64 = 150.0;
const TOP: f64 = 92.0;
const PLOT: (f64, f64) = (300.0, 74.0);
const GAP: (f64, f64) = (48.0, 36.0);

const SHOWN: [StrategyKind; 7] = [
    StrategyKind::ThisLimiter,
    StrategyKind::ThisLimiterShared,
    StrategyKind::SdkDefault,
    StrategyKind::BackoffForever,
    StrategyKind::FixedBucket,
    StrategyKind::AwsAdaptive,
    StrategyKind::Oracle,
];

/// One of the three plots of a strategy.
struct Plot {
    title: &'static str,
    colour: &'static str,
    points: Vec<f64>,
    /// Maximum of its scale.
    most: f64,
    bars: bool,
}

/// Draws the level of the server's tightest bucket, the admitted requests and the 429s over the
/// first minutes of four saturated processes, for a few strategies one below the other, as an SVG
/// document.
#[must_use]
pub fn picture(seed: u64) -> String {
    let runs: Vec<(StrategyKind, Tally)> = SHOWN
        .into_iter()
        .map(|kind| (kind, scenario::sampled(kind, seed, MINUTES as u64)))
        .collect();
    draw(&runs, seed)
}

fn draw(runs: &[(StrategyKind, Tally)], seed: u64) -> String {
    let height = TOP + runs.len() as f64 * (PLOT.1 + GAP.1) + 30.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"#222\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"20\" y=\"30\" font-size=\"18\" font-weight=\"600\">Four processes, one key, all they can get</text>\n\
         <text x=\"20\" y=\"50\" fill=\"#666\">Simulated: RPM 1000, ITPM 450k, OTPM 90k, 512 workers, seed {seed}; \
         the first {MINUTES} minutes, {STEP} s a point</text>\n"
    );
    for (row, (kind, tally)) in runs.iter().enumerate() {
        let y = TOP + row as f64 * (PLOT.1 + GAP.1);
        text(
            &mut svg,
            20.0,
            y + PLOT.1 / 2.0,
            "start",
            "600",
            kind.name(),
        );
        for (column, plot) in plots(&tally.samples).iter().enumerate() {
            let x = LEFT + column as f64 * (PLOT.0 + GAP.0);
            if row == 0 {
                text(&mut svg, x, y - 12.0, "start", "600", plot.title);
            }
            one(&mut svg, x, y, plot);
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn plots(samples: &[Sample]) -> [Plot; 3] {
    let means = |value: fn(&Sample) -> f64| -> Vec<f64> {
        let steps = samples.chunks(STEP);
        steps
            .map(|step| step.iter().map(value).sum::<f64>() / step.len() as f64)
            .collect()
    };
    let refused = means(|sample| f64::from(sample.refused));
    // The peak of the first half minute would make the rest too small.
    let most = refused.iter().skip(30 / STEP).copied().fold(1.0, f64::max);
    [
        Plot {
            title: "level of the tightest bucket",
            colour: "#1f6fb4",
            points: means(|sample| 100.0 * sample.level),
            most: 100.0,
            bars: false,
        },
        Plot {
            title: "admitted requests a second",
            colour: "#2b8a3e",
            points: means(|sample| f64::from(sample.admitted)),
            most: 12.0,
            bars: false,
        },
        Plot {
            title: "429s a second",
            colour: "#c92a2a",
            points: refused,
            most: most.ceil(),
            bars: true,
        },
    ]
}

fn one(svg: &mut String, x: f64, y: f64, plot: &Plot) {
    let (width, height) = PLOT;
    let bottom = y + height;
    let _ = writeln!(
        svg,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"#f7f7f7\" stroke=\"#ddd\"/>"
    );
    let unit = if plot.most == 100.0 { " %" } else { "" };
    text(
        svg,
        x - 5.0,
        y + 10.0,
        "end",
        "400",
        &format!("{}{unit}", plot.most),
    );
    text(svg, x - 5.0, bottom, "end", "400", "0");
    text(svg, x, bottom + 15.0, "start", "400", "0");
    let minutes = format!("{MINUTES} min");
    text(svg, x + width, bottom + 15.0, "end", "400", &minutes);
    let step = width / (plot.points.len().max(2) - 1) as f64;
    let up = |value: f64| bottom - height * (value / plot.most).clamp(0.0, 1.0);
    let mut path = String::new();
    for (index, value) in plot.points.iter().enumerate() {
        let at = x + index as f64 * step;
        let command = if index == 0 { 'M' } else { 'L' };
        let _ = if plot.bars {
            write!(path, "M{at:.1} {bottom:.1}V{:.1}", up(*value))
        } else {
            write!(path, "{command}{at:.1} {:.1}", up(*value))
        };
    }
    let _ = writeln!(
        svg,
        "<path d=\"{path}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.6\"/>",
        plot.colour
    );
    if plot.bars {
        let all = plot.points.iter().sum::<f64>() * STEP as f64;
        let note = format!("{all:.0} in all");
        text(svg, x + width - 6.0, y + 14.0, "end", "600", &note);
    }
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, weight: &str, words: &str) {
    let size = if weight == "600" { 13 } else { 11 };
    let _ = writeln!(
        svg,
        "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\" font-weight=\"{weight}\" font-size=\"{size}\">{words}</text>"
    );
}
