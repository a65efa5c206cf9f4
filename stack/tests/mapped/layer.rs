//! A path layer for tests: maps ULIDs to locators with the eight bytes of RFC 5533's payload header.
//! Contexts are put into it; it speaks to nobody but as told.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use weft_stack::drop::DropReason;
use weft_stack::frame::Frame;
use weft_stack::path::{
    Advice, IcmpErrorKind, Pass, Passing, PathAddrs, PathEvent, PathFlow, PathLayer, PathWay,
    Quoted, Requoted, Restored, Rewriting,
};
use weft_stack::time::{Duration, Instant};

pub const SHIM6: u8 = 140;
pub const HEADER_LEN: usize = 8;

pub type Pair = (IpAddr, IpAddr);

#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// Local and remote.
    pub ulids: Pair,
    pub locators: Pair,
    /// Low 47 bits of what peers put into packets to us, and we into packets to them.
    pub tag_in: u64,
    pub tag_out: u64,
}

impl Context {
    fn rewrites(&self) -> bool {
        self.ulids != self.locators
    }

    /// What stands before a packet.
    fn header(&self, next: u8) -> [u8; HEADER_LEN] {
        let mut header = (self.tag_out | 1 << 47).to_be_bytes();
        (header[0], header[1]) = (next, 0);
        header
    }

    fn overhead(&self) -> usize {
        let header = |a: IpAddr| if a.is_ipv4() { 20usize } else { 40 };
        if self.rewrites() {
            HEADER_LEN + header(self.locators.0).saturating_sub(header(self.ulids.0))
        } else {
            0
        }
    }
}

/// What it was told, and how many packets it saw.
#[derive(Debug, Default)]
pub struct Log {
    pub added: Vec<IpAddr>,
    pub removed: Vec<IpAddr>,
    pub links: Vec<(IpAddr, bool)>,
    pub advice: Vec<(Instant, Pair, Advice)>,
    pub errors: Vec<(IcmpErrorKind, Pair)>,
    pub control: Vec<Vec<u8>>,
    pub fired: Vec<Instant>,
    pub egress: usize,
    /// Packets that were sent as it had said, without [`PathLayer::egress`].
    pub rewritten: usize,
    pub ingress: usize,
    /// Packets that it took without [`PathLayer::ingress`].
    pub restored: usize,
    pub passed_out: usize,
    pub passed_in: usize,
}

#[derive(Debug, Default)]
pub struct Layer {
    pub on: bool,
    pub contexts: Vec<Context>,
    pub super_segments: bool,
    /// Says beforehand what becomes of packets that go or come rewritten.
    pub peeks: bool,
    /// The layer does not vouch for the ULIDs of peers.
    pub unshown: bool,
    /// Flows with a pair of their own, by our port.
    pub apart: Vec<u16>,
    pub to_send: VecDeque<(PathAddrs, Frame)>,
    pub events: VecDeque<PathEvent>,
    pub deadline: Option<Instant>,
    pub log: Log,
    /// ULIDs of those who keep what they were told of them.
    pub asked: Vec<Pair>,
    /// How it last said that packets are rewritten, by what is kept of an answer.
    pub said: RefCell<HashMap<u64, (u8, Rewriting)>>,
}

impl Layer {
    pub fn on() -> Layer {
        Layer { on: true, super_segments: true, peeks: true, ..Layer::default() }
    }

    /// What is kept of an answer is of these ULIDs, and was given by this layer.
    fn assert_knows(&self, known: Passing, ulids: Pair) {
        assert_eq!(self.asked.get(known.0 as usize - 1), Some(&ulids));
    }

    fn of(&self, src: IpAddr, dst: IpAddr) -> Option<&Context> {
        self.contexts.iter().find(|c| c.ulids == (src, dst))
    }

    /// Says that one flow of a context has another pair; packets are not told apart.
    pub fn switch_flow(&mut self, ulids: Pair, flow: PathFlow, to: Pair, lost: bool) {
        let c = self.contexts.iter().find(|c| c.ulids == ulids).unwrap();
        let (from, flow, (src, dst)) = (c.locators, Some(flow), ulids);
        self.events.push_back(PathEvent::Switched { flow, src, dst, from, to, lost, rtt: None });
    }

