//! The demo's steps, in order.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::lab::Lab;
use crate::run;

/// How soon an edited route must be in force.
const EDIT_IN_FORCE_WITHIN: Duration = Duration::from_secs(3);

/// Shows and checks one thing; what was seen, in words.
type Step = fn(&Lab, &Path) -> Result<String>;

/// Runs all steps; the first that does not hold ends the demo.
pub(super) fn run(lab: &Lab, folder: &Path) -> Result<()> {
    let steps: &[(&str, Step)] = &[
        ("An HTTPRoute splits the catalog's callers 90 to 10", split),
        ("A header route sends testers to version 2", header_route),
        ("The same route steers callers from outside, at a Gateway", both_parents),
        ("A consumer route changes only its own namespace's traffic", consumer_route),
        ("A GRPCRoute sends each method to its version", grpc_route),
        ("Some requests are copied to the audit Service", mirror),
        ("A caller outside the mesh is refused", unmeshed_caller),
        ("The callee knows who calls, and from which address", identity),
        ("Between the nodes there is no plaintext", no_plaintext),
        ("An edited route takes effect without a failed request", edited_route),
    ];
    for (number, (title, step)) in steps.iter().enumerate() {
        println!("\n{}. {title}", number + 1);
        let seen =
            step(lab, folder).with_context(|| format!("step {} does not hold: {title}", number + 1))?;
        println!("   ✓ {seen}");
    }
    Ok(())
}

/// Runs a program in a pod, shows it, and returns what it printed.
fn show(lab: &Lab, pod: &str, words: &[&str]) -> Result<String> {
    println!("   $ weft lab exec {pod} -- {}", words.join(" "));
    lab.exec(pod, words)
}

/// How many lines begin with each pair of first words (`catalog v1`).
fn tally(text: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').take(2).collect();
        *counts.entry(words.join(" ")).or_default() += 1;
    }
    counts
}

fn count(counts: &BTreeMap<String, usize>, of: &str) -> usize {
    counts.get(of).copied().unwrap_or_default()
}

fn split(lab: &Lab, _: &Path) -> Result<String> {
    let counts = tally(&show(lab, "shop/web", &["curl", "-sS", "http://catalog/?[1-100]"])?);
    ensure!(
        count(&counts, "catalog v1") == 90 && count(&counts, "catalog v2") == 10,
        "100 requests were answered by {counts:?}"
    );
    Ok(format!("100 requests: {counts:?}"))
}

fn header_route(lab: &Lab, _: &Path) -> Result<String> {
    let counts =
        tally(&show(lab, "shop/web", &["curl", "-sS", "-H", "x-tester: yes", "http://catalog/?[1-20]"])?);
    ensure!(count(&counts, "catalog v2") == 20, "20 requests with the header were answered by {counts:?}");
    Ok(format!("20 requests with the header: {counts:?}"))
}

fn both_parents(lab: &Lab, _: &Path) -> Result<String> {
    let address = lab.gateway("front")?;
    let outside = |words: &[&str]| -> Result<BTreeMap<String, usize>> {
        println!("   $ curl {}", words.join(" "));
        Ok(tally(&run::read(Command::new("curl").args(words).stdin(Stdio::null()))?))
    };
    let gateway = outside(&["-sS", &format!("http://{address}/?[1-100]")])?;
    let service = tally(&show(lab, "shop/web", &["curl", "-sS", "http://catalog/?[1-100]"])?);
    ensure!(
        count(&gateway, "catalog v1") == 90 && count(&gateway, "catalog v2") == 10,
        "100 requests to the Gateway were answered by {gateway:?}"
    );
    ensure!(service == gateway, "100 requests to the Service were answered by {service:?}");
    let testers = outside(&["-sS", "-H", "x-tester: yes", &format!("http://{address}/?[1-20]")])?;
    ensure!(count(&testers, "catalog v2") == 20, "20 requests with the header were answered by {testers:?}");
    Ok(format!(
        "this machine through the Gateway: {gateway:?}, with the header {testers:?}; a pod: {service:?}"
    ))
}

fn consumer_route(lab: &Lab, _: &Path) -> Result<String> {
    let support = tally(&show(lab, "support/desk", &["curl", "-sS", "http://catalog.shop/?[1-20]"])?);
    let shop = tally(&show(lab, "shop/web", &["curl", "-sS", "http://catalog/?[1-20]"])?);
    ensure!(count(&support, "catalog v2") == 20, "20 requests from support were answered by {support:?}");
    ensure!(count(&shop, "catalog v1") == 18, "20 requests from shop were answered by {shop:?}");
    Ok(format!("from support: {support:?}; from shop still: {shop:?}"))
}

fn grpc_route(lab: &Lab, _: &Path) -> Result<String> {
    let call = |method: &str| -> Result<BTreeMap<String, usize>> {
        Ok(tally(&show(lab, "shop/web", &["/usr/bin/python3", "/etc/shop/client.py", method, "10"])?))
    };
    let (reads, writes, other) = (call("Get")?, call("Put")?, call("Drop")?);
    ensure!(count(&reads, "orders v1") == 10, "Get was answered by {reads:?}");
    ensure!(count(&writes, "orders v2") == 10, "Put was answered by {writes:?}");
    ensure!(
        other.keys().all(|k| k.starts_with("UNIMPLEMENTED")),
        "a method without a rule was answered by {other:?}"
    );
    Ok(format!("Get: {reads:?}; Put: {writes:?}; Drop, which no rule matches: UNIMPLEMENTED"))
}

