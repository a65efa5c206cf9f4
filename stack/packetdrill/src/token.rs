//! Words and signs of a script, each with its place.

use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};

/// A place in a script, both numbers from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// What a script is made of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Integer(i64),
    Hex(i64),
    Float(f64),
    Word,
    /// Between double quotes.
    Text(String),
    /// Between back quotes: a command of the shell.
    Command(String),
    /// Between `%{` and `}%`.
    Code(String),
    V4(Ipv4Addr),
    V6(Ipv6Addr),
    /// `--name`, without the dashes.
    Option(String),
    Ellipsis,
    Sign(char),
    End,
}

/// One token; `text` is as written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) text: String,
    pub(crate) at: Position,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::End => f.write_str("the end of the script"),
            Kind::Command(_) => f.write_str("a shell command"),
            Kind::Code(_) => f.write_str("a code snippet"),
            _ => write!(f, "`{}`", self.text),
        }
    }
}

/// What is wrong, and where.
pub(crate) type Fault = (Position, String);

struct Lexer<'a> {
    rest: &'a str,
    at: Position,
}

/// Cuts a script into tokens; the last is [`Kind::End`].
pub(crate) fn tokens(text: &str) -> Result<Vec<Token>, Fault> {
    let mut lexer = Lexer { rest: text, at: Position { line: 1, column: 1 } };
    let mut out = Vec::new();
    loop {
        lexer.skip_blank()?;
        let at = lexer.at;
        if lexer.rest.is_empty() {
            out.push(Token { kind: Kind::End, text: String::new(), at });
            return Ok(out);
        }
        let (kind, len) = lexer.next()?;
        let text = lexer.take(len).to_owned();
        out.push(Token { kind, text, at });
    }
}

impl<'a> Lexer<'a> {
    fn take(&mut self, len: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(len);
        for c in taken.chars() {
            if c == '\n' {
                self.at.line += 1;
                self.at.column = 1;
            } else {
                self.at.column += 1;
            }
        }
        self.rest = rest;
        taken
    }

    fn skip_blank(&mut self) -> Result<(), Fault> {
        loop {
            let blank = self.rest.len() - self.rest.trim_start().len();
            self.take(blank);
            if self.rest.starts_with("//") {
                let len = self.rest.find('\n').unwrap_or(self.rest.len());
                self.take(len);
            } else if self.rest.starts_with("/*") {
                let Some(len) = self.rest.find("*/") else {
                    return Err((self.at, "a comment without its end `*/`".into()));
                };
                self.take(len + 2);
            } else {
                return Ok(());
            }
        }
    }

    /// The token at the front, and its length.
    fn next(&self) -> Result<(Kind, usize), Fault> {
        let s = self.rest;
        if let Some(body) = s.strip_prefix("%{") {
            let Some(len) = body.find("}%") else {
                return Err((self.at, "a code snippet without its end `}%`".into()));
            };
            return Ok((Kind::Code(body[..len].trim().to_owned()), len + 4));
        }
        if s.starts_with('"') || s.starts_with('`') {
            return self.quoted();
        }
        if s.starts_with("...") {
            return Ok((Kind::Ellipsis, 3));
        }
        if let Some(name) = s.strip_prefix("--") {
            let len = span(name, is_word);
            if len > 0 {
                return Ok((Kind::Option(name[..len].to_owned()), len + 2));
            }
        }
        if let Some(found) = address(s) {
            return Ok(found);
        }
        self.number_or_word()
    }

    fn quoted(&self) -> Result<(Kind, usize), Fault> {
        let quote = self.rest.as_bytes()[0];
        let mut escaped = false;
        for (i, b) in self.rest.bytes().enumerate().skip(1) {
            if b == quote && !escaped {
                let body = self.rest[1..i].to_owned();
                let kind = if quote == b'"' { Kind::Text(body) } else { Kind::Command(body) };
                return Ok((kind, i + 1));
            }
            escaped = b == b'\\' && !escaped;
        }
        Err((self.at, format!("a string without its end `{}`", char::from(quote))))
    }

