//! TCP Fast Open (RFC 7413): data with the SYN, for peers that proved their address before.
//!
//! Servers give cookies that are keyed hashes of both addresses; the key changes every twelve
//! hours, and cookies of the key before are still good. A connection opened by one is accepted
//! before its handshake is over; how many may be is limited, since such a SYN can be replayed.
//! Clients keep cookies and segment sizes of a bounded number of peers, and go without Fast Open for
//! a while where SYNs with data were lost.

use core::net::IpAddr;

use hashbrown::HashMap;

use crate::frame::Frame;
use crate::rng::Key;
use crate::seq::SeqNum;
use crate::socket::tcp::TcpState;
use crate::time::{Duration, Instant};
use crate::wire::tcp::{FastOpenCookie, Flags, Header};

use super::flow_table::FlowKey;
use super::state::{Connection, Cx};

/// How long a key makes cookies (RFC 7413 section 4.1.2).
const KEY_PERIOD_S: u64 = 12 * 3600;

/// Peers whose cookies a client keeps.
const PEERS_MAX: usize = 256;

/// How long Fast Open is not tried after a SYN with it was lost; doubled each time in a row.
const BLACKHOLE: Duration = Duration::from_hours(1);
const BLACKHOLE_DOUBLINGS_MAX: u32 = 5;

/// What a connection remembers of how it was opened.
#[derive(Debug, Default)]
pub(crate) struct Opening {
    /// The peer opened it.
    pub(crate) passive: bool,
    /// Nobody knows when the SYN-ACK left: it was a cookie, or the ACK was kept back.
    pub(crate) untimed: bool,
    /// Data of the SYN was taken.
    pub(crate) taken: bool,
    /// A server's connection that was accepted before its handshake was over.
    pub(crate) early: bool,
    /// A client's, until the SYN-ACK is here.
    pub(crate) offer: Option<Box<Offer>>,
}

/// What a client's SYN says.
#[derive(Debug)]
pub(crate) struct Offer {
    /// Its cookie, or the request for one.
    cookie: FastOpenCookie,
    /// Segment size of the peer, as known from the last time.
    mss: usize,
    /// Bytes that went with the SYN.
    sent: usize,
    /// The SYN was lost: it is sent without all this.
    lost: bool,
    /// What the SYN-ACK brought.
    learned: Option<(FastOpenCookie, u16)>,
}

/// A keyed hash of both addresses.
fn cookie(key: &Key, flow: &FlowKey, period: u64) -> FastOpenCookie {
    let octets = |addr: IpAddr| match addr {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    };
    let parts: [&[u8]; 3] = [&period.to_be_bytes(), &octets(flow.peer), &octets(flow.local)];
    FastOpenCookie::new(&key.hash(&parts).to_be_bytes()).unwrap_or(FastOpenCookie::REQUEST)
}

fn period(now: Instant) -> u64 {
    now.as_millis() / 1000 / KEY_PERIOD_S
}

/// The cookie that a client of `flow` gets now.
pub(crate) fn give(key: &Key, flow: &FlowKey, now: Instant) -> FastOpenCookie {
    cookie(key, flow, period(now))
}

/// Whether a client's cookie is ours, of this period or the one before.
pub(crate) fn is_valid(key: &Key, flow: &FlowKey, shown: &FastOpenCookie, now: Instant) -> bool {
    let at = period(now);
    [Some(at), at.checked_sub(1)].into_iter().flatten().any(|p| cookie(key, flow, p) == *shown)
}

/// What a client knows of a peer.
#[derive(Clone, Copy, Debug)]
struct Known {
    cookie: FastOpenCookie,
    mss: u16,
    /// Fast Open is not tried before.
    not_before: Instant,
    failures: u32,
    used: u64,
}

/// Cookies of servers, least recently used first to go.
#[derive(Debug)]
pub(crate) struct CookieCache {
    peers: HashMap<IpAddr, Known, Key>,
    clock: u64,
}

impl CookieCache {
    pub(crate) fn new(key: Key) -> CookieCache {
        CookieCache { peers: HashMap::with_hasher(key), clock: 0 }
    }

    /// What the SYN to a peer says; `None`: nothing of Fast Open.
    pub(crate) fn offer(&mut self, peer: IpAddr, now: Instant) -> Option<Box<Offer>> {
        self.clock += 1;
        let (mut cookie, mut mss) = (FastOpenCookie::REQUEST, 0);
        if let Some(known) = self.peers.get_mut(&peer) {
            if now < known.not_before {
                return None;
            }
            known.used = self.clock;
            (cookie, mss) = (known.cookie, usize::from(known.mss));
        }
        Some(Box::new(Offer { cookie, mss, sent: 0, lost: false, learned: None }))
    }

