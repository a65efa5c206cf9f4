//! Bonds and cables in virtual time, and what must hold at every instant.

use std::collections::{HashMap, VecDeque};

use weft_stack::rng::Rng;
use weft_stack::time::{Duration, Instant};

use super::config::{Activity, Rate};
use super::lacp::wire::State;
use super::lacp::{MuxState, Selected};
use super::*;

pub(super) const MS: Duration = Duration::from_millis(1);

/// A port of a bond.
pub(super) type At = (usize, usize);

#[derive(Clone, Copy, Debug)]
pub(super) struct Cable {
    pub(super) ends: [At; 2],
    pub(super) up: bool,
    /// Of a hundred frames sent by the first and second end.
    pub(super) loss: [u64; 2],
}

pub(super) struct Lab {
    pub(super) now: Instant,
    pub(super) bonds: Vec<Bond>,
    pub(super) cables: Vec<Cable>,
    flying: VecDeque<(Instant, At, Vec<u8>)>,
    /// Times of LACPDUs by port.
    sent: HashMap<At, Vec<Instant>>,
    rng: Rng,
    pub(super) events: Vec<(Instant, usize, BondEvent)>,
}

pub(super) fn config(ports: usize) -> BondConfig {
    BondConfig {
        ports: (0..ports).map(|i| PortConfig::named(&format!("eth{i}"))).collect(),
        ..BondConfig::default()
    }
}

pub(super) fn fast(ports: usize) -> BondConfig {
    let lacp = LacpConfig { rate: Rate::Fast, ..LacpConfig::default() };
    BondConfig { lacp, ..config(ports) }
}

pub(super) fn passive(mut config: BondConfig) -> BondConfig {
    config.lacp.activity = Activity::Passive;
    config
}

pub(super) fn mac(bond: usize, port: usize) -> crate::Mac {
    [2, 0, 0, 0, bond as u8, port as u8]
}

pub(super) fn bond(index: usize, config: &BondConfig) -> Bond {
    let macs: Vec<_> = (0..config.ports.len()).map(|p| mac(index, p)).collect();
    Bond::new(config, &macs, index as u64)
}

impl Lab {
    /// Nothing is plugged in yet.
    pub(super) fn new(configs: &[BondConfig], seed: u64) -> Lab {
        Lab {
            now: Instant::from_millis(1000),
            bonds: configs.iter().enumerate().map(|(i, c)| bond(i, c)).collect(),
            cables: Vec::new(),
            flying: VecDeque::new(),
            sent: HashMap::new(),
            rng: Rng::from_u64(seed),
            events: Vec::new(),
        }
    }

    /// Two bonds, port by port.
    pub(super) fn pair(a: &BondConfig, b: &BondConfig) -> Lab {
        let mut lab = Lab::new(&[a.clone(), b.clone()], 1);
        for port in 0..a.ports.len().min(b.ports.len()) {
            lab.plug((0, port), (1, port));
        }
        lab
    }

    pub(super) fn plug(&mut self, a: At, b: At) -> usize {
        self.cables.push(Cable { ends: [a, b], up: false, loss: [0; 2] });
        self.set_link(self.cables.len() - 1, true);
        self.cables.len() - 1
    }

    pub(super) fn set_link(&mut self, cable: usize, up: bool) {
        self.cables[cable].up = up;
        for (bond, port) in self.cables[cable].ends {
            let link = if up { PortLink::UP } else { PortLink::DOWN };
            self.bonds[bond].handle_link(self.now, port, link);
        }
        self.settle();
    }

    pub(super) fn distributing(&self, bond: usize) -> Vec<u16> {
        self.bonds[bond].selection().distributing.to_vec()
    }

    /// A new process of a bond has no links yet. What the former one sent it knows only of ports
    /// whose record it took; returns their number.
    pub(super) fn restart(
        &mut self,
        index: usize,
        config: &BondConfig,
        saved: &SavedBond,
        away: Duration,
    ) -> usize {
        self.bonds[index] = bond(index, config);
        // Timers of the others run.
        self.run(away);
        let taken = self.bonds[index].restore(self.now, saved, away);
        for (i, port) in self.bonds[index].ports.iter().enumerate() {
            if port.resume.is_none() {
                self.sent.remove(&(index, i));
            }
        }
        taken
    }

    /// Whether both bonds send and take frames on these ports.
    pub(super) fn agree(&self, ports: &[u16]) -> bool {
        (0..2).all(|b| {
            let s = self.bonds[b].selection();
            s.distributing[..] == *ports && s.collecting[..] == *ports
        })
    }

