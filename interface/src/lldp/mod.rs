//! Link Layer Discovery Protocol (IEEE 802.1AB): who is at the other end of each NIC, and telling
//! it who we are.
//!
//! An [`Lldp`] has one agent for each NIC, of the *nearest bridge* group. What is heard is kept for
//! as long as its sender says ([`Lldp::neighbours`]); it is evidence for
//! those who look for errors, which names a port of a switch by it. Nothing is decided by it: LLDP
//! is not authenticated.
//!
//! Bounds: [`NEIGHBOURS_MAX`] neighbours for each NIC, and what one of them may say ([`wire`]).
//!
//! Sans-IO: call [`Lldp::handle_link`], [`Lldp::handle_frame`] and [`Lldp::handle_timeout`], then
//! look at [`Lldp::poll_transmit`] and [`Lldp::poll_timeout`].

mod agent;
#[cfg(test)]
mod tests;
pub mod wire;

use serde::{Deserialize, Serialize};
use weft_stack::time::{Duration, Instant};

use crate::Mac;
use agent::Agent;
use wire::{Aggregation, Lldpdu};

/// Neighbours of one NIC that are remembered. More than one is there only behind something that
/// passes LLDP on, which no bridge should.
pub const NEIGHBOURS_MAX: usize = 8;
/// Time between LLDPDUs (`msgTxInterval`).
pub const INTERVAL: Duration = Duration::from_secs(30);
/// What we say is to be kept for this many intervals (`msgTxHold`).
pub const HOLD: u16 = 4;
/// Time between the first ones, when somebody new is there (`msgFastTx`).
pub const FAST_INTERVAL: Duration = Duration::from_secs(1);
/// How many those are (`txFastInit`).
pub const FAST_COUNT: u8 = 4;
/// At most this many at once, and one a second after that (`txCreditMax`).
pub const CREDIT_MAX: u8 = 5;

/// What an operator says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LldpConfig {
    /// LLDPDUs of others are read.
    pub receive: bool,
    /// Ours are sent.
    pub transmit: bool,
}

impl Default for LldpConfig {
    fn default() -> LldpConfig {
        LldpConfig { receive: true, transmit: true }
    }
}

/// What we say of ourselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalSystem {
    /// Chassis identifier, the same on all NICs.
    pub chassis: Mac,
    /// System name, of which 255 bytes are sent.
    pub name: String,
    /// System description, of which 255 bytes are sent.
    pub description: String,
}

/// One NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPort {
    /// Its name, the port identifier.
    pub name: String,
    /// Its MAC address: the source of what is sent.
    pub mac: Mac,
    /// Longest frame with header and FCS that it takes.
    pub max_frame: u16,
}

/// What an agent saw and did (802.1AB 9.2.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LldpCounters {
    /// LLDPDUs sent.
    pub frames_out: u64,
    /// LLDPDUs taken.
    pub frames_in: u64,
    /// LLDPDUs of our own.
    pub own: u64,
    /// LLDPDUs without the mandatory TLVs in their order, or cut off.
    pub frames_discarded: u64,
    /// TLVs that were not read: of an impossible length or more than are kept.
    pub tlvs_discarded: u64,
    /// TLVs of unknown kinds.
    pub tlvs_unrecognized: u64,
    /// Neighbours whose time ran out.
    pub ageouts: u64,
    /// LLDPDUs of new neighbours for which there was no room.
    pub too_many_neighbours: u64,
}

/// Somebody at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The last that it said.
    pub pdu: Lldpdu,
    /// When it was first heard.
    pub since: Instant,
    /// When it was last heard.
    pub heard: Instant,
    /// When it is forgotten.
    pub until: Instant,
}

/// What is to be seen of a NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LldpReport {
    /// Name of the NIC.
    pub port: String,
    /// Those at the other end, as long as they live.
    pub neighbours: Vec<NeighbourReport>,
    /// Counters.
    pub counters: LldpCounters,
}

/// A neighbour, in words. Text is as it came, without control characters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighbourReport {
    /// Chassis identifier.
    pub chassis: String,
    /// Port identifier.
    pub port: String,
    /// Port description.
    pub port_description: Option<String>,
    /// System name.
    pub system_name: Option<String>,
    /// System description.
    pub system_description: Option<String>,
    /// It is a bridge (a switch) and forwards.
    pub bridge: Option<bool>,
    /// Management addresses.
    pub management: Vec<String>,
    /// VLAN of untagged frames; 0 if the port knows none.
    pub pvid: Option<u16>,
    /// VLANs of the port, if it tells any.
    pub vlans: Vec<u16>,
    /// There were more of them than are kept.
    pub vlans_cut: bool,
    /// Its aggregation, if it tells.
    pub aggregation: Option<Aggregation>,
    /// Longest frame that it takes, with header and FCS.
    pub max_frame: Option<u16>,
    /// Milliseconds since it was first heard.
    pub known_ms: u64,
    /// Milliseconds since it was last heard.
    pub age_ms: u64,
    /// Milliseconds until it is forgotten.
    pub left_ms: u64,
}

