//! Typed reading of a parsed TOML table. A [`Section`] remembers which keys were asked for, so that
//! what is left over at the end is an unknown key and the known ones need not be listed twice.
//!
//! A section of a vserver is layered: behind its own table lie those of its groups, the nearest
//! first. Whoever reads a key gets the nearest value and need not know; see `inherit.rs`.

use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::Report;
use super::inherit::{Layer, Layers};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

impl<T> At<T> {
    pub(super) fn new(value: T, span: Range<usize>) -> At<T> {
        At { value, span }
    }
}

/// One table of the file, and those it inherits from.
#[derive(Debug)]
pub(super) struct Section<'a, 'i> {
    /// As in the file: `vserver.files`; empty for the whole file.
    pub(super) name: String,
    /// Where its name stands.
    pub(super) span: Range<usize>,
    layers: Layers<'a, 'i>,
    known: Vec<&'static str>,
}

type Value<'i> = Spanned<DeValue<'i>>;

/// An item of a list that may be written short or in full.
#[derive(Debug)]
pub(super) enum Item<'a, 'i> {
    Text(At<&'a str>),
    Table(Section<'a, 'i>),
}

impl<'a, 'i> Section<'a, 'i> {
    pub(super) fn new(name: String, span: Range<usize>, table: &'a DeTable<'i>) -> Self {
        Section { name, span, layers: Layers::own(table), known: Vec::new() }
    }

    /// As [`Section::new`], with the tables it inherits from.
    pub(super) fn layered(name: String, span: Range<usize>, layers: Layers<'a, 'i>) -> Self {
        Section { name, span, layers, known: Vec::new() }
    }

    /// From here on the report notes what is read, and whose it is.
    pub(super) fn trace(&mut self) {
        self.layers.trace();
    }

    /// From here on, keys that its own table has not are taken from `farther` ones.
    pub(super) fn inherit(&mut self, farther: impl IntoIterator<Item = Layer<'a, 'i>>) {
        self.layers.inherit(farther);
    }

    /// Its own table keeps `keys` from being inherited.
    pub(super) fn cut(&mut self, keys: Vec<&'a str>) {
        self.layers.cut(keys);
    }

    /// A group by itself: what it lacks, its members may have.
    pub(super) fn make_group(&mut self) {
        self.layers.make_group();
    }

    /// What it reads from.
    pub(super) fn layers(&self) -> &Layers<'a, 'i> {
        &self.layers
    }

    /// The nearest value.
    fn get(&mut self, report: &mut Report, key: &'static str) -> Option<&'a Value<'i>> {
        self.known.push(key);
        let (source, _, value) = self.layers.nearest(key)?;
        self.layers.note(report, key, source, value);
        Some(value)
    }

    /// The default of a key that nobody gives, for who asks what is in force.
    pub(super) fn default(&self, report: &mut Report, key: &'static str, value: &impl ToString) {
        self.layers.note_default(report, key, value);
    }

    /// Where the key stands, its own one or the nearest inherited; asking does not make it known.
    pub(super) fn span_of_key(&self, key: &str) -> Option<Range<usize>> {
        self.layers.nearest(key).map(|(_, span, _)| span)
    }

    /// Every key known so far.
    pub(super) fn known(&self) -> &[&'static str] {
        &self.known
    }

