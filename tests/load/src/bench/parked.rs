//! Fills the databases with instances that wait for people: a few run there through the gateway, and all that they have left
//! behind, in all tables of all services, is copied under other names until there are enough.
//!
//! A copy is what its source is: it can be read, its audit trail is whole, and it goes on once somebody answers. Only times
//! are those of its source.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};
use tokio::time::Instant;

use super::copies::{self, Column, HEADER, Hash, Names, TRAILER, Template, instance_id};
use super::fleet::Fleet;
use super::place::{PARKED_PEOPLE, Place};
use super::tables::{OTHERS, TABLES, Table};

/// Instances that run to where they wait: the others are their copies in turn.
pub(super) const SOURCES: u32 = 8;
/// Rows of history that each is to have.
pub(super) const ROWS_EACH: u32 = 20;
/// They wait by then.
const PATIENCE: Duration = Duration::from_mins(1);
/// Bytes that are handed to the database at once.
const CHUNK: usize = 1 << 20;
/// Between two words about how far it is.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What was filled in.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Filled {
    pub(super) instances: u32,
    pub(super) history: u64,
    pub(super) rows: u64,
    pub(super) took: Duration,
}

/// A few instances that wait, and what they are copied with.
#[derive(Debug)]
pub(super) struct Parked {
    connection: PgConnection,
    names: Vec<Names>,
    /// Of each instance.
    heads: Vec<Hash>,
}

impl Parked {
    /// Has a few instances run to where they wait, and nothing is on its way any more.
    pub(super) async fn begin(place: &Place, fleet: &Arc<Fleet>) -> anyhow::Result<Self> {
        let process = place.store_parked_process().await?;
        for number in 0..SOURCES {
            fleet.start(&process, &instance_id(number), &PARKED_PEOPLE).await?;
        }
        let url = place.database_url().context("a PostgreSQL")?;
        let mut connection = PgConnection::connect(&url).await?;
        wait(place, &mut connection).await?;
        check_tables(&mut connection).await?;
        // Rows that refer to others come after them, and nobody has to look again; nothing is lost with a fill that breaks.
        connection.execute("set session_replication_role = replica").await?;
        connection.execute("set synchronous_commit = off").await?;
        let mut names: Vec<Names> = (0..SOURCES).map(|number| Names::of(&instance_id(number))).collect();
        let requests = "select instance_id, approval_id, subject_kind, subject_id,
                               convert_from(state, 'UTF8')::json -> 'request' ->> 'round' as round
                          from phasegate_approval.approval where instance_id like 'parked-%'";
        for row in connection.fetch_all(requests).await? {
            let instance: String = row.try_get("instance_id")?;
            let source = (0..SOURCES).find(|number| instance_id(*number) == instance);
            let source = source.and_then(|number| names.get_mut(usize::try_from(number).ok()?));
            let (id, kind, subject): (String, String, String) =
                (row.try_get("approval_id")?, row.try_get("subject_kind")?, row.try_get("subject_id")?);
            let round = row.try_get::<String, _>("round")?.parse()?;
            source.context("a source")?.request(&id, (&kind, &subject, round))?;
        }
        Ok(Self { connection, names, heads: Vec::new() })
    }

    /// Copies them until there are so many, the first ones included.
    pub(super) async fn fill(mut self, instances: u32) -> anyhow::Result<Filled> {
        let began = Instant::now();
        let mut filled = Filled { instances, ..Filled::default() };
        self.heads = vec![[0; 32]; usize::try_from(instances)?];
        for (at, table) in TABLES.iter().enumerate() {
            let rows = self.copy(table, instances, began).await?;
            filled.rows += rows;
            if table.full_name() == "phasegate_instance.history" {
                filled.history = rows;
            }
            tell(began, &format!("{} of {} tables, {} rows in all", at + 1, TABLES.len(), filled.rows));
        }
        filled.took = began.elapsed();
        self.connection.close().await?;
        Ok(filled)
    }