    /// Moves a context to another pair.
    pub fn switch(&mut self, ulids: Pair, to: Pair, lost: bool, rtt: Option<Duration>) {
        let c = self.contexts.iter_mut().find(|c| c.ulids == ulids).unwrap();
        let from = std::mem::replace(&mut c.locators, to);
        let (src, dst) = ulids;
        self.events.push_back(PathEvent::Switched { flow: None, src, dst, from, to, lost, rtt });
    }
}

fn tag_of(header: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[2..].copy_from_slice(&header[2..8]);
    u64::from_be_bytes(word) & !(1 << 47)
}

impl PathLayer for Layer {
    fn is_transparent(&self) -> bool {
        !self.on
    }

    fn passes(&mut self, src: IpAddr, dst: IpAddr) -> bool {
        self.of(src, dst).is_none_or(|c| !c.rewrites())
    }

    fn passing(&mut self, src: IpAddr, dst: IpAddr, known: &mut Passing) -> bool {
        if *known == Passing::default() {
            self.asked.push((src, dst));
            known.0 = self.asked.len() as u64;
        }
        self.assert_knows(*known, (src, dst));
        self.passes(src, dst)
    }

    fn passed_out(&mut self, _: Instant, src: IpAddr, dst: IpAddr, known: Passing, _: usize) {
        assert!(self.passes(src, dst));
        self.assert_knows(known, (src, dst));
        self.log.passed_out += 1;
    }

    fn passed_in(&mut self, _: Instant, src: IpAddr, dst: IpAddr, known: Passing, _: usize) {
        assert!(self.passes(dst, src));
        self.assert_knows(known, (dst, src));
        self.log.passed_in += 1;
    }

    fn rewriting(&self, known: Passing, protocol: u8) -> Option<Rewriting> {
        let (src, dst) = *self.asked.get((known.0 as usize).checked_sub(1)?)?;
        let c = self.of(src, dst).filter(|c| c.rewrites() && self.peeks)?;
        let way = PathWay {
            locators: c.locators,
            overhead_bytes: c.overhead(),
            super_segments: self.super_segments,
        };
        let said = Rewriting { way, protocol: SHIM6, header: c.header(protocol), by: 0 };
        self.said.borrow_mut().insert(known.0, (protocol, said));
        Some(said)
    }

    fn rewriting_holds(&self, known: Passing) -> bool {
        let Some((protocol, before)) = self.said.borrow().get(&known.0).copied() else {
            return false;
        };
        self.rewriting(known, protocol) == Some(before)
    }

    fn rewritten(&mut self, _: Instant, as_said: &Rewriting) {
        assert_eq!(as_said.protocol, SHIM6);
        self.log.rewritten += 1;
    }

    fn egress(
        &mut self,
        _: Instant,
        addrs: &mut PathAddrs,
        frame: &mut Frame,
    ) -> Result<(), DropReason> {
        assert!(self.on, "a transparent layer is asked nothing");
        self.log.egress += 1;
        let Some(c) = self.of(addrs.src, addrs.dst).copied().filter(Context::rewrites) else {
            return Ok(());
        };
        let header = frame.push_front(HEADER_LEN);
        header.copy_from_slice(&c.header(addrs.protocol));
        *addrs = PathAddrs { src: c.locators.0, dst: c.locators.1, protocol: SHIM6 };
        Ok(())
    }

    fn would_restore(&mut self, addrs: &PathAddrs, head: &[u8]) -> Option<Restored> {
        assert!(self.on, "a transparent layer is asked nothing");
        assert_eq!(addrs.protocol, SHIM6);
        let header = head.get(..HEADER_LEN).filter(|h| self.peeks && h[2] & 0x80 != 0)?;
        let at = self.contexts.iter().position(|c| c.tag_in == tag_of(header))?;
        let (dst, src) = self.contexts[at].ulids;
        let addrs = PathAddrs { src, dst, protocol: header[0] };
        Some(Restored { addrs, skip: HEADER_LEN, by: at as u32 })
    }

