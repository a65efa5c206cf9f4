//! A writer of pcapng files: one section, interfaces as they come, packets with nanosecond time
//! and direction.
//!
//! Blocks are collected and written whole, so that a file can be read at any time, also after the
//! writing process was killed.

use std::io::{self, Write};

use crate::device::Medium;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const OPT_END: u16 = 0;
const OPT_COMMENT: u16 = 1;
const OPT_APPLICATION: u16 = 4;
const OPT_NAME: u16 = 2;
const OPT_FLAGS: u16 = 2;
const OPT_RECEIVED: u16 = 4;
const OPT_DROPPED: u16 = 5;
const OPT_TIME_RESOLUTION: u16 = 9;
const LINKTYPE_ETHERNET: u16 = 1;
const LINKTYPE_RAW: u16 = 101;
const SNAP_BYTES_MAX: u32 = 262_144;

/// Which way a packet went, seen from us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Received.
    Inbound = 1,
    /// Sent.
    Outbound = 2,
}

/// Names an interface of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceId(u32);

/// One packet of a file.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Where it was seen.
    pub interface: InterfaceId,
    /// Nanoseconds since the Unix epoch (or since the start of a simulation).
    pub time_ns: u64,
    /// Which way it went.
    pub direction: Direction,
    /// From the link header (or IP header) on.
    pub data: &'a [u8],
    /// Bytes that it had, if `data` is only the first of them.
    pub original: usize,
    /// Shown with the packet; may be empty.
    pub comment: &'a str,
}

/// Writes one file; see the module documentation. Nothing reaches the `Write` before
/// [`Writer::flush`].
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    pending: Vec<u8>,
    interfaces: u32,
}

impl<W: Write> Writer<W> {
    /// Starts a file.
    pub fn new(out: W) -> Writer<W> {
        let mut writer = Writer { out, pending: Vec::new(), interfaces: 0 };
        writer.block(SECTION_HEADER, |b| {
            b.extend(BYTE_ORDER_MAGIC.to_le_bytes());
            b.extend([1, 0, 0, 0]);
            // The length of the section is not known.
            b.extend(u64::MAX.to_le_bytes());
            option(b, OPT_APPLICATION, b"weft");
            option(b, OPT_END, &[]);
        });
        writer
    }

    /// Adds an interface.
    pub fn interface(&mut self, name: &str, medium: Medium) -> InterfaceId {
        let linktype = match medium {
            Medium::Ethernet => LINKTYPE_ETHERNET,
            Medium::Ip => LINKTYPE_RAW,
        };
        self.block(INTERFACE_DESCRIPTION, |b| {
            b.extend(linktype.to_le_bytes());
            b.extend([0, 0]);
            b.extend(SNAP_BYTES_MAX.to_le_bytes());
            option(b, OPT_NAME, name.as_bytes());
            option(b, OPT_TIME_RESOLUTION, &[9]);
            option(b, OPT_END, &[]);
        });
        self.interfaces += 1;
        InterfaceId(self.interfaces - 1)
    }

    /// Adds a packet.
    pub fn packet(&mut self, packet: &Packet<'_>) {
        let len = packet.data.len().min(SNAP_BYTES_MAX as usize);
        self.block(ENHANCED_PACKET, |b| {
            b.extend(packet.interface.0.to_le_bytes());
            b.extend(((packet.time_ns >> 32) as u32).to_le_bytes());
            b.extend((packet.time_ns as u32).to_le_bytes());
            b.extend((len as u32).to_le_bytes());
            b.extend((packet.data.len().max(packet.original) as u32).to_le_bytes());
            padded(b, &packet.data[..len]);
            option(b, OPT_FLAGS, &(packet.direction as u32).to_le_bytes());
            if !packet.comment.is_empty() {
                option(b, OPT_COMMENT, packet.comment.as_bytes());
            }
            option(b, OPT_END, &[]);
        });
    }

    /// Adds how many packets an interface has seen until `time_ns`, and how many of them are missing.
    pub fn statistics(&mut self, interface: InterfaceId, time_ns: u64, seen: u64, missing: u64) {
        self.block(INTERFACE_STATISTICS, |b| {
            b.extend(interface.0.to_le_bytes());
            b.extend(((time_ns >> 32) as u32).to_le_bytes());
            b.extend((time_ns as u32).to_le_bytes());
            option(b, OPT_RECEIVED, &seen.to_le_bytes());
            option(b, OPT_DROPPED, &missing.to_le_bytes());
            option(b, OPT_END, &[]);
        });
    }

    fn block(&mut self, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
        let start = self.pending.len();
        self.pending.extend(kind.to_le_bytes());
        self.pending.extend([0; 4]);
        body(&mut self.pending);
        let len = (self.pending.len() - start + 4) as u32;
        self.pending[start + 4..start + 8].copy_from_slice(&len.to_le_bytes());
        self.pending.extend(len.to_le_bytes());
    }

    /// Bytes that wait for [`Writer::flush`].
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Forgets what was added since there were `len` bytes pending.
    pub fn forget(&mut self, len: usize) {
        self.pending.truncate(len);
    }

    /// Writes what is pending, in whole blocks.
    pub fn flush(&mut self) -> io::Result<()> {
        let result = self.out.write_all(&self.pending);
        self.pending.clear();
        result.and_then(|()| self.out.flush())
    }
}

fn padded(out: &mut Vec<u8>, data: &[u8]) {
    out.extend(data);
    out.resize(out.len() + (4 - data.len() % 4) % 4, 0);
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let len = value.len().min(u16::MAX as usize);
    out.extend(code.to_le_bytes());
    out.extend((len as u16).to_le_bytes());
    padded(out, &value[..len]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_well_formed_and_can_be_forgotten() {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file);
        let eth = writer.interface("eth0", Medium::Ethernet);
        let tun = writer.interface("tun0", Medium::Ip);
        assert_ne!(eth, tun);
        let packet = |interface, data| Packet {
            interface,
            time_ns: 0x1_0000_0002,
            direction: Direction::Outbound,
            data,
            original: 9,
            comment: "why",
        };
        writer.packet(&packet(tun, b"12345"));
        let kept = writer.pending();
        writer.packet(&packet(eth, b"67"));
        writer.forget(kept);
        writer.statistics(tun, 7, 3, 2);
        writer.flush().unwrap();
        let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        let (mut at, mut kinds) = (0, Vec::new());
        while at < file.len() {
            let len = word(at + 4) as usize;
            assert_eq!((len % 4, word(at + len - 4)), (0, len as u32));
            kinds.push(word(at));
            if word(at) == ENHANCED_PACKET {
                assert_eq!([8, 12, 16, 20, 24].map(|o| word(at + o)), [1, 1, 2, 5, 9]);
                assert_eq!(&file[at + 28..at + 36], b"12345\0\0\0");
                assert_eq!(word(at + 40), Direction::Outbound as u32);
            }
            at += len;
        }
        let described = INTERFACE_DESCRIPTION;
        let statistics = INTERFACE_STATISTICS;
        assert_eq!(kinds, [SECTION_HEADER, described, described, ENHANCED_PACKET, statistics]);
    }
}
