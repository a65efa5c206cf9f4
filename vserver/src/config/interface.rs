//! `[nic.*]` and `[alias.*]`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use weft_drivers::afxdp::FRAME_SLOTS_MAX;
use weft_drivers::device::LINK_HEADER_BYTES_MAX;
use weft_interface::tree::At as Place;
use weft_stack::time::Duration;

use super::dhcp::{AliasConflicts, read_conflicts};
use super::diagnostic::Report;
use super::link::{DETECT_MS, Places, read_hook, read_hosts};
use super::reader::{At, Section, nearest};
use super::{
    Alias, BeyondConfig, Cluster, Driver, Gather, NeighbourTable, Nic, PacketReceive, PollMode,
    TableSpec, Workers, XdpMode, qos,
};
use crate::access::Catalogue;
use crate::interface::{InterfaceName, Tree};

/// Below this no IPv4 packet of a fragment's minimal size fits (RFC 791).
const MTU_MIN: u64 = 68;
/// The largest IP packet without a jumbo payload option.
const MTU_MAX: u64 = 65_535;

pub(super) fn read_nics(
    report: &mut Report,
    mut section: Section,
    workers: &Workers,
    base: &Path,
) -> Vec<At<Nic>> {
    let mut nics: Vec<At<Nic>> = Vec::new();
    for (name, s) in section.named_tables(report) {
        let lower = name.value.to_ascii_lowercase();
        if !numbered(&lower, &["eth"]) {
            report.error(
                &name.span,
                format!("'{}' is no name of a NIC; use eth0, eth1, ...", name.value),
            );
        }
        if let Some(other) = nics.iter().find(|n| n.value.name == lower) {
            let line = report.line(other.span.start);
            report.error(
                &name.span,
                format!("NIC '{lower}' is at line {line} too; names ignore case"),
            );
        }
        let nic = read_nic(report, s, lower, workers, base, &nics);
        nics.push(At::new(nic, name.span));
    }
    nics
}

fn read_nic(
    report: &mut Report,
    mut s: Section,
    name: String,
    workers: &Workers,
    base: &Path,
    before: &[At<Nic>],
) -> Nic {
    let driver = s
        .choice(
            report,
            "driver",
            &[
                ("af-xdp", Driver::AfXdp),
                ("tap", Driver::Tap),
                ("tun", Driver::Tun),
                ("packet", Driver::Packet),
                ("mem", Driver::Mem),
            ],
        )
        .map_or(Driver::AfXdp, |d| d.value);
    let device = read_device(report, &mut s, &name, driver, before);
    let xdp = read_xdp(report, &mut s, driver);
    let gather = read_gather(report, &mut s, driver);
    let receive = read_receive(report, &mut s, driver);
    let poll = s.choice(
        report,
        "poll",
        &[
            ("interrupt", PollMode::Interrupt),
            ("adaptive", PollMode::Adaptive),
            ("busy", PollMode::Busy),
        ],
    );
    let trust = s.choice(report, "rx_checksum", &[("verify", false), ("trust", true)]);
    let gro = s.boolean(report, "gro");
    let queues = read_queues(report, &mut s);
    let mac = read_mac(report, &mut s);
    if let Some(v) = mac.as_ref().filter(|_| !matches!(driver, Driver::Tap | Driver::Mem)) {
        report.error(
            &v.span,
            "'mac' of a NIC is for the drivers \"tap\" and \"mem\"; give it to an alias instead",
        );
    }
    let mtu = read_mtu(report, &mut s, driver, workers);
    let capture = read_capture(report, &mut s, base);
    let qos = s.table(report, "qos").map(|s| qos::read_link(report, s)).unwrap_or_default();
    s.finish(report);
    Nic {
        name,
        device,
        driver,
        xdp,
        gather,
        receive,
        queues,
        poll: poll.map_or(PollMode::Adaptive, |v| v.value),
        rx_checksum_trust: trust.is_some_and(|v| v.value),
        gro: gro.is_none_or(|v| v.value),
        mac: mac.map(|v| v.value),
        mtu,
        capture,
        qos,
    }
}

