//! Where a run happens: new namespaces and devices for each, so that no TIME-WAIT, no neighbour
//! entry and no metric of an earlier run is left. They have no names: they vanish with the last
//! process inside, whatever ends it.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;

use serde::{Deserialize, Serialize};
use weft_cli::lab::relay::Wire;
use weft_drivers::device::{DeviceError, Medium};
use weft_drivers::ethtool::{self, Offload};
use weft_drivers::netlink::{Netlink, VethEnd};
use weft_drivers::netns::Netns;
use weft_drivers::tuntap;

use crate::spec::Carrier;
use crate::wan;

/// The interface of each side.
pub(crate) const DEVICE: &str = "net0";
/// The server's address.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The client's address.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const PREFIX: u8 = 16;
pub(crate) const SERVER_MAC: [u8; 6] = [2, 0x77, 0, 0, 0, 1];
pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0x77, 0, 0, 0, 2];
/// The one that is fair to all: BBR, the default of some kernels, loses a third over veth.
pub(crate) const CONGESTION: &str = "cubic";

/// The devices of a cell.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Wiring {
    pub(crate) carrier: Carrier,
    /// L3 MTU.
    pub(crate) mtu: usize,
    /// Queues of a veth end.
    pub(crate) queues: usize,
    /// TSO, GSO and GRO off on the kernel's ends, so that both stacks pay per packet.
    pub(crate) offloads_off: bool,
    /// Receive work of both ends in kernel threads of their own, if one end is AF_XDP.
    pub(crate) threaded_napi: bool,
}

/// One side's part.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) netns: Netns,
    /// The kernel of the namespace is the stack.
    pub(crate) in_kernel: bool,
    pub(crate) address: Ipv4Addr,
}

/// Both.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) server: End,
    pub(crate) client: End,
    /// What the kernel's side uses.
    pub(crate) congestion: String,
    /// Of a long path.
    wire: Option<Wire>,
}

impl Place {
    /// Makes namespaces and devices; `in_kernel` says it of server and client.
    pub(crate) fn make(wiring: &Wiring, in_kernel: [bool; 2]) -> Result<Place, DeviceError> {
        let first = Netns::new()?;
        let second = match wiring.carrier {
            Carrier::Veth | Carrier::Wan => Netns::new()?,
            Carrier::Tun | Carrier::Tap | Carrier::Mem => first.clone(),
        };
        let end =
            |netns: &Netns, in_kernel, address| End { netns: netns.clone(), in_kernel, address };
        let mut place = Place {
            server: end(&first, in_kernel[0], SERVER),
            client: end(&second, in_kernel[1], CLIENT),
            congestion: String::new(),
            wire: None,
        };
        place.settle()?;
        match wiring.carrier {
            Carrier::Veth => place.cable(wiring)?,
            Carrier::Tun => place.tunnel(wiring, Medium::Ip)?,
            Carrier::Tap => place.tunnel(wiring, Medium::Ethernet)?,
            Carrier::Wan => place.path(wiring)?,
            Carrier::Mem => {}
        }
        Ok(place)
    }

    fn ends(&self) -> [&End; 2] {
        [&self.server, &self.client]
    }

    fn settle(&mut self) -> Result<(), DeviceError> {
        for end in self.ends() {
            end.set("net/ipv6/conf/default/disable_ipv6", "1")?;
            end.set("net/ipv4/ip_local_port_range", "1024 65535")?;
            end.set("net/core/somaxconn", "65535")?;
            end.set("net/ipv4/tcp_max_syn_backlog", "65535")?;
            // refused where the machine's administrator allows only the default: then that is said
            let _ = end.netns.set_sysctl("net/ipv4/tcp_congestion_control", CONGESTION);
            end.netlink(|n| n.set_up("lo", true))?;
        }
        self.congestion = self.client.netns.sysctl("net/ipv4/tcp_congestion_control")?;
        Ok(())
    }

