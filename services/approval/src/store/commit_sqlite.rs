//! Writing on SQLite: statement by statement. There is one writer at a time there, and no way to the database and back.

use phasegate_database::{Transaction, args};
use phasegate_idempotency as idempotency;

use super::commit::{Change, Commit, InstanceChange};
use super::row;
use super::{Error, InstanceState};
use crate::domain::{Approval, InstanceCondition, due_next, substance};

/// Writes it all, or says why not: then the transaction is rolled back.
pub(super) async fn write_sqlite(tx: &mut Transaction, commit: &Commit) -> Result<(), Error> {
    if let Some(receipt) = &commit.receipt
        && !phasegate_outbox::inbox_receive(
            tx,
            &commit.tenant,
            receipt.consumer,
            &receipt.event_id,
            commit.now,
        )
        .await?
    {
        return Err(Error::Taken);
    }
    if commit.touches_instance() {
        let state = touch_instance(tx, commit).await?;
        if commit.at_revision.is_some_and(|seen| seen + 1 != state.revision) {
            return Err(Error::Stale);
        }
        write_people(tx, commit).await?;
        let paused = state.condition == InstanceCondition::Paused;
        for change in &commit.changes {
            write_approval(tx, commit, change).await?;
            write_history(tx, commit, change).await?;
            write_approvers(tx, commit, &change.after).await?;
            write_timer(tx, commit, &change.after, paused).await?;
        }
        write_responses(tx, commit, state.response_sequence).await?;
    }
    for (approval, reason) in &commit.moot {
        tx.execute(
            "insert into approval_moot (tenant_id, approval_id, reason) values ($1, $2, $3) on conflict do nothing",
            args![commit.tenant.as_str(), approval.as_str(), reason],
        )
        .await?;
    }
    if let Some(repeat) = &commit.repeat {
        idempotency::store(tx, &repeat.key, repeat.fingerprint, repeat.answer.clone(), commit.now).await?;
    }
    phasegate_outbox::append_all(tx, &commit.outbox).await?;
    Ok(())
}

/// Writes the instance's row first: it makes all writers of the instance wait for each other.
async fn touch_instance(tx: &mut Transaction, commit: &Commit) -> Result<InstanceState, Error> {
    let answers = i64::try_from(commit.responses.len()).unwrap_or(i64::MAX);
    let row = tx
        .fetch_optional(
            "insert into instance (tenant_id, instance_id, revision, paused, paused_version, ended,
                    response_sequence)
             values ($1, $2, 1, $4, 0, $4, $3)
             on conflict (tenant_id, instance_id) do update
                set revision = instance.revision + 1,
                    response_sequence = instance.response_sequence + excluded.response_sequence
             returning revision, paused, paused_version, ended, response_sequence",
            args![commit.tenant.as_str(), commit.instance.as_str(), answers, false],
        )
        .await?;
    let Some(row) = row else {
        let row = format!("{}/{}: is not there after it was written", commit.tenant, commit.instance);
        return Err(Error::Inconsistent { table: "instance", row });
    };
    let (mut paused, mut ended) = (row.get::<bool>("paused")?, row.get::<bool>("ended")?);
    match commit.instance_change {
        // An older pause may arrive after a newer resumption.
        Some(InstanceChange::Paused { paused: wanted, version })
            if version > row.get::<i64>("paused_version")? =>
        {
            paused = wanted;
            set_paused(tx, commit, paused, version).await?;
        }
        Some(InstanceChange::Ended) => {
            ended = true;
            tx.execute(
                "update instance set ended = $3 where tenant_id = $1 and instance_id = $2",
                args![commit.tenant.as_str(), commit.instance.as_str(), true],
            )
            .await?;
        }
        Some(InstanceChange::Paused { .. }) | None => {}
    }
    Ok(InstanceState {
        revision: row.get("revision")?,
        condition: row::condition(paused, ended),
        response_sequence: row.get("response_sequence")?,
    })
}

async fn set_paused(tx: &mut Transaction, commit: &Commit, paused: bool, version: i64) -> Result<(), Error> {
    tx.execute(
        "update instance set paused = $3, paused_version = $4 where tenant_id = $1 and instance_id = $2",
        args![commit.tenant.as_str(), commit.instance.as_str(), paused, version],
    )
    .await?;
    tx.execute(
        "update approval_timer set paused = $3 where tenant_id = $1 and instance_id = $2",
        args![commit.tenant.as_str(), commit.instance.as_str(), paused],
    )
    .await?;
    Ok(())
}

