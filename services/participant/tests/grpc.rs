//! Each method over a pipe: done, refused without a trace, repeated; on both databases.

mod world;

use std::time::Duration;

use phasegate_clock::{Clock as _, Timestamp};
use phasegate_principal::{Permission, Principal};
use phasegate_proto::instance::v1::InstanceStatus;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_proto::internal::participant::v1::{
    ConsumeNonceRequest, EnsureLinkRequest, ExchangeLinkRequest, GetPeopleRequest, IssueNonceRequest,
    SignLinkRequest, VerifySessionRequest,
};
use phasegate_proto::participant::v1::{
    CreateLinkRequest, GetParticipantRequest, Link, LinkPermission, LinkStatus, ListLinksRequest,
    ListParticipantsRequest, RequestNewLinkRequest, RevokeLinkRequest,
};
use phasegate_test_database::both;
use tonic::Code;
use world::{
    INSTANCE, World, is_repeated, metadata, operator, participant, refused, started, token_of, wish,
};

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

#[tokio::test]
async fn people_come_with_their_instance() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        // Twice is once.
        world.publish(INSTANCE, "started", started()).await?;
        let mut client = world.people();
        let list = |page_size, page_token: String| ListParticipantsRequest {
            instance_id: INSTANCE.into(),
            page_size,
            page_token,
        };
        let page =
            client.list_participants(world.call(&operator(), list(3, String::new()))).await?.into_inner();
        let ids: Vec<&str> = page.participants.iter().map(|person| person.id.as_str()).collect();
        assert_eq!(ids, ["ghost", "it_admin", "lead"]);
        assert_eq!(page.participants[1].email, "it-admin@acme.com");
        let rest = list(3, page.next_page_token);
        let page = client.list_participants(world.call(&operator(), rest)).await?.into_inner();
        assert_eq!((page.participants.len(), page.next_page_token.as_str()), (1, ""));

        let get =
            |id: &str| GetParticipantRequest { instance_id: INSTANCE.into(), participant_id: id.into() };
        let got = client.get_participant(world.call(&operator(), get("lead"))).await?.into_inner();
        assert_eq!(got.participant.unwrap_or_default().name, "Name of lead");
        // A person sees the own address and nobody else's.
        let person = participant(INSTANCE, &[Permission::View]);
        for (id, email) in [("it_admin", "it-admin@acme.com"), ("lead", "")] {
            let got = client.get_participant(world.call(&person, get(id))).await?.into_inner();
            assert_eq!(got.participant.unwrap_or_default().email, email, "{id}");
        }

        for id in ["nobody", "", "it admin"] {
            let answer = client.get_participant(world.call(&operator(), get(id))).await;
            refused(answer, Code::NotFound, "PARTICIPANT_NOT_FOUND", id)?;
        }
        let elsewhere = Principal { tenant: "other".into(), ..operator() };
        for (principal, code, reason) in [
            (elsewhere, Code::NotFound, "INSTANCE_NOT_FOUND"),
            (participant("i-2", &[Permission::View]), Code::NotFound, "INSTANCE_NOT_FOUND"),
            (
                participant(INSTANCE, &[Permission::Approve]),
                Code::PermissionDenied,
                "LINK_PERMISSION_MISSING",
            ),
        ] {
            let what = format!("{principal:?}");
            refused(client.get_participant(world.call(&principal, get("lead"))).await, code, reason, &what)?;
            let answer = client.list_participants(world.call(&principal, list(0, String::new()))).await;
            refused(answer, code, reason, &what)?;
        }
        let answer = client.list_participants(world.call(&operator(), list(-1, String::new()))).await;
        refused(answer, Code::InvalidArgument, "PAGE_SIZE_INVALID", "page size")?;
        let answer = client.list_participants(world.call(&operator(), list(0, "bm9uc2Vuc2U".into()))).await;
        refused(answer, Code::InvalidArgument, "PAGE_TOKEN_INVALID", "page token")?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_caller_who_is_faster_than_the_event_waits_for_it() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        world.instance.set_status("i-2", InstanceStatus::Running);
        let mut links = world.links();
        let early = CreateLinkRequest { instance_id: "i-2".into(), ..wish("it_admin") };
        let call = world.call(&operator(), early.clone());
        let asking = tokio::spawn(async move { links.create_link(call).await });
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!asking.is_finished());
        // Other services do not wait: what is not there yet is left out.
        let ask = GetPeopleRequest { instance_id: "i-2".into(), participant_ids: vec![] };
        let system = Principal::system("approval", "default");
        let people = world.internal().get_people(world.call(&system, ask)).await?.into_inner().participants;
        assert!(people.is_empty());
        world.publish("i-2", "started-2", started()).await?;
        assert!(asking.await?.is_ok());

        world.instance.set_status("i-3", InstanceStatus::Running);
        let never = CreateLinkRequest { instance_id: "i-3".into(), ..early };
        let answer = world.links().create_link(world.call(&operator(), never)).await;
        refused(answer, Code::Unavailable, "DEPENDENCY_DOWN", "the event never comes")?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn other_services_ask_for_people() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let ask = |tenant: &str, ids: &[&str]| {
            let participant_ids = ids.iter().map(|id| (*id).to_owned()).collect();
            let message = GetPeopleRequest { instance_id: INSTANCE.into(), participant_ids };
            world.call(&Principal::system("approval", tenant), message)
        };
        for (tenant, ids, expected) in
            [("default", &["lead", "nobody"][..], 1), ("default", &[], 4), ("other", &[], 0)]
        {
            let people = world.internal().get_people(ask(tenant, ids)).await?.into_inner().participants;
            assert_eq!(people.len(), expected, "{tenant} {ids:?}");
        }
        Ok(())
    })
    .await
}

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

