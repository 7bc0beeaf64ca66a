//! Team templates, and the teams made from them.

use std::sync::Arc;

use phasegate_clock::Timestamp;
use phasegate_database::Transaction;
use phasegate_id::{TeamId, TenantId};
use phasegate_idempotency::{Answer, run};
use phasegate_principal::Principal;
use phasegate_process::{Schema, Severity, TeamDraft, slug, validate_template};
use phasegate_rpc_error::Invalid;
use serde_json::Value;

use super::{App, Error, Once, Subject, aside, shown};
use crate::domain::{Template, Warning};
use crate::store;
use crate::store::template::Team;

/// Largest onboarding values.
const ONBOARDING_BYTES_MAX: usize = 256 * 1024;
/// Longest name.
const NAME_CHARS_MAX: usize = 200;

/// What a change left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The template as it is.
    pub template: Template,
    /// Nothing had to be done.
    pub unchanged: bool,
}

/// What a caller says of a new team.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Template.
    pub template_id: String,
    /// Name; the template's where it is empty.
    pub name: String,
    /// Values, an object.
    pub onboarding: Value,
}

/// A team that was made.
#[derive(Debug, Clone)]
pub struct Made {
    /// Its id.
    pub id: TeamId,
    /// Its template, as the author wrote it.
    pub template: TeamDraft,
    /// Its name.
    pub name: String,
    /// Its values.
    pub onboarding: Value,
    /// When.
    pub created_at: Timestamp,
}

impl App {
    /// Stores a template. The same content under the same id is there already.
    pub async fn template_create(
        &self,
        principal: &Principal,
        draft: TeamDraft,
        once: Option<Once<Kept>>,
    ) -> Result<Answer<Kept>, Error> {
        let tenant = Self::tenant(principal)?;
        let (draft, warnings) = sound(draft).await?;
        let template = Arc::new(Template {
            id: draft.id.clone(),
            content: draft.canonical(),
            warnings,
            created_by: Self::author(principal),
            created_at: self.clock.now(),
        });
        let db = self.store.db();
        run(db, once.as_ref(), || {
            let (tenant, template, once) = (tenant.clone(), Arc::clone(&template), once.clone());
            db.transaction(move |tx| {
                Box::pin(async move {
                    let kept = create_in(tx, &tenant, &template).await?;
                    if let Some(once) = once {
                        once.keep_in(tx, &kept, template.created_at).await?;
                    }
                    Ok::<_, Error>(kept)
                })
            })
        })
        .await
    }

    /// Says what storing a template would come to, and stores nothing.
    pub async fn template_try(&self, principal: &Principal, draft: TeamDraft) -> Result<Kept, Error> {
        let tenant = Self::tenant(principal)?;
        let (draft, warnings) = sound(draft).await?;
        let content = draft.canonical();
        if let Some(current) = store::template::load(self.store.db(), &tenant, &draft.id).await? {
            return same(current, &content);
        }
        let (created_by, created_at) = (Self::author(principal), self.clock.now());
        let template = Template { id: draft.id, content, warnings, created_by, created_at };
        Ok(Kept { template, unchanged: false })
    }

    /// One template.
    pub async fn template_get(&self, principal: &Principal, id: &str) -> Result<Template, Error> {
        let tenant = Self::tenant(principal)?;
        let found = store::template::load(self.store.db(), &tenant, id).await?;
        found.ok_or_else(|| Error::TemplateNotFound { id: shown(id) })
    }

