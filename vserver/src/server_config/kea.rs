//! `kea-dhcp4.conf` and `kea-dhcp6.conf`, for Kea 2.0 and newer.

use serde_json::{Map, Value, json};

use super::{Plan, Version, hex, list, only};
use crate::config::Subnet;

/// For `kea-dhcp4` or `kea-dhcp6`.
pub fn kea(plan: &Plan, version: Version) -> String {
    let cluster = &plan.cluster;
    let v6 = version == Version::V6;
    let subnet_key = if v6 { "subnet6" } else { "subnet4" };
    let (mut alone, mut shared, mut number) = (Vec::new(), Vec::new(), 0);
    for link in plan.links(version) {
        let several = link.len() > 1;
        let mut subnets = Vec::new();
        for s in link {
            number += 1;
            subnets.push(subnet(plan, s, version, number));
        }
        if several {
            let name = format!("{}-{}", cluster.vendor_name(), shared.len());
            shared.push(json!({ "name": name, subnet_key: subnets }));
        } else {
            alone.append(&mut subnets);
        }
    }
    let mut server = Map::new();
    let mut set = |key: &str, value: Value| drop(server.insert(key.to_owned(), value));
    let mut interfaces = plan.interfaces(version);
    if interfaces.is_empty() {
        interfaces.push("*");
    }
    set("interfaces-config", json!({ "interfaces": interfaces }));
    set("lease-database", json!({ "type": "memfile" }));
    set("host-reservation-identifiers", json!([if v6 { "duid" } else { "client-id" }]));
    let (definitions, class) = vendor(plan, version);
    set("option-def", Value::Array(definitions));
    set("client-classes", json!([class]));
    set("shared-networks", Value::Array(shared));
    set(subnet_key, Value::Array(alone));
    let top = if v6 { "Dhcp6" } else { "Dhcp4" };
    // Plain data with string keys: it has a JSON form.
    let text = serde_json::to_string_pretty(&json!({ top: server })).unwrap_or_default();
    format!("// cluster {}, written by weft dhcp-config\n{text}\n", cluster.id)
}

/// Definitions of the vendor options, and the class that gets them.
fn vendor(plan: &Plan, version: Version) -> (Vec<Value>, Value) {
    let cluster = &plan.cluster;
    let (class, name) = (&cluster.vendor_class, cluster.vendor_name());
    let v6 = version == Version::V6;
    let space = if v6 {
        format!("vendor-{}", cluster.enterprise)
    } else {
        String::from("vendor-encapsulated-options-space")
    };
    let codes = cluster.vendor_options.iter();
    let define = |(code, _): &(u8, String)| json!({ "name": format!("{name}-{code}"), "code": code, "space": space, "type": "string" });
    let definitions = codes.clone().map(define).collect();
    let mut data: Vec<Value> = codes
        .map(|(code, text)| {
            let mut option =
                json!({ "name": format!("{name}-{code}"), "space": space, "data": text });
            if v6 {
                // Kea sends options of a vendor that were asked for one by one, inside option 17 of
                // the question, where clients have no list; others only with this. It makes option
                // 17 of its own.
                option["always-send"] = Value::Bool(true);
            }
            option
        })
        .collect();
    if !data.is_empty() && !v6 {
        data.insert(0, json!({ "name": "vendor-encapsulated-options" }));
    }
    // enterprise number and length stand before the text (RFC 8415 21.16)
    let test = if v6 {
        format!("substring(option[16].hex, 6, {}) == '{class}'", class.len())
    } else {
        format!("option[60].text == '{class}'")
    };
    (definitions, json!({ "name": class, "test": test, "option-data": data }))
}

fn subnet(plan: &Plan, s: &Subnet, version: Version, number: u32) -> Value {
    let v6 = version == Version::V6;
    let mut data = Vec::new();
    let mut option = |name: &str, value: String| {
        if !value.is_empty() {
            data.push(json!({ "name": name, "data": value }));
        }
    };
    let (dns, ntp) = (list(&only(version, &s.dns)), list(&only(version, &s.ntp)));
    if v6 {
        option("dns-servers", dns);
        option("sntp-servers", ntp);
    } else {
        option("routers", s.gateway.map(|g| g.to_string()).unwrap_or_default());
        option("domain-name-servers", dns);
        option("ntp-servers", ntp);
        option("interface-mtu", s.mtu.map(|m| m.to_string()).unwrap_or_default());
    }
    option("domain-search", list(&s.search));
    let pools: Vec<Value> =
        s.pool.iter().map(|(low, high)| json!({ "pool": format!("{low} - {high}") })).collect();
    let reservations: Vec<Value> = plan
        .within(s.network)
        .map(|e| {
            let id = plan.id(e);
            let text = json!({ "client-id": id.to_string() });
            if v6 {
                let duid = hex(&id.duid(plan.cluster.enterprise));
                json!({ "duid": duid, "ip-addresses": [e.address], "user-context": text })
            } else {
                let bytes = hex(&id.option_61());
                json!({ "client-id": bytes, "ip-address": e.address, "user-context": text })
            }
        })
        .collect();
    let mut subnet = json!({
        "id": number,
        "subnet": s.network.to_string(),
        "valid-lifetime": s.lease_s,
        "option-data": data,
        "pools": pools,
        "reservations": reservations,
    });
    if let Some(interface) = plan.interface(s.network) {
        subnet["interface"] = interface.into();
    }
    subnet
}
