//! From a list of rules to a table that decides with two binary searches: the port's interval, then
//! the client's. Vservers with the same rules share one table.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use weft_stack::admission::{First, Watch};
use weft_stack::ip::address::Cidr;

use super::intervals::Intervals;
use super::{AccessRule, Protocol};
use crate::interface::AliasClass;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// No rule matches.
const NONE: u16 = u16::MAX;

/// Which rule decides, by client.
#[derive(Debug)]
struct Cell {
    v4: Intervals<u32, u16>,
    v6: Intervals<u128, u16>,
}

impl Cell {
    fn new(rules: &[AccessRule], these: &[u16]) -> Cell {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        // The first rule is painted last.
        for number in these.iter().rev() {
            let rule = &rules[usize::from(*number)];
            if rule.is_from_all() {
                v4.push((0, u32::MAX, *number));
                v6.push((0, u128::MAX, *number));
            }
            let single = |addr: &IpAddr| {
                let prefix_len = if addr.is_ipv4() { 32 } else { 128 };
                Cidr { addr: *addr, prefix_len }
            };
            let named = rule.names.iter().flat_map(|n| &n.addresses).map(single);
            for cidr in rule.from.iter().copied().chain(named) {
                match cidr.addr {
                    IpAddr::V4(a) => {
                        let rest = u32::MAX.checked_shr(cidr.prefix_len.into()).unwrap_or(0);
                        v4.push((u32::from(a) & !rest, u32::from(a) | rest, *number));
                    }
                    IpAddr::V6(a) => {
                        let rest = u128::MAX.checked_shr(cidr.prefix_len.into()).unwrap_or(0);
                        v6.push((u128::from(a) & !rest, u128::from(a) | rest, *number));
                    }
                }
            }
        }
        Cell { v4: Intervals::paint(NONE, v4), v6: Intervals::paint(NONE, v6) }
    }

    fn get(&self, client: IpAddr) -> u16 {
        match client {
            IpAddr::V4(a) => *self.v4.get(a.into()),
            IpAddr::V6(a) => *self.v6.get(a.into()),
        }
    }
}

type Shared = Arc<Cell>;

/// What holds on one alias.
#[derive(Debug)]
struct Column {
    tcp: Intervals<u16, Place>,
    udp: Intervals<u16, Place>,
    echo: Shared,
    others: Shared,
}

/// A cell of its own identity, so that neighbours with the same one become one interval.
#[derive(Clone, Debug)]
struct Place(Shared, bool);

impl PartialEq for Place {
    fn eq(&self, other: &Place) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Rules, ready to be asked.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) rules: Box<[AccessRule]>,
    pub(super) watch: Arc<Watch>,
    /// By alias.
    columns: Box<[Arc<Column>]>,
}

/// Cells by the rules that can decide in them.
#[derive(Default)]
struct Cells(HashMap<Vec<u16>, Shared>);

impl Cells {
    /// Of the rules `on` an alias those that mean such a packet.
    fn of(&mut self, rules: &[AccessRule], on: &[u16], protocol: Protocol, port: u16) -> Place {
        let mut these: Vec<u16> = Vec::new();
        for number in on {
            let rule = &rules[usize::from(*number)];
            if rule.ports.iter().any(|p| p.covers(protocol, port)) {
                these.push(*number);
                if rule.is_from_all() {
                    break;
                }
            }
        }
        let matters = !these.is_empty();
        let cell = self.0.entry(these).or_insert_with_key(|k| Arc::new(Cell::new(rules, k)));
        Place(Arc::clone(cell), matters)
    }

    fn ports(
        &mut self,
        rules: &[AccessRule],
        on: &[u16],
        protocol: Protocol,
    ) -> Intervals<u16, Place> {
        let mut cuts = vec![0];
        for number in on {
            for p in &rules[usize::from(*number)].ports {
                if p.covers(protocol, p.first) {
                    cuts.push(p.first);
                    cuts.extend(p.last.checked_add(1));
                }
            }
        }
        cuts.sort_unstable();
        cuts.dedup();
        let first = self.of(rules, on, protocol, 0);
        let each: Vec<_> =
            cuts.iter().map(|c| (*c, u16::MAX, self.of(rules, on, protocol, *c))).collect();
        Intervals::paint(first, each)
    }
}

