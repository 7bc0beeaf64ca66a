//! What many callers write at a time, and what is read at once.

use futures::future::join_all;

use super::*;

/// A commit that puts a request of an instance of its own to ada.
fn asking_in(instance: &str, id: &str) -> anyhow::Result<Commit> {
    let mut request = named(id, &["ada"]);
    request.instance = InstanceId::trusted(instance);
    asking(&request)
}

fn receipt(event: &str) -> Receipt {
    Receipt { consumer: "approval", event_id: event.to_owned() }
}

fn taking(event: &str) -> Commit {
    let mut commit = Commit::new(tenant(), instance(), START);
    commit.receipt = Some(receipt(event));
    commit
}

fn repeat(id: &str) -> Repeat {
    let key = idempotency::Key::new("default", "operator:dev", "RequestApproval", id);
    Repeat { key, fingerprint: [1; 32], answer: b"answer".to_vec() }
}

async fn is_there(store: &Store, id: &str) -> Result<bool, Error> {
    Ok(store.approval_load(&tenant(), &ApprovalId::trusted(id)).await?.is_some())
}

#[tokio::test]
async fn one_that_does_not_fit_is_in_nobodys_way() -> anyhow::Result<()> {
    both(|database| async move {
        let store = open(&database).await?;
        let mut first = asking_in("inst-0", "apr-0")?;
        (first.receipt, first.repeat) = (Some(receipt("event-0")), Some(repeat("call-0")));
        store.commit(first).await?;
        let before = count(&store).await?;

        let mut seen = asking_in("inst-1", "seen")?;
        seen.receipt = Some(receipt("event-0"));
        let mut raced = asking_in("inst-2", "raced")?;
        raced.repeat = Some(repeat("call-0"));
        let mut stale = asking_in("inst-3", "stale")?;
        stale.at_revision = Some(7);
        let again = asking_in("inst-0", "apr-0")?;
        let mut fine = asking_in("inst-4", "fine")?;
        (fine.receipt, fine.repeat, fine.at_revision) =
            (Some(receipt("event-4")), Some(repeat("call-4")), Some(0));
        let also = asking_in("inst-5", "also")?;
        let all = [seen, raced, fine, stale, again, also];
        let done = join_all(all.into_iter().map(|commit| store.commit(commit))).await;
        ensure!(matches!(done[0], Err(Error::Taken)), "{done:?}");
        ensure!(matches!(done[1], Err(Error::Repeated)), "{done:?}");
        ensure!(matches!((&done[3], &done[4]), (Err(Error::Stale), Err(Error::Stale))), "{done:?}");
        ensure!(done[2].is_ok() && done[5].is_ok(), "{done:?}");
        for (id, written) in
            [("seen", false), ("raced", false), ("stale", false), ("fine", true), ("also", true)]
        {
            ensure!(is_there(&store, id).await? == written, "{id}");
        }
        let after = count(&store).await?;
        for (table, more) in
            [("instance", 2), ("approval", 2), ("approval_event", 2), ("approver", 2), ("person", 2)]
        {
            ensure!(after[table] == before[table] + more, "{table}: {before:?} {after:?}");
        }
        ensure!(after["inbox"] == before["inbox"] + 1 && after["idempotency"] == before["idempotency"] + 1);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_event_without_an_effect_is_noted_once() -> anyhow::Result<()> {
    both(|database| async move {
        let store = open(&database).await?;
        store.commit(taking("event-0")).await?;
        let events = ["event-0", "event-1", "event-2", "event-1", "event-3"];
        let done = join_all(events.into_iter().map(|event| store.commit(taking(event)))).await;
        ensure!(matches!(done[0], Err(Error::Taken)), "{done:?}");
        ensure!(done[1].is_ok() != done[3].is_ok() && done[2].is_ok() && done[4].is_ok(), "{done:?}");
        let mut other = taking("event-1");
        other.tenant = other_tenant();
        store.commit(other).await?;
        let mut late = asking_in("inst-1", "apr-1")?;
        late.receipt = Some(receipt("event-2"));
        ensure!(matches!(store.commit(late).await, Err(Error::Taken)), "noted for every way to take it");
        let counted = count(&store).await?;
        ensure!(counted["inbox"] == 5 && counted["instance"] == 0, "{counted:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn tenants_meet_in_a_statement_and_nowhere_else() -> anyhow::Result<()> {
    both(|database| async move {
        let store = open(&database).await?;
        let mine = asking_in("inst-1", "apr-1")?;
        let mut theirs = asking_in("inst-1", "apr-1")?;
        theirs.tenant = other_tenant();
        theirs.instance_change = Some(InstanceChange::Paused { paused: true, version: 3 });
        let done = join_all([mine, theirs].map(|commit| store.commit(commit))).await;
        ensure!(done.iter().all(Result::is_ok), "{done:?}");
        let id = ApprovalId::trusted("apr-1");
        for (tenant, condition) in
            [(tenant(), InstanceCondition::Running), (other_tenant(), InstanceCondition::Paused)]
        {
            let record = store.approval_load(&tenant, &id).await?.context("each has its own")?;
            ensure!((record.instance, record.revision) == (condition, 1), "{record:?}");
            store.approval_verify(&Key { tenant, approval: id.clone() }).await?;
        }
        let claimed = store.timer_claim(START + hours(12), 10).await?;
        ensure!(claimed.len() == 1 && claimed[0].key.tenant == tenant(), "{claimed:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn one_commit_changes_a_request_twice_and_numbers_its_answers() -> anyhow::Result<()> {
    both(|database| async move {
        let store = open(&database).await?;
        let mut commit = asking(&named("apr-1", &["ada", "bob"]))?;
        let mut after = commit.changes[0].after.clone();
        let mut version = 1;
        for who in ["ada", "bob"] {
            let command = Command::Answer(answer(&after, who, Decision::Approve));
            let events = decide(&after, &command, START + hours(1)).context("it may be answered")?;
            after = events.iter().fold(after, evolve);
            let written = i64::try_from(events.len())?;
            commit.changes.push(Change { version, events, after: after.clone() });
            version += written;
            let approval = ApprovalId::trusted("apr-1");
            commit.responses.push(NewResponse { approval, approver: person(who), payload: who.into() });
        }
        store.commit(commit.clone()).await?;
        store.approval_verify(&key("apr-1")).await?;
        let record = load(&store, "apr-1").await?;
        ensure!(record.version == version && !record.approval.is_pending(), "{record:?}");
        ensure!(store.timer_due(&key("apr-1")).await?.is_none());
        let answers = store.response_list(&tenant(), &instance(), 0, 10).await?;
        let answers: Vec<_> = answers.iter().map(|one| (one.sequence, one.payload.as_slice())).collect();
        ensure!(answers == [(1, b"ada".as_slice()), (2, b"bob")], "{answers:?}");

        commit = asking(&named("apr-2", &["ada"]))?;
        let mut gap = commit.changes[0].clone();
        gap.version = 2;
        commit.changes.push(gap);
        ensure!(matches!(store.commit(commit).await, Err(Error::Stale)), "nothing is skipped");
        ensure!(!is_there(&store, "apr-2").await?);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn copies_of_the_service_number_the_answers_of_one_instance_together() -> anyhow::Result<()> {
    both(|database| async move {
        let copies = [open(&database).await?, open(&database).await?];
        for index in 0..12 {
            put(&copies[0], &named(&format!("apr-{index}"), &["ada", "bob"])).await?;
        }
        let writers = (0..24).map(|index| {
            let store = copies[index % 2].clone();
            let who = if index < 12 { "ada" } else { "bob" };
            tokio::spawn(async move {
                let id = format!("apr-{}", index % 12);
                loop {
                    let record = load(&store, &id).await?;
                    match write(&store, &record, &reply(&record, who, Decision::Approve)).await {
                        Ok(_) => return anyhow::Ok(()),
                        Err(Error::Stale) => tokio::task::yield_now().await,
                        Err(error) => return Err(error.into()),
                    }
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await??;
        }
        let answers = copies[1].response_list(&tenant(), &instance(), 0, 100).await?;
        let numbers: Vec<i64> = answers.iter().map(|one| one.sequence).collect();
        ensure!(numbers == (1..=24).collect::<Vec<_>>(), "{numbers:?}");
        for index in 0..12 {
            copies[0].approval_verify(&key(&format!("apr-{index}"))).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn no_timer_escapes_a_pause_in_another_copy() -> anyhow::Result<()> {
    both(|database| async move {
        let copies = [open(&database).await?, open(&database).await?];
        put(&copies[0], &named("apr-first", &["ada"])).await?;
        for round in 0..10 {
            let holding = async {
                loop {
                    match pause(&copies[0], true, 10 + 2 * round).await {
                        Err(error) if matches!(error.downcast_ref(), Some(Error::Stale)) => {}
                        done => return done,
                    }
                }
            };
            let asking = join_all((0..4).map(|index| {
                let request = named(&format!("apr-{round}-{index}"), &["ada"]);
                let store = copies[1].clone();
                async move { put(&store, &request).await }
            }));
            let (held, asked) = tokio::join!(holding, asking);
            held?;
            ensure!(asked.iter().all(Result::is_ok), "{asked:?}");
            let claimed = copies[0].timer_claim(START + hours(12), 100).await?;
            ensure!(claimed.is_empty(), "round {round}: {claimed:?}");
            pause(&copies[0], false, 11 + 2 * round).await?;
        }
        ensure!(copies[0].timer_claim(START + hours(12), 100).await?.len() == 41);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_has_not_changed_is_not_written() -> anyhow::Result<()> {
    both(|database| async move {
        if database.dialect() == Dialect::Sqlite {
            return Ok(());
        }
        let store = open(&database).await?;
        let asked = put(&store, &named("apr-1", &["ada", "bob"])).await?;
        let writers = async || {
            let rows = store
                .db
                .fetch_all(
                    "select 'approver ' || participant_id as name, xmin::text as writer from approver
                     union all select 'person ' || participant_id, xmin::text from person
                     union all select 'timer', xmin::text from approval_timer
                     union all select 'approval', xmin::text from approval",
                    args![],
                )
                .await?;
            let read = |row: &phasegate_database::Row| {
                anyhow::Ok((row.get::<String>("name")?, row.get::<String>("writer")?))
            };
            rows.iter().map(read).collect::<anyhow::Result<BTreeMap<_, _>>>()
        };
        let before = writers().await?;
        let events = decide(&asked.approval, &reply(&asked, "ada", Decision::Approve), START + hours(1))
            .context("it may be answered")?;
        let after = events.iter().fold(asked.approval.clone(), evolve);
        let mut commit = asking(&asked.approval.request)?;
        commit.changes = vec![Change { version: asked.version, events, after }];
        store.commit(commit).await?;
        let mut written = writers().await?;
        written.retain(|name, writer| before.get(name) != Some(&*writer));
        let written: Vec<_> = written.into_keys().collect();
        ensure!(written == ["approval", "approver ada"], "{written:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_is_needed_is_read_at_once() -> anyhow::Result<()> {
    both(|database| async move {
        let store = open(&database).await?;
        let asked = |id: &str, before: Option<&str>| Asked {
            approval: ApprovalId::trusted(id),
            before: before.map(ApprovalId::trusted),
        };
        let wanted =
            [asked("apr-1", None), asked("moot", None), asked("apr-2", Some("apr-1")), asked("x", Some("y"))];
        let nothing = store.needed_load(&tenant(), &instance(), &wanted).await?;
        ensure!(nothing.state == InstanceState::UNHEARD && nothing.people.is_empty(), "{nothing:?}");
        ensure!(nothing.requests == vec![KnownRequest::default(); 4], "{nothing:?}");
        ensure!(store.pending_load(&tenant(), &instance()).await? == (InstanceState::UNHEARD, Vec::new()));

        put(&store, &named("apr-1", &["ada", "bob"])).await?;
        let mut commit = Commit::new(tenant(), instance(), START);
        commit.moot = vec![(ApprovalId::trusted("moot"), "nobody needs it".to_owned())];
        commit.instance_change = Some(InstanceChange::Paused { paused: true, version: 2 });
        store.commit(commit).await?;
        let first = load(&store, "apr-1").await?;
        let known = store.needed_load(&tenant(), &instance(), &wanted).await?;
        ensure!((known.state.revision, known.state.condition) == (2, InstanceCondition::Paused), "{known:?}");
        ensure!(known.people == first.people && known.people.len() == 2, "{known:?}");
        let expected = [
            KnownRequest { first: Some(first.clone()), ..KnownRequest::default() },
            KnownRequest { is_moot: true, ..KnownRequest::default() },
            KnownRequest { before: Some(first.clone()), ..KnownRequest::default() },
            KnownRequest::default(),
        ];
        ensure!(known.requests == expected, "{known:?}");
        ensure!(store.needed_load(&other_tenant(), &instance(), &wanted).await? == nothing);
        ensure!(store.needed_load(&tenant(), &instance(), &[]).await?.requests.is_empty());

        let (state, pending) = store.pending_load(&tenant(), &instance()).await?;
        ensure!(state == known.state && pending == [first.clone()], "{pending:?}");
        write(&store, &first, &reply(&first, "ada", Decision::Reject)).await?;
        let answered = load(&store, "apr-1").await?;
        write(&store, &answered, &reply(&answered, "bob", Decision::Reject)).await?;
        let (state, pending) = store.pending_load(&tenant(), &instance()).await?;
        ensure!(state.revision == 4 && pending.is_empty(), "{state:?}: {pending:?}");
        let ids = ["apr-1", "moot", "x"].map(ApprovalId::trusted).into();
        let arrived = store.approval_arrived(&tenant(), &ids).await?;
        ensure!(arrived == [ApprovalId::trusted("apr-1")].into(), "{arrived:?}");
        ensure!(store.approval_arrived(&other_tenant(), &ids).await?.is_empty());
        Ok(())
    })
    .await
}
