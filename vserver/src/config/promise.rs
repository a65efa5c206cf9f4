//! Whether what is guaranteed can be given: the guarantees below a NIC or a group add up to no more
//! than its limit.

use super::HostConfig;
use super::diagnostic::Report;
use super::qos::{Both, Rates};
use super::vserver::Places;
use crate::qos::nics_of;

/// What a guarantee is in: guarantee and limit of rates, and how a number of it is said.
struct Unit {
    of: fn(&Rates) -> (Option<u64>, Option<u64>),
    name: &'static str,
}

const UNITS: [Unit; 2] = [
    Unit { of: |r| (r.guarantee, r.limit), name: "bit/s" },
    Unit { of: |r| (r.guarantee_packets, r.limit_packets), name: "packets/s" },
];
/// A direction: its name, and its rates.
type Direction = (&'static str, fn(&Both) -> &Rates);
const WAYS: [Direction; 2] = [("send", |b| &b.send), ("receive", |b| &b.receive)];

/// Of each NIC, bond and group that has a limit. What is too much is told at the last vserver that has a
/// part in it. A vserver on several NICs may want what it is promised on any of them.
pub(super) fn check(report: &mut Report, config: &HostConfig, places: &[Places]) {
    // Otherwise a vserver's part is wrong already.
    if !report.is_empty() {
        return;
    }
    let below = config.nics_of_aliases();
    let nics: Vec<Vec<usize>> = config.vservers.iter().map(|v| nics_of(v, &below)).collect();
    let tops = links_below(config);
    for (word, way) in WAYS {
        for unit in &UNITS {
            let of = |both: &Both| (unit.of)(way(both));
            for (n, nic) in config.nics.iter().enumerate() {
                let Some(limit) = of(&nic.qos).1 else { continue };
                let below: Vec<_> = (0..nics.len()).filter(|v| nics[*v].contains(&n)).collect();
                let sum = promised(config, &below, None, &of);
                let what = format!("NIC '{}'", nic.name);
                tell(report, (word, unit), places, &below, (sum, limit, &what));
            }
            for (name, rates) in &config.link_qos {
                let Some(limit) = of(rates).1 else { continue };
                let on_it = |v: &usize| tops[*v].iter().any(|top| top == name);
                let below: Vec<_> = (0..nics.len()).filter(on_it).collect();
                let sum = promised(config, &below, None, &of);
                tell(report, (word, unit), places, &below, (sum, limit, name));
            }
            for (g, group) in config.qos_groups.iter().enumerate() {
                let Some(limit) = of(&group.rates).1 else { continue };
                let below: Vec<_> = (0..nics.len()).filter(|v| is_below(config, *v, g)).collect();
                let sum = promised(config, &below, Some(g), &of);
                let what = format!("group '{}'", group.name);
                tell(report, (word, unit), places, &below, (sum, limit, &what));
            }
        }
    }
}

/// By vserver: names of the links that its rates are those of.
fn links_below(config: &HostConfig) -> Vec<Vec<String>> {
    let tree = config.tree().unwrap_or_default();
    let lanes: Vec<Vec<usize>> = config.lanes_of_aliases().into_iter().map(|l| vec![l]).collect();
    let name = |link: usize| tree.links[link].name.to_string();
    let of = |v| nics_of(v, &lanes).into_iter().map(name).collect();
    config.vservers.iter().map(of).collect()
}

fn tell(
    report: &mut Report,
    (word, unit): (&str, &Unit),
    places: &[Places],
    below: &[usize],
    (sum, limit, what): (u64, u64, &str),
) {
    let Some(last) = below.last().filter(|_| sum > limit) else { return };
    let unit = unit.name;
    let text = format!(
        "with this, {sum} {unit} to {word} are guaranteed below {what}, which has a limit of {limit} \
         {unit}; guarantee less or raise the limit"
    );
    report.error(&places[*last].qos, text);
}

fn is_below(config: &HostConfig, vserver: usize, group: usize) -> bool {
    let first = config.vservers[vserver].qos.group;
    std::iter::successors(first, |g| config.qos_groups[*g].parent).any(|g| g == group)
}

/// What the vservers in and below a group are promised; `None`: on a NIC.
fn promised(
    config: &HostConfig,
    vservers: &[usize],
    group: Option<usize>,
    of: &impl Fn(&Both) -> (Option<u64>, Option<u64>),
) -> u64 {
    let own = vservers.iter().map(|v| &config.vservers[*v].qos).filter(|q| q.group == group);
    let own = own.map(|q| {
        let classes = q.classes.iter().filter(|c| c.each.is_none());
        let classes: u64 = classes.filter_map(|c| of(&c.rates).0).sum();
        classes.max(of(&q.rates).0.unwrap_or(0))
    });
    let groups = config.qos_groups.iter().enumerate().filter(|(_, g)| g.parent == group);
    let groups = groups.filter(|(g, _)| vservers.iter().any(|v| is_below(config, *v, *g)));
    let groups = groups.map(|(g, group)| {
        promised(config, vservers, Some(g), of).max(of(&group.rates).0.unwrap_or(0))
    });
    own.chain(groups).fold(0, u64::saturating_add)
}
