//! The findings that a description of a neuroblastic tumour may state, and the words for them.

use super::State;

/// A finding and how it is written. A word that ends in `*` stands for every word with that beginning.
pub(super) struct Entry {
    /// Its name in tables.
    pub name: &'static str,
    /// Wordings; the longest that fits wins.
    pub phrases: &'static [&'static str],
    /// Wordings that say how much by themselves.
    pub telling: &'static [(&'static str, State)],
    /// Percentages below the first are little, above the second much.
    pub bands: (f64, f64),
}

const fn entry(name: &'static str, phrases: &'static [&'static str]) -> Entry {
    Entry { name, phrases, telling: &[], bands: (5.0, 35.0) }
}

/// Every finding, in the order in which pathologists describe.
pub(super) const LEXICON: &[Entry] = &[
    entry("sheets", &["sheet*", "solid growth", "diffuse growth", "solid pattern"]),
    entry("nests", &["nest", "nests", "nested", "cluster", "clusters", "clustered"]),
    entry("lobules", &["lobul*"]),
    entry("loose arrangement", &["loose", "loosely", "loosely arranged", "loose arrangement", "dispersed cell*", "dyscohesive"]),
    entry("septa", &["septa", "septum", "septal", "fibrovascular septa", "fibrous septa", "fibrous strand*"]),
    Entry {
        name: "cellularity",
        phrases: &["cellular", "cellularity", "cell density"],
        telling: &[
            ("hypercellular*", State::Much),
            ("hypocellular*", State::Little),
            ("paucicellular*", State::Little),
            ("densely packed", State::Much),
            ("closely packed", State::Much),
            ("tightly packed", State::Much),
            ("crowded", State::Much),
            ("crowding", State::Much),
            ("sparsely populated", State::Little),
        ],
        bands: (20.0, 60.0),
    },
    entry(
        "small round cells",
        &[
            "small round cell*",
            "small round blue cell*",
            "small blue round cell*",
            "small blue cell*",
            "round blue cell*",
            "small uniform cell*",
            "small dark cell*",
            "small cell*",
            "round cell*",
            "small round tumor cell*",
            "small round tumour cell*",
            "primitive cell*",
            "small neuroblast",
            "small neuroblasts",
            "undifferentiated neuroblast",
            "undifferentiated neuroblasts",
            "undifferentiated cell*",
            "neuroblast",
            "neuroblasts",
            "neuroblastic cell*",
        ],
    ),
    entry("cytoplasm", &["cytoplasm", "cytoplasmic", "cytoplasmic rim*"]),
    entry(
        "granular chromatin",
        &["salt and pepper", "stippled", "granular", "granular chromatin", "speckled", "finely dispersed chromatin"],
    ),
    entry("nucleoli", &["nucleol*"]),
    entry("vesicular nuclei", &["vesicular", "enlarged nucle*", "large nuclei", "large pale nuclei", "nuclear enlargement"]),
    Entry {
        telling: &[("monomorph*", State::Absent), ("monotonous", State::Absent)],
        ..entry("pleomorphism", &["pleomorph*", "anisonucle*", "nuclear atypia", "variation in nuclear size", "anaplas*"])
    },
    entry("hyperchromasia", &["hyperchroma*", "dark nuclei", "dark staining", "darkly staining", "deeply basophilic"]),
    entry("moulding", &["moulding", "molding", "moulded", "molded"]),
    Entry {
        bands: (15.0, 35.0),
        ..entry(
            "neuropil",
            &[
                "neuropil*",
                "fibrillar*",
                "fibrillary background",
                "fibrillary matrix",
                "fibrillary material",
                "fibrillary stroma",
                "neurofibrillar*",
                "neuritic process*",
            ],
        )
    },
    entry("rosettes", &["rosette*", "homer wright", "homer wright rosette*", "pseudorosette*"]),
    Entry {
        bands: (5.0, 20.0),
        ..entry(
            "differentiating cells",
            &[
                "differentiating neuroblast",
                "differentiating neuroblasts",
                "differentiating cell*",
                "differentiating element*",
                "differentiating tumor cell*",
                "differentiating tumour cell*",
                "ganglion cell*",
                "ganglion like",
                "ganglion like cell*",
                "ganglion like change*",
                "ganglion like differentiation",
                "ganglionic",
                "ganglionic differentiation",
                "ganglionic cell*",
                "ganglioid",
                "maturing cell*",
                "maturing neuroblast*",
                "neuronal differentiation",
                "ganglion cell differentiation",
                "cytodifferentiation",
            ],
        )
    },
    entry("mitoses", &["mitos*", "mitotic", "mitotic figure*", "mitotic activity", "cell division*"]),
    entry("karyorrhexis", &["karyorrhe*", "karyorhe*", "apopto*", "apoptotic bod*", "nuclear debris"]),
    Entry {
        telling: &[
            ("stroma poor", State::Little),
            ("schwannian stroma poor", State::Little),
            ("stroma rich", State::Much),
            ("schwannian stroma rich", State::Much),
        ],
        ..entry(
            "Schwannian stroma",
            &["stroma", "stromal", "schwann*", "schwannian stroma", "spindle cell*", "spindled", "stromal band*"],
        )
    },
    entry("vessels", &["vessel*", "blood vessel*", "capillar*", "vascular*", "vasculature", "fibrovascular", "vascularity"]),
    entry(
        "haemorrhage",
        &["haemorrhag*", "hemorrhag*", "red cell*", "red blood cell*", "erythrocyte*", "extravasated blood", "extravasat*"],
    ),
    entry("necrosis", &["necro*", "ghost cell*", "ghost nuclei"]),
    entry("calcification", &["calcif*", "calcium", "psammoma*"]),
    entry("lymphocytes", &["lymphocyt*", "lymphoid", "inflammat*", "inflammatory cell*"]),
    entry("oedema", &["oedema*", "edema*", "myxoid", "myxoid change*"]),
    entry("haemosiderin", &["haemosiderin*", "hemosiderin*"]),
    entry(
        "artefact",
        &["artefact*", "artifact*", "out of focus", "blur*", "crush*", "tissue fold*", "pen mark*", "crush artefact*"],
    ),
];

/// Words of amount.
pub(super) const AMOUNTS: &[(&str, State)] = &[
    ("scant", State::Little),
    ("scanty", State::Little),
    ("few", State::Little),
    ("rare", State::Little),
    ("rarely", State::Little),
    ("sparse", State::Little),
    ("sparsely", State::Little),
    ("focal", State::Little),
    ("focally", State::Little),
    ("occasional", State::Little),
    ("minimal", State::Little),
    ("minimally", State::Little),
    ("mild", State::Little),
    ("mildly", State::Little),
    ("slight", State::Little),
    ("slightly", State::Little),
    ("little", State::Little),
    ("low", State::Little),
    ("isolated", State::Little),
    ("inconspicuous", State::Little),
    ("indistinct", State::Little),
    ("thin", State::Little),
    ("moderate", State::Moderate),
    ("moderately", State::Moderate),
    ("some", State::Moderate),
    ("several", State::Moderate),
    ("intermediate", State::Moderate),
    ("abundant", State::Much),
    ("abundantly", State::Much),
    ("numerous", State::Much),
    ("many", State::Much),
    ("marked", State::Much),
    ("markedly", State::Much),
    ("extensive", State::Much),
    ("extensively", State::Much),
    ("prominent", State::Much),
    ("prominently", State::Much),
    ("dense", State::Much),
    ("densely", State::Much),
    ("high", State::Much),
    ("highly", State::Much),
    ("frequent", State::Much),
    ("conspicuous", State::Much),
    ("rich", State::Much),
    ("plentiful", State::Much),
    ("copious", State::Much),
    ("widespread", State::Much),
    ("ample", State::Much),
];
