//! GPT-2's printable alphabet for bytes, in which byte-level vocabularies are written.

/// The character that stands for each byte.
pub fn alphabet() -> [char; 256] {
    let mut next = 256;
    std::array::from_fn(|byte| {
        let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if printable { byte as u32 } else { next };
        next += u32::from(!printable);
        char::from_u32(code).expect("codes below 0x180 are characters")
    })
}

/// The characters of the alphabet in the order of their codes: the first 256 entries of a vocabulary.
pub fn sorted() -> Vec<char> {
    let mut characters = alphabet().to_vec();
    characters.sort_unstable();
    characters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_entries() {
        let alphabet = alphabet();
        assert_eq!((alphabet[b' ' as usize], alphabet[b'\n' as usize], alphabet[b'a' as usize]), ('Ġ', 'Ċ', 'a'));
        let sorted = sorted();
        assert_eq!((sorted[0], sorted[255]), ('!', 'Ń'));
        assert!(sorted.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
