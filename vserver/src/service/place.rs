//! Whose a built-in service is: one vserver's, or all vservers' of a host or of a group.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::config::AnyService;
use crate::host::Shared;
use crate::net::{AnyFamily, AnyOptions};
use crate::runtime::Worker;
use crate::{Host, Vserver};

/// Whose a service is.
#[derive(Clone)]
pub(super) enum Place {
    Vserver(Vserver),
    /// All vservers', or those of a group and of the groups in it.
    Any {
        shared: Arc<Shared>,
        group: Option<String>,
    },
}

impl Place {
    pub(super) fn any(host: &Host, service: &AnyService) -> Place {
        Place::Any { shared: Arc::clone(&host.shared), group: service.group.clone() }
    }

    pub(super) fn workers(&self) -> &[Arc<Worker>] {
        match self {
            Place::Vserver(v) => &v.workers()[v.places()],
            Place::Any { shared, .. } => &shared.workers,
        }
    }

    /// How a port of all vservers is bound.
    pub(super) fn options(&self, listen: SocketAddr, backlog: usize) -> AnyOptions {
        let group = match self {
            Place::Vserver(_) => None,
            Place::Any { group, .. } => group.clone(),
        };
        let family = match listen.ip() {
            IpAddr::V4(_) => AnyFamily::V4,
            IpAddr::V6(_) => AnyFamily::Both,
        };
        AnyOptions { family, group, backlog }
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Place) -> bool {
        match (self, other) {
            (Place::Vserver(a), Place::Vserver(b)) => a.node() == b.node(),
            (Place::Any { group: a, .. }, Place::Any { group: b, .. }) => a == b,
            _ => false,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Vserver(v) => write!(f, "vserver {}", v.name()),
            Place::Any { group: None, .. } => f.write_str("every vserver"),
            Place::Any { group: Some(group), .. } => write!(f, "every vserver of group {group}"),
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
