//! `[vserver.*]` as a file has it.

use std::net::IpAddr;
use std::path::PathBuf;

use weft_stack::ip::address::Cidr;

use super::super::{
    Advertised, Connect, Dns, HostConfig, Identity, Mdns, ProxyTarget, Register, RegisteredName,
    Service, ServiceKind, Shim, ShimUdp, Vserver, connect::form_word, dhcp, register, rule,
    service, shim,
};
use std::ops::RangeInclusive;
use std::time::Duration;

use weft_shim::connect::{PolicyTable, Protocol, Rule, Treatment};

use super::access::access_rule;
use super::qos::write_qos;
use super::route::{named_route, route};
use super::stack::{write_limits, write_tcp};
use super::{Writer, path, quoted, texts};

pub(super) fn write_vserver(w: &mut Writer, v: &Vserver, config: &HostConfig) {
    let Vserver {
        name: _,
        spelled,
        identity,
        addresses,
        slaac,
        dhcp,
        acd,
        // Stands with the aliases.
        alias_conflicts: _,
        routes,
        named_routes,
        tables,
        rules,
        neighbours,
        forwarding,
        limits,
        tcp,
        access,
        services,
        dns,
        connect,
        register,
        mdns,
        shim,
        qos,
        table: _,
        group,
        roles,
        settings: _,
    } = v;
    let alias = |a: &usize| config.aliases[*a].name.as_str();
    w.table(&format!("[vserver.{spelled}]"));
    w.optional("group", group.map(|g| quoted(&config.groups[g].name)).as_ref());
    w.list("roles", &texts(roles));
    write_identity(w, identity);
    let addresses: Vec<String> =
        addresses.iter().map(|(a, c)| quoted(&format!("{} {c}", alias(a)))).collect();
    if addresses.is_empty() && slaac.is_empty() && dhcp.is_empty() {
        w.value("addresses", "[]");
    }
    w.list("addresses", &addresses);
    w.list("slaac", &slaac.iter().map(|a| quoted(alias(a))).collect::<Vec<_>>());
    w.list(
        "dhcp",
        &dhcp.iter().map(|c| dhcp::export_client(c, alias(&c.alias))).collect::<Vec<_>>(),
    );
    w.optional("acd", acd.map(|a| quoted(dhcp::acd_name(a))).as_ref());
    w.unless("forwarding", forwarding, &false);
    let literal = routes.iter().map(|r| route(r, alias(&r.alias)));
    let named = named_routes.iter().map(|r| named_route(r, alias(&r.alias)));
    w.list("routes", &literal.chain(named).collect::<Vec<_>>());
    w.list("access", &access.iter().map(access_rule).collect::<Vec<_>>());
    w.list("tables", &tables.iter().map(|t| quoted(t)).collect::<Vec<_>>());
    w.list("rules", &rules.iter().map(|r| rule::text(r, alias)).collect::<Vec<_>>());
    w.optional("neighbours", neighbours.as_ref().map(|n| quoted(n)).as_ref());
    write_dns(w, spelled, dns);
    write_connect(w, spelled, connect);
    write_register(w, spelled, register.as_ref());
    write_mdns(w, spelled, mdns.as_ref());
    write_shim(w, spelled, shim.as_ref());
    write_qos(w, spelled, qos, &config.qos_groups);
    write_limits(w, spelled, limits);
    write_tcp(w, spelled, tcp);
    for s in services {
        w.table(&format!("[[vserver.{spelled}.service]]"));
        write_service(w, s);
    }
}

fn write_identity(w: &mut Writer, identity: &Identity) {
    match identity {
        Identity::Vserver if !w.all => {}
        Identity::Vserver => w.value("identity", quoted("vserver")),
        Identity::Node => w.value("identity", quoted("node")),
        Identity::Kind(kind) => w.value("identity", quoted(&format!("kind {kind}"))),
    }
}

