//! Between a request and its answer: who asks, may they, and is it written down.

use std::any::Any;
use std::cell::RefCell;
use std::path::{Path, PathBuf};

use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use serde_json::Value;

use super::audit::{self, AuditError, AuditPage, AuditQuery, Log, Record};
use super::authority::{Authority, Granted};
use super::need::Scope;
use super::peer::Peer;
use super::protocol::{Answer, Command, RefusalKind};
use crate::config::HostConfig;

/// Decides by the roles of a configuration, and logs.
#[derive(Debug)]
pub struct Gate {
    authority: RwLock<Authority>,
    log: Mutex<Log>,
}

/// Who asks, for commands that find out by themselves what they change.
#[derive(Debug)]
pub struct Caller<'g> {
    gate: &'g Gate,
    granted: Granted,
    noted: RefCell<(Value, Value)>,
    held: RefCell<Option<Kept>>,
}

/// What lasts as long as a connection.
pub(super) type Kept = Box<dyn Any + Send>;

impl Gate {
    /// By the roles of `config`, with its log.
    pub fn new(config: &HostConfig) -> Result<Gate, AuditError> {
        let log = Mutex::new(Log::open(&config.privilege)?);
        Ok(Gate { authority: RwLock::new(Authority::new(config)), log })
    }

    /// Decides by the roles of another configuration from now on; the log stays.
    pub fn update(&self, config: &HostConfig) {
        *self.authority.write() = Authority::new(config);
    }

    /// Names of the roles that may change a vserver's network.
    pub fn roles_of(&self, vserver: &str) -> Vec<String> {
        self.authority.read().of_vserver(vserver)
    }

    /// Records of the log.
    pub fn records(&self, query: &AuditQuery) -> Result<AuditPage, AuditError> {
        self.log.lock().read(query)
    }

    /// The log's file; none: standard error.
    pub fn log_file(&self) -> Option<PathBuf> {
        self.log.lock().path().map(Path::to_owned)
    }

    /// What it has made: to be given to the user that is to write it.
    pub fn files(&self) -> Vec<PathBuf> {
        self.log.lock().files()
    }

    /// Whether the log can be written and turned over by this process as it is now.
    pub fn check_log(&self) -> Result<(), AuditError> {
        self.log.lock().check()
    }

    /// Logs what the daemon does by itself, like a change that nobody confirmed.
    pub fn record_own(
        &self,
        what: &str,
        before: impl Serialize,
        after: impl Serialize,
        result: &str,
    ) -> Result<(), AuditError> {
        let mut record =
            audit::record(&Peer::own(), String::from("daemon"), what.to_owned(), Value::Null);
        (record.before, record.after) = (value(before), value(after));
        record.result = Some(result.to_owned());
        self.log.lock().begin(record).map(drop)
    }

    /// Whether a peer has any business here; if not, what to tell it.
    pub(super) fn admit(&self, peer: &Peer) -> Result<(), Answer> {
        let granted = self.granted(peer);
        if !granted.is_nothing() {
            return Ok(());
        }
        self.refuse(peer, &granted, "connect", Value::Null, &Scope::View).map_or(Ok(()), Err)
    }

    /// Whether a peer may change anything.
    pub(super) fn may_change(&self, peer: &Peer) -> bool {
        let authority = self.authority.read();
        authority.check(&authority.granted(peer), &Scope::Vservers(Vec::new())).is_ok()
    }

    pub(super) fn is_owner(&self, peer: &Peer) -> bool {
        self.granted(peer).is_owner()
    }

