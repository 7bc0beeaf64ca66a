//! Carries events between services.
