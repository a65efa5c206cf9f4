//! `[bond.*]`, `[vlan.*]` and `[fail.*]` as a file has them.

use weft_interface::bond::config::{Activity, Rate, SelectPolicy};
use weft_interface::bond::{BondConfig, HashPolicy, LacpConfig, Mode, PortConfig};
use weft_interface::fail::config::{FastConfig, GroupConfig};

use super::super::link;
use super::super::qos::Both;
use super::super::{BondSpec, GroupSpec, VlanSpec};
use super::qos::write_both;
use super::{Writer, key, mac, quoted, texts};

pub(super) fn write_links(
    w: &mut Writer,
    (bonds, vlans, groups): (&[BondSpec], &[VlanSpec], &[GroupSpec]),
    rates: &[(String, Both)],
) {
    for bond in bonds {
        write_bond(w, bond);
        write_rates(w, "bond", &bond.name, rates);
    }
    for VlanSpec { name, priority } in vlans {
        w.table(&format!("[vlan.{}]", key(name)));
        w.optional("priority", priority.as_ref());
    }
    for group in groups {
        write_group(w, group);
        write_rates(w, "fail", &group.name, rates);
    }
}

fn write_rates(w: &mut Writer, table: &str, name: &str, rates: &[(String, Both)]) {
    if let Some((_, both)) = rates.iter().find(|(of, _)| of == name) {
        w.table(&format!("[{table}.{name}.qos]"));
        write_both(w, both);
    }
}

fn write_group(w: &mut Writer, group: &GroupSpec) {
    let GroupSpec { name, config } = group;
    let GroupConfig {
        members,
        standby,
        failback,
        detect,
        probe,
        test,
        targets,
        fast,
        beyond,
        hook,
        quiet,
        flaps_max,
    } = config;
    let default = GroupConfig::default();
    w.table(&format!("[fail.{name}]"));
    w.list("members", &texts(members));
    w.list("standby", &texts(standby));
    w.unless("failback", failback, &default.failback);
    w.unless("detect_ms", &detect.as_millis(), &default.detect.as_millis());
    w.word("probe", probe, &default.probe, |p| {
        link::PROBES.iter().find(|(_, m)| m == p).map_or("", |(name, _)| name)
    });
    let test: Vec<_> = test.iter().map(|(m, a)| quoted(&format!("{m} {a}"))).collect();
    w.list("test", &test);
    w.list("targets", &texts(targets));
    w.list("beyond", &texts(beyond));
    w.optional("hook", hook.as_ref().map(|h| quoted(h)).as_ref());
    w.unless("quiet_ms", &quiet.as_millis(), &default.quiet.as_millis());
    w.unless("flaps_max", flaps_max, &default.flaps_max);
    if let Some(FastConfig { peers, interval, multiplier }) = fast {
        w.table(&format!("[fail.{name}.fast]"));
        w.list("peers", &texts(peers));
        let usual = FastConfig::default();
        w.unless("interval_ms", &interval.as_millis(), &usual.interval.as_millis());
        w.unless("multiplier", multiplier, &usual.multiplier);
    }
}

fn write_bond(w: &mut Writer, bond: &BondSpec) {
    let BondSpec { name, config } = bond;
    let BondConfig { ports, mode, hash, min_links, mac: own, primary, failback, up_delay, lacp } =
        config;
    let default = link::bond_default(name);
    w.table(&format!("[bond.{name}]"));
    w.list("ports", &texts(&ports.iter().map(|p| &p.name).collect::<Vec<_>>()));
    w.word("mode", mode, &default.mode, mode_name);
    w.word("hash", hash, &default.hash, hash_name);
    w.unless("min_links", min_links, &default.min_links);
    w.optional("mac", own.map(|m| quoted(&mac(m))).as_ref());
    w.optional("primary", primary.as_ref().map(|p| quoted(p)).as_ref());
    w.unless("failback", failback, &default.failback);
    w.unless("up_delay_ms", &up_delay.as_millis(), &default.up_delay.as_millis());
    write_lacp(w, name, lacp, &default.lacp);
    for port in ports {
        let PortConfig { name: port, priority, number, individual } = port;
        let usual = PortConfig::default();
        let changed =
            (*priority, *number, *individual) != (usual.priority, usual.number, usual.individual);
        if changed || w.all {
            w.table(&format!("[bond.{name}.lacp.ports.{port}]"));
            w.unless("priority", priority, &usual.priority);
            w.optional("number", number.as_ref());
            w.unless("individual", individual, &usual.individual);
        }
    }
}

fn write_lacp(w: &mut Writer, bond: &str, lacp: &LacpConfig, default: &LacpConfig) {
    if lacp == default && !w.all {
        return;
    }
    let LacpConfig {
        activity,
        rate,
        system_priority,
        system,
        key,
        independent,
        max_ports,
        select,
        fallback,
    } = lacp;
    w.table(&format!("[bond.{bond}.lacp]"));
    w.word("activity", activity, &default.activity, |a| match a {
        Activity::Active => "active",
        Activity::Passive => "passive",
    });
    w.word("rate", rate, &default.rate, |r| match r {
        Rate::Fast => "fast",
        Rate::Slow => "slow",
    });
    w.unless("system_priority", system_priority, &default.system_priority);
    w.optional("system", system.map(|m| quoted(&mac(m))).as_ref());
    w.unless("key", key, &default.key);
    w.unless("independent", independent, &default.independent);
    w.optional("max_ports", max_ports.as_ref());
    w.word("select", select, &default.select, |s| match s {
        SelectPolicy::Stable => "stable",
        SelectPolicy::Bandwidth => "bandwidth",
        SelectPolicy::Count => "count",
    });
    w.unless("fallback", fallback, &default.fallback);
}

fn mode_name(mode: &Mode) -> &str {
    link::MODES.iter().find(|(_, m)| m == mode).map_or("", |(name, _)| name)
}

fn hash_name(hash: &HashPolicy) -> &str {
    link::HASHES.iter().find(|(_, h)| h == hash).map_or("", |(name, _)| name)
}
