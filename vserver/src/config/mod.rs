//! What a host is made from. [`HostConfig`] is complete and checked; [`load`] makes it from a TOML
//! file, or reports everything that is wrong with the file.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

mod access;
mod address;
pub mod client;
mod cluster;
mod connect;
mod dhcp;
mod diagnostic;
pub(crate) mod dns;
mod export;
mod inherit;
mod interface;
mod link;
mod mdns;
mod neighbours;
mod parse;
mod privilege;
mod promise;
pub mod qos;
mod reader;
mod register;
mod route;
mod rule;
mod service;
mod shim;
mod stack;
mod units;
mod vserver;

#[cfg(test)]
mod tests;

pub use cluster::{Cluster, Lease, Place, Subnet};
pub use connect::Connect;
pub use dhcp::{AliasConflicts, CacheUse, Conflicts, DhcpClient, DhcpFamily};
pub use diagnostic::{Diagnostic, Errors};
pub use dns::Dns;
pub use export::export;
pub use inherit::{GROUP_DEPTH_MAX, Group, Origin, Policy, Setting, Settings};
pub use mdns::{Advertised, Mdns};
pub use parse::{LoadError, load, load_elsewhere, parse, parse_elsewhere};
pub use register::{Register, RegisteredName};
pub use rule::MAIN as MAIN_TABLE;
pub use shim::{ReapPreset, Shim, ShimLocator, ShimProofs, ShimUdp};
pub use weft_drivers::afxdp::{Gather, Hugepages};
pub use weft_interface::fail::config::BeyondConfig;
pub use weft_interface::tree::{BondSpec, GroupSpec, VlanSpec};

use weft_stack::ip::address::Cidr;

use crate::access::{AccessConfig, AccessRule, Ports};

/// A whole host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostConfig {
    /// Where the control socket listens.
    pub control: PathBuf,
    /// Where the daemon keeps what it must find after a restart: leases.
    pub state_dir: PathBuf,
    /// What is done with LLDP on its NICs.
    pub lldp: Lldp,
    /// Who may do what, the daemon included.
    pub privilege: Privilege,
    /// Names of the cluster and of this node, and what DHCP servers are to give.
    pub cluster: Option<Cluster>,
    /// Workers and their memory.
    pub workers: Workers,
    /// Physical components, `eth#`, in order of the file.
    pub nics: Vec<Nic>,
    /// NICs that act as one, `bond#`.
    pub bonds: Vec<BondSpec>,
    /// VLANs of which more is said than their names.
    pub vlans: Vec<VlanSpec>,
    /// Failover groups, `fail#`.
    pub failover: Vec<GroupSpec>,
    /// Rates of bonds and failover groups by name, of those that have some.
    pub link_qos: Vec<(String, qos::Both)>,
    /// `mgmt#`, `data#`, `san#`; the position is the `AliasId`.
    pub aliases: Vec<Alias>,
    /// Route tables that vservers share by name.
    pub tables: Vec<TableSpec>,
    /// Neighbour tables that vservers share by name.
    pub neighbours: Vec<NeighbourTable>,
    /// Groups of vservers, in order of the file.
    pub groups: Vec<Group>,
    /// Vservers that share rates, `[qos.*]`.
    pub qos_groups: Vec<qos::QosGroup>,
    /// Which services are reachable, for all vservers.
    pub access: AccessConfig,
    /// Built-in services of all vservers.
    pub services: Vec<AnyService>,
    /// The virtual servers.
    pub vservers: Vec<Vserver>,
    /// What a vserver has where neither it nor a group says anything.
    pub defaults: Settings,
}

/// What a host does with LLDP, where it has bonds, failover groups, or aliases that are bound to
/// targets beyond their links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lldp {
    /// Listens, and tells who it is.
    #[default]
    On,
    /// Listens only.
    Listen,
    /// Neither.
    Off,
}

impl Lldp {
    /// All, as in a configuration file.
    pub(crate) const NAMES: [(&'static str, Lldp); 3] =
        [("on", Lldp::On), ("listen", Lldp::Listen), ("off", Lldp::Off)];

    /// As in a configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            Lldp::On => "on",
            Lldp::Listen => "listen",
            Lldp::Off => "off",
        }
    }

