//! `weft run CONFIG`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use weft_interface::keeper::OfflineError;
use weft_vserver::capture::{CaptureStep, CaptureWish, Captures};
use weft_vserver::change::{Applied, Changes, Follower, Options};
use weft_vserver::config::{self, HostConfig, PollMode, export};
use weft_vserver::control::{Answer, Caller, Command, Daemon, Gate, RefusalKind, Scope, Socket};
use weft_vserver::dhcp::{DhcpLine, DhcpWish};
use weft_vserver::mdns::Responders;
use weft_vserver::ping::{PingStep, Pings};
use weft_vserver::privilege::{self, ProcessRights};
use weft_vserver::register::Registrar;
use weft_vserver::resolver::Questions;
use weft_vserver::service::Services;
use weft_vserver::sockets::QueryError;
use weft_vserver::stats::{HostSnapshot, NicSnapshot};
use weft_vserver::{AccessError, Devices, Host, HostError, ShimWish};

use super::check;
use crate::Error;

/// Vservers told one by one; of more, the first ones and a count.
const LISTED_MAX: usize = 20;

/// Options of `weft run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Stops cleanly on SIGTERM, SIGINT and SIGHUP: connections are closed, the NICs are the kernel's
again. A second signal ends the program at once.")]
pub struct Args {
    /// The configuration file (TOML)
    pub config: PathBuf,
}

/// Runs the daemon until a signal.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    // Whole paths, so that the file is the same one wherever it is applied from.
    let file = std::path::absolute(&args.config).unwrap_or_else(|_| args.config.clone());
    let mut config = check::load(&file)?;
    if let Some(path) = control {
        path.clone_into(&mut config.control);
    }
    // Before anything is opened, so that no signal leaves something behind.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|e| Error::Failed(format!("catch signals: {e}")))?;
    let gate = Gate::new(&config).map_err(|e| Error::Failed(e.to_string()))?;
    let gate = Arc::new(gate);
    // Before a NIC is touched: a second daemon is found here.
    let socket = Socket::bind(&config.control).map_err(|e| Error::Failed(e.to_string()))?;
    socket.open_to(&config.privilege).map_err(|e| Error::Failed(e.to_string()))?;
    let path = config.control.clone();
    let ours = [socket.files(), gate.files(), made_state_dir(&config)].concat();
    let host = Arc::new(start(config, &gate, &ours)?);
    let services = Services::start(&host).map_err(|e| Error::Failed(e.to_string()))?;
    let services = Arc::new(services);
    let registrar = Registrar::start(&host);
    let registrar = registrar.map_err(|e| Error::Failed(format!("registration: {e}")))?;
    let registrar = Arc::new(registrar);
    let responders = Responders::start(&host);
    let responders = responders.map_err(|e| Error::Failed(format!("multicast DNS: {e}")))?;
    let responders = Arc::new(responders);
    let followers: Vec<Arc<dyn Follower>> =
        vec![Arc::<Registrar>::clone(&registrar), Arc::<Responders>::clone(&responders)];
    let changes = changes(&host, &services, followers, &gate);
    let server = socket
        .serve(
            Arc::clone(&gate),
            answers(
                Arc::clone(&host),
                Arc::clone(&services),
                (Arc::clone(&registrar), Arc::clone(&responders)),
                changes,
                captures(&host, &gate),
            ),
        )
        .map_err(|e| Error::Failed(e.to_string()))?;
    tell(&introduction(&filled(&host, &services, (&registrar, &responders)), &path));
    log_own(&gate, "start", &ProcessRights::own().ok());

    // The iterator ends only when its handle is closed, which nobody does.
    let signal = signals.forever().next().unwrap_or(SIGTERM);
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            std::process::exit(1);
        }
    });
    let name = signal_hook::low_level::signal_name(signal).unwrap_or("signal");
    tell(&format!("{name}: stopping\n"));
    drop(server);
    responders.stop();
    registrar.stop();
    services.stop();
    host.stop();
    log_own(&gate, "stop", &name);
    tell("stopped\n");
    Ok(())
}

/// The directory of leases and of what bonds go on from, if it is wanted and made just now: it is
/// the daemon's user's then.
fn made_state_dir(config: &HostConfig) -> Vec<PathBuf> {
    let keeps = !config.bonds.is_empty() || config.vservers.iter().any(|v| !v.dhcp.is_empty());
    let wanted = keeps && !config.state_dir.exists();
    // What cannot be made is told as a problem of the cache.
    let made = wanted && std::fs::create_dir_all(&config.state_dir).is_ok();
    made.then(|| config.state_dir.clone()).into_iter().collect()
}