    /// Takes over what the handshake taught; true if Fast Open does not get through to the peer.
    /// `taken`: its data arrived.
    pub(crate) fn learn(&mut self, peer: IpAddr, offer: &Offer, taken: bool, now: Instant) -> bool {
        if !offer.lost && offer.learned.is_none() {
            return false;
        }
        if self.peers.len() >= PEERS_MAX
            && !self.peers.contains_key(&peer)
            && let Some(oldest) = self.peers.iter().min_by_key(|(_, k)| k.used).map(|(a, _)| *a)
        {
            self.peers.remove(&oldest);
        }
        self.clock += 1;
        let known = self.peers.entry(peer).or_insert(Known {
            cookie: FastOpenCookie::REQUEST,
            mss: 0,
            not_before: Instant::ZERO,
            failures: 0,
            used: self.clock,
        });
        if let Some((cookie, mss)) = offer.learned {
            (known.cookie, known.mss) = (cookie, mss);
            known.failures = 0;
        }
        let blackhole = offer.lost && !taken;
        if blackhole {
            // RFC 7413 4.1.3.1: a path that eats such SYNs goes on doing so.
            known.not_before = now + BLACKHOLE * (1 << known.failures.min(BLACKHOLE_DOUBLINGS_MAX));
            known.failures += 1;
        }
        blackhole
    }
}

impl Connection {
    /// Data for the first segment that may carry it: the SYN, or what follows the handshake.
    pub(crate) fn open_with(&mut self, cx: &mut Cx<'_>, data: &[u8]) -> usize {
        let taken = self.send.push(data);
        cx.stats.snd_copied_octets += taken as u64;
        taken
    }

    /// The option and the bytes of our SYN; the first one only (RFC 7413 4.1.3).
    pub(crate) fn syn_offer(&self, option_bytes: usize) -> (Option<FastOpenCookie>, usize) {
        let Some(offer) = self.notes.opening.offer.as_deref().filter(|o| !o.lost) else {
            return (None, 0);
        };
        let first = self.snd_nxt == self.iss;
        if offer.cookie.is_request() || !first {
            return (Some(offer.cookie), 0);
        }
        let mss = if offer.mss == 0 { self.mss_peer } else { offer.mss };
        let room = mss.min(self.mss_advertised());
        let room = room.saturating_sub(option_bytes + offer.cookie.option_bytes());
        (Some(offer.cookie), room.min(self.send.len()))
    }

    /// So many bytes went with the SYN.
    pub(crate) fn syn_data_sent(&mut self, bytes: usize) {
        if let Some(offer) = &mut self.notes.opening.offer {
            offer.sent = bytes;
        }
    }

    /// The highest number that may acknowledge our SYN: that of data sent once counts although the
    /// SYN went out without it since.
    pub(crate) fn syn_ack_max(&self) -> SeqNum {
        let sent = self.notes.opening.offer.as_deref().map_or(0, |o| o.sent);
        self.snd_nxt.max(self.iss + 1 + sent as u32)
    }

    /// Nobody answered our SYN: from now on without data and option, and the data is unsent.
    pub(crate) fn syn_data_lost(&mut self, cx: &mut Cx<'_>) {
        if self.state != TcpState::SynSent {
            return;
        }
        if let Some(offer) = self.notes.opening.offer.as_deref_mut().filter(|o| !o.lost) {
            offer.lost = true;
            if offer.sent > 0 {
                cx.stats.fast_open_active_fails += 1;
            }
            self.snd_nxt = self.iss + 1;
        }
    }

    /// A SYN-ACK (or a SYN that crossed ours): what it leaves out of our SYN's data is unsent again.
    pub(crate) fn syn_data_acked(&mut self, cx: &mut Cx<'_>, seg: &Header) {
        let ack = if seg.flags.has(Flags::ACK) { seg.ack } else { self.iss + 1 };
        self.snd_nxt = ack;
        let data = ack.diff(self.send_base).clamp(0, self.send.len() as i32) as usize;
        if data > 0 {
            self.send.ack(data);
            self.send_base += data as u32;
            self.totals.bytes_acked += data as u64;
            cx.stats.out_octets += data as u64;
            cx.stats.fast_open_active += 1;
            self.notes.opening.taken = true;
        }
        let Some(offer) = self.notes.opening.offer.as_deref_mut() else { return };
        if data == 0 && offer.sent > 0 && !offer.lost {
            cx.stats.fast_open_active_fails += 1;
        }
        if let Some(cookie) = seg.options.fast_open.filter(|c| !c.is_request()) {
            offer.learned = Some((cookie, seg.options.mss.unwrap_or(0)));
        }
    }

