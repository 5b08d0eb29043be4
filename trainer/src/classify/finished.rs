//! What is made of a trained classifier: calibrated, measured, written.

use super::{
    activations::{self, IMAGES},
    assess::{PartMeasures, measures, predictions},
    calibrate::{Calibrated, Found, calibrate},
    corpus::{Corpus, Known, Opinion, judge},
    descriptions::Described,
    folder::{self, Extras},
    given::Given,
    known_answers,
    network::Network,
    options::Options,
    texts::{Cut, Written},
    train::Best,
};
use crate::{
    data::{Overlap, Part, RoleCounts, Roles, Summary, TrainingData},
    diagnostics::TextFacts,
    error::TrainError,
    report,
    run::{Kind, RunFolder, predictions::Prediction},
};
use mmlnb_models::config::ClassifierConfig;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tch::Tensor;

/// `measures.json`: everything measured on the best epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunMeasures {
    /// What was trained and measured on.
    pub data: Summary,
    /// The best epoch and why it is the best.
    pub best: Best,
    /// `macro_f1` or, for the paper's protocol, `weighted_f1` on the reported part.
    pub chosen_by: String,
    /// The rows that chose the epoch, that calibrated, and that are reported.
    #[serde(default)]
    pub roles: RoleCounts,
    /// The validation part: with a test part the rows that chose the epoch and those that calibrated; without one the reported rows alone.
    pub validation: PartMeasures,
    /// The test part, where there is one.
    pub test: Option<PartMeasures>,
    /// How temperature and thresholds were found.
    pub calibration: Calibrated,
    /// Texts that are longer than the encoder reads, of all parts.
    pub cut: Option<Cut>,
    /// How right the describer's texts are on the rows that trained and on the others, where that can be compared.
    #[serde(default)]
    pub text_facts: Option<TextFacts>,
    /// What a reader has to know.
    pub warnings: Vec<String>,
}

/// A trained network with everything that its measures need.
pub(super) struct Finished<'f> {
    pub options: &'f Options,
    pub given: &'f Given,
    pub config: &'f ClassifierConfig,
    pub corpus: &'f Corpus,
    pub network: &'f Network,
    pub texts: Option<&'f Described>,
    pub trained: &'f TrainingData,
}

