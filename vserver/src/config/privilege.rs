//! Who may do what: `[role.*]`, the keys of `[host]` about the control socket, the audit log and the
//! daemon's own rights.

use std::path::{Path, PathBuf};

use super::diagnostic::Report;
use super::inherit::Group;
use super::reader::{At, Section, any_of, nearest};
use super::vserver::check_name;
use super::{Privilege, Rights, Role, RunAs, User, Vserver};

/// Records of a log file below this would make it turn over all the time.
const AUDIT_BYTES: std::ops::RangeInclusive<u64> = 65_536..=(1 << 40);

impl Default for Privilege {
    fn default() -> Privilege {
        Privilege {
            control_mode: None,
            control_group: None,
            audit: None,
            audit_bytes: 16 << 20,
            audit_files: 8,
            run_as: RunAs::Drop,
            user: None,
            roles: Vec::new(),
        }
    }
}

/// Keys of `[host]`.
pub(super) fn read_privilege(report: &mut Report, s: &mut Section, base: &Path) -> Privilege {
    let control_mode = s.string(report, "control_mode").and_then(|t| read_mode(report, &t));
    let control_group = s.string(report, "control_group").and_then(|t| group_id(report, &t));
    let audit = s.string(report, "audit").and_then(|t| read_audit(report, &t, base));
    let mut p = Privilege { control_mode, control_group, audit, ..Privilege::default() };
    for (key, range, target) in [
        ("audit_bytes", AUDIT_BYTES, &mut p.audit_bytes),
        ("audit_files", 1..=1000, &mut p.audit_files),
    ] {
        let Some(v) = s.integer(report, key, range) else { continue };
        *target = v.value;
        if p.audit.is_none() && s.span_of_key("audit").is_none() {
            report.error(&v.span, format!("'{key}' without 'audit'; add the log file"));
        }
    }
    let words = [("drop", RunAs::Drop), ("devices", RunAs::Devices), ("keep", RunAs::Keep)];
    let run_as = s.choice(report, "privileges", &words);
    p.run_as = run_as.map_or(RunAs::Drop, |v| v.value);
    let user = s.string(report, "user");
    if let Some(t) = user.as_ref().filter(|_| p.run_as == RunAs::Keep) {
        report.error(
            &t.span,
            "'user' with privileges = \"keep\"; use \"drop\" or \"devices\", or remove 'user'",
        );
    }
    p.user = user.and_then(|t| user_of(report, &t));
    p
}

/// `"0660"`.
fn read_mode(report: &mut Report, t: &At<&str>) -> Option<u32> {
    let mode = u32::from_str_radix(t.value, 8).ok().filter(|m| {
        (3..=4).contains(&t.value.len())
            && *m <= 0o777
            && t.value.bytes().all(|b| b.is_ascii_digit())
    });
    if mode.is_none() {
        report.error(
            &t.span,
            format!("'{}' is no mode of a file; write \"0600\", \"0660\" or \"0666\"", t.value),
        );
    }
    mode
}

fn read_audit(report: &mut Report, t: &At<&str>, base: &Path) -> Option<PathBuf> {
    if t.value.is_empty() || t.value.ends_with('/') {
        report.error(&t.span, "'audit' is no file; write a path like \"/var/log/weft/audit.log\"");
        return None;
    }
    Some(base.join(t.value))
}

fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // The last one means "none" to the kernel.
    text.parse().ok().filter(|n| digits && *n != u32::MAX)
}

fn unknown(report: &mut Report, what: &str, t: &At<&str>) {
    report.error(
        &t.span,
        format!("there is no {what} '{}' here; create it, or write its number", t.value),
    );
}

fn user_of(report: &mut Report, t: &At<&str>) -> Option<User> {
    let found = match number(t.value) {
        Some(id) => nix::unistd::User::from_uid(id.into()),
        None => nix::unistd::User::from_name(t.value),
    };
    let found = found.ok().flatten();
    if found.is_none() {
        report.error(
            &t.span,
            format!("there is no user '{}' here; create it, or name another one", t.value),
        );
    }
    found.map(|u| User { name: u.name, uid: u.uid.as_raw(), gid: u.gid.as_raw() })
}

fn user_id(report: &mut Report, t: &At<&str>) -> Option<u32> {
    let id = number(t.value)
        .or_else(|| nix::unistd::User::from_name(t.value).ok().flatten().map(|u| u.uid.as_raw()));
    if id.is_none() {
        unknown(report, "user", t);
    }
    id
}

