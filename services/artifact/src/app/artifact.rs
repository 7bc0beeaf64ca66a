//! Storing and reading artifacts.

use std::sync::Arc;

use phasegate_database::Transaction;
use phasegate_id::{AgentId, ArtifactKey, InstanceId};
use phasegate_idempotency::{Answer, run};
use phasegate_principal::Principal;
use phasegate_proto::actor::v1::{Actor, ActorKind, Channel};
use phasegate_proto::internal::event::v1::ArtifactStored;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_rpc_error::Invalid;
use prost::Message as _;

use super::instance::Lease;
use super::{App, Error, Once};
use crate::domain::Author;
use crate::domain::artifact::{self as rules, Content, Decision, Version};
use crate::store::artifact as rows;
use crate::store::{self, Place};

pub use crate::store::artifact::{Current, Filter};

/// Keys that one question may name.
const KEYS_MAX: usize = 1_000;

/// What a caller wants to store, its form already checked.
#[derive(Debug, Clone)]
pub struct Put {
    /// Name.
    pub key: ArtifactKey,
    /// What it is.
    pub kind: String,
    /// Content.
    pub content: Content,
    /// Canonical JSON of the metadata.
    pub metadata: Option<Vec<u8>>,
    /// `metadata.phase`.
    pub phase: Option<String>,
    /// The newest version that the caller saw.
    pub if_version: Option<i32>,
    /// An agent's lease.
    pub task_token: String,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Where.
    pub instance: InstanceId,
    /// The newest version.
    pub version: Version,
    /// It was there already.
    pub unchanged: bool,
}

/// Who stores, and where.
struct Provenance {
    actor: Actor,
    phase_id: String,
    task_id: String,
    lease: Option<Lease>,
}

// === impl App ===

impl App {
    /// Stores a version.
    pub async fn artifact_store(
        &self,
        principal: &Principal,
        instance_id: &str,
        put: Put,
        once: Option<Once<Stored>>,
    ) -> Result<Answer<Stored>, Error> {
        let place = Self::place(principal, instance_id)?;
        if principal.participation.is_some() {
            self.instances.exists(&place).await?;
            return Err(Error::ParticipantMayNotStore);
        }
        let put = Arc::new(put);
        let done = run(self.store.db(), once.as_ref(), || {
            self.artifact_store_once(principal, &place, Arc::clone(&put), once.clone())
        })
        .await;
        self.relay.wake();
        done
    }

    /// Reads a version with its content.
    pub async fn artifact_get(
        &self,
        principal: &Principal,
        instance_id: &str,
        key: &str,
        version: i32,
    ) -> Result<(Version, Vec<u8>), Error> {
        let place = self.readable(principal, instance_id).await?;
        let version = Some(version).filter(|version| *version != 0);
        let not_found = || Error::ArtifactNotFound { key: phasegate_id::shortened(key), version };
        let key = rules::key(key).map_err(|_| not_found())?;
        self.store.artifact_get(&place, &key, version).await?.ok_or_else(not_found)
    }

    /// Lists the newest version of every key after `after`.
    pub async fn artifact_list(
        &self,
        principal: &Principal,
        instance_id: &str,
        filter: &Filter,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Version>, Error> {
        let place = self.readable(principal, instance_id).await?;
        // Nothing was ever stored under such words. PostgreSQL cannot even be told of a NUL.
        if [&filter.phase, &filter.kind].into_iter().any(|word| word.chars().any(char::is_control)) {
            return Ok(Vec::new());
        }
        Ok(self.store.artifact_list(&place, filter, after, limit).await?)
    }

    /// Lists the versions of a key below `below`, newest first.
    pub async fn version_list(
        &self,
        principal: &Principal,
        instance_id: &str,
        key: &str,
        below: Option<i32>,
        limit: usize,
    ) -> Result<Vec<Version>, Error> {
        let place = self.readable(principal, instance_id).await?;
        let not_found = || Error::ArtifactNotFound { key: phasegate_id::shortened(key), version: None };
        let key = rules::key(key).map_err(|_| not_found())?;
        let versions = self.store.version_list(&place, &key, below.unwrap_or(i32::MAX), limit).await?;
        if versions.is_empty() && below.is_none() { Err(not_found()) } else { Ok(versions) }
    }

    /// The newest version of each key that exists: of those named, or of all. For other services, which know that the
    /// instance exists.
    pub async fn artifact_current(
        &self,
        principal: &Principal,
        instance_id: &str,
        keys: &[String],
    ) -> Result<Vec<Current>, Error> {
        let place = Self::place(principal, instance_id)?;
        if keys.len() > KEYS_MAX {
            return Err(
                Invalid::new("METADATA_INVALID", "keys", format!("must be at most {KEYS_MAX}")).into()
            );
        }
        // What is no key names nothing, and must not make "all" of "none of these".
        let named: Vec<String> = keys.iter().filter(|key| rules::key(key).is_ok()).cloned().collect();
        if named.is_empty() && !keys.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.store.artifact_current(&place, &named).await?)
    }

