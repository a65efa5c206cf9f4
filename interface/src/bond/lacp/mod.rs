//! Link Aggregation Control Protocol and Marker protocol (IEEE 802.1AX clauses 6.4 and 6.5): the
//! machines of one port. Each is a table `next(state, inputs)` and the actions of its states; the
//! selection logic, that looks at all ports, is in [`selection`].

mod churn;
mod marker;
mod mux;
mod periodic;
mod port;
mod receive;
pub(super) mod selection;
#[cfg(test)]
mod tests;
mod transmit;
pub mod wire;

use weft_stack::time::Duration;

pub use churn::ChurnState;
pub use mux::MuxState;
pub use periodic::PeriodicState;
pub use receive::ReceiveState;
pub use selection::Selected;

pub use port::LacpCounters;
#[cfg(test)]
pub(super) use port::Leaving;
pub(super) use port::{Port, Resume};

/// A partner that asks for short timeouts hears from us this often.
pub const FAST_PERIODIC: Duration = Duration::from_secs(1);
/// And one that does not, this often.
pub const SLOW_PERIODIC: Duration = Duration::from_secs(30);
/// Silence after which a partner is doubted, fast rate.
pub const SHORT_TIMEOUT: Duration = Duration::from_secs(3);
/// Silence after which a partner is doubted, slow rate.
pub const LONG_TIMEOUT: Duration = Duration::from_secs(90);
/// How long a port waits for others, so that an aggregate does not begin with each port anew.
pub const AGGREGATE_WAIT: Duration = Duration::from_secs(2);
/// Without agreement after this there is something wrong.
pub const CHURN_DETECTION: Duration = Duration::from_mins(1);
/// LACPDUs of one port in any second.
pub const PDUS_PER_SECOND: usize = 3;
