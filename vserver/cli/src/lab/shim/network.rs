//! The network of the shim's scenes: two hosts, two providers that have nothing to do with each other.
//! A provider gives each host addresses of its own, and has a router at each end.
//!
//! ```text
//!          nic0 --- access0 router core0 --- core0 router access0 --- nic0
//!   left                          provider 1                             right
//!          nic1 --- access0 router core0 --- core0 router access0 --- nic1
//!                                 provider 2
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use weft_drivers::device::DeviceError;
use weft_drivers::ethtool::{self, Offload};
use weft_drivers::netlink::VethEnd;

use super::super::topology::{Machine, nic};

/// Hosts, and ends of providers: left, right.
pub(super) const SIDES: [usize; 2] = [0, 1];
/// Providers 1 and 2.
pub(super) const PROVIDERS: [usize; 2] = [0, 1];
/// Prefix lengths of everything here.
pub(super) const PREFIXES: [u8; 2] = [64, 24];

/// A router's interface towards the host.
const ACCESS: &str = "access0";
/// And towards the other router.
const CORE: &str = "core0";
/// Number of hosts and routers in the networks between them; those of the core have their side's.
const HOST: u8 = 16;
const ROUTER: u8 = 1;
/// The core's network, beside those of the sides.
const CORE_NET: usize = 2;

/// How a path fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The provider carries nothing that comes from these sides, and tells nobody.
    Dark { from: [bool; 2] },
    /// The cable between a host and the provider is pulled.
    Link { side: usize },
}

/// Number `n` in network `net` of a provider, IPv6 and IPv4.
fn numbered(provider: usize, net: usize, n: u8) -> [IpAddr; 2] {
    let (p, s) = (provider as u8 + 1, net as u8 + 1);
    [
        IpAddr::V6(Ipv6Addr::new(0xfd78, p.into(), s.into(), 0, 0, 0, 0, n.into())),
        IpAddr::V4(Ipv4Addr::new(10, 78 + p, s, n)),
    ]
}

/// The addresses that a provider gives a host.
pub(super) fn locators(provider: usize, side: usize) -> [IpAddr; 2] {
    numbered(provider, side, HOST)
}

/// The host's gateways to a provider.
pub(super) fn gateways(provider: usize, side: usize) -> [IpAddr; 2] {
    numbered(provider, side, ROUTER)
}

fn core(provider: usize, side: usize) -> [IpAddr; 2] {
    numbered(provider, CORE_NET, side as u8 + 1)
}

/// MAC address of a router in the core, and one that nobody has.
fn core_mac(provider: usize, side: usize, anybody: bool) -> [u8; 6] {
    [2, 0x78, if anybody { 0 } else { 0xff }, 0, provider as u8, side as u8]
}

/// Hosts without addresses, and providers that work.
#[derive(Debug)]
pub(super) struct Network {
    /// Left, right.
    pub(super) hosts: [Machine; 2],
    /// By provider and side.
    routers: [[Machine; 2]; 2],
}

impl Network {
    pub(super) fn new() -> Result<Network, DeviceError> {
        let network = Network {
            hosts: [Machine::new("left")?, Machine::new("right")?],
            routers: [
                [Machine::new("router-1-left")?, Machine::new("router-1-right")?],
                [Machine::new("router-2-left")?, Machine::new("router-2-right")?],
            ],
        };
        for provider in PROVIDERS {
            network.join_routers(provider)?;
            for side in SIDES {
                network.join_host(provider, side)?;
                network.teach(provider, side)?;
            }
        }
        Ok(network)
    }

    fn join_routers(&self, provider: usize) -> Result<(), DeviceError> {
        let [left, right] = &self.routers[provider];
        let end =
            |side, netns| VethEnd { name: CORE, netns, mac: Some(core_mac(provider, side, true)) };
        let (near, far) = (end(0, None), end(1, Some(right.netns.as_fd())));
        left.netlink(|netlink| {
            netlink.add_veth(&near, &far, 1, 1500)?;
            netlink.set_up(CORE, true)
        })?;
        right.netlink(|netlink| netlink.set_up(CORE, true))
    }

