//! One queue of a NIC as a [`Device`].

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::epoll;
use weft_stack::frame::{Frame, FramePool, Gso};
use weft_stack::wire::checksum;
use xsk_rs::umem::frame::FrameDesc;

use super::bind::{self, Bound};
use super::multicast::CopyRing;
use super::program::QueueClaim;
use super::rings::{BATCH, Filler, Held, Rings, reap};
use super::umem::{SocketGuard, UmemPool};
use super::{AfXdpOptions, XdpProgram};
use crate::device::{
    Caps, Device, DeviceError, DeviceStats, LINK_HEADER_BYTES_MAX, Link, Medium,
    SUPER_SEGMENT_BYTES_MAX, Steer,
};
use crate::segment::{Cut, Headers, complete_checksum};
use crate::sockopt::set_option;

/// Descriptor option: the packet goes on in the next descriptor (linux/if_xdp.h).
const PACKET_CONTINUED: u32 = 1;
/// What the kernel sends per call without that option.
const TX_BATCH: u32 = 32;
/// One queue of a NIC, bound to an AF_XDP socket. Made by [`AfXdp::open`].
///
/// Dropping it closes the socket and returns its slots to the pool; the queue can be opened again
/// at once.
pub struct AfXdp {
    /// First: the kernel lets go of the slots before `held` returns them.
    rings: Rings,
    _socket: SocketGuard,
    held: Held,
    filler: Filler,
    umem: UmemPool,
    program: Arc<XdpProgram>,
    _claim: QueueClaim,
    copies: Option<CopyRing>,
    epoll: Option<OwnedFd>,
    queue: u16,
    caps: Caps,
    link: Link,
    tx_ring: u32,
    /// Descriptors of frames taken by `transmit`, not yet visible to the kernel.
    queued: Vec<FrameDesc>,
    /// A received packet whose last descriptors have not come yet.
    chain: Option<Frame>,
    rx_descs: Vec<FrameDesc>,
    slots: Vec<u32>,
    scratch: Vec<u8>,
    /// Received frames are copied out of the pool when it has no more free slots than this.
    reserve: usize,
    busy_poll: bool,
    stats: DeviceStats,
}

impl AfXdp {
    /// Binds queue `queue` of the program's NIC, in the calling thread's namespace.
    ///
    /// By the program's mode it tries zero-copy, then copying; [`Caps::mode`] tells the outcome.
    /// The first socket on a UMEM decides for all others on it. Waits up to a second for a queue
    /// whose former owner just ended.
    pub fn open(
        program: &Arc<XdpProgram>,
        queue: u32,
        umem: &UmemPool,
        options: AfXdpOptions,
    ) -> Result<AfXdp, DeviceError> {
        let bound = bind::bind(program, queue, umem, options)?;
        let fail = |operation, e| {
            DeviceError::new(operation, format!("{} queue {queue}", program.ifname()), e)
        };
        let mut device = AfXdp::over(bound, program, umem, options);
        device.filler.refill(&mut device.rings, umem, &mut device.held);
        if queue == 0 {
            device.open_copies().map_err(|e| fail("open socket for multicast copies", e))?;
        }
        let fd = device.rings.rx.fd().as_raw_fd();
        program.insert_socket(queue, fd).map_err(|e| fail("enter socket into XSKMAP", e))?;
        Ok(device)
    }

    fn over(
        bound: Bound,
        program: &Arc<XdpProgram>,
        umem: &UmemPool,
        options: AfXdpOptions,
    ) -> AfXdp {
        let Bound { rings, socket, claim, queue, zero_copy } = bound;
        let nic = program.nic();
        let slots = umem.pool().slots();
        let fill = match options.fill_frames as usize {
            0 => slots / 4,
            n => n,
        };
        let mode = match (zero_copy, program.generic()) {
            (true, _) => "af-xdp zero-copy",
            (false, false) => "af-xdp native copy",
            (false, true) => "af-xdp generic",
        };
        AfXdp {
            rings,
            _socket: socket,
            held: Held::new(umem.pool(), zero_copy),
            filler: Filler::new(fill.clamp(1, UmemPool::RING_ENTRIES as usize)),
            umem: umem.clone(),
            program: Arc::clone(program),
            _claim: claim,
            copies: None,
            epoll: None,
            queue: queue as u16,
            caps: Caps {
                medium: Medium::Ethernet,
                gso_bytes_max: SUPER_SEGMENT_BYTES_MAX,
                tx_checksum: true,
                rx_checksum: false,
                mode: mode.to_owned(),
            },
            link: Link { up: nic.up, mtu: nic.mtu, mac: nic.mac },
            tx_ring: options.tx_ring,
            queued: Vec::with_capacity(options.tx_ring as usize),
            chain: None,
            rx_descs: vec![FrameDesc::default(); BATCH],
            slots: Vec::with_capacity(BATCH),
            scratch: Vec::new(),
            reserve: slots / 16,
            busy_poll: false,
            stats: DeviceStats::default(),
        }
    }