    fn restored(&mut self, _: Instant, addrs: &PathAddrs, as_said: &Restored) {
        assert_eq!(addrs.protocol, SHIM6);
        let (dst, src) = self.contexts[as_said.by as usize].ulids;
        assert_eq!((as_said.addrs.src, as_said.addrs.dst), (src, dst));
        self.log.restored += 1;
    }

    fn ingress(
        &mut self,
        _: Instant,
        addrs: &mut PathAddrs,
        frame: &mut Frame,
    ) -> Result<Pass, DropReason> {
        assert!(self.on, "a transparent layer is asked nothing");
        self.log.ingress += 1;
        if addrs.protocol != SHIM6 {
            return Ok(Pass::Up);
        }
        let data = frame.data();
        if data.len() < HEADER_LEN {
            return Err(DropReason::IpExtensionMalformed);
        }
        if data[2] & 0x80 == 0 {
            self.log.control.push(data.to_vec());
            return Ok(Pass::Consumed);
        }
        let (next, tag) = (data[0], tag_of(data));
        let c = self.contexts.iter().find(|c| c.tag_in == tag);
        let c = c.ok_or(DropReason::IpProtocolUnknown)?;
        *addrs = PathAddrs { src: c.ulids.1, dst: c.ulids.0, protocol: next };
        frame.pull_front(HEADER_LEN);
        Ok(if self.unshown { Pass::Unshown } else { Pass::Up })
    }

    fn overhead_bytes(&self, src: IpAddr, dst: IpAddr) -> usize {
        self.of(src, dst).map_or(0, Context::overhead)
    }

    fn locators(&self, src: IpAddr, dst: IpAddr) -> (IpAddr, IpAddr) {
        self.of(src, dst).map_or((src, dst), |c| c.locators)
    }

    fn takes_super_segments(&self, _: IpAddr, _: IpAddr) -> bool {
        self.super_segments
    }

    fn handle_timeout(&mut self, now: Instant) {
        assert!(self.deadline.take().is_some_and(|at| at <= now));
        self.log.fired.push(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    fn wants_transmit(&self) -> bool {
        !self.to_send.is_empty()
    }

    fn poll_transmit(&mut self, _: Instant) -> Option<(PathAddrs, Frame)> {
        self.to_send.pop_front()
    }

    fn poll_event(&mut self) -> Option<PathEvent> {
        self.events.pop_front()
    }

    fn advise(&mut self, now: Instant, src: IpAddr, dst: IpAddr, advice: Advice) {
        self.log.advice.push((now, (src, dst), advice));
    }

    fn icmp_error(&mut self, _: Instant, kind: IcmpErrorKind, quoted: &Quoted<'_>) -> Requoted {
        self.log.errors.push((kind, (quoted.src, quoted.dst)));
        if quoted.protocol != SHIM6 {
            return Requoted::Same;
        }
        let header = &quoted.payload[..HEADER_LEN];
        let by =
            |c: &&Context| c.locators == (quoted.src, quoted.dst) && c.tag_out == tag_of(header);
        let Some(c) = self.contexts.iter().find(by) else { return Requoted::Consumed };
        Requoted::Rewritten {
            addrs: PathAddrs { src: c.ulids.0, dst: c.ulids.1, protocol: header[0] },
            skip: HEADER_LEN,
            overhead_bytes: c.overhead(),
        }
    }

    fn address_added(&mut self, _: Instant, addr: IpAddr) {
        self.log.added.push(addr);
    }

    fn address_removed(&mut self, _: Instant, addr: IpAddr) {
        self.log.removed.push(addr);
    }

    fn link_changed(&mut self, _: Instant, addr: IpAddr, up: bool) {
        self.log.links.push((addr, up));
    }

    fn is_apart(&self, _: IpAddr, _: IpAddr, flow: PathFlow) -> bool {
        self.apart.contains(&flow.ports.0)
    }

    fn owns(&self, ulid: IpAddr) -> bool {
        self.contexts.iter().any(|c| c.ulids.0 == ulid)
    }
}
