//! Client identifiers: the names under which addresses are asked of DHCP servers.
//!
//! ```text
//! cluster id          alias  holder
//! 00:07:34:04:12:0E : data0 : VsvrA : 0     an address of a vserver, and which one on that alias
//! 00:07:34:04:12:0E : data0.5 : VsvrA : 0   the same in VLAN 5 of that alias
//! 00:07:34:04:12:0E : mgmt0 : Filer1        the address of a node
//! 00:07:34:04:12:0E : mgmt0 : MySQLMgmtNode the address of a kind of node, wherever it runs
//! ```
//!
//! They are known before any machine is: servers are prepared from a configuration alone
//! ([`crate::server_config`]). The cluster id has the shape of a MAC address and is opaque text: it
//! belongs to a licence, not to a card, and servers compare it byte by byte, so its case is kept.

use std::fmt;
use std::str::FromStr;

use crate::interface::{AliasClass, InterfaceName};

/// Longest name of a vserver, node or kind of node.
pub const HOLDER_BYTES_MAX: usize = 63;

/// The enterprise number of DHCPv6 identifiers unless the configuration has one: that of RFC 5612,
/// for weft has none of its own.
pub const ENTERPRISE_DEFAULT: u32 = 32_473;

/// Text like `00:07:34:04:12:0E` that no other cluster has.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterId(String);

/// Whose address it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Holder {
    /// A vserver's, and the how manieth on the alias, from 0.
    Vserver {
        /// Name of the vserver, in the spelling of the configuration.
        name: String,
        /// Which one of the vserver's on this alias.
        instance: u32,
    },
    /// A node's, or that of a kind of node (`MySQLMgmtNode`); both rules have the same form.
    Node(String),
}

/// What an address is of, without the cluster: `data0:VsvrA:0`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Claim {
    /// Class of the alias.
    pub class: AliasClass,
    /// Number of the alias.
    pub number: u16,
    /// VLAN tag in the alias's name: `data0.5` is another network than `data0`.
    pub tag: Option<u16>,
    /// Whose address.
    pub holder: Holder,
}

/// A client identifier.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId {
    /// The cluster.
    pub cluster: ClusterId,
    /// What is claimed in it.
    pub claim: Claim,
}

/// Why text is no identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NamingError {
    /// Not six pairs.
    #[error(
        "'{0}' is no cluster id; write six pairs of hexadecimal digits, like 00:07:34:04:12:0E"
    )]
    Cluster(String),
    /// Too few or too many parts.
    #[error("'{0}' has another form than alias:vserver:instance and alias:node")]
    Form(String),
    /// Not an alias.
    #[error("'{0}' is no alias; use mgmt, data or san and a number, like data0")]
    Alias(String),
    /// Not a name.
    #[error(
        "'{0}' is no name of a vserver or node; use a letter and then up to 62 letters, digits, '-', '_'"
    )]
    Holder(String),
    /// Not a number.
    #[error("'{0}' is no instance; use a number from 0 without leading zeros")]
    Instance(String),
}

impl ClusterId {
    /// As written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterId {
    type Err = NamingError;

