//! What a reader must know of the machine to believe a number.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Of the machine and of the method.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// Seconds since 1970.
    pub(crate) time: u64,
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) memory_mib: u64,
    /// Of the kernel's sides, as read back from their namespaces.
    pub(crate) congestion: String,
    /// Commit of weft, `+` if the tree had changes.
    pub(crate) commit: String,
    /// Profile of the build.
    pub(crate) profile: String,
    /// Anything else: `virtualisation`, `clock source`.
    pub(crate) more: BTreeMap<String, String>,
}

impl Facts {
    /// Reads them.
    pub(crate) fn gather() -> Facts {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let field = |text: &str, key: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(key));
            line.map(|l| l.trim_start_matches([' ', '\t', ':']).to_owned()).unwrap_or_default()
        };
        let cpuinfo = read("/proc/cpuinfo");
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
        let mut more = BTreeMap::new();
        let clock = read("/sys/devices/system/clocksource/clocksource0/current_clocksource");
        more.insert("clock source".into(), clock);
        let hypervisor = field(&cpuinfo, "flags").split(' ').any(|f| f == "hypervisor");
        more.insert("virtual machine".into(), if hypervisor { "yes" } else { "no" }.into());
        Facts {
            time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            kernel: read("/proc/sys/kernel/osrelease"),
            cpu: field(&cpuinfo, "model name"),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: kib / 1024,
            congestion: String::new(),
            commit: commit().unwrap_or_else(|| String::from("unknown")),
            profile: if cfg!(debug_assertions) { "debug" } else { "release" }.into(),
            more,
        }
    }
}

fn commit() -> Option<String> {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok().filter(|o| o.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let hash = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.is_empty() { hash } else { hash + "+" })
}
