//! The root in a Secret of a small API server in process: made once, read by all, never replaced.

use serde_json::Value;
use weft_model::TrustDomain;
use weft_testkit::apiserver::ApiServer;

use super::*;

const NAMESPACE: &str = "weft-system";
const WAIT: Duration = Duration::from_secs(20);

fn client(api: &ApiServer) -> Client {
    Client::new(api.clone(), NAMESPACE)
}

async fn open_one(api: &ApiServer) -> Result<Authority, SecretError> {
    open(&client(api), NAMESPACE, &Settings::new(TrustDomain("cluster.local".into()))).await
}

fn secret(api: &ApiServer) -> Option<Value> {
    api.get("", "Secret", NAMESPACE, SECRET)
}

#[tokio::test]
async fn root_is_made_once_and_read_by_all_others() {
    let api = ApiServer::new();
    let one = open_one(&api).await.unwrap();
    let made = secret(&api).unwrap();
    assert_eq!(made["type"], "kubernetes.io/tls");
    let two = open_one(&api).await.unwrap();
    assert_eq!(one.root_pem(), two.root_pem());
    assert_eq!(secret(&api).unwrap(), made);
}

#[tokio::test]
async fn replica_that_is_slower_takes_the_root_of_the_faster_one() {
    let api = ApiServer::new();
    // Between the look and the creation the other creates.
    let (other, mut first) = (api.clone(), true);
    api.fail(move |call| {
        if call.method == "POST" && std::mem::take(&mut first) {
            let other = other.clone();
            let faster = async move { open_one(&other).await.map(drop) };
            let run = move || tokio::runtime::Runtime::new().unwrap().block_on(faster);
            std::thread::spawn(run).join().unwrap().unwrap();
        }
        None
    });
    let slower = open_one(&api).await.unwrap();
    assert_eq!(slower.root_pem(), open_one(&api).await.unwrap().root_pem());
    assert_eq!(api.writes().len(), 2, "{:?}", api.writes());
}

#[tokio::test]
async fn damaged_or_lost_root_is_told_of_and_never_replaced() {
    let api = ApiServer::new();
    let root_pem = open_one(&api).await.unwrap().root_pem();
    let good = secret(&api).unwrap();
    for damaged in [Value::Null, "".into(), "b2Rk".into(), good["data"]["tls.crt"].clone()] {
        let mut secret = good.clone();
        secret["data"]["tls.key"] = damaged;
        if secret["data"]["tls.key"].is_null() {
            secret["data"].as_object_mut().unwrap().remove("tls.key");
        }
        api.put(secret);
        let before = api.get("", "Secret", NAMESPACE, SECRET);
        let error = open_one(&api).await.unwrap_err().to_string();
        assert!(error.starts_with("Secret weft-system/weft-ca is damaged"), "{error}");
        assert_eq!(api.get("", "Secret", NAMESPACE, SECRET), before);
    }
    api.put(good);
    assert_eq!(open_one(&api).await.unwrap().root_pem(), root_pem);

    api.remove("", "Secret", NAMESPACE, SECRET);
    api.put(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": NAMESPACE, "name": TRUST},
        "data": {ROOT: root_pem},
    }));
    let error = open_one(&api).await.unwrap_err();
    assert!(matches!(error, SecretError::Lost { .. }), "{error}");
    assert!(secret(&api).is_none());
}

#[tokio::test]
async fn published_root_is_kept_right_and_nothing_else_touched() {
    let api = ApiServer::new();
    let client = client(&api);
    let keeping = tokio::spawn(async move { match publish(client, NAMESPACE, "ours").await {} });
    let data = || api.get("", "ConfigMap", NAMESPACE, TRUST).map(|trust| trust["data"].clone());
    let until = async |wanted: Value| {
        let so = async {
            while data() != Some(wanted.clone()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(WAIT, so).await.unwrap_or_else(|_| panic!("no {wanted}, but {:?}", data()));
    };
    until(json!({ROOT: "ours"})).await;
    let mut trust = api.get("", "ConfigMap", NAMESPACE, TRUST).unwrap();
    trust["data"] = json!({ROOT: "another's", "kept": "yes"});
    api.put(trust);
    until(json!({ROOT: "ours", "kept": "yes"})).await;
    api.remove("", "ConfigMap", NAMESPACE, TRUST);
    until(json!({ROOT: "ours"})).await;
    keeping.abort();
}
