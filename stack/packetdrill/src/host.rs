//! A host in virtual time: one stack on a line of bare IP packets, and descriptors on top.
//!
//! Calls never wait: what would block gives `EAGAIN`, and whoever runs the host moves its clock and
//! tries again. Descriptors, error numbers and option names are those of Linux.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use weft_stack::Stack;
use weft_stack::frame::{Frame, FramePool};
use weft_stack::ip::address::{AliasConfig, AliasId, AliasMedium, Cidr};
use weft_stack::ip::route::Route;
use weft_stack::socket::{Event, SocketId};
use weft_stack::stack::{Change, StackConfig, TxBurst};
use weft_stack::time::Instant;

use crate::errno::Errno;

mod calls;
mod info;
mod options;
mod wait;

pub use calls::Received;
pub(crate) use info::names as info_names;
pub use info::tcp_info_bytes;
pub use wait::EpollEntry;

const ALIAS: AliasId = AliasId(0);
const FIRST_DESCRIPTOR: i32 = 3;
/// Duplicate address detection is over after this.
const SETTLING: Duration = Duration::from_secs(3);

/// What a host is made from.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Of the stack.
    pub stack: StackConfig,
    /// Our addresses with their prefix lengths; everything else is reached directly.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Of the line, bytes.
    pub mtu: usize,
}

/// What a descriptor stands for.
#[derive(Debug)]
enum Kind {
    /// A TCP socket that does neither listen nor connect yet.
    Tcp {
        bound: Option<SocketAddr>,
    },
    Listener(SocketId),
    Stream(Stream),
    Udp {
        id: Option<SocketId>,
        peer: Option<SocketAddr>,
    },
    Epoll(wait::Epoll),
}

#[derive(Debug)]
struct Stream {
    id: SocketId,
    connecting: bool,
    /// The failure was told once: from now on the stream is just over.
    told: bool,
}

#[derive(Debug)]
struct Descriptor {
    kind: Kind,
    v6: bool,
    nonblocking: bool,
    /// What `setsockopt` was given, by level and name.
    options: HashMap<(i32, i32), Vec<u8>>,
}

/// See the module's documentation.
pub struct Host {
    stack: Stack,
    now: Instant,
    descriptors: BTreeMap<i32, Descriptor>,
    transmitted: VecDeque<(Instant, Vec<u8>)>,
    /// How often each socket had an event: edges for epoll.
    edges: HashMap<SocketId, u64>,
    v4: Option<IpAddr>,
    v6: Option<IpAddr>,
    /// Where numbers of descriptors come from; by default the lowest that is free.
    numbers: Option<fn() -> Option<i32>>,
}

impl Host {
    /// A host whose addresses are usable. Its clock stands some seconds after the stack's origin.
    pub fn new(config: HostConfig) -> Result<Host, String> {
        let start = Instant::from_millis(1_000);
        let pool = FramePool::heap(8192, 2048);
        let mut stack = Stack::new(config.stack, pool, start);
        let alias = AliasConfig {
            mtu: config.mtu,
            ..AliasConfig::up_without_offload(ALIAS, AliasMedium::Ip)
        };
        let mut change = |change| stack.handle_config(start, change).map_err(|e| e.to_string());
        change(Change::AliasAdd(alias))?;
        for (addr, len) in &config.addresses {
            let cidr = Cidr::new(*addr, *len).ok_or("impossible prefix length")?;
            change(Change::AddressAdd { alias: ALIAS, cidr })?;
        }
        for unspecified in ["0.0.0.0", "::"] {
            let addr: IpAddr = unspecified.parse().map_err(|_| "an address")?;
            let prefix = Cidr::new(addr, 0).ok_or("the default route")?;
            let route = Route { prefix, via: None, alias: ALIAS, src: None, metric: 0, mtu: None };
            change(Change::RouteAdd(route))?;
        }
        let of_family =
            |v4: bool| config.addresses.iter().map(|(a, _)| *a).find(|a| a.is_ipv4() == v4);
        let mut host = Host {
            v4: of_family(true),
            v6: of_family(false),
            stack,
            now: start,
            descriptors: BTreeMap::new(),
            transmitted: VecDeque::new(),
            edges: HashMap::new(),
            numbers: None,
        };
        host.advance(start + SETTLING);
        host.transmitted.clear();
        Ok(host)
    }

