//! Links of notifications, fresh ones, and the end of an instance.

use std::time::Duration;

use crate::world::{INSTANCE, World, metadata, operator, participant, refused, token_of, wish};
use phasegate_clock::{Clock as _, Timestamp};
use phasegate_principal::{Permission, Principal};
use phasegate_proto::instance::v1::InstanceStatus;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_proto::internal::event::v1::{Event, FreshLinkAsked};
use phasegate_proto::internal::participant::v1::{EnsureLinkRequest, ExchangeLinkRequest, SignLinkRequest};
use phasegate_proto::participant::v1::{
    CreateLinkRequest, LinkPermission, LinkStatus, RequestNewLinkRequest,
};
use phasegate_test_database::both;
use tonic::Code;

use crate::calls::{DAY, HOUR, ensure, exchange, for_notification, renew, renew_of_session, verify};

#[tokio::test]
async fn a_called_off_instance_ends_its_links_and_a_completed_one_does_not() -> anyhow::Result<()> {
    both(|database| async move {
        for (status, revoked) in [
            (InstanceStatus::Cancelled, true),
            (InstanceStatus::Failed, true),
            (InstanceStatus::Completed, false),
        ] {
            let database = match database.dialect() {
                phasegate_database::Dialect::Sqlite => phasegate_test_database::sqlite().await?,
                phasegate_database::Dialect::Postgres => phasegate_test_database::postgres().await?,
            };
            let world = World::start(&database).await?;
            let (made, token) = world.link().await?;
            let id = made.link.unwrap_or_default().id;
            let session = exchange(&world, &token).await?;
            world.end(status).await?;
            world.end(status).await?;
            let answer = verify(&world, &session, &id, false).await;
            if revoked {
                let status = refused(answer, Code::Unauthenticated, "LINK_REVOKED", "called off")?;
                assert_eq!(metadata(&status, "renewable").as_deref(), Some("false"));
                assert_eq!(world.heard.events(2).await?.len(), 2);
                renew(&world, &token).await?;
                assert_eq!(world.heard.events(2).await?.len(), 2);
            } else {
                answer?;
            }
            // The instance service may be behind; the event is not.
            world.instance.set_status(INSTANCE, InstanceStatus::Running);
            let answer = world.links().create_link(world.call(&operator(), wish("it_admin"))).await;
            refused(answer, Code::FailedPrecondition, "INSTANCE_TERMINAL", "ended")?;
            // A mail that tells of the end has a link all the same, which says so where all is over.
            let link = ensure(&world, "ntf-end", None).await?;
            let expected = if revoked { LinkStatus::Revoked } else { LinkStatus::Active };
            assert_eq!(link.status(), expected, "{status:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_link_of_a_notification_is_made_once_and_signed_whenever() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let wanted = world.clock.now() + 3 * DAY;
        let link = ensure(&world, "ntf-1", Some(wanted)).await?;
        let end = link.expires_at.as_ref().and_then(Timestamp::from_proto).unwrap_or_default();
        assert!(end <= wanted && wanted.duration_since(end) < Duration::from_secs(1));
        // Eight links of notifications are no crowd.
        let mut makers = tokio::task::JoinSet::new();
        for number in 0..16 {
            let (mut client, purpose) = (world.internal(), format!("ntf-{}", number % 8));
            let call =
                world.call(&Principal::system("notification", "default"), for_notification(&purpose, None));
            makers.spawn(async move { client.ensure_link(call).await });
        }
        while let Some(done) = makers.join_next().await {
            assert_eq!(done??.into_inner().link.unwrap_or_default().status(), LinkStatus::Active);
        }
        assert_eq!(ensure(&world, "ntf-1", Some(wanted + DAY)).await?, link);
        assert_eq!(world.rows().await?[1], 8);
        assert_eq!(world.heard.events(8).await?.len(), 8);

        let system = Principal::system("notification", "default");
        let sign = |id: &str| SignLinkRequest { link_id: id.into() };
        let mut client = world.internal();
        let url = client.sign_link(world.call(&system, sign(&link.id))).await?.into_inner().url;
        assert_eq!(client.sign_link(world.call(&system, sign(&link.id))).await?.into_inner().url, url);
        exchange(&world, &token_of(&url)?).await?;

        let person = participant(INSTANCE, &[Permission::View]);
        let answer = client.sign_link(world.call(&person, sign(&link.id))).await;
        refused(answer, Code::PermissionDenied, "ROLE_FORBIDDEN", "a person signs")?;
        let answer = client.ensure_link(world.call(&person, for_notification("ntf-9", None))).await;
        refused(answer, Code::PermissionDenied, "ROLE_FORBIDDEN", "a person ensures")?;
        let other = Principal::system("notification", "other");
        refused(
            client.sign_link(world.call(&other, sign(&link.id))).await,
            Code::NotFound,
            "LINK_NOT_FOUND",
            "tenant",
        )?;
        refused(
            client.sign_link(world.call(&system, sign("lnk-9"))).await,
            Code::NotFound,
            "LINK_NOT_FOUND",
            "unknown",
        )?;
        let nobody = EnsureLinkRequest { participant_id: "nobody".into(), ..for_notification("ntf-9", None) };
        refused(
            client.ensure_link(world.call(&system, nobody)).await,
            Code::NotFound,
            "PARTICIPANT_NOT_FOUND",
            "nobody",
        )?;
        refused(
            client.ensure_link(world.call(&system, for_notification("", None))).await,
            Code::InvalidArgument,
            "TEXT_INVALID",
            "purpose",
        )?;
        world.clock.advance(3 * DAY);
        refused(
            client.sign_link(world.call(&system, sign(&link.id))).await,
            Code::Unauthenticated,
            "LINK_EXPIRED",
            "late",
        )?;
        Ok(())
    })
    .await
}

/// Who was let in to look, and asks again, is let in to look.
#[tokio::test]
async fn a_fresh_link_allows_what_the_old_one_did() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let view = [LinkPermission::View];
        let request = CreateLinkRequest {
            permissions: view.iter().map(|permission| (*permission).into()).collect(),
            ..wish("it_admin")
        };
        let made = world.links().create_link(world.call(&operator(), request)).await?.into_inner();
        // Five more of the person's own are no crowd for it, nor it for them.
        let mut others = Vec::new();
        world.clock.advance(7 * DAY);
        for _ in 0..5 {
            others.push(world.link().await?.1);
        }
        renew(&world, &token_of(&made.url)?).await?;
        let events = world.heard.events(8).await?;
        let asked = asked(&events);
        let (_, told) = &asked[0];
        let old = made.link.unwrap_or_default();
        assert_eq!((told.old_link_id.as_str(), told.participant_id.as_str()), (old.id.as_str(), "it_admin"));
        let system = Principal::system("notification", "default");
        let sign = SignLinkRequest { link_id: told.new_link_id.clone() };
        let url = world.internal().sign_link(world.call(&system, sign)).await?.into_inner().url;
        let opened = world.gateway(ExchangeLinkRequest { token: token_of(&url)? });
        let link = world.internal().exchange_link(opened).await?.into_inner().link.unwrap_or_default();
        assert_eq!(link.id, told.new_link_id);
        assert_eq!(link.permissions().collect::<Vec<_>>(), view);
        let end = link.expires_at.as_ref().and_then(Timestamp::from_proto).unwrap_or_default();
        assert!((world.clock.now() + 7 * DAY).duration_since(end) < Duration::from_secs(1));
        for token in others {
            exchange(&world, &token).await?;
        }
        Ok(())
    })
    .await
}

