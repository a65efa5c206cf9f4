//! Link state and MTU as the kernel tells them, for the worker's loop.

use std::os::fd::{AsRawFd, RawFd};

use weft_drivers::device::{DeviceError, Link};
use weft_drivers::nic::{LinkChange, LinkMonitor, Nic};

/// Datagrams read per wake-up.
const READS: usize = 64;

/// Watches the kernel's interfaces below a host's NICs.
pub(crate) struct Links {
    monitor: LinkMonitor,
    /// NIC number, interface index and name.
    watched: Vec<(usize, u32, String)>,
}

impl Links {
    /// `names`: the kernel interface of each NIC that has one.
    pub(crate) fn open(names: Vec<(usize, String)>) -> Result<Links, DeviceError> {
        let monitor = LinkMonitor::open()?;
        let index =
            |(nic, name): (usize, String)| Nic::query(&name).map(|facts| (nic, facts.index, name));
        let watched = names.into_iter().map(index).collect::<Result<_, _>>()?;
        Ok(Links { monitor, watched })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.monitor.fd().as_raw_fd()
    }

    /// What changed since the last call: NIC number and its link.
    pub(crate) fn changes(&mut self) -> Vec<(usize, Link)> {
        let mut out = Vec::new();
        for _ in 0..READS {
            let changes = match self.monitor.poll() {
                Ok(changes) if changes.is_empty() => break,
                Ok(changes) => changes,
                // The next message comes with a fresh wake-up.
                Err(_) => break,
            };
            for change in changes {
                self.apply(&change, &mut out);
            }
        }
        out
    }

    fn apply(&self, change: &LinkChange, out: &mut Vec<(usize, Link)>) {
        let of = |index: u32| self.watched.iter().filter(move |w| w.1 == index);
        match change {
            LinkChange::Changed(facts) => {
                out.extend(of(facts.index).map(|w| (w.0, Link::from(facts))));
            }
            LinkChange::Gone(index) => {
                out.extend(of(*index).map(|w| (w.0, Link { up: false, mtu: 0, mac: None })));
            }
            LinkChange::Overrun => {
                for (nic, _, name) in &self.watched {
                    if let Ok(f) = Nic::query(name) {
                        out.push((*nic, Link { up: f.up, mtu: f.mtu, mac: f.mac }));
                    }
                }
            }
        }
    }
}
