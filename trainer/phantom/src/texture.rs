//! Value noise: sums of smooth random grids, defined everywhere in micrometres, so that a field looks the same at every magnification.

/// A random smooth function of the place, in 0..1.
#[derive(Clone, Copy, Debug)]
pub struct Noise {
    key: u64,
    /// Cell of the coarsest grid along and across the direction, um.
    cell: [f32; 2],
    /// Cosine and sine of the direction.
    direction: [f32; 2],
    octaves: u32,
}

impl Noise {
    /// Noise without direction; amplitude and cell are halved each octave.
    pub fn new(key: u64, cell_um: f32, octaves: u32) -> Self {
        Self { key, cell: [cell_um; 2], direction: [1.0, 0.0], octaves }
    }

    /// Fibres along `angle` (radians), `stretch` times as long as they are wide.
    pub fn fibres(key: u64, width_um: f32, stretch: f32, angle: f32) -> Self {
        Self { key, cell: [width_um * stretch, width_um], direction: [angle.cos(), angle.sin()], octaves: 2 }
    }

    /// The value at a place in um.
    pub fn at(&self, x: f32, y: f32) -> f32 {
        let [cos, sin] = self.direction;
        let along = (x * cos + y * sin) / self.cell[0];
        let across = (y * cos - x * sin) / self.cell[1];
        let (mut sum, mut weight, mut scale) = (0.0, 0.0, 1.0);
        for octave in 0..self.octaves {
            let amplitude = 1.0 / scale;
            sum += amplitude * grid(self.key.wrapping_add(u64::from(octave)), along * scale, across * scale);
            weight += amplitude;
            scale *= 2.0;
        }
        sum / weight
    }
}

/// One grid of random corners, smoothly interpolated.
fn grid(key: u64, x: f32, y: f32) -> f32 {
    let (column, row) = (floor(x), floor(y));
    let (right, down) = (smooth(x - column as f32), smooth(y - row as f32));
    let above = between(corner(key, column, row), corner(key, column + 1, row), right);
    let below = between(corner(key, column, row + 1), corner(key, column + 1, row + 1), right);
    between(above, below, down)
}

/// The largest whole number that is not above.
fn floor(value: f32) -> i32 {
    value as i32 - i32::from(value < 0.0)
}

fn between(from: f32, to: f32, share: f32) -> f32 {
    from + (to - from) * share
}

/// A random number in 0..1 for a grid point (the finaliser of MurmurHash3 over key and place).
fn corner(key: u64, column: i32, row: i32) -> f32 {
    let place = u64::from(column as u32) | u64::from(row as u32) << 32;
    let mut bits = key ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    ((bits ^ (bits >> 33)) >> 40) as f32 / (1 << 24) as f32
}

/// 0 to 1 with flat ends; clamped outside.
pub fn smooth(share: f32) -> f32 {
    let share = share.clamp(0.0, 1.0);
    share * share * (3.0 - 2.0 * share)
}

/// The part of a field where noise lies above a threshold.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    noise: Noise,
    threshold: f32,
    /// Width of the soft edge in the noise's units.
    edge: f32,
}

/// Points a side at which a region is sampled.
const SAMPLES: usize = 48;

impl Region {
    /// The region that covers `share` of a field of `side_um`; `None` when that is nothing.
    pub fn covering(share: f32, noise: Noise, edge: f32, side_um: [f32; 2]) -> Option<Self> {
        if share <= 0.0 {
            return None;
        }
        let mut values: Vec<f32> = sample_points(side_um).map(|[x, y]| noise.at(x, y)).collect();
        values.sort_by(f32::total_cmp);
        let rank = ((1.0 - share.min(1.0)) * values.len() as f32) as usize;
        let threshold = values.get(rank).copied().unwrap_or(1.0);
        Some(Self { noise, threshold, edge })
    }

    /// How much a place belongs to the region, 0..1.
    pub fn at(&self, x: f32, y: f32) -> f32 {
        smooth((self.noise.at(x, y) - self.threshold) / self.edge + 0.5)
    }
}

/// Points spread evenly over a field, for shares of areas.
pub fn sample_points(side_um: [f32; 2]) -> impl Iterator<Item = [f32; 2]> {
    let place = move |index: usize, side: f32| (index as f32 + 0.5) / SAMPLES as f32 * side;
    (0..SAMPLES * SAMPLES).map(move |index| [place(index % SAMPLES, side_um[0]), place(index / SAMPLES, side_um[1])])
}

/// Slowly changing values, worked out on a coarse grid and interpolated between its points.
pub struct Coarse<const N: usize> {
    columns: usize,
    values: Vec<[f32; N]>,
}

/// Distance of the coarse grid's points, um.
const COARSE: f32 = 2.0;

impl<const N: usize> Coarse<N> {
    /// Takes `values(x, y)` all over a field.
    pub fn of(side_um: [f32; 2], values: impl Fn(f32, f32) -> [f32; N]) -> Self {
        let [columns, rows] = side_um.map(|side| (side / COARSE) as usize + 2);
        let at = |index: usize| values((index % columns) as f32 * COARSE, (index / columns) as f32 * COARSE);
        Self { columns, values: (0..columns * rows).map(at).collect() }
    }

    /// The values at a place inside the field.
    pub fn at(&self, x: f32, y: f32) -> [f32; N] {
        let (x, y) = (x / COARSE, y / COARSE);
        let (right, below) = (x.fract(), y.fract());
        let first = y as usize * self.columns + x as usize;
        let [upper, lower] = [first, first + self.columns].map(|at| (&self.values[at], &self.values[at + 1]));
        let mut values = [0.0; N];
        for (part, value) in values.iter_mut().enumerate() {
            let above = between(upper.0[part], upper.1[part], right);
            let beneath = between(lower.0[part], lower.1[part], right);
            *value = between(above, beneath, below);
        }
        values
    }
}
