//! The `weft` program: daemon, operator commands and lab.
//!
//! [`Cli`] is the only definition of the command line; help, completions and the man page come from
//! it. A command returns [`Error`], whose variants are the exit codes; data goes to standard
//! output, everything else to standard error.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod commands;
pub mod lab;
pub mod output;

/// Many virtual servers, each with its own TCP/IP stack, on shared network interfaces.
#[derive(Debug, Parser)]
#[command(name = "weft", version, propagate_version = true, infer_subcommands = true)]
pub struct Cli {
    /// The daemon's control socket [default: /run/weft/weft.sock; `run`: what CONFIG says]
    #[arg(long, global = true, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands of `weft`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon in the foreground until SIGTERM or SIGINT
    Run(commands::run::Args),
    /// Check a configuration file; print what it makes, or every error in it
    Check(commands::check::Args),
    /// Print the configuration in force, of the daemon or of a file, as a file to run again
    Export(commands::export::Args),
    /// Make another configuration file the running daemon's, in one transaction
    Apply(commands::apply::Args),
    /// Keep the last change, which would be taken back otherwise
    Confirm(commands::apply::Plain),
    /// Go back to what was in force before the last change
    Revert(commands::apply::Plain),
    /// List the vservers of the running daemon
    List(commands::list::Args),
    /// Draw the tree of interfaces: NICs, bonds, VLANs, failover groups, aliases
    Interfaces(commands::interfaces::Args),
    /// Show the counters of the vservers
    Stat(commands::stat::Args),
    /// Show failover groups: addresses, members, probes and their targets
    Paths(commands::paths::Args),
    /// Show bonds and the LACP of their ports
    Bonds(commands::bonds::Args),
    /// Say what is wrong with switches, cables and the tree of interfaces
    Doctor(commands::doctor::Args),
    /// Show which port of which switch each NIC is at, as LLDP tells
    Lldp(commands::lldp::Args),
    /// Show what happens to the interfaces
    Events(commands::events::Args),
    /// Take a member out of its failover group, or a port out of its bond; put it back
    Interface(commands::interface::Args),
    /// Show multipath shims: contexts, locators, pairs of them, policy; probe and move contexts
    Shim(commands::shim::Args),
    /// Show neighbours, and the tables that vservers share
    Neighbours(commands::neighbours::Args),
    /// Show policy routing rules and routes
    Routes(commands::routes::Args),
    /// Show what the workers do with their time and what packets cost; change how they wait
    Runtime(commands::runtime::Args),
    /// Show rates and shares: configured, actual, borrowed, dropped
    Qos(commands::qos::Args),
    /// Show what is in force for a vserver, and where each value comes from
    Policy(commands::policy::Args),
    /// Show access rules in order of evaluation and what they decided; ask which one decides
    Access(commands::access::Args),
    /// Show the log of changes: who, what, when
    Audit(commands::audit::Args),
    /// Show sockets, as ss does
    Sockets(commands::sockets::Args),
    /// Resolve a name or an address as a vserver does
    Resolve(commands::resolve::Args),
    /// Show the names that vservers keep in DNS
    Register(commands::register::Args),
    /// Make addresses of several prefixes that prove each other
    Hba(commands::hba::Args),
    /// Send echo requests from a vserver
    Ping(commands::ping::Args),
    /// Capture what a vserver sends and receives, above and below its multipath shim
    Capture(commands::capture::Args),
    /// Show the addresses asked of DHCP servers; renew or release them
    Dhcp(commands::dhcp::Args),
    /// Print the configuration of DHCP servers, the work sheet, the next free number
    DhcpConfig(commands::dhcp_config::Args),
    /// Build hosts from network namespaces and run weft between them
    Lab(lab::Args),
    /// Print the completion script of a shell
    Completions(commands::completions::Args),
    /// Print the manual page in roff
    #[command(hide = true)]
    Man(commands::completions::ManArgs),
}

/// Why a command failed; each variant is an exit code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// 1: the operation failed.
    #[error("{0}")]
    Failed(String),
    /// 2: the configuration or the command line is wrong. The text may span lines.
    #[error("{0}")]
    Config(String),
    /// 3: no vserver or object of that name.
    #[error("{0}")]
    NoSuchObject(String),
    /// 4: the user has no role that allows it.
    #[error("{0}")]
    Denied(String),
    /// 5: the daemon does not answer.
    #[error("{0}")]
    Unreachable(String),
    /// 0: whoever read our output is gone; that is its business.
    #[error("broken pipe")]
    BrokenPipe,
}

impl Error {
    /// The exit code, the same for every command.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::BrokenPipe => 0,
            Error::Failed(_) => 1,
            Error::Config(_) => 2,
            Error::NoSuchObject(_) => 3,
            Error::Denied(_) => 4,
            Error::Unreachable(_) => 5,
        }
    }
}

impl From<std::io::Error> for Error {
    /// For errors of standard output.
    fn from(e: std::io::Error) -> Error {
        if e.kind() == std::io::ErrorKind::BrokenPipe {
            return Error::BrokenPipe;
        }
        Error::Failed(format!("writing the output: {e}"))
    }
}

/// Parses the command line, runs the command, prints its error.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            if !matches!(e, Error::BrokenPipe) {
                output::error(&e.to_string());
            }
            ExitCode::from(e.exit_code())
        }
    }
}

/// Runs one command.
pub fn run(cli: Cli) -> Result<(), Error> {
    let control = cli.control.as_deref();
    match cli.command {
        Command::Run(args) => commands::run::run(control, &args),
        Command::Check(args) => commands::check::run(&args),
        Command::Apply(args) => commands::apply::run(control, &args),
        Command::Confirm(args) => commands::apply::confirm(control, &args),
        Command::Revert(args) => commands::apply::revert(control, &args),
        Command::List(args) => commands::list::run(control, &args),
        Command::Interfaces(args) => commands::interfaces::run(control, &args),
        Command::Stat(args) => commands::stat::run(control, &args),
        Command::Paths(args) => commands::paths::run(control, &args),
        Command::Bonds(args) => commands::bonds::run(control, &args),
        Command::Doctor(args) => commands::doctor::run(control, &args),
        Command::Lldp(args) => commands::lldp::run(control, &args),
        Command::Events(args) => commands::events::run(control, &args),
        Command::Interface(args) => commands::interface::run(control, &args),
        Command::Shim(args) => commands::shim::run(control, &args),
        Command::Neighbours(args) => commands::neighbours::run(control, &args),
        Command::Routes(args) => commands::routes::run(control, &args),
        Command::Policy(args) => commands::policy::run(control, &args),
        Command::Audit(args) => commands::audit::run(control, &args),
        Command::Sockets(args) => commands::sockets::run(control, &args),
        Command::Ping(args) => commands::ping::run(control, &args),
        Command::Capture(args) => commands::capture::run(control, &args),
        Command::Qos(args) => commands::qos::run(control, &args),
        Command::Access(args) => commands::access::run(control, &args),
        Command::Runtime(args) => commands::runtime::run(control, &args),
        Command::Dhcp(args) => commands::dhcp::run(control, &args),
        Command::DhcpConfig(args) => commands::dhcp_config::run(&args),
        Command::Resolve(args) => commands::resolve::run(control, &args),
        Command::Register(args) => commands::register::run(control, &args),
        Command::Hba(args) => commands::hba::run(&args),
        Command::Export(args) => commands::export::run(control, &args),
        Command::Lab(args) => lab::run(&args),
        Command::Completions(args) => commands::completions::run(&args),
        Command::Man(args) => commands::completions::man(&args),
    }
}
