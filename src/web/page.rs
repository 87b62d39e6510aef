//! The pages for people, made from the JSON of the read API. Whatever comes from the cluster is text here, never markup.

use std::fmt::Write as _;

use axum::{
    http::{HeaderValue, header},
    response::{Html, IntoResponse, Response},
};
use jiff::Timestamp;
use serde_json::Value;

use crate::api::snapshot::ComplianceState;

/// Nothing is loaded, run, sent or framed.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;margin:2rem;max-width:75rem}\
    td,th{text-align:left;vertical-align:top;padding:.2rem 1rem .2rem 0}code{font-size:.8em;overflow-wrap:anywhere}";

/// A page that is being written.
struct HtmlPage {
    title: String,
    body: String,
}

/// A piece of HTML.
struct Markup(String);

impl HtmlPage {
    fn new(title: &str) -> Self {
        let body = format!("<h1>{}</h1>\n", escape(title));
        let title = escape(title);
        Self { title, body }
    }

    fn push(&mut self, markup: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = self.body.write_fmt(markup);
    }

    /// What is known, a line each; what isn't is left out.
    fn facts(&mut self, facts: impl IntoIterator<Item = (&'static str, Markup)>) {
        self.body.push_str("<table>\n");
        for (what, Markup(told)) in facts {
            if !told.is_empty() {
                self.push(format_args!("<tr><th>{what}<td>{told}</tr>\n"));
            }
        }
        self.body.push_str("</table>\n");
    }

    /// A table under a heading; nothing if it is empty.
    fn table<const N: usize>(&mut self, title: &str, columns: [&str; N], rows: Vec<[Markup; N]>) {
        if rows.is_empty() {
            return;
        }
        let head = columns.map(|column| format!("<th>{column}")).concat();
        self.push(format_args!("<h2>{title}</h2>\n<table><tr>{head}</tr>\n"));
        for row in rows {
            let cells = row.map(|Markup(cell)| format!("<td>{cell}")).concat();
            self.push(format_args!("<tr>{cells}</tr>\n"));
        }
        self.body.push_str("</table>\n");
    }

    fn show(self) -> Response {
        let Self { title, body } = self;
        let page = format!(
            "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n\
             <title>{title}</title>\n<style>{STYLE}</style>\n{body}</html>\n"
        );
        let headers = [
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
        ];
        let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
        (headers, Html(page)).into_response()
    }
}

fn plain(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn text(value: &Value) -> Markup {
    Markup(match value {
        Value::String(text) => escape(text),
        Value::Null => String::new(),
        other => escape(&other.to_string()),
    })
}

fn code(value: &Value) -> Markup {
    let text = plain(value);
    if text.is_empty() {
        return Markup(String::new());
    }
    Markup(format!("<code>{}</code>", escape(text)))
}

/// A link, if it leads to a page; else its text alone.
fn link(url: &Value, shown: &Value) -> Markup {
    let (url, Markup(shown)) = (plain(url), text(shown));
    if (url.starts_with("https://") || url.starts_with("http://")) && !shown.is_empty() {
        return Markup(format!("<a href=\"{}\">{shown}</a>", escape(url)));
    }
    Markup(shown)
}

/// A moment, from Unix seconds.
fn time(value: &Value) -> Markup {
    let Some(seconds) = value.as_f64() else {
        return Markup(String::new());
    };
    #[allow(
        clippy::cast_possible_truncation,
        reason = "whole seconds are what is shown"
    )]
    let time = Timestamp::from_second(seconds as i64);
    Markup(time.map_or_else(
        |_| String::new(),
        |time| format!("<time>{}</time>", time.strftime("%Y-%m-%d %H:%M:%S UTC")),
    ))
}

fn compliance(value: &Value) -> Markup {
    let state = match value.as_bool() {
        Some(true) => ComplianceState::Compliant,
        Some(false) => ComplianceState::NonCompliant,
        None => ComplianceState::Unknown,
    };
    Markup(state.word().to_owned())
}

fn list(value: &Value) -> Markup {
    let items: Vec<String> = items(value).iter().map(|item| text(item).0).collect();
    Markup(items.join("<br>"))
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], |items| items)
}

fn counts(was: &Value, now: &Value) -> Markup {
    Markup(format!("{} &rarr; {}", text(was).0, text(now).0))
}

