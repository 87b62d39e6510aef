//! Where the control plane's programs come from.
//!
//! Nobody offers one download with etcd, kube-apiserver, kube-controller-manager and kube-scheduler in it,
//! so, in this order: what the environment names, what an earlier run cached, a build from the Go module in
//! `tests/kube`. Without any of them the error lists every way to get a plane and every place looked at.

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use std::{
    env,
    fmt::Write as _,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// The five programs' file names.
pub const PROGRAMS: [&str; 5] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
];

/// The Kubernetes version `tests/kube/go.mod` pins.
pub const KUBERNETES_VERSION: &str = "v1.36.2";

/// The newest release of the oldest minor version that the chart's `kubeVersion` admits, and the sum of its module.
pub const OLDEST_KUBERNETES: &str = "v1.30.14";
const OLDEST_KUBERNETES_SUM: &str = "h1:MrlKXh9uhLIJpyxOeXhcndzRVSvwiV9iJ8NgH8nqPsg=";
const OPENAPI: &str = "oldest-openapi.json";

/// helm's package. It is a tool of the same module: in one of its own, the Kubernetes packages that it shares with
/// the control plane would be compiled a second time.
const HELM: &str = "helm.sh/helm/v3/cmd/helm";
/// The oldest Go, as 1.x, that `tests/kube/go.mod` builds with.
const OLDEST_GO: u32 = 26;
const SAY_EVERY: Duration = Duration::from_secs(10);

/// The programs of a control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assets {
    /// etcd.
    pub etcd: PathBuf,
    /// kube-apiserver.
    pub kube_apiserver: PathBuf,
    /// kube-controller-manager.
    pub kube_controller_manager: PathBuf,
    /// kube-scheduler.
    pub kube_scheduler: PathBuf,
    /// kubectl.
    pub kubectl: PathBuf,
}

impl Assets {
    /// Asks `path` where each program is; the first that is not a file is the error.
    fn gather(path: impl Fn(&str) -> Option<PathBuf>) -> Result<Self, &'static str> {
        let mut paths = PROGRAMS
            .into_iter()
            .map(|program| path(program).filter(|path| path.is_file()).ok_or(program));
        let mut next = || paths.next().unwrap_or(Err("more programs"));
        Ok(Assets {
            etcd: next()?,
            kube_apiserver: next()?,
            kube_controller_manager: next()?,
            kube_scheduler: next()?,
            kubectl: next()?,
        })
    }

    fn in_directory(directory: &Path) -> Result<Self, &'static str> {
        Self::gather(|program| Some(directory.join(program)))
    }
}

/// Finds the programs, or builds them, which takes minutes the first time. Blocks.
pub fn find() -> Result<Assets> {
    let mut looked = Vec::new();
    match in_environment(|name| env::var_os(name).map(PathBuf::from)) {
        Ok(assets) => return Ok(assets),
        Err(miss) => {
            // Not silently: whoever set them thinks that they count.
            if miss.contains("incomplete") {
                eprintln!("kube-assets: {miss}");
            }
            looked.push(miss);
        }
    }
    let module = module();
    let whole = |directory: &Path| Assets::in_directory(directory).ok();
    let make = |into: &Path| build_plane(&module, into);
    let found = cached_or_built("kube", &recipe(&module), &mut looked, whole, make)?;
    found.with_context(|| no_plane(&looked))
}

/// What the cache holds under this name, built if need be. `None`, and `looked` says why, if there is no Go to build it with.
fn cached_or_built<T>(
    name: &str,
    recipe: &str,
    looked: &mut Vec<String>,
    whole: impl Fn(&Path) -> Option<T>,
    make: impl Fn(&Path) -> Result<()>,
) -> Result<Option<T>> {
    let root = cache()?.join(name);
    let go = go_version();
    match cached(&root, recipe, go.as_deref(), &whole) {
        Ok(found) => return Ok(Some(found)),
        Err(miss) => looked.push(miss),
    }
    match fit_go(go) {
        Ok(go) => {
            let complete = |directory: &Path| whole(directory).is_some();
            let directory = build(&root, recipe, &go, complete, make)?;
            Ok(whole(&directory))
        }
        Err(miss) => {
            looked.push(miss);
            Ok(None)
        }
    }
}

/// A program with one package of its own.
struct Tool {
    name: &'static str,
    package: &'static str,
    /// Names the program if it is there already.
    variable: &'static str,
}

