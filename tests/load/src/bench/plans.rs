//! Which statements read many rows, by the plans that PostgreSQL writes into its log (`auto_explain`).
//!
//! Sequential scans are not all there is to look for: services switch them off, and what has no index that fits then reads all of
//! one that does not.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::time::Duration;

use anyhow::Context as _;
use phasegate_load::machine::Postgres;
use serde_json::{Value, json};

/// A table with more rows than this has grown, and a scan that reads more than this reads many.
const ROWS_MAX: u32 = 1_000;
/// A statement that takes longer is worth a word, whatever its plan is.
const SLOW_MILLIS: f64 = 50.0;
/// Characters of a statement that are said.
const SAID: usize = 240;
/// A statement that is seen so often a second belongs to the work and not to what is looked at now and then: metrics, a few times
/// a minute.
const HOT: f64 = 0.2;

/// Every session that begins from here on has what explains statements; only such a session knows its settings.
const LOADED: [&str; 2] =
    ["alter system set session_preload_libraries = 'auto_explain'", "select pg_reload_conf()"];
/// Every session that has it explains each of its statements.
const ON: [&str; 7] = [
    "alter system set auto_explain.log_min_duration = 0",
    "alter system set auto_explain.log_format = 'json'",
    // For the schema of each table.
    "alter system set auto_explain.log_verbose = on",
    // For the rows that were read.
    "alter system set auto_explain.log_analyze = on",
    "alter system set auto_explain.log_timing = off",
    "alter system set auto_explain.sample_rate = 1",
    "select pg_reload_conf()",
];
const OFF: [&str; 2] = ["alter system reset all", "select pg_reload_conf()"];

/// A statement and what it was seen to do.
#[derive(Debug, Default, Clone)]
pub(super) struct Finding {
    /// Many rows of it are read, or all; none where the statement was only slow.
    pub(super) table: Option<String>,
    /// At most, by one scan.
    pub(super) rows: u64,
    pub(super) statement: String,
    pub(super) times: u64,
    pub(super) millis_max: f64,
    /// Seen so often that it belongs to the work.
    pub(super) is_hot: bool,
    /// The plan that took longest, with the rows that each of its scans has read.
    pub(super) plan: String,
}

/// What the plans of some time say.
#[derive(Debug, Default, Clone)]
pub(super) struct Plans {
    /// Statements that were explained.
    pub(super) explained: u64,
    pub(super) findings: Vec<Finding>,
}

/// A statement of the log.
#[derive(Debug)]
struct Explained {
    statement: String,
    millis: f64,
    /// Tables that are read from one end to the other, or many rows of them, and how many.
    scanned: BTreeMap<String, u64>,
    /// The nodes of the plan in one line.
    outline: String,
}

