//! The receiving side of a queue.

use std::os::fd::{AsFd, AsRawFd};

use weft_stack::frame::{Frame, Gso};
use weft_stack::wire::checksum;

use super::ring::{CONTINUED, Desc};
use super::socket::AfXdp;
use crate::device::Medium;
use crate::segment::Headers;

/// How many frames ahead the headers are asked for: the kernel wrote them on its CPU, maybe not
/// ours.
const PREFETCH: usize = 4;

impl AfXdp {
    /// Takes descriptors until `max` frames are complete or the ring is empty. Whether there were
    /// any.
    pub(super) fn consume(&mut self, burst: &mut Vec<Frame>, max: usize) -> bool {
        let end = burst.len() + max;
        let mut spare = None;
        while burst.len() < end {
            let n = self.rings.rx.available(end - burst.len());
            if n == 0 {
                break;
            }
            let pool = self.umem.pool();
            let spare = spare.get_or_insert_with(|| pool.free().saturating_sub(self.reserve));
            for ahead in 0..n.min(PREFETCH) {
                self.umem.prefetch(self.rings.rx.get(ahead).address);
            }
            for i in 0..n {
                if i + PREFETCH < n {
                    self.umem.prefetch(self.rings.rx.get(i + PREFETCH).address);
                }
                let desc = self.rings.rx.get(i);
                if let Some(frame) = self.take(desc) {
                    self.deliver(frame, spare, burst);
                }
            }
            self.rings.rx.release(n);
        }
        spare.is_some()
    }

    /// The packet that ends with this descriptor.
    #[inline]
    fn take(&mut self, desc: Desc) -> Option<Frame> {
        let located = self.umem.locate(desc.address);
        let Some((slot, head)) = located.filter(|(slot, _)| self.held.received(*slot)) else {
            self.stats.rx_errors += 1;
            self.chain = None;
            return None;
        };
        self.filler.received(1);
        let len = desc.len as usize;
        if head + len > self.umem.frame_bytes() {
            self.umem.pool().give_slots(&[slot]);
            self.stats.rx_errors += 1;
            self.chain = None;
            return None;
        }
        // SAFETY: the slot was with the kernel (`held`) and came back through the receive ring, so
        // it is ours alone.
        let mut part = unsafe { self.umem.pool().frame_at(slot, head, len) };
        part.meta.queue = self.queue;
        let whole = match self.chain.take() {
            None => part,
            Some(mut first) => {
                first.frags.push(part);
                first
            }
        };
        if desc.options & CONTINUED != 0 {
            self.chain = Some(whole);
            return None;
        }
        Some(whole)
    }

    fn deliver(&mut self, mut frame: Frame, spare: &mut usize, burst: &mut Vec<Frame>) {
        let bytes = frame.total_len();
        if bytes > self.frame_bytes_max() && !mark_merged(&mut frame, self.link.mtu) {
            self.stats.rx_errors += 1;
            return;
        }
        self.stats.rx_frames += 1;
        self.stats.rx_bytes += bytes as u64;
        let slots = 1 + frame.frags.len();
        if *spare < slots {
            // The fill ring comes first: these slots go back to it.
            frame = frame.to_heap();
            self.stats.rx_copied_bytes += bytes as u64;
        } else {
            *spare -= slots;
        }
        burst.push(frame);
    }

    pub(super) fn receive_copies(&mut self, burst: &mut Vec<Frame>, max: usize) {
        let Some(ring) = &mut self.copies else { return };
        for _ in 0..max {
            let Some(frame) = ring.receive(self.umem.pool()) else { break };
            self.stats.rx_frames += 1;
            self.stats.rx_bytes += frame.len() as u64;
            self.stats.rx_copied_bytes += frame.len() as u64;
            burst.push(frame);
        }
        self.stats.rx_errors += std::mem::take(&mut ring.truncated);
    }

    /// Lets the driver look at the NIC within this call.
    pub(super) fn run_driver(&mut self) {
        self.stats.kicks += 1;
        // SAFETY: a receive of no bytes into no buffer; it only runs the driver. An error (a
        // signal, a link that is down) shows in the ring as no frame.
        unsafe {
            libc::recvfrom(
                self.rings.socket.as_fd().as_raw_fd(),
                std::ptr::null_mut(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            );
        }
    }
}

/// Accepts a frame longer than the link's: TCP segments that the kernel merged (or never cut)
/// before a generic program saw them. They never crossed the wire like this, and their checksum
/// field holds the pseudo-header sum. `false` for anything else.
fn mark_merged(frame: &mut Frame, mtu: usize) -> bool {
    let total = frame.total_len();
    let Ok(headers) = Headers::parse(frame.data(), Medium::Ethernet) else { return false };
    if headers.protocol != 6 || headers.transport > usize::from(u16::MAX) {
        return false;
    }
    let data = frame.data();
    let addresses = if headers.ip_version == 4 { 12..20 } else { 8..40 };
    let sum = checksum::sum(&data[headers.network..][addresses]);
    let covered = total - headers.transport;
    let length = checksum::combine((covered >> 16) as u16, covered as u16);
    let pseudo = checksum::combine(checksum::combine(sum, 6), length);
    let field = headers.transport + 16;
    let field = u16::from_be_bytes([data[field], data[field + 1]]);
    let header_bytes = headers.payload - headers.network;
    if field != pseudo || header_bytes >= mtu {
        return false;
    }
    let mss = (mtu - header_bytes) as u16;
    frame.meta.checksum = headers.partial();
    frame.meta.gso = if headers.ip_version == 4 { Gso::Tcp4 { mss } } else { Gso::Tcp6 { mss } };
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    use weft_stack::frame::Checksum;

    /// Ethernet, IPv4, TCP headers as the kernel leaves them on a merged packet.
    fn merged(payload: usize) -> Frame {
        let mut frame = Frame::heap_with_capacity(0, 54 + payload);
        let data = frame.push_back(54 + payload);
        data[12] = 8;
        data[14] = 0x45;
        data[16..18].copy_from_slice(&((40 + payload) as u16).to_be_bytes());
        data[23] = 6;
        data[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        data[46] = 5 << 4;
        let sum = checksum::sum(&data[26..34]);
        let sum = checksum::combine(checksum::combine(sum, 6), (20 + payload) as u16);
        data[50..52].copy_from_slice(&sum.to_be_bytes());
        frame
    }

    #[test]
    fn merged_tcp_is_accepted_and_says_how_to_complete_it() {
        let mut frame = merged(8000);
        assert!(mark_merged(&mut frame, 1500));
        assert_eq!(frame.meta.checksum, Checksum::Partial { start: 34, offset: 16 });
        assert_eq!(frame.meta.gso, Gso::Tcp4 { mss: 1460 });
    }

    #[test]
    fn other_long_frames_are_refused() {
        let mut udp = merged(8000);
        udp.data_mut()[23] = 17;
        assert!(!mark_merged(&mut udp, 1500));
        let mut complete = merged(8000);
        complete.data_mut()[50] ^= 1;
        assert!(!mark_merged(&mut complete, 1500));
    }
}