    /// Copies the rows of one table. How many it has of parked instances then.
    async fn copy(&mut self, table: &Table, instances: u32, began: Instant) -> anyhow::Result<u64> {
        let name = table.full_name();
        let columns = columns(&mut self.connection, table).await?;
        let kinds: Vec<Column> = columns.iter().map(|column| table.column(column)).collect();
        let mut templates = Vec::new();
        for (number, names) in (0..SOURCES).zip(&mut self.names) {
            let sql = table.copy_out(&columns, &instance_id(number));
            let out = self.connection.copy_out_raw(&sql).await.with_context(|| format!("read {name}"))?;
            let bytes: Vec<_> = out.try_collect().await?;
            let rows = copies::rows(&bytes.concat())?;
            let of_one: Vec<Template> = rows.iter().map(|row| Template::of(row, &kinds, names)).collect();
            names.check()?;
            templates.push(of_one);
        }
        let sql = format!("copy {name} ({}) from stdin (format binary)", columns.join(", "));
        let mut copy = self.connection.copy_in_raw(&sql).await?;
        let mut out = HEADER.to_vec();
        let (mut rows, mut told) = (0, Instant::now());
        for (number, head) in (0..).zip(&mut self.heads) {
            let source = usize::try_from(number % SOURCES)?;
            let (Some(of_one), Some(names)) = (templates.get(source), self.names.get(source)) else {
                continue;
            };
            rows += of_one.len() as u64;
            // The first ones are there.
            if number < SOURCES {
                continue;
            }
            for template in of_one {
                template.write(names, number, head, &mut out)?;
            }
            if out.len() > CHUNK {
                copy.send(std::mem::take(&mut out)).await?;
            }
            if told.elapsed() > TELL_EVERY {
                told = Instant::now();
                tell(began, &format!("{name}: {number} of {instances} instances"));
            }
        }
        out.extend(TRAILER);
        copy.send(out).await?;
        copy.finish().await.with_context(|| format!("write {name}"))?;
        Ok(rows)
    }
}

/// Waits until people are asked, agents have nothing left to do, and no event or mail is on its way.
async fn wait(place: &Place, connection: &mut PgConnection) -> anyhow::Result<()> {
    let waiting = "select (select count(distinct instance_id) from phasegate_approval.approval
                            where status = 'pending' and instance_id like 'parked-%') as asked,
                          (select count(*) from phasegate_instance.work where instance_id like 'parked-%')
                        + (select count(*) from phasegate_instance.lease
                            where instance_id like 'parked-%' and ends_at is not null) as busy";
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let row = connection.fetch_one(waiting).await?;
        let (asked, busy): (i64, i64) = (row.try_get("asked")?, row.try_get("busy")?);
        if asked == i64::from(SOURCES) && busy == 0 && place.is_drained().await? {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    bail!("the instances to be copied do not all wait for people after {} s", PATIENCE.as_secs())
}

/// Refuses a database with a table that nobody here has thought of.
async fn check_tables(connection: &mut PgConnection) -> anyhow::Result<()> {
    let tables = "select replace(schemaname, 'phasegate_', '') || '.' || tablename as name from pg_tables
                   where schemaname like 'phasegate\\_%' and tablename <> 'schema_version'";
    let mut unknown = Vec::new();
    for row in connection.fetch_all(tables).await? {
        let name: String = row.try_get("name")?;
        let is_copied = TABLES.iter().any(|table| table.full_name() == format!("phasegate_{name}"));
        if !is_copied && !OTHERS.contains(&name.as_str()) {
            unknown.push(name);
        }
    }
    ensure!(unknown.is_empty(), "whether these have rows of instances is not said in tables.rs: {unknown:?}");
    Ok(())
}

/// Columns that are written, and not made by the database.
async fn columns(connection: &mut PgConnection, table: &Table) -> anyhow::Result<Vec<String>> {
    let sql = format!(
        "select column_name::text from information_schema.columns
          where table_schema = 'phasegate_{}' and table_name = '{}' and is_identity = 'NO' and is_generated = 'NEVER'
          order by ordinal_position",
        table.service, table.name
    );
    let rows = connection.fetch_all(AssertSqlSafe(sql)).await?;
    let columns: Vec<String> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    ensure!(!columns.is_empty(), "{} is not there", table.full_name());
    Ok(columns)
}

fn tell(began: Instant, what: &str) {
    crate::tell(&format!("parking, {:>4} s: {what}", began.elapsed().as_secs()));
}
