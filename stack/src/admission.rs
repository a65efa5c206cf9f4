//! Who may begin a flow: asked where a packet belongs to no connection and no socket of ours has
//! asked for it, before any listener or socket sees it.
//!
//! The rules are the host's ([`Rules`]); this is where they are asked, and what the vserver's own
//! datagrams allow to come back. A packet that the flow table knows is never judged, so an
//! established TCP connection costs nothing, whatever the rules are. Of the others, one bit per port
//! ([`Watch`]) says whether any rule can mean them; only then the rules are asked. Fragments are
//! judged when they are whole. The parts of a super-segment have one source, one port, and so one
//! verdict: it is asked for once, and counts as often as there are parts.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::frame::prefetch;
use crate::ip::address::AliasId;
use crate::rng::{Key, Secrets};
use crate::time::Instant;
use crate::wire::protocol;

/// How long an answer may come after the datagram that asked for it. RFC 4787 REQ-5 asks this of
/// address translators, whose peers have the same need.
pub const STATE_TIME: Duration = Duration::from_mins(2);

const ANY4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// The first packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct First {
    /// Where it came in.
    pub alias: AliasId,
    /// IP protocol number; of ICMP and ICMPv6 only echo requests are judged.
    pub protocol: u8,
    /// The client.
    pub src: IpAddr,
    /// Destination port; 0 for protocols without.
    pub port: u16,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on to its listener or socket.
    Allow,
    /// Nothing answers.
    Drop,
    /// TCP: a RST, as if nobody listened. Others: as [`Verdict::Prohibit`].
    Reject,
    /// ICMP communication administratively prohibited (RFC 1812 5.2.7.1), ICMPv6 code 1 (RFC 4443
    /// 3.1), within the limit of ICMP errors.
    Prohibit,
}

/// The rules of one vserver. Shards share them; a changed set replaces them whole.
pub trait Rules: fmt::Debug + Send + Sync {
    /// What may need a verdict; it does not change. Sets with the same rules share it.
    fn watch(&self) -> &Arc<Watch>;

    /// Decides about so many packets that are alike, and counts them.
    fn judge(&self, now: Instant, first: &First, packets: u64) -> Verdict;

    /// Whether [`Rules::judge`] would allow it; nothing is counted.
    fn allows(&self, first: &First) -> bool;

    /// What policy routing is to know of a flow that is allowed: the mark of what answers it, 0:
    /// none. Asked only if [`Watch::marks`]; nothing is counted.
    fn mark(&self, first: &First) -> u32 {
        let _ = first;
        0
    }
}

/// A bit for every port that some rule means on some alias: everything else is allowed without a
/// question.
pub struct Watch {
    tcp: Box<[u64; 1024]>,
    udp: Box<[u64; 1024]>,
    /// Echo requests of ICMP and ICMPv6.
    pub echo: bool,
    /// Protocols without ports.
    pub others: bool,
    /// Some rule gives what it allows a mark.
    pub marks: bool,
}

impl Default for Watch {
    fn default() -> Watch {
        let none = || Box::new([0; 1024]);
        Watch { tcp: none(), udp: none(), echo: false, others: false, marks: false }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = |set: &[u64; 1024]| set.iter().map(|w| w.count_ones()).sum::<u32>();
        f.debug_struct("Watch")
            .field("tcp_ports", &ports(&self.tcp))
            .field("udp_ports", &ports(&self.udp))
            .field("echo", &self.echo)
            .field("others", &self.others)
            .field("marks", &self.marks)
            .finish()
    }
}

impl Watch {
    /// Adds a range of ports of TCP (6) or UDP (17).
    pub fn add(&mut self, protocol: u8, first: u16, last: u16) {
        let set = if protocol == protocol::TCP { &mut self.tcp } else { &mut self.udp };
        for port in first..=last {
            set[usize::from(port >> 6)] |= 1 << (port & 63);
        }
    }

    #[inline]
    fn has(set: &[u64; 1024], port: u16) -> bool {
        set[usize::from(port >> 6)] >> (port & 63) & 1 != 0
    }

    /// Whether a rule can mean such a packet.
    #[inline]
    pub fn covers(&self, number: u8, port: u16) -> bool {
        match number {
            protocol::TCP => Watch::has(&self.tcp, port),
            protocol::UDP => Watch::has(&self.udp, port),
            protocol::ICMP | protocol::ICMPV6 => self.echo,
            _ => self.others,
        }
    }
}

/// Whose answer may come: our port, the peer. A group's members answer from addresses of their own.
type Asked = (u16, IpAddr, u16);

/// Where datagrams went that rules would not let come.
#[derive(Debug)]
struct States {
    /// Peers may choose whom a service answers.
    until: HashMap<Asked, Instant, Key>,
    /// In order of time; what was sent again stands here twice, and its first place means nothing.
    order: VecDeque<(Instant, Asked)>,
}

impl States {
    fn new(key: Key) -> States {
        States { until: HashMap::with_hasher(key), order: VecDeque::new() }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((at, asked)) = self.order.front().copied()
            && at <= now
        {
            self.order.pop_front();
            if self.until.get(&asked).is_some_and(|until| *until <= now) {
                self.until.remove(&asked);
            }
        }
    }

