//! A device that writes every frame to a pcapng file on its way through, both directions.
//!
//! Super-segments are written as the frames that they stand for, with complete checksums, so that
//! a reader sees what a wire would have carried. A file that cannot be written (disk full) ends the
//! capture, not the traffic.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use weft_stack::frame::Frame;

use crate::device::{Device, DeviceError, Medium};
use crate::pcapng::{Direction, InterfaceId, Packet, Writer};
use crate::segment::Cut;

/// Frames written at a time before the device says how many of them it took.
const CHUNK: usize = 64;

/// One capture file, shared by the devices that write to it.
#[derive(Clone)]
pub struct CaptureFile {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    writer: Writer<Box<dyn Write + Send>>,
    failure: Option<String>,
    scratch: Vec<u8>,
}

impl CaptureFile {
    /// Creates a file, or empties it.
    pub fn create(path: &Path) -> Result<CaptureFile, DeviceError> {
        let file = File::create(path).map_err(|e| {
            DeviceError::new("create", path.display().to_string(), e)
                .hint("choose a directory that can be written to")
        })?;
        Ok(CaptureFile::to(file))
    }

    /// Writes to anything.
    pub fn to(out: impl Write + Send + 'static) -> CaptureFile {
        let writer = Writer::new(Box::new(out) as Box<dyn Write + Send>);
        let shared = Shared { writer, failure: None, scratch: Vec::new() };
        CaptureFile { shared: Arc::new(Mutex::new(shared)) }
    }

    /// Why the capture ended, if it did.
    pub fn failure(&self) -> Option<String> {
        self.shared.lock().failure.clone()
    }
}

impl Shared {
    fn write(&mut self, frame: &Frame, medium: Medium, packet: Packet<'_>) {
        let Ok(mut cut) = Cut::new(frame, medium) else {
            let comment = "headers and offload state of this frame do not match";
            self.writer.packet(&Packet { data: frame.data(), comment, ..packet });
            return;
        };
        while let Some(len) = cut.next_len() {
            self.scratch.resize(len, 0);
            cut.write_next(&mut self.scratch);
            self.writer.packet(&Packet { data: &self.scratch, ..packet });
        }
    }

    fn flush(&mut self) {
        if let Err(e) = self.writer.flush() {
            self.failure = Some(e.to_string());
        }
    }
}

/// A captured device.
pub struct Capture<D> {
    inner: D,
    file: CaptureFile,
    interface: InterfaceId,
    /// Frames between the caller and the device, while they are written.
    chunk: VecDeque<Frame>,
}

impl<D: Device> Capture<D> {
    /// Captures `inner` under the name of its interface.
    pub fn new(inner: D, name: &str, file: &CaptureFile) -> Capture<D> {
        let mut shared = file.shared.lock();
        let interface = shared.writer.interface(name, inner.caps().medium);
        shared.flush();
        drop(shared);
        Capture { inner, file: file.clone(), interface, chunk: VecDeque::with_capacity(CHUNK) }
    }

    /// The device inside.
    pub fn into_inner(self) -> D {
        self.inner
    }

    fn packet(&self, direction: Direction) -> Packet<'static> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (interface, time_ns) = (self.interface, now.as_nanos() as u64);
        Packet { interface, time_ns, direction, data: &[], original: 0, comment: "" }
    }

    /// Sends the chunk; only what the device takes stays in the file.
    fn transmit_chunk(&mut self) -> io::Result<usize> {
        let (packet, medium) = (self.packet(Direction::Outbound), self.inner.caps().medium);
        let mut shared = self.file.shared.lock();
        if shared.failure.is_some() {
            return self.inner.transmit(&mut self.chunk);
        }
        let mut ends = [shared.writer.pending(); CHUNK + 1];
        for (frame, end) in self.chunk.iter().zip(&mut ends[1..]) {
            shared.write(frame, medium, packet);
            *end = shared.writer.pending();
        }
        let result = self.inner.transmit(&mut self.chunk);
        let taken = *result.as_ref().unwrap_or(&0);
        shared.writer.forget(ends[taken]);
        shared.flush();
        result
    }
}

impl<D: Device> Device for Capture<D> {
    crate::forward_facts!(inner);

    fn receive(&mut self, burst: &mut Vec<Frame>, max: usize) -> io::Result<usize> {
        let before = burst.len();
        let result = self.inner.receive(burst, max);
        if burst.len() == before {
            return result;
        }
        let (packet, medium) = (self.packet(Direction::Inbound), self.inner.caps().medium);
        let mut shared = self.file.shared.lock();
        if shared.failure.is_none() {
            for frame in &burst[before..] {
                shared.write(frame, medium, packet);
            }
            shared.flush();
        }
        result
    }

    fn may_receive(&mut self) -> bool {
        self.inner.may_receive()
    }

    fn transmit(&mut self, burst: &mut VecDeque<Frame>) -> io::Result<usize> {
        let mut total = 0;
        while !burst.is_empty() {
            self.chunk.extend(burst.drain(..burst.len().min(CHUNK)));
            let result = self.transmit_chunk();
            let complete = self.chunk.is_empty();
            while let Some(frame) = self.chunk.pop_back() {
                burst.push_front(frame);
            }
            total += result?;
            if !complete {
                break;
            }
        }
        Ok(total)
    }

    fn flush(&mut self) -> io::Result<bool> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{MemConfig, pair};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<(Vec<u8>, bool)>>);

    impl Write for Sink {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            let mut sink = self.0.lock();
            if sink.1 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            sink.0.extend(data);
            Ok(data.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn packets(file: &[u8]) -> usize {
        let (mut at, mut n) = (0, 0);
        while at < file.len() {
            n += usize::from(file[at..at + 4] == [6, 0, 0, 0]);
            at += u32::from_le_bytes(file[at + 4..at + 8].try_into().unwrap()) as usize;
        }
        n
    }

    #[test]
    fn only_what_the_device_took_is_written_once() {
        let config = MemConfig { queue_frames: 100, ..MemConfig::default() };
        let (a, mut b) = pair(&config).unwrap();
        let sink = Sink::default();
        let mut a = Capture::new(a, "mem0", &CaptureFile::to(sink.clone()));
        let mut burst: VecDeque<Frame> = (0..150).map(|_| Frame::from_heap(0, &[0; 60])).collect();
        let taken = a.transmit(&mut burst).unwrap();
        assert_eq!((taken + burst.len(), packets(&sink.0.lock().0)), (150, taken));
        let mut got = Vec::new();
        while b.receive(&mut got, 64).unwrap() > 0 {
            a.transmit(&mut burst).unwrap();
            a.flush().unwrap();
        }
        assert_eq!((got.len(), packets(&sink.0.lock().0)), (150, 150));
    }

    #[test]
    fn a_full_disk_ends_the_capture_not_the_traffic() {
        let (a, mut b) = pair(&MemConfig::default()).unwrap();
        let sink = Sink::default();
        let file = CaptureFile::to(sink.clone());
        let mut a = Capture::new(a, "mem0", &file);
        sink.0.lock().1 = true;
        for n in 1..3 {
            a.transmit(&mut VecDeque::from([Frame::from_heap(0, &[0; 60])])).unwrap();
            assert_eq!(b.receive(&mut Vec::new(), 8).unwrap(), 1);
            assert!(file.failure().is_some(), "after {n}");
        }
    }
}
