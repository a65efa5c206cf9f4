//! `[neighbours.*]` as a file has it.

use super::super::neighbours::LEARNED_DEFAULT;
use super::super::{HostConfig, NeighbourSpec, NeighbourTable};
use super::{Writer, mac, quoted};

pub(super) fn write_neighbours(w: &mut Writer, config: &HostConfig) {
    for NeighbourTable { name, entries, learned } in &config.neighbours {
        w.table(&format!("[neighbours.{name}]"));
        w.unless("learned", learned, &LEARNED_DEFAULT);
        let entry = |NeighbourSpec { alias, addr, mac: of }: &NeighbourSpec| {
            let alias = quoted(&config.aliases[*alias].name);
            format!(
                "{{ alias = {alias}, address = {}, mac = {} }}",
                quoted(&addr.to_string()),
                quoted(&mac(*of))
            )
        };
        w.list("entries", &entries.iter().map(entry).collect::<Vec<_>>());
    }
}
