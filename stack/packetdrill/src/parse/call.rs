//! System calls: `...0.3 write(4, ..., 1000) = -1 EPIPE (Broken pipe)`.

use super::Parser;
use crate::script::{Call, Expr};
use crate::token::{Fault, Kind};

impl Parser {
    pub(super) fn call(&mut self) -> Result<Call, Fault> {
        let mut end = None;
        if self.peek().kind == Kind::Ellipsis {
            self.advance();
            end = Some(self.micros()?);
        }
        let name = self.word("the name of a system call")?;
        self.sign('(', "and the arguments of the call")?;
        let args = self.expressions(')')?;
        self.sign('=', "and the result of the call")?;
        let result = self.expression()?;
        let mut errno = None;
        if self.peek().kind == Kind::Word {
            errno = Some(self.advance().text);
        }
        // What follows in parentheses is for the reader.
        if self.take_sign('(') {
            while !self.take_sign(')') {
                if self.peek().kind == Kind::End {
                    return self.expected("`)` after the note");
                }
                self.advance();
            }
        }
        Ok(Call { name, args, end, result, errno })
    }

    /// Expressions with commas between them, up to and with `close`.
    fn expressions(&mut self, close: char) -> Result<Vec<Expr>, Fault> {
        let mut list = Vec::new();
        if self.take_sign(close) {
            return Ok(list);
        }
        loop {
            list.push(self.expression()?);
            if !self.take_sign(',') {
                break;
            }
        }
        self.sign(close, "or `,` after an expression")?;
        Ok(list)
    }

    fn expression(&mut self) -> Result<Expr, Fault> {
        let mut left = self.operand()?;
        while self.take_sign('|') {
            left = Expr::Or(Box::new(left), Box::new(self.operand()?));
        }
        Ok(left)
    }

    fn operand(&mut self) -> Result<Expr, Fault> {
        let token = self.peek();
        Ok(match token.kind {
            Kind::Ellipsis => {
                self.advance();
                Expr::Ellipsis
            }
            Kind::Integer(n) | Kind::Hex(n) => {
                self.advance();
                Expr::Integer(n)
            }
            Kind::Text(_) => self.text(),
            Kind::V4(addr) => {
                self.advance();
                Expr::Address(addr.into())
            }
            Kind::V6(addr) => {
                self.advance();
                Expr::Address(addr.into())
            }
            Kind::Word => {
                self.advance();
                if self.take_sign('(') {
                    return Ok(Expr::Apply(token.text, self.expressions(')')?));
                }
                Expr::Word(token.text)
            }
            Kind::Sign('[') => {
                self.advance();
                Expr::List(self.expressions(']')?)
            }
            Kind::Sign('{') => {
                self.advance();
                self.braces()?
            }
            _ => return self.expected("a number, a name, text, `...`, `[` or `{`"),
        })
    }

    /// Texts that follow each other are one.
    fn text(&mut self) -> Expr {
        let mut all = String::new();
        while let Kind::Text(part) = self.peek().kind {
            all.push_str(&part);
            self.advance();
        }
        if self.peek().kind == Kind::Ellipsis {
            self.advance();
        }
        Expr::Text(all)
    }

    /// `{a, b}` or `{name=value, name(n)=value}`.
    fn braces(&mut self) -> Result<Expr, Fault> {
        let mut items = Vec::new();
        let mut fields = Vec::new();
        loop {
            if self.is_sign('}') {
                break;
            }
            let at = self.peek().at;
            match self.expression()? {
                Expr::Word(name) | Expr::Apply(name, _) if self.take_sign('=') => {
                    fields.push((name, self.expression()?));
                }
                item => items.push(item),
            }
            if !fields.is_empty() && !items.is_empty() {
                return Err((at, "either every item in `{}` has a name or none".into()));
            }
            if !self.take_sign(',') {
                break;
            }
        }
        self.sign('}', "or `,` after an item")?;
        Ok(if fields.is_empty() { Expr::Braces(items) } else { Expr::Record(fields) })
    }
}
