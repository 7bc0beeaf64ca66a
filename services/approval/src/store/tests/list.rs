//! Lists: what they hold, in which order, and how they are found.

use super::*;

#[tokio::test]
async fn lists_hold_what_their_filter_says_in_order() -> anyhow::Result<()> {
    both(|database| async move {
        let store = open(&database).await?;
        let all = fill(&store).await?;
        let statuses = [None, Some("pending"), Some("approved"), Some("rejected")];
        let instances = [None, Some(instance()), Some(InstanceId::trusted("proc-inst-2"))];
        let people = [None, Some(person("ada")), Some(person("bob")), Some(person("eve"))];
        let mut checked = 0;
        for status in statuses {
            for instance in &instances {
                for approver in &people {
                    for visible_to in &people {
                        let filter = Filter {
                            instance: instance.clone(),
                            status,
                            approver: approver.clone(),
                            visible_to: visible_to.clone(),
                        };
                        let expected: Vec<_> =
                            all.iter().rev().filter(|record| matches(&filter, record)).map(name).collect();
                        let listed = pages(&store, &filter).await.with_context(|| format!("{filter:?}"))?;
                        ensure!(listed == expected, "{filter:?}: {listed:?} is not {expected:?}");
                        checked += usize::from(!expected.is_empty());
                    }
                }
            }
        }
        ensure!(checked > 60, "only {checked} lists held anything");
        let filter = Filter::default();
        let page = Page { size: 5, after: None };
        ensure!(store.approval_list(&other_tenant(), &filter, &page).await?.0.is_empty());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn every_list_is_a_range_of_an_index() -> anyhow::Result<()> {
    let database = sqlite().await?;
    let store = open(&database).await?;
    ensure!(database.dialect() == Dialect::Sqlite);
    let after = Some(Position { requested_at: START, approval: ApprovalId::trusted("apr-1") });
    let narrowings = [(false, false), (true, false), (false, true), (true, true)];
    let lists = narrowings.into_iter().flat_map(|(one, two)| [(None, one, two), (Some("pending"), one, two)]);
    for (status, in_instance, of_person) in lists {
        let filter = Filter {
            instance: in_instance.then(instance),
            status,
            approver: of_person.then(|| person("ada")),
            visible_to: None,
        };
        let page = Page { size: 5, after: after.clone() };
        let (sql, args) = super::approval::list_statement(store.db.dialect(), &tenant(), &filter, &page);
        let plan = store.db.fetch_all(format!("explain query plan {sql}"), args).await?;
        let plan: Vec<String> = plan.iter().map(|row| row.get("detail")).collect::<Result<_, _>>()?;
        let plan = plan.join("; ");
        ensure!(!plan.contains("SCAN") && !plan.contains("TEMP B-TREE"), "{filter:?}: {plan}");
        ensure!(
            plan.contains("requested_at<?") || plan.contains("requested_at,approval_id)<(?,?)"),
            "{filter:?}: {plan}"
        );
    }
    Ok(())
}

/// Requests of two instances in several states, some asked at the same time.
async fn fill(store: &Store) -> anyhow::Result<Vec<Record>> {
    let mut ids = Vec::new();
    for index in 0..18_u64 {
        let people: &[&str] = match index % 3 {
            0 => &["ada"],
            1 => &["bob"],
            _ => &["ada", "bob"],
        };
        let mut request = named(&format!("apr-{index:02}"), people);
        if index % 2 == 1 {
            request.instance = InstanceId::trusted("proc-inst-2");
        }
        store.commit(asking_at(&request, START + hours(index / 4))?).await?;
        let record = load(store, request.id.as_str()).await?;
        match index % 5 {
            0 => drop(write(store, &record, &reply(&record, people[0], Decision::Reject)).await?),
            1 => {
                let mut record = record;
                for who in people {
                    record = write(store, &record, &reply(&record, who, Decision::Approve)).await?;
                }
            }
            2 => {
                let withdraw = Command::Withdraw { by: operator(), reason: "a mistake".to_owned() };
                write(store, &record, &withdraw).await?;
            }
            _ => {}
        }
        ids.push(request.id);
    }
    let mut records = Vec::new();
    for id in ids {
        records.push(load(store, id.as_str()).await?);
    }
    Ok(records)
}

fn matches(filter: &Filter, record: &Record) -> bool {
    let approval = &record.approval;
    let answers = |id: &phasegate_id::ParticipantId| {
        approval.approver(id).is_some_and(|one| one.standing.as_str() != "not_needed")
    };
    filter.instance.as_ref().is_none_or(|id| &approval.request.instance == id)
        && filter.status.is_none_or(|status| approval.state.as_str() == status)
        && filter.approver.as_ref().is_none_or(answers)
        && filter
            .visible_to
            .as_ref()
            .is_none_or(|id| !approval.is_pending() || approval.approver(id).is_some())
}

async fn pages(store: &Store, filter: &Filter) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    let mut after = None;
    loop {
        let page = Page { size: 4, after };
        let (records, more) = store.approval_list(&tenant(), filter, &page).await?;
        names.extend(records.iter().map(name));
        let Some(last) = records.last().filter(|_| more) else { return Ok(names) };
        after = Some(Position {
            requested_at: last.approval.requested_at,
            approval: last.approval.request.id.clone(),
        });
    }
}
