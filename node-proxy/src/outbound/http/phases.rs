//! The phases of a request that a rule decides about: its filters, its backend and that one's filters; then the backend's
//! endpoints or, at a Gateway that obeys them, the routes of the Service that was chosen, once.

use std::sync::Arc;

use http::Request;
use weft_model::Reason;
use weft_model::route::{Backend, Filter, Retry};
use weft_model::service::PortProtocol;
use weft_model::session::SessionPersistence;
use weft_routing::{CompiledRule, Selection};

use super::authorize::Asking;
use super::refusal::Refused;
use super::{Connection, Last, Limited, mirrored, refuse};
use crate::body::Body;
use crate::outbound::filter::{self, Answer, Applied, Copy, Pending};
use crate::outbound::obey::{Obeyed, Obeying};
use crate::outbound::resilience::timeout::Timeouts;
use crate::outbound::route::{Target, backend_of};
use crate::outbound::session::{Session, Sessions};
use crate::state::Snapshot;
use crate::telemetry::{Named, Recorder, RuleName};

/// A request that a rule decides about.
#[derive(Clone, Copy)]
pub(super) struct Phases<'a> {
    pub(super) connection: &'a Connection,
    pub(super) snapshot: &'a Arc<Snapshot>,
    pub(super) selection: Selection<'a>,
    pub(super) grpc: bool,
    /// Once the rule has chosen a Service, that one's own routes decide.
    pub(super) obeys: bool,
    /// The rule is of a Service's own route, and this came before it.
    pub(super) after: Option<&'a Before<'a>>,
}

/// The rule of a Gateway's route that chose the Service.
pub(super) struct Before<'a> {
    rule: &'a Arc<CompiledRule>,
    sessions: &'a Sessions<'a>,
}

/// A request whose backend is chosen, as the filters have left it.
struct Chosen<'a> {
    target: Target<'a>,
    head: Box<http::request::Parts>,
    body: Body,
    /// Copies that are sent with it.
    copies: Vec<Copy<'a>>,
}

impl<'a> Phases<'a> {
    /// The rule's filters around everything else: its response filters also see refusals, so that a browser can
    /// read them (CORS). `copies`: those that earlier filters ask for.
    pub(super) async fn run(
        &self,
        head: Box<http::request::Parts>,
        body: Body,
        copies: Vec<Copy<'a>>,
        recorder: &mut Recorder,
    ) -> Result<Limited, Refused> {
        let rule = self.selection.rule;
        let name = rule.spec.name.clone().map_or(RuleName::Index(rule.index), RuleName::Name);
        let labels = &mut recorder.outcome.labels;
        if self.after.is_some() {
            labels.service_route = Some((rule.route.id.clone(), name));
        } else {
            labels.route = Some(Named::Known(rule.route.id.clone()));
            labels.rule = Some(name);
        }
        if let Some(refusal) = &rule.refusal {
            return Err(Refused::new(Reason::InvalidRoute, &*refusal.message));
        }
        let sessions = self.sessions(&head);
        let mut pending = Pending { copies, ..Pending::default() };
        let through = self.through_rule(head, body, &sessions, &mut pending, recorder);
        let (mut response, deadline) = match through.await {
            Ok(limited) => limited,
            Err(Answer::Filter(response)) => {
                recorder.outcome.labels.reason = Reason::AnsweredByFilter;
                (*response, None)
            }
            Err(Answer::Denied(response, deadline)) => {
                recorder.outcome.labels.reason = Reason::AuthDenied;
                (*response, deadline)
            }
            Err(Answer::Refused(refused)) => (refuse(&refused, self.grpc, &mut recorder.outcome), None),
        };
        filter::apply_to_response(&rule.spec.filters, &pending, response.headers_mut())?;
        sessions.tell(response.headers_mut());
        Ok((response, deadline))
    }

    /// The rule's request filters, its backend, and the backend's filters around what comes then.
    async fn through_rule(
        &self,
        mut head: Box<http::request::Parts>,
        mut body: Body,
        sessions: &Sessions<'_>,
        pending: &mut Pending<'a>,
        recorder: &mut Recorder,
    ) -> Result<Limited, Answer> {
        let rule = self.selection.rule;
        self.filter_request(&rule.spec.filters, (&mut head, &mut body), pending, recorder).await?;
        let backend = rule.next_backend();
        let target = backend_of(self.snapshot, backend)?;
        recorder.outcome.labels.backend.clone_from(&target.service);
        let backend_filters = backend.map_or(&[][..], |backend: &Backend| &backend.filters);
        let mut of_backend = Pending::default();
        self.filter_request(backend_filters, (&mut head, &mut body), &mut of_backend, recorder).await?;
        let copies = pending.copies.drain(..).chain(of_backend.copies.drain(..)).collect();
        let chosen = Chosen { target, head, body, copies };
        let (mut response, deadline) = if self.obeys {
            // Boxed: few requests go on so, and all would carry its size.
            Box::pin(self.at_service(chosen, sessions, recorder)).await?
        } else {
            self.send(chosen, sessions, recorder).await?
        };
        filter::apply_to_response(backend_filters, &of_backend, response.headers_mut())?;
        Ok((response, deadline))
    }