fn write_dns(w: &mut Writer, vserver: &str, dns: &Dns) {
    let default = Dns::default();
    if !w.all && *dns == default {
        return;
    }
    let Dns { servers, search, ndots, timeout_ms, attempts, cache, mixed_case } = dns;
    w.table(&format!("[vserver.{vserver}.dns]"));
    w.list("servers", &texts(servers));
    w.list("search", &texts(search));
    w.unless("ndots", ndots, &default.ndots);
    w.unless("timeout_ms", timeout_ms, &default.timeout_ms);
    w.unless("attempts", attempts, &default.attempts);
    w.unless("cache", cache, &default.cache);
    w.unless("mixed_case", mixed_case, &default.mixed_case);
}

fn write_connect(w: &mut Writer, vserver: &str, connect: &Connect) {
    let defaults = Connect::default();
    if !w.all && *connect == defaults {
        return;
    }
    let Connect { policy: PolicyTable { rules, default }, history, policy_table } = connect;
    w.table(&format!("[vserver.{vserver}.connect]"));
    w.unless("form", &quoted(form_word(default.form)), &quoted("off"));
    write_treatment(w, default, &defaults.policy.default);
    w.unless("history", history, &defaults.history);
    w.list("policy_table", &texts(policy_table));
    for Rule { class, protocol, ports, to, treatment } in rules {
        w.table(&format!("[[vserver.{vserver}.connect.rules]]"));
        w.optional("class", class.as_ref().map(|c| quoted(c)).as_ref());
        let word = |p: &Protocol| if *p == Protocol::Tcp { "tcp" } else { "udp" };
        w.optional("protocol", protocol.as_ref().map(|p| quoted(word(p))).as_ref());
        let range = |p: &RangeInclusive<u16>| quoted(&format!("{}-{}", p.start(), p.end()));
        w.optional("ports", ports.as_ref().map(range).as_ref());
        w.optional("to", to.map(|t| quoted(&t.to_string())).as_ref());
        w.value("form", quoted(form_word(treatment.form)));
        write_treatment(w, treatment, default);
    }
}

/// What differs from the treatment that it begins with.
fn write_treatment(w: &mut Writer, treatment: &Treatment, base: &Treatment) {
    let ms = |d: Duration| d.as_millis();
    w.unless("attempt_delay_ms", &ms(treatment.delay()), &ms(base.delay()));
    let delay = ms(treatment.resolution_delay);
    w.unless("resolution_delay_ms", &delay, &ms(base.resolution_delay));
    w.unless("pairs", &treatment.pairs_max, &base.pairs_max);
    w.unless("reverse", &treatment.reverse, &base.reverse);
    w.unless("repeat", &treatment.repeat, &base.repeat);
    let timeout = ms(treatment.answer_timeout);
    w.unless("answer_timeout_ms", &timeout, &ms(base.answer_timeout));
}

fn write_register(w: &mut Writer, vserver: &str, register: Option<&Register>) {
    let Some(register) = register else { return };
    let Register { zone, names, reverse, server, key, ttl_s } = register;
    w.table(&format!("[vserver.{vserver}.register]"));
    w.value("zone", quoted(zone));
    let name = |n: &RegisteredName| {
        let words: Vec<String> = std::iter::once(n.name.clone())
            .chain(n.addresses.iter().map(ToString::to_string))
            .collect();
        quoted(&words.join(" "))
    };
    w.list("names", &names.iter().map(name).collect::<Vec<_>>());
    w.list("reverse", &texts(reverse));
    w.optional("server", server.map(|s| quoted(&s.to_string())).as_ref());
    w.optional("key", key.as_ref().map(|k| path(k)).as_ref());
    w.unless("ttl_s", ttl_s, &register::TTL_S_DEFAULT);
}

fn write_mdns(w: &mut Writer, vserver: &str, mdns: Option<&Mdns>) {
    let Some(Mdns { host, services }) = mdns else { return };
    w.table(&format!("[vserver.{vserver}.mdns]"));
    w.optional("host", host.as_ref().map(|h| quoted(h)).as_ref());
    for Advertised { name, kind, port, txt } in services {
        w.table(&format!("[[vserver.{vserver}.mdns.services]]"));
        w.value("name", quoted(name));
        w.value("type", quoted(kind));
        w.value("port", port);
        w.list("txt", &texts(txt));
    }
}

