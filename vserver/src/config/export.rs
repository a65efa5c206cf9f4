//! From a [`HostConfig`] back to a file: what is in force, in a fixed order, readable.
//!
//! Parsing what is written gives an equal configuration. A `count` is written out vserver by
//! vserver, names that were defaults stand there, paths are absolute. A new field of a
//! configuration does not compile until it is written here.

use std::fmt::{Display, Write as _};
use std::path::Path;

use weft_stack::socket::tcp::CongestionControl;
use weft_stack::stack::{EcnMode, FastOpen, Limits, MtuProbing, Offers, SynCookies, TcpConfig};

use super::qos::Both;
use super::{
    Advertised, Alias, Cluster, Dns, Driver, Gather, Group, HostConfig, Hugepages, Identity, Lease,
    Mdns, NamedRoute, Nic, PacketReceive, Privilege, ProxyTarget, Register, RegisteredName, Rights,
    Role, RouteSpec, RunAs, Service, ServiceKind, Subnet, TableSpec, Vserver, Workers, XdpMode,
};
use crate::access::{AccessConfig, AccessRule, Catalogue, Established};

mod qos;

use qos::{write_both, write_qos, write_qos_group};

/// Longer lists stand on several lines.
const LINE_CHARS: usize = 100;

/// The text of a file that parses to `config`. Values that are defaults are left out unless `all`.
pub fn export(config: &HostConfig, all: bool) -> String {
    let config = &expanded(config);
    let HostConfig {
        control,
        state_dir,
        privilege,
        cluster,
        workers,
        nics,
        aliases,
        tables,
        groups,
        qos_groups,
        access,
        vservers,
        defaults: _,
    } = config;
    let mut w = Writer { out: String::new(), all };
    w.table("[host]");
    w.value("control", path(control));
    w.unless("state_dir", &path(state_dir), &quoted(super::STATE_DIR_DEFAULT));
    write_privilege(&mut w, privilege);
    if let Some(cluster) = cluster {
        write_cluster(&mut w, cluster);
    }
    write_workers(&mut w, workers);
    for group in qos_groups {
        write_qos_group(&mut w, group, qos_groups);
    }
    write_access(&mut w, access);
    for nic in nics {
        write_nic(&mut w, nic);
    }
    for alias in aliases {
        let Alias { name, nic, mtu, mac: own } = alias;
        w.table(&format!("[alias.{name}]"));
        w.value("over", quoted(&nics[*nic].name));
        w.optional("mtu", mtu.as_ref());
        w.optional("mac", own.map(|m| quoted(&mac(m))).as_ref());
    }
    write_tables(&mut w, tables, config);
    for Group { name, parent } in groups {
        // What it gives stands with its members.
        w.table(&format!("[group.{name}]"));
        w.optional("parent", parent.map(|p| quoted(&groups[p].name)).as_ref());
    }
    for v in vservers {
        write_vserver(&mut w, v, config);
    }
    for role in &privilege.roles {
        write_role(&mut w, role);
    }
    w.out
}

/// With every vserver of a `count` on its own, also where roles name the table.
fn expanded(config: &HostConfig) -> HostConfig {
    let mut config = config.clone();
    for role in &mut config.privilege.roles {
        let names = std::mem::take(&mut role.vservers);
        role.vservers = names
            .into_iter()
            .flat_map(|name| {
                let of = |v: &&Vserver| v.table == name && v.name != name;
                let members: Vec<String> =
                    config.vservers.iter().filter(of).map(|v| v.name.clone()).collect();
                if members.is_empty() { vec![name] } else { members }
            })
            .collect();
    }
    for v in &mut config.vservers {
        v.table.clone_from(&v.name);
    }
    config
}

fn write_privilege(w: &mut Writer, privilege: &Privilege) {
    let Privilege {
        control_mode,
        control_group,
        audit,
        audit_bytes,
        audit_files,
        run_as,
        user,
        roles: _,
    } = privilege;
    let default = Privilege::default();
    w.optional("control_mode", control_mode.map(|m| quoted(&format!("{m:04o}"))).as_ref());
    w.optional("control_group", control_group.map(|g| quoted(&g.to_string())).as_ref());
    if let Some(audit) = audit {
        w.value("audit", path(audit));
        w.unless("audit_bytes", audit_bytes, &default.audit_bytes);
        w.unless("audit_files", audit_files, &default.audit_files);
    }
    w.word("privileges", run_as, &default.run_as, |r| match r {
        RunAs::Drop => "drop",
        RunAs::Devices => "devices",
        RunAs::Keep => "keep",
    });
    w.optional("user", user.as_ref().map(|u| quoted(&u.name)).as_ref());
}

