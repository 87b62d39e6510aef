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
}
