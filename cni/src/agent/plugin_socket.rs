//! The socket where the CNI plugin asks: one JSON line in, one JSON line out.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use weft_api::cni::{Request, Response, Sandbox};
use weft_model::Text;

use super::members::{Member, MemberError, Members};
use super::pods::{Decision, Pod};
use super::sandbox;

/// The longest request, in bytes. A GC names every container of the node.
const MAX_REQUEST: u64 = 1024 * 1024;
/// How long the plugin may take to send its request.
const REQUEST_LIMIT: Duration = Duration::from_secs(2);

/// CNI error codes (spec 1.1, "Error").
const INVALID_ENVIRONMENT: u32 = 4;
const TRY_AGAIN_LATER: u32 = 11;
const NOT_AVAILABLE: u32 = 50;
/// Our own: the pod's namespace could not be made, or is not, as it has to be.
const CAPTURE_FAILED: u32 = 100;

/// Listens for plugins; mode 0600, so that only the agent's own user and root can ask.
pub(super) fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // The directory is ours alone (0700 when we made it), and nobody can be served before `serve` runs.
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves plugins for ever.
pub(super) async fn serve(listener: UnixListener, members: Arc<Members>) -> io::Result<()> {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let members = members.clone();
                tokio::spawn(async move {
                    if let Err(error) = answer(stream, &members).await {
                        tracing::warn!(%error, "answering the CNI plugin");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting the CNI plugin");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(mut stream: UnixStream, members: &Members) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(MAX_REQUEST));
    tokio::time::timeout(REQUEST_LIMIT, reader.read_line(&mut line)).await??;
    let response = match serde_json::from_str(&line) {
        Ok(request) => decide(request, members).await,
        Err(error) => refuse(CAPTURE_FAILED, format!("weft-agent does not understand weft-cni: {error}")),
    };
    let mut bytes = serde_json::to_vec(&response)?;
    bytes.push(b'\n');
    writer.write_all(&bytes).await
}

async fn decide(request: Request, members: &Members) -> Response {
    match request {
        Request::Add(sandbox) => add(&sandbox, members).await,
        Request::Del(sandbox) => {
            end(&sandbox, members).await;
            Response::Ok
        }
        Request::Check(sandbox) => check(&sandbox, members).await,
        Request::Status if members.current_link().is_some() => Response::Ok,
        Request::Status => refuse(NOT_AVAILABLE, MemberError::NoProxy.to_string()),
        Request::Gc { valid } => {
            let valid = |container: Option<&String>| container.is_none_or(|known| valid.contains(known));
            for uid in members.slots().into_keys() {
                members.end(&uid, |member| !valid(member.container.as_ref())).await;
            }
            Response::Ok
        }
    }
}

fn refuse(code: u32, message: String) -> Response {
    Response::Error { code, message }
}

async fn add(sandbox: &Sandbox, members: &Members) -> Response {
    let (mut pod, decision) = match known_pod(sandbox, members).await {
        Ok(known) => known,
        Err(response) => return response,
    };
    if decision == Decision::Leave {
        return Response::Ok;
    }
    let Some(path) = &sandbox.netns else {
        return refuse(INVALID_ENVIRONMENT, "CNI_NETNS is missing".to_owned());
    };
    let namespace = match sandbox::open(path) {
        Ok(namespace) => namespace,
        Err(error) => return refuse(INVALID_ENVIRONMENT, format!("CNI_NETNS: {error}")),
    };
    // The pod object has no addresses before its network exists.
    if !sandbox.addresses.is_empty() {
        pod.addresses.clone_from(&sandbox.addresses);
    }
    members.starting(&pod.uid);
    match members.enrol(&pod, namespace, Some(sandbox.container_id.clone())).await {
        Ok(()) => Response::Ok,
        Err(error @ (MemberError::NoProxy | MemberError::Link(_) | MemberError::Interrupted)) => {
            refuse(TRY_AGAIN_LATER, format!("pod {} is not enrolled: {error}", pod.name))
        }
        Err(error) => refuse(CAPTURE_FAILED, format!("pod {} is not enrolled: {error}", pod.name)),
    }
}

/// The pod's object and whether it is to be enrolled, waiting until both are known.
async fn known_pod(sandbox: &Sandbox, members: &Members) -> Result<(Pod, Decision), Response> {
    let Some(name) = &sandbox.pod else {
        let problem =
            "CNI_ARGS has no K8S_POD_NAMESPACE and K8S_POD_NAME: weft-cni serves Kubernetes pods only";
        return Err(refuse(INVALID_ENVIRONMENT, problem.to_owned()));
    };
    let mut pods = members.pods.clone();
    let mut found = None;
    let known = pods.wait_for(|table| {
        let Some(table) = table else { return false };
        // Another UID is an earlier pod of the same name.
        let same = |pod: &&Pod| sandbox.uid.as_ref().is_none_or(|uid| *uid == pod.uid);
        let Some(pod) = table.pods.get(name).filter(same) else { return false };
        let decision = table.decide(pod);
        found = Some((pod.clone(), decision));
        decision != Decision::Unknown
    });
    let in_time = tokio::time::timeout(members.config.pod_wait, known).await;
    match found {
        Some(found) if matches!(in_time, Ok(Ok(_))) => Ok(found),
        _ => Err(refuse(
            TRY_AGAIN_LATER,
            format!("weft-agent on {} does not know pod {name} yet", members.config.node),
        )),
    }
}

async fn end(sandbox: &Sandbox, members: &Members) {
    let namespace = sandbox.netns.as_ref().and_then(|path| sandbox::open(path).ok());
    let same_namespace = |member: &Member| match &namespace {
        Some(namespace) => namespace.id() == member.capture.namespace.id(),
        None => sandbox
            .uid
            .as_ref()
            .map_or_else(|| sandbox.pod.as_ref() == Some(&member.pod.pod), |uid| *uid == member.pod.uid),
    };
    for uid in members.slots().into_keys() {
        // A pod found by its address, or adopted: the container's name was never known.
        let this = |member: &Member| match &member.container {
            Some(container) => *container == sandbox.container_id,
            None => same_namespace(member),
        };
        if members.end(&uid, this).await {
            members.ending(&uid);
        }
    }
}

async fn check(sandbox: &Sandbox, members: &Members) -> Response {
    let (pod, decision) = match known_pod(sandbox, members).await {
        Ok(known) => known,
        Err(response) => return response,
    };
    if decision == Decision::Leave {
        return Response::Ok;
    }
    let uid: Text = pod.uid;
    match members.verify(&uid).await {
        Some(Ok(())) => Response::Ok,
        Some(Err(error)) => {
            // The answer is what is now; putting it right follows at once.
            members.wanted.notify_one();
            refuse(CAPTURE_FAILED, format!("pod {}: {error}", pod.name))
        }
        None => refuse(CAPTURE_FAILED, format!("pod {} is to be enrolled and is not", pod.name)),
    }
}
