//! What a bond shows: to operators, and as evidence to those who look for errors of a switch.

use serde::{Deserialize, Serialize};
use weft_stack::time::{Duration, Instant};

use super::aggregate::Bond;
use super::config::{Activity, HashPolicy, Mode, Rate};
use super::event::Unused;
use super::lacp::wire::{Info, PortId, State};
use super::lacp::{
    ChurnState, FAST_PERIODIC, LacpCounters, MuxState, PeriodicState, Port, ReceiveState,
    SLOW_PERIODIC, Selected,
};
use crate::Mac;

/// A bond.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BondReport {
    /// How its ports are chosen.
    pub mode: Mode,
    /// How frames are spread.
    pub hash: HashPolicy,
    /// MAC address, `02:00:..`.
    pub mac: String,
    /// It carries frames.
    pub up: bool,
    /// Fewer ports than this are as good as none.
    pub min_links: usize,
    /// Name of the active port (`active-backup`).
    pub active: Option<String>,
    /// Name of the preferred port (`active-backup`).
    pub primary: Option<String>,
    /// What `lacp` adds.
    pub lacp: Option<LacpReport>,
    /// Its ports, in the order of the configuration.
    pub ports: Vec<PortReport>,
    /// Events that were not read in time.
    pub events_lost: u64,
}

/// Negotiation, for the bond as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LacpReport {
    /// Our system identifier.
    pub system: String,
    /// Its priority.
    pub system_priority: u16,
    /// Our key.
    pub key: u16,
    /// Active or passive.
    pub activity: Activity,
    /// What we ask for.
    pub rate: Rate,
    /// Independent control of collecting and distributing.
    pub independent: bool,
    /// More are standby.
    pub max_ports: Option<u16>,
    /// The partner of the aggregate in use.
    pub partner: Option<PartnerReport>,
}

/// The system at the other end of an aggregate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartnerReport {
    /// Its identifier.
    pub system: String,
    /// Its priority.
    pub system_priority: u16,
    /// Its key.
    pub key: u16,
}

/// One end of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndReport {
    /// System identifier.
    pub system: String,
    /// System priority.
    pub system_priority: u16,
    /// Key.
    pub key: u16,
    /// Port number.
    pub port: u16,
    /// Port priority.
    pub port_priority: u16,
    /// State, decoded.
    pub state: StateReport,
}

/// The bits of a state octet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateReport {
    /// As it is on the wire.
    pub octet: u8,
    /// Active, not passive.
    pub active: bool,
    /// Short timeout, not long.
    pub short_timeout: bool,
    /// May be aggregated.
    pub aggregatable: bool,
    /// In sync.
    pub sync: bool,
    /// Takes frames.
    pub collecting: bool,
    /// Sends frames.
    pub distributing: bool,
    /// Knows no partner.
    pub defaulted: bool,
    /// Does not hear its partner.
    pub expired: bool,
}

/// A port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PortReport {
    /// Name of the NIC.
    pub name: String,
    /// Its own MAC address: the source of its PDUs.
    pub mac: String,
    /// Link.
    pub link: bool,
    /// Milliseconds since its link changed.
    pub link_ms: u64,
    /// Megabits per second, if known.
    pub speed_mbit: Option<u32>,
    /// False if the device says half.
    pub full_duplex: bool,
    /// Taken out by the operator.
    pub offline: bool,
    /// Sends.
    pub distributing: bool,
    /// Its frames are taken.
    pub collecting: bool,
    /// Why it does not send, if it does not.
    pub unused: Option<Unused>,
    /// Milliseconds since `unused` changed.
    pub unused_ms: u64,
    /// What `lacp` adds.
    pub lacp: Option<LacpPortReport>,
    /// The other end, if it speaks LACP (also where we do not).
    pub partner: Option<EndReport>,
    /// What the other end says of us.
    pub view: Option<EndReport>,
    /// The last LACPDU, also when it is too old to be believed.
    pub said: Option<SaidReport>,
    /// Milliseconds since its last LACPDU.
    pub last_pdu_ms: Option<u64>,
    /// Milliseconds between its last two.
    pub interval_ms: Option<u64>,
    /// Name of another port that hears the same port of the same partner.
    pub same_partner_as: Option<String>,
    /// Counters.
    pub counters: LacpCounters,
}

/// What a LACPDU said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaidReport {
    /// Of its sender.
    pub partner: EndReport,
    /// Of us.
    pub view: EndReport,
    /// Milliseconds since LACPDUs say the same of their sender.
    pub since_ms: u64,
}

/// Negotiation, for one port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LacpPortReport {
    /// What we tell.
    pub actor: EndReport,
    /// Selection.
    pub selected: Selected,
    /// Receive machine.
    pub receive: ReceiveState,
    /// Periodic Transmission machine.
    pub periodic: PeriodicState,
    /// Mux machine.
    pub mux: MuxState,
    /// Our end stays out of sync.
    pub actor_churn: ChurnState,
    /// The partner's end stays out of sync.
    pub partner_churn: ChurnState,
    /// What the partner says of us stays wrong, LACPDU after LACPDU.
    pub stale_view: bool,
    /// How often the partner should send, in milliseconds.
    pub expected_interval_ms: u64,
    /// Goes on from before a restart; the partner was not heard since.
    pub resumed: bool,
}

