//! The lab's machines: network namespaces joined by veth pairs. They have no names and vanish with
//! this process.
//!
//! ```text
//!   weft (kernel .1, vservers .11-.13)        client .2
//!     nic0 ------------------------------------ wan0 --+-- gateway A .253 (192.0.2.1)
//!                                                      +-- gateway B .254 (192.0.2.1)
//!     nic1 ------------------------------------ wan0 of client 2, .2
//! ```

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use weft_drivers::device::DeviceError;
use weft_drivers::ethtool::{self, Offload};
use weft_drivers::netlink::{LinkStats, Netlink, VethEnd};
use weft_drivers::netns::Netns;

use super::LabError;

/// Prefix lengths of the shared network.
pub const PREFIX4: u8 = 16;
/// As [`PREFIX4`], for IPv6.
pub const PREFIX6: u8 = 64;
/// Where the namespaces answer with their name, over TCP.
pub const BANNER_PORT: u16 = 7777;
/// The address that both gateways have.
pub const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Host number `n` of the lab's IPv4 network.
pub fn v4(n: u16) -> Ipv4Addr {
    let [high, low] = n.to_be_bytes();
    Ipv4Addr::new(10, 77, high, low)
}

/// Host number `n` of the lab's IPv6 network.
pub fn v6(n: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, n)
}

/// Host number of the machine's own (kernel) address on the shared NIC.
pub const KERNEL: u16 = 1;
/// Host number of the clients.
pub const CLIENT: u16 = 2;
/// Host number of gateway A.
pub const GATEWAY_A: u16 = 253;
/// Host number of gateway B.
pub const GATEWAY_B: u16 = 254;

/// A machine of the lab.
#[derive(Clone, Debug)]
pub struct Machine {
    /// `weft`, `client`, `gateway-a`.
    pub name: &'static str,
    /// Its namespace.
    pub netns: Netns,
}

impl Machine {
    /// A machine with nothing but its loopback, quiet: it sends no router
    /// solicitations, looks for no duplicate addresses, and repeats its group reports at once.
    pub fn new(name: &'static str) -> Result<Machine, DeviceError> {
        let machine = Machine { name, netns: Netns::new()? };
        machine.netlink(|n| n.set_up("lo", true))?;
        machine.netns.set_sysctl("net/ipv6/conf/default/router_solicitations", "0")?;
        machine.netns.set_sysctl("net/ipv6/conf/default/accept_dad", "0")?;
        for key in [
            "net/ipv4/conf/default/igmpv3_unsolicited_report_interval",
            "net/ipv6/conf/default/mldv2_unsolicited_report_interval",
        ] {
            machine.netns.set_sysctl(key, "1")?;
        }
        machine.netns.set_sysctl("net/ipv4/ping_group_range", "0 0")?;
        Ok(machine)
    }

    /// Asks the machine's kernel something.
    pub fn netlink<T: Send>(
        &self,
        f: impl FnOnce(&mut Netlink) -> Result<T, DeviceError> + Send,
    ) -> Result<T, DeviceError> {
        self.netns.enter(|| f(&mut Netlink::open()?))?
    }

    /// Gives an interface both addresses of host number `n` and sets it up.
    pub fn number(&self, interface: &str, n: u16) -> Result<(), DeviceError> {
        // The count of frames must agree to the last one, so the kernel may not ask anew for
        // neighbours it knows while the lab counts.
        for family in ["ipv4", "ipv6"] {
            let key = format!("net/{family}/neigh/{interface}/base_reachable_time_ms");
            self.netns.set_sysctl(&key, "3600000")?;
        }
        self.netlink(|netlink| {
            netlink.add_address(interface, IpAddr::V4(v4(n)), PREFIX4)?;
            netlink.add_address(interface, IpAddr::V6(v6(n)), PREFIX6)?;
            netlink.set_up(interface, true)
        })?;
        self.netns.enter(|| reach(v6(n)))?.map_err(|e| {
            DeviceError::new("wait for the address of", format!("{} {interface}", self.name), e)
        })
    }

    /// Runs `ip` in the machine.
    pub(super) fn ip(&self, args: &[&str]) -> Result<(), LabError> {
        let what = || format!("ip {} in {}", args.join(" "), self.name);
        let output = self.netns.command("ip").args(args).output().map_err(LabError::io(what()))?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(LabError::io(what())(io::Error::other(text)))
    }

    /// Counters of an interface.
    pub fn link_stats(&self, interface: &str) -> Result<LinkStats, DeviceError> {
        self.netlink(|n| n.link(interface)).map(|facts| facts.stats)
    }

    /// Answers every TCP connection to `address`, [`BANNER_PORT`] with the machine's name. The
    /// thread ends with the process.
    pub fn serve_banner(&self, address: IpAddr) -> io::Result<()> {
        let at = SocketAddr::new(address, BANNER_PORT);
        let listener = self.netns.enter(|| TcpListener::bind(at)).map_err(io::Error::other)??;
        let name = self.name;
        thread::Builder::new().name(format!("banner {name}")).spawn(move || {
            for stream in listener.incoming().flatten() {
                // a client that went away is its own business
                let _ = (&stream).write_all(name.as_bytes());
            }
        })?;
        Ok(())
    }
}

