//! The XDP program on a NIC: attaching it, its maps, and what the NIC's sockets share.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData, PerCpuArray, XskMap};
use aya::programs::links::FdLink;
use aya::programs::{ProgramError, SocketFilter, Xdp, xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use parking_lot::Mutex;

use super::XdpMode;
use super::multicast::CopySocket;
use super::rings::os_error;
use super::steer::{Effect, Groups, Steered};
use crate::device::{DeviceError, Steer};
use crate::nic::{Nic, NicFacts};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));

/// A new loader reads and parses all types of the kernel, megabytes of them: one for the process. The
/// program asks for none of these types, so that they are not kept.
static LOADER: LazyLock<Mutex<EbpfLoader<'static>>> = LazyLock::new(|| {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    Mutex::new(loader)
});

/// The program and its maps, for a NIC with so many receive queues; on no NIC yet.
fn load(rx_queues: usize) -> Result<Ebpf, EbpfError> {
    // Another NIC's number of queues is overwritten.
    LOADER.lock().map_max_entries("XSKS", rx_queues.max(1) as u32).load(OBJECT)
}

/// The steering program on one NIC, shared by the [`super::AfXdp`] of its queues. Dropping the last
/// handle (or the end of the process, however it comes) takes it off the NIC.
pub struct XdpProgram {
    ifname: String,
    facts: NicFacts,
    requested: XdpMode,
    generic: bool,
    note: Option<String>,
    inner: Mutex<Inner>,
}

struct Inner {
    /// First, so that the program is off the NIC before its maps go.
    _attached: FdLink,
    sockets: XskMap<MapData>,
    v4: HashMap<MapData, [u8; 4], u8>,
    v6: HashMap<MapData, [u8; 16], u8>,
    /// In the byte order of the wire.
    ethertypes: HashMap<MapData, [u8; 2], u8>,
    counters: PerCpuArray<MapData, u64>,
    steered: Steered,
    copies: Option<Arc<CopySocket>>,
    /// Queues that this process has open.
    open: BTreeSet<u32>,
    ebpf: Ebpf,
}

/// A queue that is open, until it is dropped.
pub(super) struct QueueClaim {
    program: Arc<XdpProgram>,
    queue: u32,
}

impl Drop for QueueClaim {
    fn drop(&mut self) {
        self.program.inner.lock().open.remove(&self.queue);
    }
}

impl fmt::Debug for XdpProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XdpProgram")
            .field("ifname", &self.ifname)
            .field("requested", &self.requested)
            .field("generic", &self.generic)
            .finish_non_exhaustive()
    }
}

/// What the program did with the NIC's frames, over all queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SteerCounters {
    /// Frames redirected to one of our sockets.
    pub redirected: u64,
    /// Frames passed to the kernel.
    pub passed: u64,
}

impl XdpProgram {
    /// Puts the program on a NIC of the calling thread's namespace. Nothing is steered yet.
    ///
    /// [`XdpMode::Auto`] tries native, then generic (see [`XdpProgram::note`]). A NIC carries one
    /// XDP program: another one on it is an error.
    pub fn attach(ifname: &str, mode: XdpMode) -> Result<Arc<XdpProgram>, DeviceError> {
        let facts = Nic::query(ifname)?;
        let mut ebpf = load(facts.rx_queues).map_err(|e| load_error(ifname, os_error(&e)))?;
        let (attached, generic, note) = attach(&mut ebpf, ifname, facts.index, mode)?;
        let inner = Inner {
            _attached: attached,
            sockets: map(&mut ebpf, "XSKS", ifname)?,
            v4: map(&mut ebpf, "V4", ifname)?,
            v6: map(&mut ebpf, "V6", ifname)?,
            ethertypes: map(&mut ebpf, "ETHERTYPES", ifname)?,
            counters: map(&mut ebpf, "COUNTERS", ifname)?,
            steered: Steered::default(),
            copies: None,
            open: BTreeSet::new(),
            ebpf,
        };
        Ok(Arc::new(XdpProgram {
            ifname: ifname.to_owned(),
            facts,
            requested: mode,
            generic,
            note,
            inner: Mutex::new(inner),
        }))
    }

    /// The NIC's name.
    pub fn ifname(&self) -> &str {
        &self.ifname
    }

    /// What the NIC was when the program was attached: queues, driver, index.
    pub fn nic(&self) -> &NicFacts {
        &self.facts
    }

    /// Whether it runs in generic mode.
    pub fn generic(&self) -> bool {
        self.generic
    }

    /// Why it does not run in native mode, if that was tried.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// A warning if the NIC spreads frames over queues that nobody here has open: those frames go
    /// to the kernel. To be asked when all queues are opened.
    pub fn unserved_queues(&self) -> Option<String> {
        let open = self.inner.lock().open.len();
        let all = self.facts.rx_queues;
        (open < all).then(|| {
            let name = &self.ifname;
            format!(
                "{name}: {open} of {all} receive queues are open, frames on the others go to the \
                 kernel: open all, or `ethtool -L {name} combined {open}`"
            )
        })
    }

