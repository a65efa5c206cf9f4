//! AF_PACKET: the way to a NIC where XDP cannot be had, also in a user namespace.
//!
//! The kernel goes on receiving every frame as well: its addresses and ours must differ, and it
//! must not forward. A classic BPF filter that follows [`Device::steer`] keeps its frames from being
//! copied to us. With `PACKET_VNET_HDR` super-segments and partial checksums cross in both
//! directions, and the kernel cuts for NICs that cannot.

mod filter;
mod messages;
mod ring;
mod socket;
mod status;

use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use libc::SOL_PACKET;
use parking_lot::Mutex;
use weft_stack::frame::{Frame, FrameDomain, FramePool, Gso};

use crate::device::{
    Caps, Device, DeviceError, DeviceStats, Link, Medium, SUPER_SEGMENT_BYTES_MAX, Steer,
    slot_bytes,
};
use crate::intake::Pools;
use crate::netlink::{LinkFacts, Netlink};
use crate::segment::{Cut, cut_into_pool};
use crate::sockopt::set_option;
use crate::vnet;
use messages::{BATCH, Receiver, Stop};
use ring::Ring;
use status::Delivery;

/// Buffers for super-segments that applications may hold at one time, per queue.
const SPILLS: usize = 64 + BATCH;

/// How frames come from the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PacketReceive {
    /// `recvmmsg`: a frame is there at once and is copied once.
    #[default]
    Messages,
    /// A `TPACKET_V3` ring: fewest system calls under load, but the kernel hands a block over only
    /// when it is full or a millisecond old, and frames are copied twice.
    Ring,
}

/// Which interface, and how.
#[derive(Clone, Debug)]
pub struct PacketConfig {
    /// Interface name.
    pub name: String,
    /// Number of sockets among which the kernel spreads flows.
    pub queues: usize,
    /// Frames of each queue's pool.
    pub pool_frames: usize,
    /// How frames come.
    pub receive: PacketReceive,
    /// Receive frames for any MAC address; otherwise those for the interface's own and all groups.
    pub promiscuous: bool,
    /// Use the virtio-net header and its offloads where the kernel has them.
    pub vnet: bool,
}

impl PacketConfig {
    /// One queue, with offloads.
    pub fn new(name: impl Into<String>) -> PacketConfig {
        PacketConfig {
            name: name.into(),
            queues: 1,
            pool_frames: 4096,
            receive: PacketReceive::default(),
            promiscuous: true,
            vnet: true,
        }
    }
}

enum Receive {
    Messages(Box<Receiver>),
    Ring(Box<Ring>),
}

/// The sockets of one interface: what is steered to one is steered to all, because the kernel
/// chooses among them by flow.
struct Group {
    sockets: Vec<Weak<OwnedFd>>,
    ours: Mutex<Ours>,
}

/// What is steered to us.
#[derive(Default)]
struct Ours {
    addresses: BTreeSet<IpAddr>,
    ethertypes: BTreeSet<u16>,
}

/// One AF_PACKET socket on an interface.
pub struct Packet {
    // Before the descriptor: a ring is unmapped first.
    receive: Receive,
    fd: Arc<OwnedFd>,
    index: u32,
    caps: Caps,
    link: Link,
    pools: Pools,
    stats: DeviceStats,
    /// Kernel drops read so far; reading resets the kernel's count.
    kernel_drops: Cell<u64>,
    /// Bytes of the virtio-net header, 0 without.
    header_len: usize,
    group: Arc<Group>,
    /// Received frames that the caller had no room for.
    arrived: VecDeque<Frame>,
    /// Frames cut or completed in software that wait for room.
    backlog: VecDeque<Frame>,
    /// The pool had no frames for a super-segment, or the kernel no memory.
    starved: bool,
}

impl Packet {
    /// Opens all queues on an interface of the calling thread's network namespace. Needs
    /// `CAP_NET_RAW` there.
    pub fn open(config: &PacketConfig) -> Result<Vec<Packet>, DeviceError> {
        let facts = Netlink::open()?.link(&config.name)?;
        let mut sockets = Vec::new();
        for _ in 0..config.queues.max(1) {
            sockets.push(open_socket(config, facts.index)?);
        }
        let fds: Vec<_> = sockets.iter().map(|(fd, ..)| fd).collect();
        socket::fan_out(&fds).map_err(|e| DeviceError::new("fan out", &config.name, e))?;
        let group = Arc::new(Group {
            sockets: fds.into_iter().map(Arc::downgrade).collect(),
            ours: Mutex::default(),
        });
        let device = |socket| Packet::new(config, &facts, socket, Arc::clone(&group));
        Ok(sockets.into_iter().map(device).collect())
    }

