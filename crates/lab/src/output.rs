//! Log files of containers and daemons: what a program writes goes through the lab, so that a
//! file never grows beyond its cap, and a full disk stops the log but not the program.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::Mutex;

/// One file and its predecessor `.1` together stay below twice this.
const CAP: u64 = 8 << 20;

/// An open log, shared by standard output and standard error.
#[derive(Clone)]
pub(crate) struct Log(Arc<Mutex<Inner>>);

struct Inner {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    last_line: String,
}

impl Log {
    /// Opens for appending; a log that cannot be opened swallows what it is given.
    pub(crate) async fn open(path: &Path) -> Self {
        let (file, size) = match open(path).await {
            Ok((file, size)) => (Some(file), size),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "no log file");
                (None, 0)
            }
        };
        Self(Arc::new(Mutex::new(Inner { path: path.to_path_buf(), file, size, last_line: String::new() })))
    }

    /// Copies a program's output until it ends.
    pub(crate) fn follow(
        &self,
        mut from: impl AsyncRead + Unpin + Send + 'static,
    ) -> tokio::task::JoinHandle<()> {
        let log = self.clone();
        tokio::spawn(async move {
            let mut buffer = vec![0; 8192];
            while let Ok(n) = from.read(&mut buffer).await {
                let Some(bytes) = buffer.get(..n).filter(|b| !b.is_empty()) else { break };
                log.0.lock().await.write(bytes).await;
            }
        })
    }

    /// One line of the lab's own.
    pub(crate) async fn line(&self, text: &str) {
        self.0.lock().await.write(format!("{text}\n").as_bytes()).await;
    }

    /// The last line that was written, to explain a failure.
    pub(crate) async fn last_line(&self) -> String {
        self.0.lock().await.last_line.clone()
    }
}

impl Inner {
    async fn write(&mut self, bytes: &[u8]) {
        if let Some(line) = String::from_utf8_lossy(bytes).lines().rfind(|l| !l.trim().is_empty()) {
            self.last_line = line.chars().take(400).collect();
        }
        if self.size > CAP {
            let _ = tokio::fs::rename(&self.path, self.path.with_extension("log.1")).await;
            (self.file, self.size) = open(&self.path).await.map_or((None, 0), |(f, s)| (Some(f), s));
        }
        if let Some(file) = &mut self.file {
            let written = async {
                file.write_all(bytes).await?;
                file.flush().await
            };
            if written.await.is_ok() {
                self.size = self.size.saturating_add(bytes.len() as u64);
            }
        }
    }
}

async fn open(path: &Path) -> io::Result<(File, u64)> {
    if let Some(parent) = path.parent() {
        tokio::fs::create_dir_all(parent).await?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path).await?;
    let size = file.metadata().await?.len();
    Ok((file, size))
}
