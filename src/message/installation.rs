//! What messages say about the installation that they come from, and the URLs of the read API.

use serde::Serialize;

/// An installation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installation {
    /// The organisation.
    pub org: String,
    /// The cluster's name.
    pub cluster: String,
    /// The URL of this installation's read API, without a slash at the end; `None` if it is switched off.
    pub external_url: Option<String>,
}

/// The URLs of one thing in the read API; empty if it is not there, or if the read API is switched off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Link {
    /// The URL of the page.
    pub html: String,
    /// The URL of the JSON.
    #[serde(rename = "self")]
    pub api: String,
}

/// What is numbered in a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteKind {
    /// A deployment that was announced.
    Deployment,
    /// A review.
    Approval,
}

impl NoteKind {
    const fn in_path(self) -> &'static str {
        match self {
            Self::Deployment => "deployments",
            Self::Approval => "approvals",
        }
    }
}

impl Installation {
    /// The URLs of a snapshot.
    pub fn snapshot(&self, environment: &str, index: i64) -> Link {
        self.link(|org| {
            [
                format!("{org}/environments/{environment}/snapshots/{index}"),
                format!("api/v2/snapshots/{org}/{environment}/{index}"),
            ]
        })
    }

    /// The URLs of an environment.
    pub fn environment(&self, environment: &str) -> Link {
        self.link(|org| {
            [
                format!("{org}/environments/{environment}"),
                format!("api/v2/environments/{org}/{environment}"),
            ]
        })
    }

    /// The URLs of an artifact of a flow. An artifact without a flow has none.
    pub fn artifact(&self, flow: &str, fingerprint: &str) -> Link {
        self.link_of_flow(flow, |org| {
            [
                format!("{org}/{flow}/{fingerprint}"),
                format!("api/v2/artifacts/{org}/{flow}/fingerprint/{fingerprint}"),
            ]
        })
    }

    /// The URLs of a deployment or a review of a flow.
    pub fn note(&self, kind: NoteKind, flow: &str, number: i64) -> Link {
        let kind = kind.in_path();
        self.link_of_flow(flow, |org| {
            [
                format!("{org}/flows/{flow}/{kind}/{number}"),
                format!("api/v2/{kind}/{org}/{flow}/{number}"),
            ]
        })
    }

    fn link_of_flow(&self, flow: &str, paths: impl Fn(&str) -> [String; 2]) -> Link {
        match flow {
            "" => Link::default(),
            _ => self.link(paths),
        }
    }

    /// `paths`: of the page and of the JSON.
    fn link(&self, paths: impl Fn(&str) -> [String; 2]) -> Link {
        self.external_url.as_ref().map_or(Link::default(), |base| {
            let [html, api] = paths(&self.org).map(|path| format!("{base}/{path}"));
            Link { html, api }
        })
    }
}
