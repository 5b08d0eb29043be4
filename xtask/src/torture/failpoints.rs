//! F2: each named point of a file's way ends the program, fails or waits once, and after it every file still ends.

use super::{
    arena::{Arena, Parcel, image_as, no_image, wait_for_ends},
    figure::{Figure, Measures, Step, spread},
    source,
};
use image::ImageFormat;
use mmlnb_models::random::Draw;
use mmlnb_tests::{
    Daemon, Dropped, End, Note, appliance_binary, binary, bundle, command, copy_folder, drop_by_copy, run, wait_for,
};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    time::{Duration, Instant},
};

/// What a point does: once or twice, then it is as if nothing were there.
const ACTS: [&str; 4] = ["1*abort", "2*eio", "2*enospc", "1*delay:2000"];

/// Longest wait for a point to be met.
const MET: Duration = Duration::from_secs(40);
/// Longest wait for the files' ends after the restart.
const ENDS: Duration = Duration::from_secs(120);

/// Met only after a read of the ledger has failed, which no point can make: F3 does.
const AFTER_A_FAILED_READ: &str = "ledger.read";

/// What takes from root the right to read what nobody may.
const AS_OTHERS: [&str; 3] = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"];

/// Failpoints.
pub static F2: Figure = Figure {
    name: "F2",
    what: "each named point x abort, EIO, ENOSPC, 2 s delay; restart",
    wanted: "at least 30 points, each is met, all recover, invariant I",
    unit: "pairs",
    full: || (points().len() * ACTS.len()) as u64,
    short: Some(12),
    step: 1,
    alone: false,
    hindrance: || super::absent(&["setpriv"]),
    play,
};

/// The names that the sources list, but for the one that no point can lead to.
fn points() -> Vec<String> {
    let file = source("appliance/src/failpoint.rs");
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let list =
        text.split_once("pub const NAMES").and_then(|(_, rest)| rest.split_once("];")).expect("the sources list the points").0;
    let names: Vec<String> = list.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    assert!(names.len() > 30, "{names:?}");
    names.into_iter().filter(|name| name != AFTER_A_FAILED_READ).collect()
}

fn play(step: &Step) -> Measures {
    let points = points();
    let mut measures = Measures::default();
    for round in step.rounds() {
        let pair = spread(round, (points.len() * ACTS.len()) as u64) as usize;
        let (point, act) = (points[pair / ACTS.len()].as_str(), ACTS[pair % ACTS.len()]);
        eprintln!("F2 {round}: {point}={act}");
        match point.split_once('.').map_or("", |(family, _)| family) {
            "qualify" => qualify(step, round, point, act),
            _ => Round::new(step, round, point, act).play(),
        }
        measures.count("pairs of point and act met", 1);
    }
    measures
}

/// One point and act on the way of a file.
struct Round {
    arena: Arena,
    point: String,
    act: String,
    story: String,
    files: Vec<Parcel>,
}

impl Round {
    fn new(step: &Step, round: u64, point: &str, act: &str) -> Round {
        let mut draw = step.draw(round);
        let arena = Arena::new(step, round);
        arena.set("max_attempts", "5");
        let good = |draw: &mut Draw, at: usize| Parcel {
            path: format!("case/{at}.png"),
            bytes: image_as(draw, ImageFormat::Png, 56),
            // A decoder that dies itself is the one case in which an image may be blamed.
            end: if point == "decode.child" { End::Either } else { End::Report },
        };
        let mut files: Vec<Parcel> = (0..2).map(|at| good(&mut draw, at)).collect();
        files.push(Parcel { path: "case/broken.png".into(), bytes: no_image(&mut draw), end: End::Failure });
        Round { arena, point: point.into(), act: act.into(), story: format!("round {round}, {point}={act}"), files }
    }

    fn play(self) {
        let mut others = String::new();
        match self.point.as_str() {
            point if point.starts_with("migrate.") => self.arena.write_old_ledger(false),
            "move.copy" | "move.after_copy" => return self.across_file_systems(),
            point if point.starts_with("retry.") || point == "ledger.retry" => return self.retried(),
            "ledger.wait" => return self.denied(),
            "ledger.left" => return self.taken_away(),
            // An attempt is given back when the decoder cannot be started.
            "ledger.release" => others = "decode.spawn=1*eio;".into(),
            _ => {}
        }
        self.along_the_way(&others);
    }

    fn points(&self, others: &str) -> String {
        format!("{others}{}={}", self.point, self.act)
    }

