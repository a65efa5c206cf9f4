//! The shim as the path layer of a stack.

use core::net::IpAddr;

use weft_stack::drop::DropReason;
use weft_stack::frame::{Checksum, Frame};
use weft_stack::path::{
    Advice, IcmpErrorKind, Pass, Passing, PathAddrs, PathEvent, PathFlow, PathLayer, PathWay,
    Quoted, Requoted, Restored, Rewriting,
};
use weft_stack::time::Instant;
use weft_stack::wire::checksum;

use crate::contexts::{Contexts, Flow, Payload, QuotedWas, Way};
use crate::encap::{self, Arrived, Endpoint};
use crate::locator::Pair;
use crate::own::Change;
use crate::reap::Hint;
use crate::rewrite;
use crate::wire::header::{Header, PAYLOAD_HEADER_BYTES, PROTOCOL, payload_header};

/// Room before a control message for the headers below.
const HEADROOM_BYTES: usize = 128;
/// Neighbour discovery is between neighbours: it has no locators.
const ICMPV6: u8 = 58;
const TCP: u8 = 6;

/// The path layer of a vserver: a shim, or nothing.
#[derive(Default)]
pub struct Layer(Option<Box<Contexts>>);

impl Layer {
    /// ULIDs are locators.
    pub const fn off() -> Layer {
        Layer(None)
    }

    /// With a shim.
    pub fn on(contexts: Contexts) -> Layer {
        Layer(Some(Box::new(contexts)))
    }

    /// The shim, if there is one.
    pub fn shim(&self) -> Option<&Contexts> {
        self.0.as_deref()
    }

    /// The same, to change it.
    pub fn shim_mut(&mut self) -> Option<&mut Contexts> {
        self.0.as_deref_mut()
    }
}

fn is_neighbour_discovery(protocol: u8, head: &[u8]) -> bool {
    protocol == ICMPV6 && matches!(head.first(), Some(133..=137))
}

const fn header_bytes(addr: IpAddr) -> usize {
    if addr.is_ipv4() { 20 } else { 40 }
}

/// What a packet between `ulids` grows by when it goes by `pair`, in UDP or not.
const fn overhead(ulids: Pair, pair: Pair, in_udp: bool) -> usize {
    let longer = header_bytes(pair.local).saturating_sub(header_bytes(ulids.local));
    PAYLOAD_HEADER_BYTES + longer + if in_udp { encap::OVERHEAD_BYTES } else { 0 }
}

/// Where packets of an instance go, and what becomes of them.
fn path_way(shim: &Contexts, ulids: Pair, fii: u32) -> PathWay {
    let plain =
        PathWay { locators: (ulids.local, ulids.remote), overhead_bytes: 0, super_segments: true };
    shim.way(ulids, fii).map_or(plain, |(pair, port)| PathWay {
        locators: (pair.local, pair.remote),
        overhead_bytes: overhead(ulids, pair, port.is_some()),
        super_segments: port.is_none(),
    })
}

/// A packet of protocol 140 on its way up.
#[inline]
fn shim_packet(
    shim: &mut Contexts,
    now: Instant,
    pair: Pair,
    addrs: &mut PathAddrs,
    frame: &mut Frame,
) -> Result<Pass, DropReason> {
    match rewrite::header(frame).ok_or(DropReason::ShimMalformed)? {
        Header::Payload { next: PROTOCOL, .. } => Err(DropReason::ShimMalformed),
        Header::Payload { next, tag } => match shim.received_tagged(now, pair, tag) {
            Payload::Of(ulids) => {
                rewrite::pop(ulids, next, addrs, frame);
                Ok(Pass::Up)
            }
            Payload::Unshown(ulids) => {
                rewrite::pop(ulids, next, addrs, frame);
                Ok(Pass::Unshown)
            }
            Payload::UnknownTag | Payload::WrongState => Err(DropReason::ShimNoContext),
        },
        Header::Control { len } => {
            shim.receive(now, pair, &frame.data()[..len]);
            Ok(Pass::Consumed)
        }
    }
}

