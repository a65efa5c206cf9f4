//! `[host]`, `[role.*]`, `[workers]` and `[nic.*]` as a file has them.

use super::super::qos::Both;
use super::super::{
    Driver, Gather, Hugepages, Nic, PacketReceive, PollMode, Privilege, Rights, Role, RunAs,
    Workers, XdpMode,
};
use super::qos::write_both;
use super::{Writer, mac, path, quoted, texts};

pub(super) fn write_privilege(w: &mut Writer, privilege: &Privilege) {
    let Privilege {
        control_mode,
        control_group,
        audit,
        audit_bytes,
        audit_files,
        run_as,
        user,
        roles: _,
    } = privilege;
    let default = Privilege::default();
    w.optional("control_mode", control_mode.map(|m| quoted(&format!("{m:04o}"))).as_ref());
    w.optional("control_group", control_group.map(|g| quoted(&g.to_string())).as_ref());
    if let Some(audit) = audit {
        w.value("audit", path(audit));
        w.unless("audit_bytes", audit_bytes, &default.audit_bytes);
        w.unless("audit_files", audit_files, &default.audit_files);
    }
    w.word("privileges", run_as, &default.run_as, |r| match r {
        RunAs::Drop => "drop",
        RunAs::Devices => "devices",
        RunAs::Keep => "keep",
    });
    w.optional("user", user.as_ref().map(|u| quoted(&u.name)).as_ref());
}

pub(super) fn write_role(w: &mut Writer, role: &Role) {
    let Role { name, users, groups, allow, vservers, vserver_groups } = role;
    w.table(&format!("[role.{name}]"));
    w.list("users", &texts(users));
    w.list("groups", &texts(groups));
    w.value(
        "allow",
        quoted(match allow {
            Rights::View => "view",
            Rights::Vserver => "vserver",
            Rights::Cluster => "cluster",
        }),
    );
    w.list("vservers", &texts(vservers));
    w.list("vserver_groups", &texts(vserver_groups));
}

pub(super) fn write_workers(w: &mut Writer, workers: &Workers) {
    let default = Workers::default();
    if !w.all && *workers == default {
        return;
    }
    let Workers { count, affinity, frames, frame_bytes, hugepages, numa_node } = workers;
    w.table("[workers]");
    w.unless("count", count, &default.count);
    w.list("affinity", &affinity.iter().map(ToString::to_string).collect::<Vec<_>>());
    w.unless("frames", frames, &default.frames);
    w.unless("frame_bytes", frame_bytes, &default.frame_bytes);
    w.word("hugepages", hugepages, &default.hugepages, |h| match h {
        Hugepages::Auto => "auto",
        Hugepages::Off => "off",
        Hugepages::Reserved => "reserved",
    });
    w.optional("numa_node", numa_node.as_ref());
}

pub(super) fn write_nic(w: &mut Writer, nic: &Nic) {
    let Nic {
        name,
        device,
        driver,
        xdp,
        gather,
        receive,
        queues,
        poll,
        rx_checksum_trust,
        gro,
        mac: own,
        mtu,
        capture,
        qos,
    } = nic;
    w.table(&format!("[nic.{name}]"));
    if *driver != Driver::Mem || device != name {
        w.value("device", quoted(device));
    }
    w.word("driver", driver, &Driver::AfXdp, |d| d.name());
    if *driver == Driver::AfXdp {
        w.word("xdp", xdp, &XdpMode::Auto, |x| match x {
            XdpMode::Auto => "auto",
            XdpMode::ZeroCopy => "zero-copy",
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
        });
        w.word("gather", gather, &Gather::Auto, |g| match g {
            Gather::Auto => "auto",
            Gather::Always => "always",
        });
    }
    if *driver == Driver::Packet {
        w.word("receive", receive, &PacketReceive::Messages, |r| match r {
            PacketReceive::Messages => "messages",
            PacketReceive::Ring => "ring",
        });
    }
    w.unless("queues", queues, &1);
    w.word("poll", poll, &PollMode::Adaptive, |p| p.name());
    w.word("rx_checksum", rx_checksum_trust, &false, |t| if *t { "trust" } else { "verify" });
    w.unless("gro", gro, &true);
    w.optional("mac", own.map(|m| quoted(&mac(m))).as_ref());
    w.optional("mtu", mtu.as_ref());
    w.optional("capture", capture.as_ref().map(|c| path(c)).as_ref());
    if *qos != Both::default() {
        w.table(&format!("[nic.{name}.qos]"));
        write_both(w, qos);
    }
}
