//! What an operator takes out and puts back.

use weft_stack::time::Instant;

use super::Keeper;
use crate::LinkId;
use crate::fail;

/// Why something cannot be taken out, or put back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfflineError {
    /// Nothing of that name.
    #[error("there is no interface '{0}'; see 'weft interfaces'")]
    Unknown(String),
    /// It is in nothing that could go on without it.
    #[error("{0} is neither a member of a failover group nor a port of a bond")]
    NotAMember(String),
    /// A port of a bond without which that would be down.
    #[error("{port} stays: {bond} needs {needed} ports and {left} others can be used")]
    Last {
        /// The port.
        port: String,
        /// Its bond.
        bond: String,
        /// Ports that the bond needs.
        needed: usize,
        /// Others that send.
        left: usize,
    },
    /// A port of a bond that is not out.
    #[error("{0} is not offline")]
    NotOffline(String),
    /// The failover group refuses.
    #[error(transparent)]
    Stays(fail::OfflineError),
    /// The failover group refuses.
    #[error(transparent)]
    StaysOut(fail::UndoError),
}

impl Keeper {
    /// Takes a member out of its failover group, or a port out of its bond, or puts it back.
    pub fn set_offline(
        &mut self,
        now: Instant,
        name: &str,
        offline: bool,
    ) -> Result<(), OfflineError> {
        let unknown = || OfflineError::Unknown(name.to_owned());
        let link = name.parse().ok().and_then(|n| self.tree.link(&n)).ok_or_else(unknown)?;
        if let Some((bond, port)) = self.port_of(usize::from(link.0)) {
            self.set_port_offline(now, (bond, port), link, offline)?;
        } else if let Some((group, member)) = self.member_of(link) {
            self.groups[group].set_offline(now, member, offline)?;
        } else {
            return Err(OfflineError::NotAMember(self.tree.at(link).name.to_string()));
        }
        self.run(now);
        Ok(())
    }

    fn set_port_offline(
        &mut self,
        now: Instant,
        (bond, port): (usize, usize),
        link: LinkId,
        offline: bool,
    ) -> Result<(), OfflineError> {
        let at = &self.bonds[bond];
        let name = self.tree.at(link).name.to_string();
        let is_out = at.report(now).ports[port].offline;
        if !offline && !is_out {
            return Err(OfflineError::NotOffline(name));
        }
        // A port that carries nothing now can be taken out of any bond.
        let sends = at.selection().distributing.contains(&(port as u16));
        let left = self.usable_ports(bond).filter(|p| *p != port).count();
        let needed = usize::from(at.config().min_links.max(1));
        if offline && sends && left < needed {
            let bond = self.tree.at(self.tree.bonds[bond].link).name.to_string();
            return Err(OfflineError::Last { port: name, bond, needed, left });
        }
        self.bonds[bond].set_offline(now, port, offline);
        Ok(())
    }

    /// Ports of a bond that send, or would if another did not.
    fn usable_ports(&self, bond: usize) -> impl Iterator<Item = usize> + '_ {
        use crate::bond::{Mode, Unused};
        let at = &self.bonds[bond];
        let backup = at.config().mode == Mode::ActiveBackup;
        let distributing = &at.selection().distributing;
        (0..self.tree.bonds[bond].ports.len()).filter(move |port| {
            let sends = distributing.contains(&(*port as u16));
            sends || backup && at.why_unused(*port) == Some(Unused::Standby)
        })
    }
}
