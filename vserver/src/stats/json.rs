//! Snapshots as JSON for programs: one document, `schema_version` first, counters as integers.

use crate::qos::QosSnapshot;

use super::{HostSnapshot, RuntimeSnapshot};

/// The snapshot as one line. With `vservers` only these (unknown names are left out), and without
/// what belongs to none of them.
pub fn snapshot(s: &HostSnapshot, vservers: &[String]) -> String {
    if vservers.is_empty() {
        return text(s);
    }
    let mut some = s.clone();
    some.vservers.retain(|v| vservers.contains(&v.name));
    text(&some)
}

/// The workers' accounts as one line.
pub fn runtime(s: &RuntimeSnapshot) -> String {
    text(s)
}

/// Rates and shares as one line.
pub fn qos(s: &QosSnapshot) -> String {
    text(s)
}

/// Anything else as one line: `schema_version`, and `value` below `name`.
pub fn document(name: &str, value: &impl serde::Serialize) -> String {
    let mut all = serde_json::json!({ "schema_version": 1 });
    all[name] = serde_json::to_value(value).unwrap_or_default();
    text(&all)
}

fn text(s: &impl serde::Serialize) -> String {
    // Plain data with string keys: it has a JSON form.
    serde_json::to_string(s).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::VserverSnapshot;

    #[test]
    fn the_document_is_versioned_and_can_be_read_back() {
        let named = |n: &str| VserverSnapshot { name: n.to_owned(), ..Default::default() };
        let s = HostSnapshot {
            schema_version: 1,
            vservers: vec![named("a"), named("b")],
            ..Default::default()
        };
        let all = snapshot(&s, &[]);
        assert!(all.starts_with("{\"schema_version\":1,"), "{all}");
        assert_eq!(serde_json::from_str::<HostSnapshot>(&all).unwrap(), s);
        let one: HostSnapshot = serde_json::from_str(&snapshot(&s, &[String::from("b")])).unwrap();
        assert_eq!(one.vservers, [named("b")]);
    }
}
