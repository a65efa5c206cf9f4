//! Software segmentation and checksum completion: turns a frame with [`FrameMeta`] into the plain
//! frames that a wire takes, written straight into the buffers of the device.
//!
//! ```
//! # use weft_drivers::{device::Medium, segment::Cut};
//! # use weft_stack::frame::Frame;
//! # let frame = Frame::from_heap(0, &[0; 60]);
//! let mut cut = Cut::new(&frame, Medium::Ethernet)?;
//! // Taken whole or not at all: look for cut.frames() free buffers first.
//! while let Some(len) = cut.next_len() {
//!     let mut buffer = vec![0; len]; // a UMEM frame, a ring slot
//!     cut.write_next(&mut buffer);
//! }
//! # Ok::<(), weft_drivers::segment::CutError>(())
//! ```
//!
//! A super-segment with [`Checksum::Partial`] holds in its checksum field the pseudo-header sum
//! over its whole length, as Linux and virtio have it. It is the only source of the pseudo header
//! here: below a shim the addresses in the IP header are not those that the checksum covers.
//!
//! [`FrameMeta`]: weft_stack::frame::FrameMeta

use std::collections::VecDeque;

use weft_stack::frame::{Checksum, FragIter, Frame, FramePool, Gso, HEADROOM_BYTES};
use weft_stack::wire::checksum::{self, Accumulator, combine};

use crate::device::Medium;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: [u16; 2] = [0x8100, 0x88a8];
const TCP: u8 = 6;
const UDP: u8 = 17;
const TCP_FIN_PSH: u8 = 0x09;
const TCP_CWR: u8 = 0x80;

/// Why a frame cannot be cut. It is a defect of the sender; drop and count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    /// The linear data ends inside the headers, or the checksum offsets point outside of it.
    #[error("headers of the frame are not all in its linear data")]
    Truncated,
    /// No IPv4 or IPv6 header where the medium says one is.
    #[error("super-segment without an IP header")]
    NotIp,
    /// The transport is not what the segmentation state says.
    #[error("super-segment whose transport does not match its segmentation state")]
    TransportMismatch,
    /// Segments of no bytes.
    #[error("super-segment with a segment size of 0")]
    SegmentSizeZero,
}

/// Offsets of the headers of a frame that carries TCP or UDP over IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Of the IP header.
    pub network: usize,
    /// 4 or 6.
    pub ip_version: u8,
    /// Of the transport header.
    pub transport: usize,
    /// Transport protocol number.
    pub protocol: u8,
    /// Of the payload.
    pub payload: usize,
}

impl Headers {
    /// Finds the headers in linear data that starts with an Ethernet header (VLAN tags allowed)
    /// or with the IP header. Only TCP and UDP, no fragments.
    pub fn parse(data: &[u8], medium: Medium) -> Result<Headers, CutError> {
        let network = network_offset(data, medium)?;
        let ip = &data[network..];
        let (ip_version, len, protocol) = match ip.first().ok_or(CutError::Truncated)? >> 4 {
            4 => (4, usize::from(ip[0] & 15) * 4, *ip.get(9).ok_or(CutError::Truncated)?),
            6 => {
                let (len, protocol) = ipv6_chain(ip)?;
                (6, len, protocol)
            }
            _ => return Err(CutError::NotIp),
        };
        let transport = network + len;
        let rest = data.get(transport..).ok_or(CutError::Truncated)?;
        let header_len = match protocol {
            TCP => usize::from(rest.get(12).ok_or(CutError::Truncated)? >> 4) * 4,
            UDP => 8,
            _ => return Err(CutError::TransportMismatch),
        };
        let least = if protocol == TCP { 20 } else { 8 };
        if header_len < least || len < 20 || rest.len() < header_len {
            return Err(CutError::Truncated);
        }
        let payload = transport + header_len;
        Ok(Headers { network, ip_version, transport, protocol, payload })
    }

