//! Questions and answers on the wire (RFC 1035, 2308, 4343). Sans-IO.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, Question, RCODE, ResourceRecord, TYPE};

/// The longest message we read: what TCP can carry.
pub(crate) const MESSAGE_BYTES_MAX: usize = 65_535;
/// Links of a chain of aliases within one answer.
const CHAIN_MAX: usize = 16;
/// Records of an answer that are kept.
const RECORDS_MAX: usize = 64;
/// A record takes at least a root name, type, class, TTL and length.
const RECORD_BYTES_MIN: usize = 11;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    A,
    Aaaa,
    Ptr,
}

impl Kind {
    fn wire(self) -> TYPE {
        match self {
            Kind::A => TYPE::A,
            Kind::Aaaa => TYPE::AAAA,
            Kind::Ptr => TYPE::PTR,
        }
    }
}

/// One value of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Address(IpAddr),
    Name(String),
}

/// What a server's message says about a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Records, and for how many seconds they hold.
    Found(Vec<Value>, u32),
    /// There are none; for how many seconds that holds, if the server says so (RFC 2308).
    Nothing {
        /// The name itself does not exist.
        no_name: bool,
        ttl: Option<u32>,
    },
    /// The name is an alias of another, of which this server says nothing more.
    Alias(String),
    /// Too long for a datagram.
    Truncated,
    /// The server cannot or will not answer.
    Failed(RCODE),
}

/// Why a message is none to our question: it may be forged, or late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Foreign {
    /// Not DNS.
    Malformed,
    /// Another question, or none of ours.
    Other,
    /// Our question in another case than it was asked in.
    Case,
}

/// A question as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) id: u16,
    /// In the case it was sent in.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Whether the answer must have it in the same case.
    pub(crate) exact: bool,
}

impl Asked {
    /// The message to send; `None` if the name has no wire form.
    pub(crate) fn message(&self) -> Option<Vec<u8>> {
        let mut packet = Packet::new_query(self.id);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let name = Name::new(&self.name).ok()?;
        let kind = QTYPE::TYPE(self.kind.wire());
        packet.questions.push(Question::new(name, kind, CLASS::IN.into(), false));
        packet.build_bytes_vec().ok()
    }

    /// Reads a message as the answer to this question.
    pub(crate) fn read(&self, message: &[u8]) -> Result<Reply, Foreign> {
        if !plausible(message) {
            return Err(Foreign::Malformed);
        }
        let packet = Packet::parse(message).map_err(|_| Foreign::Malformed)?;
        if packet.id() != self.id || !packet.has_flags(PacketFlag::RESPONSE) {
            return Err(Foreign::Other);
        }
        let name = Name::new(&self.name).map_err(|_| Foreign::Malformed)?;
        let [question] = &packet.questions[..] else { return Err(Foreign::Other) };
        if question.qname != name || question.qtype != QTYPE::TYPE(self.kind.wire()) {
            return Err(Foreign::Other);
        }
        if self.exact && !question.qname.as_bytes().eq(name.as_bytes()) {
            return Err(Foreign::Case);
        }
        if packet.has_flags(PacketFlag::TRUNCATION) {
            return Ok(Reply::Truncated);
        }
        Ok(match packet.rcode() {
            RCODE::NoError => self.follow(&name, &packet),
            RCODE::NameError => Reply::Nothing { no_name: true, ttl: negative_ttl(&packet) },
            failed => Reply::Failed(failed),
        })
    }

    /// From the question through aliases to records.
    fn follow(&self, name: &Name, packet: &Packet) -> Reply {
        let mut current = name.clone().into_owned();
        let mut ttl = u32::MAX;
        let mut moved = false;
        for _ in 0..CHAIN_MAX {
            let own: Vec<_> = packet
                .answers
                .iter()
                .filter(|r| r.class == CLASS::IN && r.name == current)
                .collect();
            let found: Vec<_> =
                own.iter().filter_map(|r| Some((value(r, self.kind)?, r.ttl))).collect();
            if !found.is_empty() {
                ttl = found.iter().map(|(_, t)| *t).fold(ttl, u32::min);
                let values = found.into_iter().map(|(v, _)| v).take(RECORDS_MAX).collect();
                return Reply::Found(values, ttl);
            }
            let alias = own.iter().find_map(|r| match &r.rdata {
                RData::CNAME(target) => Some((target.0.clone().into_owned(), r.ttl)),
                _ => None,
            });
            let Some((target, alias_ttl)) = alias else { break };
            (current, ttl, moved) = (target, ttl.min(alias_ttl), true);
        }
        let negative = negative_ttl(packet);
        if moved && negative.is_none() {
            return Reply::Alias(current.to_string());
        }
        Reply::Nothing { no_name: false, ttl: negative.map(|t| t.min(ttl)) }
    }
}

