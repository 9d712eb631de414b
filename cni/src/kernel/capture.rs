//! A pod's capture as a whole: installed in order, read back, compared, and taken away in reverse (data-plane rule 1).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use rand::Rng;
use weft_api::node::Destinations;
use weft_model::Text;
use weft_runtime::netns::NetNamespace;

use super::find::{self, Interfaces};
use super::listen::{self, Listeners};
use super::sysctl::Before;
use super::{KernelError, conntrack, foreign, inside, nft, route, sysctl};
use crate::ruleset::{Mode, Ruleset, TcpProbes};

/// What is in force in one pod's namespace.
#[derive(Debug)]
pub struct Capture {
    /// The namespace.
    pub namespace: NetNamespace,
    /// The rules.
    pub ruleset: Ruleset,
    /// The sockets; shared with the proxy. `None` once released.
    pub listeners: Option<Listeners>,
    /// How nft prints the rules.
    printed: String,
    before: Vec<Before>,
}

/// Marks of a pod: random, so that no program can know them beforehand, and never zero, which means unmarked.
#[must_use]
pub fn random_marks() -> (u32, u32) {
    let mut random = rand::rng();
    let bypass = random.random_range(1..=u32::MAX);
    loop {
        let inbound = random.random_range(1..=u32::MAX);
        if inbound != bypass {
            return (bypass, inbound);
        }
    }
}

impl Ruleset {
    /// The capture rules for the namespace that this thread is in.
    ///
    /// # Errors
    /// When its interfaces cannot be listed.
    pub fn for_namespace(
        addresses: &[IpAddr],
        cluster: &[IpNet],
        (bypass_mark, inbound_mark): (u32, u32),
        probes: TcpProbes,
    ) -> Result<Self, KernelError> {
        let interfaces = Interfaces::read()?;
        Ok(Self {
            mode: Mode::Capture,
            bypass_mark,
            inbound_mark,
            ipv6: interfaces.loopback_v6(),
            outer: interfaces.with(addresses),
            cluster: cluster.to_vec(),
            probes,
            further: Destinations::default(),
        })
    }
}

impl Capture {
    /// Installs everything: sockets, settings, routes, then the rules in one transaction, and reads them back. Sockets
    /// come first, since a namespace that is captured for another pod must be left as it is: of several pod objects
    /// with one address all lead to the same namespace.
    /// `held`: the sockets as another holder kept them, instead of new ones.
    ///
    /// # Errors
    /// At the first step that fails; the steps before it have been undone.
    pub fn install(
        namespace: NetNamespace,
        addresses: &[IpAddr],
        cluster: &[IpNet],
        marks: (u32, u32),
        probes: TcpProbes,
        held: Option<Listeners>,
    ) -> Result<Self, KernelError> {
        let entered = namespace.clone();
        inside(&entered, || {
            let ruleset = Ruleset::for_namespace(addresses, cluster, marks, probes)?;
            let printed = nft::printed(&ruleset)?;
            if held.is_none() {
                foreign::refuse_sidecar(&ruleset.outer)?;
            }
            let listeners = held.map_or_else(listen::open, Ok)?;
            let before = sysctl::install(ruleset.ipv6)?;
            let installed =
                route::install(ruleset.inbound_mark, ruleset.ipv6).and_then(|()| nft::install(&ruleset));
            match installed {
                Ok(()) => {
                    let capture = Self { namespace, ruleset, listeners: Some(listeners), printed, before };
                    match capture.verify_here() {
                        Ok(()) => Ok(capture),
                        Err(error) => {
                            capture.remove_here();
                            Err(error)
                        }
                    }
                }
                Err(error) => {
                    // The routes may be half there; a namespace that never had any says nothing worth reporting.
                    let _ = route::remove(ruleset.ipv6);
                    let _ = sysctl::restore(&before);
                    Err(error)
                }
            }
        })
    }

    /// The kernel settings that were changed, by path, as they were before.
    #[must_use]
    pub fn settings(&self) -> BTreeMap<Text, u64> {
        self.before.iter().map(|before| before.said()).map(|(path, value)| (path.into(), value)).collect()
    }

