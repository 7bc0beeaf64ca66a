//! Where the load goes: `phasegate dev` on SQLite, or the seven services of production on PostgreSQL and Redis.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use phasegate_load::machine::{Machine, Places, Ports, Postgres, Process};
use phasegate_load::run::Keys;
use phasegate_load::sink::Sink;
use phasegate_load::waiting::Waiting;
use phasegate_test_redis::TestRedis;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::cold;

/// The process of the page, as the demo plays it.
const PROCESS: &str = include_str!("../../../../services/phasegate/src/demo/process.json");
/// People of the process who decide.
pub(super) const PEOPLE: [&str; 2] = ["customer_it_admin", "customer_ciso"];
/// People of the process whose instances are parked.
pub(super) const PARKED_PEOPLE: [&str; 2] = ["parked_it_admin", "parked_ciso"];
/// Memory of PostgreSQL for pages.
const BUFFERS: &str = "1GB";
/// From the start of `phasegate dev` to the line that says where it listens.
const START: Duration = Duration::from_mins(1);

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Store {
    /// `phasegate dev`, everything in one process
    Sqlite,
    /// `phasegate serve`, seven processes, with Redis
    Postgres,
}

/// A system under load.
#[derive(Debug)]
pub(super) struct Place {
    /// Of the gateway: `http://127.0.0.1:<port>`.
    pub(super) address: String,
    pub(super) keys: Option<Keys>,
    pub(super) folder: PathBuf,
    runs: Runs,
}

#[derive(Debug)]
enum Runs {
    Dev { process: Child },
    Serve(Box<Production>),
}

/// `phasegate serve`, and what it needs.
#[derive(Debug)]
pub(super) struct Production {
    pub(super) postgres: Postgres,
    _redis: TestRedis,
    sink: Arc<Sink>,
    pub(super) machine: Machine,
}

/// What the database has done so far.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Written {
    pub(super) commits: u64,
    pub(super) wal_bytes: u64,
}

impl Store {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite, phasegate dev",
            Self::Postgres => "PostgreSQL and Redis, phasegate serve",
        }
    }
}

impl Place {
    /// Starts everything, and stores the process of the page.
    pub(super) async fn start(
        store: Store,
        program: &Path,
        folder: &Path,
        counts_statements: bool,
    ) -> anyhow::Result<Self> {
        let place = match store {
            Store::Sqlite => dev(program, folder).await?,
            Store::Postgres => serve(program, folder, counts_statements).await?,
        };
        let process: Value = serde_json::from_str(PROCESS)?;
        let key = place.keys.as_ref().map_or("", |keys| keys.operator.as_str());
        post(&format!("{}/api/processes", place.address), key, &process).await?;
        Ok(place)
    }

    /// Stores a process like that of the page which waits for other people, so that nobody goes on with it; its id.
    pub(super) async fn store_parked_process(&self) -> anyhow::Result<String> {
        let mut process: Value = serde_json::from_str(&PROCESS.replace("\"customer_", "\"parked_"))?;
        let id = format!("{}_parked", Self::process()?.0);
        process["id"] = json!(id);
        let key = self.keys.as_ref().map_or("", |keys| keys.operator.as_str());
        post(&format!("{}/api/processes", self.address), key, &process).await?;
        Ok(id)
    }

    /// Resident memory of each process of the system, in MiB.
    pub(super) fn resident(&self) -> anyhow::Result<BTreeMap<String, f64>> {
        match &self.runs {
            Runs::Dev { process } => {
                let process = process.id().context("phasegate dev has ended")?;
                Ok(BTreeMap::from([("phasegate dev".to_owned(), cold::resident_mib(process)?)]))
            }
            Runs::Serve(serve) => {
                let copies = serve.machine.copies.iter();
                let resident = |copy: &Arc<Process>| {
                    let process = copy.process().with_context(|| format!("{} does not run", copy.name))?;
                    Ok((copy.service.to_owned(), cold::resident_mib(process)?))
                };
                copies.map(resident).collect()
            }
        }
    }

