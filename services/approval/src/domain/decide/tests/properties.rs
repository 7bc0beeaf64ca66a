//! The rules as properties: whatever is wanted in whatever order, this holds.

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn the_digest_binds_everything_that_is_shown(
        title in "[a-z]{0,6}", description in "[a-z]{0,6}", version in 1_u32..4, who in "[a-z]{1,3}",
        other_title in "[a-z]{0,6}", other_description in "[a-z]{0,6}", other_version in 1_u32..4,
        other_who in "[a-z]{1,3}",
    ) {
        let make = |title: &str, description: &str, version, who: &str| {
            let mut made = request(&[who]);
            made.title = title.to_owned();
            made.description = description.to_owned();
            made.artifacts = vec![artifact("design", version)];
            made
        };
        let one = (title, description, version, who);
        let two = (other_title, other_description, other_version, other_who);
        let same = content(&make(&one.0, &one.1, one.2, &one.3)) == content(&make(&two.0, &two.1, two.2, &two.3));
        prop_assert_eq!(same, one == two);
    }

    #[test]
    fn sixteen_answers_in_any_order_have_one_outcome(
        order in Just((0..16_usize).collect::<Vec<_>>()).prop_shuffle(),
        against in proptest::option::of((0..16_usize, prop::bool::ANY)),
    ) {
        let names: Vec<String> = (0..16).map(|index| format!("person-{index}")).collect();
        let mut state = approval(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let decision = |index| match against {
            Some((no, true)) if no == index => Decision::Reject,
            Some((no, false)) if no == index => Decision::RequestChanges,
            _ => Decision::Approve,
        };
        let mut settlements = 0;
        for index in order {
            let command = reply(&state, &names[index], decision(index));
            if let Ok(events) = decide(&state, &command, START) {
                settlements += events.iter().filter(|event| matches!(event, Event::Settled { .. })).count();
                state = events.iter().fold(state, evolve);
            }
        }
        let expected = match against {
            None => Outcome::Approved,
            Some((_, true)) => Outcome::Rejected,
            Some((_, false)) => Outcome::ChangesRequested,
        };
        prop_assert_eq!(settlements, 1);
        prop_assert_eq!(outcome(&state), Some(expected));
    }

    #[test]
    fn settled_stays_settled_and_replay_equals_live(
        script in prop::collection::vec(step(), 0..40), on_timeout in on_timeout(),
    ) {
        let mut asked = request(&["ada", "bob", "cy", "author"]);
        asked.timing = timing(on_timeout);
        let mut history = super::super::request(asked, START).expect("is asked");
        let mut state = fold(&history).expect("is a request");
        let mut now = START;
        for (wait, action) in script {
            now = now + hours(wait);
            let command = action.command(&state);
            let events = decide(&state, &command, now).unwrap_or_default();
            let before = state.clone();
            for event in &events {
                state = evolve(state, event);
            }
            history.extend(events);
            prop_assert_eq!(decide(&state, &command, now).map_or(0, |events| events.len()), 0, "again is quiet");
            prop_assert_eq!(invariant::check(&state), Ok(()), "after {:?}", command);
            if !before.is_pending() {
                prop_assert_eq!(&before, &state);
            }
        }
        prop_assert_eq!(fold(&history), Some(state));
        let text = serde_json::to_string(&history).expect("is written");
        prop_assert_eq!(serde_json::from_str::<Vec<Event>>(&text).expect("is read"), history);
    }
}

#[derive(Debug, Clone)]
enum Action {
    Answer { who: &'static str, decision: Decision, stale: bool },
    Store(u32),
    Withdraw,
    Supersede,
    Elapse,
}

impl Action {
    fn command(&self, state: &Approval) -> Command {
        match self {
            Self::Answer { who, decision, stale } => {
                let mut given = answer(state, who, *decision);
                if *stale {
                    given.seen = ContentDigest::claimed("sha256:00");
                }
                Command::Answer(given)
            }
            Self::Store(version) => Command::Refresh { current: versions(&[("design", *version)]) },
            Self::Withdraw => Command::Withdraw { by: operator(), reason: "a mistake".to_owned() },
            Self::Supersede => Command::Supersede { by: None, reason: "a later round".to_owned() },
            Self::Elapse => Command::Elapse,
        }
    }
}

fn step() -> impl Strategy<Value = (u64, Action)> {
    let who = prop::sample::select(vec!["ada", "bob", "cy", "author", "boss", "director", "eve"]);
    let decisions = vec![
        Decision::Approve,
        Decision::Approve,
        Decision::Approve,
        Decision::Reject,
        Decision::RequestChanges,
    ];
    let answers = (who, prop::sample::select(decisions), prop::bool::weighted(0.1))
        .prop_map(|(who, decision, stale)| Action::Answer { who, decision, stale });
    let action = prop_oneof![
        10 => answers,
        3 => (1_u32..6).prop_map(Action::Store),
        5 => Just(Action::Elapse),
        1 => Just(Action::Withdraw),
        1 => Just(Action::Supersede),
    ];
    (0_u64..15, action)
}

fn on_timeout() -> impl Strategy<Value = OnTimeout> {
    prop::sample::select(vec![OnTimeout::Escalate, OnTimeout::Reject, OnTimeout::Block])
}
