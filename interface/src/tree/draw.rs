//! The tree as `weft interfaces` shows it: from what carries aliases down to the NICs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::error::hex;
use super::{LinkKind, Owner, Tree};
use crate::LinkId;
use crate::bond::Mode;

/// What is known of a NIC now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NicFacts {
    /// Up, with carrier.
    pub up: bool,
    /// L3 MTU in bytes.
    pub mtu: usize,
    /// MAC address as text; `None` if it has none.
    pub mac: Option<String>,
}

/// One line of the drawing. What a bond or group stands on follows it, one level deeper; a link that
/// several stand on is there for each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Name of the interface.
    pub interface: String,
    /// Levels below what carries aliases.
    pub depth: usize,
    /// `nic`, `vlan`, `bond`, `group`.
    pub kind: String,
    /// `up`, `down`, or what the machines say of it.
    pub state: String,
    /// Mode and ports of a bond, tag of a VLAN, members of a group, what a component waits for.
    pub detail: String,
    /// MTU in bytes: the least below; 0 if nothing is known.
    pub mtu: usize,
    /// MAC address, of a NIC.
    pub mac: Option<String>,
    /// Names of the aliases on it.
    pub aliases: Vec<String>,
}

/// Columns in the order in which they are shown.
pub const COLUMNS: [&str; 7] = ["interface", "kind", "state", "detail", "mtu", "mac", "aliases"];

impl Tree {
    /// All lines. `nics` is by NIC, or empty if nothing is known of them. `live` has what the machines say of an interface, by name: its state and a
    /// detail; of others the state follows from the links below.
    pub fn draw(&self, nics: &[NicFacts], live: &BTreeMap<String, (String, String)>) -> Vec<Line> {
        let mut lines = Vec::new();
        for top in self.tops() {
            for (depth, link) in self.path(top) {
                lines.push(self.line(depth, link, nics, live));
            }
        }
        lines
    }

    /// Links that carry an alias or that nothing stands on.
    fn tops(&self) -> Vec<LinkId> {
        let mut stood_on = vec![false; self.links.len()];
        let mut carries = vec![false; self.links.len()];
        for link in &self.links {
            if let LinkKind::Vlan { over, .. } = link.kind {
                stood_on[usize::from(over.0)] = true;
            }
        }
        for alias in &self.aliases {
            carries[usize::from(alias.link.0)] = true;
        }
        let top = |i: usize| carries[i] || (self.links[i].above.is_none() && !stood_on[i]);
        let ids = (0..).zip(&self.links).map(|(id, _)| LinkId(id));
        ids.filter(|id| top(usize::from(id.0))).collect()
    }

    fn line(
        &self,
        depth: usize,
        link: LinkId,
        nics: &[NicFacts],
        live: &BTreeMap<String, (String, String)>,
    ) -> Line {
        let at = self.at(link);
        let interface = at.name.to_string();
        let below = self.nics_below(link);
        let facts: Vec<&NicFacts> = below.iter().filter_map(|n| nics.get(*n)).collect();
        let kind = match at.kind {
            LinkKind::Nic(_) => "nic",
            LinkKind::Vlan { .. } => "vlan",
            LinkKind::Bond(_) => "bond",
            LinkKind::Group(_) => "group",
        };
        let up = match self.carries(link, nics) {
            _ if nics.is_empty() => "unknown",
            true => "up",
            false => "down",
        };
        let (state, detail) = match live.get(&interface) {
            Some((state, detail)) => {
                // What it is by configuration stays true; counts of links are said better.
                let own = match at.kind {
                    LinkKind::Vlan { .. } => self.detail(link, nics),
                    _ => String::new(),
                };
                let gap = if own.is_empty() || detail.is_empty() { "" } else { "; " };
                (state.clone(), format!("{own}{gap}{detail}"))
            }
            None => (up.to_owned(), self.detail(link, nics)),
        };
        let detail = self.with_aliases(link, detail, live);
        let own = matches!(at.kind, LinkKind::Nic(_)).then(|| facts.first()).flatten();
        let aliases = self.aliases_of(link).map(|a| self.aliases[a].name.to_string());
        Line {
            interface,
            depth,
            kind: kind.to_owned(),
            state,
            detail,
            mtu: facts.iter().map(|f| f.mtu).chain(at.mtu).min().unwrap_or(0),
            mac: own.and_then(|f| f.mac.clone()),
            aliases: aliases.collect(),
        }
    }

    /// What is an alias's own, and what the machines say of it, stand behind the detail of its link.
    fn with_aliases(
        &self,
        link: LinkId,
        detail: String,
        live: &BTreeMap<String, (String, String)>,
    ) -> String {
        let mut parts = vec![detail];
        for alias in self.aliases_of(link).map(|a| &self.aliases[a]) {
            let name = alias.name.to_string();
            parts.extend(alias.mtu.map(|mtu| format!("{name} mtu {mtu}")));
            parts.extend(alias.mac.map(|mac| format!("{name} mac {}", hex(mac))));
            parts.extend(live.get(&name).map(|(state, why)| format!("{name} {state}: {why}")));
        }
        parts.retain(|part| !part.is_empty());
        parts.join("; ")
    }

