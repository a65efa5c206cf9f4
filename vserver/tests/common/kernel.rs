//! The kernel as the peer of a host: at the other end of a cable, or beside the host, whose TUN or
//! TAP interface joins them.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;

use weft_drivers::ethtool::{Offload, set_offload};
use weft_drivers::netlink::{Netlink, VethEnd};
use weft_drivers::netns::Netns;
use weft_vserver::{Host, Vserver};

use super::{config, until};

/// What the kernel has in most tests; `v` of [`v_on`] is in the same networks.
pub const KERNEL_AT: [&str; 2] = ["10.9.0.1/24", "fd09::1/64"];

/// A vserver `v` at 10.9.0.2 and fd09::2 on the interface `w0`; `nic` are keys of `[nic.eth0]`.
pub fn v_on(nic: &str) -> String {
    format!(
        "[nic.eth0]\ndevice = \"w0\"\n{nic}\n[alias.data0]\nover = \"eth0\"\n\
         [vserver.v]\naddresses = [\"data0 10.9.0.2/24\", \"data0 fd09::2/64\"]\n"
    )
}

/// A namespace; says that the test is skipped if there is none to be had.
pub fn namespace() -> Option<Netns> {
    let made = Netns::new();
    if made.is_err() {
        println!("SKIP: network namespaces need root");
    }
    made.ok()
}

/// A datagram of the kernel's. A child of another test that ends may interrupt a wait with a timeout.
pub fn heard(socket: &UdpSocket, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    loop {
        match socket.recv_from(buf) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// A cable of so many queues from `k0` of the kernel's, which has the addresses, to `far` of weft's.
pub fn cable(kernel: &Netns, weft: &Netns, far: &str, queues: usize, addresses: &[&str]) {
    let plug = || {
        let near = VethEnd { name: "k0", netns: None, mac: None };
        let end = VethEnd { name: far, netns: Some(weft.as_fd()), mac: None };
        Netlink::open().unwrap().add_veth(&near, &end, queues, 1500).unwrap();
        // A veth never completes the checksums that the kernel leaves to it.
        set_offload("k0", Offload::TxChecksum, false).unwrap();
        set_up("k0", addresses);
    };
    kernel.enter(plug).unwrap();
    weft.enter(|| set_up(far, &[])).unwrap();
}

fn set_up(name: &str, addresses: &[&str]) {
    let mut netlink = Netlink::open().unwrap();
    netlink.set_up(name, true).unwrap();
    for address in addresses {
        let (ip, len) = address.split_once('/').unwrap();
        netlink.add_address(name, ip.parse().unwrap(), len.parse().unwrap()).unwrap();
    }
}

pub struct Kernel {
    pub netns: Netns,
    /// The host's namespace.
    pub weft: Netns,
    /// What the kernel gives itself on the interface that the host makes.
    beside: Option<Vec<String>>,
}

impl Kernel {
    /// Cabled from its `k0` to `w0` of the host's.
    pub fn behind_cable(queues: usize, addresses: &[&str]) -> Option<Kernel> {
        let kernel = Kernel { netns: namespace()?, weft: namespace()?, beside: None };
        cable(&kernel.netns, &kernel.weft, "w0", queues, addresses);
        Some(kernel)
    }

    /// In the namespace of the host, which makes `w0`.
    pub fn beside(addresses: &[&str]) -> Option<Kernel> {
        let netns = namespace()?;
        let addresses = addresses.iter().map(|a| (*a).to_owned()).collect();
        Some(Kernel { weft: netns.clone(), netns, beside: Some(addresses) })
    }

    /// Where a driver finds it, at [`KERNEL_AT`].
    pub fn of_driver(driver: &str, queues: usize) -> Option<Kernel> {
        match driver {
            "tun" | "tap" => Kernel::beside(&KERNEL_AT),
            _ => Kernel::behind_cable(queues, &KERNEL_AT),
        }
    }

    /// A host in its namespace; says that the test is skipped if the driver is not to be had.
    pub fn start(&self, text: &str) -> Option<Host> {
        let started = self.weft.enter(|| Host::start(config(text))).unwrap();
        let host = started.map_err(|e| println!("SKIP: {e}")).ok()?;
        if let Some(addresses) = &self.beside {
            let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
            self.netns.enter(|| set_up("w0", &addresses)).unwrap();
        }
        Some(host)
    }

    /// Waits until both have looked for duplicates of their IPv6 addresses.
    pub fn until_ready(&self, v: &Vserver) {
        until("IPv6 address", || v.addresses().contains(&"fd09::2".parse().unwrap()));
        // It drops what comes in its first moments.
        until("IPv6 of the kernel", || self.ping(&["-c", "1", "-W", "5", "fd09::2"]));
    }

    /// Whether `ping` with these arguments succeeds.
    pub fn ping(&self, args: &[&str]) -> bool {
        let output = self.netns.enter(|| Command::new("ping").args(args).output()).unwrap();
        output.is_ok_and(|o| o.status.success())
    }
}
