//! Finds the entries whose path can match without looking at the others: by hash for exact paths and prefixes,
//! by one combined automaton for many expressions.

use ahash::AHashMap;
use regex::bytes::{RegexSet, RegexSetBuilder};

use super::conditions::{Expected, PathCondition, grpc_parts};
use super::expression::anchored;

/// Fewer expressions than this are quicker tried one by one.
const SET_FROM: usize = 8;

/// Places of entries by path. Every bucket is in order of precedence, and so are the buckets of one path.
#[derive(Debug, Default)]
pub(super) struct Index {
    exact: Buckets,
    grpc_service: Buckets,
    grpc_method: Buckets,
    regex: Vec<usize>,
    /// Of the same expressions as `regex`, if they are many and all of them compile.
    regex_set: Option<RegexSet>,
    /// By prefix without trailing `/`.
    prefix: Buckets,
    /// Bytes of the longest prefix: longer pieces of a path need no look.
    longest_prefix: usize,
}

type Buckets = AHashMap<Box<str>, Vec<usize>>;

impl Index {
    /// Indexes the entries' path conditions, given in order of precedence.
    pub(super) fn build<'a>(paths: impl Iterator<Item = &'a PathCondition>) -> Self {
        let mut index = Self::default();
        let mut expressions = Vec::new();
        for (place, path) in paths.enumerate() {
            match path {
                PathCondition::Exact(value) => push(&mut index.exact, value, place),
                PathCondition::Prefix(prefix) => {
                    index.longest_prefix = index.longest_prefix.max(prefix.len());
                    push(&mut index.prefix, prefix, place);
                }
                PathCondition::Regex(expression) => {
                    index.regex.push(place);
                    expressions.push(expression.compiled.is_some().then(|| anchored(&expression.text)));
                }
                PathCondition::Grpc(service, method) => match (service, method) {
                    (Expected::Exact(s), Expected::Exact(m)) => {
                        push(&mut index.exact, &format!("/{s}/{m}"), place);
                    }
                    (Expected::Exact(service), Expected::Anything) => {
                        push(&mut index.grpc_service, service, place);
                    }
                    (Expected::Anything, Expected::Exact(method)) => {
                        push(&mut index.grpc_method, method, place);
                    }
                    _ => {
                        index.regex.push(place);
                        expressions.push(None);
                    }
                },
            }
        }
        if expressions.len() >= SET_FROM {
            // One that is no plain expression, or a set grown too large: then one by one.
            let all: Option<Vec<String>> = expressions.into_iter().collect();
            index.regex_set = all.and_then(|all| RegexSetBuilder::new(all).size_limit(16 << 20).build().ok());
        }
        index
    }

    /// The first entry, in order of precedence, for which `admits` gives something. `admits` gets the entry's place
    /// and whether its path is already known to match.
    pub(super) fn first<T>(&self, path: &str, mut admits: impl FnMut(usize, bool) -> Option<T>) -> Option<T> {
        if let Some(found) = first_of(&self.exact, path, &mut admits) {
            return Some(found);
        }
        if let Some(found) = self.first_grpc(path, &mut admits) {
            return Some(found);
        }
        if let Some(found) = self.first_regex(path, &mut admits) {
            return Some(found);
        }
        self.first_prefix(path, &mut admits)
    }

    fn first_grpc<T>(&self, path: &str, admits: &mut impl FnMut(usize, bool) -> Option<T>) -> Option<T> {
        if self.grpc_service.is_empty() && self.grpc_method.is_empty() {
            return None;
        }
        let (service, method) = grpc_parts(path)?;
        first_of(&self.grpc_service, service, admits).or_else(|| first_of(&self.grpc_method, method, admits))
    }

    fn first_regex<T>(&self, path: &str, admits: &mut impl FnMut(usize, bool) -> Option<T>) -> Option<T> {
        match &self.regex_set {
            Some(set) => set
                .matches(path.as_bytes())
                .iter()
                .find_map(|place| self.regex.get(place).and_then(|&entry| admits(entry, true))),
            None => self.regex.iter().find_map(|&entry| admits(entry, false)),
        }
    }

    /// From the whole path to shorter and shorter pieces that end before a `/`, down to the empty one.
    fn first_prefix<T>(&self, path: &str, admits: &mut impl FnMut(usize, bool) -> Option<T>) -> Option<T> {
        let mut piece = path;
        loop {
            if piece.len() <= self.longest_prefix
                && let Some(found) = first_of(&self.prefix, piece, admits)
            {
                return Some(found);
            }
            if piece.is_empty() {
                return None;
            }
            piece = piece.rfind('/').and_then(|end| piece.get(..end)).unwrap_or("");
        }
    }
}

fn push(buckets: &mut Buckets, key: &str, place: usize) {
    buckets.entry(key.into()).or_default().push(place);
}

fn first_of<T>(buckets: &Buckets, key: &str, admits: &mut impl FnMut(usize, bool) -> Option<T>) -> Option<T> {
    buckets.get(key)?.iter().find_map(|&entry| admits(entry, true))
}
