//! A fresh database of each kind for every test.
