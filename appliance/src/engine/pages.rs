//! Pages of a file that were read and are not needed again.
#![expect(clippy::disallowed_methods, reason = "the kernel's files")]

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::mm::{Advice, madvise};
use rustix::param::page_size;

/// Of a page in `pagemap`: it is in memory, it was swapped out, it is a file's (proc_pid_pagemap(5)).
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_A_FILE: u64 = 1 << 61;

/// Takes the pages of `bytes` out of this process's memory if they are a file's, mapped and unchanged: they come back when they are read. Memory of any
/// other kind stays.
pub(super) fn give_back(bytes: &[u8]) {
    let (start, page) = (bytes.as_ptr() as usize, page_size());
    let pages = start.next_multiple_of(page)..(start + bytes.len()) / page * page;
    if pages.start >= pages.end || !lies_in_a_file(&pages) || !is_unchanged(&pages) {
        return;
    }
    let first = bytes.as_ptr().wrapping_add(pages.start - start).cast_mut();
    // SAFETY: the pages are whole ones of the file, and nobody writes to a graph's weights or to a bundle's files: what is read from them afterwards is
    // the same.
    if let Err(error) = unsafe { madvise(first.cast(), pages.len(), Advice::LinuxDontNeed) } {
        tracing::debug!(%error, "pages_not_given_back");
    }
}

fn lies_in_a_file(pages: &Range<usize>) -> bool {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return false };
    maps.lines().filter_map(of_a_file).any(|file| file.start <= pages.start && pages.end <= file.end)
}

/// The addresses of a line of `maps`, if a file lies there.
fn of_a_file(line: &str) -> Option<Range<usize>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let node = words.nth(3)?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    (node != "0").then_some(address(start)?..address(end)?)
}

/// Whether all pages that are in memory are the file's: a page of a private mapping that was written to is no longer.
fn is_unchanged(pages: &Range<usize>) -> bool {
    let (first, count) = (pages.start / page_size(), pages.len() / page_size());
    let mut words = vec![0; count * size_of::<u64>()];
    let read = File::open("/proc/self/pagemap").and_then(|map| map.read_exact_at(&mut words, (first * size_of::<u64>()) as u64));
    read.is_ok() && words.as_chunks::<8>().0.iter().all(|word| is_the_files(u64::from_ne_bytes(*word)))
}

/// A page that is neither in memory nor swapped out comes from the file when it is read.
fn is_the_files(page: u64) -> bool {
    page & (PRESENT | SWAPPED) == 0 || page & OF_A_FILE != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_from_other_memory() {
        let file = "7f0000000000-7f0000002000 rw-p 00001000 fe:00 1234                       /a/decoder.onnx.data";
        assert_eq!(of_a_file(file), Some(0x7f00_0000_0000..0x7f00_0000_2000));
        assert_eq!(of_a_file("7f0000000000-7f0000002000 r--p 00000000 00:00 0"), None);
        assert_eq!(of_a_file("7ffc1000-7ffc2000 r--p 00000000 00:00 0 [stack]"), None);
    }

    #[test]
    fn a_page_that_was_written_to_is_no_longer_the_files_also_when_it_was_swapped_out() {
        assert!(is_the_files(0) && is_the_files(PRESENT | OF_A_FILE));
        assert!(!is_the_files(PRESENT) && !is_the_files(SWAPPED));
    }

    /// What is given back reads the same afterwards, whatever it is, and only a file's unchanged pages leave the memory.
    #[test]
    fn nothing_is_lost() {
        let page = page_size();
        let mut file = tempfile::tempfile().unwrap();
        let numbers: Vec<u8> = (0..5 * page).map(|place| (place % 251) as u8).collect();
        std::io::Write::write_all(&mut file, &numbers).unwrap();
        let mapped = || {
            // SAFETY: nobody else has the file. ONNX Runtime maps so: private, to be written to.
            unsafe { memmap2::MmapOptions::new().map_copy(&file) }.unwrap()
        };
        let (untouched, mut written) = (mapped(), mapped());
        written[3 * page] = 77;
        let resident = |bytes: &[u8]| {
            let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let inside = |line: &str| of_a_file(line).is_some_and(|range| range.contains(&(bytes.as_ptr() as usize)));
            let mine = maps.lines().skip_while(|line| !inside(line));
            mine.skip(1)
                .find_map(|line| line.strip_prefix("Rss:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
                .unwrap()
        };
        for bytes in [&written[..], &untouched[100..], &untouched[..], &numbers[..], &numbers[7..9]] {
            let before = bytes.to_vec();
            give_back(bytes);
            assert!(bytes == before);
        }
        assert!(resident(&written) > 0 && resident(&untouched) > 0);
        [&written, &untouched].into_iter().for_each(|mapped| give_back(mapped));
        assert!(written[3 * page] == 77 && resident(&written) > 0, "a page that was written to stays");
        assert_eq!(resident(&untouched), 0);
    }
}
