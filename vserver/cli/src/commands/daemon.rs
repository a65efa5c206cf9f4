//! Talking to the daemon.

use std::io;
use std::path::{Path, PathBuf};

use weft_vserver::config::CONTROL_DEFAULT;
use weft_vserver::control::{Connection, ControlError, RefusalKind};
use weft_vserver::stats::{HostSnapshot, RuntimeSnapshot};

use crate::Error;

/// Connects to the daemon behind `control`, or behind the usual socket.
pub fn connect(control: Option<&Path>) -> Result<Connection, Error> {
    let path = control.map_or_else(|| PathBuf::from(CONTROL_DEFAULT), Path::to_owned);
    Connection::open(&path).map_err(error)
}

/// One snapshot.
pub fn snapshot(connection: &mut Connection) -> Result<HostSnapshot, Error> {
    connection.snapshot().map_err(error)
}

/// The workers' accounts.
pub fn runtime(connection: &mut Connection, clear: bool) -> Result<RuntimeSnapshot, Error> {
    connection.runtime(clear).map_err(error)
}

/// A failure to talk, with the exit code it deserves and the next step.
pub fn error(e: ControlError) -> Error {
    match e {
        ControlError::Unreachable { path, source }
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            Error::Unreachable(format!(
                "may not talk to the daemon on {}: {source}; ask for a role, or run it as the daemon's user or as root",
                path.display()
            ))
        }
        ControlError::Unreachable { .. } => Error::Unreachable(format!(
            "{e}; start it with 'weft run CONFIG' or name its socket with --control"
        )),
        ControlError::Refused(r) if r.kind == RefusalKind::NoSuchVserver => {
            Error::NoSuchObject(format!("{}; see 'weft list'", r.message))
        }
        ControlError::Refused(r) if r.kind == RefusalKind::NoSuchInterface => {
            Error::NoSuchObject(r.message)
        }
        ControlError::Refused(r) if r.kind == RefusalKind::Denied => {
            Error::Denied(format!("not allowed: {}", r.message))
        }
        ControlError::Refused(r) if r.kind == RefusalKind::UnsupportedVersion => {
            Error::Failed(format!("{}; use the 'weft' of the daemon's version", r.message))
        }
        e => Error::Failed(e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_rights_are_not_a_missing_daemon() {
        let told = |kind: io::ErrorKind| {
            let e = ControlError::Unreachable { path: "weft.sock".into(), source: kind.into() };
            error(e).to_string()
        };
        let denied = told(io::ErrorKind::PermissionDenied);
        assert!(denied.starts_with("may not talk to the daemon on weft.sock"), "{denied}");
        assert!(denied.ends_with("or as root"), "{denied}");
        assert!(told(io::ErrorKind::NotFound).starts_with("no daemon answers"));
    }
}