fn group_id(report: &mut Report, t: &At<&str>) -> Option<u32> {
    let id = number(t.value)
        .or_else(|| nix::unistd::Group::from_name(t.value).ok().flatten().map(|g| g.gid.as_raw()));
    if id.is_none() {
        unknown(report, "group of users", t);
    }
    id
}

/// What roles are about, and where a vserver names roles that are none.
pub(super) struct Subjects<'a> {
    pub(super) groups: &'a [Group],
    pub(super) vservers: &'a [Vserver],
}

/// `[role.*]`.
pub(super) fn read_roles(report: &mut Report, mut section: Section, of: &Subjects) -> Vec<Role> {
    let mut roles = Vec::new();
    for (name, s) in section.named_tables(report) {
        check_name(report, &name, "role");
        roles.push(read_role(report, s, name.value, of));
    }
    roles
}

fn read_role(report: &mut Report, mut s: Section, name: &str, of: &Subjects) -> Role {
    let users = s.strings(report, "users");
    let users: Vec<_> = users.iter().filter_map(|t| user_id(report, t)).collect();
    let groups = s.strings(report, "groups");
    let groups: Vec<_> = groups.iter().filter_map(|t| group_id(report, t)).collect();
    if s.span_of_key("users").is_none() && s.span_of_key("groups").is_none() {
        s.missing(report, "users", "[\"<user>\"], or groups = [\"<group of users>\"]");
    }
    let words =
        [("view", Rights::View), ("vserver", Rights::Vserver), ("cluster", Rights::Cluster)];
    let allow = s.choice(report, "allow", &words);
    if allow.is_none() && s.span_of_key("allow").is_none() {
        s.missing(report, "allow", "\"view\", \"vserver\" or \"cluster\"");
    }
    let allow = allow.map_or(Rights::View, |v| v.value);
    let named = s.strings(report, "vservers");
    // Names of vservers ignore case.
    let vservers: Vec<&str> = of.vservers.iter().flat_map(|v| [&*v.name, &*v.table]).collect();
    let wanted: Vec<_> = named.iter().map(|t| t.value.to_ascii_lowercase()).collect();
    let lower = wanted.iter().zip(&named).map(|(lower, t)| At::new(&**lower, t.span.clone()));
    check_known(report, &lower.collect::<Vec<_>>(), "vserver", &vservers);
    let of_groups = s.strings(report, "vserver_groups");
    let known: Vec<_> = of.groups.iter().map(|g| g.name.as_str()).collect();
    check_known(report, &of_groups, "group", &known);
    if let Some(t) = named.first().or(of_groups.first()).filter(|_| allow != Rights::Vserver) {
        report.error(
            &t.span,
            "vservers of a role without allow = \"vserver\"; the others are for all vservers",
        );
    }
    s.finish(report);
    let owned = |list: &[At<&str>]| list.iter().map(|t| t.value.to_owned()).collect();
    Role {
        name: name.to_owned(),
        users,
        groups,
        allow,
        vservers: wanted,
        vserver_groups: owned(&of_groups),
    }
}

fn check_known(report: &mut Report, names: &[At<&str>], what: &str, known: &[&str]) {
    for t in names.iter().filter(|t| !known.contains(&t.value)) {
        let hint = match nearest(t.value, known) {
            Some(near) => format!("did you mean '{near}'?"),
            None if known.is_empty() => format!("there is no {what}"),
            None => format!("known: {}", any_of(&known[..known.len().min(8)])),
        };
        report.error(&t.span, format!("unknown {what} '{}'; {hint}", t.value));
    }
}

/// Checks the roles that vservers and groups name.
pub(super) fn check_named_roles(report: &mut Report, named: &[At<String>], roles: &[Role]) {
    let known: Vec<_> = roles.iter().map(|r| r.name.as_str()).collect();
    for t in named {
        let at = At::new(t.value.as_str(), t.span.clone());
        check_known(report, std::slice::from_ref(&at), "role", &known);
        let role = roles.iter().find(|r| r.name == t.value);
        if role.is_some_and(|r| r.allow != Rights::Vserver) {
            report.error(
                &t.span,
                format!(
                    "role '{}' has another 'allow' than \"vserver\"; name one that has it",
                    t.value
                ),
            );
        }
    }
}
