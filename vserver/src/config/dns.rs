//! `dns = { ... }` of a vserver: its resolver.

use std::net::{IpAddr, SocketAddr};

use super::diagnostic::Report;
use super::reader::{At, Section};

/// Most servers that are asked, and names of the search list.
const SERVERS_MAX: usize = 8;
const SEARCH_MAX: usize = 16;
/// The longest name in text form.
const NAME_BYTES_MAX: usize = 253;

/// How a vserver turns names into addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Servers, asked in this order; empty: none are known, and nothing is resolved.
    pub servers: Vec<SocketAddr>,
    /// Appended to names with fewer dots than `ndots`, in turn, before the name is tried alone.
    pub search: Vec<String>,
    /// Dots from which a name is tried alone first.
    pub ndots: usize,
    /// Milliseconds that a server has for its answer; doubled in each round.
    pub timeout_ms: u32,
    /// Rounds over all servers.
    pub attempts: u32,
    /// Answers kept, positive and negative together.
    pub cache: usize,
    /// Mix upper and lower case into questions, and want it back in answers, against forged ones.
    pub mixed_case: bool,
}

impl Default for Dns {
    fn default() -> Dns {
        Dns {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout_ms: 2000,
            attempts: 2,
            cache: 1024,
            mixed_case: true,
        }
    }
}

/// Reads a `dns` table.
pub(super) fn read_dns(report: &mut Report, mut s: Section) -> Dns {
    let mut dns = Dns::default();
    for t in s.strings(report, "servers") {
        let Some(server) = read_server(report, &t) else { continue };
        if dns.servers.contains(&server) {
            report.error(&t.span, format!("server {server} twice in 'servers'; name it once"));
        } else if dns.servers.len() == SERVERS_MAX {
            report.error(&t.span, format!("more than {SERVERS_MAX} servers; use fewer"));
        }
        dns.servers.push(server);
    }
    dns.search = read_search(report, &mut s);
    if let Some(v) = s.integer(report, "ndots", 0..=15) {
        dns.ndots = v.value as usize;
    } else {
        s.default(report, "ndots", &dns.ndots);
    }
    if let Some(v) = s.integer(report, "timeout_ms", 10..=60_000) {
        dns.timeout_ms = v.value as u32;
    } else {
        s.default(report, "timeout_ms", &dns.timeout_ms);
    }
    if let Some(v) = s.integer(report, "attempts", 1..=10) {
        dns.attempts = v.value as u32;
    } else {
        s.default(report, "attempts", &dns.attempts);
    }
    if let Some(v) = s.integer(report, "cache", 0..=1_048_576) {
        dns.cache = v.value as usize;
    } else {
        s.default(report, "cache", &dns.cache);
    }
    if let Some(v) = s.boolean(report, "mixed_case") {
        dns.mixed_case = v.value;
    } else {
        s.default(report, "mixed_case", &dns.mixed_case);
    }
    s.finish(report);
    dns
}

/// Servers are literals: without one no name could be resolved.
pub(super) fn read_server(report: &mut Report, t: &At<&str>) -> Option<SocketAddr> {
    let server = match (t.value.parse::<IpAddr>(), t.value.parse::<SocketAddr>()) {
        (Ok(ip), _) => Some(SocketAddr::new(ip, 53)),
        (_, Ok(a)) => Some(a),
        _ => None,
    };
    let good =
        server.filter(|a| a.port() != 0 && !a.ip().is_unspecified() && !a.ip().is_multicast());
    if good.is_none() {
        let text = format!(
            "'{}' is no server; write its address like 192.0.2.53, 192.0.2.53:5353 or \
             [2001:db8::53]:5353 (a name cannot be resolved without one)",
            t.value
        );
        report.error(&t.span, text);
    }
    good
}

/// `search = [...]`.
pub(super) fn read_search(report: &mut Report, s: &mut Section) -> Vec<String> {
    let mut search = Vec::new();
    for t in s.strings(report, "search") {
        if !is_domain_name(t.value) {
            report
                .error(&t.span, format!("'{}' is no domain; write one like example.net", t.value));
        } else if search.len() == SEARCH_MAX {
            report.error(&t.span, format!("more than {SEARCH_MAX} domains; use fewer"));
        }
        search.push(t.value.trim_end_matches('.').to_ascii_lowercase());
    }
    search
}

/// Whether text is a name that can be asked for: labels of letters, digits, `-` and `_`, and no
/// address.
pub(crate) fn is_domain_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    // The last label of a name is not a number, so that 10.0.0 and 300.1.1.1 are mistakes.
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= NAME_BYTES_MAX
        && text.split('.').all(label)
        && !last.bytes().all(|b| b.is_ascii_digit())
}
