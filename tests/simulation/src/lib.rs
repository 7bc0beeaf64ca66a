//! All services in one thread, on one seed, with everything between them that can go wrong.
//!
//! What is real: the rules of the engine, of requests, artifacts, links and messages (`domain` of each service), what the
//! engine tells the others and what it makes of what they tell (`phasegate_instance::unwired`), what the approval service
//! writes for each call and event (`phasegate_approval::app::plan`), who hears of what, and who receives which event. What
//! is played: databases, which commit all of a transaction or nothing and check versions, inboxes, answers and leases as
//! the stores do; the relay with its claims and repetitions; the bus; two copies of every service, which forget at any
//! moment what they have not committed; clients, who ask again under the same request id until they have an answer.
//!
//! - [`plan`] is the mixture of troubles that a seed draws, `client` are those who call and `wish` what they want, `world` does
//!   one thing after another, `flight` is what is decided and not yet written, `reconcile` what happens when its time has come,
//!   `traffic` goes between the services, and `bus` loses, repeats, reorders and delays.
//! - `engine`, `desk`, `shelf`, `people` and `mail` are the services: instance, approval, artifact, participant and
//!   notification. Where the code of a service asks its peers on its way (an agent's own request, an artifact's writer, a
//!   link), the steps in between are a thin copy around its real rules; the module says so.
//! - `witness` looks after every step: it folds histories again from their JSON, and holds what opened against what the
//!   definition demands and people said. `calm` ends the troubles and demands that everything comes to rest.
//! - [`bug`] plants faults, one at a time, each of which must be found.
//!
//! Everything hangs on one number: a seed does the same on every machine.

mod ask;
pub mod bug;
mod bus;
mod calm;
mod client;
pub mod cover;
mod desk;
mod engine;
mod evidence;
mod flight;
mod kept;
mod mail;
mod people;
pub mod plan;
mod reconcile;
mod run;
mod shelf;
mod traffic;
mod wish;
mod witness;
mod world;

pub use run::{Failure, run_seed, run_seeds};