/// Starts the host; between its devices and its threads root's rights are given up.
fn start(config: HostConfig, gate: &Gate, ours: &[PathBuf]) -> Result<Host, Error> {
    let privilege = config.privilege.clone();
    let opened = || {
        let ours: Vec<&Path> = ours.iter().map(PathBuf::as_path).collect();
        privilege::drop_to(&privilege, &ours)
    };
    let host = Host::start_and(config, Devices::new(), opened).map_err(host_error)?;
    gate.check_log().map_err(|e| Error::Failed(e.to_string()))?;
    Ok(host)
}

/// What the daemon itself does is in the log too; it serves without.
fn log_own(gate: &Gate, what: &str, of: &impl serde::Serialize) {
    if gate.log_file().is_some()
        && let Err(e) = gate.record_own(what, (), of, "ok")
    {
        crate::output::error(&e.to_string());
    }
}

fn host_error(e: HostError) -> Error {
    match e {
        HostError::Config { .. } | HostError::Change { .. } | HostError::Interface(_) => {
            Error::Config(e.to_string())
        }
        e => Error::Failed(e.to_string()),
    }
}

/// The daemon's messages are for whoever looks; without a reader it runs on.
fn tell(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn filled(
    host: &Host,
    services: &Services,
    (registrar, responders): (&Registrar, &Responders),
) -> HostSnapshot {
    let mut snapshot = host.snapshot();
    services.fill(&mut snapshot);
    registrar.fill(&mut snapshot);
    responders.fill(&mut snapshot);
    snapshot.rights = ProcessRights::own().ok();
    snapshot
}

/// What the control socket answers.
fn answers(
    host: Arc<Host>,
    services: Arc<Services>,
    (registrar, responders): (Arc<Registrar>, Arc<Responders>),
    changes: Changes,
    captures: Arc<Captures>,
) -> impl Fn(&Command, &Caller) -> Answer + Send {
    let pings = Pings::new(Arc::clone(&host));
    let questions = Questions::new(Arc::clone(&host));
    move |command, caller| {
        pings.sweep();
        captures.sweep();
        match command {
            Command::Ping => Answer::Pong(Daemon {
                weft: String::from(env!("CARGO_PKG_VERSION")),
                pid: std::process::id(),
            }),
            Command::Snapshot => {
                Answer::Snapshot(Box::new(filled(&host, &services, (&registrar, &responders))))
            }
            Command::Runtime { clear } => Answer::Runtime(host.runtime(*clear)),
            Command::Sockets(query) => {
                host.socket_page(query).map_or_else(Answer::from, Answer::Sockets)
            }
            Command::SocketSummary(query) => {
                host.socket_summary(query).map_or_else(Answer::from, Answer::SocketSummary)
            }
            Command::SetPoll { mode, worker } => set_poll(&host, *mode, *worker, caller),
            Command::Echo(step) => echo(&pings, step, caller),
            Command::CaptureStart(wish) => capture_start(&captures, wish, caller),
            Command::CaptureNext(step) => capture_next(&captures, *step, caller),
            Command::Resolve { vserver, name } => questions.ask(vserver, name).map_or_else(
                || Answer::refuse(RefusalKind::NoSuchVserver, format!("no vserver '{vserver}'")),
                Answer::Resolved,
            ),
            Command::Export { all } => Answer::Export(export(&host.config(), *all)),
            Command::Policy { vserver } => policy(&host, vserver, caller),
            Command::Qos { vserver } => qos(&host, vserver.as_deref()),
            Command::Neighbours { vserver } => neighbours(&host, vserver.as_deref()),
            Command::Access { vserver } => {
                access_error(host.access(vserver.as_deref()).map(Answer::Access))
            }
            Command::AccessTest(query) => {
                access_error(host.test_access(query).map(Answer::AccessTest))
            }
            Command::Apply { path, text, dry_run, confirm_s } => {
                let confirm = confirm_s.map(Duration::from_secs);
                let options = Options { dry_run: *dry_run, confirm, by: caller.name() };
                applied(apply(&host, &changes, (path, text), &options, caller), caller)
            }
            Command::Confirm => confirmed(&host, &changes, caller),
            Command::Revert => applied(revert(&host, &changes, caller), caller),
            Command::Paths
            | Command::Probes { .. }
            | Command::Events { .. }
            | Command::Bonds
            | Command::Doctor
            | Command::Lldp
            | Command::SetOffline { .. } => of_interfaces(&host, command, caller),
            Command::Shim { vserver } => shims(&host, vserver.as_deref()),
            Command::ShimEvents { vserver, after } => shim_events(&host, vserver.as_deref(), after),
            Command::ShimWish(wish) => shim_wish(&host, wish, caller),
            Command::Audit(query) => caller.records(query),
            Command::Dhcp => Answer::Dhcp(host.dhcp()),
            Command::DhcpWish { vserver, alias, instance, wish } => {
                dhcp_wish(&host, (vserver, alias, *instance), *wish, caller)
            }
        }
    }
}

fn echo(pings: &Pings, step: &PingStep, caller: &Caller) -> Answer {
    let vservers = pings.vserver_of(step).into_iter().collect();
    match caller.may(&Scope::Vservers(vservers)) {
        Ok(()) => pings.step(step).map_or_else(Answer::from, Answer::Echo),
        Err(refusal) => refusal,
    }
}

/// Captures on demand; the log has the end of each, too.
fn captures(host: &Arc<Host>, gate: &Arc<Gate>) -> Arc<Captures> {
    let gate = Arc::clone(gate);
    Captures::new(Arc::clone(host), move |end| log_own(&gate, "capture-end", end))
}

fn capture_start(captures: &Arc<Captures>, wish: &CaptureWish, caller: &Caller) -> Answer {
    match captures.start(wish) {
        Ok((begun, hold)) => {
            caller.note((), &begun);
            caller.keep(hold);
            Answer::Capturing(begun)
        }
        Err(e) => e.into(),
    }
}

fn capture_next(captures: &Captures, step: CaptureStep, caller: &Caller) -> Answer {
    let vservers = captures.vserver_of(step.capture).into_iter().collect();
    match caller.may(&Scope::Vservers(vservers)) {
        Ok(()) => {
            captures.next(step.capture, step.stop).map_or_else(Answer::from, Answer::Captured)
        }
        Err(refusal) => refusal,
    }
}

/// Commands about bonds, failover groups and what stands on them.
fn of_interfaces(host: &Host, command: &Command, caller: &Caller) -> Answer {
    match command {
        Command::Paths => Answer::Paths(Box::new(host.paths())),
        Command::Probes { after } => {
            let (now_us, probes) = host.probes(*after);
            Answer::Probes { now_us, probes }
        }
        Command::Events { after } => {
            let (now_us, events) = host.events(*after);
            Answer::Events { now_us, events }
        }
        Command::Bonds => Answer::Bonds(host.bonds()),
        Command::Doctor => Answer::Doctor(host.doctor()),
        Command::Lldp => Answer::Lldp(host.lldp()),
        Command::SetOffline { interface, offline } => {
            set_offline(host, interface, *offline, caller)
        }
        _ => Answer::refuse(RefusalKind::BadRequest, "not about interfaces"),
    }
}

fn qos(host: &Host, vserver: Option<&str>) -> Answer {
    let unknown = || QueryError::NoSuchVserver(vserver.unwrap_or_default().to_owned()).into();
    host.qos(vserver).map_or_else(unknown, Answer::Qos)
}

fn neighbours(host: &Host, vserver: Option<&str>) -> Answer {
    let unknown = || QueryError::NoSuchVserver(vserver.unwrap_or_default().to_owned()).into();
    host.neighbours(vserver).map_or_else(unknown, Answer::Neighbours)
}

fn shims(host: &Host, vserver: Option<&str>) -> Answer {
    let unknown = || QueryError::NoSuchVserver(vserver.unwrap_or_default().to_owned()).into();
    host.shims(vserver).map_or_else(unknown, Answer::Shim)
}

fn shim_events(host: &Host, vserver: Option<&str>, after: &BTreeMap<String, u64>) -> Answer {
    let unknown = || QueryError::NoSuchVserver(vserver.unwrap_or_default().to_owned()).into();
    host.shim_events(vserver, after)
        .map_or_else(unknown, |(now_us, vservers)| Answer::ShimEvents { now_us, vservers })
}

fn shim_wish(host: &Host, wish: &ShimWish, caller: &Caller) -> Answer {
    let pairs = || -> Vec<String> {
        let contexts = host.shims(Some(&wish.vserver)).unwrap_or_default().contexts;
        let with_peer = contexts.iter().filter(|c| c.peer == wish.peer);
        with_peer
            .map(|c| format!("{} {} by {} {}", c.local, c.peer, c.locator, c.peer_locator))
            .collect()
    };
    let before = pairs();
    let done = host.shim_wish(wish);
    caller.note(before, pairs());
    done.map_or_else(Answer::from, |()| Answer::ShimWished)
}

/// Changes of the host, each with its roles and in the log.
fn changes(
    host: &Arc<Host>,
    services: &Arc<Services>,
    followers: Vec<Arc<dyn Follower>>,
    gate: &Arc<Gate>,
) -> Changes {
    let gate = Arc::clone(gate);
    let (host, services) = (Arc::clone(host), Some(Arc::clone(services)));
    Changes::new(host, services, followers, move |config, ended| {
        gate.update(config);
        let Some((_, result)) = ended else { return };
        let (after, result) = match result {
            Ok(applied) => (applied.changes.lines.clone(), String::from("ok")),
            Err(e) => (Vec::new(), format!("failed: {e}")),
        };
        let what = "revert, for nobody confirmed the change";
        tell(&format!("{what}: {result}\n"));
        if let Err(e) = gate.record_own(what, (), after, &result) {
            crate::output::error(&e.to_string());
        }
    })
}

/// Makes the text of a file the configuration.
fn apply(
    host: &Host,
    changes: &Changes,
    (path, text): (&Path, &str),
    options: &Options,
    caller: &Caller,
) -> Result<Applied, Answer> {
    let mut config = config::parse(text, path)
        .map_err(|e| Answer::refuse(RefusalKind::BadRequest, e.to_string()))?;
    let before = host.config();
    // It is where it was asked on.
    config.control.clone_from(&before.control);
    if !options.dry_run {
        caller.may(&Scope::of_change(&before, &config))?;
    }
    changes.apply(config, options).map_err(|e| Answer::refuse(RefusalKind::Failed, e.to_string()))
}

fn revert(host: &Host, changes: &Changes, caller: &Caller) -> Result<Applied, Answer> {
    if let Some(before) = changes.before() {
        caller.may(&Scope::of_change(&host.config(), &before))?;
    }
    changes.revert().map_err(|e| Answer::refuse(RefusalKind::Failed, e.to_string()))
}

fn confirmed(host: &Host, changes: &Changes, caller: &Caller) -> Answer {
    if let Some(before) = changes.before()
        && let Err(refusal) = caller.may(&Scope::of_change(&before, &host.config()))
    {
        return refusal;
    }
    match changes.confirm() {
        Ok(()) => Answer::Confirmed,
        Err(e) => Answer::refuse(RefusalKind::Failed, e.to_string()),
    }
}

/// The log has what went and what came.
fn applied(done: Result<Applied, Answer>, caller: &Caller) -> Answer {
    match done {
        Ok(applied) => {
            let lines = &applied.changes.lines;
            let of = |sign| -> Vec<_> { lines.iter().filter(|l| l.sign != sign).collect() };
            caller.note(of('+'), of('-'));
            Answer::Applied(Box::new(applied))
        }
        Err(refusal) => refusal,
    }
}

fn set_poll(host: &Host, mode: PollMode, worker: Option<usize>, caller: &Caller) -> Answer {
    let modes = || -> Vec<_> { host.runtime(false).workers.into_iter().map(|w| w.poll).collect() };
    let before = modes();
    let done = host.set_poll_mode(worker, mode);
    caller.note(before, modes());
    match done {
        Ok(()) => Answer::Poll(mode),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            let hint = "devices take that from who has CAP_NET_ADMIN; set poll in the file and restart, \
                        or privileges = \"devices\" in [host]";
            Answer::refuse(RefusalKind::Failed, format!("set poll mode: {e} ({hint})"))
        }
        Err(e) => Answer::refuse(RefusalKind::Failed, format!("set poll mode: {e}")),
    }
}

