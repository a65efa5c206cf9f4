//! `weft capture VSERVER`: packets of a vserver, above and below its multipath shim.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use weft_drivers::device::Medium;
use weft_drivers::pcapng::{Direction, InterfaceId, Packet, Writer};
use weft_vserver::capture::{
    CaptureBatch, CaptureBegun, CaptureStep, CaptureWish, CapturedPacket, Layers, SNAPLEN_MAX,
};
use weft_vserver::control::{Answer, Command, Connection};

use super::daemon;
use crate::Error;

mod line;

/// How often the daemon is asked when there was nothing.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Options of `weft capture`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
FILTER: host ADDRESS, net NETWORK, port NUMBER, proto tcp|udp|icmp|shim, joined by 'and'. Above the
shim addresses are ULIDs, below it locators; below it port and proto also look behind its header.
Ends with Ctrl-C, --count or --duration. Administrators of the vserver may capture; it is logged.")]
pub struct Args {
    /// Of which vserver
    pub vserver: String,
    /// Which packets: 'host fd00::1 and port 80'
    pub filter: Vec<String>,
    /// Write pcapng to a file, or to standard output ('-'), instead of lines
    #[arg(short, long, value_name = "FILE")]
    pub write: Option<PathBuf>,
    /// End after so many packets
    #[arg(short, long, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Only packets above the shim, between ULIDs
    #[arg(long)]
    pub above: bool,
    /// Only packets below the shim, between locators
    #[arg(long)]
    pub below: bool,
    /// Bytes of each packet
    #[arg(short, long, default_value_t = SNAPLEN_MAX,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(SNAPLEN_MAX)))]
    pub snaplen: u32,
    /// End after so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub duration: Option<u32>,
}

impl Args {
    fn layers(&self) -> Layers {
        match (self.above, self.below) {
            (true, false) => Layers::Above,
            (false, true) => Layers::Below,
            _ => Layers::Both,
        }
    }

    fn wish(&self) -> CaptureWish {
        CaptureWish {
            vserver: self.vserver.clone(),
            filter: self.filter.join(" "),
            layers: self.layers(),
            snaplen: self.snaplen,
            count: self.count,
        }
    }
}

/// Shows or writes packets until it is to end.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|e| Error::Failed(format!("catch signals: {e}")))?;
    }
    let mut daemon = daemon::connect(control)?;
    let begun = start(&mut daemon, args)?;
    let mut out = Output::open(args.write.as_deref(), &begun, args.layers())?;
    eprintln!("capturing packets of vserver {}", begun.vserver);
    let seconds = args.duration.map(|s| Duration::from_secs(s.into()));
    let until = seconds.map(|s| Instant::now() + s);
    loop {
        let over = until.is_some_and(|at| Instant::now() >= at);
        let over = over || stop.load(Ordering::Relaxed);
        let batch = next(&mut daemon, begun.capture, over)?;
        out.put(&batch)?;
        if let Some(why) = &batch.ended {
            out.end(&batch)?;
            let asked = over || out.count == args.count.unwrap_or(u64::MAX);
            let why = if asked { String::new() } else { format!(" ({why})") };
            eprintln!("{} packets captured, {} lost{why}", out.count, batch.lost);
            return Ok(());
        }
        if batch.packets.is_empty() {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

fn start(daemon: &mut Connection, args: &Args) -> Result<CaptureBegun, Error> {
    match daemon.ask(Command::CaptureStart(args.wish())).map_err(daemon::error)? {
        Answer::Capturing(begun) => Ok(begun),
        _ => Err(Error::Failed(String::from("the daemon did not answer with a capture"))),
    }
}

fn next(daemon: &mut Connection, capture: u64, stop: bool) -> Result<CaptureBatch, Error> {
    match daemon.ask(Command::CaptureNext(CaptureStep { capture, stop })).map_err(daemon::error)? {
        Answer::Captured(batch) => Ok(batch),
        _ => Err(Error::Failed(String::from("the daemon did not answer with packets"))),
    }
}

/// Where packets go.
struct Output {
    to: To,
    /// Packets so far.
    count: u64,
}

enum To {
    Lines,
    File(Box<Pcap>),
}

/// A file with the two sides of the shim as interfaces.
struct Pcap {
    writer: Writer<Box<dyn Write>>,
    /// By side and kind: what links of several kinds have is apart.
    interfaces: Vec<((bool, bool), InterfaceId)>,
}

impl Pcap {
    fn interface(&mut self, above: bool, ethernet: bool) -> InterfaceId {
        let known = self.interfaces.iter().find(|(key, _)| *key == (above, ethernet));
        if let Some((_, id)) = known {
            return *id;
        }
        let medium = if ethernet { Medium::Ethernet } else { Medium::Ip };
        let id = self.writer.interface(if above { "above" } else { "below" }, medium);
        self.interfaces.push(((above, ethernet), id));
        id
    }

    fn put(&mut self, packet: &CapturedPacket, data: &[u8]) {
        let interface = self.interface(packet.above, packet.ethernet);
        let direction = if packet.out { Direction::Outbound } else { Direction::Inbound };
        let time_ns = packet.time_ns;
        let original = packet.len;
        self.writer.packet(&Packet { interface, time_ns, direction, data, original, comment: "" });
    }
}

impl Output {
    fn open(path: Option<&Path>, begun: &CaptureBegun, layers: Layers) -> Result<Output, Error> {
        let Some(path) = path else { return Ok(Output { to: To::Lines, count: 0 }) };
        let file: Box<dyn Write> = if path == Path::new("-") {
            Box::new(io::stdout())
        } else {
            let told = |e| Error::Failed(format!("create {}: {e}", path.display()));
            Box::new(File::create(path).map_err(told)?)
        };
        let mut pcap = Pcap { writer: Writer::new(file), interfaces: Vec::new() };
        if layers != Layers::Below {
            pcap.interface(true, false);
        }
        if layers != Layers::Above {
            pcap.interface(false, begun.ethernet);
        }
        pcap.writer.flush()?;
        Ok(Output { to: To::File(Box::new(pcap)), count: 0 })
    }

    fn put(&mut self, batch: &CaptureBatch) -> Result<(), Error> {
        let mut text = String::new();
        for packet in &batch.packets {
            let data = packet.bytes();
            let data = data.ok_or_else(|| Error::Failed(String::from("a packet of no bytes")))?;
            match &mut self.to {
                To::Lines => text.push_str(&line::of(packet, &data)),
                To::File(pcap) => pcap.put(packet, &data),
            }
            self.count += 1;
        }
        match &mut self.to {
            To::Lines => {
                let mut out = io::stdout().lock();
                out.write_all(text.as_bytes()).and_then(|()| out.flush())?;
            }
            To::File(pcap) => pcap.writer.flush()?,
        }
        Ok(())
    }

    /// A reader of the file learns what is missing.
    fn end(&mut self, batch: &CaptureBatch) -> Result<(), Error> {
        if let To::File(pcap) = &mut self.to
            && let Some((_, first)) = pcap.interfaces.first()
        {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let now = now.unwrap_or_default().as_nanos() as u64;
            let seen = batch.captured + batch.lost;
            pcap.writer.statistics(*first, now, seen, batch.lost);
            pcap.writer.flush()?;
        }
        Ok(())
    }
}
