//! What a group tells whoever listens, and the lines of it in a log.

use crate::events::What;

/// Texts of notices.
pub(super) mod what_of {
    use crate::Mac;

    pub(in super::super) fn link(up: bool) -> String {
        format!("link {}", if up { "up" } else { "down" })
    }

    pub(in super::super) fn flapping(limit: u8) -> String {
        format!(
            "link or probes came back more than {limit} times in a minute; it is used again when it is stable"
        )
    }

    pub(in super::super) fn duplicate(mac: Mac, other: &str) -> String {
        let mac = text(mac);
        format!("hardware address {mac} is that of {other} too; taken offline until it is unique")
    }

    pub(in super::super) fn unique(mac: Mac) -> String {
        format!("hardware address {} is unique; brought online", text(mac))
    }

    pub(in super::super) fn text(mac: Mac) -> String {
        mac.map(|byte| format!("{byte:02x}")).join(":")
    }
}

/// A line for the log; `None` for what is no matter of failover groups.
pub fn log_line(what: &What) -> Option<String> {
    Some(match what {
        What::Group { group, state, .. } => match state.as_str() {
            "failed" => format!("{group}: no member can be used any more"),
            "degraded" => format!("{group}: some members can be used, not all"),
            _ => format!("{group}: all members can be used"),
        },
        What::GroupChange { group, added, .. } => {
            format!("{group}: failover group {}", if *added { "added" } else { "removed" })
        }
        What::Member { group, interface, added, standby, .. } => {
            let kind = if *standby { "standby member" } else { "member" };
            let verb = if *added { "joins" } else { "leaves" };
            format!("{group}: {interface} {verb} as {kind}")
        }
        What::Interface { group, interface, state, active, why, .. } => {
            let doing = match (state.as_str(), active) {
                ("failed", _) => "failed",
                ("offline", _) => "is offline",
                (_, true) => "works and carries frames",
                (_, false) => "works and waits",
            };
            format!("{group}: {interface} {doing}: {why}")
        }
        What::Moved { group, address, from, to } => {
            let name = |member: &Option<String>| member.clone().unwrap_or("none".to_owned());
            format!("{group}: {address} moves from {} to {}", name(from), name(to))
        }
        What::Notice { group, interface: Some(interface), text } => {
            format!("{group}: {interface}: {text}")
        }
        What::Notice { group, interface: None, text } => format!("{group}: {text}"),
        _ => return None,
    })
}
