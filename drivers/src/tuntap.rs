//! TUN (L3) and TAP (L2): an interface of the kernel whose other end is us, one descriptor per
//! queue, with the virtio-net header where the kernel has it, so that super-segments cross whole
//! and checksums stay partial in both directions.
//!
//! The interface goes when the last descriptor is closed, also when the process is killed.

mod open;

pub use open::{make_persistent, open_bare};

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use weft_stack::frame::{Checksum, Frame, FrameDomain, FramePool, Gso};

use crate::device::{Caps, Device, DeviceError, DeviceStats, Link, Medium};
use crate::intake::{Intake, Pools};
use crate::segment::{Cut, cut_into_pool};
use crate::vnet;

/// Fragments that one gathered write takes; a frame with more is copied.
const FRAGS_MAX: usize = 62;

/// Which interface, and how.
#[derive(Clone, Debug)]
pub struct TunTapConfig {
    /// Interface name, made if it does not exist; may hold `%d` for the kernel to number.
    pub name: String,
    /// [`Medium::Ip`] for TUN, [`Medium::Ethernet`] for TAP.
    pub medium: Medium,
    /// Number of queues. With several the kernel keeps a flow on the queue that sent it last.
    pub queues: usize,
    /// Frames of each queue's pool.
    pub pool_frames: usize,
    /// Use the virtio-net header and its offloads where the kernel has them.
    pub vnet: bool,
    /// L3 MTU to set; `None` leaves it.
    pub mtu: Option<usize>,
    /// Our MAC address on a TAP; `None` derives one from the interface's, which is the kernel's.
    pub mac: Option<[u8; 6]>,
}

impl TunTapConfig {
    /// One queue, with offloads.
    pub fn new(name: impl Into<String>, medium: Medium) -> TunTapConfig {
        TunTapConfig {
            name: name.into(),
            medium,
            queues: 1,
            pool_frames: 4096,
            vnet: true,
            mtu: None,
            mac: None,
        }
    }
}

/// One queue of a TUN or TAP interface.
pub struct TunTap {
    fd: OwnedFd,
    name: String,
    caps: Caps,
    link: Link,
    pools: Pools,
    intake: Intake,
    stats: DeviceStats,
    /// Bytes of the virtio-net header, 0 without.
    header_len: usize,
    /// Received frames that the caller had no room for.
    arrived: VecDeque<Frame>,
    /// Frames cut or completed in software that wait for room.
    backlog: VecDeque<Frame>,
    /// The pool had no frames for a super-segment.
    starved: bool,
}

/// What became of a write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    Done,
    Full,
    Refused,
    /// The kernel does not know this kind of super-segment.
    NotCuttable,
}

impl TunTap {
    /// Opens all queues of an interface, in the network namespace of the calling thread, and
    /// brings it up. Needs `CAP_NET_ADMIN`, or an interface made for this user.
    pub fn open(config: &TunTapConfig) -> Result<Vec<TunTap>, DeviceError> {
        open::open(config)
    }

