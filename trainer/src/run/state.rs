//! The state from which a run goes on: one safetensors file, with the loop's own counters in its header.

use crate::error::TrainError;
use mmlnb_study::run::{files, metrics::Written};
use safetensors::{
    Dtype, View,
    tensor::{Metadata, TensorInfo},
};
use serde_json::{Value, json};
use std::{
    borrow::Cow,
    collections::HashMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};
use tch::{Device, Kind, Tensor};

pub(super) const FILE: &str = "state.safetensors";
const HEADER: &str = "run";
const PROGRESS: &str = "progress";
const WRITTEN: &str = "written";

/// What the loop needs to go on bit for bit: counters, best figure so far, random state; and weights, moments, step counts.
#[derive(Debug)]
pub struct State {
    /// The loop's own. Numbers come back exactly; NaN and infinities have no place in it.
    pub progress: Value,
    /// By name; they come back on the CPU, in their type.
    pub tensors: Vec<(String, Tensor)>,
}

impl State {
    /// A tensor by name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find_map(|(other, tensor)| (other == name).then_some(tensor))
    }
}

pub(super) fn write(run: &Path, state: &State, written: Written) -> Result<(), TrainError> {
    // One entry: the order of several would differ from file to file.
    let header = json!({ PROGRESS: state.progress, WRITTEN: written });
    let metadata = HashMap::from([(HEADER.to_string(), header.to_string())]);
    let views: Vec<(&str, Lazily)> =
        state.tensors.iter().map(|(name, t)| Ok((name.as_str(), Lazily::new(name, t)?))).collect::<Result<_, TrainError>>()?;
    files::replace_file_by(&run.join(FILE), |path| {
        let failed = |error| TrainError::io("write", path)(std::io::Error::other(error));
        safetensors::serialize_to_file(views, Some(metadata), path).map_err(failed)
    })
}

/// None: the run was never saved.
pub(super) fn read(run: &Path) -> Result<Option<(State, Written)>, TrainError> {
    let path = run.join(FILE);
    if !path.exists() {
        return Ok(None);
    }
    let mut file = File::open(&path).map_err(TrainError::io("read", &path))?;
    let damaged = |problem: String| {
        TrainError::file(
            path.clone(),
            format!("the saved state is damaged ({problem}); this run cannot be resumed, start it anew with another --output"),
        )
    };
    let mut start = vec![0; 8];
    file.read_exact(&mut start).map_err(TrainError::io("read", &path))?;
    let length = u64::from_le_bytes(start[..8].try_into().expect("eight bytes were read"));
    let size = file.metadata().map_err(TrainError::io("read", &path))?.len();
    if length > size {
        return Err(damaged("its header is longer than the file".into()));
    }
    start.resize(8 + length as usize, 0);
    file.read_exact(&mut start[8..]).map_err(TrainError::io("read", &path))?;
    let metadata: Metadata = serde_json::from_slice(&start[8..]).map_err(|error| damaged(error.to_string()))?;
    let header =
        metadata.metadata().as_ref().and_then(|entries| entries.get(HEADER)).ok_or_else(|| damaged(format!("no {HEADER}")))?;
    let mut header: Value = serde_json::from_str(header).map_err(|error| damaged(error.to_string()))?;
    let progress = header[PROGRESS].take();
    let written = serde_json::from_value(header[WRITTEN].take()).map_err(|error| damaged(error.to_string()))?;
    let mut tensors = Vec::new();
    for (name, info) in metadata.tensors() {
        let start = 8 + length + info.data_offsets.0 as u64;
        file.seek(SeekFrom::Start(start)).map_err(TrainError::io("read", &path))?;
        tensors.push((name, tensor(&mut file, info).map_err(damaged)?));
    }
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(Some((State { progress, tensors }, written)))
}

fn tensor(file: &mut File, info: &TensorInfo) -> Result<Tensor, String> {
    let mut bytes = vec![0; info.data_offsets.1 - info.data_offsets.0];
    file.read_exact(&mut bytes).map_err(|error| error.to_string())?;
    let shape: Vec<i64> = info.shape.iter().map(|&side| side as i64).collect();
    let (kind, _) = TYPES.iter().find(|(_, dtype)| *dtype == info.dtype).ok_or_else(|| format!("type {:?}", info.dtype))?;
    Tensor::f_from_data_size(&bytes, &shape, *kind).map_err(|error| error.to_string())
}