/// Finds helm, or builds it. Blocks.
pub fn helm() -> Result<PathBuf> {
    let helm = Tool {
        name: "helm",
        package: HELM,
        variable: "TEST_ASSET_HELM",
    };
    find_tool(&helm, &module())
}

/// Finds helm-unittest, which judges the chart's templates, or builds it. Blocks.
pub fn helm_unittest() -> Result<PathBuf> {
    let tool = Tool {
        name: "helm-unittest",
        package: "github.com/helm-unittest/helm-unittest/cmd/helm-unittest",
        variable: "TEST_ASSET_HELM_UNITTEST",
    };
    find_tool(&tool, &chart_module())
}

/// Finds kubeconform, which judges objects by the schemas of their kinds, or builds it. Blocks.
pub fn kubeconform() -> Result<PathBuf> {
    let tool = Tool {
        name: "kubeconform",
        package: "github.com/yannh/kubeconform/cmd/kubeconform",
        variable: "TEST_ASSET_KUBECONFORM",
    };
    find_tool(&tool, &chart_module())
}

/// Finds the program that reads PromQL with the parser of Prometheus, or builds it. Blocks.
pub fn promql() -> Result<PathBuf> {
    let tool = Tool {
        name: "promql",
        package: "shipbell.dev/tests/promql",
        variable: "TEST_ASSET_PROMQL",
    };
    find_tool(&tool, &module_beside("promql"))
}

fn find_tool(tool: &Tool, module: &Path) -> Result<PathBuf> {
    let make = |into: &Path| {
        let mut command = go_build(module, "-s -w", into);
        command.arg(tool.package);
        run(&format!("building {}", tool.name), command, into).map(drop)
    };
    let from = format!("built from {}", module.display());
    find_file(tool.name, tool.variable, &recipe(module), &from, make)
}

/// Finds the description of the API of the oldest Kubernetes that the chart admits, or downloads it. Blocks.
pub fn oldest_openapi() -> Result<PathBuf> {
    let make = |into: &Path| {
        let module = format!("k8s.io/kubernetes@{OLDEST_KUBERNETES}");
        let mut go = go_command();
        go.current_dir(into)
            .args(["mod", "download", "-json", &module]);
        let said = run(&format!("downloading {module}"), go, into)?;
        let field = |name: &str| {
            let rest = said.split_once(&format!("\"{name}\": \""))?.1;
            rest.split('"').next()
        };
        let (directory, sum) = (field("Dir"), field("Sum"));
        ensure!(
            sum == Some(OLDEST_KUBERNETES_SUM),
            "{module} has the sum {sum:?}"
        );
        let description =
            Path::new(directory.context("no directory")?).join("api/openapi-spec/swagger.json");
        fs::copy(&description, into.join(OPENAPI))
            .with_context(|| format!("no {}", description.display()))?;
        Ok(())
    };
    let recipe = hash(&[
        OLDEST_KUBERNETES.as_bytes(),
        OLDEST_KUBERNETES_SUM.as_bytes(),
    ]);
    let from = format!("downloaded as a module, {OLDEST_KUBERNETES}");
    find_file(OPENAPI, "TEST_ASSET_OPENAPI", &recipe, &from, make)
}

/// Finds a file: what the variable names, else what the cache holds, made if need be.
fn find_file(
    name: &str,
    variable: &str,
    recipe: &str,
    from: &str,
    make: impl Fn(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let mut looked = Vec::new();
    match env::var_os(variable).map(PathBuf::from) {
        Some(file) if file.is_file() => return Ok(file),
        Some(file) => looked.push(format!("{variable}: no file {}", file.display())),
        None => looked.push(format!("{variable}: not set")),
    }
    let whole = |directory: &Path| Some(directory.join(name)).filter(|file| file.is_file());
    let found = cached_or_built(name, recipe, &mut looked, whole, make)?;
    found.with_context(|| {
        format!(
            "No {name}.\n\nTo get one, either\n  - put Go 1.{OLDEST_GO} or newer on PATH: it is then {from}, or\n  \
             - set {variable} to such a file.\n\nLooked at\n  - {}",
            looked.join("\n  - ")
        )
    })
}

/// The variables that controller-runtime's envtest reads, plus two it has no need of.
fn in_environment(var: impl Fn(&str) -> Option<PathBuf>) -> Result<Assets, String> {
    let directory = var("KUBEBUILDER_ASSETS");
    let named = |program: &str| {
        let name = program.to_uppercase().replace('-', "_");
        var(&format!("TEST_ASSET_{name}"))
    };
    if directory.is_none() && PROGRAMS.iter().all(|program| named(program).is_none()) {
        return Err("TEST_ASSET_*, KUBEBUILDER_ASSETS: not set".to_owned());
    }
    Assets::gather(|program| {
        named(program).or_else(|| directory.as_ref().map(|directory| directory.join(program)))
    })
    .map_err(|program| {
        format!("TEST_ASSET_*, KUBEBUILDER_ASSETS: incomplete, so left aside (no {program})")
    })
}

/// What an earlier run left. Without Go the key is unknown, so any directory of the same recipe will do.
fn cached<T>(
    root: &Path,
    recipe: &str,
    go: Option<&str>,
    look: impl Fn(&Path) -> Option<T>,
) -> Result<T, String> {
    if let Some(go) = go {
        let directory = root.join(key(recipe, go));
        return look(&directory)
            .ok_or_else(|| format!("the cache {}: nothing there", directory.display()));
    }
    fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| fs::read_to_string(path.join("recipe")).is_ok_and(|it| it == recipe))
        .find_map(|path| look(&path))
        .ok_or_else(|| {
            format!(
                "the cache {}: nothing of this version there",
                root.display()
            )
        })
}

