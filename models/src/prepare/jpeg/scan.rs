//! Scans: which components and coefficients they bring, and their way through the blocks.

use std::ops::Range;

use super::Found;
use super::blocks::{self, Course};
use super::entropy::{Bits, Huffman};
use super::frame::Frame;
use super::tables::Tables;
use super::transform;

/// A scan's header with the tables that it uses.
pub struct Scan {
    parts: Vec<Part>,
    /// First and last coefficient in zigzag order.
    band: (usize, usize),
    /// Whether it refines coefficients that are there.
    refines: bool,
    /// The bit that it brings.
    shift: u8,
    /// MCUs between restart marks; 0: none.
    interval: usize,
}

struct Part {
    component: usize,
    dc: Option<Huffman>,
    ac: Option<Huffman>,
    step: u16,
}

/// What is carried from block to block, until a restart mark.
#[derive(Default)]
struct Carried {
    levels: [i32; 4],
    course: Course,
}

impl Scan {
    /// Reads the header, checks it against what the scans before have brought, and notes what this one will bring.
    pub fn parse(data: &[u8], frame: &mut Frame, tables: &Tables) -> Found<Scan> {
        let broken = || "a scan's header is broken".to_string();
        let (&count, rest) = data.split_first().ok_or_else(broken)?;
        let (list, tail) = rest.split_at_checked(usize::from(count) * 2).ok_or_else(broken)?;
        let &[first, last, bits] = tail else { return Err(broken()) };
        let band = (usize::from(first), usize::from(last));
        let (before, shift) = (bits >> 4, bits & 15);
        if !(1..=4).contains(&count) {
            return Err(broken());
        }
        let right = match (frame.progressive, band) {
            (false, band) => band == (0, 63) && bits == 0,
            (true, (0, last)) => last == 0 && shift <= 13,
            (true, (first, last)) => count == 1 && first <= last && last <= 63 && shift <= 13,
        };
        if !right || before != 0 && before != shift + 1 {
            return Err(broken());
        }
        let mut scan = Scan { parts: Vec::new(), band, refines: before != 0, shift, interval: tables.interval };
        for one in list.chunks_exact(2) {
            let index = frame.components.iter().position(|component| component.id == one[0]).ok_or_else(broken)?;
            if one[1] >> 4 > 3 || one[1] & 15 > 3 || scan.parts.iter().any(|part| part.component == index) {
                return Err(broken());
            }
            scan.add(index, (usize::from(one[1] >> 4), usize::from(one[1] & 15)), before, frame, tables)?;
        }
        let blocks: usize =
            scan.parts.iter().map(|part| &frame.components[part.component]).map(|one| one.across * one.down).sum();
        if count > 1 && blocks > 10 {
            return Err("a scan has more than ten blocks in a unit".to_string());
        }
        frame.scans += 1;
        Ok(scan)
    }

    fn add(&mut self, index: usize, (dc, ac): (usize, usize), before: u8, frame: &mut Frame, tables: &Tables) -> Found<()> {
        let component = &mut frame.components[index];
        let steps = component.steps.or(tables.steps[component.quantiser]).ok_or("a quantisation table is missing")?;
        component.steps = Some(steps);
        let expected = if before == 0 { None } else { Some(before) };
        let (first, last) = self.band;
        if component.lacking[first..=last].iter().any(|&lacking| lacking != expected)
            || first > 0 && component.lacking[0].is_none()
        {
            return Err("a scan brings again what is there, or follows one that is missing".to_string());
        }
        component.lacking[first..=last].fill(Some(self.shift));
        let (needs_dc, needs_ac) = (first == 0 && !self.refines, last > 0);
        let missing = "a Huffman table is missing";
        let dc = if needs_dc { Some(tables.dc(dc).ok_or(missing)?) } else { None };
        let ac = if needs_ac { Some(tables.ac(ac).ok_or(missing)?) } else { None };
        self.parts.push(Part { component: index, dc, ac, step: steps[0] });
        Ok(())
    }

