//! Two nodes of a cluster compared: whether the vservers of each could run on the other, and whether
//! aliases of one name seem to be one network. Only what the configurations say is known; that two
//! switch ports are in one VLAN, they do not.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::{HostConfig, Identity, Vserver};

/// Vservers of a message that are named; the others are counted.
const NAMED_MAX: usize = 3;

/// What differs between two nodes. Displays as what is so, and what follows of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Mismatch {
    /// Something that vservers need is not on the other node.
    #[error("{node} has no {what} '{name}'; {} of {of} cannot move there", named(.vservers))]
    Missing {
        /// Of what kind.
        what: &'static str,
        /// Its name.
        name: String,
        /// Where it is missing.
        node: String,
        /// Where the vservers are.
        of: String,
        /// Those that use it.
        vservers: Vec<String>,
    },
    /// Client identifiers begin with different names, so DHCP servers take vservers for others.
    #[error(
        "{a} is of cluster '{a_id}' and {b} of '{b_id}'; a vserver that moves is another to DHCP servers"
    )]
    Cluster {
        /// A node.
        a: String,
        /// Its cluster; empty: none.
        a_id: String,
        /// The other.
        b: String,
        /// Its cluster.
        b_id: String,
    },
    /// Two nodes of one name ask DHCP servers for the same addresses.
    #[error("{a} and {b} are both node '{name}'; give one of them another name")]
    NodeTwice {
        /// A node.
        a: String,
        /// The other.
        b: String,
        /// What both say that they are.
        name: String,
    },
    /// One name for two networks.
    #[error(
        "{alias} is {} on {a} and {} on {b}; what moves is cut off, unless both are one network at the switch",
        vlan(*.a_tag), vlan(*.b_tag)
    )]
    Vlan {
        /// The alias.
        alias: String,
        /// A node.
        a: String,
        /// The tag there.
        a_tag: Option<u16>,
        /// The other.
        b: String,
        /// The tag there.
        b_tag: Option<u16>,
    },
    /// Frames that fit on one node do not on the other.
    #[error(
        "{alias} has mtu {a_mtu} on {a} and {b_mtu} on {b}; packets that fit before do not after"
    )]
    Mtu {
        /// The alias.
        alias: String,
        /// A node.
        a: String,
        /// The MTU there.
        a_mtu: usize,
        /// The other.
        b: String,
        /// The MTU there.
        b_mtu: usize,
    },
}

impl Mismatch {
    /// Whether a vserver cannot move because of it; the others look like mistakes.
    pub fn prevents_failover(&self) -> bool {
        matches!(self, Mismatch::Missing { .. } | Mismatch::NodeTwice { .. })
    }
}

fn vlan(tag: Option<u16>) -> String {
    tag.map_or_else(|| String::from("untagged"), |t| format!("in VLAN {t}"))
}

