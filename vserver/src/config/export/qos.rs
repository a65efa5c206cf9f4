//! Rates, groups and classes of QoS as a file has them.

use super::super::qos::{Both, Class, Match, Qos, QosGroup, Rates, protocol_name};
use super::{Writer, quoted, texts};

/// `{ limit = "1000 bit/s" }`; nothing if all is as by default.
fn rates(rates: &Rates) -> Option<String> {
    let default = Rates::default();
    if *rates == default {
        return None;
    }
    let Rates {
        limit,
        limit_packets,
        burst,
        guarantee,
        guarantee_packets,
        weight,
        priority,
        queue,
    } = rates;
    let mut keys = Vec::new();
    for (key, value, unit) in [
        ("limit", limit, "bit/s"),
        ("limit_packets", limit_packets, "pps"),
        ("burst", burst, "B"),
        ("guarantee", guarantee, "bit/s"),
        ("guarantee_packets", guarantee_packets, "pps"),
        ("queue", queue, "B"),
    ] {
        keys.extend(value.map(|v| format!("{key} = \"{v} {unit}\"")));
    }
    if *weight != default.weight {
        keys.push(format!("weight = {weight}"));
    }
    if *priority != default.priority {
        keys.push(format!("priority = {priority}"));
    }
    Some(format!("{{ {} }}", keys.join(", ")))
}

/// `send` and `receive` of a table.
pub(super) fn write_both(w: &mut Writer, both: &Both) {
    let Both { send, receive } = both;
    w.optional("send", rates(send).as_ref());
    w.optional("receive", rates(receive).as_ref());
}

pub(super) fn write_qos_group(w: &mut Writer, group: &QosGroup, all: &[QosGroup]) {
    let QosGroup { name, parent, rates } = group;
    w.table(&format!("[qos.{}]", key(name)));
    w.optional("parent", parent.map(|p| quoted(&all[p].name)).as_ref());
    write_both(w, rates);
}

/// A key of a table as a file has it.
fn key(name: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if !name.is_empty() && name.bytes().all(bare) { name.to_owned() } else { quoted(name) }
}

pub(super) fn write_qos(w: &mut Writer, vserver: &str, qos: &Qos, groups: &[QosGroup]) {
    let Qos { group, rates, classes } = qos;
    if *qos == Qos::default() {
        return;
    }
    w.table(&format!("[vserver.{vserver}.qos]"));
    w.optional("group", group.map(|g| quoted(&groups[g].name)).as_ref());
    write_both(w, rates);
    // Classes come before clients, as they are read.
    for class in classes {
        write_class(w, vserver, class);
    }
}

fn write_class(w: &mut Writer, vserver: &str, class: &Class) {
    let Class { name, matches, each, clients_max, mark, route_mark, rates } = class;
    let Match { dscp, services, peer_ports, clients, names } = matches;
    let range = |(low, high): (u16, u16)| {
        if low == high { low.to_string() } else { format!("{low}-{high}") }
    };
    if let Some(each) = each {
        w.table(&format!("[[vserver.{vserver}.qos.clients]]"));
        w.value("prefix", quoted(name));
        w.value("each", each);
        w.value("clients_max", clients_max);
    } else {
        w.table(&format!("[[vserver.{vserver}.qos.class]]"));
        w.value("name", quoted(name));
        w.list("dscp", &texts(dscp));
        let service = |(protocol, low, high): &(u8, u16, u16)| {
            let word = protocol_name(*protocol);
            match (low, high) {
                (0, 65_535) => quoted(word),
                (low, high) => quoted(&format!("{word} {}", range((*low, *high)))),
            }
        };
        w.list("services", &services.iter().map(service).collect::<Vec<_>>());
        w.list("peer_ports", &peer_ports.iter().map(|p| quoted(&range(*p))).collect::<Vec<_>>());
        let names = names.iter().map(|n| quoted(&n.name));
        w.list("clients", &texts(clients).into_iter().chain(names).collect::<Vec<_>>());
    }
    w.optional("mark", mark.map(|m| quoted(&m.to_string())).as_ref());
    w.optional("route_mark", Some(route_mark).filter(|mark| **mark != 0));
    write_both(w, rates);
}