    /// What became of the NIC's frames so far.
    pub fn counters(&self) -> io::Result<SteerCounters> {
        let inner = self.inner.lock();
        let sum = |index: u32| -> io::Result<u64> {
            let values = inner.counters.get(&index, 0).map_err(|e| os_error(&e))?;
            Ok(values.iter().sum())
        };
        Ok(SteerCounters { redirected: sum(0)?, passed: sum(1)? })
    }

    /// Steers frames to us, or back to the kernel. Adding twice is harmless.
    pub fn steer(&self, change: Steer) -> Result<(), DeviceError> {
        let mut inner = self.inner.lock();
        inner.steer(change).map_err(|e| {
            let full = e.raw_os_error() == Some(libc::E2BIG);
            let hint = if full {
                "65536 addresses per family and NIC are the most, and 16 ethertypes"
            } else {
                ""
            };
            DeviceError::new("steer", format!("{change} on {}", self.ifname), e).hint(hint)
        })
    }

    pub(super) fn requested(&self) -> XdpMode {
        self.requested
    }

    pub(super) fn claim(self: &Arc<XdpProgram>, queue: u32) -> io::Result<QueueClaim> {
        if !self.inner.lock().open.insert(queue) {
            let text = "the queue is already open in this process";
            return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        }
        Ok(QueueClaim { program: Arc::clone(self), queue })
    }

    /// Frames of a queue go to this socket, until it is closed.
    pub(super) fn insert_socket(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.inner.lock().sockets.set(queue, socket.as_raw_fd(), 0).map_err(|e| os_error(&e))
    }

    /// Frames of a queue go to the kernel again.
    pub(super) fn remove_socket(&self, queue: u32) {
        // Not there if opening the queue failed half way.
        let _ = self.inner.lock().sockets.unset(queue);
    }

    /// A socket with the copy filter, receiving already the groups of all steered addresses.
    /// `ring` is called between filter and bind.
    pub(super) fn open_copies<T>(
        &self,
        ring: impl FnOnce(&Arc<CopySocket>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut inner = self.inner.lock();
        let socket = Arc::new(CopySocket::open(self.facts.index)?);
        let filter: &mut SocketFilter =
            program(&mut inner.ebpf, "copy").map_err(|e| os_error(&e))?;
        match filter.load() {
            Ok(()) | Err(ProgramError::AlreadyLoaded) => {}
            Err(e) => return Err(os_error(&e)),
        }
        filter.attach(socket.as_fd()).map_err(|e| os_error(&e))?;
        let ring = ring(&socket)?;
        match inner.steered.groups() {
            Some(mut groups) => groups.try_for_each(|group| socket.join(group))?,
            None => socket.join_all()?,
        }
        inner.steered.macs().try_for_each(|mac| socket.join_mac(mac))?;
        socket.start()?;
        inner.copies = Some(socket);
        Ok(ring)
    }

    /// The socket of [`XdpProgram::open_copies`] is no longer read.
    pub(super) fn close_copies(&self) {
        self.inner.lock().copies = None;
    }
}

impl Inner {
    /// Applies a change whole or not at all.
    fn steer(&mut self, change: Steer) -> io::Result<()> {
        let many_before = self.steered.groups().is_none();
        let groups = match self.steered.apply(change) {
            Effect::Nothing => return Ok(()),
            Effect::Mac(mac) => return self.change_mac(change, mac),
            Effect::Map(groups) => groups,
        };
        let changed = self.change_maps(change);
        let result = changed.and_then(|()| self.change_groups(change, &groups, many_before));
        if result.is_err() && change != change.undone() {
            self.steered.apply(change.undone());
            // Not there if it is the map that refused.
            let _ = self.change_maps(change.undone());
        }
        result
    }

    fn change_mac(&mut self, change: Steer, mac: [u8; 6]) -> io::Result<()> {
        let Some(copies) = &self.copies else { return Ok(()) };
        let added = change == Steer::AddMac(mac);
        let result = if added { copies.join_mac(mac) } else { copies.leave_mac(mac) };
        if result.is_err() && added {
            self.steered.apply(change.undone());
        }
        result
    }

    fn change_groups(&self, change: Steer, groups: &Groups, many_before: bool) -> io::Result<()> {
        let Some(copies) = self.copies.as_ref().filter(|_| !groups.is_empty()) else {
            return Ok(());
        };
        if change == change.undone() {
            return groups.iter().try_for_each(|group| match copies.leave(*group) {
                // Never joined by itself, while all of multicast came.
                Err(e) if e.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
                result => result,
            });
        }
        match (many_before, self.steered.groups().is_none()) {
            // Once all of multicast comes, it stays so: groups joined before are still held.
            (false, true) => copies.join_all(),
            (true, _) => Ok(()),
            (false, false) => groups.iter().try_for_each(|group| copies.join(*group)),
        }
    }

