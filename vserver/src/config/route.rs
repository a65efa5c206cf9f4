//! `routes` of a vserver.

use std::net::IpAddr;
use std::ops::Range;

use weft_stack::ip::address::Cidr;

use super::address::check_source;
use super::diagnostic::Report;
use super::interface::{Interfaces, find_alias};
use super::reader::{At, Section};
use super::vserver::{Kind, Own};
use super::{NamedRoute, RouteSpec};

/// A route as far as the file knows it.
enum Read {
    /// The route, and where its gateway stands.
    Literal(RouteSpec, Range<usize>),
    /// Its gateway has a name.
    Named(NamedRoute),
}

/// The routes of a vserver.
#[derive(Default)]
pub(super) struct Routes {
    pub(super) literal: Vec<RouteSpec>,
    /// Where the gateways of those stand.
    pub(super) via_spans: Vec<Range<usize>>,
    pub(super) named: Vec<NamedRoute>,
}

/// The routes of a vserver, and where their gateways stand. An inherited one to a network that a
/// nearer one leads to is left out.
pub(super) fn read_routes(
    report: &mut Report,
    s: &mut Section,
    own: &Own,
    interfaces: &Interfaces,
) -> Routes {
    let mut all = Routes::default();
    // How many come from nearer tables than the one being read.
    let mut nearer = 0;
    let mut source = None;
    for r in s.tables(report, "routes") {
        if source.replace(r.source()) != Some(r.source()) {
            nearer = all.literal.len();
        }
        let before = all.literal.split_at(nearer);
        match read_route(report, r, own, interfaces, before) {
            Some(Read::Literal(route, span)) => {
                all.literal.push(route);
                all.via_spans.push(span);
            }
            // A nearer table's route to the same network stands for it.
            Some(Read::Named(route)) => {
                let same = |n: &NamedRoute| {
                    (n.to, n.alias, n.metric) == (route.to, route.alias, route.metric)
                };
                if !all.named.iter().any(same) {
                    all.named.push(route);
                }
            }
            None => {}
        }
    }
    all
}

fn read_route(
    report: &mut Report,
    mut s: Section,
    own: &Own,
    interfaces: &Interfaces,
    (nearer, before): (&[RouteSpec], &[RouteSpec]),
) -> Option<Read> {
    let via_text = s.string(report, "via");
    let literal = |t: &At<&str>| t.value.parse::<IpAddr>().is_ok();
    if let Some(t) = via_text.as_ref().filter(|t| !literal(t))
        && own.takes_name(report, t.value, &t.span)
    {
        return read_named(report, s, t, own, interfaces);
    }
    let via = via_text.as_ref().map(|t| read_ip(report, t));
    let to_text = s.string(report, "to");
    if to_text.is_none() && s.span_of_key("to").is_none() {
        report.error(&s.span, "a route has no 'to'; add to = \"default\" or a network");
    }
    let to = to_text.as_ref().map(|t| read_network(report, t, via));
    let alias_text = s.string(report, "alias");
    let alias = alias_text.as_ref().map(|t| find_alias(report, t, t.value, interfaces));
    let src_text = s.string(report, "src");
    let src = src_text.as_ref().map(|t| read_ip(report, t));
    let metric = s.integer(report, "metric", 0..=u64::from(u32::MAX)).map_or(0, |v| v.value as u32);
    let whole = s.span.clone();
    s.finish(report);
    // A part that is there but wrong has been reported.
    let (to, via, alias, src) = (to??, lift(via)?, lift(alias)?, lift(src)?);
    if nearer.iter().any(|r| r.to == to) {
        report.trail_hide(&whole);
        return None;
    }
    let via_span = via_text.map_or(whole.clone(), |t| t.span);
    if let Some(via) = via.filter(|v| v.is_ipv4() != to.addr.is_ipv4()) {
        report.error(
            &via_span,
            format!("gateway {via} and network {to} are of different families; use one family"),
        );
        return None;
    }
    let alias = route_alias(report, own, interfaces, via, alias, &via_span)?;
    if let (Some(src), Some(text)) = (src, src_text) {
        check_source(report, src, &text.span, own);
    }
    if before.iter().any(|r| r.to == to && r.alias == alias && r.metric == metric) {
        report.error(
            &whole,
            format!(
                "a second route to {to} over '{}' with metric {metric}; give it another metric",
                interfaces.name(alias)
            ),
        );
        return None;
    }
    Some(Read::Literal(RouteSpec { to, via, alias, src, metric }, via_span))
}

