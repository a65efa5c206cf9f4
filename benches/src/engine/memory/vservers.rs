//! Echoes to many vservers on one memory device, each in turn: the worker's CPU time of one.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use weft_drivers::device::{AnyDevice, Device};
use weft_stack::frame::Frame;
use weft_stack::wire::checksum;
use weft_vserver::{Host, config};

use super::{count, one_of};
use crate::meter::Meter;
use crate::side::Control;
use crate::spec::Side;

const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OUR_IP: [u8; 4] = [10, 0, 255, 1];
const BURST: usize = 32;
/// Echoes on their way.
const WINDOW: usize = 256;
/// Echoes of one reading of the worker's CPU time.
const ROUND: usize = 8192;
/// An echo that does not come in this time is an error.
const PATIENCE: Duration = Duration::from_secs(5);
/// Announcements are over by then.
const QUIET: Duration = Duration::from_secs(3);

pub(super) fn run(side: &Side, control: &Control) -> io::Result<()> {
    let count = count(side);
    let config = config::parse(&text(count), "bench.toml".as_ref()).map_err(io::Error::other)?;
    let started = Instant::now();
    let host = Host::start(config).map_err(io::Error::other)?;
    control.number("start_s", started.elapsed().as_secs_f64());
    let mut peer = host.take_mem_peer("eth0").ok_or(io::ErrorKind::NotFound)?;
    std::thread::sleep(QUIET);
    let mut echoes = Echoes { count, sent: 0, out: VecDeque::new(), rx: Vec::new() };
    // each learns its neighbour while one packet waits for it
    echoes.run(&mut peer, count)?;
    echoes.run(&mut peer, ROUND)?;
    control.fact("mode", format!("memory, {count} vservers, one worker, an echo to each in turn"));
    let mut meter = Meter::start(side, control);
    loop {
        let before = worker_cpu()?;
        echoes.run(&mut peer, ROUND)?;
        let spent = worker_cpu()?.saturating_sub(before);
        if !one_of(&mut meter, Instant::now(), spent, ROUND) {
            return Ok(());
        }
    }
}

fn text(count: usize) -> String {
    let mut text = String::from(
        "[workers]\nframes = 4096\nframe_bytes = 2048\n\
         [nic.eth0]\ndevice = \"m\"\ndriver = \"mem\"\nmac = \"02:00:00:00:00:01\"\n\
         poll = \"interrupt\"\n[alias.data0]\nover = \"eth0\"\n",
    );
    for n in 0..count {
        let [_, _, high, low] = address(n);
        // writing to a string cannot fail
        let _ = write!(text, "[vserver.v{n}]\naddresses = [\"data0 10.0.{high}.{low}/16\"]\n");
    }
    text
}

fn address(n: usize) -> [u8; 4] {
    let [high, low] = (256 + n as u16).to_be_bytes();
    [10, 0, high, low]
}

/// CPU time of the threads that are workers.
fn worker_cpu() -> io::Result<Duration> {
    let mut ns = 0;
    for task in fs::read_dir("/proc/self/task")?.flatten() {
        let path = task.path();
        if !fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("weft-worker"))
        {
            continue;
        }
        let text = fs::read_to_string(path.join("schedstat"))?;
        ns += text.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or_default();
    }
    Ok(Duration::from_nanos(ns))
}

/// The far end.
struct Echoes {
    count: usize,
    sent: usize,
    out: VecDeque<Frame>,
    rx: Vec<Frame>,
}

impl Echoes {
    /// Sends `total` requests and returns when all are answered.
    fn run(&mut self, peer: &mut AnyDevice, total: usize) -> io::Result<()> {
        let (mut asked, mut answered) = (0, 0);
        let mut last = Instant::now();
        while answered < total {
            while self.out.len() < BURST && asked < total && asked - answered < WINDOW {
                self.out.push_back(request(self.sent % self.count));
                self.sent += 1;
                asked += 1;
            }
            peer.transmit(&mut self.out)?;
            peer.flush()?;
            peer.receive(&mut self.rx, WINDOW)?;
            if self.rx.is_empty() {
                if last.elapsed() > PATIENCE {
                    let text = format!("{answered} of {total} echoes answered");
                    return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                }
                // leaves the CPU to the worker
                std::thread::sleep(Duration::from_micros(20));
                continue;
            }
            last = Instant::now();
            for frame in self.rx.drain(..) {
                match frame.data() {
                    arp if arp[12..14] == [8, 6] && arp[21] == 1 && arp[38..42] == OUR_IP => {
                        self.out.push_back(arp_reply(arp));
                    }
                    ip if ip[12..14] == [8, 0] && ip[23] == 1 && ip[34] == 0 => answered += 1,
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

fn request(n: usize) -> Frame {
    let mut frame = vec![2, 0, 0, 0, 0, 1];
    frame.extend(OUR_MAC);
    frame.extend([8, 0, 0x45, 0, 0, 84, 0, 0, 0, 0, 64, 1, 0, 0]);
    frame.extend(OUR_IP);
    frame.extend(address(n));
    frame.extend([8, 0, 0, 0]);
    frame.resize(14 + 84, 7);
    let header = checksum::finish(checksum::sum(&frame[14..34]));
    frame[24..26].copy_from_slice(&header.to_be_bytes());
    let message = checksum::finish(checksum::sum(&frame[34..]));
    frame[36..38].copy_from_slice(&message.to_be_bytes());
    Frame::from_heap(0, &frame)
}

fn arp_reply(request: &[u8]) -> Frame {
    let mut frame = request[6..12].to_vec();
    frame.extend(OUR_MAC);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    frame.extend(OUR_MAC);
    frame.extend(&request[38..42]);
    frame.extend(&request[22..32]);
    Frame::from_heap(0, &frame)
}
