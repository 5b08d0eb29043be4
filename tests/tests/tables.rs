//! Tables as people make them: what is wrong with one is listed by line before anything is started, and what is right passes.

use std::fs;
use std::path::{Path, PathBuf};

use mmlnb_tests::{Ran, binary, command, golden, run};
use tempfile::TempDir;

/// A desk with 36 images, the small checkpoints, and tables.
struct Desk(TempDir);

impl Desk {
    fn new() -> Desk {
        let desk = Desk(tempfile::tempdir().expect("a temporary folder can be made"));
        fs::create_dir(desk.path("images")).expect("the folder is writable");
        for at in 0..36u8 {
            let colour = |x: u32, y: u32| image::Rgb([200 - at, (x * 3) as u8, (y * 3) as u8]);
            image::RgbImage::from_fn(64, 64, colour)
                .save(desk.path(&format!("images/{at:02}.png")))
                .expect("the folder is writable");
        }
        let channels = fs::read_to_string(golden("vgg16/config.json")).expect("the golden data is there");
        let channels: serde_json::Value = serde_json::from_str(&channels).expect("it is JSON");
        let classifier = format!(
            "image_weights = {:?}\ntext_weights = {:?}\nchannels = {}\nimage_size = [64, 64]\nmax_length = 32\nepochs = 3\n",
            golden("vgg16/model.safetensors").display().to_string(),
            golden("bert").display().to_string(),
            channels["channels"]
        );
        fs::write(desk.path("classifier.toml"), classifier).expect("the folder is writable");
        fs::write(desk.path("describer.toml"), "rank = 2\nepochs = 1\nimage_size = [56, 56]\nbase_dtype = \"f32\"\n")
            .expect("the folder is writable");
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A dry run of both stages on a table.
    fn tried(&self, table: &Path) -> [Ran; 2] {
        ["describe", "classify"].map(|stage| {
            let mut command = command(&binary("mmlnb-train"));
            command.current_dir(self.0.path()).env("OMP_NUM_THREADS", "1");
            command.args([stage, "--images", "images", "--output", "run", "--dry-run", "--data"]).arg(table);
            match stage {
                "describe" => command.args(["--config", "describer.toml", "--base"]).arg(golden("qwen2_5_vl")),
                _ => command.args(["--config", "classifier.toml"]),
            };
            run(&mut command)
        })
    }
}

fn stored(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tables").join(name)
}

#[test]
fn every_table_passes_or_is_refused_with_its_lines() {
    let desk = Desk::new();
    let wrong: [(&str, &[&str]); 8] = [
        ("class_float.csv", &["line 12: class `2` is spelled `2.0` in line 6", "differ only in spelling"]),
        ("group_case.csv", &["line 3: group `p00` is spelled `P00` in line 2", "line 5: group `p01`"]),
        ("group_zero.csv", &["line 3: group `1` is spelled `001` in line 2", "line 37: group `18`"]),
        ("header_Group.csv", &["line 1: the column `Group` is not read, and nearly the name of `group`"]),
        ("header_Split.csv", &["line 1: the column `Split` is not read, and nearly the name of `split`"]),
        ("quote_eof.csv", &["line 21: a quote opens a text here that no quote closes"]),
        ("special_tokens.csv", &["line 4: ", "<|im_end|>", "line 5: ", "line 6: ", "line 7: ", "line 8: "]),
        ("texts_empty.csv", &["line 4: ", "line 5: ", "line 6: ", "line 7: ", "line 8: ", "line 9: ", "line 10: "]),
    ];
    for (table, parts) in wrong {
        for ran in desk.tried(&stored(table)) {
            assert_eq!(ran.code, 2, "{table}: {}", ran.err);
            parts.iter().for_each(|part| assert!(ran.err.contains(part), "{table}: {part} is not in {}", ran.err));
        }
    }
    for table in ["ok.csv", "split_ok.csv"] {
        desk.tried(&stored(table)).into_iter().for_each(|ran| drop(ran.expect(0)));
    }
    assert!(!desk.path("run").exists());
}

#[test]
fn variants_of_a_right_table_pass_or_are_refused() {
    let desk = Desk::new();
    let right = fs::read_to_string(stored("split_ok.csv")).expect("the table is there");
    let (header, rows) = right.split_once('\n').expect("it has rows");
    let with = |from: &str, to: &str| format!("{header}\n{}", rows.replacen(from, to, 1));
    let wrong = [
        (with("UD,P00", "UD\u{a0},P00"), "class `UD"),
        (with("UD,P00", "\u{200b}UD,P00"), "class `"),
        (with(",P00,", ",P\u{ff10}0,"), "group `P00` is spelled"),
        (with(",P00,", ",#N/A,"), "group `#N/A` is no value"),
        (with("P00,train", "P00,Train"), "split `train` is spelled `Train`"),
        (with("00.png,", "00.png,x\""), "double quote"),
        (right.replacen(",split", ",split\u{a0}", 1), "nearly the name of `split`"),
        (right.replacen("file_name,", "filename,", 1), "nearly the name of `file_name`"),
        (with("01.png", "./00.png"), "stands in line 2 too"),
        (with("field 0", "field <|image_pad|>"), "<|image_pad|>"),
    ];
    let file = desk.path("variant.csv");
    for (text, part) in wrong {
        fs::write(&file, &text).expect("the folder is writable");
        for ran in desk.tried(&file) {
            assert!(ran.code == 2 && ran.err.contains(part), "{part} is not in {}", ran.err);
        }
    }
    fs::write(&file, with("field 0", "field [SEP]")).expect("the folder is writable");
    let [describe, classify] = desk.tried(&file);
    assert!(classify.code == 2 && classify.err.contains("line 2: ") && classify.err.contains("[SEP]"), "{}", classify.err);
    describe.expect(0);
    fs::write(
        &file,
        right
            .replacen(",split", ",split,scanner", 1)
            .replace(",train\n", ",train,x\n")
            .replace(",test\n", ",test,x\n")
            .replace(",validation\n", ",validation,x\n"),
    )
    .expect("the folder is writable");
    for ran in desk.tried(&file) {
        assert!(ran.expect(0).err.contains("not read: scanner"));
    }
}

#[test]
fn a_long_list_ends_with_the_count() {
    let desk = Desk::new();
    let file = desk.path("long.csv");
    let rows: String = (0..20_000).map(|_| "00.png,t,UD,P1\n").collect();
    fs::write(&file, format!("file_name,description,class,group\n01.png,t,PD,P2\n{rows}")).expect("the folder is writable");
    for ran in desk.tried(&file) {
        assert_eq!(ran.code, 2, "{}", ran.err);
        assert!(ran.err.contains("19999 problems") && ran.err.contains("and 19899 more of this kind"), "{}", ran.err);
        assert!(ran.err.lines().count() < 130, "{}", ran.err.lines().count());
    }
}
