//! The records of a responder, and which of them answer a question. Sans-IO.

use std::net::IpAddr;

use simple_dns::rdata::{A, AAAA, NSEC, PTR, RData, SRV, TXT};
use simple_dns::{CLASS, CharacterString, Label, Name, QTYPE, Question, ResourceRecord, TYPE};

use crate::config::Advertised;
use crate::resolver::message::reverse_name;

pub(super) type Record = ResourceRecord<'static>;

/// Records with the host's name or address hold so long (RFC 6762 10).
const TTL_HOST: u32 = 120;
/// Others.
const TTL_OTHER: u32 = 4500;

fn name<'a>(labels: impl IntoIterator<Item = &'a str>) -> Name<'static> {
    let labels: Vec<Label<'static>> =
        labels.into_iter().map(|l| Label::new_unchecked(l.as_bytes().to_vec())).collect();
    Name::new_with_labels(&labels)
}

/// What a host says of itself on one link.
#[derive(Clone, Debug)]
pub(super) struct Records {
    all: Vec<Record>,
    host: Name<'static>,
    /// Names that nobody else on the link may have.
    pub(super) unique: Vec<Name<'static>>,
}

impl Records {
    /// `host` is a label; of each service its label too, which may differ from the configured name.
    pub(super) fn new(
        host: &str,
        services: &[(Advertised, String)],
        addresses: &[IpAddr],
    ) -> Records {
        let host_name = name([host, "local"]);
        let mut all: Vec<Record> = Vec::new();
        let mut unique = vec![host_name.clone()];
        let mut put = |name: &Name<'static>, flush: bool, ttl: u32, data: RData<'static>| {
            let record = ResourceRecord::new(name.clone(), CLASS::IN, ttl, data);
            let record = record.with_cache_flush(flush);
            if !all.contains(&record) {
                all.push(record);
            }
        };
        for address in addresses {
            let data = match address {
                IpAddr::V4(a) => RData::A(A { address: (*a).into() }),
                IpAddr::V6(a) => RData::AAAA(AAAA { address: (*a).into() }),
            };
            put(&host_name, true, TTL_HOST, data);
            let reverse = reverse_name(*address);
            put(&name(reverse.split('.')), true, TTL_HOST, RData::PTR(PTR(host_name.clone())));
        }
        for (service, label) in services {
            let kind = || service.kind.split('.').chain(["local"]);
            let (kind_name, instance) =
                (name(kind()), name([label.as_str()].into_iter().chain(kind())));
            let types = name(["_services", "_dns-sd", "_udp", "local"]);
            put(&types, false, TTL_OTHER, RData::PTR(PTR(kind_name.clone())));
            put(&kind_name, false, TTL_OTHER, RData::PTR(PTR(instance.clone())));
            let target = host_name.clone();
            let srv = SRV { priority: 0, weight: 0, port: service.port, target };
            put(&instance, true, TTL_HOST, RData::SRV(srv));
            put(&instance, true, TTL_OTHER, RData::TXT(texts(&service.txt)));
            unique.push(instance);
        }
        Records { all, host: host_name, unique }
    }

    pub(super) fn all(&self) -> &[Record] {
        &self.all
    }

    /// Whether the name is one that nobody else may have.
    pub(super) fn is_unique(&self, name: &Name) -> bool {
        self.unique.iter().any(|u| u == name)
    }

    /// What answers a question.
    pub(super) fn answers(&self, question: &Question) -> Vec<Record> {
        let own = self.all.iter().filter(|r| r.name == question.qname);
        let found: Vec<Record> =
            own.clone().filter(|r| r.match_qtype(question.qtype)).cloned().collect();
        if found.is_empty() && self.is_unique(&question.qname) {
            // Who is the only one of the name says what it has not (RFC 6762 6.1).
            let types: Vec<TYPE> = own.map(|r| r.rdata.type_code()).collect();
            return vec![nothing_else(&question.qname, &types)];
        }
        found
    }

    /// What an asker wants next (RFC 6763 12).
    pub(super) fn additional(&self, answers: &[Record]) -> Vec<Record> {
        let mut more: Vec<Record> = Vec::new();
        let mut host = false;
        for answer in answers {
            if let RData::PTR(instance) = &answer.rdata {
                more.extend(self.all.iter().filter(|r| r.name == instance.0).cloned());
            }
        }
        for record in answers.iter().chain(&more) {
            host |= matches!(record.rdata, RData::SRV(_));
        }
        if host {
            let of_host = self.all.iter().filter(|r| r.name == self.host);
            more.extend(of_host.filter(|r| r.match_qtype(QTYPE::ANY)).cloned());
        }
        more.retain(|r| !answers.contains(r));
        let mut once: Vec<Record> = Vec::new();
        for r in more {
            if !once.contains(&r) {
                once.push(r);
            }
        }
        once
    }
}

/// Says that a name has no other types than these.
fn nothing_else(name: &Name, types: &[TYPE]) -> Record {
    let name = name.clone().into_owned();
    let nsec = NSEC::from_types(name.clone(), types).into_owned();
    ResourceRecord::new(name, CLASS::IN, TTL_HOST, RData::NSEC(nsec)).with_cache_flush(true)
}

/// A text record has at least one string (RFC 6763 6.1).
fn texts(all: &[String]) -> TXT<'static> {
    let strings = all.iter().filter_map(|t| CharacterString::new(t.as_bytes()).ok());
    let mut txt = TXT::new();
    let mut any = false;
    for s in strings {
        txt.add_char_string(s.into_owned());
        any = true;
    }
    if !any && let Ok(empty) = CharacterString::new(b"") {
        txt.add_char_string(empty.into_owned());
    }
    txt
}
