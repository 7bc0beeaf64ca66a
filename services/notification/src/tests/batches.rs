//! What is written together with what belongs to others is written as if it were alone.

use phasegate_id::{ApprovalId, EventId, NotificationId, ParticipantId};
use phasegate_test_database::both;

use super::*;
use crate::domain::{MailLink, Status, Template};
use crate::store::{Settled, Store};

const INSTANCES: usize = 12;

fn message(instance: &InstanceId, approvals: &[String]) -> Notification {
    let id = NotificationId::generate();
    Notification {
        tenant_id: TenantId::trusted(TENANT),
        message_id: format!("<{id}@localhost>"),
        instance_id: instance.clone(),
        participant_id: ParticipantId::trusted("it_admin"),
        template: Template::ApprovalRequested,
        recipient: "it-admin@acme.com".to_owned(),
        recipient_name: "John \"Jo\" Smith, {x}".to_owned(),
        subject: "Approval, \\ \"Required\"".to_owned(),
        body_text: "text\n{},NULL".to_owned(),
        body_html: "<p>html</p>".to_owned(),
        link: Some(MailLink {
            placeholder: format!("[[link:{id}]]"),
            expires_at: now() + Duration::from_hours(1),
            link_id: None,
        }),
        status: Status::Queued { next_attempt_at: now() },
        attempts: 0,
        last_error: String::new(),
        approval_ids: approvals.iter().map(ApprovalId::trusted).collect(),
        created_at: now(),
        id,
    }
}

async fn listed(store: &Store, instance: &InstanceId) -> anyhow::Result<Vec<Notification>> {
    let tenant = TenantId::trusted(TENANT);
    Ok(store.notification_list(&tenant, instance, None, None, 100).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_come_together_are_each_taken_once() -> anyhow::Result<()> {
    both(|database| async move {
        let house = House::open(&database, &[]).await?;
        let store = &house.service.store;
        let tenant = TenantId::trusted(TENANT);
        let instances: Vec<InstanceId> =
            (0..INSTANCES).map(|n| InstanceId::trusted(format!("proc-inst-{n}"))).collect();
        let events: Vec<EventId> = instances.iter().map(|_| EventId::generate()).collect();
        let people = vec![(ParticipantId::trusted("pm"), true), (ParticipantId::trusted("ciso"), false)];
        let work = async {
            let starts = instances.iter().map(|one| {
                let names = (one.to_string(), "Process".to_owned());
                store.instance_remember(tenant.clone(), one.clone(), names, people.clone(), now())
            });
            assert!(futures::future::try_join_all(starts).await?.into_iter().all(|is_new| is_new));
            // A copy of the first event is on its way at the same time, and one more comes later.
            let add = |n: usize| {
                let approvals = [format!("apr-{n}"), format!("apr-b-{n}")];
                let messages =
                    vec![message(&instances[n], &approvals), message(&instances[n], &approvals[..1])];
                store.notifications_add(
                    tenant.clone(),
                    instances[n].clone(),
                    events[n].clone(),
                    messages,
                    now(),
                )
            };
            futures::future::try_join_all((0..INSTANCES).chain([0]).map(add)).await?;
            add(1).await?;
            for (n, one) in instances.iter().enumerate() {
                let all = listed(store, one).await?;
                assert_eq!(all.len(), 2, "{one}");
                let approvals: Vec<&str> = all[1].approval_ids.iter().map(ApprovalId::as_str).collect();
                assert_eq!(approvals, [format!("apr-{n}"), format!("apr-b-{n}")]);
                assert_eq!(all[1].recipient_name, "John \"Jo\" Smith, {x}");
                let process = store.instance_find(&tenant, one).await?.unwrap_or_else(|| panic!("{one}"));
                assert_eq!((process.informed.len(), process.people.len()), (1, 2));
            }
            anyhow::Ok(())
        };
        Reach::of_tenant(TENANT).within(work).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_that_come_together_leave_out_a_claim_that_was_overtaken() -> anyhow::Result<()> {
    both(|database| async move {
        let house = House::open(&database, &[]).await?;
        let store = &house.service.store;
        let (tenant, instance) = (TenantId::trusted(TENANT), InstanceId::trusted(INSTANCE));
        let work = async {
            let messages = (0..INSTANCES).map(|n| message(&instance, &[format!("apr-{n}")])).collect();
            let add = store.notifications_add(
                tenant.clone(),
                instance.clone(),
                EventId::generate(),
                messages,
                now(),
            );
            add.await?;
            let settled = ApprovalId::trusted("apr-3");
            store
                .approval_settle(tenant.clone(), instance.clone(), EventId::generate(), settled, now())
                .await?;
            let stale = store.notification_claim(now(), 1).await?;
            let later = now() + Duration::from_mins(1);
            let mut claims = store.notification_claim(later, 100).await?;
            assert_eq!(claims.len(), INSTANCES);
            assert_eq!(claims.iter().filter(|claim| claim.is_moot).count(), 1);
            assert!(claims.iter().all(|claim| claim.notification.approval_ids.len() == 1));
            for claim in &mut claims {
                if let Some(link) = &mut claim.notification.link {
                    link.link_id =
                        Some(phasegate_id::LinkId::trusted(format!("lnk-{}", claim.notification.id)));
                }
            }
            let sent = || Settled::Sent { at: later };
            let fresh = claims.into_iter().map(|claim| store.notification_settle(claim, sent(), later));
            let fresh = futures::future::join_all(fresh);
            let stale = stale.into_iter().map(|claim| store.notification_settle(claim, sent(), later));
            let stale = futures::future::join_all(stale);
            let (fresh, stale) = tokio::join!(fresh, stale);
            assert!(fresh.into_iter().all(|told| matches!(told, Ok(true))));
            assert!(stale.into_iter().all(|told| matches!(told, Ok(false))));
            for one in listed(store, &instance).await? {
                assert_eq!(one.status, Status::Sent { sent_at: later });
                let link = one.link.and_then(|link| link.link_id).map(|id| id.to_string());
                assert_eq!(link, Some(format!("lnk-{}", one.id)));
            }
            anyhow::Ok(())
        };
        Reach::of_tenant(TENANT).within(work).await?;
        assert_eq!(house.news().await?.len(), INSTANCES);
        Ok(())
    })
    .await
}
