//! What workers tell the DHCP thread: messages of servers, and what became of addresses.
//!
//! A client without an address cannot have a socket: its frames leave from 0.0.0.0, and answers come
//! to the limited broadcast, with its transaction id as the only thing that tells it from a thousand
//! others behind the same MAC address. So frames to ports 68 and 546 are looked at before the
//! demultiplexer, which knows addresses only, and those with the transaction id of a client end here.
//! That works with every driver as it is: clients ask for broadcasts (the flag of RFC 2131 4.1), which
//! AF_XDP's program passes to the kernel and copies to us; answers to an address in use are steered
//! like all its frames; DHCPv6 answers go to the link-local address. Nothing else changes for any
//! frame, and without a client no frame is looked at.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashSet;
use parking_lot::{Condvar, Mutex};
use weft_stack::frame::Checksum;
use weft_stack::ip::address::AliasId;
use weft_stack::wire::checksum::{combine, finish, finish_udp, is_valid, pseudo, sum};

use super::{message4, message6};

/// Frames and events that may wait.
const QUEUE: usize = 4096;
const ETHERNET_BYTES: usize = 14;
/// Of a fragment: more follow, or it is not the first.
const MORE_OR_OFFSET: u16 = 0x3fff;

/// Whose an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Tag {
    V4(u32),
    V6([u8; 3]),
}

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Input {
    /// A frame with a datagram of a server; `proven`: by whoever received it, or it never was on a
    /// wire, and its checksum is not to be verified.
    Datagram { link: usize, tag: Tag, frame: Vec<u8>, proven: bool },
    /// An address was taken into use, or (`rival`) another host has it.
    Address { vserver: u32, alias: AliasId, addr: IpAddr, rival: Option<String> },
    /// The link of a NIC came up.
    LinkUp { link: usize },
}

/// Between the workers and the thread.
#[derive(Debug, Default)]
pub(crate) struct Tap {
    queue: Mutex<Queue>,
    filled: Condvar,
    /// Transaction ids of all clients.
    wanted: Mutex<HashSet<Tag>>,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    inputs: VecDeque<Input>,
    /// The thread is to look again, whatever is queued.
    woken: bool,
}

/// Where in an Ethernet frame an unfragmented UDP datagram is, without what follows it.
struct Datagram<'a> {
    /// The IP packet's header with its extensions.
    header: &'a [u8],
    udp: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Checksums are not verified.
    fn find(frame: &'a [u8]) -> Option<Datagram<'a>> {
        let packet = frame.get(ETHERNET_BYTES..)?;
        let header = match frame.get(12..14)? {
            [0x08, 0x00] => {
                let header = usize::from(packet.first()? & 15) * 4;
                let fragment =
                    u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & MORE_OR_OFFSET;
                let whole = fragment == 0;
                (header >= 20 && whole && *packet.get(9)? == 17).then_some(header)?
            }
            [0x86, 0xdd] if *packet.get(6)? == 17 => 40,
            _ => return None,
        };
        let (header, udp) = packet.split_at_checked(header)?;
        let len = u16::from_be_bytes([*udp.get(4)?, *udp.get(5)?]);
        let udp = udp.get(..usize::from(len)).filter(|u| u.len() >= 8)?;
        Some(Datagram { header, udp })
    }

    fn ports(&self) -> (u16, u16) {
        let port = |at: usize| u16::from_be_bytes([self.udp[at], self.udp[at + 1]]);
        (port(0), port(2))
    }

    fn payload(&self) -> &'a [u8] {
        &self.udp[8..]
    }

    fn addresses(&self) -> Option<(IpAddr, IpAddr)> {
        let h = self.header;
        if h.len() == 40 && h[0] >> 4 == 6 {
            let at = |i: usize| Some(IpAddr::from(<[u8; 16]>::try_from(h.get(i..i + 16)?).ok()?));
            return Some((at(8)?, at(24)?));
        }
        let at = |i: usize| Some(IpAddr::from(<[u8; 4]>::try_from(h.get(i..i + 4)?).ok()?));
        Some((at(12)?, at(16)?))
    }
}

/// What is wrong with a frame's checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unproven {
    /// That of the IPv4 header.
    Header,
    /// That of UDP.
    Udp,
    /// There is none, which only IPv4 allows (RFC 768, RFC 8200 8.1).
    None,
}

