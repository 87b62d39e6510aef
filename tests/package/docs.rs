//! The documentation: its links lead somewhere, its metrics exist, and the README stays short.

use crate::{file, root};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The pages that people read, relative to the top of the repository.
fn pages() -> Vec<PathBuf> {
    let top = [
        "README.md",
        "DESIGN.md",
        "SECURITY.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "charts/shipbell/README.md",
    ];
    let mut pages: Vec<PathBuf> = top.iter().map(PathBuf::from).collect();
    pages.extend(files("docs", "md"));
    pages
}

/// The files with this extension below a directory, relative to the top of the repository.
pub(crate) fn files(directory: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut open = vec![root().join(directory)];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|it| it == extension) {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

fn text(path: &Path) -> String {
    file(path.to_str().unwrap())
}

/// The lines of a page outside of blocks of code.
pub(crate) fn prose(page: &str) -> Vec<&str> {
    let mut code = false;
    let mut lines = vec![];
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        } else if !code {
            lines.push(line);
        }
    }
    lines
}

/// The anchors of a page's headings, made the way GitHub makes them.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut anchors = BTreeSet::new();
    let prose = prose(page);
    for line in prose.iter().filter(|line| line.starts_with('#')) {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let before = seen.entry(anchor.clone()).or_default();
        anchors.insert(match *before {
            0 => anchor,
            again => format!("{anchor}-{again}"),
        });
        *before += 1;
    }
    anchors
}

/// The targets of a page's links: `[text](target)` and `[name]: target`.
fn links(page: &str) -> Vec<String> {
    let text = prose(page).join("\n");
    let inline = text
        .split("](")
        .skip(1)
        .map(|rest| rest.split([')', ' ']).next().unwrap_or_default());
    let named = text
        .lines()
        .filter(|line| line.starts_with('['))
        .filter_map(|line| line.split_once("]: ").map(|(_, target)| target.trim()));
    inline.chain(named).map(str::to_owned).collect()
}

#[test]
fn the_readme_has_at_most_150_short_lines() {
    let readme = file("README.md");
    let lines: Vec<&str> = readme.lines().collect();
    assert!(lines.len() <= 150, "{} lines", lines.len());
    for line in lines {
        assert!(line.chars().count() < 100, "{line}");
    }
}

