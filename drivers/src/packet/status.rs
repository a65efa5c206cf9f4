//! What the kernel says beside a frame: checksum state without the virtio-net header, and the VLAN
//! tag that it took out.

use std::collections::VecDeque;

use libc::{
    TP_STATUS_CSUM_VALID, TP_STATUS_CSUMNOTREADY, TP_STATUS_VLAN_TPID_VALID, TP_STATUS_VLAN_VALID,
};
use weft_stack::frame::{Checksum, Frame};

use crate::device::{DeviceStats, Medium};
use crate::intake::{Intake, Pools};
use crate::segment::Headers;

/// Where received frames go, and how they are to be read.
pub(super) struct Delivery<'a> {
    pub(super) arrived: &'a mut VecDeque<Frame>,
    /// Bytes of the virtio-net header before each frame, 0 without.
    pub(super) header_len: usize,
    pub(super) medium: Medium,
    pub(super) pools: &'a Pools,
    pub(super) stats: &'a mut DeviceStats,
}

impl Delivery<'_> {
    /// Takes the frame of a read that filled `intake` with `len` bytes behind the header.
    pub(super) fn deliver(&mut self, intake: &mut Intake, len: usize, status: Status) {
        let Some(mut frame) = intake.finish(self.header_len, len, self.pools, self.stats) else {
            return;
        };
        status.apply(&mut frame, self.medium, self.header_len > 0);
        self.arrived.push_back(frame);
    }
}

/// Auxiliary data of one frame.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Status {
    pub(super) flags: u32,
    pub(super) vlan_tci: u16,
    pub(super) vlan_tpid: u16,
}

impl Status {
    /// Takes the status over into a frame; `vnet`: its checksum state is known already.
    fn apply(self, frame: &mut Frame, medium: Medium, vnet: bool) {
        if !vnet {
            frame.meta.checksum = self.checksum(frame, medium);
        }
        if self.flags & TP_STATUS_VLAN_VALID != 0 && frame.len() >= 12 {
            self.insert_tag(frame);
        }
    }

    fn checksum(self, frame: &Frame, medium: Medium) -> Checksum {
        if self.flags & TP_STATUS_CSUM_VALID != 0 {
            return Checksum::Verified;
        }
        if self.flags & TP_STATUS_CSUMNOTREADY == 0 {
            return Checksum::Complete;
        }
        let Ok(headers) = Headers::parse(frame.data(), medium) else { return Checksum::Complete };
        let offset = if headers.protocol == 6 { 16 } else { 6 };
        Checksum::Partial { start: headers.transport as u16, offset }
    }

    fn insert_tag(self, frame: &mut Frame) {
        let tpid =
            if self.flags & TP_STATUS_VLAN_TPID_VALID != 0 { self.vlan_tpid } else { 0x8100 };
        frame.push_front(4);
        let data = frame.data_mut();
        data.copy_within(4..16, 0);
        data[12..14].copy_from_slice(&tpid.to_be_bytes());
        data[14..16].copy_from_slice(&self.vlan_tci.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_put_back_and_offsets_move() {
        let mut frame = Frame::from_heap(8, b"dst---src---\x08\x00rest of it");
        frame.meta.checksum = Checksum::Partial { start: 14, offset: 2 };
        let status = Status { flags: TP_STATUS_VLAN_VALID, vlan_tci: 0x1005, vlan_tpid: 0 };
        status.apply(&mut frame, Medium::Ethernet, true);
        assert_eq!(frame.data(), b"dst---src---\x81\x00\x10\x05\x08\x00rest of it");
        assert_eq!(frame.meta.checksum, Checksum::Partial { start: 18, offset: 2 });
    }

    #[test]
    fn checksum_states_without_the_header() {
        let mut udp = vec![0x45; 28];
        udp[9] = 17;
        let mut frame = Frame::from_heap(0, &udp);
        for (flags, state) in [
            (0, Checksum::Complete),
            (TP_STATUS_CSUM_VALID, Checksum::Verified),
            (TP_STATUS_CSUMNOTREADY, Checksum::Partial { start: 20, offset: 6 }),
        ] {
            Status { flags, ..Status::default() }.apply(&mut frame, Medium::Ip, false);
            assert_eq!(frame.meta.checksum, state);
        }
    }
}
