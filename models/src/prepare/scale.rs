//! The scale that an image file states.

/// Micrometres a pixel if the file states a resolution that a microscope can have (0.05 to 5); screen resolutions are none.
pub fn microns_per_pixel(bytes: &[u8]) -> Option<f64> {
    png_resolution(bytes).or_else(|| jfif_resolution(bytes)).filter(|scale| (0.05..=5.0).contains(scale))
}

/// PNG's `pHYs` in pixels a metre.
fn png_resolution(bytes: &[u8]) -> Option<f64> {
    let mut rest = bytes.strip_prefix(b"\x89PNG\r\n\x1a\n")?;
    loop {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (kind, data) = after.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes(*length) as usize;
        match kind {
            b"pHYs" => {
                let (x, unit) = (u32::from_be_bytes(*data.first_chunk()?), *data.get(8)?);
                return (unit == 1 && x > 0).then(|| 1e6 / f64::from(x));
            }
            b"IDAT" | b"IEND" => return None,
            _ => rest = data.get(length.checked_add(4)?..)?,
        }
    }
}

/// JFIF's density in dots an inch or centimetre.
fn jfif_resolution(bytes: &[u8]) -> Option<f64> {
    let rest = bytes.strip_prefix(b"\xff\xd8\xff\xe0")?;
    if rest.get(2..7)? != b"JFIF\0" {
        return None;
    }
    let density = f64::from(u16::from_be_bytes([*rest.get(10)?, *rest.get(11)?]));
    match rest.get(9)? {
        1 => Some(25_400.0 / density),
        2 => Some(10_000.0 / density),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_microscopes_scales_count() {
        let png = |per_metre: u32| {
            let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x09pHYs".to_vec();
            bytes.extend(per_metre.to_be_bytes());
            bytes.extend(per_metre.to_be_bytes());
            bytes.extend([1, 0, 0, 0, 0]);
            bytes
        };
        assert_eq!(microns_per_pixel(&png(2_000_000)), Some(0.5));
        assert_eq!(microns_per_pixel(&png(2835)), None);
        assert_eq!(microns_per_pixel(b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\x02\x4e\x20\x4e\x20"), Some(0.5));
        assert_eq!(microns_per_pixel(b"nothing"), None);
    }
}
