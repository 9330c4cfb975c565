//! Requests in flight, and the comparison of a client's levels with the server's.

use tower_claude_fake_claude::model::GaugeSet;

use crate::client::LevelEstimate;

/// Tolerated error of the client's correction of its estimates.
const ESTIMATE_ERROR: f64 = 0.05;

/// Requests in flight between all clients and the server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct InFlightCost {
    /// Requests without a decision of the server, or whose rejection has not reached the client.
    pub(super) sent: f64,
    /// Their estimated input.
    pub(super) asked: f64,
    /// Estimated input, and input charged by the server, of admitted requests whose head has not
    /// reached the client.
    pub(super) charged: f64,
    pub(super) counted: f64,
}

impl InFlightCost {
    /// Returns the difference between the client's levels and the expected ones, beyond the
    /// tolerance.
    ///
    /// The expected levels are the server's, less the charges that the client has made and the
    /// server has not. The tolerance allows for the client's own correction of estimates.
    /// `produced` is the output whose end has not reached the client.
    pub(super) fn drift(
        &self,
        gauges: &GaugeSet,
        produced: f64,
        believed: &LevelEstimate,
    ) -> [f64; 3] {
        let expected = [
            gauges.requests.level as f64 - self.sent,
            gauges.input_tokens.level as f64 - (self.asked + self.charged - self.counted),
            gauges.output_tokens.level as f64 + produced - believed.outstanding_output as f64,
        ];
        let unsure = [
            // Both levels are rounded down.
            1.0,
            (self.asked + self.charged) * ESTIMATE_ERROR,
            0.0,
        ];
        std::array::from_fn(|index| {
            (believed.levels[index] as f64 - expected[index]).abs() - unsure[index]
        })
    }
}
