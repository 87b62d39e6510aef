//! The pages of the read API, rendered from the same views as the JSON. Whatever comes from the cluster is text here, never
//! markup.

use std::fmt::Write as _;

use axum::{
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};

use crate::{
    message::installation::Link,
    web::{
        parts::Parts,
        views::{
            Compliant, Seconds,
            artifact::{AnnouncedDeploymentView, ApprovalView, ArtifactView, FlowAnswer, Source},
            environment::{AllowedView, EnvironmentView},
            snapshot::{EventView, SnapshotArtifactView, SnapshotView},
        },
    },
};

/// The browser loads, runs, sends and embeds nothing.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;margin:2rem;max-width:75rem}\
    td,th{text-align:left;vertical-align:top;padding:.2rem 1rem .2rem 0}code{font-size:.8em;overflow-wrap:anywhere}";

/// A page as it is sent.
struct HtmlPage(Parts);

/// HTML in which everything from outside is escaped.
struct Markup(String);

impl HtmlPage {
    fn new(title: &str) -> Self {
        let title = escape(title);
        let mut page = Self(Parts::default());
        page.push(format_args!(
            "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n\
             <title>{title}</title>\n<style>{STYLE}</style>\n<h1>{title}</h1>\n"
        ));
        page
    }

    fn push(&mut self, markup: std::fmt::Arguments<'_>) {
        // Writing to memory cannot fail.
        let _ = self.0.write_fmt(markup);
    }

