//! Names of interfaces, parsed once.
//!
//! A name says what an interface is: `eth#` a physical component, `bond#` an aggregate, `fail#` a
//! failover group, `mgmt#` `data#` `san#` an alias, where addresses live, and `<parent>.<tag>` a
//! VLAN on any of them. Case is ignored and numbers have no leading zero, so an interface has one
//! name; it displays in lower case.

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
    /// `<parent>.<tag>`: a VLAN on any of the others.
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
        "'{0}' is not an interface name: eth#, bond#, fail#, mgmt#, data# or san#, or one of \
         them with a VLAN tag like eth0.5"
    )]
    Kind(String),
    /// No number, too large, or a leading zero.
    #[error("'{0}' needs a number from 0 to 999 without leading zeros after '{1}'")]
    Number(String, &'static str),
    /// No VLAN identifier.
    #[error("'{0}': a VLAN tag is a number from 1 to 4094 without leading zeros")]
    Tag(String),
    /// A VLAN on a VLAN.
    #[error("'{0}' has two VLAN tags; a frame carries one")]
    TwoTags(String),
}

const KINDS: [&str; 6] = ["eth", "bond", "fail", "mgmt", "data", "san"];
const NUMBER_MAX: u16 = 999;
/// The largest VLAN identifier (802.1Q 9.6).
pub const TAG_MAX: u16 = 4094;

impl NameError {
    /// The same of a longer text that it was found in.
    fn naming(self, whole: &str) -> NameError {
        match self {
            NameError::Kind(_) => NameError::Kind(whole.to_owned()),
            NameError::Number(_, kind) => NameError::Number(whole.to_owned(), kind),
            NameError::Tag(_) => NameError::Tag(whole.to_owned()),
            NameError::TwoTags(_) => NameError::TwoTags(whole.to_owned()),
        }
    }
}

impl InterfaceName {
    /// The class of an alias, tagged itself or not; `None` for what carries no addresses.
    pub fn alias_class(&self) -> Option<AliasClass> {
        match self {
            InterfaceName::Alias(class, _) => Some(*class),
            InterfaceName::Vlan { parent, .. } => parent.alias_class(),
            _ => None,
        }
    }

    /// This with a VLAN tag; `None` if it has one.
    pub fn tagged(&self, tag: u16) -> Option<InterfaceName> {
        if matches!(self, InterfaceName::Vlan { .. }) {
            return None;
        }
        Some(InterfaceName::Vlan { parent: Box::new(self.clone()), tag })
    }

    /// The VLAN tag of a name that has one.
    pub fn tag(&self) -> Option<u16> {
        match self {
            InterfaceName::Vlan { tag, .. } => Some(*tag),
            _ => None,
        }
    }
}

fn number(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

impl FromStr for InterfaceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<InterfaceName, NameError> {
        let lower = text.to_ascii_lowercase();
        if let Some((parent, tag)) = lower.split_once('.') {
            let parent: InterfaceName = parent.parse().map_err(|e: NameError| e.naming(text))?;
            if tag.contains('.') {
                return Err(NameError::TwoTags(text.to_owned()));
            }
            let tag = number(tag).filter(|t| (1..=TAG_MAX).contains(t));
            let tag = tag.ok_or_else(|| NameError::Tag(text.to_owned()))?;
            return Ok(InterfaceName::Vlan { parent: Box::new(parent), tag });
        }
        let kind = KINDS.into_iter().find(|k| lower.starts_with(k));
        let kind = kind.ok_or_else(|| NameError::Kind(text.to_owned()))?;
        let n = number(&lower[kind.len()..]).filter(|n| *n <= NUMBER_MAX);
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
        let names = [
            "eth0",
            "bond12",
            "eth3.4094",
            "bond0.1",
            "fail0.5",
            "data0.5",
            "fail7",
            "mgmt0",
            "data999",
            "san1",
        ];
        for text in names {
            assert_eq!(text.parse::<InterfaceName>().unwrap().to_string(), text);
        }
        assert_eq!("data3".parse(), Ok(InterfaceName::Alias(AliasClass::Data, 3)));
    }

    #[test]
    fn case_is_ignored_and_stored_lower() {
        for (text, stored) in [("Data0", "data0"), ("ETH1.5", "eth1.5"), ("Bond0", "bond0")] {
            assert_eq!(text.parse::<InterfaceName>().unwrap().to_string(), stored);
        }
    }

    #[test]
    fn an_alias_with_a_tag_is_an_alias() {
        let class = |t: &str| t.parse::<InterfaceName>().unwrap().alias_class();
        assert_eq!(class("san0.7"), Some(AliasClass::San));
        assert_eq!((class("eth0.7"), class("fail1")), (None, None));
    }

    #[test]
    fn everything_else_is_refused_with_what_would_be_right() {
        let bad = [
            "",
            "eth",
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
            "fail.1",
            "data0.x",
            "data",
            "eth0 ",
            " eth0",
            "san٣",
            "eth0.5.",
            ".5",
        ];
        for text in bad {
            let e = text.parse::<InterfaceName>().unwrap_err().to_string();
            assert!(e.contains(&format!("'{text}'")), "{text}: {e}");
        }
        let e = "data".parse::<InterfaceName>().unwrap_err();
        assert_eq!(e, NameError::Number("data".into(), "data"));
        let e = "eth0.1.2".parse::<InterfaceName>().unwrap_err();
        assert_eq!(e, NameError::TwoTags("eth0.1.2".into()));
    }
}