fn read_xdp(report: &mut Report, s: &mut Section, driver: Driver) -> XdpMode {
    let xdp = s.choice(
        report,
        "xdp",
        &[
            ("auto", XdpMode::Auto),
            ("zero-copy", XdpMode::ZeroCopy),
            ("native", XdpMode::Native),
            ("generic", XdpMode::Generic),
        ],
    );
    if let Some(v) = xdp.as_ref().filter(|_| driver != Driver::AfXdp) {
        report.error(&v.span, "'xdp' is for driver \"af-xdp\"; remove it");
    }
    xdp.map_or(XdpMode::Auto, |v| v.value)
}

fn read_gather(report: &mut Report, s: &mut Section, driver: Driver) -> Gather {
    let choices = [("auto", Gather::Auto), ("always", Gather::Always)];
    let gather = s.choice(report, "gather", &choices);
    if let Some(v) = gather.as_ref().filter(|_| driver != Driver::AfXdp) {
        report.error(&v.span, "'gather' is for driver \"af-xdp\"; remove it");
    }
    gather.map_or(Gather::Auto, |v| v.value)
}

fn read_receive(report: &mut Report, s: &mut Section, driver: Driver) -> PacketReceive {
    let choices = [("messages", PacketReceive::Messages), ("ring", PacketReceive::Ring)];
    let receive = s.choice(report, "receive", &choices);
    if let Some(v) = receive.as_ref().filter(|_| driver != Driver::Packet) {
        report.error(&v.span, "'receive' is for driver \"packet\"; remove it");
    }
    receive.map_or(PacketReceive::Messages, |v| v.value)
}

fn read_device(
    report: &mut Report,
    s: &mut Section,
    name: &str,
    driver: Driver,
    before: &[At<Nic>],
) -> String {
    let Some(v) = s.string(report, "device") else {
        // A memory pair has no interface of the kernel.
        if driver != Driver::Mem && s.span_of_key("device").is_none() {
            s.missing(report, "device", "\"<name of the kernel's interface>\"");
        }
        return name.to_owned();
    };
    // IFNAMSIZ - 1, and the characters the kernel refuses.
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace();
    if v.value.is_empty() || v.value.len() > 15 || v.value.contains(bad) || v.value.starts_with('.')
    {
        report.error(
            &v.span,
            format!("'{}' is no name of an interface; it has 1 to 15 characters, none of them '/', ':' or space", v.value),
        );
    }
    if let Some(other) = before.iter().find(|n| n.value.device == v.value) {
        let line = report.line(other.span.start);
        report.error(
            &v.span,
            format!(
                "device '{}' belongs to NIC '{}' at line {line}; one NIC per device, put both aliases over '{}'",
                v.value, other.value.name, other.value.name
            ),
        );
    }
    v.value.to_owned()
}

fn read_queues(report: &mut Report, s: &mut Section) -> usize {
    s.integer(report, "queues", 1..=64).map_or(1, |v| v.value as usize)
}

fn read_mtu(
    report: &mut Report,
    s: &mut Section,
    driver: Driver,
    workers: &Workers,
) -> Option<usize> {
    let v = s.integer(report, "mtu", MTU_MIN..=MTU_MAX)?;
    let frame_bytes = workers.frame_bytes.min(4096);
    let room = (frame_bytes * FRAME_SLOTS_MAX - LINK_HEADER_BYTES_MAX) as u64;
    if driver == Driver::AfXdp && v.value > room {
        report.error(
            &v.span,
            format!(
                "mtu {} takes more than {FRAME_SLOTS_MAX} frames of {frame_bytes} bytes over \
                 AF_XDP; at most {room}",
                v.value
            ),
        );
    }
    Some(v.value as usize)
}

