//! Sessions and the nonces of forms.

use crate::world::{INSTANCE, World, metadata, operator, refused};
use phasegate_clock::{Clock as _, Timestamp};
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_proto::internal::participant::v1::{ConsumeNonceRequest, ExchangeLinkRequest};
use phasegate_proto::participant::v1::{ListLinksRequest, RevokeLinkRequest};
use phasegate_test_database::both;
use tonic::Code;

use crate::calls::{DAY, HOUR, MINUTE, consume, exchange, issue, session_request, verify};

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
