//! Groups of vservers, and what they give to their members.
//!
//! One rule for every part of the configuration: a reader asks a [`Section`] for a key, and the
//! section looks through its [`Layers`]: the vserver's own table, its group's, that group's parent's.
//! A value and a list of plain values is the nearest one; lists of tables add up, the nearest first;
//! tables are merged key by key. `cut` ends the search for a part. What was found where is noted, so
//! that the effective values can be shown with their origin.

use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write as _};
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use weft_stack::ip::address::Cidr;

use super::HostConfig;
use super::diagnostic::Report;
use super::reader::{At, Section, any_of, nearest};
use super::vserver::check_name;

/// The longest way from a group to the top of its tree.
pub const GROUP_DEPTH_MAX: usize = 8;

/// A group of vservers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Index into [`super::HostConfig::groups`] of the group it is in.
    pub parent: Option<usize>,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The vserver's own table.
    Vserver {
        /// Line of the file.
        line: usize,
    },
    /// A group's table.
    Group {
        /// Its name.
        name: String,
        /// Line of the file.
        line: usize,
    },
    /// Nobody says anything else.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Vserver { line } => write!(f, "vserver, line {line}"),
            Origin::Group { name, line } => write!(f, "group {name}, line {line}"),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// A value in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// `limits.tcp_bytes`; of a list of tables one setting per table, `routes`.
    pub key: String,
    /// As in a file.
    pub value: String,
    /// Whose it is.
    pub origin: Origin,
}

/// The settings of a vserver that somebody gave, in order of reading. Always equal: where a value
/// comes from is no difference between two configurations.
#[derive(Clone, Default)]
pub struct Settings(Arc<[Arc<Setting>]>);

impl Settings {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Setting> {
        self.0.iter().map(|s| &**s)
    }
}

impl PartialEq for Settings {
    fn eq(&self, _: &Settings) -> bool {
        true
    }
}

impl Eq for Settings {}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} settings", self.0.len())
    }
}

/// Everything in force for a vserver.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Its name.
    pub vserver: String,
    /// The groups it is in, the nearest first.
    pub groups: Vec<String>,
    /// Roles that may change its network, besides those for all vservers.
    #[serde(default)]
    pub roles: Vec<String>,
    /// By key: what somebody gave, then the defaults of everything else.
    pub settings: Vec<Setting>,
}

impl HostConfig {
    /// What is in force for a vserver; `None` if there is none of that name. Who may change it is
    /// for [`crate::control::Gate::roles_of`] to say.
    pub fn policy(&self, vserver: &str) -> Option<Policy> {
        let v = self.vservers.iter().find(|v| v.name.eq_ignore_ascii_case(vserver))?;
        let mut groups = Vec::new();
        let mut at = v.group;
        while let Some(group) = at.and_then(|g| self.groups.get(g)) {
            groups.push(group.name.clone());
            // A tree has no circle; a configuration made in code might.
            at = group.parent.filter(|_| groups.len() < GROUP_DEPTH_MAX);
        }
        let mut settings: Vec<Setting> = v.settings.iter().cloned().collect();
        settings.sort_by(|a, b| a.key.cmp(&b.key));
        // Of a `count` the table says where the first one's addresses are.
        for s in settings.iter_mut().filter(|s| s.key == "addresses") {
            let one = |(alias, cidr): &(usize, Cidr)| {
                let alias = self.aliases.get(*alias).map_or("", |a| a.name.as_str());
                format!("\"{alias} {cidr}\"")
            };
            s.value = format!("[{}]", v.addresses.iter().map(one).collect::<Vec<_>>().join(", "));
        }
        let given: HashSet<String> = settings.iter().map(|s| s.key.clone()).collect();
        settings.extend(self.defaults.iter().filter(|d| !given.contains(&d.key)).cloned());
        Some(Policy { vserver: v.name.clone(), groups, roles: Vec::new(), settings })
    }
}

