//! People of an instance, their magic links and portal sessions.
