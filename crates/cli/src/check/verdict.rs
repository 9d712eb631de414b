//! What a check says.

use serde::Serialize;

use crate::cluster::Fact;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// Good to know.
    Info,
    /// Works, but not as it may be meant.
    Warning,
    /// Does not work.
    Error,
}

impl Severity {
    /// As printed.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// Kind, namespace and name; empty when it is about the cluster.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) object: String,
    pub(crate) message: String,
}

/// What was found; nothing if all is well; or why it could not be looked for.
pub(crate) type Verdict = Fact<Vec<Finding>>;

/// A finding of the severity.
pub(crate) fn finding(severity: Severity, object: impl Into<String>, message: impl Into<String>) -> Finding {
    Finding { severity, object: object.into(), message: message.into() }
}

/// What does not work.
pub(crate) fn error(object: impl Into<String>, message: impl Into<String>) -> Finding {
    finding(Severity::Error, object, message)
}

/// What is perhaps not meant.
pub(crate) fn warning(object: impl Into<String>, message: impl Into<String>) -> Finding {
    finding(Severity::Warning, object, message)
}

/// What is good to know.
pub(crate) fn info(object: impl Into<String>, message: impl Into<String>) -> Finding {
    finding(Severity::Info, object, message)
}
