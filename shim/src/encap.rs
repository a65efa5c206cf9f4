//! Shim packets in UDP: for locators behind NATs and for networks that drop protocol 140.
//!
//! A datagram to the configured port carries one whole shim packet, from its next-header octet on;
//! all contexts of a vserver share the port. One octet 0xff is a keepalive (in the manner of
//! RFC 3948 2.3): it renews the NAT's mapping and is dropped.
//!
//! Where a peer's locator has a port, that of its proved list counts. A NAT may give it another at
//! any time. What comes from another port of the *same* address with a context's tag makes that
//! port a candidate: probes go there, payload does not. The port is the peer's when a probe comes
//! back from it that is the first to report one of ours which went there; never by payload alone, nor
//! by a recording, and never another address.

use core::net::IpAddr;
use core::time::Duration;

use hashbrown::HashMap;
use serde::Serialize;
use weft_stack::drop::DropReason;
use weft_stack::frame::{Checksum, Frame, Gso};
use weft_stack::rng::Key;
use weft_stack::time::Instant;
use weft_stack::wire::{checksum, frame_sum};

use crate::locator::{LOCATORS_MAX, Pair};
use crate::wire::Tag;

/// IP protocol of the datagrams.
pub const UDP: u8 = 17;
/// What a shim packet grows by.
pub const OVERHEAD_BYTES: usize = 8;
/// The payload of a keepalive.
pub const KEEPALIVE: [u8; 1] = [0xff];
/// The smallest shim packet: a payload header.
const SHIM_BYTES_MIN: usize = 8;
/// Room before a keepalive for the headers below.
const HEADROOM_BYTES: usize = 128;
/// After a change of our port that before is taken as well for so long: peers send there until they
/// have the new list, the request for which is repeated every few seconds.
const OLD_PORT_FOR: Duration = Duration::from_mins(1);
/// A candidate that is not proved in this time gets no more probes.
const CANDIDATE_FOR: Duration = Duration::from_secs(2);
/// The next one follows so long after it: who invents candidates leaves the known port half of the
/// probes, by which pairs are found.
const CANDIDATES_APART: Duration = Duration::from_secs(4);

/// How packets are put into UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncapConfig {
    /// Our port: source of what is sent, destination of what is taken.
    pub port: u16,
    /// A NAT's mapping is renewed after so long without a packet.
    pub keepalive: Duration,
    /// Endpoints with keepalives, and contexts with ports, at most.
    pub endpoints_max: usize,
}

impl EncapConfig {
    /// With RFC 3948's 20 s between keepalives.
    pub const fn new(port: u16) -> EncapConfig {
        EncapConfig { port, keepalive: Duration::from_secs(20), endpoints_max: 4_096 }
    }
}

/// A peer's locator in UDP, and ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// Locators.
    pub pair: Pair,
    /// The peer's port.
    pub port: u16,
}

/// What a datagram carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// A shim packet, now at the front of the frame.
    Shim(Endpoint),
    /// A keepalive: nothing.
    Keepalive,
}

/// Where a packet of a context came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Where the peer is known to be, or nothing is kept of this locator.
    Known,
    /// From another port: the pair is to be probed.
    Probe,
    /// From another port, which waits for its proof.
    Waiting,
}

/// Counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EncapStats {
    /// Datagrams taken at the port that was ours before.
    pub old_port_in: u64,
    /// Shim packets put into UDP.
    pub packets_out: u64,
    /// Shim packets taken out of UDP.
    pub packets_in: u64,
    /// Keepalives sent.
    pub keepalives_out: u64,
    /// Keepalives received.
    pub keepalives_in: u64,
    /// Ports that were tested.
    pub candidates: u64,
    /// Ports that were proved and are used.
    pub ports_learnt: u64,
    /// Endpoints or contexts beyond the limit.
    pub over_limit: u64,
}

