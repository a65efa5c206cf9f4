//! How often the host touched the bytes it moved.

use std::collections::BTreeMap;
use std::fmt;

use super::HostSnapshot;

/// Bytes copied for each byte moved, over the whole host and since it started.
///
/// What the kernel copies behind a system call or in a copy-mode ring does not count: it is not
/// ours to save. Nor does TCP's verification of received checksums: it reads each byte once and
/// copies none, because until the application reads nobody knows whether it wants a copy at all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CopiedPerByte {
    /// By TCP and UDP, for each payload byte that applications received.
    pub received: f64,
    /// By TCP and UDP, for each payload byte that peers acknowledged, or that was sent by UDP.
    pub sent: f64,
    /// By drivers, for each byte of received frames.
    pub device_received: f64,
    /// By drivers, for each byte of sent frames: cutting super-segments, and completing checksums
    /// on the way.
    pub device_sent: f64,
}

impl fmt::Display for CopiedPerByte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CopiedPerByte { received, sent, device_received, device_sent } = self;
        write!(
            f,
            "copied per byte: {received:.3} received, {sent:.3} sent; \
             by devices {device_received:.3} received, {device_sent:.3} sent"
        )
    }
}

/// Sums the counters of a snapshot.
pub fn copied_per_byte(s: &HostSnapshot) -> CopiedPerByte {
    let sum = |all: &[&BTreeMap<String, u64>], names: &[&str]| -> f64 {
        let each = all.iter().flat_map(|c| names.iter().filter_map(|n| c.get(*n)));
        each.sum::<u64>() as f64
    };
    let ratio = |copied: f64, moved: f64| if moved > 0.0 { copied / moved } else { 0.0 };
    let vservers: Vec<_> = s.vservers.iter().map(|v| &v.counters).collect();
    let nics: Vec<_> = s.nics.iter().map(|n| &n.counters).collect();
    CopiedPerByte {
        received: ratio(
            sum(&vservers, &["TcpExtRcvCopiedOctets", "UdpInCopiedOctets"]),
            sum(&vservers, &["TcpInOctets", "UdpInOctets"]),
        ),
        sent: ratio(
            sum(&vservers, &["TcpExtSndCopiedOctets", "UdpOutCopiedOctets"]),
            sum(&vservers, &["TcpOutOctets", "UdpOutOctets"]),
        ),
        device_received: ratio(
            sum(&nics, &["DeviceInCopiedBytes"]),
            sum(&nics, &["DeviceInBytes"]),
        ),
        device_sent: ratio(sum(&nics, &["DeviceOutCopiedBytes"]), sum(&nics, &["DeviceOutBytes"])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{NicSnapshot, VserverSnapshot};

    #[test]
    fn ratios_are_of_sums_and_nothing_moved_is_nothing_copied() {
        let counters =
            |all: &[(&str, u64)]| all.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect();
        let v = |copied, read| VserverSnapshot {
            counters: counters(&[("TcpExtRcvCopiedOctets", copied), ("TcpInOctets", read)]),
            ..Default::default()
        };
        let nic = NicSnapshot {
            counters: counters(&[
                ("DeviceOutCopiedBytes", 15),
                ("DeviceInBytes", 50),
                ("DeviceOutBytes", 50),
            ]),
            ..Default::default()
        };
        let s = HostSnapshot {
            vservers: vec![v(0, 300), v(75, 0)],
            nics: vec![nic],
            ..Default::default()
        };
        let text =
            "copied per byte: 0.250 received, 0.000 sent; by devices 0.000 received, 0.300 sent";
        assert_eq!(copied_per_byte(&s).to_string(), text);
    }
}