/// Explains the statements of sessions that begin from here on. Returns where the log ends.
pub(super) async fn begin(postgres: &Postgres) -> anyhow::Result<u64> {
    for sql in LOADED {
        postgres.query(sql).await?;
    }
    // The server takes settings in its own time.
    while postgres.query("show session_preload_libraries").await? != ["auto_explain"] {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for sql in ON {
        postgres.query(sql).await?;
    }
    Ok(std::fs::metadata(postgres.log())?.len())
}

/// Ends that, and says what was seen in so many seconds.
pub(super) async fn end(postgres: &Postgres, from: u64, seconds: f64) -> anyhow::Result<Plans> {
    for sql in OFF {
        postgres.query(sql).await?;
    }
    let grown = format!(
        "select relnamespace::regnamespace || '.' || relname from pg_class where relkind = 'r' and reltuples > {ROWS_MAX}"
    );
    let grown = postgres.query(&grown).await?;
    let mut log = std::fs::File::open(postgres.log())?;
    std::io::Seek::seek(&mut log, std::io::SeekFrom::Start(from))?;
    read(std::io::BufReader::new(log), &grown, seconds)
}

/// Reads the log of so many seconds.
fn read(log: impl BufRead, grown: &[String], seconds: f64) -> anyhow::Result<Plans> {
    let mut plans = Plans::default();
    let mut found: BTreeMap<(Option<String>, String), Finding> = BTreeMap::new();
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    each(log, |explained| {
        plans.explained += 1;
        *seen.entry(explained.statement.clone()).or_default() += 1;
        let scanned = explained.scanned.into_iter().filter(|(table, _)| grown.contains(table));
        let mut tables: Vec<(Option<String>, u64)> =
            scanned.map(|(table, rows)| (Some(table), rows)).collect();
        if tables.is_empty() && explained.millis > SLOW_MILLIS {
            tables.push((None, 0));
        }
        for (table, rows) in tables {
            let finding = found.entry((table.clone(), explained.statement.clone())).or_insert_with(|| {
                Finding { table, statement: explained.statement.clone(), ..Finding::default() }
            });
            finding.times += 1;
            finding.rows = finding.rows.max(rows);
            if explained.millis >= finding.millis_max {
                finding.millis_max = explained.millis;
                finding.plan.clone_from(&explained.outline);
            }
        }
    })?;
    plans.findings = found.into_values().collect();
    for finding in &mut plans.findings {
        #[expect(clippy::cast_precision_loss, reason = "a count of some seconds")]
        let times = seen.get(&finding.statement).copied().unwrap_or_default() as f64;
        finding.is_hot = times >= HOT * seconds;
    }
    Ok(plans)
}

/// Takes the plans out of a log: each is some lines that begin with a tab, after one that says how long it took.
fn each(log: impl BufRead, mut take: impl FnMut(Explained)) -> anyhow::Result<()> {
    let mut took: Option<f64> = None;
    let mut plan = String::new();
    for line in log.lines() {
        let line = line?;
        if let Some(of_plan) = line.strip_prefix('\t') {
            if took.is_some() {
                plan.push_str(of_plan);
                plan.push('\n');
            }
            continue;
        }
        if let Some(millis) = took.take() {
            // What is at the end of the log may not be all there.
            if let Ok(plan) = serde_json::from_str(&plan) {
                take(explained(&plan, millis));
            }
        }
        plan.clear();
        if let Some((_, said)) = line.split_once("duration: ")
            && let Some(millis) = said.strip_suffix(" ms  plan:")
        {
            took = Some(millis.parse().with_context(|| format!("a duration in {line}"))?);
        }
    }
    Ok(())
}

fn explained(plan: &Value, millis: f64) -> Explained {
    let text = plan["Query Text"].as_str().unwrap_or_default();
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut scanned = BTreeMap::new();
    scans(&plan["Plan"], &mut scanned);
    let statement = words.join(" ").chars().take(SAID).collect();
    // Machine code that is made for a statement is made each time that it runs.
    let jit = if plan["JIT"].is_object() { ", compiled" } else { "" };
    Explained { statement, millis, scanned, outline: outline(&plan["Plan"]) + jit }
}

/// A plan in one line: what is done, by which index or to which table, how many rows were looked at for it, and how
/// many PostgreSQL thought there would be.
fn outline(node: &Value) -> String {
    let word = |key: &str| node[key].as_str().map(|word| format!(" {word}")).unwrap_or_default();
    let mut said = node["Node Type"].as_str().unwrap_or_default().to_owned();
    if node["Index Name"].is_string() {
        said += &word("Index Name");
    } else {
        said += &word("Relation Name");
    }
    if said.contains("Scan") {
        let expected = number(node, "Plan Rows") * number(node, "Actual Loops");
        said = format!("{said}: {:.0} of {expected:.0} expected", rows(node));
    }
    let below: Vec<String> = node["Plans"].as_array().into_iter().flatten().map(outline).collect();
    if below.is_empty() { said } else { format!("{said} ({})", below.join(", ")) }
}

fn number(node: &Value, key: &str) -> f64 {
    node[key].as_f64().unwrap_or_default()
}

/// Rows that a scan has looked at, over all its turns.
fn rows(node: &Value) -> f64 {
    (number(node, "Actual Rows") + number(node, "Rows Removed by Filter")) * number(node, "Actual Loops")
}

fn scans(node: &Value, tables: &mut BTreeMap<String, u64>) {
    let rows = rows(node);
    let is_whole = node["Node Type"] == "Seq Scan";
    if node["Relation Name"].is_string() && (is_whole || rows > f64::from(ROWS_MAX)) {
        let name = |key: &str| node[key].as_str().unwrap_or_default().to_owned();
        let most = tables.entry(format!("{}.{}", name("Schema"), name("Relation Name"))).or_default();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let rows = rows as u64;
        *most = rows.max(*most);
    }
    for node in node["Plans"].as_array().into_iter().flatten() {
        scans(node, tables);
    }
}

impl Plans {
    /// Statements of the work that read many rows of a table, or all.
    pub(super) fn hot(&self) -> usize {
        self.findings.iter().filter(|finding| finding.is_hot && finding.table.is_some()).count()
    }

    /// For people, a line each.
    pub(super) fn lines(&self) -> Vec<String> {
        let line = |finding: &Finding| {
            let what = match &finding.table {
                Some(table) => format!("reads {} rows of {table}", finding.rows),
                None => "slow".to_owned(),
            };
            let often = if finding.is_hot { "a statement of the work" } else { "now and then" };
            let (times, millis) = (finding.times, finding.millis_max);
            format!(
                "{what}, {often} (seen {times} times, at most {millis:.0} ms): {}\n      {}",
                finding.statement, finding.plan
            )
        };
        self.findings.iter().map(line).collect()
    }

    /// For machines.
    pub(super) fn to_json(&self) -> Value {
        let finding = |finding: &Finding| {
            json!({
                "table": finding.table,
                "rows": finding.rows,
                "statement": finding.statement,
                "times": finding.times,
                "maxMs": finding.millis_max,
                "isHot": finding.is_hot,
                "plan": finding.plan,
            })
        };
        let findings: Vec<Value> = self.findings.iter().map(finding).collect();
        json!({ "explained": self.explained, "findings": findings })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"2026-11-23 12:00:00.000 UTC [7] LOG:  duration: 0.049 ms  plan:
	{
	  "Query Text": "select *\n  from instance where \"x\" = $1",
	  "Plan": {
	    "Node Type": "Limit",
	    "Plans": [
	      { "Node Type": "Seq Scan", "Relation Name": "instance", "Schema": "phasegate_instance" },
	      { "Node Type": "Index Scan", "Relation Name": "history", "Schema": "phasegate_instance" }
	    ]
	  }
	}
2026-11-23 12:00:00.100 UTC [7] ERROR:  something else
2026-11-23 12:00:00.100 UTC [7] DETAIL:  of
	several lines
2026-11-23 12:00:00.200 UTC [8] LOG:  duration: 75.5 ms  plan:
	{
	  "Query Text": "select count(*) from approval",
	  "Plan": {
	    "Node Type": "Aggregate",
	    "Plans": [
	      {
	        "Node Type": "Index Only Scan", "Index Name": "approval_pk", "Relation Name": "approval",
	        "Schema": "phasegate_approval", "Plan Rows": 3, "Actual Rows": 40, "Rows Removed by Filter": 2, "Actual Loops": 10
	      }
	    ]
	  }
	}
2026-11-23 12:00:00.250 UTC [8] LOG:  duration: 1.5 ms  plan:
	{
	  "Query Text": "select from instance by an index that does not fit",
	  "Plan": {
	    "Node Type": "Index Scan", "Index Name": "instance_pk", "Relation Name": "instance",
	    "Schema": "phasegate_instance", "Plan Rows": 1, "Actual Rows": 1, "Rows Removed by Filter": 5000, "Actual Loops": 1
	  }
	}
2026-11-23 12:00:00.300 UTC [8] LOG:  duration: 0.1 ms  plan:
	{
	  "Query Text": "select * from definition",
	  "Plan": { "Node Type": "Seq Scan", "Relation Name": "definition", "Schema": "phasegate_definition" }
	}
2026-11-23 12:00:00.400 UTC [8] LOG:  duration: 0.2 ms  plan:
	{ "Query Text": "cut
"#;

    #[test]
    fn tables_that_are_read_whole_and_slow_statements_are_found() -> anyhow::Result<()> {
        let plans = read(LOG.as_bytes(), &["phasegate_instance.instance".to_owned()], 1.0)?;
        assert_eq!(plans.explained, 4);
        assert_eq!(plans.hot(), 2);
        let found: Vec<(Option<&str>, u64, &str)> = plans
            .findings
            .iter()
            .map(|finding| (finding.table.as_deref(), finding.rows, finding.statement.as_str()))
            .collect();
        let instance = Some("phasegate_instance.instance");
        assert_eq!(
            found,
            [
                (None, 0, "select count(*) from approval"),
                (instance, 0, "select * from instance where \"x\" = $1"),
                (instance, 5_001, "select from instance by an index that does not fit"),
            ]
        );
        assert_eq!(plans.findings[0].plan, "Aggregate (Index Only Scan approval_pk: 420 of 30 expected)");
        Ok(())
    }

    #[test]
    fn what_is_seen_now_and_then_is_not_hot() -> anyhow::Result<()> {
        let plans = read(LOG.as_bytes(), &["phasegate_instance.instance".to_owned()], 10.0)?;
        assert_eq!((plans.hot(), plans.findings.len()), (0, 3));
        Ok(())
    }
}
