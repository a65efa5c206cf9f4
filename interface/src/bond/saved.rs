//! What a bond keeps over a restart of its process.
//!
//! A partner notices a silence only when its own timeout has run out: 3 s after our last PDU if it
//! asks for short timeouts, else 90 s. Until then its view of us is what we last told it, that is,
//! in sync, collecting, distributing; and what it last told us is just as true. So a process that
//! comes back within that time may go on where the former one stopped. It says so with a PDU at
//! once, and this PDU shows the partner as not heard (not in sync, short timeout), as one of a port
//! in EXPIRED does: a partner has to answer that (`update_NTT`), while nothing else of it depends
//! on our view. The answer decides: if it says in sync, nobody has noticed anything. Without an
//! answer within a short timeout the port expires as any port does.
//!
//! Nothing is taken from a record that belongs to another system, key or port, or that is too old.

use serde::{Deserialize, Serialize};
use weft_stack::time::{Duration, Instant};

use super::aggregate::Bond;
use super::config::Mode;
use super::lacp::wire::Info;
use super::lacp::{MuxState, Port, ReceiveState, Resume, SHORT_TIMEOUT, Selected};

/// A bond's record. Its form may change with every release; one that cannot be read is no loss
/// beyond a few seconds of negotiation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedBond {
    /// `active-backup`: name of the active port.
    pub active: Option<String>,
    /// `lacp`: ports that were attached.
    pub ports: Vec<SavedPort>,
}

/// A port's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedPort {
    /// Name of the NIC.
    pub name: String,
    /// What we told.
    pub actor: Info,
    /// What the partner told.
    pub partner: Info,
    /// State of the Mux machine.
    pub mux: MuxState,
    /// Milliseconds since our last PDUs when this was written, the latest first.
    pub sent_ms: Vec<u64>,
}

impl Bond {
    /// The record. Write it when a process ends, and now and then for when it does not end well.
    pub fn save(&self, now: Instant) -> SavedBond {
        let name = |i: usize| self.config.ports[i].name.clone();
        let attached = |port: &Port| {
            port.receive == ReceiveState::Current
                && port.selected == Selected::Selected
                && port.mux >= MuxState::Attached
                && !port.is_draining()
        };
        let ports = self.ports.iter().enumerate().filter(|(_, p)| attached(p));
        SavedBond {
            active: self.active.map(name),
            ports: ports
                .map(|(i, port)| SavedPort {
                    name: name(i),
                    actor: port.actor,
                    partner: port.partner,
                    mux: port.mux,
                    sent_ms: port.transmit.ages(now).map(|age| age.as_millis() as u64).collect(),
                })
                .collect(),
        }
    }

    /// Goes on from a record that was written `away` ago (by a clock that counts over restarts).
    /// Ports take it up when their links come up, within 3 s. Call it before the first
    /// [`Bond::handle_link`], or right after. Gives the number of ports that may go on.
    pub fn restore(&mut self, now: Instant, saved: &SavedBond, away: Duration) -> usize {
        let position = |name: &String| self.config.ports.iter().position(|p| p.name == *name);
        if self.config.mode != Mode::Lacp {
            let active = saved.active.as_ref().and_then(position);
            let active = active.filter(|_| self.config.mode == Mode::ActiveBackup);
            self.resume_active = active.map(|port| (port, now + SHORT_TIMEOUT));
            return usize::from(active.is_some());
        }
        let mut taken = 0;
        for record in &saved.ports {
            let Some(port) = position(&record.name).map(|i| &mut self.ports[i]) else { continue };
            let ages = record.sent_ms.iter().map(|ms| Duration::from_millis(*ms) + away);
            let Some(silence) = ages.clone().min() else { continue };
            if port.heard_since_start()
                || !record.actor.is_same_end(&port.actor)
                || silence >= Port::partner_patience(&record.partner)
            {
                continue;
            }
            taken += 1;
            port.transmit.remember(now, ages);
            port.resume = Some(Resume {
                partner: record.partner,
                actor_state: record.actor.state,
                mux: normal(record.mux, port.controls_independently()),
                until: now + SHORT_TIMEOUT,
            });
        }
        self.run(now);
        taken
    }
}

/// A state that this port's control has.
fn normal(mux: MuxState, independent: bool) -> MuxState {
    match mux {
        MuxState::Collecting if !independent => MuxState::Attached,
        MuxState::Detached | MuxState::Waiting => MuxState::Attached,
        other => other,
    }
}
