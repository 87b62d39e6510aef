//! What a monitoring system scrapes.

use anyhow::{Context as _, Result, ensure};
use kit::{
    Actor,
    cluster::PATIENCE,
    eventually,
    stage::{Cast, SETTLE, alone, operator},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

type Labels = BTreeSet<String>;

/// A metric's type and labels, by its name.
type Described = BTreeMap<String, (String, Labels)>;

#[test]
fn what_is_scraped_has_the_names_types_and_labels_that_the_page_explains() {
    alone(async |cluster| {
        let operator = operator(cluster, &Cast::default()).await?;
        let (actor, receiver) = Actor::heard(cluster, "scraped", SETTLE).await?;
        actor.starts("web").await?;
        receiver.wait_for_count(PATIENCE, 1).await?;
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
        let explained = explained(&fs::read_to_string(page)?)?;
        eventually(PATIENCE, "a series of every metric", async || {
            let (_, text) = operator.get("/metrics").await?;
            for (name, type_) in declared(&text) {
                let row = explained.get(name);
                ensure!(
                    row.is_some_and(|row| row.0 == type_),
                    "{name}: {type_}, explained as {row:?}"
                );
            }
            let scraped = scraped(&text)?;
            for (name, what) in &scraped {
                let row = explained.get(name);
                ensure!(row == Some(what), "{name}: {what:?}, explained as {row:?}");
            }
            let mut names = explained.keys();
            let missing = names.find(|name| !scraped.contains_key(*name));
            ensure!(missing.is_none(), "no series of {missing:?}");
            Ok(())
        })
        .await
    });
}

/// The metrics of the table of a page: name, type and labels stand in its first three cells.
fn explained(page: &str) -> Result<Described> {
    let rows = page
        .lines()
        .filter_map(|it| it.strip_prefix("| `shipbell_"));
    let described = rows.map(|row| {
        let mut cells = row.split('|').map(str::trim);
        let mut cell = || cells.next().context(row.to_owned());
        let (name, type_, labels) = (cell()?.trim_end_matches('`'), cell()?, cell()?);
        let name = name.trim_end_matches("_total");
        let labels = labels.split(['`', ',', ' ']).filter(|it| !it.is_empty());
        let labels = labels.map(str::to_owned).collect();
        Ok((format!("shipbell_{name}"), (type_.to_owned(), labels)))
    });
    described.collect()
}

/// All metrics and their types, also those without series.
fn declared(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let declared = text.lines().filter_map(|it| it.strip_prefix("# TYPE "));
    declared.filter_map(|it| it.split_once(' '))
}

/// The metrics that have series in a text of the OpenMetrics format.
fn scraped(text: &str) -> Result<Described> {
    let mut described = Described::new();
    let mut type_ = (String::new(), String::new());
    for line in text.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            let (name, kind) = declared.split_once(' ').context(line.to_owned())?;
            type_ = (name.to_owned(), kind.to_owned());
        }
        if line.starts_with('#') {
            continue;
        }
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        let (base, kind) = &type_;
        let suffix = name.strip_prefix(base.as_str());
        let suffixes: &[&str] = match kind.as_str() {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_count", "_sum"],
            _ => &[""],
        };
        ensure!(
            suffix.is_some_and(|it| suffixes.contains(&it)),
            "{line}: {type_:?}"
        );
        let labels = line
            .split_once('{')
            .and_then(|(_, rest)| rest.rsplit_once('}'));
        let labels = labels.map_or("", |(labels, _)| labels);
        let labels: Labels = labels
            .split(',')
            .filter_map(|label| label.split_once("=\""))
            .map(|(label, _)| label.to_owned())
            .filter(|label| label != "le")
            .collect();
        let known = described
            .entry(base.clone())
            .or_insert((kind.clone(), labels.clone()));
        ensure!(known.1 == labels, "{line}: {known:?}");
    }
    ensure!(text.ends_with("# EOF\n"), "it ends in the middle");
    Ok(described)
}