/// A snapshot: what was told, and what changed and runs.
pub fn snapshot(environment: &str, snapshot: &Value, events: &[Value]) -> Response {
    let index = &snapshot["index"];
    let mut page = HtmlPage::new(&format!("{environment} snapshot #{index}"));
    page.facts([
        ("Recorded", time(&snapshot["timestamp"])),
        ("Compliance", compliance(&snapshot["compliant"])),
    ]);
    let told = events.iter().rev().map(|event| {
        let page = &event["_links"]["artifact"]["html"];
        [
            text(&event["type"]),
            link(page, &event["artifact_name"]),
            text(&event["description"]),
        ]
    });
    page.table("Events", ["Event", "Artifact", "What"], told.collect());
    let artifacts = items(&snapshot["artifacts"]).iter().map(|artifact| {
        let annotation = &artifact["annotation"];
        [
            link(&artifact["html_url"], &artifact["name"]),
            code(&artifact["fingerprint"]),
            text(&annotation["type"]),
            counts(&annotation["was"], &annotation["now"]),
            compliance(&artifact["compliant"]),
            list(&artifact["reasons_for_incompliance"]),
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
    page.table("Artifacts", columns, artifacts.collect());
    page.show()
}

/// An environment and its allow-list.
pub fn environment(environment: &Value, allowed: &[Value]) -> Response {
    let mut page = HtmlPage::new(&format!("Environment {}", plain(&environment["name"])));
    let newest = &environment["_links"]["snapshot"]["html"];
    page.facts([
        ("Compliance", compliance(&environment["state"])),
        ("Since", time(&environment["state_since"])),
        ("Decided by", time(&environment["pending_until"])),
        ("Why", list(&environment["reasons_for_incompliance"])),
        (
            "Newest snapshot",
            link(newest, &environment["snapshot_index"]),
        ),
        ("Recorded", time(&environment["last_changed_at"])),
        ("Artifacts", text(&environment["artifacts"])),
        ("Instances", text(&environment["instances"])),
        ("Not identified", text(&environment["unidentified"])),
    ]);
    let reasons = items(&environment["reasons"]).iter().map(|reason| {
        [
            text(&reason["artifact_name"]),
            code(&reason["fingerprint"]),
            text(&reason["reason"]),
            text(&reason["message"]),
            time(&reason["grace_until"]),
        ]
    });
    let columns = ["Image", "Fingerprint", "Reason", "Why", "May arrive until"];
    page.table("What breaks the rules now", columns, reasons.collect());
    let allowed = allowed.iter().map(|item| {
        let state = if item["active"] == true {
            "active"
        } else {
            "expired"
        };
        [
            text(&item["artifact_name"]),
            code(&item["fingerprint"]),
            text(&item["description"]),
            time(&item["timestamp"]),
            time(&item["expires_at"]),
            Markup(state.to_owned()),
        ]
    });
    let columns = ["Image", "Fingerprint", "Why", "Added", "Expires", "State"];
    page.table("Allow-list", columns, allowed.collect());
    page.show()
}

/// Who says what stands on a page.
fn source(told: &Value) -> Markup {
    let source = &told["source"];
    if source["record"].is_string() {
        return code(&source["record"]);
    }
    let snapshot = format!(
        "{} #{}",
        plain(&source["environment_name"]),
        source["snapshot_index"]
    );
    let Markup(link) = link(&source["html_url"], &snapshot.into());
    Markup(format!("what snapshot {link} tells: what said it is gone"))
}

/// An artifact of a flow.
pub fn artifact(artifact: &Value) -> Response {
    let mut page = HtmlPage::new(&format!(
        "{} of flow {}",
        plain(&artifact["filename"]),
        plain(&artifact["flow_name"])
    ));
    page.facts([
        ("Fingerprint", code(&artifact["fingerprint"])),
        ("Also known as", list(&artifact["aliases"])),
        ("Record", compliance(&artifact["compliant"])),
        ("Missing", list(&artifact["missing"])),
        (
            "Commit",
            link(&artifact["commit_url"], &artifact["git_commit"]),
        ),
        (
            "Build",
            link(&artifact["build_url"], &artifact["build_url"]),
        ),
        ("Recorded", time(&artifact["created_at"])),
        ("Told by", source(artifact)),
    ]);
    let running = items(&artifact["running"]).iter().map(|runs| {
        [
            link(&runs["html_url"], &runs["environment_name"]),
            text(&runs["instances"]),
            compliance(&runs["compliant"]),
            text(&runs["reason"]),
            text(&runs["message"]),
        ]
    });
    let columns = ["Environment", "Instances", "Compliance", "Reason", "Why"];
    page.table("Runs in", columns, running.collect());
    let attestations = items(&artifact["attestations"]).iter().map(|attested| {
        [
            text(&attested["name"]),
            text(&attested["type"]),
            compliance(&attested["compliant"]),
        ]
    });
    let columns = ["Name", "Type", "Compliance"];
    page.table("Attestations", columns, attestations.collect());
    let deployments = items(&artifact["deployments"]).iter().map(|deployment| {
        [
            link(&deployment["html_url"], &deployment["number"]),
            text(&deployment["environment_name"]),
            time(&deployment["timestamp"]),
            link(&deployment["build_url"], &deployment["build_url"]),
        ]
    });
    let columns = ["Number", "Environment", "Announced", "Build"];
    page.table("Deployments", columns, deployments.collect());
    let approvals = items(&artifact["approvals"]).iter().map(|approval| {
        [
            link(&approval["html_url"], &approval["number"]),
            text(&approval["state"]),
            text(&approval["latest_reviewer"]),
            text(&approval["latest_review_comment"]),
            time(&approval["timestamp"]),
        ]
    });
    let columns = ["Number", "State", "Reviewer", "Comment", "Reviewed"];
    page.table("Reviews", columns, approvals.collect());
    page.show()
}

/// A page about a deployment or a review.
fn note(what: &str, note: &Value) -> (HtmlPage, [(&'static str, Markup); 4]) {
    let page = HtmlPage::new(&format!(
        "{what} {} of flow {}",
        note["number"],
        plain(&note["flow_name"])
    ));
    let environment = &note["environment_name"];
    let environment = match plain(environment) {
        "" => Markup("all".to_owned()),
        _ => text(environment),
    };
    let artifact = &note["_links"]["artifact"]["html"];
    let shown = match plain(&note["artifact_name"]) {
        "" => &note["fingerprint"],
        _ => &note["artifact_name"],
    };
    let facts = [
        ("Artifact", link(artifact, shown)),
        ("Fingerprint", code(&note["fingerprint"])),
        ("Environment", environment),
        ("Told by", source(note)),
    ];
    (page, facts)
}

/// A deployment of a flow.
pub fn deployment(deployment: &Value) -> Response {
    let (mut page, facts) = note("Deployment", deployment);
    page.facts(facts.into_iter().chain([
        ("Announced", time(&deployment["timestamp"])),
        (
            "Build",
            link(&deployment["build_url"], &deployment["build_url"]),
        ),
    ]));
    page.show()
}

/// A review.
pub fn approval(approval: &Value) -> Response {
    let (mut page, facts) = note("Approval", approval);
    page.facts(facts.into_iter().chain([
        ("State", text(&approval["state"])),
        ("Reviewer", text(&approval["latest_reviewer"])),
        ("Comment", text(&approval["latest_review_comment"])),
        ("Reviewed", time(&approval["timestamp"])),
        ("Expires", time(&approval["expires_at"])),
    ]));
    page.show()
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
    use serde_json::json;

    use super::*;

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
        let link = |url: &str| link(&url.into(), &"shown".into()).0;
        assert_eq!(link("javascript:alert(1)"), "shown");
        assert_eq!(link(""), "shown");
        assert_eq!(
            link("https://x.example/\"><script>"),
            "<a href=\"https://x.example/&quot;&gt;&lt;script&gt;\">shown</a>"
        );
    }

    #[tokio::test]
    async fn every_page_escapes_every_text_and_lets_nothing_run() {
        // Wherever a page looks, it finds something hostile.
        let item = |keys: &[&str]| {
            let pairs = keys.iter().map(|key| ((*key).to_owned(), HOSTILE.into()));
            Value::Object(pairs.collect())
        };
        let mut all = item(&[
            "artifact_name",
            "fingerprint",
            "message",
            "reason",
            "name",
            "type",
            "description",
            "environment_name",
            "state",
            "latest_reviewer",
            "latest_review_comment",
            "build_url",
            "commit_url",
            "git_commit",
            "html_url",
            "filename",
            "flow_name",
            "number",
            "index",
        ]);
        all["_links"] = json!({"artifact": {"html": HOSTILE}, "snapshot": {"html": HOSTILE}});
        all["annotation"] = json!({"type": HOSTILE, "was": HOSTILE, "now": HOSTILE});
        all["source"] = json!({"record": null, "environment_name": HOSTILE, "html_url": HOSTILE, "snapshot_index": HOSTILE});
        let inner = all.clone();
        for list in [
            "artifacts",
            "running",
            "reasons",
            "attestations",
            "deployments",
            "approvals",
            "missing",
            "aliases",
            "reasons_for_incompliance",
        ] {
            all[list] = json!([inner, HOSTILE]);
        }
        for response in [
            snapshot(HOSTILE, &all, std::slice::from_ref(&inner)),
            environment(&all, std::slice::from_ref(&inner)),
            artifact(&all),
            deployment(&all),
            approval(&all),
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