impl EncapStats {
    /// Every counter by name.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let EncapStats { old_port_in, packets_out, packets_in, .. } = *self;
        let EncapStats { keepalives_out, keepalives_in, .. } = *self;
        let EncapStats { candidates, ports_learnt, over_limit, .. } = *self;
        [
            ("udp_out", packets_out),
            ("udp_in", packets_in),
            ("udp_old_port_in", old_port_in),
            ("udp_keepalives_out", keepalives_out),
            ("udp_keepalives_in", keepalives_in),
            ("udp_candidates", candidates),
            ("udp_ports_learnt", ports_learnt),
            ("udp_over_limit", over_limit),
        ]
        .into_iter()
    }
}

#[derive(Clone, Copy, Debug)]
struct Port {
    remote: IpAddr,
    /// What the list says.
    told: u16,
    number: u16,
    candidate: Option<(u16, Instant)>,
}

#[derive(Clone, Copy, Debug)]
struct Use {
    contexts: u32,
    sent: Instant,
}

/// The UDP port of a vserver's shim.
pub struct Encap {
    config: EncapConfig,
    /// The port before this one, and how long it is taken.
    before: Option<(u16, Instant)>,
    /// By our tag: the ports of a context's peer.
    ports: HashMap<Tag, Vec<Port>, Key>,
    /// Endpoints that keepalives go to.
    uses: HashMap<Endpoint, Use, Key>,
    /// When these are looked through.
    next: Option<Instant>,
    due: Vec<Endpoint>,
    stats: EncapStats,
}

impl Encap {
    /// Nobody is known yet.
    pub fn new(config: EncapConfig, key: Key) -> Encap {
        Encap {
            config,
            before: None,
            ports: HashMap::with_hasher(key),
            uses: HashMap::with_hasher(key),
            next: None,
            due: Vec::new(),
            stats: EncapStats::default(),
        }
    }

    /// Other intervals and limits, with the same port.
    pub(crate) fn set_config(&mut self, config: EncapConfig) {
        debug_assert_eq!(config.port, self.config.port);
        self.config = config;
    }

    /// Takes the place of `old`, which had another port: that is ours too for a while. Counters go on.
    pub(crate) fn replaces(mut self, now: Instant, old: &Encap) -> Encap {
        self.stats = old.stats;
        self.before = Some((old.config.port, now + OLD_PORT_FOR));
        self
    }

    /// When the port before is no longer ours.
    pub(crate) fn poll_old_port(&self) -> Option<Instant> {
        self.before.map(|(_, until)| until)
    }

    /// Whether datagrams to this port are the shim's.
    #[inline]
    pub fn takes(&self, port: u16) -> bool {
        port == self.config.port || self.before.is_some_and(|(old, _)| port == old)
    }

    /// Our port, also that of peers who did not name theirs.
    #[inline]
    pub fn own_port(&self) -> u16 {
        self.config.port
    }

    /// Counters.
    pub fn stats(&self) -> &EncapStats {
        &self.stats
    }

    /// Puts the shim packet in `frame` into a datagram. A super-segment is to be cut before. `sum`:
    /// of all bytes of the packet, if it is known without a look at them.
    pub fn push(
        &mut self,
        now: Instant,
        to: Endpoint,
        frame: &mut Frame,
        sum: Option<u16>,
    ) -> Result<(), DropReason> {
        if frame.meta.gso != Gso::None || frame.total_len() + OVERHEAD_BYTES > usize::from(u16::MAX)
        {
            return Err(DropReason::FrameTooLong);
        }
        // The outer checksum covers the inner one.
        frame_sum::complete(frame);
        let header = self.header(to, frame.total_len());
        frame.push_front(OVERHEAD_BYTES).copy_from_slice(&header);
        let (src, dst) = (to.pair.local, to.pair.remote);
        let pseudo = checksum::pseudo(src, dst, UDP, frame.total_len());
        let whole = match sum {
            Some(sum) => checksum::combine(checksum::combine(pseudo, sum), checksum::sum(&header)),
            None => frame_sum::sum_from(pseudo, frame, 0),
        };
        let sum = checksum::finish_udp(whole);
        frame.data_mut()[6..8].copy_from_slice(&sum.to_be_bytes());
        self.stats.packets_out += 1;
        if let Some(used) = self.uses.get_mut(&to) {
            used.sent = now;
        }
        Ok(())
    }

