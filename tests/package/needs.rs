//! What the tests need is said before they start.

use crate::root;
use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

/// Runs the check where nothing but these programs is to be had, each of which prints a line or, without one, fails.
/// Returns whether it passed and what it said.
fn check(programs: &[(&str, Option<&str>)], asked: &[&str]) -> (bool, String) {
    let directory = tempfile::tempdir().unwrap();
    for (name, line) in programs {
        let path = directory.path().join(name);
        let script = line.map_or("exit 1".to_owned(), |line| format!("echo {line}"));
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let output = Command::new("/bin/sh")
        .arg(root().join("scripts/needs.sh"))
        .args(asked)
        .env_clear()
        .env("PATH", directory.path())
        .env("HOME", Path::new("/nonexistent"))
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

const ALL: [(&str, Option<&str>); 6] = [
    ("cargo", Some("")),
    ("cc", Some("")),
    ("go", Some("go1.26.8")),
    ("python3", Some("")),
    ("node", Some("v20.20.2")),
    ("npm", Some("")),
];

#[test]
fn with_everything_there_the_tests_say_what_they_need_and_go_on() {
    let (passed, said) = check(&ALL, &["T0", "T1", "T2"]);
    assert!(passed, "{said}");
    for word in ["Rust", "C compiler", "Go", "Python 3", "Node.js"] {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[test]
fn everything_that_is_missing_is_named_at_once_with_what_to_do() {
    let (passed, said) = check(&[], &["T0", "T1", "T2"]);
    assert!(!passed);
    for part in [
        "rustup.rs",
        "apt-get install gcc",
        "Go 1.26, to build a control plane for T1 and T2: https://go.dev/dl",
        "KUBEBUILDER_ASSETS",
        "TEST_ASSET_HELM",
        "apt-get install python3-venv",
        "Node.js 20",
        "npm",
        "make test TIERS=T0",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn each_program_that_is_missing_or_too_old_is_found_out_and_only_by_who_needs_it() {
    for (program, line, words, who) in [
        ("cargo", None, "rustup.rs", &["demo", "T0", "T1", "T2"][..]),
        (
            "cc",
            None,
            "C compiler called cc",
            &["demo", "T0", "T1", "T2"],
        ),
        ("go", None, "Go 1.26, to build", &["demo", "T1", "T2"]),
        (
            "go",
            Some("go1.24.3"),
            "Go 1.26 instead of 1.24.3",
            &["demo", "T1", "T2"],
        ),
        ("python3", None, "Python 3 with venv", &["T2"]),
        ("node", None, "Node.js 20,", &["T2"]),
        (
            "node",
            Some("v18.20.1"),
            "Node.js 20 instead of 18.20.1",
            &["T2"],
        ),
        ("npm", None, "npm, which comes with", &["T2"]),
    ] {
        let mut programs = ALL.to_vec();
        programs.retain(|(name, _)| *name != program);
        if line.is_some() {
            programs.push((program, line));
        }
        for asked in ["demo", "T0", "T1", "T2"] {
            let (passed, said) = check(&programs, &[asked]);
            assert_eq!(passed, !who.contains(&asked), "{program} {asked}: {said}");
            assert_eq!(said.contains(words), !passed, "{program} {asked}: {said}");
        }
    }
}

#[test]
fn python_without_venv_is_found_out() {
    let mut programs = ALL.to_vec();
    programs.retain(|(name, _)| *name != "python3");
    programs.push(("python3", None));
    let (passed, said) = check(&programs, &["T2"]);
    assert!(!passed && said.contains("python3-venv"), "{said}");
}

#[test]
fn a_newer_release_of_go_or_node_will_do() {
    for (go, node) in [
        ("go1.27rc1", "v22.1.0"),
        ("go2.0", "v100.0.0"),
        ("devel", "v20.0.0"),
    ] {
        let mut programs = ALL.to_vec();
        programs.retain(|(name, _)| !["go", "node"].contains(name));
        programs.extend([("go", Some(go)), ("node", Some(node))]);
        let (passed, said) = check(&programs, &["T2"]);
        assert!(passed, "{go} {node}: {said}");
    }
}

#[test]
fn a_tier_that_is_none_is_refused() {
    let (passed, said) = check(&ALL, &["T0", "T3"]);
    assert!(!passed && said.contains("there is no tier T3"), "{said}");
}
