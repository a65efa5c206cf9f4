//! A responder on one link (RFC 6762): probes for its names, announces, answers, says goodbye.
//! Sans-IO: time comes in, messages go out.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Packet, PacketFlag, QCLASS, QTYPE, Question};

use super::records::{Record, Records};
use crate::config::{Advertised, Mdns};

/// The port of multicast DNS.
pub(super) const PORT: u16 = 5353;
/// RFC 6762 8.1
const PROBES: u32 = 3;
const PROBE_EVERY: Duration = Duration::from_millis(250);
/// After a lost tie, and after many conflicts.
const PROBE_LATER: Duration = Duration::from_secs(1);
const PROBE_MUCH_LATER: Duration = Duration::from_secs(5);
const CONFLICTS_MANY: u32 = 15;
/// RFC 6762 8.3
const ANNOUNCEMENTS: u32 = 2;
const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);
/// RFC 6762 6: others may have the same to say; more of what is known may follow.
const SHARED_DELAY_MS: (u64, u64) = (20, 120);
const MORE_KNOWN_DELAY_MS: (u64, u64) = (400, 500);
/// No record is multicast more often (RFC 6762 6).
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long answers to those who ask from another port hold at most (RFC 6762 6.7).
const TTL_LEGACY: u32 = 10;
/// Bytes of a message's records: it fits every link.
const RECORDS_BYTES_MAX: usize = 1200;
/// Questions of one message that are looked at.
const QUESTIONS_MAX: usize = 32;
/// Answers that wait.
const PENDING_MAX: usize = 256;

/// A message to send: to somebody, or to all on the link.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) to: Option<SocketAddr>,
    pub(super) bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Without an address there is nothing to say.
    Idle,
    Probing {
        sent: u32,
        next: Instant,
    },
    Announcing {
        sent: u32,
        next: Instant,
    },
    Running,
}

struct Pending {
    record: Record,
    due: Instant,
    asker: IpAddr,
}

/// What was done, for operators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) questions: u64,
    pub(super) answers: u64,
    pub(super) suppressed: u64,
    pub(super) conflicts: u64,
    pub(super) malformed: u64,
    pub(super) refused: u64,
}

pub(super) struct Responder {
    config: Mdns,
    default_host: String,
    addresses: Vec<IpAddr>,
    records: Records,
    state: State,
    /// How often each name was taken: the host's, then those of services.
    taken: Vec<u32>,
    pending: Vec<Pending>,
    last_sent: Vec<(Record, Instant)>,
    out: Vec<Message>,
    random: u64,
    pub(super) counts: Counts,
}

impl Responder {
    /// Says nothing before it has an address. `random` spreads answers in time.
    pub(super) fn new(config: &Mdns, vserver: &str, random: u64) -> Responder {
        let mut responder = Responder {
            config: config.clone(),
            default_host: vserver.replace('_', "-"),
            addresses: Vec::new(),
            records: Records::new("", &[], &[]),
            state: State::Idle,
            taken: vec![0; config.services.len() + 1],
            pending: Vec::new(),
            last_sent: Vec::new(),
            out: Vec::new(),
            random: random | 1,
            counts: Counts::default(),
        };
        responder.rebuild();
        responder
    }

    /// The host's name as it stands: `box.local`, or `box-2.local` if that was taken.
    pub(super) fn host(&self) -> String {
        format!("{}.local", self.host_label())
    }

