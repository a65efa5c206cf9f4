//! One queue of a NIC as a [`Device`].

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::epoll;
use rustix::net::sockopt::xdp_statistics;
use weft_stack::frame::{Frame, FramePool};

use super::bind::{self, Bound};
use super::held::Held;
use super::multicast::CopyRing;
use super::program::QueueClaim;
use super::rings::{BATCH, Filler, Rings, reap};
use super::umem::UmemPool;
use super::{AfXdpOptions, Gather, XdpProgram};
use crate::device::{
    Caps, Device, DeviceError, DeviceStats, LINK_HEADER_BYTES_MAX, Link, Medium,
    SUPER_SEGMENT_BYTES_MAX, Steer,
};
use crate::sockopt::set_option;

/// While busy polling, every so many polls that find nothing the driver is run. Each time would cost
/// more than it finds: where frames come without an interrupt (veth) they are in the ring already,
/// and a NIC is looked at every few microseconds all the same.
const IDLE_POLLS_PER_RUN: u32 = 16;

/// One queue of a NIC, bound to an AF_XDP socket. Made by [`AfXdp::open`].
///
/// Dropping it closes the socket and returns its slots to the pool; the queue can be opened again
/// at once.
pub struct AfXdp {
    /// First: the kernel lets go of the slots before `held` returns them.
    pub(super) rings: Rings,
    pub(super) held: Held,
    pub(super) filler: Filler,
    pub(super) umem: UmemPool,
    program: Arc<XdpProgram>,
    _claim: QueueClaim,
    pub(super) copies: Option<CopyRing>,
    /// Holds the ring of copies, and the socket while it is watched.
    epoll: OwnedFd,
    watched: bool,
    pub(super) queue: u16,
    caps: Caps,
    pub(super) link: Link,
    pub(super) tx_ring: usize,
    /// Frames may be sent from several descriptors.
    pub(super) gathers: bool,
    /// Shorter ones are copied into one slot instead.
    pub(super) gather_bytes_min: usize,
    /// A received packet whose last descriptors have not come yet.
    pub(super) chain: Option<Frame>,
    pub(super) slots: Vec<u32>,
    /// Received frames are copied out of the pool when it has no more free slots than this.
    pub(super) reserve: usize,
    /// The socket's slots are the NIC's own buffers.
    zero_copy: bool,
    busy_poll: bool,
    /// Times that nothing was found while busy polling.
    idle_polls: u32,
    pub(super) stats: DeviceStats,
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
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|e| fail("make epoll set for", e.into()))?;
        let mut device = AfXdp::over(bound, epoll, program, umem, options);
        device.watch(true).map_err(|e| fail("watch", e))?;
        device.filler.refill(&mut device.rings, umem, &mut device.held);
        if queue == 0 {
            device.open_copies().map_err(|e| fail("open socket for multicast copies", e))?;
        }
        let socket = device.rings.socket.as_fd();
        program.insert_socket(queue, socket).map_err(|e| fail("enter socket into XSKMAP", e))?;
        Ok(device)
    }

    fn over(
        bound: Bound,
        epoll: OwnedFd,
        program: &Arc<XdpProgram>,
        umem: &UmemPool,
        options: AfXdpOptions,
    ) -> AfXdp {
        let Bound { rings, claim, queue, zero_copy, gathers } = bound;
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
        let always = zero_copy || options.gather == Gather::Always;
        AfXdp {
            rings,
            held: Held::new(umem.pool(), zero_copy),
            filler: Filler::new(fill.clamp(1, UmemPool::RING_ENTRIES as usize)),
            umem: umem.clone(),
            program: Arc::clone(program),
            _claim: claim,
            copies: None,
            epoll,
            watched: false,
            queue: queue as u16,
            caps: Caps {
                medium: Medium::Ethernet,
                gso_bytes_max: SUPER_SEGMENT_BYTES_MAX,
                tx_checksum: true,
                rx_checksum: false,
                mode: mode.to_owned(),
            },
            link: Link { up: nic.up, mtu: nic.mtu, mac: nic.mac },
            tx_ring: options.tx_ring as usize,
            gathers,
            gather_bytes_min: if always { 0 } else { umem.frame_bytes() + 1 },
            chain: None,
            slots: Vec::with_capacity(BATCH),
            reserve: slots / 16,
            zero_copy,
            busy_poll: false,
            idle_polls: 0,
            stats: DeviceStats::default(),
        }
    }

    /// Queue 0 also takes the copies of multicast frames.
    fn open_copies(&mut self) -> io::Result<()> {
        let frame_bytes = self.frame_bytes_max();
        let ring =
            self.program.open_copies(|socket| CopyRing::new(Arc::clone(socket), frame_bytes))?;
        let data = epoll::EventData::new_u64(0);
        epoll::add(&self.epoll, ring.fd(), data, epoll::EventFlags::IN)?;
        self.copies = Some(ring);
        Ok(())
    }

    /// Longest frame of the link, link headers included.
    pub(super) fn frame_bytes_max(&self) -> usize {
        self.link.mtu + LINK_HEADER_BYTES_MAX
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
        if !self.consume(burst, max) && max > 0 && self.busy_poll {
            self.idle_polls = self.idle_polls.wrapping_add(1);
            if self.idle_polls.is_multiple_of(IDLE_POLLS_PER_RUN) {
                self.run_driver();
                self.consume(burst, max);
            }
        }
        // At once, before the stack spends the slots that copying out has freed.
        self.filler.refill(&mut self.rings, &self.umem, &mut self.held);
        let room = max.saturating_sub(burst.len() - before);
        self.receive_copies(burst, room);
        Ok(burst.len() - before)
    }

    fn may_receive(&mut self) -> bool {
        self.rings.rx.available(1) > 0
            || self.busy_poll
            || self.filler.lacks()
            || self.copies.as_ref().is_some_and(CopyRing::is_readable)
    }

    fn transmit(&mut self, burst: &mut VecDeque<Frame>) -> io::Result<usize> {
        Ok(self.take_frames(burst))
    }

    fn flush(&mut self) -> io::Result<bool> {
        self.rings.tx.submit();
        self.kick()?;
        reap(&mut self.rings, &self.umem, &mut self.held);
        self.filler.refill(&mut self.rings, &self.umem, &mut self.held);
        if self.rings.fill.needs_wakeup() {
            self.run_driver();
        }
        Ok(self.link.up && self.rings.tx.unread() > 0)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.as_fd())
    }

    fn watch(&mut self, on: bool) -> io::Result<()> {
        if on == self.watched {
            return Ok(());
        }
        let socket = self.rings.socket.as_fd();
        if on {
            let data = epoll::EventData::new_u64(0);
            epoll::add(&self.epoll, socket, data, epoll::EventFlags::IN)?;
        } else {
            epoll::delete(&self.epoll, socket)?;
        }
        self.watched = on;
        Ok(())
    }

    fn stats(&self) -> DeviceStats {
        let mut stats = self.stats.clone();
        if let Ok(kernel) = xdp_statistics(&self.rings.socket) {
            stats.rx_dropped += kernel.rx_dropped + kernel.rx_ring_full.unwrap_or(0);
            stats.rx_errors += kernel.rx_invalid_descs;
            stats.tx_dropped += kernel.tx_invalid_descs;
        }
        stats
    }

    /// `SO_PREFER_BUSY_POLL`; needs CAP_NET_ADMIN. In copy mode nothing changes: frames come to the
    /// ring without our driving the NIC, and a system call per look at an empty ring makes every
    /// frame wait for half of one (measured on veth: docs/af-xdp.md).
    fn set_busy_poll(&mut self, budget: u16, us: u32) -> io::Result<()> {
        if !self.zero_copy {
            return Ok(());
        }
        let on = us > 0;
        let options = [
            (libc::SO_PREFER_BUSY_POLL, libc::c_int::from(on)),
            (libc::SO_BUSY_POLL, us.min(i32::MAX as u32).cast_signed()),
            (libc::SO_BUSY_POLL_BUDGET, libc::c_int::from(budget.max(1))),
        ];
        for (option, value) in options {
            set_option(&self.rings.socket, libc::SOL_SOCKET, option, &value).map_err(|e| {
                let object = format!("{} queue {}", self.program.ifname(), self.queue);
                let error = DeviceError::new("set busy polling", object, e);
                io::Error::new(error.source.kind(), error.to_string())
            })?;
        }
        self.busy_poll = on;
        Ok(())
    }

    fn steer(&mut self, change: Steer) -> io::Result<()> {
        let describe = |e: DeviceError| io::Error::new(e.source.kind(), format!("{change}: {e}"));
        self.program.steer(change).map_err(describe)
    }
}

impl Drop for AfXdp {
    /// Frames stop coming before the socket closes: a process that another thread just forked may
    /// hold a copy of the descriptor until it execs.
    fn drop(&mut self) {
        self.program.remove_socket(u32::from(self.queue));
        if self.copies.is_some() {
            self.program.close_copies();
        }
    }
}
