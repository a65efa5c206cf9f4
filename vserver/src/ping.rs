//! Echo requests of operators, through the control socket: sessions that a client fills and asks,
//! so that no request waits for an answer from the network.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::net::{EchoAnswer, Family, IcmpSocket, RawOption};
use crate::{Host, Vserver};

/// Sessions at a time.
const SESSIONS_MAX: usize = 16;
/// One that nobody asks for is closed after this time.
const IDLE: Duration = Duration::from_secs(30);
/// The longest payload.
const PAYLOAD_BYTES_MAX: usize = 65_000;

/// A step of a session: sends a request, or not, and takes what came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PingStep {
    /// The session, from the answer to its first step; none: a new one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<u64>,
    /// Of this vserver; may be left out if there is only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vserver: Option<String>,
    /// Whom to ask: an address, of a link-local one with its alias (`fe80::1%data0`).
    pub to: String,
    /// Sequence number of a request to send now; none: only look.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send: Option<u16>,
    /// Bytes of payload.
    pub payload_bytes: usize,
    /// TTL or hop limit; none: the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hop_limit: Option<u8>,
}

/// What came since the last step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingAnswers {
    /// The session, for the next step.
    pub session: u64,
    /// The vserver that asks.
    pub vserver: String,
    /// In order of arrival.
    pub answers: Vec<PingLine>,
}

/// One answer, or error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PingLine {
    /// Sequence number of the request.
    pub sequence: u16,
    /// Who answered; none: known here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Round-trip time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
    /// TTL or hop limit as the answer arrived.
    pub hop_limit: u8,
    /// Bytes of payload that came back.
    pub payload_bytes: usize,
    /// Why no answer will come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Why a step was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PingError {
    /// No vserver of that name.
    #[error("no vserver '{0}'")]
    NoSuchVserver(String),
    /// There are several vservers and none was named.
    #[error("there are {0} vservers; name the one that is to ask")]
    Ambiguous(usize),
    /// Not an address.
    #[error("'{0}' is no address (10.0.0.1, fd00::1, fe80::1%ALIAS)")]
    Address(String),
    /// Too many sessions.
    #[error("{SESSIONS_MAX} pings are running; try again later")]
    Busy,
    /// The session is over.
    #[error("the ping was idle for too long and is over")]
    Over,
    /// The stack refused.
    #[error("echo request to {to}: {source}")]
    Socket {
        /// Whom.
        to: String,
        /// Why.
        source: std::io::Error,
    },
}

struct Session {
    socket: IcmpSocket,
    vserver: String,
    to: SocketAddr,
    used: Instant,
}

/// The sessions of one host.
pub struct Pings {
    host: Arc<Host>,
    open: Mutex<(u64, HashMap<u64, Session>)>,
}

impl std::fmt::Debug for Pings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pings").field("open", &self.open.lock().1.len()).finish_non_exhaustive()
    }
}

impl Pings {
    /// No sessions.
    pub fn new(host: Arc<Host>) -> Pings {
        Pings { host, open: Mutex::new((0, HashMap::new())) }
    }

    /// Closes sessions that nobody asks for any more.
    pub fn sweep(&self) {
        self.open.lock().1.retain(|_, s| s.used.elapsed() < IDLE);
    }

    /// The vserver that a step is about, if there is one.
    pub fn vserver_of(&self, step: &PingStep) -> Option<String> {
        match step.session {
            Some(number) => self.open.lock().1.get(&number).map(|s| s.vserver.clone()),
            None => self.vserver(step).ok().map(|v| v.name().to_owned()),
        }
    }

    /// One step of a session. Does not wait.
    pub fn step(&self, step: &PingStep) -> Result<PingAnswers, PingError> {
        let mut open = self.open.lock();
        let number = match step.session {
            Some(number) => number,
            None if open.1.len() >= SESSIONS_MAX => return Err(PingError::Busy),
            None => {
                let session = self.begin(step)?;
                open.0 += 1;
                let number = open.0;
                open.1.insert(number, session);
                number
            }
        };
        let session = open.1.get_mut(&number).ok_or(PingError::Over)?;
        session.used = Instant::now();
        if let Some(sequence) = step.send {
            let payload: Vec<u8> =
                (0..step.payload_bytes.min(PAYLOAD_BYTES_MAX)).map(|i| i as u8).collect();
            let sent = session.socket.send_echo(sequence, &payload, Some(session.to));
            sent.map_err(|source| PingError::Socket { to: step.to.clone(), source })?;
        }
        let answers = std::iter::from_fn(|| session.socket.recv_answer().ok()).map(line).collect();
        Ok(PingAnswers { session: number, vserver: session.vserver.clone(), answers })
    }

    fn vserver(&self, step: &PingStep) -> Result<Vserver, PingError> {
        if let Some(name) = &step.vserver {
            let found = self.host.vserver(name);
            return found.ok_or_else(|| PingError::NoSuchVserver(name.clone()));
        }
        let mut all = self.host.vservers();
        match (all.len(), all.pop()) {
            (1, Some(only)) => Ok(only),
            (n, _) => Err(PingError::Ambiguous(n)),
        }
    }

    fn begin(&self, step: &PingStep) -> Result<Session, PingError> {
        let vserver = self.vserver(step)?;
        let to = destination(&vserver, &step.to);
        let to = to.ok_or_else(|| PingError::Address(step.to.clone()))?;
        let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
        let failed = |source| PingError::Socket { to: step.to.clone(), source };
        let socket = IcmpSocket::open(&vserver, family).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        socket.set_option(RawOption::HopLimit(step.hop_limit)).map_err(failed)?;
        Ok(Session { socket, vserver: vserver.name().to_owned(), to, used: Instant::now() })
    }
}

/// An address with the scope of its alias, if it has one.
fn destination(vserver: &Vserver, text: &str) -> Option<SocketAddr> {
    if let Some((addr, alias)) = text.split_once('%') {
        let scope = u32::from(vserver.alias(alias)?.0) + 1;
        return Some(SocketAddrV6::new(addr.parse().ok()?, 0, 0, scope).into());
    }
    Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, 0))
}

fn line(answer: EchoAnswer) -> PingLine {
    PingLine {
        sequence: answer.sequence,
        from: answer.from.map(|a| a.ip().to_string()),
        rtt_us: answer.rtt.map(|t| t.as_micros() as u64),
        hop_limit: answer.hop_limit,
        payload_bytes: answer.result.as_ref().map_or(0, bytes::Bytes::len),
        error: answer.result.err().map(|e| e.to_string()),
    }
}