fn read_capture(report: &mut Report, s: &mut Section, base: &Path) -> Option<PathBuf> {
    let v = s.string(report, "capture")?;
    let path = base.join(v.value);
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !report.elsewhere && !directory.is_dir() {
        report.error(
            &v.span,
            format!(
                "directory '{}' does not exist; create it or change 'capture'",
                directory.display()
            ),
        );
    }
    Some(path)
}

pub(super) fn read_mac(report: &mut Report, s: &mut Section) -> Option<At<[u8; 6]>> {
    read_mac_of(report, s, "mac")
}

/// A MAC address of a host.
pub(super) fn read_mac_of(
    report: &mut Report,
    s: &mut Section,
    key: &'static str,
) -> Option<At<[u8; 6]>> {
    let v = s.string(report, key)?;
    let mut mac = [0; 6];
    let mut parts = v.value.split(':');
    let mut ok = true;
    for byte in &mut mac {
        let part = parts.next().unwrap_or_default();
        let hex = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
        match u8::from_str_radix(part, 16) {
            Ok(b) if hex => *byte = b,
            _ => ok = false,
        }
    }
    if !ok || parts.next().is_some() {
        report.error(
            &v.span,
            format!("'{}' is no MAC address; write six pairs like 02:00:00:00:00:01", v.value),
        );
        return None;
    }
    if mac[0] & 1 != 0 {
        let right = format!("{:02x}{}", mac[0] & 0xfe, &v.value[2..]);
        report.error(
            &v.span,
            format!("MAC address {} is a multicast address; clear the lowest bit of its first byte: {right}", v.value),
        );
        return None;
    }
    if mac == [0; 6] {
        report.error(
            &v.span,
            "MAC address 00:00:00:00:00:00 is no host's; use one like 02:00:00:00:00:01",
        );
        return None;
    }
    Some(At::new(mac, v.span))
}

pub(super) fn read_aliases(
    report: &mut Report,
    mut section: Section,
    nics: &[At<Nic>],
    places: &mut Places,
) -> Vec<At<Alias>> {
    let mut aliases: Vec<At<Alias>> = Vec::new();
    for (name, s) in section.named_tables(report) {
        let lower = name.value.to_ascii_lowercase();
        let plain = lower.split('.').next().unwrap_or_default();
        if !numbered(plain, &["mgmt", "data", "san"]) {
            report.error(
                &name.span,
                format!(
                    "'{}' is no name of an alias; use mgmt, data or san and a number, like data0",
                    name.value
                ),
            );
        }
        if let Some(other) = aliases.iter().find(|a| a.value.name == lower) {
            let line = report.line(other.span.start);
            report.error(
                &name.span,
                format!("alias '{lower}' is at line {line} too; names ignore case"),
            );
        }
        places.set(Place::Alias(aliases.len()), &name.span);
        let alias = read_alias(report, s, lower, nics, &aliases, places);
        aliases.push(At::new(alias, name.span));
    }
    if let Some(a) = aliases.get(usize::from(u16::MAX)) {
        report.error(&a.span, format!("more than {} aliases; use fewer", u16::MAX));
    }
    aliases
}

fn read_alias(
    report: &mut Report,
    mut s: Section,
    name: String,
    nics: &[At<Nic>],
    before: &[At<Alias>],
    places: &mut Places,
) -> Alias {
    let number = before.len();
    let base = name.split_once('.').map(|(base, _)| base);
    let base = base.and_then(|base| before.iter().find(|a| a.value.name == base));
    let over = read_over(report, &mut s, nics, base);
    if let Some(v) = &over {
        places.set(Place::Over(number), &v.span);
    }
    let mtu = s.integer(report, "mtu", MTU_MIN..=MTU_MAX);
    if let Some(v) = &mtu {
        places.set(Place::Mtu(number), &v.span);
    }
    let mac = read_mac(report, &mut s);
    if let Some(v) = &mac {
        places.set(Place::Mac(number), &v.span);
    }
    let conflicts = read_conflicts(report, &mut s);
    let beyond = read_beyond(report, &mut s);
    s.finish(report);
    let base = base.map(|a| a.value.over.clone());
    Alias {
        name,
        over: over.map(|v| v.value).or(base).unwrap_or_default(),
        mtu: mtu.map(|v| v.value as usize),
        mac: mac.map(|v| v.value),
        conflicts,
        beyond,
    }
}