    /// The clock.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// When something will happen by itself.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.stack.poll_timeout()
    }

    /// Moves the clock; everything due happens at its instant.
    pub fn advance(&mut self, to: Instant) {
        self.pump();
        while let Some(due) = self.stack.poll_timeout().filter(|due| *due <= to) {
            self.now = self.now.max(due);
            self.stack.handle_timeout(self.now);
            self.pump();
        }
        self.now = self.now.max(to);
    }

    /// A packet arrives.
    pub fn inject(&mut self, packet: &[u8]) {
        self.stack.handle_frame(self.now, ALIAS, Frame::from_heap(0, packet));
        self.pump();
    }

    /// Packets arrive together: all are taken before anything is answered.
    pub fn inject_together(&mut self, packets: &[Vec<u8>]) {
        for packet in packets {
            self.stack.handle_frame(self.now, ALIAS, Frame::from_heap(0, packet));
        }
        self.pump();
    }

    /// The oldest packet sent and not taken yet, with its time.
    pub fn take_transmitted(&mut self) -> Option<(Instant, Vec<u8>)> {
        self.transmitted.pop_front()
    }

    /// A change of the path or the addresses.
    pub fn change(&mut self, change: Change) -> Result<(), String> {
        let result = self.stack.handle_config(self.now, change).map_err(|e| e.to_string());
        self.pump();
        result
    }

    /// The line takes packets of at most `mtu` bytes from now on.
    pub fn set_mtu(&mut self, mtu: usize) -> Result<(), String> {
        self.change(Change::AliasLink { alias: ALIAS, up: true, mtu })
    }

    /// The stack, for its counters.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// Our address of a family.
    pub fn local(&self, v4: bool) -> Option<IpAddr> {
        if v4 { self.v4 } else { self.v6 }
    }

    /// Takes out of the stack what it has to say.
    fn pump(&mut self) {
        loop {
            let mut burst = TxBurst::new(64);
            if self.stack.poll_transmit(self.now, &mut burst) == 0 {
                break;
            }
            for (_, frame) in burst.frames {
                self.transmitted.push_back((self.now, frame.to_heap().data().to_vec()));
            }
        }
        while let Some(event) = self.stack.poll_event() {
            if let Event::Socket { id, .. } = event {
                *self.edges.entry(id).or_default() += 1;
            }
        }
    }

    /// Takes the numbers of new descriptors from `numbers`.
    pub fn set_numbers(&mut self, numbers: fn() -> Option<i32>) {
        self.numbers = Some(numbers);
    }

    fn insert(&mut self, kind: Kind, v6: bool) -> i32 {
        let mut fd = self.numbers.and_then(|next| next()).unwrap_or(FIRST_DESCRIPTOR);
        while self.descriptors.contains_key(&fd) {
            fd += 1;
        }
        let descriptor = Descriptor { kind, v6, nonblocking: false, options: HashMap::new() };
        self.descriptors.insert(fd, descriptor);
        fd
    }

    fn descriptor(&mut self, fd: i32) -> Result<&mut Descriptor, Errno> {
        self.descriptors.get_mut(&fd).ok_or(Errno(libc::EBADF))
    }

    /// Whether calls on `fd` wait.
    pub fn is_blocking(&self, fd: i32) -> bool {
        self.descriptors.get(&fd).is_some_and(|d| !d.nonblocking)
    }

    /// The socket of the stack behind a descriptor.
    fn socket_of(&self, fd: i32) -> Option<SocketId> {
        match &self.descriptors.get(&fd)?.kind {
            Kind::Listener(id) | Kind::Udp { id: Some(id), .. } => Some(*id),
            Kind::Stream(stream) => Some(stream.id),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
