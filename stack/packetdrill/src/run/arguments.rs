//! Arguments of calls as values.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::script::{Call, Expr};
use crate::symbols;

/// A whole number, a name of one, or names with `|` between them.
pub(super) fn integer(expr: &Expr) -> Result<i64, String> {
    match expr {
        Expr::Integer(n) => Ok(*n),
        Expr::Word(name) => {
            symbols::value(name).ok_or_else(|| format!("`{name}` is no constant known here"))
        }
        Expr::Or(a, b) => Ok(integer(a)? | integer(b)?),
        Expr::List(items) if items.len() == 1 => integer(&items[0]),
        Expr::Apply(name, items) if name == "htons" && items.len() == 1 => integer(&items[0]),
        _ => Err(format!("found `{expr}`, expected a number")),
    }
}

/// Argument `at` of a call.
pub(super) fn argument(call: &Call, at: usize) -> Result<&Expr, String> {
    call.args.get(at).ok_or_else(|| {
        format!("{}() has {} arguments, expected at least {}", call.name, call.args.len(), at + 1)
    })
}

pub(super) fn number(call: &Call, at: usize) -> Result<i64, String> {
    integer(argument(call, at)?)
}

/// A number that may be left to us (`...`).
pub(super) fn number_or(call: &Call, at: usize, default: i64) -> Result<i64, String> {
    match argument(call, at)? {
        Expr::Ellipsis => Ok(default),
        other => integer(other),
    }
}

/// An address: `...` or a `struct sockaddr_in` written out.
pub(super) fn address(expr: &Expr) -> Result<Option<SocketAddr>, String> {
    let Expr::Record(fields) = expr else {
        return match expr {
            Expr::Ellipsis => Ok(None),
            _ => Err(format!("found `{expr}`, expected `...` or {{sa_family = ..., ...}}")),
        };
    };
    let mut ip = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let mut port = 0;
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("sin_port" | "sin6_port", value) => port = integer(value)? as u16,
            ("sin_addr" | "sin6_addr", Expr::Apply(_, items)) => match &items[..] {
                [Expr::Text(text)] => {
                    ip = text.parse().map_err(|_| format!("\"{text}\" is no IP address"))?;
                }
                _ => return Err(format!("found `{value}`, expected inet_addr(\"...\")")),
            },
            ("sa_family", _) => {}
            _ => return Err(format!("`{name}` is no field of an address")),
        }
    }
    Ok(Some(SocketAddr::new(ip, port)))
}

/// The lengths of an `iovec` list, added.
pub(super) fn vector_len(expr: &Expr) -> Result<usize, String> {
    let Expr::List(items) = expr else {
        return Err(format!("found `{expr}`, expected [{{..., length}}, ...]"));
    };
    let mut all = 0;
    for item in items {
        match item {
            Expr::Braces(pair) if pair.len() == 2 => all += integer(&pair[1])? as usize,
            _ => return Err(format!("found `{item}`, expected {{..., length}}")),
        }
    }
    Ok(all)
}

/// A field of a structure.
pub(super) fn field<'a>(expr: &'a Expr, name: &str) -> Option<&'a Expr> {
    match expr {
        Expr::Record(fields) => fields.iter().find(|(n, _)| n == name).map(|(_, v)| v),
        _ => None,
    }
}

/// The bytes of an option's value.
pub(super) fn option_value(expr: &Expr) -> Result<Vec<u8>, String> {
    let bytes = |n: i64| (n as i32).to_ne_bytes().to_vec();
    match expr {
        Expr::Text(text) => Ok(text.as_bytes().to_vec()),
        Expr::List(items) if items.len() == 1 => option_value(&items[0]),
        Expr::Record(_) => match (field(expr, "onoff"), field(expr, "linger")) {
            (Some(on), Some(linger)) => Ok([bytes(integer(on)?), bytes(integer(linger)?)].concat()),
            _ => Err(format!("found `{expr}`, expected a number or {{onoff=1, linger=0}}")),
        },
        _ => Ok(bytes(integer(expr)?)),
    }
}
