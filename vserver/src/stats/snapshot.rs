//! A host's facts and counters at one instant, as plain data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::links::LinkSnapshot;
use crate::privilege::ProcessRights;

/// A whole host. Fields are only added; `schema_version` changes when one changes its meaning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostSnapshot {
    /// 1.
    pub schema_version: u32,
    /// Changes when the host is reconfigured.
    pub generation: u64,
    /// Milliseconds since the host started.
    pub uptime_ms: u64,
    /// NICs in order of the configuration.
    pub nics: Vec<NicSnapshot>,
    /// VLANs, bonds and failover groups, each after what it stands on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<LinkSnapshot>,
    /// Vservers in order of the configuration.
    pub vservers: Vec<VserverSnapshot>,
    /// Built-in services of all vservers, or of a group's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServiceSnapshot>,
    /// Frames lost before a vserver was found (or for none), by reason; zeros left out.
    pub drops: BTreeMap<String, u64>,
    /// Worker threads.
    #[serde(default)]
    pub workers: usize,
    /// What the workers handed to each other, by name (`HandOverArrived`, ...), zeros included;
    /// empty with one worker.
    #[serde(default)]
    pub hand_over: BTreeMap<String, u64>,
    /// What an operator should look at: addresses in use elsewhere, failed devices and steering.
    pub problems: Vec<String>,
    /// What the daemon's process may do; none of a host that is no daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rights: Option<ProcessRights>,
}

/// One NIC, its queues summed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NicSnapshot {
    /// `eth0`.
    pub name: String,
    /// The kernel's name.
    pub device: String,
    /// `af-xdp native copy`, `tap vnet`, `mem`, ...
    pub mode: String,
    /// Queues in use.
    pub queues: usize,
    /// Up, with carrier.
    pub up: bool,
    /// L3 MTU in bytes.
    pub mtu: usize,
    /// MAC address, `aa:bb:cc:dd:ee:ff`; `None` on an L3 device.
    pub mac: Option<String>,
    /// Names of the aliases that stand on it.
    pub aliases: Vec<String>,
    /// Device counters by name (`DeviceInFrames`, ...).
    pub counters: BTreeMap<String, u64>,
}

/// One vserver, its shards summed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VserverSnapshot {
    /// Its name.
    pub name: String,
    /// When its counters were read, in microseconds since the host started: what grew between two
    /// snapshots did so between the two times. Vservers are read one after the other.
    #[serde(default)]
    pub counted_us: u64,
    /// Addresses, with their alias: `data0 10.0.0.1/24`. Behind it stands `dhcp` if it is leased,
    /// `tentative` while it is being checked, `duplicate` when another host has it; these two are not
    /// in use.
    pub addresses: Vec<String>,
    /// Routes, connected and learned ones too: `0.0.0.0/0 via 10.0.0.254 dev data0`.
    pub routes: Vec<String>,
    /// Policy routing rules in order, as `ip rule` shows them; none: the own routes decide alone.
    #[serde(default)]
    pub rules: Vec<String>,
    /// Routes of the shared tables in use, by name of the table.
    #[serde(default)]
    pub tables: BTreeMap<String, Vec<String>>,
    /// Entries of the neighbour table.
    pub neighbours: usize,
    /// TCP listeners; one that listens on every worker counts once.
    pub tcp_listeners: usize,
    /// TCP connections, TIME-WAIT included.
    pub tcp_connections: usize,
    /// UDP sockets.
    pub udp_sockets: usize,
    /// Received frames that wait for the vserver's turn.
    #[serde(default)]
    pub input_queue: usize,
    /// Frames received.
    pub rx_frames: u64,
    /// Bytes received, link headers included.
    pub rx_bytes: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Bytes sent, link headers included.
    pub tx_bytes: u64,
    /// Every MIB counter by name (`TcpInSegs`, `IpInReceives`, ...), zeros included.
    pub counters: BTreeMap<String, u64>,
    /// Packets lost by reason; zeros left out.
    pub drops: BTreeMap<String, u64>,
    /// Built-in services; filled in by who runs them, [`crate::service::Services::fill`].
    #[serde(default)]
    pub services: Vec<ServiceSnapshot>,
    /// Services of all vservers, or of its group's, that it has too; filled in with `services`. Their
    /// counters are of all vservers together: [`HostSnapshot::services`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared_services: Vec<String>,
    /// Names that stand for addresses in the configuration.
    #[serde(default)]
    pub names: Vec<NameSnapshot>,
    /// Names that it keeps in DNS; filled in by who runs them, [`crate::register::Registrar::fill`].
    #[serde(default)]
    pub records: Vec<RecordSnapshot>,
    /// What it says by multicast DNS; filled in by who runs them, [`crate::mdns::Responders::fill`].
    #[serde(default)]
    pub mdns: Vec<MdnsSnapshot>,
}

/// What a vserver says on one link by multicast DNS.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MdnsSnapshot {
    /// The alias whose link it is.
    pub alias: String,
    /// The host's name there.
    pub host: String,
    /// Its names are its own, and have been announced.
    pub announced: bool,
    /// Counters by name (`Questions`, ...), zeros included.
    pub counters: BTreeMap<String, u64>,
}

/// One record in DNS.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RecordSnapshot {
    /// `files.example.net A 192.0.2.1`.
    pub record: String,
    /// The server has confirmed it.
    pub registered: bool,
    /// Why it has not.
    pub error: Option<String>,
}

/// One name in the configuration, and what it stands for now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NameSnapshot {
    /// The name.
    pub name: String,
    /// `gateway`, `address`, `target`; or which of `access`, `qos`, `rule` name it as a client.
    pub used_for: String,
    /// Addresses last heard of.
    pub addresses: Vec<String>,
    /// Why the last attempt failed; `None`: it did not.
    pub error: Option<String>,
    /// How often the addresses changed, the first ones included.
    pub changes: u64,
}

/// One built-in service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceSnapshot {
    /// `echo`, `http`, ...
    pub kind: String,
    /// Where it listens: `[::]:80`.
    pub listen: String,
    /// Whether it listens now; not while its address is still being checked for duplicates.
    pub listening: bool,
    /// Connections open now.
    pub connections: u64,
    /// Counters by name (`Accepted`, `InBytes`, ...), zeros included.
    pub counters: BTreeMap<String, u64>,
}
