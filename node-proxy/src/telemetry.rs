//! Telemetry: one [`Outcome`] per request or connection makes the access-log line and the counters.

/// What became of one request or connection.
#[derive(Debug, Default)]
pub struct Outcome {}

/// Counters and the access log.
#[derive(Debug, Default)]
pub struct Telemetry {}
