//! REAP's messages: Keepalive, Probe and the Keepalive Timeout option (RFC 5534 5).
//!
//! Bodies only: what follows the receiver context tag of a control message, or the four octets of
//! an option's head. Header, checksum and padding are those of every shim6 message.

use core::net::IpAddr;
use core::time::Duration;

use smallvec::SmallVec;

use crate::locator::{from_octets, to_octets};

/// Type of a Keepalive message (RFC 5534 5.1).
pub const KEEPALIVE: u8 = 66;
/// Type of a Probe message (RFC 5534 5.2).
pub const PROBE: u8 = 67;
/// Type of the Keepalive Timeout option (RFC 5534 5.3).
pub const KEEPALIVE_TIMEOUT: u16 = 10;

/// Reports of one kind in one probe: their count has four bits.
pub const REPORTS_MAX: usize = 15;
/// Octets of a report.
const REPORT_LEN: usize = 40;
/// Octets before the reports.
const FIXED_LEN: usize = 4;

/// What a node says of itself in a probe (RFC 5534 5.2, `Sta`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReapState {
    /// No problem, neither here nor, so far as known, at the peer.
    Operational,
    /// Traffic from the peer was expected and did not come.
    Exploring,
    /// The peer is heard, but has not confirmed that it hears.
    InboundOk,
}

/// A probe as its sender sent it; copied back with no change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Source locator of the probe.
    pub src: IpAddr,
    /// Destination locator of the probe.
    pub dst: IpAddr,
    /// Tells its sender which probe it was.
    pub nonce: u32,
    /// Free for the sender's use.
    pub data: u32,
}

/// Few reports need no allocation.
pub type Reports = SmallVec<[Report; 2]>;

/// A Probe message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The sender's state after sending.
    pub state: ReapState,
    /// This probe, then recent ones that the peer has not reported. Never empty.
    pub sent: Reports,
    /// Probes received from the peer, newest first.
    pub received: Reports,
}

/// Why a body is no REAP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReapMalformed {
    /// Shorter than its counts say.
    Truncated,
    /// It does not report itself: `Psent` is zero.
    NoReport,
    /// The fourth state, which has no meaning.
    State,
}

impl Probe {
    /// Appends the body. More than [`REPORTS_MAX`] reports of a kind are left out.
    pub fn emit(&self, out: &mut Vec<u8>) {
        let sent = &self.sent[..self.sent.len().min(REPORTS_MAX)];
        let received = &self.received[..self.received.len().min(REPORTS_MAX)];
        out.push((received.len() as u8) << 4 | sent.len() as u8);
        out.push((self.state as u8) << 6);
        out.extend_from_slice(&[0, 0]);
        for report in sent.iter().chain(received) {
            out.extend_from_slice(&to_octets(report.src));
            out.extend_from_slice(&to_octets(report.dst));
            out.extend_from_slice(&report.nonce.to_be_bytes());
            out.extend_from_slice(&report.data.to_be_bytes());
        }
    }

    /// Octets of the body.
    pub fn len(&self) -> usize {
        let kind = |reports: &Reports| reports.len().min(REPORTS_MAX) * REPORT_LEN;
        FIXED_LEN + kind(&self.sent) + kind(&self.received)
    }

    /// A probe is never empty: it reports itself.
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Reads a body; also says where its options begin.
    pub fn parse(body: &[u8]) -> Result<(Probe, usize), ReapMalformed> {
        let (&[counts, state, _, _], _) =
            body.split_first_chunk::<FIXED_LEN>().ok_or(ReapMalformed::Truncated)?;
        let (sent, received) = (usize::from(counts & 0xf), usize::from(counts >> 4));
        let state = match state >> 6 {
            0 => ReapState::Operational,
            1 => ReapState::Exploring,
            2 => ReapState::InboundOk,
            _ => return Err(ReapMalformed::State),
        };
        if sent == 0 {
            return Err(ReapMalformed::NoReport);
        }
        let end = FIXED_LEN + (sent + received) * REPORT_LEN;
        let reports = body.get(FIXED_LEN..end).ok_or(ReapMalformed::Truncated)?;
        let mut reports = reports.as_chunks::<REPORT_LEN>().0.iter().map(report);
        let sent = reports.by_ref().take(sent).collect();
        Ok((Probe { state, sent, received: reports.collect() }, end))
    }
}

