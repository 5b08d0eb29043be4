//! How much the demo draws and trains.

/// Sizes of one demo. Every patient gives one patch or two; [`super::data`] draws enough of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Sizes {
    /// Patients from whom the describer learns from nothing.
    pub first_patients: usize,
    /// Patients for its tuning and for the classifier.
    pub tuning_patients: usize,
    /// Patients on whom the bundle is qualified.
    pub qualifying_patients: usize,
    /// Patients whose first patch is served at the end.
    pub served_patients: usize,
    /// Times that the first training sees each patch.
    pub first_epochs: usize,
    /// The same for the tuning.
    pub tuning_epochs: usize,
    /// The same for the classifier.
    pub classifier_epochs: usize,
}

/// About 20 minutes on two cores, building included.
pub const FULL: Sizes = Sizes {
    first_patients: 1500,
    tuning_patients: 300,
    qualifying_patients: 900,
    served_patients: 40,
    first_epochs: 4,
    tuning_epochs: 4,
    classifier_epochs: 18,
};

/// Under 8 minutes.
pub const QUICK: Sizes = Sizes {
    first_patients: 1500,
    tuning_patients: 200,
    qualifying_patients: 600,
    served_patients: 40,
    first_epochs: 3,
    tuning_epochs: 3,
    classifier_epochs: 12,
};