    /// The answer to a command, if its peer may ask it. What it is to keep goes to `kept`.
    pub(super) fn answer(
        &self,
        peer: &Peer,
        command: &Command,
        kept: &mut Option<Kept>,
        answer: &dyn Fn(&Command, &Caller) -> Answer,
    ) -> Answer {
        let need = command.needs();
        let granted = self.granted(peer);
        let request = || value(command);
        let name = || command.name();
        if let Some(refusal) = self.refuse(peer, &granted, &name(), request(), &need.scope) {
            return refusal;
        }
        let caller =
            Caller { gate: self, granted, noted: RefCell::default(), held: RefCell::default() };
        if !need.change {
            return answer(command, &caller);
        }
        let role = self.authority.read().names(&caller.granted);
        let begun = audit::record(peer, role, name(), request());
        let mut record = match self.log.lock().begin(begun) {
            Ok(record) => record,
            Err(e) => {
                let message =
                    format!("{}: nothing was changed, for it cannot be logged: {e}", name());
                return Answer::refuse(RefusalKind::Failed, message);
            }
        };
        let answered = answer(command, &caller);
        (record.before, record.after) = caller.noted.take();
        *kept = caller.held.take().or(kept.take());
        record.result = Some(result(&answered));
        self.ended(record, answered)
    }

    /// Logs the end of a change.
    fn ended(&self, record: Record, answer: Answer) -> Answer {
        let what = record.what.clone();
        match self.log.lock().end(record) {
            Ok(()) => answer,
            Err(e) => {
                let how = match &answer {
                    Answer::Error(r) => format!("failed ({})", r.message),
                    _ => String::from("was done"),
                };
                let message = format!("{what} {how}, but its end is not logged: {e}");
                Answer::refuse(RefusalKind::Failed, message)
            }
        }
    }

    fn granted(&self, peer: &Peer) -> Granted {
        self.authority.read().granted(peer)
    }

    fn refuse(
        &self,
        peer: &Peer,
        granted: &Granted,
        what: &str,
        request: Value,
        scope: &Scope,
    ) -> Option<Answer> {
        let authority = self.authority.read();
        let missing = authority.check(granted, scope).err()?;
        let role = authority.names(granted);
        drop(authority);
        let mut record = audit::record(peer, role.clone(), what.to_owned(), request);
        record.result = Some(format!("refused: {missing}"));
        // It is refused whether that can be written down or not.
        let _ = self.log.lock().refusal(record);
        let message = format!("{what} {missing}; user {} has {}", peer.uid, role_list(&role));
        Some(Answer::refuse(RefusalKind::Denied, message))
    }
}

fn role_list(names: &str) -> String {
    match names {
        "none" => String::from("no role"),
        names => format!("role '{}'", names.replace(',', "', '")),
    }
}

fn value(of: impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}

fn result(answer: &Answer) -> String {
    match answer {
        Answer::Error(r) if r.kind == RefusalKind::Denied => format!("refused: {}", r.message),
        Answer::Error(r) => format!("failed: {}", r.message),
        _ => String::from("ok"),
    }
}

impl Caller<'_> {
    /// Whether it may also do this; `Err` is the refusal to answer with.
    pub fn may(&self, scope: &Scope) -> Result<(), Answer> {
        let missing = self.gate.authority.read().check(&self.granted, scope);
        missing
            .map_err(|missing| Answer::refuse(RefusalKind::Denied, format!("the change {missing}")))
    }

    /// Names of its roles, to tell others who made a change.
    pub fn name(&self) -> String {
        self.gate.authority.read().names(&self.granted)
    }

    /// What the log is to tell of this change: what was there and what is there now.
    pub fn note(&self, before: impl Serialize, after: impl Serialize) {
        *self.noted.borrow_mut() = (value(before), value(after));
    }

    /// Keeps something until the connection is closed, or keeps another thing.
    pub fn keep(&self, what: impl Send + 'static) {
        *self.held.borrow_mut() = Some(Box::new(what));
    }

    /// Names of the roles that may change a vserver's network.
    pub fn roles_of(&self, vserver: &str) -> Vec<String> {
        self.gate.roles_of(vserver)
    }

    /// Records of the log.
    pub fn records(&self, query: &AuditQuery) -> Answer {
        match self.gate.records(query) {
            Ok(page) => Answer::Audit(page),
            Err(e) => Answer::refuse(RefusalKind::Failed, e.to_string()),
        }
    }
}
