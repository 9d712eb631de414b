//! One CNI configuration file, as text: `weft-cni` put in as the last plugin, taken out again, and a single plugin's
//! file turned into a list. Bytes that are not ours stay as they are.

use std::ops::Range;

use serde_json::{Map, Value, json};

use super::json;

/// Our plugin's type, which is the name of its binary.
pub(super) const TYPE: &str = "weft-cni";
/// In a list that we made from a single plugin's file: the name of that file.
pub(super) const SOURCE: &str = "weft-mesh.dev/source";

/// Versions of configurations that `weft-cni` can be called with.
const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Why a file cannot be chained into.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ConflistError {
    /// No JSON, or not of the form of a configuration.
    #[error("it is no CNI configuration: {0}")]
    Malformed(String),
    /// Too old.
    #[error(
        "its cniVersion is {0:?}, and weft-cni needs 0.3.1, 0.4.0, 1.0.0 or 1.1.0: have the cluster's CNI write one of these"
    )]
    Version(String),
}

/// What is to be there of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry(Value);

impl Entry {
    pub(super) fn new(socket: &str, timeout: u64, exempt: &[&str], log_file: &str) -> Self {
        let mut fields = Map::new();
        fields.insert("type".into(), TYPE.into());
        fields.insert("agentSocket".into(), socket.into());
        fields.insert("timeout".into(), timeout.into());
        fields.insert("excludeNamespaces".into(), json!(exempt));
        // A runtime takes a failing STATUS for the whole node's network being down and starts no pod at all, not even
        // the proxy that STATUS would wait for.
        fields.insert("statusChecksProxy".into(), false.into());
        if !log_file.is_empty() {
            fields.insert("logFile".into(), log_file.into());
        }
        Self(Value::Object(fields))
    }
}

/// A configuration list.
#[derive(Debug)]
struct List<'a> {
    text: &'a str,
    elements: Vec<(Range<usize>, Value)>,
}

impl<'a> List<'a> {
    fn read(text: &'a str) -> Result<Self, ConflistError> {
        let whole = object(text)?;
        let no_plugins = || ConflistError::Malformed("it has no plugins".into());
        let plugins = whole.get("plugins").and_then(Value::as_array).ok_or_else(no_plugins)?;
        let places = json::elements(text, "plugins").ok_or_else(no_plugins)?;
        let elements: Vec<_> = places.into_iter().zip(plugins.iter().cloned()).collect();
        let typed = |value: &Value| value.get("type").and_then(Value::as_str).is_some_and(|t| !t.is_empty());
        if !elements.iter().any(|(_, value)| !is_ours(value)) {
            return Err(ConflistError::Malformed("it has no plugin but weft-cni".into()));
        }
        if !elements.iter().all(|(_, value)| typed(value)) {
            return Err(ConflistError::Malformed("a plugin has no type".into()));
        }
        Ok(Self { text, elements })
    }

    /// The text without our entries.
    fn without_ours(&self) -> String {
        let mut kept = String::with_capacity(self.text.len());
        let mut from = 0;
        let mut before: Option<usize> = None;
        for (place, (range, value)) in self.elements.iter().enumerate() {
            if !is_ours(value) {
                before = Some(range.end);
                continue;
            }
            // With the comma before it, or, for the first one, the comma behind it.
            let next = self.elements.get(place + 1).map(|(next, _)| next.start);
            let (start, end) = match (before, next) {
                (Some(before), _) => (before, range.end),
                (None, Some(next)) => (range.start, next),
                (None, None) => (range.start, range.end),
            };
            kept.push_str(self.text.get(from..start).unwrap_or_default());
            from = end;
        }
        kept.push_str(self.text.get(from..).unwrap_or_default());
        kept
    }
}

fn object(text: &str) -> Result<Map<String, Value>, ConflistError> {
    match serde_json::from_str(text) {
        Ok(Value::Object(whole)) => Ok(whole),
        Ok(_) => Err(ConflistError::Malformed("it is no object".into())),
        Err(error) => Err(ConflistError::Malformed(error.to_string())),
    }
}

fn is_ours(plugin: &Value) -> bool {
    plugin.get("type").and_then(Value::as_str) == Some(TYPE)
}

/// Is there an entry of ours in it?
#[cfg(test)]
pub(super) fn has_ours(text: &str) -> bool {
    List::read(text).is_ok_and(|list| list.elements.iter().any(|(_, value)| is_ours(value)))
}

/// The name of the file that a list of our own making was made from.
pub(super) fn source_of(text: &str) -> Option<String> {
    object(text).ok()?.get(SOURCE)?.as_str().map(str::to_owned)
}

/// The list with our entry as its last plugin; `None`: it is so already.
///
/// # Errors
/// When it cannot be chained into.
pub(super) fn chain(text: &str, entry: &Entry) -> Result<Option<String>, ConflistError> {
    let list = List::read(text)?;
    check_version(&object(text)?)?;
    let count = list.elements.iter().filter(|(_, value)| is_ours(value)).count();
    if count == 1 && list.elements.last().is_some_and(|(_, value)| *value == entry.0) {
        return Ok(None);
    }
    let plain = list.without_ours();
    let Some(places) = json::elements(&plain, "plugins") else {
        return Err(ConflistError::Malformed("it has no plugins".into()));
    };
    let Some(last) = places.last() else {
        return Err(ConflistError::Malformed("it has no plugins".into()));
    };
    // As the list's last plugin stands behind what is before it, ours stands behind that one.
    let before = plain.get(..last.start).unwrap_or_default();
    let gap = before.len() - before.trim_end().len();
    let gap = before.get(before.len() - gap..).unwrap_or_default();
    let (head, tail) = (plain.get(..last.end).unwrap_or_default(), plain.get(last.end..).unwrap_or_default());
    Ok(Some(format!("{head},{gap}{}{tail}", entry.0)))
}

/// The list without our entry, to the byte as it was before; `None`: there is none.
pub(super) fn unchain(text: &str) -> Option<String> {
    let list = List::read(text).ok()?;
    list.elements.iter().any(|(_, value)| is_ours(value)).then(|| list.without_ours())
}

/// A list of one plugin's file, with our entry.
///
/// # Errors
/// When it cannot be chained into.
pub(super) fn of_single(text: &str, source: &str, entry: &Entry) -> Result<String, ConflistError> {
    let plugin = object(text)?;
    let field = |name: &str| plugin.get(name).cloned();
    if plugin.get("type").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Err(ConflistError::Malformed("it has no type".into()));
    }
    check_version(&plugin)?;
    let mut list = Map::new();
    list.insert("cniVersion".into(), field("cniVersion").unwrap_or_default());
    list.insert("name".into(), field("name").unwrap_or_else(|| "weft".into()));
    list.insert(SOURCE.into(), source.into());
    list.insert("plugins".into(), json!([plugin, entry.0]));
    serde_json::to_string_pretty(&list)
        .map(|text| text + "\n")
        .map_err(|error| ConflistError::Malformed(error.to_string()))
}

fn check_version(whole: &Map<String, Value>) -> Result<(), ConflistError> {
    let version = whole.get("cniVersion").and_then(Value::as_str).unwrap_or_default();
    if VERSIONS.contains(&version) { Ok(()) } else { Err(ConflistError::Version(version.to_owned())) }
}

#[cfg(test)]
mod tests;
