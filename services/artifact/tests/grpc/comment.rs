//! Comments.

use std::time::Duration;

use crate::world::{INSTANCE, World, is_repeated, operator, participant, refused};
use anyhow::Context as _;
use phasegate_database::{Database, args};
use phasegate_principal::Permission;
use phasegate_proto::artifact::v1::{CreateCommentRequest, ListCommentsRequest};
use phasegate_proto::instance::v1::InstanceStatus;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_test_database::{both, postgres};
use tonic::Code;

/// Ids of people are those of the definition: in another instance the same one is somebody else.
#[tokio::test]
async fn people_of_two_instances_have_request_ids_of_their_own() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        world.instance.set_status("i-2", InstanceStatus::Running);
        let mut client = world.comments();
        let mut ids = Vec::new();
        for (instance, body) in [(INSTANCE, "hello"), ("i-2", "good morning")] {
            let person = participant(instance, &[Permission::View, Permission::Comment]);
            let request = CreateCommentRequest {
                instance_id: instance.into(),
                body: body.into(),
                request_id: "r-1".into(),
                ..Default::default()
            };
            let written = client.create_comment(world.call(&person, request.clone())).await?;
            assert!(!is_repeated(&written));
            let comment = written.into_inner().comment.unwrap_or_default();
            assert_eq!((comment.instance_id.as_str(), comment.body.as_str()), (instance, body));
            let again = client.create_comment(world.call(&person, request)).await?;
            assert!(is_repeated(&again));
            assert_eq!(again.into_inner().comment.unwrap_or_default().id, comment.id);
            ids.push(comment.id);
        }
        assert_ne!(ids[0], ids[1]);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn people_comment_on_the_requests_that_they_see() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let person = participant(INSTANCE, &[Permission::View, Permission::Comment]);
        for (principal, id, is_seen) in [
            (operator(), "apr-own", true),
            (operator(), "apr-other", true),
            (operator(), "apr-far", false),
            (operator(), "apr-none", false),
            (person.clone(), "apr-own", true),
            (person.clone(), "apr-other", false),
            (person, "apr-far", false),
        ] {
            let request = CreateCommentRequest {
                instance_id: INSTANCE.into(),
                subject: format!("approval:{id}"),
                body: "why?".into(),
                ..Default::default()
            };
            let answer = world.comments().create_comment(world.call(&principal, request)).await;
            if is_seen {
                let comment = answer?.into_inner().comment.unwrap_or_default();
                assert_eq!(comment.subject, format!("approval:{id}"));
            } else {
                refused(answer, Code::InvalidArgument, "SUBJECT_INVALID", id)?;
            }
        }
        Ok(())
    })
    .await
}

/// The connection is lost over the commit: the comment may be there. Written again, it might be there twice.
#[tokio::test]
async fn what_may_have_been_committed_is_not_done_again() -> anyhow::Result<()> {
    let database = postgres().await?;
    let world = World::start(&database).await?;
    let db =
        Database::open(&database.settings(), &phasegate_artifact::store::MIGRATIONS).await?.across_tenants();
    db.transaction(|tx| {
        Box::pin(async move {
            // A sequence keeps count whatever becomes of the transaction.
            tx.execute("create sequence tries", args![]).await?;
            tx.execute(
                "create function lose() returns trigger language plpgsql as $$
                 begin perform nextval('tries'); perform pg_terminate_backend(pg_backend_pid()); return null; end $$",
                args![],
            )
            .await?;
            tx.execute(
                "create constraint trigger comment_lost after insert on comment
                     deferrable initially deferred for each row execute function lose()",
                args![],
            )
            .await?;
            Ok::<_, phasegate_database::Error>(())
        })
    })
    .await?;
    for (tries, request_id) in [(1_i64, ""), (2, "r-1")] {
        let request = CreateCommentRequest {
            instance_id: INSTANCE.into(),
            body: "hello".into(),
            request_id: request_id.into(),
            ..Default::default()
        };
        let answer = world.comments().create_comment(world.call(&operator(), request)).await;
        refused(answer, Code::Unavailable, "STORE_UNAVAILABLE", request_id)?;
        let row = db.fetch_optional("select last_value from tries", args![]).await?;
        assert_eq!(row.context("no row")?.get::<i64>("last_value")?, tries, "{request_id:?}");
    }
    Ok(())
}