    /// What its agents are told.
    pub(crate) fn config(self) -> weft_interface::lldp::LldpConfig {
        weft_interface::lldp::LldpConfig { receive: self != Lldp::Off, transmit: self == Lldp::On }
    }
}

/// Who may do what: on the control socket by the credentials of its peers, and the daemon itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Privilege {
    /// Permission bits of the control socket; `None`: 0600, with `control_group` 0660, with roles
    /// but no `control_group` 0666.
    pub control_mode: Option<u32>,
    /// Group (id) that the control socket belongs to.
    pub control_group: Option<u32>,
    /// Log of all changes; `None`: standard error.
    pub audit: Option<PathBuf>,
    /// Bytes of a log file before the next one is begun.
    pub audit_bytes: u64,
    /// Log files kept, the current one included.
    pub audit_files: u64,
    /// What the daemon keeps of its rights once its devices are open.
    pub run_as: RunAs,
    /// User that the daemon becomes then.
    pub user: Option<User>,
    /// Who may do what, apart from root and the daemon's own user, who may everything.
    pub roles: Vec<Role>,
}

/// What the daemon keeps of its rights once its devices are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunAs {
    /// No capability.
    Drop,
    /// Those that opening a device takes: CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF.
    Devices,
    /// All of them.
    Keep,
}

/// A user of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Id of the login group.
    pub gid: u32,
}

/// Who may do what on the control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// User ids that have it.
    pub users: Vec<u32>,
    /// Ids of groups of users that have it.
    pub groups: Vec<u32>,
    /// What they may.
    pub allow: Rights,
    /// Names of vservers, or of tables with `count`, that [`Rights::Vserver`] is about.
    pub vservers: Vec<String>,
    /// Groups of vservers, those in them included, that it is about too.
    pub vserver_groups: Vec<String>,
}

/// What a role allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rights {
    /// Look at everything.
    View,
    /// Change the network of some vservers.
    Vserver,
    /// Change everything.
    Cluster,
}

impl HostConfig {
    /// A host with one worker and nothing on it yet, whose control socket is at `control`.
    pub fn new(control: PathBuf) -> HostConfig {
        HostConfig { control, state_dir: PathBuf::from(STATE_DIR_DEFAULT), ..HostConfig::default() }
    }

    /// A group and those it is in, the nearest first.
    pub(crate) fn group_names(&self, group: Option<usize>) -> Vec<&str> {
        let mut names = Vec::new();
        let mut at = group;
        while let Some(group) = at.and_then(|g| self.groups.get(g)) {
            names.push(group.name.as_str());
            // A tree has no circle; a configuration made in code might.
            at = group.parent.filter(|_| names.len() < GROUP_DEPTH_MAX);
        }
        names
    }
}

/// Most worker threads of a host.
pub const WORKERS_MAX: usize = 64;

/// Threads and frames.
#[derive(Clone, Debug, PartialEq)]
pub struct Workers {
    /// Worker threads, 1 to [`WORKERS_MAX`]: of n, number q mod n serves queue q of every NIC, and
    /// each has its part of every vserver's flows.
    pub count: usize,
    /// CPUs to pin workers to, in order; empty: not pinned.
    pub affinity: Vec<usize>,
    /// Frames per worker.
    pub frames: usize,
    /// Bytes per frame, a power of two from 2048 to 65536 (AF_XDP: at most 4096).
    pub frame_bytes: usize,
    /// What pages the frames of AF_XDP are made of.
    pub hugepages: Hugepages,
    /// NUMA node that the frames of AF_XDP are taken from; `None`: the kernel's choice.
    pub numa_node: Option<u32>,
}

impl Default for Workers {
    fn default() -> Workers {
        Workers {
            count: 1,
            affinity: Vec::new(),
            frames: 8192,
            frame_bytes: 4096,
            hugepages: Hugepages::Auto,
            numa_node: None,
        }
    }
}

/// Where the control socket listens unless the file says otherwise.
pub const CONTROL_DEFAULT: &str = "/run/weft/weft.sock";