    /// Queue 0 also takes the copies of multicast frames; its descriptor is an epoll over both.
    fn open_copies(&mut self) -> io::Result<()> {
        let frame_bytes = self.frame_bytes_max();
        let ring =
            self.program.open_copies(|socket| CopyRing::new(Arc::clone(socket), frame_bytes))?;
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let add = |fd: BorrowedFd<'_>| {
            epoll::add(&set, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN)
        };
        add(self.socket_fd())?;
        add(ring.fd())?;
        self.copies = Some(ring);
        self.epoll = Some(set);
        Ok(())
    }

    fn socket_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring keeps the socket, and with it the descriptor, open while `self` lives.
        unsafe { BorrowedFd::borrow_raw(self.rings.rx.fd().as_raw_fd()) }
    }

    /// Longest frame of the link, link headers included.
    fn frame_bytes_max(&self) -> usize {
        self.link.mtu + LINK_HEADER_BYTES_MAX
    }
}

/// Receiving.
impl AfXdp {
    /// Consumes up to `max` descriptors; returns how many there were.
    fn consume(&mut self, burst: &mut Vec<Frame>, max: usize) -> usize {
        if self.rings.rx.nb_avail(1) == 0 {
            return 0;
        }
        let mut descs = std::mem::take(&mut self.rx_descs);
        let mut spare = self.umem.pool().free().saturating_sub(self.reserve);
        let mut total = 0;
        while total < max {
            let want = (max - total).min(BATCH);
            // SAFETY: the ring belongs to the device's UMEM.
            let n = unsafe { self.rings.rx.consume(&mut descs[..want]) };
            for desc in &descs[..n] {
                if let Some(frame) = self.take(desc) {
                    self.deliver(frame, &mut spare, burst);
                }
            }
            total += n;
            if n < want {
                break;
            }
        }
        self.rx_descs = descs;
        total
    }

