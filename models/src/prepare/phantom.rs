//! The mark in the files of drawn test images, so that none passes for tissue.

/// The text that a phantom's file holds: in a PNG as `Description`, in a JPEG as comment.
pub const MARK: &str = "phantom: synthetic image drawn by mmlnb-train phantom, not tissue";

/// Bytes in which a writer of phantoms puts the mark.
const START: usize = 1024;

/// Whether an image file says that it is a phantom.
pub fn is_marked(bytes: &[u8]) -> bool {
    bytes[..bytes.len().min(START)].windows(MARK.len()).any(|part| part == MARK.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_found_near_the_start_only() {
        let file = |before: usize| [vec![0x89; before], MARK.as_bytes().to_vec(), vec![0; 40]].concat();
        assert!(is_marked(&file(50)));
        assert!(!is_marked(&file(5000)) && !is_marked(b"") && !is_marked(&MARK.as_bytes()[1..]));
    }
}
