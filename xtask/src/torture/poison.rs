//! F16: images that end the program, hang it, or hang its decoder.

use super::{
    arena::{Arena, image, wait_for_ends},
    figure::{Figure, Measures, Step},
};
use mmlnb_tests::{Daemon, Dropped, End, Note, drop_by_copy, wait_for};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(90);
const OTHERS: usize = 5;

/// Poison.
pub static F16: Figure = Figure {
    name: "F16",
    what: "an image on which the program dies; one whose decoder hangs; one that hangs a worker for good while others come",
    wanted: "3 deaths, then failed with that reason; the decoder is cut at its time limit; the others go on within 90 s; invariant I",
    unit: "rounds",
    full: || 30,
    short: Some(3),
    step: 1,
    alone: false,
    hindrance: || None,
    play,
};

fn play(step: &Step) -> Measures {
    let mut measures = Measures::default();
    for round in step.rounds() {
        let scene = Scene::new(step, round);
        match round % 3 {
            0 => scene.dies(&mut measures),
            1 => scene.decoder_hangs(&mut measures),
            _ => scene.worker_hangs(&mut measures),
        }
    }
    measures
}

struct Scene {
    arena: Arena,
    poison: Vec<u8>,
    others: Vec<Vec<u8>>,
}

impl Scene {
    fn new(step: &Step, round: u64) -> Scene {
        let mut draw = step.draw(round);
        let arena = Arena::new(step, round);
        arena.set("settle_ms", "30");
        let others = (0..OTHERS).map(|_| image(&mut draw).0).collect();
        let scene = Scene { arena, poison: image(&mut draw).0, others };
        drop_by_copy(&scene.poison, &scene.arena.inbox("poison.png"));
        scene
    }

    fn drop_others(&self) {
        for (at, bytes) in self.others.iter().enumerate() {
            drop_by_copy(bytes, &self.arena.inbox(&format!("other-{at}.png")));
        }
    }

    fn others_are_filed(&self) -> bool {
        (0..OTHERS).all(|at| self.arena.done(&format!("other-{at}.png")).is_file())
    }

    #[track_caller]
    fn finish(&self, mut daemon: Daemon, poison: End) {
        wait_for_ends(&self.arena, &mut daemon, 1 + OTHERS, LIMIT, "after the poison");
        assert_eq!(daemon.stop(Duration::from_secs(30)), 0, "a clean stop");
        let mut dropped: Vec<Dropped> = self.others.iter().map(|bytes| Dropped::new(bytes, End::Report)).collect();
        dropped.push(Dropped::new(&self.poison, poison));
        self.arena.assert_each_ended_once(&dropped, "after the poison");
    }

    fn dies(&self, measures: &mut Measures) {
        for death in 1..=3 {
            let mut daemon = self.arena.daemon().failpoints("assess.before=1*abort").launch();
            assert_eq!(daemon.wait(LIMIT), 128 + 6, "death {death}\n{}", daemon.log());
        }
        let daemon = self.arena.daemon().start();
        self.drop_others();
        let begun = Instant::now();
        wait_for(LIMIT, "the others after the third death", || self.others_are_filed());
        measures.most("others went on within", begun.elapsed().as_secs_f64(), "s");
        self.finish(daemon, End::Failure);
        assert_eq!(Note::beside(&self.arena.failed("poison.png")).code, "crashed_repeatedly");
        measures.count("deaths of the program, then failed", 3);
    }

    fn decoder_hangs(&self, measures: &mut Measures) {
        self.arena.set("decode_s", "1");
        let daemon = self.arena.daemon().failpoints("decode.child=hang").start();
        let begun = Instant::now();
        wait_for(LIMIT, "the end of the image whose decoder hangs", || self.arena.failed("poison.png").is_file());
        measures.most("decoder that hangs: failed within", begun.elapsed().as_secs_f64(), "s");
        assert_eq!(daemon.stop(Duration::from_secs(30)), 0, "a clean stop");
        let daemon = self.arena.daemon().start();
        self.drop_others();
        self.finish(daemon, End::Failure);
        assert_eq!(Note::beside(&self.arena.failed("poison.png")).code, "decoder_died");
        measures.count("decoders cut at their time limit", 1);
    }

    /// The watchdog is no longer fed, so that the service manager ends the program; until then the others go on.
    fn worker_hangs(&self, measures: &mut Measures) {
        self.arena.set("assess_s", "2");
        let starting = self.arena.daemon().failpoints("assess.before=1*hang").variable("WATCHDOG_USEC", "3000000");
        let daemon = starting.start();
        wait_for(LIMIT, "the image that hangs", || daemon.log().contains("failpoint assess.before"));
        self.drop_others();
        let begun = Instant::now();
        wait_for(LIMIT, "the others beside one that hangs", || self.others_are_filed());
        measures.most("others went on within", begun.elapsed().as_secs_f64(), "s");
        let fed = || daemon.said().into_iter().rev().find(|(_, line)| line == "WATCHDOG=1").map(|(at, _)| at);
        wait_for(LIMIT, "an end of the watchdog's meals", || fed().is_some_and(|at| at.elapsed() > Duration::from_secs(4)));
        daemon.abort();
        self.finish(self.arena.daemon().start(), End::Report);
        measures.count("workers that hang told to the watchdog", 1);
    }
}
