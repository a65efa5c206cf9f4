//! The socket options of RFC 6316 (level SOL_SHIM), over the contexts of a vserver.
//!
//! A socket is its pair of ULIDs and the forked instance that it uses; an unconnected one has none.

use core::net::IpAddr;

use weft_stack::time::{Duration, Instant};

use crate::context::State;
use crate::contexts::{Contexts, StartError};
use crate::locator::{Locator, LocatorList, Pair};
use crate::reap::{Hint, SwitchError};

/// An option (RFC 6316 6), by its name there without `SHIM_`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShimOption {
    /// `ASSOCIATED`, read: the socket has a context.
    Associated,
    /// `LOC_LOCAL_PREF`, read: our locator that peers are told to prefer.
    LocalPreference,
    /// `LOC_PEER_PREF`, read: the locator that the peer prefers.
    PeerPreference,
    /// `LOC_LOCAL_SEND`: the source of packets on the wire.
    LocalSend,
    /// `LOC_PEER_SEND`: their destination.
    PeerSend,
    /// `LOCLIST_LOCAL`, read: our locators as the peer may know them.
    LocalList,
    /// `LOCLIST_PEER`, read: the peer's locators that are proved.
    PeerList,
    /// `DEFERRED_CONTEXT_SETUP`: the context waits for traffic to be worth it; switched off, it is
    /// set up at once.
    DeferredSetUp,
    /// `DONTSHIM`. A rule by port says so (`SetUpConfig`), for both ends of a flow alike.
    DontShim,
    /// `HOT_STANDBY`: alternatives are measured while they are not used. So they are in every
    /// context of a vserver that measures (`ReapConfig::measure`), and in none of another.
    HotStandby,
    /// `LOC_LOCAL_RECV`, read: where the last packet of the context came to. It is always known;
    /// switching it on does nothing.
    LocalReceive,
    /// `LOC_PEER_RECV`, read: where it came from.
    PeerReceive,
    /// `APP_TIMEOUT`: how long the context waits for return traffic before it looks for another pair.
    /// Set, it is at least that of the vserver (`ReapConfig`), by which the peer sends its
    /// keepalives, and at most [`APP_TIMEOUT_MAX`].
    AppTimeout,
    /// `PATHEXPLORE`, read: how paths are explored, which is of the vserver (`ReapConfig`).
    PathExplore,
    /// `FEEDBACK` (RFC 6316 7), set: what the application knows of its packets. Progress counts as
    /// return traffic; that there is none starts a test of the pair, and not too often.
    Feedback,
}

/// The longest [`ShimOption::AppTimeout`].
pub const APP_TIMEOUT_MAX: Duration = Duration::from_mins(10);

/// What an option is, or is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value {
    /// On or off.
    Flag(bool),
    /// A locator by its address.
    Addr(IpAddr),
    /// A locator with its preference; `None`: there is none.
    Locator(Option<Locator>),
    /// Several.
    List(LocatorList),
    /// A time.
    Time(Duration),
    /// How paths are explored.
    Exploring(Exploring),
}

/// What [`ShimOption::PathExplore`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exploring {
    /// Probes before they become ever more seldom.
    pub initial_probes: u32,
    /// How long the peer gets keepalives.
    pub keepalive_timeout: Duration,
    /// Between these probes.
    pub initial_probe_timeout: Duration,
}

/// Why an option is not read or set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OptionError {
    /// ENOENT.
    #[error("the socket has no shim context")]
    NoContext,
    /// EINVALIDLOCATOR: no locator of the context.
    #[error("no locator of the context")]
    InvalidLocator,
    /// EUNREACHABLELOCATOR: its address or link is gone.
    #[error("the locator cannot be used now")]
    UnreachableLocator,
    /// Such a value the option does not have, or it is only read.
    #[error("no value of the option")]
    Value,
    /// The context cannot be set up now.
    #[error("no context can be set up: {0:?}")]
    SetUp(StartError),
    /// The option is one of the vserver here, or has no object.
    #[error("the option is not one of sockets here")]
    NotSupported,
}

/// Which context a socket has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Of {
    /// The socket's addresses.
    pub ulids: Pair,
    /// The forked instance that it uses; 0: the common one.
    pub fii: u32,
}