/// Whose table a value stands in: 0 is the vserver's own, n is group n - 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source(u32);

const OWN: Source = Source(0);

/// One table that a section reads from.
#[derive(Clone, Debug)]
pub(super) struct Layer<'a, 'i> {
    table: &'a DeTable<'i>,
    source: Source,
    /// Keys that are not looked for behind this layer.
    cut: Vec<&'a str>,
}

/// What a section reads from, the nearest first.
#[derive(Clone, Debug)]
pub(super) struct Layers<'a, 'i> {
    list: Vec<Layer<'a, 'i>>,
    /// Where the section is below its vserver, if what it reads is noted.
    path: Option<String>,
    /// A group by itself: what it lacks, its members may have.
    group: bool,
}

type Entry<'a, 'i> = (&'a Spanned<toml::de::DeString<'i>>, &'a Spanned<DeValue<'i>>);

impl<'a, 'i> Layers<'a, 'i> {
    pub(super) fn own(table: &'a DeTable<'i>) -> Self {
        let own = Layer { table, source: OWN, cut: Vec::new() };
        Layers { list: vec![own], path: None, group: false }
    }

    /// From here on what is read is noted.
    pub(super) fn trace(&mut self) {
        self.path = Some(String::new());
    }

    pub(super) fn inherit(&mut self, farther: impl IntoIterator<Item = Layer<'a, 'i>>) {
        self.list.extend(farther);
    }

    /// Keys that its own table keeps from being inherited.
    pub(super) fn cut(&mut self, keys: Vec<&'a str>) {
        if let Some(own) = self.list.first_mut() {
            own.cut = keys;
        }
    }

    /// The layers in which to look for a key.
    fn before_cut(&self, key: &str) -> &[Layer<'a, 'i>] {
        let cut = self.list.iter().position(|l| l.cut.contains(&key));
        &self.list[..cut.map_or(self.list.len(), |at| at + 1)]
    }

    pub(super) fn nearest(
        &self,
        key: &str,
    ) -> Option<(Source, Range<usize>, &'a Spanned<DeValue<'i>>)> {
        self.before_cut(key).iter().find_map(|l| {
            let (k, v) = l.table.get_key_value(key)?;
            Some((l.source, k.span(), v))
        })
    }

    /// The key's value in every layer that has it.
    pub(super) fn every(&self, key: &str) -> Vec<(Source, &'a Spanned<DeValue<'i>>)> {
        let layers = self.before_cut(key).iter();
        layers.filter_map(|l| Some((l.source, l.table.get(key)?))).collect()
    }

