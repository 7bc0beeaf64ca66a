//! Versioned process definitions, team templates and teams.
