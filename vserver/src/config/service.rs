//! `[[vserver.*.service]]`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::address::check_source;
use super::diagnostic::Report;
use super::interface::suggest;
use super::parse::socket_path;
use super::reader::{At, Section};
use super::vserver::{self, Own};
use super::{AnyService, Group, ProxyTarget, Service, ServiceKind};

/// Largest PUT unless the file says otherwise.
pub(super) const UPLOAD_BYTES_MAX_DEFAULT: u64 = 16 << 30;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Echo,
    Discard,
    Chargen,
    Http,
    Proxy,
}

pub(super) fn read_services(
    report: &mut Report,
    sections: Vec<Section>,
    own: &Own,
    base: &Path,
) -> Vec<Service> {
    let mut services: Vec<At<Service>> = Vec::new();
    // How many come from nearer tables than the one being read: they stand for what they overlap.
    let mut nearer = 0;
    let mut source = None;
    for s in sections {
        let whole = s.span.clone();
        if source.replace(s.source()) != Some(s.source()) {
            nearer = services.len();
        }
        let Some(found) = read_service(report, s, own, base) else { continue };
        let overlaps = |o: &&At<Service>| overlap(&o.value, &found.value);
        if services[..nearer].iter().any(|o| overlaps(&o)) {
            report.trail_hide(&whole);
            continue;
        }
        let taken = services.iter().find(overlaps);
        if let Some(other) = taken {
            let line = report.line(other.span.start);
            report.error(
                &found.span,
                format!(
                    "port {} is taken by the service at line {line}; use another port or 'address'",
                    found.value.listen.port()
                ),
            );
        }
        services.push(At::new(found.value, whole));
    }
    services.into_iter().map(|s| s.value).collect()
}

/// `[[service]]`: services of all vservers, or of a group's.
pub(super) fn read_any(
    report: &mut Report,
    sections: Vec<Section>,
    groups: &[Group],
    base: &Path,
) -> Vec<AnyService> {
    let own = Own { addresses: &[], slaac: &[], kind: vserver::Kind::All, resolves: false };
    let mut services: Vec<(AnyService, usize)> = Vec::new();
    for mut s in sections {
        let group = s.string(report, "group");
        if let Some(t) = group.as_ref().filter(|t| !groups.iter().any(|g| g.name == t.value)) {
            let names: Vec<_> = groups.iter().map(|g| g.name.as_str()).collect();
            let right = suggest(t.value, &names, "group", "gold");
            report.error(&t.span, format!("unknown group '{}'; {right}", t.value));
        }
        let group = group.map(|t| t.value.to_owned());
        let Some(found) = read_service(report, s, &own, base) else { continue };
        let same = |o: &&(AnyService, usize)| {
            o.0.group == group && o.0.service.listen.port() == found.value.listen.port()
        };
        if let Some((_, at)) = services.iter().find(same) {
            let (port, line) = (found.value.listen.port(), report.line(*at));
            report.error(
                &found.span,
                format!("port {port} is taken by the service at line {line}; use another port"),
            );
            continue;
        }
        services.push((AnyService { group, service: found.value }, found.span.start));
    }
    services.into_iter().map(|(s, _)| s).collect()
}

/// Whether both would take the same connections.
fn overlap(one: &Service, other: &Service) -> bool {
    // What a name stands for shows when it is resolved.
    if one.listen_name.is_some() || other.listen_name.is_some() {
        return one.listen.port() == other.listen.port() && one.listen_name == other.listen_name;
    }
    let (a, b) = (one.listen, other.listen);
    a.port() == b.port() && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

/// A service, and where its port stands.
fn read_service(
    report: &mut Report,
    mut s: Section,
    own: &Own,
    base: &Path,
) -> Option<At<Service>> {
    let kinds = [
        ("echo", Kind::Echo),
        ("discard", Kind::Discard),
        ("chargen", Kind::Chargen),
        ("http", Kind::Http),
        ("proxy", Kind::Proxy),
    ];
    let kind = s.choice(report, "kind", &kinds);
    if kind.is_none() && s.span_of_key("kind").is_none() {
        s.missing(report, "kind", "\"echo\", \"discard\", \"chargen\", \"http\" or \"proxy\"");
    }
    let port = s.integer(report, "port", 1..=65_535);
    let address = s.string(report, "address");
    let name = address.as_ref().filter(|t| t.value.parse::<IpAddr>().is_err());
    let name = name.filter(|t| own.takes_name(report, t.value, &t.span));
    let listen_name = name.map(|t| t.value.to_ascii_lowercase());
    let address = address.filter(|_| listen_name.is_none());
    let ip = address.as_ref().map(|t| read_listen_address(report, t, own));
    let connections = s.integer(report, "connections", 1..=1_048_576);
    let idle_s = s.integer(report, "idle_s", 0..=86_400);
    let kind = kind?.value;
    let detail = match kind {
        Kind::Echo => Some(ServiceKind::Echo),
        Kind::Discard => Some(ServiceKind::Discard),
        Kind::Chargen => Some(ServiceKind::Chargen),
        Kind::Http => read_http(report, &mut s, base),
        Kind::Proxy => read_proxy(report, &mut s, own, base),
    };
    if port.is_none() && s.span_of_key("port").is_none() {
        let usual = match kind {
            Kind::Echo => "7",
            Kind::Discard => "9",
            Kind::Chargen => "19",
            Kind::Http => "80",
            Kind::Proxy => "6379",
        };
        s.missing(report, "port", usual);
    }
    s.finish(report);
    let port = port?;
    let ip = ip.unwrap_or(Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)))?;
    let mut service = Service::new(SocketAddr::new(ip, port.value as u16), detail?);
    service.listen_name = listen_name;
    if kind == Kind::Proxy {
        // The server behind it knows how long its clients may be silent.
        service.idle_s = 0;
    }
    if let Some(v) = connections {
        service.connections = v.value as usize;
    }
    if let Some(v) = idle_s {
        service.idle_s = v.value as u32;
    }
    Some(At::new(service, port.span))
}

