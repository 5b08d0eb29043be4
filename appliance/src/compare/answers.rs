//! What both bundles say about a round of images: first the reference, whose logits are kept, then the other, on the reference's way and on its own.

use std::sync::Arc;

use super::scratch::Scratch;
use super::side::{Along, Side, Written};
use crate::assess::each::each;
use crate::assess::pipeline::{self, Patch};
use crate::assess::reader::{Reader, Settings};
use crate::error::{Exit, Failure};
use crate::ledger::NewReport;
use crate::qualify::rows::Row;
use crate::report::hex;

/// What a bundle says about an image.
pub struct Answer {
    /// Its greedy text; none of a bundle that only classifies.
    pub written: Option<Written>,
    /// Its report on that text, or on the table's; none of a bundle that only describes.
    pub report: Option<NewReport>,
}

/// Both bundles on an image.
pub struct Compared {
    /// The image.
    pub row: Row,
    /// The reference's answer.
    pub reference: Answer,
    /// The other's.
    pub bundle: Answer,
    /// The other on the reference's way; none without describers.
    pub along: Option<Along>,
}

/// Images that both bundles are asked about, one after the other.
pub struct Round<'a> {
    /// The images.
    pub rows: &'a [Row],
    /// Said beside the bundle's name where progress is told.
    pub title: String,
    /// Where the reference's logits are kept; none without describers.
    pub scratch: Option<Arc<Scratch>>,
    /// Whether the bundles classify.
    pub classifies: bool,
    /// How images are read.
    pub reading: &'a Settings,
}

impl Round<'_> {
    /// The reference's answers, by the images' places; none for one that failed.
    ///
    /// # Errors
    /// What is no image's own fault; those go to `failed`.
    pub fn ask_reference(&self, side: &Side, failed: &mut Vec<String>) -> Result<Vec<Option<Answer>>, Failure> {
        let all: Vec<(usize, ())> = (0..self.rows.len()).map(|place| (place, ())).collect();
        self.ask(side, &all, failed, |place, (), patch| {
            let region = self.scratch.as_ref().map(|scratch| scratch.region(place));
            let written = region.map(|region| side.write(patch, Some(region))).transpose()?;
            self.answer(side, place, patch, written)
        })
    }

    /// The other bundle's answers beside the reference's, for the images that have both.
    ///
    /// # Errors
    /// As [`Round::ask_reference`].
    pub fn ask_bundle(
        &self,
        side: &Side,
        reference: Vec<Option<Answer>>,
        failed: &mut Vec<String>,
    ) -> Result<Vec<Compared>, Failure> {
        let answered: Vec<(usize, Answer)> =
            reference.into_iter().enumerate().filter_map(|(place, answer)| Some((place, answer?))).collect();
        let found = self.ask(side, &answered, failed, |place, reference, patch| {
            let (along, written) = match self.scratch.as_ref().zip(reference.written.as_ref()) {
                Some((scratch, way)) => {
                    let (along, led) = side.follow(patch, &way.tokens, scratch.region(place))?;
                    // Greedy: whose most likely token is the reference's everywhere writes the reference's text.
                    let written = match along.same.iter().all(|same| *same) {
                        true => Written { tokens: way.tokens.clone(), description: led },
                        false => side.write(patch, None)?,
                    };
                    (Some(along), Some(written))
                }
                None => (None, None),
            };
            Ok((along, self.answer(side, place, patch, written)?))
        })?;
        let both = answered.into_iter().zip(found).filter_map(|((place, reference), found)| {
            let (along, bundle) = found?;
            Some(Compared { row: self.rows[place].clone(), reference, bundle, along })
        });
        Ok(both.collect())
    }

    fn answer(&self, side: &Side, place: usize, patch: &Patch, written: Option<Written>) -> Result<Answer, Failure> {
        let description = written.as_ref().map(|written| &written.description);
        let given = self.rows[place].description.as_deref();
        let report = self.classifies.then(|| side.report(patch, description, given)).transpose()?;
        Ok(Answer { written, report })
    }

    /// One answer for each of the images, which are places with what goes with them; an image's own fault is noted, and leaves none.
    fn ask<I: Sync, A: Send>(
        &self,
        side: &Side,
        images: &[(usize, I)],
        failed: &mut Vec<String>,
        answer: impl Fn(usize, &I, &Patch) -> Result<A, Failure> + Sync,
    ) -> Result<Vec<Option<A>>, Failure> {
        let mut answers: Vec<Option<A>> = images.iter().map(|_| None).collect();
        let title = format!("{}{}: ", side.name, self.title);
        let one = |(place, with): &(usize, I), reader: &mut Reader| answer(*place, with, &open(&self.rows[*place], reader)?);
        each(&title, images, side.slots(), self.reading, one, |at, found| match found {
            Ok(found) => {
                answers[at] = Some(found);
                Ok(())
            }
            Err(failure) if failure.exit == Exit::Usage => {
                let row = &self.rows[images[at].0];
                failed.push(format!("line {}: {}: {} ({})", row.line, row.file_name, failure.problems[0].what, side.name));
                Ok(())
            }
            Err(failure) => Err(failure),
        })?;
        Ok(answers)
    }
}

/// Reads an image anew.
fn open(row: &Row, reader: &mut Reader) -> Result<Patch, Failure> {
    let patch = pipeline::open(reader, &row.path)?;
    match hex(&patch.sha256) == row.sha256 {
        true => Ok(patch),
        false => Err(Failure::new(Exit::Usage, "the file changed while it was read", row.path.display().to_string(), "")),
    }
}
