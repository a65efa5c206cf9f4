//! `[vserver.*.shim]`: connections that outlive their addresses.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use weft_shim::config::SetUp;
use weft_shim::locator::LOCATORS_MAX;
use weft_shim::reap::Policy;
use weft_stack::ip::address::Cidr;

use super::diagnostic::Report;
use super::reader::{At, Section, any_of};
use super::register::read_key_path;
use super::route::read_ip;
use super::{HostConfig, Vserver, WORKERS_MAX, vserver};

/// Contexts of a vserver that says nothing else.
pub(super) const CONTEXTS_DEFAULT: usize = 16_384;

/// How failures are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReapPreset {
    /// Between weft hosts: within 200 ms while there is traffic.
    #[default]
    DataCentre,
    /// The constants of RFC 5534.
    Rfc,
}

/// The UDP port of a shim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShimUdp {
    /// Its number.
    pub port: u16,
    /// IPv6 locators are reached by it too, not only IPv4 ones.
    pub all: bool,
    /// Seconds after which a NAT's mapping is renewed.
    pub keepalive_s: u16,
}

/// Kinds of proofs of locators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShimProofs {
    /// Hash-based sets (RFC 5535).
    pub hba: bool,
    /// Signatures (RFC 3972).
    pub cga: bool,
    /// Shared keys.
    pub keyed: bool,
}

impl Default for ShimProofs {
    fn default() -> ShimProofs {
        ShimProofs { hba: true, cga: true, keyed: true }
    }
}

impl ShimProofs {
    /// Their words.
    pub fn words(&self) -> Vec<&'static str> {
        let set = [self.hba, self.cga, self.keyed];
        let all = PROOFS.iter().zip(set).filter(|(_, is)| *is);
        all.map(|((word, _), _)| *word).collect()
    }
}

/// One of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OneProof {
    Hba,
    Cga,
    Keyed,
}

/// A locator of the vserver and its priority: lower is tried earlier.
pub type ShimLocator = (IpAddr, u8);

/// The multipath shim of a vserver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shim {
    /// It has one; what is inherited may say no.
    pub enabled: bool,
    /// When contexts are set up for its traffic.
    pub set_up: SetUp,
    /// How failures are found.
    pub reap: ReapPreset,
    /// Which of several working pairs is used.
    pub policy: Policy,
    /// Its locators; empty: its addresses, see [`Vserver::locators`].
    pub locators: Vec<ShimLocator>,
    /// Parameters of the hash-based set that its addresses are of (RFC 5535), a file.
    pub parameters: Option<PathBuf>,
    /// Key that the set was made with, which signs for further locators (RFC 3972), a file.
    pub signing_key: Option<PathBuf>,
    /// Keys shared with peers: their ULIDs, and the file.
    pub keys: Vec<(Cidr, PathBuf)>,
    /// Proofs that are taken from peers.
    pub accept: ShimProofs,
    /// Proofs that peers are given, of those there are files for.
    pub offer: ShimProofs,
    /// Its UDP port.
    pub udp: Option<ShimUdp>,
    /// Contexts it may have.
    pub contexts: usize,
    /// The worker with its contexts and all flows of the vserver; `None`: the one that has the
    /// fewest such vservers.
    pub home: Option<u16>,
}

impl Default for Shim {
    fn default() -> Shim {
        Shim {
            enabled: true,
            set_up: SetUp::default(),
            reap: ReapPreset::default(),
            policy: Policy::default(),
            locators: Vec::new(),
            parameters: None,
            signing_key: None,
            keys: Vec::new(),
            accept: ShimProofs::default(),
            offer: ShimProofs::default(),
            udp: None,
            contexts: CONTEXTS_DEFAULT,
            home: None,
        }
    }
}

pub(super) const SET_UPS: [(&str, SetUp); 3] =
    [("deferred", SetUp::Deferred), ("immediate", SetUp::Immediate), ("never", SetUp::Never)];
pub(super) const PRESETS: [(&str, ReapPreset); 2] =
    [("data-centre", ReapPreset::DataCentre), ("rfc", ReapPreset::Rfc)];
pub(super) const POLICIES: [(&str, Policy); 3] =
    [("failover", Policy::Failover), ("prefer", Policy::Prefer), ("spread", Policy::Spread)];

const PROOFS: [(&str, OneProof); 3] =
    [("hba", OneProof::Hba), ("cga", OneProof::Cga), ("keyed", OneProof::Keyed)];
/// Whether IPv6 locators are reached by UDP too.
const IN_UDP: [(&str, bool); 2] = [("ipv4", false), ("all", true)];
/// RFC 3948 4.
pub(super) const KEEPALIVE_S_DEFAULT: u16 = 20;