    /// The processes and the servers of production.
    pub(super) fn production(&self) -> anyhow::Result<&Production> {
        match &self.runs {
            Runs::Serve(serve) => Ok(serve),
            Runs::Dev { .. } => bail!("phasegate dev is one process without servers"),
        }
    }

    /// The id of the process, and the queues of its agents.
    pub(super) fn process() -> anyhow::Result<(String, Vec<String>)> {
        let process: Value = serde_json::from_str(PROCESS)?;
        let id = process["id"].as_str().context("the id of the process")?.to_owned();
        let agents = process["agents"].as_object().context("its agents")?;
        let queues =
            agents.values().filter_map(|agent| agent["templateId"].as_str()).map(str::to_owned).collect();
        Ok((id, queues))
    }

    /// The URL of the database; nothing on SQLite.
    pub(super) fn database_url(&self) -> Option<String> {
        match &self.runs {
            Runs::Dev { .. } => None,
            Runs::Serve(serve) => {
                Some(format!("postgres://postgres@127.0.0.1:{}/postgres", serve.postgres.port()))
            }
        }
    }

    /// What the database has done so far; nothing where nobody counts.
    pub(super) async fn written(&self) -> anyhow::Result<Written> {
        let Runs::Serve(serve) = &self.runs else { return Ok(Written::default()) };
        let sql =
            "select sum(xact_commit)::bigint || '|' || pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint
                     from pg_stat_database";
        let rows = serve.postgres.query(sql).await?;
        let (commits, wal) = rows.first().and_then(|row| row.split_once('|')).context("two columns")?;
        Ok(Written { commits: commits.parse()?, wal_bytes: wal.parse()? })
    }

    /// Tells whether no event and no mail waits any more. On SQLite nobody can look.
    pub(super) async fn is_drained(&self) -> anyhow::Result<bool> {
        match &self.runs {
            Runs::Dev { .. } => Ok(true),
            Runs::Serve(serve) => {
                let waiting = Waiting::read(&serve.postgres).await?;
                let faults = serve.machine.faults();
                ensure!(faults.is_empty(), "{}", faults.join("; "));
                ensure!(waiting.failed.is_empty(), "events failed: {:?}", waiting.failed);
                Ok(waiting.is_over() && waiting.mail == 0)
            }
        }
    }

    /// Has PostgreSQL learn what its tables hold, as it does by itself once a minute: plans that were made while they were
    /// empty are made anew.
    pub(super) async fn settle(&self) -> anyhow::Result<()> {
        if let Runs::Serve(serve) = &self.runs {
            serve.postgres.query("vacuum analyze").await?;
        }
        Ok(())
    }

    /// Begins to count what statements cost, where the server was started to.
    pub(super) async fn statements_begin(&self) -> anyhow::Result<()> {
        if let Runs::Serve(serve) = &self.runs {
            serve.postgres.query("select pg_stat_statements_reset()").await?;
        }
        Ok(())
    }

    /// What the dearest statements have cost since, a line each.
    pub(super) async fn statements(&self) -> anyhow::Result<Vec<String>> {
        let Runs::Serve(serve) = &self.runs else { return Ok(Vec::new()) };
        let sql = "select format('%8s ms  %7s calls  %8s ms to plan  %7s rows  %s  %s', round(total_exec_time + total_plan_time),
                                 calls, round(total_plan_time), rows, usename,
                                 left(translate(query, chr(10), ' '), 190))
                     from pg_stat_statements left join pg_user on usesysid = userid
                    order by total_exec_time + total_plan_time desc limit 40";
        serve.postgres.query(sql).await
    }

    /// Mail that has come.
    pub(super) fn mail(&self) -> Option<usize> {
        match &self.runs {
            Runs::Dev { .. } => None,
            Runs::Serve(serve) => Some(serve.sink.count()),
        }
    }
}