/// The message in a frame of [`Input::Datagram`], if its checksums are right. `proven`: UDP's need
/// not be.
pub(super) fn message(frame: &[u8], proven: bool) -> Result<&[u8], Unproven> {
    let datagram = Datagram::find(frame).ok_or(Unproven::Header)?;
    let (from, to) = datagram.addresses().ok_or(Unproven::Header)?;
    if from.is_ipv4() && !is_valid(sum(datagram.header)) {
        return Err(Unproven::Header);
    }
    let udp = datagram.udp;
    match (&udp[6..8], from) {
        ([0, 0], IpAddr::V4(_)) => {}
        ([0, 0], IpAddr::V6(_)) => return Err(Unproven::None),
        _ if proven || is_valid(combine(pseudo(from, to, 17, udp.len()), sum(udp))) => {}
        _ => return Err(Unproven::Udp),
    }
    Ok(datagram.payload())
}

impl Tap {
    /// Takes a frame if it is an answer to one of our clients. Whether its checksums are right the
    /// thread says, so that its client counts it.
    pub(crate) fn take(&self, link: usize, frame: &[u8], checksum: Checksum) -> bool {
        let Some(datagram) = Datagram::find(frame) else { return false };
        let tag = match datagram.ports() {
            (67, 68) => message4::whose(datagram.payload()).map(|w| Tag::V4(w.0)),
            (547, 546) => message6::whose(datagram.payload()).map(|w| Tag::V6(w.0)),
            _ => return false,
        };
        let Some(tag) = tag.filter(|tag| self.wanted.lock().contains(tag)) else { return false };
        let proven = checksum != Checksum::Complete;
        self.push(Input::Datagram { link, tag, frame: frame.to_vec(), proven });
        true
    }

    /// An address was taken into use, or another host has it.
    pub(crate) fn address(
        &self,
        vserver: u32,
        alias: AliasId,
        addr: IpAddr,
        rival: Option<String>,
    ) {
        self.push(Input::Address { vserver, alias, addr, rival });
    }

    /// The link of a NIC came up.
    pub(crate) fn link_up(&self, link: usize) {
        self.push(Input::LinkUp { link });
    }

