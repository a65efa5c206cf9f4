//! Multicast DNS and service discovery (RFC 6762, 6763): vservers tell the links of their mgmt
//! aliases who they are and what they offer, and nothing to any other link.
//!
//! One thread serves all vservers. Each has a socket per family on port 5353 that is a member of the
//! group on its mgmt aliases alone, and a responder per mgmt alias, since each link has names of its
//! own. Messages that come in elsewhere are not looked at.
//!
//! When the configuration changes, who goes says goodbye before its vserver does, who stays as it
//! was is left alone, and links that come and go of one that stays leave its other links alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Interest, Token};
use parking_lot::Mutex;
use weft_stack::ip::address::AliasId;

use crate::change::Follower;
use crate::config::{HostConfig, Mdns};
use crate::interface::{AliasClass, is_alias_of};
use crate::net::{Poller, UdpBind, UdpOption, UdpSend, UdpSocket};
use crate::stats::{HostSnapshot, MdnsSnapshot};
use crate::{Host, Vserver};

mod records;
mod responder;

use responder::{Message, PORT, Responder};

/// All sockets are looked at when one is ready.
const READY: Token = Token(0);
const GROUP4: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 251));
const GROUP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb));
/// RFC 6762 11
const HOP_LIMIT: u8 = 255;
/// How often addresses are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a change waits for the thread.
const ORDER_WAIT: Duration = Duration::from_secs(5);
/// Datagrams of one socket before the next one's turn.
const TURN_DATAGRAMS: usize = 64;

/// What a vserver is to say, and where.
#[derive(Clone)]
struct Wish {
    vserver: Vserver,
    /// As clients see its name.
    spelled: String,
    mdns: Mdns,
    /// Its mgmt aliases and their names.
    aliases: Vec<(AliasId, String)>,
}

/// Who speaks from now on, and who is told whether it does.
struct Order {
    wishes: Vec<Wish>,
    done: Sender<std::io::Result<()>>,
}

/// A vserver's responders.
struct Speaker {
    vserver: Vserver,
    spelled: String,
    mdns: Mdns,
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
    orders: Mutex<Vec<Order>>,
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
        let responders = Responders { control, poller, thread: Mutex::default() };
        responders.follow(host)?;
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

impl Follower for Responders {
    fn name(&self) -> &'static str {
        "multicast DNS"
    }

    fn follow(&self, host: &Host) -> std::io::Result<()> {
        let config = host.config();
        let wish = |v: &crate::config::Vserver| {
            let (vserver, mdns) = (host.vserver(&v.name)?, v.mdns.clone()?);
            let named = |a: usize| (AliasId(a as u16), config.aliases[a].name.clone());
            let aliases = management(&config, v).into_iter().map(named).collect();
            Some(Wish { vserver, spelled: v.spelled.clone(), mdns, aliases })
        };
        let wishes: Vec<Wish> = config.vservers.iter().filter_map(wish).collect();
        let mut thread = self.thread.lock();
        if thread.is_none() {
            if wishes.is_empty() || self.control.stop.load(Ordering::Acquire) {
                return Ok(());
            }
            let (control, poller) = (Arc::clone(&self.control), Arc::clone(&self.poller));
            *thread = Some(
                std::thread::Builder::new()
                    .name(String::from("weft-mdns"))
                    .spawn(move || run(&control, &poller))?,
            );
        }
        let (done, answer) = channel();
        self.control.orders.lock().push(Order { wishes, done });
        // Without it the thread looks within a second.
        let _ = self.poller.wake();
        answer.recv_timeout(ORDER_WAIT).unwrap_or_else(|_| {
            let text = "its thread does not answer; restart the daemon";
            Err(std::io::Error::new(std::io::ErrorKind::TimedOut, text))
        })
    }
}

