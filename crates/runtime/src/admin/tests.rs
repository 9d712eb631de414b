//! The admin server, spoken to over a real socket with hand-written HTTP.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn registered_paths_are_answered_and_others_are_listed() {
    let ready = Arc::new(AtomicBool::new(false));
    let mut admin = Admin::new();
    admin.handle("/config", |query| Answer::json(&serde_json::json!({ "query": query })));
    admin.serve_metrics(Arc::new(Metrics::new("weft")));
    let look = ready.clone();
    admin.ready_when("configuration from the controller", move || look.load(Ordering::Relaxed));
    let listener = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(admin.serve(listener));

    assert!(ask(address, "GET /healthz").await.starts_with("HTTP/1.1 200"));
    let unready = ask(address, "GET /readyz").await;
    assert!(unready.starts_with("HTTP/1.1 503") && unready.contains("not yet: configuration"), "{unready}");
    ready.store(true, Ordering::Relaxed);
    assert!(ask(address, "GET /readyz").await.starts_with("HTTP/1.1 200"));
    assert!(ask(address, "GET /config?a=b").await.contains("\"query\": \"a=b\""));
    assert!(ask(address, "GET /metrics").await.contains("# EOF"));
    let missing = ask(address, "GET /nothing").await;
    assert!(missing.starts_with("HTTP/1.1 404") && missing.contains("/config"), "{missing}");
    let post = ask(address, "POST /config").await;
    assert!(post.starts_with("HTTP/1.1 405") && post.contains("allow: GET"), "{post}");
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_names_it() {
    let taken = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = taken.local_addr().unwrap();
    let error = Admin::bind(address).await.unwrap_err().to_string();
    assert!(error.contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn strangers_see_health_and_metrics_and_nothing_else() {
    let mut admin = Admin::new();
    admin.handle("/config", |_| Answer::json(&"secret"));
    admin.serve_metrics(Arc::new(Metrics::new("weft")));
    let [own, public] = ["127.0.0.1:0", "127.0.0.1:0"].map(|at| Admin::bind(at.parse().unwrap()));
    let (own, public) = (own.await.unwrap(), public.await.unwrap());
    let addresses = [own.local_addr().unwrap(), public.local_addr().unwrap()];
    tokio::spawn(admin.serve_apart(own, public));

    let [own, public] = addresses;
    assert!(ask(own, "GET /config").await.contains("secret"));
    let refused = ask(public, "GET /config").await;
    assert!(refused.starts_with("HTTP/1.1 404") && !refused.contains("/config"), "{refused}");
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert!(ask(public, &format!("GET {path}")).await.starts_with("HTTP/1.1 200"), "{path}");
    }
}
