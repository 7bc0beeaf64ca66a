//! What the service answers when it is asked.

use phasegate_page_token::PageTokens;
use phasegate_principal::{Participation, Permission};
use phasegate_proto::notification::v1::notification_service_server::NotificationService;
use phasegate_proto::notification::v1::{
    DeliveryStatus, GetNotificationRequest, ListNotificationsRequest, ListNotificationsResponse,
};
use phasegate_rpc_error::reason_of;
use phasegate_test_database::both;
use tonic::{Code, Request, Status};

use super::*;
use crate::grpc::Api;

fn api(house: &House) -> Api {
    let tokens = PageTokens::new(&house.context.keys.page);
    Api::new(house.service.store.clone(), house.context.peers.clone(), tokens)
}

fn by<T>(caller: &Principal, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(caller.clone());
    request
}

fn person(id: &str, instance: &str) -> Principal {
    Principal::participant(
        TENANT,
        id,
        Participation {
            instance_id: instance.to_owned(),
            participant_id: id.to_owned(),
            link_id: "lnk-1".to_owned(),
            permissions: vec![Permission::View],
        },
    )
}

async fn list(
    api: &Api,
    caller: &Principal,
    page_size: i32,
    page_token: &str,
) -> Result<ListNotificationsResponse, Status> {
    let message = ListNotificationsRequest {
        instance_id: INSTANCE.to_owned(),
        page_size,
        page_token: page_token.to_owned(),
    };
    Ok(api.list_notifications(by(caller, message)).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages_newest_first_and_hide_addresses() -> anyhow::Result<()> {
    both(|database| {
        Reach::of_tenant(TENANT).within(async move {
            let house = House::open(&database, &[]).await?;
            for number in 0..5 {
                let id = format!("apr-{number}");
                house
                    .hear(requested(vec![approval(&id, &format!("Number {number}"), &["it_admin"])]))
                    .await?;
            }
            let api = api(&house);
            let operator = Principal::dev_operator();
            let mut subjects = Vec::new();
            let mut token = String::new();
            loop {
                let page = list(&api, &operator, 2, &token).await?;
                assert!(page.notifications.len() <= 2);
                for one in page.notifications {
                    assert_eq!(one.recipient, "i***@acme.com");
                    assert_eq!(one.status(), DeliveryStatus::Queued);
                    assert!(one.next_attempt_at.is_some() && one.sent_at.is_none());
                    assert_eq!(one.approval_ids.len(), 1);
                    subjects.push(one.subject);
                }
                token = page.next_page_token;
                if token.is_empty() {
                    break;
                }
            }
            let expected: Vec<String> =
                (0..5).rev().map(|number| format!("Approval Required: Number {number}")).collect();
            assert_eq!(subjects, expected);

            for (size, token, reason) in
                [(-1, "", "PAGE_SIZE_INVALID"), (2, "nonsense", "PAGE_TOKEN_INVALID")]
            {
                let refused = list(&api, &operator, size, token).await.unwrap_err();
                assert_eq!(reason_of(&refused).as_deref(), Some(reason));
            }
            Ok(())
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_sees_what_is_not_theirs() -> anyhow::Result<()> {
    both(|database| {
        Reach::of_tenant(TENANT).within(async move {
            let house = House::open(&database, &[]).await?;
            house.hear(requested(vec![approval("apr-1", "One", &["it_admin", "ciso"])])).await?;
            let api = api(&house);
            let all = list(&api, &Principal::dev_operator(), 0, "").await?.notifications;
            assert_eq!(all.len(), 2);

            let own = list(&api, &person("ciso", INSTANCE), 0, "").await?.notifications;
            assert_eq!(own.len(), 1);
            assert_eq!(own[0].participant_id, "ciso");
            let others = all.iter().find(|one| one.participant_id == "it_admin").unwrap().id.clone();

            let mut stranger = Principal::dev_operator();
            stranger.tenant = "another".to_owned();
            let get = |id: &str| GetNotificationRequest { notification_id: id.to_owned() };
            for (caller, id) in [
                (person("ciso", INSTANCE), others.as_str()),
                (person("it_admin", "proc-inst-2"), others.as_str()),
                (stranger.clone(), others.as_str()),
                (Principal::dev_operator(), "ntf-nothing"),
                (Principal::dev_operator(), ""),
            ] {
                let refused = api.get_notification(by(&caller, get(id))).await.unwrap_err();
                assert_eq!(refused.code(), Code::NotFound, "{caller:?} {id:?}");
                assert_eq!(reason_of(&refused).as_deref(), Some("NOTIFICATION_NOT_FOUND"));
            }
            // What was asked for goes back in a header: no more of it than an id can have.
            let long = "x".repeat(100_000);
            let one = api.get_notification(by(&Principal::dev_operator(), get(&long))).await.unwrap_err();
            let message = ListNotificationsRequest { instance_id: long, ..Default::default() };
            let many = api.list_notifications(by(&Principal::dev_operator(), message)).await.unwrap_err();
            for refused in [one, many] {
                assert_eq!(refused.code(), Code::NotFound);
                assert!(
                    refused.message().len() + refused.details().len() < 1_000,
                    "{}",
                    refused.message().len()
                );
            }
            let found =
                api.get_notification(by(&person("it_admin", INSTANCE), get(&others))).await?.into_inner();
            assert_eq!(found.notification.unwrap().id, others);

            let elsewhere = list(&api, &person("ciso", "proc-inst-2"), 0, "").await.unwrap_err();
            assert_eq!(reason_of(&elsewhere).as_deref(), Some("INSTANCE_NOT_FOUND"));
            Ok(())
        })
    })
    .await
}
