//! Conditions of the page, of the bad-input catalogue, and of people who mean harm.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn scope() -> Scope {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Scope { phases: names(&["discovery", "production"]), tasks: names(&["plan", "deploy", "sign-off"]) }
}

fn parse(source: &str) -> Result<Condition, ConditionFault> {
    Condition::parse(source, &scope())
}

/// Evaluates over one small instance.
fn evaluate(source: &str) -> Result<bool, ConditionFailed> {
    let context = json!({
        "customer": {"name": "Acme", "tier": "gold"}, "userCount": 5000.0, "rate": 0.5, "regions": ["eu", "us"],
        "seats": [{"used": 1}, {"used": 3}], "nothing": null, "big": 18_446_744_073_709_551_615_u64
    });
    let output = json!({"risk": "low"});
    let facts = BTreeMap::from([("requirements_approved".to_owned(), true), ("withdrawn".to_owned(), false)]);
    let task = |status| TaskInput { status, round: 1, attempt: 2, output: None };
    let inputs = Inputs {
        context: Some(&context),
        facts: Some(&facts),
        phases: BTreeMap::from([
            ("discovery", PhaseInput { status: "completed", round: 1 }),
            ("production", PhaseInput { status: "pending", round: 0 }),
        ]),
        tasks: BTreeMap::from([
            ("plan", TaskInput { output: Some(&output), ..task("completed") }),
            ("deploy", task("running")),
            ("sign-off", task("completed")),
        ]),
        artifacts: BTreeMap::from([(
            "plan.md",
            ArtifactInput { version: 2, kind: "document", phase: "discovery", digest: "sha256:00" },
        )]),
        approvals: BTreeMap::from([("plan", ApprovalInput { status: "approved", round: 1 })]),
        all_tasks_complete: true,
    };
    parse(source).unwrap_or_else(|fault| panic!("{source}: {fault}")).evaluate(&inputs)
}

#[test]
fn what_is_true() {
    for source in [
        "requirements_approved",
        "all_tasks_complete && requirements_approved",
        "!withdrawn && !never_set",
        "(requirements_approved)",
        "withdrawn || requirements_approved",
        "true",
        "facts.requirements_approved && !facts.never_set",
        "facts['requirements_approved']",
        "has(facts.withdrawn) && !has(facts.never_set_either)",
        "context.customer.name == 'Acme'",
        "context.userCount == 5000 && context.userCount > 4999.5",
        "context.rate * 2.0 == 1.0",
        "context.big > 0u",
        "'eu' in context.regions",
        "context.regions.exists(region, region == 'us')",
        "context.seats.all(seat, seat.used < 4)",
        "context.regions.exists_one(r, r.startsWith('e'))",
        "context.regions.filter(r, r.endsWith('u')).size() == 1",
        "size(context.regions) == 2",
        "context.nothing == null",
        "has(context.customer.tier) && !has(context.customer.age)",
        "context['customer']['tier'] == 'gold'",
        "context.regions[0] == 'eu'",
        "phases.discovery.status == 'completed' && phases.production.round == 0",
        "tasks.plan.attempt == 2 && tasks['sign-off'].status == 'completed'",
        "tasks.plan.output.risk == 'low'",
        "tasks.all(t, tasks[t].status in ['completed', 'running'])",
        "tasks.exists(t, tasks[t].output == {'risk': 'low'})",
        "artifacts['plan.md'].version >= 2 && artifacts['plan.md'].type == 'document'",
        "artifacts.missing.version == 0 && !has(artifacts.absent)",
        "artifacts['missing.md'].version == 0",
        "approvals.plan.status == 'approved' && approvals.deploy.status == 'none'",
        "context.customer.tier == 'gold' ? phases.discovery.status == 'completed' : false",
        "duration('48h') > duration('24h') && timestamp('2024-01-01T00:00:00Z') < timestamp('2025-01-01T00:00:00Z')",
        "string(context.userCount) == '5000' && int('3') == 3 && double('0.5') == context.rate",
        "context.customer.name + '!' == 'Acme!'",
        "context.absent == 1 || requirements_approved",
    ] {
        assert_eq!(evaluate(source), Ok(true), "{source}");
    }
}

#[test]
fn what_is_false() {
    for source in [
        "never_set",
        "requirements_approved && withdrawn",
        "facts.never_set",
        "context.customer.name == 'Other'",
        "phases.production.status == 'completed'",
        "tasks.all(t, tasks[t].status == 'completed')",
        "approvals.production.status == 'approved'",
        "false",
    ] {
        assert_eq!(evaluate(source), Ok(false), "{source}");
    }
}