/// Where the daemon keeps what it must find after a restart, unless the file says otherwise.
pub const STATE_DIR_DEFAULT: &str = "/var/lib/weft";

/// What carries a NIC's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Driver {
    AfXdp,
    Tap,
    Tun,
    Packet,
    /// A memory pair; the other end is taken with `Host::take_mem_peer` (tests, lab).
    Mem,
}

impl Driver {
    /// As in a configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            Driver::AfXdp => "af-xdp",
            Driver::Tap => "tap",
            Driver::Tun => "tun",
            Driver::Packet => "packet",
            Driver::Mem => "mem",
        }
    }
}

/// How AF_XDP attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// Zero-copy, else native copy, else generic.
    Auto,
    /// Zero-copy or fail.
    ZeroCopy,
    /// Native, copying, or fail.
    Native,
    /// Generic (SKB).
    Generic,
}

/// How AF_PACKET receives; see `docs/drivers.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketReceive {
    /// Batches of messages: low latency.
    Messages,
    /// A `TPACKET_V3` ring: fewest system calls, a millisecond late.
    Ring,
}

/// How a worker waits. It waits in one way for all of its NICs: the most eager that one asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PollMode {
    /// Sleep until an interrupt.
    Interrupt,
    /// Spin a bounded time after work, then sleep.
    Adaptive,
    /// Never sleep (`SO_BUSY_POLL` where the device has it).
    Busy,
}

impl PollMode {
    /// As in a configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            PollMode::Interrupt => "interrupt",
            PollMode::Adaptive => "adaptive",
            PollMode::Busy => "busy",
        }
    }
}

/// A physical component.
#[derive(Clone, Debug, PartialEq)]
pub struct Nic {
    /// `eth#`.
    pub name: String,
    /// The kernel's name of the interface (AF_XDP, packet: existing; TAP, TUN: created or taken).
    pub device: String,
    /// What carries its frames.
    pub driver: Driver,
    /// How AF_XDP attaches.
    pub xdp: XdpMode,
    /// When AF_XDP sends payload from where it lies.
    pub gather: Gather,
    /// How AF_PACKET receives.
    pub receive: PacketReceive,
    /// Queues used, from 0.
    pub queues: usize,
    /// How its worker waits.
    pub poll: PollMode,
    /// Trust transport checksums of received frames instead of verifying (veth peers with
    /// transmit offload leave them partial).
    pub rx_checksum_trust: bool,
    /// Merge consecutive packets of a flow within a received burst before they are handled.
    pub gro: bool,
    /// MAC address for TAP and mem devices; others use the interface's.
    pub mac: Option<[u8; 6]>,
    /// MTU to set; `None`: the interface's.
    pub mtu: Option<usize>,
    /// Write every frame to this pcapng file.
    pub capture: Option<PathBuf>,
    /// Rates of the link, all vservers together.
    pub qos: qos::Both,
}

/// Where addresses live.
#[derive(Clone, Debug, PartialEq)]
pub struct Alias {
    /// `mgmt#`, `data#`, `san#`, or one of them with a VLAN tag of its own.
    pub name: String,
    /// Name of the NIC, VLAN, bond or failover group that carries it.
    pub over: String,
    /// MTU; `None`: that of what carries it.
    pub mtu: Option<usize>,
    /// A MAC address of its own; `None`: that of what carries it.
    pub mac: Option<[u8; 6]>,
    /// Conflicts over IPv4 addresses on it.
    pub conflicts: AliasConflicts,
    /// Targets beyond its link, whose loss is an event.
    pub beyond: BeyondConfig,
}

