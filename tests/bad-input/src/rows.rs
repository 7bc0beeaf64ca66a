//! All rows of all services, as they stand: what a refused call must leave alone.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, Row as _};

/// The services that keep rows.
const SERVICES: [&str; 6] = ["approval", "artifact", "definition", "instance", "notification", "participant"];

/// Reads the rows of every service, without any code of theirs.
#[derive(Debug)]
pub struct Rows {
    readers: Vec<(Reader, String)>,
}

#[derive(Debug)]
enum Reader {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// What stood in every table at one moment: how many rows, and what was in them. Outboxes and inboxes are among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing(BTreeMap<String, (i64, String)>);

impl Rows {
    /// Opens the SQLite files of a folder, to read only.
    pub async fn of_folder(folder: &Path) -> anyhow::Result<Self> {
        let mut readers = Vec::new();
        for service in SERVICES {
            let options = SqliteConnectOptions::new()
                .filename(folder.join(format!("{service}.db")))
                .read_only(true)
                .create_if_missing(false);
            let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
            let columns = sqlx::query(
                "select t.name as table_name, c.name as column_name
                   from sqlite_master as t join pragma_table_info(t.name) as c
                  where t.type = 'table' and t.name not like 'sqlite_%'",
            );
            let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for row in columns.fetch_all(&pool).await? {
                let column = format!("quote({})", row.try_get::<String, _>("column_name")?);
                tables.entry(row.try_get("table_name")?).or_default().push(column);
            }
            let parts = tables.iter().map(|(table, columns)| {
                format!(
                    "select '{service}.{table}' as name, count(*) as rows, coalesce(group_concat(line, char(10)), '') as content
                       from (select {} as line from {table} order by 1)",
                    columns.join("||','||")
                )
            });
            let statement = parts.collect::<Vec<_>>().join(" union all ");
            readers.push((Reader::Sqlite(pool), statement));
        }
        Ok(Self { readers })
    }

    /// Connects to the database that holds the schemas of all services.
    pub async fn of_server(url: &str) -> anyhow::Result<Self> {
        let pool = PgPoolOptions::new().max_connections(1).connect(url).await?;
        let mut parts = Vec::new();
        for service in SERVICES {
            let tables = sqlx::query("select tablename::text as name from pg_tables where schemaname = $1");
            for row in tables.bind(format!("phasegate_{service}")).fetch_all(&pool).await? {
                let table: String = row.try_get("name")?;
                parts.push(format!(
                    "select '{service}.{table}'::text as name, count(*) as rows,
                            coalesce(md5(string_agg(line::text, '' order by line::text)), '') as content
                       from phasegate_{service}.{table} as line"
                ));
            }
        }
        Ok(Self { readers: vec![(Reader::Postgres(pool), parts.join(" union all "))] })
    }

    /// Reads everything.
    pub async fn read(&self) -> anyhow::Result<Standing> {
        let mut standing = BTreeMap::new();
        for (reader, statement) in &self.readers {
            match reader {
                Reader::Sqlite(pool) => {
                    for row in sqlx::query(AssertSqlSafe(statement.clone())).fetch_all(pool).await? {
                        standing
                            .insert(row.try_get("name")?, (row.try_get("rows")?, row.try_get("content")?));
                    }
                }
                Reader::Postgres(pool) => {
                    for row in sqlx::query(AssertSqlSafe(statement.clone())).fetch_all(pool).await? {
                        standing
                            .insert(row.try_get("name")?, (row.try_get("rows")?, row.try_get("content")?));
                    }
                }
            }
        }
        Self::complete(standing)
    }

    /// Whether something is still on its way by itself: an event to be sent, a mail to be tried again.
    pub async fn are_awaited(&self) -> anyhow::Result<bool> {
        for (reader, _) in &self.readers {
            let is_awaited = match reader {
                Reader::Sqlite(pool) => {
                    let mut is_awaited =
                        Self::is_awaited_in(pool, "outbox where receivers_left <> 0").await?;
                    let table = "select 1 from sqlite_master where name = 'notification'";
                    if sqlx::query(table).fetch_optional(pool).await?.is_some() {
                        is_awaited |=
                            Self::is_awaited_in(pool, "notification where status = 'queued'").await?;
                    }
                    is_awaited
                }
                Reader::Postgres(pool) => {
                    let mut parts = vec![
                        "select 1 from phasegate_notification.notification where status = 'queued'"
                            .to_owned(),
                    ];
                    parts.extend(SERVICES.map(|service| {
                        format!("select 1 from phasegate_{service}.outbox where receivers_left <> 0")
                    }));
                    let statement = AssertSqlSafe(parts.join(" union all "));
                    sqlx::query(statement).fetch_optional(pool).await?.is_some()
                }
            };
            if is_awaited {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn is_awaited_in(pool: &SqlitePool, rows: &str) -> anyhow::Result<bool> {
        let statement = AssertSqlSafe(format!("select 1 from {rows} limit 1"));
        Ok(sqlx::query(statement).fetch_optional(pool).await?.is_some())
    }

    /// A reader that sees nothing would find nothing changed.
    fn complete(standing: BTreeMap<String, (i64, String)>) -> anyhow::Result<Standing> {
        for service in SERVICES {
            let outbox = standing.get(&format!("{service}.outbox"));
            outbox.with_context(|| format!("the outbox of the {service} service is not among the tables"))?;
        }
        Ok(Standing(standing))
    }
}

impl Standing {
    /// Says which tables differ from an earlier standing, and how.
    pub fn changes_since(&self, before: &Self) -> Vec<String> {
        let names = self.0.keys().chain(before.0.keys().filter(|name| !self.0.contains_key(*name)));
        names
            .filter_map(|name| {
                let (was, is) = (before.0.get(name), self.0.get(name));
                let rows = |found: Option<&(i64, String)>| found.map_or(0, |(rows, _)| *rows);
                (was != is).then(|| match rows(is) - rows(was) {
                    0 => format!("rows of {name} have changed"),
                    more => format!("{name} has {more:+} rows"),
                })
            })
            .collect()
    }

    /// The same without tables that may change, named as `service.table`.
    #[must_use]
    pub fn without(&self, tables: &[&str]) -> Self {
        let kept = self.0.iter().filter(|(name, _)| !tables.contains(&name.as_str()));
        Self(kept.map(|(name, found)| (name.clone(), found.clone())).collect())
    }

    /// Rows of one table.
    pub fn rows(&self, table: &str) -> i64 {
        self.0.get(table).map_or(0, |(rows, _)| *rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_row_and_a_changed_one_are_found() {
        let standing = |rows: i64, content: &str| {
            Standing(BTreeMap::from([
                ("a.kept".to_owned(), (1, "x".to_owned())),
                ("a.moved".to_owned(), (rows, content.to_owned())),
            ]))
        };
        let before = standing(1, "x");
        assert_eq!(standing(1, "x").changes_since(&before), Vec::<String>::new());
        assert_eq!(standing(1, "y").changes_since(&before), ["rows of a.moved have changed"]);
        assert_eq!(standing(3, "y").changes_since(&before), ["a.moved has +2 rows"]);
        assert!(
            standing(3, "y").without(&["a.moved"]).changes_since(&before.without(&["a.moved"])).is_empty()
        );
    }
}
