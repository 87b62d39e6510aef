//! The test kit: a real control plane, a scripted fake kubelet, recording receivers and the operator as
//! a process, all on loopback.
//!
//! A test usually needs [`Cluster`] alone:
//!
//! ```ignore
//! #[test]
//! fn a_deployment_of_three_becomes_available() {
//!     kit::story(async |cluster| {
//!         let ns = cluster.namespace("three").await?;
//!         kit::apply(&cluster.client(), kit::deployment(&ns, "web", "registry.example/web:v1", 3)).await?;
//!         cluster.rolled_out(&ns, "web").await
//!     });
//! }
//! ```
//!
//! | module | what |
//! | --- | --- |
//! | [`plane`] | starts and stops etcd and the programs of Kubernetes, which `kube_assets` finds or builds, hands out clients and kubeconfigs |
//! | [`registry`], [`pod_run`], [`kubelet`] | what images do when run; a pod's life as a pure step; the node |
//! | [`tls`] | the certificates and the listener of those that speak TLS
//! | [`receiver`] | HTTP receivers that record what they hear and answer by a script |
//! | [`drip`] | one that never comes to the end of its answer
//! | [`operator`] | the operator as a process that can be killed, paused and asked |
//! | [`proxy`] | a proxy before the API server that makes faults |
//! | [`stub`] | instead of an API server: as many pods as are asked for |
//! | [`cluster`] | the plane, the kubelet and a runtime that all tests of a binary share |
//! | [`stage`] | the operator on its stage, and an actor (namespace, Environment, settings) for each story |
//! | [`workloads`], [`apply`](mod@apply), [`wait`] | objects to create, how to create them, how to wait |

pub mod apply;
pub mod cluster;
pub mod drip;
pub mod http1;
pub mod kept_logs;
pub mod kubelet;
pub mod operator;
pub mod pki;
pub mod plane;
pub mod pod_run;
pub mod ports;
mod process;
pub mod proxy;
pub mod receiver;
pub mod registry;
pub mod stage;
pub mod stub;
pub mod tls;
pub mod wait;
pub mod workloads;

pub use apply::apply;
pub use cluster::{Cluster, story};
pub use drip::Drip;
pub use kubelet::FakeKubelet;
pub use operator::{Operator, OperatorOptions};
pub use plane::{Plane, PlaneOptions};
pub use proxy::{Action, Asked, Line, Proxy};
pub use receiver::{Answer, Heard, Receiver};
pub use registry::{Image, Registry};
pub use stage::{Actor, HOME, hears, play, told};
pub use wait::{eventually, stays};
pub use workloads::{Manifest, bare_pod, daemon_set, deployment, job, stateful_set};
