//! Wrong input, kind by kind. `list` says which test shows which row of `list.txt`.

mod approval;
mod artifact;
mod away;
mod definition;
mod flood;
mod inside;
mod instance;
mod list;
mod lists;
mod participant;
mod portal;
mod request_id;
mod template;
mod transport;
mod worker;
