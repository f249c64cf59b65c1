//! A real S3-compatible server for tests: S3Proxy over a directory, from jars that Maven brings once. It checks signatures.
//!
//! What always holds: no server outlives the process that started it (a shell around Java kills it when its standard input
//! closes); its objects are files in a directory of the caller; what is missing on the machine is named with the command
//! that installs it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What a bare Debian machine needs.
const INSTALL: &str = "apt-get install openjdk-17-jre-headless maven";
/// The pom with the server's version.
const POM: &str = include_str!("../s3/pom.xml");
/// Longest start on a busy machine.
const START_WAIT: Duration = Duration::from_secs(90);
/// Its only bucket.
pub const BUCKET: &str = "state";
/// Key id it knows.
const KEY_ID: &str = "tidewatch-tests";
/// Secret of that key.
pub const SECRET: &str = "a-secret-of-these-tests-alone";

/// Runs `"$@"` until it ends or our standard input closes; then kills it.
const WATCHDOG: &str = r#"
exec 3<&0
"$@" </dev/null >>"$0/server.log" 2>&1 3<&- &
pid=$!
( cat <&3 >/dev/null; kill -9 $pid 2>/dev/null ) >/dev/null 2>&1 &
wait $pid
"#;

/// A running server. Dropping it kills it; its files stay.
pub struct Server {
    dir: PathBuf,
    lib: PathBuf,
    port: u16,
    watchdog: Option<Child>,
}

impl Server {
    /// Starts one whose buckets are folders in `dir`.
    pub fn start(dir: &Path) -> Result<Self> {
        let lib = bring_jars()?;
        fs::create_dir_all(dir.join("data").join(BUCKET))?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let lines = [
            format!("s3proxy.endpoint=http://127.0.0.1:{port}"),
            "s3proxy.authorization=aws-v2-or-v4".to_owned(),
            format!("s3proxy.identity={KEY_ID}"),
            format!("s3proxy.credential={SECRET}"),
            "jclouds.provider=filesystem-nio2".to_owned(),
            "jclouds.identity=unused".to_owned(),
            "jclouds.credential=unused".to_owned(),
            format!("jclouds.filesystem.basedir={}", dir.join("data").display()),
        ];
        fs::write(dir.join("s3proxy.conf"), lines.join("\n") + "\n")?;
        let mut server = Self { dir: dir.to_path_buf(), lib, port, watchdog: None };
        server.launch()?;
        Ok(server)
    }

    /// Starts it again on the same port with the same files and waits until it answers.
    pub fn launch(&mut self) -> Result<()> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(WATCHDOG).arg(&self.dir);
        command.args(["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]);
        command.arg("-cp").arg(format!("{}/*", self.lib.display())).arg("org.gaul.s3proxy.Main");
        command.arg("--properties").arg(self.dir.join("s3proxy.conf"));
        command.env("LOG_LEVEL", "warn").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut watchdog = command.spawn().context("starting sh")?;
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            if let Some(status) = watchdog.try_wait()? {
                let told = fs::read_to_string(self.dir.join("server.log")).unwrap_or_default();
                bail!("the S3 server ended, {status}; java may be missing: {INSTALL}\n{told}");
            }
            if began.elapsed() > START_WAIT {
                bail!("the S3 server does not answer");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.watchdog = Some(watchdog);
        Ok(())
    }

    /// Kills it with SIGKILL; files stay.
    pub fn kill(&mut self) {
        if let Some(mut watchdog) = self.watchdog.take() {
            drop(watchdog.stdin.take());
            drop(watchdog.wait());
        }
    }

    /// Where snapshots go.
    pub fn url(&self) -> String {
        format!("s3://{BUCKET}/tidewatch")
    }

    /// Variables of a process that uses it.
    pub fn variables(&self) -> Vec<(String, String)> {
        [
            ("AWS_ENDPOINT", format!("http://127.0.0.1:{}", self.port).as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", KEY_ID),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    /// Every object's file.
    pub fn objects(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut dirs = vec![self.dir.join("data").join(BUCKET)];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    dirs.push(path);
                } else if path.extension().is_some_and(|e| e == "snap") {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The jars, brought by Maven when they are not there; one process does it, the others wait.
fn bring_jars() -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    let cache = target.join("s3");
    fs::create_dir_all(&cache)?;
    let cache = cache.canonicalize()?;
    let lock = fs::File::create(cache.join("lock"))?;
    lock.lock()?;
    let (lib, brought) = (cache.join("lib"), cache.join("brought.pom"));
    if fs::read_to_string(&brought).is_ok_and(|pom| pom == POM) {
        return Ok(lib);
    }
    if lib.exists() {
        fs::remove_dir_all(&lib)?;
    }
    fs::write(cache.join("pom.xml"), POM)?;
    let mut command = Command::new("mvn");
    command.args(["-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime", "-f"]).arg(cache.join("pom.xml"));
    command.arg(format!("-DoutputDirectory={}", lib.display())).stdin(Stdio::null());
    let output = command.output().with_context(|| format!("Maven is missing, it brings the S3 server's jars: {INSTALL}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        bail!("Maven could not bring the S3 server's jars (is a repository reachable? {INSTALL}): {words}");
    }
    fs::write(&brought, POM)?;
    Ok(lib)
}
