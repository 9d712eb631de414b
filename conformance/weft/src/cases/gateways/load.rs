//! Changes at a Gateway under load, of which no request may notice anything.

use anyhow::{Result, ensure};

use super::{
    CLIENTS, ENCRYPTED, NAMESPACE, PLAIN, address, gateway, get, http, is_programmed, rule, swap_certificate,
};
use crate::load::{Ended, Load, none_failed, some_more};
use crate::mesh::{Checks, HTTP_PORTS as HTTP, Mesh, host, patiently, service};

/// How often something is changed.
const TIMES: usize = 10;

/// The route at `one` with these rules; of every order of these any request to `/one` means the same.
fn route_one(rules: &[String]) -> String {
    http("one", &["one"], rules)
}

fn rules() -> Vec<String> {
    let mut all = vec![rule("/one", &["v1", "v2"]), rule("/both", &["v1"])];
    all.extend((0..6).map(|n| rule(&format!("/other/{n}"), &["v2"])));
    all
}

/// Calls `one` from both nodes by HTTP and HTTPS, on connections that are kept and on new ones, while something changes.
fn under_load(mesh: &Mesh, change: impl FnOnce() -> Result<()>) -> Result<Vec<Ended>> {
    let at = address(mesh, "one")?;
    let mut all = Vec::new();
    for (client, modes) in CLIENTS.iter().zip([["keep", "new"], ["new", "keep"]]) {
        all.push(Load::start(mesh, client, modes[0], (&at, 80), &["path=/one"])?);
        all.push(Load::start(
            mesh,
            client,
            modes[1],
            (&at, 443),
            &["path=/one", "name=one.example", "tls=yes"],
        )?);
    }
    some_more(&all, 10)?;
    let outcome = change();
    some_more(&all, 10)?;
    let ended = none_failed(all)?;
    outcome.map(|()| ended)
}

/// The sentences.
pub(super) fn run(checks: &mut Checks<'_>) {
    checks.check("rules are re-ordered under load, and no request fails", |m| {
        under_load(m, || {
            let mut rules = rules();
            for _ in 0..TIMES {
                rules.rotate_left(1);
                m.apply("one", &route_one(&rules))?;
            }
            Ok(())
        })
        .map(drop)
    });
    checks.check("backends are taken away and given back under load, and no request fails", |m| {
        let ended = under_load(m, || {
            for n in 0..TIMES {
                let backends = [&["v1", "v2"][..], &["v1"], &["v2"]][n % 3];
                m.apply("one", &route_one(&[rule("/one", backends)]))?;
            }
            Ok(())
        })?;
        let all = ended.iter().flat_map(|one| one.answered.keys()).collect::<std::collections::BTreeSet<_>>();
        ensure!(all.len() == 2, "only {all:?} answered");
        Ok(())
    });
    checks.check("a Service that no rule names any more is deleted under load, and no request fails", |m| {
        m.apply("short-lived", &service(NAMESPACE, "short-lived", "v2", HTTP))?;
        m.apply("one", &route_one(&[rule("/one", &["v1", "short-lived"])]))?;
        patiently(|| get(m, "one", "/one")?.expect(200, "v2"))?;
        under_load(m, || {
            m.apply("one", &route_one(&[rule("/one", &["v1"])]))?;
            m.delete("short-lived")
        })
        .map(drop)
    });
    listeners(checks);
}

fn listeners(checks: &mut Checks<'_>) {
    checks.check("the certificate is exchanged under load, and no request fails", |m| {
        let ended = under_load(m, || {
            swap_certificate(m, "second")?;
            let at = host(&address(m, "one")?);
            patiently(|| {
                let show =
                    format!("openssl s_client -connect {at}:443 -servername one.example </dev/null 2>&1");
                let shown = m.shell(CLIENTS[0], &show)?.replace(' ', "");
                ensure!(shown.contains("CN=second"), "{shown}");
                Ok(())
            })
        })?;
        let seen = ended.iter().map(|one| one.certificates.len()).max();
        ensure!(seen == Some(2), "connections saw {seen:?} certificates");
        Ok(())
    });
    checks.check("listeners are added and removed under load, and no request fails", |m| {
        let more = "{name: more, port: 8080, protocol: HTTP}";
        under_load(m, || {
            m.apply("gateways", &gateway("one", &[PLAIN, ENCRYPTED, more]))?;
            is_programmed(m, "one")?;
            let url = format!("http://{}:8080/one", host(&address(m, "one")?));
            patiently(|| m.curl(CLIENTS[0], &[&url])?.expect(200, "v1"))?;
            m.apply("gateways", &gateway("one", &[PLAIN, ENCRYPTED]))?;
            is_programmed(m, "one")
        })
        .map(drop)
    });
}
