//! The shim as the path layer of a stack.

use core::net::IpAddr;

use weft_stack::drop::DropReason;
use weft_stack::frame::Frame;
use weft_stack::path::{
    Advice, IcmpErrorKind, Pass, PathAddrs, PathEvent, PathLayer, Quoted, Requoted,
};
use weft_stack::time::Instant;

use crate::contexts::{Contexts, Payload, QuotedWas};
use crate::locator::Pair;
use crate::own::Change;
use crate::reap::Hint;
use crate::rewrite;
use crate::wire::header::{Header, PAYLOAD_HEADER_BYTES, PROTOCOL};

/// Room before a control message for the headers below.
const HEADROOM_BYTES: usize = 128;
/// Neighbour discovery is between neighbours: it has no locators.
const ICMPV6: u8 = 58;

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

/// What a packet between `ulids` grows by when it goes by `pair`.
const fn overhead(ulids: Pair, pair: Pair) -> usize {
    let longer = header_bytes(pair.local).saturating_sub(header_bytes(ulids.local));
    PAYLOAD_HEADER_BYTES + longer
}

impl PathLayer for Layer {
    #[inline]
    fn is_transparent(&self) -> bool {
        self.0.is_none()
    }

    #[inline]
    fn passes(&mut self, src: IpAddr, dst: IpAddr) -> bool {
        self.0.as_mut().is_none_or(|shim| shim.passes(Pair::new(src, dst)))
    }

    #[inline]
    fn passed_out(&mut self, now: Instant, src: IpAddr, dst: IpAddr, bytes: usize) {
        if let Some(shim) = &mut self.0 {
            shim.send(now, Pair::new(src, dst), 0, &[], bytes);
        }
    }

    #[inline]
    fn passed_in(&mut self, now: Instant, src: IpAddr, dst: IpAddr, bytes: usize) {
        if let Some(shim) = &mut self.0 {
            shim.received_plain(now, Pair::new(dst, src), 0, &[], bytes);
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
        rewrite::push(way, addrs, frame);
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
            if !is_neighbour_discovery(addrs.protocol, frame.data()) {
                let bytes = frame.total_len();
                shim.received_plain(now, pair, addrs.protocol, frame.data(), bytes);
            }
            return Ok(Pass::Up);
        }
        match rewrite::header(frame).ok_or(DropReason::ShimMalformed)? {
            Header::Payload { next: PROTOCOL, .. } => Err(DropReason::ShimMalformed),
            Header::Payload { next, tag } => match shim.received_tagged(now, pair, tag) {
                Payload::Of(ulids) => {
                    rewrite::pop(ulids, next, addrs, frame);
                    Ok(Pass::Up)
                }
                Payload::UnknownTag | Payload::WrongState => Err(DropReason::ShimNoContext),
            },
            Header::Control { len } => {
                shim.receive(now, pair, &frame.data()[..len]);
                Ok(Pass::Consumed)
            }
        }
    }

    fn overhead_bytes(&self, src: IpAddr, dst: IpAddr) -> usize {
        let ulids = Pair::new(src, dst);
        let pair = self.0.as_ref().and_then(|shim| shim.pair(ulids, 0));
        pair.filter(|p| *p != ulids).map_or(0, |p| overhead(ulids, p))
    }

    fn locators(&self, src: IpAddr, dst: IpAddr) -> (IpAddr, IpAddr) {
        let ulids = Pair::new(src, dst);
        let pair = self.0.as_ref().and_then(|shim| shim.pair(ulids, 0)).unwrap_or(ulids);
        (pair.local, pair.remote)
    }

    fn takes_super_segments(&self, _: IpAddr, _: IpAddr) -> bool {
        true
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

    #[inline]
    fn wants_transmit(&self) -> bool {
        self.0.as_ref().is_some_and(|shim| shim.wants_transmit())
    }

    fn poll_transmit(&mut self, _: Instant) -> Option<(PathAddrs, Frame)> {
        let out = self.0.as_mut()?.poll_transmit()?;
        let addrs = PathAddrs { src: out.pair.local, dst: out.pair.remote, protocol: PROTOCOL };
        Some((addrs, Frame::from_heap(HEADROOM_BYTES, &out.bytes)))
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

    fn icmp_error(&mut self, now: Instant, kind: IcmpErrorKind, quoted: &Quoted<'_>) -> Requoted {
        let Some(shim) = &mut self.0 else { return Requoted::Same };
        let pair = Pair::new(quoted.src, quoted.dst);
        let was = if quoted.protocol == PROTOCOL {
            shim.icmp_about_shim(now, kind, pair, quoted.payload)
        } else {
            shim.icmp_about_plain(now, kind, pair)
        };
        match was {
            QuotedWas::Plain => Requoted::Same,
            QuotedWas::Done => Requoted::Consumed,
            QuotedWas::Rewritten(ulids, protocol, skip) => Requoted::Rewritten {
                addrs: PathAddrs { src: ulids.local, dst: ulids.remote, protocol },
                skip,
                overhead_bytes: overhead(ulids, pair),
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
