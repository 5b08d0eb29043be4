//! The folder of one run.

use super::state::{self, State};
use crate::error::TrainError;
use mmlnb_study::run::{
    Decided, Kind,
    files::{self, fault},
    metrics::{self, Metrics, Written},
    signals,
    tensorboard::EventFile,
};
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

const DECIDED: &str = "run.toml";
const FINISHED: &str = "finished";
const LOCK: &str = ".lock";

/// What [`RunFolder::open`] found.
#[derive(Debug)]
pub enum Opened {
    /// Nothing that counts: the run begins.
    Fresh(RunFolder),
    /// A run that was stopped: it goes on from its state.
    Resumed(RunFolder, State),
    /// A finished run: nothing is left to do; `open` has said so.
    Finished,
}

/// A run's folder, held by this process alone.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    metrics: Metrics,
    events: EventFile,
    _lock: File,
}

impl RunFolder {
    /// Takes a folder for a run.
    ///
    /// With `resume` an absent or empty folder begins anew, a finished run is left as it is, and any other goes on from its last saved state, with the
    /// metrics cut back to it. Signals are caught from here on ([`super::stop_requested`]).
    ///
    /// # Errors
    /// [`TrainError::Asked`]: without `resume` a folder that is not empty, a folder that is no run, a run that another process holds.
    /// [`TrainError::Changed`]: the run was started with other settings; only `recipe.epochs` may grow.
    pub fn open(path: &Path, decided: &Decided, resume: bool) -> Result<Opened, TrainError> {
        signals::listen();
        refuse_unless_ours(path, resume)?;
        fs::create_dir_all(path).map_err(TrainError::io("create", path))?;
        let lock = lock(path)?;
        files::settle(path)?;
        if !path.join(DECIDED).exists() {
            return RunFolder::begin(path, decided, lock);
        }
        let before = Decided::read(path)?;
        let differences = decided.differences(&before);
        if !differences.is_empty() {
            return Err(TrainError::Changed { run: path.into(), differences });
        }
        let finished = path.join(FINISHED);
        if finished.exists() {
            if !decided.goes_further_than(&before) {
                eprintln!("{} is finished; nothing is left to do", path.display());
                return Ok(Opened::Finished);
            }
            // Removed before run.toml grows: a process that ends between the two finds a run that is not finished.
            fault::point(&finished)?;
            fs::remove_file(&finished).map_err(TrainError::io("remove", &finished))?;
        }
        files::replace_file(&path.join(DECIDED), decided.to_toml().as_bytes())?;
        match state::read(path)? {
            None => RunFolder::begin(path, decided, lock),
            Some((state, written)) => {
                let events = EventFile::create(path, Some(written.next_step))?;
                let metrics = Metrics::open(path, written)?;
                Ok(Opened::Resumed(RunFolder { path: path.into(), metrics, events, _lock: lock }, state))
            }
        }
    }

    fn begin(path: &Path, decided: &Decided, lock: File) -> Result<Opened, TrainError> {
        files::replace_file(&path.join(DECIDED), decided.to_toml().as_bytes())?;
        let again = path.join(metrics::FILE).exists();
        let metrics = Metrics::open(path, Written::default())?;
        let events = EventFile::create(path, again.then_some(0))?;
        Ok(Opened::Fresh(RunFolder { path: path.into(), metrics, events, _lock: lock }))
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A line in `metrics.jsonl` and in TensorBoard's file; a number that is not finite becomes null. Lines after the last [`RunFolder::save`] are cut away on resume.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn log(&mut self, kind: Kind, step: u64, epoch: u64, values: &[(&str, f64)]) -> Result<(), TrainError> {
        self.metrics.write(kind, step, epoch, values.iter().map(|(name, value)| (name.to_string(), json!(value))))?;
        Ok(self.events.scalars(kind.name(), step, values)?)
    }

    /// A diagnostic: what was seen and what to do about it, in `metrics.jsonl` and for the person at the terminal.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn diagnose(&mut self, step: u64, epoch: u64, code: &str, message: &str, remedy: &str) -> Result<(), TrainError> {
        eprintln!("note: {}; {remedy}", message.trim_end_matches('.'));
        let values = [("code", code), ("message", message), ("remedy", remedy)];
        let values = values.map(|(name, text)| (name.to_string(), Value::from(text)));
        Ok(self.metrics.write(Kind::Diagnostic, step, epoch, values)?)
    }

    /// Saves the state; a process that is killed leaves this one or the one before.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn save(&mut self, state: &State) -> Result<(), TrainError> {
        let written = self.metrics.sync()?;
        state::write(&self.path, state, written)
    }

    /// Writes the folder `name` anew: `fill` gets an empty folder, what it leaves there takes the place of the old one in one step.
    ///
    /// A resumed run writes it again when it comes by the same point, with the same content.
    ///
    /// # Errors
    /// Those of `fill`, and what the operating system refuses; the old folder stays then.
    pub fn replace(&mut self, name: &str, fill: impl FnOnce(&Path) -> Result<(), TrainError>) -> Result<(), TrainError> {
        files::replace_folder(&self.path.join(name), fill)
    }

    /// Writes a file anew, whole or not at all.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn write(&mut self, name: &str, content: &[u8]) -> Result<(), TrainError> {
        Ok(files::replace_file(&self.path.join(name), content)?)
    }

    /// Marks the run as finished, after everything else has been written.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn finish(mut self) -> Result<(), TrainError> {
        self.metrics.sync()?;
        Ok(files::replace_file(&self.path.join(FINISHED), format!("{}\n", jiff::Timestamp::now()).as_bytes())?)
    }
}