/// What an alias is bound to.
fn read_beyond(report: &mut Report, s: &mut Section) -> BeyondConfig {
    let targets = read_hosts(report, s, "beyond");
    let mut beyond = BeyondConfig { targets, ..BeyondConfig::default() };
    let named = s.span_of_key("beyond").is_some();
    for key in ["detect_ms", "hook"] {
        if let Some(span) = s.span_of_key(key).filter(|_| !named) {
            let text = format!("'{key}' is for an alias with 'beyond'; add that, or remove it");
            report.error(&span, text);
        }
    }
    if let Some(v) = s.integer(report, "detect_ms", DETECT_MS) {
        beyond.detect = Duration::from_millis(v.value);
    }
    beyond.hook = read_hook(report, s);
    beyond
}

/// The name of what carries an alias; that of `base` if nothing is said.
fn read_over(
    report: &mut Report,
    s: &mut Section,
    nics: &[At<Nic>],
    base: Option<&At<Alias>>,
) -> Option<At<String>> {
    let Some(v) = s.string(report, "over") else {
        if s.span_of_key("over").is_none() && base.is_none() {
            let first = nics.first().map_or("eth0", |n| n.value.name.as_str());
            s.missing(report, "over", &format!("\"{first}\", the NIC that carries it"));
        }
        return None;
    };
    let lower = v.value.to_ascii_lowercase();
    let names: Vec<_> = nics.iter().map(|n| n.value.name.as_str()).collect();
    let other = ["bond", "fail"].iter().any(|kind| lower.starts_with(kind));
    if !other && !lower.contains('.') && !names.contains(&lower.as_str()) {
        report.error(
            &v.span,
            format!("unknown NIC '{}'; {}", v.value, suggest(&lower, &names, "nic", "eth0")),
        );
    }
    Some(At::new(lower, v.span))
}

/// What to write instead of an unknown name.
pub(super) fn suggest(word: &str, names: &[&str], table: &str, example: &str) -> String {
    if names.is_empty() {
        return format!("there is none; add [{table}.{example}]");
    }
    match nearest(word, names) {
        Some(near) if names.len() > 8 => format!("did you mean '{near}'?"),
        _ if names.len() > 8 => format!("add [{table}.{word}]"),
        _ => format!("there is {}; or add [{table}.{word}]", names.join(", ")),
    }
}

/// One of the prefixes and a decimal number without leading zeros.
fn numbered(name: &str, prefixes: &[&str]) -> bool {
    prefixes
        .iter()
        .filter_map(|p| name.strip_prefix(p))
        .any(|n| n.parse::<u16>().is_ok_and(|v| v.to_string() == n))
}

/// What vservers are checked against.
pub(super) struct Interfaces<'a> {
    aliases: &'a [At<Alias>],
    /// By alias.
    facts: Vec<Facts>,
    pub(super) qos_groups: &'a [qos::QosGroup],
    cluster: Option<&'a Cluster>,
    /// What access rules may name.
    pub(super) services: Option<&'a Catalogue>,
    /// Route tables shared by name.
    pub(super) tables: &'a [TableSpec],
    /// Neighbour tables shared by name.
    pub(super) neighbours: &'a [NeighbourTable],
    /// Workers of the host.
    pub(super) workers: usize,
}

/// What the tree tells of an alias.
struct Facts {
    /// The first alias of the same link with the same MAC address.
    device: usize,
    tun: bool,
    mtu: Option<usize>,
}

