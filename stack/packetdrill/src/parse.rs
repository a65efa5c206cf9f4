//! Reads the script language of packetdrill: options, then events.
//!
//! Every message says what stands there and what was expected; the caller adds the file's name.

use std::collections::HashMap;

use crate::script::{Action, Event, Script, ScriptOption, When};
use crate::token::{Fault, Kind, Position, Token, tokens};

mod call;
mod packet;

/// Why a script cannot be read or run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{at}: {what}")]
pub struct ScriptError {
    /// File name as given.
    pub file: String,
    /// Where.
    pub at: Position,
    /// What was found and what was expected.
    pub what: String,
}

/// Reads a script; `name` is for messages.
pub fn parse(name: &str, text: &str) -> Result<Script, ScriptError> {
    read(name, text).map_err(|(at, what)| ScriptError { file: name.to_owned(), at, what })
}

struct Parser {
    tokens: Vec<Token>,
    next: usize,
    /// `--define=NAME=value`: words that stand for other tokens.
    defined: HashMap<String, Token>,
}

fn read(name: &str, text: &str) -> Result<Script, Fault> {
    let mut p = Parser { tokens: tokens(text)?, next: 0, defined: HashMap::new() };
    let options = p.options()?;
    let mut init = None;
    if let Kind::Command(command) = p.peek().kind {
        let at = p.advance().at;
        init = Some((at, command));
    }
    let mut events = Vec::new();
    while p.peek().kind != Kind::End {
        // The last command is for cleaning up: there is nothing to clean here.
        if matches!(p.peek().kind, Kind::Command(_)) && p.tokens[p.next + 1].kind == Kind::End {
            break;
        }
        events.push(p.event()?);
    }
    if events.is_empty() {
        return Err((p.peek().at, "a script needs an event, such as `0 socket(...) = 3`".into()));
    }
    Ok(Script { name: name.to_owned(), options, init, events })
}

impl Parser {
    /// The next token, with words that were defined replaced.
    fn peek(&self) -> Token {
        let token = &self.tokens[self.next];
        if token.kind == Kind::Word
            && let Some(value) = self.defined.get(&token.text)
        {
            return Token { at: token.at, ..value.clone() };
        }
        token.clone()
    }

    fn advance(&mut self) -> Token {
        let token = self.peek();
        if self.next + 1 < self.tokens.len() {
            self.next += 1;
        }
        token
    }

    fn expected<T>(&self, what: &str) -> Result<T, Fault> {
        let found = self.peek();
        Err((found.at, format!("found {found}, expected {what}")))
    }

    fn is_sign(&self, sign: char) -> bool {
        self.peek().kind == Kind::Sign(sign)
    }

    fn is_word(&self, word: &str) -> bool {
        let token = self.peek();
        token.kind == Kind::Word && token.text == word
    }

    /// Takes `sign` if it is next.
    fn take_sign(&mut self, sign: char) -> bool {
        let found = self.is_sign(sign);
        if found {
            self.advance();
        }
        found
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        if found {
            self.advance();
        }
        found
    }

    fn sign(&mut self, sign: char, after: &str) -> Result<(), Fault> {
        if self.take_sign(sign) { Ok(()) } else { self.expected(&format!("`{sign}` {after}")) }
    }

    fn word(&mut self, what: &str) -> Result<String, Fault> {
        if self.peek().kind == Kind::Word { Ok(self.advance().text) } else { self.expected(what) }
    }

    /// An integer within bounds.
    fn integer(&mut self, what: &str, max: i64) -> Result<i64, Fault> {
        let token = self.peek();
        match token.kind {
            Kind::Integer(n) | Kind::Hex(n) if (0..=max).contains(&n) => {
                self.advance();
                Ok(n)
            }
            Kind::Integer(_) | Kind::Hex(_) => {
                Err((token.at, format!("{what} {} is not within 0 and {max}", token.text)))
            }
            _ => self.expected(what),
        }
    }

    fn options(&mut self) -> Result<Vec<ScriptOption>, Fault> {
        let mut options = Vec::new();
        while let Kind::Option(name) = self.peek().kind {
            let at = self.advance().at;
            let mut value = String::new();
            if self.take_sign('=') {
                let first = self.advance();
                value = option_value(&first)?;
                if name == "define" {
                    self.sign('=', "and a value, as in `--define=NAME=value`")?;
                    let meaning = self.advance();
                    value = format!("{}={}", first.text, option_value(&meaning)?);
                    self.defined.insert(first.text, meaning);
                }
            }
            options.push(ScriptOption { at, name, value });
        }
        Ok(options)
    }

    fn event(&mut self) -> Result<Event, Fault> {
        let at = self.peek().at;
        let time = self.when()?;
        let token = self.peek();
        let action = match token.kind {
            Kind::Command(command) => {
                self.advance();
                Action::Command(command)
            }
            Kind::Code(code) => {
                self.advance();
                Action::Code(code)
            }
            Kind::Sign('<' | '>') => Action::Packet(self.packet()?),
            Kind::Word | Kind::Ellipsis => Action::Call(self.call()?),
            _ => {
                return self
                    .expected("a packet (`<` or `>`), a system call, `%{...}%` or a command");
            }
        };
        let outbound = matches!(&action, Action::Packet(p) if !p.inbound);
        if !outbound && !matches!(time, When::At(_) | When::Plus(_)) {
            let what = "`*` and ranges of time are only for outbound packets";
            return Err((at, what.to_owned()));
        }
        Ok(Event { at, time, action })
    }

    fn when(&mut self) -> Result<When, Fault> {
        if self.take_sign('*') {
            return Ok(When::Any);
        }
        let at = self.peek().at;
        let relative = self.take_sign('+');
        let from = self.micros()?;
        if !self.take_sign('~') {
            return Ok(if relative { When::Plus(from) } else { When::At(from) });
        }
        if relative {
            self.sign('+', "before the end of a range that began with `+`")?;
        }
        let to = self.micros()?;
        if to < from {
            return Err((at, "the range of time ends before it begins".into()));
        }
        Ok(if relative { When::PlusBetween(from, to) } else { When::Between(from, to) })
    }

    /// Seconds as written, microseconds as meant.
    fn micros(&mut self) -> Result<u64, Fault> {
        let token = self.peek();
        let seconds = match token.kind {
            Kind::Integer(n) => n as f64,
            Kind::Float(f) => f,
            _ => return self.expected("a time in seconds"),
        };
        if seconds < 0.0 {
            return self.expected("a time that is not negative");
        }
        self.advance();
        Ok((seconds * 1e6).round() as u64)
    }
}

fn option_value(token: &Token) -> Result<String, Fault> {
    match &token.kind {
        Kind::Text(s) | Kind::Command(s) => Ok(s.clone()),
        Kind::Integer(_)
        | Kind::Hex(_)
        | Kind::Float(_)
        | Kind::Word
        | Kind::V4(_)
        | Kind::V6(_) => Ok(token.text.clone()),
        _ => Err((token.at, format!("found {token}, expected the value of an option"))),
    }
}

#[cfg(test)]
mod tests;
