//! Two counts of the same frames: weft's and the kernel's.

use std::fmt::{self, Write as _};

use weft_drivers::device::DeviceError;
use weft_drivers::netlink::LinkStats;
use weft_vserver::Host;
use weft_vserver::stats::{HostSnapshot, VserverSnapshot};

use super::Carrier;
use super::report::{Report, VserverRow};
use super::topology::{Machine, Topology, WAN, nic};

/// Bytes of an Ethernet header, which IP counters leave out.
const ETHERNET: u64 = 14;

/// Frames and bytes one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    frames: u64,
    bytes: u64,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} frames {} bytes", self.frames, self.bytes)
    }
}

impl Count {
    fn since(self, before: Count) -> Count {
        Count { frames: self.frames - before.frames, bytes: self.bytes - before.bytes }
    }

    fn plus(self, other: Count) -> Count {
        Count { frames: self.frames + other.frames, bytes: self.bytes + other.bytes }
    }
}

/// All counters at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// What the client's interface sent and received.
    client: LinkStats,
    /// What the machine's own kernel received and sent over IP, on its address beside the vservers.
    kernel_in: Count,
    kernel_out: Count,
    /// Packets that the kernel took for itself.
    kernel_delivered: u64,
    /// Frames sent by the NIC that the client's receive queue had no room for.
    cable_dropped: u64,
    /// weft.
    pub(crate) host: HostSnapshot,
}

impl Tally {
    /// Reads everything, once nothing moves any more (or 4 seconds passed): the client's counters
    /// are the same 100 ms before and right after the others were read.
    pub(crate) fn settled(lab: &Topology, host: &Host) -> Result<Tally, DeviceError> {
        let mut tries = 0;
        loop {
            let before = lab.client.link_stats(WAN)?;
            std::thread::sleep(std::time::Duration::from_millis(100));
            let tally = Tally::read(lab, host)?;
            let still = before == tally.client && lab.client.link_stats(WAN)? == before;
            tries += 1;
            if still || tries == 40 {
                return Ok(tally);
            }
        }
    }

    fn read(lab: &Topology, host: &Host) -> Result<Tally, DeviceError> {
        let [kernel_in, kernel_out, delivered] = ip_counts(&lab.weft)?;
        let client = lab.client.link_stats(WAN)?;
        let kernel_delivered = delivered.frames;
        // without a cable the client's interface is the device, and loses nothing on the way
        let cable_dropped = lab.weft.link_stats(nic(0)).map_or(0, |s| s.tx_dropped);
        let host = host.snapshot();
        Ok(Tally { client, kernel_in, kernel_out, kernel_delivered, cable_dropped, host })
    }
}

/// IP packets into, out of and taken by a machine's kernel over its first NIC, as frames on a cable. (IPv4 is
/// counted per machine, but the kernel has IPv4 only there.)
fn ip_counts(machine: &Machine) -> Result<[Count; 3], DeviceError> {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{file}"));
    let texts = machine.netns.enter(|| {
        // without a cable there is no such NIC, and nothing of it to count
        let v6 = read(&format!("dev_snmp6/{}", nic(0))).unwrap_or_default();
        Ok::<_, std::io::Error>(format!("{}{}{v6}", read("snmp")?, read("netstat")?))
    })?;
    let text = texts.map_err(|e| DeviceError::new("read", "IP counters of a namespace", e))?;
    let count = |packets: &[(&str, &str)], octets: &[(&str, &str)]| {
        let sum = |names: &[(&str, &str)]| -> u64 {
            names.iter().map(|(group, name)| counter(&text, group, name)).sum()
        };
        let frames = sum(packets);
        Count { frames, bytes: sum(octets) + frames * ETHERNET }
    };
    Ok([
        count(
            &[("Ip:", "InReceives"), ("", "Ip6InReceives")],
            &[("IpExt:", "InOctets"), ("", "Ip6InOctets")],
        ),
        count(
            &[("Ip:", "OutTransmits"), ("", "Ip6OutTransmits")],
            &[("IpExt:", "OutOctets"), ("", "Ip6OutOctets")],
        ),
        count(&[("Ip:", "InDelivers"), ("", "Ip6InDelivers")], &[]),
    ])
}

/// A counter of `/proc/net/snmp` (a line of names, a line of values) or `snmp6` (one per line).
fn counter(text: &str, group: &str, name: &str) -> u64 {
    let value = if group.is_empty() {
        text.lines().find_map(|l| l.strip_prefix(name).filter(|r| r.starts_with([' ', '\t'])))
    } else {
        let mut lines = text.lines().filter(|l| l.split(' ').next() == Some(group));
        let column = lines.next().and_then(|l| l.split(' ').position(|n| n == name));
        column.and_then(|c| lines.next().and_then(|l| l.split(' ').nth(c)))
    };
    value.and_then(|v| v.trim().parse().ok()).unwrap_or(0)
}

/// A vserver's counters by name.
pub(crate) fn vserver<'a>(host: &'a HostSnapshot, name: &str) -> &'a VserverSnapshot {
    host.vservers.iter().find(|v| v.name == name).expect("the lab's own vserver")
}

/// How much a counter of a vserver grew.
pub(crate) fn grown(before: &Tally, after: &Tally, name: &str, counter: &str) -> u64 {
    let read = |t: &Tally| vserver(&t.host, name).counters.get(counter).copied().unwrap_or(0);
    read(after) - read(before)
}

/// Which of the two numbers can agree on a way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Exact {
    /// Frames and bytes.
    Both,
    /// Super-segments cross whole: the kernel counts one frame, weft those it stands for.
    Bytes,
    /// The kernel sees weft's frames too, and tells which it took, but not how long those were.
    Frames,
    /// Both troubles at once.
    Neither,
}

