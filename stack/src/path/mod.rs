//! The seam where the multipath shim plugs in: upper-layer identifiers (ULIDs) above, locators below.
//!
//! A [`PathLayer`] is sans-IO like the stack that owns it, and is driven by it: the stack gives it
//! every packet ([`PathLayer::egress`], [`PathLayer::ingress`]), time, changes of addresses and
//! links, ICMP errors and what TCP notices, and after each of these takes what it has to send and
//! to tell. Whatever a call below does not define behaves as a layer that maps nothing.
//!
//! - A layer that [is transparent](PathLayer::is_transparent) is asked nothing else. It may turn
//!   transparent, or cease to be, between two calls of the stack.
//! - Of one that is not, flows that [pass](PathLayer::passes) unchanged take the stack's short ways
//!   all the same; the layer is told of their packets ([`PathLayer::passed_out`] and
//!   [`PathLayer::passed_in`]) and sees no frame. A connection keeps the answer ([`Passing`]).
//! - Packets too long for a path are cut above the layer: a piece starts with an IPv6 fragment
//!   header, protocol 44, also between IPv4 ULIDs (RFC 5533 4.6). The way up takes both orders.
//! - Below, packets have locators: routes and their rules, fragments made there, capture. Above they
//!   have ULIDs: sockets, raw sockets, access rules, ICMP between ULIDs. What the layer mapped on its
//!   way up looks to everything above as if it had come with a plain header between ULIDs.

use core::net::IpAddr;

use crate::drop::DropReason;
use crate::frame::Frame;
use crate::time::{Duration, Instant};

/// Addresses of a packet as it crosses the path layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathAddrs {
    /// Source: a ULID above, a locator below.
    pub src: IpAddr,
    /// Destination.
    pub dst: IpAddr,
    /// IP protocol of the payload; a rewriting layer replaces it by its own header's.
    pub protocol: u8,
}

/// What became of a packet on its way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// It goes on, with the addresses and the protocol it has now.
    Up,
    /// The same, but whoever speaks from the source has not shown yet that packets to it reach him:
    /// rules that let that address in have to let in the one below as well.
    Unshown,
    /// It was the layer's own: a control message.
    Consumed,
}

/// What becomes of a packet on its way up of which the layer only takes its header off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// ULIDs, and the protocol of what is behind the header.
    pub addrs: PathAddrs,
    /// Bytes of the header.
    pub skip: usize,
    /// For the layer, by which it knows the packet again.
    pub by: u32,
}

/// What an ICMP error says of the packet that it quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpErrorKind {
    /// No route to the network.
    NetUnreachable,
    /// No way to the host; also said here, of a next hop that does not answer.
    HostUnreachable,
    /// The host does not know the protocol (IPv6: parameter problem, code 1).
    ProtocolUnreachable,
    /// Nobody listens.
    PortUnreachable,
    /// Somebody forbids it.
    AdminProhibited,
    /// Packet too big, fragmentation needed. IP has not lowered the PMTU yet: a transport that
    /// recognises the quoted packet as its own (RFC 5927) does.
    TooBig {
        /// Bytes of an IP packet that the link takes.
        mtu: usize,
    },
    /// The hop limit ran out.
    TimeExceeded,
    /// A field of a header.
    ParameterProblem,
}

/// The packet that an ICMP error quotes, as it was on the wire.
#[derive(Clone, Copy, Debug)]
pub struct Quoted<'a> {
    /// A locator of ours.
    pub src: IpAddr,
    /// Where it went.
    pub dst: IpAddr,
    /// Of `payload`: behind extension headers.
    pub protocol: u8,
    /// As much as is there, at least 8 bytes; whoever sent the error can have made it up.
    pub payload: &'a [u8],
}

/// What the quoted packet was above the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requoted {
    /// What it was below: the layer did not touch it.
    Same,
    /// A rewritten packet.
    Rewritten {
        /// ULIDs and the protocol of what follows `skip` bytes.
        addrs: PathAddrs,
        /// Bytes of the layer's headers at the front of the quoted payload.
        skip: usize,
        /// What the layer had added to the packet: taken off the MTU of a packet too big.
        overhead_bytes: usize,
    },
    /// The layer's own packet, or none that it knows: nobody above is told.
    Consumed,
}