async fn write_people(tx: &mut Transaction, commit: &Commit) -> Result<(), Error> {
    for (id, person) in &commit.people {
        tx.execute(
            "insert into person (tenant_id, instance_id, participant_id, name, email) values ($1, $2, $3, $4, $5)
             on conflict (tenant_id, instance_id, participant_id) do update
                set name = excluded.name, email = excluded.email",
            args![
                commit.tenant.as_str(),
                commit.instance.as_str(),
                id.as_str(),
                &person.name,
                &person.email
            ],
        )
        .await?;
    }
    Ok(())
}

/// Behind the request, whose version says that nobody was faster.
async fn write_history(tx: &mut Transaction, commit: &Commit, change: &Change) -> Result<(), Error> {
    let id = change.after.request.id.as_str();
    for (version, event) in (change.version + 1..).zip(&change.events) {
        tx.execute(
            "insert into approval_event (tenant_id, approval_id, version, occurred_at, payload)
             values ($1, $2, $3, $4, $5)",
            args![commit.tenant.as_str(), id, version, event.at(), row::to_json("approval_event", event)?],
        )
        .await?;
    }
    Ok(())
}

async fn write_approval(tx: &mut Transaction, commit: &Commit, change: &Change) -> Result<(), Error> {
    let after = &change.after;
    let request = &after.request;
    let version = change.version.saturating_add(i64::try_from(change.events.len()).unwrap_or(i64::MAX));
    let written = tx
        .execute(
            "insert into approval (tenant_id, approval_id, version, instance_id, subject_kind, subject_id, status,
                    requested_at, decided_at, substance, state)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
             on conflict (tenant_id, approval_id) do update
                set version = excluded.version, status = excluded.status, decided_at = excluded.decided_at,
                    substance = excluded.substance, state = excluded.state
              where approval.version = $12",
            args![
                commit.tenant.as_str(),
                request.id.as_str(),
                version,
                request.instance.as_str(),
                request.subject.kind.as_str(),
                &request.subject.id,
                after.state.as_str(),
                after.requested_at,
                after.settlement().map(|end| end.at),
                substance(request).as_str(),
                row::to_json("approval", after)?,
                change.version
            ],
        )
        .await?;
    if written == 1 { Ok(()) } else { Err(Error::Stale) }
}

async fn write_approvers(tx: &mut Transaction, commit: &Commit, after: &Approval) -> Result<(), Error> {
    for approver in &after.approvers {
        tx.execute(
            "insert into approver (tenant_id, approval_id, participant_id, standing, instance_id, status,
                    requested_at)
             values ($1, $2, $3, $4, $5, $6, $7)
             on conflict (tenant_id, approval_id, participant_id) do update
                set standing = excluded.standing, status = excluded.status",
            args![
                commit.tenant.as_str(),
                after.request.id.as_str(),
                approver.id.as_str(),
                approver.standing.as_str(),
                after.request.instance.as_str(),
                after.state.as_str(),
                after.requested_at
            ],
        )
        .await?;
    }
    Ok(())
}

async fn write_timer(
    tx: &mut Transaction,
    commit: &Commit,
    after: &Approval,
    paused: bool,
) -> Result<(), Error> {
    let id = after.request.id.as_str();
    let Some(due_at) = due_next(after) else {
        tx.execute(
            "delete from approval_timer where tenant_id = $1 and approval_id = $2",
            args![commit.tenant.as_str(), id],
        )
        .await?;
        return Ok(());
    };
    tx.execute(
        "insert into approval_timer (tenant_id, approval_id, instance_id, due_at, paused, claimed_until)
         values ($1, $2, $3, $4, $5, 0)
         on conflict (tenant_id, approval_id) do update
            set due_at = excluded.due_at, paused = excluded.paused, claimed_until = 0",
        args![commit.tenant.as_str(), id, after.request.instance.as_str(), due_at, paused],
    )
    .await?;
    Ok(())
}

async fn write_responses(tx: &mut Transaction, commit: &Commit, last: i64) -> Result<(), Error> {
    let count = i64::try_from(commit.responses.len()).unwrap_or(i64::MAX);
    for (sequence, response) in (last - count + 1..).zip(&commit.responses) {
        tx.execute(
            "insert into approval_response (tenant_id, instance_id, sequence, approval_id, participant_id, payload)
             values ($1, $2, $3, $4, $5, $6)",
            args![
                commit.tenant.as_str(),
                commit.instance.as_str(),
                sequence,
                response.approval.as_str(),
                response.approver.as_str(),
                &response.payload
            ],
        )
        .await?;
    }
    Ok(())
}
