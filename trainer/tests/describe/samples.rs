//! What is learnt of a row.

use crate::bench::{Bench, quick};
use mmlnb_study::error::StudyError;
use mmlnb_trainer::{
    data::Part,
    describe::{self, EndToken, Recipe, Templates, UNLABELLED},
    error::TrainError,
};

#[test]
fn only_the_answer_and_its_end_are_learnt() {
    for (prompt_in_training, end_token) in [(true, EndToken::ImEnd), (false, EndToken::EndOfText)] {
        let recipe = Recipe { prompt_in_training, end_token, ..quick() };
        let bench = Bench::new(1, &recipe);
        let tokenizer = bench.prompter.tokenizer();
        let sample = Templates::new(&bench.prompter, &recipe).unwrap().sample(50, 40, "Necrosis, no neuropil.").unwrap();
        let learnt: Vec<i64> = sample.labels.iter().copied().filter(|label| *label != UNLABELLED).collect();
        assert_eq!(tokenizer.decode(&learnt, false).unwrap(), format!("Necrosis, no neuropil.{}", end_token.text()));
        let before = sample.ids.len() - learnt.len();
        assert!(sample.labels[..before].iter().all(|label| *label == UNLABELLED), "the mask is one piece");
        let prompt = tokenizer.decode(&sample.ids[..before], false).unwrap();
        assert!(prompt.ends_with("<|im_start|>assistant\n"), "{prompt}");
        assert_eq!(prompt.contains(&bench.prompter.settings.prompt), prompt_in_training);
        assert_eq!(prompt.matches("<|image_pad|>").count(), 4, "56 x 56 pixels are 2 x 2 tokens");
        let shown = Templates::new(&bench.prompter, &recipe).unwrap().shown(&sample);
        assert_eq!(shown.iter().filter(|line| line.contains("learnt")).count(), learnt.len());
        assert!(shown.iter().any(|line| line.contains("x 4")), "{shown:?}");
    }
}

#[test]
fn rows_that_are_too_long_or_empty_are_all_listed_and_never_cut() {
    let recipe = Recipe { max_tokens: 70, ..quick() };
    let mut bench = Bench::new(3, &recipe);
    bench.table.rows[0].description = Some("neuropil ".repeat(60));
    bench.table.rows[2].description = Some("  ".into());
    let templates = Templates::new(&bench.prompter, &recipe).unwrap();
    let error = templates.items(&bench.table, &[Part::Train; 3], Part::Train).unwrap_err();
    let TrainError::Study(StudyError::Data { problems, .. }) = &error else { panic!("{error}") };
    assert!(problems.iter().any(|line| line.starts_with("line 2: ") && line.contains("max_tokens")), "{error}");
    assert!(problems.iter().any(|line| line.starts_with("line 4: ") && line.contains("no description")), "{error}");
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn an_unknown_target_names_the_near_ones() {
    let asked = |targets: &str| -> Result<usize, TrainError> {
        let recipe =
            Recipe { targets: toml::from_str::<toml::Table>(targets).unwrap()["targets"].clone().try_into().unwrap(), ..quick() };
        describe::check_targets(&recipe, &Bench::new(1, &recipe).prompter.config)
    };
    let error = asked("targets = [\"q_pro\", \"v_proj\"]").unwrap_err().to_string();
    assert!(error.contains("`q_pro`") && error.contains("did you mean q_proj"), "{error}");
    let error = asked("targets = [\"qkv\"]").unwrap_err().to_string();
    assert!(error.contains("vision_blocks = true"), "{error}");
    assert_eq!(asked("targets = [\"q_proj\", \"down_proj\"]").unwrap(), 6, "three layers with two each");
    assert_eq!(asked("targets = \"all-linear\"").unwrap(), 21, "three layers with seven each");
}
