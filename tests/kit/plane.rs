//! A real control plane on loopback: etcd, kube-apiserver, kube-controller-manager, kube-scheduler.
//!
//! Ready in a few seconds, gone when dropped. The API server can be killed and started again on the same
//! port and data, which is also the simplest way to make watches expire.

use crate::{
    http1,
    pki::{self, Pki},
    ports::Port,
    process::{Process, RunDirectory, tail},
};
use anyhow::{Context, Result, bail, ensure};
use futures::FutureExt;
use k8s_openapi::api::{authentication::v1::TokenRequest, core::v1::ServiceAccount};
use kube::{
    Api, Client, Config,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use kube_assets::Assets;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard},
    time::Duration,
};
use tokio::io::AsyncWriteExt;

/// Every controller a workload needs, and no more: node-lifecycle-controller is left out, so the fake kubelet
/// owes no heartbeat and takes the not-ready taint off itself.
const CONTROLLERS: [&str; 11] = [
    "deployment-controller",
    "replicaset-controller",
    "replicationcontroller-controller",
    "statefulset-controller",
    "daemonset-controller",
    "job-controller",
    "cronjob-controller",
    "namespace-controller",
    "garbage-collector-controller",
    "serviceaccount-controller",
    "root-ca-certificate-publisher-controller",
];

/// Who asked what, without bodies: enough to count calls and to prove the RBAC minimal.
const AUDIT_POLICY: &str = r#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [{"level": "Metadata"}]}"#;

/// A reserved port makes a clash unlikely, not impossible.
const ATTEMPTS: u32 = 3;

/// How to start a [`Plane`].
#[derive(Clone, Debug)]
pub struct PlaneOptions {
    /// Writes an audit log, see [`Plane::audit_log`].
    pub audit: bool,
    /// Further flags of kube-apiserver.
    pub apiserver_args: Vec<String>,
    /// Controllers to run besides those workloads need.
    pub controllers: Vec<String>,
    /// How long the start may take; building the programs does not count.
    pub timeout: Duration,
}

impl Default for PlaneOptions {
    fn default() -> Self {
        PlaneOptions {
            audit: false,
            apiserver_args: Vec::new(),
            controllers: Vec::new(),
            timeout: Duration::from_secs(90),
        }
    }
}

/// A running control plane. Dropping it kills its processes and removes its data.
#[derive(Debug)]
pub struct Plane {
    // First, so that they are dead before their files go.
    processes: Mutex<Processes>,
    assets: Assets,
    options: PlaneOptions,
    ports: Ports,
    directory: RunDirectory,
}

#[derive(Debug, Default)]
struct Processes {
    etcd: Option<Process>,
    apiserver: Option<Process>,
    others: Vec<Process>,
}

impl Processes {
    fn still_run(&mut self) -> Result<()> {
        self.etcd
            .iter_mut()
            .chain(&mut self.apiserver)
            .chain(&mut self.others)
            .try_for_each(Process::still_runs)
    }
}

#[derive(Debug)]
struct Ports {
    etcd: Port,
    etcd_peers: Port,
    apiserver: Port,
}

impl Plane {
    /// Starts a plane and waits until it takes requests and its controllers work.
    pub async fn start(options: PlaneOptions) -> Result<Self> {
        let assets = tokio::task::spawn_blocking(kube_assets::find).await??;
        for attempt in 1.. {
            let plane = Plane::prepare(&assets, &options)?;
            let error = match tokio::time::timeout(options.timeout, plane.launch()).await {
                Ok(Ok(())) => return Ok(plane),
                Ok(Err(error)) => error,
                Err(_) => anyhow::anyhow!(
                    "the control plane was not ready in {:?}\n{}",
                    options.timeout,
                    plane.logs()
                ),
            };
            if attempt == ATTEMPTS || !format!("{error:#}").contains("address already in use") {
                return Err(error);
            }
        }
        bail!("no attempt to start the control plane was made")
    }

