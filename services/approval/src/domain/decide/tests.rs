//! The rules as tables: given a request, when something is wanted, then this happens.

use std::collections::BTreeMap;

use phasegate_clock::Timestamp;
use phasegate_id::{ApprovalId, ArtifactKey};

use super::super::examples::{
    START, answer, approval, artifact, hours, operator, person, request, timing, visitor,
};
use super::super::{
    Actor, ActorKind, Answer, Approval, Channel, Command, ContentDigest, CurrentArtifact, Decision, Event,
    InstanceCondition, OnTimeout, Outcome, SettledBy, Standing, Subject, SubjectKind, Verdict, Wish,
    WordsMissing, content, due_next, evolve, fold, invariant, substance,
};
use super::{Rejection, Renewed, decide};

mod properties;

#[test]
fn a_request_asks_distinct_people() {
    let mut twice = request(&["ada", "bob"]);
    twice.approvers.push(person("ada"));
    let events = super::request(twice, START).expect("is asked");
    let asked = fold(&events).expect("is a request");
    assert_eq!(asked.waits_for().map(AsRef::as_ref).collect::<Vec<&str>>(), ["ada", "bob"]);
    assert_eq!(invariant::check(&asked), Ok(()));
    assert_eq!(super::request(request(&[]), START), Err(Rejection::NobodyAsked));
}

#[test]
fn answers_settle_a_request() {
    let table = [
        ("the only one approves", vec![("ada", Decision::Approve)], 1, Some(Outcome::Approved)),
        ("one of two approves", vec![("ada", Decision::Approve)], 2, None),
        (
            "both approve",
            vec![("bob", Decision::Approve), ("ada", Decision::Approve)],
            2,
            Some(Outcome::Approved),
        ),
        ("one of two rejects", vec![("bob", Decision::Reject)], 2, Some(Outcome::Rejected)),
        (
            "one approves, one wants changes",
            vec![("ada", Decision::Approve), ("bob", Decision::RequestChanges)],
            2,
            Some(Outcome::ChangesRequested),
        ),
    ];
    for (name, answers, asked, expected) in table {
        let mut state = approval(&["ada", "bob"][..asked]);
        for (who, decision) in answers {
            state = does(&state, &Command::Answer(answer(&state, who, decision)), START + hours(1));
        }
        assert_eq!(state.settlement().map(|end| end.outcome), expected, "{name}");
    }
}

#[test]
fn those_who_need_not_answer_any_more_are_let_go() {
    let state = approval(&["ada", "bob", "cy"]);
    let state = does(&state, &reply(&state, "ada", Decision::Approve), START);
    let state = does(&state, &reply(&state, "bob", Decision::Reject), START);
    let standings: Vec<_> = state.approvers.iter().map(|one| one.standing.as_str()).collect();
    assert_eq!(standings, ["approved", "rejected", "not_needed"]);
    assert_eq!(due_next(&state), None);
}

#[test]
fn the_first_answer_of_a_person_stands() {
    let state = approval(&["ada", "bob"]);
    let yes = reply(&state, "ada", Decision::Approve);
    let state = does(&state, &yes, START + hours(1));
    assert_eq!(decide(&state, &yes, START + hours(2)), Ok(Vec::new()));
    let rejected = Rejection::AlreadyDecided {
        decision: "approve",
        decided_by: "ada".to_owned(),
        decided_at: START + hours(1),
    };
    let no = reply(&state, "ada", Decision::Reject);
    assert_eq!(decide(&state, &no, START + hours(2)), Err(rejected.clone()));
    let state = does(&state, &reply(&state, "bob", Decision::Reject), START + hours(3));
    assert_eq!(decide(&state, &yes, START + hours(100)), Ok(Vec::new()), "also once it has ended");
    assert_eq!(decide(&state, &no, START + hours(100)), Err(rejected));
}

