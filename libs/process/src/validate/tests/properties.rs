//! What holds whatever is written.

use proptest::prelude::*;

use super::*;

proptest! {
    /// Whatever the edges, the graph is either refused for a cycle or can be run to its end.
    #[test]
    fn a_graph_without_a_cycle_can_be_run(edges in proptest::collection::vec((0_usize..8, 0_usize..8), 0..16)) {
        let tasks: Vec<Value> = (0..8)
            .map(|n| {
                let mut on: Vec<String> = edges.iter().filter(|(from, _)| *from == n).map(|(_, to)| format!("t{to}")).collect();
                on.sort_unstable();
                on.dedup();
                json!({"id": format!("t{n}"), "name": "T", "assignee": "writer", "dependencies": on})
            })
            .collect();
        let mut process = sound();
        put(&mut process, "/phases/1/tasks", json!(tasks));
        let checked = check(&process);
        match checked.definition {
            Some(definition) => {
                let order = definition.execution_order();
                prop_assert_eq!(order.len(), 10);
                for (from, to) in edges {
                    let at = |n: usize| order.iter().position(|id| *id == format!("t{n}"));
                    prop_assert!(at(to) < at(from));
                }
            }
            None => prop_assert!(checked.faults().all(|issue| issue.code == "DEPENDENCY_CYCLE")),
        }
    }

    /// A definition survives the way through its canonical text.
    #[test]
    fn the_canonical_text_gives_the_same_definition(name in "[a-zA-Z ]{1,30}[a-z]", order in 1_i32..1000, parallel in any::<Option<bool>>()) {
        let mut process = sound();
        put(&mut process, "/name", json!(name));
        put(&mut process, "/phases/1/order", json!(order + 1));
        put(&mut process, "/phases/1/parallelExecution", json!(parallel));
        let draft = Draft::from_json(process).unwrap();
        let again = Draft::from_slice(&draft.canonical()).unwrap();
        prop_assert_eq!(&again, &draft);
        prop_assert_eq!(again.digest(), draft.digest());
        prop_assert_eq!(format!("{:?}", validate(&again)), format!("{:?}", validate(&draft)));
    }
}

/// Pointers to everything in a value.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| places(item, &format!("{at}/{index}"), found));
        }
        Value::Object(members) => {
            members.iter().for_each(|(name, member)| places(member, &format!("{at}/{name}"), found));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

proptest! {
    /// A definition with parts replaced by anything is refused with reasons, or sound.
    #[test]
    fn nothing_that_is_written_breaks_the_checks(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..4),
    ) {
        let parts = [
            json!(null), json!(""), json!("a"), json!("-"), json!("draft"), json!("write"), json!("boss"), json!("1d"), json!(0), json!(-1),
            json!(i32::MAX), json!(true), json!([]), json!({}), json!(["write"]), json!(["boss", "boss"]), json!("\u{0}"), json!("\u{1F600}"),
            json!({"a": {"templateId": "x"}}), json!([{}]), json!("x && y"),
        ];
        let mut process = sound();
        for (place, part) in changes {
            let mut found = Vec::new();
            places(&process, "", &mut found);
            let place: &String = place.get(&found);
            if let Some(target) = process.pointer_mut(place) {
                *target = part.get(&parts).clone();
            }
        }
        if let Ok(draft) = Draft::from_json(process) {
            let checked = validate(&draft);
            prop_assert_eq!(checked.definition.is_some(), checked.faults().count() == 0);
            prop_assert!(checked.issues.iter().all(|issue| issue.message.len() > 10));
            if let Some(definition) = checked.definition {
                let tasks: usize = definition.phases.iter().map(|phase| phase.tasks.len()).sum();
                prop_assert_eq!(definition.execution_order().len(), tasks);
            }
        }
    }
}
