//! The program of an agent: started for one task, fed, read with bounds, and killed when nobody wants its work any more.

use std::collections::VecDeque;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Most that is read of standard output: artifacts travel in it.
const STDOUT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Lines of standard error that are kept for the report of a failure.
const TAIL_LINES: usize = 40;
/// Longest line of standard error that is shown.
const LINE_BYTES_MAX: usize = 4 * 1024;
/// How long its streams may stay open after a program has ended: a grandchild may hold them.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a program left behind.
#[derive(Debug)]
pub(super) struct Finished {
    /// How it ended.
    pub(super) status: ExitStatus,
    /// What it answered.
    pub(super) stdout: Vec<u8>,
    /// The end of what it complained about.
    pub(super) tail: String,
}

/// How a program ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// By itself.
    Finished(Finished),
    /// It wrote more than anybody reads.
    TooMuch,
    /// It was killed.
    Killed,
}

/// Starts a program in a process group of its own, so that Ctrl-C reaches the agent and not the program.
pub(super) fn start(command: &[String], environment: &[(&str, String)]) -> io::Result<Child> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no program was given"))?;
    Command::new(program)
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// Feeds a program, and waits until it ends or is to be killed. `said` gets every line of standard error.
pub(super) async fn converse(
    mut child: Child,
    input: Vec<u8>,
    kill: CancellationToken,
    said: impl Fn(&str) + Send + 'static,
) -> io::Result<Outcome> {
    let stdin = child.stdin.take();
    tokio::spawn(async move {
        if let Some(mut stdin) = stdin {
            // A program that does not want to know reads nothing.
            let _ = stdin.write_all(&input).await;
        }
    });
    let (tails, mut tail) = mpsc::channel(1);
    let stderr = child.stderr.take();
    tokio::spawn(async move {
        let tail = match stderr {
            Some(stderr) => complaints(stderr, said).await,
            None => String::new(),
        };
        let _ = tails.send(tail).await;
    });
    let (answers, mut answer) = mpsc::channel(1);
    let stdout = child.stdout.take();
    tokio::spawn(async move {
        let read = match stdout {
            Some(stdout) => bounded(stdout).await,
            None => Ok(Some(Vec::new())),
        };
        let _ = answers.send(read).await;
    });
    let mut early = None;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            () = kill.cancelled() => {
                child.kill().await?;
                return Ok(Outcome::Killed);
            }
            read = answer.recv(), if early.is_none() => {
                if matches!(read, Some(Ok(None))) {
                    child.kill().await?;
                    return Ok(Outcome::TooMuch);
                }
                early = read;
            }
        }
    };
    let read = match early {
        Some(read) => read,
        None => within(answer.recv()).await.unwrap_or(Ok(Some(Vec::new()))),
    };
    let Some(stdout) = read? else { return Ok(Outcome::TooMuch) };
    let tail = within(tail.recv()).await.unwrap_or_default();
    Ok(Outcome::Finished(Finished { status, stdout, tail }))
}

async fn within<T>(receive: impl Future<Output = Option<T>>) -> Option<T> {
    tokio::time::timeout(LAST_WORDS, receive).await.ok().flatten()
}

/// Reads all of standard output; `None` where it is too much.
async fn bounded(stdout: ChildStdout) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(STDOUT_BYTES_MAX).unwrap_or(u64::MAX) + 1;
    stdout.take(limit).read_to_end(&mut bytes).await?;
    Ok((bytes.len() <= STDOUT_BYTES_MAX).then_some(bytes))
}

/// Passes standard error on line by line, and keeps its end.
async fn complaints(stderr: ChildStderr, said: impl Fn(&str)) -> String {
    let mut stderr = BufReader::new(stderr);
    let mut tail: VecDeque<String> = VecDeque::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
        match (&mut stderr).take(limit).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        said(&text);
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(text);
    }
    Vec::from(tail).join("\n")
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    async fn run(script: &str, input: &str, kill_after: Option<Duration>) -> (Outcome, Vec<String>) {
        let command = ["sh", "-c", script].map(str::to_owned);
        let child = start(&command, &[("GREETING", "hello".to_owned())]).unwrap();
        let kill = CancellationToken::new();
        if let Some(after) = kill_after {
            let kill = kill.clone();
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                kill.cancel();
            });
        }
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hearing = Arc::clone(&heard);
        let said = move |line: &str| hearing.lock().unwrap().push(line.to_owned());
        let conversation = converse(child, input.as_bytes().to_vec(), kill, said);
        let outcome = tokio::time::timeout(Duration::from_secs(20), conversation).await.unwrap().unwrap();
        let heard = heard.lock().unwrap().clone();
        (outcome, heard)
    }

    fn finished(outcome: Outcome) -> Finished {
        if let Outcome::Finished(finished) = outcome { finished } else { panic!("{outcome:?}") }
    }

    #[tokio::test]
    async fn a_program_is_fed_and_heard() {
        let (outcome, heard) =
            run("echo one >&2; echo two >&2; printf \"$GREETING \"; cat", "world", None).await;
        let finished = finished(outcome);
        assert!(finished.status.success());
        assert_eq!(finished.stdout, b"hello world");
        assert_eq!((finished.tail.as_str(), heard), ("one\ntwo", vec!["one".to_owned(), "two".to_owned()]));
    }

    #[tokio::test]
    async fn a_program_may_ignore_its_input_and_fail() {
        let input = "x".repeat(4 * 1024 * 1024);
        let (outcome, _) = run("echo broken >&2; exit 3", &input, None).await;
        let finished = finished(outcome);
        assert_eq!((finished.status.code(), finished.tail.as_str()), (Some(3), "broken"));
    }

    #[tokio::test]
    async fn a_program_that_nobody_wants_any_more_is_killed() {
        let begun = std::time::Instant::now();
        let (outcome, _) = run("exec sleep 30", "", Some(Duration::from_millis(100))).await;
        assert!(matches!(outcome, Outcome::Killed), "{outcome:?}");
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[tokio::test]
    async fn a_grandchild_that_holds_the_streams_holds_up_nobody() {
        let begun = std::time::Instant::now();
        let (outcome, _) = run("sleep 30 & echo '{}'", "", None).await;
        assert!(finished(outcome).status.success());
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[tokio::test]
    async fn endless_output_is_cut_off() {
        let (outcome, _) = run("exec cat /dev/zero", "", None).await;
        assert!(matches!(outcome, Outcome::TooMuch), "{outcome:?}");
    }
}