/// One virtual server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vserver {
    /// Its name, in lower case.
    pub name: String,
    /// Its name as the file spells it: so client identifiers have it.
    pub spelled: String,
    /// By which rule its addresses are named.
    pub identity: Identity,
    /// Addresses: index into [`HostConfig::aliases`], address and prefix length.
    pub addresses: Vec<(usize, Cidr)>,
    /// Aliases (indices) where addresses come from router advertisements too.
    pub slaac: Vec<usize>,
    /// Addresses that DHCP servers give.
    pub dhcp: Vec<DhcpClient>,
    /// Conflicts over its configured IPv4 addresses; `None`: as each alias says.
    pub acd: Option<weft_stack::ip::address::Acd>,
    /// What the file says of aliases (by index) where that is not the default.
    pub alias_conflicts: Vec<(usize, AliasConflicts)>,
    /// Routes besides those to its own networks.
    pub routes: Vec<RouteSpec>,
    /// Routes whose gateway is a name; followed while the host runs.
    pub named_routes: Vec<NamedRoute>,
    /// Shared tables that add to its routes, the nearer first.
    pub tables: Vec<String>,
    /// Policy routing rules.
    pub rules: Vec<RuleSpec>,
    /// The neighbour table that it shares; `None`: it knows its neighbours alone.
    pub neighbours: Option<String>,
    /// Forward packets between its aliases.
    pub forwarding: bool,
    /// Bounds and TCP defaults.
    pub limits: weft_stack::stack::Limits,
    /// TCP defaults.
    pub tcp: weft_stack::stack::TcpConfig,
    /// Who may reach what, before the rules of the host; inherited ones included.
    pub access: Vec<AccessRule>,
    /// Built-in services.
    pub services: Vec<Service>,
    /// How it resolves names.
    pub dns: Dns,
    /// What it tries when it sets a connection up.
    pub connect: Connect,
    /// What of it is registered in DNS.
    pub register: Option<Register>,
    /// What it tells the links of its mgmt aliases.
    pub mdns: Option<Mdns>,
    /// Its multipath shim.
    pub shim: Option<Shim>,
    /// The table of the file that it is from; with `count` the name without the number.
    pub table: String,
    /// Index into [`HostConfig::groups`] of the group it is in.
    pub group: Option<usize>,
    /// Roles that may change its network, besides those that name it.
    pub roles: Vec<String>,
    /// Where what the file says about it comes from.
    pub settings: Settings,
    /// Rates, shares and classes.
    pub qos: qos::Qos,
}

/// A built-in service that one listener gives to many vservers.
#[derive(Clone, Debug, PartialEq)]
pub struct AnyService {
    /// To those of this group and of the groups in it; `None`: to all.
    pub group: Option<String>,
    /// What it is: listens on `0.0.0.0` (IPv4 only) or `::` (both families), and names nothing that
    /// would have to be resolved.
    pub service: Service,
}

impl Vserver {
    /// A vserver of that name with nothing in it.
    pub fn new(name: &str) -> Vserver {
        let (lower, spelled) = (name.to_ascii_lowercase(), name.to_owned());
        Vserver { name: lower.clone(), spelled, table: lower, ..Vserver::default() }
    }

    /// How conflicts over its configured IPv4 addresses on an alias (index) are settled, and how
    /// fast they are looked for.
    pub(crate) fn conflicts_on(&self, alias: usize) -> Conflicts {
        let own = self.alias_conflicts.iter().find(|(a, _)| *a == alias);
        let own = own.map(|(_, c)| *c).unwrap_or_default();
        Conflicts { acd: self.acd.or(own.acd).unwrap_or_default(), pace: own.pace }
    }
}

/// By which rule addresses are named in client identifiers ([`crate::naming`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Identity {
    /// `alias:vserver:instance`.
    #[default]
    Vserver,
    /// `alias:node`: the addresses are this node's own.
    Node,
    /// `alias:kind`: of a kind of node, wherever it runs.
    Kind(String),
}

/// A configured route.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteSpec {
    /// Destination network; `default` is 0.0.0.0/0 or ::/0 by the gateway's family.
    pub to: Cidr,
    /// Gateway.
    pub via: Option<IpAddr>,
    /// Alias index (found from the gateway if the file does not name it).
    pub alias: usize,
    /// Preferred source.
    pub src: Option<IpAddr>,
    /// Lower wins.
    pub metric: u32,
}

/// A configured route whose gateway has a name.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedRoute {
    /// Destination network; `None`: everything of each family that the name has an address of.
    pub to: Option<Cidr>,
    /// Name of the gateway.
    pub via: String,
    /// Alias index.
    pub alias: usize,
    /// Preferred source.
    pub src: Option<IpAddr>,
    /// Lower wins.
    pub metric: u32,
}

