//! What messages say about the installation that they come from, and the URLs of the read API.

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

impl Installation {
    /// The URL of the JSON of a snapshot; empty if the read API is switched off.
    pub fn snapshot_api_url(&self, environment: &str, index: i64) -> String {
        let of =
            |base: &String| format!("{base}/api/v2/snapshots/{}/{environment}/{index}", self.org);
        self.external_url.as_ref().map(of).unwrap_or_default()
    }

    /// The URL of the page of a snapshot; empty if the read API is switched off.
    pub fn snapshot_html_url(&self, environment: &str, index: i64) -> String {
        let of = |base: &String| {
            format!(
                "{base}/{}/environments/{environment}/snapshots/{index}",
                self.org
            )
        };
        self.external_url.as_ref().map(of).unwrap_or_default()
    }

    /// The URL of the JSON of an environment; empty if the read API is switched off.
    pub fn environment_api_url(&self, environment: &str) -> String {
        let of = |base: &String| format!("{base}/api/v2/environments/{}/{environment}", self.org);
        self.external_url.as_ref().map(of).unwrap_or_default()
    }

    /// The URL of the page of an environment; empty if the read API is switched off.
    pub fn environment_html_url(&self, environment: &str) -> String {
        let of = |base: &String| format!("{base}/{}/environments/{environment}", self.org);
        self.external_url.as_ref().map(of).unwrap_or_default()
    }

    /// The URL of the JSON of an artifact of a flow; empty if the read API is switched off.
    pub fn artifact_api_url(&self, flow: &str, fingerprint: &str) -> String {
        self.flow_url(flow, |base, org| {
            format!("{base}/api/v2/artifacts/{org}/{flow}/fingerprint/{fingerprint}")
        })
    }

    /// The URL of the page of an artifact of a flow; empty if the read API is switched off.
    pub fn artifact_html_url(&self, flow: &str, fingerprint: &str) -> String {
        self.flow_url(flow, |base, org| {
            format!("{base}/{org}/{flow}/{fingerprint}")
        })
    }

    /// The URL of the JSON of a deployment or an approval of a flow (`what` is the plural); empty if the read API is switched off.
    pub fn note_api_url(&self, what: &str, flow: &str, number: i64) -> String {
        self.flow_url(flow, |base, org| {
            format!("{base}/api/v2/{what}/{org}/{flow}/{number}")
        })
    }

    /// The URL of the page of a deployment or an approval of a flow (`what` is the plural); empty if the read API is switched off.
    pub fn note_html_url(&self, what: &str, flow: &str, number: i64) -> String {
        self.flow_url(flow, |base, org| {
            format!("{base}/{org}/flows/{flow}/{what}/{number}")
        })
    }

    /// The read API has pages only for artifacts of a flow.
    fn flow_url(&self, flow: &str, url: impl Fn(&str, &str) -> String) -> String {
        let base = self.external_url.as_ref().filter(|_| !flow.is_empty());
        base.map(|base| url(base, &self.org)).unwrap_or_default()
    }
}