    /// Whether frames get through as far as the links tell.
    fn carries(&self, link: LinkId, nics: &[NicFacts]) -> bool {
        let up = |links: &[LinkId]| links.iter().filter(|l| self.carries(**l, nics)).count();
        match self.at(link).kind {
            LinkKind::Nic(nic) => nics.get(nic).is_some_and(|f| f.up),
            LinkKind::Vlan { over, .. } => self.carries(over, nics),
            LinkKind::Bond(bond) => {
                let bond = &self.bonds[bond];
                up(&bond.ports) >= usize::from(bond.config.min_links.max(1))
            }
            LinkKind::Group(group) => up(&self.groups[group].members) > 0,
        }
    }

    fn detail(&self, link: LinkId, nics: &[NicFacts]) -> String {
        let at = self.at(link);
        let up = |links: &[LinkId]| links.iter().filter(|l| self.carries(**l, nics)).count();
        let standby = |group: usize| self.groups[group].config.is_standby(&at.name.to_string());
        match at.kind {
            LinkKind::Bond(bond) => {
                let bond = &self.bonds[bond];
                let mode = match bond.config.mode {
                    Mode::Lacp => "lacp",
                    Mode::Static => "static",
                    Mode::ActiveBackup => "active-backup",
                    Mode::RoundRobin => "round-robin",
                };
                match bond.ports.len() {
                    count if nics.is_empty() => format!("{mode}, {count} ports"),
                    count => format!("{mode}, {} of {count} ports up", up(&bond.ports)),
                }
            }
            LinkKind::Group(group) => {
                let members = &self.groups[group].members;
                match members.len() {
                    count if nics.is_empty() => format!("{count} members"),
                    count => format!("{} of {count} members up", up(members)),
                }
            }
            LinkKind::Vlan { tag, priority, .. } => match priority {
                Some(priority) => format!("tag {tag}, priority {priority}"),
                None => format!("tag {tag}"),
            },
            LinkKind::Nic(_) => match at.above {
                Some(Owner::Group(group)) if standby(group) => "standby".to_owned(),
                _ => String::new(),
            },
        }
    }
}

fn check(columns: &[&str]) -> Result<(), String> {
    match columns.iter().find(|c| !COLUMNS.contains(c)) {
        Some(bad) => Err(format!("'{bad}' is no column; there are {}", COLUMNS.join(", "))),
        None => Ok(()),
    }
}

impl Line {
    fn cell(&self, column: &str) -> String {
        match column {
            "interface" => self.interface.clone(),
            "kind" => self.kind.clone(),
            "state" => self.state.clone(),
            "detail" => self.detail.clone(),
            "mtu" if self.mtu == 0 => String::new(),
            "mtu" => self.mtu.to_string(),
            "mac" => self.mac.clone().unwrap_or_default(),
            _ => self.aliases.join(" "),
        }
    }
}

/// The lines for programs: no header, nothing drawn, fields between colons; of several `:` and `\`
/// in them stand after a `\`. `columns` as for [`table`].
pub fn parsable(lines: &[Line], columns: &[&str]) -> Result<String, String> {
    check(columns)?;
    let several = columns.len() > 1;
    let escaped = |text: String| text.replace('\\', "\\\\").replace(':', "\\:");
    let mut out = String::new();
    for line in lines {
        let cells = columns.iter().map(|c| line.cell(c));
        let cells = cells.map(|c| if several { escaped(c) } else { c });
        out += &cells.collect::<Vec<_>>().join(":");
        out.push('\n');
    }
    Ok(out)
}

/// The lines as a table with a drawn first column. `columns` are some of [`COLUMNS`]; `Err`: one
/// that is none.
pub fn table(lines: &[Line], columns: &[&str]) -> Result<String, String> {
    check(columns)?;
    let mut rows: Vec<Vec<String>> = vec![columns.iter().map(|c| c.to_ascii_uppercase()).collect()];
    for (i, line) in lines.iter().enumerate() {
        let cell = |column: &&str| match *column {
            "interface" => format!("{}{}", branch(lines, i), line.interface),
            other => line.cell(other),
        };
        let cells = columns.iter().map(cell);
        rows.push(cells.map(|c| if c.is_empty() { "--".to_owned() } else { c }).collect());
    }
    let width = |c: usize| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        let mut text = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String cannot fail.
            let _ = write!(text, "{cell:<width$}  ");
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    Ok(out)
}

/// The strokes before a name.
fn branch(lines: &[Line], i: usize) -> String {
    let depth = lines[i].depth;
    // Whether a line of this depth follows before the level above it ends.
    let goes_on = |level: usize| {
        lines[i + 1..].iter().take_while(|l| l.depth >= level).any(|l| l.depth == level)
    };
    let mut out = String::new();
    for level in 1..depth {
        out.push_str(if goes_on(level) { "│  " } else { "   " });
    }
    if depth > 0 {
        out.push_str(if goes_on(depth) { "├─ " } else { "└─ " });
    }
    out
}