    fn header(&self, to: Endpoint, payload: usize) -> [u8; OVERHEAD_BYTES] {
        let mut header = [0; OVERHEAD_BYTES];
        let fields = [self.config.port, to.port, (payload + OVERHEAD_BYTES) as u16];
        for (to, field) in header.as_chunks_mut::<2>().0.iter_mut().zip(fields) {
            *to = field.to_be_bytes();
        }
        header
    }

    /// The datagram is for the shim: its destination port is ours.
    #[inline]
    pub fn is_ours(&self, frame: &Frame) -> bool {
        let Some(&[_, _, a, b]) = frame.data().first_chunk::<4>() else { return false };
        self.takes(u16::from_be_bytes([a, b]))
    }

    /// Takes a datagram that came by `pair` apart; one, not several that receive
    /// merging made one of; segments that it took out of theirs are one.
    pub fn pull(&mut self, pair: Pair, frame: &mut Frame) -> Result<Arrived, DropReason> {
        let Some(header) = frame.data().first_chunk::<OVERHEAD_BYTES>() else {
            return Err(DropReason::UdpMalformed);
        };
        let field = |n: usize| u16::from_be_bytes([header[2 * n], header[2 * n + 1]]);
        let (port, to, len, sum) = (field(0), field(1), field(2), field(3));
        let merged = matches!(frame.meta.gso, Gso::Udp { .. });
        let single = usize::from(len) == frame.total_len() && !merged;
        if !self.takes(to) || port == 0 || !single {
            return Err(DropReason::UdpMalformed);
        }
        let unchecked = sum == 0 && pair.local.is_ipv4();
        let right = match frame.meta.checksum {
            // Receive merging looked at it.
            Checksum::Verified | Checksum::Partial { .. } | Checksum::Summed(_) => true,
            Checksum::Complete => {
                unchecked || sum != 0 && frame_sum::is_valid(pair.remote, pair.local, UDP, frame)
            }
        };
        if !right {
            return Err(DropReason::UdpChecksumBad);
        }
        self.stats.old_port_in += u64::from(to != self.config.port);
        frame.pull_front(OVERHEAD_BYTES);
        // What a device verified was the outer one; what was summed is the inner one.
        if !matches!(frame.meta.checksum, Checksum::Summed(_)) {
            frame.meta.checksum = Checksum::Complete;
        }
        if frame.total_len() == KEEPALIVE.len() && frame.data() == KEEPALIVE {
            self.stats.keepalives_in += 1;
            return Ok(Arrived::Keepalive);
        }
        if frame.len() < SHIM_BYTES_MIN {
            return Err(DropReason::ShimMalformed);
        }
        self.stats.packets_in += 1;
        Ok(Arrived::Shim(Endpoint { pair, port }))
    }

    /// The proved list of the peer of the context with our `tag` says that `remote` has `port`. A
    /// port learnt meanwhile stays while the list says the same as before.
    pub fn set_port(&mut self, tag: Tag, remote: IpAddr, port: u16) {
        let full = self.ports.len() >= self.config.endpoints_max;
        if full && !self.ports.contains_key(&tag) {
            self.stats.over_limit += 1;
            return;
        }
        let ports = self.ports.entry(tag).or_default();
        if ports.iter().any(|p| p.remote == remote) {
            return;
        }
        if ports.len() < LOCATORS_MAX {
            ports.push(Port { remote, told: port, number: port, candidate: None });
        }
    }

    /// The proved list says these ports now: of locators of which it says anything else, what was told
    /// and learnt is forgotten.
    pub(crate) fn keep_ports(&mut self, tag: Tag, told: &[(IpAddr, u16)]) {
        let Some(ports) = self.ports.get_mut(&tag) else { return };
        ports.retain(|p| told.contains(&(p.remote, p.told)));
        if ports.is_empty() {
            self.ports.remove(&tag);
        }
    }

