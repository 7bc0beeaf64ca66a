//! Answers what other programs ask: convert, look up, convert.

mod convert;
mod refusal;

use phasegate_id::{InstanceId, NotificationId, TenantId, shortened};
use phasegate_page_token::{PageTokens, page_size};
use phasegate_principal::Principal;
use phasegate_proto::internal::instance::v1::DescribeInstanceRequest;
use phasegate_proto::internal::instance::v1::instance_internal_service_client::InstanceInternalServiceClient;
use phasegate_proto::notification::v1::notification_service_server::NotificationService;
use phasegate_proto::notification::v1::{
    GetNotificationRequest, GetNotificationResponse, ListNotificationsRequest, ListNotificationsResponse,
};
use phasegate_rpc_error::{relayed, status};
use phasegate_serve::{Peers, Service};
use tonic::{Request, Response, Status};

use crate::app::{Error, Position, Store};

/// The service as others see it.
#[derive(Debug)]
pub(crate) struct Api {
    store: Store,
    peers: Peers,
    tokens: PageTokens,
}

impl Api {
    /// Answers from `store`.
    pub(crate) fn new(store: Store, peers: Peers, tokens: PageTokens) -> Api {
        Api { store, peers, tokens }
    }

    async fn list(
        &self,
        caller: &Principal,
        request: ListNotificationsRequest,
    ) -> Result<ListNotificationsResponse, Error> {
        let size = page_size(request.page_size)?;
        let own = caller.participation.as_ref().map(|own| own.participant_id.as_str());
        let scope = format!(
            "ListNotifications\n{}\n{}\n{}",
            caller.tenant,
            request.instance_id,
            own.unwrap_or_default()
        );
        let after: Option<Position> = self.tokens.decode(&scope, &request.page_token)?;
        let (tenant, instance) = self.instance(caller, &request.instance_id).await?;
        // One more than asked for tells whether there is a next page.
        let mut found = self.store.notification_list(&tenant, &instance, own, after, size + 1).await?;
        let more = found.len() > size;
        found.truncate(size);
        let next_page_token = match found.last() {
            Some(last) if more => {
                self.tokens.encode(&scope, &Position { notification_id: last.id.to_string() })
            }
            Some(_) | None => String::new(),
        };
        let notifications = found.iter().map(convert::notification).collect();
        Ok(ListNotificationsResponse { notifications, next_page_token })
    }

    async fn get(
        &self,
        caller: &Principal,
        request: GetNotificationRequest,
    ) -> Result<GetNotificationResponse, Error> {
        let unknown = || Error::NotificationNotFound(shortened(&request.notification_id));
        let id = NotificationId::parse(&request.notification_id).map_err(|_| unknown())?;
        let tenant = TenantId::parse(&caller.tenant).map_err(|_| unknown())?;
        let found = self.store.notification_find(&tenant, &id).await?.ok_or_else(unknown)?;
        let is_visible = caller.participation.as_ref().is_none_or(|own| {
            own.instance_id == found.instance_id.as_str()
                && own.participant_id == found.participant_id.as_str()
        });
        if !is_visible {
            return Err(unknown());
        }
        Ok(GetNotificationResponse { notification: Some(convert::notification(&found)) })
    }

    /// Checks that the instance exists for the caller. One that has not been heard of here yet may have just been started.
    async fn instance(&self, caller: &Principal, id: &str) -> Result<(TenantId, InstanceId), Error> {
        let unknown = || Error::InstanceNotFound(shortened(id));
        let instance = InstanceId::parse(id).map_err(|_| unknown())?;
        let tenant = TenantId::parse(&caller.tenant).map_err(|_| unknown())?;
        if !caller.sees_instance(id) {
            return Err(unknown());
        }
        if self.store.instance_find(&tenant, &instance).await?.is_none() {
            // The caller's right to see it has been looked at; the question is our own.
            let ourselves = Principal::system(Service::Notification.name(), tenant.as_str());
            let message = DescribeInstanceRequest {
                instance_id: id.to_owned(),
                task_id: String::new(),
                status_only: true,
            };
            InstanceInternalServiceClient::new(self.peers.channel(Service::Instance))
                .describe_instance(self.peers.request(Service::Instance, &ourselves, message))
                .await
                .map_err(|status| relayed(status, Service::Instance.name()))?;
        }
        Ok((tenant, instance))
    }
}

#[tonic::async_trait]
impl NotificationService for Api {
    async fn list_notifications(
        &self,
        request: Request<ListNotificationsRequest>,
    ) -> Result<Response<ListNotificationsResponse>, Status> {
        let caller = Principal::of(&request)?.clone();
        let answer = self.list(&caller, request.into_inner()).await;
        answer.map(Response::new).map_err(|error| status(&error))
    }

    async fn get_notification(
        &self,
        request: Request<GetNotificationRequest>,
    ) -> Result<Response<GetNotificationResponse>, Status> {
        let caller = Principal::of(&request)?.clone();
        let answer = self.get(&caller, request.into_inner()).await;
        answer.map(Response::new).map_err(|error| status(&error))
    }
}
