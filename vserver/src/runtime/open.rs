//! Devices from configuration.

use weft_drivers::afxdp::{self, AfXdp, AfXdpOptions, UmemConfig, UmemPool, XdpProgram};
use weft_drivers::device::{AnyDevice, Device, DeviceError, Medium};
use weft_drivers::mem::{self, MemConfig};
use weft_drivers::netlink::Netlink;
use weft_drivers::packet::{self, Packet, PacketConfig};
use weft_drivers::tuntap::{TunTap, TunTapConfig};

use crate::config::{Driver, Nic, PacketReceive, PollMode, Workers, XdpMode};

/// The devices of one NIC, and the far ends if it is a memory pair.
pub(crate) struct Opened {
    /// One per queue.
    pub(crate) devices: Vec<AnyDevice>,
    pub(crate) peers: Vec<AnyDevice>,
    /// What the configuration asks for and could not be had.
    pub(crate) notes: Vec<String>,
}

impl Opened {
    fn new(devices: Vec<AnyDevice>) -> Opened {
        Opened { devices, peers: Vec::new(), notes: Vec::new() }
    }
}

/// Opens all queues of a NIC, in the network namespace of the calling thread.
pub(crate) fn open(nic: &Nic, workers: &Workers) -> Result<Opened, DeviceError> {
    match nic.driver {
        Driver::Mem => open_mem(nic, workers),
        Driver::AfXdp => open_afxdp(nic, workers),
        Driver::Tap => open_tuntap(nic, workers, Medium::Ethernet),
        Driver::Tun => open_tuntap(nic, workers, Medium::Ip),
        Driver::Packet => open_packet(nic, workers),
    }
}

fn open_mem(nic: &Nic, workers: &Workers) -> Result<Opened, DeviceError> {
    let defaults = MemConfig::default();
    let config = MemConfig {
        mtu: nic.mtu.unwrap_or(defaults.mtu),
        pool_frames: workers.frames,
        macs: [nic.mac.unwrap_or(defaults.macs[0]), defaults.macs[1]],
        queues: nic.queues,
        ..defaults
    };
    let (ours, theirs) = mem::pairs(&config)?;
    let boxed = |ends: Vec<mem::Mem>| ends.into_iter().map(|e| Box::new(e) as AnyDevice).collect();
    let mut opened = Opened::new(boxed(ours));
    opened.peers = boxed(theirs);
    Ok(opened)
}

/// Frames of one queue: the NIC's share of the worker's.
fn frames_per_queue(nic: &Nic, workers: &Workers) -> usize {
    (workers.frames / nic.queues.max(1)).max(256)
}

fn open_tuntap(nic: &Nic, workers: &Workers, medium: Medium) -> Result<Opened, DeviceError> {
    let mut config = TunTapConfig::new(nic.device.clone(), medium);
    config.queues = nic.queues.max(1);
    config.pool_frames = frames_per_queue(nic, workers);
    config.mtu = nic.mtu;
    config.mac = nic.mac;
    let queues = TunTap::open(&config)?;
    Ok(Opened::new(queues.into_iter().map(|q| Box::new(q) as AnyDevice).collect()))
}

fn open_packet(nic: &Nic, workers: &Workers) -> Result<Opened, DeviceError> {
    set_mtu(nic)?;
    let mut config = PacketConfig::new(nic.device.clone());
    config.queues = nic.queues.max(1);
    config.pool_frames = frames_per_queue(nic, workers);
    config.receive = match nic.receive {
        PacketReceive::Messages => packet::PacketReceive::Messages,
        PacketReceive::Ring => packet::PacketReceive::Ring,
    };
    let queues = Packet::open(&config)?;
    Ok(Opened::new(queues.into_iter().map(|q| Box::new(q) as AnyDevice).collect()))
}

fn set_mtu(nic: &Nic) -> Result<(), DeviceError> {
    nic.mtu.map_or(Ok(()), |mtu| Netlink::open()?.set_mtu(&nic.device, mtu))
}

/// One UMEM per worker that has queues of the NIC. Dropping the last of the devices takes the program and its
/// maps off the NIC.
fn open_afxdp(nic: &Nic, workers: &Workers) -> Result<Opened, DeviceError> {
    set_mtu(nic)?;
    let mode = match nic.xdp {
        XdpMode::Auto => afxdp::XdpMode::Auto,
        XdpMode::ZeroCopy => afxdp::XdpMode::ZeroCopy,
        XdpMode::Native => afxdp::XdpMode::Native,
        XdpMode::Generic => afxdp::XdpMode::Generic,
    };
    let program = XdpProgram::attach(&nic.device, mode)?;
    let queues = nic.queues.max(1);
    // One for the queues of each worker, so that no two share its free lists.
    let count = workers.count.clamp(1, queues);
    let config = UmemConfig {
        frames: workers.frames as u32,
        frame_bytes: workers.frame_bytes.min(4096) as u32,
        hugepages: workers.hugepages,
        numa_node: workers.numa_node,
    };
    let umem = |_| UmemPool::open(&config);
    let umems = (0..count).map(umem).collect::<Result<Vec<_>, _>>()?;
    // A quarter of the frames receives; the rest is for what is on its way.
    let fill_frames = (workers.frames / 4 / queues.div_ceil(count)) as u32;
    let fill_frames = fill_frames.min(UmemPool::RING_ENTRIES);
    let options = AfXdpOptions { fill_frames, gather: nic.gather, ..AfXdpOptions::default() };
    let mut opened = Opened::new(Vec::new());
    opened.notes.extend(
        program.note().map(str::to_owned).into_iter().chain(umems[0].notes().iter().cloned()),
    );
    for queue in 0..queues {
        let mut device = AfXdp::open(&program, queue as u32, &umems[queue % count], options)?;
        if nic.poll == PollMode::Busy
            && let Err(e) = device.set_busy_poll(64, 20)
        {
            opened.notes.push(format!("{e}; the worker polls the ring only"));
        }
        opened.devices.push(Box::new(device));
    }
    opened.notes.extend(program.unserved_queues());
    Ok(opened)
}