fn write_role(w: &mut Writer, role: &Role) {
    let Role { name, users, groups, allow, vservers, vserver_groups } = role;
    w.table(&format!("[role.{name}]"));
    w.list("users", &texts(users));
    w.list("groups", &texts(groups));
    w.value(
        "allow",
        quoted(match allow {
            Rights::View => "view",
            Rights::Vserver => "vserver",
            Rights::Cluster => "cluster",
        }),
    );
    w.list("vservers", &texts(vservers));
    w.list("vserver_groups", &texts(vserver_groups));
}

struct Writer {
    out: String,
    all: bool,
}

impl Writer {
    /// Begins a table.
    fn table(&mut self, head: &str) {
        if !self.out.is_empty() {
            self.out.push('\n');
        }
        self.out.push_str(head);
        self.out.push('\n');
    }

    fn value(&mut self, key: &str, value: impl Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.out, "{key} = {value}");
    }

    fn optional<T: Display>(&mut self, key: &str, value: Option<&T>) {
        if let Some(value) = value {
            self.value(key, value);
        }
    }

    /// A value that has a default.
    fn unless<T: Display + PartialEq>(&mut self, key: &str, value: &T, default: &T) {
        if self.all || value != default {
            self.value(key, value);
        }
    }

    /// One of a few words.
    fn word<T: PartialEq>(&mut self, key: &str, value: &T, default: &T, name: fn(&T) -> &str) {
        if self.all || value != default {
            self.value(key, quoted(name(value)));
        }
    }

    /// A list of values as they stand in a file; nothing if it is empty.
    fn list(&mut self, key: &str, items: &[String]) {
        if !items.is_empty() {
            self.value(key, array(items));
        }
    }
}

pub(super) fn array(items: &[String]) -> String {
    let line = format!("[{}]", items.join(", "));
    if line.chars().count() <= LINE_CHARS {
        return line;
    }
    format!("[\n    {},\n]", items.join(",\n    "))
}

pub(super) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

pub(super) fn texts<T: Display>(items: &[T]) -> Vec<String> {
    items.iter().map(|i| quoted(&i.to_string())).collect()
}

fn path(path: &Path) -> String {
    // Without a working directory the path is as good as it gets.
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    quoted(&absolute.to_string_lossy())
}

