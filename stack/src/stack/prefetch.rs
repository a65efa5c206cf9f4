//! What a packet will need of a stack that is in no cache.

use crate::frame::{Frame, prefetch};
use crate::path::PathLayer;
use crate::stack::Stack;
use crate::wire::protocol;

/// The protocol of a packet in a frame, as far as a guess needs: behind an Ethernet header and IPv4 or
/// IPv6 without extensions.
#[inline]
fn protocol_of(frame: &Frame) -> u8 {
    match frame.data() {
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x08, 0, _, _, _, _, _, _, _, _, _, number, ..] => {
            *number
        }
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x86, 0xdd, _, _, _, _, _, _, number, ..] => *number,
        _ => protocol::TCP,
    }
}

impl<P: PathLayer> Stack<P> {
    /// Asks the processor for what [`Stack::handle_frame`] and the calls after it read and write of
    /// this stack, without waiting for any of it. Worth its twenty instructions when the stack was
    /// not used lately, a few frames before this one is handled.
    #[inline]
    pub fn prefetch(&self, frame: &Frame) {
        let number = protocol_of(frame);
        self.ip.prefetch();
        prefetch(&self.now);
        prefetch(&self.outbox);
        self.mib.prefetch(number);
        self.link.prefetch();
        self.tcp.prefetch(number == protocol::TCP);
        self.udp.prefetch(number == protocol::UDP);
        self.raw.prefetch();
        self.timers.prefetch();
        self.admission.prefetch();
        prefetch(&self.limits.out_queue);
    }

    /// Reads what one step of prefetching does not reach, for its side effect on the caches alone:
    /// the neighbour of the last packet. Out of order, as nothing depends on it.
    #[inline]
    pub fn touch(&self) -> usize {
        self.link.touch()
    }
}