    fn drop_all(&self) {
        self.files.iter().for_each(|file| drop_by_copy(&file.bytes, &self.arena.inbox(&file.path)));
    }

    /// The files lie there, the daemon starts, meets the point, goes on or ends, and is started again without it.
    fn along_the_way(&self, others: &str) {
        self.drop_all();
        let mut daemon = self.arena.daemon().failpoints(&self.points(others)).launch();
        let begun = Instant::now();
        let at_the_end = self.point == "ledger.end_run";
        while daemon.ended().is_none() && begun.elapsed() < MET && !((self.is_met(&daemon) || at_the_end) && self.all_ended()) {
            std::thread::sleep(Duration::from_millis(150));
        }
        self.stop(&mut daemon);
        self.assert_met(&daemon);
        self.finish();
    }

    fn all_ended(&self) -> bool {
        // Before its first start the ledger has no tables.
        self.arena.operator(&["reports", "--json"]).code == 0
            && self.arena.files().iter().filter(|row| row.filed_at.is_some()).count() >= self.files.len()
    }

    fn is_met(&self, daemon: &Daemon) -> bool {
        if self.point == "decode.child" {
            // It has nobody to tell: its death is told for it, and a delay shows in nothing but time.
            return self.act.contains("delay") || daemon.log().contains("The decoder");
        }
        daemon.log().contains(&format!("failpoint {}: ", self.point))
    }

    #[track_caller]
    fn assert_met(&self, daemon: &Daemon) {
        assert!(self.is_met(daemon), "{}: the point was not met\n{}", self.story, daemon.log());
    }

    /// One that has not ended by itself ends cleanly; an abort is an abort.
    fn stop(&self, daemon: &mut Daemon) {
        if daemon.ended().is_none() {
            daemon.terminate();
        }
        let code = daemon.wait(Duration::from_secs(60));
        let dies = self.act.ends_with("abort") && self.point != "decode.child";
        assert_eq!(code == 128 + 6, dies, "{}: ended with {code}\n{}", self.story, daemon.log());
    }

    /// Without the point all files end, and the invariant holds.
    fn finish(&self) {
        let mut daemon = self.arena.daemon().start();
        wait_for_ends(&self.arena, &mut daemon, self.files.len(), ENDS, &self.story);
        assert_eq!(daemon.stop(Duration::from_secs(30)), 0, "{}", self.story);
        let dropped: Vec<Dropped> = self.files.iter().map(Parcel::dropped).collect();
        self.arena.assert_each_ended_once(&dropped, &self.story);
    }

    /// `done` lies on another file system: an image is copied there.
    fn across_file_systems(&self) {
        let other = Other::new(&self.arena);
        self.along_the_way("");
        drop(other);
    }

    /// A broken file has failed; a person sends it through again.
    fn retried(&self) {
        self.drop_all();
        let mut daemon = self.arena.daemon().start();
        wait_for_ends(&self.arena, &mut daemon, self.files.len(), ENDS, &self.story);
        assert_eq!(daemon.stop(Duration::from_secs(30)), 0, "{}", self.story);
        let note = Note::beside(&self.arena.failed("case/broken.png"));
        let mut daemon = self.arena.daemon().failpoints(&self.points("")).start();
        // Whatever it answers: what counts is how the file ends.
        self.arena.operator(&["retry", &note.job.to_string()]);
        self.stop(&mut daemon);
        self.assert_met(&daemon);
        let rows = self.files.len();
        let mut daemon = self.arena.daemon().start();
        let ended = || self.arena.files().iter().filter(|row| row.filed_at.is_some() && row.state != "retried").count() == rows;
        wait_for(ENDS, &self.story, || ended() && self.arena.listing("inbox").is_empty());
        daemon.assert_alive();
        assert_eq!(daemon.stop(Duration::from_secs(30)), 0, "{}", self.story);
        let dropped: Vec<Dropped> = self.files.iter().map(Parcel::dropped).collect();
        self.arena.assert_each_ended_once(&dropped, &self.story);
    }