    /// Whether its names are its own.
    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, State::Announcing { .. } | State::Running)
    }

    fn host_label(&self) -> String {
        let name = self.config.host.as_ref().unwrap_or(&self.default_host);
        match self.taken[0] {
            0 => name.clone(),
            n => format!("{}-{}", cut(name, 56), n + 1),
        }
    }

    fn rebuild(&mut self) {
        let label = |s: &Advertised, n: u32| match n {
            0 => s.name.clone(),
            n => format!("{} ({})", cut(&s.name, 56), n + 1),
        };
        let services: Vec<(Advertised, String)> = self
            .config
            .services
            .iter()
            .zip(&self.taken[1..])
            .map(|(s, n)| (s.clone(), label(s, *n)))
            .collect();
        self.records = Records::new(&self.host_label(), &services, &self.addresses);
    }

    /// Addresses of the link, whenever they are looked at.
    pub(super) fn set_addresses(&mut self, now: Instant, addresses: &[IpAddr]) {
        if self.addresses == addresses {
            return;
        }
        let had_none = self.addresses.is_empty();
        if addresses.is_empty() {
            self.goodbye();
            self.state = State::Idle;
        }
        self.addresses = addresses.to_vec();
        self.rebuild();
        self.pending.clear();
        self.last_sent.clear();
        match self.state {
            _ if addresses.is_empty() => {}
            State::Idle | State::Probing { .. } if had_none => self.probe(now),
            State::Announcing { .. } | State::Running => {
                // The new ones replace the old ones in caches: the records say so.
                self.state = State::Announcing { sent: 0, next: now };
            }
            _ => {}
        }
    }

    /// Begins to probe, after a random moment (RFC 6762 8.1).
    fn probe(&mut self, now: Instant) {
        let wait = Duration::from_millis(self.between(0, 250));
        self.state = State::Probing { sent: 0, next: now + wait };
    }

    /// When to call [`Responder::poll`] next; `None`: when something comes.
    pub(super) fn next(&self) -> Option<Instant> {
        let state = match self.state {
            State::Probing { next, .. } | State::Announcing { next, .. } => Some(next),
            State::Idle | State::Running => None,
        };
        state.into_iter().chain(self.pending.iter().map(|p| p.due)).min()
    }

    /// What is to be sent now.
    pub(super) fn poll(&mut self, now: Instant) -> Vec<Message> {
        match self.state {
            State::Probing { sent, next } if next <= now => {
                if sent == PROBES {
                    self.state = State::Announcing { sent: 0, next: now };
                    self.announce(now);
                } else {
                    self.send_probe();
                    self.state = State::Probing { sent: sent + 1, next: now + PROBE_EVERY };
                }
            }
            State::Announcing { next, .. } if next <= now => self.announce(now),
            _ => {}
        }
        let due: Vec<Pending> = self.pending.extract_if(.., |p| p.due <= now).collect();
        if !due.is_empty() {
            let answers: Vec<Record> = due.into_iter().map(|p| p.record).collect();
            self.multicast(now, answers, true);
        }
        std::mem::take(&mut self.out)
    }

    fn send_probe(&mut self) {
        let mut packet = Packet::new_query(0);
        for name in &self.records.unique {
            packet.questions.push(Question::new(name.clone(), QTYPE::ANY, CLASS::IN.into(), true));
        }
        // What is to become ours is not yet, so nobody is to forget what he knows.
        let own = self.records.all().iter().filter(|r| self.records.is_unique(&r.name));
        packet.name_servers = own.map(|r| r.clone().with_cache_flush(false)).collect();
        self.push(None, &packet);
    }

    fn announce(&mut self, now: Instant) {
        if let State::Announcing { sent, .. } = self.state {
            let sent = sent + 1;
            self.state = if sent == ANNOUNCEMENTS {
                State::Running
            } else {
                State::Announcing { sent, next: now + ANNOUNCE_EVERY }
            };
        }
        let all = self.records.all().to_vec();
        self.note_sent(now, &all);
        self.send_records(None, all, &[]);
    }

    /// Everything holds no longer (RFC 6762 10.1). Send what [`Responder::poll`] gives after it.
    pub(super) fn goodbye(&mut self) {
        if self.is_running() {
            let gone = self.records.all().iter().cloned();
            let gone = gone.map(|mut r| {
                r.ttl = 0;
                r
            });
            self.send_records(None, gone.collect(), &[]);
        }
        self.state = State::Idle;
        self.pending.clear();
    }

    /// Takes a message that came in on the link.
    pub(super) fn receive(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        if self.state == State::Idle {
            return;
        }
        let packet = if plausible(bytes) { Packet::parse(bytes).ok() } else { None };
        let Some(packet) = packet else {
            self.counts.malformed += 1;
            return;
        };
        if packet.has_flags(PacketFlag::RESPONSE) {
            // Who does not send from the port is no responder (RFC 6762 6).
            if from.port() == PORT {
                self.heard(now, &packet);
            }
        } else {
            self.asked(now, from, &packet);
        }
    }

    /// Others' records: conflicts with ours, or the same as ours.
    fn heard(&mut self, now: Instant, packet: &Packet) {
        let records = || packet.answers.iter().chain(&packet.additional_records);
        // Somebody else has just said it (RFC 6762 7.4).
        let before = self.pending.len();
        self.pending.retain(|p| !records().any(|r| *r == p.record && r.ttl >= p.record.ttl / 2));
        self.counts.suppressed += (before - self.pending.len()) as u64;
        let conflicts = |r: &&simple_dns::ResourceRecord| {
            let ours = || self.records.all().iter().filter(|o| o.name == r.name);
            let same_kind = |o: &Record| o.rdata.type_code() == r.rdata.type_code();
            r.ttl > 0
                && r.class == CLASS::IN
                && self.records.is_unique(&r.name)
                && ours().any(same_kind)
                && !ours().any(|o| o.rdata == r.rdata)
        };
        let Some(conflict) = records().find(conflicts) else { return };
        self.counts.conflicts += 1;
        if let State::Probing { .. } = self.state {
            let which = self.records.unique.iter().position(|u| *u == conflict.name).unwrap_or(0);
            self.taken[which] += 1;
            self.rebuild();
        }
        // Who has been running asks again who it is; the other answers, or has gone (RFC 6762 9).
        let many = self.counts.conflicts > u64::from(CONFLICTS_MANY);
        let wait = if many { PROBE_MUCH_LATER } else { PROBE_EVERY };
        self.pending.clear();
        self.state = State::Probing { sent: 0, next: now + wait };
    }

    fn asked(&mut self, now: Instant, from: SocketAddr, packet: &Packet) {
        self.counts.questions += packet.questions.len() as u64;
        if let State::Probing { .. } = self.state {
            self.tie(now, packet);
            return;
        }
        // What an asker knows already need not be said to it (RFC 6762 7.1, 7.2).
        let knows = |r: &Record| packet.answers.iter().any(|k| *k == *r && k.ttl >= r.ttl / 2);
        let before = self.pending.len();
        self.pending.retain(|p| p.asker != from.ip() || !knows(&p.record));
        self.counts.suppressed += (before - self.pending.len()) as u64;
        let legacy = from.port() != PORT;
        let (mut direct, mut all) = (Vec::new(), Vec::new());
        for question in packet.questions.iter().take(QUESTIONS_MAX) {
            let internet = matches!(question.qclass, QCLASS::ANY | QCLASS::CLASS(CLASS::IN));
            if !internet {
                continue;
            }
            for answer in self.records.answers(question) {
                let to = if legacy || question.unicast_response { &mut direct } else { &mut all };
                if knows(&answer) {
                    self.counts.suppressed += 1;
                } else if !to.contains(&answer) {
                    to.push(answer);
                }
            }
        }
        if !direct.is_empty() {
            self.counts.answers += direct.len() as u64;
            if legacy {
                self.answer_legacy(from, packet, direct);
            } else {
                let more = self.records.additional(&direct);
                self.send_records(Some(from), direct, &more);
            }
        }
        self.queue(now, from.ip(), packet, all);
    }

    /// Answers go at once if nobody else can have them, else after a moment.
    fn queue(&mut self, now: Instant, asker: IpAddr, packet: &Packet, answers: Vec<Record>) {
        let unique = answers.iter().all(|a| a.cache_flush);
        let (low, high) = match packet.has_flags(PacketFlag::TRUNCATION) {
            true => MORE_KNOWN_DELAY_MS,
            false if unique => (0, 0),
            false => SHARED_DELAY_MS,
        };
        let due = now + Duration::from_millis(self.between(low, high));
        for record in answers {
            if self.pending.iter().any(|p| p.record == record) {
                continue;
            }
            if self.pending.len() == PENDING_MAX {
                self.counts.refused += 1;
                return;
            }
            self.pending.push(Pending { record, due, asker });
        }
    }

    /// Somebody probes for the same name at the same time: the later data wins (RFC 6762 8.2).
    fn tie(&mut self, now: Instant, packet: &Packet) {
        let wants = |q: &Question| self.records.is_unique(&q.qname);
        let Some(question) = packet.questions.iter().find(|q| wants(q)) else { return };
        let sorted = |records: &mut dyn Iterator<Item = Vec<u8>>| {
            let mut all: Vec<Vec<u8>> = records.collect();
            all.sort();
            all
        };
        let of_name = |r: &&simple_dns::ResourceRecord| r.name == question.qname;
        let theirs = sorted(&mut packet.name_servers.iter().filter(of_name).map(comparable));
        let ours = sorted(&mut self.records.all().iter().filter(of_name).map(comparable));
        if !theirs.is_empty() && theirs > ours {
            self.state = State::Probing { sent: 0, next: now + PROBE_LATER };
        }
    }

    /// One who asks as DNS does gets an answer as DNS has it (RFC 6762 6.7).
    fn answer_legacy(&mut self, to: SocketAddr, query: &Packet, answers: Vec<Record>) {
        let mut packet = Packet::new_reply(query.id());
        packet.set_flags(PacketFlag::AUTHORITATIVE_ANSWER);
        packet.questions.clone_from(&query.questions);
        packet.questions.truncate(QUESTIONS_MAX);
        let plain = |mut r: Record| {
            r.ttl = r.ttl.min(TTL_LEGACY);
            r.with_cache_flush(false)
        };
        let mut room = RECORDS_BYTES_MAX;
        packet.answers =
            answers.into_iter().map(plain).take_while(|r| fits(r, &mut room)).collect();
        self.push(Some(to), &packet);
    }

    /// Answers to all on the link, none of them twice within a second.
    fn multicast(&mut self, now: Instant, mut answers: Vec<Record>, additional: bool) {
        self.last_sent.retain(|(_, at)| now.duration_since(*at) < AGAIN_AFTER);
        answers.retain(|a| !self.last_sent.iter().any(|(r, _)| r == a));
        if answers.is_empty() {
            return;
        }
        self.counts.answers += answers.len() as u64;
        self.note_sent(now, &answers);
        let more = if additional { self.records.additional(&answers) } else { Vec::new() };
        self.send_records(None, answers, &more);
    }

    fn note_sent(&mut self, now: Instant, records: &[Record]) {
        self.last_sent.extend(records.iter().map(|r| (r.clone(), now)));
    }

    /// As many messages as the answers take; what is additional goes as far as there is room.
    fn send_records(&mut self, to: Option<SocketAddr>, answers: Vec<Record>, more: &[Record]) {
        let reply = || {
            let mut packet = Packet::new_reply(0);
            packet.set_flags(PacketFlag::AUTHORITATIVE_ANSWER);
            packet
        };
        let (mut packet, mut room) = (reply(), RECORDS_BYTES_MAX);
        for answer in answers {
            if !fits(&answer, &mut room) && !packet.answers.is_empty() {
                let full = std::mem::replace(&mut packet, reply());
                self.push(to, &full);
                room = RECORDS_BYTES_MAX;
                let _ = fits(&answer, &mut room);
            }
            packet.answers.push(answer);
        }
        packet.additional_records =
            more.iter().take_while(|r| fits(r, &mut room)).cloned().collect();
        self.push(to, &packet);
    }

    fn push(&mut self, to: Option<SocketAddr>, packet: &Packet) {
        if let Ok(bytes) = packet.build_bytes_vec_compressed() {
            self.out.push(Message { to, bytes });
        }
    }

    /// A number from `low` to `high` (xorshift).
    fn between(&mut self, low: u64, high: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        low + self.random % (high - low + 1)
    }
}