/// Whether the counts of the header fit the length, before anything is allocated for them.
fn plausible(message: &[u8]) -> bool {
    let Some(counts) = message.get(4..12) else { return false };
    let records: usize =
        counts[2..].chunks_exact(2).map(|c| usize::from(u16::from_be_bytes([c[0], c[1]]))).sum();
    records * RECORD_BYTES_MIN <= message.len()
}

fn value(record: &ResourceRecord, kind: Kind) -> Option<Value> {
    match (&record.rdata, kind) {
        (RData::A(a), Kind::A) => Some(Value::Address(Ipv4Addr::from(a.address).into())),
        (RData::AAAA(a), Kind::Aaaa) => Some(Value::Address(Ipv6Addr::from(a.address).into())),
        (RData::PTR(name), Kind::Ptr) => Some(Value::Name(name.0.to_string())),
        _ => None,
    }
}

/// RFC 2308 5: how long "there is none" holds.
fn negative_ttl(packet: &Packet) -> Option<u32> {
    packet.name_servers.iter().find_map(|r| match &r.rdata {
        RData::SOA(soa) => Some(r.ttl.min(soa.minimum)),
        _ => None,
    })
}

/// The name under which the names of an address stand.
pub(crate) fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(a) => {
            let [a, b, c, d] = a.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(a) => {
            let digits = a.octets().into_iter().rev().flat_map(|b| [b & 15, b >> 4]);
            let labels: Vec<String> = digits.map(|d| format!("{d:x}")).collect();
            format!("{}.ip6.arpa", labels.join("."))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use simple_dns::rdata::{A, CNAME, SOA};

    use super::*;

    fn asked() -> Asked {
        Asked { id: 7, name: String::from("WwW.example.NET"), kind: Kind::A, exact: true }
    }

    fn answer(build: impl FnOnce(&mut Packet)) -> Vec<u8> {
        let query = asked().message().unwrap();
        let mut packet = Packet::parse(&query).unwrap().into_reply();
        build(&mut packet);
        packet.build_bytes_vec_compressed().unwrap()
    }

    fn record<'a>(name: &'a str, ttl: u32, rdata: RData<'a>) -> ResourceRecord<'a> {
        ResourceRecord::new(Name::new(name).unwrap(), CLASS::IN, ttl, rdata)
    }

    fn a(last: u8) -> RData<'static> {
        RData::A(A { address: u32::from(Ipv4Addr::new(10, 0, 0, last)) })
    }

    fn addresses(list: &[u8]) -> Vec<Value> {
        list.iter().map(|l| Value::Address(Ipv4Addr::new(10, 0, 0, *l).into())).collect()
    }

    #[test]
    fn records_are_found_behind_aliases_with_the_shortest_time() {
        let message = answer(|p| {
            p.answers.push(record("b.example.net", 50, a(1)));
            p.answers.push(record(
                "a.example.net",
                40,
                RData::CNAME(CNAME(Name::new("B.example.net").unwrap())),
            ));
            p.answers.push(record(
                "www.example.net",
                60,
                RData::CNAME(CNAME(Name::new("a.example.net").unwrap())),
            ));
            p.answers.push(record("b.example.net", 90, a(2)));
            p.answers.push(record("other.example.net", 1, a(3)));
        });
        assert_eq!(asked().read(&message), Ok(Reply::Found(addresses(&[1, 2]), 40)));
    }

    // RFC 2308 5
    #[test]
    fn nothing_holds_as_long_as_the_authority_says() {
        let soa = |ttl, minimum| {
            let name = Name::new("example.net").unwrap();
            let soa = SOA {
                mname: name.clone(),
                rname: name,
                serial: 1,
                refresh: 1,
                retry: 1,
                expire: 1,
                minimum,
            };
            record("example.net", ttl, RData::SOA(soa))
        };
        let message = answer(|p| {
            *p.rcode_mut() = RCODE::NameError;
            p.name_servers.push(soa(300, 20));
        });
        let nothing = Reply::Nothing { no_name: true, ttl: Some(20) };
        assert_eq!(asked().read(&message), Ok(nothing));
        let message = answer(|p| p.name_servers.push(soa(10, 20)));
        let nothing = Reply::Nothing { no_name: false, ttl: Some(10) };
        assert_eq!(asked().read(&message), Ok(nothing));
        let nothing = Reply::Nothing { no_name: false, ttl: None };
        assert_eq!(asked().read(&answer(|_| ())), Ok(nothing));
    }

    #[test]
    fn an_alias_alone_is_asked_for_and_a_circle_ends() {
        let alias = |from, to| record(from, 5, RData::CNAME(CNAME(Name::new(to).unwrap())));
        let message = answer(|p| p.answers.push(alias("www.example.net", "x.example.org")));
        assert_eq!(asked().read(&message), Ok(Reply::Alias(String::from("x.example.org"))));
        let message = answer(|p| {
            p.answers.push(alias("www.example.net", "a.example.net"));
            p.answers.push(alias("a.example.net", "www.example.net"));
        });
        assert!(matches!(asked().read(&message), Ok(Reply::Alias(_))));
    }

    #[test]
    fn what_does_not_answer_our_question_is_foreign() {
        let good = answer(|p| p.answers.push(record("www.example.net", 5, a(1))));
        assert!(asked().read(&good).is_ok());
        assert_eq!(Asked { id: 8, ..asked() }.read(&good), Err(Foreign::Other));
        assert_eq!(Asked { kind: Kind::Aaaa, ..asked() }.read(&good), Err(Foreign::Other));
        let lower = Asked { name: String::from("www.example.net"), ..asked() };
        assert_eq!(lower.read(&good), Err(Foreign::Case));
        assert!(Asked { exact: false, ..lower }.read(&good).is_ok());
        let other = Asked { name: String::from("www.example.org"), ..asked() };
        assert_eq!(other.read(&good), Err(Foreign::Other));
        // a question, not an answer
        assert_eq!(asked().read(&asked().message().unwrap()), Err(Foreign::Other));
        let mut many = good.clone();
        many[6] = 255;
        assert_eq!(asked().read(&many), Err(Foreign::Malformed));
        let cut = answer(|p| p.set_flags(PacketFlag::TRUNCATION));
        assert_eq!(asked().read(&cut), Ok(Reply::Truncated));
        let refused = answer(|p| *p.rcode_mut() = RCODE::Refused);
        assert_eq!(asked().read(&refused), Ok(Reply::Failed(RCODE::Refused)));
    }

    #[test]
    fn reverse_names_are_those_of_the_rfcs() {
        // RFC 1035 3.5, RFC 3596 2.5
        assert_eq!(reverse_name("10.2.0.52".parse().unwrap()), "52.0.2.10.in-addr.arpa");
        assert_eq!(
            reverse_name("4321:0:1:2:3:4:567:89ab".parse().unwrap()),
            "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.0.0.0.0.1.2.3.4.ip6.arpa"
        );
    }

    proptest! {
        #[test]
        fn no_message_panics_or_loops(
            noise in proptest::collection::vec(any::<u8>(), 0..300),
            flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..8),
        ) {
            let _ = asked().read(&noise);
            let mut message = answer(|p| {
                p.answers.push(record("www.example.net", 5, RData::CNAME(CNAME(Name::new("a.example.net").unwrap()))));
                p.answers.push(record("a.example.net", 5, a(1)));
            });
            for (at, byte) in flips {
                let at = at.index(message.len());
                message[at] ^= byte;
            }
            let _ = asked().read(&message);
        }
    }
}
