//! Which peer may do what.

use std::collections::{HashMap, HashSet};

use crate::config::{HostConfig, Rights, Role};

use super::need::Scope;
use super::peer::Peer;

/// The roles of a configuration, and which vservers they are about.
#[derive(Clone, Debug, Default)]
pub(super) struct Authority {
    roles: Vec<Role>,
    /// By vserver: positions in `roles` of those that may change it.
    of_vserver: HashMap<String, Vec<usize>>,
    /// The daemon's own user.
    own: u32,
}

/// What a peer has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Granted {
    /// Root, or the daemon's user.
    owner: bool,
    /// Positions of its roles.
    roles: Vec<usize>,
}

impl Granted {
    /// Nothing: it has no business here.
    pub(super) fn is_nothing(&self) -> bool {
        !self.owner && self.roles.is_empty()
    }

    pub(super) fn is_owner(&self) -> bool {
        self.owner
    }
}

impl Authority {
    pub(super) fn new(config: &HostConfig) -> Authority {
        let roles = config.privilege.roles.clone();
        let mut of_vserver: HashMap<String, Vec<usize>> = HashMap::new();
        let named: Vec<HashSet<&str>> =
            roles.iter().map(|r| r.vservers.iter().map(String::as_str).collect()).collect();
        for v in &config.vservers {
            let mut groups = HashSet::new();
            let mut at = v.group;
            while let Some(g) = at.and_then(|g| config.groups.get(g)) {
                // A tree has no circle; a configuration made in code might.
                if !groups.insert(g.name.as_str()) {
                    break;
                }
                at = g.parent;
            }
            let may = |(n, r): (usize, &Role)| {
                let named = named[n].contains(&*v.name) || named[n].contains(&*v.table);
                let by_group = r.vserver_groups.iter().any(|g| groups.contains(&**g));
                let own = v.roles.contains(&r.name);
                (r.allow == Rights::Vserver && (named || by_group || own)).then_some(n)
            };
            let found: Vec<_> = roles.iter().enumerate().filter_map(may).collect();
            if !found.is_empty() {
                of_vserver.insert(v.name.clone(), found);
            }
        }
        // Whom the daemon becomes, or is.
        let own = config.privilege.user.as_ref().map(|u| u.uid);
        let own = own.unwrap_or_else(|| rustix::process::geteuid().as_raw());
        Authority { roles, of_vserver, own }
    }

    pub(super) fn granted(&self, peer: &Peer) -> Granted {
        let has = |r: &Role| r.users.contains(&peer.uid) || r.groups.iter().any(|g| peer.is_in(*g));
        let roles = self.roles.iter().enumerate().filter(|(_, r)| has(r)).map(|(n, _)| n);
        Granted { owner: peer.uid == 0 || peer.uid == self.own, roles: roles.collect() }
    }

    /// Names of roles, for people.
    pub(super) fn names(&self, granted: &Granted) -> String {
        let names: Vec<_> = granted.roles.iter().map(|n| self.roles[*n].name.as_str()).collect();
        match names.as_slice() {
            [] if granted.owner => String::from("owner"),
            [] => String::from("none"),
            some => some.join(","),
        }
    }

    /// Names of the roles that may change a vserver.
    pub(super) fn of_vserver(&self, vserver: &str) -> Vec<String> {
        let found = self.of_vserver.get(&vserver.to_ascii_lowercase()).into_iter().flatten();
        found.map(|n| self.roles[*n].name.clone()).collect()
    }

    /// `Err`: what is missing.
    pub(super) fn check(&self, granted: &Granted, scope: &Scope) -> Result<(), String> {
        let has = |rights| granted.roles.iter().any(|n| self.roles[*n].allow >= rights);
        if granted.owner || has(Rights::Cluster) {
            return Ok(());
        }
        let fine = match scope {
            Scope::View => has(Rights::View),
            Scope::Vservers(names) => {
                let may = |name: &String| {
                    let roles = self.of_vserver.get(&name.to_ascii_lowercase());
                    roles.is_some_and(|of| granted.roles.iter().any(|n| of.contains(n)))
                };
                has(Rights::Vserver) && names.iter().all(may)
            }
            Scope::Cluster => false,
        };
        if fine { Ok(()) } else { Err(self.missing(granted, scope)) }
    }

