//! What a server gave: an address, for how long, and what goes with it.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use weft_stack::ip::address::Cidr;

/// Seconds that mean "for ever" (RFC 2132 9.2, RFC 8415 7.7).
pub const FOREVER_S: u32 = u32::MAX;

/// A route of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRoute {
    /// Destination network.
    pub to: IpAddr,
    /// Its prefix length.
    pub prefix_len: u8,
    /// Gateway; none: on the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
}

/// A lease. Its times count from when it was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The address.
    pub address: IpAddr,
    /// Length of the network it is on; 128 for DHCPv6, which says nothing of networks (RFC 5942).
    pub prefix_len: u8,
    /// Who gave it: option 54, or the server's DUID; in hexadecimal digits.
    pub server: String,
    /// How long it is valid, seconds; [`FOREVER_S`]: for ever.
    pub valid_s: u32,
    /// How long it is preferred for new connections.
    pub preferred_s: u32,
    /// When its server is asked to renew it (T1).
    pub renew_s: u32,
    /// When any server is asked (T2).
    pub rebind_s: u32,
    /// Options 121, or 3.
    #[serde(default)]
    pub routes: Vec<LeaseRoute>,
    /// Option 26.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Name servers (options 6, 23).
    #[serde(default)]
    pub dns: Vec<IpAddr>,
    /// Domains to search (options 119, 15, 24), in order.
    #[serde(default)]
    pub search: Vec<String>,
    /// Time servers (options 42, 56), addresses or names.
    #[serde(default)]
    pub ntp: Vec<String>,
    /// Option 12.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_name: Option<String>,
    /// Sub-options of options 43 or 17 (of our enterprise): code, bytes in hexadecimal digits.
    #[serde(default)]
    pub vendor: Vec<(u16, String)>,
}

impl Lease {
    /// Address and network.
    pub fn cidr(&self) -> Cidr {
        let widest = if self.address.is_ipv4() { 32 } else { 128 };
        Cidr { addr: self.address, prefix_len: self.prefix_len.min(widest) }
    }

    /// The server as people read it: an address, or a DUID.
    pub fn server_text(&self) -> String {
        match unhex(&self.server).as_deref() {
            Some([a, b, c, d]) if self.address.is_ipv4() => format!("{a}.{b}.{c}.{d}"),
            _ => self.server.clone(),
        }
    }
}

/// Seconds as a duration; `None`: for ever.
pub(super) fn span(seconds: u32) -> Option<Duration> {
    (seconds != FOREVER_S).then(|| Duration::from_secs(seconds.into()))
}

/// Bytes in hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, b| {
        // Writing to a string does not fail.
        let _ = write!(text, "{b:02x}");
        text
    })
}

/// The bytes of hexadecimal digits.
pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| Some(c.to_digit(16)? as u8)).collect();
    let digits = digits.filter(|d| d.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// Text as servers send it, without what no terminal should see.
pub(super) fn plain(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).take(255).collect()
}

/// Names in the wire format of RFC 1035 without compression beyond RFC 3397's, which is allowed in
/// option 119: what can be read of them. The bytes are not trusted.
pub(super) fn names(data: &[u8]) -> Vec<String> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < data.len() && found.len() < 32 {
        let Some((name, next)) = name(data, at) else { break };
        if !name.is_empty() {
            found.push(name);
        }
        at = next;
    }
    found
}

/// One name from `at`, and where the next one starts.
fn name(data: &[u8], mut at: usize) -> Option<(String, usize)> {
    let (mut text, mut next) = (String::new(), None);
    // Each pointer leads to before itself, so that there is an end.
    loop {
        let len = usize::from(*data.get(at)?);
        match len {
            0 => return Some((text, next.unwrap_or(at + 1))),
            1..=63 => {
                let label = data.get(at + 1..at + 1 + len)?;
                let plain = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-' || *b == b'_';
                if !label.iter().all(plain) || text.len() + len > 253 {
                    return None;
                }
                if !text.is_empty() {
                    text.push('.');
                }
                text.extend(label.iter().map(|b| char::from(*b)));
                at += 1 + len;
            }
            192.. => {
                let to = (len & 63) << 8 | usize::from(*data.get(at + 1)?);
                next = next.or(Some(at + 2));
                at = Some(to).filter(|to| *to < at)?;
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 3397 2
    #[test]
    fn names_are_read_with_pointers_and_without_ends() {
        let data = b"\x03eng\x05apple\x03com\x00\x09marketing\xc0\x04";
        assert_eq!(names(data), ["eng.apple.com", "marketing.apple.com"]);
        for len in 0..data.len() {
            names(&data[..len]);
        }
        assert!(names(&[0xc0, 0]).is_empty(), "a pointer to itself");
        assert!(names(b"\x04a b;\x00").is_empty());
    }

    #[test]
    fn bytes_survive_their_digits() {
        assert_eq!(unhex(&hex(&[0, 2, 0xff])), Some(vec![0, 2, 0xff]));
        assert_eq!((unhex("abc"), unhex("zz")), (None, None));
    }
}