/// Cut at a character, so that a number behind it still fits a label.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes.min(text.len()))]
}

/// Counts of a header that fit the length.
fn plausible(bytes: &[u8]) -> bool {
    let Some(counts) = bytes.get(4..12) else { return false };
    let all: usize =
        counts.chunks_exact(2).map(|c| usize::from(u16::from_be_bytes([c[0], c[1]]))).sum();
    all * 5 <= bytes.len()
}

/// Class, type and data, in the order in which they are compared (RFC 6762 8.2).
fn comparable(record: &simple_dns::ResourceRecord) -> Vec<u8> {
    let mut packet = Packet::new_reply(0);
    let mut plain = record.clone().with_cache_flush(false);
    plain.ttl = 0;
    plain.name = simple_dns::Name::new_with_labels(&[]);
    packet.answers.push(plain);
    let wire = packet.build_bytes_vec().unwrap_or_default();
    let at = |range: std::ops::Range<usize>| wire.get(range).unwrap_or_default().to_vec();
    // header, root name, type, class, TTL, length, data
    [at(15..17), at(13..15), at(23..wire.len())].concat()
}

/// Whether a record fits what is left of a message, uncompressed.
fn fits(record: &Record, room: &mut usize) -> bool {
    let name = |n: &simple_dns::Name| n.as_bytes().map(|l| l.len() + 1).sum::<usize>() + 1;
    let data = match &record.rdata {
        RData::PTR(p) => name(&p.0),
        RData::SRV(s) => name(&s.target) + 6,
        RData::TXT(t) => t.iter_raw().map(|(k, v)| k.len() + v.map_or(0, <[u8]>::len) + 2).sum(),
        RData::NSEC(n) => name(&n.next_name) + 34,
        _ => 16,
    };
    let bytes = name(&record.name) + 10 + data;
    let fits = bytes <= *room;
    *room = room.saturating_sub(bytes);
    fits
}