const TYPES: [(Kind, Dtype); 10] = [
    (Kind::Bool, Dtype::BOOL),
    (Kind::Uint8, Dtype::U8),
    (Kind::Int8, Dtype::I8),
    (Kind::Int16, Dtype::I16),
    (Kind::Int, Dtype::I32),
    (Kind::Int64, Dtype::I64),
    (Kind::BFloat16, Dtype::BF16),
    (Kind::Half, Dtype::F16),
    (Kind::Float, Dtype::F32),
    (Kind::Double, Dtype::F64),
];

/// A tensor that is copied to the CPU only while it is written.
struct Lazily<'t> {
    tensor: &'t Tensor,
    shape: Vec<usize>,
    dtype: Dtype,
}

impl<'t> Lazily<'t> {
    fn new(name: &str, tensor: &'t Tensor) -> Result<Lazily<'t>, TrainError> {
        let kind = tensor.f_kind()?;
        let known = TYPES.iter().find(|(other, _)| *other == kind);
        let (_, dtype) = known.ok_or_else(|| TrainError::Failed(format!("{name}: numbers of type {kind:?} cannot be saved")))?;
        Ok(Lazily { tensor, shape: tensor.size().iter().map(|&side| side as usize).collect(), dtype: *dtype })
    }
}

impl View for Lazily<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let here = self.tensor.detach().to_device(Device::Cpu).contiguous();
        let mut bytes = vec![0; self.data_len()];
        here.copy_data_u8(&mut bytes, here.numel());
        bytes.into()
    }

    fn data_len(&self) -> usize {
        self.tensor.numel() * self.tensor.kind().elt_size_in_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_number_comes_back_bit_for_bit(bits in prop::collection::vec(any::<u64>(), 1..40), whole in any::<i64>()) {
            let numbers: Vec<f64> = bits.iter().map(|bits| f64::from_bits(*bits)).filter(|number| number.is_finite()).collect();
            let progress = json!({ "best": numbers, "step": whole, "none": null });
            let back: Value = serde_json::from_str(&progress.to_string()).unwrap();
            let read: Vec<u64> = back["best"].as_array().unwrap().iter().map(|number| number.as_f64().unwrap().to_bits()).collect();
            prop_assert_eq!(read, numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>());
            prop_assert_eq!(&back["step"], &json!(whole));
        }
    }

    #[test]
    fn tensors_come_back_in_their_type_and_shape() {
        crate::start::start().unwrap();
        let numbers = Tensor::from_slice(&[1.0f32, -0.0, f32::MIN_POSITIVE, 3.4e38, 0.1, -7.0]).reshape([2, 3]);
        let all = TYPES.map(|(kind, _)| (format!("{kind:?}"), numbers.abs().clamp(0.0, 1.0).to_kind(kind)));
        let mut tensors: Vec<(String, Tensor)> = all.into_iter().collect();
        tensors.push(("turned".into(), numbers.transpose(0, 1)));
        tensors.push(("scalar".into(), Tensor::from(2.5f64)));
        tensors.push(("empty".into(), Tensor::zeros([0, 4], (Kind::Float, Device::Cpu))));
        let folder = tempfile::tempdir().unwrap();
        let written = Written { metrics: 12, next_step: 3 };
        write(folder.path(), &State { progress: json!({"step": 3}), tensors }, written).unwrap();
        let (state, read_written) = read(folder.path()).unwrap().unwrap();
        assert_eq!((state.progress.clone(), read_written), (json!({"step": 3}), written));
        assert_eq!(state.tensors.len(), TYPES.len() + 3);
        assert!(state.tensor("turned").unwrap().equal(&numbers.transpose(0, 1)));
        assert_eq!(state.tensor("scalar").unwrap().size(), [0i64; 0]);
        assert_eq!(state.tensor("empty").unwrap().size(), [0, 4]);
        for (kind, _) in TYPES {
            assert_eq!(state.tensor(&format!("{kind:?}")).unwrap().kind(), kind);
        }
    }

    #[test]
    fn a_damaged_state_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), [255; 40]).unwrap();
        let text = read(folder.path()).unwrap_err().to_string();
        assert!(text.contains("state.safetensors") && text.contains("another --output"), "{text}");
    }
}