fn write_shim(w: &mut Writer, vserver: &str, shim: Option<&Shim>) {
    let Some(shim) = shim else { return };
    let Shim {
        enabled,
        set_up: _,
        reap: _,
        policy: _,
        locators,
        parameters,
        signing_key,
        keys,
        accept,
        offer,
        udp,
        contexts,
        home,
    } = shim;
    let default = Shim::default();
    let [set_up, reap, policy] = shim.words();
    let [set_up_default, reap_default, policy_default] = default.words();
    w.table(&format!("[vserver.{vserver}.shim]"));
    w.unless("enabled", enabled, &default.enabled);
    w.unless("set_up", &quoted(set_up), &quoted(set_up_default));
    w.unless("reap", &quoted(reap), &quoted(reap_default));
    w.unless("policy", &quoted(policy), &quoted(policy_default));
    let locator = |(addr, priority): &(IpAddr, u8)| match priority {
        0 => quoted(&addr.to_string()),
        priority => quoted(&format!("{addr} {priority}")),
    };
    w.list("locators", &locators.iter().map(locator).collect::<Vec<_>>());
    w.optional("parameters", parameters.as_ref().map(|p| path(p)).as_ref());
    let key = |(peers, file): &(Cidr, PathBuf)| {
        let absolute = std::path::absolute(file).unwrap_or_else(|_| file.clone());
        quoted(&format!("{peers} {}", absolute.display()))
    };
    w.optional("signing_key", signing_key.as_ref().map(|p| path(p)).as_ref());
    w.list("keys", &keys.iter().map(key).collect::<Vec<_>>());
    for (name, proofs, default) in
        [("accept", accept, &default.accept), ("offer", offer, &default.offer)]
    {
        if proofs != default {
            let words: Vec<String> = proofs.words().into_iter().map(quoted).collect();
            w.list(name, &words);
        }
    }
    if let Some(ShimUdp { port, all, keepalive_s }) = udp {
        w.value("udp_port", port);
        w.unless("udp_for", &quoted(if *all { "all" } else { "ipv4" }), &quoted("ipv4"));
        w.unless("udp_keepalive_s", keepalive_s, &shim::KEEPALIVE_S_DEFAULT);
    }
    w.unless("contexts", contexts, &default.contexts);
    w.optional("home", home.as_ref());
}

/// The keys of a service.
pub(super) fn write_service(w: &mut Writer, service: &Service) {
    let Service { listen, listen_name, kind, connections, idle_s } = service;
    let (word, idle_s_default) = match kind {
        ServiceKind::Echo => ("echo", 60),
        ServiceKind::Discard => ("discard", 60),
        ServiceKind::Chargen => ("chargen", 60),
        ServiceKind::Http { .. } => ("http", 60),
        ServiceKind::Proxy(_) => ("proxy", 0),
    };
    w.value("kind", quoted(word));
    w.value("port", listen.port());
    if let Some(name) = listen_name {
        w.value("address", quoted(name));
    } else if *listen.ip().to_string() != *"::" {
        w.value("address", quoted(&listen.ip().to_string()));
    }
    match kind {
        ServiceKind::Http { root, upload, upload_bytes_max } => {
            w.value("root", path(root));
            if let Some(upload) = upload {
                w.value("upload", path(upload));
                w.unless("upload_bytes_max", upload_bytes_max, &service::UPLOAD_BYTES_MAX_DEFAULT);
            }
        }
        ServiceKind::Proxy(ProxyTarget::Tcp(to)) => w.value("to", quoted(&to.to_string())),
        ServiceKind::Proxy(ProxyTarget::Named(name, port)) => {
            w.value("to", quoted(&format!("{name}:{port}")));
        }
        ServiceKind::Proxy(ProxyTarget::Unix(to)) => {
            let absolute = std::path::absolute(to).unwrap_or_else(|_| to.clone());
            w.value("to", quoted(&format!("unix:{}", absolute.display())));
        }
        ServiceKind::Echo | ServiceKind::Discard | ServiceKind::Chargen => {}
    }
    w.unless("connections", connections, &16_384);
    w.unless("idle_s", idle_s, &idle_s_default);
}
