//! The command line as people and programs type it.

use clap::{CommandFactory as _, Parser};

use super::*;

#[derive(Debug, Parser)]
// As the program itself does it.
#[command(name = "phasegate", version, propagate_version = true)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

fn parse(line: &str) -> Result<Command, clap::Error> {
    Ok(Program::try_parse_from(std::iter::once("phasegate").chain(line.split_whitespace()))?.command)
}

#[test]
fn the_definition_of_the_command_line_is_sound() {
    Program::command().debug_assert();
}

#[test]
fn what_people_type_is_understood() {
    for line in [
        "process list",
        "proc list --limit 500 --drafts",
        "process get sso --version 1.0.0 -o json",
        "process create -f process.json",
        "process create -f - --dry-run",
        "process validate -f p.json --context a=1 --context @c.json",
        "instance start sso --name Acme --context a=1 --participant ciso=ciso@acme.com:Jane --label tier=gold",
        "instance start -f start.json",
        "inst list --status running --process sso",
        "instance get i",
        "instance advance i --force --reason because -y",
        "instance advance i --dry-run",
        "instance timeline i",
        "instance watch i --type approval.* --all -o jsonl --timeout 5m",
        "instance pause i --reason because",
        "instance resume i --reason because",
        "instance cancel i --reason because --yes",
        "task list i --status awaiting_approval",
        "task retry i t --reason because",
        "task skip i t --reason because",
        "approval list --instance i --all",
        "approval list i --status rejected",
        "approval get a",
        "apr approve a --as ciso --yes",
        "approval reject a --comment no",
        "approval request-changes a --comment later",
        "artifact put i k -f - --type document --if-version 0 --metadata a=b",
        "artifact get i k --version 2 --out file",
        "artifact list i --phase discovery --type document",
        "link create i ciso --show --expires-in 7d --permission view --permission approve",
        "link revoke l --reason because",
        "link list i",
        "audit list i --type approval --type phase_transition",
        "audit verify i",
        "key create ci --scope instances:read --scope instances:start --expires-in 90d --show",
        "key create bot --scope workers:poll --queue architect --service bot --show",
        "key create ciso --scope approvals:decide --participant ciso",
        "key list --all",
        "key revoke key-1 --prefix phasegate_sk_12345678 --yes",
        "key rotate key-1 --grace 1h --key-file k",
        "agent run --queue q -- ./agent.py --flag",
        "agent run --queue q --instance i --once -- ./agent.py",
        "agent run --queue q --queue r --concurrency 4 --once --lease 2m --address http://h:1 -- sh -c true",
        "instance --address http://127.0.0.1:1 get i --color never -q",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_happens() {
    for line in [
        "",
        "process",
        "process fly",
        "process create",
        "process list --limit 0",
        "process list --limit 501",
        "process list -o xml",
        "instance start",
        "instance start sso --participant ciso",
        "instance start sso --label x",
        "instance list --status asleep",
        "instance advance i --force",
        "instance watch i --all --resume 5",
        "instance pause i",
        "instance resume i",
        "approval list i --instance i",
        "instance watch i --timeout soon",
        "approval list --all --status pending",
        "link create i ciso --permission everything",
        "agent run -- ./agent.py",
        "agent run --queue q",
        "agent run --queue q --concurrency 0 -- x",
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn global_flags_are_heard_behind_the_verb() {
    let command = parse("instance get i --address http://elsewhere:1 -o jsonl -y -q --timeout 90s").unwrap();
    let before = Global {
        address: Some("http://here:1".to_owned()),
        color: Some(Color::Never),
        output: Some(Format::Json),
        ..Global::default()
    };
    let global = command.global().clone().or(before);
    assert_eq!(global.server(), "http://elsewhere:1");
    assert_eq!(global.format(), Format::Jsonl);
    assert_eq!(global.color, Some(Color::Never), "what is said before the noun counts, too");
    assert!(global.yes && global.quiet);
    assert_eq!(global.timeout, Some(std::time::Duration::from_secs(90)));
}

#[test]
fn every_help_begins_with_an_example() {
    for noun in Program::command().get_subcommands() {
        for verb in noun.get_subcommands() {
            let mut verb = verb.clone();
            let help = verb.render_help().to_string();
            assert!(help.starts_with("Example"), "{} {}", noun.get_name(), verb.get_name());
        }
    }
}

#[tokio::test]
async fn nobody_at_the_address_is_exit_code_9() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let command = parse(&format!("instance list --address {address} -q")).unwrap();
    let global = command.global().clone();
    let mut output = Output::to(Box::new(std::io::sink()), Box::new(std::io::sink()), Format::Table);
    let failure = perform(command, global, &mut output).await.unwrap_err();
    assert_eq!(failure.exit_code(), 9);
    assert!(failure.message().contains(&address), "{}", failure.message());
    assert!(failure.hint(None).is_some_and(|hint| hint.contains("phasegate dev")));
}