fn watch_ports(watch: &mut Watch, number: u8, ports: &Intervals<u16, Place>) {
    let all: Vec<(u16, bool)> = ports.iter().map(|(start, place)| (start, place.1)).collect();
    for (i, (start, matters)) in all.iter().enumerate() {
        if *matters {
            let last = all.get(i + 1).map_or(u16::MAX, |(next, _)| next - 1);
            watch.add(number, *start, last);
        }
    }
}

impl Table {
    /// `kinds`: of each alias of the host.
    pub(super) fn new(rules: Vec<AccessRule>, kinds: &[Option<AliasClass>]) -> Table {
        let mut cells = Cells::default();
        let mut known: HashMap<Vec<u16>, Arc<Column>> = HashMap::new();
        let mut watch = Watch::default();
        let mut columns = Vec::new();
        for (alias, kind) in kinds.iter().enumerate() {
            let on = rules.iter().zip(0u16..).filter(|(r, _)| r.holds_on(alias, *kind));
            let on: Vec<u16> = on.map(|(_, number)| number).collect();
            let column = known.entry(on).or_insert_with_key(|on| {
                let tcp = cells.ports(&rules, on, Protocol::Tcp);
                let udp = cells.ports(&rules, on, Protocol::Udp);
                let echo = cells.of(&rules, on, Protocol::Icmp, 0);
                let others = cells.of(&rules, on, Protocol::Any, 0);
                watch_ports(&mut watch, TCP, &tcp);
                watch_ports(&mut watch, UDP, &udp);
                watch.echo |= echo.1;
                watch.others |= others.1;
                Arc::new(Column { tcp, udp, echo: echo.0, others: others.0 })
            });
            columns.push(Arc::clone(column));
        }
        watch.marks = rules.iter().any(|r| r.mark != 0);
        Table { rules: rules.into(), watch: Arc::new(watch), columns: columns.into() }
    }

    /// The number of the rule that decides; `None`: none does, which allows.
    pub(super) fn find(&self, first: &First) -> Option<usize> {
        let column = self.columns.get(usize::from(first.alias.0))?;
        let cell = match first.protocol {
            TCP => &column.tcp.get(first.port).0,
            UDP => &column.udp.get(first.port).0,
            ICMP | ICMPV6 => &column.echo,
            _ => &column.others,
        };
        Some(cell.get(first.src)).filter(|n| *n != NONE).map(usize::from)
    }
}

/// What the compiled table must find, by going through the list.
#[cfg(test)]
pub(super) fn naive(
    rules: &[AccessRule],
    kinds: &[Option<AliasClass>],
    first: &First,
) -> Option<usize> {
    let protocol = match first.protocol {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        ICMP | ICMPV6 => Protocol::Icmp,
        _ => Protocol::Any,
    };
    let alias = usize::from(first.alias.0);
    rules.iter().position(|r| {
        r.holds_on(alias, kinds[alias])
            && r.ports.iter().any(|p| p.covers(protocol, first.port))
            && (r.is_from_all()
                || r.from.iter().any(|c| c.contains(first.src))
                || r.names.iter().any(|n| n.addresses.contains(&first.src)))
    })
}

/// Makes tables, each once.
#[derive(Debug, Default)]
pub(super) struct Compiler {
    kinds: Vec<Option<AliasClass>>,
    known: HashMap<Vec<AccessRule>, Weak<Table>>,
}

impl Compiler {
    /// The aliases are these from now on.
    pub(super) fn set_kinds(&mut self, kinds: Vec<Option<AliasClass>>) {
        if self.kinds != kinds {
            self.kinds = kinds;
            self.known.clear();
        }
    }

    pub(super) fn table(&mut self, rules: Vec<AccessRule>) -> Arc<Table> {
        if let Some(table) = self.known.get(&rules).and_then(Weak::upgrade) {
            return table;
        }
        self.known.retain(|_, table| table.strong_count() > 0);
        let table = Arc::new(Table::new(rules.clone(), &self.kinds));
        self.known.insert(rules, Arc::downgrade(&table));
        table
    }
}