    fn new(
        config: &PacketConfig,
        facts: &LinkFacts,
        (fd, receive, header_len): Socket,
        group: Arc<Group>,
    ) -> Packet {
        let how = match receive {
            Receive::Messages(_) => "messages",
            Receive::Ring(_) => "v3",
        };
        let offload = if header_len > 0 { "vnet" } else { "plain" };
        let link = Link::from(facts);
        Packet {
            receive,
            fd,
            index: facts.index,
            caps: Caps {
                medium: if link.mac.is_some() { Medium::Ethernet } else { Medium::Ip },
                gso_bytes_max: SUPER_SEGMENT_BYTES_MAX,
                tx_checksum: true,
                rx_checksum: true,
                mode: format!("packet {how} {offload}"),
            },
            link,
            pools: Pools::new(config.pool_frames, slot_bytes(link.mtu), SPILLS),
            stats: DeviceStats::default(),
            kernel_drops: Cell::new(0),
            header_len,
            group,
            arrived: VecDeque::new(),
            backlog: VecDeque::new(),
            starved: false,
        }
    }

    /// Fills `arrived` from up to `max` frames of the kernel.
    fn take_from_kernel(&mut self, max: usize) -> io::Result<()> {
        let mut to = Delivery {
            arrived: &mut self.arrived,
            header_len: self.header_len,
            medium: self.caps.medium,
            pools: &self.pools,
            stats: &mut self.stats,
        };
        let receiver = match &mut self.receive {
            Receive::Messages(receiver) => receiver,
            Receive::Ring(ring) => {
                ring.receive(max, &mut to);
                return Ok(());
            }
        };
        let mut left = max;
        while left > 0 {
            match receiver.receive(&self.fd, left, &mut to) {
                Ok(n) if n == left.min(BATCH) => left -= n,
                // The kernel has no more.
                Ok(_) => break,
                Err(e) => match e.raw_os_error() {
                    // ENETDOWN: the interface went down; it may come back.
                    Some(libc::EAGAIN | libc::EINTR | libc::ENETDOWN) => break,
                    // A kind of super-segment that the header has no word for.
                    Some(libc::EINVAL) => {
                        to.stats.rx_errors += 1;
                        left -= 1;
                    }
                    _ => return Err(e),
                },
            }
        }
        Ok(())
    }

    /// Cuts or completes a frame into the backlog. `false`: the pool has not enough frames now.
    fn soften(&mut self, frame: &Frame) -> bool {
        let cut = match Cut::new(frame, self.caps.medium) {
            Ok(cut) if cut.frames() <= self.pools.frames.slots() => cut,
            _ => {
                self.stats.tx_dropped += 1;
                return true;
            }
        };
        let copied = cut_into_pool(cut, &self.pools.frames, &mut self.backlog);
        self.stats.tx_copied_bytes += copied.unwrap_or(0) as u64;
        self.starved |= copied.is_none();
        copied.is_some()
    }

    /// Sends from the front of `queue` until it is empty (`true`) or there is no room. Frames that
    /// software must cut go to the backlog, which goes first.
    fn drain(&mut self, queue: &mut VecDeque<Frame>) -> io::Result<bool> {
        while !queue.is_empty() {
            let (sent, stop) = messages::send(
                &self.fd,
                queue.iter(),
                self.header_len,
                self.caps.medium,
                &mut self.stats,
            );
            queue.drain(..sent);
            let software = match stop {
                Stop::Nothing => continue,
                Stop::Software => true,
                Stop::Error(e) => match self.judge(e, queue.front().map(|f| f.meta.gso))? {
                    Verdict::Full => return Ok(false),
                    Verdict::Refused => false,
                    Verdict::Software => true,
                },
            };
            let Some(frame) = queue.front() else { break };
            if !software {
                self.stats.tx_dropped += 1;
            } else if !self.soften(frame) {
                return Ok(false);
            }
            queue.pop_front();
            if !self.drain_backlog()? {
                return Ok(queue.is_empty());
            }
        }
        Ok(true)
    }

