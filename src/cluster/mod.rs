//! What runs in the cluster: the list/watch loop, slim views of its objects, and the packed fleet that they fill.

pub(crate) mod decode;
pub mod events;
pub mod fleet;
pub(crate) mod follow_state;
pub mod image;
pub mod intern;
pub(crate) mod own_watch;
pub mod pod_view;
pub mod scope;
pub(crate) mod status;
pub mod stream;
pub mod watch;
