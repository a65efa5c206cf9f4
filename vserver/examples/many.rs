//! What vservers cost: start time and memory of 1,000 on one NIC, and CPU time per packet with 1
//! and with 1,000. Over the memory driver, no privilege needed.
//!
//! `cargo run --release -p weft-vserver --example many [VSERVERS]`

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use weft_drivers::device::{AnyDevice, Device};
use weft_stack::frame::Frame;
use weft_vserver::{Host, config};

const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OUR_IP: [u8; 4] = [10, 0, 255, 1];
const ROUNDS: usize = 40_000;
const BURST: usize = 32;

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let many: u16 = std::env::args().nth(1).map_or(Ok(1000), |n| n.parse())?;
    for count in [1, many] {
        let before = resident_kib()?;
        let started = Instant::now();
        let host = Host::start(config::parse(&text(count), Path::new("many.toml"))?)?;
        let start = started.elapsed();
        let memory = resident_kib()? - before;
        let mut peer = host.take_mem_peer("eth0").ok_or("eth0 has no far end")?;
        // Duplicate address detection and the repeated membership reports are over by then.
        std::thread::sleep(Duration::from_secs(12));
        let idle = cpu_of(|| std::thread::sleep(Duration::from_secs(2))) / 2;
        let first = ping(&mut peer, count, usize::from(count))?;
        let steady = ping(&mut peer, count, ROUNDS)?;
        println!(
            "{count:5} vservers: start {start:8.1?}, {memory} KiB ({:.1} per vserver), idle CPU \
             {:.2} %, first echo of each {:.0} ns, then {:.0} ns of CPU per echo",
            memory as f64 / f64::from(count),
            idle.as_secs_f64() * 100.0,
            first,
            steady
        );
    }
    Ok(())
}

fn text(count: u16) -> String {
    let mut text = String::from(
        "[workers]\nframes = 4096\nframe_bytes = 2048\n\
         [nic.eth0]\ndevice = \"m\"\ndriver = \"mem\"\nmac = \"02:00:00:00:00:01\"\n\
         [alias.data0]\nover = \"eth0\"\n",
    );
    for n in 0..count {
        let [hi, lo] = (256 + n).to_be_bytes();
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "[vserver.v{n}]\naddresses = [\"data0 10.0.{hi}.{lo}/16\", \"data0 fd00::1:{n:x}/64\"]\n"
        );
    }
    text
}

/// CPU nanoseconds of the process per echo, over `total` echoes, each vserver in turn.
fn ping(peer: &mut AnyDevice, count: u16, total: usize) -> Result<f64, Error> {
    let mut answered = 0;
    let spent = cpu_of_result(|| {
        let mut sent = 0;
        let mut out = VecDeque::new();
        let mut rx = Vec::new();
        let end = Instant::now() + Duration::from_mins(1);
        while answered < total {
            while out.len() < BURST && sent < total && sent - answered < 256 {
                out.push_back(echo_request((sent % usize::from(count)) as u16));
                sent += 1;
            }
            peer.transmit(&mut out)?;
            peer.flush()?;
            peer.receive(&mut rx, 256)?;
            if rx.is_empty() {
                // Leaves the CPU to the worker; what counts is CPU time, not elapsed time.
                std::thread::sleep(Duration::from_micros(50));
            }
            for frame in rx.drain(..) {
                match frame.data() {
                    arp if arp[12..14] == [8, 6] && arp[21] == 1 => out.push_back(arp_reply(arp)),
                    ip if ip[12..14] == [8, 0] && ip[23] == 1 && ip[34] == 0 => answered += 1,
                    _ => {}
                }
            }
            if Instant::now() > end {
                return Err(format!("{answered} of {total} echoes answered").into());
            }
        }
        Ok(())
    })?;
    Ok(spent.as_nanos() as f64 / total as f64)
}

fn echo_request(n: u16) -> Frame {
    let [hi, lo] = (256 + n).to_be_bytes();
    let mut f = vec![2, 0, 0, 0, 0, 1];
    f.extend(OUR_MAC);
    f.extend([8, 0, 0x45, 0, 0, 84, 0, 0, 0, 0, 64, 1, 0, 0]);
    f.extend(OUR_IP);
    f.extend([10, 0, hi, lo]);
    f.extend([8, 0, 0, 0]);
    f.resize(14 + 84, 7);
    let header = checksum(&f[14..34]);
    f[24..26].copy_from_slice(&header.to_be_bytes());
    let message = checksum(&f[34..]);
    f[36..38].copy_from_slice(&message.to_be_bytes());
    Frame::from_heap(0, &f)
}

fn arp_reply(request: &[u8]) -> Frame {
    let mut f = request[6..12].to_vec();
    f.extend(OUR_MAC);
    f.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    f.extend(OUR_MAC);
    f.extend(&request[38..42]);
    f.extend(&request[22..32]);
    Frame::from_heap(0, &f)
}

fn checksum(data: &[u8]) -> u16 {
    let words = data.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn cpu() -> Duration {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

fn cpu_of(f: impl FnOnce()) -> Duration {
    let before = cpu();
    f();
    cpu().saturating_sub(before)
}

fn cpu_of_result(f: impl FnOnce() -> Result<(), Error>) -> Result<Duration, Error> {
    let before = cpu();
    f()?;
    Ok(cpu().saturating_sub(before))
}

fn resident_kib() -> Result<i64, Error> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