#[test]
fn an_answer_is_refused() {
    let asked = approval(&["ada", "bob"]);
    let agent =
        Actor { kind: ActorKind::Agent, id: "a".to_owned(), channel: Channel::Api, on_behalf_of: None };
    let good = answer(&asked, "ada", Decision::Approve);
    let settled = does(&asked, &reply(&asked, "bob", Decision::Reject), START);
    let taken_back =
        does(&asked, &Command::Withdraw { by: operator(), reason: "a mistake".to_owned() }, START);
    let next = ApprovalId::trusted("apr-next");
    let replaced = Command::Supersede { by: Some(next.clone()), reason: "a later round".to_owned() };
    let replaced = does(&asked, &replaced, START);
    let mut own = request(&["ada", "author"]);
    own.requested_by = visitor("ada");
    let own = Approval::asked(own, START);
    let too_late = approval_that(OnTimeout::Block);
    let too_late = does(&too_late, &Command::Elapse, START + hours(48));
    let rejected_late = approval_that(OnTimeout::Reject);
    let rejected_late = does(&rejected_late, &Command::Elapse, START + hours(48));
    let expired = Rejection::Expired { at: START + hours(48) };
    let ended = |state: &Approval| Answer {
        instance: InstanceCondition::Ended,
        ..answer(state, "ada", Decision::Approve)
    };
    let table = [
        ("an agent", &asked, Answer { by: agent, ..good.clone() }, Rejection::HumanRequired),
        (
            "one of our own services",
            &asked,
            Answer { by: Actor::system("instance"), ..good.clone() },
            Rejection::HumanRequired,
        ),
        (
            "a stranger",
            &asked,
            answer(&asked, "eve", Decision::Approve),
            Rejection::NotAnApprover(person("eve")),
        ),
        (
            "who asked",
            &own,
            answer(&own, "ada", Decision::Approve),
            Rejection::SelfApprovalForbidden(person("ada")),
        ),
        (
            "who made it",
            &own,
            answer(&own, "author", Decision::Approve),
            Rejection::SelfApprovalForbidden(person("author")),
        ),
        (
            "of another content",
            &asked,
            Answer { seen: ContentDigest::claimed("sha256:00"), ..good.clone() },
            Rejection::ContentChanged { current: asked.digest.clone(), changed: Vec::new() },
        ),
        ("after the end of the instance", &asked, ended(&asked), Rejection::InstanceEnded),
        (
            "after another one settled it",
            &settled,
            good.clone(),
            Rejection::AlreadyDecided { decision: "reject", decided_by: "bob".to_owned(), decided_at: START },
        ),
        ("after it was withdrawn", &taken_back, good.clone(), Rejection::Withdrawn { at: START }),
        (
            "after it was withdrawn because the instance ended",
            &taken_back,
            ended(&taken_back),
            Rejection::InstanceEnded,
        ),
        ("after it was replaced", &replaced, good, Rejection::Superseded { by: Some(next), at: START }),
        ("after it expired", &too_late, answer(&too_late, "ada", Decision::Approve), expired.clone()),
        (
            "after the deadline rejected it",
            &rejected_late,
            answer(&rejected_late, "ada", Decision::Approve),
            expired,
        ),
    ];
    for (name, state, answer, expected) in table {
        assert_eq!(decide(state, &Command::Answer(answer), START + hours(49)), Err(expected), "{name}");
    }
}

#[test]
fn a_no_comes_with_words() {
    let wish = Wish {
        artifact_key: "design".to_owned(),
        path: "/certificate".to_owned(),
        text: "it has expired".to_owned(),
    };
    for decision in [Decision::Reject, Decision::RequestChanges] {
        assert_eq!(Verdict::new(decision, " \n".to_owned(), Vec::new()), Err(WordsMissing));
        assert!(Verdict::new(decision, "no".to_owned(), Vec::new()).is_ok());
        assert!(Verdict::new(decision, String::new(), vec![wish.clone()]).is_ok());
    }
    assert!(Verdict::new(Decision::Approve, String::new(), Vec::new()).is_ok());
}

#[test]
fn a_late_answer_and_the_deadline_never_both_win() {
    let deadline = START + hours(48);
    for on_timeout in [OnTimeout::Block, OnTimeout::Reject] {
        let state = approval_that(on_timeout);
        let before = Timestamp::from_micros(deadline.as_micros() - 1);
        let answered = does(&state, &reply(&state, "ada", Decision::Approve), before);
        assert_eq!(outcome(&answered), Some(Outcome::Approved));
        assert_eq!(decide(&answered, &Command::Elapse, deadline), Ok(Vec::new()), "the timer comes too late");

        let late = does(&state, &reply(&state, "ada", Decision::Approve), deadline);
        let expected = match on_timeout {
            OnTimeout::Block => Outcome::Expired,
            OnTimeout::Reject | OnTimeout::Escalate => Outcome::Rejected,
        };
        assert_eq!(outcome(&late), Some(expected), "the answer comes too late, and says so");
        assert_eq!(late.settlement().map(|end| &end.by), Some(&SettledBy::Deadline));
    }
    let overdue = approval_that(OnTimeout::Escalate);
    let answered = does(&overdue, &reply(&overdue, "ada", Decision::Approve), deadline + hours(9));
    assert_eq!(outcome(&answered), Some(Outcome::Approved), "an escalated request stays open");
}

