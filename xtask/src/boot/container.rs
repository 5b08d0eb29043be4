//! A booted container and what can be done in it.

use anyhow::{Context, Result, bail, ensure};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// System calls that a container does not have by default and the service's decoder confines itself with.
const CALLS: &str = "landlock_create_ruleset landlock_add_rule landlock_restrict_self seccomp";

/// A booted container; it is powered off at the end.
pub struct Container {
    nspawn: Child,
    leader: String,
    console: PathBuf,
}

impl Container {
    /// Boots a root and waits until its service manager has started everything.
    pub fn boot(root: &Path) -> Result<Container> {
        let console = root.with_extension("console");
        let log = File::create(&console)?;
        let mut command = Command::new("systemd-nspawn");
        command.arg("-D").arg(root).args(["--register=no", "--keep-unit", "--boot", "--console=pipe", "--private-network"]);
        command.arg(format!("--system-call-filter={CALLS}"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let nspawn = command.spawn().context("systemd-nspawn cannot be started")?;
        let mut container = Container { nspawn, leader: String::new(), console };
        container.leader = until(Duration::from_secs(30), "the container's first process", || Ok(container.child()))?;
        until(Duration::from_secs(60), "the container's service manager", || {
            let state = container.run(&["systemctl", "is-system-running"])?;
            Ok(matches!(state.out.trim(), "running" | "degraded" | "starting").then_some(()))
        })?;
        Ok(container)
    }

    fn child(&self) -> Option<String> {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.nspawn.id())).ok()?;
        let systemd = |pid: &&str| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "systemd");
        children.split_whitespace().find(systemd).map(str::to_owned)
    }

    /// Runs a program inside as root.
    pub fn run(&self, words: &[&str]) -> Result<Ran> {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.leader, "-a", "--"]).args(words).stdin(Stdio::null());
        // Nothing of the developer's environment exists in there.
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
        let output = command.output().context("nsenter cannot be started")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Ran { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) })
    }

    /// Runs a program inside as root; it must succeed.
    pub fn ok(&self, words: &[&str]) -> Result<String> {
        let ran = self.run(words)?;
        ensure!(ran.code == 0, "`{}` ended with {} in the container:\n{}{}", words.join(" "), ran.code, ran.out, ran.err);
        Ok(ran.out)
    }

    /// Runs a line of shell inside as an ordinary user with that user's groups.
    pub fn as_user(&self, user: &str, line: &str) -> Result<Ran> {
        self.run(&["runuser", "-u", user, "--", "sh", "-c", line])
    }

    /// As [`Container::as_user`]; it must succeed.
    pub fn user_ok(&self, user: &str, line: &str) -> Result<String> {
        let ran = self.as_user(user, line)?;
        ensure!(ran.code == 0, "`{line}` of {user} ended with {}:\n{}{}", ran.code, ran.out, ran.err);
        Ok(ran.out)
    }

    /// Powers off and waits for the end.
    pub fn power_off(mut self) -> Result<()> {
        self.ok(&["systemctl", "poweroff"])?;
        let begun = Instant::now();
        while self.nspawn.try_wait()?.is_none() {
            if begun.elapsed() > Duration::from_secs(60) {
                bail!("the container does not power off; its console: {}", self.console.display());
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Ok(None) = self.nspawn.try_wait() {
            // SIGTERM powers the container off; whatever is left after that is killed with it.
            if let Some(pid) = rustix::process::Pid::from_raw(self.nspawn.id() as i32) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            let begun = Instant::now();
            while matches!(self.nspawn.try_wait(), Ok(None)) && begun.elapsed() < Duration::from_secs(20) {
                thread::sleep(Duration::from_millis(100));
            }
            let _ = self.nspawn.kill();
            let _ = self.nspawn.wait();
        }
    }
}

/// What a program in the container answered.
pub struct Ran {
    /// Exit status.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Asks until there is an answer.
pub fn until<T>(limit: Duration, what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if begun.elapsed() > limit {
            bail!("no {what} within {} s", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(250));
    }
}
