//! An appliance on a temporary folder, run as a process of its own, with a test double in the engine's place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use mmlnb_models::bundle::{Classifier, Graph, Manifest, Precision, Provenance, list_files};

const PATIENCE: Duration = Duration::from_secs(60);

pub struct Appliance {
    dir: tempfile::TempDir,
    child: Option<Child>,
    environment: BTreeMap<String, String>,
}

fn write_bundle(dir: &Path) {
    std::fs::create_dir_all(dir.join("classifier")).unwrap();
    std::fs::write(dir.join("classifier/prmf.onnx"), b"a test double needs no graph").unwrap();
    let prmf = Graph { file: "classifier/prmf.onnx".into(), inputs: vec![], outputs: vec![], parameters: 0 };
    let manifest = Manifest {
        format: mmlnb_models::bundle::FORMAT,
        producer: "test".into(),
        precision: Precision::F32,
        portable: false,
        describer: None,
        classifier: Some(Classifier {
            classes: ["A", "B", "C"].map(String::from).to_vec(),
            image_size: None,
            max_length: None,
            image: None,
            text: None,
            prmf,
            calibration: None,
        }),
        provenance: Provenance::default(),
        known_answers: vec![],
        qualification: None,
        files: list_files(dir).unwrap(),
    };
    manifest.write(dir).unwrap();
}

impl Appliance {
    pub fn new() -> Appliance {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let init = Command::new(env!("CARGO_BIN_EXE_mmlnb-appliance")).arg("init").arg(root).output().unwrap();
        assert!(init.status.success(), "{init:?}");
        write_bundle(&root.join("bundle"));
        let mut appliance = Appliance { dir, child: None, environment: BTreeMap::new() };
        for (name, value) in [("MMLNB_SETTLE_MS", "100"), ("MMLNB_MIN_FREE_MB", "1"), ("MMLNB_INCOMPLETE_S", "2")] {
            appliance.set(name, value);
        }
        let log = appliance.path("double.log").display().to_string();
        appliance.set("DOUBLE_LOG", &log);
        appliance
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.insert(name.into(), value.into());
    }

    pub fn unset(&mut self, name: &str) {
        self.environment.remove(name);
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    pub fn config(&self) -> PathBuf {
        self.path("appliance.toml")
    }

    /// Starts the daemon without waiting for anything.
    pub fn spawn(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.path("daemon.log")).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "double::daemon_process", "--nocapture"])
            .env(crate::double::CONFIGURATION, self.config())
            .envs(&self.environment)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Starts the daemon and waits until it answers.
    pub fn start(&mut self) {
        self.spawn();
        self.until("the daemon answers", |appliance| appliance.cli(&["status", "--check"]).status.code() != Some(69));
    }

    pub fn signal(&mut self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(self.child.as_ref().unwrap());
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for the daemon's end; its exit status.
    pub fn ended(&mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                self.child = None;
                return status.code();
            }
            assert!(begun.elapsed() < PATIENCE, "the daemon does not end\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn stop(&mut self) -> Option<i32> {
        self.signal(rustix::process::Signal::TERM);
        self.ended()
    }

    pub fn kill(&mut self) {
        self.signal(rustix::process::Signal::KILL);
        self.ended();
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    /// Runs a command of the real program on this appliance.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mmlnb-appliance"));
        command.args(arguments).arg("--config").arg(self.config());
        command.envs(self.environment.iter().filter(|(name, _)| *name != "MMLNB_FAILPOINTS")).output().unwrap()
    }

    pub fn until(&mut self, what: &str, done: impl Fn(&Appliance) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            if begun.elapsed() > PATIENCE {
                let rows = self.rows("SELECT id || ' ' || source || ' ' || state || ' ' || coalesce(code, '') FROM files");
                panic!("waited in vain until {what}\nfiles: {rows:#?}\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// The single text column of a query on the ledger.
    pub fn rows(&self, sql: &str) -> Vec<String> {
        let ledger = self.path("state/ledger.sqlite");
        let Ok(connection) = mmlnb_appliance::ledger::open::reader(&ledger) else { return vec![] };
        let mut statement = connection.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| {
            Ok(match row.get_ref(0)? {
                rusqlite::types::ValueRef::Null => String::new(),
                rusqlite::types::ValueRef::Integer(value) => value.to_string(),
                other => other.as_str().unwrap_or("?").to_owned(),
            })
        });
        rows.unwrap().collect::<Result<_, _>>().unwrap()
    }

    pub fn count(&self, sql: &str) -> i64 {
        self.rows(sql).first().map_or(0, |text| text.parse().unwrap())
    }

    pub fn reports(&self) -> i64 {
        self.count("SELECT count(*) FROM reports")
    }

    pub fn in_state(&self, state: &str) -> i64 {
        self.count(&format!("SELECT count(*) FROM files WHERE state = '{state}'"))
    }

    /// Images that were really assessed.
    pub fn assessed(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.path("double.log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    pub fn drop_png(&self, name: &str, seed: u8) {
        self.drop(name, &png(64, 64, seed));
    }

    /// Writes a file into the inbox, as a copy does.
    pub fn drop(&self, name: &str, bytes: &[u8]) {
        let path = self.path("inbox").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// The pages of all reports in `done`.
    pub fn pages(&self) -> Vec<PathBuf> {
        let (mut open, mut pages) = (vec![self.path("done")], Vec::new());
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => open.push(path),
                    false if path.to_string_lossy().ends_with(".report.html") => pages.push(path),
                    false => {}
                }
            }
        }
        pages
    }

    /// Nothing of the inbox is left but what is ours.
    pub fn inbox_is_empty(&self) -> bool {
        let mut open = vec![self.path("inbox")];
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name();
                match entry.file_type().unwrap().is_dir() {
                    true => open.push(entry.path()),
                    false if mmlnb_appliance::files::names::ignored_file(&name) => {}
                    false => return false,
                }
            }
        }
        true
    }

    /// Every promise that holds at any time: the ledger is whole, every filed image lies unchanged where the ledger says.
    pub fn check(&self) {
        let verify = self.cli(&["verify"]);
        assert!(verify.status.success(), "{}{}\n{}", text(&verify.stdout), text(&verify.stderr), self.log());
        let doubles =
            self.count("SELECT count(*) FROM (SELECT 1 FROM reports GROUP BY image_sha256, bundle_sha256 HAVING count(*) > 1)");
        assert_eq!(doubles, 0);
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A patch with some structure; another seed gives other bytes and pixels.
pub fn png(width: u32, height: u32, seed: u8) -> Vec<u8> {
    encode(width, height, seed, image::ImageFormat::Png)
}

pub fn encode(width: u32, height: u32, seed: u8, format: image::ImageFormat) -> Vec<u8> {
    let pixel = |x: u32, y: u32| {
        let wave = (x * 7 + y * 13 + u32::from(seed) * 31) % 97;
        image::Rgb([150 + (wave as u8), 60 + (wave as u8), 140_u8.wrapping_add(seed)])
    };
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_fn(width, height, pixel).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}
