//! What runs in the cluster: the list/watch loop, slim views of its objects, and the packed fleet that they fill.

pub mod fleet;
pub mod image;
pub mod intern;
pub mod pod_view;
pub mod scope;
pub(crate) mod status;
pub mod stream;
pub mod watch;
