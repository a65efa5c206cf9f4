//! What `weft access` shows.

use std::fmt::Write as _;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Action;
use crate::config::client::ClientName;

/// The rules of vservers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessReport {
    /// Of this document; it only grows.
    pub schema_version: u32,
    /// Those that were asked for.
    pub vservers: Vec<VserverAccess>,
}

/// The rules of one vserver.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VserverAccess {
    /// Its name.
    pub vserver: String,
    /// In order of evaluation; the first that matches decides, and what none matches is allowed.
    pub rules: Vec<RuleReport>,
    /// Packets dropped in silence.
    pub denied: u64,
    /// Packets refused with an answer.
    pub rejected: u64,
    /// Answers to its own datagrams that are waited for, because rules would not let them in.
    pub states: usize,
    /// The limit of `states`.
    pub states_max: usize,
    /// Datagrams sent when that limit was reached.
    pub states_refused: u64,
}

/// A rule, and what it decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleReport {
    /// What becomes of what it matches.
    pub action: Action,
    /// As written.
    pub services: String,
    /// Protocols and ports.
    pub ports: Vec<String>,
    /// Aliases or kinds of alias; empty: all.
    pub on: Vec<String>,
    /// Clients; empty: all.
    pub from: Vec<String>,
    /// What those of them that are names stand for now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<NamedClient>,
    /// What answers those that it allows, for policy routing rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<u32>,
    /// Where it stands: `vserver, line 7`, `group web, line 3`, `host, line 2`, `default`.
    pub origin: String,
    /// First packets that it decided about, each part of a merged unit by itself.
    pub hits: u64,
    /// Who sent the last one.
    pub last_client: Option<IpAddr>,
    /// How long ago.
    pub last_ms_ago: Option<u64>,
}

/// A name of clients, and what it stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedClient {
    /// The name.
    pub name: String,
    /// Its addresses; none: it is not resolved yet, and matches nothing.
    pub addresses: Vec<IpAddr>,
}

impl NamedClient {
    pub(crate) fn of(named: &ClientName) -> NamedClient {
        NamedClient { name: named.name.clone(), addresses: named.addresses.clone() }
    }

    /// `admin.example (10.0.0.5)`.
    pub fn render(&self) -> String {
        let all: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        let all = if all.is_empty() { "no address yet" } else { &all.join(" ") };
        format!("{} ({all})", self.name)
    }
}

/// What would become of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessQuery {
    /// Which vserver.
    pub vserver: String,
    /// `tcp/22`, `icmp`, or the name of a service or class.
    pub service: String,
    /// The client.
    pub from: IpAddr,
    /// Alias, or address of the vserver; `None`: every alias it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// Which rule decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessDecision {
    /// Where the client comes in.
    pub alias: String,
    /// Protocol and port.
    pub service: String,
    /// What becomes of it.
    pub action: Action,
    /// The mark of what answers, for policy routing rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<u32>,
    /// The rule's number in `weft access`, from 1; `None`: none matches, which allows.
    pub rule: Option<usize>,
    /// The rule.
    pub text: String,
    /// Where it stands.
    pub origin: String,
}

fn ago(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{}.{} s ago", ms / 1000, ms % 1000 / 100),
        10_000..600_000 => format!("{} s ago", ms / 1000),
        _ => format!("{} min ago", ms / 60_000),
    }
}

fn what(r: &RuleReport) -> String {
    let mark = r.mark.map_or_else(String::new, |mark| format!(" mark {mark}"));
    format!("{} {}{mark}", r.action.name(), r.services)
}

/// As written, with what names stand for.
fn clients(r: &RuleReport) -> Vec<String> {
    let of = |text: &String| {
        let named = r.names.iter().find(|n| n.name == *text);
        named.map_or_else(|| text.clone(), NamedClient::render)
    };
    r.from.iter().map(of).collect()
}

fn or<'a>(text: &'a str, empty: &'a str) -> &'a str {
    if text.is_empty() { empty } else { text }
}

impl VserverAccess {
    /// As a table.
    pub fn render(&self) -> String {
        let mut rows =
            vec![["#", "rule", "on", "from", "origin", "hits", "last"].map(String::from)];
        for (i, r) in self.rules.iter().enumerate() {
            let last = match (r.last_client, r.last_ms_ago) {
                (Some(client), Some(ms)) => format!("{client}, {}", ago(ms)),
                _ => String::from("-"),
            };
            rows.push([
                (i + 1).to_string(),
                what(r),
                or(&r.on.join(", "), "all").to_owned(),
                or(&clients(r).join(", "), "all").to_owned(),
                r.origin.clone(),
                r.hits.to_string(),
                last,
            ]);
        }
        let rest = ["-", "allow any", "all", "all", "default", "-", "-"];
        rows.push(rest.map(String::from));
        let width = |c: usize| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or_default();
        let widths: Vec<usize> = (0..7).map(width).collect();
        let mut out = format!("vserver {}\n", self.vserver);
        for row in &rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(line, "  {cell:width$}");
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        let _ = writeln!(
            out,
            "  dropped {}, refused {}; answers waited for {} of {}, not noted {}",
            self.denied, self.rejected, self.states, self.states_max, self.states_refused
        );
        out
    }
}

impl AccessReport {
    /// As tables.
    pub fn render(&self) -> String {
        self.vservers.iter().map(VserverAccess::render).collect::<Vec<_>>().join("\n")
    }
}

impl AccessDecision {
    /// As a line.
    pub fn render(&self) -> String {
        let rule = self.rule.map_or_else(String::new, |n| format!("rule {n}, "));
        format!(
            "{} on {}: {} ({rule}{}: {})\n",
            self.service,
            self.alias,
            self.action.name(),
            self.origin,
            self.text
        )
    }
}