    fn join_host(&self, provider: usize, side: usize) -> Result<(), DeviceError> {
        let (host, router) = (&self.hosts[side], &self.routers[provider][side]);
        let far = VethEnd { name: ACCESS, netns: Some(router.netns.as_fd()), mac: None };
        let near = VethEnd { name: nic(provider), netns: None, mac: None };
        host.netlink(|netlink| {
            netlink.add_veth(&near, &far, 1, 1500)?;
            netlink.set_up(nic(provider), true)
        })?;
        host.netns.enter(|| whole_frames(nic(provider)))?
    }

    /// Makes a router forward between its host and the core.
    fn teach(&self, provider: usize, side: usize) -> Result<(), DeviceError> {
        let router = &self.routers[provider][side];
        for (key, value) in [
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv4/ip_forward", "1"),
            // A cable that is pulled costs no address.
            ("net/ipv6/conf/all/keep_addr_on_down", "1"),
        ] {
            router.netns.set_sysctl(key, value)?;
        }
        for name in [ACCESS, CORE] {
            router.netns.enter(|| whole_frames(name))??;
        }
        let other = 1 - side;
        router.netlink(|netlink| {
            let access = gateways(provider, side).into_iter().zip(PREFIXES);
            for ((own, prefix), at_core) in access.zip(core(provider, side)) {
                netlink.add_address(ACCESS, own, prefix)?;
                netlink.add_address(CORE, at_core, prefix)?;
            }
            netlink.set_up(ACCESS, true)
        })?;
        self.forward(provider, side, true)?;
        router.netlink(|netlink| {
            let beyond = numbered(provider, other, 0).into_iter().zip(PREFIXES);
            for ((to, prefix), via) in beyond.zip(core(provider, other)) {
                netlink.add_route(to, prefix, Some(via), Some(CORE))?;
            }
            Ok(())
        })
    }

    /// Whether a provider carries what comes from a side. If not, its router sends to a MAC address that
    /// nobody has: no carrier is lost, and nobody says anything.
    fn forward(&self, provider: usize, side: usize, works: bool) -> Result<(), DeviceError> {
        let other = 1 - side;
        let mac = core_mac(provider, other, works);
        self.routers[provider][side].netlink(|netlink| {
            let next = core(provider, other);
            next.into_iter().try_for_each(|next| netlink.add_neighbour(CORE, next, mac))
        })
    }

    /// Breaks a provider.
    pub(super) fn fail(&self, fault: Fault, provider: usize) -> Result<(), DeviceError> {
        self.set(fault, provider, false)
    }

    /// Undoes [`Network::fail`].
    pub(super) fn mend(&self, fault: Fault, provider: usize) -> Result<(), DeviceError> {
        self.set(fault, provider, true)
    }

    fn set(&self, fault: Fault, provider: usize, works: bool) -> Result<(), DeviceError> {
        match fault {
            Fault::Dark { from } => SIDES
                .into_iter()
                .filter(|side| from[*side])
                .try_for_each(|side| self.forward(provider, side, works)),
            Fault::Link { side } => {
                self.routers[provider][side].netlink(|netlink| netlink.set_up(ACCESS, works))
            }
        }
    }
}

/// No frame leaves longer than the MTU or with a checksum to be filled in.
fn whole_frames(interface: &str) -> Result<(), DeviceError> {
    for offload in [Offload::TxChecksum, Offload::Tso, Offload::Gso] {
        ethtool::set_offload(interface, offload, false)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_network_is_another_and_the_two_ends_of_the_core_are_in_one() {
        let mut seen = Vec::new();
        for provider in PROVIDERS {
            for net in [0, 1, CORE_NET] {
                for (addr, prefix) in numbered(provider, net, HOST).into_iter().zip(PREFIXES) {
                    let cidr = weft_stack::ip::address::Cidr::new(addr, prefix).expect("a network");
                    assert!(!seen.contains(&cidr.network()), "{cidr:?} twice");
                    seen.push(cidr.network());
                }
            }
            assert_ne!(core(provider, 0), core(provider, 1));
            assert_ne!(core_mac(provider, 0, true), core_mac(provider, 1, true));
            assert_ne!(core_mac(provider, 0, true), core_mac(provider, 0, false));
        }
        assert_eq!(locators(0, 0)[0].to_string(), "fd78:1:1::10");
        assert_eq!(locators(1, 1)[1].to_string(), "10.80.2.16");
    }
}