    /// A veth pair, each end with its neighbour known.
    fn cable(&self, wiring: &Wiring) -> Result<(), DeviceError> {
        let far =
            VethEnd { name: DEVICE, netns: Some(self.client.netns.as_fd()), mac: Some(CLIENT_MAC) };
        let near = VethEnd { name: DEVICE, netns: None, mac: Some(SERVER_MAC) };
        self.server.netlink(|n| n.add_veth(&near, &far, wiring.queues, wiring.mtu))?;
        let all_kernel = self.ends().iter().all(|e| e.in_kernel);
        let threaded = wiring.threaded_napi && !all_kernel;
        for (end, other) in [(&self.server, &self.client), (&self.client, &self.server)] {
            if end.in_kernel {
                end.offloads(wiring, !all_kernel)?;
                end.number()?;
            } else if threaded {
                end.no_tso()?;
            }
            end.netlink(|n| n.set_up(DEVICE, true))?;
            // there is nothing to put in a thread before the device is up
            if threaded {
                end.thread_napi()?;
            }
            if end.in_kernel {
                let mac = if other.address == SERVER { SERVER_MAC } else { CLIENT_MAC };
                let to = IpAddr::V4(other.address);
                end.netlink(|n| n.add_neighbour(DEVICE, to, mac))?;
            }
        }
        Ok(())
    }

    /// A TAP on each side of a long path.
    fn path(&mut self, wiring: &Wiring) -> Result<(), DeviceError> {
        let ends = self.ends().map(|end| &end.netns);
        let wire = wan::between(ends, DEVICE, wiring.mtu)?;
        self.wire = Some(wire);
        for end in self.ends() {
            if end.in_kernel {
                end.number()?;
            }
        }
        Ok(())
    }

    /// One interface; the kernel owns one end of it, the other is a descriptor.
    fn tunnel(&self, wiring: &Wiring, medium: Medium) -> Result<(), DeviceError> {
        let kernel = if self.server.in_kernel { &self.server } else { &self.client };
        kernel.netns.enter(|| tuntap::make_persistent(DEVICE, medium))??;
        kernel.netlink(|n| n.set_mtu(DEVICE, wiring.mtu))?;
        if wiring.offloads_off {
            kernel.offloads(wiring, false)?;
        }
        kernel.number()?;
        kernel.netlink(|n| n.set_up(DEVICE, true))
    }
}

impl End {
    fn netlink<T: Send>(
        &self,
        f: impl FnOnce(&mut Netlink) -> Result<T, DeviceError> + Send,
    ) -> Result<T, DeviceError> {
        self.netns.enter(|| f(&mut Netlink::open()?))?
    }

    fn set(&self, key: &str, value: &str) -> Result<(), DeviceError> {
        self.netns.set_sysctl(key, value)
    }

    fn number(&self) -> Result<(), DeviceError> {
        self.netlink(|n| n.add_address(DEVICE, IpAddr::V4(self.address), PREFIX))
    }

    /// `whole_frames`: the far end is AF_XDP, which knows nothing of unfinished checksums.
    fn offloads(&self, wiring: &Wiring, whole_frames: bool) -> Result<(), DeviceError> {
        let mut off = Vec::new();
        if wiring.offloads_off || whole_frames {
            off.extend([Offload::Tso, Offload::Gso]);
        }
        if whole_frames {
            off.push(Offload::TxChecksum);
        }
        if wiring.offloads_off {
            off.push(Offload::Gro);
        }
        self.netns
            .enter(|| off.into_iter().try_for_each(|o| ethtool::set_offload(DEVICE, o, false)))?
    }

    /// veth leaves the NAPI of a peer alone when its own end could have sent it a super-segment.
    fn no_tso(&self) -> Result<(), DeviceError> {
        self.netns.enter(|| ethtool::set_offload(DEVICE, Offload::Tso, false))?
    }

    /// A veth end without an XDP program has a NAPI only while GRO is on, as it is on any NIC.
    fn thread_napi(&self) -> Result<(), DeviceError> {
        self.netns.enter_with_sysfs(|| {
            ethtool::set_offload(DEVICE, Offload::Gro, true)?;
            ethtool::set_threaded_napi(DEVICE, true)
        })?
    }
}
