//! Changes of a running host: from one configuration to another as one transaction.
//!
//! [`plan`] compares two configurations and lists the steps between them, or says what cannot be
//! changed while the host runs. [`Changes`] does the steps, one transaction at a time: a step that
//! fails takes all before it back, and readers see the old configuration or the new one, never a
//! part of one. A change may wait to be confirmed; one that is not goes back by itself.
//!
//! Steps that add come first, then the new configuration is published, then steps that take away:
//! no address is without its vserver longer than it takes to hand it over.

mod describe;
#[cfg(test)]
mod dump;
mod execute;
mod interfaces;
mod obstacle;
mod plan;
mod publish;
mod stages;
mod transaction;

#[cfg(test)]
mod tests;

pub use describe::{Described, Line};
pub use execute::StepError;
pub use obstacle::Obstacle;
pub use plan::{Place, Plan, Ruling, Step, plan};
pub use publish::Follower;
pub use transaction::{Applied, ApplyError, Changes, Confirmation, Options};