    /// Sends what waits from before; returns whether all of it went.
    fn drain_backlog(&mut self) -> io::Result<bool> {
        while !self.backlog.is_empty() {
            let (sent, stop) = messages::send(
                &self.fd,
                self.backlog.iter(),
                self.header_len,
                self.caps.medium,
                &mut self.stats,
            );
            self.backlog.drain(..sent);
            if let Stop::Error(e) = stop {
                if matches!(self.judge(e, None)?, Verdict::Full) {
                    return Ok(false);
                }
                self.backlog.pop_front();
                self.stats.tx_dropped += 1;
            }
        }
        Ok(true)
    }

    fn judge(&mut self, error: io::Error, gso: Option<Gso>) -> io::Result<Verdict> {
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR) => Ok(Verdict::Full),
            Some(libc::ENOBUFS) => {
                // The queue of the interface is full, of which no descriptor tells.
                self.starved = true;
                Ok(Verdict::Full)
            }
            Some(libc::EINVAL) if gso.is_some_and(|gso| gso != Gso::None) => Ok(Verdict::Software),
            Some(libc::ENXIO | libc::ENODEV | libc::EBADF) => Err(error),
            // ENETDOWN, and whatever is wrong with this one frame.
            _ => Ok(Verdict::Refused),
        }
    }
}

/// What to do with a frame that the kernel did not take.
enum Verdict {
    Full,
    Refused,
    Software,
}

/// A socket, how it receives, and the bytes of its virtio-net header.
type Socket = (Arc<OwnedFd>, Receive, usize);

fn open_socket(config: &PacketConfig, index: u32) -> Result<Socket, DeviceError> {
    let failed = |operation| move |e| DeviceError::new(operation, &config.name, e);
    let fd = socket::create(&config.name)?;
    socket::prepare(&fd).map_err(failed("set options of packet socket on"))?;
    let vnet = config.vnet && set_option(&fd, SOL_PACKET, libc::PACKET_VNET_HDR, &1i32).is_ok();
    let header_len = if vnet { vnet::LEN } else { 0 };
    let receive = match config.receive {
        PacketReceive::Messages => Receive::Messages(Box::default()),
        PacketReceive::Ring => {
            Receive::Ring(Box::new(Ring::new(&fd).map_err(failed("map TPACKET_V3 ring on"))?))
        }
    };
    socket::bind(&fd, index).map_err(failed("bind packet socket to"))?;
    socket::join(&fd, index, config.promiscuous).map_err(failed("receive all addresses on"))?;
    Ok((Arc::new(fd), receive, header_len))
}

impl Device for Packet {
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
        &self.pools.frames
    }

    fn join_domain(&mut self, domain: &mut FrameDomain) {
        self.pools.join_domain(domain);
    }

    fn receive(&mut self, burst: &mut Vec<Frame>, max: usize) -> io::Result<usize> {
        if self.arrived.len() < max {
            self.take_from_kernel(max - self.arrived.len())?;
        }
        let n = max.min(self.arrived.len());
        burst.extend(self.arrived.drain(..n));
        Ok(n)
    }

    fn transmit(&mut self, burst: &mut VecDeque<Frame>) -> io::Result<usize> {
        let before = burst.len();
        self.starved = false;
        if self.drain_backlog()? {
            self.drain(burst)?;
        }
        Ok(before - burst.len())
    }

    fn flush(&mut self) -> io::Result<bool> {
        Ok(!self.drain_backlog()? || std::mem::take(&mut self.starved))
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }

    fn stats(&self) -> DeviceStats {
        self.kernel_drops.set(self.kernel_drops.get() + socket::take_drops(&self.fd));
        DeviceStats { rx_dropped: self.kernel_drops.get(), ..self.stats.clone() }
    }

    fn steer(&mut self, change: Steer) -> io::Result<()> {
        let mut ours = self.group.ours.lock();
        let changed = match change {
            Steer::Add(address) => ours.addresses.insert(address),
            Steer::Remove(address) => ours.addresses.remove(&address),
            Steer::AddEthertype(ethertype) => ours.ethertypes.insert(ethertype),
            Steer::RemoveEthertype(ethertype) => ours.ethertypes.remove(&ethertype),
            Steer::AddMac(mac) => return socket::join_mac(&self.fd, self.index, mac, true),
            Steer::RemoveMac(mac) => return socket::join_mac(&self.fd, self.index, mac, false),
        };
        if !changed || self.caps.medium == Medium::Ip {
            return Ok(());
        }
        let program =
            filter::wanted(&ours.addresses, &ours.ethertypes).unwrap_or_else(filter::incoming);
        let sockets = self.group.sockets.iter().filter_map(Weak::upgrade);
        sockets.into_iter().try_for_each(|fd| socket::attach_filter(&fd, &program))
    }
}
