//! A plan as people and programs read it.

use serde::{Deserialize, Serialize};

use super::plan::{Place, Plan, Ruling, Step};
use crate::config::{Alias, RouteSpec, RuleSpec, RuleTarget, Service, ServiceKind, Vserver};

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// `+` comes, `-` goes, `~` changes.
    pub sign: char,
    /// The vserver it is about; left out: the whole host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vserver: Option<String>,
    /// What.
    pub text: String,
}

/// All differences of a plan, in the order in which they are made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Described {
    /// One for each.
    pub lines: Vec<Line>,
}

impl Described {
    /// For people: the whole host's first, then each vserver's under its name. Without differences:
    /// nothing.
    pub fn text(&self) -> String {
        let mut names: Vec<&Option<String>> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for line in &self.lines {
            if seen.insert(&line.vserver) {
                names.push(&line.vserver);
            }
        }
        names.sort_by_key(|n| n.is_some());
        let mut by_name: std::collections::HashMap<&Option<String>, String> =
            std::collections::HashMap::new();
        for line in &self.lines {
            let indent = if line.vserver.is_some() { "  " } else { "" };
            let text = by_name.entry(&line.vserver).or_default();
            text.extend([indent, &line.sign.to_string(), " ", &line.text, "\n"]);
        }
        let mut out = String::new();
        for name in names {
            if let Some(vserver) = name {
                out.extend(["vserver ", vserver, "\n"]);
            }
            out += by_name.get(name).map_or("", String::as_str);
        }
        out
    }
}

impl Plan {
    /// What it changes.
    pub fn describe(&self) -> Described {
        let mut lines: Vec<Line> = self.steps.iter().flat_map(|s| self.lines_of(s)).collect();
        lines.extend(self.notes.iter().map(|n| Line {
            sign: '~',
            vserver: n.vserver.clone(),
            text: n.text.clone(),
        }));
        Described { lines }
    }

    /// One step, to tell of a failure.
    pub(super) fn name_of(&self, step: &Step) -> String {
        let lines = self.lines_of(step);
        let Some(first) = lines.first() else { return String::from("publish") };
        let of = first.vserver.as_ref().map(|v| format!("vserver {v}: ")).unwrap_or_default();
        format!("{of}{} {}", first.sign, first.text)
    }

    fn alias(&self, number: usize) -> &str {
        self.aliases.get(number).map_or("?", String::as_str)
    }

    fn address(&self, place: &Place) -> String {
        format!("address {} {}", self.alias(place.alias), place.cidr)
    }

    fn route(&self, r: &RouteSpec) -> String {
        let via = r.via.map(|v| format!(" via {v}")).unwrap_or_default();
        let src = r.src.map(|s| format!(" src {s}")).unwrap_or_default();
        let metric = if r.metric == 0 { String::new() } else { format!(" metric {}", r.metric) };
        format!("route {}{via} dev {}{src}{metric}", r.to.network(), self.alias(r.alias))
    }