    pub(super) fn unused(&self, bond: usize, port: usize) -> Option<Unused> {
        self.bonds[bond].report(self.now).ports[port].unused
    }

    pub(super) fn events_of(&self, bond: usize) -> Vec<BondEvent> {
        self.events.iter().filter(|e| e.1 == bond).map(|e| e.2).collect()
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        loop {
            let timers = self.bonds.iter().filter_map(Bond::poll_timeout);
            let next = timers.chain(self.flying.iter().map(|f| f.0)).min();
            let Some(at) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            while self.flying.front().is_some_and(|f| f.0 <= self.now) {
                let (_, (bond, port), frame) = self.flying.pop_front().expect("looked at");
                self.bonds[bond].handle_frame(self.now, port, &frame);
                self.settle();
            }
            for bond in &mut self.bonds {
                bond.handle_timeout(self.now);
            }
            self.settle();
            for bond in &self.bonds {
                let timeout = bond.poll_timeout();
                assert!(
                    timeout.is_none_or(|at| at > self.now),
                    "a timer does not go off: {bond:#?}"
                );
            }
        }
        self.now = end;
    }

    /// Until `done`, at most `limit`; how long it took.
    pub(super) fn run_until(
        &mut self,
        limit: Duration,
        done: impl Fn(&Lab) -> bool,
    ) -> Option<Duration> {
        let from = self.now;
        while !done(self) {
            if self.now - from >= limit {
                return None;
            }
            self.run(MS);
        }
        Some(self.now - from)
    }

    /// Takes what the bonds have to say, and looks at what must hold.
    fn settle(&mut self) {
        for bond in 0..self.bonds.len() {
            while let Some((port, frame)) = self.bonds[bond].poll_transmit() {
                self.send((bond, port), frame);
            }
            while let Some(event) = self.bonds[bond].poll_event() {
                self.events.push((self.now, bond, event));
            }
            check(&self.bonds[bond]);
        }
    }

    fn send(&mut self, from: At, frame: Vec<u8>) {
        assert_eq!(frame.len(), 124);
        assert_eq!(frame[6..12], self.bonds[from.0].ports[from.1].mac);
        if frame[14] == 1 {
            let sent = self.sent.entry(from).or_default();
            sent.push(self.now);
            // 802.1AX 6.4.16
            if let [.., first, _, _, last] = sent.as_slice() {
                assert!(*last - *first >= Duration::from_secs(1), "{from:?}: four in a second");
            }
        }
        for cable in &self.cables {
            let Some(end) = (0..2).find(|e| cable.ends[*e] == from) else { continue };
            let lost = self.rng.below(100) < cable.loss[end];
            if cable.up && !lost {
                self.flying.push_back((self.now + MS, cable.ends[1 - end], frame));
                return;
            }
        }
    }
}

/// A port distributes only if its partner is in sync and takes frames, all that do are one
/// aggregate, and no more than allowed.
fn check(bond: &Bond) {
    let s = bond.selection();
    assert!(s.distributing.iter().all(|p| s.collecting.contains(p)), "{s:?}");
    assert!(s.distributing.is_sorted());
    assert_eq!(bond.is_up(), !s.distributing.is_empty());
    let usable: Vec<_> = s.distributing.iter().map(|p| &bond.ports[usize::from(*p)]).collect();
    for port in &usable {
        assert!(port.enabled && !port.offline);
    }
    if bond.config().mode != Mode::Lacp {
        assert!(usable.is_empty() || usable.len() >= bond.limits.min_links.min(usable.len()));
        return;
    }
    assert!(usable.len() <= bond.limits.max_ports, "{usable:?}");
    for port in &usable {
        assert!(port.partner.state.has(State::SYNC));
        assert!(!bond.config().lacp.independent || port.partner.state.has(State::COLLECTING));
        assert_eq!((port.mux, port.selected), (MuxState::Distributing, Selected::Selected));
        let first = usable[0];
        assert_eq!(port.partner.system, first.partner.system);
        assert_eq!(port.partner.key, first.partner.key);
        assert!(port.partner.system.mac != port.actor.system.mac, "a loop");
    }
    let wanted = bond.limits.min_links;
    let sync = super::lacp::selection::in_sync(&bond.ports);
    assert!(usable.is_empty() || sync >= wanted, "{sync} in sync of {wanted}");
}
