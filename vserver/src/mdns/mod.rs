//! Multicast DNS and service discovery (RFC 6762, 6763): vservers tell the links of their mgmt
//! aliases who they are and what they offer, and nothing to any other link.
//!
//! One thread serves all vservers. Each has a socket per family on port 5353 that is a member of the
//! group on its mgmt aliases alone, and a responder per mgmt alias, since each link has names of its
//! own. Messages that come in elsewhere are not looked at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Interest, Token};
use parking_lot::Mutex;
use weft_stack::ip::address::AliasId;

use crate::config::HostConfig;
use crate::interface::{AliasClass, InterfaceName};
use crate::net::{Poller, UdpBind, UdpOption, UdpSend, UdpSocket};
use crate::stats::{HostSnapshot, MdnsSnapshot};
use crate::{Host, Vserver};

mod records;
mod responder;

use responder::{Message, PORT, Responder};

const GROUP4: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 251));
const GROUP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb));
/// RFC 6762 11
const HOP_LIMIT: u8 = 255;
/// How often addresses are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Datagrams of one socket before the next one's turn.
const TURN_DATAGRAMS: usize = 64;

/// A vserver's responders.
struct Speaker {
    vserver: Vserver,
    sockets: Vec<UdpSocket>,
    links: Vec<Link>,
}

/// One link and what is said there.
struct Link {
    alias: AliasId,
    name: String,
    responder: Responder,
}

#[derive(Default)]
struct Control {
    stop: AtomicBool,
    seen: Mutex<Vec<(String, MdnsSnapshot)>>,
}

/// The responders of a host. Dropping it says goodbye.
pub struct Responders {
    control: Arc<Control>,
    poller: Arc<Poller>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Responders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Responders").finish_non_exhaustive()
    }
}

impl Responders {
    /// Starts what the host's configuration asks for.
    ///
    /// Errors: those of sockets and of making a thread.
    pub fn start(host: &Host) -> std::io::Result<Responders> {
        let (control, poller) = (Arc::new(Control::default()), Arc::new(Poller::new()?));
        let mut all = Vec::new();
        let config = host.config();
        for v in config.vservers.iter().filter(|v| v.mdns.is_some()) {
            let Some(vserver) = host.vserver(&v.name) else { continue };
            all.push(Speaker::open(vserver, &config, v, &poller, all.len())?);
        }
        let mut responders = Responders {
            control: Arc::clone(&control),
            poller: Arc::clone(&poller),
            thread: Mutex::default(),
        };
        if !all.is_empty() {
            let thread = std::thread::Builder::new()
                .name(String::from("weft-mdns"))
                .spawn(move || run(all, &control, &poller))?;
            responders.thread = Mutex::new(Some(thread));
        }
        Ok(responders)
    }

    /// Adds what is said to a snapshot of the same host.
    pub fn fill(&self, snapshot: &mut HostSnapshot) {
        for (vserver, seen) in &*self.control.seen.lock() {
            if let Some(v) = snapshot.vservers.iter_mut().find(|v| v.name == *vserver) {
                v.mdns.push(seen.clone());
            }
        }
    }

    /// Says goodbye; call it before the host stops.
    pub fn stop(&self) {
        self.control.stop.store(true, Ordering::Release);
        // Without it the thread looks within a second.
        let _ = self.poller.wake();
        if let Some(thread) = self.thread.lock().take() {
            // A panic of the thread has been printed by the panic hook.
            let _ = thread.join();
        }
    }
}

