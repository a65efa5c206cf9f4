//! Captures that run, and who asks for their packets.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::feed::{Feed, Taken};
use super::{
    CAPTURES_MAX, CaptureBatch, CaptureBegun, CaptureEnd, CaptureError, CaptureWish,
    CapturedPacket, OF_VSERVER_MAX,
};
use crate::{Host, Vserver};

/// Bytes of packets in a batch.
const BATCH_BYTES: usize = 1 << 20;
/// Packets in a batch.
const BATCH_PACKETS: usize = 4_096;
/// One that nobody asks for is ended after this time.
const IDLE: Duration = Duration::from_secs(30);

struct Session {
    feed: Arc<Feed>,
    packets: Receiver<Taken>,
    vserver: Vserver,
    used: Instant,
    /// No more are taken, and why.
    ended: Option<&'static str>,
}

impl Session {
    /// The workers offer it nothing any more.
    fn detach(&mut self, why: &'static str) {
        if self.ended.replace(why).is_none() {
            for worker in self.vserver.workers() {
                worker.lock().forget_capture(&self.feed);
            }
        }
    }

    /// What waits, as much as one batch takes; whether that is all.
    fn drain(&self) -> (Vec<Taken>, bool) {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES && batch.len() < BATCH_PACKETS {
            let Ok(packet) = self.packets.try_recv() else { return (batch, true) };
            self.feed.left(&packet);
            bytes += packet.data.len();
            batch.push(packet);
        }
        (batch, false)
    }
}

type Ended = dyn Fn(&CaptureEnd) + Send + Sync;

/// The captures of one host.
pub struct Captures {
    host: Arc<Host>,
    open: Mutex<(u64, HashMap<u64, Session>)>,
    ended: Box<Ended>,
}

impl std::fmt::Debug for Captures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Captures").field("open", &self.open.lock().1.len()).finish_non_exhaustive()
    }
}

/// Ends a capture when dropped.
#[derive(Debug)]
pub struct Hold {
    captures: Weak<Captures>,
    number: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(captures) = self.captures.upgrade() {
            captures.end(self.number, "the client went away");
        }
    }
}

impl Captures {
    /// No captures; `ended` is told of each that ends.
    pub fn new(
        host: Arc<Host>,
        ended: impl Fn(&CaptureEnd) + Send + Sync + 'static,
    ) -> Arc<Captures> {
        Arc::new(Captures { host, open: Mutex::default(), ended: Box::new(ended) })
    }

    /// Ends captures that nobody asks for any more.
    pub fn sweep(&self) {
        let open = self.open.lock();
        let idle = open.1.iter().filter(|(_, s)| s.used.elapsed() >= IDLE);
        let idle: Vec<u64> = idle.map(|(number, _)| *number).collect();
        drop(open);
        for number in idle {
            self.end(number, "nobody took its packets");
        }
    }

    /// The vserver that a capture is of, if it runs.
    pub fn vserver_of(&self, number: u64) -> Option<String> {
        self.open.lock().1.get(&number).map(|s| s.vserver.name().to_owned())
    }

    /// Begins a capture, which lasts as long as the [`Hold`].
    pub fn start(
        self: &Arc<Captures>,
        wish: &CaptureWish,
    ) -> Result<(CaptureBegun, Hold), CaptureError> {
        let name = wish.vserver.to_ascii_lowercase();
        let unknown = || CaptureError::NoSuchVserver(wish.vserver.clone());
        let vserver = self.host.vserver(&name).ok_or_else(unknown)?;
        let (feed, packets) = Feed::new(wish)?;
        let feed = Arc::new(feed);
        let mut open = self.open.lock();
        if open.1.len() >= CAPTURES_MAX {
            return Err(CaptureError::Busy);
        }
        if open.1.values().filter(|s| s.vserver.name() == name).count() >= OF_VSERVER_MAX {
            return Err(CaptureError::BusyVserver(name));
        }
        let mut ethernet = true;
        let mut session = Session { feed, packets, vserver, used: Instant::now(), ended: None };
        for worker in session.vserver.workers() {
            let (node, feed) = (session.vserver.node(), Arc::clone(&session.feed));
            let Ok(first) = worker.with_core(|core, _| core.add_capture(node, feed)) else {
                session.detach("the host has stopped");
                return Err(CaptureError::Stopped);
            };
            ethernet = first.unwrap_or(ethernet);
        }
        open.0 += 1;
        let number = open.0;
        open.1.insert(number, session);
        let hold = Hold { captures: Arc::downgrade(self), number };
        Ok((CaptureBegun { capture: number, vserver: name, ethernet }, hold))
    }

    /// What came since the last call; with `stop` nothing is taken from now on, and what waits is
    /// still given. Does not wait.
    pub fn next(&self, number: u64, stop: bool) -> Result<CaptureBatch, CaptureError> {
        let mut open = self.open.lock();
        let session = open.1.get_mut(&number).ok_or(CaptureError::Over)?;
        session.used = Instant::now();
        if stop {
            session.detach("as asked");
        } else if session.feed.is_complete() {
            session.detach("there are as many packets as asked for");
        } else if !session.vserver.exists() {
            session.detach("the vserver was removed");
        }
        let (mut batch, all) = session.drain();
        // Of several workers.
        batch.sort_by_key(|p| p.time_ns);
        let (captured, lost) = session.feed.counts();
        let ended = session.ended.filter(|_| all).map(str::to_owned);
        drop(open);
        if let Some(why) = &ended {
            self.end(number, why);
        }
        Ok(CaptureBatch { packets: batch.iter().map(shown).collect(), captured, lost, ended })
    }

    fn end(&self, number: u64, why: &str) {
        let Some(mut session) = self.open.lock().1.remove(&number) else { return };
        session.detach("over");
        let (captured, lost) = session.feed.counts();
        let vserver = session.vserver.name().to_owned();
        (self.ended)(&CaptureEnd { capture: number, vserver, captured, lost, why: why.to_owned() });
    }
}

fn shown(packet: &Taken) -> CapturedPacket {
    let mut data = String::with_capacity(2 * packet.data.len());
    for byte in &packet.data {
        // Writing to a String cannot fail.
        let _ = write!(data, "{byte:02x}");
    }
    CapturedPacket {
        time_ns: packet.time_ns,
        above: packet.above,
        out: packet.out,
        ethernet: packet.ethernet,
        len: packet.len,
        data,
    }
}
