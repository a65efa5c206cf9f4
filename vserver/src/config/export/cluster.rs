//! `[cluster]` as a file has it.

use super::super::{Cluster, Lease, Subnet};
use super::{Writer, array, quoted, texts};

pub(super) fn write_cluster(w: &mut Writer, cluster: &Cluster) {
    let Cluster { id, node, vendor_class, enterprise, vendor_options, leases, subnets } = cluster;
    w.table("[cluster]");
    w.value("id", quoted(id.as_str()));
    w.optional("node", node.as_ref().map(|n| quoted(n)).as_ref());
    w.unless(
        "vendor_class",
        &quoted(vendor_class),
        &quoted(super::super::cluster::VENDOR_CLASS_DEFAULT),
    );
    w.unless("enterprise", enterprise, &crate::naming::ENTERPRISE_DEFAULT);
    let options: Vec<String> = vendor_options
        .iter()
        .map(|(code, text)| format!("{{ code = {code}, text = {} }}", quoted(text)))
        .collect();
    w.list("vendor_options", &options);
    if !leases.is_empty() {
        w.table("[cluster.leases]");
    }
    let mut written: Vec<&Lease> = Vec::new();
    for lease in leases {
        if written.iter().any(|l| l.claim == lease.claim) {
            continue;
        }
        let same: Vec<_> = leases.iter().filter(|l| l.claim == lease.claim).collect();
        let addresses: Vec<String> = same.iter().map(|l| quoted(&l.address.to_string())).collect();
        let key = quoted(&lease.claim.to_string());
        match &addresses[..] {
            [one] => w.value(&key, one),
            several => w.value(&key, array(several)),
        }
        written.push(lease);
    }
    for s in subnets {
        let Subnet { network, gateway, dns, search, ntp, mtu, pool, lease_s } = s;
        w.table("[[cluster.subnet]]");
        w.value("network", quoted(&network.to_string()));
        w.optional("gateway", gateway.map(|g| quoted(&g.to_string())).as_ref());
        w.list("dns", &texts(dns));
        w.list("search", &texts(search));
        w.list("ntp", &texts(ntp));
        w.optional("mtu", mtu.as_ref());
        w.optional("pool", pool.map(|(a, b)| quoted(&format!("{a}-{b}"))).as_ref());
        w.unless("lease_s", lease_s, &super::super::cluster::LEASE_S_DEFAULT);
    }
}