    fn from_str(text: &str) -> Result<ClusterId, NamingError> {
        let pair = |p: &str| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit());
        let shaped = text.split(':').count() == 6 && text.split(':').all(pair);
        if shaped { Ok(ClusterId(text.to_owned())) } else { Err(NamingError::Cluster(text.into())) }
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether text can name a vserver, node or kind of node in an identifier.
pub fn is_holder(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.len() <= HOLDER_BYTES_MAX
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

fn holder(text: &str) -> Result<String, NamingError> {
    if is_holder(text) { Ok(text.to_owned()) } else { Err(NamingError::Holder(text.into())) }
}

/// An alias by its name, case ignored: class, number, and the tag in it.
fn alias(text: &str) -> Result<(AliasClass, u16, Option<u16>), NamingError> {
    let (name, tag) = match text.to_ascii_lowercase().parse() {
        Ok(InterfaceName::Vlan { parent, tag }) => (Some(*parent), Some(tag)),
        name => (name.ok(), None),
    };
    match name {
        Some(InterfaceName::Alias(class, number)) => Ok((class, number, tag)),
        _ => Err(NamingError::Alias(text.into())),
    }
}

impl Claim {
    /// What a vserver claims: its `instance`th address on `alias`.
    pub fn vserver(alias_name: &str, name: &str, instance: u32) -> Result<Claim, NamingError> {
        let (class, number, tag) = alias(alias_name)?;
        let holder = Holder::Vserver { name: holder(name)?, instance };
        Ok(Claim { class, number, tag, holder })
    }

    /// What a node, or a kind of node, claims on `alias`.
    pub fn node(alias_name: &str, name: &str) -> Result<Claim, NamingError> {
        let (class, number, tag) = alias(alias_name)?;
        Ok(Claim { class, number, tag, holder: Holder::Node(holder(name)?) })
    }

    /// The alias's name.
    pub fn alias(&self) -> String {
        let alias = InterfaceName::Alias(self.class, self.number);
        let tagged = self.tag.and_then(|tag| alias.tagged(tag));
        tagged.unwrap_or(alias).to_string()
    }

    /// Name of the vserver, node or kind of node.
    pub fn name(&self) -> &str {
        match &self.holder {
            Holder::Vserver { name, .. } | Holder::Node(name) => name,
        }
    }

    /// A claim of the same alias and holder, whatever the spelling and the instance.
    pub fn same_holder(&self, other: &Claim) -> bool {
        let same_kind =
            matches!(self.holder, Holder::Node(_)) == matches!(other.holder, Holder::Node(_));
        let alias = |of: &Claim| (of.class, of.number, of.tag);
        alias(self) == alias(other) && same_kind && self.name().eq_ignore_ascii_case(other.name())
    }
}

impl FromStr for Claim {
    type Err = NamingError;

    fn from_str(text: &str) -> Result<Claim, NamingError> {
        let parts: Vec<&str> = text.split(':').collect();
        match parts[..] {
            [alias, name] => Claim::node(alias, name),
            [alias, name, instance] => {
                let plain = instance == "0" || !instance.starts_with('0');
                let digits = instance.bytes().all(|b| b.is_ascii_digit());
                let number = instance.parse().ok().filter(|_| plain && digits);
                let number = number.ok_or_else(|| NamingError::Instance(instance.into()))?;
                Claim::vserver(alias, name, number)
            }
            _ => Err(NamingError::Form(text.into())),
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let alias = self.alias();
        match &self.holder {
            Holder::Vserver { name, instance } => write!(f, "{alias}:{name}:{instance}"),
            Holder::Node(name) => write!(f, "{alias}:{name}"),
        }
    }
}

impl ClientId {
    /// Puts it together.
    pub fn new(cluster: ClusterId, claim: Claim) -> ClientId {
        ClientId { cluster, claim }
    }

    /// Data of DHCP option 61: type 0, for it is no hardware address, and the text (RFC 2132 9.14).
    pub fn option_61(&self) -> Vec<u8> {
        let mut data = vec![0];
        data.extend_from_slice(self.to_string().as_bytes());
        data
    }

    /// DHCP unique identifier of DHCPv6: by enterprise number, then the text (RFC 8415 11.3).
    pub fn duid(&self, enterprise: u32) -> Vec<u8> {
        let mut data = vec![0, 2];
        data.extend_from_slice(&enterprise.to_be_bytes());
        data.extend_from_slice(self.to_string().as_bytes());
        data
    }
}

impl FromStr for ClientId {
    type Err = NamingError;

    fn from_str(text: &str) -> Result<ClientId, NamingError> {
        let seventh = text.match_indices(':').nth(5).map(|(at, _)| at);
        let at = seventh.ok_or_else(|| NamingError::Cluster(text.into()))?;
        Ok(ClientId { cluster: text[..at].parse()?, claim: text[at + 1..].parse()? })
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.cluster, self.claim)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The identifiers that the SystemX document prints, in its order.
    const PRINTED: [&str; 12] = [
        "00:07:34:04:12:0E:data0:VsvrA:0",
        "00:07:34:04:12:0E:data0:VsvrA:1",
        "00:07:34:04:12:0E:data0:VsvrB:0",
        "00:07:34:04:12:0E:data1:VsvrA:0",
        "00:07:34:04:12:0E:mgmt0:Filer1",
        "00:07:34:04:12:0E:mgmt1:Filer1",
        "00:07:34:04:12:0E:san0:Filer1",
        "00:07:34:04:12:0E:data2:VsvrC:0",
        "00:07:34:04:12:0E:mgmt0:Filer2",
        "00:07:34:04:12:0E:san0:Filer2",
        "00:07:34:04:12:0E:mgmt0:MySQLMgmtNode",
        "00:07:34:04:12:0E:mgmt1:MySQLAppNode3",
    ];

    #[test]
    fn the_printed_identifiers_are_read_and_written_as_they_stand() {
        for text in PRINTED {
            assert_eq!(text.parse::<ClientId>().unwrap().to_string(), text);
        }
        let cluster: ClusterId = "00:07:34:04:12:0E".parse().unwrap();
        let claims = [Claim::vserver("data0", "VsvrA", 1), Claim::node("MGMT0", "Filer1")];
        let built: Vec<String> = claims
            .into_iter()
            .map(|c| ClientId::new(cluster.clone(), c.unwrap()).to_string())
            .collect();
        assert_eq!(built, [PRINTED[1], PRINTED[4]]);
    }

    // RFC 2132 9.14, RFC 8415 11.3
    #[test]
    fn the_text_goes_to_servers_of_both_versions() {
        let id: ClientId = PRINTED[0].parse().unwrap();
        assert_eq!(id.option_61(), [&[0], PRINTED[0].as_bytes()].concat());
        let duid = id.duid(ENTERPRISE_DEFAULT);
        assert_eq!(duid, [&[0, 2, 0, 0, 0x7e, 0xd9], PRINTED[0].as_bytes()].concat());
    }

    #[test]
    fn what_follows_no_rule_is_refused_with_the_rule() {
        for (text, part) in [
            ("00:07:34:04:12:data0:VsvrA:0", "cluster id"),
            ("00:07:34:04:12:0G:data0:VsvrA:0", "cluster id"),
            ("00:07:34:04:12:0E", "cluster id"),
            ("0:7:34:4:12:E:data0:VsvrA:0", "cluster id"),
            ("00:07:34:04:12:0E:data0", "another form"),
            ("00:07:34:04:12:0E:data0:A:0:1", "another form"),
            ("00:07:34:04:12:0E:eth0:VsvrA:0", "alias"),
            ("00:07:34:04:12:0E:data00:VsvrA:0", "alias"),
            ("00:07:34:04:12:0E:eth0.5:VsvrA:0", "alias"),
            ("00:07:34:04:12:0E:data0.4095:VsvrA:0", "alias"),
            ("00:07:34:04:12:0E:data0::0", "name"),
            ("00:07:34:04:12:0E:data0:Vsvr A:0", "name"),
            ("00:07:34:04:12:0E:data0:VsvrA:00", "instance"),
            ("00:07:34:04:12:0E:data0:VsvrA:+1", "instance"),
            ("00:07:34:04:12:0E:data0:VsvrA:4294967296", "instance"),
        ] {
            let e = text.parse::<ClientId>().unwrap_err().to_string();
            assert!(e.contains(part), "{text}: {e}");
        }
    }

    prop_compose! {
        fn ids()(
            cluster in "[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}",
            class in prop_oneof![Just("mgmt"), Just("data"), Just("san")],
            number in 0u16..1000,
            tag in proptest::option::of(1u16..=4094),
            name in "[A-Za-z][A-Za-z0-9_-]{0,62}",
            instance in proptest::option::of(any::<u32>()),
        ) -> ClientId {
            let tag = tag.map(|tag| format!(".{tag}")).unwrap_or_default();
            let alias = format!("{class}{number}{tag}");
            let claim = match instance {
                Some(instance) => Claim::vserver(&alias, &name, instance),
                None => Claim::node(&alias, &name),
            };
            ClientId::new(cluster.parse().unwrap(), claim.unwrap())
        }
    }

    proptest! {
        #[test]
        fn every_identifier_round_trips_and_fits_its_options(id in ids()) {
            prop_assert_eq!(&id.to_string().parse::<ClientId>().unwrap(), &id);
            // One byte of length (RFC 2132 2), and the longest DUID (RFC 8415 11.1).
            prop_assert!(id.option_61().len() <= 255);
            prop_assert!(id.duid(u32::MAX).len() <= 130);
        }

        #[test]
        fn different_identifiers_have_different_texts(a in ids(), b in ids()) {
            prop_assert_eq!(a == b, a.to_string() == b.to_string());
        }

        #[test]
        fn text_is_an_identifier_exactly_if_it_is_written_so(text in "[0-9a-fA-F:]{0,12}[a-z0-9:]{0,8}|\\PC*") {
            if let Ok(id) = text.parse::<ClientId>() {
                prop_assert!(id.to_string().eq_ignore_ascii_case(&text));
            }
        }
    }
}
