//! A pair of devices joined by two bounded queues in memory. Needs no privilege; the ends may live
//! on different threads.
//!
//! With `offload` the pair is like two virtio NICs on one host: frames pass by ownership,
//! super-segments whole and partial checksums partial. Without, it is a wire: super-segments are
//! cut and checksums completed.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};
use weft_stack::frame::{Checksum, Frame, FrameMeta, FramePool, Gso};

use crate::device::{
    Caps, Device, DeviceError, DeviceStats, LINK_HEADER_BYTES_MAX, Link, Medium,
    SUPER_SEGMENT_BYTES_MAX, slot_bytes,
};
use crate::segment::{Cut, cut_into_pool, linearise};

/// What a pair is like.
#[derive(Clone, Debug)]
pub struct MemConfig {
    /// What frames start with.
    pub medium: Medium,
    /// L3 MTU in bytes. Longer frames are dropped and counted.
    pub mtu: usize,
    /// Frames that wait in one direction before transmit reports backpressure.
    pub queue_frames: usize,
    /// Frames of each end's pool.
    pub pool_frames: usize,
    /// Super-segments and partial checksums pass as they are.
    pub offload: bool,
    /// The MAC addresses of the two ends; not used on [`Medium::Ip`].
    pub macs: [[u8; 6]; 2],
    /// Queues of each end, for [`pairs`]: what one end sends on its queue of a number arrives at
    /// the other's of the same number.
    pub queues: usize,
}

impl Default for MemConfig {
    fn default() -> MemConfig {
        MemConfig {
            medium: Medium::Ethernet,
            mtu: 1500,
            queue_frames: 1024,
            pool_frames: 4096,
            offload: true,
            macs: [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]],
            queues: 1,
        }
    }
}

/// One direction: frames on the way to one end.
struct Wire {
    queue: Mutex<Queue>,
    /// Readable while `signalled`; belongs to the receiving end.
    event: OwnedFd,
}

struct Queue {
    frames: VecDeque<Frame>,
    limit: usize,
    signalled: bool,
    /// The sender found it full and wants to hear of room.
    sender_waits: bool,
    /// One of the ends is gone.
    closed: bool,
}

impl Wire {
    fn new(limit: usize) -> Result<Arc<Wire>, DeviceError> {
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map_err(|e| DeviceError::new("create eventfd for", "memory pair", e))?;
        let queue = Queue {
            frames: VecDeque::with_capacity(limit),
            limit,
            signalled: false,
            sender_waits: false,
            closed: false,
        };
        Ok(Arc::new(Wire { queue: Mutex::new(queue), event }))
    }

    /// Wakes the receiving end; returns whether that took a system call.
    fn signal(&self, queue: &mut Queue) -> bool {
        if queue.signalled {
            return false;
        }
        queue.signalled = true;
        // The counter is 0 or 1, so a write cannot fail for want of room.
        rustix::io::write(&self.event, &1u64.to_ne_bytes()).is_ok()
    }

    fn calm(&self, queue: &mut Queue) {
        if queue.signalled {
            queue.signalled = false;
            // It fails only if there is nothing to read, which is what is wanted.
            let _ = rustix::io::read(&self.event, &mut [0u8; 8]);
        }
    }
}

/// One end of a pair; see the module documentation.
pub struct Mem {
    rx: Arc<Wire>,
    tx: Arc<Wire>,
    caps: Caps,
    link: Link,
    pool: FramePool,
    stats: DeviceStats,
    offload: bool,
    /// Cut or copied frames that wait for room; at most those of one super-segment.
    backlog: VecDeque<Frame>,
    /// Frames were queued since the last signal.
    unsignalled: bool,
    /// A super-segment waits for frames of the pool, of whose return nobody tells.
    starved: bool,
}

/// Makes a pair. It fails only when the process is out of descriptors.
pub fn pair(config: &MemConfig) -> Result<(Mem, Mem), DeviceError> {
    let to_a = Wire::new(config.queue_frames.max(1))?;
    let to_b = Wire::new(config.queue_frames.max(1))?;
    let a = Mem::new(config, 0, Arc::clone(&to_a), Arc::clone(&to_b));
    let b = Mem::new(config, 1, to_b, to_a);
    Ok((a, b))
}

/// Makes the [`MemConfig::queues`] of both ends, each with a pool of its own.
pub fn pairs(config: &MemConfig) -> Result<(Vec<Mem>, Vec<Mem>), DeviceError> {
    let made: Result<Vec<_>, _> = (0..config.queues.max(1)).map(|_| pair(config)).collect();
    Ok(made?.into_iter().unzip())
}

