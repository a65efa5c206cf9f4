//! From the text of a file to a [`HostConfig`].

use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::STATE_DIR_DEFAULT;
use super::diagnostic::{Errors, Report};
use super::link::Below;
use super::reader::{At, Section};
use super::{
    CONTROL_DEFAULT, HostConfig, Hugepages, Lldp, Privilege, WORKERS_MAX, Workers, access, cluster,
    inherit, interface, neighbours, privilege, promise, qos, rule, service, shim, vserver,
};

/// A file larger than this is no configuration.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// The longest path a unix socket can have.
pub(super) const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Why a file gave no configuration. Nothing of it was applied.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It could not be read.
    #[error("cannot read {}: {error}", .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is wrong.
    #[error(transparent)]
    Invalid(#[from] Errors),
}

/// Reads and checks a file. Relative paths in it start at its directory.
pub fn load(file: &Path) -> Result<HostConfig, LoadError> {
    let text = read(file)?;
    Ok(parse(&text, file)?)
}

/// As [`load`], for a file that another machine is to run: directories that it names need not exist
/// here.
pub fn load_elsewhere(file: &Path) -> Result<HostConfig, LoadError> {
    Ok(parse_elsewhere(&read(file)?, file)?)
}

fn read(file: &Path) -> Result<String, LoadError> {
    let read = |error| LoadError::Read { file: file.to_owned(), error };
    if std::fs::metadata(file).map_err(read)?.len() > FILE_BYTES_MAX {
        let text = format!("larger than {FILE_BYTES_MAX} bytes");
        return Err(read(std::io::Error::new(std::io::ErrorKind::FileTooLarge, text)));
    }
    let bytes = std::fs::read(file).map_err(read)?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(e) => {
            let at = e.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(e.as_bytes());
            let mut report = Report::new(&text);
            // Everything before is valid, so offsets agree.
            report.error(&(at..at + 1), "a byte that is not UTF-8; save the file as UTF-8");
            Err(report.into_errors(file).into())
        }
    }
}

/// Checks `text`; `file` is for messages, and relative paths start at its directory.
pub fn parse(text: &str, file: &Path) -> Result<HostConfig, Errors> {
    parse_with(Report::new(text), text, file)
}

/// As [`parse`], for what another machine, or another user, runs: directories that it names need not
/// be there.
pub fn parse_elsewhere(text: &str, file: &Path) -> Result<HostConfig, Errors> {
    let mut report = Report::new(text);
    report.elsewhere = true;
    parse_with(report, text, file)
}

fn parse_with(mut report: Report, text: &str, file: &Path) -> Result<HostConfig, Errors> {
    let (document, syntax) = DeTable::parse_recoverable(text);
    for e in syntax {
        let mut message = e.message().replace('\n', ", ");
        if message == "duplicate key" {
            message.push_str("; keep one of them");
        }
        report.error(&e.span().unwrap_or(0..0), format!("not TOML: {message}"));
    }
    // What the parser recovered from broken syntax would give errors about nothing.
    if !report.is_empty() {
        return Err(report.into_errors(file));
    }
    let base = file.parent().unwrap_or(Path::new(""));
    let root = Section::new(String::new(), 0..0, document.get_ref());
    let config = read_document(&mut report, root, base);
    if report.is_empty() { Ok(config) } else { Err(report.into_errors(file)) }
}

