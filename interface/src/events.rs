//! What happens to the interfaces, for whoever listens: one bounded stream of a host.
//!
//! Every event has a number, one more than that of the event before. Whoever reads names the last
//! number that it knows and gets what came after; a gap tells that it was too slow.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use weft_stack::time::Instant;

use crate::bond::Unused;

/// Events kept for readers; the oldest is lost, and counted, when one more comes.
pub const EVENTS_KEPT: usize = 1024;

/// Of what an event says. It grows when a field changes its meaning or goes; whoever reads drops events of versions
/// that it does not know.
pub const EVENT_VERSION: u8 = 1;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// [`EVENT_VERSION`].
    pub version: u8,
    /// Counts events of the host from 1.
    pub number: u64,
    /// When: microseconds of the host's clock.
    pub at_us: u64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened. Names are those of the configuration. A signature is that of the group's state
/// after the event (see `GroupState`): who computes the same has missed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum What {
    /// The link of a NIC, bond or VLAN came or went.
    Link {
        /// Which.
        interface: String,
        /// It came.
        up: bool,
    },
    /// A port of a bond begins to send, or ends.
    BondPort {
        /// The bond.
        bond: String,
        /// The port.
        interface: String,
        /// It begins.
        up: bool,
        /// Why it ends.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<Unused>,
    },
    /// `active-backup`: another port is the active one.
    BondActive {
        /// The bond.
        bond: String,
        /// The port.
        interface: String,
    },
    /// The LACP partner of a bond is another; systems are `priority,mac`.
    BondPartner {
        /// The bond.
        bond: String,
        /// Who it was.
        from: Option<String>,
        /// Who it is.
        to: Option<String>,
    },
    /// LACP of a port does not come to an end for 60 s, or at last does.
    BondChurn {
        /// The bond.
        bond: String,
        /// The port.
        interface: String,
        /// The end that is to blame: this one, or the partner.
        partner: bool,
        /// It began.
        on: bool,
    },
    /// A port that leaves its bond in order is empty.
    BondDrained {
        /// The bond.
        bond: String,
        /// The port.
        interface: String,
        /// The partner said so; otherwise it did not answer in time.
        answered: bool,
    },
    /// A group as a whole is in another state, or an alias that is bound to targets beyond its link:
    /// that is a group of one, `ok` while it has a link and reaches one of them, else `failed`.
    Group {
        /// Which; of an alias its name.
        group: String,
        /// Of the state after the event.
        signature: u64,
        /// `ok`, `degraded` or `failed`.
        state: String,
    },
    /// A group came into being, or is no more.
    GroupChange {
        /// Which.
        group: String,
        /// Of the list of groups.
        signature: u64,
        /// It came into being.
        added: bool,
    },
    /// A group got a member, or lost one.
    Member {
        /// The group.
        group: String,
        /// Of the state after the event.
        signature: u64,
        /// The member.
        interface: String,
        /// It is a member now.
        added: bool,
        /// It is one that waits for the failure of another.
        standby: bool,
        /// Its state: `ok`, `failed`, `offline` or `unknown`.
        state: String,
    },
    /// A member of a group is in another state.
    Interface {
        /// The group.
        group: String,
        /// Of the state after the event.
        signature: u64,
        /// The member.
        interface: String,
        /// `ok`, `failed`, `offline` or `unknown`.
        state: String,
        /// It carries frames.
        active: bool,
        /// It is one that waits for the failure of another.
        standby: bool,
        /// Why, for people.
        why: String,
    },
    /// A data address is reached by another member.
    Moved {
        /// The group.
        group: String,
        /// The address.
        address: IpAddr,
        /// Where it was; `None`: nowhere.
        from: Option<String>,
        /// Where it is; `None`: nowhere.
        to: Option<String>,
    },
    /// Something else that an operator wants to know of a group, for people.
    Notice {
        /// The group.
        group: String,
        /// The member that it is about, if any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interface: Option<String>,
        /// What.
        text: String,
    },
}

impl What {
    /// The group that it is about.
    pub fn group(&self) -> Option<&str> {
        match self {
            What::Group { group, .. }
            | What::GroupChange { group, .. }
            | What::Member { group, .. }
            | What::Interface { group, .. }
            | What::Moved { group, .. }
            | What::Notice { group, .. } => Some(group),
            _ => None,
        }
    }

    /// Whether a command hook is called for it: states of a group and its members, and notices; not
    /// each of a hundred addresses.
    pub fn is_for_hook(&self) -> bool {
        self.group().is_some() && !matches!(self, What::Moved { .. })
    }
}

