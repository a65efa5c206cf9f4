//! Interfaces of a host: their fixed names, and the tree that a configuration makes of them.

pub use weft_interface::LinkId;
pub use weft_interface::name::{AliasClass, InterfaceName, NameError};
pub use weft_interface::tree::draw;
use weft_interface::tree::{AliasSpec, NicSpec, TreeSpec};
pub use weft_interface::tree::{LinkKind, Owner, Tree, TreeError, Warning};

use crate::config::{Alias, Driver, HostConfig};

impl HostConfig {
    /// What its interfaces are made from.
    pub fn tree_spec(&self) -> TreeSpec {
        let nic = |n: &crate::config::Nic| NicSpec {
            name: n.name.clone(),
            // Memory has no interface of the kernel.
            device: if n.driver == Driver::Mem { String::new() } else { n.device.clone() },
            driver: n.driver.name(),
            ethernet: n.driver != Driver::Tun,
            mtu: n.mtu,
        };
        TreeSpec {
            nics: self.nics.iter().map(nic).collect(),
            bonds: self.bonds.clone(),
            vlans: self.vlans.clone(),
            groups: self.failover.clone(),
            aliases: self.aliases.iter().map(Alias::spec).collect(),
        }
    }

    /// Its interfaces, checked as a whole; else everything that is wrong with them.
    pub fn tree(&self) -> Result<Tree, Vec<TreeError>> {
        Tree::new(self.tree_spec())
    }

    /// By alias: the number of the link that carries it. Without any where interfaces do not fit
    /// together.
    pub(crate) fn links_of_aliases(&self) -> Vec<usize> {
        let tree = self.tree().unwrap_or_default();
        tree.aliases.iter().map(|a| usize::from(a.link.0)).collect()
    }

    /// By alias: the link that its rates are those of: that below its tag. All VLANs of a NIC
    /// share what the NIC may send.
    pub(crate) fn lanes_of_aliases(&self) -> Vec<usize> {
        let tree = self.tree().unwrap_or_default();
        let lane = |mut link: LinkId| {
            while let LinkKind::Vlan { over, .. } = tree.at(link).kind {
                link = over;
            }
            usize::from(link.0)
        };
        tree.aliases.iter().map(|a| lane(a.link)).collect()
    }

    /// By alias: the NICs below it. Without any where interfaces do not fit together.
    pub(crate) fn nics_of_aliases(&self) -> Vec<Vec<usize>> {
        match self.tree() {
            Ok(tree) => tree.aliases.iter().map(|a| tree.nics_below(a.link).to_vec()).collect(),
            Err(_) => vec![Vec::new(); self.aliases.len()],
        }
    }
}

impl Alias {
    fn spec(&self) -> AliasSpec {
        AliasSpec {
            name: self.name.clone(),
            over: Some(self.over.clone()).filter(|o| !o.is_empty()),
            mtu: self.mtu,
            mac: self.mac,
            beyond: self.beyond.clone(),
        }
    }

    /// Name of the link that carries it: what it stands over, with the tag in its own name if there
    /// is one.
    pub fn link(&self) -> String {
        match self.name.split_once('.') {
            Some((_, tag)) => format!("{}.{tag}", self.over),
            None => self.over.clone(),
        }
    }
}

/// Whether a name is that of an alias of the class, tagged itself or not.
pub(crate) fn is_alias_of(name: &str, class: AliasClass) -> bool {
    class_of(name) == Some(class)
}

/// What an alias is for, by its name.
pub(crate) fn class_of(name: &str) -> Option<AliasClass> {
    name.parse().ok().and_then(|n: InterfaceName| n.alias_class())
}
