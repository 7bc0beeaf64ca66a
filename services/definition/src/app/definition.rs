//! Definitions: store, publish, read, check.

use std::sync::Arc;

use phasegate_clock::Timestamp;
use phasegate_database::Transaction;
use phasegate_id::TenantId;
use phasegate_idempotency::{Answer, run};
use phasegate_principal::Principal;
use phasegate_process::{Draft, Issue, Schema, Severity, validate};
use serde_json::Value;

use super::{App, Error, Once, Subject, aside, shown};
use crate::domain::{self, Author, Change, Status, Version, Warning};
use crate::store::definition::Newest;
use crate::store::{self};

/// Largest context that is checked.
const CONTEXT_BYTES_MAX: usize = 256 * 1024;

/// What a change left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The version as it is.
    pub version: Version,
    /// Nothing had to be done.
    pub unchanged: bool,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// Faults first, then warnings.
    pub issues: Vec<Issue>,
    /// Task ids in an order in which they could run; empty where there are faults.
    pub execution_order: Vec<String>,
}

/// A draft that was found sound, ready to be written.
#[derive(Debug)]
struct Sound {
    draft: Draft,
    content: Vec<u8>,
    digest: String,
    warnings: Vec<Warning>,
}

impl App {
    /// Stores a version and publishes it, unless it is to be held back.
    pub async fn definition_create(
        &self,
        principal: &Principal,
        draft: Draft,
        once: Option<Once<Kept>>,
    ) -> Result<Answer<Kept>, Error> {
        let tenant = Self::tenant(principal)?;
        let author = Self::author(principal);
        let sound = Arc::new(sound(draft).await?);
        let db = self.store.db();
        run(db, once.as_ref(), || {
            let (tenant, author, sound, once) =
                (tenant.clone(), author.clone(), Arc::clone(&sound), once.clone());
            let now = self.clock.now();
            db.transaction(move |tx| {
                Box::pin(async move {
                    let kept = create_in(tx, &tenant, &sound, author, now).await?;
                    if let Some(once) = once {
                        once.keep_in(tx, &kept, now).await?;
                    }
                    Ok::<_, Error>(kept)
                })
            })
        })
        .await
    }

    /// Says what storing a version would come to, and stores nothing.
    pub async fn definition_try(&self, principal: &Principal, draft: Draft) -> Result<Kept, Error> {
        let tenant = Self::tenant(principal)?;
        let sound = sound(draft).await?;
        let current =
            store::definition::load(self.store.db(), &tenant, &sound.draft.id, &sound.draft.version).await?;
        let change = domain::store(current.as_ref(), &sound.digest, sound.draft.draft)?;
        let unchanged = change == Change::Nothing;
        let version = match current {
            Some(current) if unchanged => current,
            Some(_) | None => sound.version(Self::author(principal), self.clock.now()),
        };
        Ok(Kept { version, unchanged })
    }

    /// Publishes a draft, if today's rules still find it sound.
    pub async fn definition_publish(
        &self,
        principal: &Principal,
        process_id: &str,
        version: &str,
        once: Option<Once<Kept>>,
    ) -> Result<Answer<Kept>, Error> {
        let tenant = Self::tenant(principal)?;
        let db = self.store.db();
        run(db, once.as_ref(), || async {
            let current = self.version(&tenant, process_id, version).await?;
            let change = domain::publish(&current);
            if change == Change::Publish {
                sound(read(&current)?).await?;
            }
            let (tenant, once) = (tenant.clone(), once.clone());
            let now = self.clock.now();
            db.transaction(move |tx| {
                Box::pin(async move {
                    let kept = apply_in(tx, &tenant, change, current, now).await?;
                    if let Some(once) = once {
                        once.keep_in(tx, &kept, now).await?;
                    }
                    Ok::<_, Error>(kept)
                })
            })
            .await
        })
        .await
    }

    /// One version; the latest published one where none is named.
    pub async fn definition_get(
        &self,
        principal: &Principal,
        process_id: &str,
        version: &str,
    ) -> Result<Version, Error> {
        let tenant = Self::tenant(principal)?;
        self.version(&tenant, process_id, version).await
    }

    /// A version that an instance may be started from.
    pub async fn definition_pin(
        &self,
        principal: &Principal,
        process_id: &str,
        version: &str,
    ) -> Result<Version, Error> {
        // The caller is a service that asks on behalf of whoever started the instance: that service has decided.
        let tenant = TenantId::trusted(principal.tenant.clone());
        let found = self.version(&tenant, process_id, version).await?;
        match found.status {
            Status::Published => Ok(found),
            Status::Draft => {
                Err(Error::NotStartable { process_id: found.process_id, version: found.version })
            }
        }
    }

