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
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashSet;
use parking_lot::{Condvar, Mutex};
use weft_stack::ip::address::AliasId;

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
    /// A datagram of a server.
    Datagram { nic: usize, tag: Tag, data: Vec<u8> },
    /// An address was taken into use, or (`rival`) another host has it.
    Address { vserver: u32, alias: AliasId, addr: IpAddr, rival: Option<String> },
    /// The link of a NIC came up.
    LinkUp { nic: usize },
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

/// UDP payload and ports of an unfragmented datagram behind an Ethernet header, not verified.
fn datagram(frame: &[u8]) -> Option<(u16, u16, &[u8])> {
    let packet = frame.get(ETHERNET_BYTES..)?;
    let udp = match frame.get(12..14)? {
        [0x08, 0x00] => {
            let header = usize::from(packet.first()? & 15) * 4;
            let fragment = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & MORE_OR_OFFSET;
            let whole = fragment == 0;
            if header < 20 || !whole || *packet.get(9)? != 17 {
                return None;
            }
            packet.get(header..)?
        }
        [0x86, 0xdd] if *packet.get(6)? == 17 => packet.get(40..)?,
        _ => return None,
    };
    let header: &[u8; 8] = udp.first_chunk()?;
    let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    // What follows the datagram is padding.
    let payload = udp.get(8..usize::from(port(4)))?;
    Some((port(0), port(2), payload))
}

impl Tap {
    /// Takes a frame if it is an answer to one of our clients.
    pub(crate) fn take(&self, nic: usize, frame: &[u8]) -> bool {
        let Some((from, to, payload)) = datagram(frame) else { return false };
        let tag = match (from, to) {
            (67, 68) => message4::whose(payload).map(|w| Tag::V4(w.0)),
            (547, 546) => message6::whose(payload).map(|w| Tag::V6(w.0)),
            _ => return false,
        };
        let Some(tag) = tag.filter(|tag| self.wanted.lock().contains(tag)) else { return false };
        self.push(Input::Datagram { nic, tag, data: payload.to_vec() });
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
    pub(crate) fn link_up(&self, nic: usize) {
        self.push(Input::LinkUp { nic });
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
    let to = Ipv4Addr::BROADCAST.octets();
    let mut frame = [[0xff; 6], mac].concat();
    frame.extend([8, 0]);
    let len = (20 + 8 + data.len()) as u16;
    let mut ip = vec![0x45, 0x10];
    ip.extend(len.to_be_bytes());
    ip.extend([0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0]);
    ip.extend(to);
    let sum = !fold(sum(&ip));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(ip);
    let pseudo = sum_words(&[0, 0, u16::from_be_bytes([to[0], to[1]]), u16::MAX]);
    frame.extend(udp((68, 67), data, pseudo));
    frame
}

/// A DHCPv6 message to all servers of the link (RFC 8415 7.1).
pub(super) fn frame6(mac: [u8; 6], from: std::net::Ipv6Addr, data: &[u8]) -> Vec<u8> {
    let to: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2];
    let mut frame = [[0x33, 0x33, 0, 1, 0, 2], mac].concat();
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend(((8 + data.len()) as u16).to_be_bytes());
    frame.extend([17, 1]);
    frame.extend(from.octets());
    frame.extend(to);
    let pseudo = sum(&from.octets()) + sum(&to);
    frame.extend(udp((546, 547), data, pseudo));
    frame
}

fn udp((from, to): (u16, u16), data: &[u8], addresses: u32) -> Vec<u8> {
    let len = (8 + data.len()) as u16;
    let mut out = [from, to, len, 0].map(u16::to_be_bytes).concat();
    out.extend(data);
    let sum = !fold(addresses + sum_words(&[17, len]) + sum(&out));
    // RFC 768: zero means none.
    let sum = if sum == 0 { u16::MAX } else { sum };
    out[6..8].copy_from_slice(&sum.to_be_bytes());
    out
}

fn sum(bytes: &[u8]) -> u32 {
    let word = |c: &[u8]| u32::from(c[0]) << 8 | c.get(1).map_or(0, |b| u32::from(*b));
    bytes.chunks(2).map(word).sum()
}

fn sum_words(words: &[u16]) -> u32 {
    words.iter().map(|w| u32::from(*w)).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
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
        let frame = frame4(MAC, &[1, 2, 3]);
        assert_eq!(fold(sum(&frame[14..34])), 0xffff);
        let pseudo = sum(&frame[26..34]) + sum_words(&[17, 11]);
        assert_eq!(fold(pseudo + sum(&frame[34..])), 0xffff);
        let frame = frame6(MAC, "fe80::1".parse().unwrap(), &[1, 2, 3]);
        let pseudo = sum(&frame[22..54]) + sum_words(&[17, 11]);
        assert_eq!(fold(pseudo + sum(&frame[54..])), 0xffff);
    }

    #[test]
    fn only_answers_to_known_transactions_are_taken() {
        let tap = Tap::default();
        assert!(!tap.take(0, &answer(7)));
        tap.want(None, Some(Tag::V4(7)));
        assert!(tap.take(3, &answer(7)) && !tap.take(3, &answer(8)));
        let inputs = tap.wait(None);
        assert!(matches!(&inputs[0], Input::Datagram { nic: 3, tag: Tag::V4(7), .. }));
        tap.want(Some(Tag::V4(7)), None);
        assert!(!tap.take(0, &answer(7)));
        let (mut fragment, mut tcp) = (answer(7), answer(7));
        tap.want(None, Some(Tag::V4(7)));
        fragment[20] = 0x20;
        tcp[23] = 6;
        assert!(!tap.take(0, &fragment) && !tap.take(0, &tcp));
        let whole = answer(7);
        for len in 0..whole.len() {
            tap.take(0, &whole[..len]);
        }
    }

    #[test]
    fn what_the_queue_has_no_room_for_is_counted() {
        let tap = Tap::default();
        tap.want(None, Some(Tag::V4(7)));
        let frame = answer(7);
        for _ in 0..QUEUE + 5 {
            assert!(tap.take(0, &frame));
        }
        assert_eq!((tap.wait(None).len(), tap.lost()), (QUEUE, 5));
        tap.wake();
        assert!(tap.wait(None).is_empty());
    }
}