    /// The role that is missing, by name if the configuration has one.
    fn missing(&self, granted: &Granted, scope: &Scope) -> String {
        let names: Vec<&str> = match scope {
            Scope::View => self.roles.iter().map(|r| r.name.as_str()).collect(),
            Scope::Vservers(vservers) => {
                let not_ours = |v: &&String| {
                    let of = self.of_vserver.get(&v.to_ascii_lowercase());
                    !of.is_some_and(|of| granted.roles.iter().any(|n| of.contains(n)))
                };
                let first = vservers.iter().find(not_ours).map(|v| v.to_ascii_lowercase());
                let first = first.and_then(|v| self.of_vserver.get(&v));
                first.into_iter().flatten().map(|n| self.roles[*n].name.as_str()).collect()
            }
            Scope::Cluster => {
                let cluster = self.roles.iter().filter(|r| r.allow == Rights::Cluster);
                cluster.map(|r| r.name.as_str()).collect()
            }
        };
        match names.as_slice() {
            [] => format!("needs {scope}"),
            some => format!("needs {scope}: '{}'", some.join("' or '")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const CONFIG: &str = r#"
[nic.eth0]
driver = "mem"
[alias.data0]
over = "eth0"
[group.base]
roles = ["basics"]
[group.gold]
parent = "base"
[group.silver]
parent = "base"
roles = []
[vserver.files]
group = "gold"
addresses = ["data0 10.0.0.1/24"]
[vserver.web]
count = 2
addresses = ["data0 10.0.0.2/24"]
[vserver.mail]
group = "silver"
addresses = ["data0 10.0.0.9/24"]
[role.watchers]
users = ["1001"]
groups = ["500"]
allow = "view"
[role.webmasters]
users = ["1002"]
allow = "vserver"
vservers = ["Web"]
[role.golden]
groups = ["501"]
allow = "vserver"
vserver_groups = ["gold"]
[role.basics]
users = ["1003"]
allow = "vserver"
[role.operators]
groups = ["502"]
allow = "cluster"
"#;

    fn peer(uid: u32, gid: u32, groups: &[u32]) -> Peer {
        Peer { uid, gid, groups: groups.to_vec(), pid: 1 }
    }

    fn check(who: &Peer, scope: &Scope) -> Result<(), String> {
        let config =
            config::parse(CONFIG, "weft.toml".as_ref()).map_err(|e| e.to_string()).unwrap();
        let mut authority = Authority::new(&config);
        authority.own = 999;
        authority.check(&authority.granted(who), scope)
    }

    fn vservers(names: &[&str]) -> Scope {
        Scope::Vservers(names.iter().map(|n| (*n).to_owned()).collect())
    }

    #[test]
    fn root_and_the_daemons_user_may_everything_others_nothing() {
        for who in [peer(0, 0, &[]), peer(999, 1, &[])] {
            assert_eq!(check(&who, &Scope::Cluster), Ok(()));
        }
        let refused = check(&peer(4242, 4242, &[7]), &Scope::View).unwrap_err();
        assert!(refused.starts_with("needs any role: 'watchers' or "), "{refused}");
    }

    #[test]
    fn who_may_look_may_not_change() {
        for who in [peer(1001, 1, &[]), peer(7, 500, &[]), peer(7, 1, &[3, 500])] {
            assert_eq!(check(&who, &Scope::View), Ok(()));
            assert_eq!(
                check(&who, &vservers(&["web1"])).unwrap_err(),
                "needs a role with allow = \"vserver\" for 'web1': 'webmasters'"
            );
            assert_eq!(
                check(&who, &Scope::Cluster).unwrap_err(),
                "needs a role with allow = \"cluster\": 'operators'"
            );
            assert!(check(&who, &vservers(&[])).is_err());
        }
    }

    #[test]
    fn a_vserver_role_reaches_its_vservers_and_no_others() {
        let webmaster = peer(1002, 1, &[]);
        assert_eq!(check(&webmaster, &vservers(&["web1", "WEB2"])), Ok(()));
        assert_eq!(check(&webmaster, &vservers(&[])), Ok(()));
        assert_eq!(check(&webmaster, &Scope::View), Ok(()));
        assert!(
            check(&webmaster, &vservers(&["web1", "files"]))
                .unwrap_err()
                .ends_with("'golden' or 'basics'")
        );
        assert!(check(&webmaster, &Scope::Cluster).is_err());
        assert!(check(&webmaster, &vservers(&["none"])).is_err());
    }

    #[test]
    fn groups_give_their_roles_and_members_may_have_others() {
        let golden = peer(5, 501, &[]);
        assert_eq!(check(&golden, &vservers(&["files"])), Ok(()));
        assert!(check(&golden, &vservers(&["mail"])).is_err());
        // base says basics, silver says nobody.
        let basics = peer(1003, 1, &[]);
        assert_eq!(check(&basics, &vservers(&["files"])), Ok(()));
        assert!(check(&basics, &vservers(&["mail"])).is_err());
        // Both at once.
        let both = peer(1003, 1, &[501]);
        assert_eq!(check(&both, &vservers(&["files"])), Ok(()));
        assert_eq!(check(&peer(1, 502, &[]), &vservers(&["files", "mail"])), Ok(()));
    }
}