    /// The state of a frame whose checksum field holds the pseudo-header sum only.
    pub fn partial(&self) -> Checksum {
        let offset = (self.checksum_offset() - self.transport) as u16;
        Checksum::Partial { start: self.transport as u16, offset }
    }

    fn checksum_offset(&self) -> usize {
        self.transport + if self.protocol == TCP { 16 } else { 6 }
    }
}

fn be16(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(data.get(at..at + 2)?.try_into().ok()?))
}

fn network_offset(data: &[u8], medium: Medium) -> Result<usize, CutError> {
    if medium == Medium::Ip {
        return Ok(0);
    }
    let mut at = 12;
    loop {
        let ethertype = be16(data, at).ok_or(CutError::Truncated)?;
        match ethertype {
            IPV4 | IPV6 => return Ok(at + 2),
            tag if VLAN.contains(&tag) => at += 4,
            _ => return Err(CutError::NotIp),
        }
    }
}

/// Length of the IPv6 header with its extension headers, and the transport behind them.
fn ipv6_chain(ip: &[u8]) -> Result<(usize, u8), CutError> {
    let mut next = *ip.get(6).ok_or(CutError::Truncated)?;
    let mut at = 40;
    loop {
        match next {
            // Hop-by-hop, routing, destination options, mobility, HIP, shim6 (RFC 6564).
            0 | 43 | 60 | 135 | 139 | 140 => {
                let len = *ip.get(at + 1).ok_or(CutError::Truncated)?;
                next = ip[at];
                at += (usize::from(len) + 1) * 8;
            }
            // Authentication counts in words less two (RFC 4302 section 2.2).
            51 => {
                let len = *ip.get(at + 1).ok_or(CutError::Truncated)?;
                next = ip[at];
                at += (usize::from(len) + 2) * 4;
            }
            transport => return Ok((at, transport)),
        }
    }
}

/// A frame on its way into device buffers; see the module documentation.
pub struct Cut<'a> {
    frame: &'a Frame,
    payload: Payload<'a>,
    kind: Kind,
    /// Bytes of payload not yet written (for an uncut frame: all bytes).
    left: usize,
    frames: usize,
    written: usize,
}

#[derive(Clone, Copy)]
enum Kind {
    /// Copy, and complete a partial checksum on the way.
    Whole,
    /// Cut into `size` payload bytes each; `pseudo` is the pseudo-header sum without the length.
    Super { headers: Headers, size: usize, pseudo: Option<u16> },
}