#[test]
fn what_has_no_answer_says_why_without_any_value() {
    for (source, part) in [
        ("context.absent", "`absent` is not there"),
        ("context.customer.age > 3", "`age` is not there"),
        ("context.regions[7] == 'x'", "out of bounds"),
        ("context.customer.name > 3", ""),
        ("context.userCount / 0 == 1", "divides by zero"),
        ("context.userCount * context.rate == 1.0", ""),
        ("context.customer", "not true or false"),
        ("context.userCount", "not true or false"),
        ("timestamp(context.customer.name) > timestamp('2024-01-01T00:00:00Z')", ""),
        ("9223372036854775807 + context.userCount > 0", ""),
        ("context.userCount.exists(x, x)", ""),
        ("context.regions && true", ""),
    ] {
        let failed = evaluate(source).unwrap_err().to_string();
        assert!(failed.contains(part), "{source}: {failed}");
        assert!(!failed.contains("Acme") && !failed.contains("5000"), "{source}: {failed}");
    }
}

#[test]
fn what_is_not_admitted() {
    let long = format!("a == '{}'", "x".repeat(MAX_SOURCE));
    let wide = vec!["a"; 250].join("||");
    let parentheses = format!("{}a{}", "(".repeat(17), ")".repeat(17));
    let additions = format!("context.l.all(x, {} == '')", ["x"; 12].join("+"));
    for (source, code, part) in [
        ("", "CONDITION_INVALID", "empty"),
        ("  ", "CONDITION_INVALID", "empty"),
        ("a &&", "CONDITION_INVALID", "line 1"),
        ("a = b", "CONDITION_INVALID", "column"),
        ("context.name ==\n == 3", "CONDITION_INVALID", "line 2"),
        ("'text'", "CONDITION_INVALID", "true or false"),
        ("1 + 1", "CONDITION_INVALID", "true or false"),
        ("phases.discovery.status", "CONDITION_INVALID", "true or false"),
        ("tasks", "CONDITION_INVALID", "true or false"),
        ("tasks.plan", "CONDITION_INVALID", "true or false"),
        ("a && 1", "CONDITION_INVALID", "true or false"),
        ("!size(tasks)", "CONDITION_INVALID", "true or false"),
        ("[a]", "CONDITION_INVALID", "a list"),
        ("a.all(x, x)", "CONDITION_UNKNOWN", "members"),
        ("context.l.filter(x, x)", "CONDITION_INVALID", "a list"),
        ("contains('a')", "CONDITION_INVALID", "contains"),
        ("size() == 1", "CONDITION_INVALID", "size"),
        ("contxt.name == 'a'", "CONDITION_UNKNOWN", "did you mean `context`?"),
        ("requirements.approved", "CONDITION_UNKNOWN", "no members"),
        ("phases.dicovery.status == 'x'", "CONDITION_UNKNOWN", "did you mean `discovery`?"),
        ("tasks['sign_off'].status == 'x'", "CONDITION_UNKNOWN", "did you mean `sign-off`?"),
        ("tasks.plan.state == 'x'", "CONDITION_UNKNOWN", "no `state` of a task"),
        ("artifacts.plan.content == 'x'", "CONDITION_UNKNOWN", "no `content` of an artifact"),
        ("has(tasks.plan.state)", "CONDITION_UNKNOWN", "state"),
        ("Requirements", "CONDITION_UNKNOWN", "lower-case"),
        ("facts[context.name]", "CONDITION_UNKNOWN", "name the fact"),
        ("context.s.matches('(a+)+$')", "CONDITION_UNKNOWN", "no function `matches`"),
        ("context.l.map(x, [x, x]).size() > 3", "CONDITION_UNKNOWN", "no function `map`"),
        ("context.l.map(x, x == 1, [x]).size() > 3", "CONDITION_UNKNOWN", "no function `map`"),
        ("now() > 3", "CONDITION_UNKNOWN", "no function `now`"),
        ("type(a) == bool", "CONDITION_UNKNOWN", "no function `type`"),
        ("Thing{a: 1} == 1", "CONDITION_UNKNOWN", "no type"),
        (&long, "CONDITION_TOO_COSTLY", "bytes"),
        (&wide, "CONDITION_TOO_COSTLY", "parts"),
        (&parentheses, "CONDITION_TOO_COSTLY", "nested 17 deep"),
        ("context.l.all(x, context.l.all(y, x == y))", "CONDITION_TOO_COSTLY", "loop"),
        (&additions, "CONDITION_TOO_COSTLY", "adds"),
    ] {
        let fault = parse(source).map(|_| ()).unwrap_err();
        assert_eq!(fault.code, code, "{source}: {fault}");
        assert!(fault.message.contains(part), "{source}: {fault}");
    }
}

