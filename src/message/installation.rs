//! What every message says of the installation that it comes from, and where the log is read.

/// An installation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installation {
    /// The organisation.
    pub org: String,
    /// The cluster's name.
    pub cluster: String,
    /// Where this installation's read API is reached, without a slash at the end; `None` where it is not served.
    pub external_url: Option<String>,
}

impl Installation {
    /// The JSON of a snapshot; empty where nothing serves it.
    pub fn snapshot_api_url(&self, environment: &str, index: i64) -> String {
        let of =
            |base: &String| format!("{base}/api/v2/snapshots/{}/{environment}/{index}", self.org);
        self.external_url.as_ref().map(of).unwrap_or_default()
    }

    /// The page of a snapshot; empty where nothing serves it.
    pub fn snapshot_html_url(&self, environment: &str, index: i64) -> String {
        let of = |base: &String| {
            format!(
                "{base}/{}/environments/{environment}/snapshots/{index}",
                self.org
            )
        };
        self.external_url.as_ref().map(of).unwrap_or_default()
    }

    /// The JSON of an environment; empty where nothing serves it.
    pub fn environment_api_url(&self, environment: &str) -> String {
        let of = |base: &String| format!("{base}/api/v2/environments/{}/{environment}", self.org);
        self.external_url.as_ref().map(of).unwrap_or_default()
    }

    /// The page of an environment; empty where nothing serves it.
    pub fn environment_html_url(&self, environment: &str) -> String {
        let of = |base: &String| format!("{base}/{}/environments/{environment}", self.org);
        self.external_url.as_ref().map(of).unwrap_or_default()
    }

    /// The JSON of an artifact that a flow made; empty where nothing serves it.
    pub fn artifact_api_url(&self, flow: &str, fingerprint: &str) -> String {
        self.flow_url(flow, |base, org| {
            format!("{base}/api/v2/artifacts/{org}/{flow}/fingerprint/{fingerprint}")
        })
    }

    /// The page of an artifact that a flow made; empty where nothing serves it.
    pub fn artifact_html_url(&self, flow: &str, fingerprint: &str) -> String {
        self.flow_url(flow, |base, org| {
            format!("{base}/{org}/{flow}/{fingerprint}")
        })
    }

    /// The JSON of a deployment or an approval of a flow (`what` is the plural); empty where nothing serves it.
    pub fn note_api_url(&self, what: &str, flow: &str, number: i64) -> String {
        self.flow_url(flow, |base, org| {
            format!("{base}/api/v2/{what}/{org}/{flow}/{number}")
        })
    }

    /// The page of a deployment or an approval of a flow (`what` is the plural); empty where nothing serves it.
    pub fn note_html_url(&self, what: &str, flow: &str, number: i64) -> String {
        self.flow_url(flow, |base, org| {
            format!("{base}/{org}/flows/{flow}/{what}/{number}")
        })
    }

    /// Nothing is served of what no flow made.
    fn flow_url(&self, flow: &str, url: impl Fn(&str, &str) -> String) -> String {
        let base = self.external_url.as_ref().filter(|_| !flow.is_empty());
        base.map(|base| url(base, &self.org)).unwrap_or_default()
    }
}