impl<'a> Cut<'a> {
    /// Looks at a frame; nothing is written yet. A frame without segmentation state is one frame.
    pub fn new(frame: &'a Frame, medium: Medium) -> Result<Cut<'a>, CutError> {
        let total = frame.total_len();
        let (protocol, size) = match frame.meta.gso {
            Gso::None => {
                check_partial(frame)?;
                let payload = Payload::new(frame, 0);
                return Ok(Cut {
                    frame,
                    payload,
                    kind: Kind::Whole,
                    left: total,
                    frames: 1,
                    written: 0,
                });
            }
            Gso::Tcp4 { mss } | Gso::Tcp6 { mss } => (TCP, usize::from(mss)),
            Gso::Udp { size } => (UDP, usize::from(size)),
        };
        if size == 0 {
            return Err(CutError::SegmentSizeZero);
        }
        check_partial(frame)?;
        let headers = Headers::parse(frame.data(), medium)?;
        if headers.protocol != protocol {
            return Err(CutError::TransportMismatch);
        }
        let left = total - headers.payload;
        let kind = Kind::Super { headers, size, pseudo: pseudo_without_length(frame, &headers) };
        let payload = Payload::new(frame, headers.payload);
        let frames = left.div_ceil(size).max(1);
        Ok(Cut { frame, payload, kind, left, frames, written: 0 })
    }

    /// How many frames it becomes, at least one.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Bytes of the largest of them.
    pub fn frame_bytes_max(&self) -> usize {
        match self.kind {
            Kind::Whole => self.frame.total_len(),
            Kind::Super { headers, size, .. } => {
                (headers.payload + size).min(self.frame.total_len())
            }
        }
    }

    /// Bytes of the next frame; `None` when all are written.
    pub fn next_len(&self) -> Option<usize> {
        if self.written == self.frames {
            return None;
        }
        Some(match self.kind {
            Kind::Whole => self.left,
            Kind::Super { headers, size, .. } => headers.payload + self.left.min(size),
        })
    }

    /// Bytes of headers in front of the payload, as far as it is known where that starts: of a
    /// super-segment, and of a frame with its payload in fragments.
    pub fn header_bytes(&self) -> usize {
        match self.kind {
            Kind::Whole if self.frame.frags.is_empty() => 0,
            Kind::Whole => self.frame.len(),
            Kind::Super { headers, .. } => headers.payload,
        }
    }

    /// Writes the next frame into `out`, which is [`Cut::next_len`] bytes long.
    ///
    /// # Panics
    /// If `out` has another length, or nothing is left.
    pub fn write_next(&mut self, out: &mut [u8]) {
        self.write_next_into(&mut [out]);
    }

    /// As [`Cut::write_next`], into several buffers one after the other, [`Cut::next_len`] bytes
    /// long together.
    ///
    /// # Panics
    /// If the length is another, nothing is left, or the first does not hold the headers.
    pub fn write_next_into(&mut self, out: &mut [&mut [u8]]) {
        let room = out.iter().map(|part| part.len()).sum();
        assert_eq!(Some(room), self.next_len(), "buffers of another length than the frame");
        match self.kind {
            Kind::Whole => self.write_whole(out),
            Kind::Super { headers, size, pseudo } => self.write_part(out, headers, size, pseudo),
        }
        self.written += 1;
    }

    /// Writes the headers of the next frame of a super-segment into `head`, which is
    /// [`Cut::header_bytes`] long, and hands its payload out in `piece`s where it lies.
    ///
    /// # Panics
    /// If this is no super-segment, `head` has another length, or nothing is left.
    pub fn gather_next(&mut self, head: &mut [u8], mut piece: impl FnMut(&'a [u8])) {
        let Kind::Super { headers: h, size, pseudo } = self.kind else {
            panic!("only super-segments have headers to repeat")
        };
        assert!(self.written < self.frames, "nothing is left of the frame");
        let len = self.next_headers(head, &h, size);
        let mut sum = Accumulator::default();
        let mut left = len;
        while left > 0 {
            let next = self.payload.next(left);
            left -= next.len();
            if pseudo.is_some() {
                sum.add(next);
            }
            piece(next);
        }
        finish_part(head, &h, pseudo, sum.sum(), len);
        self.written += 1;
    }

    fn write_whole(&mut self, out: &mut [&mut [u8]]) {
        self.left = 0;
        let Checksum::Partial { start, offset } = self.frame.meta.checksum else {
            for part in out {
                self.payload.copy(part);
            }
            return;
        };
        let Some((first, rest)) = out.split_first_mut() else { return };
        let (before, covered) = first.split_at_mut(usize::from(start));
        self.payload.copy(before);
        let mut sum = Accumulator::default();
        self.payload.copy_and_sum(covered, &mut sum);
        for part in rest {
            self.payload.copy_and_sum(part, &mut sum);
        }
        let offset = usize::from(offset);
        put16(covered, offset, checksum::finish_at(offset, sum.sum()));
    }

    fn write_part(&mut self, out: &mut [&mut [u8]], h: Headers, size: usize, pseudo: Option<u16>) {
        let Some((first, rest)) = out.split_first_mut() else { return };
        let (head, payload) = first.split_at_mut(h.payload);
        let len = self.next_headers(head, &h, size);
        if pseudo.is_none() {
            self.payload.copy(payload);
            for part in rest {
                self.payload.copy(part);
            }
            return;
        }
        let mut sum = Accumulator::default();
        self.payload.copy_and_sum(payload, &mut sum);
        for part in rest {
            self.payload.copy_and_sum(part, &mut sum);
        }
        finish_part(head, &h, pseudo, sum.sum(), len);
    }

    /// Writes the next frame's headers, all but the checksum; returns its payload length.
    fn next_headers(&mut self, head: &mut [u8], h: &Headers, size: usize) -> usize {
        let len = self.left.min(size);
        self.left -= len;
        head.copy_from_slice(&self.frame.data()[..h.payload]);
        patch_network(head, h, len, self.written);
        match h.protocol {
            TCP => patch_tcp(head, h, self.written, size, self.left == 0),
            _ => put16(head, h.transport + 4, (8 + len) as u16),
        }
        len
    }
}

/// Completes the checksum of headers whose payload has this sum and length. Without a pseudo-header
/// sum there is none to complete.
fn finish_part(head: &mut [u8], h: &Headers, pseudo: Option<u16>, payload_sum: u16, len: usize) {
    let Some(pseudo) = pseudo else { return };
    put16(head, h.checksum_offset(), 0);
    let header_sum = checksum::sum(&head[h.transport..]);
    let covered = (h.payload - h.transport + len) as u16;
    let sum = combine(combine(pseudo, covered), combine(header_sum, payload_sum));
    let at = h.checksum_offset();
    put16(head, at, checksum::finish_at(at - h.transport, sum));
}

fn put16(data: &mut [u8], at: usize, value: u16) {
    data[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn check_partial(frame: &Frame) -> Result<(), CutError> {
    if let Checksum::Partial { start, offset } = frame.meta.checksum {
        let field_end = usize::from(start) + usize::from(offset) + 2;
        if field_end > frame.len() {
            return Err(CutError::Truncated);
        }
    }
    Ok(())
}

/// The pseudo-header sum of a super-segment less its length; `None` for UDP without a checksum.
fn pseudo_without_length(frame: &Frame, h: &Headers) -> Option<u16> {
    let data = frame.data();
    let field = be16(data, h.checksum_offset()).expect("the transport header was checked");
    if let Checksum::Partial { .. } = frame.meta.checksum {
        let covered = (frame.total_len() - h.transport) as u32;
        let length = combine((covered >> 16) as u16, covered as u16);
        return Some(combine(field, !length));
    }
    if h.protocol == UDP && field == 0 {
        return None;
    }
    let addresses = if h.ip_version == 4 { 12..20 } else { 8..40 };
    let sum = checksum::sum(&data[h.network..][addresses]);
    Some(combine(sum, u16::from(h.protocol)))
}

fn patch_network(head: &mut [u8], h: &Headers, payload_len: usize, index: usize) {
    let total = h.payload - h.network + payload_len;
    let ip = &mut head[h.network..h.transport];
    if h.ip_version == 6 {
        put16(ip, 4, (total - 40) as u16);
        return;
    }
    put16(ip, 2, total as u16);
    let id = be16(ip, 4).expect("an IPv4 header").wrapping_add(index as u16);
    put16(ip, 4, id);
    put16(ip, 10, 0);
    let sum = checksum::sum(ip);
    put16(ip, 10, checksum::finish(sum));
}

fn patch_tcp(head: &mut [u8], h: &Headers, index: usize, size: usize, last: bool) {
    let tcp = &mut head[h.transport..];
    let seq = u32::from_be_bytes(tcp[4..8].try_into().expect("four bytes"));
    let seq = seq.wrapping_add((index * size) as u32);
    tcp[4..8].copy_from_slice(&seq.to_be_bytes());
    if !last {
        tcp[13] &= !TCP_FIN_PSH;
    }
    if index > 0 {
        tcp[13] &= !TCP_CWR;
    }
}

/// Reads the bytes of a frame, linear data then fragments, from some offset on.
struct Payload<'a> {
    /// What is left of the current part.
    part: &'a [u8],
    rest: FragIter<'a>,
}

impl<'a> Payload<'a> {
    /// `offset`: within the linear data.
    fn new(frame: &'a Frame, offset: usize) -> Payload<'a> {
        Payload { part: &frame.data()[offset..], rest: frame.frags.iter() }
    }

    /// The next bytes, at most `max`, from one part. The caller knows that there are some.
    fn next(&mut self, max: usize) -> &'a [u8] {
        while self.part.is_empty() {
            self.part = self.rest.next().expect("no more is read than the frame holds");
        }
        let (piece, part) = self.part.split_at(max.min(self.part.len()));
        self.part = part;
        piece
    }

    fn copy(&mut self, mut out: &mut [u8]) {
        while !out.is_empty() {
            let piece = self.next(out.len());
            let (now, rest) = out.split_at_mut(piece.len());
            now.copy_from_slice(piece);
            out = rest;
        }
    }

    fn copy_and_sum(&mut self, mut out: &mut [u8], sum: &mut Accumulator) {
        while !out.is_empty() {
            let piece = self.next(out.len());
            let (now, rest) = out.split_at_mut(piece.len());
            sum.copy(now, piece);
            out = rest;
        }
    }
}

/// Writes all frames of a cut into frames of `pool`, appended to `out`; returns the payload bytes copied.
/// Frames longer than those of the pool (the MTU grew since) come from the heap. `None`: the pool
/// has not enough free frames now; nothing is appended.
pub fn cut_into_pool(
    mut cut: Cut<'_>,
    pool: &FramePool,
    out: &mut VecDeque<Frame>,
) -> Option<usize> {
    let before = out.len();
    let head = cut.header_bytes();
    let mut copied = 0;
    while let Some(len) = cut.next_len() {
        let part = if len + HEADROOM_BYTES > pool.slot_bytes() {
            Some(Frame::heap_with_capacity(HEADROOM_BYTES, len))
        } else {
            pool.alloc_to_send()
        };
        let Some(mut part) = part else {
            out.truncate(before);
            return None;
        };
        cut.write_next(part.push_back(len));
        copied += len - head;
        out.push_back(part);
    }
    Some(copied)
}

/// Completes a partial checksum in place. `false`: its offsets point outside the linear data, the
/// frame is a defect of its sender. Other frames are left alone.
///
/// A super-segment becomes valid as the one large packet that it looks like; cut it afterwards
/// only if the addresses in its IP header are those that its checksum covers.
pub fn complete_checksum(frame: &mut Frame) -> bool {
    let Checksum::Partial { start, offset } = frame.meta.checksum else { return true };
    if check_partial(frame).is_err() {
        return false;
    }
    let mut sum = Accumulator::default();
    sum.add(&frame.data()[usize::from(start)..]);
    for frag in &frame.frags {
        sum.add(frag);
    }
    let at = usize::from(start) + usize::from(offset);
    put16(frame.data_mut(), at, checksum::finish_at(usize::from(offset), sum.sum()));
    frame.meta.checksum = Checksum::Complete;
    true
}

/// The frame with everything in its linear data: as it is, or with the fragments copied into its
/// tailroom, into a frame of `pool`, or (too long, or pool empty) into a heap frame.
pub fn linearise(mut frame: Frame, pool: &FramePool) -> Frame {
    if frame.frags.is_empty() {
        return frame;
    }
    let extra = frame.total_len() - frame.len();
    if extra <= frame.tailroom() {
        for frag in std::mem::take(&mut frame.frags) {
            frame.append(&frag);
        }
        return frame;
    }
    let total = frame.total_len();
    let Some(mut copy) = pool.alloc().filter(|f| f.tailroom() >= total) else {
        return frame.to_heap();
    };
    frame.copy_to(copy.push_back(total));
    copy.meta = frame.meta;
    copy
}

#[cfg(test)]
mod tests;
