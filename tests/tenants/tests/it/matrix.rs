//! What another tenant has reads like what nobody has, for every method and every id.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use phasegate_rpc_error::reason_of;
use phasegate_tenants::call::public_methods;
use phasegate_tenants::rows::{Row, filled, rows, with};
use phasegate_tenants::scene::Scene;
use phasegate_tenants::world::World;
use phasegate_test_database::both;
use serde_json::{Value, json};
use tonic::Status;

/// Answers that are no refusal: the method says nothing of ids that it does not know, or makes something of that name.
const ANSWERED: [(&str, &str); 7] = [
    ("ListInstances", "process_id"),
    ("ListLinks", "participant_id"),
    ("ListApprovals", "approver_id"),
    ("PollTasks", "queues"),
    ("PollTasks", "instance_id"),
    ("RequestNewLink", "token"),
    ("StartInstance", "instance_id"),
];

#[test]
fn every_method_has_a_row_and_every_id_a_meaning() {
    let rows: BTreeMap<&str, Row> = rows().into_iter().map(|row| (row.method, row)).collect();
    let mut methods = BTreeSet::new();
    for method in public_methods() {
        let row = rows.get(method.name()).unwrap_or_else(|| panic!("{} has no row", method.full_name()));
        let known: Vec<&str> =
            row.ids.iter().map(|(field, _)| *field).chain(row.free.iter().copied()).collect();
        for field in Row::fields_of(&method.input()) {
            assert!(known.contains(&field.as_str()), "{}: what is {field}?", method.full_name());
        }
        assert!(methods.insert(method.name().to_owned()), "two methods are called {}", method.name());
    }
    for name in rows.keys() {
        assert!(methods.contains(*name), "{name} is no method");
    }
    assert!(methods.len() > 55, "only {} methods were found", methods.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_tenant_has_reads_like_what_nobody_has() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database, None).await?;
        let theirs = Scene::set(&world, "acme").await?;
        let mine = Scene::set(&world, "globex").await?;
        let before = record(&world, &theirs).await?;
        let mut faults = Vec::new();
        let mut compared = 0;
        for row in rows() {
            let right = filled(&row.message, &mine)?;
            for (field, kind) in &row.ids {
                let foreign = theirs.get(kind)?;
                let nobodys = nobodys(&foreign, kind);
                let of_theirs = with(&right, field, &foreign)?;
                let of_nobody = with(&right, field, &nobodys)?;
                let of_theirs = world.call(&mine.key, row.method, &of_theirs).await?;
                let of_nobody = world.call(&mine.key, row.method, &of_nobody).await?;
                compared += 1;
                let what = format!("{} {field}", row.method);
                if let Err(fault) = same(&what, &of_theirs, &of_nobody, &foreign, &nobodys) {
                    faults.push(format!("{fault:#}"));
                }
                let answered = ANSWERED.contains(&(row.method, field));
                if answered != of_theirs.is_ok() {
                    faults.push(format!("{what}: {of_theirs:?}"));
                }
            }
        }
        ensure!(faults.is_empty(), "{}", faults.join("\n"));
        ensure!(compared > 60, "only {compared} ids were compared");
        ensure!(record(&world, &theirs).await? == before, "something of the other tenant has changed");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn request_ids_and_page_tokens_are_of_one_tenant() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database, None).await?;
        let theirs = Scene::set(&world, "acme").await?;
        let mine = Scene::set(&world, "globex").await?;
        // The same name for a call means another call.
        let comment =
            |scene: &Scene| json!({"instanceId": scene.instance, "body": "Hm.", "requestId": "r-1"});
        let first = world.done(&theirs.key, "CreateComment", comment(&theirs)).await?;
        let second = world.done(&mine.key, "CreateComment", comment(&mine)).await?;
        ensure!(first["comment"]["id"] != second["comment"]["id"], "an answer of another tenant");
        let page = json!({"pageSize": 1, "all": true});
        let page = world.done(&theirs.key, "ListKeys", page).await?;
        let next = json!({"all": true, "pageToken": page["nextPageToken"]});
        ensure!(world.call(&theirs.key, "ListKeys", &next).await?.is_ok(), "it is good for its own tenant");
        let refused =
            world.call(&mine.key, "ListKeys", &next).await?.err().context("a foreign page token")?;
        ensure!(reason_of(&refused).as_deref() == Some("PAGE_TOKEN_INVALID"), "{refused:?}");
        Ok(())
    })
    .await
}

/// What nobody has, and looks like what somebody has.
fn nobodys(foreign: &str, kind: &str) -> String {
    if kind.ends_with("token") {
        // Of the same length, and signed by nobody.
        return "A".repeat(foreign.len());
    }
    let tail: String = foreign.chars().rev().take(6).map(|_| 'q').collect();
    format!("{}{tail}", &foreign[..foreign.len() - tail.len()])
}

fn same(
    what: &str,
    theirs: &Result<Value, Status>,
    nobodys: &Result<Value, Status>,
    foreign: &str,
    nobody: &str,
) -> anyhow::Result<()> {
    match (theirs, nobodys) {
        (Err(one), Err(other)) => {
            let seen = |status: &Status, id: &str| {
                (status.code(), reason_of(status), status.message().replace(id, "…"))
            };
            let (one, other) = (seen(one, foreign), seen(other, nobody));
            ensure!(one == other, "{what}: {one:?} for another tenant's, {other:?} for nobody's");
        }
        (Ok(one), Ok(other)) => {
            let seen = |answer: &Value, id: &str| answer.to_string().replace(id, "…");
            let (one, other) = (seen(one, foreign), seen(other, nobody));
            // Instances that are started have times.
            let is_made = what.starts_with("StartInstance");
            ensure!(is_made || one == other, "{what}: {one} for another tenant's, {other} for nobody's");
        }
        (one, other) => anyhow::bail!("{what}: {one:?} for another tenant's, {other:?} for nobody's"),
    }
    Ok(())
}

/// What has happened at a tenant, and what its things look like.
async fn record(world: &World, scene: &Scene) -> anyhow::Result<Vec<Value>> {
    let mut seen = Vec::new();
    for (method, message) in [
        ("ListAuditEntries", json!({"instanceId": scene.instance, "pageSize": 500})),
        ("ListLinks", json!({"instanceId": scene.instance})),
        ("ListComments", json!({"instanceId": scene.instance})),
        ("GetApproval", json!({"approvalId": scene.approval})),
        ("ListProcessDefinitions", json!({})),
    ] {
        let mut answer = world.done(&scene.key, method, message).await?;
        // Mail goes out by itself.
        if let Some(entries) = answer["entries"].as_array_mut() {
            entries.retain(|entry| !entry["type"].as_str().unwrap_or_default().starts_with("notification"));
        }
        seen.push(answer);
    }
    Ok(seen)
}
