//! From a scene to pixels.

use crate::{
    canvas::{Canvas, Ink, mix},
    cells::Kind,
    mask,
    optics::{Scanner, develop},
    patient::Patient,
    random::{Purpose, Stream},
    scene::Scene,
    sets::Fault,
    texture::{Coarse, Noise, Region, smooth},
    truth::Truth,
};
use image::{Rgb, RgbImage};

/// One phantom.
pub struct Patch {
    /// What the scanner saw.
    pub image: RgbImage,
    /// What was there; `None` when there is no tumour to speak of.
    pub truth: Option<Truth>,
    /// All objects.
    pub scene: Scene,
    /// A number of [`mask`] for each pixel.
    pub labels: Vec<u8>,
}

/// Draws patch `number` of a patient, `size` pixels a side at `um_per_px`.
pub fn draw(
    seed: u64,
    patient: &Patient,
    scanner: &Scanner,
    number: u64,
    size: u32,
    um_per_px: f32,
    fault: Option<Fault>,
) -> Patch {
    let um_per_px = match fault {
        Some(Fault::HalfScale) => um_per_px * 2.0,
        Some(Fault::DoubleScale) => um_per_px / 2.0,
        _ => um_per_px,
    };
    let side = size as f32 * um_per_px;
    let scene = Scene::draw(seed, patient, number, [side, side], fault);
    let mut canvas = Canvas::new(size as usize, size as usize, um_per_px);
    let empty = matches!(fault, Some(Fault::Blank | Fault::Noise | Fault::Gradients));
    if !empty {
        paint_areas(&scene, &mut canvas);
        paint_cells(&scene, patient, &mut canvas);
    }
    let sensor = &mut Stream::new(seed, patient.number, number + 1, Purpose::Sensor);
    let image = match fault {
        Some(Fault::Noise) => RgbImage::from_fn(size, size, |_, _| Rgb([(); 3].map(|()| sensor.below(256) as u8))),
        Some(Fault::Gradients) => gradients(size, sensor),
        _ => {
            let stain = if fault == Some(Fault::Brown) { patient.stain.clone().brown() } else { patient.stain.clone() };
            let blur_px = if fault == Some(Fault::Blurred) { 6.0 } else { scanner.blur_px };
            develop(&canvas.ink, canvas.width, &stain, &Scanner { blur_px, ..scanner.clone() }, sensor)
        }
    };
    let truth = fault.is_none_or(Fault::shows_tumour).then(|| {
        let truth = Truth::of(&scene);
        Truth { blurred: fault == Some(Fault::Blurred), ..truth }
    });
    Patch { image, truth, scene, labels: canvas.labels }
}

/// Everything that lies beneath the cells.
fn paint_areas(scene: &Scene, canvas: &mut Canvas) {
    let key = |index: u64| scene.key.wrapping_add(index << 8);
    let (ground, clefts) = (Noise::new(key(1), 14.0, 3), Noise::new(key(2), 9.0, 2));
    let warps = [Noise::new(key(3), 26.0, 2), Noise::new(key(4), 26.0, 2)];
    let slow = Coarse::of(scene.side_um, |x, y| {
        let warp = warps.map(|warp| 16.0 * (warp.at(x, y) - 0.5));
        [ground.at(x, y), smooth((clefts.at(x, y) - 0.62) / 0.06), warp[0], warp[1]]
    });
    let masks = Coarse::of(scene.side_um, |x, y| {
        let mask = |region: Option<Region>| region.map_or(0.0, |region| region.at(x, y));
        let between_nests = scene.nests.map_or(0.0, |nests| 1.0 - nests.at(x, y));
        [between_nests, mask(scene.oedema), scene.on_septum(x, y), scene.fibrils(x, y), mask(scene.stroma), mask(scene.necrosis)]
    });
    let granules = Noise::new(key(5), 2.6, 2);
    let fibrils = Noise::fibres(key(6), 1.5, 5.0, scene.fibres);
    let bands = Noise::fibres(key(7), 2.4, 6.0, scene.fibres);
    canvas.fill(|x, y| {
        let [ground, cleft, warp_x, warp_y] = slow.at(x, y);
        let masks = masks.at(x, y);
        let granule = granules.at(x, y) - 0.5;
        let fibre = |noise: &Noise, bend: f32| noise.at(x + bend * warp_x, y + bend * warp_y) - 0.5;
        let mut label = mask::BACKGROUND;
        let mut ink = Ink { blue: 0.05 + 0.07 * ground + 0.08 * granule, pink: 0.04 + 0.2 * ground + 0.16 * granule };
        ink = mix(ink, Ink::default(), 0.85 * cleft);
        let layers: [(u8, &dyn Fn() -> Ink); 6] = [
            (mask::BACKGROUND, &|| Ink { blue: 0.03, pink: 0.16 + 0.14 * fibre(&bands, 0.5) }),
            (mask::OEDEMA, &|| Ink { blue: 0.02, pink: 0.18 + 0.08 * ground + 0.03 * granule }),
            (mask::BACKGROUND, &|| Ink { blue: 0.06, pink: 0.32 + 0.14 * granule }),
            (mask::NEUROPIL, &|| {
                let fibre = fibre(&fibrils, 1.0);
                Ink { blue: 0.06 + 0.08 * fibre, pink: 0.25 + 0.34 * fibre + 0.08 * granule }
            }),
            (mask::STROMA, &|| Ink { blue: 0.05, pink: 0.36 + 0.3 * fibre(&bands, 0.25) }),
            (mask::NECROSIS, &|| Ink { blue: 0.06 + 0.06 * ground, pink: 0.36 + 0.28 * granule }),
        ];
        for ((number, over), share) in layers.into_iter().zip(masks) {
            if share > 0.0 {
                ink = mix(ink, over(), share);
            }
            if share > 0.5 {
                label = number;
            }
        }
        (ink, label)
    });
}

fn paint_cells(scene: &Scene, patient: &Patient, canvas: &mut Canvas) {
    let layer = |kind: Kind| match kind {
        Kind::RedCell => 0,
        Kind::Ghost => 1,
        Kind::Differentiating => 2,
        _ => 3,
    };
    for painted in 0..4 {
        for cell in scene.cells.iter().filter(|cell| layer(cell.kind) == painted) {
            cell.paint(canvas, patient.chromatin);
        }
    }
}

/// Colours that change slowly, as in a photograph out of focus.
fn gradients(size: u32, stream: &mut Stream) -> RgbImage {
    let planes = [(); 3].map(|()| Noise::new(stream.key(), size as f32 * 0.6, 2));
    RgbImage::from_fn(size, size, |x, y| Rgb(planes.map(|plane| (plane.at(x as f32, y as f32) * 255.0) as u8)))
}
