//! Builds every part of the controller once, in the order in which they depend on each other, and runs them.

mod serving;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_ca::{Authenticator, Authority, NodeSecretAuthenticator, Settings};
use weft_ca::{TokenReviewAuthenticator, TokenReviewSettings};
use weft_model::workload::Exempt;
use weft_runtime::admin::{Admin, Answer};
use weft_runtime::logging::Level;
use weft_runtime::metrics::Metrics;

use crate::awaited::Awaited;
use crate::config::{Config, FolderArgs, SourceArgs};
use crate::control::Control;
use crate::enrolment;
use crate::enrolment::folder::Folder;
use crate::enrolment::keeper::{Keeper, Shown};
use crate::enrolment::memory::Memory;
use crate::folder::WatchedFolder;
use crate::infrastructure;
use crate::infrastructure::refused::Refused;
use crate::kubernetes::lead::{Duties, lead};
use crate::kubernetes::lease::Candidate;
use crate::kubernetes::namespaces::Namespaces;
use crate::kubernetes::statuses::ApiStatuses;
use crate::kubernetes::{Kubernetes, LeaderMetrics, StatusMetrics, WatchMetrics, root};
use crate::leadership::Leadership;
use crate::metrics::ControlMetrics;
use crate::publish::Peer;
use crate::server::{Progress, Server, Snapshots};
use crate::source::Source;
use crate::status::{StatusSink, StatusWriter};

/// Runs until `stop` is cancelled.
///
/// # Errors
/// What keeps the controller from starting, with what to do; and the failure of a part that cannot be done without.
pub async fn run(config: Config, level: Level, stop: CancellationToken) -> anyhow::Result<()> {
    let begun = Begun::begin(&config, level, stop)?;
    match config.source()? {
        SourceArgs::Folder(folder) => begun.with_folder(folder).await,
        SourceArgs::Kubernetes { pod, namespace, address } => {
            let candidate = Candidate {
                namespace: namespace.to_owned(),
                pod: pod.to_owned(),
                address,
                port: config.listen.port(),
            };
            Box::pin(begun.with_kubernetes(candidate)).await
        }
    }
}

/// What does not depend on where objects come from.
struct Begun<'a> {
    config: &'a Config,
    metrics: Metrics,
    control_metrics: ControlMetrics,
    admin: Admin,
    stop: CancellationToken,
}

impl<'a> Begun<'a> {
    fn begin(config: &'a Config, level: Level, stop: CancellationToken) -> anyhow::Result<Self> {
        let mut metrics = Metrics::new("weft_controller");
        let control_metrics = ControlMetrics::register(&mut metrics);
        let mut admin = Admin::new();
        admin.serve_logging(level);
        Ok(Self { config, metrics, control_metrics, admin, stop })
    }

    fn settings(&self) -> Settings {
        let settings = Settings::new(self.config.mesh.to_model().trust_domain);
        Settings { leaf_lifetime: self.config.leaf_lifetime, ..settings }
    }

    /// What Gateways' proxies are made with.
    fn gateways(&self, root_pem: String) -> infrastructure::Settings {
        let args = &self.config.gateways;
        infrastructure::Settings {
            image: args.gateway_image.clone(),
            pull_policy: args.gateway_image_pull_policy.clone(),
            pull_secrets: args.gateway_image_pull_secrets.clone(),
            controller: args.gateway_controller.clone(),
            controller_name: self.config.serving_name.clone(),
            root_pem,
            trust_domain: self.config.mesh.to_model().trust_domain,
        }
    }