fn set_offline(host: &Host, interface: &str, offline: bool, caller: &Caller) -> Answer {
    let state = || {
        let paths = host.paths();
        let found =
            paths.interfaces.into_iter().find(|i| i.interface.eq_ignore_ascii_case(interface));
        found.map(|i| i.state)
    };
    let before = state();
    let done = host.set_offline(interface, offline);
    caller.note(before, state());
    match done {
        Ok(()) => Answer::Offline { offline },
        Err(e @ (OfflineError::Unknown(_) | OfflineError::NotAMember(_))) => {
            Answer::refuse(RefusalKind::NoSuchInterface, e.to_string())
        }
        Err(e) => Answer::refuse(RefusalKind::Failed, e.to_string()),
    }
}

fn dhcp_wish(
    host: &Host,
    (vserver, alias, instance): (&str, &str, Option<u32>),
    wish: DhcpWish,
    caller: &Caller,
) -> Answer {
    let states = || -> Vec<_> {
        let meant = |c: &&DhcpLine| {
            c.vserver.eq_ignore_ascii_case(vserver) && c.alias.eq_ignore_ascii_case(alias)
        };
        let clients = host.dhcp().clients;
        clients.iter().filter(meant).map(|c| format!("{} {}", c.id, c.state.name())).collect()
    };
    let before = states();
    let done = host.dhcp_wish(vserver, alias, instance, wish);
    caller.note(before, states());
    match done {
        Ok(clients) => Answer::DhcpWish { clients },
        Err(e) => Answer::refuse(RefusalKind::NoSuchVserver, e.to_string()),
    }
}

