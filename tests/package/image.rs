//! The image: the Dockerfile, what it is built from, and the one static file in it.

use crate::{file, root};
use anyhow::{Context, Result, ensure};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The directory for what tests make, inside the target directory.
fn scratch() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// What .dockerignore lets through: everything is shut out, and then some of it let in again.
fn allowed() -> Vec<String> {
    let text = file(".dockerignore");
    let mut lines = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    assert_eq!(lines.next(), Some("*"));
    let allow = |line: &str| {
        let path = line
            .strip_prefix('!')
            .unwrap_or_else(|| panic!(".dockerignore: {line}"));
        assert!(
            root().join(path).exists(),
            ".dockerignore: {path} is not there"
        );
        path.to_owned()
    };
    lines.map(allow).collect()
}

/// The files below `path`, relative to `top`.
fn files(top: &Path, path: &str, into: &mut BTreeSet<String>) -> Result<()> {
    let whole = top.join(path);
    if whole.is_file() {
        into.insert(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(&whole).with_context(|| whole.display().to_string())? {
        let name = entry?.file_name();
        let name = name.to_str().context("a name that is no text")?;
        files(top, &format!("{path}/{name}"), into)?;
    }
    Ok(())
}

/// Brings the directory that Docker's builder would see up to date. What is the same is left alone, or cargo would build it anew.
fn mirror(context: &Path) -> Result<()> {
    let (mut wanted, mut there) = (BTreeSet::new(), BTreeSet::new());
    for path in allowed() {
        files(&root(), &path, &mut wanted)?;
    }
    fs::create_dir_all(context)?;
    for entry in fs::read_dir(context)? {
        let name = entry?.file_name();
        files(
            context,
            name.to_str().context("a name that is no text")?,
            &mut there,
        )?;
    }
    for path in there.difference(&wanted) {
        fs::remove_file(context.join(path))?;
    }
    for path in &wanted {
        let (from, to) = (root().join(path), context.join(path));
        if fs::read(&to).ok() != Some(fs::read(&from)?) {
            fs::create_dir_all(to.parent().context("a file without a directory")?)?;
            fs::copy(from, to)?;
        }
    }
    Ok(())
}

/// What Docker's builder would see, for one at a time: another checkout may share the target directory.
fn context() -> Result<(PathBuf, File)> {
    let lock = File::create(scratch().join("image.lock"))?;
    lock.lock()?;
    let context = scratch().join("image-context");
    mirror(&context)?;
    Ok((context, lock))
}

fn build() -> Result<PathBuf> {
    let (context, _lock) = context()?;
    eprintln!("building the static operator; minutes the first time");
    let target = scratch().parent().context("no target directory")?;
    let output = Command::new(context.join("scripts/build-static.sh"))
        .current_dir("/")
        .env("SHIPBELL_PROFILE", "static-test")
        .env("CARGO_TARGET_DIR", target)
        .env_remove("RUSTFLAGS")
        .output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "scripts/build-static.sh failed:\n{complaint}"
    );
    let printed = String::from_utf8(output.stdout)?;
    ensure!(printed.lines().count() == 1, "it printed {printed:?}");
    let root = scratch().join("image-root");
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root)?;
    let binary = root.join("shipbell");
    fs::copy(printed.trim_end(), &binary)?;
    Ok(binary)
}

/// The static operator, in a directory that holds nothing else.
pub fn binary() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    built.clone().map_err(anyhow::Error::msg)
}

