//! The host that the lab runs, as configuration, and the files it serves.

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use weft_stack::ip::address::Cidr;
use weft_stack::rng::Rng;
use weft_vserver::config::qos::Both;
use weft_vserver::config::{
    Alias, AliasConflicts, BeyondConfig, Driver, Gather, HostConfig, Nic, PacketReceive, PollMode,
    RouteSpec, Service, ServiceKind, Vserver, Workers, XdpMode,
};

use super::topology::{FAR, GATEWAY_A, GATEWAY_B, PREFIX4, PREFIX6, nic, v4, v6};

/// Vservers on the shared NIC: name and host number.
pub const SHARED: [(&str, u16); 3] = [("alpha", 11), ("beta", 12), ("gamma", 13)];
/// The vserver on the second NIC, which has alpha's addresses.
pub const SECOND: (&str, u16) = ("delta", 11);

/// What the lab's host is to be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What carries the frames.
    pub driver: Driver,
    /// Kernel names of the NICs: one, or two.
    pub devices: Vec<String>,
    /// Queues per NIC.
    pub queues: usize,
    /// MTU to set on a device that is made for the lab; a cable has its own.
    pub mtu: Option<usize>,
    /// Where captures go.
    pub captures: Option<PathBuf>,
    /// Where the served files are ([`make_files`]) and the control socket will be.
    pub dir: PathBuf,
    /// Alpha and beta have their own default gateways.
    pub gateways: bool,
}

impl Plan {
    /// The configuration: alpha, beta, gamma on the first NIC, delta on the second if there is one.
    pub fn config(&self) -> HostConfig {
        let mut config = host(self.dir.join("weft.sock"));
        for (i, device) in self.devices.iter().enumerate() {
            let capture =
                |dir: &PathBuf| dir.join(format!("{}-eth{i}.pcapng", driver_name(self.driver)));
            config.nics.push(Nic {
                queues: self.queues,
                mtu: self.mtu,
                capture: self.captures.as_ref().map(capture),
                ..physical(&format!("eth{i}"), device, self.driver)
            });
            config.aliases.push(alias(&format!("data{i}"), i));
        }
        for (name, n) in SHARED {
            config.vservers.push(self.vserver(name, 0, n));
        }
        if self.gateways {
            for (i, gateway) in [GATEWAY_A, GATEWAY_B].into_iter().enumerate() {
                config.vservers[i].routes.push(route(v4(gateway)));
            }
        }
        if self.devices.len() > 1 {
            config.vservers.push(self.vserver(SECOND.0, 1, SECOND.1));
        }
        config
    }

    fn vserver(&self, name: &str, alias: usize, n: u16) -> Vserver {
        let dir = self.dir.join(name);
        let mut vserver = numbered(name, alias, n);
        let http = ServiceKind::Http {
            root: dir.clone(),
            upload: Some(dir.join("upload")),
            upload_bytes_max: u64::MAX >> 1,
        };
        vserver.services = vec![
            service(7, ServiceKind::Echo),
            service(9, ServiceKind::Discard),
            service(19, ServiceKind::Chargen),
            service(80, http),
        ];
        vserver
    }
}

/// A vserver with both addresses of host number `n` on an alias, and no service.
pub fn numbered(name: &str, alias: usize, n: u16) -> Vserver {
    Vserver {
        addresses: vec![
            (alias, cidr(IpAddr::V4(v4(n)), PREFIX4)),
            (alias, cidr(IpAddr::V6(v6(n)), PREFIX6)),
        ],
        ..Vserver::new(name)
    }
}

/// A host with one worker and nothing on it yet.
pub fn host(control: PathBuf) -> HostConfig {
    HostConfig {
        workers: Workers { frame_bytes: 2048, ..Workers::default() },
        ..HostConfig::new(control)
    }
}

/// A NIC with one queue and everything else by default.
pub fn physical(name: &str, device: &str, driver: Driver) -> Nic {
    Nic {
        name: name.to_owned(),
        device: device.to_owned(),
        driver,
        xdp: XdpMode::Auto,
        gather: Gather::Auto,
        receive: PacketReceive::Messages,
        queues: 1,
        poll: PollMode::Adaptive,
        rx_checksum_trust: false,
        gro: true,
        mac: None,
        mtu: None,
        capture: None,
        qos: Both::default(),
    }
}

/// An alias over `eth<nic>` with its MTU and MAC.
pub fn alias(name: &str, nic: usize) -> Alias {
    let conflicts = AliasConflicts::default();
    Alias {
        name: name.to_owned(),
        over: format!("eth{nic}"),
        mtu: None,
        mac: None,
        conflicts,
        beyond: BeyondConfig::default(),
    }
}

/// A service on every address of its vserver.
pub fn service(port: u16, kind: ServiceKind) -> Service {
    Service::new(SocketAddr::from(([0u16; 8], port)), kind)
}

/// The kernel names of the lab's NICs.
pub fn nics() -> Vec<String> {
    vec![nic(0).to_owned(), nic(1).to_owned()]
}

/// `af-xdp`, `tap`, `tun`, `packet`, `mem`.
pub fn driver_name(driver: Driver) -> &'static str {
    match driver {
        Driver::AfXdp => "af-xdp",
        Driver::Tap => "tap",
        Driver::Tun => "tun",
        Driver::Packet => "packet",
        Driver::Mem => "mem",
    }
}

fn cidr(address: IpAddr, prefix: u8) -> Cidr {
    Cidr::new(address, prefix).expect("the lab's prefixes fit their families")
}

fn route(via: Ipv4Addr) -> RouteSpec {
    RouteSpec {
        to: cidr(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        via: Some(IpAddr::V4(via)),
        alias: 0,
        src: None,
        metric: 0,
    }
}

/// Writes what the vservers serve below `dir`: `name` (their name) each, and `big`, `bytes` long,
/// for alpha. Returns the SHA-256 of `big`.
pub fn make_files(dir: &Path, bytes: u64) -> io::Result<String> {
    for (name, _) in SHARED.iter().chain([&SECOND]) {
        let root = dir.join(name);
        fs::create_dir_all(root.join("upload"))?;
        fs::write(root.join("name"), name)?;
    }
    let mut file = fs::File::create(dir.join("alpha/big"))?;
    let mut hash = Sha256::new();
    let mut rng = Rng::from_u64(7);
    let mut block: Vec<u8> = (0..1 << 17).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
    let mut left = bytes;
    while left > 0 {
        // the same noise with a different head: making it must not outlast sending it
        block[..8].copy_from_slice(&left.to_le_bytes());
        let n = left.min(block.len() as u64) as usize;
        hash.update(&block[..n]);
        file.write_all(&block[..n])?;
        left -= n as u64;
    }
    Ok(hex(&hash.finalize()))
}

/// SHA-256 of a file.
pub fn sha256(path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut fs::File::open(path)?, &mut hash)?;
    Ok(hex(&hash.finalize()))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, b| text + &format!("{b:02x}"))
}

/// The address that both gateways have.
pub fn far() -> IpAddr {
    IpAddr::V4(FAR)
}