/// One line without a time, the first word the kind: what a command hook gets.
impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let up = |up: &bool| if *up { "up" } else { "down" };
        let some = |name: &Option<String>| name.clone().unwrap_or_else(|| String::from("none"));
        match self {
            What::Link { interface, up: is } => write!(f, "link {interface} {}", up(is)),
            What::BondPort { bond, interface, up: is, why } => {
                write!(f, "bond-port {bond} {interface} {}", up(is))?;
                why.map_or(Ok(()), |why| write!(f, " {why:?}"))
            }
            What::BondActive { bond, interface } => write!(f, "bond-active {bond} {interface}"),
            What::BondPartner { bond, from, to } => {
                write!(f, "bond-partner {bond} {} {}", some(from), some(to))
            }
            What::BondChurn { bond, interface, partner, on } => {
                let end = if *partner { "partner" } else { "actor" };
                let on = if *on { "began" } else { "ended" };
                write!(f, "bond-churn {bond} {interface} {end} {on}")
            }
            What::BondDrained { bond, interface, answered } => {
                let how = if *answered { "answered" } else { "timed-out" };
                write!(f, "bond-drained {bond} {interface} {how}")
            }
            What::Group { group, state, .. } => write!(f, "group {group} {state}"),
            What::GroupChange { group, added, .. } => {
                write!(f, "group-{} {group}", if *added { "added" } else { "removed" })
            }
            What::Member { group, interface, added, state, .. } => {
                let what = if *added { "added" } else { "removed" };
                write!(f, "member-{what} {group} {interface} {state}")
            }
            What::Interface { group, interface, state, active, why, .. } => {
                let active = if *active { "active" } else { "inactive" };
                write!(f, "interface {group} {interface} {state} {active} {why}")
            }
            What::Moved { group, address, from, to } => {
                write!(f, "moved {group} {address} {} {}", some(from), some(to))
            }
            What::Notice { group, interface, text } => {
                write!(f, "notice {group} {} {text}", some(interface))
            }
        }
    }
}

/// What a reader gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// In order.
    pub items: Vec<T>,
    /// What to name next time.
    pub next: u64,
    /// Those after the reader's last that are not kept any more.
    pub lost: u64,
}

impl<T> Page<T> {
    /// Of a stream that nothing was in.
    pub fn empty() -> Page<T> {
        Page { items: Vec::new(), next: 0, lost: 0 }
    }
}

/// The last so many of a stream.
#[derive(Clone, Debug)]
pub struct Stream<T> {
    kept: VecDeque<T>,
    most: usize,
    /// Number of the newest.
    newest: u64,
}

impl<T: Clone> Stream<T> {
    /// Keeps the newest `most`.
    pub fn new(most: usize) -> Stream<T> {
        Stream { kept: VecDeque::new(), most, newest: 0 }
    }

    /// One more, made from its number.
    pub fn push(&mut self, make: impl FnOnce(u64) -> T) {
        self.newest += 1;
        if self.kept.len() == self.most {
            self.kept.pop_front();
        }
        self.kept.push_back(make(self.newest));
    }

    /// Number of the newest; 0 if there was none.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// At most `most` of those after number `after`.
    pub fn after(&self, after: u64, most: usize) -> Page<T> {
        // A number of a former process.
        let after = if after > self.newest { 0 } else { after };
        let first = self.newest - self.kept.len() as u64;
        let from = after.max(first);
        let skip = (from - first) as usize;
        let items: Vec<T> = self.kept.iter().skip(skip).take(most).cloned().collect();
        Page { next: from + items.len() as u64, lost: from - after, items }
    }
}

/// A time as events have it: microseconds of the clock of the host.
pub fn micros(at: Instant) -> u64 {
    at.as_nanos() / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_gets_what_it_has_not_seen_and_how_much_it_missed() {
        let mut stream = Stream::new(4);
        assert_eq!(stream.after(0, 9), Page { items: vec![], next: 0, lost: 0 });
        for _ in 0..3 {
            stream.push(|number| number);
        }
        assert_eq!(stream.after(0, 2), Page { items: vec![1, 2], next: 2, lost: 0 });
        assert_eq!(stream.after(2, 9), Page { items: vec![3], next: 3, lost: 0 });
        assert_eq!(stream.after(3, 9), Page { items: vec![], next: 3, lost: 0 });
        for _ in 0..5 {
            stream.push(|number| number);
        }
        assert_eq!(stream.after(3, 9), Page { items: vec![5, 6, 7, 8], next: 8, lost: 1 });
        assert_eq!(stream.after(99, 1), Page { items: vec![5], next: 5, lost: 4 });
    }

    #[test]
    fn a_hook_hears_of_states_and_not_of_every_address() {
        let state = What::Interface {
            group: String::from("fail0"),
            signature: 7,
            interface: String::from("eth0"),
            state: String::from("failed"),
            active: false,
            standby: false,
            why: String::from("link-down"),
        };
        assert_eq!(state.to_string(), "interface fail0 eth0 failed inactive link-down");
        assert!(state.is_for_hook());
        let moved = What::Moved {
            group: String::from("fail0"),
            address: "10.0.0.1".parse().unwrap(),
            from: Some(String::from("eth0")),
            to: None,
        };
        assert_eq!(moved.to_string(), "moved fail0 10.0.0.1 eth0 none");
        assert!(!moved.is_for_hook());
        let event = Event { version: EVENT_VERSION, number: 3, at_us: 4, what: moved };
        let json = serde_json::to_string(&event).unwrap();
        assert!(
            json.starts_with(r#"{"version":1,"number":3,"at_us":4,"event":"moved","#),
            "{json}"
        );
        assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event);
    }
}