/// Without a tree there are errors already, and no more is said than is known.
fn facts(aliases: &[At<Alias>], tree: Option<&Tree>) -> Vec<Facts> {
    let mut first = HashMap::new();
    let fact = |(i, a): (usize, &At<Alias>)| {
        let a = &a.value;
        let device = *first.entry((a.link(), a.mac)).or_insert(i);
        let link = tree.map(|t| t.at(t.aliases[i].link));
        let (tun, below) = link.map_or((false, None), |l| (!l.ethernet, l.mtu));
        Facts { device, tun, mtu: a.mtu.or(below) }
    };
    aliases.iter().enumerate().map(fact).collect()
}

impl<'a> Interfaces<'a> {
    pub(super) fn new(
        aliases: &'a [At<Alias>],
        tree: Option<&Tree>,
        qos_groups: &'a [qos::QosGroup],
        cluster: Option<&'a Cluster>,
        workers: &Workers,
    ) -> Interfaces<'a> {
        Interfaces {
            aliases,
            facts: facts(aliases, tree),
            qos_groups,
            cluster,
            services: None,
            tables: &[],
            neighbours: &[],
            workers: workers.count,
        }
    }

    /// With the route tables that vservers may use.
    pub(super) fn with_tables(self, tables: &'a [TableSpec]) -> Interfaces<'a> {
        Interfaces { tables, ..self }
    }

    /// With the neighbour tables that vservers may use.
    pub(super) fn with_neighbours(self, neighbours: &'a [NeighbourTable]) -> Interfaces<'a> {
        Interfaces { neighbours, ..self }
    }

    /// With the services that access rules may name.
    pub(super) fn with_services(self, services: &'a Catalogue) -> Interfaces<'a> {
        Interfaces { services: Some(services), ..self }
    }

    pub(super) fn cluster(&self) -> Option<&Cluster> {
        self.cluster
    }

    pub(super) fn example(&self) -> &str {
        self.aliases.first().map_or("data0", |a| a.value.name.as_str())
    }

    pub(super) fn name(&self, alias: usize) -> &str {
        &self.aliases[alias].value.name
    }

    /// The device an alias's frames cannot be told apart on: itself if it has a MAC address of its
    /// own, else the first alias of the same link without one.
    pub(super) fn link(&self, alias: usize) -> usize {
        self.facts[alias].device
    }

    pub(super) fn is_tun(&self, alias: usize) -> bool {
        self.facts[alias].tun
    }

    /// What an alias says of conflicts.
    pub(super) fn conflicts(&self, alias: usize) -> AliasConflicts {
        self.aliases[alias].value.conflicts
    }

    /// The same of all that say something.
    pub(super) fn all_conflicts(&self) -> Vec<(usize, AliasConflicts)> {
        let all = self.aliases.iter().map(|a| a.value.conflicts).enumerate();
        all.filter(|(_, c)| *c != AliasConflicts::default()).collect()
    }

    /// The MTU as far as the file knows it.
    pub(super) fn mtu(&self, alias: usize) -> Option<usize> {
        self.facts[alias].mtu
    }
}

pub(super) fn find_alias(
    report: &mut Report,
    text: &At<&str>,
    name: &str,
    interfaces: &Interfaces,
) -> Option<usize> {
    let lower = name.to_ascii_lowercase();
    let found = interfaces.aliases.iter().position(|a| a.value.name == lower);
    let below = lower.parse().is_ok_and(|n: InterfaceName| n.alias_class().is_none());
    if found.is_none() && below {
        let span = report.span_of(name, &text.span);
        report.error(
            &span,
            format!(
                "addresses live on aliases only, and '{name}' is none; put one over it: \
                 [alias.data0] with over = \"{lower}\", and name that"
            ),
        );
    } else if found.is_none() {
        let names: Vec<_> = interfaces.aliases.iter().map(|a| a.value.name.as_str()).collect();
        let span = report.span_of(name, &text.span);
        report.error(
            &span,
            format!("unknown alias '{name}'; {}", suggest(&lower, &names, "alias", "data0")),
        );
    }
    found
}