#[tokio::test]
async fn a_token_opens_sessions_and_nothing_else_does() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let (made, token) = world.link().await?;
        let id = made.link.clone().unwrap_or_default().id;
        // However often it is opened: mail scanners do.
        for _ in 0..20 {
            let request = world.gateway(ExchangeLinkRequest { token: token.clone() });
            let opened = world.internal().exchange_link(request).await?.into_inner();
            assert_eq!((opened.tenant_id.as_str(), opened.link.clone()), ("default", made.link.clone()));
            assert_eq!(opened.participant.unwrap_or_default().name, "Name of it_admin");
            let end = opened.session_expires_at.as_ref().and_then(Timestamp::from_proto);
            assert_eq!(end, Some(world.clock.now() + 8 * HOUR));
        }
        let session = exchange(&world, &token).await?;
        assert_eq!(session.len(), 43);
        assert!(!world.dump().await?.contains(&session));
        assert_eq!(world.heard.events(1).await?.len(), 1);

        // Malformed, forged, altered and unknown look the same.
        let mut altered = token.clone();
        altered.pop();
        let mut forged = token.clone();
        forged.insert(token.len() - 5, 'A');
        let unknown =
            phasegate_participant::app::token::Tokens::new(&phasegate_serve::Keys::derive(&[1; 32]).link, "")
                .sign(&phasegate_id::LinkId::trusted("lnk-9"), world.clock.now() + DAY)?;
        let before = world.rows().await?;
        let mut statuses = Vec::new();
        for bad in ["", "nonsense", &altered, &forged, &"x".repeat(100_000), unknown.expose()] {
            let status =
                refused(exchange(&world, bad).await, Code::Unauthenticated, "LINK_INVALID", "bad token")?;
            statuses.push((status.message().to_owned(), status.details().to_vec()));
        }
        statuses.dedup();
        assert_eq!(statuses.len(), 1);
        assert_eq!(world.rows().await?, before);

        // A link that is over is named as such to who holds its token.
        world.clock.advance(7 * DAY);
        let status = refused(exchange(&world, &token).await, Code::Unauthenticated, "LINK_EXPIRED", "late")?;
        assert_eq!(metadata(&status, "address").as_deref(), Some("i***@acme.com"));
        refused(
            verify(&world, &session, &id, false).await,
            Code::Unauthenticated,
            "LINK_EXPIRED",
            "late session",
        )?;
        assert_eq!(world.rows().await?, before);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_session_ends_of_idleness_and_of_age() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let (made, token) = world.link().await?;
        let id = made.link.unwrap_or_default().id;
        let (idle, used) = (exchange(&world, &token).await?, exchange(&world, &token).await?);
        for _ in 0..16 {
            verify(&world, &used, &id, false).await?;
            world.clock.advance(29 * MINUTE);
        }
        // After 7 h 44 min.
        verify(&world, &used, &id, false).await?;
        world.clock.advance(17 * MINUTE);
        let ended = "SESSION_EXPIRED";
        refused(verify(&world, &used, &id, false).await, Code::Unauthenticated, ended, "eight hours")?;
        refused(verify(&world, &idle, &id, false).await, Code::Unauthenticated, ended, "idle")?;
        for (session, link) in [("", id.as_str()), ("nonsense", &id), (&"x".repeat(5_000), &id)] {
            refused(verify(&world, session, link, false).await, Code::Unauthenticated, ended, session)?;
        }
        let (other, other_token) = world.link().await?;
        let other_session = exchange(&world, &other_token).await?;
        refused(
            verify(&world, &other_session, &id, false).await,
            Code::Unauthenticated,
            ended,
            "another link",
        )?;
        let standing = verify(&world, &other_session, &other.link.unwrap_or_default().id, false).await?;
        assert_eq!(standing.tenant_id, "default");
        // The use of a session shows on its link.
        let list = ListLinksRequest { instance_id: INSTANCE.into(), ..Default::default() };
        let links = world.links().list_links(world.call(&operator(), list)).await?.into_inner().links;
        let used_at = links.iter().find(|link| link.id == id).and_then(|link| link.last_used_at);
        assert_eq!(used_at.as_ref().and_then(Timestamp::from_proto), Some(world.clock.now() - 17 * MINUTE));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn ten_sessions_of_a_link_may_write() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let (made, token) = world.link().await?;
        let id = made.link.unwrap_or_default().id;
        let first = exchange(&world, &token).await?;
        // The many requests of one session count once.
        let mut writers = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let (mut client, call) = (world.internal(), world.gateway(session_request(&first, &id, true)));
            writers.spawn(async move { client.verify_session(call).await });
        }
        while let Some(done) = writers.join_next().await {
            done??;
        }
        let events = world.heard.events(2).await?;
        assert!(
            matches!(&events[1].payload, Some(Payload::LinkOpened(told)) if told.link_id == id),
            "{events:?}"
        );

        let mut sessions = Vec::new();
        for _ in 0..16 {
            sessions.push(exchange(&world, &token).await?);
        }
        let mut writers = tokio::task::JoinSet::new();
        for session in sessions.clone() {
            let (mut client, call) = (world.internal(), world.gateway(session_request(&session, &id, true)));
            writers.spawn(async move { client.verify_session(call).await });
        }
        let (mut good, mut exhausted) = (0, 0);
        while let Some(done) = writers.join_next().await {
            match done? {
                Ok(_) => good += 1,
                answer => {
                    refused(answer, Code::ResourceExhausted, "LINK_EXHAUSTED", "too many")?;
                    exhausted += 1;
                }
            }
        }
        assert_eq!((good, exhausted), (9, 7));
        // Reading goes on, and so does writing where it was counted.
        for session in &sessions {
            verify(&world, session, &id, false).await?;
        }
        verify(&world, &first, &id, true).await?;
        assert_eq!(world.heard.events(2).await?.len(), 2);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_form_is_sent_once() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let (made, token) = world.link().await?;
        let id = made.link.unwrap_or_default().id;
        let (session, other) = (exchange(&world, &token).await?, exchange(&world, &token).await?);
        let nonce = issue(&world, &session, "decide:apr-1").await?;
        assert_eq!(nonce.len(), 22);
        assert!(!world.dump().await?.contains(&nonce));
        for (what, session, subject, nonce) in [
            ("no session", "", "decide:apr-1", nonce.as_str()),
            ("another session", &other, "decide:apr-1", &nonce),
            ("another subject", &session, "decide:apr-2", &nonce),
            ("no nonce", &session, "decide:apr-1", ""),
            ("made up", &session, "decide:apr-1", "AAAAAAAAAAAAAAAAAAAAAA"),
        ] {
            let answer = consume(&world, session, subject, nonce).await;
            refused(answer, Code::PermissionDenied, "CSRF", what)?;
        }
        let mut takers = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let message = ConsumeNonceRequest {
                session_token: session.clone(),
                subject: "decide:apr-1".into(),
                nonce: nonce.clone(),
            };
            let (mut client, call) = (world.internal(), world.gateway(message));
            takers.spawn(async move { client.consume_nonce(call).await });
        }
        let mut good = 0;
        while let Some(done) = takers.join_next().await {
            match done? {
                Ok(_) => good += 1,
                answer => drop(refused(answer, Code::PermissionDenied, "CSRF", "second")?),
            }
        }
        assert_eq!(good, 1);

        // After an hour a form must be opened again, even in a session that is alive.
        let old = issue(&world, &session, "decide:apr-1").await?;
        for _ in 0..3 {
            world.clock.advance(20 * MINUTE);
            verify(&world, &session, &id, false).await?;
        }
        refused(
            consume(&world, &session, "decide:apr-1", &old).await,
            Code::PermissionDenied,
            "CSRF",
            "old",
        )?;
        refused(issue(&world, &session, "").await, Code::InvalidArgument, "TEXT_INVALID", "no subject")?;
        let fresh = issue(&world, &session, "decide:apr-1").await?;
        let revoke = RevokeLinkRequest { link_id: id, ..Default::default() };
        world.links().revoke_link(world.call(&operator(), revoke)).await?;
        refused(
            consume(&world, &session, "decide:apr-1", &fresh).await,
            Code::PermissionDenied,
            "CSRF",
            "revoked",
        )?;
        for session in [session.as_str(), "nonsense"] {
            refused(issue(&world, session, "x").await, Code::Unauthenticated, "SESSION_EXPIRED", session)?;
        }
        Ok(())
    })
    .await
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
        let events = world.heard.events(4).await?;
        assert_eq!(events.len(), 4);
        for event in &events[1..] {
            let is_asked = matches!(&event.payload, Some(Payload::FreshLinkAsked(asked)) if asked.participant_id == "it_admin");
            assert!(is_asked && event.tenant_id == "default" && event.instance_id == INSTANCE, "{event:?}");
        }
        world.clock.advance(HOUR);
        renew(&world, &token).await?;
        assert_eq!(world.heard.events(5).await?.len(), 5);
        Ok(())
    })
    .await
}

