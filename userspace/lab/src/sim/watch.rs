//! What the code under test logs, caught as it happens.

use std::cell::RefCell;
use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// One log event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// How bad.
    pub level: Level,
    /// Message and fields.
    pub text: String,
}

thread_local! {
    static LINES: RefCell<Vec<LogLine>> = const { RefCell::new(Vec::new()) };
}

struct Collector {
    verbose: bool,
}

/// Runs `f` with all that this thread logs kept for [`take`]: warnings and errors, with `verbose` debug
/// messages too.
pub fn watch<T>(verbose: bool, f: impl FnOnce() -> T) -> T {
    take();
    let done = tracing::subscriber::with_default(Collector { verbose }, f);
    take();
    done
}

/// What was logged on this thread since the last call.
pub fn take() -> Vec<LogLine> {
    LINES.with_borrow_mut(std::mem::take)
}

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let most = if self.verbose {
            Level::DEBUG
        } else {
            Level::WARN
        };
        *metadata.level() <= most
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let line = LogLine {
            level: *event.metadata().level(),
            text: text.message + &text.fields,
        };
        LINES.with_borrow_mut(|lines| lines.push(line));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = write!(self.fields, " {}={value}", field.name());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_caught_and_whispers_only_when_asked_for() {
        for (verbose, lines) in [(false, 1), (true, 2)] {
            let seen = watch(verbose, || {
                tracing::debug!("a whisper");
                tracing::warn!(peer = "x", n = 3, "a cry");
                take()
            });
            assert_eq!(seen.len(), lines);
            let last = seen.last().unwrap();
            assert_eq!(last.level, Level::WARN);
            assert_eq!(last.text, "a cry peer=x n=3");
        }
        assert!(take().is_empty());
    }
}