fn access_error(answer: Result<Answer, AccessError>) -> Answer {
    answer.unwrap_or_else(|e| {
        let kind = match e {
            AccessError::NoSuchVserver(_) => RefusalKind::NoSuchVserver,
            _ => RefusalKind::BadRequest,
        };
        Answer::refuse(kind, e.to_string())
    })
}

fn policy(host: &Host, vserver: &str, caller: &Caller) -> Answer {
    let Some(mut policy) = host.config().policy(vserver) else {
        return Answer::refuse(RefusalKind::NoSuchVserver, format!("no vserver '{vserver}'"));
    };
    policy.roles = caller.roles_of(vserver);
    Answer::Policy(Box::new(policy))
}

/// A line per NIC with the mode in use, a line per vserver, and that it is ready.
fn introduction(s: &HostSnapshot, control: &Path) -> String {
    let mut lines: Vec<String> = s.nics.iter().map(nic_line).collect();
    for v in s.vservers.iter().take(LISTED_MAX) {
        let services: Vec<_> =
            v.services.iter().map(|s| format!("{} on {}", s.kind, s.listen)).collect();
        let addresses = v.addresses.join(", ");
        let addresses = if addresses.is_empty() { "no address yet" } else { &addresses };
        let gap = if services.is_empty() { "" } else { "; " };
        lines.push(format!("vserver {}: {addresses}{gap}{}", v.name, services.join(", ")));
    }
    if s.vservers.len() > LISTED_MAX {
        lines.push(format!("... and {} more vservers", s.vservers.len() - LISTED_MAX));
    }
    lines.extend(s.rights.as_ref().map(|r| format!("runs as {r}")));
    let vservers = if s.vservers.len() == 1 { "vserver" } else { "vservers" };
    lines.push(format!("ready: {} {vservers}, control {}", s.vservers.len(), control.display()));
    lines.join("\n") + "\n"
}

