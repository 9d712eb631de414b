//! Timeouts and retries.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::FROM;
use crate::mesh::{Checks, Mesh, http_route, soon};

pub(super) fn timeouts() -> String {
    let rule = |path: &str, timeouts: &str| {
        format!(
            "{{matches: [{{path: {{value: {path}}}}}], timeouts: {{{timeouts}}}, backendRefs: [{{name: v2, port: 80}}]}},"
        )
    };
    let rules = [
        rule("/request", "request: 1500ms"),
        rule("/attempt", "backendRequest: 1500ms"),
        rule("/never", "request: 0s"),
    ];
    http_route("timed", &rules.concat())
}

pub(super) fn check_timeouts(checks: &mut Checks<'_>) {
    for (path, reason) in [("/request", "request_timeout"), ("/attempt", "backend_timeout")] {
        checks.check(&format!("timeout: {path} is 504 after its time"), |m| {
            #[allow(clippy::disallowed_methods)]
            let start = Instant::now();
            let answer = m.curl(FROM, &[&format!("http://timed{path}?delay=8000")])?;
            ensure!(answer.status == 504 && answer.body.contains(reason), "{answer:?}");
            // It cannot have been the application: that takes 8 s, and would have answered 200.
            ensure!(start.elapsed() > Duration::from_millis(1490), "{:?}", start.elapsed());
            Ok(())
        });
        checks.check(&format!("timeout: {path} leaves quick answers alone"), |m| {
            m.curl(FROM, &[&format!("http://timed{path}?delay=50")])?.expect(200, "v2")
        });
    }
    checks.check("timeout: 0s is no limit", |m| {
        m.curl(FROM, &["http://timed/never?delay=700"])?.expect(200, "v2")
    });
}

pub(super) fn retries() -> String {
    let rule = |path: &str, backend: &str, more: &str| {
        format!(
            "{{matches: [{{path: {{value: {path}}}}}], {more}, backendRefs: [{{name: {backend}, port: 80}}]}},"
        )
    };
    let rules = [
        rule("/codes", "flaky", "retry: {codes: [503], attempts: 3, backoff: 10ms}"),
        rule("/other", "v2", "retry: {codes: [500], attempts: 3, backoff: 10ms}"),
        rule("/few", "weak", "retry: {codes: [503], attempts: 2, backoff: 10ms}"),
        rule("/refused", "closed", "retry: {attempts: 2, backoff: 10ms}"),
        rule("/once", "closed", "retry: {attempts: 0}"),
        rule(
            "/spanning",
            "v2",
            "retry: {codes: [503], attempts: 9, backoff: 10ms}, timeouts: {request: 1500ms}",
        ),
    ];
    http_route("retried", &rules.concat())
}

/// How often Weft says that it tried a request; another mesh is not asked.
fn attempted(mesh: &Mesh, path: &str, expected: RangeInclusive<u64>) -> Result<()> {
    if !mesh.is_weft() {
        return Ok(());
    }
    soon(|| {
        let log = mesh.proxy_log("node1")?;
        let line = log
            .lines()
            .find(|l| l.contains(path) && l.contains("\"reporter\":\"source\""))
            .context("no line")?;
        let line: Value = serde_json::from_str(line.get(line.find('{').unwrap_or(0)..).unwrap_or_default())?;
        let attempts = line["attempts"].as_u64().context(line.to_string())?;
        ensure!(expected.contains(&attempts), "{attempts} attempts");
        Ok(())
    })
}

pub(super) fn check_retries(checks: &mut Checks<'_>) {
    checks.check("retry: a listed code is tried again until it is good", |m| {
        m.curl(FROM, &["--data-binary", "kept", "http://retried/codes/a"])?.expect(200, "flaky")?;
        attempted(m, "/codes/a", 3..=3)
    });
    checks.check("retry: a code that is not listed is not tried again", |m| {
        m.curl(FROM, &["http://retried/other/a?status=503"])?.expect(503, "v2")?;
        attempted(m, "/other/a", 1..=1)
    });
    checks.check("retry: after the last attempt the answer is the application's own", |m| {
        m.curl(FROM, &["http://retried/few/a"])?.expect(503, "weak")?;
        attempted(m, "/few/a", 3..=3)
    });
    checks.check("retry: a refused connection is tried again and ends as 503", |m| {
        let answer = m.curl(FROM, &["http://retried/refused/a"])?;
        ensure!(answer.status == 503, "{answer:?}");
        ensure!(!m.is_weft() || answer.body.contains("connect_failed"), "{answer:?}");
        attempted(m, "/refused/a", 3..=3)
    });
    checks.check("retry: attempts 0 is one try", |m| {
        m.curl(FROM, &["http://retried/once/a"])?.expect(503, "")?;
        attempted(m, "/once/a", 1..=1)
    });
    checks.check("retry: the request timeout spans all attempts", |m| {
        let answer = m.curl(FROM, &["http://retried/spanning/a?status=503&delay=600"])?;
        ensure!(answer.status == 504, "{answer:?}");
        attempted(m, "/spanning/a", 2..=3)
    });
}