impl Mem {
    fn new(config: &MemConfig, end: usize, rx: Arc<Wire>, tx: Arc<Wire>) -> Mem {
        let mac = (config.medium == Medium::Ethernet).then_some(config.macs[end]);
        Mem {
            rx,
            tx,
            caps: Caps {
                medium: config.medium,
                gso_bytes_max: SUPER_SEGMENT_BYTES_MAX,
                tx_checksum: true,
                rx_checksum: config.offload,
                mode: if config.offload { "mem offload" } else { "mem" }.into(),
            },
            link: Link { up: true, mtu: config.mtu, mac },
            pool: FramePool::heap(config.pool_frames, slot_bytes(config.mtu)),
            stats: DeviceStats::default(),
            offload: config.offload,
            backlog: VecDeque::new(),
            unsignalled: false,
            starved: false,
        }
    }

    fn frame_bytes_max(&self) -> usize {
        match self.caps.medium {
            Medium::Ethernet => self.link.mtu + LINK_HEADER_BYTES_MAX,
            Medium::Ip => self.link.mtu,
        }
    }

    /// Puts what one frame becomes into the backlog. `false`: the pool has not enough frames now.
    fn prepare(&mut self, burst: &mut VecDeque<Frame>) -> bool {
        let Some(frame) = burst.front() else { return false };
        let max = self.frame_bytes_max();
        let Ok(cut) = Cut::new(frame, self.caps.medium) else {
            burst.pop_front();
            self.stats.tx_dropped += 1;
            return true;
        };
        let plain = cut.frames() == 1 && frame.meta.checksum == Checksum::Complete;
        let whole = self.offload || plain;
        let super_segment = self.offload && frame.meta.gso != Gso::None;
        if (!super_segment && cut.frame_bytes_max() > max)
            || (!whole && cut.frames() > self.pool.slots())
        {
            burst.pop_front();
            self.stats.tx_dropped += 1;
            return true;
        }
        let segments = cut.frames() as u64;
        if !whole {
            let Some(copied) = cut_into_pool(cut, &self.pool, &mut self.backlog) else {
                return false;
            };
            self.stats.tx_copied_bytes += copied as u64;
            burst.pop_front();
            return true;
        }
        let mut frame = burst.pop_front().expect("looked at above");
        self.stats.tx_frames += segments - 1;
        if !self.offload && !frame.frags.is_empty() {
            let frags = frame.total_len() - frame.len();
            let in_place = frags <= frame.tailroom();
            let copied = if in_place { frags } else { frame.total_len() };
            self.stats.tx_copied_bytes += copied as u64;
            frame = linearise(frame, &self.pool);
        }
        let FrameMeta { checksum, gso, flow_hash, .. } = frame.meta;
        frame.meta = FrameMeta { checksum, gso, flow_hash, ..FrameMeta::default() };
        self.backlog.push_back(frame);
        true
    }

    /// Moves the backlog into the queue; returns whether all of it went.
    fn push_backlog(&mut self) -> bool {
        if self.backlog.is_empty() {
            return true;
        }
        let mut queue = self.tx.queue.lock();
        if queue.closed {
            self.stats.tx_dropped += self.backlog.len() as u64;
            self.backlog.clear();
            return true;
        }
        while queue.frames.len() < queue.limit {
            let Some(frame) = self.backlog.pop_front() else { return true };
            self.stats.tx_frames += 1;
            self.stats.tx_bytes += frame.total_len() as u64;
            self.unsignalled = true;
            queue.frames.push_back(frame);
        }
        queue.sender_waits = !self.backlog.is_empty();
        self.backlog.is_empty()
    }
}

impl Device for Mem {
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
        &self.pool
    }

    fn receive(&mut self, burst: &mut Vec<Frame>, max: usize) -> io::Result<usize> {
        let mut queue = self.rx.queue.lock();
        let n = max.min(queue.frames.len());
        for frame in queue.frames.drain(..n) {
            self.stats.rx_frames += 1;
            self.stats.rx_bytes += frame.total_len() as u64;
            burst.push(frame);
        }
        if queue.frames.is_empty() {
            self.rx.calm(&mut queue);
        }
        if queue.closed {
            self.link.up = false;
        }
        let wake = queue.sender_waits && queue.frames.len() <= queue.limit / 2;
        queue.sender_waits &= !wake;
        drop(queue);
        if wake {
            // The other end's descriptor is the one that our frames signal.
            self.stats.kicks += u64::from(self.tx.signal(&mut self.tx.queue.lock()));
        }
        Ok(n)
    }

    fn transmit(&mut self, burst: &mut VecDeque<Frame>) -> io::Result<usize> {
        let before = burst.len();
        while self.push_backlog() && !burst.is_empty() {
            self.starved = !self.prepare(burst);
            if self.starved {
                break;
            }
        }
        Ok(before - burst.len())
    }

    fn flush(&mut self) -> io::Result<bool> {
        let sent = self.push_backlog();
        if std::mem::take(&mut self.unsignalled) {
            self.stats.kicks += u64::from(self.tx.signal(&mut self.tx.queue.lock()));
        }
        Ok(!sent || std::mem::take(&mut self.starved))
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.rx.event.as_fd())
    }

    fn stats(&self) -> DeviceStats {
        self.stats.clone()
    }
}