    fn push(&self, input: Input) {
        let mut queue = self.queue.lock();
        if queue.inputs.len() >= QUEUE {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.inputs.push_back(input);
        drop(queue);
        self.filled.notify_one();
    }

    /// What was not taken because too much waited.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// A client asks under another transaction id.
    pub(super) fn want(&self, before: Option<Tag>, now: Option<Tag>) {
        let mut wanted = self.wanted.lock();
        if let Some(tag) = before {
            wanted.remove(&tag);
        }
        wanted.extend(now);
    }

    pub(super) fn wake(&self) {
        self.queue.lock().woken = true;
        self.filled.notify_one();
    }

    /// Everything that waits; blocks until `until` (for ever without) if that is nothing.
    pub(super) fn wait(&self, until: Option<std::time::Instant>) -> VecDeque<Input> {
        let mut queue = self.queue.lock();
        while queue.inputs.is_empty() && !queue.woken {
            match until {
                None => self.filled.wait(&mut queue),
                Some(at) if self.filled.wait_until(&mut queue, at).timed_out() => break,
                Some(_) => {}
            }
        }
        queue.woken = false;
        std::mem::take(&mut queue.inputs)
    }
}

/// The broadcast a client without an address sends: Ethernet, IPv4 from 0.0.0.0, UDP.
pub(super) fn frame4(mac: [u8; 6], data: &[u8]) -> Vec<u8> {
    frame4_to((mac, [0xff; 6]), (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST), data)
}

/// A DHCPv4 message from one MAC address and address to others.
pub(super) fn frame4_to(
    (mac, via): ([u8; 6], [u8; 6]),
    (from, to): (Ipv4Addr, Ipv4Addr),
    data: &[u8],
) -> Vec<u8> {
    let mut frame = [via, mac].concat();
    frame.extend([8, 0]);
    let len = (20 + 8 + data.len()) as u16;
    let mut ip = vec![0x45, 0x10];
    ip.extend(len.to_be_bytes());
    ip.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    ip.extend(from.octets());
    ip.extend(to.octets());
    let header = finish(sum(&ip));
    ip[10..12].copy_from_slice(&header.to_be_bytes());
    frame.extend(ip);
    frame.extend(udp((68, 67), data, from.into(), to.into()));
    frame
}

/// A DHCPv6 message to all servers of the link (RFC 8415 7.1).
pub(super) fn frame6(mac: [u8; 6], from: Ipv6Addr, data: &[u8]) -> Vec<u8> {
    let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
    let mut frame = [[0x33, 0x33, 0, 1, 0, 2], mac].concat();
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend(((8 + data.len()) as u16).to_be_bytes());
    frame.extend([17, 1]);
    frame.extend(from.octets());
    frame.extend(to.octets());
    frame.extend(udp((546, 547), data, from.into(), to.into()));
    frame
}

fn udp(ports: (u16, u16), data: &[u8], from: IpAddr, to: IpAddr) -> Vec<u8> {
    let len = 8 + data.len();
    let mut out = [ports.0, ports.1, len as u16, 0].map(u16::to_be_bytes).concat();
    out.extend(data);
    let checksum = finish_udp(combine(pseudo(from, to, 17, len), sum(&out)));
    out[6..8].copy_from_slice(&checksum.to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    /// A reply as a server would send it: ports and operation turned round.
    fn answer(xid: u32) -> Vec<u8> {
        let data = message4::tests::reply(message4::Kind::Offer, xid, [10, 0, 0, 5], &[]);
        let mut frame = frame4(MAC, &data);
        frame[34..38].copy_from_slice(&[0, 67, 0, 68]);
        frame
    }

    #[test]
    fn frames_have_valid_checksums() {
        assert_eq!(message(&frame4(MAC, &[1, 2, 3]), false), Ok(&[1, 2, 3][..]));
        let frame = frame6(MAC, "fe80::1".parse().unwrap(), &[1, 2, 3]);
        assert_eq!(message(&frame, false), Ok(&[1, 2, 3][..]));
    }

    // RFC 768, RFC 8200 8.1
    #[test]
    fn a_message_with_a_wrong_checksum_is_none_unless_its_driver_vouches_for_it() {
        let good = frame4(MAC, &[1, 2, 3]);
        let with = |frame: &[u8], at: usize, bytes: [u8; 2]| {
            let mut frame = frame.to_vec();
            frame[at..at + 2].copy_from_slice(&bytes);
            frame
        };
        let flipped = with(&good, good.len() - 2, [9, 9]);
        assert_eq!(message(&flipped, false), Err(Unproven::Udp));
        assert_eq!(message(&flipped, true), Ok(&[1, 9, 9][..]));
        let header = with(&good, 22, [63, 17]);
        assert_eq!(message(&header, true), Err(Unproven::Header));
        assert_eq!(message(&with(&flipped, 40, [0, 0]), false), Ok(&[1, 9, 9][..]));
        let good = frame6(MAC, "fe80::1".parse().unwrap(), &[1, 2, 3]);
        assert_eq!(message(&with(&good, 60, [0, 0]), false), Err(Unproven::None));
        assert_eq!(message(&with(&good, 22, [0xfe, 0x81]), false), Err(Unproven::Udp));
    }

    #[test]
    fn only_answers_to_known_transactions_are_taken() {
        let tap = Tap::default();
        assert!(!tap.take(0, &answer(7), Checksum::Complete));
        tap.want(None, Some(Tag::V4(7)));
        assert!(
            tap.take(3, &answer(7), Checksum::Verified)
                && !tap.take(3, &answer(8), Checksum::Complete)
        );
        let inputs = tap.wait(None);
        assert!(matches!(
            &inputs[0],
            Input::Datagram { link: 3, tag: Tag::V4(7), proven: true, .. }
        ));
        tap.want(Some(Tag::V4(7)), None);
        assert!(!tap.take(0, &answer(7), Checksum::Complete));
        let (mut fragment, mut tcp) = (answer(7), answer(7));
        tap.want(None, Some(Tag::V4(7)));
        fragment[20] = 0x20;
        tcp[23] = 6;
        assert!(
            !tap.take(0, &fragment, Checksum::Complete) && !tap.take(0, &tcp, Checksum::Complete)
        );
        let whole = answer(7);
        for len in 0..whole.len() {
            tap.take(0, &whole[..len], Checksum::Complete);
            let _ = message(&whole[..len], false);
        }
    }

    #[test]
    fn what_the_queue_has_no_room_for_is_counted() {
        let tap = Tap::default();
        tap.want(None, Some(Tag::V4(7)));
        let frame = answer(7);
        for _ in 0..QUEUE + 5 {
            assert!(tap.take(0, &frame, Checksum::Complete));
        }
        assert_eq!((tap.wait(None).len(), tap.lost()), (QUEUE, 5));
        tap.wake();
        assert!(tap.wait(None).is_empty());
    }
}
