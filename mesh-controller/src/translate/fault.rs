//! What is wrong with a route, in the API's own reasons and in words for the user.

use std::collections::BTreeSet;

use weft_model::route::Refusal;
use weft_model::{ObjectName, Text};

/// Why a rule cannot be carried out: reasons of the condition `Accepted` (RouteConditionReason of the Gateway API).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultReason {
    /// `UnsupportedValue`.
    UnsupportedValue,
    /// `IncompatibleFilters`.
    IncompatibleFilters,
}

impl FaultReason {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::UnsupportedValue => "UnsupportedValue",
            Self::IncompatibleFilters => "IncompatibleFilters",
        }
    }
}

/// A part of a rule that cannot be carried out: the rule refuses what it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) reason: FaultReason,
    pub(crate) message: String,
}

impl Fault {
    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self { reason: FaultReason::UnsupportedValue, message: message.into() }
    }

    pub(crate) fn refusal(&self) -> Refusal {
        Refusal { message: Text::from(self.message.as_str()) }
    }
}

/// Reasons of the condition `ResolvedRefs` being false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnresolvedReason {
    /// `InvalidKind`.
    InvalidKind,
    /// `BackendNotFound`.
    BackendNotFound,
    /// `UnsupportedProtocol`.
    UnsupportedProtocol,
    /// `RefNotPermitted`.
    RefNotPermitted,
}

impl UnresolvedReason {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidKind => "InvalidKind",
            Self::BackendNotFound => "BackendNotFound",
            Self::UnsupportedProtocol => "UnsupportedProtocol",
            Self::RefNotPermitted => "RefNotPermitted",
        }
    }
}

/// A backendRef that cannot be used: its share of the requests is answered with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unresolved {
    pub(crate) reason: UnresolvedReason,
    pub(crate) message: String,
}

/// What references were found to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct References {
    pub(crate) unresolved: Vec<Unresolved>,
    /// The XBackends that are named and may be, whether they can be used or not.
    pub(crate) xbackends: BTreeSet<ObjectName>,
}

/// A rule that refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefusingRule {
    /// Its place in the route, from 0.
    pub(crate) index: usize,
    pub(crate) name: Option<String>,
    pub(crate) fault: Fault,
}

/// Everything found while the rules of one route were converted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// How many rules the route has.
    pub(crate) rules: usize,
    pub(crate) refusing: Vec<RefusingRule>,
    pub(crate) references: References,
}

impl Findings {
    /// Notes what one rule came to, and gives the refusal to publish with it.
    pub(crate) fn rule(&mut self, name: Option<&str>, fault: Option<Fault>) -> Option<Refusal> {
        let index = self.rules;
        self.rules += 1;
        let fault = fault?;
        let refusal = fault.refusal();
        self.refusing.push(RefusingRule { index, name: name.map(str::to_owned), fault });
        Some(refusal)
    }
}