#[cfg(test)]
mod tests {
    use simple_dns::{Name, ResourceRecord, TYPE};

    use super::*;

    const ASKER: &str = "10.0.0.9:5353";

    fn config() -> Mdns {
        let name = String::from("Files");
        let kind = String::from("_nfs._tcp");
        let service = Advertised { name, kind, port: 2049, txt: vec![String::from("path=/")] };
        Mdns { host: None, services: vec![service] }
    }

    fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// Runs until `until`; what was said, and when.
    fn run(r: &mut Responder, from: Instant, until: Instant) -> Vec<(Duration, Message)> {
        let mut said = Vec::new();
        while let Some(at) = r.next().filter(|at| *at <= until) {
            let at = at.max(from);
            said.extend(r.poll(at).into_iter().map(|m| (at - from, m)));
        }
        said
    }

    /// One that has announced itself, two seconds after `begin`.
    fn running(begin: Instant) -> Responder {
        let mut r = Responder::new(&config(), "box", 7);
        r.set_addresses(begin, &["10.0.0.1".parse().unwrap()]);
        run(&mut r, begin, begin + s(3.0));
        assert!(r.is_running());
        r
    }

    fn ask(r: &mut Responder, now: Instant, question: (&str, TYPE), known: &[ResourceRecord]) {
        let mut packet = Packet::new_query(0);
        let (name, kind) = (Name::new(question.0).unwrap(), QTYPE::TYPE(question.1));
        packet.questions.push(Question::new(name, kind, CLASS::IN.into(), false));
        packet.answers = known.to_vec();
        r.receive(now, ASKER.parse().unwrap(), &packet.build_bytes_vec().unwrap());
    }

