//! A private PostgreSQL server, one a process. It listens on a Unix socket only and keeps nothing safe: `fsync` is off.

use std::fs;
use std::io::{Read as _, Seek as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, bail};

/// A server of somebody else's.
const VARIABLE: &str = "PHASEGATE_TEST_POSTGRES";

/// The private server and its watchdog. The watchdog's standard input is a pipe from this process: when the process
/// ends, however it ends, the pipe closes and the watchdog stops the server and removes its folder.
#[derive(Debug)]
struct Server {
    url: String,
    _watchdog: Child,
}

static SERVER: OnceLock<Result<Server, String>> = OnceLock::new();

/// The URL of the server for this process. Starts one at the first call, which takes a second or two.
pub(crate) fn url() -> anyhow::Result<String> {
    #[expect(
        clippy::disallowed_methods,
        reason = "tests have no configuration; this is the one variable of theirs"
    )]
    if let Ok(url) = std::env::var(VARIABLE) {
        return Ok(url);
    }
    match SERVER.get_or_init(|| start().map_err(|error| format!("{error:#}"))) {
        Ok(server) => Ok(server.url.clone()),
        Err(problem) => bail!("no PostgreSQL for the tests: {problem}; or name a server in {VARIABLE}"),
    }
}

fn start() -> anyhow::Result<Server> {
    let bin = newest_bin()?;
    // Not a TempDir: the watchdog outlives this process and removes it.
    let folder = tempfile::Builder::new().prefix("phasegate-pg-").tempdir_in("/tmp")?.keep();
    let user = Unprivileged::for_folder(&folder)?;
    let data = folder.join("data");
    run(user.command(&bin.join("initdb")).arg("-D").arg(&data).args([
        "-U",
        "postgres",
        "--auth=trust",
        "--no-sync",
        "-E",
        "UTF8",
        "--locale=C",
    ]))?;
    let options = format!(
        "-k {} -c listen_addresses= -c fsync=off -c synchronous_commit=off -c full_page_writes=off \
         -c max_connections=400 -c shared_buffers=64MB",
        folder.display()
    );
    run(user
        .command(&bin.join("pg_ctl"))
        .arg("-D")
        .arg(&data)
        .arg("-l")
        .arg(folder.join("log"))
        .args(["-w", "-o", &options, "start"]))?;
    let script = r#"cat >/dev/null; "$@" -m immediate stop >/dev/null 2>&1; rm -rf "$FOLDER""#;
    let mut stop = vec![];
    if user.is_other {
        stop.extend(SETPRIV.iter().map(ToString::to_string));
    }
    stop.extend([bin.join("pg_ctl").display().to_string(), "-D".to_owned(), data.display().to_string()]);
    let watchdog = Command::new("/bin/sh")
        .args(["-c", script, "watchdog"])
        .args(stop)
        .env("FOLDER", &folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start the watchdog")?;
    let socket = folder.display().to_string().replace('/', "%2F");
    Ok(Server { url: format!("postgres://postgres@{socket}/postgres"), _watchdog: watchdog })
}

/// The newest server that Debian's packages have installed.
fn newest_bin() -> anyhow::Result<PathBuf> {
    let installed = fs::read_dir("/usr/lib/postgresql").context("PostgreSQL is not installed")?;
    let mut found: Vec<(u32, PathBuf)> = installed
        .filter_map(Result::ok)
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("initdb").exists())
        .collect();
    found.sort();
    found.pop().map(|(_, bin)| bin).context("no initdb below /usr/lib/postgresql")
}

/// PostgreSQL refuses to run as root; then it runs as the user that Debian's package made.
struct Unprivileged {
    is_other: bool,
}

const SETPRIV: [&str; 4] = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"];

impl Unprivileged {
    fn for_folder(folder: &Path) -> anyhow::Result<Self> {
        let is_root = fs::metadata("/proc/self")?.uid() == 0;
        if is_root {
            let (user, group) = postgres_ids()?;
            chown(folder, Some(user), Some(group)).context("give the folder to the user postgres")?;
        }
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
        Ok(Self { is_other: is_root })
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = if self.is_other {
            let mut command = Command::new(SETPRIV[0]);
            command.args(&SETPRIV[1..]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir("/").stdin(Stdio::null());
        command
    }
}

fn postgres_ids() -> anyhow::Result<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd")?;
    for line in users.lines() {
        let mut fields = line.split(':');
        if fields.next() == Some("postgres") {
            let mut numbers = fields.skip(1).map(str::parse::<u32>);
            if let (Some(Ok(user)), Some(Ok(group))) = (numbers.next(), numbers.next()) {
                return Ok((user, group));
            }
        }
    }
    bail!("running as root, and there is no user postgres to run the server as")
}

/// Runs a command whose output goes to files, so that a server which it leaves behind holds no pipe of ours.
fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = tempfile::tempfile()?;
    let status = command.stdout(output.try_clone()?).stderr(output.try_clone()?).status();
    if status.with_context(|| format!("start {command:?}"))?.success() {
        return Ok(());
    }
    let (mut said, mut output) = (String::new(), output);
    output.rewind()?;
    output.read_to_string(&mut said)?;
    bail!("{command:?} failed: {said}")
}
