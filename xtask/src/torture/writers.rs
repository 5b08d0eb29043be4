//! F7: the ways in which a file is written that is not whole for a while.

use super::{
    arena::{Arena, image_as, wait_for_ends},
    figure::{Figure, Measures, Step},
};
use image::ImageFormat;
use mmlnb_models::random::Draw;
use mmlnb_tests::{Dropped, End, drop_by_copy, drop_in_pieces, drop_size_first};
use std::{
    fs::{self, File},
    io::Write,
    thread::sleep,
    time::Duration,
};

/// Writers.
pub static F7: Figure = Figure {
    name: "F7",
    what: "writers that are slow, set the size first, close and open again, rename at the end, or append the rest after up to 4 s, a fifth each, settling for 0.3 s; PNG, JPEG, TIFF, BMP",
    wanted: "no early read, none stuck, invariant I",
    unit: "files",
    full: || 2500,
    short: None,
    step: 250,
    alone: true,
    hindrance: || None,
    play,
};

/// The kinds of writers, by round.
const WRITERS: [&str; 5] =
    ["written slowly", "of a size set first", "closed and opened again", "renamed at the end", "appended to late"];

fn play(step: &Step) -> Measures {
    let arena = Arena::new(step, 0);
    // The writers' pauses are longer than the settling: only the look at the end of the file can tell.
    arena.set("settle_ms", "300");
    arena.set("incomplete_s", "120");
    let mut daemon = arena.daemon().start();
    let files: Vec<(u64, Vec<u8>, &str)> = step
        .rounds()
        .map(|round| {
            let (format, ending) =
                [(ImageFormat::Png, "png"), (ImageFormat::Jpeg, "jpg"), (ImageFormat::Tiff, "tif"), (ImageFormat::Bmp, "bmp")]
                    [(round / 5 % 4) as usize];
            (round, image_as(&mut step.draw(round), format, 96), ending)
        })
        .collect();
    std::thread::scope(|scope| {
        for (round, bytes, ending) in &files {
            let (arena, mut draw) = (&arena, Draw::new(*round, "writer", &[]));
            scope.spawn(move || {
                sleep(Duration::from_millis(draw.below(20_000) as u64));
                write(arena, *round, bytes, ending, &mut draw);
            });
        }
    });
    wait_for_ends(&arena, &mut daemon, files.len(), Duration::from_secs(120), "after the writers");
    assert_eq!(daemon.stop(Duration::from_secs(30)), 0, "a clean stop");
    let dropped: Vec<Dropped> = files.iter().map(|(_, bytes, _)| Dropped::new(bytes, End::Report)).collect();
    // An early read would be a row of a content that nobody dropped, or a second row.
    arena.assert_each_ended_once(&dropped, "after the writers");
    let mut measures = Measures::default();
    for (round, ..) in &files {
        measures.count(WRITERS[(round % 5) as usize], 1);
    }
    measures
}

fn write(arena: &Arena, round: u64, bytes: &[u8], ending: &str, draw: &mut Draw) {
    let target = arena.inbox(&format!("case/{round}.{ending}"));
    let mut pause = |most: usize| Duration::from_millis(draw.below(most) as u64);
    match round % 5 {
        0 => {
            fs::create_dir_all(arena.inbox("case")).expect("the inbox is writable");
            let mut file = File::create(&target).expect("the inbox is writable");
            for piece in bytes.chunks(bytes.len().div_ceil(20)) {
                file.write_all(piece).expect("the inbox is writable");
                let long = pause(10) < Duration::from_millis(1);
                sleep(pause(if long { 3000 } else { 200 }));
            }
        }
        1 => drop_size_first(bytes, &target, pause(2000)),
        2 => drop_in_pieces(bytes, &target, 5, pause(1500)),
        3 => {
            let part = target.with_extension(format!("{ending}.part"));
            drop_in_pieces(bytes, &part, 3, pause(800));
            fs::rename(&part, &target).expect("the inbox is writable");
        }
        _ => {
            let cut = 1 + pause(bytes.len() - 1).as_millis() as usize;
            drop_by_copy(&bytes[..cut], &target);
            sleep(pause(4000));
            let mut file = File::options().append(true).open(&target).expect("the file stays while it is written");
            file.write_all(&bytes[cut..]).expect("the inbox is writable");
        }
    }
}