    fn number_or_word(&self) -> Result<(Kind, usize), Fault> {
        let s = self.rest;
        let negative = usize::from(s.starts_with('-'));
        let digits = span(&s[negative..], |c| c.is_ascii_digit());
        let whole = negative + digits;
        let fraction = s[whole..].strip_prefix('.').map_or(0, |f| span(f, |c| c.is_ascii_digit()));
        if fraction > 0 {
            let len = whole + 1 + fraction;
            let value = s[..len].parse().map_err(|_| (self.at, "number too long".to_owned()))?;
            return Ok((Kind::Float(value), len));
        }
        let word = span(s, is_word);
        let too_large = |_| (self.at, "number too large".to_owned());
        if let Some(hex) = s[..word].strip_prefix("0x")
            && hex.bytes().all(|b| b.is_ascii_hexdigit())
        {
            return Ok((Kind::Hex(i64::from_str_radix(hex, 16).map_err(too_large)?), word));
        }
        if digits > 0 && whole >= word {
            return Ok((Kind::Integer(s[..whole].parse().map_err(too_large)?), whole));
        }
        if word > 0 {
            // `sequence#` is the only word with a sign in it.
            let sign = usize::from(&s[..word] == "sequence" && s[word..].starts_with('#'));
            return Ok((Kind::Word, word + sign));
        }
        let sign = s.chars().next().unwrap_or(' ');
        Ok((Kind::Sign(sign), sign.len_utf8()))
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn span(s: &str, wanted: impl Fn(char) -> bool) -> usize {
    s.find(|c| !wanted(c)).unwrap_or(s.len())
}

/// An address at the front. Ranges of sequence numbers (`1:1001`) have neither `::` nor seven colons.
fn address(s: &str) -> Option<(Kind, usize)> {
    let mut len = span(s, |c| c.is_ascii_hexdigit() || c == ':' || c == '.');
    let looks = |s: &str| s.contains("::") || s.matches(':').count() >= 7;
    while looks(&s[..len]) {
        if let Ok(addr) = s[..len].parse() {
            return Some((Kind::V6(addr), len));
        }
        len -= 1;
    }
    let mut len = span(s, |c| c.is_ascii_digit() || c == '.');
    while s[..len].matches('.').count() >= 3 && !s[..len].contains("..") {
        if let Ok(addr) = s[..len].parse() {
            return Some((Kind::V4(addr), len));
        }
        len -= 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<Kind> {
        tokens(text).unwrap().into_iter().map(|t| t.kind).collect()
    }

    #[test]
    fn numbers_words_and_dots_are_told_apart() {
        let w = Kind::Word;
        let s = Kind::Sign;
        assert_eq!(
            kinds("+0...0.300 S.5 P. 12ab 0x1F -1 - .1"),
            [
                s('+'),
                Kind::Integer(0),
                Kind::Ellipsis,
                Kind::Float(0.3),
                w.clone(),
                Kind::Float(0.5),
                w.clone(),
                s('.'),
                w,
                Kind::Hex(31),
                Kind::Integer(-1),
                s('-'),
                Kind::Float(0.1),
                Kind::End
            ]
        );
    }

    #[test]
    fn sequence_ranges_are_no_addresses() {
        assert_eq!(kinds("1:1001(1000)").len(), 7);
        assert_eq!(kinds("fd00::1 > 10.0.0.1 :")[0], Kind::V6("fd00::1".parse().unwrap()));
        assert_eq!(kinds("2001:db8::1: x")[0], Kind::V6("2001:db8::1".parse().unwrap()));
        assert_eq!(kinds("10.0.0.1:")[0], Kind::V4("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn comments_strings_and_code_keep_their_place() {
        let all = tokens("// one\n/* two\n */ \"a\\\"b\" %{ assert x }% `sh \n`").unwrap();
        assert_eq!(all[0].at, Position { line: 3, column: 5 });
        assert_eq!(all[1].kind, Kind::Code("assert x".into()));
        assert_eq!(all[2].kind, Kind::Command("sh \n".into()));
        let (at, what) = tokens("0 \"open").unwrap_err();
        assert_eq!((at.line, at.column), (1, 3));
        assert!(what.contains("without its end"));
    }
}
