//! Questions of operators, through the control socket: asked again until the answer is there, so
//! that no request waits for the network.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Lookup, ResolveError, Wanted};
use crate::Host;

/// Questions at a time.
const QUESTIONS_MAX: usize = 64;
/// One that nobody asks about any more is forgotten after this time.
const IDLE: Duration = Duration::from_secs(30);

/// What a name or address stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// Whether the answer is there; ask again if not.
    pub done: bool,
    /// The complete name that was found.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Names of an address.
    pub names: Vec<String>,
    /// For how many seconds that holds; `None` for ever.
    pub ttl_s: Option<u64>,
    /// Why nothing was found.
    pub error: Option<String>,
}

type Answers = Arc<Mutex<HashMap<(String, String), (Option<Resolved>, Instant)>>>;

/// The open questions of a host.
#[derive(Debug)]
pub struct Questions {
    host: Arc<Host>,
    open: Answers,
}

impl Questions {
    /// None.
    pub fn new(host: Arc<Host>) -> Questions {
        Questions { host, open: Answers::default() }
    }

    /// The answer about a name or an address, once it is there. `None`: no such vserver. Does not
    /// wait.
    pub fn ask(&self, vserver: &str, name: &str) -> Option<Resolved> {
        let handle = self.host.vserver(vserver)?;
        let key = (vserver.to_owned(), name.to_owned());
        let mut open = self.open.lock();
        open.retain(|_, (_, asked)| asked.elapsed() < IDLE);
        let full = open.len() >= QUESTIONS_MAX;
        match open.get_mut(&key) {
            Some((Some(_), _)) => return open.remove(&key).and_then(|(answer, _)| answer),
            Some((None, asked)) => *asked = Instant::now(),
            None if full => {
                let error = Some(format!("{QUESTIONS_MAX} questions are open; try again later"));
                return Some(Resolved { done: true, error, ..Resolved::default() });
            }
            None => {
                open.insert(key.clone(), (None, Instant::now()));
                drop(open);
                let wanted = match name.parse::<IpAddr>() {
                    Ok(address) => Wanted::Address(address),
                    Err(_) => Wanted::Name(name.to_owned()),
                };
                let answers = Arc::clone(&self.open);
                handle.ask(
                    wanted,
                    Box::new(move |outcome| {
                        if let Some(entry) = answers.lock().get_mut(&key) {
                            entry.0 = Some(resolved(outcome));
                        }
                    }),
                );
            }
        }
        Some(Resolved::default())
    }
}

fn resolved(outcome: Result<Lookup, ResolveError>) -> Resolved {
    match outcome {
        Ok(found) => Resolved {
            done: true,
            name: found.name,
            addresses: found.addresses.iter().map(ToString::to_string).collect(),
            names: found.names,
            ttl_s: (found.ttl != Duration::MAX).then_some(found.ttl.as_secs()),
            error: None,
        },
        Err(e) => Resolved { done: true, error: Some(e.to_string()), ..Resolved::default() },
    }
}