    /// The tables below `key` and where the nearest one's name stands; `wrong` takes what is there
    /// and no table.
    pub(super) fn below(
        &self,
        key: &str,
        mut wrong: impl FnMut(&Spanned<DeValue<'i>>),
    ) -> (Option<Range<usize>>, Layers<'a, 'i>) {
        let mut out = self.nothing_below(key);
        let mut span = None;
        for layer in self.before_cut(key) {
            let Some((k, v)) = layer.table.get_key_value(key) else { continue };
            let DeValue::Table(table) = v.get_ref() else {
                wrong(v);
                continue;
            };
            span = span.or_else(|| Some(k.span()));
            out.list.push(Layer { table, source: layer.source, cut: Vec::new() });
        }
        (span, out)
    }

    pub(super) fn nothing_below(&self, key: &str) -> Layers<'a, 'i> {
        let path = self.path.as_ref().map(|p| joined(p, key));
        Layers { list: Vec::new(), path, group: self.group }
    }

    /// One table of a list.
    pub(super) fn item(source: Source, table: &'a DeTable<'i>) -> Layers<'a, 'i> {
        let one = Layer { table, source, cut: Vec::new() };
        Layers { list: vec![one], path: None, group: false }
    }

    /// Every entry, layer by layer, each in order of the file.
    pub(super) fn entries(&self) -> Vec<Entry<'a, 'i>> {
        let mut all = Vec::new();
        for layer in &self.list {
            let from = all.len();
            all.extend(layer.table);
            all[from..].sort_by_key(|(k, _): &Entry| k.span().start);
        }
        all
    }

    /// Keys of its own table; those of a group are the group's to answer for.
    pub(super) fn own_keys(&self) -> impl Iterator<Item = &'a Spanned<toml::de::DeString<'i>>> {
        self.list.iter().filter(|l| l.source == OWN).flat_map(|l| l.table.keys())
    }

    pub(super) fn make_group(&mut self) {
        self.group = true;
    }

    pub(super) fn is_part_of_group(&self) -> bool {
        self.group
    }

    /// Whose the nearest table is.
    pub(super) fn source(&self) -> Source {
        self.list.first().map_or(OWN, |l| l.source)
    }

    pub(super) fn note(
        &self,
        report: &mut Report,
        key: &str,
        source: Source,
        value: &Spanned<DeValue>,
    ) {
        report.trail_inherited(source, &value.span());
        if let Some(path) = &self.path {
            report.trail_setting(joined(path, key), source, value);
        }
    }

    pub(super) fn note_default(
        &self,
        report: &mut Report,
        key: &'static str,
        value: &impl ToString,
    ) {
        let Some(path) = &self.path else { return };
        let known = report.trail.defaults.entry(key).or_default();
        if !known.iter().any(|(p, _)| p == path) {
            let setting = Setting {
                key: joined(path, key),
                value: value.to_string(),
                origin: Origin::Default,
            };
            known.push((path.clone(), Arc::new(setting)));
        }
    }
}

fn joined(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// What has been noted while a file is read.
#[derive(Debug, Default)]
pub(super) struct Trail {
    groups: Vec<String>,
    /// The vserver that is read.
    reader: String,
    /// Inherited values it has asked for.
    inherited: Vec<(Range<usize>, Source)>,
    /// Its settings, and where each stands.
    settings: Vec<(usize, Arc<Setting>)>,
    /// Settings of groups, once for all of their members.
    shared: HashMap<usize, Arc<Setting>>,
    defaults: HashMap<&'static str, Vec<(String, Arc<Setting>)>>,
}

impl Report<'_> {
    /// A vserver is read from here on.
    pub(super) fn trail_begin(&mut self, vserver: &str) {
        vserver.clone_into(&mut self.trail.reader);
        self.trail.inherited.clear();
        self.trail.settings.clear();
    }

    /// Its settings.
    pub(super) fn trail_end(&mut self) -> Settings {
        self.trail.inherited.clear();
        Settings(self.trail.settings.drain(..).map(|(_, s)| s).collect())
    }

    /// Where a table of a list stands, for people; `own`: whose it is if no group's.
    pub(super) fn origin(&self, source: Source, at: usize, own: &str) -> String {
        let line = self.line(at);
        let group = (source.0 as usize).checked_sub(1).and_then(|n| self.trail.groups.get(n));
        group.map_or_else(
            || format!("{own}, line {line}"),
            |name| format!("group {name}, line {line}"),
        )
    }

    /// The defaults of all keys that have one.
    pub(super) fn trail_defaults(&mut self) -> Settings {
        let all = self.trail.defaults.drain().flat_map(|(_, of)| of);
        let mut all: Vec<_> = all.map(|(_, s)| s).collect();
        all.sort_by(|a, b| a.key.cmp(&b.key));
        Settings(all.into())
    }

    /// A table of a list counts no more: a nearer one stands for it.
    pub(super) fn trail_hide(&mut self, span: &Range<usize>) {
        self.trail.settings.retain(|(at, _)| *at != span.start);
    }

    fn trail_inherited(&mut self, source: Source, span: &Range<usize>) {
        if source != OWN {
            self.trail.inherited.push((span.clone(), source));
        }
    }

    fn trail_setting(&mut self, key: String, source: Source, value: &Spanned<DeValue>) {
        let at = value.span().start;
        // Asked for twice.
        if self.trail.settings.iter().any(|(a, s)| *a == at && s.key == key) {
            return;
        }
        let line = self.line(at);
        let make = |origin| Arc::new(Setting { key, value: text(value.get_ref()), origin });
        let setting = if source == OWN {
            make(Origin::Vserver { line })
        } else {
            let name = &self.trail.groups[source.0 as usize - 1];
            let origin = || Origin::Group { name: name.clone(), line };
            Arc::clone(self.trail.shared.entry(at).or_insert_with(|| make(origin())))
        };
        self.trail.settings.push((at, setting));
    }

    /// For an error in what a vserver inherits: whose it is and who has trouble with it.
    pub(super) fn trail_context(&self, at: usize) -> Option<String> {
        let (_, source) = self.trail.inherited.iter().rfind(|(span, _)| span.contains(&at))?;
        let group = &self.trail.groups[source.0 as usize - 1];
        Some(format!(" (vserver '{}' has it from group '{group}')", self.trail.reader))
    }
}

/// A value as in a file, on one line.
fn text(value: &DeValue) -> String {
    let mut out = String::new();
    write_value(&mut out, value);
    out
}

fn write_value(out: &mut String, value: &DeValue) {
    // Writing to a String cannot fail.
    let _ = match value {
        DeValue::String(s) => write!(out, "{}", toml::Value::String(s.to_string())),
        DeValue::Integer(n) => write!(out, "{n}"),
        DeValue::Float(n) => write!(out, "{n}"),
        DeValue::Boolean(b) => write!(out, "{b}"),
        DeValue::Datetime(d) => write!(out, "{d}"),
        DeValue::Array(list) => {
            out.push('[');
            for (i, v) in list.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_value(out, v.get_ref());
            }
            write!(out, "]")
        }
        DeValue::Table(table) => {
            let mut entries: Vec<_> = table.iter().collect();
            entries.sort_by_key(|(k, _)| k.span().start);
            out.push('{');
            for (i, (k, v)) in entries.into_iter().enumerate() {
                let _ = write!(out, "{} {} = ", if i > 0 { "," } else { "" }, k.get_ref());
                write_value(out, v.get_ref());
            }
            write!(out, " }}")
        }
    };
}

