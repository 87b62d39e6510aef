//! Holds the order of the modules that the list in `lib.rs` states, by reading the imports of every file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    str::FromStr as _,
};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A source file: its place in the tree of modules, and the paths that its production code names.
struct SourceFile {
    module: Vec<String>,
    path: String,
    first_line: String,
    tokens: Vec<TokenTree>,
}

impl SourceFile {
    fn read(source: &Path, path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let path = path.strip_prefix(source).unwrap();
        let mut module: Vec<String> = path
            .with_extension("")
            .components()
            .map(|part| part.as_os_str().to_str().unwrap().to_owned())
            .collect();
        if module.last().unwrap() == "mod" || module == ["lib"] {
            module.pop();
        }
        let tokens = TokenStream::from_str(&text).unwrap();
        Self {
            module,
            path: path.display().to_string(),
            first_line: text.lines().next().unwrap_or_default().to_owned(),
            tokens: without_tests(tokens),
        }
    }

    /// The paths into this crate that are named, `use` or not; `children`: modules that this file declares.
    fn own_paths(&self, children: &BTreeSet<&str>) -> BTreeSet<Vec<String>> {
        let passed_on: BTreeSet<_> = self.passes_on().into_values().collect();
        let mut found = BTreeSet::new();
        for path in paths(&self.tokens) {
            let supers = path.iter().take_while(|part| *part == "super").count();
            let base = match path[0].as_str() {
                "crate" => vec![],
                "self" => self.module.clone(),
                "super" => self.module[..self.module.len() - supers].to_vec(),
                child if path.len() > 1 && children.contains(child) => {
                    found.insert([&self.module[..], &path].concat());
                    continue;
                }
                _ => continue,
            };
            let rest = path[supers.max(1)..].iter().cloned();
            found.insert(base.into_iter().chain(rest).collect::<Vec<_>>());
        }
        // To pass on a name is not to use it.
        found.retain(|path| !passed_on.contains(path));
        found
    }

    /// What this file passes on from its children: name -> path.
    fn passes_on(&self) -> BTreeMap<String, Vec<String>> {
        let mut found = BTreeMap::new();
        for (at, token) in self.tokens.iter().enumerate() {
            let before = |back: usize| at.checked_sub(back).map(|at| self.tokens[at].to_string());
            let is_public = before(1).is_some_and(|token| token == "pub")
                || before(2).is_some_and(|token| token == "pub");
            if token.to_string() == "use" && is_public {
                for path in tree(&self.tokens[at + 1..]) {
                    let name = path.last().unwrap().clone();
                    let of_crate = path[0] == "crate";
                    let path = if of_crate {
                        path[1..].to_vec()
                    } else {
                        [&self.module[..], &path].concat()
                    };
                    found.insert(name, path);
                }
            }
        }
        found
    }
}

/// The tokens of a file without items that only tests see.
fn without_tests(tokens: TokenStream) -> Vec<TokenTree> {
    let mut kept: Vec<TokenTree> = vec![];
    let mut tokens = tokens.into_iter();
    while let Some(token) = tokens.next() {
        if token.to_string() == "[cfg (test)]" || token.to_string() == "[cfg(test)]" {
            kept.pop(); // the `#`
            let mut before = String::new();
            for token in tokens.by_ref() {
                let ends = match &token {
                    TokenTree::Group(group) => {
                        group.delimiter() == Delimiter::Brace && before != ":"
                    }
                    other => other.to_string() == ";",
                };
                before = token.to_string();
                if ends {
                    break;
                }
            }
            continue;
        }
        kept.push(token);
    }
    kept
}

/// All paths in these tokens that begin with a name and go on with `::`, with the groups of `use` unfolded.
fn paths(tokens: &[TokenTree]) -> Vec<Vec<String>> {
    let mut found = vec![];
    let mut inside_path = false;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Ident(_) if !inside_path => {
                found.extend(
                    tree(&tokens[at..])
                        .into_iter()
                        .filter(|path| !path.is_empty()),
                );
            }
            TokenTree::Group(group) if !inside_path => {
                found.extend(paths(&group.stream().into_iter().collect::<Vec<_>>()));
            }
            _ => {}
        }
        inside_path = token.to_string() == ":" && at > 0 && tokens[at - 1].to_string() == ":";
    }
    found
}

/// The paths of a tree as `use` has it, from its first name on.
fn tree(tokens: &[TokenTree]) -> Vec<Vec<String>> {
    match tokens.first() {
        Some(TokenTree::Ident(name)) if name == "self" && tokens.len() == 1 => vec![vec![]],
        Some(TokenTree::Ident(name)) => {
            let goes_on =
                tokens.len() > 3 && tokens[1].to_string() + &tokens[2].to_string() == "::";
            let mut rest = if goes_on { tree(&tokens[3..]) } else { vec![] };
            if rest.is_empty() {
                rest.push(vec![]);
            }
            for path in &mut rest {
                path.insert(0, name.to_string());
            }
            rest
        }
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
            let inner: Vec<_> = group.stream().into_iter().collect();
            inner
                .split(|token| token.to_string() == ",")
                .flat_map(tree)
                .collect()
        }
        _ => vec![],
    }
}

