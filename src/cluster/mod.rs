//! What runs in the cluster: the list/watch loop, slim views of its objects, and the packed fleet that they fill.

pub(crate) mod custom_resource_metadata;
pub(crate) mod custom_resource_status;
pub(crate) mod custom_resource_watch;
pub(crate) mod decode;
pub mod fleet;
pub(crate) mod hanging;
pub mod image;
pub(crate) mod intern;
pub(crate) mod kubernetes_events;
pub(crate) mod list_page;
pub mod pod_view;
pub(crate) mod scope;
pub(crate) mod watch;
pub mod watch_progress;
pub(crate) mod watch_state;
pub(crate) mod workload;