fn read_listen_address(report: &mut Report, t: &At<&str>, own: &Own) -> Option<IpAddr> {
    let Ok(ip) = t.value.parse::<IpAddr>() else {
        report.error(
            &t.span,
            format!("'{}' is no address; use one of {}, or remove 'address'", t.value, own.list()),
        );
        return None;
    };
    if !ip.is_unspecified() {
        check_source(report, ip, &t.span, own);
    }
    Some(ip)
}

fn read_http(report: &mut Report, s: &mut Section, base: &Path) -> Option<ServiceKind> {
    let root = s.string(report, "root").map(|t| read_directory(report, "root", &t, base));
    if root.is_none() && s.span_of_key("root").is_none() {
        s.missing(report, "root", "\"<directory to serve>\"");
    }
    let upload = s.string(report, "upload").map(|t| read_directory(report, "upload", &t, base));
    let max = s.integer(report, "upload_bytes_max", 1..=(1 << 62));
    if let Some(v) = max.as_ref().filter(|_| upload.is_none()) {
        report.error(&v.span, "'upload_bytes_max' without 'upload'; add the directory for uploads");
    }
    let upload_bytes_max = max.map_or(UPLOAD_BYTES_MAX_DEFAULT, |v| v.value);
    Some(ServiceKind::Http { root: root??, upload: upload.flatten(), upload_bytes_max })
}

fn read_directory(report: &mut Report, key: &str, t: &At<&str>, base: &Path) -> Option<PathBuf> {
    let path = base.join(t.value);
    if report.elsewhere {
        return Some(path);
    }
    match std::fs::metadata(&path) {
        Ok(m) if m.is_dir() => return Some(path),
        Ok(_) => report.error(
            &t.span,
            format!("'{}' is no directory; '{key}' needs a directory", path.display()),
        ),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => report.error(
            &t.span,
            format!("directory '{}' does not exist; create it or change '{key}'", path.display()),
        ),
        Err(e) => report.error(
            &t.span,
            format!(
                "directory '{}' cannot be used: {e}; change its access or '{key}'",
                path.display()
            ),
        ),
    }
    None
}

fn read_proxy(report: &mut Report, s: &mut Section, own: &Own, base: &Path) -> Option<ServiceKind> {
    let Some(t) = s.string(report, "to") else {
        if s.span_of_key("to").is_none() {
            s.missing(report, "to", "\"127.0.0.1:6379\" or \"unix:/run/server.sock\"");
        }
        return None;
    };
    if let Some(path) = t.value.strip_prefix("unix:") {
        let path = At::new(path, report.span_of(path, &t.span));
        let path = socket_path(report, "to", &path, base)?;
        return Some(ServiceKind::Proxy(ProxyTarget::Unix(path)));
    }
    if let Some((name, port)) = t.value.rsplit_once(':')
        && name.parse::<IpAddr>().is_err()
        && let Some(port) = port.parse::<u16>().ok().filter(|p| *p != 0)
        && own.takes_name(report, name, &t.span)
    {
        return Some(ServiceKind::Proxy(ProxyTarget::Named(name.to_ascii_lowercase(), port)));
    }
    match t.value.parse::<SocketAddr>() {
        Ok(a) if a.port() != 0 && !a.ip().is_unspecified() => {
            Some(ServiceKind::Proxy(ProxyTarget::Tcp(a)))
        }
        _ => {
            report.error(
                &t.span,
                format!(
                    "'{}' is no target; write \"127.0.0.1:6379\", \"[::1]:6379\" or \"unix:/run/server.sock\"",
                    t.value
                ),
            );
            None
        }
    }
}
