//! Recorded events.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tower_claude_core::event::{Event, Observer};

/// A function that returns the line of an event, or `None` for an event that is not recorded.
pub type LineOf = fn(&Event<'_>) -> Option<String>;

/// An observer that records each event as a line. Clones share the lines.
#[derive(Clone, Debug)]
pub struct EventLog {
    line_of: LineOf,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Default for EventLog {
    fn default() -> Self {
        Self::new(summary)
    }
}

impl EventLog {
    /// Returns an empty log with this format. The default format is [`summary`].
    #[must_use]
    pub fn new(line_of: LineOf) -> Self {
        Self {
            line_of,
            lines: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns all lines.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lock().clone()
    }

    /// Removes and returns all lines.
    #[must_use]
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lock())
    }

    /// Removes all lines, and returns the lines that contain this text.
    #[must_use]
    pub fn take_of(&self, text: &str) -> Vec<String> {
        let mut lines = self.take();
        lines.retain(|line| line.contains(text));
        lines
    }

    /// Returns the number of lines that equal this text.
    #[must_use]
    pub fn count(&self, text: &str) -> usize {
        self.lock().iter().filter(|line| *line == text).count()
    }
}

impl Observer for EventLog {
    fn on_event(&self, event: &Event<'_>) {
        if let Some(line) = (self.line_of)(event) {
            self.lock().push(line);
        }
    }
}

/// Returns the line of an event: its layer and its decision. `None` for the end of an attempt and
/// of a call and for a settled estimate, which every call has.
#[must_use]
pub fn summary(event: &Event<'_>) -> Option<String> {
    Some(match event {
        Event::Admitted { layer, .. } => format!("{layer} admitted"),
        Event::Queued { layer, .. } => format!("{layer} queued"),
        Event::Abandoned { layer, because, .. } => format!("{layer} abandoned: {because}"),
        Event::AttemptEnded(_) | Event::CallEnded(_) | Event::Settled { .. } => return None,
        Event::Rejected { layer, .. } => format!("{layer} refused"),
        Event::Paused { layer, .. } => format!("{layer} paused"),
        Event::Inactive { layer, because } => format!("{layer} inactive {because}"),
        Event::Headroom { layer, .. } => format!("{layer} headroom"),
        Event::Threshold { layer, .. } => format!("{layer} threshold"),
        Event::LimitDiffers { layer, .. } => format!("{layer} limit_differs"),
        Event::Retry { layer, class, .. } => format!("{layer} retry {}", class.kind.as_str()),
        Event::GaveUp { layer, because, .. } => format!("{layer} gave up: {because}"),
        Event::Broken { layer, class, .. } => format!("{layer} broken {}", class.kind.as_str()),
        Event::UsageCapped { layer, .. } => format!("{layer} usage_capped"),
        Event::Unauthorized { layer, .. } => format!("{layer} unauthorized"),
        Event::CircuitOpened { layer, .. } => format!("{layer} opened"),
        Event::CircuitProbe { layer, .. } => format!("{layer} probe"),
        Event::CircuitClosed { layer, .. } => format!("{layer} closed"),
        Event::FellBack { layer, to, .. } => format!("{layer} to {to}"),
        Event::Cache {
            layer, decision, ..
        } => format!("{layer} {}", decision.as_str()),
        other => format!("{other:?}"),
    })
}
