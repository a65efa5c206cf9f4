//! Typed reading of a parsed TOML table. A [`Section`] remembers which keys were asked for, so that
//! what is left over at the end is an unknown key and the known ones need not be listed twice.

use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::Report;

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

/// One table of the file.
#[derive(Debug)]
pub(super) struct Section<'a, 'i> {
    /// As in the file: `vserver.files`; empty for the whole file.
    pub(super) name: String,
    /// Where its name stands.
    pub(super) span: Range<usize>,
    table: &'a DeTable<'i>,
    known: Vec<&'static str>,
}

type Value<'i> = Spanned<DeValue<'i>>;

impl<'a, 'i> Section<'a, 'i> {
    pub(super) fn new(name: String, span: Range<usize>, table: &'a DeTable<'i>) -> Self {
        Section { name, span, table, known: Vec::new() }
    }

    fn get(&mut self, key: &'static str) -> Option<&'a Value<'i>> {
        self.known.push(key);
        self.table.get(key)
    }

    /// Whether the key is there, whatever its type; asking does not make it known.
    pub(super) fn span_of_key(&self, key: &str) -> Option<Range<usize>> {
        self.table.get_key_value(key).map(|(k, _)| k.span())
    }

    pub(super) fn string(&mut self, report: &mut Report, key: &'static str) -> Option<At<&'a str>> {
        let v = self.get(key)?;
        string(report, key, v)
    }

    /// An integer within `range`.
    pub(super) fn integer(
        &mut self,
        report: &mut Report,
        key: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<At<u64>> {
        let v = self.get(key)?;
        integer(report, key, v, range)
    }

    pub(super) fn boolean(&mut self, report: &mut Report, key: &'static str) -> Option<At<bool>> {
        let v = self.get(key)?;
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
        let Some(v) = self.get(key) else { return Vec::new() };
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
        let Some(v) = self.get(key) else { return Vec::new() };
        let DeValue::Array(list) = v.get_ref() else {
            wrong_type(report, key, v, "a list of numbers in brackets");
            return Vec::new();
        };
        list.iter().filter_map(|v| integer(report, key, v, range.clone())).collect()
    }

    /// A table below this one.
    pub(super) fn table(
        &mut self,
        report: &mut Report,
        key: &'static str,
    ) -> Option<Section<'a, 'i>> {
        let v = self.get(key)?;
        let name = self.name_of(key);
        let DeValue::Table(table) = v.get_ref() else {
            wrong_type(report, key, v, &format!("a table, [{name}]"));
            return None;
        };
        Some(Section::new(name, self.span_of_key(key).unwrap_or(v.span()), table))
    }

    /// A list of tables: `[[name]]`, or inline.
    pub(super) fn tables(
        &mut self,
        report: &mut Report,
        key: &'static str,
    ) -> Vec<Section<'a, 'i>> {
        let Some(v) = self.get(key) else { return Vec::new() };
        let name = self.name_of(key);
        let DeValue::Array(list) = v.get_ref() else {
            wrong_type(report, key, v, &format!("a list of tables, [[{name}]]"));
            return Vec::new();
        };
        let mut found = Vec::new();
        for v in list {
            match v.get_ref() {
                DeValue::Table(t) => found.push(Section::new(name.clone(), v.span(), t)),
                _ => wrong_type(report, key, v, "a table in braces"),
            }
        }
        found
    }

    /// Every table below this one by its name, in order of the file: `[nic.eth0]`, `[nic.eth1]`.
    pub(super) fn named_tables(
        &mut self,
        report: &mut Report,
    ) -> Vec<(At<&'a str>, Section<'a, 'i>)> {
        let mut found = Vec::new();
        for (key, v) in self.table {
            let name = format!("{}.{}", self.name, key.get_ref());
            let DeValue::Table(table) = v.get_ref() else {
                report.error(
                    &key.span(),
                    format!("'{}' is no table; write [{name}] and its keys below", key.get_ref()),
                );
                continue;
            };
            let at = At::new(key.get_ref().as_ref(), key.span());
            found.push((at, Section::new(name, key.span(), table)));
        }
        found.sort_by_key(|(at, _)| at.span.start);
        found
    }

    /// Reports that a key is missing and how it would look, unless it is there misspelt.
    pub(super) fn missing(&self, report: &mut Report, key: &'static str, example: &str) {
        let mut keys = self.table.keys().map(|k| k.get_ref().as_ref());
        if keys.any(|k| !self.known.contains(&k) && nearest(k, &[key]).is_some()) {
            return;
        }
        report.error(&self.span, format!("[{}] has no '{key}'; add {key} = {example}", self.name));
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self, report: &mut Report) {
        #[cfg(test)]
        report.known.push((self.name.clone(), self.known.clone()));
        for (key, _) in self.table {
            if self.known.contains(&key.get_ref().as_ref()) {
                continue;
            }
            let place = match self.name.as_str() {
                "" => String::from("here"),
                name => format!("in [{name}]"),
            };
            let hint = match nearest(key.get_ref(), &self.known) {
                Some(near) => format!("did you mean '{near}'?"),
                None => format!("known: {}", self.known.join(", ")),
            };
            report.error(&key.span(), format!("unknown key '{}' {place}; {hint}", key.get_ref()));
        }
    }

    fn name_of(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }
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
