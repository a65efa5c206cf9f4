//! `docs/conformance.md`: every clause of the RFCs in `clauses/`, how it stands, and what proves it.
//!
//! RFCs without such a file are not read clause by clause; the document lists which of their sections
//! tests name. A clause is met if a test names it, above the test as `// RFC 9293 3.8.1 MUST-18` or in `clauses/`;
//! otherwise the clause says why it is not. `WEFT_BLESS=1` writes the document anew; without it a
//! document that is stale fails.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rfc {
    #[serde(rename = "rfc")]
    number: u32,
    title: String,
    clauses: Vec<Clause>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Clause {
    #[serde(default)]
    id: String,
    section: String,
    level: String,
    text: String,
    /// `not met`, `not applicable`, or (of a MAY) `not used`.
    status: Option<String>,
    reason: Option<String>,
    /// Tests that carry no tag: `file.rs::function` or a script.
    #[serde(default)]
    tests: Vec<String>,
}

/// A clause as a test names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Tag {
    rfc: u32,
    section: String,
    id: String,
}

/// A test: where it stands, and the clauses it names.
struct Test {
    name: String,
    tags: Vec<Tag>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().into()
}

fn files(dir: &Path, extension: &str, out: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            files(&path, extension, out);
        } else if path.extension().is_some_and(|e| e == extension) {
            out.push(path);
        }
    }
}

fn is_section(word: &str) -> bool {
    word.split('.').all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
}

fn is_id(word: &str) -> bool {
    word.split_once('-').is_some_and(|(kind, n)| {
        ["MUST", "SHLD", "MAY", "REC"].contains(&kind) && n.bytes().all(|b| b.is_ascii_digit())
    })
}

/// The clauses a comment names: `RFC n`, a section, ids; several with commas between.
fn tags(comment: &str) -> Vec<Tag> {
    let mut out = Vec::new();
    let text = comment.replace(['(', ')', ':', ','], " ");
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut i = 0;
    while i + 1 < words.len() {
        let Some(rfc) = (words[i] == "RFC").then(|| words[i + 1].parse().ok()).flatten() else {
            i += 1;
            continue;
        };
        i += 2;
        i += usize::from(words.get(i) == Some(&"section"));
        let mut section = String::new();
        while let Some(word) =
            words.get(i).map(|w| w.trim_end_matches('.')).filter(|w| is_section(w))
        {
            // A section before another one stands for itself.
            if !section.is_empty() {
                out.push(Tag { rfc, section: section.clone(), id: String::new() });
            }
            word.clone_into(&mut section);
            i += 1;
        }
        let sections = out.len();
        while let Some(id) = words.get(i).filter(|w| is_id(w)) {
            out.push(Tag { rfc, section: section.clone(), id: (*id).to_owned() });
            i += 1;
        }
        if out.len() == sections {
            out.push(Tag { rfc, section, id: String::new() });
        }
    }
    out
}

/// The tests of a Rust file, with the comments directly above their attribute.
fn rust_tests(path: &Path, out: &mut Vec<Test>) {
    let text = fs::read_to_string(path).unwrap();
    let shown = shown(path);
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    for (i, _) in lines.iter().enumerate().filter(|(_, l)| **l == "#[test]") {
        let function = lines[i + 1..].iter().find_map(|l| l.strip_prefix("fn "));
        let name = function.and_then(|f| f.split(['(', '<']).next()).unwrap_or("");
        let above = lines[..i].iter().rev();
        let comments = above.take_while(|l| l.starts_with("//") || l.starts_with("#["));
        let tags = comments.filter_map(|l| l.strip_prefix("//")).flat_map(tags).collect();
        out.push(Test { name: format!("{shown}::{name}"), tags });
    }
}

/// A script, with the comments at its head.
fn script_test(path: &Path, out: &mut Vec<Test>) {
    let text = fs::read_to_string(path).unwrap();
    let head = text.lines().take_while(|l| l.starts_with("//"));
    let tags = head.flat_map(|l| tags(&l[2..])).collect();
    out.push(Test { name: shown(path), tags });
}

/// As the document shows it: without what all have in common.
fn shown(path: &Path) -> String {
    let text = path.strip_prefix(root()).unwrap().display().to_string();
    text.replace("stack/packetdrill/scripts/", "").replace("src/transport/", "")
}

/// Names of tests by RFC and clause.
type Linked = BTreeMap<(usize, usize), BTreeSet<String>>;
/// Names of tests by number and section of an RFC without a list of clauses.
type Elsewhere<'a> = BTreeMap<(u32, &'a str), BTreeSet<&'a str>>;

struct Book {
    rfcs: Vec<Rfc>,
    tests: Vec<Test>,
}