/// A flow of a transport with ports, between two ULIDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PathFlow {
    /// IP protocol.
    pub protocol: u8,
    /// Our port and the peer's.
    pub ports: (u16, u16),
}

/// What the layer has to tell transports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathEvent {
    /// Packets between two ULIDs take another locator pair (local, remote) from now on.
    Switched {
        /// Only those of this flow; `None`: those of every flow but the ones that are
        /// [apart](PathLayer::is_apart).
        flow: Option<PathFlow>,
        /// ULID of this host.
        src: IpAddr,
        /// ULID of the peer.
        dst: IpAddr,
        /// The pair that was left.
        from: (IpAddr, IpAddr),
        /// The pair that is used now.
        to: (IpAddr, IpAddr),
        /// What is on its way by the pair that was left is lost.
        lost: bool,
        /// Round-trip time of the pair that is used now, if it was measured.
        rtt: Option<Duration>,
    },
    /// Nothing was sent or received between two ULIDs (ours, the peer's) for long: what the layer knows
    /// of them goes, unless [`PathLayer::keep`] follows at once because a socket is connected so.
    Quiet(IpAddr, IpAddr),
    /// No context has the ULID any longer ([`PathLayer::owns`]): unless an alias has it, what is
    /// bound to it ends.
    Released(IpAddr),
}

/// What becomes of packets between two ULIDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathWay {
    /// As of [`PathLayer::locators`].
    pub locators: (IpAddr, IpAddr),
    /// As of [`PathLayer::overhead_bytes`].
    pub overhead_bytes: usize,
    /// As of [`PathLayer::takes_super_segments`].
    pub super_segments: bool,
}

/// How segments of a connection leave that the layer rewrites, each in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewriting {
    /// Their locators, and what they grow by.
    pub way: PathWay,
    /// The protocol that locators see.
    pub protocol: u8,
    /// What is pushed before each.
    pub header: [u8; 8],
    /// For the layer, by which it knows them again.
    pub by: u32,
}

/// What a connection keeps of the last answer of [`PathLayer::passing`]: nothing at first. What is in
/// it, and whether it still holds, only the layer knows that gave it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passing(pub u64);

/// What a transport knows of the path between two ULIDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Data was acknowledged; said at most once a round trip.
    Progress,
    /// Data was not: a retransmission timeout or a tail loss probe came first.
    NoProgress,
}

/// Between transport and IP. [`Direct`] is the identity.
pub trait PathLayer: Send {
    /// Packets pass unchanged, and nothing need be asked or told. Constant for most layers, so that
    /// nothing is left of the others' work; for others one branch that is always the same.
    #[inline]
    fn is_transparent(&self) -> bool {
        false
    }

    /// Whether packets between two ULIDs, whatever their protocol, pass unchanged now in both
    /// directions. Asked often; may be true only where [`PathLayer::egress`] would change nothing.
    /// Received datagrams of UDP are given to [`PathLayer::ingress`] all the same.
    #[inline]
    fn passes(&mut self, src: IpAddr, dst: IpAddr) -> bool {
        let _ = (src, dst);
        false
    }

    /// The same, by what it left in `known` when it was last asked of these two ULIDs. Another layer
    /// that takes its place gets nothing that it left.
    #[inline]
    fn passing(&mut self, src: IpAddr, dst: IpAddr, known: &mut Passing) -> bool {
        let _ = known;
        self.passes(src, dst)
    }

    /// A packet that [passes](PathLayer::passes) was sent, without [`PathLayer::egress`]; `known` as
    /// [`PathLayer::passing`] left it.
    #[inline]
    fn passed_out(&mut self, now: Instant, src: IpAddr, dst: IpAddr, known: Passing, bytes: usize) {
        let _ = (now, src, dst, known, bytes);
    }

    /// The same of a received one: `src` is the peer.
    #[inline]
    fn passed_in(&mut self, now: Instant, src: IpAddr, dst: IpAddr, known: Passing, bytes: usize) {
        let _ = (now, src, dst, known, bytes);
    }

    /// [`PathLayer::passed_out`] where `known` still says that packets pass and there is little to note.
    /// `false`: nothing was done, and that is to be called.
    #[inline]
    fn noted_out(&mut self, now: Instant, known: Passing) -> bool {
        let _ = (now, known);
        false
    }