/// The mgmt aliases that a vserver is on.
pub(crate) fn management(config: &HostConfig, v: &crate::config::Vserver) -> Vec<usize> {
    let is_mgmt = |name: &str| is_alias_of(name, AliasClass::Mgmt);
    let mut all = crate::host::build::used_aliases(v);
    all.retain(|a| config.aliases.get(*a).is_some_and(|a| is_mgmt(&a.name)));
    all
}

impl Speaker {
    fn open(wish: &Wish, poller: &Poller) -> std::io::Result<Speaker> {
        let mut sockets = Vec::new();
        let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        for local in any {
            let how = UdpBind { only_v6: true, ..UdpBind::default() };
            let socket = UdpSocket::bind_with(&wish.vserver, SocketAddr::new(local, PORT), how)?;
            socket.set_nonblocking(true)?;
            // What it says itself is no news to it.
            socket.set_option(UdpOption::MulticastLoop(false))?;
            poller.register(&socket, READY, Interest::READABLE)?;
            sockets.push(socket);
        }
        let Wish { vserver, spelled, mdns, .. } = wish.clone();
        let mut speaker = Speaker { vserver, spelled, mdns, sockets, links: Vec::new() };
        speaker.set_links(wish)?;
        Ok(speaker)
    }

    /// Whether it says already what is wished, on these links or others.
    fn says(&self, wish: &Wish) -> bool {
        self.vserver.node() == wish.vserver.node()
            && (&self.spelled, &self.mdns) == (&wish.spelled, &wish.mdns)
    }

    /// Speaks on these links: on others it says goodbye, on new ones it begins.
    fn set_links(&mut self, wish: &Wish) -> std::io::Result<()> {
        let stays = |l: &Link| wish.aliases.iter().any(|(alias, _)| *alias == l.alias);
        let (stay, gone): (Vec<Link>, Vec<Link>) = self.links.drain(..).partition(stays);
        self.links = stay;
        for mut link in gone {
            link.goodbye(&self.sockets);
            for (socket, group) in self.sockets.iter().zip([GROUP4, GROUP6]) {
                // With the alias the membership goes in any case.
                let _ = socket.leave_multicast(link.alias, group);
            }
        }
        for (alias, name) in &wish.aliases {
            if self.links.iter().any(|l| l.alias == *alias) {
                continue;
            }
            for (socket, group) in self.sockets.iter().zip([GROUP4, GROUP6]) {
                socket.join_multicast(*alias, group)?;
            }
            let mut random = [0; 8];
            rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty())?;
            let responder = Responder::new(&self.mdns, &self.spelled, u64::from_le_bytes(random));
            self.links.push(Link { alias: *alias, name: name.clone(), responder });
        }
        Ok(())
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

    fn goodbye(&mut self) {
        for link in &mut self.links {
            link.goodbye(&self.sockets);
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

impl Link {
    fn goodbye(&mut self, sockets: &[UdpSocket]) {
        self.responder.goodbye();
        let messages = self.responder.poll(Instant::now());
        send(sockets, self.alias, &messages);
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

/// Speakers are these from now on.
fn set(all: &mut Vec<Speaker>, wishes: &[Wish], poller: &Poller) -> std::io::Result<()> {
    // Their port is free before somebody else of the vserver takes it.
    all.retain_mut(|s| {
        let stays = wishes.iter().any(|w| s.says(w));
        if !stays {
            s.goodbye();
        }
        stays
    });
    for wish in wishes {
        match all.iter_mut().find(|s| s.says(wish)) {
            Some(speaker) => speaker.set_links(wish)?,
            None => all.push(Speaker::open(wish, poller)?),
        }
    }
    Ok(())
}

fn run(control: &Control, poller: &Poller) {
    let mut ready = Vec::new();
    let mut all: Vec<Speaker> = Vec::new();
    while !control.stop.load(Ordering::Acquire) {
        for order in std::mem::take(&mut *control.orders.lock()) {
            // Who gave the order may have given up.
            let _ = order.done.send(set(&mut all, &order.wishes, poller));
        }
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
    all.iter_mut().for_each(Speaker::goodbye);
}
