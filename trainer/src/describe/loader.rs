//! Batches are made on a thread of their own, a few ahead of the one that is computed.

use super::{images::Images, items::Item, order::Micro, sample::Batch};
use crate::{error::TrainError, generate::Prompter};
use std::{sync::mpsc::sync_channel, thread};

/// Windows that wait, beside the one that is computed.
const AHEAD: usize = 2;

/// Reads images and pads samples.
#[derive(Clone, Copy, Debug)]
pub struct Loader<'d> {
    /// All samples.
    pub items: &'d [Item],
    /// Where their images come from.
    pub images: &'d Images,
    /// How images are prepared.
    pub prompter: &'d Prompter,
    /// What fills up shorter rows.
    pub pad: i64,
}

impl Loader<'_> {
    /// A batch of these samples.
    ///
    /// # Errors
    /// Images that cannot be read.
    pub fn batch(&self, micro: &Micro) -> Result<Batch, TrainError> {
        let sample = |number: &usize| {
            let item = &self.items[*number];
            Ok((item.sample.clone(), self.images.of(item, self.prompter)?))
        };
        let samples = micro.iter().map(sample).collect::<Result<Vec<_>, TrainError>>()?;
        Batch::new(samples, self.pad, &self.prompter.config).map_err(|error| TrainError::Failed(error.to_string()))
    }

    /// Gives the batches of each window, in order, to `work`, until there are none left or it returns false.
    ///
    /// # Errors
    /// Those of [`Loader::batch`] and of `work`.
    pub fn each(
        &self,
        windows: &[Vec<Micro>],
        mut work: impl FnMut(Vec<Batch>) -> Result<bool, TrainError>,
    ) -> Result<(), TrainError> {
        let (sender, receiver) = sync_channel(AHEAD);
        thread::scope(|scope| {
            scope.spawn(move || {
                for window in windows {
                    let batches: Result<Vec<Batch>, TrainError> = window.iter().map(|micro| self.batch(micro)).collect();
                    let failed = batches.is_err();
                    // Nobody listens any more: the work has ended early.
                    if sender.send(batches).is_err() || failed {
                        return;
                    }
                }
            });
            // Dropped at the end of this closure, so that the thread, which may wait for room, ends.
            let receiver = receiver;
            while let Ok(batches) = receiver.recv() {
                if !work(batches?)? {
                    break;
                }
            }
            Ok(())
        })
    }
}