    /// The context is no more.
    pub fn forget(&mut self, tag: Tag) {
        self.ports.remove(&tag);
    }

    /// The port that payload for `remote` goes to; `None`: it goes without UDP.
    pub fn port(&self, tag: Tag, remote: IpAddr) -> Option<u16> {
        self.ports.get(&tag)?.iter().find(|p| p.remote == remote).map(|p| p.number)
    }

    /// The port that probes for `remote` go to: one that waits for its proof, if there is one.
    pub fn probe_port(&self, now: Instant, tag: Tag, remote: IpAddr) -> Option<u16> {
        let port = self.ports.get(&tag)?.iter().find(|p| p.remote == remote)?;
        let fresh = port.candidate.filter(|(_, since)| now - *since < CANDIDATE_FOR);
        Some(fresh.map_or(port.number, |(candidate, _)| candidate))
    }

    /// A packet with our `tag` came from there.
    pub fn seen(&mut self, now: Instant, tag: Tag, from: Endpoint) -> Seen {
        let known = self.ports.get_mut(&tag).into_iter().flatten();
        let Some(port) = known.into_iter().find(|p| p.remote == from.pair.remote) else {
            return Seen::Known;
        };
        if port.number == from.port {
            return Seen::Known;
        }
        if port.candidate.is_some_and(|(_, since)| now - since < CANDIDATES_APART) {
            return Seen::Waiting;
        }
        port.candidate = Some((from.port, now));
        self.stats.candidates += 1;
        Seen::Probe
    }

    /// A probe from there was the first to report one of ours that left for that locator at `sent`:
    /// since the port is a candidate, such go there. True if the peer's port is another now.
    pub fn proved(&mut self, tag: Tag, from: Endpoint, sent: Instant) -> bool {
        let known = self.ports.get_mut(&tag).into_iter().flatten();
        let Some(port) = known.into_iter().find(|p| p.remote == from.pair.remote) else {
            return false;
        };
        let went_there = |(candidate, since): &mut (u16, Instant)| {
            *candidate == from.port && *since <= sent && sent - *since < CANDIDATE_FOR
        };
        if port.candidate.take_if(went_there).is_none() {
            return false;
        }
        port.number = from.port;
        self.stats.ports_learnt += 1;
        true
    }

    /// A context uses an endpoint that may be behind a NAT, or whose way may have one. `false`: there
    /// are too many, and nothing is to be released.
    pub fn hold(&mut self, now: Instant, to: Endpoint) -> bool {
        if self.uses.len() >= self.config.endpoints_max && !self.uses.contains_key(&to) {
            self.stats.over_limit += 1;
            return false;
        }
        self.uses.entry(to).or_insert(Use { contexts: 0, sent: now }).contexts += 1;
        self.next.get_or_insert(now + self.config.keepalive / 4);
        true
    }

    /// A context does so no longer.
    pub fn release(&mut self, to: Endpoint) {
        let Some(used) = self.uses.get_mut(&to) else { return };
        used.contexts -= 1;
        if used.contexts == 0 {
            self.uses.remove(&to);
        }
    }

    /// Whether [`Encap::poll_transmit`] has something.
    #[inline]
    pub fn wants_transmit(&self) -> bool {
        !self.due.is_empty()
    }