    fn change_maps(&mut self, change: Steer) -> io::Result<()> {
        let result = match change {
            Steer::Add(IpAddr::V4(ip)) => self.v4.insert(ip.octets(), 1, 0),
            Steer::Add(IpAddr::V6(ip)) => self.v6.insert(ip.octets(), 1, 0),
            Steer::Remove(IpAddr::V4(ip)) => self.v4.remove(&ip.octets()),
            Steer::Remove(IpAddr::V6(ip)) => self.v6.remove(&ip.octets()),
            Steer::AddEthertype(e) => self.ethertypes.insert(e.to_be_bytes(), 1, 0),
            Steer::RemoveEthertype(e) => self.ethertypes.remove(&e.to_be_bytes()),
            Steer::AddMac(_) | Steer::RemoveMac(_) => Ok(()),
        };
        result.map_err(|e| os_error(&e))
    }
}

fn map<T>(ebpf: &mut Ebpf, name: &'static str, ifname: &str) -> Result<T, DeviceError>
where
    T: TryFrom<Map, Error = aya::maps::MapError>,
{
    let map = ebpf.take_map(name).expect("the program declares its maps");
    T::try_from(map).map_err(|e| load_error(ifname, os_error(&e)))
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P, ProgramError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    ebpf.program_mut(name).expect("the object has its programs").try_into()
}

fn load_error(ifname: &str, source: io::Error) -> DeviceError {
    let hint = match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "needs root, or CAP_BPF and CAP_NET_ADMIN outside of user namespaces; \
             the driver `packet` works without"
        }
        _ => "",
    };
    DeviceError::new("load XDP program", ifname, source).hint(hint)
}

/// How often, and how far apart, a NIC that has a program already is tried again.
const BUSY_TRIES: u32 = 20;
const BUSY_WAIT: Duration = Duration::from_millis(5);

type Attached = (FdLink, bool, Option<String>);

fn attach(
    ebpf: &mut Ebpf,
    ifname: &str,
    ifindex: u32,
    mode: XdpMode,
) -> Result<Attached, DeviceError> {
    let load = |e: ProgramError| load_error(ifname, os_error(&e));
    let program: &mut Xdp = program(ebpf, "steer").map_err(load)?;
    program.load().map_err(load)?;
    if mode == XdpMode::Generic {
        let link = attach_as(program, ifindex, xdp::XdpMode::Skb);
        return Ok((link.map_err(|e| attach_error(ifname, e))?, true, None));
    }
    let native = match attach_as(program, ifindex, xdp::XdpMode::Driver) {
        Ok(link) => return Ok((link, false, None)),
        Err(e) => e,
    };
    if mode != XdpMode::Auto || is_busy(&native) {
        return Err(attach_error(ifname, native));
    }
    let note = format!("{ifname}: no native XDP ({native}), using generic mode");
    let link = attach_as(program, ifindex, xdp::XdpMode::Skb);
    Ok((link.map_err(|e| attach_error(ifname, e))?, true, Some(note)))
}

/// As a link that hangs on a descriptor: the kernel detaches it when the process ends.
///
/// A child that another thread has just forked holds a copy of every descriptor until it execs, so
/// a link that was dropped may stay for a moment; nothing tells when it goes.
fn attach_as(program: &mut Xdp, ifindex: u32, mode: xdp::XdpMode) -> io::Result<FdLink> {
    let mut attach = || program.attach_to_if_index(ifindex, mode).map_err(|e| os_error(&e));
    let mut attached = attach();
    for _ in 0..BUSY_TRIES {
        if !attached.as_ref().is_err_and(is_busy) {
            break;
        }
        std::thread::sleep(BUSY_WAIT);
        attached = attach();
    }
    let id = attached?;
    let link = program.take_link(id).map_err(|e| os_error(&e))?;
    FdLink::try_from(link).map_err(|_| {
        io::Error::new(io::ErrorKind::Unsupported, "no links for XDP before Linux 5.9")
    })
}

fn is_busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}

fn attach_error(ifname: &str, source: io::Error) -> DeviceError {
    let hint = match source.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => {
            "another XDP program is on the NIC: stop its owner, or `ip link set dev NIC xdp off`"
        }
        Some(libc::ENOSPC) => "a veth needs as many receive queues as its peer has transmit queues",
        Some(libc::EOPNOTSUPP) => "the driver has no native XDP: use mode auto or generic",
        _ => "",
    };
    DeviceError::new("attach XDP program", ifname, source).hint(hint)
}