/// Says no before anything is created or locked.
fn refuse_unless_ours(path: &Path, resume: bool) -> Result<(), TrainError> {
    let run = path.display();
    if path.exists() && !path.is_dir() {
        return Err(TrainError::Asked(format!("{run} is a file; --output names a folder for the run")));
    }
    let occupied = path.is_dir() && !is_empty(path)?;
    match (occupied, resume) {
        (true, false) => {
            Err(TrainError::Asked(format!("{run} is not empty; --resume goes on with the run in it, or give another --output")))
        }
        (true, true) if !path.join(DECIDED).exists() => {
            Err(TrainError::Asked(format!("{run} holds no run (no {DECIDED}) and is not empty; give another --output")))
        }
        _ => Ok(()),
    }
}

/// Nothing but what a process leaves that was killed before `run.toml` was there.
fn is_empty(path: &Path) -> Result<bool, TrainError> {
    for entry in fs::read_dir(path).map_err(TrainError::io("read", path))? {
        let entry = entry.map_err(TrainError::io("read", path))?.path();
        if !entry.ends_with(LOCK) && files::unfinished(&entry).is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The kernel lets go of it when the process ends, however it ends.
fn lock(path: &Path) -> Result<File, TrainError> {
    let file = path.join(LOCK);
    let lock = File::options().create(true).append(true).open(&file).map_err(TrainError::io("create", &file))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(TrainError::Asked(format!("another process is working on {}; wait for it, or stop it first", path.display())))
        }
        Err(errno) => Err(TrainError::io("lock", &file)(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeMap, process::Command, time::Duration};
    use tch::Tensor;

    fn decided(epochs: i64) -> Decided {
        let mut recipe = toml::Table::new();
        recipe.insert("epochs".into(), toml::Value::Integer(epochs));
        Decided::default().with("recipe", recipe).unwrap()
    }

    /// A training whose weights depend on every step, on the numbers in its progress, and on the order of both.
    fn train(path: &Path, epochs: i64, resume: bool) -> Result<(), TrainError> {
        let (mut run, mut epoch, mut best, mut weights) = match RunFolder::open(path, &decided(epochs), resume)? {
            Opened::Finished => return Ok(()),
            Opened::Fresh(run) => (run, 0, 0.1, Tensor::from_slice(&[0.3f32, -1.7])),
            Opened::Resumed(run, state) => {
                let counter = state.progress["epoch"].as_i64().unwrap();
                (run, counter, state.progress["best"].as_f64().unwrap(), state.tensor("weights").unwrap().copy())
            }
        };
        while epoch < epochs {
            for step in 0..3u64 {
                weights = weights.sin() * 1.3 + best;
                run.log(Kind::Step, epoch as u64 * 3 + step, epoch as u64, &[("loss", weights.double_value(&[0]))])?;
            }
            best = best * 0.7 + weights.double_value(&[1]).abs() / 3.0;
            epoch += 1;
            let text = format!("{} {weights:?}", best.to_bits());
            run.replace("last", |folder| Ok(files::replace_file(&folder.join("model"), text.as_bytes())?))?;
            let tensors = vec![("weights".to_string(), weights.copy())];
            run.save(&State { progress: json!({"epoch": epoch, "best": best}), tensors })?;
        }
        run.write("measures.json", format!("{best}").as_bytes())?;
        run.finish()
    }

    /// Every file but those that hold the time: `finished` and TensorBoard's.
    fn content(folder: &Path) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(
                    content(&path).into_iter().map(|(inner, bytes)| (Path::new(path.file_name().unwrap()).join(inner), bytes)),
                );
            } else if !path.ends_with(FINISHED) && !path.to_string_lossy().contains("tfevents") {
                found.insert(path.file_name().unwrap().into(), String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned());
            }
        }
        found
    }

    fn uninterrupted(epochs: i64) -> BTreeMap<PathBuf, String> {
        let folder = tempfile::tempdir().unwrap();
        train(&folder.path().join("run"), epochs, false).unwrap();
        content(&folder.path().join("run"))
    }

    #[test]
    fn a_run_that_ends_at_any_write_goes_on_as_if_nothing_had_been() {
        crate::start::start().unwrap();
        let expected = uninterrupted(3);
        assert_eq!(expected[Path::new("metrics.jsonl")].lines().count(), 9);
        let mut points = 0;
        for passes in 0.. {
            let root = tempfile::tempdir().unwrap();
            let run = root.path().join("run");
            fault::PASSES.set(Some(passes));
            let outcome = train(&run, 3, false);
            fault::PASSES.set(None);
            train(&run, 3, true).unwrap();
            assert_eq!(content(&run), expected, "killed after {passes} points");
            if outcome.is_ok() {
                break;
            }
            points += 1;
        }
        assert!(points > 40, "the test ended the run at {points} points only");
    }

    #[test]
    fn growing_epochs_of_a_finished_run_survives_every_kill_too() {
        crate::start::start().unwrap();
        let expected = uninterrupted(3);
        for passes in 0.. {
            let root = tempfile::tempdir().unwrap();
            let run = root.path().join("run");
            train(&run, 2, false).unwrap();
            fault::PASSES.set(Some(passes));
            let outcome = train(&run, 3, true);
            fault::PASSES.set(None);
            train(&run, 3, true).unwrap();
            assert_eq!(content(&run), expected, "killed after {passes} points");
            if outcome.is_ok() {
                break;
            }
        }
    }

    const CHILD: &str = "MMLNB_TEST_RUN_FOLDER";

    /// Not a test of its own: what the next one starts as a child process.
    #[test]
    fn child_that_trains() {
        if let Some(run) = std::env::var_os(CHILD) {
            crate::start::start().unwrap();
            train(Path::new(&run), 40, true).unwrap();
        }
    }

    fn child(run: &Path) -> std::process::Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "run::folder::tests::child_that_trains"]).env(CHILD, run);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn sigkill_at_random_moments_changes_nothing() {
        crate::start::start().unwrap();
        let root = tempfile::tempdir().unwrap();
        let run = root.path().join("run");
        let lines = || fs::metadata(run.join(metrics::FILE)).map_or(0, |file| file.len());
        let mut moment = 0x9e37_79b9_u64;
        for _ in 0..5 {
            let (mut child, before) = (child(&run), lines());
            while lines() == before && child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(2));
            }
            moment = moment.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            std::thread::sleep(Duration::from_micros((moment >> 33) % 60_000));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(child(&run).wait().unwrap().success());
        assert_eq!(content(&run), uninterrupted(40));
    }

    #[test]
    fn what_is_no_fresh_folder_and_no_run_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let full = root.path().join("full");
        fs::create_dir(&full).unwrap();
        fs::write(full.join("thesis.doc"), "years").unwrap();
        for (resume, hint) in [(false, "--resume"), (true, "holds no run")] {
            let error = RunFolder::open(&full, &decided(1), resume).unwrap_err();
            assert!(error.to_string().contains(hint) && error.exit_code() == 2, "{error}");
        }
        let text = RunFolder::open(&full.join("thesis.doc"), &decided(1), true).unwrap_err().to_string();
        assert!(text.contains("is a file"), "{text}");
        assert_eq!(content(&full).len(), 1, "nothing was written");
    }

    #[test]
    fn resume_begins_on_an_absent_and_on_an_empty_folder() {
        let root = tempfile::tempdir().unwrap();
        for name in ["absent/below", "."] {
            let opened = RunFolder::open(&root.path().join(name).join("run"), &decided(1), true).unwrap();
            assert!(matches!(opened, Opened::Fresh(_)), "{opened:?}");
        }
    }

    #[test]
    fn a_finished_run_is_left_as_it_is() {
        crate::start::start().unwrap();
        let root = tempfile::tempdir().unwrap();
        train(root.path(), 2, false).unwrap();
        let (before, time) = (content(root.path()), fs::read(root.path().join(FINISHED)).unwrap());
        assert!(matches!(RunFolder::open(root.path(), &decided(2), true).unwrap(), Opened::Finished));
        assert_eq!((content(root.path()), fs::read(root.path().join(FINISHED)).unwrap()), (before, time));
        let error = RunFolder::open(root.path(), &decided(1), true).unwrap_err();
        assert!(error.to_string().contains("recipe.epochs: was 2, is 1"), "{error}");
    }

    #[test]
    fn two_processes_do_not_share_a_run() {
        let root = tempfile::tempdir().unwrap();
        let first = RunFolder::open(root.path(), &decided(1), false).unwrap();
        let error = RunFolder::open(root.path(), &decided(1), true).unwrap_err();
        assert!(error.to_string().contains("another process"), "{error}");
        drop(first);
        RunFolder::open(root.path(), &decided(1), true).unwrap();
    }

    #[test]
    fn shortened_metrics_are_refused() {
        crate::start::start().unwrap();
        let root = tempfile::tempdir().unwrap();
        train(root.path(), 1, false).unwrap();
        fs::write(root.path().join(metrics::FILE), "").unwrap();
        let error = train(root.path(), 2, true).unwrap_err();
        assert!(error.to_string().contains("shortened"), "{error}");
    }
}