    pub(super) fn string(&mut self, report: &mut Report, key: &'static str) -> Option<At<&'a str>> {
        let v = self.get(report, key)?;
        string(report, key, v)
    }

    /// An integer within `range`.
    pub(super) fn integer(
        &mut self,
        report: &mut Report,
        key: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<At<u64>> {
        let v = self.get(report, key)?;
        integer(report, key, v, range)
    }

    pub(super) fn boolean(&mut self, report: &mut Report, key: &'static str) -> Option<At<bool>> {
        let v = self.get(report, key)?;
        if let DeValue::Boolean(b) = v.get_ref() {
            return Some(At::new(*b, v.span()));
        }
        wrong_type(report, key, v, "true or false");
        None
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        report: &mut Report,
        key: &'static str,
        words: &[(&'static str, T)],
    ) -> Option<At<T>> {
        let s = self.string(report, key)?;
        if let Some((_, t)) = words.iter().find(|(w, _)| *w == s.value) {
            return Some(At::new(*t, s.span));
        }
        let all: Vec<_> = words.iter().map(|(w, _)| *w).collect();
        report
            .error(&s.span, format!("'{}' is no value of '{key}'; use {}", s.value, any_of(&all)));
        None
    }

    pub(super) fn strings(&mut self, report: &mut Report, key: &'static str) -> Vec<At<&'a str>> {
        let Some(v) = self.get(report, key) else { return Vec::new() };
        let DeValue::Array(list) = v.get_ref() else {
            wrong_type(report, key, v, "a list of strings in brackets");
            return Vec::new();
        };
        list.iter().filter_map(|v| string(report, key, v)).collect()
    }

    pub(super) fn integers(
        &mut self,
        report: &mut Report,
        key: &'static str,
        range: &RangeInclusive<u64>,
    ) -> Vec<At<u64>> {
        let Some(v) = self.get(report, key) else { return Vec::new() };
        let DeValue::Array(list) = v.get_ref() else {
            wrong_type(report, key, v, "a list of numbers in brackets");
            return Vec::new();
        };
        list.iter().filter_map(|v| integer(report, key, v, range.clone())).collect()
    }

    /// A table below this one, and the same of what it inherits from.
    pub(super) fn table(
        &mut self,
        report: &mut Report,
        key: &'static str,
    ) -> Option<Section<'a, 'i>> {
        self.known.push(key);
        let (span, layers) = self.layers.below(key, |v| {
            wrong_type(report, key, v, &format!("a table, [{}]", name_of(&self.name, key)));
        });
        Some(Section::layered(name_of(&self.name, key), span?, layers))
    }

    /// As [`Section::table`], without any key if nobody has the table.
    pub(super) fn table_or_empty(
        &mut self,
        report: &mut Report,
        key: &'static str,
    ) -> Section<'a, 'i> {
        let name = name_of(&self.name, key);
        let nothing = Section::layered(name, self.span.clone(), self.layers.nothing_below(key));
        self.table(report, key).unwrap_or(nothing)
    }

    /// A list of tables: `[[name]]`, or inline. Inherited ones follow its own, the nearest first.
    pub(super) fn tables(
        &mut self,
        report: &mut Report,
        key: &'static str,
    ) -> Vec<Section<'a, 'i>> {
        self.known.push(key);
        let name = name_of(&self.name, key);
        let mut found = Vec::new();
        for (layer, v) in self.layers.every(key) {
            let DeValue::Array(list) = v.get_ref() else {
                wrong_type(report, key, v, &format!("a list of tables, [[{name}]]"));
                continue;
            };
            for v in list {
                let DeValue::Table(t) = v.get_ref() else {
                    wrong_type(report, key, v, "a table in braces");
                    continue;
                };
                self.layers.note(report, key, layer, v);
                let item = Layers::item(layer, t);
                found.push(Section::layered(name.clone(), v.span(), item));
            }
        }
        found
    }

    /// A list of strings and tables, the nearest one.
    pub(super) fn items(&mut self, report: &mut Report, key: &'static str) -> Vec<Item<'a, 'i>> {
        self.known.push(key);
        let name = name_of(&self.name, key);
        let Some((layer, _, v)) = self.layers.nearest(key) else { return Vec::new() };
        self.layers.note(report, key, layer, v);
        let DeValue::Array(list) = v.get_ref() else {
            wrong_type(report, key, v, "a list in brackets");
            return Vec::new();
        };
        let mut found = Vec::new();
        for v in list {
            match v.get_ref() {
                DeValue::String(s) => found.push(Item::Text(At::new(s.as_ref(), v.span()))),
                DeValue::Table(t) => {
                    let item = Layers::item(layer, t);
                    found.push(Item::Table(Section::layered(name.clone(), v.span(), item)));
                }
                _ => wrong_type(report, key, v, "a string in quotes or a table in braces"),
            }
        }
        found
    }

    /// Every table below this one by its name, in order of the file: `[nic.eth0]`, `[nic.eth1]`.
    /// One that several have is one section; the order is that of the nearest ones.
    pub(super) fn named_tables(
        &mut self,
        report: &mut Report,
    ) -> Vec<(At<&'a str>, Section<'a, 'i>)> {
        let mut found: Vec<(At<&'a str>, Section<'a, 'i>)> = Vec::new();
        for (key, v) in self.layers.entries() {
            let name = name_of(&self.name, key.get_ref());
            if !matches!(v.get_ref(), DeValue::Table(_)) {
                report.error(
                    &key.span(),
                    format!("'{}' is no table; write [{name}] and its keys below", key.get_ref()),
                );
                continue;
            }
            if found.iter().any(|(at, _)| at.value == key.get_ref()) {
                continue;
            }
            let at = At::new(key.get_ref().as_ref(), key.span());
            // What a farther layer has wrong there, its own entry tells.
            let (_, layers) = self.layers.below(at.value, |_| {});
            found.push((at, Section::layered(name, key.span(), layers)));
        }
        found
    }

    /// Every key of a table whose keys are free, in order of the file, each with a string or a
    /// list of strings.
    pub(super) fn named_strings(self, report: &mut Report) -> Vec<(At<&'a str>, Vec<At<&'a str>>)> {
        let mut found = Vec::new();
        for (key, v) in self.layers.entries() {
            let name = key.get_ref().as_ref();
            let values = match v.get_ref() {
                DeValue::Array(list) => {
                    list.iter().filter_map(|v| string(report, name, v)).collect()
                }
                _ => string(report, name, v).into_iter().collect(),
            };
            found.push((At::new(name, key.span()), values));
        }
        found.sort_by_key(|(at, _)| at.span.start);
        found
    }

    /// Where it stands, for people: `group gold, line 7`; `own`: whose it is if no group's.
    pub(super) fn origin(&self, report: &Report, own: &str) -> String {
        report.origin(self.layers.source(), self.span.start, own)
    }

    /// Reports that a key is missing and how it would look, unless it is there misspelt.
    pub(super) fn missing(&self, report: &mut Report, key: &'static str, example: &str) {
        // What a group leaves open its vservers fill in.
        let mut keys = self.layers.own_keys().map(|k| k.get_ref().as_ref());
        if self.layers.is_part_of_group()
            || keys.any(|k| !self.known.contains(&k) && nearest(k, &[key]).is_some())
        {
            return;
        }
        report.error(&self.span, format!("[{}] has no '{key}'; add {key} = {example}", self.name));
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self, report: &mut Report) {
        #[cfg(test)]
        report.known.push((self.name.clone(), self.known.clone()));
        for key in self.layers.own_keys() {
            if self.known.contains(&key.get_ref().as_ref()) {
                continue;
            }
            let place = match self.name.as_str() {
                "" => String::from("here"),
                name => format!("in [{name}]"),
            };
            let hint = match nearest(key.get_ref(), &self.known) {
                // `[alias.data0.5]` is a table `5` in `[alias.data0]`.
                _ if key.get_ref().bytes().all(|b| b.is_ascii_digit()) => dotted(&self.name, key),
                Some(near) => format!("did you mean '{near}'?"),
                None => format!("known: {}", self.known.join(", ")),
            };
            report.error(&key.span(), format!("unknown key '{}' {place}; {hint}", key.get_ref()));
        }
    }
}

fn name_of(table: &str, key: &str) -> String {
    if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
}

/// How a table's name with a dot in it is written.
fn dotted(table: &str, key: &Spanned<toml::de::DeString>) -> String {
    let (kind, name) = table.split_once('.').unwrap_or(("alias", "data0"));
    format!("a name with a dot stands in quotes: [{kind}.\"{name}.{}\"]", key.get_ref())
}

/// The known word a misspelt one stands for, if one is near enough.
pub(super) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .map(|k| (strsim::jaro_winkler(word, k), *k))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k)
}

/// `"a", "b" or "c"`.
pub(super) fn any_of(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|w| format!("\"{w}\"")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

fn string<'a>(report: &mut Report, key: &str, v: &'a Value<'_>) -> Option<At<&'a str>> {
    if let DeValue::String(s) = v.get_ref() {
        return Some(At::new(s.as_ref(), v.span()));
    }
    wrong_type(report, key, v, "a string in quotes");
    None
}

fn integer(
    report: &mut Report,
    key: &str,
    v: &Value<'_>,
    range: RangeInclusive<u64>,
) -> Option<At<u64>> {
    let DeValue::Integer(n) = v.get_ref() else {
        wrong_type(report, key, v, "a whole number");
        return None;
    };
    let parsed = u64::from_str_radix(n.as_str(), n.radix()).ok();
    if let Some(n) = parsed.filter(|n| range.contains(n)) {
        return Some(At::new(n, v.span()));
    }
    let (low, high) = range.into_inner();
    report.error(&v.span(), format!("'{key}' is {n}; it must be from {low} to {high}"));
    None
}

fn wrong_type(report: &mut Report, key: &str, v: &Value<'_>, right: &str) {
    let found = match v.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    report.error(&v.span(), format!("'{key}' is {found}; it must be {right}"));
}
