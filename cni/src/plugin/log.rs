//! A line for each call in a file of the node: runtimes keep the last error of a pod at best, and nothing of calls
//! that went well.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::Failure;
use super::config::Config;

/// From here on the file is moved aside, to `<name>.1`, and begun anew.
const LARGEST: u64 = 4 * 1024 * 1024;

/// Writes how a call went. A file that cannot be written must not keep a pod from starting.
pub(super) fn record(
    config: &Config,
    command: &str,
    variable: &dyn Fn(&str) -> Option<String>,
    failure: Option<&Failure>,
) {
    let Some(path) = &config.log_file else { return };
    // A runtime asks this every few seconds.
    if command == "STATUS" && failure.is_none() {
        return;
    }
    let given = |name: &str| variable(name).unwrap_or_default();
    let outcome = match failure {
        None => "ok".to_owned(),
        Some(Failure { code, message }) => format!("error {code}: {}", message.replace('\n', " ")),
    };
    let line = format!(
        "{:.3} {command} container={} netns={} args={} {outcome}\n",
        jiff::Timestamp::now(),
        given("CNI_CONTAINERID"),
        given("CNI_NETNS"),
        given("CNI_ARGS"),
    );
    let _ = append(path, &line);
}

fn append(path: &Path, line: &str) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|file| file.len() >= LARGEST) {
        let mut old = path.as_os_str().to_owned();
        old.push(".1");
        fs::rename(path, PathBuf::from(old))?;
    }
    let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    file.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_a_line_and_the_file_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weft-cni.log");
        let config = format!(r#"{{"cniVersion": "1.0.0", "logFile": "{}"}}"#, path.display());
        let config = Config::parse(&config).unwrap_or_else(|failure| panic!("{failure:?}"));
        let variable = |name: &str| (name == "CNI_CONTAINERID").then(|| "c1".to_owned());
        let failure = Failure { code: 11, message: "two\nlines".into() };
        record(&config, "ADD", &variable, None);
        record(&config, "STATUS", &variable, None);
        record(&config, "ADD", &variable, Some(&failure));
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].contains(" ADD container=c1 ") && lines[0].ends_with(" ok"), "{text}");
        assert!(lines[1].ends_with("error 11: two lines"), "{text}");
        fs::write(&path, vec![b'x'; usize::try_from(LARGEST).unwrap()]).unwrap();
        record(&config, "DEL", &variable, None);
        assert!(fs::read_to_string(&path).unwrap().contains("DEL"));
        assert_eq!(fs::metadata(folder.path().join("weft-cni.log.1")).unwrap().len(), LARGEST);
    }
}
