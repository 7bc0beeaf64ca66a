//! What is refused, or only tried, and leaves nothing behind.

use anyhow::{Context as _, ensure};
use phasegate_proto::definition::v1 as proto;
use phasegate_proto_json::from_json;
use phasegate_test_database::both;
use prost_types::Struct;
use serde_json::{Value, json};
use tonic::Code;

use crate::world::{
    World, create, definition, get, is_repeated, page_process, page_template, participant, process, refused,
    stranger, violations,
};

fn structure(json: &Value) -> anyhow::Result<Struct> {
    let context = json!({"onboarding": json});
    let team: proto::Team = from_json(&context, "phasegate.definition.v1.Team")
        .map_err(|faults| anyhow::anyhow!("{faults:?}"))?;
    team.onboarding.context("no values")
}

#[tokio::test]
async fn every_fault_is_reported_at_once_and_changes_nothing() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let rows = world.rows().await?;
        let mut wrong = page_process()?;
        wrong.version = "1".into();
        wrong.phases[0].order = 2;
        wrong.phases[1].tasks[0].dependencies = vec!["nothing".into(), "sso_setup".into()];
        wrong.gates[0].r#type = 99;
        wrong.gates[1].r#type = 0;
        wrong.gates[1].before_phase = "nowhere".into();
        for request in [
            create(wrong.clone()),
            proto::CreateProcessDefinitionRequest { validate_only: true, ..create(wrong.clone()) },
            create(proto::ProcessDefinition { draft: true, ..wrong.clone() }),
        ] {
            let answer = world.definitions().create_process_definition(world.call(request)).await;
            let status = refused(answer, Code::InvalidArgument, "VALIDATION_FAILED", "faults")?;
            let found = violations(&status);
            let expected = [
                ("/version", "VERSION_INVALID"),
                ("/phases/1/order", "ORDER_INVALID"),
                ("/gates/0/type", "ENUM_INVALID"),
                ("/gates/1/beforePhase", "GATE_PHASE_UNKNOWN"),
                ("/gates/1/type", "ENUM_INVALID"),
                ("/phases/1/tasks/0/dependencies/0", "DEPENDENCY_UNKNOWN"),
                ("/phases/1/tasks/0/dependencies", "DEPENDENCY_CYCLE"),
            ];
            let expected = expected.map(|(path, code)| (path.to_owned(), code.to_owned()));
            ensure!(found == expected, "{found:?}");
        }
        let answer = world
            .definitions()
            .create_process_definition(world.call(proto::CreateProcessDefinitionRequest::default()))
            .await;
        refused(answer, Code::InvalidArgument, "VALIDATION_FAILED", "nothing at all")?;

        // A hundred faults are told as far as an error carries them, and how many there are.
        let many = proto::ProcessDefinition {
            phases: (0..90).map(|_| proto::ProcessPhase::default()).collect(),
            ..page_process()?
        };
        let answer = world.definitions().create_process_definition(world.call(create(many))).await;
        let status = refused(answer, Code::InvalidArgument, "VALIDATION_FAILED", "many")?;
        ensure!(
            (10..100).contains(&violations(&status).len()) && status.message().contains("100 faults"),
            "{status:?}"
        );
        ensure!(world.rows().await? == rows);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_is_too_large_is_refused() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let rows = world.rows().await?;
        let phases =
            (0..101).map(|n| proto::ProcessPhase { id: format!("p{n}"), ..Default::default() }).collect();
        for (large, what) in [
            (proto::ProcessDefinition { phases, ..page_process()? }, "phases"),
            (
                proto::ProcessDefinition { description: Some("x".repeat(1_100_000)), ..page_process()? },
                "bytes",
            ),
            (
                proto::ProcessDefinition { description: Some("x".repeat(10_000_000)), ..page_process()? },
                "message",
            ),
        ] {
            let answer =
                world.definitions().create_process_definition(world.call(create(large.clone()))).await;
            refused(answer, Code::ResourceExhausted, "DEFINITION_TOO_LARGE", what)?;
            let check =
                proto::ValidateProcessDefinitionRequest { process_definition: Some(large), context: None };
            let answer = world.definitions().validate_process_definition(world.call(check)).await;
            refused(answer, Code::ResourceExhausted, "DEFINITION_TOO_LARGE", what)?;
        }
        ensure!(world.rows().await? == rows);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_trial_stores_nothing() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let rows = world.rows().await?;
        let trial = |definition| proto::CreateProcessDefinitionRequest {
            validate_only: true,
            request_id: "t-1".into(),
            ..create(definition)
        };
        let answer =
            world.definitions().create_process_definition(world.call(trial(page_process()?))).await?;
        ensure!(!is_repeated(&answer));
        ensure!(answer.into_inner().process_definition.is_some_and(|tried| tried.warnings.len() == 1));
        ensure!(world.rows().await? == rows);
        world.create(page_process()?).await?;
        let other = proto::ProcessDefinition { name: "Other".into(), ..page_process()? };
        let answer = world.definitions().create_process_definition(world.call(trial(other))).await;
        refused(answer, Code::AlreadyExists, "VERSION_IMMUTABLE", "it would be refused")?;
        let template = proto::CreateTeamTemplateRequest {
            team_template: Some(page_template()?),
            validate_only: true,
            ..Default::default()
        };
        let answer = world.templates().create_team_template(world.call(template)).await?.into_inner();
        ensure!(answer.team_template.is_some_and(|tried| tried.id == "enterprise-deployment-team"));
        ensure!(world.rows().await?[1] == 0);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_check_reports_everything_and_stores_nothing() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let rows = world.rows().await?;
        let check = async |definition, context: Option<Value>| -> anyhow::Result<_> {
            let context = context.map(|context| structure(&context)).transpose()?;
            let request =
                proto::ValidateProcessDefinitionRequest { process_definition: Some(definition), context };
            Ok(world.definitions().validate_process_definition(world.call(request)).await?.into_inner())
        };
        let sound = check(page_process()?, None).await?;
        ensure!(sound.valid && sound.execution_order.len() == 7, "{sound:?}");
        ensure!(sound.issues.len() == 1 && sound.issues[0].severity() == proto::Severity::Warning);

        let wrong =
            proto::ProcessDefinition { phases: vec![proto::ProcessPhase::default(); 90], ..page_process()? };
        let found = check(wrong, None).await?;
        ensure!(!found.valid && found.issues.len() == 100 && found.execution_order.is_empty());
        ensure!(found.issues.iter().all(|issue| issue.severity() == proto::Severity::Error));

        let mut with_schema: Value =
            serde_json::from_slice(include_bytes!("../../../../libs/process/tests/data/process.json"))?;
        with_schema["contextSchema"] =
            json!({"properties": {"userCount": {"type": "integer"}}, "required": ["customerName"]});
        let with_schema = definition(&with_schema)?;
        let good = json!({"customerName": "Acme", "userCount": 5000});
        ensure!(check(with_schema.clone(), Some(good)).await?.valid);
        let found = check(with_schema, Some(json!({"userCount": 0.5}))).await?;
        let faults: Vec<(&str, &str)> =
            found.issues.iter().map(|issue| (issue.code.as_str(), issue.path.as_str())).collect();
        ensure!(!found.valid && found.execution_order.is_empty());
        ensure!(faults.contains(&("CONTEXT_INVALID", "/context/customerName")), "{faults:?}");
        ensure!(faults.contains(&("CONTEXT_INVALID", "/context/userCount")), "{faults:?}");
        ensure!(world.rows().await? == rows);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_is_not_there_or_not_ones_own_is_not_found() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        world.create(page_process()?).await?;
        let id = "enterprise_sso_deployment";
        for (id, version) in [
            ("nothing", ""),
            ("", ""),
            (id, "2.0.0"),
            (id, "1.0.0\u{0}"),
            (id, &"1".repeat(500)),
            ("' or 1=1 --", ""),
        ] {
            let answer = world.definitions().get_process_definition(world.call(get(id, version))).await;
            refused(answer, Code::NotFound, "PROCESS_NOT_FOUND", id)?;
        }
        let answer =
            world.definitions().get_process_definition(world.call_as(&stranger(), get(id, "1.0.0"))).await;
        let theirs = refused(answer, Code::NotFound, "PROCESS_NOT_FOUND", "another tenant's")?;
        let answer = world
            .definitions()
            .get_process_definition(world.call_as(&stranger(), get("random", "1.0.0")))
            .await;
        let nobodys = refused(answer, Code::NotFound, "PROCESS_NOT_FOUND", "nobody's")?;
        ensure!(theirs.message().replace(id, "random") == nobodys.message(), "the two are told apart");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn people_with_a_link_have_no_business_here() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        world.create(page_process()?).await?;
        let rows = world.rows().await?;
        let me = participant();
        let (mut definitions, mut templates) = (world.definitions(), world.templates());
        let (code, reason) = (Code::PermissionDenied, "ROLE_FORBIDDEN");
        let message = world.call_as(&me, proto::ListProcessDefinitionsRequest::default());
        refused(definitions.list_process_definitions(message).await, code, reason, "list")?;
        let message = world.call_as(&me, get("enterprise_sso_deployment", ""));
        refused(definitions.get_process_definition(message).await, code, reason, "get")?;
        let message = world.call_as(&me, create(process("mine", "1.0.0")?));
        refused(definitions.create_process_definition(message).await, code, reason, "create")?;
        let message = world.call_as(&me, proto::PublishProcessDefinitionRequest::default());
        refused(definitions.publish_process_definition(message).await, code, reason, "publish")?;
        let message = world.call_as(&me, proto::ListProcessDefinitionVersionsRequest::default());
        refused(definitions.list_process_definition_versions(message).await, code, reason, "versions")?;
        let message = world.call_as(&me, proto::ValidateProcessDefinitionRequest::default());
        refused(definitions.validate_process_definition(message).await, code, reason, "validate")?;
        let message = world.call_as(&me, proto::ListTeamTemplatesRequest::default());
        refused(templates.list_team_templates(message).await, code, reason, "templates")?;
        let message = world.call_as(&me, proto::GetTeamTemplateRequest::default());
        refused(templates.get_team_template(message).await, code, reason, "template")?;
        let create =
            proto::CreateTeamTemplateRequest { team_template: Some(page_template()?), ..Default::default() };
        refused(
            templates.create_team_template(world.call_as(&me, create)).await,
            code,
            reason,
            "create template",
        )?;
        let message = world.call_as(&me, proto::InstantiateTeamTemplateRequest::default());
        refused(templates.instantiate_team_template(message).await, code, reason, "instantiate")?;
        let message = world.call_as(&me, proto::GetTeamRequest::default());
        refused(templates.get_team(message).await, code, reason, "team")?;
        ensure!(world.rows().await? == rows);
        Ok(())
    })
    .await
}
