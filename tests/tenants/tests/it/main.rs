//! Who is calling, from outside and between services.

mod door;
mod key;
mod matrix;
mod oidc;
mod secret;
mod tls;
mod wall;
