//! Team templates, and the teams made from them.

use anyhow::{Context as _, ensure};
use phasegate_proto::definition::v1 as proto;
use phasegate_proto_json::from_json;
use phasegate_test_database::both;
use prost_types::Struct;
use serde_json::{Value, json};
use tonic::Code;

use crate::world::{World, is_repeated, page_template, refused, stranger, violations};

fn structure(json: &Value) -> anyhow::Result<Struct> {
    let context = json!({"onboarding": json});
    let team: proto::Team = from_json(&context, "phasegate.definition.v1.Team")
        .map_err(|faults| anyhow::anyhow!("{faults:?}"))?;
    team.onboarding.context("no values")
}

#[tokio::test]
async fn a_template_is_stored_under_an_id_made_from_its_name() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let create = |team_template, request_id: &str| proto::CreateTeamTemplateRequest {
            team_template: Some(team_template),
            validate_only: false,
            request_id: request_id.into(),
        };
        let mut client = world.templates();
        let stored = client.create_team_template(world.call(create(page_template()?, "t-1"))).await?;
        ensure!(!is_repeated(&stored));
        let stored = stored.into_inner().team_template.context("no template")?;
        ensure!(stored.id == "enterprise-deployment-team" && stored.created_at.is_some());
        ensure!(
            stored.warnings.iter().all(|issue| issue.code == "AGENT_NOT_DESCRIBED")
                && stored.warnings.len() == 5
        );
        let bare = proto::TeamTemplate {
            id: String::new(),
            created_at: None,
            warnings: Vec::new(),
            ..stored.clone()
        };
        ensure!(bare == page_template()?, "what the author wrote comes back as it was");

        let rows = world.rows().await?;
        for (template, request_id) in
            [(page_template()?, "t-1"), (page_template()?, ""), (stored.clone(), "")]
        {
            let again = client.create_team_template(world.call(create(template, request_id))).await?;
            ensure!(is_repeated(&again) && again.into_inner().team_template.as_ref() == Some(&stored));
        }
        let other = proto::TeamTemplate { category: "other".into(), ..page_template()? };
        let answer = client.create_team_template(world.call(create(other.clone(), ""))).await;
        refused(answer, Code::AlreadyExists, "ALREADY_EXISTS", "other content")?;
        let answer = client.create_team_template(world.call(create(other, "t-1"))).await;
        refused(answer, Code::InvalidArgument, "REQUEST_ID_REUSED", "other content")?;
        ensure!(world.rows().await? == rows);

        let get = |id: &str| proto::GetTeamTemplateRequest { team_template_id: id.into() };
        let found = client.get_team_template(world.call(get(&stored.id))).await?.into_inner();
        ensure!(found.team_template.as_ref() == Some(&stored));
        for (principal, id) in [
            (phasegate_principal::Principal::dev_operator(), "nothing"),
            (phasegate_principal::Principal::dev_operator(), "\u{0}"),
            (stranger(), "enterprise-deployment-team"),
        ] {
            let answer = client.get_team_template(world.call_as(&principal, get(id))).await;
            refused(answer, Code::NotFound, "TEAM_TEMPLATE_NOT_FOUND", id)?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn templates_are_listed_by_id() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        for id in ["b", "c", "a-1", "a_1", "a"] {
            let team_template = Some(proto::TeamTemplate { id: id.into(), ..page_template()? });
            let create = proto::CreateTeamTemplateRequest { team_template, ..Default::default() };
            world.templates().create_team_template(world.call(create)).await?;
        }
        let mut found = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = proto::ListTeamTemplatesRequest { page_size: 2, page_token };
            let page = world.templates().list_team_templates(world.call(request)).await?.into_inner();
            found.extend(page.team_templates.into_iter().map(|template| template.id));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        ensure!(found == ["a", "a-1", "a_1", "b", "c"], "{found:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_template_with_faults_is_refused() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let rows = world.rows().await?;
        let mut wrong = page_template()?;
        wrong.interaction_rules[0].action = "explode".into();
        wrong.interaction_rules[0].priority = 42;
        wrong.interaction_rules[1].timeout = Some("soon".into());
        wrong.agents[1].id = "deployment_lead".into();
        let create = |team_template| proto::CreateTeamTemplateRequest {
            team_template: Some(team_template),
            ..Default::default()
        };
        let answer = world.templates().create_team_template(world.call(create(wrong))).await;
        let status = refused(answer, Code::InvalidArgument, "VALIDATION_FAILED", "faults")?;
        let found = violations(&status);
        for (path, code) in [
            ("/agents/1/id", "ID_DUPLICATE"),
            ("/interactionRules/0/action", "RULE_INVALID"),
            ("/interactionRules/0/priority", "RULE_INVALID"),
            ("/interactionRules/1/timeout", "RULE_INVALID"),
        ] {
            ensure!(found.contains(&(path.to_owned(), code.to_owned())), "no {code} at {path}: {found:?}");
        }
        let mut large = page_template()?;
        large.agents[0].system_prompt = "x".repeat(65_537);
        let answer = world.templates().create_team_template(world.call(create(large))).await;
        refused(answer, Code::ResourceExhausted, "TEAM_TEMPLATE_TOO_LARGE", "a long prompt")?;
        ensure!(world.rows().await? == rows);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_team_is_made_from_a_template_and_fitting_values() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let create = proto::CreateTeamTemplateRequest { team_template: Some(page_template()?), ..Default::default() };
        world.templates().create_team_template(world.call(create)).await?;
        let values = json!({"customerName": "Acme", "customerDomain": "acme.com", "idpType": "okta", "userCount": 5000});
        let request = |values: &Value| -> anyhow::Result<_> {
            Ok(proto::InstantiateTeamTemplateRequest {
                team_template_id: "enterprise-deployment-team".into(),
                name: String::new(),
                onboarding: Some(structure(values)?),
                request_id: String::new(),
            })
        };
        let mut client = world.templates();
        let rows = world.rows().await?;
        for (values, paths) in [
            (json!({}), vec!["/onboarding/customerName", "/onboarding/customerDomain", "/onboarding/idpType"]),
            (json!({"customerName": "A", "customerDomain": "b", "idpType": "saml"}), vec!["/onboarding/idpType"]),
            (json!({"customerName": 1, "customerDomain": "b", "idpType": "okta"}), vec!["/onboarding/customerName"]),
        ] {
            let answer = client.instantiate_team_template(world.call(request(&values)?)).await;
            let status = refused(answer, Code::InvalidArgument, "ONBOARDING_INVALID", "values")?;
            let found = violations(&status);
            ensure!(found.len() == paths.len() && paths.iter().all(|path| found.iter().any(|(at, _)| at == path)), "{found:?}");
        }
        let large = json!({"customerName": "x".repeat(300_000), "customerDomain": "b", "idpType": "okta"});
        let answer = client.instantiate_team_template(world.call(request(&large)?)).await;
        refused(answer, Code::InvalidArgument, "ONBOARDING_INVALID", "too large")?;
        let named = proto::InstantiateTeamTemplateRequest { name: "a\nb".into(), ..request(&values)? };
        let answer = client.instantiate_team_template(world.call(named)).await;
        refused(answer, Code::InvalidArgument, "NAME_INVALID", "two lines")?;
        let nothing = proto::InstantiateTeamTemplateRequest { team_template_id: "nothing".into(), ..request(&values)? };
        let answer = client.instantiate_team_template(world.call(nothing)).await;
        refused(answer, Code::NotFound, "TEAM_TEMPLATE_NOT_FOUND", "nothing")?;
        ensure!(world.rows().await? == rows);

        let once = proto::InstantiateTeamTemplateRequest { request_id: "i-1".into(), ..request(&values)? };
        let made = client.instantiate_team_template(world.call(once.clone())).await?;
        ensure!(!is_repeated(&made));
        let team = made.into_inner().team.context("no team")?;
        ensure!(team.id.starts_with("team-") && team.name == "Enterprise Deployment Team" && team.agents.len() == 2);
        ensure!(team.onboarding == Some(structure(&values)?) && team.interaction_rules.len() == 2);
        ensure!(team.orchestration.is_some() && team.team_template_id == "enterprise-deployment-team");
        let again = client.instantiate_team_template(world.call(once)).await?;
        ensure!(is_repeated(&again) && again.into_inner().team.as_ref() == Some(&team));
        let second = proto::InstantiateTeamTemplateRequest { name: "Mine".into(), ..request(&values)? };
        let second = client.instantiate_team_template(world.call(second)).await?.into_inner().team.context("no team")?;
        ensure!(second.id != team.id && second.name == "Mine");

        let get = |id: &str| proto::GetTeamRequest { team_id: id.into() };
        ensure!(client.get_team(world.call(get(&team.id))).await?.into_inner().team.as_ref() == Some(&team));
        refused(client.get_team(world.call(get("team-0"))).await, Code::NotFound, "TEAM_NOT_FOUND", "nobody's")?;
        let theirs = world.call_as(&stranger(), get(&team.id));
        refused(client.get_team(theirs).await, Code::NotFound, "TEAM_NOT_FOUND", "another tenant's")?;
        Ok(())
    })
    .await
}