impl Drop for Responders {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The mgmt aliases that a vserver is on.
pub(crate) fn management(config: &HostConfig, v: &crate::config::Vserver) -> Vec<usize> {
    let is_mgmt =
        |name: &str| matches!(name.parse(), Ok(InterfaceName::Alias(AliasClass::Mgmt, _)));
    let mut all: Vec<usize> =
        v.addresses.iter().map(|a| a.0).chain(v.slaac.iter().copied()).collect();
    all.sort_unstable();
    all.dedup();
    all.retain(|a| config.aliases.get(*a).is_some_and(|a| is_mgmt(&a.name)));
    all
}

impl Speaker {
    fn open(
        vserver: Vserver,
        config: &HostConfig,
        v: &crate::config::Vserver,
        poller: &Poller,
        number: usize,
    ) -> std::io::Result<Speaker> {
        let aliases = management(config, v);
        let mut sockets = Vec::new();
        let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        for (i, local) in any.into_iter().enumerate() {
            let how = UdpBind { only_v6: true, ..UdpBind::default() };
            let socket = UdpSocket::bind_with(&vserver, SocketAddr::new(local, PORT), how)?;
            socket.set_nonblocking(true)?;
            // What it says itself is no news to it.
            socket.set_option(UdpOption::MulticastLoop(false))?;
            let group = if local.is_ipv4() { GROUP4 } else { GROUP6 };
            for alias in &aliases {
                socket.join_multicast(AliasId(*alias as u16), group)?;
            }
            poller.register(&socket, Token(2 * number + i), Interest::READABLE)?;
            sockets.push(socket);
        }
        let mut links = Vec::new();
        for alias in aliases {
            let mut random = [0; 8];
            rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty())?;
            let random = u64::from_le_bytes(random);
            let mdns = v.mdns.as_ref();
            let responder = mdns.map(|m| Responder::new(m, &v.spelled, random));
            let name = config.aliases[alias].name.clone();
            let alias = AliasId(alias as u16);
            links.extend(responder.map(|responder| Link { alias, name, responder }));
        }
        Ok(Speaker { vserver, sockets, links })
    }

    fn turn(&mut self, now: Instant) {
        for link in &mut self.links {
            let addresses = self.vserver.addresses_on(link.alias);
            link.responder.set_addresses(now, &addresses);
        }
        for socket in &self.sockets {
            for _ in 0..TURN_DATAGRAMS {
                let Ok(datagram) = socket.recv_datagram() else { break };
                // Not of a link that we speak on: as if it had not come.
                let link = self.links.iter_mut().find(|l| l.alias == datagram.alias);
                if let Some(link) = link {
                    link.responder.receive(now, datagram.from, &datagram.payload);
                }
            }
        }
        for link in &mut self.links {
            let messages = link.responder.poll(now);
            send(&self.sockets, link.alias, &messages);
        }
    }

    fn goodbye(&mut self, now: Instant) {
        for link in &mut self.links {
            link.responder.goodbye();
            let messages = link.responder.poll(now);
            send(&self.sockets, link.alias, &messages);
        }
    }

    fn seen(&self) -> Vec<(String, MdnsSnapshot)> {
        let one = |l: &Link| {
            let counts = l.responder.counts;
            let counters = [
                ("Questions", counts.questions),
                ("Answers", counts.answers),
                ("Suppressed", counts.suppressed),
                ("Conflicts", counts.conflicts),
                ("Malformed", counts.malformed),
                ("Refused", counts.refused),
            ];
            let snapshot = MdnsSnapshot {
                alias: l.name.clone(),
                host: l.responder.host(),
                announced: l.responder.is_running(),
                counters: counters.map(|(k, v)| (k.to_owned(), v)).into(),
            };
            (self.vserver.name().to_owned(), snapshot)
        };
        self.links.iter().map(one).collect()
    }
}

/// To one, or to all on the link by each family.
fn send(sockets: &[UdpSocket], alias: AliasId, messages: &[Message]) {
    for message in messages {
        for (socket, group) in sockets.iter().zip([GROUP4, GROUP6]) {
            let to = match message.to {
                Some(to) if to.is_ipv4() != group.is_ipv4() => continue,
                Some(to) => to,
                None => SocketAddr::new(group, PORT),
            };
            let how = UdpSend {
                to: Some(to),
                alias: Some(alias),
                hop_limit: Some(HOP_LIMIT),
                ..UdpSend::default()
            };
            // A family without an address here, or no room: what is said is said again.
            let _ = socket.send_with(&message.bytes, &how);
        }
    }
}

fn run(mut all: Vec<Speaker>, control: &Control, poller: &Poller) {
    let mut ready = Vec::new();
    while !control.stop.load(Ordering::Acquire) {
        let now = Instant::now();
        for s in &mut all {
            s.turn(now);
        }
        *control.seen.lock() = all.iter().flat_map(Speaker::seen).collect();
        let links = all.iter().flat_map(|s| &s.links);
        let next = links.filter_map(|l| l.responder.next()).min();
        let wait = next.map_or(LOOK_EVERY, |at| at.saturating_duration_since(now));
        let wait = wait.clamp(Duration::from_millis(1), LOOK_EVERY);
        if poller.wait(&mut ready, Some(wait)).is_err() {
            return;
        }
    }
    for s in &mut all {
        s.goodbye(Instant::now());
    }
}
