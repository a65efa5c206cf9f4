//! A bond whose configuration changes while it runs: ports of which nothing else is told to the
//! partner keep what was negotiated.

use core::mem;

use weft_stack::time::Instant;

use super::{Bond, BondConfig, LacpConfig, Mode, PortLink};
use crate::Mac;

impl Bond {
    /// The configuration is another from now on; `ports` are the MAC addresses of its ports, and
    /// `links` what is known of each. Ports that stay negotiate anew only if the partner is told
    /// something else of them: another system, key, priority, number or timing.
    ///
    /// # Panics
    ///
    /// As [`Bond::new`].
    pub fn update(
        &mut self,
        now: Instant,
        config: &BondConfig,
        (ports, links): (&[Mac], &[PortLink]),
        seed: u64,
    ) {
        let mut next = Bond::new(config, ports, seed);
        let same = self.mac == next.mac
            && config.mode == self.config.mode
            && told(&config.lacp) == told(&self.config.lacp);
        for (new, port) in config.ports.iter().enumerate() {
            let old = self.config.ports.iter().position(|p| p == port);
            let Some(old) = old.filter(|_| same) else { continue };
            next.ports[new] = self.ports[old].clone();
            next.members[new] = self.members[old].clone();
            next.active = next.active.or_else(|| (self.active == Some(old)).then_some(new));
        }
        if same && config.mode == Mode::Lacp {
            next.aggregate = self.aggregate.clone();
            // A port that is alone is named by its position.
            next.aggregate.lag = next.aggregate.lag.filter(|lag| lag.individual.is_none());
        }
        for (port, before) in self.config.ports.iter().zip(&self.ports) {
            let new = config.ports.iter().position(|p| p.name == port.name);
            if let Some(new) = new {
                // What the operator took out stays out.
                next.ports[new].offline = before.offline;
            }
        }
        (next.up, next.partner_told, next.now) = (self.up, self.partner_told, self.now);
        next.selection.clone_from(&self.selection);
        (next.events, next.events_lost) = (mem::take(&mut self.events), self.events_lost);
        next.changed = true;
        *self = next;
        for (port, link) in links.iter().enumerate() {
            self.handle_link(now, port, *link);
        }
    }
}

/// What partners are told, and what the machines of a port go by.
fn told(lacp: &LacpConfig) -> LacpConfig {
    let LacpConfig { max_ports, select, .. } = LacpConfig::default();
    LacpConfig { max_ports, select, ..lacp.clone() }
}