fn read() -> Book {
    let root = root();
    let mut paths = Vec::new();
    files(&root.join("stack/packetdrill/clauses"), "toml", &mut paths);
    let mut rfcs: Vec<Rfc> = paths
        .iter()
        .map(|p| {
            toml::from_str(&fs::read_to_string(p).unwrap())
                .unwrap_or_else(|e| panic!("{}: {e}", p.display()))
        })
        .collect();
    rfcs.sort_by_key(|r| (r.number != 9293, r.number));
    let mut tests = Vec::new();
    for top in ["stack", "drivers", "interface", "shim", "vserver"] {
        let mut found = Vec::new();
        files(&root.join(top), "rs", &mut found);
        for path in &found {
            rust_tests(path, &mut tests);
        }
    }
    let mut found = Vec::new();
    files(&root.join("stack/packetdrill/scripts"), "pkt", &mut found);
    for path in &found {
        script_test(path, &mut tests);
    }
    Book { rfcs, tests }
}

impl Book {
    /// The clause a tag means: by number; else the section itself, or the nearest one above it.
    fn clause_of(&self, tag: &Tag) -> Option<(usize, Option<usize>)> {
        let r = self.rfcs.iter().position(|r| r.number == tag.rfc)?;
        let clauses = &self.rfcs[r].clauses;
        if !tag.id.is_empty() {
            let c = clauses.iter().position(|c| c.id == tag.id)?;
            return Some((r, Some(c)));
        }
        if tag.section.is_empty() {
            return Some((r, (clauses.len() == 1).then_some(0)));
        }
        // A chapter whose sections are listed: the tag names none of them.
        let below = format!("{}.", tag.section);
        let chapter = clauses.iter().any(|c| c.section.starts_with(&below))
            && !clauses.iter().any(|c| c.section == tag.section);
        if chapter {
            return Some((r, None));
        }
        let mut section = tag.section.as_str();
        loop {
            let plain = |c: &Clause| c.id.is_empty() && c.section == section;
            if let Some(c) = clauses.iter().position(plain) {
                return Some((r, Some(c)));
            }
            // A section that only has numbered clauses: the tag names none of them.
            if clauses.iter().any(|c| c.section == section) {
                return Some((r, None));
            }
            section = section.rsplit_once('.')?.0;
        }
    }

    /// Tests by clause, and what is wrong.
    fn link(&self) -> (Linked, Vec<String>) {
        let mut by_clause: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        let mut wrong = Vec::new();
        for test in &self.tests {
            for tag in &test.tags {
                match self.clause_of(tag) {
                    Some((r, Some(c))) => {
                        by_clause.entry((r, c)).or_default().insert(test.name.clone());
                    }
                    Some((_, None)) => {}
                    None if !self.lists(tag.rfc) => {}
                    None => wrong.push(format!("{}: no such clause: {tag:?}", test.name)),
                }
            }
        }
        for (r, rfc) in self.rfcs.iter().enumerate() {
            for (c, clause) in rfc.clauses.iter().enumerate() {
                for wanted in &clause.tests {
                    let ends = |t: &&Test| {
                        t.name
                            .strip_suffix(wanted.as_str())
                            .is_some_and(|p| p.is_empty() || p.ends_with('/'))
                    };
                    match self.tests.iter().find(ends) {
                        Some(test) => {
                            by_clause.entry((r, c)).or_default().insert(test.name.clone());
                        }
                        None => wrong.push(format!(
                            "RFC {} {}: no test {wanted}",
                            rfc.number,
                            clause.name()
                        )),
                    }
                }
                let tested = by_clause.contains_key(&(r, c));
                if let Err(e) = clause.judge(tested) {
                    wrong.push(format!("RFC {} {}: {e}", rfc.number, clause.name()));
                }
            }
        }
        (by_clause, wrong)
    }

    /// Whether there is a list of clauses of that RFC.
    fn lists(&self, rfc: u32) -> bool {
        self.rfcs.iter().any(|r| r.number == rfc)
    }

    /// What tests name of RFCs without a list of clauses.
    fn elsewhere(&self) -> String {
        let mut by_section = Elsewhere::new();
        for test in &self.tests {
            for tag in test.tags.iter().filter(|t| !self.lists(t.rfc)) {
                by_section.entry((tag.rfc, &tag.section)).or_default().insert(&test.name);
            }
        }
        let mut out = String::from(ELSEWHERE);
        for ((rfc, section), tests) in by_section {
            let tests: Vec<String> = tests.iter().map(|t| format!("`{t}`")).collect();
            let _ = writeln!(out, "| {rfc} | {section} | {} |", tests.join(", "));
        }
        out
    }