/// A link that has been used from too many places lets nobody else decide: its holder needs another one.
#[tokio::test]
async fn an_exhausted_link_can_be_replaced() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let (made, token) = world.link().await?;
        let id = made.link.unwrap_or_default().id;
        for _ in 0..10 {
            let session = exchange(&world, &token).await?;
            verify(&world, &session, &id, true).await?;
        }
        let session = exchange(&world, &token).await?;
        let refusal = verify(&world, &session, &id, true).await;
        refused(refusal, Code::ResourceExhausted, "LINK_EXHAUSTED", "the eleventh")?;
        renew(&world, &token).await?;
        let events = world.heard.events(4).await?;
        assert_eq!(asked(&events).len(), 1);
        // Whoever came in has no token any more: the session asks. One of another link, or none, asks for nothing.
        for (session, link) in [(session.as_str(), "lnk-other"), ("nonsense", id.as_str()), ("", id.as_str())]
        {
            renew_of_session(&world, session, link).await?;
        }
        renew_of_session(&world, &session, &id).await?;
        let events = world.heard.events(6).await?;
        assert_eq!((events.len(), asked(&events).len()), (6, 2));
        Ok(())
    })
    .await
}

fn asked(events: &[Event]) -> Vec<(&Event, &FreshLinkAsked)> {
    let asked = events.iter().filter_map(|event| {
        if let Some(Payload::FreshLinkAsked(asked)) = &event.payload { Some((event, asked)) } else { None }
    });
    asked.collect()
}

#[tokio::test]
async fn a_fresh_link_is_asked_for_three_times_an_hour_at_most() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let (_, token) = world.link().await?;
        // A link that works, and what is no link, ask for nothing; the answer is the same.
        for token in [token.as_str(), "", "nonsense"] {
            renew(&world, token).await?;
        }
        world.clock.advance(7 * DAY);
        let mut askers = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let message = RequestNewLinkRequest { token: token.clone() };
            let (mut client, call) = (world.links(), world.gateway(message));
            askers.spawn(async move { client.request_new_link(call).await });
        }
        while let Some(done) = askers.join_next().await {
            done??;
        }
        // Each comes with its link.
        let events = world.heard.events(7).await?;
        assert_eq!(events.len(), 7);
        let asked = asked(&events);
        assert_eq!(asked.len(), 3);
        for (event, asked) in &asked {
            assert_eq!(asked.participant_id, "it_admin");
            assert_eq!((event.tenant_id.as_str(), event.instance_id.as_str()), ("default", INSTANCE));
        }
        world.clock.advance(HOUR);
        renew(&world, &token).await?;
        assert_eq!(world.heard.events(9).await?.len(), 9);
        Ok(())
    })
    .await
}
