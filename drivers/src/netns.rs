//! Network namespaces without names: they live as long as a descriptor or a process holds them, so
//! nothing is left behind, not even after SIGKILL.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Signal, getegid, geteuid, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::device::DeviceError;

/// A network namespace. Clones are the same namespace; it ends with the last of them and with the
/// last process inside.
#[derive(Clone, Debug)]
pub struct Netns {
    fd: Arc<OwnedFd>,
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Netns {
    /// A new, empty namespace with its loopback down.
    pub fn new() -> Result<Netns, DeviceError> {
        in_thread(|| {
            unshare(UnshareFlags::NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        })
        .map(|file| Netns { fd: Arc::new(file.into()) })
        .map_err(|e| {
            DeviceError::new("create", "network namespace", e)
                .hint("needs root, or a user namespace: see enter_user_namespace")
        })
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Netns, DeviceError> {
        File::open("/proc/thread-self/ns/net")
            .map(|file| Netns { fd: Arc::new(file.into()) })
            .map_err(|e| DeviceError::new("open", "current network namespace", e))
    }

    /// Moves the calling thread into the namespace, for good. Threads it starts are inside too.
    pub fn join(&self) -> Result<(), DeviceError> {
        move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|e| DeviceError::new("enter", "network namespace", e))
    }

    /// Runs `f` in a thread of its own inside the namespace and waits for it. Sockets and
    /// descriptors made there stay bound to the namespace wherever they are used.
    ///
    /// A panic of `f` goes on in the caller.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, DeviceError> {
        in_thread(|| self.join().map(|()| f()))
    }

    /// Like [`Netns::enter`], with a `/sys` that shows the namespace's interfaces (a mount only
    /// this thread sees).
    pub fn enter_with_sysfs<T: Send>(
        &self,
        f: impl FnOnce() -> T + Send,
    ) -> Result<T, DeviceError> {
        in_thread(|| {
            self.join()?;
            mount_own_sysfs().map_err(|e| DeviceError::new("mount", "/sys of a namespace", e))?;
            Ok(f())
        })
    }

    /// A command whose process starts inside the namespace and is killed when the calling
    /// *thread* ends, so that no child survives us. Keep that thread until the child has ended.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let netns = self.clone();
        let enter = move || {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
            set_parent_process_death_signal(Some(Signal::KILL))?;
            Ok(())
        };
        // SAFETY: the closure makes two system calls, allocates nothing and takes no lock, as the
        // time between fork and exec demands.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Writes a sysctl of the namespace: `net.ipv4.ip_forward` as `net/ipv4/ip_forward`.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<(), DeviceError> {
        let path = format!("/proc/sys/{key}");
        self.enter(|| fs::write(&path, value))?
            .map_err(|e| DeviceError::new("set", format!("sysctl {key}={value}"), e))
    }

    /// Reads a sysctl of the namespace, without the trailing newline.
    pub fn sysctl(&self, key: &str) -> Result<String, DeviceError> {
        let path = format!("/proc/sys/{key}");
        self.enter(|| fs::read_to_string(&path))?
            .map(|text| text.trim_end().to_owned())
            .map_err(|e| DeviceError::new("read", format!("sysctl {key}"), e))
    }
}

/// Whether the process may make network namespaces and interfaces as it is.
pub fn may_make_namespaces() -> bool {
    Netns::new().is_ok()
}

/// Enters a user namespace in which this process is root, so that an ordinary user may make network
/// namespaces, veth pairs and packet sockets (not TUN in foreign namespaces, not XDP).
///
/// Call it first in `main`: the kernel refuses a process that has more than one thread.
pub fn enter_user_namespace() -> Result<(), DeviceError> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let refused = |e| {
        DeviceError::new("enter", "user namespace", e)
            .hint("unprivileged user namespaces are switched off here, or threads already run")
    };
    // EINVAL says that the process has a second thread; one that was just joined may still be on
    // its way out
    let mut tries = 0;
    while let Err(e) = unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET) {
        tries += 1;
        if e.kind() != io::ErrorKind::InvalidInput || tries == 100 {
            return Err(refused(e));
        }
        thread::yield_now();
    }
    fs::write("/proc/self/setgroups", "deny").map_err(refused)?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).map_err(refused)?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).map_err(refused)
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: only namespaces are unshared, never FILES: descriptors keep their meaning for the
    // other threads, which is what makes the call unsafe in general.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

fn mount_own_sysfs() -> io::Result<()> {
    unshare(UnshareFlags::NEWNS)?;
    // without this the new mount would show in the whole machine
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None)?;
    Ok(())
}

fn in_thread<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| match scope.spawn(f).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

impl AsRawFd for Netns {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}
