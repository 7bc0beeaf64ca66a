//! The role that tests sign in as: no superuser, so that row-level security holds for it.

use std::str::FromStr as _;

use anyhow::Context as _;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::OnceCell;

/// Its name, and its password where the server asks for one: nothing is worth guarding there.
pub(crate) const NAME: &str = "phasegate_test";

/// Makes the role where it is missing; it may make schemas in the database. Processes may do so at once.
const MAKE: &str = "
begin;
select pg_advisory_xact_lock(7232401);
do $$
begin
  if not exists (select from pg_roles where rolname = 'phasegate_test') then
    create role phasegate_test login password 'phasegate_test' nosuperuser nocreatedb nocreaterole nobypassrls;
  end if;
  if not has_database_privilege('phasegate_test', current_database(), 'create') then
    execute format('grant create on database %I to phasegate_test', current_database());
  end if;
end
$$;
commit";

/// The URL of a server for the plain role.
pub(crate) async fn plain(server: &str) -> anyhow::Result<String> {
    static MADE: OnceCell<()> = OnceCell::const_new();
    MADE.get_or_try_init(async || {
        let mut connection = PgConnectOptions::from_str(server)?.connect().await?;
        sqlx::raw_sql(MAKE).execute(&mut connection).await?;
        anyhow::Ok(connection.close().await?)
    })
    .await?;
    let (scheme, rest) = server.split_once("://").context("the URL of a server has a scheme")?;
    let place = rest.split_once('@').map_or(rest, |(_, place)| place);
    Ok(format!("{scheme}://{NAME}:{NAME}@{place}"))
}
