//! Makes this program make a mistake that the fault run names. Only in builds for that run.

use anyhow::Context as _;
use phasegate_instance::domain::planted::{Bug as InEngine, plant};
use phasegate_planted::Bug;
use tokio::runtime::Builder;

/// Names the mistake; none is made without it.
const VARIABLE: &str = "PHASEGATE_PLANTED";

/// Plants the mistake that the environment names: here, or on each thread that the engine runs on.
pub(crate) fn plant_named(runtime: &mut Builder) -> anyhow::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "it is no setting of the program")]
    let Ok(name) = std::env::var(VARIABLE) else { return Ok(()) };
    if let Some(bug) = Bug::named(&name) {
        phasegate_planted::plant(bug);
        return Ok(());
    }
    let bug = InEngine::ALL.into_iter().find(|bug| format!("{bug:?}") == name);
    let bug = bug.with_context(|| format!("{VARIABLE} names no mistake: {name}"))?;
    runtime.on_thread_start(move || plant(Some(bug)));
    Ok(())
}
