//! The run-to-completion face: a service whose callbacks run where frames are received.
//!
//! A [`Service`] has no thread and waits for nothing. The worker calls it right after the burst of
//! frames that concerned its sockets, before it transmits: an answer leaves in the same batch as the
//! acknowledgement, with no wake-up, no switch of threads and no lock of its own. Per event there is
//! no allocation, no system call and no atomic operation.
//!
//! ```
//! use weft_vserver::app::{Cx, Service, SocketId};
//!
//! /// Sends back whatever it gets.
//! struct Echo;
//!
//! impl Service for Echo {
//!     fn start(&mut self, cx: &mut Cx<'_>) {
//!         cx.listen("10.0.0.1:7".parse().unwrap(), 1024).unwrap();
//!     }
//!     fn readable(&mut self, cx: &mut Cx<'_>, id: SocketId) {
//!         while let Ok(mut data) = cx.recv_bytes(id, usize::MAX) {
//!             if data.is_empty() || cx.send_bytes(id, &mut data).is_err() {
//!                 return cx.close(id);
//!             }
//!         }
//!     }
//! }
//! ```

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

mod cx;
mod owners;
mod services;

pub use cx::Cx;
pub(crate) use owners::Owners;
pub(crate) use services::{Services, in_callback};
pub use weft_stack::socket::SocketId;
pub use weft_stack::socket::tcp::{
    ConnectError, ListenError, TcpError, TcpInfo, TcpOption, TcpRecvError, TcpSendError,
};
pub use weft_stack::socket::udp::{
    BindError, Datagram, UdpError, UdpOption, UdpRecvError, UdpSend, UdpSendError,
};
pub use weft_stack::time::Instant;

use weft_stack::any::AnyProtocol;

use crate::Vserver;
use crate::host::Shared;
use crate::net::{AnyOptions, Binding};
use crate::runtime::{Taker, Worker, removed};

/// An application of one vserver, called back where its events arise.
///
/// There is one instance per worker. Its callbacks run on the worker's thread, or on a thread that
/// polls in its place, never two at once; all vservers of the worker wait meanwhile. So a callback
/// does little, never blocks, and uses no blocking socket: those fail with
/// [`io::ErrorKind::Deadlock`] inside a callback.
///
/// Callbacks come by edges, as with any poller: after `readable` read until nothing is left, or
/// remember that something is. A service that panics ends: its connections are reset, its listeners
/// closed, the panic is reported among the host's problems, and the rest of the host goes on.
pub trait Service: Send + 'static {
    /// Once, before all others: listen, connect, set timers.
    fn start(&mut self, cx: &mut Cx<'_>) {
        let _ = cx;
    }

    /// A listener of the service took a connection. What it sent already is told after this.
    fn accepted(&mut self, cx: &mut Cx<'_>, conn: SocketId, peer: SocketAddr) {
        let _ = (cx, conn, peer);
    }

    /// A connection that [`Cx::connect`] began is established. One that failed is told by
    /// [`Service::closed`].
    fn connected(&mut self, cx: &mut Cx<'_>, conn: SocketId) {
        let _ = (cx, conn);
    }

    /// Data arrived, or the peer sent its last: then [`Cx::recv`] gives 0, and the service closes
    /// the connection when it has no more to say. Also for UDP sockets.
    fn readable(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        let _ = (cx, id);
    }

    /// There is room again, after a send that took less than it was given.
    fn writable(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        let _ = (cx, id);
    }

    /// A connection is over: failed, or both sides have sent their last. The last callback about
    /// it; `id` is no longer valid. Not called after the service closed it itself.
    fn closed(&mut self, cx: &mut Cx<'_>, id: SocketId, error: Option<TcpError>) {
        let _ = (cx, id, error);
    }

    /// A time set by [`Cx::set_timer`] has come, or [`ServiceHandle::trigger`] was called.
    fn timer(&mut self, cx: &mut Cx<'_>, token: u64) {
        let _ = (cx, token);
    }

    /// A vserver was removed, with all sockets that this service for any vserver had there.
    fn vserver_removed(&mut self, vserver: crate::VserverId) {
        let _ = vserver;
    }
}

/// A running service. Dropping it ends the service: listeners are closed, connections too, what
/// they have sent is still delivered.
#[derive(Debug)]
pub struct ServiceHandle {
    /// On each worker: its number there.
    places: Vec<(Arc<Worker>, u64)>,
    /// Ports of a service for any vserver.
    bindings: Vec<Binding>,
}

impl ServiceHandle {
    /// Runs one instance per worker that has flows of the vserver.
    pub(crate) fn run<S: Service>(
        vserver: &Vserver,
        mut make: impl FnMut(usize) -> S,
    ) -> io::Result<ServiceHandle> {
        let mut handle = ServiceHandle { places: Vec::new(), bindings: Vec::new() };
        for number in vserver.places() {
            let worker = vserver.worker(number);
            let (id, app) = (vserver.node(), Box::new(make(number)));
            let place = worker.with_core(|core, now| {
                core.node(id).ok_or_else(removed)?;
                Ok::<_, io::Error>(core.start_service(now, id.index, app))
            })??;
            let place = place.ok_or(io::ErrorKind::QuotaExceeded)?;
            handle.places.push((Arc::clone(worker), place));
        }
        Ok(handle)
    }

    /// Runs one instance per worker, for any vserver.
    pub(crate) fn run_any<S: Service>(
        shared: &Arc<Shared>,
        (tcp, udp): (&[u16], &[u16]),
        how: &AnyOptions,
        mut make: impl FnMut(usize) -> S,
    ) -> io::Result<ServiceHandle> {
        let mut handle = ServiceHandle { places: Vec::new(), bindings: Vec::new() };
        let mut slots = Vec::new();
        for (number, worker) in shared.workers.iter().enumerate() {
            let app = Box::new(make(number));
            let place = worker.with_core(|core, _| core.apps.add_any(app))?;
            let (slot, place) = place.ok_or(io::ErrorKind::QuotaExceeded)?;
            handle.places.push((Arc::clone(worker), place));
            slots.push(slot);
        }
        let tcp = tcp.iter().map(|port| (AnyProtocol::Tcp, *port));
        for (protocol, port) in tcp.chain(udp.iter().map(|port| (AnyProtocol::Udp, *port))) {
            let taker = |worker: usize| Taker::Service(slots[worker]);
            handle.bindings.push(Binding::new(shared, protocol, port, how, taker)?);
        }
        Ok(handle)
    }

    /// Calls [`Service::timer`] of every instance with `token`, before this returns; for a service
    /// of any vserver, with the first one. From any
    /// thread, but not from a callback.
    ///
    /// Errors: `NotConnected` if the host has stopped, `Deadlock` in a callback.
    pub fn trigger(&self, token: u64) -> io::Result<()> {
        for (worker, place) in &self.places {
            worker.with_core(|core, now| core.trigger_service(now, *place, token))?;
        }
        Ok(())
    }

    /// Whether every instance runs: none has panicked, and the host has not stopped.
    pub fn is_running(&self) -> bool {
        self.places.iter().all(|(worker, place)| {
            let core = worker.lock();
            !core.stopped && core.apps.is_running(*place)
        })
    }
}

impl Drop for ServiceHandle {
    fn drop(&mut self) {
        // Not under the worker's lock: the handle may be dropped in a callback. One for any vserver
        // may not: its ports are given back here.
        self.places.iter().for_each(|(worker, place)| worker.end_service(*place));
    }
}
