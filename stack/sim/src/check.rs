//! What has to hold after every run.

use weft_stack::stack::Memory;
use weft_stack::time::Duration;

use crate::net::Net;

/// Longer than every timer of the stack that ends: TIME-WAIT, FIN-WAIT-2, reassembly, the last
/// retransmission of a connection whose peer is gone.
const LAST_TIMER: Duration = Duration::from_mins(30);

impl Net {
    /// Checks what has to hold at any time: the actors saw nothing wrong, and every received frame
    /// of every host has exactly one fate.
    pub fn check(&self) -> Result<(), String> {
        self.verdicts()?;
        self.sums()
    }

    /// As [`Net::check`], while transfers go on: who is not finished is not yet wrong.
    pub fn check_so_far(&self) -> Result<(), String> {
        self.problems()?;
        self.sums()
    }

    /// For the end of a run, when the actors have closed their sockets: lets all timers run out,
    /// then checks that nothing is held any more, besides what [`Net::check`] checks.
    pub fn check_at_rest(&mut self) -> Result<(), String> {
        self.run_for(LAST_TIMER);
        self.check()?;
        self.held()
    }

    /// As [`Net::check_at_rest`], for runs whose transfers were not to succeed: the actors' verdict
    /// does not count.
    pub fn check_memory(&mut self) -> Result<(), String> {
        self.run_for(LAST_TIMER);
        self.sums()?;
        self.held()
    }

    /// How many segments the [witness](crate::Witness) of the wire has judged.
    pub fn judged(&self) -> u64 {
        self.witness.judged()
    }

    fn sums(&self) -> Result<(), String> {
        for host in &self.hosts {
            host.stack.mib().check_sums().map_err(|e| format!("{}: {e}", host.name))?;
        }
        Ok(())
    }

    fn held(&self) -> Result<(), String> {
        for host in &self.hosts {
            let held = host.stack.memory();
            let rest = Memory {
                neighbours: held.neighbours,
                path_mtus: held.path_mtus,
                ..Memory::default()
            };
            if held != rest {
                return Err(format!("{} still holds {held:?}", host.name));
            }
            let (free, slots) = (host.pool.free(), host.pool.slots());
            if free != slots {
                return Err(format!("{}: {} frames did not come back", host.name, slots - free));
            }
        }
        Ok(())
    }
}
