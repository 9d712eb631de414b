//! Text to objects: YAML with several documents, JSON, and `List`s.

use std::path::Path;

use serde_json::Value;

use crate::object::{Object, Problem, Source};

/// The objects of one file's text, and what could not be read. No defaults, no validation beyond apiVersion, kind
/// and name being there.
pub fn parse(path: &Path, text: &str) -> (Vec<Object>, Vec<Problem>) {
    let (mut objects, mut problems) = (Vec::new(), Vec::new());
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    for (place, (line, document)) in split(text, is_json).into_iter().enumerate() {
        let source = Source { path: path.to_owned(), document: place + 1, line };
        let parsed = if is_json { from_json(&document, &source) } else { from_yaml(&document, &source) };
        match parsed {
            Ok(value) => take(value, &source, &mut objects, &mut problems),
            Err(problem) => problems.push(problem),
        }
    }
    (objects, problems)
}

/// Documents with the line each begins on. A `---` in the first column always separates documents, as block scalars
/// are indented; it is blanked so that lines still count.
fn split(text: &str, is_json: bool) -> Vec<(usize, String)> {
    if is_json {
        return vec![(1, text.to_owned())];
    }
    let mut documents = vec![(1, String::new())];
    for (place, line) in text.split_inclusive('\n').enumerate() {
        let separator = line
            .strip_prefix("---")
            .filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if let Some(rest) = separator {
            documents.push((place + 1, format!("   {rest}")));
        } else if let Some((_, document)) = documents.last_mut() {
            document.push_str(line);
        }
    }
    documents.retain(|(_, document)| !is_blank(document));
    documents
}

fn is_blank(document: &str) -> bool {
    document.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#') || line == "...")
}

fn from_json(text: &str, source: &Source) -> Result<Value, Problem> {
    serde_json::from_str(text).map_err(|error| {
        let line = error.line().max(1);
        Problem {
            source: Some(Source { line, ..source.clone() }),
            object: None,
            message: format!("no valid JSON: {error}"),
        }
    })
}

fn from_yaml(text: &str, source: &Source) -> Result<Value, Problem> {
    serde_saphyr::from_str(text).map_err(|error| {
        let line =
            error.location().map_or(1, |location| usize::try_from(location.line()).unwrap_or(1)).max(1);
        let source = Source { line: source.line + line - 1, ..source.clone() };
        let message = format!("no valid YAML: {}", first_line(&error.to_string()));
        Problem { source: Some(source), object: None, message }
    })
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// One document: an object, a `List` of objects, or nothing.
fn take(value: Value, source: &Source, objects: &mut Vec<Object>, problems: &mut Vec<Problem>) {
    let is_list = value.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
    match value {
        Value::Null => {}
        Value::Object(mut fields) if is_list && fields.get("items").is_some_and(Value::is_array) => {
            if let Some(Value::Array(items)) = fields.remove("items") {
                for item in items {
                    take(item, source, objects, problems);
                }
            }
        }
        value => match object(value, source) {
            Ok(object) => objects.push(object),
            Err(message) => problems.push(Problem { source: Some(source.clone()), object: None, message }),
        },
    }
}

fn object(json: Value, source: &Source) -> Result<Object, String> {
    let text = |pointer: &str| json.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
    let need = |pointer: &str, field: &str| {
        text(pointer)
            .map(str::to_owned)
            .ok_or_else(|| format!("{field} is missing: every Kubernetes object needs it"))
    };
    let (api_version, kind) = (need("/apiVersion", "apiVersion")?, need("/kind", "kind")?);
    let name = need("/metadata/name", &format!("{kind}: metadata.name"))?;
    let namespace = text("/metadata/namespace").map(str::to_owned);
    Ok(Object { api_version, kind, namespace, name, json, source: source.clone() })
}