#[test]
fn people_may_decide_while_the_instance_is_on_hold() {
    let state = approval_that(OnTimeout::Block);
    let paused = InstanceCondition::Paused;
    let given = Answer { instance: paused, ..answer(&state, "ada", Decision::Approve) };
    let state = does(&state, &Command::Answer(given), START + hours(100));
    assert_eq!(outcome(&state), Some(Outcome::Approved));
}

#[test]
fn time_reminds_escalates_and_runs_out() {
    let remind = |people: &[&str]| {
        let people = people.iter().map(|id| person(id)).collect();
        move |at| Event::Reminded { people, at }
    };
    let escalate = |who: Option<&str>, overdue| {
        let added = who.map(person);
        move |at| Event::Escalated { added, overdue, at }
    };
    let state = approval_that(OnTimeout::Escalate);
    assert_eq!(decide(&state, &Command::Elapse, START + hours(11)), Ok(Vec::new()));
    assert_eq!(due_next(&state), Some(START + hours(12)));

    let at = START + hours(12);
    assert_eq!(decide(&state, &Command::Elapse, at), Ok(vec![remind(&["ada"])(at)]));
    let reminded = does(&state, &Command::Elapse, at);
    assert_eq!(decide(&reminded, &Command::Elapse, at), Ok(Vec::new()), "once");
    assert_eq!(due_next(&reminded), Some(START + hours(24)));

    let at = START + hours(24);
    let escalated = does(&reminded, &Command::Elapse, at);
    assert_eq!(decide(&reminded, &Command::Elapse, at), Ok(vec![escalate(Some("boss"), false)(at)]));
    assert_eq!(escalated.waits_for().map(AsRef::as_ref).collect::<Vec<&str>>(), ["ada", "boss"]);
    assert_eq!(decide(&escalated, &Command::Elapse, at), Ok(Vec::new()), "once");
    assert_eq!(escalated.digest, state.digest, "what was shown is the same");

    let at = START + hours(48);
    let expected = vec![escalate(Some("director"), true)(at), remind(&["ada", "boss"])(at)];
    assert_eq!(decide(&escalated, &Command::Elapse, at), Ok(expected), "the missed reminder, too");
    let overdue = does(&escalated, &Command::Elapse, at);
    assert!(overdue.overdue && overdue.is_pending());
    assert_eq!(due_next(&overdue), None);
    assert_eq!(decide(&overdue, &Command::Elapse, at + hours(1000)), Ok(Vec::new()), "once");

    let slept = START + hours(1000);
    let expected = vec![escalate(Some("boss"), true)(slept), remind(&["ada"])(slept)];
    assert_eq!(decide(&state, &Command::Elapse, slept), Ok(expected), "what was missed comes once");
}

#[test]
fn a_stand_in_answers_for_the_silent() {
    let state = approval(&["ada", "bob"]);
    let state = does(&state, &Command::Elapse, START + hours(24));
    let by_boss = does(&state, &reply(&state, "boss", Decision::Approve), START + hours(25));
    assert_eq!(outcome(&by_boss), Some(Outcome::Approved));
    let state = does(&state, &reply(&state, "ada", Decision::Approve), START + hours(25));
    assert_eq!(outcome(&state), None);
    let by_all = does(&state, &reply(&state, "bob", Decision::Approve), START + hours(26));
    assert_eq!(outcome(&by_all), Some(Outcome::Approved));
    let against = does(&state, &reply(&state, "boss", Decision::Reject), START + hours(26));
    assert_eq!(outcome(&against), Some(Outcome::Rejected));
}

#[test]
fn escalation_never_adds_who_may_not_decide() {
    let mut asked = request(&["boss"]);
    asked.timing.escalate_to = vec![person("boss"), person("author")];
    let state = Approval::asked(asked, START);
    let at = START + hours(24);
    let expected = vec![
        Event::Escalated { added: None, overdue: false, at },
        Event::Reminded { people: vec![person("boss")], at },
    ];
    assert_eq!(decide(&state, &Command::Elapse, at), Ok(expected), "operators are told instead");
}

