//! A frame of a vserver as captures see it: the packet below the shim, and the one above it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smallvec::SmallVec;
use weft_shim::contexts::Contexts;
use weft_shim::encap::{Encap, OVERHEAD_BYTES};
use weft_shim::layer::Layer;
use weft_shim::locator::Pair;
use weft_shim::wire::header::PAYLOAD_HEADER_BYTES;
use weft_shim::wire::{Header, PROTOCOL};
use weft_stack::frame::{Checksum, Frame, Gso};

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;
pub(super) const SHIM: u8 = PROTOCOL;
pub(super) const FRAGMENT: u8 = 44;
const ETHERNET_BYTES: usize = 14;
/// Extension headers looked at.
const EXTENSIONS_MAX: usize = 8;

/// Whom a filter asks: a packet on one side of the shim.
#[derive(Clone, Debug)]
pub(super) struct Face {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    /// Of its own transport, and below the shim of what is behind its header too.
    pub(super) protocols: SmallVec<[u8; 3]>,
    /// The same.
    pub(super) ports: SmallVec<[(u16, u16); 2]>,
}

impl Face {
    fn new(src: IpAddr, dst: IpAddr) -> Face {
        Face { src, dst, protocols: SmallVec::new(), ports: SmallVec::new() }
    }

    pub(super) fn has_port(&self, port: u16) -> bool {
        self.ports.iter().any(|(a, b)| *a == port || *b == port)
    }

    fn add(&mut self, protocol: u8, at: &[u8]) {
        self.protocols.push(protocol);
        if let (TCP | UDP, Some(&[a, b, c, d])) = (protocol, at.first_chunk::<4>()) {
            self.ports.push((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])));
        }
    }
}

/// A packet that the shim rewrote.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rewritten {
    /// Where the payload header stands.
    pub(super) at: usize,
    /// In UDP.
    pub(super) in_udp: bool,
    /// Protocol behind the header.
    pub(super) next: u8,
    /// What the packet is above: from, to.
    pub(super) ulids: (IpAddr, IpAddr),
}

impl Rewritten {
    /// Where what is above begins.
    pub(super) fn payload(&self) -> usize {
        self.at + PAYLOAD_HEADER_BYTES
    }
}

/// What the headers of a frame say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight {
    /// Where the IP header stands.
    pub(super) network: usize,
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    /// Behind the extension headers.
    pub(super) protocol: u8,
    /// Where that begins.
    pub(super) payload: usize,
    /// By the IP header; a super-segment's may be too short.
    pub(super) end: usize,
    /// It has no transport header: a later fragment.
    pub(super) headless: bool,
    /// A packet of the shim, rewritten or its own.
    pub(super) of_shim: bool,
    pub(super) rewritten: Option<Rewritten>,
}

fn be16(data: &[u8], at: usize) -> Option<u16> {
    data.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]))
}

impl Sight {
    /// Looks at a frame that was received, or sent (`out`). `None`: it is no IP packet.
    pub(super) fn of(frame: &Frame, ethernet: bool, out: bool, path: &Layer) -> Option<Sight> {
        let mut sight = Sight::network(frame.data(), ethernet)?;
        if let Some(shim) = path.shim().filter(|_| !sight.headless) {
            sight.look_behind(frame.data(), out, shim);
        }
        Some(sight)
    }

    fn network(data: &[u8], ethernet: bool) -> Option<Sight> {
        let network = if ethernet { ETHERNET_BYTES } else { 0 };
        if ethernet && !matches!(be16(data, 12)?, 0x0800 | 0x86dd) {
            return None;
        }
        let ip = data.get(network..)?;
        match ip.first()? >> 4 {
            4 => Sight::v4(ip, network),
            6 => Sight::v6(ip, network),
            _ => None,
        }
    }

    fn v4(ip: &[u8], network: usize) -> Option<Sight> {
        let h = ip.first_chunk::<20>()?;
        let len = usize::from(h[0] & 15) * 4;
        Some(Sight {
            network,
            src: Ipv4Addr::new(h[12], h[13], h[14], h[15]).into(),
            dst: Ipv4Addr::new(h[16], h[17], h[18], h[19]).into(),
            protocol: h[9],
            payload: network + len.max(20),
            end: network + usize::from(be16(h, 2)?),
            headless: be16(h, 6)? & 0x1fff != 0,
            of_shim: h[9] == SHIM,
            rewritten: None,
        })
    }

    fn v6(ip: &[u8], network: usize) -> Option<Sight> {
        let h = ip.first_chunk::<40>()?;
        let addr = |at: usize| {
            let octets: Option<[u8; 16]> = h[at..at + 16].try_into().ok();
            octets.map(|octets| IpAddr::V6(Ipv6Addr::from(octets)))
        };
        let (src, dst) = (addr(8)?, addr(24)?);
        let (mut protocol, mut at, mut headless) = (h[6], 40, false);
        for _ in 0..EXTENSIONS_MAX {
            let len = match (protocol, ip.get(at + 1)) {
                (0 | 43 | 60, Some(len)) => (usize::from(*len) + 1) * 8,
                (FRAGMENT, Some(_)) => {
                    headless |= be16(ip, at + 2)? & 0xfff8 != 0;
                    8
                }
                _ => break,
            };
            protocol = ip[at];
            at += len;
        }
        Some(Sight {
            network,
            src,
            dst,
            protocol,
            payload: network + at,
            end: network + 40 + usize::from(be16(h, 4)?),
            headless,
            of_shim: protocol == SHIM,
            rewritten: None,
        })
    }

