//! Tenants: made by who runs the installation, directly in the database, because nobody has a key to call with yet.

use phasegate_clock::Timestamp;
use phasegate_database::Reach;
use phasegate_id::{KeyId, TenantId, is_slug};
use phasegate_principal::{ApiKey, NoRandomness, Scope};

use super::key::{insert_in, secret_of};
use crate::domain::key::Key;
use crate::store::key::tenant_insert_in;
use crate::store::{self, Store};

pub use crate::domain::key::Tenant;

/// Why a tenant is not made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be called that.
    #[error(
        "a tenant's name has lower-case letters, digits, - and _, begins with a letter, and has at most 63 characters"
    )]
    Name,
    /// There is one.
    #[error("there is a tenant {0} already")]
    Exists(TenantId),
    /// There is none.
    #[error("there is no tenant {0}")]
    Missing(TenantId),
    /// No key could be made.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    /// The store could not.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl From<phasegate_database::Error> for Error {
    fn from(error: phasegate_database::Error) -> Self {
        Self::Store(store::Error::Database(error))
    }
}

/// Makes a tenant and a key that may do everything in it; with `again`, the key for a tenant that is there.
pub async fn create(store: &Store, tenant: &str, again: bool, now: Timestamp) -> Result<ApiKey, Error> {
    if !is_slug(tenant) {
        return Err(Error::Name);
    }
    let tenant = TenantId::trusted(tenant);
    let secret = ApiKey::generate()?;
    let key = Key {
        tenant: tenant.clone(),
        id: KeyId::generate(),
        name: "administrator".to_owned(),
        scopes: vec![Scope::Admin.as_str().to_owned()],
        queues: Vec::new(),
        participant: None,
        service: None,
        created_by: "system:admin".to_owned(),
        created_at: now,
        expires_at: None,
        revoked_at: None,
        last_used_at: None,
        secrets: vec![secret_of(&secret, now)],
    };
    let written = secret.clone();
    let reach = Reach::of_tenant(tenant.as_str());
    let writing = store.db().transaction(move |tx| {
        Box::pin(async move {
            match (tenant_insert_in(tx, &tenant, now).await?, again) {
                (true, false) | (false, true) => {}
                (false, false) => return Err(Error::Exists(tenant)),
                (true, true) => return Err(Error::Missing(tenant)),
            }
            Ok::<_, Error>(insert_in(tx, &key, &written).await?)
        })
    });
    reach.within(writing).await?;
    Ok(secret)
}