fn mac(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

fn write_cluster(w: &mut Writer, cluster: &Cluster) {
    let Cluster { id, node, vendor_class, enterprise, vendor_options, leases, subnets } = cluster;
    w.table("[cluster]");
    w.value("id", quoted(id.as_str()));
    w.optional("node", node.as_ref().map(|n| quoted(n)).as_ref());
    w.unless("vendor_class", &quoted(vendor_class), &quoted(super::cluster::VENDOR_CLASS_DEFAULT));
    w.unless("enterprise", enterprise, &crate::naming::ENTERPRISE_DEFAULT);
    let options: Vec<String> = vendor_options
        .iter()
        .map(|(code, text)| format!("{{ code = {code}, text = {} }}", quoted(text)))
        .collect();
    w.list("vendor_options", &options);
    if !leases.is_empty() {
        w.table("[cluster.leases]");
    }
    let mut written: Vec<&Lease> = Vec::new();
    for lease in leases {
        if written.iter().any(|l| l.claim == lease.claim) {
            continue;
        }
        let same: Vec<_> = leases.iter().filter(|l| l.claim == lease.claim).collect();
        let addresses: Vec<String> = same.iter().map(|l| quoted(&l.address.to_string())).collect();
        let key = quoted(&lease.claim.to_string());
        match &addresses[..] {
            [one] => w.value(&key, one),
            several => w.value(&key, array(several)),
        }
        written.push(lease);
    }
    for s in subnets {
        let Subnet { network, gateway, dns, search, ntp, mtu, pool, lease_s } = s;
        w.table("[[cluster.subnet]]");
        w.value("network", quoted(&network.to_string()));
        w.optional("gateway", gateway.map(|g| quoted(&g.to_string())).as_ref());
        w.list("dns", &texts(dns));
        w.list("search", &texts(search));
        w.list("ntp", &texts(ntp));
        w.optional("mtu", mtu.as_ref());
        w.optional("pool", pool.map(|(a, b)| quoted(&format!("{a}-{b}"))).as_ref());
        w.unless("lease_s", lease_s, &super::cluster::LEASE_S_DEFAULT);
    }
}

fn write_workers(w: &mut Writer, workers: &Workers) {
    let default = Workers::default();
    if !w.all && *workers == default {
        return;
    }
    let Workers { count, affinity, frames, frame_bytes, hugepages, numa_node } = workers;
    w.table("[workers]");
    w.unless("count", count, &default.count);
    w.list("affinity", &affinity.iter().map(ToString::to_string).collect::<Vec<_>>());
    w.unless("frames", frames, &default.frames);
    w.unless("frame_bytes", frame_bytes, &default.frame_bytes);
    w.word("hugepages", hugepages, &default.hugepages, |h| match h {
        Hugepages::Auto => "auto",
        Hugepages::Off => "off",
        Hugepages::Reserved => "reserved",
    });
    w.optional("numa_node", numa_node.as_ref());
}

fn write_nic(w: &mut Writer, nic: &Nic) {
    let Nic {
        name,
        device,
        driver,
        xdp,
        gather,
        receive,
        queues,
        poll,
        rx_checksum_trust,
        gro,
        mac: own,
        mtu,
        capture,
        qos,
    } = nic;
    w.table(&format!("[nic.{name}]"));
    if *driver != Driver::Mem || device != name {
        w.value("device", quoted(device));
    }
    w.word("driver", driver, &Driver::AfXdp, |d| d.name());
    if *driver == Driver::AfXdp {
        w.word("xdp", xdp, &XdpMode::Auto, |x| match x {
            XdpMode::Auto => "auto",
            XdpMode::ZeroCopy => "zero-copy",
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
        });
        w.word("gather", gather, &Gather::Auto, |g| match g {
            Gather::Auto => "auto",
            Gather::Always => "always",
        });
    }
    if *driver == Driver::Packet {
        w.word("receive", receive, &PacketReceive::Messages, |r| match r {
            PacketReceive::Messages => "messages",
            PacketReceive::Ring => "ring",
        });
    }
    w.unless("queues", queues, &1);
    w.word("poll", poll, &super::PollMode::Adaptive, |p| p.name());
    w.word("rx_checksum", rx_checksum_trust, &false, |t| if *t { "trust" } else { "verify" });
    w.unless("gro", gro, &true);
    w.optional("mac", own.map(|m| quoted(&mac(m))).as_ref());
    w.optional("mtu", mtu.as_ref());
    w.optional("capture", capture.as_ref().map(|c| path(c)).as_ref());
    if *qos != Both::default() {
        w.table(&format!("[nic.{name}.qos]"));
        write_both(w, qos);
    }
}

fn write_vserver(w: &mut Writer, v: &Vserver, config: &HostConfig) {
    let Vserver {
        name: _,
        spelled,
        identity,
        addresses,
        slaac,
        dhcp,
        acd,
        routes,
        named_routes,
        tables,
        rules,
        forwarding,
        limits,
        tcp,
        access,
        services,
        dns,
        register,
        mdns,
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
    match identity {
        Identity::Vserver if !w.all => {}
        Identity::Vserver => w.value("identity", quoted("vserver")),
        Identity::Node => w.value("identity", quoted("node")),
        Identity::Kind(kind) => w.value("identity", quoted(&format!("kind {kind}"))),
    }
    let addresses: Vec<String> =
        addresses.iter().map(|(a, c)| quoted(&format!("{} {c}", alias(a)))).collect();
    if addresses.is_empty() && slaac.is_empty() && dhcp.is_empty() {
        w.value("addresses", "[]");
    }
    w.list("addresses", &addresses);
    w.list("slaac", &slaac.iter().map(|a| quoted(alias(a))).collect::<Vec<_>>());
    w.list(
        "dhcp",
        &dhcp.iter().map(|c| super::dhcp::export_client(c, alias(&c.alias))).collect::<Vec<_>>(),
    );
    w.word("acd", acd, &weft_stack::ip::address::Acd::default(), |a| super::dhcp::acd_name(*a));
    w.unless("forwarding", forwarding, &false);
    let literal = routes.iter().map(|r| route(r, alias(&r.alias)));
    let named = named_routes.iter().map(|r| named_route(r, alias(&r.alias)));
    w.list("routes", &literal.chain(named).collect::<Vec<_>>());
    w.list("access", &access.iter().map(access_rule).collect::<Vec<_>>());
    w.list("tables", &tables.iter().map(|t| quoted(t)).collect::<Vec<_>>());
    w.list("rules", &rules.iter().map(|r| super::rule::text(r, alias)).collect::<Vec<_>>());
    write_dns(w, spelled, dns);
    write_register(w, spelled, register.as_ref());
    write_mdns(w, spelled, mdns.as_ref());
    write_qos(w, spelled, qos, &config.qos_groups);
    write_limits(w, spelled, limits);
    write_tcp(w, spelled, tcp);
    for s in services {
        write_service(w, spelled, s);
    }
}

fn write_access(w: &mut Writer, access: &AccessConfig) {
    let AccessConfig { catalogue, rules, established } = access;
    let built_in = Catalogue::default();
    if w.all || !rules.is_empty() || *established != Established::default() {
        w.table("[access]");
        w.word("established", established, &Established::default(), |e| match e {
            Established::Keep => "keep",
            Established::End => "end",
        });
        w.list("rules", &rules.iter().map(access_rule).collect::<Vec<_>>());
    }
    let Catalogue { services, classes } = catalogue;
    for (name, ports) in services {
        if w.all || built_in.services.get(name) != Some(ports) {
            w.table(&format!("[access.service.{name}]"));
            w.value("ports", array(&texts(ports)));
        }
    }
    for (name, class) in classes {
        let crate::access::Class { services, ports: _, management } = class;
        let before = built_in.classes.get(name);
        if w.all || before.is_none_or(|c| c.services != *services || c.management != *management) {
            w.table(&format!("[access.class.{name}]"));
            w.value("services", array(&texts(services)));
            w.unless("management", management, &before.is_some_and(|c| c.management));
        }
    }
}

fn access_rule(rule: &AccessRule) -> String {
    let AccessRule { action, services, ports: _, on, of, from, log, written: _ } = rule;
    let list = |items: Vec<String>| quoted(&items.join(", "));
    let mut keys = vec![format!("{} = {}", action.name(), quoted(services))];
    if !on.is_empty() {
        keys.push(format!("on = {}", list(on.iter().map(ToString::to_string).collect())));
    }
    if !of.is_empty() {
        keys.push(format!("of = {}", list(of.clone())));
    }
    if !from.is_empty() {
        keys.push(format!("from = {}", list(from.iter().map(ToString::to_string).collect())));
    }
    if *log {
        keys.push(String::from("log = true"));
    }
    format!("{{ {} }}", keys.join(", "))
}

fn write_tables(w: &mut Writer, tables: &[TableSpec], config: &HostConfig) {
    for TableSpec { name, routes } in tables {
        w.table(&format!("[table.{name}]"));
        let routes = routes.iter().map(|r| route(r, &config.aliases[r.alias].name));
        w.list("routes", &routes.collect::<Vec<_>>());
    }
}

fn route(r: &RouteSpec, alias: &str) -> String {
    let RouteSpec { to, via, alias: _, src, metric } = r;
    route_keys(&to.to_string(), via.map(|v| v.to_string()), alias, *src, *metric)
}

fn named_route(r: &NamedRoute, alias: &str) -> String {
    let NamedRoute { to, via, alias: _, src, metric } = r;
    let to = to.map_or_else(|| String::from("default"), |t| t.to_string());
    route_keys(&to, Some(via.clone()), alias, *src, *metric)
}

fn route_keys(
    to: &str,
    via: Option<String>,
    alias: &str,
    src: Option<std::net::IpAddr>,
    metric: u32,
) -> String {
    let mut keys = vec![format!("to = {}", quoted(to))];
    keys.extend(via.map(|v| format!("via = {}", quoted(&v))));
    keys.push(format!("alias = {}", quoted(alias)));
    keys.extend(src.map(|s| format!("src = {}", quoted(&s.to_string()))));
    if metric != 0 {
        keys.push(format!("metric = {metric}"));
    }
    format!("{{ {} }}", keys.join(", "))
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
    w.unless("ttl_s", ttl_s, &super::register::TTL_S_DEFAULT);
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

/// Writes fields under their own names.
macro_rules! fields {
    ($w:expr, $from:expr, $default:expr, $( $field:ident ),* $(,)?) => {
        $( $w.unless(stringify!($field), &$from.$field, &$default.$field); )*
    };
}

fn write_limits(w: &mut Writer, vserver: &str, limits: &Limits) {
    let default = Limits::default();
    if !w.all && *limits == default {
        return;
    }
    w.table(&format!("[vserver.{vserver}.limits]"));
    fields!(
        w,
        limits,
        default,
        neighbours,
        neighbour_queue,
        reassemblies,
        reassembly_bytes,
        routes,
        rules,
        addresses,
        groups,
        pmtu,
        tcp_connections,
        tcp_half_open,
        tcp_fast_open,
        tcp_listeners,
        tcp_bytes,
        access_states,
        udp_sockets,
        udp_recv_bytes,
        raw_sockets,
        icmp_sockets,
        raw_recv_bytes,
        app_frames,
        out_queue,
        icmp_errors_per_second,
        service_timers,
        input_frames,
        round_us,
        weight,
    );
}

fn write_tcp(w: &mut Writer, vserver: &str, tcp: &TcpConfig) {
    let default = TcpConfig::default();
    if !w.all && *tcp == default {
        return;
    }
    w.table(&format!("[vserver.{vserver}.tcp]"));
    fields!(
        w,
        tcp,
        default,
        send_buffer,
        send_buffer_max,
        recv_buffer,
        recv_buffer_max,
        rto_ms_min,
        time_wait_s,
        delayed_ack_ms,
        quick_acks,
    );
    let Offers { timestamps, sack, window_scaling } = tcp.offers;
    let offers = default.offers;
    w.unless("timestamps", &timestamps, &offers.timestamps);
    w.unless("sack", &sack, &offers.sack);
    w.unless("window_scaling", &window_scaling, &offers.window_scaling);
    w.word("congestion", &tcp.congestion, &default.congestion, |c| match c {
        CongestionControl::NewReno => "reno",
        CongestionControl::Cubic => "cubic",
        CongestionControl::Bbr => "bbr",
        CongestionControl::Dctcp => "dctcp",
    });
    w.unless("pacing", &tcp.pacing, &default.pacing);
    w.word("ecn", &tcp.ecn, &default.ecn, |e| match e {
        EcnMode::Off => "off",
        EcnMode::Accept => "accept",
        EcnMode::Classic => "classic",
        EcnMode::Accurate => "accurate",
    });
    w.word("fast_open", &tcp.fast_open, &default.fast_open, |f| match f {
        FastOpen::Off => "off",
        FastOpen::Client => "client",
        FastOpen::Server => "server",
        FastOpen::Both => "both",
    });
    w.word("syn_cookies", &tcp.syn_cookies, &default.syn_cookies, |s| match s {
        SynCookies::Off => "off",
        SynCookies::Pressure => "pressure",
        SynCookies::Always => "always",
    });
    w.word("mtu_probing", &tcp.mtu_probing, &default.mtu_probing, |m| match m {
        MtuProbing::Off => "off",
        MtuProbing::BlackHole => "black-hole",
        MtuProbing::Always => "always",
    });
}

fn write_service(w: &mut Writer, vserver: &str, service: &Service) {
    let Service { listen, listen_name, kind, connections, idle_s } = service;
    w.table(&format!("[[vserver.{vserver}.service]]"));
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
                w.unless(
                    "upload_bytes_max",
                    upload_bytes_max,
                    &super::service::UPLOAD_BYTES_MAX_DEFAULT,
                );
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::parse;
    use super::*;

    /// Exports, imports, and compares; then once more, for the order must be fixed too.
    fn round_trip(config: &HostConfig) {
        for all in [false, true] {
            let text = export(config, all);
            let again = parse(&text, Path::new("/tmp/weft.toml"));
            let again = again.unwrap_or_else(|e| panic!("{e}\nin\n{text}"));
            assert_eq!(again, expanded(config), "{text}");
            assert_eq!(export(&again, all), text);
        }
    }

    fn config(text: &str) -> HostConfig {
        parse(text, Path::new("/tmp/weft.toml")).unwrap_or_else(|e| panic!("{e}\nin\n{text}"))
    }

    const HOST: &str = "[nic.eth0]\ndevice = \"veth0\"\n[alias.data0]\nover = \"eth0\"\n\
                        [alias.mgmt0]\nover = \"eth0\"\nmac = \"02:00:00:00:00:01\"\nmtu = 1400\n";

    #[test]
    fn the_examples_of_the_manual_come_back_equal() {
        let manual = include_str!("../../../docs/configuration.md");
        for block in manual.split("```toml\n").skip(1) {
            round_trip(&config(block.split("```").next().unwrap()));
        }
        round_trip(&config(include_str!("../../tests/names/addresses.toml")));
        round_trip(&config(""));
    }

    #[test]
    fn a_file_with_everything_in_it_comes_back_equal() {
        let text = r#"
[host]
control = "/run/other.sock"
control_mode = "0660"
control_group = "0"
audit = "/run/audit.log"
audit_files = 3
privileges = "devices"
user = "root"
[access]
established = "end"
rules = [{ reject = "any", of = "many*", from = "192.0.2.0/24, fd00::1", log = true }]
[access.service.ssh]
ports = ["tcp/2222"]
[access.service.own]
ports = ["udp/5000-5010", "icmp"]
[access.class.mine]
services = ["own", "tcp/8"]
management = true
[access.class.mgmt]
services = ["ssh"]
management = false
[group.gold]
access = [{ allow = "mine, http", on = "data, mgmt" }, { prohibit = "tcp", on = "data0" }]
tcp = { congestion = "bbr" }
[group.silver]
parent = "gold"
roles = ["tenants"]
[role.tenants]
users = ["1000"]
groups = ["7"]
allow = "vserver"
vservers = ["many"]
vserver_groups = ["gold"]
[vserver.many]
count = 3
group = "silver"
addresses = ["data0 10.0.7.1/24"]
[cluster]
id = "00:07:34:04:12:0E"
node = "Filer1"
vendor_class = "acme"
enterprise = 7
vendor_options = [{ code = 1, text = "a" }, { code = 254, text = "b c" }]
[cluster.leases]
"data0:VsvrA:1" = ["10.2.2.1", "fd00::1"]
"mgmt0:Filer1" = "10.2.2.2"
[[cluster.subnet]]
network = "10.2.2.0/24"
gateway = "10.2.2.254"
dns = ["10.2.2.53", "fd00::53"]
search = ["example.net"]
ntp = ["10.2.2.123"]
mtu = 9000
pool = "10.2.2.100-10.2.2.200"
lease_s = 600
[[cluster.subnet]]
network = "fd00::/64"
[workers]
count = 2
affinity = [1, 0]
frames = 1024
frame_bytes = 2048
hugepages = "reserved"
numa_node = 0
[nic.eth1]
device = "tap7"
driver = "tap"
queues = 2
poll = "busy"
rx_checksum = "trust"
gro = false
mac = "02:00:00:00:00:07"
mtu = 1400
capture = "all.pcapng"
[nic.eth0]
device = "veth0"
xdp = "generic"
gather = "always"
[nic.eth2]
device = "veth2"
driver = "packet"
receive = "ring"
[nic.eth3]
driver = "mem"
[alias.san0]
over = "eth1"
mtu = 1300
mac = "02:00:00:00:01:07"
[alias.data0]
over = "eth0"
[vserver.VsvrA]
addresses = ["data0 10.0.0.10/24", "data0 fd00::10/64", "san0 10.9.0.10/24"]
slaac = ["data0"]
forwarding = true
routes = [
    { to = "default", via = "10.0.0.1", alias = "data0" },
    { to = "default", via = "fe80::1", alias = "data0", src = "fd00::10", metric = 5 },
    { to = "10.99.0.0/16", alias = "san0" },
    { to = "default", via = "gw.example.net", alias = "data0", metric = 9 },
    { to = "10.98.0.0/16", via = "gw2", alias = "data0", src = "10.0.0.10" },
]
dns = { servers = ["10.0.0.53", "[fd00::53]:5353"], search = ["a.example"], ndots = 2, timeout_ms = 100, attempts = 3, cache = 0, mixed_case = false }
[vserver.VsvrA.mdns]
host = "box"
services = [{ name = "Files, all", type = "_nfs._tcp", port = 2049, txt = ["path=/", ""] }]
[vserver.VsvrA.register]
zone = "example.net"
names = ["files", "www.example.net 10.0.0.10 fd00::10"]
reverse = ["0.0.10.in-addr.arpa"]
server = "10.0.0.53"
ttl_s = 60
[[vserver.VsvrA.service]]
kind = "http"
port = 80
root = "."
upload = "."
upload_bytes_max = 1000
[[vserver.VsvrA.service]]
kind = "proxy"
port = 6379
address = "fd00::10"
to = "unix:/run/redis.sock"
connections = 10
idle_s = 7
[[vserver.VsvrA.service]]
kind = "proxy"
port = 6380
address = "0.0.0.0"
to = "127.0.0.1:6379"
[[vserver.VsvrA.service]]
kind = "proxy"
port = 6381
address = "cache.example.net"
to = "db.example.net:6379"
[[vserver.VsvrA.service]]
kind = "chargen"
port = 19
[vserver.box]
identity = "node"
addresses = []
[vserver.leased]
acd = "on"
dhcp = ["data0", "data0 v6 3", { alias = "san0", acd = "off", cache = "always", cached_after_s = 1, servers = ["10.0.0.1"], vendor_only = true, routes = false }]
[vserver.sql]
identity = "kind MySQLMgmtNode"
slaac = ["data0"]
"#;
        round_trip(&config(text));
    }

    /// The first and second cells of a table of the manual.
    fn keys(heading: &str) -> Vec<(&'static str, &'static str)> {
        let manual = include_str!("../../../docs/configuration.md");
        let below = manual.split_once(&format!("# `{heading}`\n")).unwrap().1;
        let section = below.split("\n#").next().unwrap();
        let cells = section.lines().filter_map(|l| l.strip_prefix("| `"));
        cells
            .map(|l| {
                let (key, rest) = l.split_once("` | ").unwrap();
                (key, rest.split(" | ").next().unwrap().trim_matches('`'))
            })
            .collect()
    }

    #[test]
    fn no_documented_number_or_switch_is_forgotten() {
        for (heading, table) in [
            ("[vserver.*.limits]", "vserver.v.limits"),
            ("[vserver.*.tcp]", "vserver.v.tcp"),
            ("dns = { ... }", "vserver.v.dns"),
        ] {
            for (key, default) in keys(heading) {
                let other = match default.parse::<u64>() {
                    Ok(n) => (n + 1).to_string(),
                    Err(_) if default == "true" => String::from("false"),
                    Err(_) if default == "false" => String::from("true"),
                    // Words and lists stand in the file with everything.
                    Err(_) => continue,
                };
                let text = format!(
                    "{HOST}[vserver.v]\naddresses = [\"data0 10.0.0.1/24\"]\n[{table}]\n{key} = {other}\n"
                );
                let config = config(&text);
                assert!(export(&config, false).contains(&format!("\n{key} = {other}\n")), "{key}");
                round_trip(&config);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn words_and_addresses_of_any_choice_come_back_equal(
            congestion in prop_oneof![Just("reno"), Just("cubic"), Just("bbr"), Just("dctcp")],
            ecn in prop_oneof![Just("off"), Just("accept"), Just("classic"), Just("accurate")],
            fast_open in prop_oneof![Just("off"), Just("client"), Just("server"), Just("both")],
            cookies in prop_oneof![Just("off"), Just("pressure"), Just("always")],
            probing in prop_oneof![Just("off"), Just("black-hole"), Just("always")],
            name in "[A-Za-z][A-Za-z0-9_-]{0,20}",
            hosts in proptest::collection::btree_set(1u8..250, 1..20),
            count in proptest::option::of(1u8..4),
            file in "[ -~é]{0,20}",
        ) {
            prop_assume!(!name.to_ascii_lowercase().starts_with("vs_mgmt"));
            let addresses: Vec<String> =
                hosts.iter().map(|h| format!("\"data0 10.{h}.0.1/24\", \"mgmt0 fd{h:02x}::1/64\"")).collect();
            let count = count.map(|n| format!("count = {n}\n")).unwrap_or_default();
            let text = format!(
                "[host]\ncontrol = {}\n{HOST}[vserver.{name}]\n{count}addresses = [{}]\n[vserver.{name}.tcp]\n\
                 congestion = \"{congestion}\"\necn = \"{ecn}\"\nfast_open = \"{fast_open}\"\n\
                 syn_cookies = \"{cookies}\"\nmtu_probing = \"{probing}\"\n",
                quoted(&format!("/run/x{}", file.replace('/', "-"))), addresses.join(", ")
            );
            round_trip(&config(&text));
        }
    }
}
