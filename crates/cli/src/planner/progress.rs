//! The progress bar of long replays. It is drawn on a terminal only.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The steps of a bar.
const STEPS: f64 = 1_000.0;

/// A progress bar on the standard error.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Starts a bar.
    pub(super) fn start() -> Self {
        // At most ten times a second. It is hidden if the standard error is no terminal.
        let target = ProgressDrawTarget::stderr_with_hz(10);
        let bar = ProgressBar::with_draw_target(Some(STEPS as u64), target);
        if let Ok(style) = ProgressStyle::with_template("{msg:20} [{bar:40}] {percent:>3} %") {
            bar.set_style(style.progress_chars("=> "));
        }
        Self(bar)
    }

    /// Returns a bar that is never drawn.
    pub(super) fn none() -> Self {
        Self(ProgressBar::hidden())
    }

    /// Begins to read a file of this many bytes.
    pub(super) fn read(&self, name: &str, bytes: u64) {
        let name = name.rsplit('/').next().unwrap_or(name);
        self.0.set_message(format!(
            "read {}",
            name.chars().take(14).collect::<String>()
        ));
        self.0.set_length(bytes.max(1));
        self.0.set_position(0);
    }

    /// Adds bytes that were read.
    pub(super) fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// Shows a step, and the share of the whole that is done.
    pub(super) fn step(&self, name: &str, share: f64) {
        self.0.set_length(STEPS as u64);
        self.0.set_message(name.to_owned());
        self.0.set_position((share.clamp(0.0, 1.0) * STEPS) as u64);
    }

    /// Removes the bar.
    pub(super) fn end(&self) {
        self.0.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