    async fn with_folder(mut self, args: FolderArgs<'_>) -> anyhow::Result<()> {
        let FolderArgs { folder, status_dir, ca_dir, node_secrets, infrastructure_dir } = args;
        let authority = Authority::open(ca_dir, self.settings(), SystemTime::now());
        let authority = authority.context("the certificate authority")?;
        let source = WatchedFolder::new(folder).with_context(|| {
            format!("--folder {}: it cannot be watched; does it exist?", folder.display())
        })?;
        tracing::info!(folder = %folder.display(), "reading objects from a folder");
        let progress = Arc::new(Progress::default());
        let leadership = Leadership::alone();
        let keeper = self.keeper(Folder::new(status_dir), &progress, &leadership);
        let mut control = self.control(source, StatusWriter::new(status_dir)).with_enrolment(keeper);
        if let Some(made) = infrastructure_dir {
            let (refusals, refused) = watch::channel(Refused::new());
            control = control.with_infrastructure(self.gateways(authority.root_pem()), refused);
            let desired = control.infrastructure().context("what Gateways need")?;
            let keeping = infrastructure::folder::keep(made.to_owned(), desired, refusals)
                .with_context(|| format!("--infrastructure-dir {}: cannot be written to", made.display()))?;
            tokio::spawn(keeping);
        }
        let authenticator = NodeSecretAuthenticator::new(node_secrets, authority.trust_domain().clone());
        self.serve(control, authority, authenticator, leadership, progress).await
    }

    async fn with_kubernetes(mut self, candidate: Candidate) -> anyhow::Result<()> {
        let client = kube::Client::try_default().await.context(
            "there is no API server to talk to: run this in a pod, or give KUBECONFIG the path of a kubeconfig file",
        )?;
        let authority = tokio::select! {
            authority = root::authority(&client, &candidate.namespace, self.settings()) => authority,
            () = self.stop.cancelled() => return Ok(()),
        };
        let authority = authority.context("the certificate authority")?;
        let metrics = WatchMetrics::register(&mut self.metrics);
        let mut source = Kubernetes::start(&client, self.config.mesh.to_model(), metrics);
        source.watch_uninstallation(&client, &candidate.namespace);
        source.watch_policy_engines(&client);
        let (watches, noted) = (source.watches(), source.watches());
        self.admin.ready_unless(move || watches.missing());
        self.admin.note(move || noted.troubles());
        let sink = ApiStatuses::default();
        let provision = self.gateways(authority.root_pem());
        let wanted = sink.wanted();
        let (refusals, refused) = watch::channel(Refused::new());
        let control = self.control(source, sink).with_infrastructure(provision, refused);
        let duties = Duties {
            wanted,
            infrastructure: control.infrastructure().context("what Gateways need")?,
            refused: refusals,
            root_pem: authority.root_pem(),
            statuses: StatusMetrics::register(&mut self.metrics),
            leader: LeaderMetrics::register(&mut self.metrics),
        };
        let settings =
            TokenReviewSettings::new(authority.trust_domain().clone(), candidate.namespace.as_str());
        let authenticator = TokenReviewAuthenticator::new(client.clone(), settings);
        let (leadership, leads) = watch::channel(Leadership::Follower { leader: None });
        let progress = Arc::new(Progress::default());
        let keeper = self.keeper(Namespaces::new(client.clone()), &progress, &leads);
        let control = control.with_enrolment(keeper);
        let snapshots = control.snapshots();
        let leading = tokio::spawn(lead(client, candidate, snapshots, leadership, duties, self.stop.clone()));
        let served = self.serve(control, authority, authenticator, leads, progress).await;
        leading.await.context("the leader's work")?;
        served
    }

    fn keeper(
        &mut self,
        memory: impl Memory,
        progress: &Arc<Progress>,
        leadership: &watch::Receiver<Leadership>,
    ) -> Keeper {
        let settings = enrolment::Settings { deadline: self.config.enrol_deadline, ..Default::default() };
        let keeper = Keeper::new(memory, settings, Arc::clone(progress), leadership.clone());
        show_enrolment(&mut self.admin, keeper.shown());
        keeper
    }

