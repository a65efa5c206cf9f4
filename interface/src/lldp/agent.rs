//! The agent of one NIC: its neighbours, and when something is sent (802.1AB 9.2).

use weft_stack::time::{Duration, Instant};

use super::wire::{self, Aggregation, Id, IdKind, Lldpdu};
use super::{
    CREDIT_MAX, FAST_COUNT, FAST_INTERVAL, HOLD, INTERVAL, LldpConfig, LldpCounters, LocalPort,
    LocalSystem, NEIGHBOURS_MAX, Neighbour,
};
use crate::Mac;

#[derive(Clone, Debug)]
pub(super) struct Agent {
    pub(super) port: LocalPort,
    config: LldpConfig,
    aggregation: Option<Aggregation>,
    up: bool,
    neighbours: Vec<Neighbour>,
    pub(super) counters: LldpCounters,
    /// When the next LLDPDU is due (`txTTR`); none without a link.
    due: Option<Instant>,
    /// Something is to be told that was not (`txNow`).
    pending: bool,
    /// Further LLDPDUs in the fast interval (`txFast`).
    fast: u8,
    credit: u8,
    /// When credit grows.
    credit_at: Option<Instant>,
    /// The TTL of the LLDPDU that the host is to take.
    outgoing: Option<u16>,
    ended: bool,
}

impl Agent {
    pub(super) fn new(config: LldpConfig, port: LocalPort) -> Agent {
        Agent {
            port,
            config,
            aggregation: None,
            up: false,
            neighbours: Vec::new(),
            counters: LldpCounters::default(),
            due: None,
            pending: false,
            fast: 0,
            credit: CREDIT_MAX,
            credit_at: None,
            outgoing: None,
            ended: false,
        }
    }

    pub(super) fn neighbours(&self) -> &[Neighbour] {
        &self.neighbours
    }

    fn may_send(&self) -> bool {
        self.up && self.config.transmit && !self.ended
    }

    pub(super) fn handle_link(&mut self, up: bool) {
        if up == self.up {
            return;
        }
        self.up = up;
        if up {
            self.fast = FAST_COUNT;
            self.pending = true;
        } else {
            self.neighbours.clear();
            self.due = None;
            self.pending = false;
            self.outgoing = None;
        }
    }

    pub(super) fn set_aggregation(&mut self, is: Option<Aggregation>) {
        if is != self.aggregation {
            self.aggregation = is;
            self.pending = true;
        }
    }

    /// Neighbours forget a NIC that falls silent at once, and hear soon of one that speaks again.
    pub(super) fn set_config(&mut self, config: LldpConfig) {
        let falls_silent = self.may_send() && !config.transmit;
        let speaks_again = config.transmit && !self.config.transmit;
        self.config = config;
        if falls_silent {
            self.outgoing = Some(0);
            (self.due, self.pending) = (None, false);
        }
        if speaks_again && self.may_send() {
            self.fast = FAST_COUNT;
            self.pending = true;
        }
        if !config.receive {
            self.neighbours.clear();
        }
    }

    pub(super) fn shutdown(&mut self) {
        if self.may_send() {
            self.outgoing = Some(0);
        }
        self.ended = true;
        self.due = None;
        self.pending = false;
        self.neighbours.clear();
    }

    pub(super) fn handle_frame(&mut self, now: Instant, chassis: Mac, frame: &[u8]) {
        if !self.up || self.ended || !self.config.receive {
            return;
        }
        let Ok((pdu, tlvs)) = wire::parse(frame) else {
            self.counters.frames_discarded += 1;
            return;
        };
        self.counters.tlvs_discarded += u64::from(tlvs.discarded);
        self.counters.tlvs_unrecognized += u64::from(tlvs.unrecognized);
        if pdu.chassis == Id::mac(IdKind::Mac, chassis) {
            self.counters.own += 1;
            return;
        }
        self.counters.frames_in += 1;
        self.keep(now, pdu);
    }

    fn keep(&mut self, now: Instant, pdu: Lldpdu) {
        self.forget(now);
        let known = self
            .neighbours
            .iter()
            .position(|n| n.pdu.chassis == pdu.chassis && n.pdu.port == pdu.port);
        if pdu.ttl == 0 {
            if let Some(i) = known {
                self.neighbours.remove(i);
            }
            return;
        }
        let until = now + Duration::from_secs(u64::from(pdu.ttl));
        if let Some(i) = known {
            let neighbour = &mut self.neighbours[i];
            *neighbour = Neighbour { pdu, heard: now, until, since: neighbour.since };
        } else if self.neighbours.len() < NEIGHBOURS_MAX {
            self.neighbours.push(Neighbour { pdu, since: now, heard: now, until });
            // Somebody new should not have to wait for us.
            self.fast = FAST_COUNT;
            self.pending = true;
        } else {
            self.counters.too_many_neighbours += 1;
        }
    }

    fn forget(&mut self, now: Instant) {
        let before = self.neighbours.len();
        self.neighbours.retain(|n| n.until > now);
        self.counters.ageouts += (before - self.neighbours.len()) as u64;
    }

    /// Runs what is due.
    pub(super) fn step(&mut self, now: Instant) {
        self.forget(now);
        while let Some(at) = self.credit_at.filter(|at| *at <= now) {
            self.credit += 1;
            self.credit_at = (self.credit < CREDIT_MAX).then_some((at + FAST_INTERVAL).max(now));
        }
        if !self.may_send() {
            return;
        }
        if self.due.is_some_and(|at| at <= now) {
            self.pending = true;
            self.due = None;
        }
        if self.pending && self.credit > 0 {
            self.pending = false;
            self.credit -= 1;
            self.credit_at.get_or_insert(now + FAST_INTERVAL);
            self.outgoing = Some(INTERVAL.as_secs() as u16 * HOLD + 1);
            self.fast = self.fast.saturating_sub(1);
            self.due = Some(now + if self.fast > 0 { FAST_INTERVAL } else { INTERVAL });
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let ageing = self.neighbours.iter().map(|n| n.until);
        // Credit matters only to one who waits for it.
        let credit = self.credit_at.filter(|_| self.pending && self.credit == 0);
        let due = self.due.filter(|_| !self.pending);
        ageing.chain(credit).chain(due).min()
    }

    pub(super) fn poll_transmit(&mut self, system: &LocalSystem) -> Option<Vec<u8>> {
        let ttl = self.outgoing.take()?;
        self.counters.frames_out += 1;
        Some(self.pdu(system, ttl).emit(self.port.mac))
    }

    fn pdu(&self, system: &LocalSystem, ttl: u16) -> Lldpdu {
        let chassis = Id::mac(IdKind::Mac, system.chassis);
        let port = Id::text(IdKind::InterfaceName, &self.port.name);
        let mut pdu = Lldpdu { ttl, ..Lldpdu::new(chassis, port) };
        if ttl == 0 {
            return pdu;
        }
        pdu.port_description = Some(self.port.name.clone());
        pdu.system_name = Some(system.name.clone());
        pdu.system_description = Some(system.description.clone());
        pdu.capabilities = Some(wire::Capabilities::STATION);
        pdu.aggregation = self.aggregation;
        pdu.max_frame = Some(self.port.max_frame);
        pdu
    }
}
