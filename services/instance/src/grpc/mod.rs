//! The calls of the service.
pub(crate) fn routes(_app: &crate::app::App, _context: &phasegate_serve::Context) -> tonic::service::Routes {
    tonic::service::Routes::builder().routes()
}
