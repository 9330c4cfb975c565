//! A chart of the costs.

use std::fmt::Write as _;

use super::{
    CacheTable,
    strategy::{STRATEGIES, StrategyKind},
};

const WIDTH: f64 = 900.0;
const LEFT: f64 = 260.0;
const TOP: f64 = 84.0;
const BAR: f64 = 13.0;
const GAP: f64 = 18.0;
/// The greatest cost of the scale.
const MOST: f64 = 1.3;

const fn colour(kind: StrategyKind) -> &'static str {
    match kind {
        StrategyKind::Never => "#adb5bd",
        StrategyKind::Automatic => "#c92a2a",
        StrategyKind::SystemAndAutomatic => "#e8590c",
        StrategyKind::Ours => "#74c0fc",
        StrategyKind::OursWithGate => "#1f6fb4",
    }
}

impl CacheTable {
    /// Draws the costs of all loads and strategies as bars, with the bounds as lines, as an SVG
    /// document.
    #[must_use]
    pub fn picture(&self) -> String {
        let group = BAR * STRATEGIES.len() as f64;
        let height = TOP + self.results.len() as f64 * (group + GAP) + 40.0;
        let scale = (WIDTH - LEFT - 70.0) / MOST;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
             font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"#222\">\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n\
             <text x=\"20\" y=\"30\" font-size=\"18\" font-weight=\"600\">Price of input, as a share of its price without a cache</text>\n\
             <text x=\"20\" y=\"50\" fill=\"#666\">Simulated, worst of {} seeds; a read costs {} of plain input; black: the bound</text>\n",
            self.seeds.len(),
            self.prices.read,
        );
        for (index, kind) in STRATEGIES.into_iter().enumerate() {
            let x = 20.0 + 150.0 * index as f64;
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"60\" width=\"10\" height=\"10\" fill=\"{}\"/><text x=\"{}\" y=\"69\" font-size=\"11\">{}</text>",
                colour(kind),
                x + 15.0,
                kind.name()
            );
        }
        for (row, result) in self.results.iter().enumerate() {
            let y = TOP + row as f64 * (group + GAP);
            let _ = writeln!(
                svg,
                "<text x=\"20\" y=\"{:.1}\">{}</text>",
                y + group / 2.0,
                result.load.name()
            );
            for (index, kind) in STRATEGIES.into_iter().enumerate() {
                let cost = result.cost(self, kind);
                let y = y + BAR * index as f64;
                let width = cost.min(MOST) * scale;
                let _ = writeln!(
                    svg,
                    "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{}\"/>\
                     <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"11\">{cost:.3}</text>",
                    BAR - 2.0,
                    colour(kind),
                    LEFT + width + 5.0,
                    y + BAR - 3.5,
                );
            }
            let x = LEFT + result.bound().min(MOST) * scale;
            let _ = writeln!(
                svg,
                "<path d=\"M{x:.1} {y:.1}V{:.1}\" stroke=\"#000\" stroke-width=\"2\"/>",
                y + group
            );
        }
        svg.push_str("</svg>\n");
        svg
    }
}