#[test]
fn what_a_condition_reads() {
    let reads = |source: &str| {
        let condition = parse(source).unwrap();
        (condition.facts().map(str::to_owned).collect::<Vec<_>>(), condition.reads_approvals())
    };
    assert_eq!(reads("b && !a"), (vec!["a".to_owned(), "b".to_owned()], false));
    assert_eq!(
        reads("a || facts.b || facts['c']"),
        (vec!["a".to_owned(), "b".to_owned(), "c".to_owned()], false)
    );
    assert_eq!(reads("config_approved"), (vec!["config_approved".to_owned()], true));
    assert_eq!(reads("(config_approved)"), (vec!["config_approved".to_owned()], true));
    assert_eq!(reads("approvals.plan.status == 'approved'"), (vec![], true));
    assert_eq!(reads("approvals.exists(a, a == 'plan')"), (vec![], true));
    assert_eq!(reads("tasks.plan.status == 'completed'"), (vec![], false));
    assert_eq!(reads("context.l.all(x, x == 1)"), (vec![], false), "what a loop binds is no fact");
}

#[test]
fn the_name_of_the_fact_that_an_approval_sets() {
    for (key, fact) in [("requirements", "requirements_approved"), ("sign-off", "sign_off_approved")] {
        assert_eq!(approved_fact(key), fact);
        assert!(parse(fact).unwrap().reads_approvals());
    }
    parse(&approved_fact(&"a".repeat(63))).unwrap();
}

/// Refused within 10 ms, or admitted: never a crash, never a wait. Measured as the best of three, because the machine
/// that runs the tests does other things, too.
#[test]
fn hostile_expressions_are_refused_at_once() {
    let nested = |depth: usize| {
        let mut source = String::new();
        for level in 0..depth {
            write!(source, "context.big.all(a{level}, ").unwrap();
        }
        source + "true" + &")".repeat(depth)
    };
    let hostile = [
        nested(7),
        nested(3),
        "!!(!!(((".repeat(5),
        "(".repeat(5000),
        format!("{}1{}", "(".repeat(5000), ")".repeat(5000)),
        format!("{}a{}", "!(".repeat(16), ")".repeat(16)),
        "!".repeat(1000) + "a",
        "-".repeat(1000) + "1 == 1",
        vec!["1"; 500].join("+") + " == 1",
        "context".to_owned() + &".a".repeat(500),
        "[".repeat(16) + &"]".repeat(16),
        "[".repeat(500),
        "{".repeat(500),
        "a ? ".repeat(200) + "a" + &" : a".repeat(200),
        "a?b:".repeat(250) + "c",
        "context[".repeat(120),
        "size(".repeat(180),
        "a.b(".repeat(200),
        // A raw string ends at the quote after the backslash: what follows is nested deeper than it looks.
        format!("r'\\' == {}1", "(".repeat(900)),
        format!("'''{}", "(".repeat(900)),
        "\u{0}".repeat(500),
        "\u{1F600}".repeat(250),
        "'".repeat(1000),
        "`".repeat(1000),
        "a\n".repeat(500),
        "&&".repeat(500),
        "a in ".repeat(200) + "a",
        "a<".repeat(500) + "a",
        vec!["a==b"; 200].join("||"),
        "has(".repeat(200),
        "[1].map(x,[x,x,x,x])".to_owned() + &".map(x,[x,x,x,x])".repeat(13) + ".size() > 1",
    ];
    for source in &hostile {
        let mut best = Duration::MAX;
        for _ in 0..3 {
            let started = Instant::now();
            let parsed = parse(source);
            best = best.min(started.elapsed());
            if let Ok(condition) = parsed {
                let _ = condition.evaluate(&Inputs::default());
            }
        }
        assert!(
            best < Duration::from_millis(10),
            "{} took {best:?}",
            source.chars().take(60).collect::<String>()
        );
    }
    for (source, code) in [
        (nested(7), "CONDITION_TOO_COSTLY"),
        ("(".repeat(5000), "CONDITION_TOO_COSTLY"),
        (format!("r'\\' == {}1", "(".repeat(900)), "CONDITION_TOO_COSTLY"),
    ] {
        assert_eq!(parse(&source).unwrap_err().code, code);
    }
}

