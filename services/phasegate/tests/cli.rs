//! The command line as its users meet it: the real program, against a real server, judged by what it writes and how it exits.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use phasegate::dev::{Dev, Settings};
use phasegate_clock::SystemClock;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

/// A server and a folder to work in. Both go with the test.
struct House {
    address: String,
    folder: tempfile::TempDir,
    shutdown: CancellationToken,
}

impl House {
    async fn open() -> anyhow::Result<House> {
        let folder = tempfile::tempdir()?;
        let shutdown = CancellationToken::new();
        let settings = Settings {
            folder: folder.path().join("data"),
            port: 0,
            database_url: None,
            public_url: None,
            clock: SystemClock::shared(),
        };
        let dev = Dev::start(settings, shutdown.clone()).await?;
        let address = format!("http://{}", dev.address());
        tokio::spawn(dev.finished());
        Ok(House { address, folder, shutdown })
    }

    fn write(&self, name: &str, content: &str) -> anyhow::Result<String> {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content)?;
        Ok(path.display().to_string())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_phasegate"));
        command
            .args(arguments)
            .env("PHASEGATE_ADDRESS", &self.address)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs the program and checks its exit code.
    async fn run(&self, code: i32, arguments: &[&str]) -> anyhow::Result<Ran> {
        let output = tokio::time::timeout(Duration::from_mins(1), self.command(arguments).output());
        Ran::of(output.await.with_context(|| format!("{arguments:?} does not end"))??, code, arguments)
    }

