//! The second shim of each vserver: what its table says, what its connections have learned, and the
//! races that its applications run ([`weft_shim::connect`]).

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use smallvec::SmallVec;
use weft_shim::connect::{Addresses, Counters, Entry, History, Labels, PolicyTable, Source};
use weft_stack::ip::address::AddressState;
use weft_stack::rng::{Key, Rng};
use weft_stack::time::Instant;

use crate::Vserver;
use crate::config::{self, Connect};
use crate::runtime::HostStack;

mod driven;
mod racing;
mod start;

pub(crate) use driven::{Heard, Races};

pub use racing::{Connecting, UdpAnswer, UdpRequest};
pub use weft_shim::connect::Form;

/// What the second shim of one vserver has.
pub(crate) struct State {
    policy: Mutex<Arc<PolicyTable>>,
    history: Mutex<History>,
    counters: Mutex<Counters>,
    labels: Mutex<Arc<Labels>>,
    /// Connects that were one attempt because too many races ran.
    unraced: Mutex<u64>,
}

impl State {
    fn new(config: &Connect) -> State {
        let mut seed = [0; 16];
        // Without randomness the map of pairs is as sound, only not secret.
        let _ = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty());
        let key = Key::generate(&mut Rng::new(seed));
        State {
            policy: Mutex::new(Arc::new(config.policy.clone())),
            history: Mutex::new(History::new(config.history, key)),
            counters: Mutex::default(),
            labels: Mutex::new(Arc::new(Labels::with(&config.policy_table))),
            unraced: Mutex::default(),
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("policy", &self.policy.lock()).finish_non_exhaustive()
    }
}

/// The second shims of a host, by slot: at least those of vservers whose table wants something.
#[derive(Debug, Default)]
pub(crate) struct Connects {
    states: Mutex<HashMap<u32, Arc<State>>>,
}

impl Connects {
    /// Those of the vservers that a host begins with.
    pub(crate) fn new(vservers: &[config::Vserver]) -> Connects {
        let connects = Connects::default();
        for (index, v) in (0..).zip(vservers) {
            connects.set(index, &v.connect);
        }
        connects
    }

    /// That of a vserver, if there is one.
    pub(crate) fn find(&self, index: u32) -> Option<Arc<State>> {
        self.states.lock().get(&index).cloned()
    }

    /// That of a vserver, made when it is first needed.
    pub(crate) fn state(&self, vserver: &Vserver) -> Arc<State> {
        let mut states = self.states.lock();
        let made = || Arc::new(State::new(&vserver.configured_connect()));
        Arc::clone(states.entry(vserver.index()).or_insert_with(made))
    }

    /// Another table for what is set up from now on. What was learned stays.
    pub(crate) fn set(&self, index: u32, config: &Connect) {
        let mut states = self.states.lock();
        if let Some(state) = states.get(&index) {
            *state.policy.lock() = Arc::new(config.policy.clone());
            *state.labels.lock() = Arc::new(Labels::with(&config.policy_table));
            state.history.lock().resize(config.history);
        } else if !config.policy.is_off() {
            states.insert(index, Arc::new(State::new(config)));
        }
    }

    /// Forgets a vserver that is gone.
    pub(crate) fn forget(&self, index: u32) {
        self.states.lock().remove(&index);
    }

    /// Counters of a vserver; empty if it never set up anything.
    pub(crate) fn counters(&self, index: u32) -> BTreeMap<String, u64> {
        let Some(state) = self.find(index) else { return BTreeMap::new() };
        let c = *state.counters.lock();
        let history = state.history.lock();
        [
            ("ConnectRaces", c.races),
            ("ConnectWonByFirst", c.won_by_first),
            ("ConnectWonByLater", c.won_by_later),
            ("ConnectLost", c.lost),
            ("ConnectAttempts", c.attempts),
            ("ConnectRefused", c.refused),
            ("ConnectUnreachable", c.unreachable),
            ("ConnectLocalFaults", c.local),
            ("ConnectTimedOut", c.timed_out),
            ("ConnectCancelled", c.cancelled),
            ("ConnectQuestions", c.questions),
            ("ConnectOverBudget", c.over_budget),
            ("ConnectUnraced", *state.unraced.lock()),
            ("ConnectHistory", history.len() as u64),
            ("ConnectHistoryEvicted", history.evicted()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

impl Vserver {
    /// The table of its second shim that is in force.
    pub fn connect_policy(&self) -> Arc<PolicyTable> {
        Arc::clone(&self.second_shim().policy.lock())
    }

    /// Replaces that table, until the configuration changes it.
    pub fn set_connect_policy(&self, policy: PolicyTable) {
        *self.second_shim().policy.lock() = Arc::new(policy);
    }

    /// What its connections have learned of pairs of addresses.
    pub fn connect_history(&self) -> Vec<Entry> {
        let now = self.clock();
        self.second_shim().history.lock().report(now)
    }

    pub(crate) fn second_shim(&self) -> Arc<State> {
        self.shared().connects.state(self)
    }

    pub(crate) fn clock(&self) -> Instant {
        self.shared().home().clock.now()
    }
}

/// The addresses of a vserver, asked of its stack once per destination, before a race looks at them:
/// a race holds the history, which workers take while they hold their own lock.
#[derive(Debug)]
struct Ours {
    vserver: Vserver,
    known: RefCell<HashMap<IpAddr, SmallVec<[Source; 4]>>>,
}

impl Ours {
    fn new(vserver: &Vserver) -> Ours {
        Ours { vserver: vserver.clone(), known: RefCell::default() }
    }

    /// Asks for those towards a destination, unless they are known.
    fn learn(&self, dst: IpAddr) {
        if !self.known.borrow().contains_key(&dst) {
            let found = self.ask(dst);
            self.known.borrow_mut().insert(dst, found);
        }
    }

    fn ask(&self, dst: IpAddr) -> SmallVec<[Source; 4]> {
        let worker = self.vserver.worker(self.vserver.first_place());
        let asked = worker.peek(self.vserver.node(), |node| sources(&mut node.stack, dst));
        asked.unwrap_or_default()
    }
}

/// The stack's own choice first, then every other usable address that has a way to `dst`.
fn sources(stack: &mut HostStack, dst: IpAddr) -> SmallVec<[Source; 4]> {
    let Some(first) = stack.source_for(None, dst) else { return SmallVec::new() };
    let usable = stack.aliases().flat_map(|(_, all)| all).filter(|a| a.state.usable());
    let mut all: SmallVec<[Source; 4]> = usable
        .filter(|a| a.cidr.addr.is_ipv4() == dst.is_ipv4())
        .map(|a| Source {
            addr: a.cidr.addr,
            prefix_len: a.cidr.prefix_len,
            deprecated: a.state == AddressState::Deprecated,
        })
        .collect();
    all.retain(|s| stack.source_for(Some(s.addr), dst) == Some(s.addr));
    all.sort_by_key(|s| (s.addr != first, s.addr));
    all.dedup_by_key(|s| s.addr);
    all
}

impl Addresses for Ours {
    fn sources(&self, dst: IpAddr) -> SmallVec<[Source; 4]> {
        self.known.borrow().get(&dst).cloned().unwrap_or_default()
    }
}
