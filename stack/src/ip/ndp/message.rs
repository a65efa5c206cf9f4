//! Neighbour discovery messages on the wire (RFC 4861 4).

use core::net::Ipv6Addr;

use smallvec::SmallVec;

use crate::time::Duration;

pub(super) const ROUTER_SOLICIT: u8 = 133;
pub(super) const ROUTER_ADVERT: u8 = 134;
pub(super) const NEIGHBOUR_SOLICIT: u8 = 135;
pub(super) const NEIGHBOUR_ADVERT: u8 = 136;
pub(super) const REDIRECT: u8 = 137;

const SOURCE_LINK: u8 = 1;
const TARGET_LINK: u8 = 2;
const PREFIX: u8 = 3;
const MTU: u8 = 5;
const NONCE: u8 = 14;
/// Prefix options looked at in one advertisement.
const PREFIXES_MAX: usize = 16;

pub(super) type Nonce = [u8; 6];

/// A prefix information option (RFC 4861 4.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PrefixInfo {
    pub(super) prefix: Ipv6Addr,
    pub(super) prefix_len: u8,
    pub(super) on_link: bool,
    pub(super) autonomous: bool,
    pub(super) valid: Duration,
    pub(super) preferred: Duration,
}

/// The options of a message that mean something here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) source_mac: Option<[u8; 6]>,
    pub(super) target_mac: Option<[u8; 6]>,
    pub(super) mtu: Option<u32>,
    pub(super) nonce: Option<Nonce>,
    pub(super) prefixes: SmallVec<[PrefixInfo; 2]>,
}

fn word(data: &[u8], at: usize) -> u32 {
    data[at..at + 4].iter().fold(0, |v, b| v << 8 | u32::from(*b))
}

fn address(data: &[u8], at: usize) -> Ipv6Addr {
    Ipv6Addr::from(core::array::from_fn::<u8, 16, _>(|i| data[at + i]))
}

/// A lifetime in seconds, all ones meaning for ever.
fn lifetime(seconds: u32) -> Duration {
    if seconds == u32::MAX { Duration::MAX } else { Duration::from_secs(seconds.into()) }
}

impl Options {
    /// `None`: an option of length zero, or one that is cut short; the message is invalid
    /// (RFC 4861 6.1, 7.1). Unknown options are skipped.
    pub(super) fn parse(mut data: &[u8]) -> Option<Options> {
        let mut options = Options::default();
        while !data.is_empty() {
            let len = usize::from(*data.get(1)?) * 8;
            if len == 0 || len > data.len() {
                return None;
            }
            options.take(&data[..len]);
            data = &data[len..];
        }
        Some(options)
    }

    fn take(&mut self, option: &[u8]) {
        let mac = || core::array::from_fn(|i| option[2 + i]);
        match (option[0], option.len()) {
            (SOURCE_LINK, 8) => self.source_mac = Some(mac()),
            (TARGET_LINK, 8) => self.target_mac = Some(mac()),
            (NONCE, 8) => self.nonce = Some(mac()),
            (MTU, 8) => self.mtu = Some(word(option, 4)),
            (PREFIX, 32) if self.prefixes.len() < PREFIXES_MAX => self.prefixes.push(PrefixInfo {
                prefix: address(option, 16),
                prefix_len: option[2],
                on_link: option[3] & 0x80 != 0,
                autonomous: option[3] & 0x40 != 0,
                valid: lifetime(word(option, 4)),
                preferred: lifetime(word(option, 8)),
            }),
            _ => {}
        }
    }
}

/// Neighbour solicitation (RFC 4861 4.3).
#[derive(Clone, Debug)]
pub(super) struct Solicitation {
    pub(super) target: Ipv6Addr,
    pub(super) options: Options,
}

impl Solicitation {
    pub(super) fn parse(data: &[u8]) -> Option<Solicitation> {
        let options = Options::parse(data.get(24..)?)?;
        let target = address(data, 8);
        (!target.is_multicast()).then_some(Solicitation { target, options })
    }

    pub(super) fn emit(target: Ipv6Addr, mac: Option<[u8; 6]>, nonce: Option<Nonce>) -> Message {
        let mut m = Message::new(NEIGHBOUR_SOLICIT, [0; 4]);
        m.extend_from_slice(&target.octets());
        push_option(&mut m, SOURCE_LINK, mac);
        push_option(&mut m, NONCE, nonce);
        m
    }
}

/// Neighbour advertisement (RFC 4861 4.4).
#[derive(Clone, Debug)]
pub(super) struct Advertisement {
    pub(super) target: Ipv6Addr,
    pub(super) router: bool,
    pub(super) solicited: bool,
    pub(super) overrides: bool,
    pub(super) options: Options,
}

