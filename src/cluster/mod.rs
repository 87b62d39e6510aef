//! What runs in the cluster: the list/watch loop, slim views of its objects, and the packed fleet that they fill.

pub(crate) mod decode;
pub(crate) mod events;
pub mod fleet;
pub(crate) mod follow_state;
pub mod image;
pub(crate) mod intern;
pub(crate) mod own_watch;
pub mod pod_view;
pub(crate) mod scope;
pub(crate) mod status;
pub mod stream;
pub(crate) mod watch;
