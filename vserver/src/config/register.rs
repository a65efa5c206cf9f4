//! `register = { ... }` of a vserver: which names its addresses get in DNS.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::diagnostic::Report;
use super::dns::{is_domain_name, read_server};
use super::reader::{At, Section};

/// Most names of a vserver.
const NAMES_MAX: usize = 64;
/// How long records hold unless the file says otherwise.
pub(super) const TTL_S_DEFAULT: u32 = 300;

/// What of a vserver is registered in DNS (RFC 2136).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// The zone of the names.
    pub zone: String,
    /// Names in the zone, complete; empty: the vserver's own.
    pub names: Vec<RegisteredName>,
    /// Zones of reverse names; an address in none of them gets none.
    pub reverse: Vec<String>,
    /// The zones' primary server; `None`: the first DNS server.
    pub server: Option<SocketAddr>,
    /// File with the key that signs updates (RFC 8945); `None`: unsigned.
    pub key: Option<PathBuf>,
    /// Seconds that the records hold.
    pub ttl_s: u32,
}

/// A name, and for which addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredName {
    /// Complete, in lower case.
    pub name: String,
    /// The addresses it stands for; empty: all of the vserver's.
    pub addresses: Vec<IpAddr>,
}

impl Register {
    /// The vserver's own name in a zone.
    pub fn own_name(&self, vserver: &str) -> RegisteredName {
        // Host names have no '_' (RFC 1123 2.1).
        let name = format!("{}.{}", vserver.replace('_', "-"), self.zone);
        RegisteredName { name, addresses: Vec::new() }
    }
}

/// Reads a `register` table.
pub(super) fn read_register(report: &mut Report, mut s: Section, base: &Path) -> Option<Register> {
    let zone = s.string(report, "zone");
    if zone.is_none() && s.span_of_key("zone").is_none() {
        s.missing(report, "zone", "\"example.net\"");
    }
    let zone = zone.and_then(|t| read_zone(report, &t));
    let mut names = Vec::new();
    for t in s.strings(report, "names") {
        let found = read_name(report, &t, zone.as_deref());
        if names.len() == NAMES_MAX {
            report.error(&t.span, format!("more than {NAMES_MAX} names; use fewer"));
        }
        names.extend(found);
    }
    let reverse = s.strings(report, "reverse");
    let reverse: Vec<String> = reverse.iter().filter_map(|t| read_reverse(report, t)).collect();
    let server = s.string(report, "server").and_then(|t| read_server(report, &t));
    let key = s.string(report, "key").and_then(|t| read_key_path(report, &t, base));
    let ttl_s = s.integer(report, "ttl_s", 0..=604_800);
    s.finish(report);
    let ttl_s = ttl_s.map_or(TTL_S_DEFAULT, |v| v.value as u32);
    Some(Register { zone: zone?, names, reverse, server, key, ttl_s })
}

fn read_zone(report: &mut Report, t: &At<&str>) -> Option<String> {
    if !is_domain_name(t.value) {
        report.error(&t.span, format!("'{}' is no zone; write one like example.net", t.value));
        return None;
    }
    Some(t.value.trim_end_matches('.').to_ascii_lowercase())
}

fn read_reverse(report: &mut Report, t: &At<&str>) -> Option<String> {
    let zone = read_zone(report, t)?;
    if !zone.ends_with("in-addr.arpa") && !zone.ends_with("ip6.arpa") {
        let text = format!(
            "'{}' is no zone of reverse names; write one like 2.0.192.in-addr.arpa",
            t.value
        );
        report.error(&t.span, text);
    }
    Some(zone)
}

/// `"name"` or `"name address ..."`; a name without the zone is one in it.
fn read_name(report: &mut Report, t: &At<&str>, zone: Option<&str>) -> Option<RegisteredName> {
    let mut words = t.value.split_whitespace();
    let name = words.next().unwrap_or_default();
    let addresses: Option<Vec<IpAddr>> = words.map(|w| w.parse().ok()).collect();
    let (true, Some(addresses)) = (is_domain_name(name), addresses) else {
        let text = format!("'{}' is no name; write \"files\" or \"files 192.0.2.1\"", t.value);
        report.error(&t.span, text);
        return None;
    };
    let zone = zone?;
    let lower = name.trim_end_matches('.').to_ascii_lowercase();
    let inside = lower == zone || lower.ends_with(&format!(".{zone}"));
    let name = if inside { lower } else { format!("{lower}.{zone}") };
    Some(RegisteredName { name, addresses })
}

/// A key that others can read is none.
pub(super) fn read_key_path(report: &mut Report, t: &At<&str>, base: &Path) -> Option<PathBuf> {
    let path = base.join(t.value);
    if report.elsewhere {
        return Some(path);
    }
    match std::fs::metadata(&path) {
        Ok(m) if m.permissions().mode() & 0o027 != 0 => {
            let mode = m.permissions().mode() & 0o777;
            let text = format!(
                "key file '{}' has mode {mode:o}, so others can read or change it; chmod 600",
                path.display()
            );
            report.error(&t.span, text);
            None
        }
        Ok(_) => Some(path),
        Err(e) => {
            report.error(&t.span, format!("key file '{}': {e}", path.display()));
            None
        }
    }
}
