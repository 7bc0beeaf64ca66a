//! Wrong requests: the exact refusal, and nothing changed.

use anyhow::{Context as _, ensure};
use phasegate_database::{Database, args};
use phasegate_proto::instance::v1::{
    ExternalParticipant, Failure, GetTaskRequest, ListInstancesRequest, ReopenPhaseRequest,
    StartInstanceRequest,
};
use phasegate_proto::worker::v1::heartbeat_tasks_request::Item;
use phasegate_proto::worker::v1::{
    CompleteTaskRequest, FailTaskRequest, HeartbeatTasksRequest, PollTasksRequest, WorkerInfo,
};
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::house::{House, both, plain, reason, reviewed};
use crate::app::{json_object, json_to_struct};

/// Rows of everything that a refused call could have left behind, and what was sent, once all of it is taken.
async fn rows(house: &House, db: &Database) -> anyhow::Result<Vec<i64>> {
    let mut counts = Vec::new();
    phasegate_test_database::sent(db).await?;
    for table in ["instance", "history", "personal", "work", "lease", "idempotency", "definition"] {
        let row = db.fetch_optional(format!("select count(*) as n from {table}"), args![]).await?;
        counts.push(row.context("a row")?.get("n")?);
    }
    counts.push(i64::try_from(house.neighbours.heard().len())?);
    Ok(counts)
}

fn codes(status: &Status) -> Vec<String> {
    let details = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    details.into_iter().map(|violation| violation.reason).collect()
}

