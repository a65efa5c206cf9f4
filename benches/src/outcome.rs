//! What a side says in its one JSON line, and what a whole run is made of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// CPU seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct CpuSeconds {
    /// In user mode.
    pub(crate) user: f64,
    /// In the kernel on behalf of the process, its softirqs included.
    pub(crate) system: f64,
}

impl CpuSeconds {
    pub(crate) fn total(self) -> f64 {
        self.user + self.system
    }
}

/// Times of operations in ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) count: u64,
    pub(crate) mean: f64,
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

/// What one side did between the marks.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Between its own marks.
    pub(crate) seconds: f64,
    /// Operations finished: transactions, connections, datagrams, frames.
    pub(crate) operations: u64,
    /// Payload bytes received.
    pub(crate) received: u64,
    /// Payload bytes sent.
    pub(crate) sent: u64,
    /// This process.
    pub(crate) cpu: CpuSeconds,
    /// Of the operations, if it measures them.
    pub(crate) latency: Option<Latency>,
    /// Anything in words: `mode = af-xdp native copy`.
    pub(crate) facts: BTreeMap<String, String>,
    /// Anything in numbers: `copied_per_byte`.
    pub(crate) numbers: BTreeMap<String, f64>,
}

/// The machine's share between the marks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// CPU seconds of the kernel threads that poll devices (threaded NAPI, ksoftirqd).
    pub(crate) kernel_threads: f64,
    /// CPU seconds in softirqs and interrupts, by ticks; partly counted in `system` of the sides.
    pub(crate) interrupts: f64,
    /// CPU seconds that the hypervisor gave to others.
    pub(crate) steal: f64,
    /// CPU seconds of neither side nor of the kernel threads: other load.
    pub(crate) foreign: f64,
}

/// One run of one cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) server: Outcome,
    pub(crate) client: Outcome,
    pub(crate) machine: Machine,
}

/// What a run is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Unit {
    /// Payload bits a second; CPU per byte.
    Bits,
    /// Operations a second; CPU per operation.
    Operations,
    /// Nanoseconds an operation: less is better.
    Nanoseconds,
}

impl Run {
    /// Payload received by both sides, per second.
    pub(crate) fn bytes_per_second(&self) -> f64 {
        rate(self.server.received, self.server.seconds)
            + rate(self.client.received, self.client.seconds)
    }

    /// Operations per second, as the client counts them (the server, if the client cannot).
    pub(crate) fn operations_per_second(&self) -> f64 {
        if self.client.operations > 0 {
            return rate(self.client.operations, self.client.seconds);
        }
        rate(self.server.operations, self.server.seconds)
    }

    /// The figure of the run: bit/s, operations/s, or ns (the latency's median, if there is one).
    pub(crate) fn figure(&self, unit: Unit) -> f64 {
        match unit {
            Unit::Bits => self.bytes_per_second() * 8.0,
            Unit::Operations => self.operations_per_second(),
            Unit::Nanoseconds => self
                .client
                .latency
                .map_or_else(|| 1e9 / self.operations_per_second(), |l| l.p50 as f64),
        }
    }

    /// Bytes, or operations, per second.
    pub(crate) fn work_per_second(&self, unit: Unit) -> f64 {
        if unit == Unit::Bits { self.bytes_per_second() } else { self.operations_per_second() }
    }

    /// CPU ns of a side for one operation, or one byte.
    pub(crate) fn cpu_ns(&self, side: &Outcome, unit: Unit) -> f64 {
        side.cpu.total() / side.seconds.max(1e-9) * 1e9 / self.work_per_second(unit)
    }

    /// The same of the kernel threads.
    pub(crate) fn kernel_threads_ns(&self, unit: Unit) -> f64 {
        self.machine.kernel_threads / self.client.seconds.max(1e-9) * 1e9
            / self.work_per_second(unit)
    }
}

fn rate(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}
