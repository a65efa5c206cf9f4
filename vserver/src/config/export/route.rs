//! Route tables and routes as a file has them.

use super::super::{HostConfig, NamedRoute, RouteSpec, TableSpec};
use super::{Writer, quoted};

pub(super) fn write_tables(w: &mut Writer, tables: &[TableSpec], config: &HostConfig) {
    for TableSpec { name, routes } in tables {
        w.table(&format!("[table.{name}]"));
        let routes = routes.iter().map(|r| route(r, &config.aliases[r.alias].name));
        w.list("routes", &routes.collect::<Vec<_>>());
    }
}

pub(super) fn route(r: &RouteSpec, alias: &str) -> String {
    let RouteSpec { to, via, alias: _, src, metric } = r;
    route_keys(&to.to_string(), via.map(|v| v.to_string()), alias, *src, *metric)
}

pub(super) fn named_route(r: &NamedRoute, alias: &str) -> String {
    let NamedRoute { to, via, alias: _, src, metric } = r;
    let to = to.map_or_else(|| String::from("default"), |t| t.to_string());
    route_keys(&to, Some(via.clone()), alias, *src, *metric)
}

fn route_keys(
    to: &str,
    via: Option<String>,
    alias: &str,
    src: Option<std::net::IpAddr>,
    metric: u32,
) -> String {
    let mut keys = vec![format!("to = {}", quoted(to))];
    keys.extend(via.map(|v| format!("via = {}", quoted(&v))));
    keys.push(format!("alias = {}", quoted(alias)));
    keys.extend(src.map(|s| format!("src = {}", quoted(&s.to_string()))));
    if metric != 0 {
        keys.push(format!("metric = {metric}"));
    }
    format!("{{ {} }}", keys.join(", "))
}
