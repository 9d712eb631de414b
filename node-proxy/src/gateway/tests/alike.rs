//! One route, one meaning: the same random HTTPRoutes on a Service and on a listener decide, change requests and answer
//! alike, and each filter runs exactly once. What may differ is named here: the fields that tell applications of a client.

use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::Full;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use weft_model::gateway::{Attachment, ListenerId};
use weft_model::route::*;
use weft_model::{ObjectName, Resource};

use super::rig::{Rig, listener};
use crate::outbound::http::tests::world::{Answer, App, Client, World, backend, invalid, rule, run};

const ROUNDS: usize = 120;

/// A filter that leaves a mark where it runs.
fn filter(random: &mut SmallRng) -> Filter {
    let marked = |name: &str| HeaderModifier {
        add: vec![(name.into(), "1".into())],
        remove: vec!["x-gone".into()],
        ..HeaderModifier::default()
    };
    match random.random_range(0..6) {
        0 | 1 => Filter::RequestHeaders(marked("x-mark")),
        2 => Filter::ResponseHeaders(marked("x-answer")),
        3 => Filter::Mirror(Mirror { target: backend("copy", 1).target, numerator: 1, denominator: 1 }),
        4 => Filter::ExternalAuth(ExternalAuth {
            server: backend("judge", 1).target,
            protocol: AuthProtocol::Http {
                prefix: "".into(),
                allowed_headers: vec![],
                allowed_response_headers: vec!["x-asked".into()],
            },
            max_body: if random.random() { 8 } else { 0 },
        }),
        _ => {
            let path = ["/whole", "/x/"].choose(random).map(|path| PathModifier::Prefix((*path).into()));
            Filter::UrlRewrite(UrlRewrite { hostname: Some("rewritten".into()), path })
        }
    }
}

fn filters(random: &mut SmallRng, most: usize) -> Vec<Filter> {
    let mut filters: Vec<_> = (0..random.random_range(0..=most)).map(|_| filter(random)).collect();
    // At most one rewrite, as the API says.
    let mut rewrites = 0;
    filters.retain(|filter| {
        rewrites += usize::from(matches!(filter, Filter::UrlRewrite(_)));
        !matches!(filter, Filter::UrlRewrite(_)) || rewrites == 1
    });
    filters
}

fn matched(random: &mut SmallRng) -> Match {
    let value = ["/", "/a", "/a/b", "/c"].choose(random).copied().unwrap_or("/").into();
    let path = match random.random_range(0..5) {
        0 => PathMatch::Regex { value: "/a/[bc].*".into() },
        1 | 2 => PathMatch::Exact { value },
        _ => PathMatch::Prefix { value },
    };
    let query = ValueMatch { name: "q".into(), value: "1".into(), regex: false };
    let query = if random.random_ratio(1, 6) { vec![query] } else { vec![] };
    let header = ValueMatch { name: "x-h".into(), value: "1".into(), regex: random.random() };
    let headers = if random.random_ratio(1, 3) { vec![header] } else { vec![] };
    let method = random.random_ratio(1, 4).then(|| "POST".into());
    Match { path, headers, method, query }
}

fn random_rule(random: &mut SmallRng) -> HttpRule {
    let matches = (0..random.random_range(1..3)).map(|_| matched(random)).collect();
    if random.random_ratio(1, 8) {
        let redirect = Redirect { port: Some(8080), status: 307, ..Redirect::default() };
        let filters = vec![Filter::Redirect(redirect)];
        return HttpRule { matches, filters, ..rule(vec![]) };
    }
    let mut filters = || filters(random, 4);
    let (of_rule, of_backend) = (filters(), filters());
    let backend = match random.random_range(0..10) {
        0 => return HttpRule { matches, filters: of_rule, ..rule(vec![]) },
        1 => invalid(1),
        2..6 => backend("one", 1),
        _ => backend("two", 1),
    };
    let backend = Backend { filters: of_backend, ..backend };
    let refusal = random.random_ratio(1, 10).then(|| Refusal { message: "it cannot be carried out".into() });
    let retry = random.random_ratio(1, 2).then(|| Retry { attempts: 2, codes: vec![503], backoff: None });
    let request_timeout = random.random_ratio(1, 2).then(|| Duration::from_secs(20));
    let mut filters = of_rule;
    if random.random_ratio(1, 4) {
        filters.push(Filter::Cors(cors()));
    }
    HttpRule { matches, filters, refusal, retry, request_timeout, ..rule(vec![backend]) }
}

fn cors() -> Cors {
    Cors {
        allow_origins: vec!["http://*.friend".into()],
        allow_credentials: false,
        allow_methods: vec!["GET".into(), "POST".into()],
        allow_headers: vec!["x-h".into()],
        expose_headers: vec!["x-answer".into()],
        max_age: 7,
    }
}

/// One object on port 80 of `shop/web` and on the listener.
fn publish(world: &World, name: &str, rules: &[HttpRule]) {
    let service = ObjectName::new("shop", "web");
    let listener = ListenerId { listener_set: None, name: "http".into() };
    let gateway = ObjectName::new("infra", "front");
    world.set(Resource::Route(Route {
        id: RouteId { kind: RouteKind::Http, name: ObjectName::new("shop", name) },
        generation: 1,
        created: 0,
        parents: vec![Parent { service, port: 80, explicit_port: true }],
        listeners: vec![Attachment { gateway, listener, hostnames: vec![] }],
        for_gateways: false,
        rules: Rules::Http(rules.to_vec()),
    }));
}

