//! The second shim: setting a connection up over alternatives, before the first shim has anything
//! to hold on to.
//!
//! An application names a peer, by address or by name. Instead of one attempt that lives or dies
//! with one pair of addresses, a [`Race`] tries the pairs of our addresses and the peer's one after
//! the other, a short while apart (RFC 8305), in an order that address selection (RFC 6724) and what
//! happened before ([`History`]) suggest. The first that answers is handed to the application, the
//! others vanish; then this shim is out of the way.
//!
//! ```text
//! request --policy--> off: one attempt, as without a shim
//!                     weak: the addresses given, every source of ours
//!                     full: and the peer's other addresses: its known locators, and what DNS tells
//!                           by reverse, then forward look-up of an address given
//! ```
//!
//! Sans-IO: look-ups, attempts and cancellations are [`Action`]s that the host carries out; what
//! comes of them is handed back. Nothing here outlives a race but the history, which is bounded.

mod history;
mod order;
mod policy;
mod race;
mod slate;
#[cfg(test)]
mod tests;

pub use history::{Entry, History};
pub use order::{Labels, Row, scope};
pub use policy::{Form, PolicyTable, Protocol, Rule, Treatment, Wanted};
pub use race::{
    Action, Answer, AttemptId, Counters, Failure, Outcome, Question, Race, Request, World,
};
pub use slate::{Addresses, Ends, Source};