    /// [`PathLayer::passing`] and [`PathLayer::passed_in`] in one, where the answer is that packets
    /// pass and there is little to note. `false`: nothing was done, and those are to be called.
    #[inline]
    fn noted_in(&mut self, now: Instant, known: Passing) -> bool {
        let _ = (now, known);
        false
    }

    /// What [`PathLayer::egress`] would make of packets of this protocol now, where it pushes the same
    /// header before each: their checksums are complete, and none is a super-segment. `known` as
    /// [`PathLayer::passing`] left it when it said that they do not pass. `None`: that has to be
    /// called for each.
    #[inline]
    fn rewriting(&self, known: Passing, protocol: u8) -> Option<Rewriting> {
        let _ = (known, protocol);
        None
    }

    /// Whether what [`PathLayer::rewriting`] answered for `known` is what it would answer now. `false`:
    /// ask it again.
    #[inline]
    fn rewriting_holds(&self, known: Passing) -> bool {
        let _ = known;
        false
    }

    /// A packet was sent as [`PathLayer::rewriting`] said, in this call of the stack or while that
    /// [held](PathLayer::rewriting_holds).
    #[inline]
    fn rewritten(&mut self, now: Instant, as_said: &Rewriting) {
        let _ = (now, as_said);
    }

    /// A packet on its way down, its transport header at the front of `frame`: maps ULIDs to the
    /// current locators and may push a header. The transport checksum is that of the ULIDs, and
    /// complete unless the packet passes unchanged or is a super-segment: whoever cuts that repeats
    /// the pushed header before each segment. `Err` drops the packet.
    fn egress(
        &mut self,
        now: Instant,
        addrs: &mut PathAddrs,
        frame: &mut Frame,
    ) -> Result<(), DropReason>;

    /// A packet on its way up, IP header and extension headers pulled: maps locators to ULIDs and
    /// pulls its header. Reassembled, if it was fragmented below. Not asked about ICMP that is not
    /// behind a header of the layer, nor about packets to groups and broadcasts.
    fn ingress(
        &mut self,
        now: Instant,
        addrs: &mut PathAddrs,
        frame: &mut Frame,
    ) -> Result<Pass, DropReason>;

    /// What [`PathLayer::ingress`] would make of a whole packet that starts with `head`, of a protocol
    /// that is the layer's. `None`: that has to be called. Nothing becomes of the packet by this.
    #[inline]
    fn would_restore(&mut self, addrs: &PathAddrs, head: &[u8]) -> Option<Restored> {
        let _ = (addrs, head);
        None
    }

    /// The packet that the last [`PathLayer::would_restore`] was about is taken as that said, instead
    /// of by [`PathLayer::ingress`].
    #[inline]
    fn restored(&mut self, now: Instant, addrs: &PathAddrs, as_said: &Restored) {
        let _ = (now, addrs, as_said);
    }

    /// Bytes that [`PathLayer::egress`] adds to a packet between two ULIDs as of now, and what the IP
    /// header of locators is longer than that of the ULIDs; 0: it is not rewritten. Taken off MTU and
    /// MSS.
    fn overhead_bytes(&self, src: IpAddr, dst: IpAddr) -> usize;

    /// The locator pair that a packet between two ULIDs would use now. An unspecified `src` has
    /// not been chosen yet and stays so.
    fn locators(&self, src: IpAddr, dst: IpAddr) -> (IpAddr, IpAddr);

    /// Whether packets that are rewritten between two ULIDs may be super-segments: the header that
    /// [`PathLayer::egress`] pushes is then the same for every segment of them.
    #[inline]
    fn takes_super_segments(&self, src: IpAddr, dst: IpAddr) -> bool {
        let _ = (src, dst);
        false
    }

    /// The three of these, asked at once.
    fn way(&self, src: IpAddr, dst: IpAddr) -> PathWay {
        PathWay {
            locators: self.locators(src, dst),
            overhead_bytes: self.overhead_bytes(src, dst),
            super_segments: self.takes_super_segments(src, dst),
        }
    }

