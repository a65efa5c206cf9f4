//! What a host keeps for its diagnoses: LLDP of all NICs, and counters of some minutes ago.

use weft_stack::time::{Duration, Instant};

use super::{Diagnosis, Evidence, NicEvidence, Reports, Sample, Watch, diagnose};
use crate::lldp::wire::Aggregation;
use crate::lldp::{LldpConfig, LldpReport, LocalPort, LocalSystem};
use crate::tree::{Owner, Tree};
use crate::{Mac, Selection, lldp};

/// How often counters are looked at.
const LOOK_EVERY: Duration = Duration::from_mins(1);
/// Header and FCS around a packet.
const FRAME_EXTRA: usize = 18;
/// Of a NIC that says none.
const MTU: usize = 1500;

/// What a device says of a NIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NicFacts {
    /// It has a link.
    pub up: bool,
    /// Its MTU.
    pub mtu: Option<usize>,
}

/// Runs LLDP and remembers counters, for [`diagnose`].
#[derive(Clone, Debug)]
pub struct Station {
    lldp: lldp::Lldp,
    config: LldpConfig,
    facts: Vec<NicFacts>,
    /// Since when each NIC has a link.
    up_since: Vec<Option<Instant>>,
    watches: Vec<Watch>,
    look_at: Instant,
}

impl Station {
    /// For the NICs of a tree, which have these MAC addresses; NICs without Ethernet do nothing.
    /// `system` is the name of the host, `description` what runs on it.
    pub fn new(
        tree: &Tree,
        macs: &[Mac],
        config: LldpConfig,
        (system, description): (&str, &str),
    ) -> Station {
        let ethernet = |nic: &usize| tree.links[*nic].ethernet;
        let chassis = (0..tree.nics).find(ethernet).and_then(|nic| macs.get(nic));
        let system = LocalSystem {
            chassis: chassis.copied().unwrap_or_default(),
            name: system.to_owned(),
            description: description.to_owned(),
        };
        let port = |nic: usize| LocalPort {
            name: tree.links[nic].name.to_string(),
            mac: macs.get(nic).copied().unwrap_or_default(),
            max_frame: max_frame(tree.links[nic].mtu),
        };
        let ports: Vec<LocalPort> = (0..tree.nics).map(port).collect();
        Station {
            lldp: lldp::Lldp::new(config, system, &ports),
            config,
            facts: vec![NicFacts::default(); tree.nics],
            up_since: vec![None; tree.nics],
            watches: vec![Watch::default(); tree.nics],
            look_at: Instant::ZERO,
        }
    }

    /// What is done with LLDP.
    pub fn lldp_config(&self) -> LldpConfig {
        self.config
    }

    /// Something else is done with LLDP from now on.
    pub fn set_lldp(&mut self, now: Instant, config: LldpConfig) {
        self.config = config;
        self.lldp.set_config(now, config);
    }

    /// The link of a NIC changed, or is told again. Not to be called for one without Ethernet.
    pub fn handle_link(&mut self, now: Instant, nic: usize, facts: NicFacts) {
        let Some(known) = self.facts.get_mut(nic) else { return };
        *known = facts;
        let since = &mut self.up_since[nic];
        *since = facts.up.then(|| since.unwrap_or(now));
        self.lldp.set_max_frame(nic, max_frame(facts.mtu));
        self.lldp.handle_link(now, nic, facts.up);
    }

    /// A frame of LLDP came in on a NIC, from its destination address on.
    pub fn handle_frame(&mut self, now: Instant, nic: usize, frame: &[u8]) {
        self.lldp.handle_frame(now, nic, frame);
    }

    /// What may be used changed: LLDP tells which ports are aggregated.
    pub fn handle_selection(&mut self, now: Instant, tree: &Tree, selection: &Selection) {
        for nic in 0..tree.nics {
            let Some(Owner::Bond(bond)) = tree.links[nic].above else { continue };
            let position = tree.bonds[bond].ports.iter().position(|p| usize::from(p.0) == nic);
            let selected = selection.bonds.get(bond).zip(position);
            let enabled = selected.is_some_and(|(s, p)| s.distributing.contains(&(p as u16)));
            // Numbers of links begin at 0, and 0 is none.
            let id = if enabled { u32::from(tree.bonds[bond].link.0) + 1 } else { 0 };
            self.lldp.set_aggregation(now, nic, Some(Aggregation { capable: true, enabled, id }));
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.lldp.handle_timeout(now);
    }

    /// When [`Station::handle_timeout`] has to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.lldp.poll_timeout()
    }

    /// A frame to send as it is, and the NIC to send it on.
    pub fn poll_transmit(&mut self) -> Option<(usize, Vec<u8>)> {
        self.lldp.poll_transmit()
    }

    /// Whether [`Station::look`] should be called: counters are compared over minutes.
    pub fn wants_look(&self, now: Instant) -> bool {
        now >= self.look_at
    }

    /// Takes the counters of the NICs.
    pub fn look(&mut self, now: Instant, samples: &[Sample]) {
        self.look_at = now + LOOK_EVERY;
        for (watch, sample) in self.watches.iter_mut().zip(samples) {
            watch.observe(now.as_millis(), sample);
        }
    }

    /// The process ends: take what [`Station::poll_transmit`] has after this.
    pub fn shutdown(&mut self) {
        self.lldp.shutdown();
    }

    /// Who is at the other ends.
    pub fn neighbours(&self, now: Instant) -> Vec<LldpReport> {
        self.lldp.report(now)
    }

    /// Everything that is wrong.
    pub fn diagnose(
        &mut self,
        now: Instant,
        tree: &Tree,
        reports: Reports,
        samples: &[Sample],
    ) -> Vec<Diagnosis> {
        self.look_if_due(now, samples);
        let nics = self.lldp.report(now).into_iter().enumerate().map(|(nic, report)| {
            let (watch, sample) = (self.watches.get(nic), samples.get(nic));
            NicEvidence {
                name: report.port,
                link: self.facts[nic].up,
                link_ms: self.up_since[nic]
                    .map_or(0, |at| now.saturating_since(at).as_millis() as u64),
                mtu: self.facts[nic].mtu,
                lldp: report.neighbours,
                recent: watch.zip(sample).and_then(|(w, s)| w.recent(now.as_millis(), s)),
            }
        });
        let evidence = Evidence::new(tree, reports, nics.collect());
        diagnose(&evidence)
    }

    fn look_if_due(&mut self, now: Instant, samples: &[Sample]) {
        if self.wants_look(now) {
            self.look(now, samples);
        }
    }
}

fn max_frame(mtu: Option<usize>) -> u16 {
    u16::try_from(mtu.unwrap_or(MTU) + FRAME_EXTRA).unwrap_or(u16::MAX)
}
