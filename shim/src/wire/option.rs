//! Options of control messages: type, critical bit, length, contents, padding to eight bytes
//! (RFC 5533 5.15).

use core::net::IpAddr;

use smallvec::SmallVec;

use super::message::ReadError;
use super::probe::KeepaliveTimeout;
use crate::locator::{
    LOCATORS_MAX, Locator, LocatorList, Pair, Preference, Verification, from_octets, is_unicast,
    to_octets,
};

/// Option types, without the critical bit.
pub mod kind {
    /// What the responder gets back.
    pub const VALIDATOR: u16 = 1;
    /// The sender's locators.
    pub const LOCATORS: u16 = 2;
    /// What the sender says of them.
    pub const PREFERENCES: u16 = 3;
    /// CGA parameter data structure.
    pub const PDS: u16 = 4;
    /// Signature over the list.
    pub const SIGNATURE: u16 = 5;
    /// ULIDs, when they are not the packet's addresses.
    pub const ULIDS: u16 = 6;
    /// Forked instance identifier.
    pub const FII: u16 = 7;
    /// RFC 5534 5.3.
    pub const KEEPALIVE_TIMEOUT: u16 = 10;
    /// Ours, experimental: UDP ports of the locators in the list, 0 for none.
    pub const PORTS: u16 = 16384;
    /// Ours, experimental: MAC over the list under a configured key.
    pub const KEYED: u16 = 16385;
}

/// Preferences of a locator list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preferences {
    /// The list they belong to.
    pub generation: u32,
    /// One per locator, in its order.
    pub elements: SmallVec<[Preference; 4]>,
}

impl Preferences {
    /// Those of `list`; `None` if all are alike and say nothing.
    pub fn of(list: &LocatorList) -> Option<Preferences> {
        let elements: SmallVec<_> = list.locators.iter().map(|l| l.preference).collect();
        let told = elements.iter().any(|e| *e != Preference::default());
        told.then_some(Preferences { generation: list.generation, elements })
    }
}

/// The options of one message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Responder validator.
    pub validator: Option<SmallVec<[u8; 24]>>,
    /// Locator list; the preferences in it are not read from here.
    pub locators: Option<LocatorList>,
    /// Locator preferences.
    pub preferences: Option<Preferences>,
    /// CGA parameter data structure.
    pub pds: Option<Vec<u8>>,
    /// CGA signature.
    pub signature: Option<Vec<u8>>,
    /// The sender's ULID is `local`, the receiver's `remote`.
    pub ulids: Option<Pair>,
    /// Forked instance identifier.
    pub fii: Option<u32>,
    /// How long the sender waits for return traffic.
    pub keepalive_timeout: Option<KeepaliveTimeout>,
    /// UDP port of each locator in the list, 0 for none.
    pub ports: Option<SmallVec<[u16; 4]>>,
    /// MAC over the list.
    pub keyed: Option<Vec<u8>>,
}

/// Where in a message an error would point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// First verification method of the locator list.
    pub methods: usize,
    /// Generation number of the preferences.
    pub preferences_generation: usize,
    /// Length field of the preferences.
    pub preferences_length: usize,
}

/// The set of options a message may have, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowed(u16);

impl Allowed {
    pub(super) const NONE: Allowed = Allowed(0);
    /// I1.
    pub(super) const NAMES: Allowed = Allowed::of(&[kind::ULIDS, kind::FII]);
    /// R1, R1bis.
    pub(super) const VALIDATOR: Allowed = Allowed::of(&[kind::VALIDATOR]);
    /// R2, update.
    pub(super) const LIST: Allowed = Allowed::of(&[
        kind::LOCATORS,
        kind::PREFERENCES,
        kind::PDS,
        kind::SIGNATURE,
        kind::KEEPALIVE_TIMEOUT,
        kind::PORTS,
        kind::KEYED,
    ]);
    /// I2, I2bis.
    pub(super) const ALL: Allowed =
        Allowed(Allowed::NAMES.0 | Allowed::VALIDATOR.0 | Allowed::LIST.0);

    const fn of(kinds: &[u16]) -> Allowed {
        let (mut bits, mut at) = (0, 0);
        while at < kinds.len() {
            bits |= 1 << Allowed::bit(kinds[at]);
            at += 1;
        }
        Allowed(bits)
    }

