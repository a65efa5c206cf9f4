//! What the daemon keeps of root's rights once its devices are open, and how that is seen.
//!
//! Capabilities and the bounding set belong to a thread and are inherited by those it starts, so
//! [`drop_to`] is called by the only thread of a process, before any other one is started. Nothing
//! that has been given up can be had again: not by a call, nor by running a program
//! (`no_new_privs`).

use std::ffi::CString;
use std::fmt;
use std::io;
use std::path::Path;

use rustix::fs::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

use crate::config::{Privilege, RunAs};

/// What opening a device takes.
const DEVICES: CapabilitySet =
    CapabilitySet::NET_ADMIN.union(CapabilitySet::NET_RAW).union(CapabilitySet::BPF);

/// Why rights could not be given up. The process is not to go on.
#[derive(Debug, thiserror::Error)]
#[error("give up root's rights: {operation}: {source}{hint}")]
pub struct PrivilegeError {
    /// What was tried.
    pub operation: String,
    /// The system's answer.
    pub source: io::Error,
    hint: &'static str,
}

fn error(operation: impl Into<String>) -> impl FnOnce(rustix::io::Errno) -> PrivilegeError {
    let operation = operation.into();
    move |e| PrivilegeError { operation, source: e.into(), hint: "" }
}

/// Gives up what `p` says: becomes its user with the groups of that user, keeps its capabilities,
/// empties the bounding set, and sets `no_new_privs`. Files of `ours` are given to the user first:
/// those that are used later, like the log.
pub fn drop_to(p: &Privilege, ours: &[&Path]) -> Result<(), PrivilegeError> {
    let keep = match p.run_as {
        RunAs::Keep => return Ok(()),
        RunAs::Drop => CapabilitySet::empty(),
        RunAs::Devices => DEVICES,
    };
    let had = rustix::thread::capabilities(None).map_err(error("read the capabilities"))?;
    // What it never had it cannot keep: the devices that are open need none.
    let keep = keep & had.permitted;
    if had.permitted.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all() {
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                // A capability that this kernel has not.
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(e) => {
                    return Err(error(format!("empty the bounding set of {capability:?}"))(e));
                }
            }
        }
    }
    if let Some(user) = &p.user {
        become_user(p, user, ours)?;
    }
    rustix::thread::clear_ambient_capability_set().map_err(error("clear ambient capabilities"))?;
    let sets =
        CapabilitySets { effective: keep, permitted: keep, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).map_err(error("set the capabilities"))?;
    rustix::thread::set_no_new_privs(true).map_err(error("set no_new_privs"))?;
    Ok(())
}

fn become_user(
    p: &Privilege,
    user: &crate::config::User,
    ours: &[&Path],
) -> Result<(), PrivilegeError> {
    let own = rustix::process::getuid().as_raw();
    if own == user.uid {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    for path in ours {
        let give = rustix::fs::chown(*path, Some(uid), p.control_group.is_none().then_some(gid));
        give.map_err(error(format!("give {} to user {}", path.display(), user.name)))?;
    }
    let nix = |operation: &str| {
        let operation = format!("{operation} of user {}", user.name);
        move |e: nix::errno::Errno| PrivilegeError {
            operation,
            source: io::Error::from(e),
            hint: " (only root can become another user; start it as root, or as that user)",
        }
    };
    let name = CString::new(user.name.as_str()).unwrap_or_default();
    let groups =
        nix::unistd::getgrouplist(&name, user.gid.into()).map_err(nix("find the groups"))?;
    // Else the change of the user clears what is kept.
    rustix::thread::set_keep_capabilities(true).map_err(error("keep capabilities"))?;
    nix::unistd::setgroups(&groups).map_err(nix("take the groups"))?;
    let (uid, gid) = (user.uid.into(), user.gid.into());
    nix::unistd::setresgid(gid, gid, gid).map_err(nix("take the group"))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(nix("take the identity"))?;
    rustix::thread::set_keep_capabilities(false).map_err(error("end keeping capabilities"))?;
    Ok(())
}

/// A process as the kernel sees it (`/proc/PID/status`), the strictest of its threads being no
/// better than the laxest: sets are the union over all threads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessRights {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Effective capabilities (`CapEff`).
    pub effective: u64,
    /// Permitted capabilities (`CapPrm`).
    pub permitted: u64,
    /// Bounding set (`CapBnd`).
    pub bounding: u64,
    /// No program that any thread runs gains anything (`NoNewPrivs`).
    pub no_new_privs: bool,
}

impl ProcessRights {
    /// Of this process, all threads.
    pub fn own() -> io::Result<ProcessRights> {
        let mut all = ProcessRights { no_new_privs: true, ..ProcessRights::default() };
        for task in std::fs::read_dir("/proc/self/task")? {
            // A thread may have ended meanwhile.
            if let Ok(text) = std::fs::read_to_string(task?.path().join("status")) {
                all.add(&text);
            }
        }
        Ok(all)
    }

    fn add(&mut self, status: &str) {
        let value = |key: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(key))?;
            Some(line.split_whitespace().collect::<Vec<_>>())
        };
        let id = |key| value(key).and_then(|v| v.get(1)?.parse().ok()).unwrap_or_default();
        let set = |key| {
            let text = value(key).and_then(|v| v.first().copied()).unwrap_or_default();
            u64::from_str_radix(text, 16).unwrap_or(u64::MAX)
        };
        (self.uid, self.gid) = (id("Uid:"), id("Gid:"));
        self.effective |= set("CapEff:");
        self.permitted |= set("CapPrm:");
        self.bounding |= set("CapBnd:");
        self.no_new_privs &= value("NoNewPrivs:").is_some_and(|v| v == ["1"]);
    }
}

/// `uid 0, no capabilities, bounding set empty, no_new_privs`.
impl fmt::Display for ProcessRights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |set: u64| {
            let set = CapabilitySet::from_bits_retain(set);
            if set.is_empty() {
                return String::from("none");
            }
            if set.contains(CapabilitySet::SYS_ADMIN) {
                return String::from("those of root");
            }
            let names: Vec<_> = set.iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
            names.join(", ")
        };
        write!(f, "uid {}, gid {}, capabilities: {}", self.uid, self.gid, names(self.permitted))?;
        if self.effective != self.permitted {
            write!(f, " (in effect: {})", names(self.effective))?;
        }
        write!(f, ", bounding set: {}", names(self.bounding))?;
        f.write_str(if self.no_new_privs { ", no_new_privs" } else { ", may gain rights" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tweft\nUid:\t0\t33\t0\t0\nGid:\t0\t34\t0\t0\nNoNewPrivs:\t1\n\
        CapInh:\t0000000000000000\nCapPrm:\t0000000000003000\nCapEff:\t0000000000000000\n\
        CapBnd:\t0000000000000000\n";

    #[test]
    fn rights_are_the_union_of_all_threads() {
        let mut all = ProcessRights { no_new_privs: true, ..ProcessRights::default() };
        all.add(STATUS);
        assert_eq!(
            all.to_string(),
            "uid 33, gid 34, capabilities: CAP_NET_ADMIN, CAP_NET_RAW (in effect: none), \
             bounding set: none, no_new_privs"
        );
        all.add(&STATUS.replace("NoNewPrivs:\t1", "NoNewPrivs:\t0").replace("3000", "200000"));
        assert_eq!((all.permitted, all.no_new_privs), (0x20_3000, false));
        assert!(all.to_string().contains("those of root"), "{all}");
        let own = ProcessRights::own().unwrap();
        assert_eq!(own.uid, rustix::process::geteuid().as_raw());
    }
}