/// Where the options of a probe with this body begin; `None`: it is shorter than its counts say.
pub(super) fn options_at(body: &[u8]) -> Option<usize> {
    let counts = *body.first()?;
    let end =
        FIXED_LEN + usize::from(counts & 0xf) * REPORT_LEN + usize::from(counts >> 4) * REPORT_LEN;
    (body.len() >= end).then_some(end)
}

fn report(octets: &[u8; REPORT_LEN]) -> Report {
    let addr = |at: usize| {
        let mut addr = [0; 16];
        addr.copy_from_slice(&octets[at..at + 16]);
        from_octets(addr)
    };
    let word = |at: usize| {
        u32::from_be_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
    };
    Report { src: addr(0), dst: addr(16), nonce: word(32), data: word(36) }
}

/// A Keepalive message: four reserved octets, then options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive;

impl Keepalive {
    /// Octets of the body.
    pub const LEN: usize = 4;

    /// Appends the body.
    pub fn emit(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[0; Keepalive::LEN]);
    }

    /// Reads a body; also says where its options begin.
    pub fn parse(body: &[u8]) -> Result<(Keepalive, usize), ReapMalformed> {
        match body.len() {
            0..Keepalive::LEN => Err(ReapMalformed::Truncated),
            _ => Ok((Keepalive, Keepalive::LEN)),
        }
    }
}

/// The Keepalive Timeout option: how long the sender of it waits for return traffic, which is how
/// long its peer sends keepalives.
///
/// The RFC counts in seconds. A timeout that is not whole seconds stands in milliseconds in the
/// reserved field, which others ignore, and rounded up where the RFC has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepaliveTimeout(pub Duration);

impl KeepaliveTimeout {
    /// Octets of the option's content.
    pub const LEN: usize = 4;

    /// The option's content.
    pub fn content(self) -> [u8; KeepaliveTimeout::LEN] {
        let ms = self.0.as_nanos().div_ceil(1_000_000).max(1);
        let seconds = u16::try_from(ms.div_ceil(1_000)).unwrap_or(u16::MAX).to_be_bytes();
        let fine = if ms.is_multiple_of(1_000) { 0 } else { u16::try_from(ms).unwrap_or(0) };
        let fine = fine.to_be_bytes();
        [fine[0], fine[1], seconds[0], seconds[1]]
    }

