//! What a host says of its interfaces, and what of them outlives its process.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use weft_interface::bond::BondReport;
use weft_interface::doctor::{Diagnosis, Evidence, Reports, diagnose};
use weft_interface::events::{Event, Page, micros};
use weft_interface::keeper::{OfflineError, Saved};
use weft_interface::lldp::LldpReport;
use weft_interface::paths::{PathsReport, ProbeLine};
use weft_stack::time::Duration;

use super::Host;
use crate::config::HostConfig;
use crate::runtime::{Core, Keeping};

/// A record of a boot of this machine.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// Which boot: times are those since it.
    boot: String,
    at_ms: u64,
    saved: Saved,
}

const FILE: &str = "interfaces.json";

fn boot() -> io::Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned())
}

/// Milliseconds since the boot, sleep counted.
fn since_boot_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// What a former process left in the directory, and how long ago; none if it is of another boot or
/// cannot be read, which costs a few seconds of negotiation.
pub(super) fn load(directory: &Path) -> Option<(Saved, Duration)> {
    let text = std::fs::read(directory.join(FILE)).ok()?;
    let record: Record = serde_json::from_slice(&text).ok()?;
    let away = since_boot_ms().checked_sub(record.at_ms)?;
    (boot().ok()? == record.boot).then(|| (record.saved, Duration::from_millis(away)))
}

fn store(directory: &Path, saved: Saved) -> io::Result<()> {
    let record = Record { boot: boot()?, at_ms: since_boot_ms(), saved };
    std::fs::create_dir_all(directory)?;
    // Whole or not at all.
    let (new, path) = (directory.join(format!("{FILE}.new")), directory.join(FILE));
    std::fs::write(&new, serde_json::to_vec(&record)?)?;
    std::fs::rename(new, path)
}

/// Routers of configured routes out of some aliases.
fn routers(config: &HostConfig, of: impl Fn(usize) -> bool) -> Vec<IpAddr> {
    let shared = config.tables.iter().flat_map(|t| &t.routes);
    let routes = config.vservers.iter().flat_map(|v| &v.routes).chain(shared);
    let mut routers: Vec<IpAddr> = routes.filter(|r| of(r.alias)).filter_map(|r| r.via).collect();
    routers.sort_unstable();
    routers.dedup();
    routers
}

impl Host {
    /// Failover groups: data addresses, groups, members, targets, of one moment.
    pub fn paths(&self) -> PathsReport {
        self.with_keeping(|k, host| k.paths(host.now())).unwrap_or_default()
    }

    /// Bonds by name.
    pub fn bonds(&self) -> Vec<(String, BondReport)> {
        self.with_keeping(|k, host| k.bonds(host.now())).unwrap_or_default()
    }

    /// What is wrong with switches, cables and the tree of interfaces, the worst first.
    pub fn doctor(&self) -> Vec<Diagnosis> {
        let found = self.shared.home().with_core(Core::diagnose);
        // Without machines there is the configuration to look at.
        found.ok().flatten().unwrap_or_else(|| {
            let tree = self.config().tree().unwrap_or_default();
            diagnose(&Evidence::new(&tree, Reports::default(), Vec::new()))
        })
    }

    /// Who speaks LLDP at the other ends of the NICs, with what was counted, by NIC; nothing where no
    /// bond or failover group is.
    pub fn lldp(&self) -> Vec<LldpReport> {
        let told = self.shared.home().with_core(|core, now| core.lldp(now));
        told.ok().flatten().unwrap_or_default()
    }

    /// What happened to the interfaces after the event of that number (none: nothing, but the number
    /// of the last one), at most a page; and the host's clock in microseconds.
    pub fn events(&self, after: Option<u64>) -> (u64, Page<Event>) {
        let page = self.with_keeping(|k, _| k.events(after));
        (micros(self.now()), page.unwrap_or_else(Page::empty))
    }

    /// Probes that ended, as [`Host::events`].
    pub fn probes(&self, after: Option<u64>) -> (u64, Page<ProbeLine>) {
        let page = self.with_keeping(|k, _| k.probes(after));
        (micros(self.now()), page.unwrap_or_else(Page::empty))
    }

    /// Takes a member out of its failover group, or a port out of its bond, or puts it back.
    pub fn set_offline(&self, name: &str, offline: bool) -> Result<(), OfflineError> {
        let unknown = || Err(OfflineError::Unknown(name.to_owned()));
        let home = self.shared.home();
        home.with_core(|core, now| core.set_offline(now, name, offline))
            .unwrap_or_else(|_| unknown())
    }

    /// Routers of configured routes over each failover group, whom its probers ask first, and of
    /// routes out of aliases that are bound to targets beyond their links.
    pub(crate) fn follow_routers(&self, config: &HostConfig) {
        let Ok(tree) = config.tree() else { return };
        for group in &tree.groups {
            let over = |alias: &usize| {
                let on = tree.aliases.get(*alias).map(|a| a.link);
                on == Some(group.link) || on.is_some_and(|l| tree.below(l).contains(&group.link))
            };
            let routers = routers(config, |alias| over(&alias));
            let (home, name) = (self.shared.home(), &tree.at(group.link).name);
            // A host that has stopped probes nobody.
            let _ = home.with_core(|core, now| core.set_routers(now, name, &routers));
        }
        for (number, alias) in tree.aliases.iter().enumerate() {
            if alias.beyond.targets.is_empty() {
                continue;
            }
            let routers = routers(config, |of| of == number);
            let home = self.shared.home();
            // As above.
            let _ = home.with_core(|core, now| core.set_alias_routers(now, &alias.name, &routers));
        }
    }

    /// Writes what the next process goes on from. Without bonds there is nothing.
    pub(super) fn save_interfaces(&self) -> io::Result<()> {
        let config = self.config();
        if config.bonds.is_empty() {
            return Ok(());
        }
        let saved = self.with_keeping(|k, host| k.save(host.now()));
        let directory: PathBuf = config.state_dir.clone();
        saved.map_or(Ok(()), |saved| store(&directory, saved))
    }

    pub(super) fn now(&self) -> weft_stack::time::Instant {
        self.shared.home().clock.now()
    }

    fn with_keeping<R>(&self, f: impl FnOnce(&Keeping, &Host) -> R) -> Option<R> {
        let core = self.shared.home().lock();
        core.keeping.as_deref().map(|keeping| f(keeping, self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_loaded_with_its_age_and_only_of_this_boot() {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("made");
        assert!(load(&inside).is_none());
        let mut saved = Saved::default();
        saved.bonds.insert(String::from("bond0"), weft_interface::bond::SavedBond::default());
        store(&inside, saved.clone()).unwrap();
        let (loaded, away) = load(&inside).unwrap();
        assert_eq!(loaded, saved);
        assert!(away < Duration::from_mins(1), "{away:?}");
        let path = inside.join(FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace(&boot().unwrap(), "another boot")).unwrap();
        assert!(load(&inside).is_none());
        std::fs::write(&path, "{").unwrap();
        assert!(load(&inside).is_none());
    }
}