    /// The interface's name as the kernel chose it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes one frame as it is.
    fn write(&mut self, frame: &Frame) -> io::Result<Sent> {
        let Some(encoded) = vnet::encode(frame, self.caps.medium) else {
            return Ok(Sent::NotCuttable);
        };
        let mut parts = [IoSlice::new(&[]); FRAGS_MAX + 2];
        parts[0] = IoSlice::new(&encoded.header[..self.header_len]);
        parts[1] = IoSlice::new(frame.data());
        for (part, frag) in parts[2..].iter_mut().zip(&frame.frags) {
            *part = IoSlice::new(frag);
        }
        self.stats.kicks += 1;
        let sent = rustix::io::writev(&self.fd, &parts[..frame.frags.len() + 2]);
        match sent {
            Ok(_) => {
                self.stats.tx_frames += encoded.packets;
                self.stats.tx_bytes += frame.total_len() as u64;
                Ok(Sent::Done)
            }
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::INTR) => Ok(Sent::Full),
            Err(Errno::INVAL) if frame.meta.gso != Gso::None => Ok(Sent::NotCuttable),
            Err(e @ (Errno::BADFD | Errno::BADF | Errno::NODEV)) => Err(e.into()),
            // EIO while the interface is down, and whatever is wrong with this one frame.
            Err(_) => Ok(Sent::Refused),
        }
    }

    fn needs_software(&self, frame: &Frame) -> bool {
        let plain =
            frame.meta.gso == Gso::None && !matches!(frame.meta.checksum, Checksum::Partial { .. });
        (self.header_len == 0 && !plain) || frame.frags.len() > FRAGS_MAX
    }

    /// Cuts or completes a frame into the backlog. Only `Done`, `Full` and `Refused` come back.
    fn soften(&mut self, frame: &Frame) -> Sent {
        let Ok(cut) = Cut::new(frame, self.caps.medium) else { return Sent::Refused };
        if cut.frames() > self.pools.frames.slots() {
            return Sent::Refused;
        }
        let Some(copied) = cut_into_pool(cut, &self.pools.frames, &mut self.backlog) else {
            self.starved = true;
            return Sent::Full;
        };
        self.stats.tx_copied_bytes += copied as u64;
        Sent::Done
    }

    /// Writes what waits from before; returns whether all of it went.
    fn write_backlog(&mut self) -> io::Result<bool> {
        while let Some(frame) = self.backlog.pop_front() {
            match self.write(&frame)? {
                Sent::Done => {}
                Sent::Full => {
                    self.backlog.push_front(frame);
                    return Ok(false);
                }
                Sent::Refused | Sent::NotCuttable => self.stats.tx_dropped += 1,
            }
        }
        Ok(true)
    }
}

impl Device for TunTap {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn link(&self) -> Link {
        self.link
    }

    fn set_link(&mut self, link: Link) {
        self.link = Link { mac: self.link.mac, ..link };
    }

    fn pool(&self) -> &FramePool {
        &self.pools.frames
    }

    fn join_domain(&mut self, domain: &mut FrameDomain) {
        self.pools.join_domain(domain);
    }

    fn receive(&mut self, burst: &mut Vec<Frame>, max: usize) -> io::Result<usize> {
        let mut received = 0;
        while received < max {
            if let Some(frame) = self.arrived.pop_front() {
                burst.push(frame);
                received += 1;
                continue;
            }
            self.intake.prepare(&self.pools);
            let [header, frame, spill] = self.intake.buffers(self.header_len);
            let mut parts =
                [IoSliceMut::new(header), IoSliceMut::new(frame), IoSliceMut::new(spill)];
            let n = match rustix::io::readv(&self.fd, &mut parts) {
                Ok(n) => n,
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(e) => return Err(e.into()),
            };
            let Some(len) = n.checked_sub(self.header_len) else {
                self.stats.rx_errors += 1;
                continue;
            };
            let frame = self.intake.finish(self.header_len, len, &self.pools, &mut self.stats);
            if let Some(frame) = frame {
                self.arrived.push_back(frame);
            }
        }
        Ok(received)
    }

    fn transmit(&mut self, burst: &mut VecDeque<Frame>) -> io::Result<usize> {
        let mut taken = 0;
        self.starved = false;
        while self.write_backlog()? {
            let Some(frame) = burst.front() else { break };
            let mut sent = Sent::NotCuttable;
            if !self.needs_software(frame) {
                sent = self.write(frame)?;
            }
            if sent == Sent::NotCuttable {
                sent = self.soften(frame);
            }
            match sent {
                Sent::Full => break,
                Sent::Refused | Sent::NotCuttable => self.stats.tx_dropped += 1,
                Sent::Done => {}
            }
            burst.pop_front();
            taken += 1;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<bool> {
        Ok(!self.write_backlog()? || std::mem::take(&mut self.starved))
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }

    fn stats(&self) -> DeviceStats {
        self.stats.clone()
    }
}