/// Every file of this crate but those that only tests see.
fn files() -> Vec<SourceFile> {
    fn walk(folder: &Path, to: &mut Vec<std::path::PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, to);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                to.push(path);
            }
        }
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = vec![];
    walk(&source, &mut found);
    let is_tests = |path: &Path| {
        let inside = path.strip_prefix(&source).unwrap();
        inside.starts_with("simulation")
            || path.ends_with("tests.rs")
            || inside == Path::new("module_order.rs")
    };
    let mut files: Vec<_> = found
        .iter()
        .filter(|path| !is_tests(path))
        .map(|path| SourceFile::read(&source, path))
        .collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// The modules from the ground up: the names in the list of `lib.rs`.
fn order() -> Vec<String> {
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    let text = fs::read_to_string(lib).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("//! - "));
    let names = lines.flat_map(|line| line.split(':').next().unwrap().split(", "));
    names
        .map(|name| name.trim_matches(['[', ']', '`']).to_owned())
        .collect()
}

/// The imports of every file: which file, which other file of this crate, and the path by which it names that.
fn imports(files: &[SourceFile]) -> Vec<(&SourceFile, &SourceFile, String)> {
    let by_module: BTreeMap<&[String], &SourceFile> =
        files.iter().map(|file| (&file.module[..], file)).collect();
    let passed_on: BTreeMap<&[String], _> = files
        .iter()
        .map(|file| (&file.module[..], file.passes_on()))
        .collect();
    let mut found = vec![];
    for file in files {
        let children: BTreeSet<&str> = files
            .iter()
            .filter_map(|other| match other.module.strip_prefix(&file.module[..])? {
                [child] => Some(child.as_str()),
                _ => None,
            })
            .collect();
        for path in file.own_paths(&children) {
            let mut path = path;
            let mut target = None;
            // A name that a parent passes on is that of the child.
            loop {
                let module = (0..=path.len())
                    .rev()
                    .map(|end| &path[..end])
                    .find(|module| by_module.contains_key(module));
                let Some(module) = module else { break };
                target = Some(by_module[module]);
                let item = path.get(module.len());
                match item.and_then(|item| passed_on[module].get(item)) {
                    Some(child) if *child != path => path.clone_from(child),
                    _ => break,
                }
            }
            if let Some(target) = target.filter(|target| target.module != file.module) {
                found.push((file, target, path.join("::")));
            }
        }
    }
    found
}

#[test]
fn modules_import_downwards_only() {
    let order = order();
    let level = |module: &[String]| {
        let name = module.first()?;
        let level = order.iter().position(|listed| listed == name);
        Some(level.unwrap_or_else(|| panic!("lib.rs does not list the module `{name}`")))
    };
    let files = files();
    let upwards: Vec<String> = imports(&files)
        .into_iter()
        .filter(|(file, ..)| file.path != "main.rs")
        .filter(|(file, target, _)| level(&target.module) > level(&file.module))
        .map(|(file, _, path)| format!("src/{} imports crate::{path}", file.path))
        .collect();
    assert!(upwards.is_empty(), "upwards:\n{}", upwards.join("\n"));
}

#[test]
fn no_files_import_each_other() {
    let files = files();
    let imports = imports(&files);
    let mut next: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
    for (file, target, path) in &imports {
        let targets = next.entry(&file.path).or_default();
        targets.insert(&target.path, path);
    }
    // All files that can be reached from one.
    let reach = |from: &str| {
        let mut reached = BTreeSet::new();
        let mut open = vec![from];
        while let Some(file) = open.pop() {
            for target in next.get(file).into_iter().flat_map(BTreeMap::keys) {
                if reached.insert(*target) {
                    open.push(target);
                }
            }
        }
        reached
    };
    let mut circles = vec![];
    for (file, targets) in &next {
        for (target, path) in targets {
            if reach(target).contains(file) {
                circles.push(format!(
                    "src/{file} imports crate::{path}, which leads back"
                ));
            }
        }
    }
    assert!(circles.is_empty(), "circles:\n{}", circles.join("\n"));
}

#[test]
fn a_file_that_does_io_says_so_in_its_first_line() {
    let fence = Path::new(env!("CARGO_MANIFEST_DIR")).join("clippy.toml");
    let fence = fs::read_to_string(fence).unwrap();
    let denied: BTreeSet<&str> = fence
        .lines()
        .filter_map(|line| line.split("path = \"").nth(1)?.split('"').next())
        .collect();
    assert!(denied.contains("kube::Client"), "{denied:?}");
    let mut silent = vec![];
    for file in files() {
        let io = paths(&file.tokens)
            .into_iter()
            .map(|path| path.join("::"))
            .find(|path| denied.contains(&**path));
        if let Some(io) = io.filter(|_| !file.first_line.starts_with("#![expect(")) {
            silent.push(format!("src/{} imports {io}", file.path));
        }
    }
    assert!(silent.is_empty(), "not declared:\n{}", silent.join("\n"));
}