    fn prepare(assets: &Assets, options: &PlaneOptions) -> Result<Self> {
        let ports = Ports {
            etcd: Port::reserve()?,
            etcd_peers: Port::reserve()?,
            apiserver: Port::reserve()?,
        };
        let plane = Plane {
            processes: Mutex::default(),
            assets: assets.clone(),
            options: options.clone(),
            ports,
            directory: RunDirectory::create()?,
        };
        let directory = plane.directory.path();
        let pki = Pki::new("shipbell-test-ca")?;
        fs::write(plane.path("ca.crt"), pki.ca_pem())?;
        pki.server(&[
            "localhost",
            "kubernetes.default.svc",
            "127.0.0.1",
            "10.0.0.1",
        ])?
        .write(directory, "apiserver")?;
        pki::write_token_keys(directory)?;
        for (name, user, group) in [
            ("admin", "test-admin", Some("system:masters")),
            ("kcm", "system:kube-controller-manager", None),
            ("scheduler", "system:kube-scheduler", None),
        ] {
            pki.client(user, group)?.write(directory, name)?;
            let user = json!({
                "client-certificate": plane.path(&format!("{name}.crt")),
                "client-key": plane.path(&format!("{name}.key")),
            });
            plane.write_kubeconfig(name, &user)?;
        }
        fs::write(plane.path("audit-policy.json"), AUDIT_POLICY)?;
        Ok(plane)
    }

    async fn launch(&self) -> Result<()> {
        let etcd = self.spawn("etcd", &self.assets.etcd, self.etcd_args())?;
        self.processes().etcd = Some(etcd);
        // At once: the API server waits for etcd by itself. The others exit if it is not there yet.
        self.start_apiserver().await?;
        let others = [
            self.spawn(
                "kube-controller-manager",
                &self.assets.kube_controller_manager,
                self.kcm_args(),
            )?,
            self.spawn(
                "kube-scheduler",
                &self.assets.kube_scheduler,
                self.scheduler_args(),
            )?,
        ];
        self.processes().others.extend(others);
        // The one sign that controllers work. Pods of a namespace are refused until it is there.
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin(), "default");
        while accounts.get_opt("default").await?.is_none() {
            self.processes().still_run()?;
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        Ok(())
    }

    fn etcd_args(&self) -> Vec<String> {
        let clients = format!("http://{}", self.ports.etcd.address());
        let peers = format!("http://{}", self.ports.etcd_peers.address());
        vec![
            format!("--data-dir={}", self.path("etcd").display()),
            format!("--listen-client-urls={clients}"),
            format!("--advertise-client-urls={clients}"),
            format!("--listen-peer-urls={peers}"),
            format!("--initial-advertise-peer-urls={peers}"),
            format!("--initial-cluster=default={peers}"),
            "--unsafe-no-fsync".to_owned(),
            "--log-level=error".to_owned(),
        ]
    }

