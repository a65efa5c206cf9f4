//! The network of the failover scenario: two switches (kernel bridges) in one namespace, and machines
//! with a cable to each of them.
//!
//! ```text
//!   weft nic0 --- port0  sw0 ---+--- port2 --- wan0 client
//!                                |
//!   weft nic1 --- port1  sw1 ---+--- port3 --- nic0 peer (a second weft host)
//! ```

use std::os::fd::AsFd;

use weft_drivers::ethtool::{self, Offload};
use weft_drivers::netlink::VethEnd;

use super::super::LabError;
use super::super::topology::Machine;

/// Switches, by number.
const SWITCHES: [&str; 2] = ["sw0", "sw1"];
/// Ports of the switches that the cables of the machine under test end in.
const PORTS: [&str; 2] = ["port0", "port1"];

/// How a path dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The cable is pulled: carrier is lost at once.
    Link,
    /// The switch forwards nothing from or to its port, and the carrier stays.
    Silent,
}

/// Two switches with nothing on them.
#[derive(Debug)]
pub(super) struct Network {
    switch: Machine,
}

impl Network {
    /// `joined`: by a cable between them; otherwise they are two networks.
    pub(super) fn new(joined: bool) -> Result<Network, LabError> {
        let network = Network { switch: Machine::new("switch")? };
        // A switch that speaks by itself would be heard as a host.
        network.switch.netns.set_sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        for name in SWITCHES {
            network.ip(&["link", "add", name, "type", "bridge", "stp_state", "0"])?;
            network.ip(&["link", "set", name, "up"])?;
        }
        if joined {
            network.ip(&["link", "add", "trunk0", "type", "veth", "peer", "trunk1"])?;
            for (trunk, switch) in ["trunk0", "trunk1"].into_iter().zip(SWITCHES) {
                network.ip(&["link", "set", trunk, "master", switch, "up"])?;
            }
        }
        Ok(network)
    }

    fn ip(&self, args: &[&str]) -> Result<(), LabError> {
        self.switch.ip(args)
    }

    /// A cable from an interface of a machine, which is made, to a port of a switch.
    pub(super) fn cable(
        &self,
        machine: &Machine,
        interface: &str,
        port: &str,
        switch: usize,
    ) -> Result<(), LabError> {
        let far = VethEnd { name: port, netns: Some(self.switch.netns.as_fd()), mac: None };
        let near = VethEnd { name: interface, netns: None, mac: None };
        machine.netlink(|netlink| netlink.add_veth(&near, &far, 1, 1500))?;
        machine.netns.enter(|| {
            for offload in [Offload::TxChecksum, Offload::Tso, Offload::Gso] {
                ethtool::set_offload(interface, offload, false)?;
            }
            Ok::<(), weft_drivers::device::DeviceError>(())
        })??;
        machine.netlink(|netlink| netlink.set_up(interface, true))?;
        self.ip(&["link", "set", port, "master", SWITCHES[switch], "up"])
    }

    /// Both cables of the machine under test.
    pub(super) fn cables(&self, machine: &Machine) -> Result<(), LabError> {
        for (at, port) in PORTS.into_iter().enumerate() {
            self.cable(machine, super::super::topology::nic(at), port, at)?;
        }
        Ok(())
    }

    /// Breaks a cable of the machine under test.
    pub(super) fn fail(&self, fault: Fault, cable: usize) -> Result<(), LabError> {
        match fault {
            Fault::Link => {
                Ok(self.switch.netlink(|netlink| netlink.set_up(PORTS[cable], false))?)
            }
            Fault::Silent => {
                Ok(self.switch.netlink(|netlink| netlink.set_master(PORTS[cable], None))?)
            }
        }
    }

    /// Undoes [`Network::fail`].
    pub(super) fn mend(&self, fault: Fault, cable: usize) -> Result<(), LabError> {
        match fault {
            Fault::Link => Ok(self.switch.netlink(|netlink| netlink.set_up(PORTS[cable], true))?),
            Fault::Silent => Ok(self
                .switch
                .netlink(|netlink| netlink.set_master(PORTS[cable], Some(SWITCHES[cable])))?),
        }
    }
}