    /// What the shim made of the packet, or its peer did.
    fn look_behind(&mut self, data: &[u8], out: bool, shim: &Contexts) {
        let in_udp = self.protocol == UDP && self.is_encapsulated(data, out, shim.encap());
        if self.protocol != SHIM && !in_udp {
            return;
        }
        self.of_shim = true;
        let at = self.payload + if in_udp { OVERHEAD_BYTES } else { 0 };
        self.rewritten = self.rewritten_at(data, at, in_udp, out, shim);
    }

    fn is_encapsulated(&self, data: &[u8], out: bool, encap: Option<&Encap>) -> bool {
        let Some(encap) = encap else { return false };
        let port = be16(data, self.payload + if out { 0 } else { 2 });
        port.is_some_and(|port| encap.takes(port))
    }

    /// The same of a payload header at a place of the frame.
    pub(super) fn rewritten_at(
        &self,
        data: &[u8],
        at: usize,
        in_udp: bool,
        out: bool,
        shim: &Contexts,
    ) -> Option<Rewritten> {
        let Header::Payload { next, tag } = Header::read(data.get(at..)?)? else { return None };
        let ulids = if out {
            let ulids = shim.ulids_out(Pair::new(self.src, self.dst), tag)?;
            (ulids.local, ulids.remote)
        } else {
            let ulids = shim.ulids_in(tag)?;
            (ulids.remote, ulids.local)
        };
        Some(Rewritten { at, in_udp, next, ulids })
    }

    /// For filters, below the shim.
    pub(super) fn below(&self, data: &[u8]) -> Face {
        let mut face = Face::new(self.src, self.dst);
        if self.headless {
            face.protocols.push(self.protocol);
            return face;
        }
        face.add(self.protocol, data.get(self.payload..).unwrap_or_default());
        if self.of_shim && self.protocol != SHIM {
            face.protocols.push(SHIM);
        }
        if let Some(rewritten) = &self.rewritten {
            face.add(rewritten.next, data.get(rewritten.payload()..).unwrap_or_default());
        }
        face
    }

    /// For filters, above the shim; `None`: nothing of the frame gets there.
    pub(super) fn above(&self, data: &[u8]) -> Option<Face> {
        let Some(rewritten) = &self.rewritten else {
            return (!self.of_shim).then(|| self.below(data));
        };
        let mut face = Face::new(rewritten.ulids.0, rewritten.ulids.1);
        let (mut next, mut at) = (rewritten.next, rewritten.payload());
        let fragment = data.get(at..at + 8).filter(|_| next == FRAGMENT);
        if let Some(fragment) = fragment {
            next = fragment[0];
            at += 8;
            if be16(fragment, 2).is_some_and(|field| field & 0xfff8 != 0) {
                face.protocols.push(next);
                return Some(face);
            }
        }
        face.add(next, data.get(at..).unwrap_or_default());
        Some(face)
    }

    /// Where the packet ends in the bytes of its frame: what follows is padding.
    pub(super) fn end_of(&self, frame: &Frame) -> usize {
        let total = frame.total_len();
        if frame.meta.gso == Gso::None { self.end.min(total) } else { total }
    }

    /// Where the transport header of a super-segment stands, which one it is and between whom;
    /// `None`: the frame is none, or its ULIDs are not known.
    pub(super) fn transport(&self, frame: &Frame) -> Option<(usize, u8, (IpAddr, IpAddr))> {
        let outer = (self.payload, self.protocol, (self.src, self.dst));
        let inner = self.rewritten.map(|r| (r.payload(), r.next, r.ulids));
        let found = match frame.meta.gso {
            Gso::None => return None,
            // Datagrams around packets, each of which is complete.
            Gso::Udp { .. } if self.protocol == UDP => Some(outer),
            _ if self.of_shim => inner,
            _ => Some(outer),
        };
        found.filter(|(_, protocol, _)| matches!(*protocol, TCP | UDP))
    }

    /// Bytes of each datagram's payload, if the frame stands for several of the shim's.
    pub(super) fn datagram_bytes(&self, frame: &Frame) -> Option<usize> {
        match frame.meta.gso {
            Gso::Udp { size } if self.of_shim && self.protocol == UDP => Some(usize::from(size)),
            _ => None,
        }
    }

    /// Whether the frame has more than its bytes say, so that a copy is made whole and mended.
    pub(super) fn is_unfinished(frame: &Frame) -> bool {
        frame.meta.gso != Gso::None || matches!(frame.meta.checksum, Checksum::Partial { .. })
    }
}