/// A group as written.
struct Written<'a, 'i> {
    name: At<&'a str>,
    section: Option<Section<'a, 'i>>,
    table: &'a DeTable<'i>,
    parent: Option<usize>,
    cut: Vec<At<&'a str>>,
}

/// The groups of a file.
#[derive(Default)]
pub(super) struct Groups<'a, 'i> {
    all: Vec<Written<'a, 'i>>,
}

/// `[group.*]`: their names and their tree. What they give is read with the vservers.
pub(super) fn read_groups<'a, 'i>(
    report: &mut Report,
    mut section: Section<'a, 'i>,
) -> Groups<'a, 'i> {
    let mut groups = Groups::default();
    let mut parents = Vec::new();
    for (name, mut s) in section.named_tables(report) {
        check_name(report, &name, "group");
        parents.push(s.string(report, "parent"));
        let cut = s.strings(report, "cut");
        let Some(table) = s.layers().list.first().map(|l| l.table) else { continue };
        groups.all.push(Written { name, section: Some(s), table, parent: None, cut });
    }
    report.trail.groups = groups.all.iter().map(|g| g.name.value.to_owned()).collect();
    for (i, parent) in parents.iter().enumerate() {
        let Some(parent) = parent else { continue };
        let Some(found) = groups.find(report, parent) else { continue };
        groups.all[i].parent = Some(found);
        if let Some(round) = groups.cycle(i) {
            report.error(
                &parent.span,
                format!(
                    "group '{}' is in itself: {round}; give one of them another parent",
                    groups.all[i].name.value
                ),
            );
            groups.all[i].parent = None;
        }
    }
    for (i, parent) in parents.iter().enumerate() {
        let depth = groups.chain(i).len();
        if let Some(parent) = parent.as_ref().filter(|_| depth > GROUP_DEPTH_MAX) {
            report.error(
                &parent.span,
                format!(
                    "group '{}' is {depth} deep; at most {GROUP_DEPTH_MAX} groups may be in each other",
                    groups.all[i].name.value
                ),
            );
        }
    }
    groups
}