pub(super) fn read_document(report: &mut Report, mut root: Section, base: &Path) -> HostConfig {
    let host = root.table_or_empty(report, "host");
    let (control, state_dir, lldp, mut privilege) = read_host(report, host, base);
    let cluster = root.table(report, "cluster").and_then(|s| cluster::read_cluster(report, s));
    let workers = root.table(report, "workers").map(|s| read_workers(report, s));
    let workers = workers.unwrap_or_default();
    let nics = root.table(report, "nic").map(|s| interface::read_nics(report, s, &workers, base));
    let nics = nics.unwrap_or_default();
    let mut below = Below::read(report, &mut root, &nics);
    let qos_groups = root.table(report, "qos").map(|s| qos::read_groups(report, s));
    let qos_groups = qos_groups.unwrap_or_default();
    let tree = below.tree(report, &nics);
    let aliases = std::mem::take(&mut below.aliases);
    let (tree, known) = (tree.as_ref(), cluster.as_ref());
    let interfaces = interface::Interfaces::new(&aliases, tree, &qos_groups, known, &workers);
    let section = root.table_or_empty(report, "access");
    let access = access::read_access(report, section, &interfaces);
    let interfaces = interfaces.with_services(&access.catalogue);
    let tables = root.table(report, "table").map(|s| rule::read_tables(report, s, &interfaces));
    let tables = tables.unwrap_or_default();
    let interfaces = interfaces.with_tables(&tables);
    let section = root.table(report, "neighbours");
    let neighbours = section.map(|s| neighbours::read_tables(report, s, &interfaces));
    let neighbours = neighbours.unwrap_or_default();
    let interfaces = interfaces.with_neighbours(&neighbours);
    let mut groups =
        root.table(report, "group").map(|s| inherit::read_groups(report, s)).unwrap_or_default();
    let section = root.table_or_empty(report, "vserver");
    let (vservers, spans, named_roles) =
        vserver::read_vservers(report, section, &mut groups, &interfaces, base);
    let groups = groups.into_groups();
    let sections = root.tables(report, "service");
    let services = service::read_any(report, sections, &groups, base);
    let subjects = privilege::Subjects { groups: &groups, vservers: &vservers };
    let roles = root.table(report, "role").map(|s| privilege::read_roles(report, s, &subjects));
    privilege.roles = roles.unwrap_or_default();
    privilege::check_named_roles(report, &named_roles, &privilege.roles);
    root.finish(report);
    let config = HostConfig {
        control,
        state_dir,
        lldp,
        privilege,
        cluster,
        workers,
        nics: nics.into_iter().map(|n| n.value).collect(),
        bonds: below.bonds,
        vlans: below.vlans,
        failover: below.groups,
        link_qos: below.rates.into_iter().map(|r| r.value).collect(),
        aliases: aliases.into_iter().map(|a| a.value).collect(),
        tables,
        neighbours,
        groups,
        qos_groups,
        access,
        services,
        vservers,
        defaults: report.trail_defaults(),
    };
    cluster::check_vservers(report, &config, &spans);
    promise::check(report, &config, &spans);
    shim::check(report, &config, &spans);
    config
}

fn read_host(
    report: &mut Report,
    mut s: Section,
    base: &Path,
) -> (PathBuf, PathBuf, Lldp, Privilege) {
    let control =
        s.string(report, "control").and_then(|v| socket_path(report, "control", &v, base));
    let state_dir = s.string(report, "state_dir").map(|v| base.join(v.value));
    let lldp = s.choice(report, "lldp", &Lldp::NAMES).map(|v| v.value).unwrap_or_default();
    let privilege = privilege::read_privilege(report, &mut s, base);
    s.finish(report);
    let or = |path: Option<PathBuf>, default: &str| path.unwrap_or_else(|| PathBuf::from(default));
    (or(control, CONTROL_DEFAULT), or(state_dir, STATE_DIR_DEFAULT), lldp, privilege)
}

/// A path that a unix socket can have.
pub(super) fn socket_path(
    report: &mut Report,
    key: &str,
    v: &At<&str>,
    base: &Path,
) -> Option<PathBuf> {
    let path = base.join(v.value);
    let len = path.as_os_str().len();
    if v.value.is_empty() || len > SOCKET_PATH_BYTES_MAX {
        report.error(
            &v.span,
            format!("'{key}' has {len} bytes; a socket path has 1 to {SOCKET_PATH_BYTES_MAX}"),
        );
        return None;
    }
    Some(path)
}

fn read_workers(report: &mut Report, mut s: Section) -> Workers {
    let mut w = Workers::default();
    if let Some(v) = s.integer(report, "count", 1..=WORKERS_MAX as u64) {
        w.count = v.value as usize;
    }
    let cpus = s.integers(report, "affinity", &(0..=1023));
    for (i, cpu) in cpus.iter().enumerate() {
        if cpus[..i].iter().any(|c| c.value == cpu.value) {
            let n = cpu.value;
            report.error(&cpu.span, format!("CPU {n} twice in 'affinity'; name another CPU"));
        }
    }
    if !cpus.is_empty() && cpus.len() != w.count {
        report.error(
            &s.span_of_key("affinity").unwrap_or(s.span.clone()),
            format!(
                "'affinity' names {} CPUs for {} workers; name one CPU per worker, or none",
                cpus.len(),
                w.count
            ),
        );
    }
    w.affinity = cpus.into_iter().map(|c| c.value as usize).collect();
    if let Some(v) = s.integer(report, "frames", 64..=16_777_216) {
        w.frames = v.value as usize;
    }
    if let Some(v) = s.integer(report, "frame_bytes", 2048..=65_536) {
        if v.value.is_power_of_two() {
            w.frame_bytes = v.value as usize;
        } else {
            let near = v.value.next_power_of_two();
            report.error(
                &v.span,
                format!("'frame_bytes' is {}, not a power of two; use {near}", v.value),
            );
        }
    }
    let words =
        [("auto", Hugepages::Auto), ("off", Hugepages::Off), ("reserved", Hugepages::Reserved)];
    if let Some(v) = s.choice(report, "hugepages", &words) {
        w.hugepages = v.value;
    }
    w.numa_node = s.integer(report, "numa_node", 0..=1023).map(|v| v.value as u32);
    s.finish(report);
    w
}
