//! Tenants, made and listed directly in the database of the participant service: before the first key is there, nobody
//! can call.

use anyhow::Context as _;
use phasegate_clock::{Clock as _, SystemClock};
use phasegate_database::Opening;
use phasegate_participant::app::tenant::Tenant;
use phasegate_principal::ApiKey;
use phasegate_serve::Service;

use super::Options;

/// Makes a tenant and its first key; with `again`, such a key for a tenant that is there.
pub async fn tenant_create(options: &Options, name: &str, again: bool) -> anyhow::Result<ApiKey> {
    let database = options.database(Service::Participant, Opening::Check)?;
    let made = phasegate_participant::tenant_create(&database, name, again, SystemClock.now()).await;
    made.context("the tenant was not made")
}

/// The tenants, by name.
pub async fn tenant_list(options: &Options) -> anyhow::Result<Vec<Tenant>> {
    let database = options.database(Service::Participant, Opening::Check)?;
    phasegate_participant::tenant_list(&database).await.context("the tenants cannot be listed")
}
