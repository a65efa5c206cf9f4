//! What a command takes.

use std::fmt;

use super::protocol::Command;

/// What a command does, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Whom it is about.
    pub scope: Scope,
    /// It changes something: it is logged, and refused if it cannot be.
    pub change: bool,
}

/// What a caller must be allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// To look: any role.
    View,
    /// To change the network of these vservers. None: of some; the command finds out which and asks
    /// [`super::Caller::may`] then.
    Vservers(Vec<String>),
    /// To change what all share: NICs, management aliases, aggregates, failover sets, roles, workers.
    Cluster,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::View => f.write_str("any role"),
            Scope::Vservers(names) if names.is_empty() => {
                f.write_str("a role with allow = \"vserver\"")
            }
            Scope::Vservers(names) => {
                write!(f, "a role with allow = \"vserver\" for '{}'", names.join("', '"))
            }
            Scope::Cluster => f.write_str("a role with allow = \"cluster\""),
        }
    }
}

impl Need {
    /// Looks.
    pub const VIEW: Need = Need { scope: Scope::View, change: false };

    /// Changes what all share.
    pub const CLUSTER: Need = Need { scope: Scope::Cluster, change: true };

    /// Changes the network of one vserver.
    pub fn vserver(name: &str) -> Need {
        Need { scope: Scope::Vservers(vec![name.to_owned()]), change: true }
    }
}

impl Command {
    /// What it takes. A command that is not listed here does not compile.
    pub fn needs(&self) -> Need {
        match self {
            Command::Ping
            | Command::Snapshot
            | Command::Runtime { clear: false }
            | Command::Sockets(_)
            | Command::SocketSummary(_)
            | Command::Policy { .. }
            | Command::Audit(_) => Need::VIEW,
            Command::Runtime { clear: true } | Command::SetPoll { .. } => Need::CLUSTER,
            // It changes nothing, but packets leave under the vserver's name. Which vserver a later
            // step is about, the session knows.
            Command::Echo(step) => {
                let names = step.vserver.iter().cloned().collect();
                Need { scope: Scope::Vservers(names), change: false }
            }
        }
    }

    /// Its name, as in a request.
    pub fn name(&self) -> String {
        // A command is a table with its name under "command".
        let value = serde_json::to_value(self).unwrap_or_default();
        value["command"].as_str().unwrap_or("command").to_owned()
    }
}
