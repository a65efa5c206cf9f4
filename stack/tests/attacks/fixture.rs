//! What an attacker can do: write any packet, and (where a test says so) read the wire.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use weft_stack::frame::Frame;
use weft_stack::seq::SeqNum;
use weft_stack::socket::SocketId;
use weft_stack::wire::checksum;
use weft_stack::wire::tcp::{Flags, Header, Options};

use crate::net::{A, ALIAS, B, Net};

/// A bare IP packet.
pub fn packet(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut ip;
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            ip = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0];
            ip.extend(from.octets());
            ip.extend(to.octets());
            ip[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
            let sum = checksum::finish(checksum::sum(&ip));
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            ip = vec![0x60, 0, 0, 0];
            ip.extend((payload.len() as u16).to_be_bytes());
            ip.extend([protocol, 64]);
            ip.extend(from.octets());
            ip.extend(to.octets());
        }
        _ => unreachable!("one family"),
    }
    ip.extend(payload);
    ip
}

/// A segment with its checksum, as a packet.
pub fn segment(from: SocketAddr, to: SocketAddr, mut header: Header, data: &[u8]) -> Frame {
    header.src_port = from.port();
    header.dst_port = to.port();
    let mut tcp = vec![0; header.len()];
    header.emit(&mut tcp);
    tcp.extend(data);
    let pseudo = checksum::pseudo(from.ip(), to.ip(), 6, tcp.len());
    let sum = checksum::finish(checksum::combine(pseudo, checksum::sum(&tcp)));
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    Frame::from_heap(64, &packet(from.ip(), to.ip(), 6, &tcp))
}

pub fn header(frame: &Frame) -> Header {
    let p = frame.data();
    Header::parse(&p[if p[0] >> 4 == 4 { 20 } else { 40 }..]).unwrap().0
}

/// A connection from A to B, and somebody who sees what A sends.
pub struct Victim {
    pub net: Net,
    pub c: SocketId,
    pub s: SocketId,
    pub a: SocketAddr,
    pub b: SocketAddr,
    /// The last header from A, and the end of what it sent.
    last: Rc<RefCell<(Header, u32)>>,
}

impl Victim {
    pub fn new(mut net: Net, addr: fn(usize) -> IpAddr) -> Victim {
        let last = Rc::new(RefCell::new((Header::default(), 0)));
        let seen = Rc::clone(&last);
        net.filter = Box::new(move |host, frame| {
            if host == A {
                let h = header(frame);
                let ip = if frame.data()[0] >> 4 == 4 { 20 } else { 40 };
                let data = frame.total_len() - ip - h.len();
                let control =
                    u32::from(h.flags.has(Flags::SYN)) + u32::from(h.flags.has(Flags::FIN));
                *seen.borrow_mut() = (h, h.seq.0.wrapping_add(data as u32 + control));
            }
            true
        });
        let (c, s) = net.connected(addr);
        let (a, b) = net.stacks[A].tcp_addrs(c).unwrap();
        Victim { net, c, s, a, b, last }
    }

    /// What B expects next, as A would send it: an ACK without data.
    pub fn honest(&self) -> Header {
        let (last, end) = *self.last.borrow();
        Header {
            seq: SeqNum(end),
            ack: last.ack,
            flags: Flags::ACK,
            window: last.window,
            options: Options { timestamp: last.options.timestamp, ..Options::default() },
            ..Header::default()
        }
    }

    /// Sends to B in the name of A.
    pub fn forge(&mut self, header: Header, data: &[u8]) {
        let frame = segment(self.a, self.b, header, data);
        self.net.stacks[B].handle_frame(self.net.now, ALIAS, frame);
    }

    /// The connection still carries bytes both ways, and nobody lost one.
    pub fn check_alive(&mut self) {
        let data = crate::net::pattern(100_000);
        self.net.transfer_open((A, self.c), self.s, &data);
        self.net.transfer_open((B, self.s), self.c, &data);
    }

    pub fn close(mut self) {
        self.net.stacks[A].tcp_close(self.net.now, self.c);
        self.net.stacks[B].tcp_close(self.net.now, self.s);
        self.net.check_empty();
    }
}
