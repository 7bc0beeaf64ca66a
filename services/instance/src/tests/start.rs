//! Starting, reading, listing, and doing things once.

use anyhow::{Context as _, ensure};
use phasegate_principal::{Participation, Permission, Principal};
use phasegate_proto::instance::v1::{
    CancelInstanceRequest, GetInstanceRequest, GetTimelineRequest, InstanceHealth, InstanceStatus,
    ListInstancesRequest, ListTasksRequest, PauseInstanceRequest, PhaseStatus, ResumeInstanceRequest,
    SetFactsRequest, StartInstanceRequest, UpdateInstanceContextRequest,
};
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_proto::internal::instance::v1::DescribeInstanceRequest;
use tonic::Code;

use super::house::{House, both, plain, reason, reviewed};
use crate::app::{json_object, json_to_struct};

#[tokio::test]
async fn an_instance_runs_from_start_to_end() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        house.define(plain())?;
        let id = house.start("plain").await?;
        ensure!(id.starts_with("proc-inst-"), "{id}");
        let instance = house.get(&id).await?;
        ensure!(instance.status() == InstanceStatus::Running && instance.phase == "work");
        ensure!(instance.progress_percent == 0 && instance.completed_phases.is_empty());
        ensure!(instance.as_of == instance.version.to_string());
        ensure!(instance.process_id == "plain" && instance.process_name == "Plain");

        let (leased, token) = house.lease("bot", "first").await?;
        ensure!(leased.attempt == 1 && leased.instance_id == id && leased.agent_id == "bot");
        ensure!(house.poll("bot").await?.is_none(), "a leased task was handed out again");
        let done = house.complete(&token).await?;
        ensure!(done.task_status() == phasegate_proto::instance::v1::TaskStatus::Completed);

        let (leased, token) = house.lease("bot", "second").await?;
        ensure!(leased.expected_artifacts == ["report"]);
        let refused = house.complete(&token).await.err().context("a refusal")?;
        ensure!(reason(&refused) == "ARTIFACTS_MISSING" && refused.code() == Code::FailedPrecondition);
        house.store_artifact(&id, "report", "second").await?;
        house.complete(&token).await?;
        // The same again gets the same answer.
        house.complete(&token).await?;

        let instance = house.get(&id).await?;
        ensure!(instance.status() == InstanceStatus::Completed, "{instance:?}");
        ensure!(instance.phase.is_empty() && instance.completed_phases == ["work"]);
        ensure!(instance.progress_percent == 100 && instance.completed_at.is_some());
        let proof = house.verify(&id).await?;
        ensure!(proof.intact && proof.entries == instance.version, "{proof:?}");
        let ended = house.heard(|event| match &event.payload {
            Some(Payload::InstanceEnded(ended)) if event.instance_id == id => Some(ended.status()),
            _ => None,
        });
        ensure!(ended.await? == InstanceStatus::Completed);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn people_are_told_of_with_their_addresses_and_the_chain_names_nobody() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        house.define(reviewed())?;
        let id = house.start("reviewed").await?;
        let people = house
            .heard(|event| match &event.payload {
                Some(Payload::InstanceStarted(started)) => Some(started.participants.clone()),
                _ => None,
            })
            .await?;
        let ann = people.iter().find(|person| person.id == "ann").context("Ann")?;
        ensure!(ann.email == "ann@example.com" && ann.name == "Ann Lee" && ann.external, "{ann:?}");
        let db = house.database().await?;
        for (table, expected) in [("history", false), ("personal", true)] {
            let rows = db
                .fetch_all(
                    format!("select body from {table} where instance_id = $1"),
                    phasegate_database::args![&id],
                )
                .await?;
            let mut named = false;
            for row in rows {
                let body = String::from_utf8(row.get::<Vec<u8>>("body")?)?;
                named |= body.contains("ann@example.com") || body.contains("Ann Lee");
            }
            ensure!(named == expected, "{table}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_request_id_gives_the_first_answer_again() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        house.define(plain())?;
        let request = StartInstanceRequest { request_id: "r-1".to_owned(), ..House::start_request_plain() };
        // At the same time, and one after another.
        let (mut one, mut two) = (house.instances(), house.instances());
        let (first, second) = tokio::join!(
            one.start_instance(house.call(request.clone())),
            two.start_instance(house.call(request.clone()))
        );
        let (first, second) = (first?, second?);
        let repeats = [&first, &second].map(|answer| answer.metadata().contains_key("phasegate-repeated"));
        ensure!(repeats.iter().filter(|repeated| **repeated).count() == 1, "{repeats:?}");
        let third = house.instances().start_instance(house.call(request.clone())).await?;
        ensure!(third.metadata().contains_key("phasegate-repeated"));
        let (first, second, third) = (first.into_inner(), second.into_inner(), third.into_inner());
        ensure!(first == second && second == third);
        let listed = house.instances().list_instances(house.call(ListInstancesRequest::default())).await?;
        ensure!(listed.into_inner().instances.len() == 1);

        let other = StartInstanceRequest { name: "Other".to_owned(), ..request.clone() };
        let refused = house.instances().start_instance(house.call(other)).await.err().context("a refusal")?;
        ensure!(reason(&refused) == "REQUEST_ID_REUSED");
        // Somebody else's id is another id.
        let eve = Principal { id: "eve".to_owned(), ..house.principal.clone() };
        let hers = house.instances().start_instance(house.call_as(&eve, request)).await?;
        ensure!(!hers.metadata().contains_key("phasegate-repeated") && hers.into_inner() != first);

        let id = first.instance.context("an instance")?.id;
        let pause = PauseInstanceRequest {
            instance_id: id.clone(),
            reason: "holiday".to_owned(),
            request_id: "p-1".to_owned(),
        };
        let first = house.instances().pause_instance(house.call(pause.clone())).await?.into_inner();
        let resume =
            ResumeInstanceRequest { instance_id: id.clone(), reason: "on".to_owned(), ..Default::default() };
        house.instances().resume_instance(house.call(resume)).await?;
        let again = house.instances().pause_instance(house.call(pause)).await?;
        ensure!(again.metadata().contains_key("phasegate-repeated") && again.into_inner() == first);
        ensure!(house.get(&id).await?.status() == InstanceStatus::Running, "the repetition took effect");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn lists_come_in_pages_and_tokens_belong_to_their_list() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        house.define(plain())?;
        let mut started = Vec::new();
        for _ in 0..5 {
            started.push(house.start("plain").await?);
            house.clock.advance(std::time::Duration::from_secs(1));
        }
        started.reverse();
        let mut found = Vec::new();
        let mut request = ListInstancesRequest { page_size: 2, ..Default::default() };
        loop {
            let page = house.instances().list_instances(house.call(request.clone())).await?.into_inner();
            ensure!(page.instances.len() <= 2);
            ensure!(page.instances.iter().all(|instance| instance.process_name == "Plain"));
            found.extend(page.instances.into_iter().map(|instance| instance.id));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        ensure!(found == started, "{found:?}");
        let other = ListInstancesRequest { process_id: "plain".to_owned(), ..request };
        let refused = house.instances().list_instances(house.call(other)).await.err().context("a refusal")?;
        ensure!(reason(&refused) == "PAGE_TOKEN_INVALID");

        let tasks = ListTasksRequest { instance_id: started[0].clone(), page_size: 1, ..Default::default() };
        let page = house.tasks().list_tasks(house.call(tasks.clone())).await?.into_inner();
        ensure!(page.tasks.len() == 1 && page.tasks[0].id == "first");
        let next = ListTasksRequest { page_token: page.next_page_token, ..tasks };
        let page = house.tasks().list_tasks(house.call(next)).await?.into_inner();
        ensure!(page.tasks.len() == 1 && page.tasks[0].id == "second" && page.next_page_token.is_empty());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn nobody_sees_what_is_none_of_theirs() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        house.define(reviewed())?;
        let (own, other) = (house.start("reviewed").await?, house.start("reviewed").await?);
        let stranger = Principal { tenant: "elsewhere".to_owned(), ..house.principal.clone() };
        let ann = Principal::participant(
            "default",
            "Ann",
            Participation {
                instance_id: own.clone(),
                participant_id: "ann".to_owned(),
                link_id: "lnk-1".to_owned(),
                permissions: vec![Permission::View],
            },
        );
        let get = |id: &str| GetInstanceRequest { instance_id: id.to_owned() };
        for (principal, id) in [(&stranger, own.as_str()), (&ann, &other), (&house.principal, "no-such")] {
            let refused = house.instances().get_instance(house.call_as(principal, get(id))).await;
            ensure!(reason(&refused.err().context("a refusal")?) == "INSTANCE_NOT_FOUND", "{id}");
        }
        house.instances().get_instance(house.call_as(&ann, get(&own))).await?;
        let listed = house.call_as(&ann, ListInstancesRequest::default());
        let listed = house.instances().list_instances(listed).await?.into_inner().instances;
        ensure!(listed.len() == 1 && listed[0].id == own);
        // Seeing is not steering.
        let cancel =
            CancelInstanceRequest { instance_id: own.clone(), reason: "no".to_owned(), ..Default::default() };
        let refused = house.instances().cancel_instance(house.call_as(&ann, cancel)).await;
        ensure!(reason(&refused.err().context("a refusal")?) == "ROLE_FORBIDDEN");
        let start = house.call_as(&ann, House::start_request("reviewed"));
        let refused = house.instances().start_instance(start).await.err().context("a refusal")?;
        ensure!(reason(&refused) == "ROLE_FORBIDDEN" && refused.code() == Code::PermissionDenied);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn context_and_facts_change_under_a_version_check() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        let mut definition = plain();
        definition["contextSchema"] =
            serde_json::json!({"properties": {"users": {"type": "integer", "minimum": 1}}, "required": ["users"]});
        house.define(definition)?;
        let context = json_to_struct(&json_object(serde_json::json!({"users": 5, "a": {"b": 1, "c": 2}})));
        let request = StartInstanceRequest { context: Some(context), ..House::start_request_plain() };
        let started = house.instances().start_instance(house.call(request)).await?.into_inner();
        let started = started.instance.context("an instance")?;
        let patch = |json| Some(json_to_struct(&json_object(json)));
        let change = UpdateInstanceContextRequest {
            instance_id: started.id.clone(),
            patch: patch(serde_json::json!({"a": {"b": null}, "users": 6})),
            expected_version: started.version,
            reason: "moved".to_owned(),
            ..Default::default()
        };
        let changed = house.instances().update_instance_context(house.call(change.clone())).await?.into_inner();
        let changed = changed.instance.context("an instance")?;
        let context = crate::app::struct_to_json(&changed.context.context("a context")?);
        ensure!(serde_json::json!(context) == serde_json::json!({"users": 6, "a": {"c": 2}}), "{context:?}");

        let cases = [
            (UpdateInstanceContextRequest { ..change.clone() }, "VERSION_MISMATCH"),
            (
                UpdateInstanceContextRequest {
                    expected_version: 0,
                    patch: patch(serde_json::json!({"users": 0})),
                    ..change.clone()
                },
                "CONTEXT_SCHEMA_MISMATCH",
            ),
            (
                UpdateInstanceContextRequest {
                    expected_version: 0,
                    patch: patch(serde_json::json!({"x": "y".repeat(300_000)})),
                    ..change.clone()
                },
                "CONTEXT_TOO_LARGE",
            ),
            (
                UpdateInstanceContextRequest { expected_version: 0, reason: String::new(), ..change.clone() },
                "REASON_REQUIRED",
            ),
        ];
        for (request, expected) in cases {
            let refused = house.instances().update_instance_context(house.call(request)).await;
            let refused = refused.err().with_context(|| format!("{expected} expected"))?;
            ensure!(reason(&refused) == expected, "{} instead of {expected}", reason(&refused));
        }
        ensure!(house.get(&started.id).await?.version == changed.version, "a refusal changed something");

        let facts = SetFactsRequest {
            instance_id: started.id.clone(),
            facts: [("requirements_approved".to_owned(), true)].into(),
            reason: "they said so".to_owned(),
            ..Default::default()
        };
        let set = house.instances().set_facts(house.call(facts.clone())).await?.into_inner();
        ensure!(set.instance.context("an instance")?.facts["requirements_approved"]);
        let wrong = SetFactsRequest { facts: [("Not a name".to_owned(), true)].into(), ..facts };
        let refused = house.instances().set_facts(house.call(wrong)).await.err().context("a refusal")?;
        ensure!(reason(&refused) == "FACT_INVALID");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn health_says_when_nobody_asks_for_work() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        house.define(plain())?;
        let id = house.start("plain").await?;
        ensure!(house.get(&id).await?.health() == InstanceHealth::Ok);
        house.clock.advance(std::time::Duration::from_secs(61));
        let instance = house.get(&id).await?;
        ensure!(instance.health() == InstanceHealth::NoWorker, "{instance:?}");
        ensure!(instance.blocked_tasks.iter().any(|blocked| blocked.reason == "NO_WORKER"), "{instance:?}");
        // A poll of another queue is no worker; one of this queue is, even when it finds nothing to do.
        house.poll("other").await?;
        ensure!(house.get(&id).await?.health() == InstanceHealth::NoWorker);
        let picky =
            phasegate_proto::worker::v1::PollTasksRequest { max_tasks: 0, ..House::poll_request("bot") };
        house.workers().poll_tasks(house.call(picky)).await?;
        ensure!(house.get(&id).await?.health() == InstanceHealth::Ok);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_timeline_and_the_description_tell_the_definition() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        house.define(reviewed())?;
        let id = house.start("reviewed").await?;
        let timeline = GetTimelineRequest { instance_id: id.clone() };
        let timeline = house.instances().get_timeline(house.call(timeline)).await?.into_inner();
        let phases: Vec<_> =
            timeline.phases.iter().map(|phase| (phase.id.as_str(), phase.status())).collect();
        ensure!(phases == [("build", PhaseStatus::Active), ("ship", PhaseStatus::Pending)], "{phases:?}");
        ensure!(timeline.phases[1].gates[0].id == "go" && timeline.phases[0].tasks[0].id == "make");
        let describe =
            DescribeInstanceRequest { instance_id: id, task_id: "make".to_owned(), status_only: false };
        let described = house.internal().describe_instance(house.call_between(describe)).await?.into_inner();
        ensure!(described.phase_ids == ["build", "ship"] && described.task_ids == ["make", "send"]);
        ensure!(described.humans.len() == 2 && described.current_phase == "build");
        ensure!(described.task.context("the task")?.required_approvals == ["ann"]);
        Ok(())
    })
    .await
}