    async fn artifact_store_once(
        &self,
        principal: &Principal,
        place: &Place,
        put: Arc<Put>,
        once: Option<Once<Stored>>,
    ) -> Result<Stored, Error> {
        let provenance = self.provenance(principal, place, &put).await?;
        let now = self.clock.now();
        let place = place.clone();
        self.store
            .db()
            .transaction(move |tx| {
                Box::pin(async move {
                    let newest = rows::newest_in(tx, &place, &put.key).await?;
                    let stored = match rules::decide(&put.key, newest.as_ref(), &put.content, put.if_version)?
                    {
                        Decision::Unchanged => unchanged_in(tx, &place, &put.key, newest).await?,
                        Decision::Next(number) => {
                            let version = version(&put, number, &provenance, now);
                            rows::version_append_in(tx, &place, &version, put.content.bytes.clone()).await?;
                            let event = event(&place, &version, &provenance);
                            phasegate_outbox::append(tx, &event).await?;
                            Stored { instance: place.instance.clone(), version, unchanged: false }
                        }
                    };
                    if let Some(once) = once {
                        once.keep_in(tx, &stored, now).await?;
                    }
                    provenance.lease.as_ref().map_or(Ok(()), Lease::check)?;
                    Ok(stored)
                })
            })
            .await
    }

    /// Who stores, by lease or by the caller's own right, and under which phase it is listed.
    async fn provenance(&self, principal: &Principal, place: &Place, put: &Put) -> Result<Provenance, Error> {
        if let Some(phase) = &put.phase {
            rules::phase(phase, &self.instances.parts(place).await?.phases)?;
        }
        let named = put.phase.clone();
        principal.needs_lease(&put.task_token)?;
        if put.task_token.is_empty() {
            self.instances.going_on(place).await?;
            return Ok(Provenance {
                actor: principal.actor(),
                phase_id: named.unwrap_or_default(),
                task_id: String::new(),
                lease: None,
            });
        }
        let lease = self.instances.lease(principal, place, &put.task_token).await?;
        let holder = lease.holder.clone();
        Ok(Provenance {
            actor: agent(AgentId::trusted(holder.agent_id)),
            phase_id: named.unwrap_or(holder.phase_id),
            task_id: holder.task_id,
            lease: Some(lease),
        })
    }
}

async fn unchanged_in(
    tx: &mut Transaction,
    place: &Place,
    key: &ArtifactKey,
    newest: Option<rules::Newest>,
) -> Result<Stored, Error> {
    let number = newest.map_or(0, |newest| newest.version);
    let version = rows::version_in(tx, place, key, number).await?.ok_or_else(|| {
        store::Error::Inconsistent { table: "artifact", row: format!("{} {key} {number}", place.instance) }
    })?;
    Ok(Stored { instance: place.instance.clone(), version, unchanged: true })
}

fn version(put: &Put, number: i32, provenance: &Provenance, now: phasegate_clock::Timestamp) -> Version {
    Version {
        key: put.key.clone(),
        number,
        kind: put.kind.clone(),
        form: put.content.form,
        content_type: put.content.media_type.clone(),
        size: i64::try_from(put.content.bytes.len()).unwrap_or(i64::MAX),
        digest: put.content.digest.clone(),
        metadata: put.metadata.clone(),
        phase_id: provenance.phase_id.clone(),
        task_id: provenance.task_id.clone(),
        created_by: Author(provenance.actor.encode_to_vec()),
        created_at: now,
    }
}

fn event(
    place: &Place,
    version: &Version,
    provenance: &Provenance,
) -> phasegate_proto::internal::event::v1::Event {
    let payload = Payload::ArtifactStored(ArtifactStored {
        key: version.key.as_str().to_owned(),
        version: version.number,
        r#type: version.kind.clone(),
        digest: version.digest.clone(),
        size_bytes: version.size,
        phase_id: version.phase_id.clone(),
        task_id: version.task_id.clone(),
        hold_id: provenance.lease.as_ref().map(|lease| lease.holder.hold_id.clone()).unwrap_or_default(),
    });
    let actor = provenance.actor.clone();
    phasegate_outbox::event(&place.tenant, &place.instance, actor, version.created_at, payload)
}

fn agent(id: AgentId) -> Actor {
    Actor {
        kind: ActorKind::Agent.into(),
        id: id.into_string(),
        name: String::new(),
        email: String::new(),
        channel: Channel::Api.into(),
        on_behalf_of: String::new(),
    }
}