/// The same of one in UDP. `None`: the datagram is not the shim's.
fn datagram(
    shim: &mut Contexts,
    now: Instant,
    pair: Pair,
    addrs: &mut PathAddrs,
    frame: &mut Frame,
) -> Option<Result<Pass, DropReason>> {
    let encap = shim.encap_mut().filter(|e| e.is_ours(frame))?;
    let from = match encap.pull(pair, frame) {
        Ok(Arrived::Shim(from)) => from,
        Ok(Arrived::Keepalive) => return Some(Ok(Pass::Consumed)),
        Err(reason) => return Some(Err(reason)),
    };
    shim.came_from(now, Some(from));
    let passed = shim_packet(shim, now, pair, addrs, frame);
    shim.came_from(now, None);
    Some(passed)
}

impl PathLayer for Layer {
    #[inline(always)]
    fn is_transparent(&self) -> bool {
        self.0.is_none()
    }

    #[inline]
    fn passes(&mut self, src: IpAddr, dst: IpAddr) -> bool {
        self.0.as_mut().is_none_or(|shim| shim.passes(Pair::new(src, dst)))
    }

    #[inline(always)]
    fn passing(&mut self, src: IpAddr, dst: IpAddr, known: &mut Passing) -> bool {
        let Some(shim) = &mut self.0 else { return true };
        shim.passes_still(*known)
            || !shim.rewrites_still(*known) && shim.passing(Pair::new(src, dst), known)
    }

    #[inline]
    fn passed_out(&mut self, now: Instant, src: IpAddr, dst: IpAddr, known: Passing, bytes: usize) {
        if let Some(shim) = &mut self.0
            && !shim.passed_at_rest(now, known, true)
        {
            shim.passed(now, Pair::new(src, dst), true, bytes);
        }
    }

    #[inline]
    fn passed_in(&mut self, now: Instant, src: IpAddr, dst: IpAddr, known: Passing, bytes: usize) {
        if let Some(shim) = &mut self.0
            && !shim.passed_at_rest(now, known, false)
        {
            shim.passed(now, Pair::new(dst, src), false, bytes);
        }
    }

    #[inline(always)]
    fn noted_out(&mut self, now: Instant, known: Passing) -> bool {
        self.0.as_mut().is_some_and(|shim| shim.passed_at_rest(now, known, true))
    }

    #[inline(always)]
    fn noted_in(&mut self, now: Instant, known: Passing) -> bool {
        self.0.as_mut().is_some_and(|shim| shim.passed_at_rest(now, known, false))
    }

    fn rewriting(&self, known: Passing, protocol: u8) -> Option<Rewriting> {
        let (by, ulids, pair, tag) = self.0.as_ref()?.rewriting(known)?;
        let way = PathWay {
            locators: (pair.local, pair.remote),
            overhead_bytes: overhead(ulids, pair, false),
            super_segments: true,
        };
        Some(Rewriting { way, protocol: PROTOCOL, header: payload_header(protocol, tag), by })
    }

    #[inline(always)]
    fn rewriting_holds(&self, known: Passing) -> bool {
        self.0.as_ref().is_some_and(|shim| shim.rewrites_still(known))
    }

    #[inline(always)]
    fn rewritten(&mut self, now: Instant, as_said: &Rewriting) {
        if let Some(shim) = &mut self.0 {
            shim.rewritten(now, as_said.by);
        }
    }

    #[inline]
    fn egress(
        &mut self,
        now: Instant,
        addrs: &mut PathAddrs,
        frame: &mut Frame,
    ) -> Result<(), DropReason> {
        let Some(shim) = &mut self.0 else { return Ok(()) };
        if addrs.protocol == PROTOCOL || is_neighbour_discovery(addrs.protocol, frame.data()) {
            return Ok(());
        }
        let (ulids, bytes) = (Pair::new(addrs.src, addrs.dst), frame.total_len());
        let way = shim.send(now, ulids, addrs.protocol, frame.data(), bytes);
        let Way::Rewritten { pair, tag, port } = way else { return Ok(()) };
        let header = rewrite::push(pair, tag, addrs, frame);
        if let (Some(port), Some(encap)) = (port, shim.encap_mut()) {
            // A segment with a right checksum sums up to the complement of its pseudo header. One
            // with a wrong one, of a raw socket, is lost at the peer's one or other checksum.
            let is_tcp = header[0] == TCP && frame.meta.checksum == Checksum::Complete;
            let sum = is_tcp.then(|| {
                let pseudo = checksum::pseudo(ulids.local, ulids.remote, TCP, bytes);
                checksum::combine(!pseudo, checksum::sum(&header))
            });
            encap.push(now, Endpoint { pair, port }, frame, sum)?;
            addrs.protocol = encap::UDP;
        }
        Ok(())
    }