fn mirror(lab: &Lab, _: &Path) -> Result<String> {
    let counts = tally(&show(lab, "shop/web", &["curl", "-sS", "http://catalog/audited/[1-10]"])?);
    ensure!(count(&counts, "catalog v1") == 10, "10 audited requests were answered by {counts:?}");
    // Copies are sent beside the answer, so the last may still be under way.
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let log = lab.exec("shop/audit", &["cat", "/var/log/audit/access.log"])?;
        let copies = log.lines().filter(|l| l.contains("GET /audited/")).count();
        if copies == 10 {
            return Ok(
                "10 requests answered by version 1, and 10 copies in the audit Service's log".to_owned()
            );
        }
        ensure!(copies < 10 && Instant::now() < end, "the audit Service logged {copies} of 10 copies");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn unmeshed_caller(lab: &Lab, _: &Path) -> Result<String> {
    let words = ["curl", "-sS", "-m", "5", "http://catalog.shop/"];
    println!("   $ weft lab exec outside/visitor -- {}", words.join(" "));
    let output = lab.try_exec("outside/visitor", &words)?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success(),
        "the visitor was answered: {}",
        String::from_utf8_lossy(&output.stdout)
    );
    ensure!(!told.contains("timed out"), "the visitor was left waiting instead of being refused: {told}");
    // The refusal must be the callee's proxy's own, not a fault of the network.
    let logs: String = ["node1/proxy", "node2/proxy"]
        .iter()
        .map(|of| run::read(lab.command("logs").arg(of)))
        .collect::<Result<_>>()?;
    ensure!(logs.contains("plaintext_refused"), "no proxy logged that it refused plaintext");
    Ok(format!("refused: {}; the callee's proxy logs reason plaintext_refused", told.trim()))
}

fn identity(lab: &Lab, _: &Path) -> Result<String> {
    let answer = show(lab, "shop/web", &["curl", "-sS", "http://catalog/"])?;
    let address = lab.exec("shop/web", &["hostname", "-I"])?;
    ensure!(answer.contains("/ns/shop/sa/web"), "the catalog did not see the caller's identity: {answer}");
    let seen = answer.trim().rsplit_once("address=").map(|(_, a)| a).unwrap_or_default();
    ensure!(address.split_whitespace().any(|a| a == seen), "the catalog saw {seen}, the caller is {address}");
    Ok(answer.trim().to_owned())
}

fn no_plaintext(lab: &Lab, _: &Path) -> Result<String> {
    let secret = format!("secret-{}", std::process::id());
    let wire = lab.name.clone();
    println!(
        "   $ (on the wire between the nodes) tcpdump -A, while web on node1 asks the audit Service on node2 for /?{secret}"
    );
    let mut capture = Command::new(&lab.weft)
        .args(["lab", "capture", "--name", &wire, "--", "-A", "-l", "-s0", "-i", "any", "tcp"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    std::thread::sleep(Duration::from_secs(1));
    let asked = lab.exec("shop/web", &["curl", "-sS", &format!("http://audit/?{secret}=[1-20]")]);
    std::thread::sleep(Duration::from_secs(1));
    capture.kill()?;
    let output = capture_output(&mut capture)?;
    asked?;
    let tunnel = output.lines().filter(|l| l.contains(".15008")).count();
    ensure!(tunnel > 0, "the capture saw no tunnel traffic, so it proves nothing");
    ensure!(!output.contains(&secret) && !output.contains("noted"), "the capture shows plaintext");
    Ok(format!("{tunnel} packets to or from port 15008, none of them readable"))
}

fn capture_output(capture: &mut std::process::Child) -> Result<String> {
    let mut bytes = Vec::new();
    if let Some(mut stdout) = capture.stdout.take() {
        std::io::Read::read_to_end(&mut stdout, &mut bytes)?;
    }
    capture.wait()?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn edited_route(lab: &Lab, folder: &Path) -> Result<String> {
    let file = folder.join("50-routes.yaml");
    let before = fs::read_to_string(&file)?;
    let after = before.replace("weight: 90", "weight: 0");
    ensure!(after != before, "{} holds no weight of 90", file.display());
    println!(
        "   $ curl every 10 ms from shop/web, while the weight of version 1 goes from 90 to 0 in 50-routes.yaml"
    );
    // Each answer is one line: the time it came, then the body.
    let script = "for i in $(seq 400); do curl -sS -m 5 http://catalog/ | sed \"s/^/$(date +%s%N) /\"; sleep 0.01; done";
    let load = lab
        .exec_command("shop/web", &["sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    std::thread::sleep(Duration::from_secs(1));
    let edited = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
    fs::write(&file, &after)?;
    let output = load.wait_with_output()?;
    fs::write(&file, &before)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let failures = String::from_utf8_lossy(&output.stderr);
    ensure!(failures.trim().is_empty(), "requests failed: {failures}");
    let answers: Vec<(u128, bool)> = text
        .lines()
        .filter_map(|l| Some((l.split(' ').next()?.parse().ok()?, l.contains("catalog v1"))))
        .collect();
    ensure!(answers.len() == 400, "{} of 400 requests were answered", answers.len());
    let Some((last_old, _)) = answers.iter().rev().find(|(_, old)| *old) else {
        bail!("no request was answered by version 1 before the edit")
    };
    let took = Duration::from_nanos(u64::try_from(last_old.saturating_sub(edited))?);
    ensure!(answers.last().is_some_and(|(time, _)| time > last_old), "version 1 still answered at the end");
    ensure!(took < EDIT_IN_FORCE_WITHIN, "version 1 answered until {took:?} after the edit");
    Ok(format!(
        "400 requests, none failed; the last answer of version 1 came {} ms after the edit",
        took.as_millis()
    ))
}
