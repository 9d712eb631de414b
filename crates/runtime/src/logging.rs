//! Logging: text for people or JSON for machines, on standard error; what is logged can be changed while running.

use std::io::IsTerminal as _;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, fmt, reload};

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Changes what is logged while the process runs.
#[derive(Clone, Debug)]
pub struct Level {
    filter: reload::Handle<EnvFilter, Registry>,
}

/// Directives that make no sense, or logging that was set up before.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The directives cannot be read.
    #[error(
        "{directives:?} says not what to log: write error, warn, info, debug or trace, \
         or directives such as info,weft_proxy::agent=debug ({cause})"
    )]
    Directives {
        /// What was given.
        directives: String,
        /// What is wrong with it.
        cause: String,
    },
    /// Somebody in this process has set logging up already.
    #[error("logging is set up twice in one process")]
    Twice,
}

/// Sets the process's logging up, once. `directives`: a level, or `tracing-subscriber`'s filter directives.
///
/// # Errors
/// For directives that cannot be read, and when logging is set up already.
pub fn init(directives: &str, format: Format) -> Result<Level, LoggingError> {
    let (filter, handle) = reload::Layer::new(parse(directives)?);
    let output = fmt::layer().with_writer(std::io::stderr);
    let output = match format {
        Format::Text => output.with_ansi(std::io::stderr().is_terminal()).boxed(),
        Format::Json => {
            output.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
    };
    tracing_subscriber::registry().with(filter).with(output).try_init().map_err(|_| LoggingError::Twice)?;
    Ok(Level { filter: handle })
}

impl Level {
    /// Logs by these directives from now on.
    ///
    /// # Errors
    /// For directives that cannot be read; nothing has changed then.
    pub fn set(&self, directives: &str) -> Result<(), LoggingError> {
        let filter = parse(directives)?;
        self.filter.reload(filter).map_err(|error| wrong(directives, &error))
    }

    /// The directives in force.
    pub fn directives(&self) -> String {
        self.filter.with_current(ToString::to_string).unwrap_or_default()
    }
}

fn parse(directives: &str) -> Result<EnvFilter, LoggingError> {
    let builder = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into());
    builder.parse(directives).map_err(|error| wrong(directives, &error))
}

fn wrong(directives: &str, cause: &dyn std::fmt::Display) -> LoggingError {
    LoggingError::Directives { directives: directives.to_owned(), cause: cause.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_read_and_nonsense_is_refused() {
        for directives in ["info", "debug", "info,weft_proxy::agent=debug", ""] {
            assert!(parse(directives).is_ok(), "{directives}");
        }
        let error = parse("info,=,=x").unwrap_err().to_string();
        assert!(error.contains("error, warn, info"), "{error}");
    }

    #[test]
    fn level_changes_while_running_and_nonsense_leaves_it() {
        let level = init("info", Format::Json).unwrap();
        assert!(!tracing::enabled!(tracing::Level::DEBUG));
        level.set("debug").unwrap();
        assert!(tracing::enabled!(tracing::Level::DEBUG));
        assert!(level.set("info,=,=x").is_err());
        assert_eq!(level.directives(), "debug");
        assert!(matches!(init("info", Format::Text), Err(LoggingError::Twice)));
    }
}