async fn exchange(world: &World, token: &str) -> Result<String, tonic::Status> {
    let request = world.gateway(ExchangeLinkRequest { token: token.into() });
    Ok(world.internal().exchange_link(request).await?.into_inner().session_token)
}

async fn verify(
    world: &World,
    session: &str,
    link: &str,
    writes: bool,
) -> Result<phasegate_proto::internal::participant::v1::VerifySessionResponse, tonic::Status> {
    let request = world.gateway(session_request(session, link, writes));
    Ok(world.internal().verify_session(request).await?.into_inner())
}

fn session_request(session: &str, link: &str, writes: bool) -> VerifySessionRequest {
    VerifySessionRequest { session_token: session.into(), link_id: link.into(), writes }
}

async fn issue(world: &World, session: &str, subject: &str) -> Result<String, tonic::Status> {
    let message = IssueNonceRequest { session_token: session.into(), subject: subject.into() };
    Ok(world.internal().issue_nonce(world.gateway(message)).await?.into_inner().nonce)
}

async fn consume(world: &World, session: &str, subject: &str, nonce: &str) -> Result<(), tonic::Status> {
    let message =
        ConsumeNonceRequest { session_token: session.into(), subject: subject.into(), nonce: nonce.into() };
    world.internal().consume_nonce(world.gateway(message)).await.map(drop)
}

async fn renew(world: &World, token: &str) -> Result<(), tonic::Status> {
    let message = RequestNewLinkRequest { token: token.into() };
    world.links().request_new_link(world.gateway(message)).await.map(drop)
}

async fn ensure(
    world: &World,
    purpose: &str,
    expires_at: Option<Timestamp>,
) -> Result<phasegate_proto::participant::v1::Link, tonic::Status> {
    let request =
        world.call(&Principal::system("notification", "default"), for_notification(purpose, expires_at));
    Ok(world.internal().ensure_link(request).await?.into_inner().link.unwrap_or_default())
}

fn for_notification(purpose: &str, expires_at: Option<Timestamp>) -> EnsureLinkRequest {
    EnsureLinkRequest {
        instance_id: INSTANCE.into(),
        participant_id: "it_admin".into(),
        purpose: purpose.into(),
        expires_at: expires_at.map(Timestamp::to_proto),
    }
}
