//! `weft lldp`: who is at the other ends of the cables.

use std::io::Write;
use std::path::Path;

use weft_interface::lldp::{LldpCounters, LldpReport, NeighbourReport};
use weft_vserver::control::{Answer, Command};
use weft_vserver::stats::json;

use super::bonds::{Row, none, table};
use super::daemon;
use crate::Error;

/// Options of `weft lldp`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A line for each neighbour of each NIC. VLAN is that of untagged frames; AGGREGATE the number that the
switch gives the aggregate of its port, no if the port is in none; FRAME the longest frame that it takes,
with header and FCS; AGE is since it was last heard. A value that it does not tell is --. Only hosts with
bonds or failover groups listen, and not with lldp = \"off\".")]
pub struct Args {
    /// What was sent, taken and left out, by NIC
    #[arg(short, long)]
    pub counters: bool,
    /// Print JSON: one document with schema_version and everything that is known
    #[arg(short, long, conflicts_with = "counters")]
    pub json: bool,
}

/// Shows the neighbours of the daemon behind `control`.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    let mut connection = daemon::connect(control)?;
    let Answer::Lldp(nics) = connection.ask(Command::Lldp).map_err(daemon::error)? else {
        return Err(Error::Failed(String::from("the daemon gave an answer to something else")));
    };
    let text = match args {
        Args { json: true, .. } => json::document("lldp", &nics) + "\n",
        Args { counters: true, .. } => counters(&nics),
        _ => neighbours(&nics),
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

fn neighbours(nics: &[LldpReport]) -> String {
    let header =
        ["INTERFACE", "SWITCH", "PORT", "DESCRIPTION", "VLAN", "AGGREGATE", "FRAME", "AGE"];
    let rows = nics.iter().flat_map(|nic| {
        let rows: Vec<Row> = match nic.neighbours.as_slice() {
            [] => vec![std::iter::once(nic.port.clone()).chain((0..7).map(|_| none())).collect()],
            all => all.iter().map(|n| neighbour(&nic.port, n)).collect(),
        };
        rows
    });
    table(&header, &rows.collect::<Vec<_>>())
}

fn neighbour(nic: &str, n: &NeighbourReport) -> Row {
    let number = |v: Option<u16>| v.filter(|v| *v > 0).map_or_else(none, |v| v.to_string());
    let aggregate = n.aggregation.map_or_else(none, |a| match (a.enabled, a.id) {
        (true, id) => id.to_string(),
        (false, _) => String::from("no"),
    });
    vec![
        nic.to_owned(),
        n.system_name.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| n.chassis.clone()),
        n.port.clone(),
        n.port_description.clone().filter(|text| !text.is_empty()).unwrap_or_else(none),
        number(n.pvid),
        aggregate,
        number(n.max_frame),
        format!("{}s", n.age_ms / 1000),
    ]
}

fn counters(nics: &[LldpReport]) -> String {
    let header = [
        "INTERFACE",
        "OUT",
        "IN",
        "OWN",
        "DISCARDED",
        "TLVSDISCARDED",
        "TLVSUNKNOWN",
        "AGEOUTS",
        "TOOMANY",
    ];
    let row = |nic: &LldpReport| {
        let LldpCounters {
            frames_out,
            frames_in,
            own,
            frames_discarded,
            tlvs_discarded,
            tlvs_unrecognized,
            ageouts,
            too_many_neighbours,
        } = nic.counters;
        let counts = [
            frames_out,
            frames_in,
            own,
            frames_discarded,
            tlvs_discarded,
            tlvs_unrecognized,
            ageouts,
            too_many_neighbours,
        ];
        std::iter::once(nic.port.clone()).chain(counts.map(|c| c.to_string())).collect()
    };
    table(&header, &nics.iter().map(row).collect::<Vec<Row>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    use weft_interface::lldp::wire::Aggregation;

    fn nics() -> Vec<LldpReport> {
        let switch = NeighbourReport {
            chassis: String::from("02:00:00:00:00:09"),
            port: String::from("Gi1/0/7"),
            system_name: Some(String::from("sw1")),
            pvid: Some(5),
            aggregation: Some(Aggregation { capable: true, enabled: false, id: 0 }),
            age_ms: 4200,
            ..NeighbourReport::default()
        };
        let counters = LldpCounters { too_many_neighbours: 3, ..LldpCounters::default() };
        let of =
            |port: &str, neighbours| LldpReport { port: port.to_owned(), neighbours, counters };
        vec![of("eth0", vec![switch]), of("eth1", vec![])]
    }

    #[test]
    fn each_nic_has_the_port_of_its_switch_or_none() {
        assert_eq!(
            neighbours(&nics()),
            "\
INTERFACE  SWITCH  PORT     DESCRIPTION  VLAN  AGGREGATE  FRAME  AGE
eth0       sw1     Gi1/0/7  --           5     no         --     4s
eth1       --      --       --           --    --         --     --
"
        );
    }

    #[test]
    fn what_was_left_out_is_shown_by_nic() {
        let text = counters(&nics());
        let second = text.lines().nth(1).unwrap();
        assert_eq!(second.split_whitespace().collect::<Vec<_>>().join(" "), "eth0 0 0 0 0 0 0 0 3");
    }
}