    /// Reads an option's content.
    pub fn parse(content: &[u8]) -> Result<KeepaliveTimeout, ReapMalformed> {
        let &[a, b, c, d] = content else { return Err(ReapMalformed::Truncated) };
        let (ms, seconds) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let fine = ms != 0 && ms.div_ceil(1_000) == seconds;
        Ok(KeepaliveTimeout(if fine {
            Duration::from_millis(u64::from(ms))
        } else {
            Duration::from_secs(u64::from(seconds))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn numbered(n: u32) -> Report {
        Report { src: ip("2001:db8::1"), dst: ip("2001:db8:2::2"), nonce: n, data: !n }
    }

    // RFC 5534 5.2
    #[test]
    fn a_probe_has_the_octets_of_the_figure() {
        let probe = Probe {
            state: ReapState::InboundOk,
            sent: Reports::from_slice(&[numbered(1), numbered(2)]),
            received: Reports::from_slice(&[Report {
                src: ip("192.0.2.1"),
                dst: ip("192.0.2.2"),
                nonce: 0x0102_0304,
                data: 5,
            }]),
        };
        let mut body = Vec::new();
        probe.emit(&mut body);
        assert_eq!(body.len(), probe.len());
        assert_eq!(body[..4], [0x12, 0x80, 0, 0]);
        assert_eq!(body[4 + 32..4 + 36], [0, 0, 0, 1]);
        assert_eq!(body[4 + 80 + 10..4 + 80 + 16], [0xff, 0xff, 192, 0, 2, 1]);
        assert_eq!(body[4 + 80 + 32..], [1, 2, 3, 4, 0, 0, 0, 5]);
        body.extend_from_slice(&[0; 8]);
        assert_eq!(Probe::parse(&body), Ok((probe, 124)), "options follow");
    }

    // RFC 5534 5.2
    #[test]
    fn a_probe_reports_itself_has_a_known_state_and_its_whole_length() {
        let mut body = Vec::new();
        let sent = Reports::from_slice(&[numbered(1)]);
        Probe { state: ReapState::Exploring, sent, received: Reports::new() }.emit(&mut body);
        assert!(!Probe::parse(&body).unwrap().0.is_empty());
        for cut in 0..body.len() {
            assert_eq!(Probe::parse(&body[..cut]), Err(ReapMalformed::Truncated), "{cut}");
        }
        body[1] = 0xc0;
        assert_eq!(Probe::parse(&body), Err(ReapMalformed::State));
        body[..2].copy_from_slice(&[0x10, 0]);
        assert_eq!(Probe::parse(&body), Err(ReapMalformed::NoReport));
    }

    // RFC 5534 5.1, 5.2
    #[test]
    fn reserved_bits_are_zero_when_sent_and_ignored_when_received() {
        let mut body = Vec::new();
        let sent = Reports::from_slice(&[numbered(1)]);
        let probe = Probe { state: ReapState::Operational, sent, received: Reports::new() };
        probe.emit(&mut body);
        assert_eq!(body[1..4], [0; 3]);
        body[1..4].copy_from_slice(&[0x3f, 0xff, 0xff]);
        assert_eq!(Probe::parse(&body).unwrap().0, probe);

        let mut body = Vec::new();
        Keepalive.emit(&mut body);
        assert_eq!(body, [0; 4]);
        assert_eq!(Keepalive::parse(&[0xff; 8]), Ok((Keepalive, 4)));
        assert_eq!(Keepalive::parse(&[0; 3]), Err(ReapMalformed::Truncated));
    }

    // RFC 5534 5.3
    #[test]
    fn the_keepalive_timeout_is_in_seconds_and_finer_where_others_do_not_look() {
        let content = |ms| KeepaliveTimeout(Duration::from_millis(ms)).content();
        assert_eq!(content(15_000), [0, 0, 0, 15], "of whole seconds as the RFC has it");
        assert_eq!(content(80), [0, 80, 0, 1]);
        assert_eq!(content(1_500), [0x05, 0xdc, 0, 2]);
        assert_eq!(content(100_000_500), [0, 0, 0xff, 0xff]);
        let read = |content| KeepaliveTimeout::parse(content).unwrap().0;
        assert_eq!(read(&[0, 0, 0, 15]), Duration::from_secs(15));
        assert_eq!(read(&[0, 80, 0, 1]), Duration::from_millis(80));
        assert_eq!(read(&[0xff, 0xff, 0, 15]), Duration::from_secs(15), "ignored as reserved");
        assert_eq!(KeepaliveTimeout::parse(&[0; 5]), Err(ReapMalformed::Truncated));
    }

    proptest! {
        #[test]
        fn any_octets_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..1300)) {
            if let Ok((probe, end)) = Probe::parse(&body) {
                let mut again = Vec::new();
                probe.emit(&mut again);
                prop_assert_eq!(again.len(), end);
                prop_assert_eq!(Probe::parse(&again).unwrap().0, probe);
            }
        }

        #[test]
        fn a_timeout_comes_back_as_it_was_in_milliseconds(ms in 1u64..65_000) {
            let timeout = KeepaliveTimeout(Duration::from_millis(ms));
            prop_assert_eq!(KeepaliveTimeout::parse(&timeout.content()), Ok(timeout));
        }
    }
}