    /// The newest version of every process after `after`, by id: at most `limit`, and less where they are large.
    pub async fn definition_list(
        &self,
        principal: &Principal,
        newest: Newest,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Version>, Error> {
        let tenant = Self::tenant(principal)?;
        Ok(store::definition::list(self.store.db(), &tenant, newest, after, limit).await?)
    }

    /// Versions of one process below `below`, newest first.
    pub async fn version_list(
        &self,
        principal: &Principal,
        process_id: &str,
        below: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Version>, Error> {
        let tenant = Self::tenant(principal)?;
        let found =
            store::definition::list_versions(self.store.db(), &tenant, process_id, below, limit).await?;
        if found.is_empty() && below.is_none() {
            return Err(not_found(process_id, ""));
        }
        Ok(found)
    }

    /// Checks a definition, and a context against it, without storing anything.
    pub async fn definition_check(
        &self,
        principal: &Principal,
        draft: Draft,
        context: Option<Value>,
    ) -> Result<Findings, Error> {
        Self::tenant(principal)?;
        aside(move || findings(&draft, context.as_ref())).await?
    }

    async fn version(&self, tenant: &TenantId, process_id: &str, version: &str) -> Result<Version, Error> {
        let db = self.store.db();
        let found = if version.is_empty() {
            store::definition::latest(db, tenant, process_id).await?
        } else {
            store::definition::load(db, tenant, process_id, version).await?
        };
        found.ok_or_else(|| not_found(process_id, version))
    }
}

impl Sound {
    fn version(&self, created_by: Author, now: Timestamp) -> Version {
        let status = if self.draft.draft { Status::Draft } else { Status::Published };
        Version {
            process_id: self.draft.id.clone(),
            version: self.draft.version.clone(),
            status,
            content: self.content.clone(),
            digest: self.digest.clone(),
            warnings: self.warnings.clone(),
            created_by,
            created_at: now,
            published_at: (status == Status::Published).then_some(now),
        }
    }
}

async fn create_in(
    tx: &mut Transaction,
    tenant: &TenantId,
    sound: &Sound,
    author: Author,
    now: Timestamp,
) -> Result<Kept, Error> {
    let current = store::definition::load_in(tx, tenant, &sound.draft.id, &sound.draft.version).await?;
    let change = domain::store(current.as_ref(), &sound.digest, sound.draft.draft)?;
    let version = match current {
        Some(current) if matches!(change, Change::Nothing | Change::Publish) => current,
        Some(_) | None => sound.version(author, now),
    };
    apply_in(tx, tenant, change, version, now).await
}

/// Writes a change. Whoever else wrote the same version in between makes it a race.
async fn apply_in(
    tx: &mut Transaction,
    tenant: &TenantId,
    change: Change,
    mut version: Version,
    now: Timestamp,
) -> Result<Kept, Error> {
    let written = match change {
        Change::Nothing => return Ok(Kept { version, unchanged: true }),
        Change::Add => store::definition::add_in(tx, tenant, &version).await?,
        Change::Replace => store::definition::replace_in(tx, tenant, &version).await?,
        Change::Publish => {
            version.status = Status::Published;
            version.published_at = Some(now);
            store::definition::publish_in(tx, tenant, &version, now).await?
        }
    };
    if written { Ok(Kept { version, unchanged: false }) } else { Err(Error::Overtaken) }
}

/// Checks a draft in full.
async fn sound(draft: Draft) -> Result<Sound, Error> {
    aside(move || {
        let checked = validate(&draft);
        if checked.is_too_large() {
            return Err(Error::TooLarge { subject: Subject::Definition, limits: checked.issues });
        }
        if checked.definition.is_none() {
            let faults = checked.faults().cloned().collect();
            return Err(Error::ValidationFailed { subject: Subject::Definition, faults });
        }
        let content = draft.canonical();
        let digest = phasegate_process::digest(&content);
        Ok(Sound { warnings: checked.warnings().map(Warning::from).collect(), draft, content, digest })
    })
    .await?
}

fn findings(draft: &Draft, context: Option<&Value>) -> Result<Findings, Error> {
    let checked = validate(draft);
    if checked.is_too_large() {
        return Err(Error::TooLarge { subject: Subject::Definition, limits: checked.issues });
    }
    let mut issues = context_faults(draft, context);
    let is_sound = issues.is_empty() && checked.definition.is_some();
    let order =
        checked.definition.iter().filter(|_| is_sound).flat_map(|definition| definition.execution_order());
    let execution_order = order.map(str::to_owned).collect();
    let warnings = checked.warnings().cloned().collect::<Vec<_>>();
    issues.splice(0..0, checked.faults().cloned());
    issues.extend(warnings);
    issues.truncate(100);
    Ok(Findings { issues, execution_order })
}

/// What the context has that the definition's schema does not allow.
fn context_faults(draft: &Draft, context: Option<&Value>) -> Vec<Issue> {
    let fault = |code, path: &str, message: String| Issue {
        severity: Severity::Error,
        code,
        path: format!("/context{path}"),
        message,
        max: None,
    };
    let Some(context) = context else { return Vec::new() };
    if context.to_string().len() > CONTEXT_BYTES_MAX {
        let message =
            format!("the context has more than {CONTEXT_BYTES_MAX} bytes; move texts into artifacts");
        return vec![fault("CONTEXT_TOO_LARGE", "", message)];
    }
    // A schema that cannot be used is a fault of the definition, and noted there.
    let schema = draft.context_schema.clone().map(Value::Object);
    let Some(Ok(schema)) = schema.as_ref().map(Schema::compile) else { return Vec::new() };
    let faults = schema.check(context);
    faults.into_iter().map(|found| fault("CONTEXT_INVALID", &found.path, found.message)).collect()
}

/// The draft that a stored version was.
fn read(version: &Version) -> Result<Draft, Error> {
    Draft::from_slice(&version.content).map_err(|_| {
        let row = format!("{} {}", version.process_id, version.version);
        Error::Store(store::Error::Inconsistent { table: "definition", row })
    })
}

fn not_found(process_id: &str, version: &str) -> Error {
    Error::ProcessNotFound { process_id: shown(process_id), version: shown(version) }
}
