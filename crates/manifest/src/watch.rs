//! Says when a folder of manifests has changed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{CreateKind, EventKind};
use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// A change is told when nothing more has happened for this long: an editor's save is several events.
const QUIET: Duration = Duration::from_millis(50);
/// But not later than this after its first event.
const LATEST: Duration = Duration::from_millis(500);

/// Changes of a folder or file. Watching ends when this is dropped.
#[derive(Debug)]
pub struct Changes {
    events: mpsc::UnboundedReceiver<Event>,
    /// When to tell of what has happened already, and when at the latest.
    due: Option<(Instant, Instant)>,
    new_folder: bool,
    _watcher: notify::RecommendedWatcher,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Changed,
    NewFolder,
}

/// Watches a folder with everything below it, or one file (also across an editor's rename).
pub fn watch(path: &Path) -> notify::Result<Changes> {
    let (sender, events) = mpsc::unbounded_channel();
    let file = path.is_file().then(|| path.file_name().unwrap_or_default().to_owned());
    let (folder, mode) = match &file {
        // The file itself is replaced on a rename, so its folder is watched.
        Some(_) => (parent_of(path), RecursiveMode::NonRecursive),
        None => (path.to_owned(), RecursiveMode::Recursive),
    };
    let concerns = move |path: &PathBuf| match (&file, path.file_name()) {
        (Some(file), name) => name == Some(file),
        (None, Some(name)) => !name.to_string_lossy().starts_with('.'),
        (None, None) => true,
    };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let told = match event {
            Ok(event) if matches!(event.kind, EventKind::Access(_)) => None,
            Ok(event) if !event.paths.is_empty() && !event.paths.iter().any(&concerns) => None,
            Ok(event) if event.kind == EventKind::Create(CreateKind::Folder) => Some(Event::NewFolder),
            // Also an error, such as an overflowing queue: something may have changed.
            Ok(_) | Err(_) => Some(Event::Changed),
        };
        if let Some(told) = told {
            // The receiver is gone when nobody wants to know any more.
            let _ = sender.send(told);
        }
    })?;
    watcher.watch(&folder, mode)?;
    Ok(Changes { events, due: None, new_folder: false, _watcher: watcher })
}

fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

impl Changes {
    /// Waits for the next change; several close together are one. `None`: watching has ended. May be dropped and
    /// called again without losing a change.
    pub async fn next(&mut self) -> Option<()> {
        loop {
            let Some((due, latest)) = self.due else {
                let event = self.events.recv().await?;
                let now = Instant::now();
                self.note(event, now, now + LATEST);
                continue;
            };
            match timeout_at(due, self.events.recv()).await {
                Ok(event) => self.note(event?, Instant::now(), latest),
                Err(_) => {
                    // A folder came into being: what was put into it before it was watched made no event, so look again.
                    let again = Instant::now() + LATEST;
                    self.due = std::mem::take(&mut self.new_folder).then_some((again, again));
                    return Some(());
                }
            }
        }
    }

    fn note(&mut self, event: Event, now: Instant, latest: Instant) {
        self.new_folder |= matches!(event, Event::NewFolder);
        self.due = Some((latest.min(now + QUIET), latest.max(now)));
    }
}