#[test]
fn every_link_of_the_pages_leads_to_a_file_and_to_a_heading_that_exist() {
    let mut followed = 0;
    let mut broken = vec![];
    for page in pages() {
        for link in links(&text(&page)) {
            if link.contains("://") {
                continue;
            }
            followed += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match path {
                "" => root().join(&page),
                path => root().join(page.parent().unwrap()).join(path),
            };
            let inside = fs::canonicalize(&target)
                .is_ok_and(|real| real.starts_with(fs::canonicalize(root()).unwrap()));
            let heading =
                || fs::read_to_string(&target).is_ok_and(|it| anchors(&it).contains(anchor));
            if !inside || !(anchor.is_empty() || heading()) {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(followed > 40, "only {followed} links were found");
}

/// The names of the series of the operator's metrics, from the table that explains them. That it has what is scraped and
/// nothing else, `what_is_scraped_has_the_names_types_and_labels_that_the_page_explains` says of a running operator.
fn series() -> BTreeSet<String> {
    let mut series = BTreeSet::new();
    for row in file("docs/operations.md").lines() {
        let Some(row) = row.strip_prefix("| `shipbell_") else {
            continue;
        };
        let mut cells = row.split('|').map(str::trim);
        let name = cells.next().unwrap().trim_end_matches('`');
        let suffixes: &[&str] = match cells.next() {
            Some("histogram") => &["", "_bucket", "_count", "_sum"],
            _ => &[""],
        };
        series.extend(
            suffixes
                .iter()
                .map(|suffix| format!("shipbell_{name}{suffix}")),
        );
    }
    assert!(series.len() >= 26, "{series:?}");
    series
}

/// The words in a text that look like the operator's metrics.
fn named_metrics(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !word(c))
        .filter(|word| word.starts_with("shipbell_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_metric_that_is_named_is_explained() {
    let metrics = series();
    let shipped = ["yaml", "tpl", "txt", "json", "md"];
    let shipped = shipped
        .iter()
        .flat_map(|extension| files("charts", extension));
    for path in pages().into_iter().chain(shipped) {
        let named = named_metrics(&text(&path));
        let unknown: Vec<_> = named.difference(&metrics).collect();
        assert!(unknown.is_empty(), "{}: {unknown:?}", path.display());
    }
}

#[test]
fn every_metric_is_in_an_alert_or_on_the_dashboard() {
    let used: BTreeSet<String> = ["alerts.yaml", "dashboard.json"]
        .iter()
        .flat_map(|name| named_metrics(&file(&format!("charts/shipbell/files/{name}"))))
        .collect();
    let explained = series();
    // A histogram is the metric of its series.
    let metric = |series: &String| {
        let suffixes = ["_bucket", "_count", "_sum"];
        let base = suffixes.iter().find_map(|it| series.strip_suffix(it));
        let base = base.filter(|base| explained.contains(*base));
        base.unwrap_or(series).to_owned()
    };
    let used: BTreeSet<String> = used.iter().map(metric).collect();
    let all: BTreeSet<String> = explained.iter().map(metric).collect();
    let unused: Vec<_> = all.difference(&used).collect();
    assert!(unused.is_empty(), "nobody looks at {unused:?}");
}

#[test]
fn the_page_about_environments_says_of_each_image_of_a_pod_whether_it_counts() {
    let page = file("docs/environments.md");
    for (row, counts) in [
        ("an ordinary container", "yes"),
        (
            "a native sidecar (init container with `restartPolicy: Always`)",
            "yes",
        ),
        ("a debug container (ephemeral)", "yes, while it runs"),
        (
            "an init container that runs once",
            "no; while it runs it is judged, if there are rules",
        ),
        ("an image volume (`volumes[].image`)", "no"),
    ] {
        let line = format!("| {row} | {counts} |");
        assert!(page.lines().any(|it| it == line), "{line}");
    }
    // What is left out is said with its reason.
    assert!(
        page.contains("\nAn image volume is data that is mounted and not a program that runs.")
    );
}

#[test]
fn every_reason_has_one_row_of_its_own_in_a_table_of_the_page_about_troubles() {
    let page = file("docs/troubleshooting.md");
    let prose = prose(&page);
    let mut rows = 0;
    let mut section = "";
    let mut seen: BTreeSet<(&str, &str)> = BTreeSet::new();
    let mut lines = prose.iter().peekable();
    while let Some(line) = lines.next() {
        if let Some(heading) = line.strip_prefix("## ") {
            section = heading;
        }
        if *line != "| reason | meaning | what to do |" {
            continue;
        }
        let mut here = BTreeSet::new();
        lines.next();
        while let Some(row) = lines.next_if(|line| line.starts_with('|')) {
            let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            assert_eq!(cells.len(), 3, "{section}: {row}");
            assert!(cells.iter().all(|cell| !cell.is_empty()), "{row}");
            let reason = cells[0]
                .strip_prefix('`')
                .and_then(|it| it.strip_suffix('`'));
            let reason = reason.unwrap_or_else(|| panic!("{section}: {row}"));
            assert!(
                reason.starts_with(|c: char| c.is_ascii_uppercase())
                    && reason.chars().all(|c| c.is_ascii_alphabetic()),
                "{section}: {row}"
            );
            assert!(here.insert(reason), "{section}: {reason} twice in a table");
            seen.insert((section, reason));
            rows += 1;
        }
    }
    assert!(rows > 70, "only {rows} rows");
    for (section, reason) in [
        ("NotificationSetting: Ready", "SecretForbidden"),
        ("NotificationSetting: Delivered", "PayloadRefused"),
        ("NotificationSetting: skipped ranges", "CursorReset"),
        ("NotificationSetting: dead letters", "RetryExpired"),
        ("Environment: Ready", "LogForbidden"),
        ("Environment: Compliant", "NoProvenance"),
        ("ArtifactProvenance", "Conflict"),
        ("ArtifactApproval", "Numbered"),
        ("AllowedArtifact", "Expired"),
    ] {
        assert!(seen.contains(&(section, reason)), "{section}: {reason}");
    }
}
