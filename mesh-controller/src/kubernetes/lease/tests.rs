//! Two candidates and a small API server in process.

use weft_testkit::apiserver::ApiServer;

use super::*;

const WAIT: Duration = Duration::from_secs(20);

struct Replica {
    leadership: watch::Receiver<Leadership>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Replica {
    fn start(api: &ApiServer, number: u8) -> Self {
        let (told, leadership) = watch::channel(Leadership::Follower { leader: None });
        let stop = CancellationToken::new();
        let candidate = Candidate {
            namespace: "weft-system".into(),
            pod: format!("weft-controller-{number}"),
            address: [10, 244, 0, number].into(),
            port: 15012,
        };
        let client = Client::new(api.clone(), "default");
        Self {
            leadership,
            stop: stop.clone(),
            task: tokio::spawn(stand_by(Times::SHORT, client, candidate, told, stop)),
        }
    }

    async fn until(&mut self, wanted: Leadership) {
        let so = self.leadership.wait_for(|now| *now == wanted);
        tokio::time::timeout(WAIT, so).await.unwrap_or_else(|_| panic!("no {wanted:?}")).unwrap();
    }
}

fn follower_of(address: &str) -> Leadership {
    Leadership::Follower { leader: Some(address.parse().unwrap()) }
}

fn holder(api: &ApiServer) -> String {
    let lease = api.get("coordination.k8s.io", "Lease", "weft-system", NAME).unwrap();
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn one_leads_the_other_knows_where_and_takes_over_when_the_lease_is_given_up() {
    let api = ApiServer::new();
    let mut one = Replica::start(&api, 1);
    one.until(Leadership::Leader).await;
    assert_eq!(holder(&api), "weft-controller-1_10.244.0.1");
    let mut two = Replica::start(&api, 2);
    two.until(follower_of("10.244.0.1:15012")).await;

    one.stop.cancel();
    one.task.await.unwrap();
    two.until(Leadership::Leader).await;
    assert_eq!(holder(&api), "weft-controller-2_10.244.0.2");
    assert_eq!(*one.leadership.borrow(), Leadership::Follower { leader: None });
    let mut one = Replica::start(&api, 1);
    one.until(follower_of("10.244.0.2:15012")).await;
}

#[tokio::test]
async fn leader_that_finds_another_in_its_place_follows() {
    let api = ApiServer::new();
    let mut one = Replica::start(&api, 1);
    one.until(Leadership::Leader).await;
    let mut lease = api.get("coordination.k8s.io", "Lease", "weft-system", NAME).unwrap();
    lease["spec"]["holderIdentity"] = "weft-controller-9_10.244.0.9".into();
    api.put(lease);
    one.until(follower_of("10.244.0.9:15012")).await;
}

#[tokio::test]
async fn lease_that_is_gone_is_made_anew() {
    let api = ApiServer::new();
    let mut one = Replica::start(&api, 1);
    one.until(Leadership::Leader).await;
    api.remove("coordination.k8s.io", "Lease", "weft-system", NAME);
    let made = async {
        while api.get("coordination.k8s.io", "Lease", "weft-system", NAME).is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(WAIT, made).await.unwrap();
    assert_eq!(*one.leadership.borrow(), Leadership::Leader);
}

#[tokio::test]
async fn leader_that_cannot_renew_stops_leading_and_stands_again() {
    let api = ApiServer::new();
    let mut one = Replica::start(&api, 1);
    one.until(Leadership::Leader).await;
    api.fail(|_| Some(503));
    one.until(Leadership::Follower { leader: None }).await;
    api.heal();
    one.until(Leadership::Leader).await;
}

#[tokio::test]
async fn leader_that_vanishes_is_replaced_when_its_lease_has_run_out() {
    let api = ApiServer::new();
    let mut one = Replica::start(&api, 1);
    one.until(Leadership::Leader).await;
    let mut two = Replica::start(&api, 2);
    two.until(follower_of("10.244.0.1:15012")).await;
    one.task.abort();
    two.until(Leadership::Leader).await;
    assert_eq!(holder(&api), "weft-controller-2_10.244.0.2");
}