/// The numbers at `at` in a little-endian file.
fn number(bytes: &[u8], at: usize, size: usize) -> usize {
    let part = &bytes[at..at + size];
    part.iter()
        .rev()
        .fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// Whether an ELF file names an interpreter, and how many libraries it needs.
fn linking(bytes: &[u8]) -> Result<(bool, usize)> {
    const DYNAMIC: usize = 2;
    const INTERPRETER: usize = 3;
    const NEEDED: usize = 1;
    ensure!(
        bytes.starts_with(b"\x7fELF\x02\x01"),
        "no little-endian ELF file of 64 bits"
    );
    let (table, size, count) = (
        number(bytes, 32, 8),
        number(bytes, 54, 2),
        number(bytes, 56, 2),
    );
    let (mut interpreter, mut needed) = (false, 0);
    for header in (0..count).map(|at| table + at * size) {
        match number(bytes, header, 4) {
            INTERPRETER => interpreter = true,
            DYNAMIC => {
                let (from, length) = (number(bytes, header + 8, 8), number(bytes, header + 32, 8));
                let entries = (from..from + length).step_by(16);
                needed += entries.filter(|at| number(bytes, *at, 8) == NEEDED).count();
            }
            _ => {}
        }
    }
    Ok((interpreter, needed))
}

#[test]
fn the_operator_is_one_static_file_built_from_what_docker_sees() {
    let binary = binary().unwrap();
    assert_eq!(linking(&fs::read(binary).unwrap()).unwrap(), (false, 0));
    // The same look at a dynamic program sees that it is one.
    let (interpreter, needed) =
        linking(&fs::read(std::env::current_exe().unwrap()).unwrap()).unwrap();
    assert!(interpreter && needed > 0, "{interpreter} {needed}");
}

/// Runs the operator where its file is all there is, and returns what it printed. `None` if nothing here can make such a place.
fn in_an_empty_root(args: &[&str]) -> Result<Option<String>> {
    let binary = binary()?;
    let root = binary.parent().context("no directory")?;
    ensure!(
        fs::read_dir(root)?.count() == 1,
        "{} holds more",
        root.display()
    );
    let root = root.to_str().context("a path that is no text")?;
    let unshare = ["unshare", "--map-root-user", "--root", root];
    for way in [&["chroot", root][..], &unshare] {
        let mut command = Command::new(way[0]);
        let output = match command.args(&way[1..]).arg("/shipbell").args(args).output() {
            Ok(output) => output,
            Err(error) => {
                eprintln!("{}: {error}", way[0]);
                continue;
            }
        };
        if output.status.success() {
            return Ok(Some(String::from_utf8(output.stdout)?));
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        // Only this is the kernel's refusal. "No such file" is what a dynamic program would get.
        ensure!(complaint.contains("not permitted"), "{way:?}: {complaint}");
        eprintln!("{}", complaint.trim());
    }
    Ok(None)
}

#[test]
fn in_an_empty_root_it_tells_its_version_and_its_flags() {
    for (args, words) in [
        (&["--version"][..], "shipbell 0.1.0"),
        (&["run", "--help"], "SHIPBELL_CLUSTER_NAME"),
    ] {
        match in_an_empty_root(args).unwrap() {
            Some(printed) => assert!(printed.contains(words), "{printed}"),
            None => eprintln!("SKIPPED: nothing here can run {args:?} in an empty root, see above"),
        }
    }
}

/// What the workspace's lock file and the operator's manifest say is compiled into the program.
fn crates() -> Vec<(String, String)> {
    let edges = "--edges=normal,no-proc-macro";
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--package=shipbell",
            edges,
            "--prefix=none",
            "--no-dedupe",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let words = text.lines().filter_map(|line| line.split_once(" v"));
    let crates = words.map(|(name, rest)| {
        let version = rest.split(' ').next().unwrap();
        (name.to_owned(), version.to_owned())
    });
    crates.filter(|(name, _)| name != "shipbell").collect()
}

#[test]
fn the_image_names_every_crate_in_it_with_the_text_of_its_licence() {
    let (context, _lock) = context().unwrap();
    for file in ["LICENSE", "NOTICE"] {
        assert!(context.join(file).is_file(), "{file}");
    }
    let output = Command::new(context.join("scripts/third-party-licenses.sh"))
        .current_dir("/")
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    let text = String::from_utf8(output.stdout).unwrap();
    let crates = crates();
    assert!(crates.len() > 100, "{}", crates.len());
    for (name, version) in crates {
        assert!(
            text.contains(&format!("\n- {name} {version}: ")),
            "{name} {version}"
        );
    }
    // Of works in several parts each part, and of what is no crate.
    for part in [
        "Copyright (c) Meta Platforms, Inc. and affiliates. All rights reserved.",
        "Copyright 2015-2016 Brian Smith",
        "the fiat-crypto authors",
        "The Rust standard library",
        "The GNU C library, which is linked in statically",
    ] {
        assert!(text.contains(part), "{part}");
    }
}

#[test]
fn one_release_of_the_compiler_builds_everything() {
    let channel = file("rust-toolchain.toml");
    let channel = channel
        .lines()
        .find_map(|line| line.strip_prefix("channel = \""));
    let manifest = file("Cargo.toml");
    let version = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = \""));
    let version = version.unwrap().trim_end_matches('"');
    assert!(channel.unwrap().starts_with(&format!("{version}.")));
}

#[test]
fn the_image_is_a_static_file_and_the_authorities_for_whatever_architecture() {
    let text = file("Dockerfile");
    let lines: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .collect();
    let manifest = file("Cargo.toml");
    let rust = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = "))
        .unwrap();
    let builder = format!("FROM rust:{}-bookworm AS build", rust.trim_matches('"'));
    let stages = ["ARG BUILDKIT_SBOM_SCAN_CONTEXT=true", &builder];
    assert_eq!(lines[..2], stages);
    let last = lines
        .iter()
        .rposition(|line| line.starts_with("FROM "))
        .unwrap();
    let image = &lines[last..];
    assert_eq!(
        image,
        [
            "FROM scratch",
            "COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt",
            "COPY --from=build /licenses /licenses",
            "COPY --from=build /shipbell /shipbell",
            "USER 65532:65532",
            "EXPOSE 8080 8081",
            "ENTRYPOINT [\"/shipbell\"]",
            "CMD [\"run\"]",
        ]
    );
    let script = file("scripts/build-static.sh");
    for architecture in ["x86_64", "amd64", "aarch64", "arm64"] {
        assert!(!text.contains(architecture) && !script.contains(architecture));
    }
}
