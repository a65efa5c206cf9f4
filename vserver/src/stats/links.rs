//! Links above the NICs in a snapshot.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weft_interface::LinkId;

use super::mac_text;
use crate::interface::Tree;
use crate::runtime::Core;

/// A VLAN, bond or failover group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LinkSnapshot {
    /// `eth0.5`, `bond0`, `fail0`.
    pub name: String,
    /// Whether it carries frames.
    pub up: bool,
    /// L3 MTU in bytes: the least of the NICs below.
    pub mtu: usize,
    /// MAC address that stacks on it have, `aa:bb:cc:dd:ee:ff`.
    pub mac: Option<String>,
    /// Positions of the NICs below.
    pub nics: Vec<usize>,
    /// Of a VLAN what came and went with its tag, by name (`VlanInFrames`, ...), zeros included.
    pub counters: BTreeMap<String, u64>,
}

/// Adds what one worker knows; the state is that of worker 0, which comes first.
pub(super) fn add(links: &mut Vec<LinkSnapshot>, tree: &Tree, core: &Core) {
    if links.is_empty() {
        for at in tree.nics..core.links.len().min(tree.links.len()) {
            let link = &core.links[at];
            links.push(LinkSnapshot {
                name: tree.links[at].name.to_string(),
                up: link.up,
                mtu: link.mtu,
                mac: core.plane.mac(LinkId(at as u16)).map(mac_text),
                nics: link.nics.to_vec(),
                counters: BTreeMap::new(),
            });
        }
    }
    for (link, stats) in core.plane.tags() {
        let at = usize::from(link.0).checked_sub(tree.nics);
        let Some(link) = at.and_then(|at| links.get_mut(at)) else { continue };
        stats.for_each(|name, n| *link.counters.entry(name.to_owned()).or_default() += n);
    }
}
