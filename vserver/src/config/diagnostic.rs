//! What is wrong with a configuration file, and where.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::inherit::Trail;

/// Characters of a line that are shown; of a longer one, those around the error.
const EXCERPT_CHARS: usize = 200;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong; what would be right.
    pub message: String,
    /// The line of the file.
    source_line: String,
    /// Characters to underline.
    width: usize,
}

impl Diagnostic {
    /// What to show of the line, and how many characters of it stand before the error. A file that
    /// is no text must not reach the terminal as control sequences.
    fn excerpt(&self) -> (String, usize) {
        let before = self.column - 1;
        let long = self.source_line.chars().nth(EXCERPT_CHARS).is_some();
        let skip = if long { before.saturating_sub(EXCERPT_CHARS / 2) } else { 0 };
        let shown = |c: char| if c.is_control() && c != '\t' { '\u{fffd}' } else { c };
        let text = self.source_line.chars().skip(skip).take(EXCERPT_CHARS).map(shown).collect();
        (text, before - skip)
    }
}

/// Everything that is wrong with a file, in order of the file.
///
/// Displays as `file:line:column: what is wrong; what would be right`, the line and a caret, for
/// each.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Errors {
    /// The file.
    pub file: PathBuf,
    /// At least one.
    pub list: Vec<Diagnostic>,
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, d) in self.list.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            let gutter = d.line.to_string().len().max(3);
            writeln!(f, "{}:{}:{}: {}", self.file.display(), d.line, d.column, d.message)?;
            let (text, before) = d.excerpt();
            writeln!(f, " {:>gutter$} | {text}", d.line)?;
            // Tabs stay tabs, so that the caret stands below its character at any tab width.
            let pad: String =
                text.chars().take(before).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            let width = d.width.min(EXCERPT_CHARS.saturating_sub(before)).max(1);
            write!(f, " {:gutter$} | {pad}{}", "", "^".repeat(width))?;
        }
        Ok(())
    }
}

/// Collects what is wrong while a file is read.
#[derive(Debug)]
pub(super) struct Report<'i> {
    source: &'i str,
    found: Vec<(usize, Diagnostic)>,
    /// Errors by place and message, to report each once.
    told: HashSet<(usize, String)>,
    /// Where lines start.
    lines: Vec<usize>,
    /// What was read from where.
    pub(super) trail: Trail,
    /// The file is for another machine: what it names need not exist here.
    pub(super) elsewhere: bool,
    /// Keys of each table read, for the test of the documentation.
    #[cfg(test)]
    pub(super) known: Vec<(String, Vec<&'static str>)>,
}

impl<'i> Report<'i> {
    pub(super) fn new(source: &'i str) -> Report<'i> {
        Report {
            source,
            found: Vec::new(),
            told: HashSet::new(),
            lines: std::iter::once(0)
                .chain(source.match_indices('\n').map(|(at, _)| at + 1))
                .collect(),
            trail: Trail::default(),
            elsewhere: false,
            #[cfg(test)]
            known: Vec::new(),
        }
    }

    /// `span` is a byte range of the file.
    pub(super) fn error(&mut self, span: &Range<usize>, message: impl Into<String>) {
        let start = self.floor(span.start);
        let mut message = message.into();
        // Of what many vservers inherit, the first one that has trouble with it is named.
        if !self.told.insert((start, message.clone())) {
            return;
        }
        message.extend(self.trail_context(start));
        let line_start = self.source[..start].rfind('\n').map_or(0, |i| i + 1);
        let rest = &self.source[line_start..];
        let source_line = rest.lines().next().unwrap_or_default();
        let end = self
            .floor(span.end)
            .clamp(start, line_start + source_line.len().max(start - line_start));
        let diagnostic = Diagnostic {
            line: self.line(line_start),
            column: self.source[line_start..start].chars().count() + 1,
            message,
            source_line: source_line.to_owned(),
            width: self.source[start..end].chars().count().max(1),
        };
        self.found.push((start, diagnostic));
    }

    /// The line a byte stands on, from 1, for messages that name another place.
    pub(super) fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|start| *start <= self.floor(at))
    }

    /// The span of `part` if it is a slice of the file, else `whole`.
    pub(super) fn span_of(&self, part: &str, whole: &Range<usize>) -> Range<usize> {
        let base = self.source.as_ptr() as usize;
        let at = part.as_ptr() as usize;
        if at < base || at + part.len() > base + self.source.len() || part.is_empty() {
            return whole.clone();
        }
        at - base..at - base + part.len()
    }

    /// Whether something was said about this place.
    pub(super) fn has_error_at(&self, span: &Range<usize>) -> bool {
        let start = self.floor(span.start);
        self.found.iter().any(|(at, _)| *at == start)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The errors in order of the file.
    pub(super) fn into_errors(mut self, file: &Path) -> Errors {
        self.found.sort_by_key(|(at, _)| *at);
        Errors { file: file.to_owned(), list: self.found.into_iter().map(|(_, d)| d).collect() }
    }

    fn floor(&self, at: usize) -> usize {
        self.source.floor_char_boundary(at.min(self.source.len()))
    }
}
