//! AF_XDP: frames between NIC queues and a UMEM, with the kernel keeping the rest of the NIC.
//!
//! Three things are opened in this order: a [`UmemPool`] (memory, one per worker, shared by all
//! its queues), an [`XdpProgram`] (steering, one per NIC) and one [`AfXdp`] per queue, which is
//! the [`crate::device::Device`]. Nothing outlives the process: program, maps and sockets hang on
//! descriptors, so that even SIGKILL leaves a NIC as it was.
//!
//! Who owns a UMEM slot: the [`weft_stack::frame::FramePool`] (free), a `Frame` (stack or
//! application), or a device (`held::Held`: in a ring, with the kernel). Every hand-over between
//! the last two goes through `Held`, which is also what checks addresses that the kernel returns.
//!
//! `docs/af-xdp.md` has the modes, the steering rules and the traps.

mod bare;
mod bind;
mod held;
mod multicast;
mod program;
mod receive;
mod ring;
mod rings;
mod socket;
mod steer;
mod transmit;
mod umem;

pub use bare::BareQueue;
pub use program::{SteerCounters, XdpProgram};
pub use socket::AfXdp;
pub use umem::{Hugepages, UmemConfig, UmemPool};

/// Most slots of one frame: the kernel makes the first the head of a socket buffer and the others
/// its fragments, of which there are 17 (`MAX_SKB_FRAGS`, one is left for its own use).
pub const FRAME_SLOTS_MAX: usize = 17;

/// Which way frames take between driver and socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// The best that works: zero-copy, native with copying, generic.
    #[default]
    Auto,
    /// The NIC writes into the UMEM. The driver must support it (veth does not).
    ZeroCopy,
    /// The program runs in the driver, frames are copied into the UMEM.
    Native,
    /// The program runs after the kernel made a socket buffer. Works on every interface.
    Generic,
}

/// When payload that lies in the UMEM is sent from there, by descriptors of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gather {
    /// Where it costs less: in zero-copy mode always, in the copying modes where a frame takes
    /// several slots anyway. There the kernel copies in any case, and a page for every further
    /// descriptor costs it more than a copy that is fused with the checksum costs us.
    #[default]
    Auto,
    /// Wherever it can be: the driver copies no byte of it.
    Always,
}

/// Sizes and ways of an [`AfXdp`].
#[derive(Clone, Copy, Debug)]
pub struct AfXdpOptions {
    /// Entries of the receive ring, a power of two.
    pub rx_ring: u32,
    /// Entries of the transmit ring, a power of two, at most [`UmemPool::RING_ENTRIES`].
    pub tx_ring: u32,
    /// Slots that are kept with the kernel for receiving, at most [`UmemPool::RING_ENTRIES`]. They
    /// are taken from the pool at open and never lent to anybody. 0: a quarter of the pool.
    pub fill_frames: u32,
    /// When payload is sent from where it lies.
    pub gather: Gather,
}

impl Default for AfXdpOptions {
    fn default() -> AfXdpOptions {
        AfXdpOptions { rx_ring: 2048, tx_ring: 2048, fill_frames: 0, gather: Gather::Auto }
    }
}