async fn dev(program: &Path, folder: &Path) -> anyhow::Result<Place> {
    let mut process = Command::new(program)
        .args(["dev", "--port", "0", "--log", "warn", "--data"])
        .arg(folder.join("data"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(folder.join("dev.log"))?)
        .kill_on_drop(true)
        .spawn()
        .context("phasegate dev")?;
    let mut lines = BufReader::new(process.stdout.take().context("its output")?).lines();
    let listens = async {
        while let Some(line) = lines.next_line().await? {
            if let Some((_, address)) = line.split_once("listens on ") {
                return Ok(address.trim().to_owned());
            }
        }
        bail!("phasegate dev ended before it listened")
    };
    let address = tokio::time::timeout(START, listens).await.context("phasegate dev does not start")??;
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let runs = Runs::Dev { process };
    Ok(Place { address, keys: None, folder: folder.to_owned(), runs })
}

async fn serve(program: &Path, folder: &Path, counts_statements: bool) -> anyhow::Result<Place> {
    let mut ports = Ports::new(&mut StdRng::from_os_rng());
    // The server's user must be able to walk to its folder.
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
    let port = ports.free()?;
    let postgres = if counts_statements {
        Postgres::start_counting(folder, port, BUFFERS).await?
    } else {
        Postgres::start(folder, port, BUFFERS).await?
    };
    let redis = TestRedis::start().await?;
    let smtp = ports.free()?;
    let sink = Sink::counting(smtp).await?;
    let places = Places {
        program: program.to_owned(),
        folder: folder.to_owned(),
        copies: 1,
        postgres: postgres.port(),
        redis: redis.port(),
        smtp,
        public: ports.free()?,
        // One tenant is all the load there is.
        settings: "rate-limit-tenant = 0\nrate-limit-caller = 0\n".to_owned(),
        planted: None,
    };
    let machine = Machine::start(&places, &mut ports).await?;
    let gateway = machine.copies.iter().find(|copy| copy.service == "gateway").context("a gateway")?;
    let address = format!("http://127.0.0.1:{}", gateway.port);
    let keys = keys(&machine, &address).await?;
    let folder = folder.to_owned();
    let runs = Runs::Serve(Box::new(Production { postgres, _redis: redis, sink, machine }));
    Ok(Place { address, keys: Some(keys), folder, runs })
}

/// Keys of a tenant of the run's own, as services in production have them.
async fn keys(machine: &Machine, address: &str) -> anyhow::Result<Keys> {
    let said = machine.admin(&["tenant", "create", "load"]).await?;
    let operator = said.lines().last().context("a key")?.trim().to_owned();
    let address = format!("{address}/api/keys");
    let (_, queues) = Place::process()?;
    let scopes = ["workers:poll", "tasks:read", "artifacts:read", "artifacts:write", "approvals:request"];
    let agent = json!({ "name": "agents", "scopes": scopes, "queues": queues });
    let agent = secret(&address, &operator, &agent).await?;
    let mut people = BTreeMap::new();
    for person in PEOPLE.into_iter().chain(PARKED_PEOPLE) {
        let scopes = ["approvals:read", "approvals:decide"];
        let key = json!({ "name": person, "scopes": scopes, "participantId": person });
        people.insert(person.to_owned(), secret(&address, &operator, &key).await?);
    }
    Ok(Keys { operator, agent, people })
}

async fn secret(address: &str, operator: &str, key: &Value) -> anyhow::Result<String> {
    let answer = post(address, operator, key).await?;
    answer["secret"].as_str().map(str::to_owned).context("a secret")
}

async fn post(address: &str, key: &str, body: &Value) -> anyhow::Result<Value> {
    let http = reqwest::Client::builder().no_proxy().build()?;
    let mut request = http.post(address).json(body);
    if !key.is_empty() {
        request = request.bearer_auth(key);
    }
    let answer = request.send().await?;
    let (status, text) = (answer.status(), answer.text().await?);
    ensure!(status.is_success(), "{address} answered {status}: {text}");
    Ok(serde_json::from_str(&text)?)
}
