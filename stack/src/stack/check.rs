//! The checker of invariants, for simulations and fuzzing.

use super::Stack;
use crate::path::PathLayer;

impl<P: PathLayer> Stack<P> {
    /// Whether predicted segments take the short way up, as they do at first; what follows must be
    /// the same either way. With the feature `check` only.
    pub fn predict(&mut self, on: bool) {
        self.tcp.predict = on;
        self.udp.predict = on;
    }

    /// All counters and all that connections are, in words: equal if two stacks came to the same.
    /// With the feature `check` only; the cost grows with the number of connections.
    pub fn describe(&self) -> String {
        use core::fmt::Write as _;
        let mut text = String::new();
        self.mib.for_each(|name, n| {
            let _never_fails = write!(text, "{name} {n} ");
        });
        self.tcp.describe(&mut text);
        text
    }

    /// Whether everything holds that must hold between two calls: every received frame has one
    /// fate, gauges equal what they count, held memory is within its limits, and no connection has
    /// windows out of order or waits without a timer. With the feature `check` only. For use when
    /// [`Stack::poll_transmit`] and [`Stack::poll_event`] have nothing more; the cost grows with
    /// the number of connections.
    pub fn check(&self) -> Result<(), String> {
        self.mib.check_sums()?;
        self.tcp.check(self.mib.tcp.curr_estab)?;
        let (held, limits) = (self.memory(), &self.limits);
        let bounds = [
            // Half-open ones have a limit of their own.
            (
                "TCP connections",
                held.tcp_connections,
                limits.tcp_connections + limits.tcp_half_open,
            ),
            ("TCP listeners", held.tcp_listeners, limits.tcp_listeners),
            ("UDP sockets", held.udp_sockets, limits.udp_sockets),
            ("packets in reassembly", held.reassemblies, limits.reassemblies),
            ("bytes in reassembly", held.reassembly_bytes, limits.reassembly_bytes),
            ("neighbours", held.neighbours, limits.neighbours),
            // One from routers and one from probes.
            ("path MTUs", held.path_mtus, 2 * limits.pmtu),
        ];
        for (what, held, limit) in bounds {
            if held > limit {
                return Err(format!("{held} {what}, the limit is {limit}"));
            }
        }
        Ok(())
    }
}
