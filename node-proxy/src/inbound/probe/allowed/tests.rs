//! Tables of what a probe may ask.

use super::*;

const TO: &str = "10.9.0.2:8080";

fn declared(target: &str, headers: &[(&str, &str)]) -> ProbeAction {
    let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    ProbeAction::Http { target: target.into(), headers }
}

fn sent(method: &str, target: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(target).header("host", TO);
    for (name, value) in headers {
        if *name == "host" {
            request.headers_mut().unwrap().remove("host");
        }
        request = request.header(*name, *value);
    }
    request.body(Body::Empty).unwrap()
}

fn judge(action: &ProbeAction, request: Request<Body>) -> Result<Vec<(String, String)>, String> {
    let allowed = http(std::slice::from_ref(action), TO.parse().unwrap(), request)?;
    assert_eq!(allowed.method(), Method::GET);
    let pair =
        |(name, value): (&HeaderName, &HeaderValue)| (name.to_string(), value.to_str().unwrap().to_owned());
    let mut fields: Vec<_> = allowed.headers().iter().map(pair).collect();
    fields.sort();
    Ok(fields)
}

#[test]
fn declared_probe_passes_with_nothing_beside_it() {
    let plain = declared("/healthz?full=1", &[]);
    let request = sent(
        "GET",
        "/healthz?full=1",
        &[("user-agent", "kube-probe/1.35"), ("accept", "*/*"), ("cookie", "admin=1"), ("x-extra", "y")],
    );
    let expected = [("accept", "*/*"), ("host", TO), ("user-agent", "kube-probe/1.35")];
    assert_eq!(judge(&plain, request).unwrap(), expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
    // Another virtual host of the same server is not what was declared.
    let elsewhere = sent("GET", "/healthz?full=1", &[("host", "admin.internal")]);
    assert_eq!(judge(&plain, elsewhere).unwrap(), [("host".to_owned(), TO.to_owned())]);
}

#[test]
fn declared_headers_must_be_there_with_their_values() {
    let action = declared("/", &[("X-Probe", "a"), ("Host", "shop"), ("x-probe", " b "), ("Accept", "")]);
    for (headers, allowed) in [
        (&[("x-probe", "a"), ("x-probe", "b"), ("host", "shop")][..], true),
        (&[("x-probe", "a"), ("host", "shop")], false),
        (&[("x-probe", "b"), ("x-probe", "a"), ("host", "shop")], false),
        (&[("x-probe", "a"), ("x-probe", "b"), ("x-probe", "c"), ("host", "shop")], false),
        (&[("x-probe", "a"), ("x-probe", "b")], false),
        (&[("x-probe", "a"), ("x-probe", "b"), ("host", "shop"), ("accept", "*/*")], false),
    ] {
        let judged = judge(&action, sent("GET", "/", headers));
        assert_eq!(judged.is_ok(), allowed, "{headers:?}: {judged:?}");
    }
    let framing =
        declared("/", &[("Content-Length", "5"), ("Transfer-Encoding", "chunked"), ("bad name", "x")]);
    assert!(judge(&framing, sent("GET", "/", &[])).is_ok(), "the kubelet never sends these");
}

#[test]
fn anything_else_is_refused() {
    let action = declared("/healthz", &[]);
    for (method, target) in [
        ("POST", "/healthz"),
        ("HEAD", "/healthz"),
        ("GET", "/healthz/"),
        ("GET", "/healthz?x"),
        ("GET", "/Healthz"),
        ("GET", "/%68ealthz"),
        ("GET", "/admin"),
        ("GET", "http://10.9.0.2:8080/healthz"),
    ] {
        assert!(judge(&action, sent(method, target, &[])).is_err(), "{method} {target}");
    }
    let mut with_body = sent("GET", "/healthz", &[]);
    *with_body.body_mut() = Body::text("x");
    assert!(judge(&action, with_body).is_err());
    assert!(judge(&ProbeAction::Https, sent("GET", "/healthz", &[])).is_err());
}

#[test]
fn each_of_several_probes_of_a_port_passes() {
    let both = [declared("/live", &[]), declared("/ready", &[("x", "1")]), declared("/ready", &[("x", "2")])];
    let judge =
        |target, headers: &[_]| http(&both, TO.parse().unwrap(), sent("GET", target, headers)).is_ok();
    assert!(judge("/live", &[]) && judge("/ready", &[("x", "1")]) && judge("/ready", &[("x", "2")]));
    assert!(!judge("/ready", &[("x", "3")]) && !judge("/", &[]));
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&[0, 0, 0, 0, u8::try_from(message.len()).unwrap()], message].concat()
}

fn check(path: &str, content_type: &str, body: Vec<u8>) -> Request<Body> {
    let request =
        Request::builder().version(Version::HTTP_2).method("POST").uri(format!("http://{TO}{path}"));
    let request =
        request.header("content-type", content_type).header("te", "trailers").header("authorization", "x");
    request.body(Body::text(body)).unwrap()
}

#[tokio::test]
async fn health_check_of_the_declared_service_passes_and_nothing_else() {
    let of = |service: &str| ProbeAction::Grpc { service: service.into() };
    let cart = framed(b"\x0a\x04cart");
    for (service, path, kind, body, allowed) in [
        ("cart", CHECK, "application/grpc", cart.clone(), true),
        ("cart", CHECK, "application/grpc+proto", cart.clone(), true),
        ("", CHECK, "application/grpc", framed(b""), true),
        ("", CHECK, "application/grpc", framed(b"\x0a\x00"), true),
        ("cart", CHECK, "application/grpc", framed(b""), false),
        ("cart", CHECK, "application/grpc", framed(b"\x0a\x05carts"), false),
        ("", CHECK, "application/grpc", cart.clone(), false),
        ("cart", CHECK, "application/json", cart.clone(), false),
        ("cart", "/grpc.health.v1.Health/Watch", "application/grpc", cart.clone(), false),
        ("cart", "/shop.Cart/Empty", "application/grpc", cart.clone(), false),
        ("cart", CHECK, "application/grpc", [cart.clone(), cart.clone()].concat(), false),
        ("cart", CHECK, "application/grpc", [&[1], &cart[1..]].concat(), false),
        ("cart", CHECK, "application/grpc", vec![0; LONGEST_MESSAGE + 1], false),
        ("cart", CHECK, "application/grpc", Vec::new(), false),
    ] {
        let judged = request(&[of(service)], TO.parse().unwrap(), check(path, kind, body.clone())).await;
        assert_eq!(judged.is_ok(), allowed, "{service:?} {path} {kind} {body:?}");
        if let Ok(allowed) = judged {
            assert!(allowed.headers().get("authorization").is_none());
            assert_eq!(allowed.into_body().collect().await.unwrap().to_bytes(), body);
        }
    }
    let long = "s".repeat(300);
    let message = [b"\x0a\xac\x02", long.as_bytes()].concat();
    let body = [&[0, 0, 0, 1, 47][..], &message].concat();
    assert!(request(&[of(&long)], TO.parse().unwrap(), check(CHECK, "application/grpc", body)).await.is_ok());
}