    /// The same for a program that writes JSON.
    async fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let ran = self.run(0, &[arguments, &["-o", "json"]].concat()).await?;
        serde_json::from_str(&ran.out).with_context(|| ran.out.clone())
    }

    async fn task(&self, instance: &str, task: &str) -> anyhow::Result<Value> {
        let tasks = self.json(&["task", "list", instance]).await?;
        let found =
            tasks["items"].as_array().and_then(|all| all.iter().find(|one| one["id"] == task).cloned());
        found.with_context(|| format!("{task} is not in {tasks}"))
    }

    async fn start(&self, id: &str) -> anyhow::Result<()> {
        let participant = "boss=boss@example.com:Bo Boss";
        let ran = self
            .run(
                0,
                &[
                    "instance",
                    "start",
                    "letter",
                    "--id",
                    id,
                    "--participant",
                    participant,
                    "--context",
                    "topic=spring",
                ],
            )
            .await?;
        ensure!(ran.out == format!("{id}\n"), "{ran:?}");
        Ok(())
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// What a program wrote.
#[derive(Debug)]
struct Ran {
    out: String,
    err: String,
}

impl Ran {
    fn of(output: Output, code: i32, arguments: &[&str]) -> anyhow::Result<Ran> {
        let ran = Ran { out: String::from_utf8(output.stdout)?, err: String::from_utf8(output.stderr)? };
        ensure!(output.status.code() == Some(code), "{arguments:?} ended with {}: {ran:#?}", output.status);
        Ok(ran)
    }
}

/// One phase with one task, whose letter a person approves.
fn process() -> Value {
    json!({
        "id": "letter",
        "name": "A letter",
        "version": "1.0.0",
        "phases": [{
            "id": "writing",
            "name": "Writing",
            "order": 1,
            "tasks": [{
                "id": "draft",
                "name": "Draft the letter",
                "assignee": "writer",
                "requiredApprovals": ["boss"],
                "artifacts": ["letter"],
            }],
        }],
        "agents": {"writer": {"templateId": "writer", "role": "specialist"}},
        "humans": {"boss": {"name": "Bo Boss", "role": "approver", "raidRole": "approver"}},
        "gates": [],
    })
}

async fn house_with_process() -> anyhow::Result<House> {
    let house = House::open().await?;
    let file = house.write("process.json", &process().to_string())?;
    let ran = house.run(0, &["process", "create", "-f", &file]).await?;
    ensure!(ran.out == "letter 1.0.0\n", "{ran:?}");
    Ok(house)
}

/// A program that answers with the letter.
const WRITER: &str = r#"grep -q '"topic":"spring"' && echo writing >&2 && echo '{"summary": "Written.", "artifacts": {"letter": {"text": "Dear spring"}}}'"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_process_runs_from_its_definition_to_its_end() -> anyhow::Result<()> {
    let house = house_with_process().await?;
    house.start("one").await?;
    let watch = ["instance", "watch", "one", "--all", "-o", "jsonl", "--timeout", "60s"];
    let watching = house.command(&watch).spawn()?;

    let agent = ["agent", "run", "--queue", "writer", "--once", "--", "sh", "-c", WRITER];
    let ran = house.run(0, &agent).await?;
    ensure!(ran.out.is_empty() && ran.err.contains("[draft] writing"), "{ran:?}");
    ensure!(ran.err.contains("handed in, waits for approval apr-"), "{ran:?}");
    let letter = house.run(0, &["artifact", "get", "one", "letter"]).await?;
    ensure!(serde_json::from_str::<Value>(&letter.out)? == json!({"text": "Dear spring"}));

    let pending = house.json(&["approval", "list", "--instance", "one"]).await?;
    ensure!(pending["nextPageToken"] == "");
    let id = pending["items"][0]["id"].as_str().context("nothing waits")?.to_owned();
    // Nobody is at the terminal, and nobody said yes.
    let refused = house.run(2, &["approval", "approve", &id]).await?;
    ensure!(refused.err.contains("Draft the letter") && refused.err.contains("--yes"), "{refused:?}");
    let approved = house.run(0, &["approval", "approve", &id, "--yes"]).await?;
    ensure!(approved.out == format!("{id} approved\n") && approved.err.contains("Written."), "{approved:?}");
    house.run(0, &["approval", "approve", &id, "--yes"]).await?;
    let late = house.run(7, &["approval", "reject", &id, "--comment", "no", "-y"]).await?;
    ensure!(late.err.contains("(APPROVAL_ALREADY_DECIDED)"), "{late:?}");
    ensure!(late.err.contains(&format!("hint: phasegate approval get {id}")), "{late:?}");

    let seen = Ran::of(ended(watching).await?, 0, &watch)?;
    let types: Vec<String> = seen
        .out
        .lines()
        .map(|line| Ok(serde_json::from_str::<Value>(line)?["type"].as_str().unwrap_or_default().to_owned()))
        .collect::<anyhow::Result<_>>()?;
    for kind in ["instance.started", "task.handed_in", "approval.responded", "instance.completed"] {
        ensure!(types.iter().filter(|one| *one == kind).count() == 1, "{kind}: {types:?}");
    }
    house.run(0, &["instance", "watch", "one"]).await?;
    let status = house.json(&["instance", "get", "one"]).await?;
    ensure!(status["status"] == "completed" && status["progressPercent"] == 100, "{status}");
    let picture = house.run(0, &["instance", "timeline", "one"]).await?;
    ensure!(picture.out.contains("✓ Writing") && picture.out.contains('█'), "{picture:?}");
    let proof = house.json(&["audit", "verify", "one"]).await?;
    ensure!(proof["intact"] == true, "{proof}");
    let record = house.run(0, &["audit", "list", "one", "--type", "approval", "--limit", "500"]).await?;
    ensure!(record.out.contains("dev for boss"), "{record:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_are_shown_all_at_once_and_nothing_is_stored() -> anyhow::Result<()> {
    let house = House::open().await?;
    let mut faulty = process();
    faulty["phases"][0]["tasks"][0]["assignee"] = json!("nobody");
    faulty["phases"][0]["tasks"][0]["dependencies"] = json!(["nothing"]);
    let file = house.write("faulty.json", &faulty.to_string())?;
    let found = house.run(10, &["process", "validate", "-f", &file]).await?;
    ensure!(found.out.contains("/phases/0/tasks/0/assignee  error"), "{found:?}");
    ensure!(found.out.contains("/phases/0/tasks/0/dependencies/0  error"), "{found:?}");
    let refused = house.run(10, &["process", "create", "-f", &file]).await?;
    ensure!(refused.out.is_empty() && refused.err.contains("(VALIDATION_FAILED)"), "{refused:?}");

    faulty["fases"] = json!([]);
    let file = house.write("unknown.json", &faulty.to_string())?;
    let unknown = house.run(10, &["process", "validate", "-f", &file]).await?;
    ensure!(unknown.out.contains("/fases  error  UNKNOWN_FIELD"), "{unknown:?}");
    ensure!(
        unknown.out.contains("/phases/0/tasks/0/assignee  error"),
        "it hides no other fault: {unknown:?}"
    );
    let document = house.run(10, &["process", "validate", "-f", &file, "-o", "json"]).await?;
    let document: Value = serde_json::from_str(&document.out)?;
    ensure!(document["valid"] == false && document["issues"][0]["code"] == "UNKNOWN_FIELD", "{document}");
    house.run(1, &["process", "create", "-f", "/nowhere/at/all.json"]).await?;

    let list = house.json(&["process", "list"]).await?;
    ensure!(list == json!({"items": [], "nextPageToken": ""}), "{list}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_fails_or_is_stopped_leaves_its_task_to_others() -> anyhow::Result<()> {
    let house = house_with_process().await?;
    house.start("one").await?;
    let agent =
        |script: &'static str| ["agent", "run", "--queue", "writer", "--once", "--", "sh", "-c", script];

    let failed = house.run(5, &agent("echo no ink >&2; exit 3")).await?;
    ensure!(failed.err.contains("no ink"), "{failed:?}");
    let task = house.task("one", "draft").await?;
    ensure!(task["lastFailure"]["type"] == "EXIT_STATUS", "{task}");
    ensure!(task["lastFailure"]["message"] == "no ink", "{task}");

    let nonsense = house.run(5, &agent("echo Dear spring")).await?;
    ensure!(nonsense.err.contains("not one JSON object"), "{nonsense:?}");
    let empty = house.run(5, &agent("true")).await?;
    ensure!(empty.err.contains("ARTIFACTS_MISSING"), "{empty:?}");

    // A program that is not there says nothing about the task: no attempt is used up.
    let before = house.task("one", "draft").await?["attempt"].clone();
    let absent = ["agent", "run", "--queue", "writer", "--once", "--", "/nowhere/at/all"];
    let absent = house.run(1, &absent).await?;
    ensure!(absent.err.contains("could not start /nowhere/at/all"), "{absent:?}");

    let marker = house.folder.path().join("begun");
    let script = format!("touch {}; exec sleep 60", marker.display());
    let arguments = ["agent", "run", "--queue", "writer", "--", "sh", "-c", &script];
    let working = house.command(&arguments).spawn()?;
    until(|| marker.exists()).await?;
    let id = working.id().context("it has ended")?;
    Command::new("kill").args(["-INT", &id.to_string()]).status().await?;
    Ran::of(ended(working).await?, 130, &arguments)?;
    let task = house.task("one", "draft").await?;
    ensure!(task["status"] == "ready" && task["attempt"] == before, "{before}: {task}");

    let nothing = ["agent", "run", "--queue", "elsewhere", "--once", "--timeout", "300ms", "--", "true"];
    house.run(8, &nothing).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_steer_and_programs_read() -> anyhow::Result<()> {
    let house = house_with_process().await?;
    house.start("one").await?;
    let paused = house.run(0, &["instance", "pause", "one", "--reason", "a break"]).await?;
    ensure!(paused.out == "one paused\n", "{paused:?}");
    house.run(0, &["instance", "resume", "one", "--reason", "it is over"]).await?;
    let blocked = house.run(7, &["instance", "advance", "one"]).await?;
    ensure!(blocked.err.contains("(PHASE_BLOCKED)"), "{blocked:?}");
    let blockers = house.run(0, &["instance", "advance", "one", "--dry-run"]).await?;
    ensure!(blockers.out.starts_with("draft: "), "{blockers:?}");
    house.run(8, &["instance", "watch", "one", "--timeout", "400ms"]).await?;

    let mut put =
        house.command(&["artifact", "put", "one", "notes", "-f", "-"]).stdin(Stdio::piped()).spawn()?;
    let mut stdin = put.stdin.take().context("no input")?;
    stdin.write_all(b"not { json\n").await?;
    drop(stdin);
    let put = Ran::of(ended(put).await?, 0, &["artifact", "put"])?;
    ensure!(put.out == "notes version 1\n", "{put:?}");
    let notes = house.run(0, &["artifact", "get", "one", "notes"]).await?;
    ensure!(notes.out == "not { json\n", "{notes:?}");
    let file = house.write("notes.json", "{\"a\": 1}")?;
    house.run(7, &["artifact", "put", "one", "notes", "-f", &file, "--if-version", "7"]).await?;
    let listed = house.json(&["artifact", "list", "one"]).await?;
    ensure!(listed["items"][0]["contentType"] == "text/plain; charset=utf-8", "{listed}");

    let create = ["link", "create", "one", "boss", "--permission", "view"];
    let hidden = house.run(2, &create).await?;
    ensure!(hidden.out.is_empty() && hidden.err.contains("--show"), "{hidden:?}");
    ensure!(house.json(&["link", "list", "one"]).await?["items"] == json!([]), "no link was made");
    let link = house.run(0, &[&create[..], &["--show"]].concat()).await?;
    ensure!(link.out.contains("/external/approve?token=") && link.err.contains("ends in 7 d"), "{link:?}");
    let links = house.json(&["link", "list", "one"]).await?;
    let link = links["items"][0]["id"].as_str().context("no link")?.to_owned();
    let revoked = house.run(0, &["link", "revoke", &link, "-y"]).await?;
    ensure!(revoked.out == format!("{link} revoked\n"), "{revoked:?}");

    let skipped = ["task", "skip", "one", "draft", "--reason", "no letter", "-y"];
    house.run(0, &skipped).await?;
    house.start("two").await?;
    house.run(2, &["instance", "cancel", "two", "--reason", "enough"]).await?;
    house.run(0, &["instance", "cancel", "two", "--reason", "enough", "--yes"]).await?;
    let over = house.run(5, &["instance", "watch", "two"]).await?;
    ensure!(over.err.contains("two cancelled: enough"), "{over:?}");

    for (code, arguments) in [
        (6, vec!["instance", "get", "nothing"]),
        (6, vec!["process", "get", "nothing"]),
        (6, vec!["approval", "get", "apr-nothing"]),
        (6, vec!["artifact", "get", "one", "nothing"]),
        (9, vec!["instance", "list", "--address", "http://127.0.0.1:9"]),
        (2, vec!["instance", "start"]),
        (1, vec!["instance", "list", "--page-token", "nonsense"]),
    ] {
        let ran = house.run(code, &arguments).await?;
        ensure!(ran.out.is_empty() && ran.err.starts_with("error: "), "{arguments:?}: {ran:?}");
    }
    let missing = house.run(6, &["artifact", "get", "one", "nothing"]).await?;
    ensure!(missing.err.contains("hint: phasegate artifact list one\n"), "{missing:?}");
    let ran = house.run(6, &["-o", "json", "instance", "get", "nothing"]).await?;
    let error: Value = serde_json::from_str(&ran.err)?;
    ensure!(error["error"]["details"][0]["reason"] == "INSTANCE_NOT_FOUND", "{error}");
    ensure!(error["error"]["code"] == 404, "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn mails_are_in_the_mailboxes_of_dev() -> anyhow::Result<()> {
    let house = house_with_process().await?;
    house.start("one").await?;
    house.run(0, &["agent", "run", "--queue", "writer", "--once", "--", "sh", "-c", WRITER]).await?;
    let url = format!("{}/dev/mail/messages", house.address);
    let mut mails = Value::Null;
    for _ in 0..200 {
        mails = reqwest::get(&url).await?.json().await?;
        if mails[0].is_object() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ensure!(mails[0]["subject"] == "Approval Required: Draft the letter", "{mails}");
    ensure!(mails[0]["to"] == "boss@example.com", "{mails}");
    let text = mails[0]["text"].as_str().unwrap_or_default();
    ensure!(text.starts_with("Hi Bo,\n\nWritten.\n\nReview and Approve:\n"), "{text}");
    let link = mails[0]["link"].as_str().unwrap_or_default();
    let page = reqwest::Client::builder().cookie_store(true).build()?.get(link).send().await?;
    ensure!(page.status().is_success(), "{link} answers {}", page.status());
    ensure!(Path::new(&house.folder.path().join("data/mail/000001.eml")).exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_command_it_is_a_server_as_the_environment_says() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut server = Command::new(env!("CARGO_BIN_EXE_phasegate"))
        .env("PHASEGATE_PORT", "0")
        .env("PHASEGATE_DATA", folder.path().join("here"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut greeting = BufReader::new(server.stdout.take().context("no output")?).lines();
    let line = tokio::time::timeout(Duration::from_mins(1), greeting.next_line()).await??;
    let line = line.context("it says nothing")?;
    let address = line.strip_prefix("Phasegate listens on ").context(line.clone())?;
    ensure!(!address.ends_with(":7460"), "{address}");
    ensure!(reqwest::get(format!("{address}/readyz")).await?.status().is_success());
    ensure!(folder.path().join("here/instance.db").exists());
    let id = server.id().context("it has ended")?;
    Command::new("kill").args(["-INT", &id.to_string()]).status().await?;
    let ran = Ran::of(ended(server).await?, 0, &[])?;
    ensure!(ran.err.contains("stopping") && !ran.err.contains('\u{1b}'), "no colour in a file: {ran:?}");
    Ok(())
}

async fn ended(child: Child) -> anyhow::Result<Output> {
    Ok(tokio::time::timeout(Duration::from_mins(1), child.wait_with_output())
        .await
        .context("it does not end")??)
}

async fn until(done: impl Fn() -> bool) -> anyhow::Result<()> {
    for _ in 0..600 {
        if done() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("it never came to be")
}
