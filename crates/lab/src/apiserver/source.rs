//! The user's folder, and the controller's of what it made for Gateways: every `.yaml`, `.yml` and `.json` file in it, document by document.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::report::RejectedObject;

/// One object and where it stands.
pub(crate) struct Document {
    pub(crate) file: PathBuf,
    /// Line of the document's first line, from 1.
    pub(crate) line: usize,
    pub(crate) object: Value,
    /// The controller made it, for a Gateway.
    pub(crate) made: bool,
}

impl Document {
    pub(crate) fn place(&self) -> String {
        format!("{}:{}", self.file.display(), self.line)
    }
}

/// The file part of `FILE:LINE`.
pub(crate) fn file_of(place: &str) -> Option<PathBuf> {
    place.rsplit_once(':').map(|(file, _)| PathBuf::from(file))
}

/// The folder's content, and a value that changes when it changes.
pub(crate) struct Content {
    files: Vec<(PathBuf, io::Result<String>)>,
    pub(crate) fingerprint: u64,
}

/// Reads all files below the folder.
pub(crate) fn read(folder: &Path) -> io::Result<Content> {
    let mut paths = Vec::new();
    collect(folder, &mut paths)?;
    paths.sort();
    let files: Vec<_> = paths
        .into_iter()
        .map(|p| {
            let text = fs::read_to_string(&p);
            (p, text)
        })
        .collect();
    let mut hasher = DefaultHasher::new();
    for (path, text) in &files {
        path.hash(&mut hasher);
        text.as_ref().ok().hash(&mut hasher);
    }
    Ok(Content { files, fingerprint: hasher.finish() })
}

fn collect(folder: &Path, out: &mut Vec<PathBuf>) -> io::Result<()> {
    if folder.is_file() {
        out.push(folder.to_path_buf());
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        if path.is_dir() {
            collect(&path, out)?;
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
            out.push(path);
        }
    }
    Ok(())
}

impl Content {
    /// Every document of the folder of what the controller made, which it writes whole.
    pub(crate) fn made(&self) -> Vec<Document> {
        self.parse().0.into_iter().map(|document| Document { made: true, ..document }).collect()
    }

    /// Every document; those that are no YAML or no object are told with file and line.
    pub(crate) fn parse(&self) -> (Vec<Document>, Vec<RejectedObject>) {
        let (mut documents, mut broken) = (Vec::new(), Vec::new());
        for (file, text) in &self.files {
            match text {
                Ok(text) => parse_file(file, text, &mut documents, &mut broken),
                Err(error) => broken.push(refusal(file, 1, format!("cannot be read: {error}"))),
            }
        }
        (documents, broken)
    }
}

fn refusal(file: &Path, line: usize, message: String) -> RejectedObject {
    RejectedObject { place: format!("{}:{line}", file.display()), object: String::new(), message }
}

fn parse_file(file: &Path, text: &str, documents: &mut Vec<Document>, broken: &mut Vec<RejectedObject>) {
    for (line, part) in split(text) {
        match serde_saphyr::from_str::<Value>(&part) {
            Ok(Value::Null) => {}
            Ok(object) if object.is_object() => match list_items(object) {
                Ok(items) => documents.extend(items.into_iter().map(|object| Document {
                    file: file.to_path_buf(),
                    line,
                    object,
                    made: false,
                })),
                Err(message) => broken.push(refusal(file, line, message)),
            },
            Ok(_) => broken.push(refusal(
                file,
                line,
                "is not a Kubernetes object: a mapping with apiVersion and kind is needed".to_owned(),
            )),
            Err(error) => {
                // The error counts lines from the start of the document.
                let offset =
                    error.location().map_or(0, |l| usize::try_from(l.line()).unwrap_or(1).saturating_sub(1));
                let first = error.to_string();
                let first = first.lines().next().unwrap_or_default().to_owned();
                broken.push(refusal(
                    file,
                    line.saturating_add(offset),
                    format!("is not valid YAML: {first}"),
                ));
            }
        }
    }
}

/// The items of a `List`, or the object itself.
fn list_items(mut object: Value) -> Result<Vec<Value>, String> {
    if object.get("kind").and_then(Value::as_str) != Some("List") {
        return Ok(vec![object]);
    }
    match object.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => Ok(items),
        _ => Err("a List needs `items`".to_owned()),
    }
}

/// Documents of a stream with the line each starts at.
fn split(text: &str) -> Vec<(usize, String)> {
    let mut parts = vec![(1, String::new())];
    for (index, line) in text.lines().enumerate() {
        if line == "---" || line.starts_with("--- ") {
            parts.push((index.saturating_add(2), String::new()));
        } else if let Some((_, part)) = parts.last_mut() {
            part.push_str(line);
            part.push('\n');
        }
    }
    parts.retain(|(_, p)| p.lines().any(|l| !l.trim().is_empty() && !l.trim_start().starts_with('#')));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Vec<Document>, Vec<RejectedObject>) {
        let (mut documents, mut broken) = (Vec::new(), Vec::new());
        parse_file(Path::new("a.yaml"), text, &mut documents, &mut broken);
        (documents, broken)
    }

    #[test]
    fn errors_name_file_and_line() {
        let (documents, broken) = parse("kind: A\n---\nkind: B\nmetadata: {name: [}\n");
        assert_eq!(documents.len(), 1);
        assert_eq!(broken.len(), 1);
        assert_eq!(broken[0].place, "a.yaml:4", "{broken:?}");
    }

    #[test]
    fn lists_and_comments_are_understood() {
        let (documents, broken) = parse("# only words\n---\nkind: List\nitems:\n- {kind: A}\n- {kind: B}\n");
        assert_eq!((documents.len(), broken.len()), (2, 0));
        assert_eq!(documents[0].line, 3);
    }
}