impl Drop for Mem {
    fn drop(&mut self) {
        for wire in [&self.rx, &self.tx] {
            wire.queue.lock().closed = true;
        }
        self.rx.queue.lock().frames.clear();
        self.tx.signal(&mut self.tx.queue.lock());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use rustix::event::{PollFd, PollFlags, poll};

    fn readable(device: &Mem) -> bool {
        let fd = device.fd().unwrap();
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        poll(&mut fds, Some(&rustix::event::Timespec::default())).unwrap() == 1
    }

    fn frame(len: usize) -> Frame {
        Frame::from_heap(0, &vec![7; len])
    }

    #[test]
    fn frames_cross_and_the_descriptor_tells() {
        let (mut a, mut b) = pair(&MemConfig::default()).unwrap();
        assert!(!readable(&b));
        let mut burst = VecDeque::from([frame(60), frame(61)]);
        assert_eq!(a.transmit(&mut burst).unwrap(), 2);
        assert!(!a.flush().unwrap());
        assert!(readable(&b) && !readable(&a));
        let mut got = Vec::new();
        assert_eq!(b.receive(&mut got, 1).unwrap(), 1);
        assert!(readable(&b));
        assert_eq!(b.receive(&mut got, 8).unwrap(), 1);
        assert!(!readable(&b));
        assert_eq!(got[1].len(), 61);
        assert_eq!((a.stats().tx_bytes, b.stats().rx_bytes), (121, 121));
        assert_eq!(a.stats().kicks, 1);
    }

    #[test]
    fn a_full_queue_is_backpressure_and_room_is_told() {
        let config = MemConfig { queue_frames: 2, ..MemConfig::default() };
        let (mut a, mut b) = pair(&config).unwrap();
        let mut burst: VecDeque<Frame> = (0..5).map(|_| frame(60)).collect();
        // One more than fits: it waits in the backlog.
        assert_eq!(a.transmit(&mut burst).unwrap(), 3);
        assert!(a.flush().unwrap());
        assert!(!readable(&a));
        let mut got = Vec::new();
        assert_eq!(b.receive(&mut got, 8).unwrap(), 2);
        assert!(readable(&a), "the sender hears of room");
        assert_eq!(a.receive(&mut got, 8).unwrap(), 0);
        assert!(!readable(&a));
        a.transmit(&mut burst).unwrap();
        a.flush().unwrap();
        while b.receive(&mut got, 8).unwrap() > 0 {
            a.transmit(&mut burst).unwrap();
            a.flush().unwrap();
        }
        assert_eq!((got.len(), b.stats().rx_frames, a.stats().tx_dropped), (5, 5, 0));
    }

    #[test]
    fn a_wire_completes_and_linearises_an_offload_pair_passes() {
        for offload in [false, true] {
            let config = MemConfig { offload, ..MemConfig::default() };
            let (mut a, mut b) = pair(&config).unwrap();
            let mut partial = frame(60);
            partial.meta.checksum = Checksum::Partial { start: 20, offset: 6 };
            partial.frags.push(Bytes::from_static(b"tail"));
            a.transmit(&mut VecDeque::from([partial])).unwrap();
            let mut got = Vec::new();
            b.receive(&mut got, 8).unwrap();
            assert_eq!((got[0].len(), got[0].frags.len()), if offload { (60, 1) } else { (64, 0) });
            assert_eq!(got[0].meta.checksum != Checksum::Complete, offload);
            assert_eq!(a.stats().copied_bytes() > 0, !offload);
        }
    }

    #[test]
    fn too_long_frames_and_frames_to_nobody_are_counted() {
        let (mut a, b) = pair(&MemConfig::default()).unwrap();
        a.transmit(&mut VecDeque::from([frame(1600)])).unwrap();
        assert_eq!(a.stats().tx_dropped, 1);
        drop(b);
        assert!(readable(&a));
        a.transmit(&mut VecDeque::from([frame(60)])).unwrap();
        a.receive(&mut Vec::new(), 1).unwrap();
        assert_eq!(a.stats().tx_dropped, 2);
        assert!(!a.link().up);
    }

    #[test]
    fn two_threads_lose_nothing() {
        let (mut a, mut b) = pair(&MemConfig { queue_frames: 16, ..MemConfig::default() }).unwrap();
        let sender = std::thread::spawn(move || {
            let mut burst: VecDeque<Frame> = (0..5000).map(|_| frame(64)).collect();
            loop {
                a.transmit(&mut burst).unwrap();
                let more = a.flush().unwrap();
                if burst.is_empty() && !more {
                    return a;
                }
                let fd = a.fd().unwrap();
                poll(&mut [PollFd::new(&fd, PollFlags::IN)], None).unwrap();
                a.receive(&mut Vec::new(), 8).unwrap();
            }
        });
        let mut got = Vec::new();
        while got.len() < 5000 {
            let fd = b.fd().unwrap();
            poll(&mut [PollFd::new(&fd, PollFlags::IN)], None).unwrap();
            b.receive(&mut got, 8).unwrap();
        }
        let a = sender.join().unwrap();
        assert_eq!(a.stats().tx_frames, 5000);
    }
}