fn request(random: &mut SmallRng) -> Request<Full<bytes::Bytes>> {
    let path =
        ["/", "/a", "/a/b?q=1", "/a/b/c?q=1", "/c?q=2", "/none"].choose(random).copied().unwrap_or("/");
    let request = Request::builder().method(if random.random() { "GET" } else { "POST" }).uri(path);
    let request = request.header("host", "web").header("x-gone", "here");
    let mut request = if random.random() { request.header("x-h", "1") } else { request };
    if random.random_ratio(1, 3) {
        let origin = ["http://a.friend", "http://stranger"].choose(random).copied().unwrap_or_default();
        request = request.header("origin", origin);
        if random.random_ratio(1, 3) {
            request = request.method("OPTIONS").header("access-control-request-method", "POST");
        }
    }
    request.body(Full::from("body")).unwrap()
}

/// Without what only a Gateway tells.
fn told(answer: &Answer) -> (StatusCode, Vec<String>, Vec<String>) {
    let told = answer.body.lines().filter(|line| !line.starts_with("x-forwarded-"));
    // A Gateway's refusal names a listener in the place of a Service.
    let told = if answer.body.starts_with("weft: no_route_match") {
        vec![]
    } else {
        told.map(str::to_owned).collect()
    };
    let mut fields: Vec<_> =
        answer.fields().into_iter().filter(|field| !field.starts_with("content-length")).collect();
    fields.sort();
    (answer.status, told, fields)
}

/// Values added under a name, in one line or several.
fn marks<'a>(lines: impl Iterator<Item = &'a str>, name: &str) -> usize {
    lines.filter_map(|line| line.strip_prefix(name)).map(|values| values.split(',').count()).sum()
}

fn marks_of_answer(answer: &Answer) -> usize {
    marks(answer.fields().iter().map(String::as_str), "x-answer: ")
}

fn count(filters: &[&Filter], which: impl Fn(&Filter) -> bool) -> usize {
    filters.iter().filter(|filter| which(filter)).count()
}

/// How often the authorization server has been asked meanwhile.
fn questions(judge: &mut App) -> usize {
    std::iter::from_fn(|| judge.try_next()).count()
}

#[test]
fn the_same_routes_mean_the_same_on_a_service_and_at_a_listener() {
    run(async |world| {
        let (one, two, mut copy) = (App::echo("one").await, App::echo("two").await, App::echo("copy").await);
        let mut judge = App::judging(|_| http::Response::new(crate::body::Body::Empty)).await;
        for (name, app) in [("one", &one), ("two", &two), ("copy", &copy), ("judge", &judge)] {
            world.endpoints(name, &[app]);
        }
        let rig = Rig::new(world, vec![listener("http", None)]).await;
        let mut random = SmallRng::seed_from_u64(7);
        let (mut inside, mut outside) =
            (Client::http1(world, "shop").await, Client::http1_over(rig.connect().await).await);
        let mut answered = std::collections::BTreeMap::<u16, u32>::new();
        for _ in 0..ROUNDS {
            let routes: Vec<Vec<HttpRule>> = (0..2)
                .map(|_| (0..random.random_range(1..4)).map(|_| random_rule(&mut random)).collect())
                .collect();
            for (index, rules) in routes.iter().enumerate() {
                // So that an answer tells which rule it was.
                let named = |(place, rule): (usize, &HttpRule)| {
                    let set = vec![("x-rule".into(), format!("{index} {place}").into())];
                    let own = Filter::RequestHeaders(HeaderModifier { set, ..HeaderModifier::default() });
                    let filters = [vec![own], rule.filters.clone()].concat();
                    HttpRule { filters, ..rule.clone() }
                };
                let rules: Vec<_> = rules.iter().enumerate().map(named).collect();
                publish(world, &format!("r{index}"), &rules);
            }
            for _ in 0..4 {
                let asked = request(&mut random);
                let expected = inside.send(asked.clone()).await;
                let judged = questions(&mut judge);
                let found = outside.send(asked.clone()).await;
                assert_eq!(questions(&mut judge), judged, "{asked:?} {routes:?}");
                assert_eq!(told(&found), told(&expected), "{asked:?} {routes:?}");
                *answered.entry(found.status.as_u16()).or_default() += 1;
                if found.status != StatusCode::OK {
                    continue;
                }
                let (index, place) = found.line("x-rule").split_once(' ').unwrap();
                let chosen = &routes[index.parse::<usize>().unwrap()][place.parse::<usize>().unwrap()];
                let all: Vec<_> = chosen.filters.iter().chain(&chosen.backends[0].filters).collect();
                let marks = marks(found.body.lines(), "x-mark: ");
                assert_eq!(marks, count(&all, |f| matches!(f, Filter::RequestHeaders(_))), "{chosen:?}");
                let answers = marks_of_answer(&found);
                assert_eq!(answers, count(&all, |f| matches!(f, Filter::ResponseHeaders(_))), "{chosen:?}");
                for _ in 0..2 * count(&all, |f| matches!(f, Filter::Mirror(_))) {
                    assert_eq!(copy.next().await.line("body"), "body");
                }
                assert_eq!(judged, count(&all, |f| matches!(f, Filter::ExternalAuth(_))), "{chosen:?}");
            }
        }
        assert!(copy.try_next().is_none(), "more copies than filters");
        // The routes were of all kinds.
        assert!([200, 307, 404, 500].iter().all(|status| answered[status] > 10), "{answered:?}");
        // Preflights, which the filter itself answers.
        assert!(answered[&204] > 3, "{answered:?}");
    });
}