/// Builds into a directory beside the target and renames it, so that the target is complete or absent, under
/// a lock, so that of two runs one builds and the other waits.
fn build(
    root: &Path,
    recipe: &str,
    go: &str,
    complete: impl Fn(&Path) -> bool,
    make: impl Fn(&Path) -> Result<()>,
) -> Result<PathBuf> {
    fs::create_dir_all(root).with_context(|| format!("cannot create {}", root.display()))?;
    let key = key(recipe, go);
    let target = root.join(&key);
    let lock = File::create(root.join(format!("{key}.lock")))?;
    let mut ticker = Ticker::new("waiting for another run's build");
    while let Err(error) = lock.try_lock() {
        if let TryLockError::Error(error) = error {
            return Err(error).context("the cache directory's file system has no locks");
        }
        ticker.tick();
        thread::sleep(Duration::from_millis(200));
    }
    if complete(&target) {
        return Ok(target);
    }
    let building = root.join(format!("{key}.building"));
    let _ = fs::remove_dir_all(&building);
    fs::create_dir_all(&building)?;
    make(&building)?;
    fs::write(building.join("recipe"), recipe)?;
    ensure!(
        complete(&building),
        "the build left an incomplete {}",
        building.display()
    );
    let _ = fs::remove_dir_all(&target);
    fs::rename(&building, &target)?;
    Ok(target)
}

fn build_plane(module: &Path, into: &Path) -> Result<()> {
    eprintln!(
        "kube-assets: building Kubernetes {KUBERNETES_VERSION} and etcd from {}; 5 to 10 minutes the first time",
        module.display()
    );
    // One `go build` for all: they share most packages, and where one is linked another is compiled. Tags are those of
    // Kubernetes' own build; grpcnotrace lets the linker drop a fifth.
    let mut plane = go_build(module, &ld_flags(), into);
    plane.args(
        PROGRAMS[1..]
            .iter()
            .map(|program| format!("k8s.io/kubernetes/cmd/{program}")),
    );
    plane.arg("go.etcd.io/etcd/server/v3");
    run(&format!("building {}", PROGRAMS.join(", ")), plane, into)?;
    // Go calls it after its package.
    fs::rename(into.join("server"), into.join("etcd")).context("the build left no etcd")
}

/// `go build` in the module, all but the packages. The same flags for all programs, so that what they share is compiled
/// once.
fn go_build(module: &Path, ld_flags: &str, output: &Path) -> Command {
    let mut go = go_command();
    go.current_dir(module)
        .args(["build", "-trimpath", TAGS, COMPILER, "-ldflags", ld_flags])
        .arg("-o")
        .arg(output);
    go
}

const TAGS: &str = "-tags=selinux,notest,grpcnotrace";

/// What debuggers need is left out by the linker: not to make it in the first place saves an eighth of the compiler's time.
/// Not to inline (`-l`) saves a sixth more; the tests don't notice that the programs are a little slower.
const COMPILER: &str = "-gcflags=all=-dwarf=false -l";

/// Without these, /version says v0.0.0 and neither helm nor version checks work.
fn ld_flags() -> String {
    let mut flags = "-s -w".to_owned();
    let mut parts = KUBERNETES_VERSION.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or("1"), parts.next().unwrap_or("0"));
    for package in [
        "k8s.io/component-base/version",
        "k8s.io/client-go/pkg/version",
    ] {
        let _ = write!(
            flags,
            " -X {package}.gitVersion={KUBERNETES_VERSION} -X {package}.gitMajor={major} \
             -X {package}.gitMinor={minor} -X {package}.gitTreeState=clean"
        );
    }
    flags
}