fn nic_line(n: &NicSnapshot) -> String {
    let mac = n.mac.as_deref().map(|m| format!(", mac {m}")).unwrap_or_default();
    let state = if n.up { "up" } else { "down" };
    let queues = if n.queues == 1 { "queue" } else { "queues" };
    format!(
        "nic {}: {}, {}, {} {queues}, mtu {}{mac}, {state}",
        n.name, n.device, n.mode, n.queues, n.mtu
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_vserver::stats::VserverSnapshot;

    #[test]
    fn the_introduction_names_modes_and_ends_ready() {
        let nic = NicSnapshot {
            name: String::from("eth0"),
            device: String::from("veth0"),
            mode: String::from("af-xdp generic"),
            queues: 1,
            up: true,
            mtu: 1500,
            ..Default::default()
        };
        let v = |i: usize| VserverSnapshot { name: format!("v{i}"), ..Default::default() };
        let s = HostSnapshot {
            nics: vec![nic],
            vservers: (0..22).map(v).collect(),
            ..Default::default()
        };
        let text = introduction(&s, Path::new("/run/w"));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "nic eth0: veth0, af-xdp generic, 1 queue, mtu 1500, up");
        assert_eq!(lines[1], "vserver v0: no address yet");
        assert_eq!(lines[21], "... and 2 more vservers");
        assert_eq!(lines[22], "ready: 22 vservers, control /run/w");
    }
}
