//! Wrong input, kind by kind. `list` says which test shows which row of `list.txt`.

mod list;
