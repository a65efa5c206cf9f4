//! IGMP and MLD messages on the wire (RFC 3376 4, RFC 2236 2, RFC 3810 5, RFC 2710 3).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smallvec::SmallVec;

use crate::time::Duration;
use crate::wire::checksum;

const IGMP_QUERY: u8 = 0x11;
const IGMP_V2_REPORT: u8 = 0x16;
const IGMP_V2_LEAVE: u8 = 0x17;
const IGMP_V1_REPORT: u8 = 0x12;
const IGMP_V3_REPORT: u8 = 0x22;
const MLD_QUERY: u8 = 130;
const MLD_V1_REPORT: u8 = 131;
const MLD_V1_DONE: u8 = 132;
const MLD_V2_REPORT: u8 = 143;

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Query(Query),
    /// Another host's report in the older protocol.
    Report(IpAddr),
    /// A message between others.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Query {
    /// `None`: all groups.
    pub(super) group: Option<IpAddr>,
    pub(super) response_max: Duration,
    /// The querier speaks the older protocol (IGMPv1, IGMPv2, MLDv1).
    pub(super) older: bool,
    /// Robustness variable and query interval of the querier; zero: not said.
    pub(super) robustness: u8,
    pub(super) interval: Duration,
}

/// RFC 3376 4.1.1 and 4.1.7: 8 bits, large values as mantissa and exponent.
fn code8(code: u8) -> u64 {
    let code = u64::from(code);
    if code < 128 { code } else { (code & 0x0f | 0x10) << ((code >> 4 & 7) + 3) }
}

/// RFC 3810 5.1.3.
fn code16(code: u16) -> u64 {
    let code = u64::from(code);
    if code < 32768 { code } else { (code & 0x0fff | 0x1000) << ((code >> 12 & 7) + 3) }
}

/// An IGMP message; `None`: malformed, or the checksum is wrong.
pub(super) fn parse_igmp(data: &[u8]) -> Option<Input> {
    let header: &[u8; 8] = data.get(..8)?.try_into().ok()?;
    if !checksum::is_valid(checksum::sum(data)) {
        return None;
    }
    let group = Ipv4Addr::new(header[4], header[5], header[6], header[7]);
    let group = (!group.is_unspecified()).then_some(IpAddr::V4(group));
    match header[0] {
        IGMP_QUERY => {
            if group.is_some_and(|g| !g.is_multicast()) || (9..12).contains(&data.len()) {
                return None;
            }
            let v3 = data.get(8..12);
            // RFC 3376 7.1: by length; IGMPv1 has no response time, it is 10 seconds.
            let tenths = match (header[1], v3) {
                (0, None) => 100,
                (code, None) => u64::from(code),
                (code, Some(_)) => code8(code),
            };
            Some(Input::Query(Query {
                group,
                response_max: Duration::from_millis(tenths * 100),
                older: v3.is_none(),
                robustness: v3.map_or(0, |x| x[0] & 7),
                interval: Duration::from_secs(v3.map_or(0, |x| code8(x[1]))),
            }))
        }
        IGMP_V2_REPORT | IGMP_V1_REPORT => group.filter(IpAddr::is_multicast).map(Input::Report),
        IGMP_V2_LEAVE | IGMP_V3_REPORT => Some(Input::Other),
        _ => None,
    }
}

/// An MLD message, checksum verified; `None`: malformed.
pub(super) fn parse_mld(data: &[u8]) -> Option<Input> {
    if data.first() == Some(&MLD_V2_REPORT) {
        return (data.len() >= 8).then_some(Input::Other);
    }
    let header: &[u8; 24] = data.get(..24)?.try_into().ok()?;
    let group = Ipv6Addr::from(core::array::from_fn::<u8, 16, _>(|i| header[8 + i]));
    let group = (!group.is_unspecified()).then_some(IpAddr::V6(group));
    match header[0] {
        MLD_QUERY => {
            if group.is_some_and(|g| !g.is_multicast()) || (25..28).contains(&data.len()) {
                return None;
            }
            let v2 = data.get(24..28);
            let code = u16::from_be_bytes([header[4], header[5]]);
            let ms = if v2.is_some() { code16(code) } else { code.into() };
            Some(Input::Query(Query {
                group,
                response_max: Duration::from_millis(ms),
                older: v2.is_none(),
                robustness: v2.map_or(0, |x| x[0] & 7),
                interval: Duration::from_secs(v2.map_or(0, |x| code8(x[1]))),
            }))
        }
        MLD_V1_REPORT => group.filter(IpAddr::is_multicast).map(Input::Report),
        MLD_V1_DONE => Some(Input::Other),
        _ => None,
    }
}