    #[inline]
    fn ingress(
        &mut self,
        now: Instant,
        addrs: &mut PathAddrs,
        frame: &mut Frame,
    ) -> Result<Pass, DropReason> {
        let Some(shim) = &mut self.0 else { return Ok(Pass::Up) };
        let pair = Pair::new(addrs.dst, addrs.src);
        if addrs.protocol != PROTOCOL {
            if addrs.protocol == encap::UDP
                && let Some(passed) = datagram(shim, now, pair, addrs, frame)
            {
                return passed;
            }
            if !is_neighbour_discovery(addrs.protocol, frame.data()) {
                let bytes = frame.total_len();
                shim.received_plain(now, pair, addrs.protocol, frame.data(), bytes);
            }
            return Ok(Pass::Up);
        }
        shim_packet(shim, now, pair, addrs, frame)
    }

    #[inline(always)]
    fn would_restore(&mut self, addrs: &PathAddrs, head: &[u8]) -> Option<Restored> {
        let shim = self.0.as_mut().filter(|_| addrs.protocol == PROTOCOL)?;
        let Header::Payload { next, tag } = Header::read(head)? else { return None };
        let (by, ulids) = shim.would_take(tag).filter(|_| next != PROTOCOL)?;
        let addrs = PathAddrs { src: ulids.remote, dst: ulids.local, protocol: next };
        Some(Restored { addrs, skip: PAYLOAD_HEADER_BYTES, by })
    }

    #[inline(always)]
    fn restored(&mut self, now: Instant, addrs: &PathAddrs, as_said: &Restored) {
        if let Some(shim) = &mut self.0 {
            shim.take_tagged(now, Pair::new(addrs.dst, addrs.src), as_said.by);
        }
    }

    fn overhead_bytes(&self, src: IpAddr, dst: IpAddr) -> usize {
        let ulids = Pair::new(src, dst);
        let Some(shim) = &self.0 else { return 0 };
        if shim.is_whole() {
            let way = shim.way(ulids, 0);
            return way.map_or(0, |(pair, port)| overhead(ulids, pair, port.is_some()));
        }
        let each = shim.ways(ulids).map(|(pair, port)| overhead(ulids, pair, port.is_some()));
        each.max().unwrap_or(0)
    }

    fn locators(&self, src: IpAddr, dst: IpAddr) -> (IpAddr, IpAddr) {
        let ulids = Pair::new(src, dst);
        let pair = self.0.as_ref().and_then(|shim| shim.pair(ulids, 0)).unwrap_or(ulids);
        (pair.local, pair.remote)
    }

    fn takes_super_segments(&self, src: IpAddr, dst: IpAddr) -> bool {
        let Some(shim) = &self.0 else { return true };
        shim.ways(Pair::new(src, dst)).all(|(_, port)| port.is_none())
    }

    fn way(&self, src: IpAddr, dst: IpAddr) -> PathWay {
        let ulids = Pair::new(src, dst);
        let plain = PathWay { locators: (src, dst), overhead_bytes: 0, super_segments: true };
        let Some(shim) = &self.0 else { return plain };
        if !shim.is_whole() {
            return PathWay {
                locators: self.locators(src, dst),
                overhead_bytes: self.overhead_bytes(src, dst),
                super_segments: self.takes_super_segments(src, dst),
            };
        }
        path_way(shim, ulids, 0)
    }