#[test]
fn a_newer_version_asks_again() {
    let state = approval(&["ada", "bob"]);
    let state = does(&state, &reply(&state, "ada", Decision::Approve), START + hours(1));
    for (name, current) in [
        ("the same version", versions(&[("design", 1)])),
        ("an older version", versions(&[("design", 0)])),
        ("another key", versions(&[("x", 9)])),
    ] {
        assert_eq!(decide(&state, &Command::Refresh { current }, START), Ok(Vec::new()), "{name}");
    }
    let at = START + hours(2);
    let again = does(&state, &Command::Refresh { current: versions(&[("design", 3)]) }, at);
    assert_eq!(again.request.id, state.request.id);
    assert_eq!(again.waits_for().count(), 2, "votes are withdrawn");
    assert_eq!((again.edition, again.request.artifacts[0].version), (2, 3));
    assert_eq!(again.request.artifacts[0].previous_version, 1);
    assert_eq!(again.expires_at, Some(at + hours(48)), "people get their time for what is new");
    assert_ne!(again.digest, state.digest);
    let old = Answer { seen: state.digest, ..answer(&again, "bob", Decision::Approve) };
    let design = Renewed { key: ArtifactKey::trusted("design"), from: 1, to: 3 };
    let changed = Rejection::ContentChanged { current: again.digest.clone(), changed: vec![design] };
    assert_eq!(decide(&again, &Command::Answer(old), at), Err(changed));

    let ended = does(&again, &reply(&again, "bob", Decision::Reject), at);
    let newest = Command::Refresh { current: versions(&[("design", 4)]) };
    assert_eq!(decide(&ended, &newest, at), Ok(Vec::new()), "what is decided is left");
}

#[test]
fn a_request_is_taken_back_by_who_may() {
    let mut asked = request(&["ada"]);
    asked.requested_by = visitor("cy");
    let asked = Approval::asked(asked, START);
    let by = |actor: Actor| Command::Withdraw { by: actor, reason: "a mistake".to_owned() };
    assert_eq!(decide(&asked, &by(visitor("ada")), START), Err(Rejection::RoleForbidden));
    for actor in [operator(), visitor("cy"), Actor::system("approval")] {
        let gone = does(&asked, &by(actor), START);
        assert_eq!(outcome(&gone), Some(Outcome::Withdrawn));
        assert_eq!(decide(&gone, &by(operator()), START), Ok(Vec::new()), "again is quiet");
        let moot = Command::Supersede { by: None, reason: "skipped".to_owned() };
        assert_eq!(decide(&gone, &moot, START), Ok(Vec::new()));
    }
    let done = does(&asked, &reply(&asked, "ada", Decision::Approve), START + hours(1));
    let decided = Rejection::AlreadyDecided {
        decision: "approve",
        decided_by: "ada".to_owned(),
        decided_at: START + hours(1),
    };
    assert_eq!(decide(&done, &by(operator()), START), Err(decided));
}

#[test]
fn the_same_question_has_one_substance_whoever_is_asked() {
    let asked = request(&["ada"]);
    let shopped = request(&["bob"]);
    assert_eq!(substance(&asked), substance(&shopped));
    assert_ne!(content(&asked), content(&shopped));
    let mut later = asked.clone();
    later.round = 2;
    assert_ne!(substance(&asked), substance(&later), "the work of another round is another question");
}

fn approval_that(on_timeout: OnTimeout) -> Approval {
    let mut asked = request(&["ada"]);
    asked.timing = timing(on_timeout);
    asked.subject = Subject { kind: SubjectKind::Task, id: "configure_idp".to_owned() };
    Approval::asked(asked, START)
}

fn reply(state: &Approval, who: &str, decision: Decision) -> Command {
    Command::Answer(answer(state, who, decision))
}

fn does(state: &Approval, command: &Command, now: Timestamp) -> Approval {
    let events = decide(state, command, now).unwrap_or_else(|no| panic!("{command:?} was refused: {no}"));
    let after = events.iter().fold(state.clone(), evolve);
    assert_eq!(invariant::check(&after), Ok(()));
    assert!(after.approvers.iter().all(|one| after.is_pending() || one.standing != Standing::Pending));
    after
}

fn outcome(state: &Approval) -> Option<Outcome> {
    state.settlement().map(|end| end.outcome)
}

fn versions(list: &[(&str, u32)]) -> BTreeMap<ArtifactKey, CurrentArtifact> {
    let one = |&(key, version): &(&str, u32)| {
        (ArtifactKey::trusted(key), CurrentArtifact { version, digest: artifact(key, version).digest })
    };
    list.iter().map(one).collect()
}
