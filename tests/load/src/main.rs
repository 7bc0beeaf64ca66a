//! Measures how fast Phasegate is: see `--help`.

mod bench;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;

fn main() -> ExitCode {
    let options = bench::Options::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tell(&format!("error: {error}"));
            return ExitCode::from(2);
        }
    };
    let outcome = runtime.block_on(Box::pin(bench::run(options)));
    runtime.shutdown_timeout(Duration::from_secs(5));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            tell(&format!("error: {error:#}"));
            ExitCode::from(2)
        }
    }
}

/// Says what was asked for.
fn say(what: &str) {
    // Nobody may be listening.
    let _ = writeln!(std::io::stdout().lock(), "{what}");
}

/// Says how far it is.
fn tell(what: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{what}");
}