    fn way_of(&self, src: IpAddr, dst: IpAddr, flow: Option<PathFlow>) -> PathWay {
        match (&self.0, flow) {
            (Some(shim), Some(flow)) if !shim.is_whole() => {
                let ulids = Pair::new(src, dst);
                let flow = Flow { ulids, protocol: flow.protocol, ports: flow.ports };
                path_way(shim, ulids, shim.instance_of(&flow))
            }
            _ => self.way(src, dst),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if let Some(shim) = &mut self.0 {
            shim.handle_timeout(now);
        }
    }

    #[inline]
    fn poll_timeout(&self) -> Option<Instant> {
        self.0.as_ref()?.poll_timeout()
    }

    #[inline(always)]
    fn has_work(&self) -> bool {
        self.0.as_ref().is_some_and(|shim| shim.has_work())
    }

    #[inline]
    fn has_events(&self) -> bool {
        self.0.as_ref().is_some_and(|shim| shim.has_events())
    }

    #[inline]
    fn wants_transmit(&self) -> bool {
        self.0.as_ref().is_some_and(|shim| shim.wants_transmit())
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<(PathAddrs, Frame)> {
        let shim = self.0.as_mut()?;
        let by = |pair: Pair, protocol| PathAddrs { src: pair.local, dst: pair.remote, protocol };
        while let Some(out) = shim.poll_transmit() {
            let mut frame = Frame::from_heap(HEADROOM_BYTES, &out.bytes);
            let (Some(port), Some(encap)) = (out.port, shim.encap_mut()) else {
                return Some((by(out.pair, PROTOCOL), frame));
            };
            // Control messages are never too long for a datagram.
            if encap.push(now, Endpoint { pair: out.pair, port }, &mut frame, None).is_ok() {
                return Some((by(out.pair, encap::UDP), frame));
            }
        }
        let keepalive = shim.encap_mut()?.poll_transmit(now);
        shim.note_taken();
        keepalive.map(|(to, frame)| (by(to.pair, encap::UDP), frame))
    }

    #[inline]
    fn poll_event(&mut self) -> Option<PathEvent> {
        self.0.as_mut()?.poll_event()
    }

    fn advise(&mut self, now: Instant, src: IpAddr, dst: IpAddr, advice: Advice) {
        if let Some(shim) = &mut self.0 {
            let hint = match advice {
                Advice::Progress => Hint::Progress,
                Advice::NoProgress => Hint::NoProgress,
            };
            shim.hint(now, Pair::new(src, dst), hint);
        }
    }

    fn keep(&mut self, now: Instant, src: IpAddr, dst: IpAddr) {
        if let Some(shim) = &mut self.0 {
            shim.keep(now, Pair::new(src, dst));
        }
    }

    fn icmp_error(&mut self, now: Instant, kind: IcmpErrorKind, quoted: &Quoted<'_>) -> Requoted {
        let Some(shim) = &mut self.0 else { return Requoted::Same };
        let pair = Pair::new(quoted.src, quoted.dst);
        let in_udp = quoted.protocol == encap::UDP
            && shim
                .encap()
                .is_some_and(|e| quoted.payload.starts_with(&e.own_port().to_be_bytes()));
        let before = if in_udp { encap::OVERHEAD_BYTES } else { 0 };
        let was = if quoted.protocol == PROTOCOL || in_udp {
            let packet = quoted.payload.get(before..).unwrap_or_default();
            shim.icmp_about_shim(now, kind, pair, packet)
        } else {
            shim.icmp_about_plain(now, kind, pair)
        };
        match was {
            QuotedWas::Plain => Requoted::Same,
            QuotedWas::Done => Requoted::Consumed,
            QuotedWas::Rewritten(ulids, protocol, skip) => Requoted::Rewritten {
                addrs: PathAddrs { src: ulids.local, dst: ulids.remote, protocol },
                skip: skip + before,
                overhead_bytes: overhead(ulids, pair, in_udp),
            },
        }
    }

    fn address_added(&mut self, now: Instant, addr: IpAddr) {
        self.address_changed(now, addr, Change::Added);
    }

    fn address_removed(&mut self, now: Instant, addr: IpAddr) {
        self.address_changed(now, addr, Change::Removed);
    }

    fn link_changed(&mut self, now: Instant, addr: IpAddr, up: bool) {
        self.address_changed(now, addr, if up { Change::LinkUp } else { Change::LinkDown });
    }

    #[inline]
    fn is_apart(&self, src: IpAddr, dst: IpAddr, flow: PathFlow) -> bool {
        let ulids = Pair::new(src, dst);
        let flow = Flow { ulids, protocol: flow.protocol, ports: flow.ports };
        self.0.as_ref().is_some_and(|shim| shim.is_forked(&flow))
    }

    #[inline]
    fn takes_udp_port(&self, port: u16) -> bool {
        self.0.as_ref().and_then(|shim| shim.encap()).is_some_and(|e| e.takes(port))
    }

    #[inline]
    fn owns(&self, ulid: IpAddr) -> bool {
        self.0.as_ref().is_some_and(|shim| shim.owns(ulid))
    }
}

impl Layer {
    fn address_changed(&mut self, now: Instant, addr: IpAddr, change: Change) {
        if let Some(shim) = &mut self.0 {
            shim.address_changed(now, addr, change);
        }
    }
}
