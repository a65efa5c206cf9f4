//! Link state and MTU as the kernel tells them, for the worker's loop.

use std::os::fd::BorrowedFd;

use weft_drivers::device::{DeviceError, Link};
use weft_drivers::nic::{LinkChange, LinkMonitor, Nic, NicFacts};

/// Watches the kernel's interfaces below a host's NICs.
#[derive(Debug)]
pub(crate) struct Links {
    monitor: LinkMonitor,
    /// NIC number, interface index and name.
    watched: Vec<(usize, u32, String)>,
    /// Names of interfaces that were removed, until they are told.
    gone: Vec<String>,
}

fn link_of(facts: &NicFacts) -> Link {
    Link { up: facts.up, mtu: facts.mtu, mac: facts.mac }
}

impl Links {
    /// `names`: the kernel interface of each NIC that has one.
    /// Also returns the links as they are now: they may have changed since the devices were opened.
    pub(crate) fn open(
        names: Vec<(usize, String)>,
    ) -> Result<(Links, Vec<(usize, Link)>), DeviceError> {
        let monitor = LinkMonitor::open()?;
        let (mut watched, mut now) = (Vec::new(), Vec::new());
        for (nic, name) in names {
            let facts = Nic::query(&name)?;
            now.push((nic, link_of(&facts)));
            watched.push((nic, facts.index, name));
        }
        Ok((Links { monitor, watched, gone: Vec::new() }, now))
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.monitor.fd()
    }

    /// What changed since the last call: NIC number and its link.
    pub(crate) fn changes(&mut self) -> Vec<(usize, Link)> {
        let mut out = Vec::new();
        // To the end: wake-ups come by edges, so none would come for what is left.
        // After an error the next message comes with a fresh one.
        while let Ok(Some(changes)) = self.monitor.poll() {
            for change in changes {
                self.apply(&change, &mut out);
            }
        }
        out
    }

    /// Interfaces removed since the last call. One made later under the same name is another one: the
    /// devices open here do not come back with it.
    pub(crate) fn take_gone(&mut self) -> Vec<String> {
        std::mem::take(&mut self.gone)
    }

    fn apply(&mut self, change: &LinkChange, out: &mut Vec<(usize, Link)>) {
        let watched = &self.watched;
        let of = |index: u32| watched.iter().filter(move |w| w.1 == index);
        match change {
            LinkChange::Changed(facts) => {
                out.extend(of(facts.index).map(|w| (w.0, Link::from(facts))));
            }
            LinkChange::Gone(index) => {
                out.extend(of(*index).map(|w| (w.0, Link { up: false, mtu: 0, mac: None })));
                self.gone.extend(of(*index).map(|w| w.2.clone()));
            }
            LinkChange::Overrun => {
                for (nic, _, name) in &self.watched {
                    if let Ok(f) = Nic::query(name) {
                        out.push((*nic, link_of(&f)));
                    }
                }
            }
        }
    }
}
