//! Whose rows a statement reaches: the wall between tenants that stands behind every `where tenant_id`.
//!
//! What is done for one tenant is done within its [`Reach`], which the server takes from the verified caller and the
//! guard before a receiver from the event. PostgreSQL is told before the first statement that reaches other rows than the
//! one before on its connection, which `session.rs` keeps account of; the policies of [`crate::Database::open`] do the rest.
//! Outside of any reach nothing is visible and nothing can be written. Loops that serve all tenants say so, with
//! [`crate::Database::across_tenants`].
//!
//! SQLite has no such policies: there the conditions of the statements are the only wall, which is one reason why it is
//! for development and for installations of one tenant.

use std::future::Future;
use std::sync::Arc;

use crate::postgres::BEGIN;

tokio::task_local! {
    static REACH: Reach;
}

/// Whose rows a statement reaches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach(Whose);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Whose {
    #[default]
    Nobodys,
    Tenants(Arc<str>),
    Everybodys,
}

/// What PostgreSQL is told for all tenants. No tenant is called so.
const EVERYBODYS: &str = "*";

impl Reach {
    /// The rows of one tenant. Nothing at all where that cannot be the name of one.
    pub fn of_tenant(tenant: &str) -> Self {
        // The name goes into a statement: what would need quoting there is no name.
        let is_name = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'\'' | b'\\' | b'*');
        if tenant.is_empty() || !tenant.bytes().all(is_name) {
            return Self(Whose::Nobodys);
        }
        Self(Whose::Tenants(tenant.into()))
    }

    pub(crate) const fn across_tenants() -> Self {
        Self(Whose::Everybodys)
    }

    /// That of the work under way; nothing outside of any.
    pub fn current() -> Self {
        REACH.try_with(Clone::clone).unwrap_or_default()
    }

    /// Does work within this reach. Tasks that it spawns are outside again, unless they are given [`Reach::current`].
    pub async fn within<F: Future>(self, work: F) -> F::Output {
        REACH.scope(self, work).await
    }

    /// Does one step of work within this reach, such as polling a stream.
    pub fn step<T>(&self, work: impl FnOnce() -> T) -> T {
        REACH.sync_scope(self.clone(), work)
    }

    /// Has a connection reach these rows until it is told otherwise.
    pub(crate) fn set(&self) -> String {
        format!("set phasegate.tenant = '{}'", self.whose())
    }

    /// Begins a transaction that reaches these rows, whatever its connection does otherwise.
    pub(crate) fn begin(&self) -> String {
        format!("{BEGIN}; set local phasegate.tenant = '{}'", self.whose())
    }

    /// What PostgreSQL is told. No tenant has an empty name.
    fn whose(&self) -> &str {
        match &self.0 {
            Whose::Nobodys => "",
            Whose::Tenants(tenant) => tenant,
            Whose::Everybodys => EVERYBODYS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Reach;

    #[test]
    fn what_is_no_name_of_a_tenant_reaches_nothing() {
        for bad in ["", "*", "a*", "a'; reset phasegate.tenant; --", "a\\", "a b", "\u{e4}", "a\0"] {
            assert_eq!(Reach::of_tenant(bad), Reach::default(), "{bad:?}");
            assert_eq!(Reach::of_tenant(bad).set(), "set phasegate.tenant = ''", "{bad:?}");
        }
        let begin = Reach::of_tenant("acme-1").begin();
        assert_eq!(begin, "begin read write; set local phasegate.tenant = 'acme-1'");
    }

    #[tokio::test]
    async fn a_reach_ends_with_its_work() {
        let acme = Reach::of_tenant("acme");
        assert_eq!(Reach::current(), Reach::default());
        assert_eq!(acme.clone().within(async { Reach::current() }).await, acme);
        assert_eq!(acme.step(Reach::current), acme);
        let spawned = acme.within(async { tokio::spawn(async { Reach::current() }).await }).await;
        assert_eq!(spawned.ok(), Some(Reach::default()));
        assert_eq!(Reach::current(), Reach::default());
    }
}
