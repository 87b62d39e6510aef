//! Which log lines may be written. The libraries for HTTP and TLS name the host that they talk to, and a host can be a
//! secret, as in `https://TOKEN.hooks.example`; whoever raises the log's level must not find it there.

/// Those whose lines name no destination: ours, and those that speak to the API server alone.
const SPEAK: [&str; 4] = ["shipbell", "kube", "kube_client", "kube_runtime"];
/// It writes whole bodies here, which may hold a Secret.
const BODIES: &str = "kube_client::client";

/// Whether a line of this target may be written, at whatever level.
pub(crate) fn may_be_logged(target: &str) -> bool {
    let library = target.split("::").next().unwrap_or(target);
    let below = |path| {
        target
            .strip_prefix(path)
            .is_some_and(|rest: &str| rest.is_empty() || rest.starts_with("::"))
    };
    SPEAK.contains(&library) && !below(BODIES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_that_name_no_destination_speak() {
        for target in [
            "shipbell",
            "shipbell::http::sender",
            "kube_client::config",
            "kube_client::clients",
            "kube_runtime::events",
        ] {
            assert!(may_be_logged(target), "{target}");
        }
        for target in [
            "hyper_util::client::legacy::connect::http",
            "hyper::proto::h1::conn",
            "rustls::client::hs",
            "rustls_platform_verifier::verification",
            "h2",
            "kube_client::client",
            "kube_client::client::builder",
            "shipbell_like",
            "",
        ] {
            assert!(!may_be_logged(target), "{target}");
        }
    }
}
