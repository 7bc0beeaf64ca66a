//! Who is calling, shown over every method of the contracts: what another tenant has reads like what nobody has, a service
//! hears nobody whom the gateway has not vouched for, and a key opens what its scopes say.
//!
//! The methods come from the descriptors. One that is written tomorrow has no row in [`rows`], and fails the test.

pub mod call;
pub mod rows;
pub mod scene;
pub mod world;