impl Finished<'_> {
    /// Calibrates, measures, and writes all of it.
    pub fn measure(&self, mut run: RunFolder, best: Best, note: Option<String>) -> Result<RunMeasures, TrainError> {
        let Given { table, split, .. } = self.given;
        let recipe = &self.options.recipe;
        let judged = |rows: &[usize]| judge(self.network, self.corpus, rows, &Known::nothing());
        let Roles { fitted, reported, .. } = &self.given.roles;
        let trained = split.rows(Part::Train);
        let (fitted_said, trained_said) = (judged(fitted)?, judged(&trained)?);
        let mut found = calibrate(recipe, table, self.corpus, self.texts, (fitted, &fitted_said), (&trained, &trained_said))?;
        found.calibration.patient_split = Some(split.by_patient);
        found.calibration.protocol = Some(self.options.protocol.name(table));
        found.calibration.describer_overlap = matches!(self.given.overlap, Overlap::Allowed { .. });
        found.calibration.describer_unknown = self.given.overlap == Overlap::Unknown;
        let test = split.rows(Part::Test);
        let validation = if test.is_empty() { reported.clone() } else { split.rows(Part::Validation) };
        let rows: Vec<(usize, Part)> =
            validation.iter().map(|row| (*row, Part::Validation)).chain(test.iter().map(|row| (*row, Part::Test))).collect();
        let said: Vec<Opinion> = judged(&validation)?.into_iter().chain(judged(&test)?).collect();
        let items = predictions(table, self.corpus, self.texts, &rows, &said, found.judge())?;
        let measured = self.measures(best, &found, &items, &rows, note)?;
        self.write(&mut run, &found, &measured, &items, (&rows, &said))?;
        report::write(run.path(), &self.options.images)?;
        run.finish()?;
        Ok(measured)
    }

    fn measures(
        &self,
        best: Best,
        found: &Found,
        items: &[Prediction],
        rows: &[(usize, Part)],
        note: Option<String>,
    ) -> Result<RunMeasures, TrainError> {
        let of = |part: Part| -> Result<Option<PartMeasures>, TrainError> {
            let items: Vec<Prediction> = items.iter().filter(|item| item.part == part).cloned().collect();
            if items.is_empty() {
                return Ok(None);
            }
            let rows = rows.iter().filter(|(_, other)| *other == part).map(|(row, _)| *row);
            let cut: Vec<Option<usize>> = rows.map(|row| self.corpus.written.as_ref().map(|written| written.lost(row))).collect();
            measures(&self.given.table, &items, found.calibration.temperature, &cut, self.options.recipe.seed)
                .map(Some)
                .map_err(|error| TrainError::Failed(format!("the part {part} cannot be measured: {error}")))
        };
        let mut warnings = self.given.summary.warnings.clone();
        warnings.extend(note);
        warnings.extend(self.given.roles.shared.clone());
        warnings.extend(self.given.provenance_warnings());
        let text_facts = self.texts.map(|texts| self.given.text_facts(texts)).transpose()?.flatten();
        warnings.extend(text_facts.iter().filter(|facts| facts.tuned != Some(0)).map(TextFacts::words));
        warnings.extend(found.report.temperature.warning.clone());
        warnings.extend(found.report.abstention.reason.clone());
        warnings.extend(found.report.missing_limits.iter().cloned());
        let by_paper = self.given.split.reported_is_validation;
        Ok(RunMeasures {
            data: self.given.summary.clone(),
            best,
            chosen_by: if by_paper { "weighted_f1 on the reported part" } else { "macro_f1" }.into(),
            roles: self.given.roles.counts(),
            validation: of(Part::Validation)?.ok_or_else(|| TrainError::Failed("the validation part is empty".into()))?,
            test: of(Part::Test)?,
            calibration: found.report.clone(),
            text_facts,
            cut: self.corpus.written.as_ref().map(Written::cut),
            warnings,
        })
    }

    fn write(
        &self,
        run: &mut RunFolder,
        found: &Found,
        measured: &RunMeasures,
        items: &[Prediction],
        (rows, said): (&[(usize, Part)], &[Opinion]),
    ) -> Result<(), TrainError> {
        let table = &self.given.table;
        let reported = measured.test.as_ref().unwrap_or(&measured.validation);
        let short = json!({
            "part": if measured.test.is_some() { Part::Test } else { Part::Validation },
            "estimates": reported.estimates,
            "accepted": reported.accepted,
        });
        let extras = Extras {
            recipe: self.options.recipe.as_json()?,
            calibration: Some(found.calibration.clone()),
            measures: Some(short),
            data_sha256: Some(table.sha256()),
            neighbours: found.calibration.novelty.as_ref().map(|_| found.neighbours.clone()),
            training_data: self.trained.clone(),
        };
        let tensors: Vec<(String, Tensor)> =
            self.network.leaves().map(|leaf| (leaf.name.clone(), leaf.tensor.detach())).collect();
        let tokenizer = self.given.start.tokenizer.as_deref();
        let answers = known_answers::record(table, self.texts, rows, said)?;
        let looked_at = activations::spread(&self.given.split.rows(Part::Train), IMAGES);
        let seen = activations::see(self.network, self.corpus, &looked_at)?;
        run.replace("best", |folder| {
            folder::write(folder, self.config, &tensors, tokenizer, &extras)?;
            if !seen.is_empty() {
                activations::write(folder, &seen, table.sha256())?;
            }
            known_answers::write(folder, &answers)
        })?;
        let path = run.path().to_path_buf();
        crate::run::predictions::write(&path, items)?;
        let numbers: Vec<(&str, f64)> =
            reported.classes.numbers().into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        if measured.test.is_some() {
            run.log(Kind::Test, 0, measured.best.epoch as u64, &numbers)?;
        }
        let text = serde_json::to_string_pretty(measured).map_err(|error| TrainError::Failed(error.to_string()))?;
        run.write("measures.json", (text + "\n").as_bytes())
    }
}