    /// The packet that ends with this descriptor.
    fn take(&mut self, desc: &FrameDesc) -> Option<Frame> {
        let located = self.umem.locate(desc.addr());
        let Some((slot, head)) = located.filter(|(slot, _)| self.held.remove(*slot)) else {
            self.stats.rx_errors += 1;
            self.chain = None;
            return None;
        };
        self.filler.received_one();
        let len = desc.lengths().data();
        if head + len > self.umem.pool().slot_bytes() {
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
        if desc.has_more_frames() {
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
            self.stats.copied_bytes += bytes as u64;
        } else {
            *spare -= slots;
        }
        burst.push(frame);
    }

    fn receive_copies(&mut self, burst: &mut Vec<Frame>, max: usize) {
        let Some(ring) = &mut self.copies else { return };
        for _ in 0..max {
            let Some(frame) = ring.receive(self.umem.pool()) else { break };
            self.stats.rx_frames += 1;
            self.stats.rx_bytes += frame.len() as u64;
            self.stats.copied_bytes += frame.len() as u64;
            burst.push(frame);
        }
        self.stats.rx_errors += std::mem::take(&mut ring.truncated);
    }

    fn run_busy_poll(&mut self) {
        self.stats.kicks += 1;
        // SAFETY: a receive of no bytes into no buffer; it only runs the driver.
        unsafe {
            libc::recvfrom(
                self.rings.rx.fd().as_raw_fd(),
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

enum Taken {
    /// Queued; the frame can go.
    Sent,
    /// No ring entries or no slots: backpressure.
    NoRoom,
    /// Can never be sent here.
    Refused,
}

/// Sending.
impl AfXdp {
    /// Whether the frame's own slot can be given to the kernel.
    fn sends_in_place(&self, frame: &Frame) -> bool {
        frame.frags.is_empty()
            && frame.meta.gso == Gso::None
            && frame.len() <= self.umem.data_bytes()
            && self.umem.pool().owns(frame)
    }

    fn has_entries(&mut self, n: usize) -> bool {
        let wanted = (self.queued.len() + n) as u32;
        self.rings.tx.nb_free(wanted) >= wanted
    }

    fn take_frame(&mut self, burst: &mut VecDeque<Frame>) -> Taken {
        let Some(frame) = burst.front() else { return Taken::NoRoom };
        if !self.sends_in_place(frame) {
            let taken = self.copy_out(frame);
            if !matches!(taken, Taken::NoRoom) {
                burst.pop_front();
            }
            return taken;
        }
        if !self.has_entries(1) {
            return Taken::NoRoom;
        }
        burst.pop_front().map_or(Taken::NoRoom, |frame| self.send_in_place(frame))
    }

    fn send_in_place(&mut self, mut frame: Frame) -> Taken {
        let len = frame.len();
        if len > self.frame_bytes_max() || len == 0 || !complete_checksum(&mut frame) {
            return Taken::Refused;
        }
        let from = frame.data().as_ptr();
        let Ok(slot) = frame.into_slot() else { return Taken::Refused };
        let mut desc = self.umem.desc(slot);
        // SAFETY: the slot was just given up by its only owner.
        let mut data = unsafe { self.umem.data(&mut desc, len) };
        let to = data.contents_mut().as_mut_ptr();
        if !std::ptr::eq(from, to) {
            // SAFETY: both are in the slot, which holds `len` bytes from either place; they may
            // overlap.
            unsafe { std::ptr::copy(from, to, len) };
        }
        self.enqueue(slot, desc);
        self.count_sent(len);
        Taken::Sent
    }

    /// Writes the frame, cut if it is a super-segment, into slots of the pool.
    fn copy_out(&mut self, frame: &Frame) -> Taken {
        let Ok(mut cut) = Cut::new(frame, Medium::Ethernet) else { return Taken::Refused };
        let longest = cut.frame_bytes_max();
        let per_frame = longest.div_ceil(self.umem.data_bytes());
        let wanted = per_frame * cut.frames();
        if longest > self.frame_bytes_max() || longest == 0 || wanted > self.tx_ring as usize {
            return Taken::Refused;
        }
        if !self.has_entries(wanted) || !self.take_slots(wanted) {
            return Taken::NoRoom;
        }
        while let Some(len) = cut.next_len() {
            self.write_next(&mut cut, len);
        }
        self.umem.pool().give_slots(&self.slots);
        self.slots.clear();
        self.stats.copied_bytes += frame.total_len() as u64;
        Taken::Sent
    }

    fn take_slots(&mut self, n: usize) -> bool {
        self.slots.clear();
        let mut got = self.umem.pool().take_slots(n, &mut self.slots);
        if got < n {
            reap(&mut self.rings, &self.umem, &mut self.held);
            got += self.umem.pool().take_slots(n - got, &mut self.slots);
        }
        if got < n {
            self.umem.pool().give_slots(&self.slots);
            self.slots.clear();
        }
        got == n
    }

    fn write_next(&mut self, cut: &mut Cut<'_>, len: usize) {
        self.count_sent(len);
        let data_bytes = self.umem.data_bytes();
        if len <= data_bytes {
            self.write_desc(len, 0, |out| cut.write_next(out));
            return;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.resize(len, 0);
        cut.write_next(&mut scratch);
        let mut parts = scratch.chunks(data_bytes).peekable();
        while let Some(part) = parts.next() {
            let options = if parts.peek().is_some() { PACKET_CONTINUED } else { 0 };
            self.write_desc(part.len(), options, |out| out.copy_from_slice(part));
        }
        self.scratch = scratch;
    }

    fn write_desc(&mut self, len: usize, options: u32, write: impl FnOnce(&mut [u8])) {
        let slot = self.slots.pop().expect("a slot was taken for every descriptor");
        let mut desc = self.umem.desc(slot);
        // SAFETY: the slot came from the pool, nobody else has it.
        let mut data = unsafe { self.umem.data(&mut desc, len) };
        write(data.contents_mut());
        desc.set_options(options);
        self.enqueue(slot, desc);
    }

    fn enqueue(&mut self, slot: u32, desc: FrameDesc) {
        self.held.insert(slot);
        self.queued.push(desc);
    }

    fn count_sent(&mut self, len: usize) {
        self.stats.tx_frames += 1;
        self.stats.tx_bytes += len as u64;
    }

    /// Makes the queued descriptors visible to the kernel.
    fn submit(&mut self) {
        if self.queued.is_empty() {
            return;
        }
        // SAFETY: the slots of these descriptors are held by the device and nobody else, and stay
        // so until their completion.
        let n = unsafe { self.rings.tx.produce(&self.queued) };
        assert_eq!(n, self.queued.len(), "ring entries were looked for before queueing");
        self.queued.clear();
    }

    fn unsent(&mut self) -> u32 {
        self.tx_ring - self.rings.tx.nb_free_exact()
    }

    /// Wakes the kernel until it has taken all descriptors or makes no more progress. A call takes
    /// all at once, or [`TX_BATCH`] before Linux 6.17.
    fn kick(&mut self) -> io::Result<()> {
        let mut left = self.unsent();
        for _ in 0..=self.tx_ring / TX_BATCH {
            if left == 0 || !self.rings.tx.needs_wakeup() {
                break;
            }
            self.stats.kicks += 1;
            match self.rings.tx.wakeup() {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
                _ => {}
            }
            let now = self.unsent();
            if now == left {
                break;
            }
            left = now;
        }
        Ok(())
    }
}

impl Device for AfXdp {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn link(&self) -> Link {
        self.link
    }

    fn set_link(&mut self, link: Link) {
        self.link = link;
    }

    fn pool(&self) -> &FramePool {
        self.umem.pool()
    }

    fn receive(&mut self, burst: &mut Vec<Frame>, max: usize) -> io::Result<usize> {
        let before = burst.len();
        if self.consume(burst, max) == 0 && max > 0 && self.busy_poll {
            self.run_busy_poll();
            self.consume(burst, max);
        }
        // At once, before the stack spends the slots that copying out has freed.
        self.filler.refill(&mut self.rings, &self.umem, &mut self.held);
        let room = max.saturating_sub(burst.len() - before);
        self.receive_copies(burst, room);
        Ok(burst.len() - before)
    }

    fn transmit(&mut self, burst: &mut VecDeque<Frame>) -> io::Result<usize> {
        let mut taken = 0;
        loop {
            match self.take_frame(burst) {
                Taken::Sent => {}
                Taken::Refused => self.stats.tx_dropped += 1,
                Taken::NoRoom => return Ok(taken),
            }
            taken += 1;
        }
    }

    fn flush(&mut self) -> io::Result<bool> {
        self.submit();
        self.kick()?;
        reap(&mut self.rings, &self.umem, &mut self.held);
        self.filler.refill(&mut self.rings, &self.umem, &mut self.held);
        if self.rings.fill.needs_wakeup() {
            self.stats.kicks += 1;
            match self.rings.fill.wakeup(self.rings.rx.fd_mut(), 0) {
                // A signal came first; the ring still asks at the next flush.
                Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
                _ => {}
            }
        }
        Ok(self.link.up && self.unsent() > 0)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.as_ref().map_or_else(|| self.socket_fd(), AsFd::as_fd))
    }

    fn stats(&self) -> DeviceStats {
        let mut stats = self.stats.clone();
        if let Ok(kernel) = self.rings.rx.fd().xdp_statistics() {
            stats.rx_dropped += kernel.rx_dropped() + kernel.rx_ring_full();
            stats.rx_errors += kernel.rx_invalid_descs();
            stats.tx_dropped += kernel.tx_invalid_descs();
        }
        stats
    }

    /// `SO_PREFER_BUSY_POLL`; needs CAP_NET_ADMIN.
    fn set_busy_poll(&mut self, budget: u16, us: u32) -> io::Result<()> {
        let on = us > 0;
        let options = [
            (libc::SO_PREFER_BUSY_POLL, libc::c_int::from(on)),
            (libc::SO_BUSY_POLL, us.min(i32::MAX as u32).cast_signed()),
            (libc::SO_BUSY_POLL_BUDGET, libc::c_int::from(budget.max(1))),
        ];
        for (option, value) in options {
            set_option(self.socket_fd(), libc::SOL_SOCKET, option, &value).map_err(|e| {
                let object = format!("{} queue {}", self.program.ifname(), self.queue);
                let error = DeviceError::new("set busy polling", object, e);
                io::Error::new(error.source.kind(), error.to_string())
            })?;
        }
        self.busy_poll = on;
        Ok(())
    }

    fn steer(&mut self, change: Steer) -> io::Result<()> {
        let (Steer::Add(address) | Steer::Remove(address)) = change;
        self.program.steer(change).map_err(|e| describe(address, &e))
    }
}

fn describe(address: IpAddr, error: &DeviceError) -> io::Error {
    io::Error::new(error.source.kind(), format!("{address}: {error}"))
}

impl Drop for AfXdp {
    fn drop(&mut self) {
        if self.copies.is_some() {
            self.program.close_copies();
        }
    }
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
