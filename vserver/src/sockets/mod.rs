//! What operators see of sockets: dumps in pages, filters and words as those of `ss`.
//!
//! A page holds the worker's lock for a bounded number of slots at a time, and one request visits a
//! bounded number of slots, so that a dump of any size neither stalls traffic nor other requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weft_stack::ip::address::AliasId;
use weft_stack::socket::tcp::TcpInfo;
use weft_stack::socket::{SocketCursor, SocketInfo, SocketKind};

use crate::host::{Live, Shared};

mod filter;
mod line;
pub mod text;

pub use filter::{Filter, FilterError, States};
pub use line::{MemoryLine, SocketLine, TcpLine, TimerLine};

/// Slots visited while the lock is held once.
const SLOTS_PER_LOCK: usize = 1024;
/// Slots visited for one page.
const SLOTS_PER_PAGE: usize = 1 << 18;
/// Sockets in one page; the last stretch may bring a few more.
const LINES_PER_PAGE: usize = 4096;

/// Which sockets are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SocketQuery {
    /// Of this vserver; none: of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vserver: Option<String>,
    /// `tcp`, `udp`, `raw`, `icmp`; empty: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub protocols: Vec<String>,
    /// Which states, unless the filter names some.
    pub show: Show,
    /// A filter ([`Filter::parse`]).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub filter: String,
    /// With the inner state of connections.
    pub tcp_info: bool,
    /// Where to go on: [`SocketPage::next`] of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Place>,
}

/// Which states are shown if the filter names none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Show {
    /// All of them (`ss -a`).
    #[default]
    All,
    /// Connected (`ss`).
    Connected,
    /// Listening and unconnected (`ss -l`).
    Listening,
}

impl Show {
    fn states(self) -> States {
        match self {
            Show::All => States::ALL,
            Show::Connected => States::connected(),
            Show::Listening => States::listening(),
        }
    }
}

/// A place in the dump of a host. Opaque to clients, which give it back as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    vserver: u32,
    #[serde(default)]
    worker: u32,
    table: u8,
    slot: u32,
}

/// Some sockets, and where to go on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SocketPage {
    /// Those found; may be none although there are more.
    pub sockets: Vec<SocketLine>,
    /// To be asked for next; none: that was all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Place>,
}

/// How many sockets of what kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketSummary {
    /// By protocol and family; one bound to `::` counts as IPv6.
    pub protocols: BTreeMap<String, Families>,
    /// TCP sockets by state.
    pub tcp_states: BTreeMap<String, u64>,
    /// Connections that are closed by the application and still have something to send or to wait
    /// for, TIME-WAIT not counted.
    pub tcp_orphaned: u64,
}

/// Sockets per family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Families {
    /// IPv4.
    pub ipv4: u64,
    /// IPv6.
    pub ipv6: u64,
}

/// Why sockets are not shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// No vserver of that name.
    #[error("no vserver '{0}'")]
    NoSuchVserver(String),
    /// The filter is wrong.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// No such protocol.
    #[error("no protocol '{0}': tcp, udp, raw and icmp are known")]
    NoSuchProtocol(String),
}

/// A query made ready.
struct Search<'a> {
    shared: &'a Shared,
    live: Arc<Live>,
    filter: Filter,
    states: States,
    protocols: &'a [String],
    tcp_info: bool,
    /// Numbers of the vservers asked for.
    vservers: std::ops::Range<u32>,
}