/// RFC 3376 4.2.12.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// "Is in INCLUDE mode": an answer.
    MemberSources,
    /// "Is in EXCLUDE mode": an answer.
    Member,
    /// "Changed to INCLUDE {}": left.
    Left,
    /// "Changed to INCLUDE": joined for some senders, or for others than before.
    JoinedSources,
    /// "Changed to EXCLUDE {}": joined.
    Joined,
}

impl Record {
    fn number(self) -> u8 {
        match self {
            Record::MemberSources => 1,
            Record::Member => 2,
            Record::Left | Record::JoinedSources => 3,
            Record::Joined => 4,
        }
    }
}

/// A record with its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GroupRecord {
    pub(super) kind: Record,
    pub(super) group: IpAddr,
    /// Senders asked for; none in EXCLUDE mode.
    pub(super) sources: Vec<IpAddr>,
}

impl GroupRecord {
    /// Bytes on the wire.
    pub(super) fn len(&self) -> usize {
        4 + (1 + self.sources.len()) * if self.group.is_ipv4() { 4 } else { 16 }
    }
}

/// A message to send; IGMP's checksum is complete, MLD's is left zero.
pub(super) type Bytes = SmallVec<[u8; 64]>;

fn octets(out: &mut Bytes, addr: IpAddr) {
    match addr {
        IpAddr::V4(a) => out.extend_from_slice(&a.octets()),
        IpAddr::V6(a) => out.extend_from_slice(&a.octets()),
    }
}

fn finish(mut out: Bytes, v4: bool) -> Bytes {
    if v4 {
        let sum = checksum::finish(checksum::sum(&out));
        out[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    out
}

/// An IGMPv3 or MLDv2 report of groups of one family.
pub(super) fn report(records: &[GroupRecord]) -> Bytes {
    let v4 = records.first().is_some_and(|r| r.group.is_ipv4());
    let mut out = Bytes::new();
    let count = (records.len() as u16).to_be_bytes();
    let kind = if v4 { IGMP_V3_REPORT } else { MLD_V2_REPORT };
    out.extend_from_slice(&[kind, 0, 0, 0, 0, 0, count[0], count[1]]);
    for record in records {
        let sources = (record.sources.len() as u16).to_be_bytes();
        out.extend_from_slice(&[record.kind.number(), 0, sources[0], sources[1]]);
        octets(&mut out, record.group);
        for source in &record.sources {
            octets(&mut out, *source);
        }
    }
    finish(out, v4)
}

/// An IGMPv2 or MLDv1 report, or leave.
pub(super) fn older(record: Record, group: IpAddr) -> Bytes {
    let left = record == Record::Left;
    let kind = match (group.is_ipv4(), left) {
        (true, false) => IGMP_V2_REPORT,
        (true, true) => IGMP_V2_LEAVE,
        (false, false) => MLD_V1_REPORT,
        (false, true) => MLD_V1_DONE,
    };
    let mut out = Bytes::new();
    out.extend_from_slice(&[kind, 0, 0, 0]);
    if group.is_ipv6() {
        out.extend_from_slice(&[0; 4]);
    }
    octets(&mut out, group);
    finish(out, group.is_ipv4())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_mantissa_and_exponent() {
        assert_eq!((code8(100), code8(0x80), code8(0xff)), (100, 128, 31744));
        assert_eq!((code16(1000), code16(0x8000)), (1000, 32768));
    }

    #[test]
    fn queries_are_told_by_length() {
        let mut v2 = vec![0x11, 100, 0, 0, 0, 0, 0, 0];
        let sum = checksum::finish(checksum::sum(&v2));
        v2[2..4].copy_from_slice(&sum.to_be_bytes());
        let Some(Input::Query(q)) = parse_igmp(&v2) else { panic!() };
        assert!(q.older && q.group.is_none());
        assert_eq!(q.response_max, Duration::from_secs(10));
        for len in 0..8 {
            assert_eq!(parse_igmp(&v2[..len]), None);
        }
        v2[1] ^= 1;
        assert_eq!(parse_igmp(&v2), None, "checksum");
        let mut mld = vec![0; 28];
        (mld[0], mld[4], mld[24]) = (130, 4, 3);
        let Some(Input::Query(q)) = parse_mld(&mld) else { panic!() };
        assert_eq!((q.older, q.robustness), (false, 3));
        assert_eq!(parse_mld(&mld[..26]), None);
        mld[8] = 0xfe;
        assert_eq!(parse_mld(&mld), None, "not a group");
    }
}
