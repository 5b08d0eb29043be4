//! zlib streams, read to their checksum.

use flate2::{Decompress, FlushDecompress, Status};

const STEP: usize = 32 << 10;

/// Hands on what the pieces of one stream hold, in order; what is wrong with it.
///
/// Bytes beyond `most` are damage: a stream of a few bytes can hold gigabytes.
pub fn inflate<'a>(pieces: impl Iterator<Item = &'a [u8]>, most: u64, mut each: impl FnMut(&[u8])) -> Result<(), &'static str> {
    let mut stream = Decompress::new(true);
    let mut out = vec![0; STEP];
    for mut piece in pieces {
        loop {
            let (read, written) = (stream.total_in(), stream.total_out());
            let status =
                stream.decompress(piece, &mut out, FlushDecompress::None).map_err(|_| "the compressed data is damaged")?;
            let (read, written) = ((stream.total_in() - read) as usize, (stream.total_out() - written) as usize);
            each(&out[..written]);
            piece = &piece[read..];
            if status == Status::StreamEnd {
                return Ok(());
            }
            if stream.total_out() > most {
                return Err("the compressed data goes on behind the picture");
            }
            if read == 0 && written == 0 || piece.is_empty() && written < STEP {
                break;
            }
        }
    }
    Err("the compressed data ends before its checksum")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::inflate;

    #[test]
    fn a_stream_is_read_to_its_checksum() {
        let data: Vec<u8> = (0..200_000_u32).map(|at| (at.wrapping_mul(at) >> 7) as u8).collect();
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&data).unwrap();
        let stream = encoder.finish().unwrap();
        let read = |stream: &[u8], most: u64| {
            let mut found = Vec::new();
            inflate(stream.chunks(1000), most, |bytes| found.extend_from_slice(bytes)).map(|()| found)
        };
        assert!(read(&stream, 200_000).unwrap() == data);
        assert!(read(&[stream.as_slice(), b"behind"].concat(), 200_000).unwrap() == data);
        assert!(read(&stream, 100_000).is_err());
        for cut in 1..=4 {
            assert!(read(&stream[..stream.len() - cut], 200_000).is_err(), "{cut} bytes of the checksum are missing");
        }
        let mut wrong = stream.clone();
        *wrong.last_mut().unwrap() ^= 1;
        assert!(read(&wrong, 200_000).is_err());
    }
}
