//! Comments.

use phasegate_clock::Timestamp;
use phasegate_database::{Transaction, args};
use phasegate_id::CommentId;

use super::artifact::limit_of;
use super::{Error, Place, Store, row};
use crate::domain::comment::{Comment, Parent, Subject};

/// Where a page of comments begins: after this one.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct After {
    /// When it was written.
    pub created_at: Timestamp,
    /// Its id.
    pub id: CommentId,
}

/// What a list is narrowed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// About this; about anything when absent.
    pub subject: Option<Subject>,
    /// Internal ones, too.
    pub internal: bool,
}

/// Reads what an answer needs to know of the comment that it answers.
pub async fn parent_in(tx: &mut Transaction, place: &Place, id: &CommentId) -> Result<Option<Parent>, Error> {
    let found = tx
        .fetch_optional(
            "select subject, internal from comment where tenant_id = $1 and instance_id = $2 and comment_id = $3",
            args![place.tenant.as_str(), place.instance.as_str(), id.as_str()],
        )
        .await?;
    let Some(found) = found else { return Ok(None) };
    Ok(Some(Parent { subject: row::subject(&found, id.as_str())?, internal: found.get("internal")? }))
}

/// Writes a comment.
pub async fn comment_insert_in(tx: &mut Transaction, place: &Place, comment: &Comment) -> Result<(), Error> {
    tx.execute(
        "insert into comment (tenant_id, instance_id, comment_id, subject, parent_id, body, author, internal, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        args![
            place.tenant.as_str(),
            place.instance.as_str(),
            comment.id.as_str(),
            comment.subject.to_string(),
            comment.parent.as_ref().map(|parent| parent.as_str().to_owned()),
            &comment.body,
            &comment.author.0,
            comment.internal,
            comment.created_at,
        ],
    )
    .await?;
    Ok(())
}

// === impl Store ===

impl Store {
    /// Lists comments, oldest first.
    pub async fn comment_list(
        &self,
        place: &Place,
        filter: &Filter,
        after: Option<&After>,
        limit: usize,
    ) -> Result<Vec<Comment>, Error> {
        let (time, id) =
            after.map_or((i64::MIN, ""), |after| (after.created_at.as_micros(), after.id.as_str()));
        let mut args =
            args![place.tenant.as_str(), place.instance.as_str(), time, id, filter.internal, limit_of(limit)];
        let narrowed = match &filter.subject {
            Some(subject) => {
                args.push(subject.to_string().into());
                "and subject = $7"
            }
            None => "",
        };
        let sql = format!(
            "select comment_id, subject, parent_id, body, author, internal, created_at
               from comment
              where tenant_id = $1 and instance_id = $2 and (created_at, comment_id) > ($3, $4)
                and (not internal or $5) {narrowed}
              order by created_at, comment_id limit $6"
        );
        self.db.fetch_all(sql, args).await?.iter().map(row::comment).collect()
    }
}

#[cfg(test)]
mod tests {
    use phasegate_id::{InstanceId, TenantId};
    use phasegate_test_database::both;

    use super::*;
    use crate::domain::Author;
    use crate::store::MIGRATIONS;

    #[tokio::test]
    async fn comments_are_listed_oldest_first_by_subject_and_without_internal_ones() -> anyhow::Result<()> {
        both(|database| async move {
            let store = Store { db: database.open(&MIGRATIONS).await? };
            let here = Place { tenant: TenantId::trusted("default"), instance: InstanceId::trusted("i-1") };
            let written = [
                comment("cmt-3", "instance", 1, false),
                comment("cmt-1", "task:a", 2, true),
                comment("cmt-2", "task:a", 2, false),
                comment("cmt-0", "task:a", 3, false),
            ];
            for comment in written.clone() {
                insert(&store, &here, comment).await?;
            }
            let all = Filter { subject: None, internal: true };
            assert_eq!(store.comment_list(&here, &all, None, 9).await?, written);
            let after = After { created_at: Timestamp::from_micros(2), id: CommentId::trusted("cmt-1") };
            assert_eq!(store.comment_list(&here, &all, Some(&after), 1).await?, written[2..3]);
            let seen = Filter { subject: Some(Subject::Task("a".into())), internal: false };
            assert_eq!(store.comment_list(&here, &seen, None, 9).await?, written[2..]);
            let elsewhere = Place { tenant: TenantId::trusted("other"), ..here };
            assert!(store.comment_list(&elsewhere, &all, None, 9).await?.is_empty());
            Ok(())
        })
        .await
    }

    #[tokio::test]
    async fn an_answer_needs_its_parent() -> anyhow::Result<()> {
        both(|database| async move {
            let store = Store { db: database.open(&MIGRATIONS).await? };
            let here = Place { tenant: TenantId::trusted("default"), instance: InstanceId::trusted("i-1") };
            let orphan = Comment {
                parent: Some(CommentId::trusted("cmt-9")),
                ..comment("cmt-1", "instance", 1, false)
            };
            assert!(insert(&store, &here, orphan).await.is_err());
            insert(&store, &here, comment("cmt-9", "task:a", 1, true)).await?;
            let found = store
                .db
                .transaction(move |tx| {
                    Box::pin(async move { parent_in(tx, &here, &CommentId::trusted("cmt-9")).await })
                })
                .await?;
            assert_eq!(found, Some(Parent { subject: Subject::Task("a".into()), internal: true }));
            Ok(())
        })
        .await
    }

    async fn insert(store: &Store, place: &Place, comment: Comment) -> Result<(), Error> {
        let place = place.clone();
        store
            .db
            .transaction(move |tx| Box::pin(async move { comment_insert_in(tx, &place, &comment).await }))
            .await
    }

    fn comment(id: &str, subject: &str, micros: i64, internal: bool) -> Comment {
        Comment {
            id: CommentId::trusted(id),
            subject: Subject::parse(subject).unwrap(),
            parent: None,
            body: "looks good".into(),
            author: Author(b"somebody".to_vec()),
            internal,
            created_at: Timestamp::from_micros(micros),
        }
    }
}