/// A route whose gateway has a name: nothing tells the alias but the file.
fn read_named(
    report: &mut Report,
    mut s: Section,
    via: &At<&str>,
    own: &Own,
    interfaces: &Interfaces,
) -> Option<Read> {
    let to_text = s.string(report, "to");
    if to_text.is_none() && s.span_of_key("to").is_none() {
        report.error(&s.span, "a route has no 'to'; add to = \"default\" or a network");
    }
    let to = match to_text.as_ref() {
        Some(t) if t.value == "default" => Some(None),
        Some(t) => read_network(report, t, None).map(Some),
        None => None,
    };
    let alias = s.string(report, "alias");
    if alias.is_none() && s.span_of_key("alias").is_none() {
        report.error(
            &via.span,
            format!(
                "gateway '{}' is a name, which is on no network yet; add alias = \"{}\"",
                via.value,
                interfaces.example()
            ),
        );
    }
    let alias = alias.and_then(|t| find_alias(report, &t, t.value, interfaces));
    let src_text = s.string(report, "src");
    let src = src_text.as_ref().map(|t| read_ip(report, t));
    if let (Some(Some(src)), Some(text)) = (src, src_text) {
        check_source(report, src, &text.span, own);
    }
    let metric = s.integer(report, "metric", 0..=u64::from(u32::MAX)).map_or(0, |v| v.value as u32);
    s.finish(report);
    let (to, alias, src) = (to?, alias?, lift(src)?);
    Some(Read::Named(NamedRoute { to, via: via.value.to_ascii_lowercase(), alias, src, metric }))
}

/// `Some(None)`: not there; `None`: there and wrong.
#[allow(clippy::option_option)]
fn lift<T>(v: Option<Option<T>>) -> Option<Option<T>> {
    match v {
        None => Some(None),
        Some(None) => None,
        Some(Some(t)) => Some(Some(t)),
    }
}

/// Out of which alias a route leads.
fn route_alias(
    report: &mut Report,
    own: &Own,
    interfaces: &Interfaces,
    via: Option<IpAddr>,
    alias: Option<usize>,
    span: &Range<usize>,
) -> Option<usize> {
    let Some(via) = via else {
        if alias.is_none() {
            report.error(
                span,
                "a route has neither 'via' nor 'alias'; name the gateway or the alias",
            );
        }
        return alias;
    };
    if via.is_unspecified() || via.is_multicast() || via.is_loopback() {
        report.error(span, format!("{via} is no host's address; use the router's address"));
        return None;
    }
    if own.kind == Kind::Group {
        return None;
    }
    let mut on: Vec<usize> = own
        .addresses
        .iter()
        .filter(|(a, c)| alias.is_none_or(|want| want == *a) && c.contains(via))
        .map(|(a, _)| *a)
        .collect();
    on.dedup();
    let link_local = matches!(via, IpAddr::V6(v) if v.is_unicast_link_local());
    if link_local && alias.is_none() {
        report.error(
            span,
            format!("gateway {via} is on every link; add alias = \"{}\"", interfaces.example()),
        );
        return None;
    }
    if let Some(a) = alias
        && (link_local || own.slaac.contains(&a) || interfaces.is_tun(a))
    {
        return alias;
    }
    if let [one] = on[..] {
        return Some(one);
    }
    let networks: Vec<_> = own.addresses.iter().map(|(_, c)| c.network().to_string()).collect();
    if on.is_empty() {
        let right = match networks.as_slice() {
            [] => String::from("name an 'alias' with 'slaac', or add an address of its network"),
            some => {
                format!("use a gateway in {}, or add an address of its network", some.join(", "))
            }
        };
        report.error(span, format!("gateway {via} is on no network of the vserver; {right}"));
    } else {
        let names: Vec<_> = on.iter().map(|a| interfaces.name(*a)).collect();
        report.error(
            span,
            format!(
                "gateway {via} is on networks of {}; add alias = \"{}\"",
                names.join(" and "),
                names[0]
            ),
        );
    }
    None
}

pub(super) fn read_ip(report: &mut Report, t: &At<&str>) -> Option<IpAddr> {
    let found = t.value.parse().ok();
    if found.is_none() {
        report.error(
            &t.span,
            format!("'{}' is no address; write one like 192.0.2.1 or 2001:db8::1", t.value),
        );
    }
    found
}

/// `via` as for [`lift`].
#[allow(clippy::option_option)]
pub(super) fn read_network(
    report: &mut Report,
    t: &At<&str>,
    via: Option<Option<IpAddr>>,
) -> Option<Cidr> {
    if t.value == "default" {
        let Some(via) = via else {
            report.error(
                &t.span,
                "\"default\" without 'via' could be IPv4 or IPv6; write \"0.0.0.0/0\" or \"::/0\"",
            );
            return None;
        };
        let any = if via?.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        return any.parse().ok();
    }
    let cidr = match t.value.parse::<Cidr>() {
        Ok(c) => c,
        Err(e) => {
            report.error(&t.span, format!("{e}; write \"default\" or a network like 10.1.0.0/16"));
            return None;
        }
    };
    if cidr.network() != cidr {
        report
            .error(&t.span, format!("{cidr} has bits behind its prefix; write {}", cidr.network()));
        return None;
    }
    Some(cidr)
}
