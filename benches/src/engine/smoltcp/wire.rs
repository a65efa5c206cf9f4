//! A device of ours under smoltcp's `phy::Device`.

use std::collections::VecDeque;
use std::io;
use std::num::{NonZeroU16, NonZeroUsize};

use smoltcp::phy::{self, Checksum as Sums, DeviceCapabilities, PacketMeta};
use smoltcp::time::Instant;
use weft_drivers::device::{Device, Medium};
use weft_stack::frame::{Checksum, Frame, FramePool, Gso, HEADROOM_BYTES};
use weft_stack::wire::checksum;

/// Frames taken from and given to the device at a time.
const BURST: usize = 64;
const ETHERNET_BYTES: usize = 14;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Frames on their way between the device and the stack.
pub(super) struct Wire<D> {
    device: D,
    burst: Vec<Frame>,
    inbox: VecDeque<Frame>,
    outbox: VecDeque<Frame>,
    offload: bool,
}

impl<D: Device> Wire<D> {
    /// `offload`: super-segments and checksums are left to the device, both ways.
    pub(super) fn new(device: D, offload: bool) -> Wire<D> {
        let burst = Vec::with_capacity(BURST);
        Wire { device, burst, inbox: VecDeque::new(), outbox: VecDeque::new(), offload }
    }

    pub(super) fn device(&self) -> &D {
        &self.device
    }

    /// Gives the device what the stack made. Frames that do not fit wait here.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if !self.outbox.is_empty() {
            self.device.transmit(&mut self.outbox)?;
        }
        self.device.flush()?;
        Ok(())
    }

    /// A device that fails has no frames; the failure comes out of [`Wire::flush`].
    fn take(&mut self) -> Option<Frame> {
        if self.inbox.is_empty() && self.device.receive(&mut self.burst, BURST).is_ok() {
            self.inbox.extend(self.burst.drain(..));
        }
        self.inbox.pop_front()
    }

    fn has_room(&mut self) -> bool {
        if self.outbox.len() >= BURST {
            // as in `take`
            let _ = self.flush();
        }
        self.outbox.len() < BURST
    }

    fn token(&mut self) -> Transmit<'_> {
        Transmit {
            outbox: &mut self.outbox,
            pool: self.device.pool(),
            medium: self.device.caps().medium,
            offload: self.offload,
            segment_bytes: None,
        }
    }
}

impl<D: Device> phy::Device for Wire<D> {
    type RxToken<'a>
        = Received
    where
        D: 'a;
    type TxToken<'a>
        = Transmit<'a>
    where
        D: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Received, Transmit<'_>)> {
        if !self.has_room() {
            return None;
        }
        let frame = self.take()?;
        Some((Received(frame), self.token()))
    }

    fn transmit(&mut self, _: Instant) -> Option<Transmit<'_>> {
        self.has_room().then(|| self.token())
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        let (medium, header) = match self.device.caps().medium {
            Medium::Ethernet => (phy::Medium::Ethernet, ETHERNET_BYTES),
            Medium::Ip => (phy::Medium::Ip, 0),
        };
        caps.medium = medium;
        caps.max_transmission_unit = self.device.link().mtu + header;
        caps.max_burst_size = Some(BURST);
        if self.offload {
            caps.checksum.tcp = Sums::None;
            caps.checksum.udp = Sums::None;
            caps.segmentation.tcpv4 = NonZeroUsize::new(self.device.caps().gso_bytes_max);
        }
        caps
    }
}

/// A frame for the stack.
pub(super) struct Received(Frame);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        if self.0.frags.is_empty() {
            return f(self.0.data());
        }
        let mut whole = vec![0; self.0.total_len()];
        self.0.copy_to(&mut whole);
        f(&whole)
    }
}

/// Room for a frame of the stack.
pub(super) struct Transmit<'a> {
    outbox: &'a mut VecDeque<Frame>,
    pool: &'a FramePool,
    medium: Medium,
    offload: bool,
    segment_bytes: Option<NonZeroU16>,
}

impl phy::TxToken for Transmit<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = match self.pool.alloc() {
            Some(frame) if frame.tailroom() >= len => frame,
            _ => Frame::heap_with_capacity(HEADROOM_BYTES, len),
        };
        let result = f(frame.push_back(len));
        if self.offload {
            leave_checksum(&mut frame, self.medium, self.segment_bytes);
        }
        self.outbox.push_back(frame);
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment_bytes = meta.segmentation_offload_size;
    }
}

/// Leaves the TCP or UDP checksum of an IPv4 packet, and cutting it, to the device.
fn leave_checksum(frame: &mut Frame, medium: Medium, segment_bytes: Option<NonZeroU16>) {
    let network = if medium == Medium::Ethernet { ETHERNET_BYTES } else { 0 };
    let data = frame.data_mut();
    if data.len() < network + 20 || data[network] >> 4 != 4 {
        return;
    }
    let transport = network + usize::from(data[network] & 0xf) * 4;
    let (protocol, field) = match data[network + 9] {
        TCP => (TCP, 16),
        UDP => (UDP, 6),
        _ => return,
    };
    if data.len() < transport + field + 2 {
        return;
    }
    let addresses = checksum::sum(&data[network + 12..network + 20]);
    let length = (data.len() - transport) as u16;
    let pseudo = checksum::combine(checksum::combine(addresses, u16::from(protocol)), length);
    data[transport + field..transport + field + 2].copy_from_slice(&pseudo.to_be_bytes());
    frame.meta.checksum = Checksum::Partial { start: transport as u16, offset: field as u16 };
    if let Some(size) = segment_bytes {
        frame.meta.gso = Gso::Tcp4 { mss: size.get() };
    }
}
