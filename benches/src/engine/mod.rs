//! What a side can be. A new one is a file here and a line in [`all`].

use std::io;
use std::process::Command;
use std::sync::Mutex;

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::side::Control;
use crate::spec::Side;

mod device;
mod foreign;
mod http;
mod kernel;
mod memory;
mod raw;
mod smoltcp;
mod weft;

/// A stack, or a way to use one.
pub(crate) trait Engine: Sync {
    /// As in `--engine`.
    fn name(&self) -> &'static str;

    /// Whether the kernel of its namespace is the stack, and so owns the address.
    fn in_kernel(&self) -> bool {
        false
    }

    /// Why it cannot run on this machine, if it cannot: `no golang-gvisor-dev (apt-get install ..)`.
    fn missing(&self) -> Option<String> {
        None
    }

    /// A program that is the side instead of this one; it takes the options of `weft-bench side`
    /// and speaks the same lines. Started in the namespace of the side, on its CPU.
    fn command(&self, side: &Side) -> Option<Command> {
        let _ = side;
        None
    }

    /// Does the work: a server until `control.stopped()`, a client until its meter is over.
    fn run(&self, side: &Side, control: &Control) -> io::Result<()>;
}

/// Every engine.
pub(crate) fn all() -> &'static [&'static dyn Engine] {
    &[
        &kernel::Kernel,
        &kernel::KernelVectored,
        &weft::Services,
        &weft::Sockets,
        &smoltcp::Smoltcp { offload: false },
        &smoltcp::Smoltcp { offload: true },
        &foreign::Gvisor { offload: false },
        &foreign::Gvisor { offload: true },
        &foreign::Lwip,
        &raw::Raw,
        &memory::Memory,
        &memory::MemorySmoltcp,
        &http::Nginx,
        &http::WeftHttp,
        &http::Wrk,
    ]
}

/// The engine of that name.
pub(crate) fn find(name: &str) -> Option<&'static dyn Engine> {
    all().iter().copied().find(|e| e.name() == name)
}

/// Runs the engine that `side` names.
pub(crate) fn run(side: &Side, control: &Control) -> io::Result<()> {
    let engine = find(&side.engine)
        .ok_or_else(|| io::Error::other(format!("there is no engine '{}'", side.engine)))?;
    engine.run(side, control)
}

/// What ends a server's wait.
type Wake = Box<dyn Fn() + Send>;
static WAKE: Mutex<Option<Wake>> = Mutex::new(None);

/// `f` is called, on another thread, when a server shall end: it must end whatever wait the server
/// is in. A server whose waits are short needs none.
pub(crate) fn on_stop(f: impl Fn() + Send + 'static) {
    if let Ok(mut wake) = WAKE.lock() {
        *wake = Some(Box::new(f));
    }
}

/// Ends the server's wait.
pub(crate) fn wake() {
    if let Ok(wake) = WAKE.lock()
        && let Some(f) = &*wake
    {
        f();
    }
}

/// The calling thread stays on that CPU, if there is one.
fn stay_on_cpu(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    // a machine with one CPU has the other threads there too
    let _ = sched_setaffinity(None, &set);
}

/// What `workload` an engine cannot do is an error in words.
pub(crate) fn unsupported(side: &Side) -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!("engine '{}' does not do {:?} as {:?}", side.engine, side.workload, side.role),
    )
}
