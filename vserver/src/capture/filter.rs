//! Which packets a capture takes: `host`, `net`, `port` and `proto`, joined by `and`.

use std::net::IpAddr;

use weft_stack::ip::address::{Cidr, bits};

use super::sight::{Face, ICMP, ICMPV6, SHIM, TCP, UDP};

/// Conditions of one filter.
const TERMS_MAX: usize = 16;

/// Why a filter cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// Not a word of the language.
    #[error("filter: '{0}' is none of host, net, port, proto, tcp, udp, icmp, shim")]
    Word(String),
    /// Nothing follows a word.
    #[error("filter: '{0}' needs {1} behind it")]
    Missing(String, &'static str),
    /// What follows cannot be read.
    #[error("filter: '{0}' is no {1}")]
    Value(String, &'static str),
    /// Conditions without a word between them.
    #[error("filter: 'and' is wanted before '{0}'")]
    And(String),
    /// Too long.
    #[error("filter: at most {TERMS_MAX} conditions")]
    TooLong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Term {
    Net(Cidr),
    Port(u16),
    Proto(&'static [u8]),
}

/// A filter; an empty one takes everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter(Vec<Term>);

fn protocol(name: &str) -> Option<Term> {
    let numbers: &'static [u8] = match name {
        "tcp" => &[TCP],
        "udp" => &[UDP],
        "icmp" => &[ICMP, ICMPV6],
        "shim" => &[SHIM],
        _ => return None,
    };
    Some(Term::Proto(numbers))
}

fn term<'a>(word: &str, mut next: impl FnMut() -> Option<&'a str>) -> Result<Term, FilterError> {
    if let Some(term) = protocol(word) {
        return Ok(term);
    }
    let mut value = |what| next().ok_or_else(|| FilterError::Missing(word.to_owned(), what));
    let bad = |text: &str, what| FilterError::Value(text.to_owned(), what);
    match word {
        "host" => {
            let text = value("an address")?;
            let addr: IpAddr = text.parse().map_err(|_| bad(text, "address"))?;
            let whole = Cidr::new(addr, bits(addr)).ok_or_else(|| bad(text, "address"))?;
            Ok(Term::Net(whole))
        }
        "net" => {
            let text = value("a network")?;
            let net: Cidr =
                text.parse().map_err(|_| bad(text, "network (10.0.0.0/8, fd00::/8)"))?;
            Ok(Term::Net(net.network()))
        }
        "port" => {
            let text = value("a number")?;
            text.parse().map(Term::Port).map_err(|_| bad(text, "port"))
        }
        "proto" => {
            let text = value("tcp, udp, icmp or shim")?;
            protocol(text).ok_or_else(|| bad(text, "protocol (tcp, udp, icmp, shim)"))
        }
        other => Err(FilterError::Word(other.to_owned())),
    }
}

impl Filter {
    pub(crate) fn parse(text: &str) -> Result<Filter, FilterError> {
        let mut words = text.split_ascii_whitespace();
        let mut terms = Vec::new();
        while let Some(word) = words.next() {
            let word = match word {
                _ if terms.is_empty() => word,
                "and" => words.next().ok_or_else(|| {
                    FilterError::Missing(String::from("and"), "another condition")
                })?,
                other => return Err(FilterError::And(other.to_owned())),
            };
            if terms.len() == TERMS_MAX {
                return Err(FilterError::TooLong);
            }
            terms.push(term(word, || words.next())?);
        }
        Ok(Filter(terms))
    }

    /// Whether a packet, or a frame that is none (`None`), is taken.
    pub(super) fn takes(&self, face: Option<&Face>) -> bool {
        let Some(face) = face else { return self.0.is_empty() };
        self.0.iter().all(|term| match term {
            Term::Net(net) => net.contains(face.src) || net.contains(face.dst),
            Term::Port(port) => face.has_port(*port),
            Term::Proto(numbers) => face.protocols.iter().any(|p| numbers.contains(p)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn face() -> Face {
        Face {
            src: "fd00::1".parse().unwrap(),
            dst: "fd00::2".parse().unwrap(),
            protocols: [SHIM, TCP].into_iter().collect(),
            ports: [(40_000, 80)].into_iter().collect(),
        }
    }

    fn takes(text: &str) -> bool {
        Filter::parse(text).unwrap().takes(Some(&face()))
    }

    #[test]
    fn every_condition_must_hold() {
        for text in [
            "",
            "host fd00::1",
            "host fd00::2 and port 80",
            "net fd00::/64 and port 40000 and proto tcp",
            "shim and net fd00::9/64",
        ] {
            assert!(takes(text), "{text}");
        }
        for text in ["host fd00::3", "host fd00::2 and port 81", "proto udp", "net 10.0.0.0/8"] {
            assert!(!takes(text), "{text}");
        }
        assert!(Filter::default().takes(None));
        assert!(!Filter::parse("port 80").unwrap().takes(None));
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        for (text, told) in [
            ("hots fd00::1", "'hots' is none of host"),
            ("host", "'host' needs an address"),
            ("host web1", "'web1' is no address"),
            ("net 10.0.0.0/33", "'10.0.0.0/33' is no network"),
            ("port 70000", "'70000' is no port"),
            ("proto sctp", "'sctp' is no protocol"),
            ("port 80 tcp", "'and' is wanted before 'tcp'"),
            ("port 80 and", "'and' needs another condition"),
        ] {
            let error = Filter::parse(text).unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
        let long = vec!["port 1"; TERMS_MAX + 1].join(" and ");
        assert_eq!(Filter::parse(&long), Err(FilterError::TooLong));
    }
}
