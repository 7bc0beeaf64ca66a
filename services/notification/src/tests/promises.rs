//! At least once, under one Message-ID, with the same bytes; never without need.

use std::collections::BTreeSet;

use phasegate_id::NotificationId;
use phasegate_test_database::both;

use super::*;
use crate::domain::{Status, Template};
use crate::store::Settled;

#[tokio::test(flavor = "multi_thread")]
async fn every_person_gets_one_mail_about_all_requests_of_a_boundary() -> anyhow::Result<()> {
    both(|database| async move {
        let house = House::open(&database, &[]).await?;
        let event = house
            .hear(requested(vec![
                approval("apr-1", "SSO Configuration Review", &["it_admin"]),
                approval("apr-2", "Exit of Configuration", &["it_admin", "ciso"]),
                approval("apr-3", "Configuration Approval", &["it_admin"]),
            ]))
            .await?;
        // The same event once more, as after a crash of its sender.
        house.publish(event).await?;
        let all = house.deliver_all().await?;
        assert_eq!(all.len(), 2);

        let arrived = house.server.arrived();
        let mut subjects: Vec<(String, String)> =
            arrived.iter().map(|mail| (mail.header("To"), mail.header("Subject"))).collect();
        subjects.sort();
        assert_eq!(
            subjects,
            [
                (
                    "\"Jane Doe\" <ciso@acme.com>".to_owned(),
                    "Approval Required: Exit of Configuration".to_owned()
                ),
                (
                    "\"John Smith\" <it-admin@acme.com>".to_owned(),
                    "Approval Required: SSO Configuration Review (and 2 more)".to_owned()
                ),
            ]
        );
        let john = arrived.iter().find(|mail| mail.recipients == ["it-admin@acme.com"]).unwrap().body();
        for part in [
            "Hi John,",
            "SSO Configuration Review",
            "Configuration Approval",
            "This link expires in 48 hours.",
        ] {
            assert!(john.contains(part), "{part:?} is not in\n{john}");
        }
        assert_eq!(house.people.links().len(), 2);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_took_without_saying_so_is_sent_again_byte_for_byte() -> anyhow::Result<()> {
    both(|database| async move {
        let house = House::open(&database, &[Manner::TakeAndHangUp, Manner::TakeAndHangUp]).await?;
        house.hear(one_request()).await?;
        let all = house.deliver_all().await?;
        assert!(matches!(all[0].status, Status::Sent { .. }), "{:?}", all[0]);
        assert_eq!(all[0].attempts, 3);

        let arrived = house.server.arrived();
        assert_eq!(arrived.len(), 3);
        assert_eq!(arrived[0], arrived[1]);
        assert_eq!(arrived[0], arrived[2]);
        assert_eq!(arrived[0].header("Message-ID"), all[0].message_id);
        assert!(all[0].message_id.ends_with("@localhost>"), "{}", all[0].message_id);
        let news = house.news().await?;
        assert_eq!(news.len(), 1);
        assert!(news[0].sent);
        assert_eq!(news[0].approval_ids, ["apr-1"]);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_left_and_its_late_answer_is_nobody_elses() -> anyhow::Result<()> {
    both(|database| async move {
        let late = Manner::TakeAndSay(Duration::from_millis(700));
        let house = House::open(&database, &[late, Manner::Refuse("451 later")]).await?;
        house.hear(one_request()).await?;
        let all = house.deliver_all().await?;
        // The second try was refused. Had it read the late "taken" of the first, it would count as sent.
        assert_eq!(all[0].attempts, 3);
        assert!(matches!(all[0].status, Status::Sent { .. }), "{:?}", all[0]);
        let arrived = house.server.arrived();
        assert_eq!(arrived.len(), 2);
        assert_eq!(arrived[0], arrived[1]);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_that_does_not_exist_ends_it_and_its_address_stays_masked() -> anyhow::Result<()> {
    both(|database| async move {
        let manners = [Manner::Refuse("550 5.1.1 <it-admin@acme.com>: no such user")];
        let house = House::open(&database, &manners).await?;
        house.hear(one_request()).await?;
        let all = house.deliver_all().await?;
        assert_eq!((all[0].status.as_str(), all[0].attempts), ("failed", 1));
        let news = house.news().await?;
        assert!(!news[0].sent);
        for error in [&all[0].last_error, &news[0].error] {
            assert!(error.contains("i***@acme.com") && !error.contains("it-admin@"), "{error}");
        }
        assert!(house.server.arrived().is_empty());
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_last_try_it_is_given_up() -> anyhow::Result<()> {
    both(|database| async move {
        let manners =
            [Manner::HangUp, Manner::Refuse("421 busy"), Manner::Refuse("554 policy"), Manner::HangUp];
        let house = House::open(&database, &manners).await?;
        house.hear(one_request()).await?;
        let all = house.deliver_all().await?;
        assert_eq!((all[0].status.as_str(), all[0].attempts), ("failed", 4));
        assert!(!all[0].last_error.is_empty());
        assert_eq!(house.news().await?.len(), 1);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_settled_meanwhile_is_not_asked_any_more() -> anyhow::Result<()> {
    both(|database| async move {
        let house = House::open(&database, &[]).await?;
        // Of the first mail everything is settled, of the second a part; the third was settled before it was heard of.
        house.hear(requested(vec![approval("apr-1", "One", &["it_admin"])])).await?;
        house.publish(of(settled("apr-3"))).await?;
        house
            .hear(requested(vec![approval("apr-1", "One", &["ciso"]), approval("apr-2", "Two", &["ciso"])]))
            .await?;
        house.hear(requested(vec![approval("apr-3", "Three", &["it_admin"])])).await?;
        house.publish(of(settled("apr-1"))).await?;
        let all = house.deliver_all().await?;
        let outcomes: Vec<&str> = all.iter().map(|one| one.status.as_str()).collect();
        assert_eq!(outcomes, ["suppressed", "sent", "suppressed"]);
        assert_eq!(house.server.arrived().len(), 1);
        assert_eq!(house.server.arrived()[0].recipients, ["ciso@acme.com"]);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_link_keeps_its_mail_back() -> anyhow::Result<()> {
    both(|database| async move {
        let house = House::open(&database, &[]).await?;
        house.people.revoke();
        house.hear(one_request()).await?;
        let all = house.deliver_all().await?;
        assert_eq!(all[0].status, Status::Suppressed);
        assert!(all[0].last_error.contains("LINK_REVOKED"), "{}", all[0].last_error);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_cannot_be_had_use_up_no_try() -> anyhow::Result<()> {
    both(|database| async move {
        let house = House::open(&database, &[]).await?;
        house.people.fail(7);
        house.hear(one_request()).await?;
        let all = house.deliver_all().await?;
        assert_eq!((all[0].status.as_str(), all[0].attempts), ("sent", 1));
        assert_eq!(house.people.links().len(), 1);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn several_copies_share_the_work_and_send_nothing_twice() -> anyhow::Result<()> {
    both(|database| async move {
        let house = House::open(&database, &[]).await?;
        house.publish(of(started())).await?;
        for number in 0..60 {
            let id = format!("apr-{number}");
            house.publish(of(requested(vec![approval(&id, &id, &["it_admin"])]))).await?;
        }
        let directory: Arc<dyn crate::app::Directory> = house.people.clone();
        let second = Service::open_with(house.config.clone(), context(), directory).await;
        // SQLite has one process, and one open store, for each file.
        let second = second.ok();
        let stop = CancellationToken::new();
        let other = second.as_ref().map(|service| {
            let courier = Arc::clone(&service.courier);
            tokio::spawn(crate::reconcile::deliver_due(courier, Arc::default(), stop.clone()))
        });
        let all = house.deliver_all().await?;
        stop.cancel();
        if let Some(other) = other {
            other.await?;
        }
        assert_eq!(all.len(), 60);
        let arrived = house.server.arrived();
        let ids: BTreeSet<String> = arrived.iter().map(|mail| mail.header("Message-ID")).collect();
        assert_eq!((arrived.len(), ids.len()), (60, 60));
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_was_overtaken_writes_nothing() -> anyhow::Result<()> {
    both(|database| async move {
        let house = House::open(&database, &[]).await?;
        house.hear(one_request()).await?;
        let store = &house.service.store;
        let late = store.notification_claim(now(), 8).await?.remove(0);
        assert!(store.notification_claim(now(), 8).await?.is_empty(), "it is held");
        assert!(!store.notification_is_due(now()).await?);
        // A copy that works on it keeps it up; one that was killed holds nobody up for long.
        let acme = Reach::of_tenant(TENANT);
        let keeping = store.notification_claim_keep(&late, now() + Duration::from_secs(10));
        assert!(acme.clone().within(keeping).await?);
        assert!(!store.notification_is_due(now() + Duration::from_secs(20)).await?);
        assert!(store.notification_is_due(now() + Duration::from_secs(26)).await?);
        // Long after the first claim has run out.
        let later = now() + Duration::from_hours(1);
        let newest = store.notification_claim(later, 8).await?.remove(0);
        assert_eq!(newest.number, late.number + 1);
        let settling = async {
            assert!(!store.notification_claim_keep(&late, later).await?);
            let failed = Settled::Failed { why: "late".to_owned(), tried: true };
            assert!(!store.notification_settle(late, failed, later).await?);
            assert!(store.notification_settle(newest, Settled::Sent { at: later }, later).await?);
            anyhow::Ok(())
        };
        acme.within(settling).await?;
        assert_eq!(house.all().await?[0].status, Status::Sent { sent_at: later });
        assert_eq!(house.news().await?.len(), 1);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_link_is_in_the_mail_and_nowhere_else() -> anyhow::Result<()> {
    both(|database| async move {
        let house = House::open(&database, &[]).await?;
        house.hear(one_request()).await?;
        let all = house.deliver_all().await?;
        let body = house.server.arrived()[0].body();
        assert!(
            body.contains("https://app.example.com/external/approve?token=secret.lnk-0-it_admin.signature")
        );
        assert_eq!(body.matches("<a ").count(), 1);
        let stored = format!("{:?}", all[0]);
        assert!(!stored.contains("secret") && !stored.contains("external/approve"), "{stored}");
        let (_, expires_at) = house.people.links()[0];
        assert!(expires_at > now() + Duration::from_hours(6 * 24));
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_is_not_there_yet_is_waited_for() -> anyhow::Result<()> {
    both(|database| async move {
        let house = House::open(&database, &[]).await?;
        let event = of(requested(vec![approval("apr-1", "One", &["late"])]));
        let before_the_start = house.publish(event.clone()).await;
        assert!(matches!(before_the_start, Err(HandleError::Transient(_))), "{before_the_start:?}");
        house.publish(of(started())).await?;
        let before_the_person = house.publish(event.clone()).await;
        assert!(matches!(before_the_person, Err(HandleError::Transient(_))), "{before_the_person:?}");
        assert!(house.all().await?.is_empty());
        house.people.add("late", "Lee", "lee@acme.com", true);
        house.publish(event).await?;
        assert_eq!(house.deliver_all().await?.len(), 1);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_changed_says_so_when_it_is_asked_again() -> anyhow::Result<()> {
    both(|database| async move {
        let house = House::open(&database, &[]).await?;
        house.hear(one_request()).await?;
        house.hear(one_request()).await?;
        let all = house.deliver_all().await?;
        assert_eq!(all.len(), 2);
        assert!(!all[0].body_text.contains("has changed"));
        assert!(all[1].body_text.contains("has changed"));
        assert_eq!(all[0].subject, all[1].subject);
        assert_ne!(all[0].message_id, all[1].message_id);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn wishes_count_except_where_an_answer_is_needed() -> anyhow::Result<()> {
    use phasegate_proto::instance::v1::{InstanceStatus, PhaseStatus};
    use phasegate_proto::internal::event::v1::{FreshLinkAsked, InstanceEnded, PhaseChanged, TaskEscalated};

    both(|database| async move {
        let house = House::open(&database, &[]).await?;
        house
            .hear(Payload::PhaseChanged(PhaseChanged {
                phase_id: "discovery".to_owned(),
                name: "Discovery & Planning".to_owned(),
                status: PhaseStatus::Active.into(),
                position: 1,
                phases: 4,
            }))
            .await?;
        house.hear(requested(vec![approval("apr-1", "One", &["ciso", "ghost"])])).await?;
        house
            .hear(Payload::TaskEscalated(TaskEscalated {
                task_id: "sso_setup".to_owned(),
                name: "Configure SSO".to_owned(),
                escalated_to: "deployment_lead".to_owned(),
                notify_participants: vec!["it_admin".to_owned(), "nobody".to_owned()],
                message: "It failed four times.".to_owned(),
                phase_id: "sso".to_owned(),
            }))
            .await?;
        house
            .hear(Payload::FreshLinkAsked(FreshLinkAsked {
                participant_id: "ciso".to_owned(),
                old_link_id: "lnk-old".to_owned(),
                new_link_id: "lnk-new".to_owned(),
            }))
            .await?;
        house
            .hear(Payload::InstanceEnded(InstanceEnded {
                status: InstanceStatus::Cancelled.into(),
                reason: "No longer wanted".to_owned(),
            }))
            .await?;
        let all = house.deliver_all().await?;
        let mut outcomes: Vec<(Template, &str, &str)> =
            all.iter().map(|one| (one.template, one.participant_id.as_str(), one.status.as_str())).collect();
        outcomes.sort_by_key(|(template, person, _)| (template.as_str(), *person));
        assert_eq!(
            outcomes,
            [
                (Template::ApprovalRequested, "ciso", "sent"),
                (Template::ApprovalRequested, "ghost", "suppressed"),
                (Template::InstanceEnded, "boss", "suppressed"),
                (Template::InstanceEnded, "pm", "sent"),
                (Template::LinkNew, "ciso", "sent"),
                (Template::PhaseChanged, "boss", "suppressed"),
                (Template::PhaseChanged, "pm", "sent"),
                (Template::TaskEscalated, "it_admin", "sent"),
            ]
        );
        let ids: BTreeSet<NotificationId> = all.iter().map(|one| one.id.clone()).collect();
        assert_eq!(ids.len(), all.len());
        // The fresh link is the one that was made for it: it allows what the old one did, and no more.
        let arrived = house.server.arrived();
        let fresh = arrived.iter().find(|mail| mail.header("Subject").starts_with("Your new link")).unwrap();
        assert!(fresh.body().contains("token=secret.lnk-new.signature"), "{}", fresh.body());
        Ok(())
    })
    .await
}