impl<'a, 'i> Groups<'a, 'i> {
    /// The group of that name, or an error.
    pub(super) fn find(&self, report: &mut Report, name: &At<&str>) -> Option<usize> {
        let found = self.all.iter().position(|g| g.name.value == name.value);
        if found.is_none() {
            let names: Vec<_> = self.all.iter().map(|g| g.name.value).collect();
            let hint = match nearest(name.value, &names) {
                Some(near) => format!("did you mean '{near}'?"),
                None if names.is_empty() => format!("add [group.{}]", name.value),
                None => format!("use {}", any_of(&names)),
            };
            report.error(&name.span, format!("unknown group '{}'; {hint}", name.value));
        }
        found
    }

    /// A group and those it is in, the nearest first.
    fn chain(&self, group: usize) -> Vec<usize> {
        let mut chain = vec![group];
        while let Some(parent) = chain.last().and_then(|g| self.all[*g].parent)
            && chain.len() <= self.all.len()
        {
            chain.push(parent);
        }
        chain
    }

    /// `a in b in a`, if following parents leads back.
    fn cycle(&self, group: usize) -> Option<String> {
        let chain = self.chain(group);
        let end = chain[1..].iter().position(|g| *g == group)? + 1;
        let names: Vec<_> = chain[..=end].iter().map(|g| self.all[*g].name.value).collect();
        Some(names.join(" in "))
    }

    /// What a member of `group` inherits.
    pub(super) fn layers(&self, group: Option<usize>) -> Vec<Layer<'a, 'i>> {
        let chain = group.map(|g| self.chain(g)).unwrap_or_default();
        let layer = |g: usize| {
            let written = &self.all[g];
            let cut = written.cut.iter().map(|c| c.value).collect();
            Layer { table: written.table, source: Source(g as u32 + 1), cut }
        };
        chain.into_iter().map(layer).collect()
    }

    /// Every group by itself, for checks that need no vserver: its section, and what it cuts.
    pub(super) fn take_sections(&mut self) -> Vec<(Section<'a, 'i>, Vec<At<&'a str>>)> {
        let take = |g: &mut Written<'a, 'i>| {
            let mut section = g.section.take()?;
            section.make_group();
            Some((section, g.cut.clone()))
        };
        self.all.iter_mut().filter_map(take).collect()
    }

    /// As plain data.
    pub(super) fn into_groups(self) -> Vec<Group> {
        let plain = |g: Written| Group { name: g.name.value.to_owned(), parent: g.parent };
        self.all.into_iter().map(plain).collect()
    }
}

impl Section<'_, '_> {
    /// Whose its nearest table is, to tell own entries of a list from inherited ones.
    pub(super) fn source(&self) -> Source {
        self.layers().source()
    }
}

/// Reports names in `cut` that no group can give.
pub(super) fn check_cut(report: &mut Report, cut: &[At<&str>], known: &[&'static str]) {
    let parts: Vec<_> = known.iter().filter(|k| !OWN_KEYS.contains(k)).copied().collect();
    for name in cut.iter().filter(|c| !parts.contains(&c.value)) {
        let hint = match nearest(name.value, &parts) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("use {}", any_of(&parts)),
        };
        report.error(&name.span, format!("'{}' is nothing that a group gives; {hint}", name.value));
    }
}

/// Keys that are never inherited.
const OWN_KEYS: [&str; 5] = ["count", "group", "cut", "parent", "addresses"];

#[cfg(test)]
mod every_key;
#[cfg(test)]
mod tests;