/// Reads an option of a socket.
pub fn get(
    contexts: &Contexts,
    now: Instant,
    of: Of,
    option: ShimOption,
) -> Result<Value, OptionError> {
    let associated = contexts.state(now, of.ulids, of.fii) == State::Established;
    match option {
        ShimOption::Associated => return Ok(Value::Flag(associated)),
        ShimOption::DeferredSetUp => {
            return Ok(Value::Flag(contexts.pair(of.ulids, of.fii).is_none()));
        }
        ShimOption::HotStandby => return Ok(Value::Flag(associated && contexts.measures())),
        ShimOption::DontShim => return Err(OptionError::NotSupported),
        ShimOption::Feedback => return Err(OptionError::Value),
        _ => {}
    }
    let pair = contexts.pair(of.ulids, of.fii).filter(|_| associated);
    let pair = pair.ok_or(OptionError::NoContext)?;
    let (own, peer) = contexts.locators_of(of.ulids, of.fii).ok_or(OptionError::NoContext)?;
    let reap = || contexts.reap_timing(of.ulids, of.fii).ok_or(OptionError::NoContext);
    let came_by = || contexts.came_by(of.ulids, of.fii).ok_or(OptionError::NoContext);
    Ok(match option {
        ShimOption::LocalPreference => Value::Locator(preferred(&own)),
        ShimOption::PeerPreference => Value::Locator(preferred(&peer)),
        ShimOption::LocalSend => Value::Addr(pair.local),
        ShimOption::PeerSend => Value::Addr(pair.remote),
        ShimOption::LocalReceive => Value::Addr(came_by()?.local),
        ShimOption::PeerReceive => Value::Addr(came_by()?.remote),
        ShimOption::LocalList => Value::List(own),
        ShimOption::AppTimeout => Value::Time(reap()?.0),
        ShimOption::PathExplore => Value::Exploring(reap()?.1),
        _ => Value::List(peer),
    })
}

/// Sets an option of a socket, for all that share its context.
pub fn set(
    contexts: &mut Contexts,
    now: Instant,
    of: Of,
    option: ShimOption,
    value: &Value,
) -> Result<(), OptionError> {
    match (option, value) {
        (ShimOption::DeferredSetUp, Value::Flag(true)) => Ok(()),
        (ShimOption::DeferredSetUp, Value::Flag(false)) => {
            match contexts.start(now, of.ulids, of.fii) {
                Ok(()) | Err(StartError::Exists) => Ok(()),
                Err(e) => Err(OptionError::SetUp(e)),
            }
        }
        (ShimOption::LocalSend, Value::Addr(addr)) => {
            send_by(contexts, now, of, |pair| Pair::new(*addr, pair.remote))
        }
        (ShimOption::PeerSend, Value::Addr(addr)) => {
            send_by(contexts, now, of, |pair| Pair::new(pair.local, *addr))
        }
        (ShimOption::AppTimeout, Value::Time(time)) => {
            contexts.set_app_timeout(now, of.ulids, of.fii, *time)
        }
        (ShimOption::Feedback, Value::Flag(progress)) => {
            let hint = if *progress { Hint::Progress } else { Hint::NoProgress };
            let known = contexts.hint_instance(now, of.ulids, of.fii, hint);
            if known { Ok(()) } else { Err(OptionError::NoContext) }
        }
        (ShimOption::HotStandby, Value::Flag(true)) if contexts.measures() => Ok(()),
        (ShimOption::HotStandby, Value::Flag(_)) => Err(OptionError::NotSupported),
        (ShimOption::LocalReceive | ShimOption::PeerReceive, Value::Flag(true)) => Ok(()),
        (
            ShimOption::DontShim
            | ShimOption::PathExplore
            | ShimOption::LocalPreference
            | ShimOption::PeerPreference,
            _,
        ) => Err(OptionError::NotSupported),
        _ => Err(OptionError::Value),
    }
}

fn send_by(
    contexts: &mut Contexts,
    now: Instant,
    of: Of,
    change: impl FnOnce(Pair) -> Pair,
) -> Result<(), OptionError> {
    if contexts.state(now, of.ulids, of.fii) != State::Established {
        return Err(OptionError::NoContext);
    }
    let pair = contexts.pair(of.ulids, of.fii).ok_or(OptionError::NoContext)?;
    contexts.switch(now, of.ulids, of.fii, change(pair)).map_err(|e| match e {
        SwitchError::NotAPair => OptionError::InvalidLocator,
        SwitchError::Gone => OptionError::UnreachableLocator,
    })
}

impl Contexts {
    /// The send timeout that the context goes by without additions, and how it explores.
    fn reap_timing(&self, ulids: Pair, fii: u32) -> Option<(Duration, Exploring)> {
        let reap = self.reap_of(ulids, fii)?;
        let config = reap.config();
        let exploring = Exploring {
            initial_probes: config.initial_probes,
            keepalive_timeout: config.keepalive_timeout,
            initial_probe_timeout: config.initial_probe_timeout,
        };
        Some((config.send_timeout, exploring))
    }

    fn set_app_timeout(
        &mut self,
        now: Instant,
        ulids: Pair,
        fii: u32,
        time: Duration,
    ) -> Result<(), OptionError> {
        let least = self.reap_config().send_timeout;
        if !(least..=APP_TIMEOUT_MAX).contains(&time) {
            return Err(OptionError::Value);
        }
        let done = self.with_reap(now, ulids, fii, |reap| reap.set_send_timeout(time));
        done.ok_or(OptionError::NoContext)
    }

    /// `false`: there is no such context.
    fn hint_instance(&mut self, now: Instant, ulids: Pair, fii: u32, hint: Hint) -> bool {
        self.with_reap(now, ulids, fii, |reap| reap.hint(now, hint)).is_some()
    }
}

/// The first by preference that works (RFC 2782).
fn preferred(list: &LocatorList) -> Option<Locator> {
    let works = list.locators.iter().filter(|l| !l.preference.is_broken());
    works.min_by_key(|l| (l.preference.priority, core::cmp::Reverse(l.preference.weight))).copied()
}