    /// Templates after `after`, by id: at most `limit`, and less where they are large.
    pub async fn template_list(
        &self,
        principal: &Principal,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Template>, Error> {
        let tenant = Self::tenant(principal)?;
        Ok(store::template::list(self.store.db(), &tenant, after, limit).await?)
    }

    /// Makes a team from a template. `message` writes it as readers get it.
    pub async fn team_make(
        &self,
        principal: &Principal,
        wanted: Wanted,
        message: fn(&Made) -> Result<Vec<u8>, Error>,
        once: Option<Once<Made>>,
    ) -> Result<Answer<Made>, Error> {
        let tenant = Self::tenant(principal)?;
        let name_fits =
            wanted.name.chars().count() <= NAME_CHARS_MAX && !wanted.name.chars().any(char::is_control);
        if !name_fits {
            return Err(
                Invalid::new("NAME_INVALID", "name", "must be one line of at most 200 characters").into()
            );
        }
        let db = self.store.db();
        run(db, once.as_ref(), || async {
            let template = self.template_get(principal, &wanted.template_id).await?;
            let template = read(&template)?;
            fit(&template, wanted.onboarding.clone()).await?;
            let made = Made {
                id: TeamId::generate(),
                name: if wanted.name.is_empty() { template.name.clone() } else { wanted.name.clone() },
                template,
                onboarding: wanted.onboarding.clone(),
                created_at: self.clock.now(),
            };
            let team = Team {
                id: made.id.clone(),
                template_id: made.template.id.clone(),
                message: message(&made)?,
                created_at: made.created_at,
            };
            let (tenant, once) = (tenant.clone(), once.clone());
            db.transaction(move |tx| {
                Box::pin(async move {
                    store::template::team_add_in(tx, &tenant, &team).await?;
                    if let Some(once) = once {
                        once.keep_in(tx, &made, made.created_at).await?;
                    }
                    Ok::<_, Error>(made)
                })
            })
            .await
        })
        .await
    }

    /// One team, as it was written when it was made.
    pub async fn team_get(&self, principal: &Principal, id: &str) -> Result<Vec<u8>, Error> {
        let tenant = Self::tenant(principal)?;
        let found = store::template::team_load(self.store.db(), &tenant, id).await?;
        found.ok_or_else(|| Error::TeamNotFound { id: shown(id) })
    }
}

async fn create_in(tx: &mut Transaction, tenant: &TenantId, template: &Template) -> Result<Kept, Error> {
    if let Some(current) = store::template::load_in(tx, tenant, &template.id).await? {
        return same(current, &template.content);
    }
    if !store::template::add_in(tx, tenant, template).await? {
        return Err(Error::Overtaken);
    }
    Ok(Kept { template: template.clone(), unchanged: false })
}

/// What is there, if it is what was given.
fn same(current: Template, content: &[u8]) -> Result<Kept, Error> {
    if current.content != content {
        return Err(Error::TemplateExists { id: current.id });
    }
    Ok(Kept { template: current, unchanged: true })
}

/// Checks a template in full, and gives it an id.
async fn sound(mut draft: TeamDraft) -> Result<(TeamDraft, Vec<Warning>), Error> {
    aside(move || {
        let checked = validate_template(&draft);
        if checked.is_too_large() {
            return Err(Error::TooLarge { subject: Subject::Template, limits: checked.issues });
        }
        if !checked.is_sound() {
            let faults =
                checked.issues.into_iter().filter(|issue| issue.severity == Severity::Error).collect();
            return Err(Error::ValidationFailed { subject: Subject::Template, faults });
        }
        if draft.id.is_empty() {
            draft.id = slug(&draft.name).unwrap_or_default();
        }
        Ok((draft, checked.issues.iter().map(Warning::from).collect()))
    })
    .await?
}

/// Refuses values that do not fit the template's schema.
async fn fit(template: &TeamDraft, onboarding: Value) -> Result<(), Error> {
    let id = template.id.clone();
    let schema = template.shared_onboarding.clone().map(Value::Object);
    if onboarding.to_string().len() > ONBOARDING_BYTES_MAX {
        let message = format!("must be at most {ONBOARDING_BYTES_MAX} bytes");
        return Err(Invalid::new("ONBOARDING_INVALID", "onboarding", message).into());
    }
    let Some(schema) = schema else { return Ok(()) };
    let faults = aside(move || Schema::compile(&schema).map(|schema| schema.check(&onboarding))).await?;
    match faults {
        Ok(faults) if faults.is_empty() => Ok(()),
        Ok(faults) => Err(Error::OnboardingInvalid { id, faults }),
        Err(_) => Err(inconsistent(&id)),
    }
}

/// The draft that a stored template was.
fn read(template: &Template) -> Result<TeamDraft, Error> {
    TeamDraft::from_slice(&template.content).map_err(|_| inconsistent(&template.id))
}

fn inconsistent(id: &str) -> Error {
    Error::Store(store::Error::Inconsistent { table: "team_template", row: id.to_owned() })
}
