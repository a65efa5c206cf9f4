//! Interfaces: their fixed names, and which alias stands on which NIC. Sans-IO.
//!
//! A name says what an interface is: `eth#` a physical component, `bond#` an aggregate,
//! `<parent>.<tag>` a VLAN, `fail#` a failover group, `mgmt#` `data#` `san#` an alias, where
//! addresses live. Names are lower case, numbers have no leading zero. Aliases stand on `eth#`
//! directly for now; the tree refuses the other kinds and says so.

mod name;
mod tree;

pub use name::{AliasClass, InterfaceName, NameError};
pub use tree::{Tree, TreeError};