/// What the programs are built of, in short: a cached build of the same recipe is the same program.
fn recipe(module: &Path) -> String {
    let sum = fs::read(module.join("go.sum")).unwrap_or_default();
    let flags = format!("-trimpath {TAGS} {COMPILER} -ldflags {}", ld_flags());
    match fs::read(module.join("main.go")) {
        Ok(own) => hash(&[&sum, flags.as_bytes(), &own]),
        Err(_) => hash(&[&sum, flags.as_bytes()]),
    }
}

fn go_command() -> Command {
    let mut go = Command::new("go");
    // Static programs; this Go and no downloaded one; no flags or workspace of the caller's.
    go.env("CGO_ENABLED", "0")
        .env("GOTOOLCHAIN", "local")
        .env("GOWORK", "off")
        .env("GOFLAGS", "");
    go
}

fn go_version() -> Option<String> {
    let output = go_command()
        .arg("version")
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && version.starts_with("go version"))
        .then(|| version.trim().to_owned())
}

/// The Go to build with, or why there is none.
fn fit_go(version: Option<String>) -> Result<String, String> {
    match version {
        Some(version) if fit(&version) => Ok(version),
        Some(version) => Err(format!("Go on PATH is too old: {version}")),
        None => Err("no Go on PATH".to_owned()),
    }
}

/// Whether `go version go1.26.8 linux/amd64` is new enough.
fn fit(version: &str) -> bool {
    version
        .strip_prefix("go version go1.")
        .and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next())
        .and_then(|minor| minor.parse::<u32>().ok())
        .is_none_or(|minor| minor >= OLDEST_GO)
}

/// Runs a build, says at least every ten seconds that it runs, and returns what it printed, or shows that if it fails.
fn run(what: &str, mut command: Command, into: &Path) -> Result<String> {
    let log = into.with_extension("log");
    let file = File::create(&log)?;
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file);
    let mut ticker = Ticker::new(what);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        ticker.tick();
        thread::sleep(Duration::from_millis(100));
    };
    let printed = fs::read_to_string(&log).unwrap_or_default();
    ensure!(status.success(), "{what} failed ({status}):\n{printed}");
    let _ = fs::remove_file(&log);
    eprintln!(
        "kube-assets: {what} took {} s",
        ticker.since.elapsed().as_secs()
    );
    Ok(printed)
}

/// Says what takes so long, every ten seconds.
struct Ticker {
    what: String,
    since: Instant,
    said: Instant,
}

impl Ticker {
    fn new(what: &str) -> Self {
        let now = Instant::now();
        Ticker {
            what: what.to_owned(),
            since: now,
            said: now,
        }
    }

    fn tick(&mut self) {
        if self.said.elapsed() >= SAY_EVERY {
            self.said = Instant::now();
            eprintln!(
                "kube-assets: {}, {} s so far",
                self.what,
                self.since.elapsed().as_secs()
            );
        }
    }
}

fn no_plane(looked: &[String]) -> String {
    format!(
        "No Kubernetes control plane to test with.\n\n\
         To get one, either\n  \
         - put Go 1.{OLDEST_GO} or newer on PATH: it is then built from tests/kube, 5 to 10 minutes the first time, or\n  \
         - set KUBEBUILDER_ASSETS to a directory that holds {programs}, or\n  \
         - set TEST_ASSET_ETCD, TEST_ASSET_KUBE_APISERVER, TEST_ASSET_KUBE_CONTROLLER_MANAGER, \
         TEST_ASSET_KUBE_SCHEDULER and TEST_ASSET_KUBECTL to those programs, or\n  \
         - copy the cache directory of a machine that has one.\n\n\
         Looked at\n  - {places}",
        programs = PROGRAMS.join(", "),
        places = looked.join("\n  - "),
    )
}

/// `tests/chart`: what judges the chart. It is a module of its own, because each tool in `tests/kube` changes what the
/// control plane is built of.
fn chart_module() -> PathBuf {
    module_beside("chart")
}

fn module_beside(name: &str) -> PathBuf {
    let kube = module();
    kube.parent().unwrap_or(&kube).join(name)
}

