//! What `make properties` tries is what there is to try.

use crate::{file, root};
use std::{fs, path::Path};

/// Tried less often: each of its tries holds many texts.
const MANY_AT_ONCE: &str = "simulation::hostile_texts::whatever_texts";

/// A test in a source file, by the path under which `cargo test` knows it.
struct Test {
    path: String,
    /// How often it tries is that of what reads texts from outside.
    reads: bool,
}

/// The tests of a file, and whatever else is a function there.
fn tests(source: &Path) -> Vec<Test> {
    let text = fs::read_to_string(source).unwrap();
    let module = source.strip_prefix(root().join("src")).unwrap();
    let module = module.with_extension("");
    let module: Vec<_> = module.iter().map(|part| part.to_str().unwrap()).collect();
    let module = module.join("::");
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut found: Vec<Test> = vec![];
    let mut inner = "";
    // The indent of a block of properties, and whether they are those of readers.
    let mut block: Option<(usize, bool)> = None;
    for line in text.lines() {
        let code = line.trim_start();
        if code.starts_with("mod tests {") {
            inner = "tests::";
        } else if code.starts_with("proptest! {") {
            block = Some((indent(line), false));
        } else if block.is_some_and(|(begun, _)| line.len() == begun + 1 && code == "}") {
            block = None;
        } else if line.contains("reader_tries()") && !code.starts_with("pub fn") {
            match (&mut block, found.last_mut()) {
                (Some((_, reads)), _) => *reads = true,
                (None, Some(test)) => test.reads = true,
                (None, None) => panic!("{}: {line}", source.display()),
            }
        }
        let function = code.strip_prefix("async ").unwrap_or(code);
        if let Some((name, _)) = function
            .strip_prefix("fn ")
            .and_then(|it| it.split_once(['(', '<']))
        {
            let reads = block.is_some_and(|(_, reads)| reads);
            let path = format!("{module}::{inner}{name}");
            found.push(Test { path, reads });
        }
    }
    found
}

fn sources(directory: &Path) -> Vec<Test> {
    let entries = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut found = vec![];
    for path in entries {
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|it| it == "rs") {
            found.extend(tests(&path));
        }
    }
    found
}

#[test]
fn make_properties_tries_every_property_of_what_reads_texts_from_outside() {
    let makefile = file("Makefile");
    let (_, readers) = makefile.split_once("\nREADERS = ").unwrap();
    let (readers, _) = readers.split_once("\n\n").unwrap();
    let readers: Vec<_> = readers
        .split_whitespace()
        .filter(|it| *it != "\\")
        .collect();
    let tests = sources(&root().join("src"));
    assert!(tests.iter().filter(|test| test.reads).count() > 20);
    for test in tests.iter().filter(|test| test.reads) {
        let path = &test.path;
        let tried = readers.iter().any(|reader| path.contains(reader));
        assert!(tried, "{path} is not among READERS in the Makefile");
    }
    for reader in readers {
        let tried =
            |test: &Test| (test.reads || reader == MANY_AT_ONCE) && test.path.contains(reader);
        assert!(
            tests.iter().any(tried),
            "no test with `reader_tries` is called {reader}, which is among READERS in the Makefile"
        );
    }
}
