//! Access rules, services and classes as a file has them.

use super::{Writer, array, quoted, texts};
use crate::access::{AccessConfig, AccessRule, Catalogue, Established};

pub(super) fn write_access(w: &mut Writer, access: &AccessConfig) {
    let AccessConfig { catalogue, rules, established } = access;
    let built_in = Catalogue::default();
    if w.all || !rules.is_empty() || *established != Established::default() {
        w.table("[access]");
        w.word("established", established, &Established::default(), |e| match e {
            Established::Keep => "keep",
            Established::End => "end",
        });
        w.list("rules", &rules.iter().map(access_rule).collect::<Vec<_>>());
    }
    let Catalogue { services, classes } = catalogue;
    for (name, ports) in services {
        if w.all || built_in.services.get(name) != Some(ports) {
            w.table(&format!("[access.service.{name}]"));
            w.value("ports", array(&texts(ports)));
        }
    }
    for (name, class) in classes {
        let crate::access::Class { services, ports: _, management } = class;
        let before = built_in.classes.get(name);
        if w.all || before.is_none_or(|c| c.services != *services || c.management != *management) {
            w.table(&format!("[access.class.{name}]"));
            w.value("services", array(&texts(services)));
            w.unless("management", management, &before.is_some_and(|c| c.management));
        }
    }
}

pub(super) fn access_rule(rule: &AccessRule) -> String {
    let AccessRule { action, services, ports: _, on, of, from: _, names: _, mark, log, written: _ } =
        rule;
    let list = |items: Vec<String>| quoted(&items.join(", "));
    let mut keys = vec![format!("{} = {}", action.name(), quoted(services))];
    if !on.is_empty() {
        keys.push(format!("on = {}", list(on.iter().map(ToString::to_string).collect())));
    }
    if !of.is_empty() {
        keys.push(format!("of = {}", list(of.clone())));
    }
    let clients = rule.clients();
    if !clients.is_empty() {
        keys.push(format!("from = {}", list(clients)));
    }
    if *mark != 0 {
        keys.push(format!("mark = {mark}"));
    }
    if *log {
        keys.push(String::from("log = true"));
    }
    format!("{{ {} }}", keys.join(", "))
}