    fn lines_of(&self, step: &Step) -> Vec<Line> {
        match step {
            Step::Interfaces { from, to } => super::interfaces::lines(from, to),
            Step::AliasAdd { alias, .. } => vec![host('+', format!("alias {}", alias_text(alias)))],
            Step::AliasRemove { alias, .. } => {
                vec![host('-', format!("alias {}", alias_text(alias)))]
            }
            Step::AliasMtu { name, from, to, .. } => {
                let text = format!("alias {name} mtu {} -> {}", mtu_text(*from), mtu_text(*to));
                vec![host('~', text)]
            }
            Step::VserverAdd(v) => self.whole('+', v),
            Step::VserverRemove(v) => self.whole('-', v),
            Step::Limits { vserver, from, to } => fields(vserver, "limits", from, to),
            Step::Tcp { vserver, from, to } => fields(vserver, "tcp", from, to),
            Step::Attach { vserver, alias, .. } => {
                vec![of(vserver, '+', format!("alias {}", self.alias(*alias)))]
            }
            Step::Detach { vserver, alias, .. } => {
                vec![of(vserver, '-', format!("alias {}", self.alias(*alias)))]
            }
            Step::Slaac { vserver, alias, on } => {
                let sign = if *on { '+' } else { '-' };
                vec![of(vserver, sign, format!("slaac {}", self.alias(*alias)))]
            }
            Step::Forwarding { vserver, on } => vec![of(vserver, '~', format!("forwarding {on}"))],
            Step::AddressAdd(place) => vec![of(&place.vserver, '+', self.address(place))],
            Step::AddressRemove(place) => vec![of(&place.vserver, '-', self.address(place))],
            Step::AddressMove { from, to } => {
                let going = format!("{} (to {})", self.address(from), to.vserver);
                let coming = format!("{} (from {})", self.address(to), from.vserver);
                vec![of(&from.vserver, '-', going), of(&to.vserver, '+', coming)]
            }
            Step::Prefix { from, to } => {
                vec![of(&from.vserver, '~', format!("{} -> {to}", self.address(from)))]
            }
            Step::Route { vserver, from, to } => match (from, to) {
                (Some(from), Some(to)) => {
                    vec![of(vserver, '-', self.route(from)), of(vserver, '+', self.route(to))]
                }
                (Some(from), None) => vec![of(vserver, '-', self.route(from))],
                (None, Some(to)) => vec![of(vserver, '+', self.route(to))],
                (None, None) => Vec::new(),
            },
            Step::Conflicts { place, to } => {
                let text = format!("{}: acd {} -> {to}", self.address(place), place.conflicts);
                vec![of(&place.vserver, '~', text.to_lowercase())]
            }
            Step::Table { name, from, to } => self.table(name, from.as_ref(), to.as_ref()),
            Step::Rules { vserver, from, to } => self.ruling(vserver, from, to),
            Step::Services { vserver, from, to } => {
                let gone = from.iter().filter(|s| !to.contains(s));
                let come = to.iter().filter(|s| !from.contains(s));
                gone.map(|s| of(vserver, '-', service_text(s)))
                    .chain(come.map(|s| of(vserver, '+', service_text(s))))
                    .collect()
            }
            Step::Publish => Vec::new(),
        }
    }

    /// Routes of a shared table that come and go.
    fn table(
        &self,
        name: &str,
        from: Option<&Vec<RouteSpec>>,
        to: Option<&Vec<RouteSpec>>,
    ) -> Vec<Line> {
        let mut lines = Vec::new();
        if from.is_none() || to.is_none() {
            lines.push(host(if to.is_some() { '+' } else { '-' }, format!("table {name}")));
        }
        let none = Vec::new();
        let (from, to) = (from.unwrap_or(&none), to.unwrap_or(&none));
        let text = |r: &RouteSpec| format!("table {name} {}", self.route(r));
        lines.extend(from.iter().filter(|r| !to.contains(r)).map(|r| host('-', text(r))));
        lines.extend(to.iter().filter(|r| !from.contains(r)).map(|r| host('+', text(r))));
        if lines.is_empty() {
            lines.push(host('~', format!("order of routes of table {name}")));
        }
        lines
    }

    fn ruling(&self, vserver: &str, from: &Ruling, to: &Ruling) -> Vec<Line> {
        let mut lines = Vec::new();
        if from.tables != to.tables {
            let (from, to) = (from.tables.join(", "), to.tables.join(", "));
            lines.push(of(vserver, '~', format!("tables [{from}] -> [{to}]")));
        }
        let gone = from.rules.iter().filter(|r| !to.rules.contains(r));
        let come = to.rules.iter().filter(|r| !from.rules.contains(r));
        lines.extend(gone.map(|r| of(vserver, '-', self.rule(r))));
        lines.extend(come.map(|r| of(vserver, '+', self.rule(r))));
        if lines.is_empty() {
            lines.push(of(vserver, '~', String::from("order of rules")));
        }
        lines
    }

    fn rule(&self, r: &RuleSpec) -> String {
        let mut text = format!("rule {}:", r.priority);
        let mut say = |word: &str, value: Option<String>| {
            if let Some(value) = value {
                text.extend([" ", word, " ", &value]);
            }
        };
        say("from", r.from.map(|c| c.to_string()).or_else(|| r.from_name.clone()));
        say("to", r.to.map(|c| c.to_string()));
        say("mark", r.mark.map(|(value, mask)| format!("{value:#x}/{mask:#x}")));
        say("input", r.input.map(|a| self.alias(a).to_owned()));
        say("dscp", r.dscp.map(|d| d.to_string()));
        say("class", r.class.clone());
        match &r.target {
            RuleTarget::Table(name) => text.extend([" table ", name]),
            RuleTarget::Prohibit => text += " prohibit",
            RuleTarget::Blackhole => text += " blackhole",
            RuleTarget::Unreachable => text += " unreachable",
        }
        text
    }