impl<'a> Search<'a> {
    fn new(shared: &'a Shared, query: &'a SocketQuery) -> Result<Search<'a>, QueryError> {
        let known = |p: &&String| !["tcp", "udp", "raw", "icmp"].contains(&p.as_str());
        if let Some(unknown) = query.protocols.iter().find(known) {
            return Err(QueryError::NoSuchProtocol(unknown.clone()));
        }
        let live = shared.live();
        let vservers = match &query.vserver {
            None => 0..live.nodes.len() as u32,
            Some(name) => {
                let index = live.config.vservers.iter().position(|v| v.name == *name);
                let index = index.ok_or_else(|| QueryError::NoSuchVserver(name.clone()))? as u32;
                index..index + 1
            }
        };
        Ok(Search {
            shared,
            live,
            filter: Filter::parse(&query.filter)?,
            states: query.show.states(),
            protocols: &query.protocols,
            tcp_info: query.tcp_info,
            vservers,
        })
    }

    fn alias(&self, id: Option<AliasId>) -> Option<&str> {
        Some(self.live.config.aliases.get(usize::from(id?.0))?.name.as_str())
    }

    fn wants(&self, s: &SocketInfo) -> bool {
        let protocol = line::protocol(s.id.kind);
        (self.protocols.is_empty() || self.protocols.iter().any(|p| p == protocol))
            && self.filter.takes(s, self.alias(s.alias), self.states)
    }

    /// Visits one stretch under the lock; what is wanted goes to `f`, with the vserver's name.
    /// Gives the next place.
    fn stretch(
        &self,
        at: Place,
        f: &mut dyn FnMut(&str, &SocketInfo, Option<&TcpInfo>),
    ) -> Option<Place> {
        let mut found = Vec::new();
        let worker = &self.shared.workers[at.worker as usize];
        let core = worker.lock();
        let now = worker.clock.now();
        let from = SocketCursor { table: at.table, slot: at.slot };
        let id = self.live.nodes[at.vserver as usize];
        let stack = core.node(id).map(|n| &n.stack);
        let next = stack.and_then(|stack| {
            stack.dump_sockets(now, from, SLOTS_PER_LOCK, |s| {
                // A listener is on every worker, and shown once.
                let shown = at.worker > 0 && s.id.kind == SocketKind::TcpListener;
                if !shown && self.wants(&s) {
                    let tcp = if self.tcp_info { stack.tcp_info(now, s.id) } else { None };
                    found.push((s, tcp));
                }
            })
        });
        drop(core);
        for worker in &self.shared.workers[1..] {
            let listeners = found.iter_mut().filter(|(s, _)| s.id.kind == SocketKind::TcpListener);
            for (s, _) in listeners {
                let core = worker.lock();
                let node = core.node(id);
                let there = node.and_then(|n| n.stack.tcp_listener_queue(s.local));
                let (waiting, backlog) = there.unwrap_or_default();
                s.recv_queue += waiting;
                s.send_queue += backlog;
            }
        }
        let name = &self.live.config.vservers[at.vserver as usize].name;
        for (s, tcp) in &found {
            f(name, s, tcp.as_ref());
        }
        if let Some(next) = next {
            return Some(Place { table: next.table, slot: next.slot, ..at });
        }
        let next = Place { worker: at.worker + 1, table: 0, slot: 0, ..at };
        if (next.worker as usize) < self.shared.workers.len() {
            return Some(next);
        }
        let next = Place { vserver: at.vserver + 1, worker: 0, ..next };
        (next.vserver < self.vservers.end).then_some(next)
    }
}

/// The next sockets of a query.
pub(crate) fn page(shared: &Shared, query: &SocketQuery) -> Result<SocketPage, QueryError> {
    let search = Search::new(shared, query)?;
    let begin = Place { vserver: search.vservers.start, ..Place::default() };
    // A place comes from a client: one that is out of range is the end.
    let workers = shared.workers.len();
    let known = |p: &Place| search.vservers.contains(&p.vserver) && (p.worker as usize) < workers;
    let mut next = query.after.or(Some(begin)).filter(known);
    let mut sockets = Vec::new();
    for _ in 0..SLOTS_PER_PAGE / SLOTS_PER_LOCK {
        let Some(at) = next else { break };
        next = search.stretch(at, &mut |vserver, s, tcp| {
            sockets.push(SocketLine::new(vserver, search.alias(s.alias), s, tcp));
        });
        if sockets.len() >= LINES_PER_PAGE {
            break;
        }
    }
    Ok(SocketPage { sockets, next })
}

/// Counts the sockets of a query.
pub(crate) fn summary(shared: &Shared, query: &SocketQuery) -> Result<SocketSummary, QueryError> {
    let search = Search::new(shared, query)?;
    let mut summary = SocketSummary::default();
    for protocol in ["icmp", "raw", "tcp", "udp"] {
        summary.protocols.insert(protocol.to_owned(), Families::default());
    }
    let mut next = Some(Place { vserver: search.vservers.start, ..Place::default() });
    next = next.filter(|p| search.vservers.contains(&p.vserver));
    while let Some(at) = next {
        next = search.stretch(at, &mut |_, s, _| summary.add(s));
    }
    Ok(summary)
}

impl SocketSummary {
    fn add(&mut self, s: &SocketInfo) {
        let protocol = line::protocol(s.id.kind);
        if let Some(families) = self.protocols.get_mut(protocol) {
            if s.local.is_ipv4() { families.ipv4 += 1 } else { families.ipv6 += 1 }
        }
        if protocol == "tcp" {
            match self.tcp_states.get_mut(s.state) {
                Some(n) => *n += 1,
                None => drop(self.tcp_states.insert(s.state.to_owned(), 1)),
            }
            let ends = !["TIME-WAIT", "SYN-RECV", "ESTAB"].contains(&s.state);
            self.tcp_orphaned += u64::from(!s.owned && ends);
        }
    }
}
