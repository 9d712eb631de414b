//! The cases: each module has a `topology` and a `run` with the sentences that must hold in it. Those from `services` on need a
//! cluster; the others run in the lab too.

pub mod bad_input;
pub mod callers;
pub mod external_auth;
pub mod external_host;
pub mod gamma;
pub mod gateways;
pub mod grpcroute;
pub mod httproute;
pub mod lifecycle;
pub mod rolling;
pub mod service_routes;
pub mod services;
pub mod shared;
pub mod status;
pub mod streams;
pub mod traffic;
pub mod wire;
pub mod xbackend;

use crate::mesh::Checks;

/// One case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// The objects, as YAML.
    pub topology: fn() -> String,
    /// The sentences that must hold.
    pub run: fn(&mut Checks<'_>),
}

/// All cases that a cluster can be asked.
pub const ALL: &[Case] = &[
    Case {
        name: "gamma",
        about: "whose route counts, for which port, and what happens when there is none",
        topology: gamma::topology,
        run: gamma::run,
    },
    Case {
        name: "status",
        about: "what routes say about their parents",
        topology: status::topology,
        run: status::run,
    },
    Case {
        name: "callers",
        about: "callers' addresses, pods that call themselves, callers outside the mesh",
        topology: callers::topology,
        run: callers::run,
    },
    Case {
        name: "httproute",
        about: "matches, filters, mirrors, CORS, timeouts and retries of HTTPRoutes",
        topology: httproute::topology,
        run: httproute::run,
    },
    Case {
        name: "grpcroute",
        about: "GRPCRoutes, with grpcio on both sides",
        topology: grpcroute::topology,
        run: grpcroute::run,
    },
    Case {
        name: "streams",
        about: "TLSRoutes, TCPRoutes and byte streams",
        topology: streams::topology,
        run: streams::run,
    },
    Case {
        name: "external_auth",
        about: "authorization servers, asked by HTTP and gRPC, on Services, at Gateways and at their listeners",
        topology: external_auth::topology,
        run: external_auth::run,
    },
    Case {
        name: "traffic",
        about: "sessions, budgets of retries, and policies for backends",
        topology: traffic::topology,
        run: traffic::run,
    },
    Case {
        name: "xbackend",
        about: "XBackends that select pods: on Services and at Gateways, refused ones, statuses",
        topology: xbackend::topology,
        run: xbackend::run,
    },
    Case {
        name: "external_host",
        about: "XBackends that name hosts outside the cluster: called, followed, refused",
        topology: external_host::topology,
        run: external_host::run,
    },
    Case {
        name: "service_routes",
        about: "Gateways that obey the routes of the Services that they send to",
        topology: service_routes::topology,
        run: service_routes::run,
    },
    Case {
        name: "services",
        about: "affinity, traffic policies, node ports, load balancers and UDPRoutes",
        topology: services::topology,
        run: services::run,
    },
    Case { name: "wire", about: "what who taps a node sees", topology: wire::topology, run: wire::run },
    Case {
        name: "shared",
        about: "statuses that two controllers write, and manifests as the lab reads them",
        topology: shared::topology,
        run: shared::run,
    },
    Case {
        name: "lifecycle",
        about: "namespaces that enter and leave the mesh under load, many pods at once, deletion",
        topology: lifecycle::topology,
        run: lifecycle::run,
    },
    Case {
        name: "rolling",
        about: "servers that are replaced, and a controller that is restarted or away, under load",
        topology: rolling::topology,
        run: rolling::run,
    },
    Case {
        name: "gateways",
        about: "statuses, counts of routes and changes under load at Gateways",
        topology: gateways::topology,
        run: gateways::run,
    },
    Case {
        name: "bad_input",
        about: "wrong labels, references, sizes and definitions: what users are told",
        topology: bad_input::topology,
        run: bad_input::run,
    },
];
