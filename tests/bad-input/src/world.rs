//! A whole Phasegate in the test's own process. Its clock can be moved forward, and its rows can be read from outside.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
use phasegate::dev::{Dev, Settings};
use phasegate_clock::{Clock, SystemClock, Timestamp};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::{Mutex, OnceCell};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::{Doors, Rows, Scene, Standing};

/// How long anything may take that happens by itself.
const PATIENCE: Duration = Duration::from_secs(30);
/// Nothing has moved for so long: nothing is under way.
const CALM: Duration = Duration::from_millis(400);

/// Where the rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Files.
    Sqlite,
    /// Schemas of one database.
    Postgres,
}

/// A running Phasegate.
#[derive(Debug)]
pub struct World {
    /// Its doors.
    pub doors: Doors,
    /// Its rows.
    pub rows: Rows,
    /// Where the rows are.
    pub kind: Kind,
    /// Holds the files.
    pub folder: TempDir,
    clock: Arc<AheadClock>,
    calm: Mutex<Option<Standing>>,
    shutdown: CancellationToken,
    _dev: tokio::task::JoinHandle<anyhow::Result<()>>,
}

/// The machine's clock, some time ahead.
#[derive(Debug, Default)]
struct AheadClock(AtomicI64);

impl Clock for AheadClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(SystemClock.now().as_micros() + self.0.load(Ordering::SeqCst))
    }
}

/// What all tests of this process share: a world with a scene in it, for one of them at a time.
#[derive(Debug)]
struct Shared {
    turn: Mutex<(World, Scene)>,
    _sweeper: Child,
}

static SQLITE: OnceCell<Result<Shared, String>> = OnceCell::const_new();
static POSTGRES: OnceCell<Result<Shared, String>> = OnceCell::const_new();

/// Runs the worlds, which outlive the tests that they were started for.
fn runtime() -> anyhow::Result<&'static Runtime> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let made = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    Ok(RUNTIME.get_or_init(|| made))
}

/// Runs a test on SQLite and on PostgreSQL in the shared worlds, and says on which one it failed. The test may change
/// things, but not the scene.
pub fn on_both(test: impl AsyncFn(&World, &Scene) -> anyhow::Result<()>) -> anyhow::Result<()> {
    both(async |kind| {
        let cell = match kind {
            Kind::Sqlite => &SQLITE,
            Kind::Postgres => &POSTGRES,
        };
        // What went wrong once is not tried again for every test.
        let shared =
            cell.get_or_init(async || Shared::new(kind).await.map_err(|error| format!("{error:#}"))).await;
        let shared = shared.as_ref().map_err(|problem| anyhow::anyhow!("{problem}"))?;
        let guard = shared.turn.lock().await;
        let (world, scene) = &*guard;
        Box::pin(test(world, scene)).await
    })
}

/// Runs a test on both in worlds of its own, with nothing in them: for what would disturb the others, or keep them waiting.
pub fn alone(test: impl AsyncFn(&World) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let run = async |kind| {
        let world = World::start(kind).await?;
        Box::pin(test(&world)).await
    };
    let (sqlite, postgres) =
        runtime()?.block_on(Box::pin(async { tokio::join!(run(Kind::Sqlite), run(Kind::Postgres)) }));
    joined(sqlite, postgres)
}

/// Runs a test that has to do with PostgreSQL only.
pub fn on_postgres(test: impl AsyncFn() -> anyhow::Result<()>) -> anyhow::Result<()> {
    runtime()?.block_on(Box::pin(test()))
}

/// Runs something for each database, the second one whatever came of the first.
fn both(run: impl AsyncFn(Kind) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let runtime = runtime()?;
    let [sqlite, postgres] = [Kind::Sqlite, Kind::Postgres].map(|kind| runtime.block_on(Box::pin(run(kind))));
    joined(sqlite, postgres)
}