fn named(vservers: &[String]) -> String {
    let first = vservers.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    match vservers.len().saturating_sub(NAMED_MAX) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// A node, and how it is called in messages.
pub type Node<'a> = (&'a str, &'a HostConfig);

/// What keeps vservers of two nodes from moving to the other one, then what looks like a mistake.
pub fn compare(a: Node<'_>, b: Node<'_>) -> Vec<Mismatch> {
    let mut found: Vec<Mismatch> = identities(a, b).into_iter().collect();
    found.extend(missing(a, b));
    found.extend(missing(b, a));
    found.extend(networks(a, b));
    found.sort_by_key(|m| !m.prevents_failover());
    found
}

fn identities((a, a_config): Node<'_>, (b, b_config): Node<'_>) -> Option<Mismatch> {
    let id = |config: &HostConfig| config.cluster.as_ref().map(|c| c.id.to_string());
    let node = |config: &HostConfig| config.cluster.as_ref()?.node.clone();
    let (a_id, b_id) = (id(a_config), id(b_config));
    let (a, b) = (a.to_owned(), b.to_owned());
    if a_id != b_id {
        let (a_id, b_id) = (a_id.unwrap_or_default(), b_id.unwrap_or_default());
        return Some(Mismatch::Cluster { a, a_id, b, b_id });
    }
    let name = node(a_config).filter(|name| Some(name) == node(b_config).as_ref())?;
    Some(Mismatch::NodeTwice { a, b, name })
}

/// What vservers of one node use and the other has not. Those whose addresses are the node's own
/// stay where they are.
fn missing((of, from): Node<'_>, (node, to): Node<'_>) -> Vec<Mismatch> {
    let mut lacking: BTreeMap<(&'static str, &str), Vec<String>> = BTreeMap::new();
    for v in from.vservers.iter().filter(|v| v.identity != Identity::Node) {
        for alias in aliases(v) {
            let name = from.aliases[alias].name.as_str();
            if !to.aliases.iter().any(|a| a.name == name) {
                lacking.entry(("alias", name)).or_default().push(v.name.clone());
            }
        }
        for table in v.tables.iter().filter(|t| !to.tables.iter().any(|o| o.name == **t)) {
            lacking.entry(("route table", table)).or_default().push(v.name.clone());
        }
        let known = |name: &&String| to.neighbours.iter().any(|n| n.name == **name);
        if let Some(table) = v.neighbours.as_ref().filter(|name| !known(name)) {
            lacking.entry(("neighbour table", table)).or_default().push(v.name.clone());
        }
    }
    let tell = |((what, name), vservers): ((&'static str, &str), _)| {
        let (name, node, of) = (name.to_owned(), node.to_owned(), of.to_owned());
        Mismatch::Missing { what, name, node, of, vservers }
    };
    lacking.into_iter().map(tell).collect()
}

/// Aliases (indices) that a vserver cannot be without.
fn aliases(v: &Vserver) -> BTreeSet<usize> {
    let addresses = v.addresses.iter().map(|(alias, _)| *alias).chain(v.slaac.iter().copied());
    let routes = v.routes.iter().map(|r| r.alias).chain(v.named_routes.iter().map(|r| r.alias));
    addresses.chain(v.dhcp.iter().map(|d| d.alias)).chain(routes).collect()
}

/// Aliases of one name that seem to be different networks.
fn networks((a, a_config): Node<'_>, (b, b_config): Node<'_>) -> Vec<Mismatch> {
    // A configuration that was read has a tree.
    let (Ok(a_tree), Ok(b_tree)) = (a_config.tree(), b_config.tree()) else { return Vec::new() };
    let mut found = Vec::new();
    for here in &a_tree.aliases {
        let Some(there) = b_tree.aliases.iter().find(|o| o.name == here.name) else { continue };
        let alias = here.name.to_string();
        let (a, b) = (a.to_owned(), b.to_owned());
        let (a_tag, b_tag) = (a_tree.tag(here.link), b_tree.tag(there.link));
        if a_tag != b_tag {
            let (alias, a, b) = (alias.clone(), a.clone(), b.clone());
            found.push(Mismatch::Vlan { alias, a, a_tag, b, b_tag });
        }
        let mtus = (here.mtu.or(a_tree.at(here.link).mtu), there.mtu.or(b_tree.at(there.link).mtu));
        if let (Some(a_mtu), Some(b_mtu)) = mtus
            && a_mtu != b_mtu
        {
            found.push(Mismatch::Mtu { alias, a, a_mtu, b, b_mtu });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn config(rest: &str) -> HostConfig {
        let nics = "[nic.eth0]\ndriver = \"mem\"\n[nic.eth1]\ndriver = \"mem\"\n";
        let config = parse(&format!("{nics}{rest}"), "t.toml".as_ref());
        config.map_err(|e| e.to_string()).unwrap()
    }

    fn told(a: &str, b: &str) -> Vec<String> {
        let found = compare(("n1", &config(a)), ("n2", &config(b)));
        let rank = |m: &Mismatch| if m.prevents_failover() { "error" } else { "warning" };
        found.iter().map(|m| format!("{}: {m}", rank(m))).collect()
    }

    const DATA0: &str = "[alias.data0]\nover = \"eth0\"\n";

    #[test]
    fn nodes_that_differ_in_nics_bonds_and_addresses_only_are_alike() {
        let a = format!("{DATA0}[vserver.a]\naddresses = [\"data0 10.0.0.1/24\"]\n");
        let b = "[bond.bond0]\nports = [\"eth0\", \"eth1\"]\nmode = \"static\"\n\
            [alias.data0]\nover = \"bond0\"\n\
            [alias.data1]\nover = \"bond0.7\"\n";
        assert_eq!(told(&a, b), [""; 0]);
    }

    #[test]
    fn vservers_that_could_not_move_are_named_with_what_is_missing() {
        let a = format!(
            "{DATA0}[alias.data2]\nover = \"eth1\"\n[alias.mgmt0]\nover = \"eth0\"\n\
             [cluster]\nid = \"00:07:34:04:12:0E\"\nnode = \"n1\"\n\
             [vserver.web]\ncount = 5\naddresses = [\"data2 10.2.0.1/24\"]\n\
             [vserver.own]\nidentity = \"node\"\naddresses = [\"mgmt0 10.3.0.1/24\"]\n"
        );
        let b = format!(
            "{DATA0}[cluster]\nid = \"00:07:34:04:12:0E\"\nnode = \"n2\"\n\
             [table.ways]\nroutes = []\n\
             [vserver.b]\naddresses = [\"data0 10.0.0.2/24\"]\ntables = [\"ways\"]\n"
        );
        assert_eq!(
            told(&a, &b),
            [
                "error: n2 has no alias 'data2'; web1, web2, web3 and 2 more of n1 cannot move there",
                "error: n1 has no route table 'ways'; b of n2 cannot move there"
            ]
        );
        let twice = b.replace("n2", "n1").replace("tables = [\"ways\"]", "");
        let found = told(
            &format!("{DATA0}{}", &a[a.find("[cluster]").unwrap()..a.find("[vserver").unwrap()]),
            &twice,
        );
        assert_eq!(found, ["error: n1 and n2 are both node 'n1'; give one of them another name"]);
    }

    #[test]
    fn one_name_for_two_networks_is_suspicious() {
        let a = "[alias.data0]\nover = \"eth0.5\"\nmtu = 9000\n[alias.data1]\nover = \"eth1\"\n";
        let b = "[alias.data0]\nover = \"eth0\"\nmtu = 1500\n[alias.\"data1\"]\nover = \"eth1.7\"\n\
            [cluster]\nid = \"00:07:34:04:12:0F\"\n";
        assert_eq!(
            told(a, b),
            [
                "warning: n1 is of cluster '' and n2 of '00:07:34:04:12:0F'; a vserver that moves is another to DHCP servers",
                "warning: data0 is in VLAN 5 on n1 and untagged on n2; what moves is cut off, unless both are one network at the switch",
                "warning: data0 has mtu 9000 on n1 and 1500 on n2; packets that fit before do not after",
                "warning: data1 is untagged on n1 and in VLAN 7 on n2; what moves is cut off, unless both are one network at the switch"
            ]
        );
    }
}
