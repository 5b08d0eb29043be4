//! A whole appliance of random weights in a folder, and its daemon: what the demo and the bench start from.

use crate::{
    checkout,
    checkpoint::{ClassifierOptions, DescriberOptions, Shape, write_classifier, write_describer},
    setup,
};
use anyhow::{Context, Result, bail, ensure};
use std::{
    fs::{self, File},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Most tokens that the random describer writes: enough to look like a description, short enough for a demo.
const SETTINGS: &str = "max_new_tokens = 48\n";

/// An appliance's folder as `mmlnb-appliance init` makes it, with a bundle of random weights.
pub struct Appliance {
    /// The folder.
    pub folder: PathBuf,
}

impl Appliance {
    /// Sets up, builds, writes checkpoints, exports the bundle and makes the folders.
    pub fn make(folder: PathBuf, offline_dir: Option<PathBuf>) -> Result<Self> {
        setup::run(&setup::Options { appliance_only: true, offline_dir, ..Default::default() })?;
        say("building the appliance and the exporter");
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--bin", "mmlnb-appliance", "--bin", "mmlnb-export"]);
        finish(build.current_dir(checkout()))?;
        Self::of_built(folder)
    }

    /// [`Appliance::make`] with what is set up and built already.
    pub fn of_built(folder: PathBuf) -> Result<Self> {
        say("writing checkpoints of random weights");
        let describer = folder.join("checkpoints/describer");
        let classifier = folder.join("checkpoints/classifier");
        write_describer(&DescriberOptions { shape: Shape::Tiny, output: describer.clone(), seed: 0, corpus: None })?;
        write_classifier(&ClassifierOptions::small(classifier.clone()))?;
        let settings = folder.join("checkpoints/settings.toml");
        fs::write(&settings, SETTINGS)?;

        let appliance = Self { folder };
        say("exporting them as a bundle of ONNX graphs");
        let mut export = program("mmlnb-export");
        export.arg("bundle").arg("--output").arg(appliance.folder.join("bundle"));
        export.arg("--vlm").arg(&describer).arg("--classifier").arg(&classifier).arg("--settings").arg(&settings);
        finish(&mut export)?;
        finish(program("mmlnb-appliance").arg("init").arg(&appliance.folder).stdout(Stdio::null()))?;
        Ok(appliance)
    }

    /// An appliance that serves a copy of this bundle.
    pub fn around(folder: PathBuf, bundle: &Path) -> Result<Self> {
        let appliance = Self { folder };
        copy_folder(bundle, &appliance.path("bundle"))?;
        finish(program("mmlnb-appliance").arg("init").arg(&appliance.folder).stdout(Stdio::null()))?;
        Ok(appliance)
    }

    /// A folder below the appliance's, such as `inbox`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.path("appliance.toml")
    }
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("{} cannot be made", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("{} cannot be read", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).with_context(|| format!("{} cannot be written", target.display()))?;
        }
    }
    Ok(())
}

/// A running `mmlnb-appliance run`; killed if it is dropped before it was stopped.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts the daemon with `settings` in its environment and waits until it takes files.
    pub fn start(appliance: &Appliance, settings: &[(&str, &str)]) -> Result<Self> {
        let socket_path = std::env::temp_dir().join(format!("mmlnb-notify-{}", std::process::id()));
        fs::remove_file(&socket_path).ok();
        let socket = UnixDatagram::bind(&socket_path).with_context(|| format!("{} cannot be made", socket_path.display()))?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;

        let log = appliance.path("daemon.log");
        let file = File::create(&log).with_context(|| format!("{} cannot be written", log.display()))?;
        let mut command = program("mmlnb-appliance");
        command.arg("run").arg("--config").arg(appliance.config()).envs(settings.iter().copied());
        command.env("NOTIFY_SOCKET", &socket_path).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().context("the daemon cannot be started")?;
        let mut daemon = Self { child, log };
        let ready = daemon.wait_until_ready(&socket);
        fs::remove_file(&socket_path).ok();
        ready.map(|()| daemon)
    }

    fn wait_until_ready(&mut self, socket: &UnixDatagram) -> Result<()> {
        let started = Instant::now();
        let mut message = [0; 4096];
        while started.elapsed() < Duration::from_secs(300) {
            self.check()?;
            if let Ok(length) = socket.recv(&mut message)
                && message[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1")
            {
                return Ok(());
            }
        }
        bail!("the daemon was not ready after 5 minutes; its log: {}", self.log.display())
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error with the log's end, when the daemon is no longer running.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let text = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let end = lines[lines.len().saturating_sub(20)..].join("\n");
            bail!("the daemon ended by itself ({status}); the end of {}:\n{end}", self.log.display());
        }
        Ok(())
    }

    /// Asks the daemon to finish, as `systemctl stop` does, and waits for a clean end.
    pub fn stop(mut self) -> Result<()> {
        self.check()?;
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("the daemon cannot be asked to stop")?;
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(60) {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "the daemon did not stop cleanly ({status}); its log: {}", self.log.display());
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("the daemon did not stop within a minute; its log: {}", self.log.display())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // After a clean stop there is nothing left to kill, and after an error nothing more can be done about it.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A built binary of the workspace.
pub fn program(name: &str) -> Command {
    Command::new(program_path(name))
}

/// Where cargo puts the workspace's binaries: beside this program.
pub fn program_path(name: &str) -> PathBuf {
    let own = std::env::current_exe().ok();
    own.as_deref().and_then(Path::parent).map_or_else(|| checkout().join("target/debug"), Path::to_owned).join(name)
}

/// Prints what comes next.
pub fn say(text: &str) {
    println!("== {text}");
}

/// Runs a command to its end; its failure is this program's.
pub fn finish(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{} cannot be started", command.get_program().display()))?;
    ensure!(status.success(), "{} failed ({status}); its message stands above", command.get_program().display());
    Ok(())
}

/// The folders of the service, as its unit and tmpfiles have them.
const FOLDERS: [(&str, &str); 4] = [
    ("inbox", "\"/srv/mmlnb/inbox\""),
    ("done", "\"/srv/mmlnb/done\""),
    ("failed", "\"/srv/mmlnb/failed\""),
    ("state", "\"/var/lib/mmlnb\""),
];

/// The configuration as `program`'s `init` writes it, with the service's folders and these keys set.
pub fn service_configuration(program: &Path, settings: &[(&str, &str)]) -> Result<String> {
    let folder = tempfile::tempdir()?;
    finish(Command::new(program).arg("init").arg(folder.path()).stdout(Stdio::null()))?;
    with_settings(&fs::read_to_string(folder.path().join("appliance.toml"))?, &[&FOLDERS, settings].concat())
}

/// A configuration with these keys set: their lines, commented or not, are exchanged.
fn with_settings(text: &str, settings: &[(&str, &str)]) -> Result<String> {
    let mut out = String::new();
    for line in text.lines() {
        let name = line.trim_start_matches(['#', ' ']).split_once(" = ").map(|(name, _)| name);
        match settings.iter().find(|(key, _)| Some(*key) == name) {
            Some((key, value)) => out += &format!("{key} = {value}\n"),
            None => out += &format!("{line}\n"),
        }
    }
    let set = |(key, value): &&(&str, &str)| !out.contains(&format!("{key} = {value}\n"));
    let missing: Vec<&str> = settings.iter().filter(set).map(|(key, _)| *key).collect();
    ensure!(missing.is_empty(), "`init` wrote no line for {}", missing.join(", "));
    Ok(out)
}
