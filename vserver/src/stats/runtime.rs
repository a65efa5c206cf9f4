//! What the workers do with their time, as plain data and as tables.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::table::{Align, Table};

/// Every worker's account. Fields are only added; `schema_version` changes when one changes its
/// meaning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RuntimeSnapshot {
    /// 1.
    pub schema_version: u32,
    /// In order of their numbers.
    pub workers: Vec<WorkerRuntime>,
}

/// One worker since it started, or since its account was cleared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerRuntime {
    /// Its number.
    pub worker: usize,
    /// How it waits now: `interrupt`, `adaptive`, `busy`.
    pub poll: String,
    /// The time this is about, in nanoseconds.
    pub elapsed_ns: u64,
    /// Of it asleep, or with nobody polling.
    pub idle_ns: u64,
    /// In turns that found nothing.
    pub polling_ns: u64,
    /// In turns that did something.
    pub working_ns: u64,
    /// Rounds of receive, timers and transmit, whoever made them.
    pub turns: u64,
    /// Of these, with something to do.
    pub turns_working: u64,
    /// Of these, made by application threads that waited.
    pub turns_of_waiters: u64,
    /// Sleeps for devices and deadlines.
    pub sleeps: u64,
    /// Of these, ended by a device, a link or another thread.
    pub wakeups: u64,
    /// Calls of applications on sockets.
    pub calls: u64,
    /// Times that an application thread took over the polling.
    pub seats_taken: u64,
    /// Frames received; a super-segment is one.
    pub frames: u64,
    /// System calls made to send or to wake the kernel.
    pub kicks: u64,
    /// Frames and packets handed to other workers.
    pub handed_over: u64,
    /// Turns that received 1, 2 to 3, 4 to 7, ... 128 and more frames.
    pub bursts: Vec<u64>,
    /// In the order of a packet's way.
    pub stages: Vec<StageCost>,
}

/// Cost of one stage, from a sample of its batches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageCost {
    /// `rx`, `hand-over`, `demux`, `gro`, `ip`, `tcp` (UDP too), `timers`, `app`, `output`, `tx`.
    pub stage: String,
    /// Batches that were timed.
    pub batches: u64,
    /// Packets (of the wire) in them; for `timers` and `app` deadlines and callbacks.
    pub packets: u64,
    /// Their time, in nanoseconds.
    pub time_ns: u64,
    /// Processor cycles per packet.
    pub cycles_per_packet: f64,
}

impl WorkerRuntime {
    /// What happened since `before`, an earlier snapshot of the same worker. One that was cleared
    /// in between counts from then on.
    #[must_use]
    pub fn since(&self, before: &WorkerRuntime) -> WorkerRuntime {
        if self.elapsed_ns < before.elapsed_ns {
            return self.clone();
        }
        let less = |now: u64, then: u64| now.saturating_sub(then);
        let stage = |(now, then): (&StageCost, &StageCost)| {
            let (packets, time_ns) =
                (less(now.packets, then.packets), less(now.time_ns, then.time_ns));
            let cycles = |s: &StageCost| s.cycles_per_packet * s.packets as f64;
            StageCost {
                stage: now.stage.clone(),
                batches: less(now.batches, then.batches),
                packets,
                time_ns,
                cycles_per_packet: (cycles(now) - cycles(then)).max(0.0) / packets.max(1) as f64,
            }
        };
        let bursts = self.bursts.iter().zip(&before.bursts).map(|(a, b)| less(*a, *b));
        WorkerRuntime {
            worker: self.worker,
            poll: self.poll.clone(),
            elapsed_ns: less(self.elapsed_ns, before.elapsed_ns),
            idle_ns: less(self.idle_ns, before.idle_ns),
            polling_ns: less(self.polling_ns, before.polling_ns),
            working_ns: less(self.working_ns, before.working_ns),
            turns: less(self.turns, before.turns),
            turns_working: less(self.turns_working, before.turns_working),
            turns_of_waiters: less(self.turns_of_waiters, before.turns_of_waiters),
            sleeps: less(self.sleeps, before.sleeps),
            wakeups: less(self.wakeups, before.wakeups),
            calls: less(self.calls, before.calls),
            seats_taken: less(self.seats_taken, before.seats_taken),
            frames: less(self.frames, before.frames),
            kicks: less(self.kicks, before.kicks),
            handed_over: less(self.handed_over, before.handed_over),
            bursts: bursts.collect(),
            stages: self.stages.iter().zip(&before.stages).map(stage).collect(),
        }
    }

