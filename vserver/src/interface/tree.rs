//! Which alias stands on which NIC, checked.

use std::collections::HashSet;

use super::name::{InterfaceName, NameError};
use crate::config::HostConfig;

/// The interfaces of a host, by the positions that its configuration gives them.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    alias_nic: Vec<usize>,
    nic_aliases: Vec<Vec<usize>>,
}

/// Why interfaces do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// A name is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A name that is right, but not here.
    #[error("'{name}' cannot be {place}: {wanted}")]
    Place {
        /// The name.
        name: String,
        /// Where it stood.
        place: &'static str,
        /// What can.
        wanted: &'static str,
    },
    /// Two of one name.
    #[error("'{0}' is defined twice; give one of them another number")]
    Twice(String),
    /// An alias on nothing.
    #[error("alias '{0}' stands on a NIC that is not defined")]
    NoNic(String),
    /// Two NICs on one kernel interface.
    #[error("'{0}' and '{1}' use the same device '{2}'; a device has one owner")]
    DeviceShared(String, String, String),
}

impl Tree {
    /// Checks names and places of a configuration's NICs and aliases.
    pub fn new(config: &HostConfig) -> Result<Tree, TreeError> {
        let mut names = HashSet::new();
        let mut tree = Tree::default();
        for nic in &config.nics {
            if !matches!(nic.name.parse()?, InterfaceName::Eth(_)) {
                return Err(TreeError::Place {
                    name: nic.name.clone(),
                    place: "a NIC",
                    wanted: "only eth# is, bond#, VLAN and fail# are not built yet",
                });
            }
            if !names.insert(&nic.name) {
                return Err(TreeError::Twice(nic.name.clone()));
            }
            tree.nic_aliases.push(Vec::new());
        }
        for (i, alias) in config.aliases.iter().enumerate() {
            if !matches!(alias.name.parse()?, InterfaceName::Alias(..)) {
                return Err(TreeError::Place {
                    name: alias.name.clone(),
                    place: "an alias",
                    wanted: "mgmt#, data# and san# are",
                });
            }
            if !names.insert(&alias.name) {
                return Err(TreeError::Twice(alias.name.clone()));
            }
            let on = tree.nic_aliases.get_mut(alias.nic);
            on.ok_or_else(|| TreeError::NoNic(alias.name.clone()))?.push(i);
            tree.alias_nic.push(alias.nic);
        }
        check_devices(config)?;
        Ok(tree)
    }

    /// The NIC of an alias.
    pub fn nic_of(&self, alias: usize) -> usize {
        self.alias_nic[alias]
    }

    /// The aliases of a NIC.
    pub fn aliases_of(&self, nic: usize) -> &[usize] {
        &self.nic_aliases[nic]
    }
}

fn check_devices(config: &HostConfig) -> Result<(), TreeError> {
    for (i, a) in config.nics.iter().enumerate() {
        let same = |b: &&crate::config::Nic| !b.device.is_empty() && b.device == a.device;
        if let Some(b) = config.nics[..i].iter().find(same) {
            let (a, b) = (a.name.clone(), b.name.clone());
            return Err(TreeError::DeviceShared(b, a, config.nics[i].device.clone()));
        }
    }
    Ok(())
}