    /// When [`Encap::handle_timeout`] is wanted.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// Finds the endpoints that a keepalive is due for.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.before.take_if(|(_, until)| *until <= now);
        if self.next.take_if(|at| *at <= now).is_none() || self.uses.is_empty() {
            return;
        }
        let quarter = self.config.keepalive / 4;
        self.next = Some(now + quarter);
        for (to, used) in &mut self.uses {
            // The next look would be too late.
            if now - used.sent + quarter > self.config.keepalive {
                used.sent = now;
                self.due.push(*to);
            }
        }
        self.due.sort_unstable();
        self.due.dedup();
    }

    /// The next keepalive: the datagram, without an IP header.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<(Endpoint, Frame)> {
        loop {
            let to = self.due.pop()?;
            let mut frame = Frame::from_heap(HEADROOM_BYTES, &KEEPALIVE);
            if self.push(now, to, &mut frame, None).is_ok() {
                self.stats.packets_out -= 1;
                self.stats.keepalives_out += 1;
                return Some((to, frame));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::locator::{Locator, Verification};
    use crate::reap::{Outgoing, Reap, ReapConfig};
    use weft_stack::rng::Rng;

    const PORT: u16 = 4_140;

    fn encap() -> Encap {
        Encap::new(EncapConfig::new(PORT), Key::generate(&mut Rng::from_u64(1)))
    }

    fn pair(local: &str, remote: &str) -> Pair {
        Pair::new(local.parse().unwrap(), remote.parse().unwrap())
    }

    fn here() -> Pair {
        pair("192.0.2.1", "198.51.100.7")
    }

    fn tag(n: u64) -> Tag {
        Tag::new(n)
    }

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    #[test]
    fn a_packet_comes_out_as_it_went_in_over_both_families() {
        for (pair, fragment) in
            [(here(), false), (here(), true), (pair("fd00::1", "fd00::2"), true)]
        {
            let mut a = encap();
            let to = Endpoint { pair, port: PORT };
            let packet: Vec<u8> = (0..101).collect();
            let mut frame = Frame::from_heap(64, &packet);
            if fragment {
                frame.frags.push(bytes::Bytes::from_static(b"and the rest"));
            }
            a.push(at(1), to, &mut frame, None).unwrap();
            assert_eq!(frame.data()[..4], [0x10, 0x2c, 0x10, 0x2c], "from and to the port");
            assert!(frame_sum::is_valid(pair.local, pair.remote, UDP, &frame));
            assert!(a.is_ours(&frame));
            let from = Endpoint { pair: pair.reversed(), port: PORT };
            let mut b = encap();
            assert_eq!(b.pull(pair.reversed(), &mut frame), Ok(Arrived::Shim(from)));
            assert_eq!(frame.data(), packet);
            assert_eq!((a.stats().packets_out, b.stats().packets_in), (1, 1));
        }
    }

    #[test]
    fn the_inner_checksum_is_complete_before_the_outer_covers_it() {
        let mut frame = Frame::from_heap(64, &[0; 40]);
        frame.meta.checksum = Checksum::Partial { start: 8, offset: 16 };
        encap().push(at(1), Endpoint { pair: here(), port: 9 }, &mut frame, None).unwrap();
        assert_eq!(frame.meta.checksum, Checksum::Complete);
        assert!(frame_sum::is_valid(here().local, here().remote, UDP, &frame));
        let mut big = Frame::from_heap(64, &[0; 40]);
        big.meta.gso = Gso::Tcp4 { mss: 10 };
        let refused = encap().push(at(1), Endpoint { pair: here(), port: 9 }, &mut big, None);
        assert_eq!(refused, Err(DropReason::FrameTooLong), "cut before");
    }

    #[test]
    fn what_is_no_datagram_of_ours_is_refused_with_its_reason() {
        let good = || {
            let mut frame = Frame::from_heap(64, &[7; 16]);
            encap()
                .push(at(1), Endpoint { pair: here().reversed(), port: PORT }, &mut frame, None)
                .unwrap();
            frame.data().to_vec()
        };
        let pull = |bytes: &[u8]| encap().pull(here(), &mut Frame::from_heap(64, bytes));
        assert!(pull(&good()).is_ok());
        for cut in 0..good().len() {
            assert_eq!(pull(&good()[..cut]), Err(DropReason::UdpMalformed), "{cut}");
        }
        let changed = |at: usize, to: u8| {
            let mut bytes = good();
            bytes[at] = to;
            pull(&bytes)
        };
        assert_eq!(changed(3, 0), Err(DropReason::UdpMalformed), "another port");
        assert_eq!(changed(12, 0), Err(DropReason::UdpChecksumBad));
        let mut unchecked = good();
        unchecked[6..8].copy_from_slice(&[0, 0]);
        assert!(pull(&unchecked).is_ok(), "IPv4 allows none");
        let v6 = pair("fd00::1", "fd00::2");
        let none = encap().pull(v6, &mut Frame::from_heap(64, &unchecked));
        assert_eq!(none, Err(DropReason::UdpChecksumBad), "IPv6 does not");
        let mut short = Frame::from_heap(64, &[7; 7]);
        encap()
            .push(at(1), Endpoint { pair: here().reversed(), port: PORT }, &mut short, None)
            .unwrap();
        assert_eq!(encap().pull(here(), &mut short), Err(DropReason::ShimMalformed));
    }

    /// A server's view of a client behind a NAT, with a context in use.
    fn behind_nat() -> (Encap, Reap, Endpoint) {
        let mut encap = encap();
        encap.set_port(tag(1), here().remote, PORT);
        let mut reap = Reap::new(&ReapConfig::data_centre(), [3; 16], at(1), here());
        let locator = |addr| [Locator::new(addr, Verification::Keyed)];
        reap.set_paths(at(1), &locator(here().local), &locator(here().remote));
        (encap, reap, Endpoint { pair: here(), port: 31_007 })
    }

    #[test]
    fn a_nats_new_port_is_used_when_a_probe_came_back_from_it() {
        let (mut encap, mut reap, new) = behind_nat();
        let port = |encap: &Encap| encap.port(tag(1), here().remote);
        assert_eq!(encap.seen(at(10), tag(1), new), Seen::Probe);
        assert_eq!(encap.seen(at(11), tag(1), new), Seen::Waiting);
        assert_eq!(port(&encap), Some(PORT), "payload goes where it went");
        assert_eq!(encap.probe_port(at(11), tag(1), here().remote), Some(31_007));

        // The client answers as its own REAP does.
        let mut client = Reap::new(&ReapConfig::data_centre(), [4; 16], at(1), here().reversed());
        reap.probe_now(at(12));
        let Some((_, Outgoing::Probe(asked))) = reap.poll_transmit(at(12)) else { panic!() };
        client.probe_received(at(13), here().reversed(), &asked);
        let Some((_, Outgoing::Probe(answer))) = client.poll_transmit(at(13)) else { panic!() };

        // A lie about another probe proves nothing, the answer does.
        let mut lie = answer.clone();
        lie.received[0].nonce ^= 1;
        assert!(!reap.probe_received(at(14), here(), &lie));
        assert!(reap.probe_received(at(14), here(), &answer));
        assert!(!encap.proved(tag(1), new, at(9)), "it left for another port");
        assert!(encap.proved(tag(1), new, at(12)));
        assert_eq!(port(&encap), Some(31_007));
        assert_eq!(encap.seen(at(15), tag(1), new), Seen::Known);
        assert!(!encap.proved(tag(1), new, at(12)), "once");
        assert_eq!((encap.stats().candidates, encap.stats().ports_learnt), (1, 1));

        // A list that says the same of the locator changes nothing.
        let told = |encap: &mut Encap, number| {
            encap.keep_ports(tag(1), &[(here().remote, number)]);
            encap.set_port(tag(1), here().remote, number);
            encap.port(tag(1), here().remote)
        };
        assert_eq!(told(&mut encap, PORT), Some(31_007));
        assert_eq!(told(&mut encap, 9), Some(9));
        encap.keep_ports(tag(1), &[]);
        assert_eq!(port(&encap), None);
    }

    #[test]
    fn packets_from_elsewhere_move_nothing() {
        let (mut encap, _, new) = behind_nat();
        let elsewhere = Endpoint { pair: pair("192.0.2.1", "203.0.113.9"), ..new };
        assert_eq!(encap.seen(at(10), tag(1), elsewhere), Seen::Known, "no locator of the peer");
        let proved = |encap: &mut Encap, n, from| encap.proved(tag(n), from, at(11));
        assert!(!proved(&mut encap, 1, elsewhere) && !proved(&mut encap, 2, new));
        assert!(!proved(&mut encap, 1, new), "it was not seen with the tag");
        // A thousand ports a second are one test in four seconds.
        for n in 0..1_000 {
            encap.seen(at(10 + n), tag(1), Endpoint { port: 40_000 + n as u16, ..new });
        }
        assert_eq!(encap.stats().candidates, 1);
        assert_eq!(encap.port(tag(1), here().remote), Some(PORT));
        assert_eq!(encap.probe_port(at(5_000), tag(1), here().remote), Some(PORT), "given up");
        encap.forget(tag(1));
        assert_eq!(encap.port(tag(1), here().remote), None);
    }

    #[test]
    fn invented_ports_leave_the_known_one_half_of_the_probes() {
        let (mut encap, _, new) = behind_nat();
        let probed = |n: &u64| {
            let now = at(10 + n);
            encap.seen(now, tag(1), Endpoint { port: 40_000 + *n as u16, ..new });
            encap.probe_port(now, tag(1), here().remote) == Some(PORT)
        };
        let there = (0..20_000).filter(probed).count();
        assert!((9_000..=11_000).contains(&there), "{there} of 20,000");
    }

    #[test]
    fn a_quiet_mapping_gets_a_keepalive_within_its_time_and_a_busy_one_none() {
        let mut encap = encap();
        let quiet = Endpoint { pair: here(), port: PORT };
        let busy = Endpoint { port: 5, ..quiet };
        // Two contexts over one endpoint need one keepalive.
        for to in [quiet, quiet, busy] {
            encap.hold(at(0), to);
        }
        let mut sent = vec![];
        let mut run = |encap: &mut Encap, seconds: core::ops::Range<u64>| {
            for now in seconds.map(|s| at(s * 1_000)) {
                encap.push(now, busy, &mut Frame::from_heap(64, &[0; 8]), None).unwrap();
                if encap.poll_timeout().is_some_and(|at| at <= now) {
                    encap.handle_timeout(now);
                }
                while let Some((to, mut frame)) = encap.poll_transmit(now) {
                    assert_eq!(to, quiet);
                    let arrived = self::encap().pull(here().reversed(), &mut frame);
                    assert_eq!(arrived, Ok(Arrived::Keepalive));
                    sent.push(now);
                }
            }
            sent.len()
        };
        assert_eq!(run(&mut encap, 0..200), 199 / 20, "every 20 s");
        encap.release(quiet);
        assert_eq!(run(&mut encap, 200..241), 240 / 20, "one context still needs it");
        encap.release(quiet);
        assert_eq!(run(&mut encap, 241..600), 240 / 20);
        encap.release(busy);
        encap.release(busy);
        run(&mut encap, 600..610);
        assert_eq!(encap.poll_timeout(), None, "nobody is left");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_counted() {
        let config = EncapConfig { endpoints_max: 10, ..EncapConfig::new(PORT) };
        let mut encap = Encap::new(config, Key::generate(&mut Rng::from_u64(1)));
        for n in 0..25 {
            encap.hold(at(0), Endpoint { pair: here(), port: n });
            encap.set_port(tag(u64::from(n)), here().remote, n);
        }
        assert_eq!((encap.uses.len(), encap.ports.len()), (10, 10));
        assert_eq!(encap.stats().over_limit, 30);
        let first = Endpoint { pair: here(), port: 0 };
        assert!(encap.hold(at(0), first), "one that is held already");
        assert!(!encap.hold(at(0), Endpoint { port: 20, ..first }));
        for n in 0..100u8 {
            encap.set_port(tag(1), IpAddr::from([10, 0, 0, n]), 7);
        }
        assert_eq!(encap.ports[&tag(1)].len(), LOCATORS_MAX);
    }
}
