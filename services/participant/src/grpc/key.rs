//! `KeyService` and `KeyInternalService`. What is kept of an answer never holds a secret.

use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_idempotency::{Answer, respond};
use phasegate_page_token::page_size;
use phasegate_principal::Principal;
use phasegate_process::parse_duration;
use phasegate_proto::internal::participant::v1 as internal;
use phasegate_proto::internal::participant::v1::key_internal_service_server::KeyInternalService;
use phasegate_proto::participant::v1 as proto;
use phasegate_proto::participant::v1::key_service_server::KeyService;
use phasegate_rpc_error::Invalid;
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::{Api, kept, status};
use crate::app::key::{After, Made, Wish};
use crate::app::{Error, Once};
use crate::domain::key::{GRACE_DEFAULT, Status as KeyStatus};

#[tonic::async_trait]
impl KeyService for Api {
    async fn create_key(
        &self,
        request: Request<proto::CreateKeyRequest>,
    ) -> Result<Response<proto::CreateKeyResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let once = Once::of(&principal, "CreateKey", &request.request_id, &request, |made: &Made| {
            Ok(proto::CreateKeyResponse { key: Some(key(made)), secret: String::new() }.encode_to_vec())
        })
        .map_err(status)?;
        let life = duration("expires_in", &request.expires_in).map_err(status)?;
        let wish = Wish {
            name: request.name,
            scopes: request.scopes,
            queues: request.queues,
            participant: request.participant_id,
            service: request.service,
            life,
        };
        match self.app.key_create(&principal, &wish, once).await.map_err(status)? {
            Answer::First(made) => {
                let answer = proto::CreateKeyResponse { key: Some(key(&made)), secret: secret(&made) };
                Ok(respond(answer, false))
            }
            Answer::Repeated(bytes) => Ok(respond(kept(&bytes)?, true)),
        }
    }

    async fn list_keys(
        &self,
        request: Request<proto::ListKeysRequest>,
    ) -> Result<Response<proto::ListKeysResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let size = page_size(request.page_size).map_err(status)?;
        let scope = format!("ListKeys\n{}\n{}", principal.tenant, request.all);
        let after: Option<After> = self.pages.decode(&scope, &request.page_token).map_err(status)?;
        let mut found =
            self.app.key_list(&principal, request.all, after.as_ref(), size + 1).await.map_err(status)?;
        let is_last = found.len() <= size;
        found.truncate(size);
        let next_page_token = match found.last() {
            Some(Made { key, .. }) if !is_last => {
                self.pages.encode(&scope, &After { created_at: key.created_at, id: key.id.clone() })
            }
            Some(_) | None => String::new(),
        };
        let keys = found.iter().map(key).collect();
        Ok(Response::new(proto::ListKeysResponse { keys, next_page_token }))
    }

    async fn revoke_key(
        &self,
        request: Request<proto::RevokeKeyRequest>,
    ) -> Result<Response<proto::RevokeKeyResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let once = Once::of(&principal, "RevokeKey", &request.request_id, &request, |made: &Made| {
            Ok(proto::RevokeKeyResponse { key: Some(key(made)) }.encode_to_vec())
        })
        .map_err(status)?;
        let done = self.app.key_revoke(&principal, &request.key_id, &request.prefix, once).await;
        match done.map_err(status)? {
            Answer::First(made) => {
                Ok(respond(proto::RevokeKeyResponse { key: Some(key(&made)) }, made.unchanged))
            }
            Answer::Repeated(bytes) => Ok(respond(kept(&bytes)?, true)),
        }
    }

    async fn rotate_key(
        &self,
        request: Request<proto::RotateKeyRequest>,
    ) -> Result<Response<proto::RotateKeyResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let once = Once::of(&principal, "RotateKey", &request.request_id, &request, |made: &Made| {
            Ok(proto::RotateKeyResponse { key: Some(key(made)), secret: String::new() }.encode_to_vec())
        })
        .map_err(status)?;
        let grace = duration("grace", &request.grace).map_err(status)?.unwrap_or(GRACE_DEFAULT);
        match self.app.key_rotate(&principal, &request.key_id, grace, once).await.map_err(status)? {
            Answer::First(made) => {
                let answer = proto::RotateKeyResponse { key: Some(key(&made)), secret: secret(&made) };
                Ok(respond(answer, false))
            }
            Answer::Repeated(bytes) => Ok(respond(kept(&bytes)?, true)),
        }
    }
}

#[tonic::async_trait]
impl KeyInternalService for Api {
    async fn resolve_key(
        &self,
        request: Request<internal::ResolveKeyRequest>,
    ) -> Result<Response<internal::ResolveKeyResponse>, Status> {
        Principal::of(&request)?;
        let request = request.into_inner();
        let key = self.app.key_resolve(&request.prefix, &request.digest).await.map_err(status)?;
        Ok(Response::new(internal::ResolveKeyResponse {
            tenant_id: key.tenant.into_string(),
            key_id: key.id.into_string(),
            name: key.name,
            scopes: key.scopes,
            queues: key.queues,
            participant_id: key.participant.unwrap_or_default(),
            service: key.service.unwrap_or_default(),
        }))
    }
}

/// Reads a duration; nothing where none is given.
fn duration(field: &str, text: &str) -> Result<Option<Duration>, Error> {
    match text {
        "" => return Ok(None),
        // No time at all is a time for a grace; the rules refuse it for a life.
        "0s" => return Ok(Some(Duration::ZERO)),
        _ => {}
    }
    let read = parse_duration(text)
        .map_err(|_| Invalid::new("EXPIRY_INVALID", field, "must be a duration such as 24h"));
    Ok(Some(read?))
}

fn secret(made: &Made) -> String {
    made.secret.as_ref().map(|secret| secret.expose().to_owned()).unwrap_or_default()
}

fn key(made: &Made) -> proto::Key {
    let (key, now) = (&made.key, made.now);
    let status = match key.status(now) {
        KeyStatus::Active => proto::KeyStatus::Active,
        KeyStatus::Expired => proto::KeyStatus::Expired,
        KeyStatus::Revoked => proto::KeyStatus::Revoked,
    };
    let secrets = key.live_secrets(now).map(|secret| proto::KeySecret {
        prefix: secret.prefix.clone(),
        created_at: Some(secret.created_at.to_proto()),
        ends_at: secret.ends_at.map(Timestamp::to_proto),
    });
    proto::Key {
        id: key.id.to_string(),
        name: key.name.clone(),
        scopes: key.scopes.clone(),
        queues: key.queues.clone(),
        participant_id: key.participant.clone().unwrap_or_default(),
        service: key.service.clone().unwrap_or_default(),
        status: status.into(),
        created_by: key.created_by.clone(),
        created_at: Some(key.created_at.to_proto()),
        expires_at: key.expires_at.map(Timestamp::to_proto),
        revoked_at: key.revoked_at.map(Timestamp::to_proto),
        last_used_at: key.last_used_at.map(Timestamp::to_proto),
        secrets: secrets.collect(),
    }
}