#[tokio::test]
async fn comments_are_written_answered_repeated_and_refused() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let mut client = world.comments();
        let person = participant(INSTANCE, &[Permission::View, Permission::Comment]);
        let write = |subject: &str, body: &str, parent: &str, internal| CreateCommentRequest {
            instance_id: INSTANCE.into(),
            subject: subject.into(),
            parent_id: parent.into(),
            body: body.into(),
            internal,
            request_id: format!("{subject}-{body}-{parent}")
                .chars()
                .take(64)
                .filter(|c| !c.is_whitespace())
                .collect(),
        };
        let open = write("task:gather", "ready?", "", false);
        let comment = client
            .create_comment(world.call(&operator(), open.clone()))
            .await?
            .into_inner()
            .comment
            .unwrap_or_default();
        assert_eq!((comment.subject.as_str(), comment.body.as_str()), ("task:gather", "ready?"));
        let repeated = client.create_comment(world.call(&operator(), open)).await?;
        assert!(is_repeated(&repeated));
        assert_eq!(repeated.into_inner().comment.unwrap_or_default(), comment);
        let hidden =
            client.create_comment(world.call(&operator(), write("task:gather", "secret", "", true))).await?;
        let hidden = hidden.into_inner().comment.unwrap_or_default();
        world.clock.advance(Duration::from_secs(1));
        let reply = client
            .create_comment(world.call(&person, write("task:gather", "soon", &comment.id, false)))
            .await?;
        let reply = reply.into_inner().comment.unwrap_or_default();
        assert_eq!(reply.author.clone().unwrap_or_default().name, "John Smith");
        let whole = client.create_comment(world.call(&person, write("", "hello", "", false))).await?;
        assert_eq!(whole.into_inner().comment.unwrap_or_default().subject, "instance");
        let events = world.heard.events(4).await?;
        assert!(
            matches!(&events[0].payload, Some(Payload::CommentCreated(told)) if told.comment_id == comment.id)
        );

        let before = world.rows().await?;
        let reader = participant(INSTANCE, &[Permission::View]);
        let invalid = Code::InvalidArgument;
        for (principal, request, code, reason) in [
            (operator(), write("gate:x", "x", "", false), invalid, "SUBJECT_INVALID"),
            (operator(), write("task:paint", "x", "", false), invalid, "SUBJECT_INVALID"),
            (operator(), write("phase:later", "x", "", false), invalid, "SUBJECT_INVALID"),
            (operator(), write("artifact:plan", "x", "", false), invalid, "SUBJECT_INVALID"),
            (operator(), write("instance", " ", "", false), invalid, "TEXT_INVALID"),
            (operator(), write("instance", &"x".repeat((16 << 10) + 1), "", false), invalid, "TEXT_INVALID"),
            (operator(), write("instance", "x", &comment.id, false), invalid, "COMMENT_PARENT_INVALID"),
            (operator(), write("instance", "x", "cmt-9", false), invalid, "COMMENT_PARENT_INVALID"),
            (operator(), write("task:gather", "x", &hidden.id, false), invalid, "COMMENT_PARENT_INVALID"),
            (person.clone(), write("task:gather", "x", &hidden.id, false), invalid, "COMMENT_PARENT_INVALID"),
            (
                person.clone(),
                write("instance", "x", "", true),
                Code::PermissionDenied,
                "LINK_PERMISSION_MISSING",
            ),
            (reader, write("instance", "x", "", false), Code::PermissionDenied, "LINK_PERMISSION_MISSING"),
            (
                participant("i-2", &[Permission::Comment]),
                write("instance", "x", "", false),
                Code::NotFound,
                "INSTANCE_NOT_FOUND",
            ),
        ] {
            let what = format!("{principal:?} {request:?}");
            refused(client.create_comment(world.call(&principal, request)).await, code, reason, &what)?;
        }
        assert_eq!(world.rows().await?, before);

        let list = |subject: &str, page_size, page_token: String| ListCommentsRequest {
            instance_id: INSTANCE.into(),
            subject: subject.into(),
            page_size,
            page_token,
        };
        for (principal, subject, expected) in [
            (operator(), "", vec!["ready?", "secret", "soon", "hello"]),
            (person.clone(), "", vec!["ready?", "soon", "hello"]),
            (person, "task:gather", vec!["ready?", "soon"]),
            (operator(), "artifact:plan", vec![]),
        ] {
            let mut bodies = Vec::new();
            let mut token = String::new();
            loop {
                let page =
                    client.list_comments(world.call(&principal, list(subject, 1, token))).await?.into_inner();
                bodies.extend(page.comments.into_iter().map(|comment| comment.body));
                token = page.next_page_token;
                if token.is_empty() {
                    break;
                }
            }
            assert_eq!(bodies, expected, "{principal:?} {subject}");
        }
        let answer = client.list_comments(world.call(&operator(), list("nonsense", 0, String::new()))).await;
        refused(answer, invalid, "SUBJECT_INVALID", "list")?;
        Ok(())
    })
    .await
}
