//! The markers between scans.

use super::Found;

/// A marker with its segment, empty where it has none.
pub struct Marker<'a> {
    pub code: u8,
    pub data: &'a [u8],
}

/// Walks the markers of a stream; the reader of a scan moves `at` behind the scan's data.
pub struct Markers<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
    scanned: bool,
}

impl<'a> Markers<'a> {
    pub fn new(bytes: &'a [u8]) -> Found<Self> {
        if !bytes.starts_with(b"\xff\xd8") {
            return Err("it does not begin with a start mark".to_string());
        }
        Ok(Markers { bytes, at: 2, scanned: false })
    }

    /// The next marker. Stray bytes in front of the first scan are passed over, behind it they are damage.
    pub fn next(&mut self) -> Found<Marker<'a>> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let stray = rest.windows(2).position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff));
        let Some(stray) = stray else { return Err("it ends without an end mark".to_string()) };
        if self.scanned && rest[..stray].iter().any(|&byte| byte != 0xff) {
            return Err("bytes that belong to nothing stand behind a scan".to_string());
        }
        let code = rest[stray + 1];
        self.at += stray + 2;
        if matches!(code, 0x01 | 0xd0..=0xd9) {
            return Ok(Marker { code, data: &[] });
        }
        let after = &self.bytes[self.at..];
        let length = after.first_chunk::<2>().map_or(0, |length| usize::from(u16::from_be_bytes(*length)));
        let data = after.get(2..length).ok_or("it ends inside a segment")?;
        self.at += length;
        self.scanned |= code == 0xda;
        Ok(Marker { code, data })
    }
}
