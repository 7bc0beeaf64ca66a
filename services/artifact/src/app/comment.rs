//! Writing and reading comments.

use std::sync::Arc;

use phasegate_id::{CommentId, InstanceId};
use phasegate_idempotency::{Answer, run};
use phasegate_principal::{Permission, Principal};
use phasegate_proto::internal::event::v1::CommentCreated;
use phasegate_proto::internal::event::v1::event::Payload;
use prost::Message as _;

use super::{App, Error, Once};
use crate::domain::Author;
use crate::domain::comment::{self as rules, Comment, Draft, Subject, Writer};
use crate::store::Place;
use crate::store::comment::{self as rows, Filter};

pub use crate::store::comment::After;

/// A comment where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Instance.
    pub instance: InstanceId,
    /// The comment.
    pub comment: Comment,
}

// === impl App ===

impl App {
    /// Writes a comment.
    pub async fn comment_create(
        &self,
        principal: &Principal,
        instance_id: &str,
        draft: Draft,
        once: Option<Once<Written>>,
    ) -> Result<Answer<Written>, Error> {
        let place = Self::place(principal, instance_id)?;
        self.instances.exists(&place).await?;
        let writer = if principal.participation.is_some() {
            Writer::Participant { may_comment: principal.permits(Permission::Comment) }
        } else {
            Writer::Inside
        };
        // Permission comes before the first answer: one that was taken away is gone for repetitions, too.
        rules::may_write(writer, &draft)?;
        let draft = Arc::new(draft);
        let done = run(self.store.db(), once.as_ref(), || {
            self.comment_create_once(principal, &place, Arc::clone(&draft), writer, once.clone())
        })
        .await;
        self.relay.wake();
        done
    }

    /// Lists comments that the caller may see, oldest first.
    pub async fn comment_list(
        &self,
        principal: &Principal,
        instance_id: &str,
        subject: Option<Subject>,
        after: Option<&After>,
        limit: usize,
    ) -> Result<Vec<Comment>, Error> {
        let place = self.readable(principal, instance_id).await?;
        let filter = Filter { subject, internal: principal.participation.is_none() };
        Ok(self.store.comment_list(&place, &filter, after, limit).await?)
    }

    /// Whether an instance has something to comment on.
    async fn is_there(&self, principal: &Principal, place: &Place, subject: &Subject) -> Result<bool, Error> {
        match subject {
            Subject::Instance => Ok(true),
            Subject::Phase(id) => Ok(self.instances.parts(place).await?.phases.contains(id)),
            Subject::Task(id) => Ok(self.instances.parts(place).await?.tasks.contains(id)),
            Subject::Approval(id) => self.instances.has_approval(principal, place, id).await,
            Subject::Artifact(key) => {
                Ok(!self.store.artifact_current(place, &[key.as_str().to_owned()]).await?.is_empty())
            }
        }
    }

    async fn comment_create_once(
        &self,
        principal: &Principal,
        place: &Place,
        draft: Arc<Draft>,
        writer: Writer,
        once: Option<Once<Written>>,
    ) -> Result<Written, Error> {
        if !self.is_there(principal, place, &draft.subject).await? {
            return Err(rules::Rejection::SubjectUnknown(draft.subject.clone()).into());
        }
        let now = self.clock.now();
        let actor = principal.actor();
        let place = place.clone();
        self.store
            .db()
            .transaction(move |tx| {
                Box::pin(async move {
                    let parent = match &draft.parent {
                        Some(id) => rows::parent_in(tx, &place, id).await?,
                        None => None,
                    };
                    rules::decide(writer, &draft, parent.as_ref())?;
                    let comment = Comment {
                        id: CommentId::generate(),
                        subject: draft.subject.clone(),
                        parent: draft.parent.clone(),
                        body: draft.body.clone(),
                        author: Author(actor.encode_to_vec()),
                        internal: draft.internal,
                        created_at: now,
                    };
                    rows::comment_insert_in(tx, &place, &comment).await?;
                    let payload = Payload::CommentCreated(CommentCreated {
                        comment_id: comment.id.as_str().to_owned(),
                        subject: comment.subject.to_string(),
                        body: comment.body.clone(),
                        internal: comment.internal,
                    });
                    let event = phasegate_outbox::event(&place.tenant, &place.instance, actor, now, payload);
                    phasegate_outbox::append(tx, &event).await?;
                    let written = Written { instance: place.instance, comment };
                    if let Some(once) = once {
                        once.keep_in(tx, &written, now).await?;
                    }
                    Ok(written)
                })
            })
            .await
    }
}