#[test]
fn admitted_expressions_are_bounded_however_they_are_written() {
    let items: Vec<Value> = (0..1000).map(|index| json!({"id": index, "text": "x".repeat(200)})).collect();
    let context = json!({"items": items, "text": "y".repeat(200_000), "other": items});
    let inputs = Inputs { context: Some(&context), ..Inputs::default() };
    for source in [
        "context.items.all(x, context == context && context == context && context == context)",
        "context.items.all(x, context.items == context.other)",
        "context.items.all(x, x in context.other)",
        "context.items.all(x, !(x.text in context.items))",
        "context.items.all(x, size(context.text + context.text + context.text + context.text) > 1)",
        "context.items.all(x, x == x && x == x && x == x && x == x && x == x && x == x && x == x && x == x)",
        "context.items.exists(x, context.text.contains(x.text + 'z'))",
        "context.items.filter(x, x in context.other).filter(x, x in context.other).size() == 1000",
        "(context.items + context.items + context.items).all(x, x in context.items)",
    ] {
        let condition = parse(source).unwrap_or_else(|fault| panic!("{source}: {fault}"));
        let started = Instant::now();
        let answer = condition.evaluate(&inputs);
        let took = started.elapsed();
        assert!(took < Duration::from_secs(5), "{source} took {took:?}: {answer:?}");
    }
}

#[test]
fn the_budget_refuses_the_same_on_every_machine() {
    let context = json!({"items": (0..1000).collect::<Vec<_>>(), "text": "y".repeat(600_000)});
    let inputs = Inputs { context: Some(&context), ..Inputs::default() };
    let costly = parse("context.items.all(x, context.text != 'a') || true").unwrap();
    assert!(matches!(costly.evaluate(&inputs), Err(ConditionFailed::TooCostly(_))));
    let long = json!({"items": (0..1001).collect::<Vec<_>>()});
    let inputs = Inputs { context: Some(&long), ..Inputs::default() };
    let counted = parse("context.items.all(x, x >= 0)").unwrap().evaluate(&inputs).unwrap_err().to_string();
    assert!(counted.contains("1001 members"), "{counted}");
    assert_eq!(
        parse("size(context.items) == 1001").unwrap().evaluate(&inputs),
        Ok(true),
        "no loop, no limit"
    );
}

#[test]
fn a_thousand_tasks_may_be_asked_about() {
    let ids: Vec<String> = (0..1000).map(|index| format!("task-{index}")).collect();
    let task = TaskInput { status: "completed", round: 1, attempt: 1, output: None };
    let inputs = Inputs { tasks: ids.iter().map(|id| (id.as_str(), task)).collect(), ..Inputs::default() };
    let all = parse("tasks.all(t, tasks[t].status == 'completed')").unwrap();
    assert_eq!(all.evaluate(&inputs), Ok(true));
}

#[test]
fn facts_alone_need_no_library() {
    let facts = BTreeMap::from([("a".to_owned(), true)]);
    let inputs = Inputs { facts: Some(&facts), ..Inputs::default() };
    for (simple, full) in [("a", "(a)"), ("!a", "!(a)"), ("a && !b", "a && (!b)"), ("b && a", "(b) && a")] {
        let (simple, full) = (parse(simple).unwrap(), parse(full).unwrap());
        assert!(matches!(simple.form, Form::Facts(_)) && matches!(full.form, Form::Expression(_)));
        assert_eq!(simple.evaluate(&inputs), full.evaluate(&inputs), "{}", simple.source());
    }
}

/// Pieces that expressions are made of, and some that they are not.
const PIECES: [&str; 44] = [
    "a",
    "b_approved",
    "all_tasks_complete",
    "context",
    "facts",
    "phases",
    "tasks",
    "artifacts",
    "approvals",
    "plan",
    "status",
    "x",
    "true",
    "null",
    "1",
    "-1",
    "1.5",
    "1u",
    "'t'",
    "b'\\x00'",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ".",
    ",",
    ":",
    "?",
    "!",
    "&&",
    "||",
    "==",
    "<",
    "+",
    "-",
    "*",
    "/",
    "%",
    " in ",
    ".all(x,",
    ".filter(x,",
    "has(",
];

proptest! {
    /// Whatever is written is refused or admitted, and what is admitted has an answer or says why not.
    #[test]
    fn nothing_that_is_written_breaks_anything(
        pieces in proptest::collection::vec(0..PIECES.len(), 1..24),
        noise in proptest::option::of("\\PC{0,20}"),
    ) {
        let mut source: String = pieces.iter().map(|piece| PIECES[*piece]).collect::<Vec<_>>().concat();
        source.extend(noise);
        match parse(&source) {
            Ok(condition) => {
                let context = json!({"x": [1, {"x": "t"}], "a": null});
                let _ = condition.evaluate(&Inputs { context: Some(&context), ..Inputs::default() });
            }
            Err(fault) => {
                prop_assert!(fault.code.starts_with("CONDITION_") && !fault.message.is_empty());
                prop_assert!(!fault.message.contains("gave up"), "the library broke on {}", source);
            }
        }
    }
}