    fn control<S: Source, W: StatusSink>(&self, source: S, sink: W) -> Control<S, W> {
        // Versions go on rising when the controller starts again: its clock is far ahead of its counting.
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let version = u64::try_from(since.as_millis()).unwrap_or_default();
        let mesh = self.config.mesh.to_model();
        Control::new(source, sink, mesh, version, self.control_metrics.clone())
            .with_awaited(Awaited::new(self.config.gateways.gateway_address_timeout))
            .with_exempt(Exempt::with(self.config.exempt_namespaces.iter().chain(&self.config.pod_namespace)))
    }

    async fn serve<S: Source, W: StatusSink, A: Authenticator>(
        self,
        control: Control<S, W>,
        authority: Authority,
        authenticator: A,
        leadership: watch::Receiver<Leadership>,
        progress: Arc<Progress>,
    ) -> anyhow::Result<()> {
        let Self { config, metrics, mut admin, stop, .. } = self;
        let control = control.with_progress(Arc::clone(&progress));
        let listener = listen(config).await?;
        let admin_listener = Admin::bind(config.admin).await?;
        let authority = Arc::new(authority);
        let tls = serving::tls(&authority, &config.serving_name, &stop)?;
        admin.serve_metrics(Arc::new(metrics));
        show(&mut admin, control.snapshots(), Arc::clone(&progress), leadership.clone());
        let server = Server {
            authenticator: Arc::new(authenticator),
            authority,
            tls,
            snapshots: control.snapshots(),
            streamed: control.streamed(),
            progress,
            leadership,
        };
        let ended = tokio::select! {
            () = server.serve(listener, stop.clone()) => Ok(()),
            ended = control.run() => ended.context("the control loop"),
            never = admin.serve(admin_listener) => match never {},
        };
        // Whatever ended it: the rest is to end as well.
        stop.cancel();
        ended
    }
}

async fn listen(config: &Config) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("--listen {}: the controller cannot listen there", config.listen))?;
    let address = listener.local_addr().context("the listening address")?;
    tracing::info!(%address, "serving proxies");
    Ok(listener)
}

/// What the admin endpoint answers of the controller's own.
fn show(
    admin: &mut Admin,
    snapshots: Snapshots,
    progress: Arc<Progress>,
    leadership: watch::Receiver<Leadership>,
) {
    let translated = snapshots.clone();
    admin.ready_when("the first translation", move || translated.borrow().is_some());
    // Everything that is published, or with ?node=NAME or ?gateway=NAMESPACE/NAME what proxies of that get.
    admin.handle("/config", move |query| {
        let snapshot = snapshots.borrow().clone();
        snapshot.map_or_else(
            || Answer::text(http::StatusCode::SERVICE_UNAVAILABLE, "nothing is published yet\n"),
            |snapshot| Answer::json(&snapshot.shown(peer(query).as_ref())),
        )
    });
    let gateways = Arc::clone(&progress);
    admin.handle("/nodes", move |_| {
        let nodes: BTreeMap<_, _> = progress.by_node();
        Answer::json(&nodes)
    });
    admin.handle("/gateways", move |_| {
        let gateways = gateways.by_gateway().into_iter().map(|(name, it)| (name.to_string(), it));
        Answer::json(&gateways.collect::<BTreeMap<_, _>>())
    });
    admin.handle("/leader", move |_| {
        let text = match &*leadership.borrow() {
            Leadership::Leader => "this replica leads\n".to_owned(),
            Leadership::Follower { leader: Some(leader) } => format!("{leader} leads\n"),
            Leadership::Follower { leader: None } => "no leader is known\n".to_owned(),
        };
        Answer::text(http::StatusCode::OK, text)
    });
}

fn peer(query: &str) -> Option<Peer> {
    let gateway = || query.strip_prefix("gateway=")?.parse().ok().map(Peer::Gateway);
    query.strip_prefix("node=").map(|node| Peer::Node(node.into())).or_else(gateway)
}

/// Every namespace that is in the mesh, on its way in or on its way out, with the pods that are waited for.
fn show_enrolment(admin: &mut Admin, enrolment: Shown) {
    admin.handle("/enrolment", move |_| Answer::json(&**enrolment.borrow()));
}
