//! Who used the CPUs: this process, the kernel threads of devices, interrupts, steal, others.
//!
//! The kernel here accounts by ticks (no `CONFIG_IRQ_TIME_ACCOUNTING`): a softirq that runs on a
//! process's CPU is in that process's precise run time, and only the split into user and system is
//! sampled. So the sides' sums are exact, and `interrupts` is a hint, not to be added.

use std::fs;
use std::io;
use std::sync::Mutex;

use nix::sys::resource::{UsageWho, getrusage};

use crate::outcome::{CpuSeconds, Machine};

/// Processes whose time is this side's too, while they live.
static HELD: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// From now on the process's time counts as ours.
pub(crate) fn count_too(pid: u32) {
    if let Ok(mut held) = HELD.lock() {
        held.push(pid);
    }
}

/// CPU time so far of this process, of its children that have ended, and of those that
/// [`count_too`] named.
pub(crate) fn own() -> io::Result<CpuSeconds> {
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 * 1e-6;
    let mut all = CpuSeconds::default();
    let mut add = |time: CpuSeconds| {
        all.user += time.user;
        all.system += time.system;
    };
    for who in [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN] {
        let usage = getrusage(who)?;
        let (user, system) = (seconds(usage.user_time()), seconds(usage.system_time()));
        add(CpuSeconds { user, system });
    }
    let held = HELD.lock().map(|pids| pids.clone()).unwrap_or_default();
    held.into_iter().filter_map(of).for_each(add);
    Ok(all)
}

/// A process's time: the exact sum, split as the ticks say.
fn of(pid: u32) -> Option<CpuSeconds> {
    let exact = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    let total = exact.split(' ').next()?.parse::<f64>().ok()? * 1e-9;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // the name in parentheses may have blanks; user and system time are the 12th and 13th after it
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user = fields.next()?.parse::<f64>().ok()?;
    let system = fields.next()?.parse::<f64>().ok()?;
    let share = if user + system > 0.0 { user / (user + system) } else { 0.0 };
    Some(CpuSeconds { user: total * share, system: total * (1.0 - share) })
}

/// The machine's counters at one moment, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Snapshot {
    busy: f64,
    interrupts: f64,
    steal: f64,
    kernel_threads: f64,
}

impl Snapshot {
    /// Reads `/proc/stat` and the run times of kernel threads.
    pub(crate) fn take(threads: &[u32]) -> Snapshot {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let mut snapshot = parse_stat(&stat, ticks);
        let run_ns = |pid: &u32| {
            let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        };
        snapshot.kernel_threads = threads.iter().filter_map(run_ns).sum::<u64>() as f64 * 1e-9;
        snapshot
    }

    /// What happened since `before`; `sides` is the CPU time of both sides.
    pub(crate) fn since(self, before: Snapshot, sides: f64) -> Machine {
        let kernel_threads = self.kernel_threads - before.kernel_threads;
        let busy = self.busy - before.busy;
        Machine {
            kernel_threads,
            interrupts: self.interrupts - before.interrupts,
            steal: self.steal - before.steal,
            foreign: (busy - sides - kernel_threads).max(0.0),
        }
    }
}

/// `cpu user nice system idle iowait irq softirq steal ...`, in ticks.
fn parse_stat(text: &str, ticks: f64) -> Snapshot {
    let Some(line) = text.lines().find_map(|l| l.strip_prefix("cpu ")) else {
        return Snapshot::default();
    };
    let mut columns = [0.0; 8];
    for (column, word) in columns.iter_mut().zip(line.split_whitespace()) {
        *column = word.parse::<f64>().unwrap_or(0.0) / ticks;
    }
    let [user, nice, system, _, _, irq, softirq, steal] = columns;
    Snapshot {
        busy: user + nice + system + irq + softirq,
        interrupts: irq + softirq,
        steal,
        kernel_threads: 0.0,
    }
}

/// The kernel threads that poll devices: `napi/net0-0`, `ksoftirqd/1`.
pub(crate) fn device_threads() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.starts_with("napi/") || name.starts_with("ksoftirqd/")
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_all_cpus_is_read_in_seconds() {
        let text = "cpu  100 20 300 4000 5 6 7 8 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n";
        let s = parse_stat(text, 100.0);
        assert!((s.busy - 4.33).abs() < 1e-9);
        assert!((s.interrupts - 0.13).abs() < 1e-9);
        assert!((s.steal - 0.08).abs() < 1e-9);
        assert_eq!(parse_stat("intr 5", 100.0), Snapshot::default());
    }

    #[test]
    fn what_neither_side_used_is_foreign() {
        let before = Snapshot { busy: 10.0, kernel_threads: 1.0, ..Snapshot::default() };
        let after = Snapshot { busy: 13.0, kernel_threads: 1.5, steal: 0.1, ..before };
        let machine = after.since(before, 2.0);
        assert!((machine.foreign - 0.5).abs() < 1e-9);
        assert!((machine.kernel_threads - 0.5).abs() < 1e-9);
        // ticks round: never negative
        assert!(after.since(before, 9.0).foreign.abs() < 1e-9);
    }

    #[test]
    fn a_process_that_computes_uses_cpu() {
        let before = own().unwrap().total();
        let mut x = 1u64;
        while own().unwrap().total() - before < 0.001 {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        assert!(own().unwrap().total() > before);
    }
}