impl NeighbourReport {
    fn of(neighbour: &Neighbour, now: Instant) -> NeighbourReport {
        let millis = |d: Duration| d.as_millis() as u64;
        let pdu = &neighbour.pdu;
        NeighbourReport {
            chassis: pdu.chassis.to_string(),
            port: pdu.port.to_string(),
            port_description: pdu.port_description.clone(),
            system_name: pdu.system_name.clone(),
            system_description: pdu.system_description.clone(),
            bridge: pdu.capabilities.map(|c| c.enabled & wire::CAPABILITY_BRIDGE != 0),
            management: pdu.management.iter().map(ToString::to_string).collect(),
            pvid: pdu.pvid,
            vlans: pdu.vlans.iter().map(|v| v.id).collect(),
            vlans_cut: pdu.vlans_cut,
            aggregation: pdu.aggregation,
            max_frame: pdu.max_frame,
            known_ms: millis(now.saturating_since(neighbour.since)),
            age_ms: millis(now.saturating_since(neighbour.heard)),
            left_ms: millis(neighbour.until.saturating_since(now)),
        }
    }
}

/// The agents of all NICs.
#[derive(Clone, Debug)]
pub struct Lldp {
    system: LocalSystem,
    agents: Vec<Agent>,
}

impl Lldp {
    /// Agents for `ports`, none of which has a link yet.
    pub fn new(config: LldpConfig, system: LocalSystem, ports: &[LocalPort]) -> Lldp {
        let agents = ports.iter().map(|port| Agent::new(config, port.clone())).collect();
        Lldp { system, agents }
    }

    /// The link of a NIC changed, or is told again. Without a link there are no neighbours.
    pub fn handle_link(&mut self, now: Instant, port: usize, up: bool) {
        if let Some(agent) = self.agents.get_mut(port) {
            agent.handle_link(up);
            agent.step(now);
        }
    }

    /// A frame of LLDP came in on a NIC, from its destination address on.
    pub fn handle_frame(&mut self, now: Instant, port: usize, frame: &[u8]) {
        let chassis = self.system.chassis;
        if let Some(agent) = self.agents.get_mut(port) {
            agent.handle_frame(now, chassis, frame);
            agent.step(now);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.agents.iter_mut().for_each(|agent| agent.step(now));
    }

    /// When [`Lldp::handle_timeout`] has to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.agents.iter().filter_map(Agent::poll_timeout).min()
    }

    /// A frame to send as it is, and the NIC to send it on.
    pub fn poll_transmit(&mut self) -> Option<(usize, Vec<u8>)> {
        let system = &self.system;
        self.agents.iter_mut().enumerate().find_map(|(i, a)| Some((i, a.poll_transmit(system)?)))
    }

    /// What a NIC tells of its aggregation; `None` if it may not be part of one. A change is told
    /// at once.
    pub fn set_aggregation(&mut self, now: Instant, port: usize, is: Option<Aggregation>) {
        if let Some(agent) = self.agents.get_mut(port) {
            agent.set_aggregation(is);
            agent.step(now);
        }
    }

    /// Longest frame with header and FCS that a NIC takes.
    pub fn set_max_frame(&mut self, port: usize, bytes: u16) {
        if let Some(agent) = self.agents.get_mut(port) {
            agent.port.max_frame = bytes;
        }
    }

    /// LLDP is spoken, or listened to, from now on or not any more.
    pub fn set_config(&mut self, now: Instant, config: LldpConfig) {
        for agent in &mut self.agents {
            agent.set_config(config);
            agent.step(now);
        }
    }

    /// The process ends: take what [`Lldp::poll_transmit`] has after this, so that neighbours
    /// forget us at once. Nothing is sent or heard any more.
    pub fn shutdown(&mut self) {
        self.agents.iter_mut().for_each(Agent::shutdown);
    }

    /// Those at the other end of a NIC.
    pub fn neighbours(&self, port: usize) -> &[Neighbour] {
        self.agents.get(port).map_or(&[], Agent::neighbours)
    }

    /// Everything that is to be seen, for each NIC.
    pub fn report(&self, now: Instant) -> Vec<LldpReport> {
        let report = |agent: &Agent| LldpReport {
            port: agent.port.name.clone(),
            neighbours: agent.neighbours().iter().map(|n| NeighbourReport::of(n, now)).collect(),
            counters: agent.counters,
        };
        self.agents.iter().map(report).collect()
    }
}