/// Says on which one it failed.
fn joined(sqlite: anyhow::Result<()>, postgres: anyhow::Result<()>) -> anyhow::Result<()> {
    match (sqlite.context("on SQLite"), postgres.context("on PostgreSQL")) {
        (Err(sqlite), Err(postgres)) => bail!("{sqlite:#}\n{postgres:#}"),
        (sqlite, postgres) => sqlite.and(postgres),
    }
}

impl Shared {
    async fn new(kind: Kind) -> anyhow::Result<Self> {
        let world = World::start(kind).await?;
        let sweeper = sweeper(world.folder.path())?;
        let scene = Box::pin(Scene::set(&world)).await.context("the scene could not be set")?;
        Ok(Self { turn: Mutex::new((world, scene)), _sweeper: sweeper })
    }
}

/// Removes a folder once this process has ended, however it ends: its standard input is a pipe from here. What is static
/// is never dropped.
fn sweeper(folder: &Path) -> anyhow::Result<Child> {
    let sweeper = Command::new("/bin/sh")
        .args(["-c", "cat >/dev/null; rm -rf \"$FOLDER\""])
        .env("FOLDER", folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    sweeper.context("start what sweeps up")
}

impl World {
    /// Starts one.
    pub async fn start(kind: Kind) -> anyhow::Result<Self> {
        let database_url = match kind {
            Kind::Sqlite => String::new(),
            Kind::Postgres => phasegate_test_database::postgres_url().await?,
        };
        Self::start_through(kind, &database_url, database_url.clone()).await
    }

    /// Starts one that reaches its database at `through`; this side goes there directly.
    pub async fn start_through(kind: Kind, through: &str, database_url: String) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("data");
        let clock = Arc::new(AheadClock::default());
        let shutdown = CancellationToken::new();
        let settings = Settings {
            folder: data.clone(),
            port: 0,
            database_url: (kind == Kind::Postgres).then(|| through.to_owned()),
            public_url: None,
            clock: clock.clone(),
        };
        let dev = Dev::start(settings, shutdown.clone()).await?;
        let doors = Doors::new(format!("http://{}", dev.address()))?;
        let rows = match kind {
            Kind::Sqlite => Rows::of_folder(&data).await?,
            Kind::Postgres => {
                Rows::of_server(&phasegate_test_database::over_the_walls(&database_url)).await?
            }
        };
        let dev = tokio::spawn(dev.finished());
        Ok(Self { doors, rows, kind, folder, clock, calm: Mutex::default(), shutdown, _dev: dev })
    }

    /// Moves the clock.
    pub fn pass(&self, time: Duration) {
        self.clock.0.fetch_add(i64::try_from(time.as_micros()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    /// Calls a method over gRPC, and again while a service has not heard of something yet; anything else but success is an
    /// error.
    pub async fn call(&self, method: &str, message: Value) -> anyhow::Result<Value> {
        self.eventually(method, async || match self.doors.grpc(method, &message).await? {
            Ok(answer) => Ok(Some(answer)),
            Err(status) if status.code() == Code::Unavailable => Ok(None),
            Err(status) => bail!("{method} {message}: {status}"),
        })
        .await
    }

    /// Waits for something that happens by itself.
    pub async fn eventually<T>(
        &self,
        what: &str,
        look: impl AsyncFn() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let end = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < end {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        bail!("{what} did not come within {} s", PATIENCE.as_secs())
    }

    /// Waits until no row has moved for a while: what follows from earlier calls has followed.
    pub async fn settled(&self) -> anyhow::Result<Standing> {
        let end = tokio::time::Instant::now() + PATIENCE;
        let mut calm = self.calm.lock().await;
        let mut before = self.rows.read().await?;
        // As it was when nothing moved: nothing has been begun since.
        if calm.as_ref() == Some(&before) {
            return Ok(before);
        }
        let mut since = tokio::time::Instant::now();
        while tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = self.rows.read().await?;
            if now != before {
                before = now;
                since = tokio::time::Instant::now();
            } else if since.elapsed() >= CALM && !self.rows.are_awaited().await? {
                *calm = Some(now.clone());
                return Ok(now);
            }
        }
        bail!("rows keep changing by themselves")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}