/// Waits until the calling thread's namespace receives at its own address: the kernel installs the
/// local route of a new IPv6 address some time after it said that the address is there.
fn reach(own: Ipv6Addr) -> io::Result<()> {
    let hex = own.octets().iter().fold(String::new(), |text, b| text + &format!("{b:02x}"));
    let patience = Instant::now() + Duration::from_secs(5);
    loop {
        // destination, its prefix length, six more columns, flags, interface
        let routes = fs::read_to_string("/proc/thread-self/net/ipv6_route")?;
        let local = routes.lines().filter(|l| l.starts_with(&format!("{hex} 80 "))).any(|l| {
            let flags = l.split_whitespace().nth(8).and_then(|f| u32::from_str_radix(f, 16).ok());
            flags.is_some_and(|f| f & RTF_LOCAL != 0)
        });
        if local {
            return Ok(());
        }
        if Instant::now() > patience {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// `RTF_LOCAL` of linux/ipv6_route.h.
const RTF_LOCAL: u32 = 0x8000_0000;

/// How the lab's cables are made.
#[derive(Clone, Copy, Debug)]
pub struct Cabling {
    /// Queues of each NIC.
    pub queues: usize,
    /// L3 MTU in bytes.
    pub mtu: usize,
    /// Receive work of the NIC in a kernel thread of its own.
    pub threaded_napi: bool,
}

impl Default for Cabling {
    fn default() -> Cabling {
        Cabling { queues: 1, mtu: 1500, threaded_napi: false }
    }
}

/// Name of NIC `n` in the weft machine.
pub fn nic(n: usize) -> &'static str {
    ["nic0", "nic1"][n]
}

/// The client's interface, whatever carries it.
pub const WAN: &str = "wan0";

/// All machines.
#[derive(Debug)]
pub struct Topology {
    /// Runs weft; its kernel has an address on the shared NIC too.
    pub weft: Machine,
    /// On the shared NIC.
    pub client: Machine,
    /// On the second NIC.
    pub client2: Machine,
    /// Gateways A and B, on the shared NIC behind the client's port.
    pub gateways: [Machine; 2],
}

impl Topology {
    /// Makes the machines and nothing between them.
    pub fn machines() -> Result<Topology, DeviceError> {
        Ok(Topology {
            weft: Machine::new("weft")?,
            client: Machine::new("client")?,
            client2: Machine::new("client-2")?,
            gateways: [Machine::new("gateway-a")?, Machine::new("gateway-b")?],
        })
    }

    /// Makes the machines and cables them.
    pub fn cabled(cabling: Cabling) -> Result<Topology, DeviceError> {
        let lab = Topology::machines()?;
        lab.cable(nic(0), &lab.client, cabling)?;
        lab.cable(nic(1), &lab.client2, cabling)?;
        lab.weft.number(nic(0), KERNEL)?;
        lab.client.number(WAN, CLIENT)?;
        lab.client2.number(WAN, CLIENT)?;
        lab.add_gateway(0, GATEWAY_A)?;
        lab.add_gateway(1, GATEWAY_B)?;
        Ok(lab)
    }

    /// A cable between a NIC of the weft machine and `peer`.
    fn cable(&self, nic: &str, peer: &Machine, cabling: Cabling) -> Result<(), DeviceError> {
        self.weft.netlink(|netlink| {
            let far = VethEnd { name: WAN, netns: Some(peer.netns.as_fd()), mac: None };
            let near = VethEnd { name: nic, netns: None, mac: None };
            netlink.add_veth(&near, &far, cabling.queues, cabling.mtu)?;
            netlink.set_up(nic, true)
        })?;
        // Otherwise the kernel hands out TCP frames whose checksum is yet to be filled in, and
        // super-frames that a generic XDP program sees whole.
        peer.netns.enter(|| {
            ethtool::set_offload(WAN, Offload::TxChecksum, false)?;
            ethtool::set_offload(WAN, Offload::Tso, false)?;
            ethtool::set_offload(WAN, Offload::Gso, false)
        })??;
        peer.netlink(|netlink| netlink.set_up(WAN, true))?;
        if cabling.threaded_napi {
            self.weft.netns.enter_with_sysfs(|| {
                ethtool::set_offload(nic, Offload::Gro, true)?;
                ethtool::set_threaded_napi(nic, true)
            })??;
        }
        Ok(())
    }

    fn add_gateway(&self, i: usize, n: u16) -> Result<(), DeviceError> {
        let gateway = &self.gateways[i];
        self.client.netlink(|netlink| netlink.add_macvlan("gw0", WAN, gateway.netns.as_fd()))?;
        gateway.number("gw0", n)?;
        gateway.netlink(|netlink| netlink.add_address("lo", IpAddr::V4(FAR), 32))?;
        gateway
            .serve_banner(IpAddr::V4(FAR))
            .map_err(|e| DeviceError::new("listen", gateway.name, e))
    }

    /// Sets the congestion control of every machine and returns what the client then uses.
    pub fn congestion_control(&self, wanted: &str) -> Result<String, DeviceError> {
        let key = "net/ipv4/tcp_congestion_control";
        let machines = [&self.weft, &self.client, &self.client2];
        for machine in machines.into_iter().chain(&self.gateways) {
            // a namespace may only use what the machine allows; then the default is stated
            let _ = machine.netns.set_sysctl(key, wanted);
        }
        self.client.netns.sysctl(key)
    }
}