    fn apiserver_args(&self) -> Vec<String> {
        let file = |name: &str| self.path(name).display().to_string();
        let mut args = vec![
            format!("--etcd-servers=http://{}", self.ports.etcd.address()),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.ports.apiserver.number()),
            // Else it complains about an endpoint on loopback.
            "--endpoint-reconciler-type=none".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--tls-cert-file={}", file("apiserver.crt")),
            format!("--tls-private-key-file={}", file("apiserver.key")),
            format!("--service-account-issuer={}", self.url()),
            format!("--service-account-key-file={}", file("sa.pub")),
            format!("--service-account-signing-key-file={}", file("sa.key")),
            "--allow-privileged=true".to_owned(),
            "--profiling=false".to_owned(),
        ];
        if self.options.audit {
            args.push(format!("--audit-policy-file={}", file("audit-policy.json")));
            args.push(format!("--audit-log-path={}", file("audit.jsonl")));
        }
        args.extend(self.options.apiserver_args.iter().cloned());
        args
    }

    fn kcm_args(&self) -> Vec<String> {
        let controllers: Vec<_> = CONTROLLERS
            .into_iter()
            .chain(self.options.controllers.iter().map(String::as_str))
            .collect();
        vec![
            format!("--kubeconfig={}", self.kubeconfig_path("kcm").display()),
            "--leader-elect=false".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            "--secure-port=0".to_owned(),
            "--use-service-account-credentials=true".to_owned(),
            format!(
                "--service-account-private-key-file={}",
                self.path("sa.key").display()
            ),
            format!("--root-ca-file={}", self.path("ca.crt").display()),
            // The default of 20 costs five seconds before the first ServiceAccount.
            "--kube-api-qps=500".to_owned(),
            "--kube-api-burst=1000".to_owned(),
            format!("--controllers={}", controllers.join(",")),
        ]
    }

    fn scheduler_args(&self) -> Vec<String> {
        vec![
            format!(
                "--kubeconfig={}",
                self.kubeconfig_path("scheduler").display()
            ),
            "--leader-elect=false".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            "--secure-port=0".to_owned(),
            "--kube-api-qps=500".to_owned(),
            "--kube-api-burst=1000".to_owned(),
        ]
    }

    /// A client that may do everything.
    ///
    /// Each call makes a new one: a client's connections belong to the runtime that made them, and must not
    /// be shared between tests that have a runtime each.
    pub fn admin(&self) -> Client {
        client(&self.admin_kubeconfig_json(), true)
            .expect("the kit's own certificate makes a client")
    }

    pub(crate) fn admin_kubeconfig_json(&self) -> Value {
        self.kubeconfig(&json!({
            "client-certificate": self.path("admin.crt"),
            "client-key": self.path("admin.key"),
        }))
    }

    /// A client that is known by a bearer token.
    pub fn client_for_token(&self, token: &str) -> Result<Client> {
        client(&self.kubeconfig(&json!({"token": token})), true)
    }

    /// The administrator's kubeconfig, a file kubectl can use.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.kubeconfig_path("admin")
    }

    /// Writes a kubeconfig for a bearer token, called `name`.
    pub fn kubeconfig_for_token(&self, token: &str, name: &str) -> Result<PathBuf> {
        self.write_kubeconfig(name, &json!({"token": token}))
    }

    /// A token of a service account, good for an hour.
    pub async fn service_account_token(&self, namespace: &str, name: &str) -> Result<String> {
        self.token_for_audience(namespace, name, None).await
    }

    /// A token of a service account for this audience; `None`: the API server's.
    pub async fn token_for_audience(
        &self,
        namespace: &str,
        name: &str,
        audience: Option<&str>,
    ) -> Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin(), namespace);
        let audiences: Vec<_> = audience.into_iter().collect();
        let spec = json!({"audiences": audiences, "expirationSeconds": 3600});
        let request: TokenRequest = serde_json::from_value(json!({"spec": spec}))?;
        let answer = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await?;
        answer
            .status
            .and_then(|status| status.token)
            .context("a token request without an answer")
    }

    /// Writes a kubeconfig for a service account: how the operator gets the rights of its chart, no more.
    pub async fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        let token = self.service_account_token(namespace, name).await?;
        self.kubeconfig_for_token(&token, &format!("sa-{namespace}-{name}"))
    }

    /// Runs kubectl as the administrator and returns what it printed.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.kubectl_with_input(args, "").await
    }

    /// Like [`Plane::kubectl`], with something to read.
    pub async fn kubectl_with_input(&self, args: &[&str], input: &str) -> Result<String> {
        match self.run_kubectl(args, input).await? {
            Ok(printed) => Ok(printed),
            Err(complaint) => bail!("kubectl {} failed:\n{complaint}", args.join(" ")),
        }
    }

    /// Runs a kubectl that must fail and returns what it complained of.
    pub async fn kubectl_fails(&self, args: &[&str], input: &str) -> Result<String> {
        match self.run_kubectl(args, input).await? {
            Ok(printed) => bail!(
                "kubectl {} should have failed, but printed:\n{printed}",
                args.join(" ")
            ),
            Err(complaint) => Ok(complaint),
        }
    }

    async fn run_kubectl(&self, args: &[&str], input: &str) -> Result<Result<String, String>> {
        let mut child = tokio::process::Command::new(&self.assets.kubectl)
            .arg(format!(
                "--kubeconfig={}",
                self.admin_kubeconfig().display()
            ))
            .arg(format!(
                "--cache-dir={}",
                self.path("kubectl-cache").display()
            ))
            .args(args)
            .env_remove("KUBECONFIG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot run kubectl")?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that reads nothing closes the pipe, and that is its right.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        let output = child.wait_with_output().await?;
        Ok(if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        })
    }

    /// The kubectl the plane came with.
    pub fn kubectl_path(&self) -> &Path {
        &self.assets.kubectl
    }

    /// SIGKILLs the API server. Watches end, and what they had seen has expired when it is back.
    pub fn kill_apiserver(&self) {
        self.processes().apiserver = None;
    }

    /// Starts the API server, on its port and data of before, and waits until it is ready.
    pub async fn start_apiserver(&self) -> Result<()> {
        let apiserver = self.spawn(
            "kube-apiserver",
            &self.assets.kube_apiserver,
            self.apiserver_args(),
        )?;
        self.processes().apiserver = Some(apiserver);
        let admin = self.admin();
        loop {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            // A request that hangs must not keep a dead process from being seen.
            let answer = tokio::time::timeout(Duration::from_secs(5), admin.request_text(request));
            if answer
                .await
                .is_ok_and(|answer| answer.is_ok_and(|text| text == "ok"))
            {
                return Ok(());
            }
            self.processes().still_run()?;
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// Stops the API server where it is (SIGSTOP): connections stay open and nothing is answered.
    pub fn pause_apiserver(&self) -> Result<()> {
        self.signal_apiserver("STOP")
    }

    /// Lets a paused API server go on.
    pub fn resume_apiserver(&self) -> Result<()> {
        self.signal_apiserver("CONT")
    }

    fn signal_apiserver(&self, signal: &str) -> Result<()> {
        let mut processes = self.processes();
        let apiserver = processes
            .apiserver
            .as_mut()
            .context("the API server does not run")?;
        apiserver.signal(signal)
    }

    /// Compacts etcd up to now: lists of older versions answer 410.
    pub async fn compact_etcd(&self) -> Result<()> {
        let etcd = self.ports.etcd.address();
        // Any key will do: the answer's header has the revision. "AA==" is the key \0.
        let (status, answer) =
            http1::request(etcd, "POST", "/v3/kv/range", r#"{"key":"AA=="}"#).await?;
        ensure!(status == 200, "etcd answered {status}: {answer}");
        let answer: Value = serde_json::from_str(&answer)?;
        let compaction =
            json!({"revision": answer["header"]["revision"], "physical": true}).to_string();
        let (status, answer) =
            http1::request(etcd, "POST", "/v3/kv/compaction", &compaction).await?;
        ensure!(status == 200, "etcd answered {status}: {answer}");
        Ok(())
    }

    /// SIGKILLs all programs; the data stays.
    pub fn stop(&self) {
        *self.processes() = Processes::default();
    }

    /// Starts all programs again, on the ports of before and the data that is there.
    pub async fn start_again(&self) -> Result<()> {
        self.launch().await
    }

    /// Copies what etcd holds, under a name. The plane must be stopped.
    pub fn save_store(&self, name: &str) -> Result<()> {
        copy_directory(&self.path("etcd"), &self.path(name))
    }

    /// Puts a copy of [`Plane::save_store`] back. The plane must be stopped.
    pub fn put_store_back(&self, name: &str) -> Result<()> {
        fs::remove_dir_all(self.path("etcd"))?;
        copy_directory(&self.path(name), &self.path("etcd"))
    }

    /// Stops for good and removes the data: for a plane that is never dropped.
    pub fn discard(&self) {
        self.stop();
        let _ = fs::remove_dir_all(self.path("etcd"));
    }

    /// The audit log, one JSON object a line, if [`PlaneOptions::audit`] asked for one.
    pub fn audit_log(&self) -> PathBuf {
        self.path("audit.jsonl")
    }

    /// Where the API server listens.
    pub fn url(&self) -> String {
        format!("https://{}", self.ports.apiserver.address())
    }

    /// A directory for whatever a test writes; it goes with the plane.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn spawn(&self, name: &str, program: &Path, args: Vec<String>) -> Result<Process> {
        let mut command = Command::new(program);
        command.args(args);
        Process::spawn(name, command, &self.path(&format!("{name}.log")))
    }

    pub(crate) fn kubeconfig(&self, user: &Value) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": self.url(),
                "certificate-authority": self.path("ca.crt"),
            }}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        })
    }

    fn write_kubeconfig(&self, name: &str, user: &Value) -> Result<PathBuf> {
        let path = self.kubeconfig_path(name);
        fs::write(&path, self.kubeconfig(user).to_string())?;
        Ok(path)
    }

    fn kubeconfig_path(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.kubeconfig"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The ends of all logs.
    fn logs(&self) -> String {
        [
            "etcd",
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
        ]
        .map(|name| format!("--- {name}\n{}", tail(&self.path(&format!("{name}.log")))))
        .join("\n")
    }

    fn processes(&self) -> MutexGuard<'_, Processes> {
        self.processes
            .lock()
            .expect("nobody panics while holding the processes")
    }
}

fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_directory(&from, &to)?;
        } else {
            fs::copy(from, to)?;
        }
    }
    // etcd wants its directory for itself.
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    Ok(())
}

/// `patient`: asks again when the API server asks for it.
pub(crate) fn client(kubeconfig: &Value, patient: bool) -> Result<Client> {
    let kubeconfig: Kubeconfig = serde_json::from_value(kubeconfig.clone())?;
    // Async by its type only: it reads files at once. So a client can be had wherever a test stands.
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .now_or_never()
        .context("kube now waits when it reads a kubeconfig")??;
    // No proxy of the caller's: the plane is on loopback.
    config.proxy_url = None;
    config.default_retry = patient;
    Ok(Client::try_from(config)?)
}