/// `tests/kube`. Cargo says where the sources of the tests that run are now; what was true at compile time is the fallback.
fn module() -> PathBuf {
    env::var_os("CARGO_MANIFEST_DIR")
        .map(PathBuf::from)
        .and_then(|running| {
            [running.join("kube"), running]
                .into_iter()
                .find(|directory| directory.join("go.mod").is_file())
        })
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")))
}

fn cache() -> Result<PathBuf> {
    let base = env::var_os("XDG_CACHE_HOME")
        .filter(|directory| !directory.is_empty())
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set, so there is no cache directory")?;
    Ok(base.join("shipbell"))
}

fn key(recipe: &str, go: &str) -> String {
    hash(&[recipe.as_bytes(), go.as_bytes()])
}

/// 16 hex digits of the SHA-256 of the parts.
fn hash(parts: &[&[u8]]) -> String {
    let mut sha = Sha256::new();
    for part in parts {
        sha.update((part.len() as u64).to_be_bytes());
        sha.update(part);
    }
    sha.finalize()[..8]
        .iter()
        .fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory_with(programs: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for program in programs {
            fs::write(directory.path().join(program), "").unwrap();
        }
        directory
    }

    #[test]
    fn a_complete_directory_is_taken_from_the_environment() {
        let all = directory_with(&PROGRAMS);
        let found =
            in_environment(|name| (name == "KUBEBUILDER_ASSETS").then(|| all.path().to_owned()))
                .unwrap();
        assert_eq!(found.kubectl, all.path().join("kubectl"));
    }

    #[test]
    fn a_named_program_wins_over_the_directory() {
        let (all, other) = (directory_with(&PROGRAMS), directory_with(&["etcd"]));
        let found = in_environment(|name| match name {
            "KUBEBUILDER_ASSETS" => Some(all.path().to_owned()),
            "TEST_ASSET_ETCD" => Some(other.path().join("etcd")),
            _ => None,
        })
        .unwrap();
        assert_eq!(found.etcd, other.path().join("etcd"));
        assert_eq!(found.kube_apiserver, all.path().join("kube-apiserver"));
    }

    #[test]
    fn what_envtest_downloads_is_incomplete_and_says_so() {
        let some = directory_with(&["etcd", "kube-apiserver", "kubectl"]);
        let miss =
            in_environment(|name| (name == "KUBEBUILDER_ASSETS").then(|| some.path().to_owned()))
                .unwrap_err();
        assert!(
            miss.contains("incomplete") && miss.contains("no kube-controller-manager"),
            "{miss}"
        );
    }

    #[test]
    fn without_go_a_cached_build_of_the_same_recipe_will_do() {
        let root = tempfile::tempdir().unwrap();
        let made = root.path().join(key("ours", "go version go1.26.1"));
        fs::create_dir(&made).unwrap();
        fs::write(made.join("recipe"), "ours").unwrap();
        let look = |directory: &Path| Some(directory.to_owned());
        assert_eq!(cached(root.path(), "ours", None, look), Ok(made));
        assert!(cached(root.path(), "another", None, look).is_err());
    }

    #[test]
    fn a_failed_build_leaves_no_target_and_shows_what_was_printed() {
        let root = tempfile::tempdir().unwrap();
        let error = build(
            root.path(),
            "ours",
            "go",
            |_| false,
            |into| {
                let mut command = Command::new("sh");
                command.args(["-c", "echo out of cheese >&2; exit 3"]);
                run("it", command, into).map(drop)
            },
        )
        .unwrap_err();
        assert!(error.to_string().contains("out of cheese"), "{error:#}");
        assert!(!root.path().join(key("ours", "go")).exists());
    }

    #[test]
    fn the_version_is_the_one_the_go_module_pins() {
        let pins = fs::read_to_string(module().join("go.mod")).unwrap();
        assert!(pins.contains(&format!("k8s.io/kubernetes {KUBERNETES_VERSION}")));
    }

    #[test]
    fn an_old_go_does_not_fit() {
        assert!(fit("go version go1.26.8 linux/amd64"));
        assert!(fit("go version go1.27rc1 linux/amd64"));
        assert!(!fit("go version go1.19.8 linux/amd64"));
    }

    #[test]
    fn the_error_names_every_way_and_every_place() {
        let text = no_plane(&[
            "the cache /c: nothing there".to_owned(),
            "no Go on PATH".to_owned(),
        ]);
        for part in [
            "KUBEBUILDER_ASSETS",
            "TEST_ASSET_KUBECTL",
            "Go 1.26",
            "/c",
            "no Go on PATH",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }
}
