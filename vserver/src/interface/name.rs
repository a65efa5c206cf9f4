//! Names of interfaces, parsed once.

use std::fmt;
use std::str::FromStr;

/// The kinds of alias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AliasClass {
    /// Management.
    Mgmt,
    /// Clients.
    Data,
    /// Storage.
    San,
}

/// What an interface is, and its number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum InterfaceName {
    /// `eth#`: a physical component.
    Eth(u16),
    /// `bond#`: components that act as one.
    Bond(u16),
    /// `<parent>.<tag>`: a VLAN on `eth#` or `bond#`.
    Vlan {
        /// What it stands on.
        parent: Box<InterfaceName>,
        /// VLAN identifier, 1 to 4094.
        tag: u16,
    },
    /// `fail#`: a failover group.
    Fail(u16),
    /// `mgmt#`, `data#`, `san#`: where addresses live.
    Alias(AliasClass, u16),
}

/// Why text is no interface name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// None of the kinds.
    #[error(
        "'{0}' is not an interface name: eth#, bond#, fail#, <eth# or bond#>.<tag>, mgmt#, data# \
         or san#, in lower case"
    )]
    Kind(String),
    /// No number, too large, or a leading zero.
    #[error("'{0}' needs a number from 0 to 999 without leading zeros after '{1}'")]
    Number(String, &'static str),
    /// No VLAN identifier.
    #[error("'{0}': a VLAN tag is a number from 1 to 4094")]
    Tag(String),
    /// A VLAN on something else.
    #[error("'{0}': a VLAN stands on eth# or bond#")]
    Parent(String),
}

const KINDS: [&str; 6] = ["eth", "bond", "fail", "mgmt", "data", "san"];
const NUMBER_MAX: u16 = 999;

fn number(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

impl FromStr for InterfaceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<InterfaceName, NameError> {
        if let Some((parent, tag)) = text.split_once('.') {
            let parent: InterfaceName = parent.parse()?;
            if !matches!(parent, InterfaceName::Eth(_) | InterfaceName::Bond(_)) {
                return Err(NameError::Parent(text.to_owned()));
            }
            let tag = number(tag).filter(|t| (1..=4094).contains(t));
            let tag = tag.ok_or_else(|| NameError::Tag(text.to_owned()))?;
            return Ok(InterfaceName::Vlan { parent: Box::new(parent), tag });
        }
        let kind = KINDS.into_iter().find(|k| text.starts_with(k));
        let kind = kind.ok_or_else(|| NameError::Kind(text.to_owned()))?;
        let n = number(&text[kind.len()..]).filter(|n| *n <= NUMBER_MAX);
        let n = n.ok_or_else(|| NameError::Number(text.to_owned(), kind))?;
        Ok(match kind {
            "eth" => InterfaceName::Eth(n),
            "bond" => InterfaceName::Bond(n),
            "fail" => InterfaceName::Fail(n),
            "mgmt" => InterfaceName::Alias(AliasClass::Mgmt, n),
            "data" => InterfaceName::Alias(AliasClass::Data, n),
            _ => InterfaceName::Alias(AliasClass::San, n),
        })
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InterfaceName::Eth(n) => write!(f, "eth{n}"),
            InterfaceName::Bond(n) => write!(f, "bond{n}"),
            InterfaceName::Fail(n) => write!(f, "fail{n}"),
            InterfaceName::Vlan { parent, tag } => write!(f, "{parent}.{tag}"),
            InterfaceName::Alias(AliasClass::Mgmt, n) => write!(f, "mgmt{n}"),
            InterfaceName::Alias(AliasClass::Data, n) => write!(f, "data{n}"),
            InterfaceName::Alias(AliasClass::San, n) => write!(f, "san{n}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for text in ["eth0", "bond12", "eth3.4094", "bond0.1", "fail7", "mgmt0", "data999", "san1"]
        {
            assert_eq!(text.parse::<InterfaceName>().unwrap().to_string(), text);
        }
        assert_eq!("data3".parse(), Ok(InterfaceName::Alias(AliasClass::Data, 3)));
    }

    #[test]
    fn everything_else_is_refused_with_what_would_be_right() {
        let bad = [
            "",
            "eth",
            "Eth0",
            "ETH0",
            "eth00",
            "eth01",
            "eth-1",
            "eth1000",
            "eth+1",
            "wlan0",
            "eth0.",
            "eth0.0",
            "eth0.4095",
            "eth0.01",
            "eth0.1.2",
            "data0.5",
            "fail0.1",
            "data",
            "eth0 ",
            "san٣",
        ];
        for text in bad {
            let e = text.parse::<InterfaceName>().unwrap_err().to_string();
            assert!(e.contains(&format!("'{}", text.split('.').next().unwrap())), "{text}: {e}");
        }
        let e = "data".parse::<InterfaceName>().unwrap_err();
        assert_eq!(e, NameError::Number("data".into(), "data"));
    }
}