    /// A vserver that comes or goes, with what comes or goes with it.
    fn whole(&self, sign: char, v: &Vserver) -> Vec<Line> {
        let mut lines = vec![of(&v.name, sign, String::from("the vserver"))];
        for (alias, cidr) in &v.addresses {
            lines.push(of(&v.name, sign, format!("address {} {cidr}", self.alias(*alias))));
        }
        lines.extend(v.routes.iter().map(|r| of(&v.name, sign, self.route(r))));
        lines.extend(v.rules.iter().map(|r| of(&v.name, sign, self.rule(r))));
        lines
    }
}

pub(super) fn host(sign: char, text: impl Into<String>) -> Line {
    Line { sign, vserver: None, text: text.into() }
}

fn of(vserver: &str, sign: char, text: String) -> Line {
    Line { sign, vserver: Some(vserver.to_owned()), text }
}

fn mtu_text(mtu: Option<usize>) -> String {
    mtu.map_or_else(|| String::from("the NIC's"), |mtu| mtu.to_string())
}

fn alias_text(a: &Alias) -> String {
    let mtu = a.mtu.map(|m| format!(" mtu {m}")).unwrap_or_default();
    let mac = a.mac.map(|m| format!(" mac {}", crate::stats::mac_text(m))).unwrap_or_default();
    format!("{}{mtu}{mac}", a.name)
}

fn service_text(s: &Service) -> String {
    let kind = match &s.kind {
        ServiceKind::Echo => String::from("echo"),
        ServiceKind::Discard => String::from("discard"),
        ServiceKind::Chargen => String::from("chargen"),
        ServiceKind::Http { root, .. } => format!("http {}", root.display()),
        ServiceKind::Proxy(target) => format!("proxy to {target:?}"),
    };
    format!("service {kind} on {}", s.listen)
}

/// Fields of two structures that differ, by their debug form, a field a line.
fn fields(
    vserver: &str,
    table: &str,
    from: &impl std::fmt::Debug,
    to: &impl std::fmt::Debug,
) -> Vec<Line> {
    changed_fields(table, from, to)
        .into_iter()
        .map(|line| Line { vserver: Some(vserver.to_owned()), ..line })
        .collect()
}

/// The same of the whole host. A field whose value has another form is one line.
pub(super) fn changed_fields(
    table: &str,
    from: &impl std::fmt::Debug,
    to: &impl std::fmt::Debug,
) -> Vec<Line> {
    let (from, to) = (top_fields(&format!("{from:#?}")), top_fields(&format!("{to:#?}")));
    let pairs = from.iter().zip(&to).filter(|(a, b)| a != b);
    pairs.map(|((key, a), (_, b))| host('~', format!("{table}.{key} {a} -> {b}"))).collect()
}

/// Name and value of each field in a debug form of many lines, values on one.
fn top_fields(text: &str) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().skip(1) {
        let Some(inner) = line.strip_prefix("    ") else { continue };
        if let Some((key, value)) =
            inner.split_once(": ").filter(|_| !inner.starts_with([' ', '}', ']', ')']))
        {
            fields.push((key.to_owned(), value.to_owned()));
        } else if let Some((_, value)) = fields.last_mut() {
            if !value.ends_with(['[', '(']) && !inner.trim_start().starts_with([']', ')']) {
                value.push(' ');
            }
            value.push_str(inner.trim());
        }
    }
    for (_, value) in &mut fields {
        *value =
            value.trim_end_matches(',').replace(",]", "]").replace(",)", ")").replace(", }", " }");
        // As a file has it: a value, or none.
        let inner = value.strip_prefix("Some(").and_then(|v| v.strip_suffix(')'));
        if let Some(inner) = inner.or((value == "None").then_some("none")) {
            *value = inner.to_owned();
        }
    }
    fields
}