    /// A server's side of a SYN with a good cookie: its data is there at once.
    pub(crate) fn take_syn_data(&mut self, cx: &mut Cx<'_>, irs: SeqNum, mut payload: Frame) {
        let window = usize::from(self.settings.window_of_syn());
        self.rcv_adv = irs + 1 + window as u32;
        super::payload::truncate(&mut payload, window);
        cx.stats.fast_open_passive += 1;
        self.take_syn_payload(cx, payload);
        // The SYN-ACK is the acknowledgement.
        (self.ack_now, self.acking.at) = (false, None);
        (self.notes.opening.taken, self.notes.opening.early) = (true, true);
        self.write_blocked = false;
    }

    /// Whether data may be sent although the handshake is not over (RFC 7413 section 4.2.2).
    pub(crate) fn may_send_early(&self) -> bool {
        self.notes.opening.early && self.state == TcpState::SynReceived && !self.syn_pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn flow(peer: u8) -> FlowKey {
        FlowKey {
            local: [10, 0, 0, 1].into(),
            peer: [10, 0, 0, peer].into(),
            local_port: 80,
            peer_port: 1000,
        }
    }

    // RFC 7413 4.1.2
    #[test]
    fn a_cookie_is_good_for_one_pair_of_addresses_and_two_keys() {
        let key = Key::generate(&mut Rng::from_u64(1));
        let other = Key::generate(&mut Rng::from_u64(2));
        let at = |hours: u64| Instant::from_millis(hours * 3_600_000);
        let cookie = give(&key, &flow(2), at(13));
        assert!(is_valid(&key, &flow(2), &cookie, at(13)));
        assert!(is_valid(&key, &flow(2), &cookie, at(35)));
        assert!(!is_valid(&key, &flow(2), &cookie, at(36)));
        assert!(!is_valid(&key, &flow(3), &cookie, at(13)));
        assert!(!is_valid(&other, &flow(2), &cookie, at(13)));
        assert!(!is_valid(&key, &flow(2), &FastOpenCookie::REQUEST, at(13)));
        // Another port makes no difference.
        assert!(is_valid(&key, &FlowKey { peer_port: 2, ..flow(2) }, &cookie, at(13)));
    }

    fn learned(cookie: &[u8]) -> Offer {
        let learned = FastOpenCookie::new(cookie).map(|c| (c, 1400));
        Offer { cookie: FastOpenCookie::REQUEST, mss: 0, sent: 0, lost: false, learned }
    }

    // RFC 7413 4.1.3
    #[test]
    fn a_client_keeps_a_bounded_number_of_cookies_with_segment_sizes() {
        let mut cache = CookieCache::new(Key::generate(&mut Rng::from_u64(1)));
        let peer = |i: usize| IpAddr::from([10, 0, (i >> 8) as u8, i as u8]);
        for i in 0..PEERS_MAX + 10 {
            cache.learn(peer(i), &learned(&[i as u8; 8]), false, Instant::ZERO);
            // The first stays in use.
            assert_eq!(cache.offer(peer(0), Instant::ZERO).unwrap().mss, 1400);
        }
        assert_eq!(cache.peers.len(), PEERS_MAX);
        let offer =
            |cache: &mut CookieCache, i| cache.offer(peer(i), Instant::ZERO).unwrap().cookie;
        assert!(offer(&mut cache, 1).is_request());
        assert_eq!(offer(&mut cache, 100).as_slice(), [100; 8]);
        assert_eq!(offer(&mut cache, 0).as_slice(), [0; 8]);
    }

    // RFC 7413 4.1.3.1
    #[test]
    fn a_path_that_eats_syns_with_data_is_left_alone_longer_each_time() {
        let mut cache = CookieCache::new(Key::generate(&mut Rng::from_u64(1)));
        let peer = IpAddr::from([10, 0, 0, 2]);
        let lost = Offer { lost: true, learned: None, ..learned(&[]) };
        let hour = |h| Instant::ZERO + BLACKHOLE * h;
        assert!(cache.learn(peer, &lost, false, hour(0)));
        assert!(cache.offer(peer, hour(0)).is_none() && cache.offer(peer, hour(1)).is_some());
        assert!(cache.learn(peer, &lost, false, hour(1)));
        assert!(cache.offer(peer, hour(2)).is_none() && cache.offer(peer, hour(3)).is_some());
        assert!(!cache.learn(peer, &learned(&[1; 8]), false, hour(3)));
        assert!(cache.learn(peer, &lost, false, hour(4)));
        assert!(cache.offer(peer, hour(5)).is_some());
    }
}