    /// A table of names and values. Empty values are left out.
    fn facts(&mut self, facts: impl IntoIterator<Item = (&'static str, Markup)>) {
        self.0.push(b"<table>\n");
        for (name, Markup(value)) in facts {
            if !value.is_empty() {
                self.push(format_args!("<tr><th>{name}<td>{value}</tr>\n"));
            }
        }
        self.0.push(b"</table>\n");
    }

    /// A table under a heading, unless it is empty.
    fn table<const N: usize>(
        &mut self,
        title: &str,
        columns: [&str; N],
        rows: impl IntoIterator<Item = [Markup; N]>,
    ) {
        let mut rows = rows.into_iter().peekable();
        if rows.peek().is_none() {
            return;
        }
        let head = columns.map(|column| format!("<th>{column}")).concat();
        self.push(format_args!("<h2>{title}</h2>\n<table><tr>{head}</tr>\n"));
        for row in rows {
            self.0.push(b"<tr>");
            for Markup(cell) in row {
                self.push(format_args!("<td>{cell}"));
            }
            self.0.push(b"</tr>\n");
        }
        self.0.push(b"</table>\n");
    }

    fn show(mut self) -> Response {
        self.0.push(b"</html>\n");
        let headers = [
            (header::CONTENT_TYPE, "text/html; charset=utf-8"),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
        ];
        let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
        (headers, self.0.into_body()).into_response()
    }
}

fn text(text: &str) -> Markup {
    Markup(escape(text))
}

/// A number, or nothing if it is not known.
fn number(number: Option<impl ToString>) -> Markup {
    Markup(number.map_or(String::new(), |number| number.to_string()))
}

fn code(text: &str) -> Markup {
    if text.is_empty() {
        return Markup(String::new());
    }
    Markup(format!("<code>{}</code>", escape(text)))
}

/// A link if the URL leads to a page, or else only the text.
fn link(url: &str, shown: &str) -> Markup {
    let shown = escape(shown);
    if (url.starts_with("https://") || url.starts_with("http://")) && !shown.is_empty() {
        return Markup(format!("<a href=\"{}\">{shown}</a>", escape(url)));
    }
    Markup(shown)
}

fn time(time: impl Into<Option<Seconds>>) -> Markup {
    let written = time
        .into()
        .map(|Seconds(time)| time.strftime("%Y-%m-%d %H:%M:%S UTC"));
    Markup(written.map_or(String::new(), |written| format!("<time>{written}</time>")))
}

fn compliance(Compliant(state): Compliant) -> Markup {
    Markup(state.word().to_owned())
}

fn list(items: &[String]) -> Markup {
    let items: Vec<String> = items.iter().map(|item| escape(item)).collect();
    Markup(items.join("<br>"))
}

/// A snapshot: its events, what changed, and what runs after it.
pub(crate) fn snapshot(
    environment: &str,
    snapshot: &SnapshotView,
    artifacts: impl Iterator<Item = SnapshotArtifactView>,
    events: &[EventView],
) -> Response {
    let mut page = HtmlPage::new(&format!("{environment} snapshot #{}", snapshot.index));
    page.facts([
        ("Recorded", time(snapshot.timestamp)),
        ("Compliance", compliance(snapshot.compliant)),
    ]);
    let events = events.iter().rev().map(|event| {
        [
            text(event.type_),
            link(&event.links.artifact.html, &event.artifact_name),
            text(&event.description),
        ]
    });
    page.table("Events", ["Event", "Artifact", "What"], events);
    let artifacts = artifacts.map(|artifact| {
        let change = &artifact.annotation;
        [
            link(&artifact.html_url, &artifact.name),
            code(&artifact.fingerprint),
            text(change.type_),
            Markup(format!("{} &rarr; {}", change.was, change.now)),
            compliance(artifact.compliant),
            list(&artifact.reasons_for_incompliance),
        ]
    });
    let columns = [
        "Image",
        "Fingerprint",
        "Change",
        "Instances",
        "Compliance",
        "Why",
    ];
    page.table("Artifacts", columns, artifacts);
    page.show()
}

/// An environment and its allow-list.
pub(crate) fn environment(environment: &EnvironmentView, allowed: &[AllowedView]) -> Response {
    let mut page = HtmlPage::new(&format!("Environment {}", environment.name));
    let newest = number(environment.snapshot_index).0;
    page.facts([
        ("Compliance", compliance(environment.state)),
        ("Since", time(environment.state_since)),
        ("Waits until", time(environment.pending_until)),
        ("Why", list(&environment.reasons_for_incompliance)),
        (
            "Newest snapshot",
            link(&environment.links.snapshot.html, &newest),
        ),
        ("Recorded", time(environment.last_changed_at)),
        ("Artifacts", number(environment.artifacts)),
        ("Instances", number(environment.instances)),
        ("Not identified", number(environment.unidentified)),
    ]);
    let reasons = environment.reasons.iter().map(|reason| {
        [
            text(&reason.artifact_name),
            code(&reason.fingerprint),
            text(reason.reason),
            text(&reason.message),
            time(reason.grace_until),
        ]
    });
    let columns = [
        "Image",
        "Fingerprint",
        "Reason",
        "Why",
        "Evidence may arrive until",
    ];
    page.table("What breaks the rules now", columns, reasons);
    let allowed = allowed.iter().map(|image| {
        [
            text(&image.artifact_name),
            code(&image.fingerprint),
            text(&image.description),
            time(image.timestamp),
            time(image.expires_at),
            text(if image.active { "active" } else { "expired" }),
        ]
    });
    let columns = ["Image", "Fingerprint", "Why", "Added", "Expires", "State"];
    page.table("Allow-list", columns, allowed);
    page.show()
}

/// What was looked up in a flow.
pub(crate) fn flow_answer(answer: &FlowAnswer) -> Response {
    match answer {
        FlowAnswer::Artifact(view) => artifact(view),
        FlowAnswer::Deployment(view) => deployment(view),
        FlowAnswer::Approval(view) => approval(view),
    }
}

/// Where the data on a page comes from.
fn source(source: &Source) -> Markup {
    let (environment, index) = match (&source.record, source.snapshot_index) {
        (Some(key), _) => return code(key),
        (None, Some(index)) => (&source.environment_name, index),
        (None, None) => return text(""),
    };
    let Markup(link) = link(&source.html_url, &format!("{environment} #{index}"));
    Markup(format!("snapshot {link}; the object itself was deleted"))
}

fn artifact(artifact: &ArtifactView) -> Response {
    let mut page = HtmlPage::new(&format!(
        "{} of flow {}",
        artifact.filename, artifact.flow_name
    ));
    page.facts([
        ("Fingerprint", code(&artifact.fingerprint)),
        ("Also known as", list(&artifact.aliases)),
        ("Record", compliance(artifact.compliant)),
        ("Missing", list(&artifact.missing)),
        ("Commit", link(&artifact.commit_url, &artifact.git_commit)),
        ("Build", link(&artifact.build_url, &artifact.build_url)),
        ("Recorded", time(artifact.created_at)),
        ("Source", source(&artifact.source)),
    ]);
    let running = artifact.running.iter().map(|running| {
        [
            link(&running.html_url, &running.environment_name),
            number(Some(running.instances)),
            compliance(running.compliant),
            text(running.reason),
            text(&running.message),
        ]
    });
    let columns = ["Environment", "Instances", "Compliance", "Reason", "Why"];
    page.table("Runs in", columns, running);
    let attestations = artifact.attestations.iter().map(|attestation| {
        let word = if attestation.compliant {
            "compliant"
        } else {
            "non-compliant"
        };
        [
            text(&attestation.name),
            text(&attestation.type_),
            text(word),
        ]
    });
    let columns = ["Name", "Type", "Compliance"];
    page.table("Attestations", columns, attestations);
    let deployments = artifact.deployments.iter().map(|deployment| {
        [
            link(&deployment.html_url, &deployment.number.to_string()),
            text(&deployment.environment_name),
            time(deployment.timestamp),
            link(&deployment.build_url, &deployment.build_url),
        ]
    });
    let columns = ["Number", "Environment", "Announced", "Build"];
    page.table("Deployments", columns, deployments);
    let approvals = artifact.approvals.iter().map(|approval| {
        [
            link(&approval.html_url, &approval.number.to_string()),
            text(approval.state),
            text(&approval.latest_reviewer),
            text(&approval.latest_review_comment),
            time(approval.timestamp),
        ]
    });
    let columns = ["Number", "State", "Reviewer", "Comment", "Reviewed"];
    page.table("Reviews", columns, approvals);
    page.show()
}

fn deployment(deployment: &AnnouncedDeploymentView) -> Response {
    let title = format!(
        "Deployment {} of flow {}",
        deployment.number, deployment.flow_name
    );
    let mut page = HtmlPage::new(&title);
    let subject = subject(
        &deployment.links.artifact,
        &deployment.artifact_name,
        &deployment.fingerprint,
        &deployment.environment_name,
        deployment.source.as_ref(),
    );
    page.facts(subject.into_iter().chain([
        ("Announced", time(deployment.timestamp)),
        ("Build", link(&deployment.build_url, &deployment.build_url)),
    ]));
    page.show()
}

fn approval(approval: &ApprovalView) -> Response {
    let title = format!(
        "Approval {} of flow {}",
        approval.number, approval.flow_name
    );
    let mut page = HtmlPage::new(&title);
    let subject = subject(
        &approval.links.artifact,
        &approval.artifact_name,
        &approval.fingerprint,
        &approval.environment_name,
        approval.source.as_ref(),
    );
    page.facts(subject.into_iter().chain([
        ("State", text(approval.state)),
        ("Reviewer", text(&approval.latest_reviewer)),
        ("Comment", text(&approval.latest_review_comment)),
        ("Reviewed", time(approval.timestamp)),
        ("Expires", time(approval.expires_at)),
    ]));
    page.show()
}

/// What a deployment or a review is about, and where its data comes from.
fn subject(
    artifact: &Link,
    name: &str,
    fingerprint: &str,
    environment: &str,
    from: Option<&Source>,
) -> [(&'static str, Markup); 4] {
    let or = |text, other| if str::is_empty(text) { other } else { text };
    [
        ("Artifact", link(&artifact.html, or(name, fingerprint))),
        ("Fingerprint", code(fingerprint)),
        ("Environment", text(or(environment, "all"))),
        ("Source", from.map_or(text(""), source)),
    ]
}

/// Text as HTML.
fn escape(text: &str) -> String {
    text.chars().fold(String::new(), |mut html, c| {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            c if c.is_control() => {}
            c => html.push(c),
        }
        html
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{
        api::compliance::ComplianceState,
        web::{
            testing::{installation, non_compliant},
            views::{
                EmptyObject,
                artifact::{ArtifactLinks, AttestationView, RunningView},
                environment::{EnvironmentLinks, ReasonView},
                snapshot::{self as snapshot_view, Annotation, EventLinks},
            },
        },
    };

    const HOSTILE: &str = "<script>alert('x' & \"y\")\u{7}</script>";

    #[test]
    fn names_cannot_be_markup() {
        assert_eq!(
            escape(HOSTILE),
            "&lt;script&gt;alert(&#39;x&#39; &amp; &quot;y&quot;)&lt;/script&gt;"
        );
    }

    #[test]
    fn only_pages_are_linked_and_no_url_leaves_its_quotes() {
        let link = |url: &str| link(url, "shown").0;
        assert_eq!(link("javascript:alert(1)"), "shown");
        assert_eq!(link(""), "shown");
        assert_eq!(
            link("https://x.example/\"><script>"),
            "<a href=\"https://x.example/&quot;&gt;&lt;script&gt;\">shown</a>"
        );
    }

    fn hostile() -> String {
        HOSTILE.to_owned()
    }

    fn hostile_link() -> Link {
        Link {
            html: hostile(),
            api: hostile(),
        }
    }

    const TIME: Seconds = Seconds(Timestamp::UNIX_EPOCH);
    const UNKNOWN: Compliant = Compliant(ComplianceState::Unknown);

    fn hostile_source() -> Source {
        Source {
            api_url: hostile(),
            environment_name: hostile(),
            html_url: hostile(),
            record: None,
            snapshot_index: Some(1),
        }
    }

    fn hostile_environment() -> (EnvironmentView, AllowedView) {
        let reason = ReasonView {
            artifact_name: hostile(),
            compliant: UNKNOWN,
            fingerprint: hostile(),
            grace_until: None,
            message: hostile(),
            reason: HOSTILE,
        };
        let environment = EnvironmentView {
            links: EnvironmentLinks {
                snapshot: hostile_link(),
            },
            api_url: hostile(),
            artifacts: None,
            has_rules: true,
            html_url: hostile(),
            instances: None,
            last_changed_at: None,
            more_reasons: 0,
            name: hostile(),
            org: hostile(),
            pending_until: None,
            reasons: vec![reason],
            reasons_for_incompliance: vec![hostile()],
            snapshot_index: Some(1),
            state: UNKNOWN,
            state_since: None,
            type_: HOSTILE,
            unidentified: None,
        };
        let allowed = AllowedView {
            active: true,
            artifact_name: hostile(),
            description: hostile(),
            entry: hostile(),
            environment_name: hostile(),
            expires_at: None,
            fingerprint: hostile(),
            timestamp: TIME,
            user_name: HOSTILE,
        };
        (environment, allowed)
    }

    fn hostile_snapshot_artifact() -> SnapshotArtifactView {
        SnapshotArtifactView {
            annotation: Annotation {
                now: 1,
                type_: HOSTILE,
                was: 2,
            },
            commit_lead_time: (),
            commit_url: hostile(),
            compliant: UNKNOWN,
            creation_timestamp: [],
            deployment_diff: (),
            deployments: vec![],
            fingerprint: hostile(),
            flow_html_url: HOSTILE,
            flow_name: hostile(),
            flows: vec![],
            git_commit: hostile(),
            html_url: hostile(),
            name: hostile(),
            pods: EmptyObject {},
            policy_decisions: [],
            reasons_for_incompliance: vec![hostile()],
        }
    }

    fn hostile_event() -> EventView {
        EventView {
            links: EventLinks {
                artifact: hostile_link(),
                snapshot: hostile_link(),
            },
            artifact_compliance: UNKNOWN,
            artifact_name: hostile(),
            code_diff: HOSTILE,
            deployments: vec![],
            description: hostile(),
            environment_name: hostile(),
            flows: vec![],
            pipeline: hostile(),
            reported_at: TIME,
            sha256: hostile(),
            snapshot_compliance: UNKNOWN,
            snapshot_index: 1,
            type_: HOSTILE,
        }
    }

    fn hostile_deployment() -> AnnouncedDeploymentView {
        AnnouncedDeploymentView {
            links: ArtifactLinks {
                artifact: hostile_link(),
            },
            api_url: hostile(),
            artifact_name: hostile(),
            build_url: hostile(),
            environment_name: hostile(),
            fingerprint: hostile(),
            flow_name: hostile(),
            html_url: hostile(),
            number: 1,
            source: Some(hostile_source()),
            timestamp: TIME,
        }
    }

    fn hostile_approval() -> ApprovalView {
        ApprovalView {
            links: ArtifactLinks {
                artifact: hostile_link(),
            },
            api_url: hostile(),
            artifact_name: hostile(),
            environment_name: hostile(),
            expires_at: None,
            fingerprint: hostile(),
            flow_name: hostile(),
            html_url: hostile(),
            latest_review_comment: hostile(),
            latest_reviewer: hostile(),
            number: 1,
            source: Some(Source {
                record: Some(hostile()),
                ..Source::default()
            }),
            state: HOSTILE,
            timestamp: TIME,
        }
    }

    fn hostile_artifact() -> ArtifactView {
        let attestation = AttestationView {
            compliant: true,
            name: hostile(),
            type_: hostile(),
        };
        let running = RunningView {
            api_url: hostile(),
            compliant: UNKNOWN,
            environment_name: hostile(),
            fingerprint: hostile(),
            grace_until: None,
            html_url: hostile(),
            instances: 1,
            message: hostile(),
            name: hostile(),
            reason: HOSTILE,
            snapshot_index: 1,
        };
        ArtifactView {
            aliases: vec![hostile()],
            api_url: hostile(),
            approvals: vec![hostile_approval()],
            attestations: vec![attestation],
            build_url: hostile(),
            commit_url: hostile(),
            compliant: UNKNOWN,
            created_at: None,
            deployments: vec![hostile_deployment()],
            exited: [],
            filename: hostile(),
            fingerprint: hostile(),
            flow_name: hostile(),
            git_commit: hostile(),
            history: [],
            html_url: hostile(),
            missing: vec![hostile()],
            running: vec![running],
            source: hostile_source(),
            state: hostile(),
        }
    }

    #[tokio::test]
    async fn every_page_escapes_every_text_and_lets_nothing_run() {
        let (view, allowed) = hostile_environment();
        let (installation, cluster) = (installation(), non_compliant());
        let newest = &cluster.log("prod").last().unwrap().spec;
        let recorded = cluster.recorded("prod");
        let found = snapshot_view::snapshot(&installation, newest, recorded, None);
        let artifacts = [hostile_snapshot_artifact()].into_iter();
        for response in [
            snapshot(HOSTILE, &found, artifacts, &[hostile_event()]),
            environment(&view, &[allowed]),
            flow_answer(&FlowAnswer::Artifact(Box::new(hostile_artifact()))),
            flow_answer(&FlowAnswer::Deployment(hostile_deployment())),
            flow_answer(&FlowAnswer::Approval(hostile_approval())),
        ] {
            let policy = response.headers()[header::CONTENT_SECURITY_POLICY].clone();
            assert!(policy.to_str().unwrap().starts_with("default-src 'none'"));
            let body = axum::body::to_bytes(response.into_body(), 1 << 20)
                .await
                .unwrap();
            let body = String::from_utf8(body.to_vec()).unwrap();
            assert!(body.contains("&lt;script&gt;"), "{body}");
            assert!(!body.contains("<script"), "{body}");
            assert!(!body.contains("alert('"), "{body}");
        }
    }
}
