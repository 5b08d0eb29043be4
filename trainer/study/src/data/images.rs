//! Every image read once: its hash, and whether it can be decoded.

use crate::run::Progress;
use mmlnb_models::{
    hash,
    prepare::decode::{Limits, decode},
    rows::inside,
};
use std::{
    fs,
    path::Path,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

/// What is known of an image file that can be used.
#[derive(Clone, Debug, Default)]
pub(super) struct Looked {
    pub sha256: String,
    pub width: u32,
    pub height: u32,
}

/// Looks at the images of all names, on as many threads as there are cores; an answer or a problem for each, in order.
pub(super) fn look(folder: &Path, names: &[&str]) -> Vec<Result<Looked, String>> {
    let Ok(root) = folder.canonicalize() else {
        return names.iter().map(|_| Err(format!("the image folder {} is not there", folder.display()))).collect();
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(names.len());
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    let mut answers: Vec<Result<Looked, String>> = names.iter().map(|_| Ok(Looked::default())).collect();
    thread::scope(|scope| {
        for _ in 0..threads {
            let (sender, next, root) = (sender.clone(), &next, &root);
            scope.spawn(move || {
                while let Some((at, name)) = Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, names.get(at)?)))
                {
                    if sender.send((at, look_at(root, name))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut progress = Progress::new("checking images", names.len() as u64, 0);
        for (at, answer) in receiver {
            answers[at] = answer;
            progress.advance(1, &[]);
        }
        progress.end();
    });
    answers
}

fn look_at(root: &Path, name: &str) -> Result<Looked, String> {
    let path = inside(root, name)?;
    let limits = Limits::default();
    let size = fs::metadata(&path).map_err(|error| format!("{name}: {error}"))?;
    if size.is_file() && size.len() > limits.max_alloc {
        return Err(format!("{name} has {} MiB; at most {} are read", size.len() >> 20, limits.max_alloc >> 20));
    }
    let bytes = fs::read(&path).map_err(|error| format!("{name} cannot be read: {error}"))?;
    let image = decode(&bytes, &limits).map_err(|error| format!("{name}: {error}"))?;
    Ok(Looked { sha256: hash::sha256_hex(&bytes), width: image.width as u32, height: image.height as u32 })
}