    /// The same of one flow, which may have a pair of its own ([`PathLayer::is_apart`]); `None`: of
    /// whatever flow.
    #[inline]
    fn way_of(&self, src: IpAddr, dst: IpAddr, flow: Option<PathFlow>) -> PathWay {
        let _ = flow;
        self.way(src, dst)
    }

    /// The instant of [`PathLayer::poll_timeout`] has come. Calling early is harmless.
    fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// When to call [`PathLayer::handle_timeout`].
    #[inline]
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Whether [`PathLayer::poll_transmit`] has something. Asked often.
    #[inline]
    fn wants_transmit(&self) -> bool {
        false
    }

    /// The next packet of the layer itself: locators, protocol, and a frame that starts with the
    /// header of that protocol, its checksum complete. It leaves by the alias that has its source.
    fn poll_transmit(&mut self, now: Instant) -> Option<(PathAddrs, Frame)> {
        let _ = now;
        None
    }

    /// Whether [`PathLayer::poll_event`] may have something. Asked often.
    #[inline]
    fn has_events(&self) -> bool {
        true
    }

    /// The next event. Asked after every call that takes `&mut self`.
    #[inline]
    fn poll_event(&mut self) -> Option<PathEvent> {
        None
    }

    /// Whether there may be an event or something to transmit. Asked more often than anything else.
    #[inline]
    fn has_work(&self) -> bool {
        self.has_events() || self.wants_transmit()
    }

    /// What TCP noticed between two ULIDs.
    #[inline]
    fn advise(&mut self, now: Instant, src: IpAddr, dst: IpAddr, advice: Advice) {
        let _ = (now, src, dst, advice);
    }

    /// Sockets are connected between two ULIDs of a [`PathEvent::Quiet`].
    fn keep(&mut self, now: Instant, src: IpAddr, dst: IpAddr) {
        let _ = (now, src, dst);
    }

    /// An ICMP error, or our own knowledge, about a packet that we sent.
    fn icmp_error(&mut self, now: Instant, kind: IcmpErrorKind, quoted: &Quoted<'_>) -> Requoted {
        let _ = (now, kind, quoted);
        Requoted::Same
    }

    /// An address of this stack may be used from now on.
    fn address_added(&mut self, now: Instant, addr: IpAddr) {
        let _ = (now, addr);
    }

    /// No alias has the address any longer.
    fn address_removed(&mut self, now: Instant, addr: IpAddr) {
        let _ = (now, addr);
    }

    /// The link below the alias that has this address went up or down.
    fn link_changed(&mut self, now: Instant, addr: IpAddr, up: bool) {
        let _ = (now, addr, up);
    }

    /// Whether a flow between two ULIDs has a pair of locators of its own.
    #[inline]
    fn is_apart(&self, src: IpAddr, dst: IpAddr, flow: PathFlow) -> bool {
        let _ = (src, dst, flow);
        false
    }

    /// Datagrams to this port are the layer's own, so that no socket can have it. Those that receive
    /// merging made one frame of come to [`PathLayer::ingress`] one by one.
    #[inline]
    fn takes_udp_port(&self, port: u16) -> bool {
        let _ = port;
        false
    }

    /// Whether a context has this ULID of ours: it stays in use though no alias has the address any
    /// longer, until [`PathEvent::Released`].
    #[inline]
    fn owns(&self, ulid: IpAddr) -> bool {
        let _ = ulid;
        false
    }
}

/// ULIDs are locators; costs nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Direct;

impl PathLayer for Direct {
    #[inline]
    fn is_transparent(&self) -> bool {
        true
    }

    #[inline]
    fn egress(&mut self, _: Instant, _: &mut PathAddrs, _: &mut Frame) -> Result<(), DropReason> {
        Ok(())
    }

    #[inline]
    fn ingress(
        &mut self,
        _: Instant,
        _: &mut PathAddrs,
        _: &mut Frame,
    ) -> Result<Pass, DropReason> {
        Ok(Pass::Up)
    }

    #[inline]
    fn overhead_bytes(&self, _: IpAddr, _: IpAddr) -> usize {
        0
    }

    #[inline]
    fn locators(&self, src: IpAddr, dst: IpAddr) -> (IpAddr, IpAddr) {
        (src, dst)
    }
}
