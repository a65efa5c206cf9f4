//! `mdns = { ... }` of a vserver: what it tells the links of its mgmt aliases.

use super::diagnostic::Report;
use super::reader::Section;

/// Most services of one vserver.
const SERVICES_MAX: usize = 32;
/// Most texts of one service.
const TEXTS_MAX: usize = 16;
/// A label, and a text, at most.
const LABEL_BYTES_MAX: usize = 63;
const TEXT_BYTES_MAX: usize = 255;

/// What is told by multicast DNS (RFC 6762, 6763).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mdns {
    /// Name of the host, without `.local`; `None`: the vserver's.
    pub host: Option<String>,
    /// Services that browsers find.
    pub services: Vec<Advertised>,
}

/// A service that is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertised {
    /// Name for people.
    pub name: String,
    /// `_nfs._tcp`.
    pub kind: String,
    /// Its port.
    pub port: u16,
    /// `key=value`.
    pub txt: Vec<String>,
}

/// Reads an `mdns` table.
pub(super) fn read_mdns(report: &mut Report, mut s: Section) -> Mdns {
    let host = s.string(report, "host").map(|t| {
        let good = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
        if t.value.is_empty() || t.value.len() > LABEL_BYTES_MAX || !t.value.bytes().all(good) {
            let text = format!("'{}' is no name of a host; use letters, digits and '-'", t.value);
            report.error(&t.span, text);
        }
        t.value.to_owned()
    });
    let mut services: Vec<Advertised> = Vec::new();
    for table in s.tables(report, "services") {
        let span = table.span.clone();
        let Some(found) = read_service(report, table) else { continue };
        let same =
            |o: &Advertised| o.kind == found.kind && o.name.eq_ignore_ascii_case(&found.name);
        if services.iter().any(same) {
            let text = format!("a second '{}' of {}; use another name", found.name, found.kind);
            report.error(&span, text);
        } else if services.len() == SERVICES_MAX {
            report.error(&span, format!("more than {SERVICES_MAX} services; use fewer"));
        }
        services.push(found);
    }
    s.finish(report);
    Mdns { host, services }
}

fn read_service(report: &mut Report, mut s: Section) -> Option<Advertised> {
    let name = s.string(report, "name");
    let kind = s.string(report, "type");
    let port = s.integer(report, "port", 1..=65_535);
    let txt = s.strings(report, "txt");
    for (key, there, example) in [
        ("name", name.is_some(), "\"Files of the box\""),
        ("type", kind.is_some(), "\"_nfs._tcp\""),
        ("port", port.is_some(), "2049"),
    ] {
        if !there && s.span_of_key(key).is_none() {
            s.missing(report, key, example);
        }
    }
    if let Some(t) = &name {
        let bad = t.value.is_empty() || t.value.len() > LABEL_BYTES_MAX;
        if bad || t.value.contains(|c: char| c.is_ascii_control()) {
            report.error(&t.span, "a service's name has 1 to 63 bytes and no control characters");
        }
    }
    if let Some(t) = kind.as_ref().filter(|t| !is_service_type(t.value)) {
        let text = format!("'{}' is no type of a service; write one like _nfs._tcp", t.value);
        report.error(&t.span, text);
    }
    if let Some(t) = txt.get(TEXTS_MAX).or(txt.iter().find(|t| t.value.len() > TEXT_BYTES_MAX)) {
        let text = format!("'txt' has at most {TEXTS_MAX} texts of {TEXT_BYTES_MAX} bytes");
        report.error(&t.span, text);
    }
    s.finish(report);
    Some(Advertised {
        name: name?.value.to_owned(),
        kind: kind?.value.to_ascii_lowercase(),
        port: port?.value as u16,
        txt: txt.into_iter().map(|t| t.value.to_owned()).collect(),
    })
}

/// RFC 6335 5.1: `_` and up to 15 letters, digits and `-`, then the transport.
fn is_service_type(text: &str) -> bool {
    let Some((service, transport)) = text.split_once('.') else { return false };
    let Some(name) = service.strip_prefix('_') else { return false };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    (1..=15).contains(&name.len())
        && name.bytes().all(plain)
        && (transport.eq_ignore_ascii_case("_tcp") || transport.eq_ignore_ascii_case("_udp"))
}
