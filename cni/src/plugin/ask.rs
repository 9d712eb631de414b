//! Asking the agent, with one deadline over everything: a runtime waits for us, and DEL must not hold a pod up.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};
use weft_api::cni::{Request, Response};

use super::config::Config;
use super::{Failure, TRY_AGAIN_LATER, failure};

/// How long DEL may take (data-plane rule 26).
pub(super) const END_LIMIT: Duration = Duration::from_secs(2);

const MAX_ANSWER: usize = 64 * 1024;

/// Puts a request to the agent. An agent that cannot be reached, or is late, means: try again later.
pub(super) fn ask(config: &Config, request: &Request, limit: Duration) -> Result<(), Failure> {
    match exchange(config, request, Instant::now() + limit) {
        Ok(Response::Ok) => Ok(()),
        Ok(Response::Error { code, message }) => Err(failure(code, message)),
        Err(error) => {
            let socket = config.agent_socket.display();
            let problem =
                format!("weft-agent at {socket} did not answer: {error}; is it running on this node?");
            Err(failure(TRY_AGAIN_LATER, problem))
        }
    }
}

fn exchange(config: &Config, request: &Request, deadline: Instant) -> io::Result<Response> {
    let left = || {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::Error::from(io::ErrorKind::TimedOut)) } else { Ok(left) }
    };
    let mut socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Not plain connect(): with an agent that hangs and a full queue that one would wait without end.
    socket.connect_timeout(&SockAddr::unix(&config.agent_socket)?, left()?)?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    socket.set_write_timeout(Some(left()?))?;
    socket.write_all(&line)?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !answer.ends_with(b"\n") {
        socket.set_read_timeout(Some(left()?))?;
        let count = match socket.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            other => other?,
        };
        answer.extend_from_slice(buffer.get(..count).unwrap_or_default());
        if count == 0 || answer.len() > MAX_ANSWER {
            return Err(io::Error::other("it closed without an answer"));
        }
    }
    Ok(serde_json::from_slice(&answer)?)
}
