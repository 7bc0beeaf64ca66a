//! What is done once a transaction is committed.

use std::fmt;

/// Things to do, in their order. What is dropped is not done.
#[derive(Default)]
pub(crate) struct Afterwards(Vec<Box<dyn FnOnce() + Send>>);

impl Afterwards {
    pub(crate) fn add(&mut self, task: impl FnOnce() + Send + 'static) {
        self.0.push(Box::new(task));
    }

    pub(crate) fn run(self) {
        for task in self.0 {
            task();
        }
    }
}

impl fmt::Debug for Afterwards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Afterwards").field(&self.0.len()).finish()
    }
}