    // RFC 6762 8.1, 8.3
    #[test]
    fn it_probes_three_times_and_announces_twice() {
        let begin = Instant::now();
        let mut r = Responder::new(&config(), "box", 7);
        assert_eq!(r.next(), None, "nothing to say without an address");
        r.set_addresses(begin, &["10.0.0.1".parse().unwrap()]);
        let said = run(&mut r, begin, begin + s(9.0));
        let responses: Vec<bool> = said
            .iter()
            .map(|(_, m)| Packet::parse(&m.bytes).unwrap().has_flags(PacketFlag::RESPONSE))
            .collect();
        assert_eq!(responses, [false, false, false, true, true]);
        assert!(said[0].0 <= PROBE_EVERY && said[2].0 == said[0].0 + PROBE_EVERY * 2);
        assert_eq!(said[4].0, said[3].0 + ANNOUNCE_EVERY);
        let announced = Packet::parse(&said[4].1.bytes).unwrap();
        assert!(announced.answers.iter().any(|a| matches!(a.rdata, RData::SRV(_))));
    }

    // RFC 6762 6, 7.1
    #[test]
    fn it_answers_once_and_not_what_is_known() {
        let begin = Instant::now();
        let mut r = running(begin);
        let now = begin + s(10.0);
        ask(&mut r, now, ("_nfs._tcp.local", TYPE::PTR), &[]);
        let said = run(&mut r, now, now + s(1.0));
        assert_eq!(said.len(), 1);
        assert!((s(0.02)..=s(0.12)).contains(&said[0].0), "{:?}", said[0].0);
        let answer = Packet::parse(&said[0].1.bytes).unwrap();
        assert_eq!((answer.answers.len(), answer.additional_records.len()), (1, 3));
        ask(&mut r, now + s(0.5), ("_nfs._tcp.local", TYPE::PTR), &[]);
        assert!(run(&mut r, now, now + s(0.9)).is_empty(), "twice within a second");
        let known: Vec<ResourceRecord> =
            answer.answers.iter().cloned().map(ResourceRecord::into_owned).collect();
        ask(&mut r, now + s(5.0), ("_nfs._tcp.local", TYPE::PTR), &known);
        assert!(run(&mut r, now, now + s(9.0)).is_empty());
        ask(&mut r, now + s(9.0), ("other.local", TYPE::A), &[]);
        assert!(run(&mut r, now, now + s(12.0)).is_empty());
        // What it has not, it says (RFC 6762 6.1).
        ask(&mut r, now + s(12.0), ("box.local", TYPE::AAAA), &[]);
        let said = run(&mut r, now, now + s(13.0));
        let none = Packet::parse(&said[0].1.bytes).unwrap();
        assert!(matches!(none.answers[0].rdata, RData::NSEC(_)));
    }