impl Bond {
    /// Everything that is to be seen.
    pub fn report(&self, now: Instant) -> BondReport {
        let name = |i: usize| self.config.ports[i].name.clone();
        BondReport {
            mode: self.config.mode,
            hash: self.config.hash,
            mac: mac_text(self.mac),
            up: self.up,
            min_links: self.limits.min_links,
            active: self.active.map(name),
            primary: self.config.primary.clone(),
            lacp: (self.config.mode == Mode::Lacp).then(|| self.report_lacp()),
            ports: (0..self.ports.len()).map(|i| self.report_port(i, now)).collect(),
            events_lost: self.events_lost,
        }
    }

    fn report_lacp(&self) -> LacpReport {
        let system = self.ports[0].actor.system;
        let lacp = &self.config.lacp;
        LacpReport {
            system: mac_text(system.mac),
            system_priority: system.priority,
            key: lacp.key,
            activity: lacp.activity,
            rate: lacp.rate,
            independent: lacp.independent,
            max_ports: lacp.max_ports,
            partner: self.aggregate.lag.filter(|l| !l.defaulted).map(|lag| PartnerReport {
                system: mac_text(lag.partner.mac),
                system_priority: lag.partner.priority,
                key: lag.key,
            }),
        }
    }

    fn report_port(&self, index: usize, now: Instant) -> PortReport {
        let port = &self.ports[index];
        let position = index as u16;
        let heard = is_heard(port);
        let steady = &self.members[index].steady;
        let since = |at: Instant| millis(now.saturating_since(at));
        let same = (0..self.ports.len()).find(|i| {
            let other = &self.ports[*i];
            *i != index
                && heard
                && is_heard(other)
                && other.partner.system == port.partner.system
                && other.partner.port.number == port.partner.port.number
        });
        PortReport {
            name: self.config.ports[index].name.clone(),
            mac: mac_text(port.mac),
            link: port.enabled,
            link_ms: since(steady.link.1),
            speed_mbit: port.speed_mbit,
            full_duplex: port.lacp_enabled,
            offline: port.offline,
            distributing: self.selection.distributing.contains(&position),
            collecting: self.selection.collecting.contains(&position),
            unused: self.unused(index),
            unused_ms: since(steady.unused.1),
            lacp: (self.config.mode == Mode::Lacp).then(|| report_machines(port)),
            partner: heard.then(|| EndReport::from(&port.partner)),
            view: (heard && !port.resumed).then(|| EndReport::from(&port.view)),
            said: port.said.map(|(partner, view)| SaidReport {
                partner: EndReport::from(&partner),
                view: EndReport::from(&view),
                since_ms: since(steady.said.1),
            }),
            last_pdu_ms: port.last_pdu.map(|at| millis(now - at)),
            interval_ms: port.interval.map(millis),
            same_partner_as: same.map(|i| self.config.ports[i].name.clone()),
            counters: port.counters,
        }
    }
}

fn is_heard(port: &Port) -> bool {
    port.partner.system.mac != [0; 6]
}

fn report_machines(port: &Port) -> LacpPortReport {
    let short = port.actor.state.has(State::TIMEOUT);
    LacpPortReport {
        actor: EndReport::from(&port.actor),
        selected: port.selected,
        receive: port.receive,
        periodic: port.periodic,
        mux: port.mux,
        actor_churn: port.actor_churn.state,
        partner_churn: port.partner_churn.state,
        stale_view: port.has_stale_view(),
        expected_interval_ms: millis(if short { FAST_PERIODIC } else { SLOW_PERIODIC }),
        resumed: port.resumed,
    }
}

fn millis(d: Duration) -> u64 {
    d.as_millis() as u64
}

impl From<&Info> for EndReport {
    fn from(info: &Info) -> EndReport {
        let PortId { priority, number } = info.port;
        EndReport {
            system: mac_text(info.system.mac),
            system_priority: info.system.priority,
            key: info.key,
            port: number,
            port_priority: priority,
            state: info.state.into(),
        }
    }
}

impl From<State> for StateReport {
    fn from(state: State) -> StateReport {
        StateReport {
            octet: state.0,
            active: state.has(State::ACTIVITY),
            short_timeout: state.has(State::TIMEOUT),
            aggregatable: state.has(State::AGGREGATION),
            sync: state.has(State::SYNC),
            collecting: state.has(State::COLLECTING),
            distributing: state.has(State::DISTRIBUTING),
            defaulted: state.has(State::DEFAULTED),
            expired: state.has(State::EXPIRED),
        }
    }
}

fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