    /// Reads the scan's data from `at` on; where the marker behind it begins, and the first damage.
    pub fn read(&self, frame: &mut Frame, bytes: &[u8], mut at: usize) -> (usize, Option<String>) {
        let (wide, high) = self.units(frame);
        let total = wide * high;
        let interval = if self.interval == 0 { total } else { self.interval };
        let (mut unit, mut restarts, mut damage) = (0, 0_u8, None);
        while unit < total {
            let end = (unit + interval).min(total);
            let mut bits = Bits::new(bytes, at);
            let read = self.interval(frame, &mut bits, unit..end, wide);
            let read = read.and_then(|()| bits.end().map_or(Ok(()), |wrong| Err(wrong.to_string())));
            damage = damage.or(read.err());
            at = bits.position();
            unit = end;
            if unit == total {
                break;
            }
            let mark = bytes.get(at..).unwrap_or_default().iter().position(|&byte| byte != 0xff).map(|skip| at + skip);
            let Some((mark, number @ 0xd0..=0xd7)) = mark.map(|mark| (mark, bytes[mark])) else {
                return (at, Some(damage.unwrap_or_else(|| "a restart mark is missing".to_string())));
            };
            let ahead = number.wrapping_sub(0xd0).wrapping_sub(restarts) & 7;
            if ahead != 0 {
                damage.get_or_insert_with(|| "restart marks are out of order".to_string());
                unit = (unit + usize::from(ahead) * interval).min(total);
            }
            restarts = (restarts + ahead + 1) & 7;
            at = mark + 1;
        }
        (at, damage)
    }

    /// MCUs a row and rows of them: blocks where the scan has one component alone.
    fn units(&self, frame: &Frame) -> (usize, usize) {
        match self.parts.as_slice() {
            [part] => {
                let component = &frame.components[part.component];
                (component.width.div_ceil(8), component.height.div_ceil(8))
            }
            _ => (frame.mcus_wide, frame.mcus_high),
        }
    }

    fn interval(&self, frame: &mut Frame, bits: &mut Bits, units: Range<usize>, wide: usize) -> Found<()> {
        let mut carried = Carried::default();
        for unit in units {
            let (row, column) = (unit / wide, unit % wide);
            if let [part] = self.parts.as_slice() {
                self.block(part, frame, bits, &mut carried, (row, column))?;
            } else {
                for part in &self.parts {
                    let component = &frame.components[part.component];
                    let (across, down) = (component.across, component.down);
                    for index in 0..across * down {
                        let at = (row * down + index / across, column * across + index % across);
                        self.block(part, frame, bits, &mut carried, at)?;
                    }
                }
            }
            if bits.overrun() {
                return Err("a scan ends early".to_string());
            }
        }
        if carried.course.run > 0 {
            return Err("a run of empty blocks goes beyond its scan".to_string());
        }
        Ok(())
    }

    #[inline(always)]
    fn block(
        &self,
        part: &Part,
        frame: &mut Frame,
        bits: &mut Bits,
        carried: &mut Carried,
        (row, column): (usize, usize),
    ) -> Found<()> {
        let progressive = frame.progressive;
        let component = &mut frame.components[part.component];
        let level = &mut carried.levels[part.component];
        if !progressive {
            let (Some(dc), Some(ac), Some(steps)) = (&part.dc, &part.ac, &component.steps) else { return Ok(()) };
            let mut block = [0; 64];
            block[0] = blocks::level(bits, dc, level, part.step, 0)?;
            blocks::sequential(bits, ac, &mut block)?;
            let stride = component.blocks * 8;
            transform::inverse(&block, steps, &mut component.plane, row * 8 * stride + column * 8, stride);
            return Ok(());
        }
        let block = &mut component.coefficients[row * component.blocks + column];
        match (&part.dc, &part.ac) {
            (Some(dc), _) => block[0] = blocks::level(bits, dc, level, part.step, self.shift)?,
            (None, None) => blocks::refined_level(bits, block, self.shift, part.component, &mut carried.course)?,
            (None, Some(ac)) if self.refines => blocks::refined(bits, ac, block, self.band, self.shift, &mut carried.course)?,
            (None, Some(ac)) => blocks::first(bits, ac, block, self.band, self.shift, &mut carried.course)?,
        }
        Ok(())
    }
}
