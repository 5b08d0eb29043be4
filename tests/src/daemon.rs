//! The daemon as a child process, with the service manager's socket in the test's hands.

use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Ran, binaries, command, run, wait_for};

/// Loading and warming up the small bundle takes about a second; two cores may be busy with other tests.
const READY: Duration = Duration::from_secs(60);

/// A daemon that is still to be started.
pub struct Starting {
    command: Command,
    root: PathBuf,
}

impl Starting {
    pub(crate) fn new(program: &Path, configuration: &Path, root: &Path) -> Starting {
        let mut starting = command(program);
        starting.arg("run").arg("--config").arg(configuration);
        Starting { command: starting, root: root.to_owned() }
    }

    /// With `MMLNB_FAILPOINTS`.
    pub fn failpoints(self, points: &str) -> Starting {
        self.variable("MMLNB_FAILPOINTS", points)
    }

    /// With an environment variable.
    pub fn variable(mut self, name: &str, value: &str) -> Starting {
        self.command.env(name, value);
        self
    }

    /// As another user and group without any privilege, through `setpriv`.
    pub fn user(self, user: u32) -> Starting {
        let (user, group) = (format!("--reuid={user}"), format!("--regid={user}"));
        self.through(&["setpriv", &user, &group, "--clear-groups", "--"])
    }

    /// Through another program that becomes the daemon, or leaves it a direct child: its words come first.
    ///
    /// # Panics
    /// Without a word.
    pub fn through(mut self, words: &[&str]) -> Starting {
        let (program, words) = words.split_first().expect("a program has a name");
        let mut outer = Command::new(program);
        outer.args(words);
        outer.arg(self.command.get_program()).args(self.command.get_args());
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => outer.env(name, value),
                None => outer.env_remove(name),
            };
        }
        outer.stdin(Stdio::null());
        self.command = outer;
        self
    }

    /// Runs it although it must refuse to start.
    pub fn refused(mut self) -> Ran {
        run(&mut self.command)
    }

    /// Starts it and waits until it says that it is ready.
    #[track_caller]
    pub fn start(self) -> Daemon {
        let mut daemon = self.launch();
        wait_for(READY, "READY=1", || {
            daemon.assert_alive();
            daemon.says("READY=1")
        });
        daemon
    }

    /// Starts it without waiting.
    #[track_caller]
    pub fn launch(mut self) -> Daemon {
        let number = (1..).find(|number| !log_file(&self.root, *number).exists()).expect("numbers do not end");
        let log = log_file(&self.root, number);
        let socket = self.root.join(format!("notify-{number}"));
        let (said, listener) = (Arc::new(Mutex::new(Vec::new())), UnixDatagram::bind(&socket).expect("a socket can be bound"));
        let heard = Arc::clone(&said);
        std::thread::spawn(move || listen(&listener, &heard));
        open_to_all(&socket);
        let file = File::create(&log).expect("the root is writable");
        self.command.env("NOTIFY_SOCKET", &socket).stdout(Stdio::null()).stderr(file);
        let child = self.command.spawn().expect("the daemon starts");
        Daemon { child, said, log, started: Instant::now() }
    }
}

fn log_file(root: &Path, number: usize) -> PathBuf {
    root.join(format!("daemon-{number}.log"))
}

fn open_to_all(socket: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o777)).expect("the socket is ours");
}

fn listen(socket: &UnixDatagram, heard: &Mutex<Vec<(Instant, String)>>) {
    let mut buffer = [0; 4096];
    while let Ok(length) = socket.recv(&mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let mut heard = heard.lock().expect("no listener has failed");
        heard.extend(text.lines().map(|line| (Instant::now(), line.to_owned())));
    }
}

/// A running daemon; killed when it goes out of scope.
pub struct Daemon {
    child: Child,
    said: Arc<Mutex<Vec<(Instant, String)>>>,
    log: PathBuf,
    started: Instant,
}

impl Daemon {
    /// Every line that it sent to the service manager, with its time.
    pub fn said(&self) -> Vec<(Instant, String)> {
        self.said.lock().expect("the listener has not failed").clone()
    }

    /// Whether it ever sent this line.
    pub fn says(&self, line: &str) -> bool {
        self.said().iter().any(|(_, said)| said == line)
    }

    /// When the process was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Largest resident size so far, in bytes.
    ///
    /// # Panics
    /// Where `/proc` does not say.
    pub fn peak_memory(&self) -> u64 {
        self.memory("status", "VmHWM:")
    }

    /// Resident size, in bytes. Counted page by page: the sum in `status` is kept for each processor by itself and may be megabytes off.
    ///
    /// # Panics
    /// Where `/proc` does not say.
    pub fn resident_memory(&self) -> u64 {
        self.memory("smaps_rollup", "Rss:")
    }

    fn memory(&self, file: &str, what: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).expect("the daemon runs");
        let line = status.lines().find_map(|line| line.strip_prefix(what)).expect("Linux tells the size");
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("the size is a number");
        kilobytes * 1024
    }

    /// Open file descriptors.
    ///
    /// # Panics
    /// Where `/proc` does not say.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("the daemon runs").count()
    }

    /// Its exit status when it has ended.
    pub fn ended(&mut self) -> Option<i32> {
        binaries::ended(&mut self.child)
    }

    /// Sends SIGSTOP: it does nothing until [`Daemon::resume`].
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Sends SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends SIGABRT, as the service manager does to one that no longer feeds its watchdog, and waits for the end.
    pub fn abort(mut self) {
        self.signal(Signal::ABORT);
        self.child.wait().expect("an aborted child ends");
    }

    /// # Panics
    /// With the log, when the daemon has ended.
    #[track_caller]
    pub fn assert_alive(&mut self) {
        if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
            panic!("the daemon ended with {status}:\n{}", self.log());
        }
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGTERM, then its exit status.
    ///
    /// # Panics
    /// When it does not end within `limit`.
    #[track_caller]
    pub fn stop(mut self, limit: Duration) -> i32 {
        self.terminate();
        self.wait(limit)
    }

    /// Its exit status.
    ///
    /// # Panics
    /// When it does not end within `limit`.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> i32 {
        let ended = binaries::wait(&mut self.child, limit);
        ended.unwrap_or_else(|| panic!("the daemon did not end in {} s:\n{}", limit.as_secs_f32(), self.log()))
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        self.child.wait().expect("a killed child ends");
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the daemon is our child");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the daemon's last words:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}
