//! `[vserver.*.shim]`: connections that outlive their addresses.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use weft_shim::config::SetUp;
use weft_shim::locator::LOCATORS_MAX;
use weft_shim::reap::Policy;
use weft_stack::ip::address::Cidr;

use super::diagnostic::Report;
use super::reader::{At, Section};
use super::register::read_key_path;
use super::route::read_ip;
use super::{HostConfig, Vserver, vserver};

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
    /// Keys shared with peers: their ULIDs, and the file.
    pub keys: Vec<(Cidr, PathBuf)>,
    /// Contexts it may have.
    pub contexts: usize,
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
            keys: Vec::new(),
            contexts: CONTEXTS_DEFAULT,
        }
    }
}

pub(super) const SET_UPS: [(&str, SetUp); 3] =
    [("deferred", SetUp::Deferred), ("immediate", SetUp::Immediate), ("never", SetUp::Never)];
pub(super) const PRESETS: [(&str, ReapPreset); 2] =
    [("data-centre", ReapPreset::DataCentre), ("rfc", ReapPreset::Rfc)];
pub(super) const POLICIES: [(&str, Policy); 3] =
    [("failover", Policy::Failover), ("prefer", Policy::Prefer), ("spread", Policy::Spread)];

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

/// Reads the table.
pub(super) fn read_shim(report: &mut Report, mut s: Section, base: &Path) -> Shim {
    let default = Shim::default();
    let enabled = s.boolean(report, "enabled").is_none_or(|v| v.value);
    let set_up = s.choice(report, "set_up", &SET_UPS).map_or(default.set_up, |v| v.value);
    let reap = s.choice(report, "reap", &PRESETS).map_or(default.reap, |v| v.value);
    let policy = s.choice(report, "policy", &POLICIES).map_or(default.policy, |v| v.value);
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
    let parameters = s.string(report, "parameters").map(|t| base.join(t.value));
    let keys = s.strings(report, "keys");
    let keys = keys.iter().filter_map(|t| read_key(report, t, base)).collect();
    let contexts = s.integer(report, "contexts", 1..=1_048_576);
    s.finish(report);
    Shim {
        enabled,
        set_up,
        reap,
        policy,
        locators,
        parameters,
        keys,
        contexts: contexts.map_or(CONTEXTS_DEFAULT, |v| v.value as usize),
    }
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

/// What can be judged when everything is known: contexts are in the memory of one worker, and
/// locators are the vserver's.
pub(super) fn check(report: &mut Report, config: &HostConfig, places: &[vserver::Places]) {
    for (v, place) in config.vservers.iter().zip(places) {
        if v.shim_on().is_none() {
            continue;
        }
        if config.workers.count > 1 {
            let text = format!(
                "vserver '{}' has a shim, whose contexts one worker keeps, and there are {} workers; set count = 1 in [workers], or enabled = false here",
                v.name, config.workers.count
            );
            report.error(&place.shim, text);
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