#[tokio::test]
async fn starts_are_checked_all_at_once() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        house.define(reviewed())?;
        let db = house.database().await?;
        let before = rows(house, &db).await?;
        let person = |id: &str, email: &str| ExternalParticipant {
            participant_id: id.to_owned(),
            email: email.to_owned(),
            name: String::new(),
        };
        let with = |people: Vec<ExternalParticipant>| StartInstanceRequest {
            external_participants: people,
            ..House::start_request("reviewed")
        };
        let good = || vec![person("ann", "ann@example.com"), person("ben", "ben@example.com")];
        let also = |one: ExternalParticipant| with(good().into_iter().chain([one]).collect());
        let base = || with(good());
        let cases: Vec<(StartInstanceRequest, &str, &[&str])> = vec![
            (with(vec![]), "VALIDATION_FAILED", &["PARTICIPANT_MISSING", "PARTICIPANT_MISSING"]),
            (also(person("eve", "eve@example.com")), "VALIDATION_FAILED", &["PARTICIPANT_UNKNOWN"]),
            (also(person("ann", "ann@example.com")), "VALIDATION_FAILED", &["PARTICIPANT_DUPLICATE"]),
            (
                with(vec![person("ann", "one@example.com"), person("ben", "ONE@example.com")]),
                "VALIDATION_FAILED",
                &["PARTICIPANTS_NOT_DISTINCT"],
            ),
            (
                with(vec![person("ann", "\"e@attacker.com\"@victim.com"), person("ben", "ben@example.com")]),
                "VALIDATION_FAILED",
                &["EMAIL_INVALID"],
            ),
            (
                StartInstanceRequest { name: "x".repeat(201), ..base() },
                "VALIDATION_FAILED",
                &["TEXT_INVALID"],
            ),
            (
                StartInstanceRequest { name: "a\nb".to_owned(), ..base() },
                "VALIDATION_FAILED",
                &["TEXT_INVALID"],
            ),
            (
                StartInstanceRequest { instance_id: "search".to_owned(), ..base() },
                "VALIDATION_FAILED",
                &["ID_INVALID"],
            ),
            (
                StartInstanceRequest { instance_id: "Big".to_owned(), ..base() },
                "VALIDATION_FAILED",
                &["ID_INVALID"],
            ),
            (
                StartInstanceRequest {
                    labels: (0..65).map(|n| (format!("k{n}"), String::new())).collect(),
                    ..base()
                },
                "VALIDATION_FAILED",
                &["LABELS_INVALID"],
            ),
            (
                StartInstanceRequest {
                    context: Some(json_to_struct(&json_object(json!({"a": "x".repeat(300_000)})))),
                    ..base()
                },
                "CONTEXT_TOO_LARGE",
                &[],
            ),
            (
                StartInstanceRequest { process_id: "no-such".to_owned(), ..base() },
                "PROCESS_NOT_FOUND",
                &["PROCESS_NOT_FOUND"],
            ),
            (
                StartInstanceRequest { request_id: "x".repeat(129), ..base() },
                "REQUEST_ID_INVALID",
                &["REQUEST_ID_INVALID"],
            ),
        ];
        for (request, expected, violations) in cases {
            let refused = house.instances().start_instance(house.call(request)).await;
            let refused = refused.err().with_context(|| format!("{expected} expected"))?;
            ensure!(reason(&refused) == expected, "{refused:?} instead of {expected}");
            ensure!(codes(&refused) == violations, "{refused:?} instead of {violations:?}");
        }
        // Everything that is wrong at once is said at once.
        let all = StartInstanceRequest {
            name: "a\nb".to_owned(),
            external_participants: vec![person("ann", "no address"), person("eve", "eve@example.com")],
            ..base()
        };
        let refused = house.instances().start_instance(house.call(all)).await.err().context("a refusal")?;
        ensure!(
            codes(&refused)
                == ["TEXT_INVALID", "EMAIL_INVALID", "PARTICIPANT_UNKNOWN", "PARTICIPANT_MISSING"],
            "{refused:?}"
        );
        let dry = StartInstanceRequest { validate_only: true, request_id: "dry".to_owned(), ..base() };
        let shown = house.instances().start_instance(house.call(dry)).await?.into_inner();
        ensure!(shown.instance.context("an instance")?.phase == "build");
        ensure!(rows(house, &db).await? == before, "a refused start left something behind");

        let own = StartInstanceRequest { instance_id: "my-own".to_owned(), ..base() };
        house.instances().start_instance(house.call(own.clone())).await?;
        let after = rows(house, &db).await?;
        let refused = house.instances().start_instance(house.call(own)).await.err().context("a refusal")?;
        ensure!(reason(&refused) == "ALREADY_EXISTS" && refused.code() == Code::AlreadyExists);
        ensure!(rows(house, &db).await? == after, "a refused start left something behind");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn workers_are_checked() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        house.define(plain())?;
        let id = house.start("plain").await?;
        let (_, token) = house.lease("bot", "first").await?;
        let db = house.database().await?;
        let before = rows(house, &db).await?;
        let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let base = || House::poll_request("bot");
        let polls = [
            (PollTasksRequest { queues: vec![], ..base() }, "QUEUES_INVALID"),
            (PollTasksRequest { queues: vec![String::new()], ..base() }, "QUEUES_INVALID"),
            (
                PollTasksRequest { queues: (0..101).map(|n| n.to_string()).collect(), ..base() },
                "QUEUES_INVALID",
            ),
            (PollTasksRequest { worker: None, ..base() }, "WORKER_ID_INVALID"),
            (
                PollTasksRequest {
                    worker: Some(WorkerInfo { worker_id: "x".repeat(129), ..Default::default() }),
                    ..base()
                },
                "WORKER_ID_INVALID",
            ),
            (PollTasksRequest { wait: seconds(61), ..base() }, "DURATION_INVALID"),
            (PollTasksRequest { wait: seconds(-1), ..base() }, "DURATION_INVALID"),
            (PollTasksRequest { lease_duration: seconds(0), ..base() }, "DURATION_INVALID"),
            (PollTasksRequest { lease_duration: seconds(3_601), ..base() }, "DURATION_INVALID"),
        ];
        for (request, expected) in polls {
            let refused = house.workers().poll_tasks(house.call(request)).await.err();
            ensure!(reason(&refused.context(expected)?) == expected);
        }
        let large = Some(json_to_struct(&json_object(json!({"a": "x".repeat(300_000)}))));
        let complete = CompleteTaskRequest { task_token: token.clone(), output: large, ..Default::default() };
        let refused = house.workers().complete_task(house.call(complete)).await.err().context("a refusal")?;
        ensure!(reason(&refused) == "OUTPUT_TOO_LARGE" && refused.code() == Code::ResourceExhausted);
        let deep = json_object((0..25).fold(json!(1), |inner, _| json!({ "a": inner })));
        let complete = CompleteTaskRequest {
            task_token: token.clone(),
            output: Some(json_to_struct(&deep)),
            ..Default::default()
        };
        let refused = house.workers().complete_task(house.call(complete)).await.err().context("a refusal")?;
        let said = refused.get_error_details().error_info().map(|info| info.metadata.clone());
        ensure!(
            said.is_some_and(|said| said["field"] == "output" && said["limit"] == "levels"),
            "{refused:?}"
        );
        let failed = Failure { r#type: "X".to_owned(), message: "m".to_owned(), ..Default::default() };
        let fail = FailTaskRequest {
            task_token: token.clone(),
            failure: Some(failed),
            checkpoint: Some(json_to_struct(&deep)),
            ..Default::default()
        };
        let refused = house.workers().fail_task(house.call(fail)).await.err().context("a refusal")?;
        ensure!(reason(&refused) == "OUTPUT_TOO_LARGE", "{refused:?}");
        let details = Some(json_to_struct(&deep));
        let item = Item { task_token: token.clone(), details, ..Default::default() };
        let beat = HeartbeatTasksRequest { items: vec![item] };
        let refused = house.workers().heartbeat_tasks(house.call(beat)).await.err().context("a refusal")?;
        ensure!(reason(&refused) == "OUTPUT_TOO_LARGE", "{refused:?}");
        let failure = |kind: &str, message: &str| {
            Some(Failure { r#type: kind.to_owned(), message: message.to_owned(), ..Default::default() })
        };
        for wrong in [
            None,
            failure("", "m"),
            failure("lower", "m"),
            failure("X", ""),
            failure("X", &"m".repeat(5_000)),
        ] {
            let fail = FailTaskRequest { task_token: token.clone(), failure: wrong, ..Default::default() };
            let refused = house.workers().fail_task(house.call(fail)).await.err().context("a refusal")?;
            ensure!(reason(&refused) == "FAILURE_INVALID");
        }
        let late = FailTaskRequest {
            task_token: token.clone(),
            failure: failure("X", "m"),
            retry_after: seconds(25 * 3_600),
            ..Default::default()
        };
        let refused = house.workers().fail_task(house.call(late)).await.err().context("a refusal")?;
        ensure!(reason(&refused) == "DURATION_INVALID");
        // Nothing is extended for the one that is right, either.
        let item = |token: &str| Item { task_token: token.to_owned(), ..Default::default() };
        let beat = HeartbeatTasksRequest { items: vec![item(&token), item("nonsense")] };
        let refused = house.workers().heartbeat_tasks(house.call(beat)).await.err().context("a refusal")?;
        ensure!(
            reason(&refused) == "TOKEN_MALFORMED" && refused.message().starts_with("items[1].task_token")
        );
        ensure!(rows(house, &db).await? == before, "a refused call left something behind");
        ensure!(house.get(&id).await?.version > 0);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_is_not_there_is_not_found() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        house.define(plain())?;
        let id = house.start("plain").await?;
        let task = GetTaskRequest { instance_id: id.clone(), task_id: "no-such".to_owned() };
        let refused = house.tasks().get_task(house.call(task)).await.err().context("a refusal")?;
        ensure!(reason(&refused) == "TASK_NOT_FOUND");
        let reopen = ReopenPhaseRequest {
            instance_id: id.clone(),
            phase_id: "no-such".to_owned(),
            reason: "r".to_owned(),
            ..Default::default()
        };
        let refused = house.instances().reopen_phase(house.call(reopen)).await.err().context("a refusal")?;
        ensure!(reason(&refused) == "PHASE_NOT_FOUND");
        for wrong in ["", "no-such", "\u{e9}", &"x".repeat(1_000)] {
            let request = GetTaskRequest { instance_id: wrong.to_owned(), task_id: "first".to_owned() };
            let refused = house.tasks().get_task(house.call(request)).await.err().context("a refusal")?;
            ensure!(reason(&refused) == "INSTANCE_NOT_FOUND", "{wrong}");
        }
        let list = ListInstancesRequest { page_size: -1, ..Default::default() };
        let refused = house.instances().list_instances(house.call(list)).await.err().context("a refusal")?;
        ensure!(reason(&refused) == "PAGE_SIZE_INVALID");
        let list = ListInstancesRequest { status: 99, ..Default::default() };
        let refused = house.instances().list_instances(house.call(list)).await.err().context("a refusal")?;
        ensure!(reason(&refused) == "ENUM_INVALID");
        Ok(())
    })
    .await
}