    // RFC 6762 6.7
    #[test]
    fn one_who_asks_as_dns_does_is_answered_so() {
        let begin = Instant::now();
        let mut r = running(begin);
        let mut packet = Packet::new_query(77);
        let name = Name::new("box.local").unwrap();
        packet.questions.push(Question::new(name, TYPE::A.into(), CLASS::IN.into(), false));
        let from: SocketAddr = "10.0.0.9:40000".parse().unwrap();
        r.receive(begin + s(5.0), from, &packet.build_bytes_vec().unwrap());
        let said = r.poll(begin + s(5.0));
        let answer = Packet::parse(&said[0].bytes).unwrap();
        assert_eq!((said[0].to, answer.id(), answer.questions.len()), (Some(from), 77, 1));
        assert!(answer.answers.iter().all(|a| a.ttl <= 10 && !a.cache_flush));
    }

    // RFC 6762 9, 10.1
    #[test]
    fn a_name_that_is_taken_is_changed_and_the_end_is_told() {
        let begin = Instant::now();
        let mut r = Responder::new(&config(), "box", 7);
        r.set_addresses(begin, &["10.0.0.1".parse().unwrap()]);
        r.poll(r.next().unwrap());
        let mut packet = Packet::new_reply(0);
        let theirs = RData::A(simple_dns::rdata::A { address: 1 });
        let name = Name::new("BOX.local").unwrap();
        packet.answers.push(ResourceRecord::new(name, CLASS::IN, 120, theirs));
        let taken = packet.build_bytes_vec().unwrap();
        r.receive(begin + s(0.3), ASKER.parse().unwrap(), &taken);
        run(&mut r, begin, begin + s(5.0));
        assert_eq!((r.host().as_str(), r.is_running()), ("box-2.local", true));
        r.goodbye();
        let said = r.poll(begin + s(6.0));
        let last = Packet::parse(&said[0].bytes).unwrap();
        assert!(!last.answers.is_empty() && last.answers.iter().all(|a| a.ttl == 0));
        for noise in [&[][..], &[0; 11], &[0xff; 64], &taken[..20]] {
            running(begin).receive(begin + s(9.0), ASKER.parse().unwrap(), noise);
        }
    }
}