    /// For people: time, turns, bursts, then a line per stage.
    pub fn render(&self, bold: bool) -> String {
        let mut out = String::new();
        let all = (self.idle_ns + self.polling_ns + self.working_ns).max(1) as f64;
        let share = |ns: u64| 100.0 * ns as f64 / all;
        let per = |n: u64, of: u64| n as f64 / of.max(1) as f64;
        let filled: u64 = self.bursts.iter().sum();
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "worker {}: {}, {:.1} s; idle {:.1}%, polling {:.1}%, working {:.1}%",
            self.worker,
            self.poll,
            self.elapsed_ns as f64 / 1e9,
            share(self.idle_ns),
            share(self.polling_ns),
            share(self.working_ns),
        );
        let _ = writeln!(
            out,
            "turns {} (working {}, of waiting threads {}), sleeps {}, wake-ups {}, calls {}, seats \
             taken {}",
            self.turns,
            self.turns_working,
            self.turns_of_waiters,
            self.sleeps,
            self.wakeups,
            self.calls,
            self.seats_taken,
        );
        let _ = writeln!(
            out,
            "frames {} ({:.1} per burst, {:.1} per wake-up), kicks {}, handed over {}",
            self.frames,
            per(self.frames, filled),
            per(self.frames, self.wakeups),
            self.kicks,
            self.handed_over,
        );
        let classes = self.bursts.iter().enumerate().filter(|(_, n)| **n > 0);
        let class =
            |(i, n): (usize, &u64)| format!("{}+: {:.1}%", 1u64 << i, 100.0 * per(*n, filled));
        let classes: Vec<_> = classes.map(class).collect();
        if !classes.is_empty() {
            let _ = writeln!(out, "bursts of {}", classes.join(", "));
        }
        out.push_str(&self.stages_table().render(bold));
        out
    }

    fn stages_table(&self) -> Table {
        let mut t = Table::new(&[
            ("STAGE", Align::Left),
            ("SAMPLED", Align::Right),
            ("PACKETS", Align::Right),
            ("PKTS/BATCH", Align::Right),
            ("CYCLES/PKT", Align::Right),
            ("NS/PKT", Align::Right),
        ]);
        for s in self.stages.iter().filter(|s| s.batches > 0) {
            let packets = s.packets.max(1) as f64;
            t.row(vec![
                s.stage.clone(),
                s.batches.to_string(),
                s.packets.to_string(),
                format!("{:.1}", packets / s.batches as f64),
                format!("{:.0}", s.cycles_per_packet),
                format!("{:.0}", s.time_ns as f64 / packets),
            ]);
        }
        t
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(n: u64) -> WorkerRuntime {
        WorkerRuntime {
            poll: String::from("adaptive"),
            elapsed_ns: n * 1_000_000_000,
            idle_ns: n * 250_000_000,
            working_ns: n * 750_000_000,
            frames: n * 100,
            wakeups: n * 10,
            bursts: vec![n * 10, 0, 0, n * 10],
            stages: vec![StageCost {
                stage: String::from("rx"),
                batches: n * 5,
                packets: n * 50,
                time_ns: n * 5000,
                cycles_per_packet: 250.0,
            }],
            ..WorkerRuntime::default()
        }
    }

    #[test]
    fn the_table_tells_time_bursts_and_stages() {
        let text = worker(2).render(false);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "worker 0: adaptive, 2.0 s; idle 25.0%, polling 0.0%, working 75.0%");
        assert!(lines[2].starts_with("frames 200 (5.0 per burst, 10.0 per wake-up)"), "{text}");
        assert_eq!(lines[3], "bursts of 1+: 50.0%, 8+: 50.0%");
        assert_eq!(
            lines[5].split_whitespace().collect::<Vec<_>>(),
            ["rx", "10", "100", "10.0", "250", "100"]
        );
    }

    #[test]
    fn differences_are_of_everything_and_a_cleared_account_counts_anew() {
        let one = worker(3).since(&worker(2));
        assert_eq!((one.frames, one.stages[0].packets, one.bursts[3]), (100, 50, 10));
        assert!((one.stages[0].cycles_per_packet - 250.0).abs() < 1e-9);
        assert_eq!(worker(1).since(&worker(2)), worker(1));
    }
}
