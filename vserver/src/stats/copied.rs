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
    /// By TCP, for each payload byte that applications received.
    pub received: f64,
    /// By TCP, for each payload byte that peers acknowledged.
    pub sent: f64,
    /// By drivers, for each byte of frames in either direction: cutting super-segments, and
    /// completing checksums on the way.
    pub devices: f64,
}

impl fmt::Display for CopiedPerByte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CopiedPerByte { received, sent, devices } = self;
        write!(
            f,
            "copied per byte: {received:.3} received, {sent:.3} sent, {devices:.3} by devices"
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
            sum(&vservers, &["TcpExtRcvCopiedOctets"]),
            sum(&vservers, &["TcpInOctets"]),
        ),
        sent: ratio(sum(&vservers, &["TcpExtSndCopiedOctets"]), sum(&vservers, &["TcpOutOctets"])),
        devices: ratio(
            sum(&nics, &["DeviceCopiedBytes"]),
            sum(&nics, &["DeviceInBytes", "DeviceOutBytes"]),
        ),
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
                ("DeviceCopiedBytes", 30),
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
        let text = "copied per byte: 0.250 received, 0.000 sent, 0.300 by devices";
        assert_eq!(copied_per_byte(&s).to_string(), text);
    }
}
