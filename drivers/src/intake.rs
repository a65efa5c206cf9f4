//! Buffers for a read whose length is not known before: a frame of the ordinary pool for the
//! packet, and a large one behind it for what a super-segment has more. An ordinary packet never
//! pins the large buffer.

use weft_stack::frame::{Frame, FrameDomain, FramePool, Gso, HEADROOM_BYTES};

use crate::device::DeviceStats;
use crate::vnet;

/// A super-segment behind the longest link header.
const SPILL_BYTES: usize = 65_536;
/// Up to here the rest is copied into small frames, so that it does not pin a large one that would
/// be nearly empty.
const COPY_BYTES_MAX: usize = 8192;

/// The two pools of a receiving device.
#[derive(Clone)]
pub(crate) struct Pools {
    pub(crate) frames: FramePool,
    spills: FramePool,
}

impl Pools {
    pub(crate) fn new(frames: usize, slot_bytes: usize, spills: usize) -> Pools {
        Pools {
            frames: FramePool::heap(frames, slot_bytes),
            spills: FramePool::heap(spills, SPILL_BYTES),
        }
    }

    pub(crate) fn join_domain(&self, domain: &mut FrameDomain) {
        domain.adopt(&self.frames);
        domain.adopt(&self.spills);
    }

    /// An empty frame with room for `len` bytes behind its headroom.
    fn frame(&self, len: usize) -> Frame {
        let frame = self.frames.alloc().filter(|frame| frame.tailroom() >= len);
        frame.unwrap_or_else(|| Frame::heap_with_capacity(HEADROOM_BYTES, len))
    }
}

/// Buffers of one read.
#[derive(Default)]
pub(crate) struct Intake {
    header: [u8; vnet::LEN_MRG],
    frame: Option<Frame>,
    spill: Option<Frame>,
}

impl Intake {
    /// Makes sure that both buffers are there. While a pool is empty, which it counts, the heap
    /// helps out: a frame left in the kernel would wait for a wake-up that may never come.
    pub(crate) fn prepare(&mut self, pools: &Pools) {
        if self.frame.is_none() {
            let mut frame = pools.frame(pools.frames.slot_bytes());
            frame.push_back(frame.tailroom());
            self.frame = Some(frame);
        }
        if self.spill.is_none() {
            let mut spill =
                pools.spills.alloc().unwrap_or_else(|| Frame::heap_with_capacity(0, SPILL_BYTES));
            spill.reset(0);
            spill.push_back(spill.tailroom());
            self.spill = Some(spill);
        }
    }

    /// Header, frame and rest, in the order of the read.
    ///
    /// # Panics
    /// Without [`Intake::prepare`].
    pub(crate) fn buffers(&mut self, header_len: usize) -> [&mut [u8]; 3] {
        [
            &mut self.header[..header_len],
            self.frame.as_mut().expect("prepared").data_mut(),
            self.spill.as_mut().expect("prepared").data_mut(),
        ]
    }

    /// The frame of a read that filled the buffers with `len` bytes behind a header of
    /// `header_len`. `None`: the header contradicts the frame, which is counted.
    pub(crate) fn finish(
        &mut self,
        header_len: usize,
        len: usize,
        pools: &Pools,
        stats: &mut DeviceStats,
    ) -> Option<Frame> {
        let mut frame = self.frame.take().expect("prepared");
        let rest = len.saturating_sub(frame.len());
        frame.truncate(len);
        if rest > COPY_BYTES_MAX {
            let mut spill = self.spill.take().expect("prepared");
            spill.truncate(rest);
            frame.frags.push(spill);
        } else if rest > 0 {
            let spill = self.spill.as_ref().expect("prepared");
            for piece in spill.data()[..rest].chunks(pools.frames.slot_bytes()) {
                frame.frags.push(copied(piece, &pools.frames));
            }
            stats.rx_copied_bytes += rest as u64;
        }
        if header_len > 0 && !vnet::decode(&self.header, &mut frame) {
            stats.rx_errors += 1;
            return None;
        }
        if frame.meta.gso == Gso::None && !frame.frags.is_empty() {
            // A frame longer than the pool was made for: the MTU grew since.
            stats.rx_copied_bytes += frame.total_len() as u64;
            frame = frame.to_heap();
        }
        stats.rx_frames += 1;
        stats.rx_bytes += len as u64;
        Some(frame)
    }
}

fn copied(piece: &[u8], pool: &FramePool) -> Frame {
    let Some(mut frame) = pool.alloc() else { return Frame::from_heap(0, piece) };
    frame.reset(0);
    frame.append(piece);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(intake: &mut Intake, pools: &Pools, header: [u8; 10], data: &[u8]) -> Option<Frame> {
        intake.prepare(pools);
        let [h, frame, spill] = intake.buffers(10);
        h.copy_from_slice(&header);
        let n = data.len().min(frame.len());
        frame[..n].copy_from_slice(&data[..n]);
        spill[..data.len() - n].copy_from_slice(&data[n..]);
        intake.finish(10, data.len(), pools, &mut DeviceStats::default())
    }

    fn tcp4(mss: u16) -> [u8; 10] {
        let [a, b] = mss.to_ne_bytes();
        [0, 1, 0, 0, a, b, 0, 0, 0, 0]
    }

    #[test]
    fn only_long_super_segments_pin_large_buffers() {
        let pools = Pools::new(64, 2048, 4);
        let mut intake = Intake::default();
        let data: Vec<u8> = (0..40_000u32).map(|i| i as u8).collect();
        for (len, header, pinned, linear) in [
            (1000, [0; 10], 0, true),
            (5000, tcp4(1400), 0, false),
            (40_000, tcp4(1400), 1, false),
            (3000, [0; 10], 0, true),
        ] {
            let frame = read(&mut intake, &pools, header, &data[..len]).unwrap();
            assert_eq!(frame.to_heap().data(), &data[..len]);
            assert_eq!(frame.frags.is_empty(), linear);
            // The intake itself holds one, unless it just gave it away.
            assert_eq!(pools.spills.free(), 3, "{len}");
            assert_eq!(intake.spill.is_none(), pinned == 1);
        }
        drop(intake);
        assert_eq!((pools.spills.free(), pools.frames.free()), (4, 64));
    }

    #[test]
    fn an_empty_pool_is_counted_and_the_heap_helps_out() {
        let pools = Pools::new(0, 2048, 0);
        let frame = read(&mut Intake::default(), &pools, tcp4(1400), &vec![7; 30_000]).unwrap();
        assert_eq!((frame.total_len(), pools.frames.exhausted()), (30_000, 1));
    }

    #[test]
    fn datagrams_of_one_frame_stay_together() {
        let pools = Pools::new(2, 2048, 1);
        let header = [1, 5, 0, 0, 0xb0, 4, 20, 0, 6, 0];
        let frame = read(&mut Intake::default(), &pools, header, &[9; 28 + 3000]).unwrap();
        let size = u16::from_ne_bytes([0xb0, 4]);
        assert_eq!((frame.meta.gso, frame.total_len()), (Gso::Udp { size }, 3028));
    }
}
