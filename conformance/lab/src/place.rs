//! A lab as the place of the cases that it shares with clusters.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use weft_conformance_cases::mesh::{Checks, ECHO, Mesh, Place};
use weft_testkit::{Lab, Options};

/// A lab with a mesh.
#[derive(Debug)]
struct Here(Lab);

/// Brings a lab up and waits until every node's proxy has the same, settled view of it.
#[must_use]
#[track_caller]
pub fn up(yaml: &str) -> Mesh {
    let options =
        Options { environment: vec![("WEFT_ACCESS_LOG".to_owned(), "-".to_owned())], ..Options::default() };
    let lab = Lab::up_with(&local(yaml), &options).unwrap_or_else(|error| panic!("{error:#}"));
    let mesh = Mesh::new(Box::new(Here(lab)));
    mesh.settle().unwrap_or_else(|error| panic!("{error:#}"));
    mesh
}

/// Runs one of the shared cases in a lab of its own.
#[track_caller]
pub fn run(topology: &str, case: impl FnOnce(&mut Checks<'_>)) {
    let mesh = up(topology);
    let mut checks = Checks::new(&mesh);
    case(&mut checks);
    checks.finish();
}

/// Puts the echo server that the tests are built with in the place of an image's.
fn local(text: &str) -> String {
    text.replace(ECHO, &echo_program())
}

/// Where the echo server that the tests are built with is.
#[must_use]
pub fn echo_program() -> String {
    beside_the_tests("weft-echo").display().to_string()
}

/// Programs lie in the folder above the test's own.
fn beside_the_tests(program: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    let found = test.ancestors().skip(1).take(3).map(|dir| dir.join(program)).find(|p| p.is_file());
    found.unwrap_or_else(|| PathBuf::from(program))
}

impl Place for Here {
    fn exec_command(&self, pod: &str, program: &[&str]) -> Command {
        let program: Vec<String> = program.iter().map(|word| local(word)).collect();
        self.0.exec_command(pod, &program.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn apply(&self, name: &str, yaml: &str) -> Result<()> {
        self.0.apply(name, &local(yaml))
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.0.delete(name)
    }

    /// A lab goes away as a whole.
    fn clear(&self) -> Result<()> {
        Ok(())
    }

    fn object(&self, kind: &str, namespace: &str, name: &str) -> Result<Value> {
        let mut object = self.0.object(kind, namespace, name).context("no such object")?;
        if let Some(status) = self.0.object_status(kind, namespace, name) {
            object["status"] = status.get("status").cloned().unwrap_or(status);
        }
        Ok(object)
    }

    /// An API server with newer definitions would hand this out; the lab's own admission would not.
    fn make_undecodable(&self, kind: &str, namespace: &str, name: &str) -> Result<()> {
        let file = self.0.state().join(format!("cluster/{kind}/{namespace}/{name}.json"));
        let mut object: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        object["spec"]["rules"][0]["filters"] = json!([{ "type": "FromTheFuture" }]);
        object["metadata"]["generation"] = 2.into();
        let new = file.with_extension("new");
        std::fs::write(&new, object.to_string())?;
        Ok(std::fs::rename(new, file)?)
    }

    fn kubectl(&self, _: &[&str], _: &str) -> Result<String> {
        bail!("a lab has no API server")
    }

    /// Until no proxy's configuration has changed for a while.
    fn settle(&self) -> Result<()> {
        let view = || ["node1", "node2"].map(|node| crate::admin(&self.0, node, "config"));
        let mut before = view();
        let mut quiet = 0;
        for _ in 0..100 {
            std::thread::sleep(std::time::Duration::from_millis(100));
            let now = view();
            quiet = if now == before { quiet + 1 } else { 0 };
            before = now;
            if quiet == 4 {
                return Ok(());
            }
        }
        bail!("the proxies' configuration does not come to rest")
    }

    fn controller_name(&self) -> &str {
        "weft-mesh.dev/mesh"
    }

    fn is_weft(&self) -> bool {
        true
    }

    fn proxy_log(&self, node: &str) -> Result<String> {
        Ok(self.0.logs(&format!("{node}/proxy")))
    }

    fn admin(&self, node: &str, page: &str) -> Result<String> {
        let url = format!("http://127.0.0.1:15000/{page}");
        let out = self.0.exec(&format!("node/{node}"), &["curl", "-sSf", &url]);
        out.and_then(|out| if out.code == 0 { Ok(out.stdout) } else { bail!("{}", out.stderr) })
    }
}
