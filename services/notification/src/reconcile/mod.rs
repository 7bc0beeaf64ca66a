//! Work that follows from what is stored, whoever stored it and whenever. Nothing is handed to it: a wake-up only makes it look
//! sooner.

mod deliver_due;

pub(crate) use deliver_due::deliver_due;