/// Compares the two counts of what crossed the first NIC between `before` and `after`.
///
/// `napi`: the NIC polls its receive queue. Then veth counts what it sends without the Ethernet
/// header, because the receiving side does the counting, after it took the header off.
pub(crate) fn compare(
    report: &mut Report,
    before: &Tally,
    after: &Tally,
    carrier: Carrier,
    napi: bool,
) {
    let device = |t: &Tally, frames: &str, bytes: &str| {
        let counters = &t.host.nics[0].counters;
        let get = |name: &str| counters.get(name).copied().unwrap_or(0);
        Count { frames: get(frames), bytes: get(bytes) }
    };
    let grown = |frames, bytes| device(after, frames, bytes).since(device(before, frames, bytes));
    let weft_in = grown("DeviceInFrames", "DeviceInBytes");
    let weft_out = grown("DeviceOutFrames", "DeviceOutBytes");
    let header = if napi { ETHERNET } else { 0 };
    let sent = |t: &Tally| {
        let LinkStats { tx_packets: frames, tx_bytes: bytes, .. } = t.client;
        Count { frames, bytes: bytes + frames * header }
    };
    let received = |t: &Tally| Count { frames: t.client.rx_packets, bytes: t.client.rx_bytes };
    let kernel_in = match carrier {
        Carrier::AfXdp => after.kernel_in.since(before.kernel_in),
        _ => Count { frames: after.kernel_delivered - before.kernel_delivered, bytes: 0 },
    };
    let kernel_out = after.kernel_out.since(before.kernel_out);
    let (exact_in, exact_out) = match carrier {
        Carrier::AfXdp => (Exact::Both, Exact::Both),
        // merged before a packet socket sees them
        Carrier::Packet if napi => (Exact::Neither, Exact::Bytes),
        Carrier::Packet => (Exact::Frames, Exact::Bytes),
        _ => (Exact::Both, Exact::Bytes),
    };
    let client_out = sent(after).since(sent(before));
    let client_in = received(after).since(received(before));
    Way {
        name: "client to NIC",
        exact: exact_in,
        source: client_out,
        sink: weft_in.plus(kernel_in),
        lost: grown("DeviceInDropped", "").frames,
        seen: format!("client {client_out}; weft {weft_in} + kernel {kernel_in}"),
    }
    .check(report);
    Way {
        name: "NIC to client",
        exact: exact_out,
        source: weft_out.plus(kernel_out),
        sink: client_in,
        lost: after.cable_dropped - before.cable_dropped,
        seen: format!("client {client_in}; weft {weft_out} + kernel {kernel_out}"),
    }
    .check(report);
}

/// What went in at one end and came out at the other.
struct Way {
    name: &'static str,
    exact: Exact,
    source: Count,
    sink: Count,
    /// Frames that a full queue between the two counts dropped, and counted.
    lost: u64,
    seen: String,
}

impl Way {
    fn check(self, report: &mut Report) {
        let Way { source, sink, lost, mut seen, .. } = self;
        if self.exact == Exact::Neither {
            return report.condition("counters not compared", self.name);
        }
        let frames = self.exact == Exact::Bytes || source.frames == sink.frames + lost;
        // how long a lost frame was, nobody knows
        let bytes = match (self.exact, lost) {
            (Exact::Frames, _) => true,
            (_, 0) => source.bytes == sink.bytes,
            _ => source.bytes > sink.bytes,
        };
        if lost > 0 {
            let _ = write!(seen, "; {lost} frames dropped by a full queue in between");
        }
        match self.exact {
            Exact::Bytes => seen += "; bytes compared, frames merged",
            Exact::Frames => seen += "; frames compared",
            Exact::Both | Exact::Neither => {}
        }
        report.check(format!("counters agree, {}", self.name), frames && bytes, seen);
    }
}

/// The table of what each vserver counted since it started, and whether the sums add up.
pub(crate) fn table(report: &mut Report, host: &HostSnapshot) {
    for v in &host.vservers {
        let get = |name: &str| v.counters.get(name).copied().unwrap_or(0);
        report.vservers.push(VserverRow {
            name: v.name.clone(),
            rx_frames: v.rx_frames,
            rx_bytes: v.rx_bytes,
            tx_frames: v.tx_frames,
            tx_bytes: v.tx_bytes,
            tcp_in_bytes: get("TcpInOctets"),
            tcp_out_bytes: get("TcpOutOctets"),
            retransmitted: get("TcpRetransSegs"),
            dropped: v.drops.values().sum(),
            drops: v.drops.clone(),
        });
        let fates = ["FrameInDelivered", "FrameInForwarded", "FrameInConsumed", "FrameInDropped"]
            .map(get)
            .iter()
            .sum::<u64>();
        report.check(
            format!("every frame of {} has one fate", v.name),
            fates == v.rx_frames,
            format!("{} received, {fates} accounted for", v.rx_frames),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::counter;

    #[test]
    fn counters_are_found_in_both_formats() {
        let text = "Ip: Forwarding InReceives\nIp: 1 42\nIpExt: InOctets\nIpExt: 7\n\
                    Ip6InReceives                   \t9\nIp6InReceivesX \t1\n";
        assert_eq!(counter(text, "Ip:", "InReceives"), 42);
        assert_eq!(counter(text, "IpExt:", "InOctets"), 7);
        assert_eq!(counter(text, "", "Ip6InReceives"), 9);
        assert_eq!(counter(text, "Ip:", "Absent"), 0);
    }
}