    const fn bit(kind: u16) -> u16 {
        match kind {
            kind::VALIDATOR..=kind::FII | kind::KEEPALIVE_TIMEOUT => kind,
            kind::PORTS => 11,
            kind::KEYED => 12,
            _ => 0,
        }
    }

    const fn has(self, kind: u16) -> bool {
        let bit = Allowed::bit(kind);
        bit != 0 && self.0 >> bit & 1 == 1
    }
}

/// Bytes of an option with `len` bytes of contents: header and padding counted (RFC 5533 5.15).
pub(super) const fn total_bytes(len: usize) -> usize {
    11 + len - (len + 3) % 8
}

/// Reads the options that start at `offset` of `message` and end with it.
pub(super) fn read(
    message: &[u8],
    offset: usize,
    allowed: Allowed,
) -> Result<(Options, Places), ReadError> {
    let mut options = Options::default();
    let mut places = Places::default();
    let (mut at, mut seen) = (offset, 0u16);
    while at < message.len() {
        let head: [u8; 4] =
            message.get(at..at + 4).and_then(|h| h.try_into().ok()).ok_or(ReadError::Malformed)?;
        let kind = u16::from_be_bytes([head[0], head[1]]);
        let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let total = total_bytes(len);
        let whole = message.get(at..at + total).ok_or(ReadError::Malformed)?;
        let (kind, critical) = (kind >> 1, kind & 1 == 1);
        if allowed.has(kind) {
            let bit = 1 << Allowed::bit(kind);
            if seen & bit != 0 {
                return Err(ReadError::Malformed);
            }
            seen |= bit;
            options.take(kind, &whole[4..4 + len]).ok_or(ReadError::Malformed)?;
            match kind {
                kind::LOCATORS => places.methods = at + 9,
                kind::PREFERENCES => {
                    places.preferences_length = at + 2;
                    places.preferences_generation = at + 4;
                }
                _ => {}
            }
        } else if critical {
            return Err(ReadError::CriticalOption { at });
        }
        at += total;
    }
    Ok((options, places))
}

impl Options {
    fn take(&mut self, kind: u16, content: &[u8]) -> Option<()> {
        match kind {
            kind::VALIDATOR => self.validator = Some(SmallVec::from_slice(content)),
            kind::LOCATORS => self.locators = Some(read_list(content)?),
            kind::PREFERENCES => self.preferences = Some(read_preferences(content)?),
            kind::PDS => self.pds = Some(content.to_vec()),
            kind::SIGNATURE => self.signature = Some(content.to_vec()),
            kind::ULIDS => self.ulids = Some(read_ulids(content)?),
            kind::FII => self.fii = Some(u32::from_be_bytes(content.try_into().ok()?)),
            kind::KEEPALIVE_TIMEOUT => {
                self.keepalive_timeout = Some(KeepaliveTimeout::parse(content).ok()?);
            }
            kind::PORTS => self.ports = Some(read_ports(content)?),
            kind::KEYED => self.keyed = Some(content.to_vec()),
            _ => {}
        }
        Some(())
    }

    /// Appends all options, none critical.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        if let Some(validator) = &self.validator {
            write_one(out, kind::VALIDATOR, |out| out.extend_from_slice(validator));
        }
        if let Some(pair) = self.ulids {
            write_one(out, kind::ULIDS, |out| {
                out.extend_from_slice(&[0; 4]);
                out.extend_from_slice(&to_octets(pair.local));
                out.extend_from_slice(&to_octets(pair.remote));
            });
        }
        if let Some(fii) = self.fii {
            write_one(out, kind::FII, |out| out.extend_from_slice(&fii.to_be_bytes()));
        }
        if let Some(list) = &self.locators {
            write_one(out, kind::LOCATORS, |out| write_list(out, list));
        }
        if let Some(preferences) = &self.preferences {
            write_one(out, kind::PREFERENCES, |out| write_preferences(out, preferences));
        }
        if let Some(ports) = &self.ports {
            write_one(out, kind::PORTS, |out| {
                out.extend(ports.iter().flat_map(|p| p.to_be_bytes()));
            });
        }
        let opaque = [
            (kind::PDS, &self.pds),
            (kind::SIGNATURE, &self.signature),
            (kind::KEYED, &self.keyed),
        ];
        for (kind, bytes) in opaque {
            if let Some(bytes) = bytes {
                write_one(out, kind, |out| out.extend_from_slice(bytes));
            }
        }
        if let Some(timeout) = self.keepalive_timeout {
            write_one(out, kind::KEEPALIVE_TIMEOUT, |out| {
                out.extend_from_slice(&timeout.content());
            });
        }
    }
}