    fn document(&self, by_clause: &Linked) -> String {
        let mut all = String::from(HEAD);
        let mut body = String::new();
        for (r, rfc) in self.rfcs.iter().enumerate() {
            let mut counts = [0; 3];
            let _ = write!(body, "\n## RFC {}: {}\n\n{COLUMNS}", rfc.number, rfc.title);
            for (c, clause) in rfc.clauses.iter().enumerate() {
                let status = clause.status.as_deref();
                counts[match status {
                    None => 0,
                    Some("not met") => 1,
                    Some(_) => 2,
                }] += 1;
                let status = match (status, &clause.reason) {
                    (None, _) => "met".to_owned(),
                    (Some(s), Some(reason)) => format!("**{s}**: {reason}"),
                    (Some(s), None) => s.to_owned(),
                };
                let tests: Vec<String> = by_clause
                    .get(&(r, c))
                    .into_iter()
                    .flatten()
                    .map(|t| format!("`{t}`"))
                    .collect();
                let _ = writeln!(
                    body,
                    "| {} | {} | {} | {status} | {} |",
                    clause.name(),
                    clause.level,
                    clause.text,
                    tests.join(", ")
                );
            }
            let [met, unmet, other] = counts;
            let _ = writeln!(all, "| {} | {} | {met} | {unmet} | {other} |", rfc.number, rfc.title);
        }
        all + &body + &self.elsewhere()
    }
}

const HEAD: &str = "\
# Conformance

Generated from the clauses in `stack/packetdrill/clauses/` and the tests that name them
(`WEFT_BLESS=1 cargo test -p weft-packetdrill --test conformance`); do not edit.
A clause is met when a test proves it; otherwise the reason stands beside it. Requirements are told in our words.

| RFC | Title | met | not met | not applicable or not used |
|---|---|---|---|---|
";

const ELSEWHERE: &str = "
## Other RFCs

Not read clause by clause: the sections that tests name, without a claim that nothing is missing.

| RFC | Section | Tests |
|---|---|---|
";

const COLUMNS: &str = "| Clause | Level | Requirement | Status | Tests |\n|---|---|---|---|---|\n";

impl Clause {
    fn name(&self) -> String {
        format!("{} {}", self.section, self.id).trim_end().to_owned()
    }

    /// Whether it is stated fully: met by a test, or not met for a reason.
    fn judge(&self, tested: bool) -> Result<(), &'static str> {
        if !["MUST", "SHOULD", "MAY"].contains(&self.level.as_str()) {
            return Err("the level is none of MUST, SHOULD, MAY");
        }
        match self.status.as_deref() {
            None if tested => Ok(()),
            None => Err("neither a test nor a status"),
            Some("not used") if self.level != "MAY" => Err("only a MAY can be not used"),
            Some("not met" | "not applicable" | "not used") if self.reason.is_some() => Ok(()),
            Some("not met" | "not applicable" | "not used") => Err("a status without a reason"),
            Some(_) => Err("the status is none of not met, not applicable, not used"),
        }
    }
}

#[test]
fn every_clause_has_a_test_or_a_reason_and_the_document_is_fresh() {
    let book = read();
    let (by_clause, wrong) = book.link();
    assert!(wrong.is_empty(), "{} faults:\n  {}", wrong.len(), wrong.join("\n  "));
    let document = book.document(&by_clause);
    let path = root().join("docs/conformance.md");
    if std::env::var_os("WEFT_BLESS").is_some() {
        fs::write(&path, &document).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == document,
        "docs/conformance.md is stale; WEFT_BLESS=1 cargo test -p weft-packetdrill --test conformance"
    );
}

#[test]
fn tags_are_read_in_every_form() {
    let tag = |rfc, section: &str, id: &str| Tag { rfc, section: section.into(), id: id.into() };
    assert_eq!(tags(" RFC 9293 3.8.1 MUST-18"), [tag(9293, "3.8.1", "MUST-18")]);
    assert_eq!(
        tags(" RFC 9293 3.8.6 MUST-34, SHLD-15: the window shrank"),
        [tag(9293, "3.8.6", "MUST-34"), tag(9293, "3.8.6", "SHLD-15")]
    );
    assert_eq!(
        tags(" RFC 6980 5, RFC 8200 section 4.1."),
        [tag(6980, "5", ""), tag(8200, "4.1", "")]
    );
    assert_eq!(tags(" RFC 8985 7.2, 7.3"), [tag(8985, "7.2", ""), tag(8985, "7.3", "")]);
    assert_eq!(tags(" RFC 1337"), [tag(1337, "", "")]);
    assert_eq!(tags(" nothing of the kind"), []);
}