    /// A file that the daemon may not read waits, and is read once it may.
    fn denied(&self) {
        self.drop_all();
        let denied = self.arena.inbox("case/0.png");
        let mode = |mode| fs::set_permissions(&denied, fs::Permissions::from_mode(mode)).expect("the file is ours");
        mode(0);
        let root = rustix::process::geteuid().is_root();
        let start = |points: &str| {
            let starting = self.arena.daemon().failpoints(points);
            if root { starting.through(&AS_OTHERS) } else { starting }
        };
        let mut daemon = start(&self.points("")).launch();
        wait_for(MET, &format!("{}: the point", self.story), || self.is_met(&daemon));
        if !self.act.ends_with("abort") {
            std::thread::sleep(Duration::from_secs(2));
        }
        self.stop(&mut daemon);
        mode(0o660);
        let mut daemon = start("").start();
        wait_for_ends(&self.arena, &mut daemon, self.files.len(), ENDS, &self.story);
        assert_eq!(daemon.stop(Duration::from_secs(30)), 0, "{}", self.story);
        let dropped: Vec<Dropped> = self.files.iter().map(Parcel::dropped).collect();
        self.arena.assert_each_ended_once(&dropped, &self.story);
    }

    /// A person takes a file away between the look and the reading: it is forgotten, the others end.
    fn taken_away(mut self) {
        let gone = self.files.remove(0);
        drop_by_copy(&gone.bytes, &self.arena.inbox(&gone.path));
        let mut daemon = self.arena.daemon().failpoints(&self.points("read.open=1*delay:1500;")).launch();
        wait_for(MET, &format!("{}: the file is opened", self.story), || daemon.log().contains("failpoint read.open"));
        fs::remove_file(self.arena.inbox(&gone.path)).expect("the file lies there");
        wait_for(MET, &format!("{}: the point", self.story), || self.is_met(&daemon));
        self.stop(&mut daemon);
        self.drop_all();
        self.finish();
    }
}

/// Another file system in the place of `done`, emptied at the end.
pub struct Other(tempfile::TempDir);

impl Other {
    /// The one in memory that every Linux has.
    pub fn new(arena: &Arena) -> Other {
        let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is writable");
        let done = arena.done("");
        let device = |path: &Path| fs::metadata(path).expect("the folder is there").dev();
        assert_ne!(device(folder.path()), device(&done), "the temporary folder is in memory itself");
        fs::remove_dir_all(&done).expect("`done` is ours");
        symlink(folder.path(), arena.root().join("done")).expect("the root is writable");
        Other(folder)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what was left of done lies in {}", self.0.path().display());
            self.0.disable_cleanup(true);
        }
    }
}

/// A bundle is measured: it is the old one or the new one, and the next run finishes.
fn qualify(step: &Step, round: u64, point: &str, act: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let at = |name: &str| folder.path().join(name);
    copy_folder(bundle(), &at("bundle"));
    fs::create_dir(at("images")).expect("the folder is writable");
    let (mut draw, mut csv) = (step.draw(round), "file_name,description,class,group,split\n".to_owned());
    for image in 0..6 {
        fs::write(at("images").join(format!("{image}.png")), image_as(&mut draw, ImageFormat::Png, 56))
            .expect("the folder is writable");
        let (class, part) = (["UD", "PD", "D"][image % 3], ["validation", "test"][image % 2]);
        csv += &format!("{image}.png,\"Small round cells, no neuropil.\",{class},p{image},{part}\n");
    }
    fs::write(at("data.csv"), csv).expect("the folder is writable");
    let qualified = || at("bundle/qualification.json").is_file();
    let ran = |points: &str| {
        let mut qualify = command(&appliance_binary());
        qualify.arg("qualify").arg(at("bundle")).arg("--data").arg(at("data.csv")).arg("--images").arg(at("images"));
        run(qualify.args(["--json", "--provider", "cpu", "--threads", "1"]).env("MMLNB_FAILPOINTS", points))
    };
    let first = ran(&format!("{point}={act}"));
    assert!(first.err.contains(&format!("failpoint {point}: ")), "{point}={act}: the point was not met\n{}", first.err);
    assert_eq!(first.code == 128 + 6, act.ends_with("abort"), "{point}={act}: {first:?}");
    run(command(&binary("mmlnb-export")).arg("inspect").arg(at("bundle"))).expect(0);
    if first.code == 0 {
        assert!(qualified(), "{point}={act}: success without a result");
    }
    ran("").expect(0);
    run(command(&binary("mmlnb-export")).arg("inspect").arg(at("bundle"))).expect(0);
    assert!(qualified(), "{point}={act}");
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_sources_list_the_points() {
        let points = super::points();
        assert!(points.len() >= 50 && points.contains(&"ledger.claim".to_owned()), "{points:?}");
    }
}