fn write_one(out: &mut Vec<u8>, kind: u16, contents: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&(kind << 1).to_be_bytes());
    out.extend_from_slice(&[0; 2]);
    contents(out);
    let len = out.len() - start - 4;
    out[start + 2..start + 4].copy_from_slice(&(len as u16).to_be_bytes());
    out.resize(start + total_bytes(len), 0);
}

/// Padding after `n` verification methods: locators start on a multiple of eight bytes.
const fn list_padding(n: usize) -> usize {
    // 4 of option header, 4 of generation, 1 of count.
    (8 - (9 + n) % 8) % 8
}

fn read_list(content: &[u8]) -> Option<LocatorList> {
    let (generation, rest) = content.split_first_chunk::<4>()?;
    let (&n, rest) = rest.split_first()?;
    let n = usize::from(n);
    if n == 0 || n > LOCATORS_MAX {
        return None;
    }
    let (methods, rest) = rest.split_at_checked(n)?;
    let addresses = rest.get(list_padding(n)..)?;
    let (addresses, []) = addresses.as_chunks::<16>() else { return None };
    if addresses.len() != n {
        return None;
    }
    let locator = |(octets, method): (&[u8; 16], &u8)| {
        Locator::new(from_octets(*octets), Verification::from_octet(*method))
    };
    let locators = addresses.iter().zip(methods).map(locator).collect();
    Some(LocatorList { generation: u32::from_be_bytes(*generation), locators })
}

fn write_list(out: &mut Vec<u8>, list: &LocatorList) {
    let n = list.locators.len();
    out.extend_from_slice(&list.generation.to_be_bytes());
    out.push(n as u8);
    out.extend(list.locators.iter().map(|l| l.verification.octet()));
    out.resize(out.len() + list_padding(n), 0);
    for locator in &list.locators {
        out.extend_from_slice(&to_octets(locator.addr));
    }
}

fn read_preferences(content: &[u8]) -> Option<Preferences> {
    let (generation, rest) = content.split_first_chunk::<4>()?;
    let (&len, elements) = rest.split_first()?;
    let len = usize::from(len);
    if len == 0 || !elements.len().is_multiple_of(len) {
        return None;
    }
    let element = |e: &[u8]| Preference {
        flags: e[0],
        priority: e.get(1).copied().unwrap_or(0),
        weight: e.get(2).copied().unwrap_or(0),
    };
    let elements = elements.chunks_exact(len).map(element).collect();
    Some(Preferences { generation: u32::from_be_bytes(*generation), elements })
}

fn write_preferences(out: &mut Vec<u8>, preferences: &Preferences) {
    out.extend_from_slice(&preferences.generation.to_be_bytes());
    let flags_only = preferences.elements.iter().all(|e| e.priority == 0 && e.weight == 0);
    out.push(if flags_only { 1 } else { 3 });
    for e in &preferences.elements {
        out.push(e.flags);
        if !flags_only {
            out.extend_from_slice(&[e.priority, e.weight]);
        }
    }
}

fn read_ulids(content: &[u8]) -> Option<Pair> {
    let content: &[u8; 36] = content.try_into().ok()?;
    let address = |at: usize| -> Option<IpAddr> {
        let addr = from_octets(content[at..at + 16].try_into().ok()?);
        is_unicast(addr).then_some(addr)
    };
    let pair = Pair::new(address(4)?, address(20)?);
    pair.same_family().then_some(pair)
}

fn read_ports(content: &[u8]) -> Option<SmallVec<[u16; 4]>> {
    let (ports, []) = content.as_chunks::<2>() else { return None };
    Some(ports.iter().map(|p| u16::from_be_bytes(*p)).collect())
}