impl Advertisement {
    pub(super) fn parse(data: &[u8]) -> Option<Advertisement> {
        let options = Options::parse(data.get(24..)?)?;
        let target = address(data, 8);
        (!target.is_multicast()).then(|| Advertisement {
            target,
            router: data[4] & 0x80 != 0,
            solicited: data[4] & 0x40 != 0,
            overrides: data[4] & 0x20 != 0,
            options,
        })
    }

    pub(super) fn emit(target: Ipv6Addr, mac: [u8; 6], router: bool, solicited: bool) -> Message {
        let flags = u8::from(router) << 7 | u8::from(solicited) << 6 | 0x20;
        let mut m = Message::new(NEIGHBOUR_ADVERT, [flags, 0, 0, 0]);
        m.extend_from_slice(&target.octets());
        push_option(&mut m, TARGET_LINK, Some(mac));
        m
    }
}

/// RFC 4191 2.2, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Preference {
    Low,
    Medium,
    High,
}

/// Router advertisement (RFC 4861 4.2).
#[derive(Clone, Debug)]
pub(super) struct RouterAdvert {
    pub(super) hop_limit: u8,
    pub(super) preference: Preference,
    pub(super) lifetime: Duration,
    /// Zero: unspecified.
    pub(super) reachable: Duration,
    /// Zero: unspecified.
    pub(super) retrans: Duration,
    pub(super) options: Options,
}

impl RouterAdvert {
    pub(super) fn parse(data: &[u8]) -> Option<RouterAdvert> {
        let options = Options::parse(data.get(16..)?)?;
        let preference = match data[5] >> 3 & 3 {
            1 => Preference::High,
            3 => Preference::Low,
            // RFC 4191 2.2: the reserved value counts as medium.
            _ => Preference::Medium,
        };
        Some(RouterAdvert {
            hop_limit: data[4],
            preference,
            lifetime: Duration::from_secs(u64::from(data[6]) << 8 | u64::from(data[7])),
            reachable: Duration::from_millis(word(data, 8).into()),
            retrans: Duration::from_millis(word(data, 12).into()),
            options,
        })
    }
}

/// Router solicitation (RFC 4861 4.1).
pub(super) fn router_solicitation(mac: Option<[u8; 6]>) -> Message {
    let mut m = Message::new(ROUTER_SOLICIT, [0; 4]);
    push_option(&mut m, SOURCE_LINK, mac);
    m
}

/// An ICMPv6 message under construction; the checksum is filled in when it is sent.
#[derive(Clone, Debug)]
pub(super) struct Message(SmallVec<[u8; 64]>);

impl Message {
    fn new(kind: u8, word: [u8; 4]) -> Message {
        let mut bytes = SmallVec::new();
        bytes.extend_from_slice(&[kind, 0, 0, 0]);
        bytes.extend_from_slice(&word);
        Message(bytes)
    }

    fn extend_from_slice(&mut self, data: &[u8]) {
        self.0.extend_from_slice(data);
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

fn push_option(m: &mut Message, kind: u8, value: Option<[u8; 6]>) {
    if let Some(value) = value {
        m.extend_from_slice(&[kind, 1]);
        m.extend_from_slice(&value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn solicitations_and_advertisements_survive_a_round_trip() {
        let target: Ipv6Addr = "fe80::7".parse().unwrap();
        let m = Solicitation::emit(target, Some([1; 6]), Some([2; 6]));
        let s = Solicitation::parse(m.bytes()).unwrap();
        assert_eq!((s.target, s.options.source_mac), (target, Some([1; 6])));
        assert_eq!(s.options.nonce, Some([2; 6]));
        let m = Advertisement::emit(target, [3; 6], true, false);
        let a = Advertisement::parse(m.bytes()).unwrap();
        assert_eq!((a.router, a.solicited, a.overrides), (true, false, true));
        assert_eq!(a.options.target_mac, Some([3; 6]));
    }

    #[test]
    fn broken_options_spoil_the_message() {
        let m = Solicitation::emit(Ipv6Addr::LOCALHOST, Some([1; 6]), None);
        for len in 0..m.bytes().len() {
            let parsed = Solicitation::parse(&m.bytes()[..len]);
            assert_eq!(parsed.is_some(), len == 24, "{len}");
        }
        assert_eq!(Options::parse(&[1, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(Options::parse(&[200, 1, 0, 0, 0, 0, 0, 0]), Some(Options::default()));
    }
}
