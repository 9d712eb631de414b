//! The mesh's object on a small API server in process.

use weft_testkit::apiserver::ApiServer;

use super::*;

const WAIT: Duration = Duration::from_secs(20);

fn get(api: &ApiServer, name: &str) -> Option<Value> {
    api.get(GROUP, "XMesh", "", name)
}

fn put(api: &ApiServer, name: &str, spec: Value) {
    api.put(json!({
        "apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XMesh", "metadata": {"name": name},
        "spec": spec,
    }));
}

fn keep_of(api: &ApiServer) -> tokio::task::JoinHandle<()> {
    let client = Client::new(api.clone(), "default");
    tokio::spawn(async move { match keep(client, "weft-system").await {} })
}

async fn until(api: &ApiServer, name: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let so = async {
        loop {
            match get(api, name).filter(&is_so) {
                Some(object) => return object,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(WAIT, so)
        .await
        .unwrap_or_else(|_| panic!("{what} did not come about: {:?}", get(api, name)))
}

fn accepted(object: &Value) -> &Value {
    &object["status"]["conditions"][0]
}

#[test]
fn features_are_sorted_and_each_is_there_once() {
    assert!(FEATURES.is_sorted_by(|one, next| one < next));
}

#[tokio::test]
async fn object_is_made_when_its_kind_appears_and_made_again_when_it_is_gone() {
    let api = ApiServer::new();
    let keeping = keep_of(&api);
    api.define(GROUP, "XMesh", &["v1alpha1"]);
    let made = until(&api, NAME, "the status", |it| accepted(it)["status"] == "True").await;
    assert_eq!(made["spec"], json!({"controllerName": CONTROLLER_NAME}));
    assert_eq!(accepted(&made)["observedGeneration"], 1);
    let features: Vec<_> = made["status"]["supportedFeatures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["name"].as_str().unwrap())
        .collect();
    assert_eq!(features, FEATURES);
    api.remove(GROUP, "XMesh", "", NAME);
    until(&api, NAME, "another", |it| accepted(it)["status"] == "True").await;
    keeping.abort();
}

#[tokio::test]
async fn objects_of_ours_get_a_status_and_those_of_others_are_left_alone() {
    let api = ApiServer::new();
    api.define(GROUP, "XMesh", &["v1alpha1"]);
    put(&api, NAME, json!({"controllerName": "example.com/other"}));
    let others = get(&api, NAME);
    put(&api, "mine", json!({"controllerName": CONTROLLER_NAME}));
    let parameters = json!({"group": "", "kind": "ConfigMap", "name": "x"});
    put(&api, "odd", json!({"controllerName": CONTROLLER_NAME, "parametersRef": parameters}));
    let keeping = keep_of(&api);
    let mine = until(&api, "mine", "the status", |it| accepted(it)["status"] == "True").await;
    let odd = until(&api, "odd", "the refusal", |it| accepted(it)["status"] == "False").await;
    assert_eq!(accepted(&odd)["reason"], "InvalidParameters");

    // A condition of somebody else's stays; ours follows the generation and keeps its time.
    let theirs = json!({"type": "example.com/Checked", "status": "True"});
    let mut changed = mine.clone();
    changed["status"]["conditions"].as_array_mut().unwrap().push(theirs.clone());
    changed["spec"]["description"] = "new".into();
    api.put(changed);
    let after =
        until(&api, "mine", "the next generation", |it| accepted(it)["observedGeneration"] == 2).await;
    assert_eq!(after["status"]["conditions"][1], theirs);
    assert_eq!(accepted(&after)["lastTransitionTime"], accepted(&mine)["lastTransitionTime"]);
    assert_eq!(get(&api, NAME), others);
    keeping.abort();
}