    /// The routes of the Service that was chosen decide; where it has none, its endpoints get the request.
    async fn at_service(
        &self,
        chosen: Chosen<'a>,
        sessions: &Sessions<'_>,
        recorder: &mut Recorder,
    ) -> Result<Limited, Refused> {
        let obeying = Obeying {
            snapshot: self.snapshot,
            namespace: &self.connection.origin.sender.enrolled.pod.namespace,
            after: &self.selection.rule.route.id,
        };
        let labels = &mut recorder.outcome.labels;
        match obeying.request(&chosen.target, &chosen.head, labels)? {
            Obeyed::Nothing => self.send(chosen, sessions, recorder).await,
            Obeyed::Stream(rule) => {
                let target = obeying.follow(PortProtocol::Tcp, rule, labels)?;
                let own = match self.selection.rule.spec.session {
                    Some(_) => Sessions::default(),
                    None => Sessions::of_target(&target, |spec| self.session(spec, &chosen.head)),
                };
                let sessions = if own.is_empty() { sessions } else { &own };
                let (mut response, deadline) =
                    self.send(Chosen { target, ..chosen }, sessions, recorder).await?;
                own.tell(response.headers_mut());
                Ok((response, deadline))
            }
            Obeyed::Rule(selection) => {
                let before = Before { rule: self.selection.rule, sessions };
                let phases = Phases { selection, obeys: false, after: Some(&before), ..*self };
                let Chosen { head, body, copies, .. } = chosen;
                phases.run(head, body, copies, recorder).await
            }
        }
    }

    /// Sends it to one of its backend's endpoints, and the copies to theirs.
    async fn send(
        &self,
        chosen: Chosen<'_>,
        sessions: &Sessions<'_>,
        recorder: &mut Recorder,
    ) -> Result<Limited, Refused> {
        let Chosen { target, head, body, copies } = chosen;
        let body = mirrored::send_copies(self.connection, self.snapshot, copies, body);
        let before = || self.after.and_then(|before| before.sessions.at(&target));
        let last = Last {
            snapshot: self.snapshot,
            rule: Some(self.selection.rule),
            retry: self.retry(),
            timeouts: self.timeouts(recorder),
            session: sessions.at(&target).or_else(before),
            grpc: self.grpc,
            target,
        };
        self.connection.exchange(last, Box::new(Request::from_parts(*head, body)), recorder).await
    }

    /// All of `filters`, in their order, asking where one has to ask.
    async fn filter_request<'f>(
        &self,
        filters: &'f [Filter],
        (head, body): (&mut http::request::Parts, &mut Body),
        pending: &mut Pending<'f>,
        recorder: &mut Recorder,
    ) -> Result<(), Answer> {
        let mut rest = filters;
        while let Applied::Ask(auth, after) = filter::apply_to_request(rest, self.context(), head, pending)? {
            let asking = Asking {
                connection: self.connection,
                snapshot: self.snapshot,
                rule: Some(self.selection.rule),
                limit: self.timeouts(recorder).request,
                auth,
                grpc: self.grpc,
            };
            // Boxed: few requests are asked about, and all would carry its size.
            let granted = Box::pin(asking.run(head, body, recorder)).await?;
            pending.granted.extend(granted);
            rest = after;
        }
        Ok(())
    }

    fn context(&self) -> filter::Context<'a> {
        filter::Context {
            turns: &self.connection.worker.mirrors,
            matched: self.selection.matched,
            port: self.connection.origin.dialled().port(),
            scheme: self.connection.origin.scheme(),
        }
    }

    /// The time limits of all rules that decide: what ends first ends the request.
    fn timeouts(&self, recorder: &Recorder) -> Timeouts {
        let own = Timeouts::of(&self.selection.rule.spec, recorder.start());
        self.after.map_or(own, |before| own.within(Timeouts::of(&before.rule.spec, recorder.start())))
    }

    /// Retries are never multiplied: the Service's own route says how often, the Gateway's where that says nothing.
    fn retry(&self) -> Option<&'a Retry> {
        let before = || self.after.and_then(|before| before.rule.spec.retry.as_ref());
        self.selection.rule.spec.retry.as_ref().or_else(before)
    }

    /// The sessions of the rule. What a rule says comes before what policies say, also that of a rule before it.
    fn sessions(&self, head: &http::request::Parts) -> Sessions<'a> {
        let rule = &self.selection.rule.spec;
        let before = self.after.is_some_and(|before| before.rule.spec.session.is_some());
        if before && rule.session.is_none() {
            return Sessions::default();
        }
        Sessions::of_rule(rule, self.snapshot, |spec| self.session(spec, head))
    }

    fn session<'r>(&self, spec: &'r SessionPersistence, head: &http::request::Parts) -> Session<'r> {
        self.connection.session(spec, head)
    }
}