    /// An earlier capture of the same namespace changed these settings.
    pub fn remember(&mut self, settings: &BTreeMap<Text, u64>) {
        let earlier = settings.iter().filter_map(|(path, value)| Before::told(path, *value));
        // Restored from the last to the first: the oldest value wins.
        self.before = earlier.chain(self.before.drain(..)).collect();
    }

    /// Is everything as it was installed?
    ///
    /// # Errors
    /// [`KernelError::Differs`] saying what is not.
    pub fn verify(&self) -> Result<(), KernelError> {
        inside(&self.namespace, || self.verify_here())
    }

    /// Are there another mesh's rules by now?
    ///
    /// # Errors
    /// [`KernelError::Sidecar`], or when they cannot be read.
    pub fn refuse_sidecar(&self) -> Result<(), KernelError> {
        inside(&self.namespace, || foreign::refuse_sidecar(&self.ruleset.outer))
    }

    fn verify_here(&self) -> Result<(), KernelError> {
        sysctl::verify(self.ruleset.ipv6)?;
        route::verify(self.ruleset.inbound_mark, self.ruleset.ipv6)?;
        if self.ruleset.mode == Mode::Capture && !self.listening() {
            return Err(KernelError::Differs { what: "the listening sockets" });
        }
        nft::verify(&self.printed)
    }

    /// Puts back what differs. Sockets that no longer listen are replaced; true: they were, and the proxy needs them.
    ///
    /// # Errors
    /// When it cannot be put back.
    pub fn repair(&mut self) -> Result<bool, KernelError> {
        let namespace = self.namespace.clone();
        inside(&namespace, || {
            sysctl::install(self.ruleset.ipv6)?;
            if route::verify(self.ruleset.inbound_mark, self.ruleset.ipv6).is_err() {
                route::install(self.ruleset.inbound_mark, self.ruleset.ipv6)?;
            }
            let replaced = self.listeners.as_mut().map_or(Ok(false), Listeners::reopen)?;
            if nft::verify(&self.printed).is_err() {
                nft::install(&self.ruleset)?;
            }
            self.verify_here()?;
            Ok(replaced)
        })
    }

    /// Puts other ports for TCP probes in force, or other addresses of the node, or other further destinations; nothing
    /// happens where they are the same.
    ///
    /// # Errors
    /// When the rules cannot be replaced; the old ones are in force then.
    pub fn follow(&mut self, probes: TcpProbes, further: Destinations) -> Result<(), KernelError> {
        if self.ruleset.probes == probes && self.ruleset.further == further {
            return Ok(());
        }
        let ruleset = Ruleset { probes, further, ..self.ruleset.clone() };
        let printed = nft::printed(&ruleset)?;
        inside(&self.namespace, || {
            nft::install(&ruleset)?;
            nft::verify(&printed)
        })?;
        (self.ruleset, self.printed) = (ruleset, printed);
        Ok(())
    }

    fn listening(&self) -> bool {
        self.listeners.as_ref().is_some_and(Listeners::listening)
    }

    /// First phase of release: nothing new is captured, what was captured lives on.
    ///
    /// # Errors
    /// When the rules cannot be replaced.
    pub fn release(&mut self) -> Result<(), KernelError> {
        self.ruleset.mode = Mode::Release;
        self.printed = nft::printed(&self.ruleset)?;
        inside(&self.namespace, || {
            nft::install(&self.ruleset)?;
            nft::verify(&self.printed)
        })
    }

    /// How many captured connections live.
    #[must_use]
    pub fn live_connections(&self) -> usize {
        self.namespace.run_in(|| find::live_connections(&listen::PORTS)).unwrap_or(0)
    }

    /// Takes everything away, in reverse. What fails is logged and the rest still done.
    pub fn remove(self) {
        let entered = self.namespace.clone();
        let _ = inside(&entered, || {
            self.remove_here();
            Ok(())
        });
    }

    fn remove_here(self) {
        let warn = |step: Result<(), KernelError>| {
            if let Err(error) = step {
                tracing::warn!(%error, "taking a pod's capture away");
            }
        };
        warn(nft::remove());
        warn(conntrack::forget_redirected(&listen::PORTS));
        drop(self.listeners);
        warn(route::remove(self.ruleset.ipv6));
        warn(sysctl::restore(&self.before));
    }
}