    /// `false`: there are `max` already.
    fn note(&mut self, now: Instant, asked: Asked, max: usize) -> bool {
        let until = now + STATE_TIME;
        if let Some(known) = self.until.get_mut(&asked) {
            // Once a second is enough, and bounds the queue.
            if until.saturating_since(*known) >= Duration::from_secs(1) {
                *known = until;
                self.order.push_back((until, asked));
            }
            return true;
        }
        self.expire(now);
        if self.until.len() >= max {
            return false;
        }
        self.until.insert(asked, until);
        self.order.push_back((until, asked));
        true
    }

    fn knows(&self, now: Instant, asked: &Asked) -> bool {
        self.until.get(asked).is_some_and(|until| *until > now)
    }
}

/// What a stack keeps to decide who may begin a flow.
#[derive(Debug)]
pub(crate) struct Admission {
    /// With what they watch, which many vservers have in common: a packet that no rule can mean
    /// looks at nothing else.
    rules: Option<(Arc<Watch>, Arc<dyn Rules>)>,
    states: States,
}

impl Admission {
    pub(crate) fn new(secrets: &Secrets) -> Admission {
        Admission { rules: None, states: States::new(secrets.flow) }
    }

    #[inline]
    pub(crate) fn prefetch(&self) {
        prefetch(&self.rules);
    }

    pub(crate) fn set(&mut self, rules: Option<Arc<dyn Rules>>) {
        self.rules = rules.map(|rules| (Arc::clone(rules.watch()), rules));
    }

    /// The rules, if one can mean such a packet.
    #[inline]
    pub(crate) fn rules(&self, number: u8, port: u16) -> Option<&dyn Rules> {
        let (watch, rules) = self.rules.as_ref()?;
        watch.covers(number, port).then_some(&**rules)
    }

    /// The mark that a rule gives to what answers `first`; 0: none does.
    #[inline]
    pub(crate) fn mark(&self, first: impl FnOnce() -> First) -> u32 {
        let Some((watch, rules)) = self.rules.as_ref().filter(|(watch, _)| watch.marks) else {
            return 0;
        };
        let first = first();
        if watch.covers(first.protocol, first.port) { rules.mark(&first) } else { 0 }
    }

    /// A datagram leaves for `to.src`, from the port that its answer comes to; `to_many`: a group or
    /// a broadcast address. `false`: there are `max` states already, and the answer will be judged.
    #[inline]
    pub(crate) fn sent(
        &mut self,
        now: Instant,
        to: &First,
        peer_port: u16,
        to_many: bool,
        max: usize,
    ) -> bool {
        match self.rules(protocol::UDP, to.port) {
            Some(rules) if to_many || !rules.allows(to) => {
                let from = if to_many { anybody(to.src) } else { to.src };
                self.states.note(now, (to.port, from, peer_port), max)
            }
            _ => true,
        }
    }

    /// Whether a datagram answers one of ours.
    pub(crate) fn is_answer(&self, now: Instant, port: u16, peer: IpAddr, peer_port: u16) -> bool {
        self.states.knows(now, &(port, peer, peer_port))
            || self.states.knows(now, &(port, anybody(peer), peer_port))
    }

    /// Answers that are waited for.
    pub(crate) fn states(&self) -> usize {
        self.states.until.len()
    }
}

fn anybody(peer: IpAddr) -> IpAddr {
    if peer.is_ipv4() { ANY4 } else { ANY6 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(1000 * seconds)
    }

    #[test]
    fn an_answer_may_come_until_its_time_is_over() {
        let mut states = States::new(Key::generate(&mut Rng::from_u64(1)));
        assert!(states.note(at(0), (161, PEER, 162), 4));
        assert!(states.knows(at(119), &(161, PEER, 162)));
        assert!(!states.knows(at(120), &(161, PEER, 162)));
        assert!(!states.knows(at(1), &(161, PEER, 163)));
        assert!(states.note(at(60), (161, PEER, 162), 4), "it is known");
        states.expire(at(121));
        assert!(states.knows(at(179), &(161, PEER, 162)), "asked again, waited for again");
        states.expire(at(180));
        assert_eq!((states.until.len(), states.order.len()), (0, 0));
    }

    #[test]
    fn states_have_a_limit_and_those_that_are_over_make_room() {
        let mut states = States::new(Key::generate(&mut Rng::from_u64(1)));
        for port in 0..4 {
            assert!(states.note(at(0), (161, PEER, port), 4));
        }
        assert!(!states.note(at(1), (161, PEER, 9), 4));
        for _ in 0..1000 {
            assert!(states.note(at(1), (161, PEER, 1), 4));
        }
        assert!(states.order.len() <= 5, "{}", states.order.len());
        assert!(states.note(at(121), (161, PEER, 9), 4));
    }

    #[test]
    fn a_watch_covers_what_was_added() {
        let mut watch = Watch::default();
        watch.add(protocol::TCP, 22, 23);
        watch.add(protocol::UDP, 65_535, 65_535);
        let of = |ports: [(u8, u16); 6]| ports.map(|(number, port)| watch.covers(number, port));
        let (tcp, udp) = (protocol::TCP, protocol::UDP);
        let found = of([(tcp, 22), (tcp, 23), (tcp, 24), (udp, 22), (udp, 65_535), (1, 0)]);
        assert_eq!(found, [true, true, false, false, true, false]);
        watch.echo = true;
        assert!(watch.covers(protocol::ICMP, 0) && watch.covers(protocol::ICMPV6, 0));
        assert!(!watch.covers(132, 0));
    }
}