/// A route table that vservers share.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TableSpec {
    /// Its name.
    pub name: String,
    /// Its routes; those out of an alias that a vserver does not have do not exist for it.
    pub routes: Vec<RouteSpec>,
}

/// A neighbour table that vservers share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NeighbourTable {
    /// Its name.
    pub name: String,
    /// Neighbours that nobody needs to ask for.
    pub entries: Vec<NeighbourSpec>,
    /// How many more one worker's vservers may learn for each other; 0: none.
    pub learned: usize,
}

/// A configured neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeighbourSpec {
    /// Index into [`HostConfig::aliases`].
    pub alias: usize,
    /// Its address.
    pub addr: IpAddr,
    /// Its MAC address.
    pub mac: [u8; 6],
}

/// A policy routing rule: it matches packets of which all that it names is true.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleSpec {
    /// Lower is asked first; a vserver's own routes are asked at 32766.
    pub priority: u32,
    /// Source network.
    pub from: Option<Cidr>,
    /// Name of the source instead: every address that it has.
    pub from_name: Option<String>,
    /// Destination network.
    pub to: Option<Cidr>,
    /// Value and mask of the packet's mark.
    pub mark: Option<(u32, u32)>,
    /// Index of the alias that a forwarded packet came in on.
    pub input: Option<usize>,
    /// DiffServ codepoint.
    pub dscp: Option<u8>,
    /// Class or services, as written, that our port or the peer's is of; forwarded packets have none.
    pub class: Option<String>,
    /// What they are.
    pub ports: Vec<Ports>,
    /// What becomes of it.
    pub target: RuleTarget,
}

impl RuleSpec {
    /// Whether a source of that family can have packets to its destinations.
    pub(crate) fn fits_family(&self, source: IpAddr) -> bool {
        self.to.is_none_or(|to| to.addr.is_ipv4() == source.is_ipv4())
    }
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq)]
pub enum RuleTarget {
    /// Looks into a table, by name; [`MAIN_TABLE`] is the vserver's own routes.
    Table(String),
    /// Refuses, and says "administratively prohibited".
    Prohibit,
    /// Drops in silence.
    Blackhole,
    /// Refuses, and says "host unreachable".
    Unreachable,
}

/// A built-in service on a port of the vserver; `listen` defaults to every address.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Where it listens, inside the vserver.
    pub listen: SocketAddr,
    /// A name whose address it listens on instead; then `listen` has the port.
    pub listen_name: Option<String>,
    /// What it does.
    pub kind: ServiceKind,
    /// Connections served at a time; more wait in the backlog.
    pub connections: usize,
    /// Seconds without a byte in either direction after which a connection is closed; 0: never.
    pub idle_s: u32,
}

impl Service {
    /// A service with default limits.
    pub fn new(listen: SocketAddr, kind: ServiceKind) -> Service {
        Service { listen, listen_name: None, kind, connections: 16_384, idle_s: 60 }
    }
}

/// The built-in services.
#[derive(Clone, Debug, PartialEq)]
pub enum ServiceKind {
    /// Sends back what it receives, TCP and UDP (RFC 862).
    Echo,
    /// Swallows what it receives, TCP and UDP (RFC 863).
    Discard,
    /// An endless source, TCP (RFC 864).
    Chargen,
    /// Static files.
    Http {
        /// Directory served.
        root: PathBuf,
        /// Directory that takes PUT; `None`: refused.
        upload: Option<PathBuf>,
        /// Largest body of one PUT, in bytes.
        upload_bytes_max: u64,
    },
    /// Forwards each connection to a local kernel socket.
    Proxy(ProxyTarget),
}

/// Where a proxy forwards to.
#[derive(Clone, Debug, PartialEq)]
pub enum ProxyTarget {
    /// A kernel TCP address.
    Tcp(SocketAddr),
    /// A name, resolved by the vserver, and a port.
    Named(String, u16),
    /// A unix stream socket.
    Unix(PathBuf),
}
