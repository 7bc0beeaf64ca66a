//! Links that are asked for.

use std::time::Duration;

use crate::world::{INSTANCE, World, is_repeated, metadata, operator, participant, refused, token_of, wish};
use phasegate_clock::{Clock as _, Timestamp};
use phasegate_principal::{Permission, Principal};
use phasegate_proto::instance::v1::InstanceStatus;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_proto::internal::participant::v1::SignLinkRequest;
use phasegate_proto::participant::v1::{
    CreateLinkRequest, Link, LinkPermission, LinkStatus, ListLinksRequest, RevokeLinkRequest,
};
use phasegate_test_database::both;
use tonic::Code;

use crate::calls::{DAY, HOUR, MINUTE, exchange, verify};

#[tokio::test]
async fn a_link_is_made_told_of_and_repeated() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let mut client = world.links();
        let request = CreateLinkRequest {
            email: " IT-Admin@acme.com".into(),
            expires_in: "2d".into(),
            request_id: "r-1".into(),
            ..wish("it_admin")
        };
        let made = client.create_link(world.call(&operator(), request.clone())).await?;
        assert!(!is_repeated(&made));
        let made = made.into_inner();
        let link = made.link.clone().unwrap_or_default();
        let usual = [LinkPermission::View, LinkPermission::Approve, LinkPermission::Comment];
        assert_eq!(link.permissions().collect::<Vec<_>>(), usual);
        assert_eq!((link.status(), link.email.as_str()), (LinkStatus::Active, "it-admin@acme.com"));
        let end = link.expires_at.as_ref().and_then(Timestamp::from_proto).unwrap_or_default();
        assert!((world.clock.now() + 2 * DAY).duration_since(end) < Duration::from_secs(1));
        let token = token_of(&made.url)?;
        assert!(token.starts_with("eyJ"));
        let events = world.heard.events(1).await?;
        assert!(
            matches!(&events[0].payload, Some(Payload::LinkCreated(told)) if told.link_id == link.id),
            "{events:?}"
        );

        let before = world.rows().await?;
        world.clock.advance(HOUR);
        let repeated = client.create_link(world.call(&operator(), request.clone())).await?;
        assert!(is_repeated(&repeated));
        assert_eq!(repeated.into_inner(), made);
        let other = CreateLinkRequest { expires_in: "3d".into(), ..request };
        let answer = client.create_link(world.call(&operator(), other)).await;
        refused(answer, Code::InvalidArgument, "REQUEST_ID_REUSED", "another request")?;
        assert_eq!(world.rows().await?, before);
        // Neither the kept answer nor anything else holds the token.
        let dump = world.dump().await?;
        let signature = token.rsplit('.').next().unwrap_or_default();
        assert!(dump.contains(&link.id));
        assert!(!signature.is_empty() && !dump.contains(signature) && !dump.contains("eyJ"));

        // Of somebody who is only informed, the link allows no more than that.
        let informed = client.create_link(world.call(&operator(), wish("sponsor"))).await?.into_inner();
        let allowed = informed.link.unwrap_or_default();
        assert_eq!(
            allowed.permissions().collect::<Vec<_>>(),
            [LinkPermission::View, LinkPermission::Comment]
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_link_that_may_not_be_is_refused_and_leaves_no_trace() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let mut client = world.links();
        let with =
            |permissions: &[i32]| CreateLinkRequest { permissions: permissions.to_vec(), ..wish("it_admin") };
        let lasting =
            |expires_in: &str| CreateLinkRequest { expires_in: expires_in.into(), ..wish("it_admin") };
        let invalid = Code::InvalidArgument;
        let before = world.rows().await?;
        for (what, request, code, reason) in [
            ("inside", wish("lead"), invalid, "PARTICIPANT_INVALID"),
            ("no address", wish("ghost"), invalid, "PARTICIPANT_INVALID"),
            ("unknown", wish("nobody"), Code::NotFound, "PARTICIPANT_NOT_FOUND"),
            (
                "address",
                CreateLinkRequest { email: "x@evil.example".into(), ..wish("it_admin") },
                invalid,
                "EMAIL_MISMATCH",
            ),
            ("too short", lasting("4m"), invalid, "EXPIRY_INVALID"),
            ("too long", lasting("15d"), invalid, "EXPIRY_INVALID"),
            ("unreadable", lasting("soon"), invalid, "EXPIRY_INVALID"),
            ("unspecified", with(&[0]), invalid, "PERMISSIONS_INVALID"),
            ("unknown permission", with(&[9]), invalid, "PERMISSIONS_INVALID"),
            ("above the role", with(&[1, 4]), invalid, "PERMISSIONS_INVALID"),
            (
                "no instance",
                CreateLinkRequest { instance_id: "i-2".into(), ..wish("it_admin") },
                Code::NotFound,
                "INSTANCE_NOT_FOUND",
            ),
            (
                "request id",
                CreateLinkRequest { request_id: "a b".into(), ..wish("it_admin") },
                invalid,
                "REQUEST_ID_INVALID",
            ),
        ] {
            refused(client.create_link(world.call(&operator(), request)).await, code, reason, what)?;
        }
        let person = participant(INSTANCE, &[Permission::View, Permission::Approve, Permission::Delegate]);
        let elsewhere = Principal { tenant: "other".into(), ..operator() };
        for (principal, code, reason) in [
            (person, Code::PermissionDenied, "ROLE_FORBIDDEN"),
            (participant("i-2", &[Permission::View]), Code::NotFound, "INSTANCE_NOT_FOUND"),
            (elsewhere, Code::NotFound, "INSTANCE_NOT_FOUND"),
        ] {
            let what = format!("{principal:?}");
            refused(client.create_link(world.call(&principal, wish("it_admin"))).await, code, reason, &what)?;
        }
        // The instance service knows of an end before its event comes.
        world.instance.set_status(INSTANCE, InstanceStatus::Cancelled);
        let answer = client.create_link(world.call(&operator(), wish("it_admin"))).await;
        let status = refused(answer, Code::FailedPrecondition, "INSTANCE_TERMINAL", "cancelled")?;
        assert_eq!(metadata(&status, "status").as_deref(), Some("cancelled"));
        assert_eq!(world.rows().await?, before);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_sixth_live_link_ends_the_oldest() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let mut made = Vec::new();
        for _ in 0..6 {
            world.clock.advance(MINUTE);
            made.push(world.link().await?);
        }
        let list = |participant: &str, page_size, page_token: String| ListLinksRequest {
            instance_id: INSTANCE.into(),
            participant_id: participant.into(),
            page_size,
            page_token,
        };
        let mut client = world.links();
        let page = client.list_links(world.call(&operator(), list("", 4, String::new()))).await?.into_inner();
        let rest = list("", 4, page.next_page_token);
        let second = client.list_links(world.call(&operator(), rest)).await?.into_inner();
        let links: Vec<_> = page.links.into_iter().chain(second.links).collect();
        let ids: Vec<_> = links.iter().map(|link| link.id.clone()).collect();
        let newest_first: Vec<_> =
            made.iter().rev().map(|(made, _)| made.link.clone().unwrap_or_default().id).collect();
        assert_eq!(ids, newest_first);
        let statuses: Vec<_> = links.iter().map(Link::status).collect();
        assert_eq!(statuses[..5], [LinkStatus::Active; 5]);
        assert_eq!(statuses[5], LinkStatus::Revoked);
        assert_eq!(world.heard.events(7).await?.len(), 7);
        let none =
            client.list_links(world.call(&operator(), list("sponsor", 0, String::new()))).await?.into_inner();
        assert!(none.links.is_empty());
        let none = client
            .list_links(world.call(&operator(), list("it\0admin", 0, String::new())))
            .await?
            .into_inner();
        assert!(none.links.is_empty());

        // Sixteen at once do not make more than five live ones either.
        let mut makers = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let (mut client, call) = (world.links(), world.call(&operator(), wish("it_admin")));
            makers.spawn(async move { client.create_link(call).await });
        }
        while let Some(done) = makers.join_next().await {
            done??;
        }
        let page = client
            .list_links(world.call(&operator(), list("it_admin", 50, String::new())))
            .await?
            .into_inner();
        assert_eq!(page.links.len(), 22);
        assert_eq!(page.links.iter().filter(|link| link.status() == LinkStatus::Active).count(), 5);

        let answer = client
            .list_links(world.call(&participant(INSTANCE, &[Permission::View]), list("", 0, String::new())))
            .await;
        refused(answer, Code::PermissionDenied, "ROLE_FORBIDDEN", "a person")?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_withdrawn_link_and_its_sessions_end_at_once() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let mut client = world.links();
        let (made, token) = world.link().await?;
        let id = made.link.unwrap_or_default().id;
        let session = exchange(&world, &token).await?;
        verify(&world, &session, &id, false).await?;
        let revoke = |id: &str, reason: &str, request_id: &str| RevokeLinkRequest {
            link_id: id.into(),
            reason: reason.into(),
            request_id: request_id.into(),
        };
        let before = world.rows().await?;
        for (what, principal, request, code, reason) in [
            ("unknown", operator(), revoke("lnk-9", "", ""), Code::NotFound, "LINK_NOT_FOUND"),
            ("no id", operator(), revoke("", "", ""), Code::NotFound, "LINK_NOT_FOUND"),
            (
                "tenant",
                Principal { tenant: "other".into(), ..operator() },
                revoke(&id, "", ""),
                Code::NotFound,
                "LINK_NOT_FOUND",
            ),
            (
                "instance",
                participant("i-2", &[Permission::View]),
                revoke(&id, "", ""),
                Code::NotFound,
                "LINK_NOT_FOUND",
            ),
            (
                "person",
                participant(INSTANCE, &[Permission::View]),
                revoke(&id, "", ""),
                Code::PermissionDenied,
                "ROLE_FORBIDDEN",
            ),
            ("long", operator(), revoke(&id, &"x".repeat(4_097), ""), Code::InvalidArgument, "TEXT_INVALID"),
        ] {
            refused(client.revoke_link(world.call(&principal, request)).await, code, reason, what)?;
        }
        assert_eq!(world.rows().await?, before);

        let revoked = client.revoke_link(world.call(&operator(), revoke(&id, "lost phone", "r-1"))).await?;
        assert!(!is_repeated(&revoked));
        let revoked = revoked.into_inner();
        let link = revoked.link.clone().unwrap_or_default();
        assert_eq!((link.status(), link.revoked_reason.as_str()), (LinkStatus::Revoked, "lost phone"));
        for request_id in ["r-1", ""] {
            let again =
                client.revoke_link(world.call(&operator(), revoke(&id, "lost phone", request_id))).await?;
            assert!(is_repeated(&again));
            assert_eq!(again.into_inner(), revoked);
        }
        let events = world.heard.events(2).await?;
        assert!(
            matches!(&events[1].payload, Some(Payload::LinkRevoked(told)) if told.reason == "lost phone")
        );
        assert_eq!(events.len(), 2);

        let unauthenticated = Code::Unauthenticated;
        refused(verify(&world, &session, &id, false).await, unauthenticated, "LINK_REVOKED", "session")?;
        let status = refused(exchange(&world, &token).await, unauthenticated, "LINK_REVOKED", "token")?;
        assert_eq!(metadata(&status, "renewable").as_deref(), Some("true"));
        assert_eq!(metadata(&status, "address").as_deref(), Some("i***@acme.com"));
        let system = Principal::system("notification", "default");
        let sign = world.call(&system, SignLinkRequest { link_id: id });
        refused(world.internal().sign_link(sign).await, unauthenticated, "LINK_REVOKED", "sign")?;
        Ok(())
    })
    .await
}
