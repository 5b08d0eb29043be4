//! Every reason why a file has no report, every reason of a verdict, and every flag of a report, in words.

use mmlnb_models::verdict::Reason;

/// What a technician reads about a code.
#[derive(Clone, Copy, Debug)]
pub struct Meaning {
    /// The code.
    pub code: &'static str,
    /// What happened.
    pub title: &'static str,
    /// What to do now.
    pub what_to_do: &'static str,
}

const fn meaning(code: &'static str, title: &'static str, what_to_do: &'static str) -> Meaning {
    Meaning { code, title, what_to_do }
}

/// All codes.
pub const CODES: &[Meaning] = &[
    meaning("truncated", "The file ends in the middle", "Copy it again from the scanner or export it again."),
    meaning("zero_bytes", "The file is empty", "Copy it again from the scanner or export it again."),
    meaning(
        "not_an_image",
        "This is not an image",
        "Drop PNG, JPEG, TIFF or BMP files. A file is recognised by its content, not by its name.",
    ),
    meaning("decode_failed", "The image is damaged", "Export it again, best as PNG."),
    meaning("damaged", "Part of the image is lost or changed", "Copy it again from the scanner or export it again, best as PNG."),
    meaning("several_pages", "The file holds several pictures", "Export each picture as a file of its own."),
    meaning(
        "decoder_died",
        "The image cannot be decoded",
        "Export it again, best as PNG. If that does not help, send the file to whoever maintains the appliance.",
    ),
    meaning("too_large", "The image has too many pixels", "Export a smaller patch, for example 1024 x 1024 pixels."),
    meaning("too_small", "The image is too small", "Export a larger patch, for example 1024 x 1024 pixels."),
    meaning("file_too_large", "The file is too large", "Export a smaller patch or compress it without loss, for example as PNG."),
    meaning("animated", "This is an animation", "Export one frame as PNG."),
    meaning("unsupported", "This kind of image is not read", "Export it as PNG with 8 bits a channel."),
    meaning(
        "whole_slide",
        "This is a whole slide",
        "The appliance reads patches. Export some in QuPath: File > Export images > Original pixels, for example 1024 px at 20x, and drop those. The slide stays where it is; remove it when you no longer need it here.",
    ),
    meaning("not_a_file", "This is not a file", "Drop the image itself, not a link or a special file."),
    meaning(
        "crashed_repeatedly",
        "The program ended several times while it worked on this image",
        "The image was set aside so that the others go on. Send it to whoever maintains the appliance, or try it once more with retry.",
    ),
    meaning(
        "timed_out",
        "The image took too long",
        "Try it once more with retry. If that does not help, send it to whoever maintains the appliance.",
    ),
    meaning(
        "no_numbers",
        "The model gave no valid numbers for this image",
        "Check the bundle with another image; if others work, send this one to whoever maintains the appliance.",
    ),
    meaning(
        "unsuitable_image",
        "The model cannot take this image",
        "Export a patch of the usual shape and size, for example 1024 x 1024 pixels.",
    ),
    meaning(
        "engine_failed",
        "The model failed on this image",
        "Try it once more with retry. If that does not help, see the log of the service.",
    ),
    meaning(
        "unreadable",
        "The appliance may not read this file",
        "Let the group mmlnb-drop read it (mode 0640 or wider). It is then taken by itself.",
    ),
];

/// The meaning of a code; one that a later version wrote gets a general text.
pub fn find(code: &str) -> Meaning {
    let known = CODES.iter().find(|meaning| meaning.code == code).copied();
    known.unwrap_or(meaning("unknown", "The file has no report", "See the message and the log of the service."))
}

/// What a reason of a verdict means; the code itself where a later version wrote it.
pub fn reason(code: &str) -> &str {
    match Reason::with_code(code) {
        Some(reason) => reason.words(),
        None => code,
    }
}

/// What a flag of a report means.
pub fn flag(flag: &str) -> &str {
    match flag {
        "disagree" => "Image and text disagree: the image alone leads to another class. Look at the patch.",
        "low_probability" => "No class has a high probability.",
        "description_cut" => "The description reached its longest length and ends in the middle.",
        "description_partly_read" => "The classifier read only the first part of the description; the rest is marked.",
        "description_generic" => {
            "The description says little about this image: it is written for others too, repeats itself, or is empty."
        }
        "stain_left" => "The stain could not be normalised (too little tissue, or one dye only); the patch was judged as it is.",
        "mostly_background" => "Most of the patch is empty glass.",
        "blurred" => "The patch seems to be out of focus.",
        "unusual_size" => "The patch is much longer than wide; its shape is changed for the model.",
        "recompressed_same_pixels" => "The same pixels were dropped before as another file.",
        "same_image_other_case" => "The same image was dropped in another case: possible mix-up of samples.",
        "fallback_cpu" => "Computed on another device than the one that was asked for.",
        "slow" => "This took unusually long.",
        "phantom" => "This is a drawn test image (a phantom), not tissue: what is said of it says nothing about a patient.",
        "blank_tail" => {
            "A part of the file was perhaps never written (only reserved, or zeros to its end); it was judged after a long wait."
        }
        "damaged" => "The file is damaged: parts of the picture may be wrong.",
        "trailing_bytes" => "Bytes follow the end of the image.",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_decoder_has_a_meaning() {
        for code in [
            "zero_bytes",
            "not_an_image",
            "truncated",
            "decode_failed",
            "damaged",
            "several_pages",
            "too_large",
            "too_small",
            "whole_slide",
            "animated",
            "unsupported",
        ] {
            assert_eq!(find(code).code, code);
        }
        assert_eq!(find("from_the_future").code, "unknown");
    }
}