/// The word for a value of one of these.
pub(super) fn word<T: PartialEq + Copy>(words: &[(&'static str, T)], value: T) -> &'static str {
    words.iter().find(|(_, v)| *v == value).map_or("", |(word, _)| word)
}

impl Shim {
    /// Words for when contexts are set up, how failures are found, which pair is used.
    pub fn words(&self) -> [&'static str; 3] {
        [word(&SET_UPS, self.set_up), word(&PRESETS, self.reap), word(&POLICIES, self.policy)]
    }
}

impl Vserver {
    /// The shim, if it is on.
    pub fn shim_on(&self) -> Option<&Shim> {
        self.shim.as_ref().filter(|shim| shim.enabled)
    }

    /// Its locators: as configured, or its addresses but link-local ones; IPv4 addresses if it has
    /// keys, since nothing else proves them.
    pub fn locators(&self) -> Vec<ShimLocator> {
        let Some(shim) = &self.shim else { return Vec::new() };
        if !shim.locators.is_empty() {
            return shim.locators.clone();
        }
        let fits = |a: &IpAddr| match a {
            IpAddr::V4(a) => !shim.keys.is_empty() && !a.is_link_local(),
            IpAddr::V6(a) => !a.is_unicast_link_local(),
        };
        let all = self.addresses.iter().map(|(_, cidr)| cidr.addr).filter(fits);
        all.take(LOCATORS_MAX).map(|addr| (addr, 0)).collect()
    }
}

/// Reads the table. `workers`: how many the host has.
pub(super) fn read_shim(report: &mut Report, mut s: Section, base: &Path, workers: usize) -> Shim {
    let default = Shim::default();
    let enabled = s.boolean(report, "enabled").is_none_or(|v| v.value);
    let set_up = s.choice(report, "set_up", &SET_UPS).map_or(default.set_up, |v| v.value);
    let reap = s.choice(report, "reap", &PRESETS).map_or(default.reap, |v| v.value);
    let policy = s.choice(report, "policy", &POLICIES).map_or(default.policy, |v| v.value);
    let locators = read_locators(report, &mut s);
    let proving = read_proving(report, &mut s, base);
    let udp = read_udp(report, &mut s);
    let contexts = s.integer(report, "contexts", 1..=1_048_576);
    let home = read_home(report, &mut s, workers);
    s.finish(report);
    Shim {
        enabled,
        set_up,
        reap,
        policy,
        locators,
        parameters: proving.parameters,
        signing_key: proving.signing_key,
        keys: proving.keys,
        accept: proving.accept,
        offer: proving.offer,
        udp,
        contexts: contexts.map_or(CONTEXTS_DEFAULT, |v| v.value as usize),
        home,
    }
}

fn read_home(report: &mut Report, s: &mut Section, workers: usize) -> Option<u16> {
    let home = s.integer(report, "home", 0..=WORKERS_MAX as u64 - 1)?;
    if home.value as usize >= workers {
        let (n, last) = (home.value, workers - 1);
        let text = format!(
            "'home' is worker {n}, and 'count' of [workers] is {workers}: the last one is {last}; \
             name one up to that, or leave it out"
        );
        report.error(&home.span, text);
    }
    Some(home.value as u16)
}

fn read_locators(report: &mut Report, s: &mut Section) -> Vec<ShimLocator> {
    let mut locators: Vec<ShimLocator> = Vec::new();
    for t in s.strings(report, "locators") {
        let Some(locator) = read_locator(report, &t) else { continue };
        if locators.iter().any(|(addr, _)| *addr == locator.0) {
            report.error(&t.span, format!("locator {} twice; keep one of them", locator.0));
        } else if locators.len() == LOCATORS_MAX {
            report.error(&t.span, format!("more than {LOCATORS_MAX} locators; use fewer"));
        } else {
            locators.push(locator);
        }
    }
    locators
}

/// Files that prove locators, and which proofs count.
struct Proving {
    parameters: Option<PathBuf>,
    signing_key: Option<PathBuf>,
    keys: Vec<(Cidr, PathBuf)>,
    accept: ShimProofs,
    offer: ShimProofs,
}

fn read_proving(report: &mut Report, s: &mut Section, base: &Path) -> Proving {
    let parameters = s.string(report, "parameters").map(|t| base.join(t.value));
    let signing = s.string(report, "signing_key");
    if let (Some(t), None) = (&signing, &parameters) {
        let text = "'signing_key' signs for a hash-based set; name its file with 'parameters'";
        report.error(&t.span, text.to_owned());
    }
    let signs = signing.is_some();
    let signing_key = signing.and_then(|t| read_key_path(report, &t, base));
    let written = s.strings(report, "keys");
    let keys = written.iter().filter_map(|t| read_key(report, t, base)).collect();
    let accept = read_proofs(report, s, "accept", |_| None);
    let lacks = |proof| match proof {
        OneProof::Hba => parameters.is_none().then_some("parameters"),
        OneProof::Cga => (!signs).then_some("signing_key"),
        OneProof::Keyed => written.is_empty().then_some("keys"),
    };
    let offer = read_proofs(report, s, "offer", lacks);
    Proving { parameters, signing_key, keys, accept, offer }
}

/// A list of proofs; left out: all. `lacks`: the key without which there is no such proof.
fn read_proofs(
    report: &mut Report,
    s: &mut Section,
    key: &'static str,
    lacks: impl Fn(OneProof) -> Option<&'static str>,
) -> ShimProofs {
    let written = s.strings(report, key);
    let words = any_of(&PROOFS.map(|(word, _)| word));
    if written.is_empty() {
        if let Some(span) = s.span_of_key(key) {
            report.error(&span, format!("'{key}' names no proof of locators; use {words}"));
        }
        return ShimProofs::default();
    }
    let mut proofs = ShimProofs { hba: false, cga: false, keyed: false };
    for t in written {
        let Some((_, proof)) = PROOFS.iter().find(|(word, _)| *word == t.value) else {
            report.error(&t.span, format!("'{}' is no proof of locators; use {words}", t.value));
            continue;
        };
        if let Some(missing) = lacks(*proof) {
            let text = format!("'{}' cannot be offered without '{missing}'; add that key", t.value);
            report.error(&t.span, text);
        }
        match proof {
            OneProof::Hba => proofs.hba = true,
            OneProof::Cga => proofs.cga = true,
            OneProof::Keyed => proofs.keyed = true,
        }
    }
    proofs
}

fn read_udp(report: &mut Report, s: &mut Section) -> Option<ShimUdp> {
    let port = s.integer(report, "udp_port", 1..=65_535);
    let all = s.choice(report, "udp_for", &IN_UDP);
    let keepalive_s = s.integer(report, "udp_keepalive_s", 1..=3600);
    let Some(port) = port else {
        let spans =
            [("udp_for", all.map(|v| v.span)), ("udp_keepalive_s", keepalive_s.map(|v| v.span))];
        for (key, span) in spans {
            if let Some(span) = span {
                report.error(&span, format!("'{key}' says nothing without 'udp_port'; add it"));
            }
        }
        return None;
    };
    Some(ShimUdp {
        port: port.value as u16,
        all: all.is_some_and(|v| v.value),
        keepalive_s: keepalive_s.map_or(KEEPALIVE_S_DEFAULT, |v| v.value as u16),
    })
}

/// `"address"` or `"address priority"`.
fn read_locator(report: &mut Report, t: &At<&str>) -> Option<ShimLocator> {
    let mut words = t.value.split_whitespace();
    let addr = At::new(words.next().unwrap_or_default(), t.span.clone());
    let addr = read_ip(report, &addr)?;
    let priority = words.next().map_or(Some(0), |w| w.parse().ok());
    let (Some(priority), None) = (priority, words.next()) else {
        let text =
            format!("'{}' is no locator; write \"{addr}\" or \"{addr} 10\", a priority", t.value);
        report.error(&t.span, text);
        return None;
    };
    Some((addr, priority))
}

/// `"network file"`.
fn read_key(report: &mut Report, t: &At<&str>, base: &Path) -> Option<(Cidr, PathBuf)> {
    let parts = t.value.split_once(char::is_whitespace);
    let peers = parts.and_then(|(net, _)| net.parse::<Cidr>().ok());
    let (Some(peers), Some((_, file))) = (peers, parts) else {
        let text = format!(
            "'{}' is no key; write \"2001:db8::/32 /etc/weft/peers.key\": peers and a file",
            t.value
        );
        report.error(&t.span, text);
        return None;
    };
    let file = At::new(file.trim(), t.span.clone());
    Some((peers, read_key_path(report, &file, base)?))
}

/// What can be judged when everything is known: locators are the vserver's.
pub(super) fn check(report: &mut Report, config: &HostConfig, places: &[vserver::Places]) {
    for (v, place) in config.vservers.iter().zip(places) {
        if v.shim_on().is_none() {
            continue;
        }
        let locators = v.locators();
        if locators.is_empty() {
            let text = format!(
                "vserver '{}' has a shim and no locator; give it IPv6 addresses, or name locators here",
                v.name
            );
            report.error(&place.shim, text);
        }
        let leased = !v.slaac.is_empty() || !v.dhcp.is_empty();
        for (addr, _) in locators {
            if !leased && !v.addresses.iter().any(|(_, cidr)| cidr.addr == addr) {
                let text = format!(
                    "locator {addr} is no address of vserver '{}'; add it to 'addresses'",
                    v.name
                );
                report.error(&place.shim, text);
            }
        }
    }
}
