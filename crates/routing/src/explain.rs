//! Why a request is decided as it is: every match of a table in order of precedence, with why each lost.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, Method, Uri};

use crate::query::first_value;
use crate::rule::CompiledRule;
use crate::table::{Criterion, Failed, HttpTable, Request, header_value};

/// One match of one rule and what became of it.
#[derive(Clone, Debug)]
pub struct Candidate<'t> {
    /// The rule.
    pub rule: &'t Arc<CompiledRule>,
    /// The match's place in the rule, from 0.
    pub matched: usize,
    /// What became of it.
    pub verdict: Verdict,
}

/// What became of a match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It decides.
    Selected,
    /// It holds, but the selected one stands before it.
    Outranked(Criterion),
    /// It is a GRPCRoute's and the request is no gRPC.
    NotGrpc,
    /// The path is another.
    Path,
    /// The method is not this.
    Method {
        /// What it must be.
        expected: String,
    },
    /// The header is missing or other.
    Header {
        /// Its name.
        name: String,
        /// What came.
        found: Option<String>,
    },
    /// The query parameter is missing or other.
    QueryParam {
        /// Its name.
        name: String,
        /// What came.
        found: Option<String>,
    },
}

impl HttpTable {
    /// Every match in order of precedence with its verdict. Looks at all of them: for people, not for traffic.
    pub fn explain(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Vec<Candidate<'_>> {
        let request = Request::new(method, uri, headers);
        let admitted = self.admits_protocol(&request);
        let mut selected = None;
        self.entries
            .iter()
            .map(|entry| {
                let verdict = match (admitted, entry.conditions.check(&request), selected) {
                    (false, _, _) => Verdict::NotGrpc,
                    (true, Err(failed), _) => of_failed(failed, &request),
                    (true, Ok(()), Some(winner)) => Verdict::Outranked(entry.rank.criterion(winner)),
                    (true, Ok(()), None) => {
                        selected = Some(&entry.rank);
                        Verdict::Selected
                    }
                };
                Candidate { rule: &entry.rule, matched: entry.rank.place(), verdict }
            })
            .collect()
    }
}

fn of_failed(failed: Failed<'_>, request: &Request<'_>) -> Verdict {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    match failed {
        Failed::Path => Verdict::Path,
        Failed::Method(expected) => Verdict::Method { expected: expected.to_string() },
        Failed::Header(name) => Verdict::Header {
            name: name.to_string(),
            found: header_value(request.headers, name).map(|value| text(&value)),
        },
        Failed::Query(name) => Verdict::QueryParam {
            name: name.to_string(),
            found: first_value(request.query, name).map(|value| text(&value)),
        },
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = |found: &Option<String>| {
            found.as_ref().map_or_else(|| "is missing".to_owned(), |v| format!("is {v:?}"))
        };
        match self {
            Self::Selected => f.write_str("selected"),
            Self::Outranked(criterion) => {
                write!(f, "matches, but stands after the selected one by {criterion}")
            }
            Self::NotGrpc => f.write_str("the request is not gRPC"),
            Self::Path => f.write_str("the path does not match"),
            Self::Method { expected } => write!(f, "the method is not {expected}"),
            Self::Header { name, found: value } => write!(f, "header {name} {}", found(value)),
            Self::QueryParam { name, found: value } => write!(f, "query parameter {name} {}", found(value)),
        }
    }
}

impl fmt::Display for Criterion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PathType => "path type",
            Self::PathLength => "path length",
            Self::Method => "method match",
            Self::Headers => "number of header matches",
            Self::QueryParams => "number of query parameter matches",
            Self::Age => "route age",
            Self::Name => "route name",
            Self::RuleOrder => "rule order",
        })
    }
}
