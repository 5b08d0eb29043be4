//! The truth is what was drawn.

use super::plan;
use mmlnb_phantom::{
    cells::Kind,
    mask,
    patient::Class,
    plan::Plan,
    sets::{Fault, Set},
    truth::{DIFFERENTIATING, RECOGNISABLE},
};

#[test]
fn counts_and_areas_are_those_of_the_drawing() {
    let plan = Plan { size: 160, um_per_px: 0.5, ..plan(Set::Standard, 3, 9) };
    let scanners = plan.scanners();
    for planned in plan.draw_patients() {
        let patch = plan.draw_patch(&planned.patient, &scanners[planned.patient.scanner], 0);
        let truth = patch.truth.unwrap();
        let inside = |at: f32| (0.0..80.0).contains(&at);
        let cells: Vec<_> = patch.scene.cells.iter().filter(|cell| inside(cell.x) && inside(cell.y)).collect();
        let count = |kind: Kind| cells.iter().filter(|cell| cell.kind == kind).count();
        let tumour = count(Kind::Small) + count(Kind::Differentiating) + count(Kind::Decoy) + count(Kind::Mitosis);
        let share = count(Kind::Differentiating) as f32 / tumour as f32;
        assert_eq!(truth.differentiating_share, share);
        // Cells lie over the neuropil, so the mask shows less of it.
        let shown = patch.labels.iter().filter(|label| **label == mask::NEUROPIL).count() as f32 / patch.labels.len() as f32;
        assert!(shown <= truth.neuropil_area + 0.02, "{shown} against {}", truth.neuropil_area);
        assert!(shown >= 0.4 * truth.neuropil_area, "{shown} against {}", truth.neuropil_area);
        let class = match () {
            () if share >= DIFFERENTIATING => Class::Differentiating,
            () if truth.neuropil_area >= RECOGNISABLE => Class::PoorlyDifferentiated,
            () => Class::Undifferentiated,
        };
        assert_eq!(truth.class(), class);
    }
}

#[test]
fn one_seed_is_one_field_at_every_magnification() {
    let at = |size: u32, um_per_px: f32| {
        let plan = Plan { size, um_per_px, ..plan(Set::Standard, 8, 6) };
        let scanners = plan.scanners();
        let draw =
            |planned: mmlnb_phantom::plan::Planned| plan.draw_patch(&planned.patient, &scanners[planned.patient.scanner], 1);
        plan.draw_patients().into_iter().map(draw).collect::<Vec<_>>()
    };
    for (coarse, fine) in at(32, 2.0).into_iter().zip(at(128, 0.5)) {
        assert_eq!(coarse.truth, fine.truth);
        let smaller = image::imageops::resize(&fine.image, 32, 32, image::imageops::FilterType::Triangle);
        let difference = |one: &image::RgbImage, other: &image::RgbImage| {
            let sum: f64 = one.iter().zip(other.iter()).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs()).sum();
            sum / one.len() as f64
        };
        let turned = image::imageops::rotate90(&smaller);
        let (same, other) = (difference(&coarse.image, &smaller), difference(&coarse.image, &turned));
        assert!(same < 0.7 * other, "{same} from the same field, {other} from another");
    }
}

#[test]
fn a_larger_set_only_adds_patients() {
    let patients = |count: u64| plan(Set::Standard, 4, count).draw_patients();
    for (few, many) in patients(7).into_iter().zip(patients(20)) {
        assert_eq!(format!("{:?} {:?}", few.patient, few.part), format!("{:?} {:?}", many.patient, many.part));
    }
}

#[test]
fn no_two_sets_name_a_patient_alike() {
    let sets = [(Set::Standard, 4), (Set::Standard, 5), (Set::Easy, 4), (Set::Ood, 4)];
    let plans = sets.map(|(set, seed)| plan(set, seed, 6));
    let names = plans.iter().flat_map(|plan| plan.draw_patients().into_iter().map(|planned| plan.name_of(&planned.patient)));
    let folded: std::collections::BTreeSet<String> = names.map(|name| mmlnb_models::spelling::folded(&name)).collect();
    assert_eq!(folded.len(), 4 * 6, "{folded:?}");
}

#[test]
fn classes_come_as_often_as_asked_and_each_part_has_all() {
    let shares = Plan { class_shares: [1.0, 8.0, 1.0], ..plan(Set::Standard, 0, 50) };
    let planned = shares.draw_patients();
    for class in Class::ALL {
        let count = planned.iter().filter(|planned| planned.patient.patient_class == class).count();
        assert_eq!(count, if class == Class::PoorlyDifferentiated { 40 } else { 5 });
    }
    let equal = plan(Set::Hard, 0, 30).draw_patients();
    let parts: std::collections::BTreeSet<_> =
        equal.iter().map(|planned| (planned.patient.patient_class, planned.part)).collect();
    assert_eq!(parts.len(), 9);
}

#[test]
fn the_hard_set_tests_on_a_scanner_that_training_never_saw() {
    use mmlnb_models::rows::Part;
    let planned = plan(Set::Hard, 2, 60).draw_patients();
    assert!(planned.iter().all(|planned| (planned.patient.scanner == 2) == (planned.part == Part::Test)));
}

#[test]
fn the_foreign_set_holds_every_fault_and_a_class_only_where_there_is_tumour() {
    let plan = plan(Set::Ood, 6, 24);
    let scanners = plan.scanners();
    let mut seen = std::collections::BTreeSet::new();
    for planned in plan.draw_patients() {
        for patch in 0..planned.patient.patches {
            let fault = plan.fault(planned.patient.number, patch).unwrap();
            let drawn = plan.draw_patch(&planned.patient, &scanners[planned.patient.scanner], patch);
            assert_eq!(drawn.truth.is_some(), fault.shows_tumour());
            seen.insert(format!("{fault:?}"));
        }
    }
    assert_eq!(seen.len(), Fault::ALL.len());
}
