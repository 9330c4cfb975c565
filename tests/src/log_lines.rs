//! Recorded lines of `tracing`.

use std::{
    fmt::{self, Write as _},
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use tokio::time::Instant;
use tracing::{
    Dispatch, Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
    subscriber::{DefaultGuard, Interest, set_default},
};

/// The lines that the layers log, in the format of `tracing-subscriber`, each with the time since
/// the start of the log. Clones share the lines.
#[derive(Clone, Debug)]
pub struct LogLines {
    level: Level,
    start: Instant,
    lines: Arc<Mutex<Vec<String>>>,
}

impl LogLines {
    /// Records the lines of this thread up to this level, while the guard lives.
    #[must_use]
    pub fn start(level: Level) -> (Self, DefaultGuard) {
        let log = Self {
            level,
            start: Instant::now(),
            lines: Arc::default(),
        };
        let guard = set_subscriber(log.clone());
        (log, guard)
    }

    /// Removes and returns all lines.
    #[must_use]
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lines.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Subscriber for LogLines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "tower_claude" && *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level.into())
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let Fields { message, fields } = fields;
        let (time, level) = (self.start.elapsed().as_secs_f64(), event.metadata().level());
        let line = format!("{time:6.1}s {level:5} {message}{fields}");
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(line);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Sets the subscriber of this thread, while the guard lives.
///
/// While a process has one subscriber, `tracing` asks only the thread that reaches a place in the
/// code first whether the place is enabled, and keeps the answer. If that is the thread of another
/// test, which has no subscriber, the place stays disabled. Two subscribers are never one, so this
/// function leaves a second one behind, which records nothing.
#[must_use]
pub fn set_subscriber(subscriber: impl Subscriber + Send + Sync + 'static) -> DefaultGuard {
    static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(Second));
    LazyLock::force(&SECOND);
    set_default(subscriber)
}

/// A subscriber that is interested in every place, but in no thread.
struct Second;

impl Subscriber for Second {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        false
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The message and the fields of one line.
#[derive(Default)]
struct Fields {
    message: String,
    fields: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
        written.expect("a string takes all");
    }
}
