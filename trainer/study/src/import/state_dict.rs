//! Files of `torch.save`: the zip format (torch 1.6 and later) and the one before, opened as named tensors.

use super::pickle::{self, Element, Objects, TensorView, Value};
use crate::error::StudyError;
use safetensors::Dtype;
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    io::Cursor,
    ops::Range,
    path::{Path, PathBuf},
};
use zip::{CompressionMethod, ZipArchive};

/// The number that a file of the older format begins with, as its pickle holds it.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const PROTOCOL: i64 = 1001;

/// Keys under which training scripts put the state dict beside other things.
const NESTED: [&str; 3] = ["state_dict", "model", "model_state_dict"];

/// A state dict: its tensors by name, in the file's order, the numbers in the file's bytes.
#[derive(Debug)]
pub struct StateDict {
    file: PathBuf,
    bytes: Vec<u8>,
    tensors: Vec<(String, Entry)>,
}

#[derive(Debug)]
struct Entry {
    element: Element,
    view: TensorView,
    /// The whole storage.
    bytes: Range<usize>,
}

impl StateDict {
    /// Reads a file of either format. Nothing in it is executed.
    ///
    /// # Errors
    /// A file that is neither, that holds other things than tensors, or that is damaged.
    pub fn read(file: &Path) -> Result<StateDict, StudyError> {
        let bytes = std::fs::read(file).map_err(StudyError::io("read", file))?;
        let tensors = if bytes.starts_with(b"PK\x03\x04") { zipped(&bytes) } else { legacy(&bytes) };
        let tensors = tensors.map_err(|problem| StudyError::File { path: file.to_path_buf(), problem })?;
        Ok(StateDict { file: file.to_path_buf(), bytes, tensors })
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Names and sizes.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.tensors.iter().map(|(name, entry)| (name.as_str(), entry.view.shape.as_slice()))
    }

    /// A tensor's type, sizes and bytes, row-major.
    pub fn tensor(&self, name: &str) -> Option<(Dtype, Vec<usize>, Cow<'_, [u8]>)> {
        let (_, entry) = self.tensors.iter().find(|(known, _)| known == name)?;
        Some((dtype(entry.element), entry.view.shape.clone(), entry.numbers(&self.bytes)))
    }
}

impl Entry {
    fn numbers<'b>(&self, file: &'b [u8]) -> Cow<'b, [u8]> {
        let TensorView { offset, shape, strides, .. } = &self.view;
        let (width, storage) = (self.element.size(), &file[self.bytes.clone()]);
        if self.view.is_contiguous() {
            let (start, length) = if self.view.numbers() == 0 { (0, 0) } else { (*offset, self.view.numbers()) };
            return Cow::Borrowed(&storage[start * width..(start + length) * width]);
        }
        let mut gathered = Vec::with_capacity(self.view.numbers() * width);
        let mut place = vec![0; shape.len()];
        for _ in 0..self.view.numbers() {
            let at = offset + place.iter().zip(strides).map(|(index, stride)| index * stride).sum::<usize>();
            gathered.extend_from_slice(&storage[at * width..(at + 1) * width]);
            for axis in (0..shape.len()).rev() {
                place[axis] += 1;
                if place[axis] < shape[axis] {
                    break;
                }
                place[axis] = 0;
            }
        }
        Cow::Owned(gathered)
    }
}

/// `NAME/data.pkl`, and a member `NAME/data/KEY` for each storage, none of them compressed.
fn zipped(bytes: &[u8]) -> Result<Vec<(String, Entry)>, String> {
    let damaged = |error: zip::result::ZipError| format!("it is no sound zip file: {error}");
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(damaged)?;
    let mut members: HashMap<String, Range<usize>> = HashMap::new();
    for index in 0..archive.len() {
        let member = archive.by_index_raw(index).map_err(damaged)?;
        let name = member.name().map_err(damaged)?.into_owned();
        let start = member.data_start().ok_or("a member's place cannot be found")?;
        let range = usize::try_from(start)
            .ok()
            .zip(usize::try_from(member.size()).ok())
            .and_then(|(start, size)| Some(start..start.checked_add(size).filter(|end| *end <= bytes.len())?));
        let range = range.ok_or_else(|| format!("the member {name} does not lie within the file"))?;
        if member.compression() != CompressionMethod::Stored {
            return Err(format!("the member {name} is compressed; torch.save stores its members as they are"));
        }
        members.insert(name, range);
    }
    let pickles: Vec<&String> = members.keys().filter(|name| *name == "data.pkl" || name.ends_with("/data.pkl")).collect();
    let [name] = pickles.as_slice() else {
        return Err("it is a zip file, but not one of torch.save: there is not just one data.pkl in it".into());
    };
    let folder = name.strip_suffix("data.pkl").unwrap_or_default();
    if let Some(order) = members.get(&format!("{folder}byteorder"))
        && bytes[order.clone()] != *b"little"
    {
        return Err("its numbers are not little-endian".into());
    }
    let (value, objects, _) = pickle::read(&bytes[members[*name].clone()])?;
    let storages = objects.storages.iter().map(|storage| {
        let key = &objects.texts[storage.key];
        let range = members.get(&format!("{folder}data/{key}")).ok_or_else(|| format!("the storage {key} is missing"))?;
        whole(range.clone(), storage, key)
    });
    let storages = storages.collect::<Result<Vec<_>, String>>()?;
    named(value, &objects, &storages, bytes.len())
}

fn whole(range: Range<usize>, storage: &pickle::Storage, key: &str) -> Result<Range<usize>, String> {
    match storage.length.checked_mul(storage.element.size()) {
        Some(size) if size == range.len() => Ok(range),
        _ => Err(format!("the storage {key} has {} bytes, not {} numbers of {:?}", range.len(), storage.length, storage.element)),
    }
}

/// Five pickles (magic number, protocol, system, the dictionary, the storages' keys), then each storage: its length, its numbers.
fn legacy(bytes: &[u8]) -> Result<Vec<(String, Entry)>, String> {
    let no_file = "it is no file of torch.save (or one from before torch 0.1.10)";
    let mut at = 0;
    let mut next = || -> Result<(Value, Objects), String> {
        let (value, objects, length) = pickle::read(&bytes[at..])?;
        at += length;
        Ok((value, objects))
    };
    match next() {
        Ok((Value::Long(number), objects)) if objects.longs[number] == MAGIC => {}
        Ok(_) | Err(_) => return Err(no_file.into()),
    }
    if next()?.0 != Value::Int(PROTOCOL) {
        return Err("it has another protocol than 1001".into());
    }
    let (system, objects) = next()?;
    if entry(&objects, system, "little_endian") != Some(Value::Bool(true)) {
        return Err("its numbers are not little-endian".into());
    }
    let (value, objects) = next()?;
    let (keys, key_objects) = next()?;
    let Value::Items(keys) = keys else { return Err("the list of its storages is missing".into()) };
    let mut places: HashMap<&str, Range<usize>> = HashMap::new();
    for key in &key_objects.items[keys] {
        let Value::Text(key) = key else { return Err("the list of its storages is damaged".into()) };
        let key = key_objects.texts[*key].as_str();
        let storage = objects.storages.iter().find(|storage| objects.texts[storage.key] == key);
        let storage = storage.ok_or_else(|| format!("no tensor uses the storage {key}"))?;
        let length = bytes.get(at..at + 8).ok_or("the file ends too early")?;
        let length = i64::from_le_bytes(length.try_into().expect("eight bytes were taken"));
        let size = storage.length.checked_mul(storage.element.size()).filter(|_| length == storage.length as i64);
        let size =
            size.ok_or_else(|| format!("the storage {key} has {length} numbers, its tensors expect {}", storage.length))?;
        let start = at + 8;
        at = start.checked_add(size).filter(|end| *end <= bytes.len()).ok_or("the file ends too early")?;
        places.insert(key, start..at);
    }
    let storages = objects.storages.iter().map(|storage| {
        let key = objects.texts[storage.key].as_str();
        let range = places.get(key).ok_or_else(|| format!("the storage {key} is missing"))?;
        whole(range.clone(), storage, key)
    });
    let storages = storages.collect::<Result<Vec<_>, String>>()?;
    named(value, &objects, &storages, bytes.len())
}

/// The value of a text key.
fn entry(objects: &Objects, dict: Value, key: &str) -> Option<Value> {
    let Value::Dict(number) = dict else { return None };
    let is_key = |value: &Value| matches!(value, Value::Text(text) if objects.texts[*text] == key);
    objects.dicts[number].iter().find(|(name, _)| is_key(name)).map(|(_, value)| *value)
}

/// The dictionary's tensors by name.
fn named(value: Value, objects: &Objects, storages: &[Range<usize>], length: usize) -> Result<Vec<(String, Entry)>, String> {
    let inner = NESTED.iter().find_map(|key| entry(objects, value, key).filter(|inner| matches!(inner, Value::Dict(_))));
    let Value::Dict(number) = inner.unwrap_or(value) else { return Err("it holds no dictionary of tensors".into()) };
    let mut tensors: BTreeMap<&str, ()> = BTreeMap::new();
    let mut all = Vec::new();
    let mut total = 0_usize;
    for (key, value) in &objects.dicts[number] {
        let (Value::Text(key), Value::Tensor(tensor)) = (key, value) else {
            return Err(format!("it holds {value:?} where a state dict has tensors; save `model.state_dict()` alone"));
        };
        let (name, view) = (objects.texts[*key].as_str(), objects.tensors[*tensor].clone());
        let element = objects.storages[view.storage].element;
        if tensors.insert(name, ()).is_some() {
            return Err(format!("the tensor {name} is there twice"));
        }
        // Tied weights share a storage; a file that shows the same numbers over and over is refused.
        total += view.numbers() * element.size();
        if total > 4 * length {
            return Err("its tensors together are much larger than the file".into());
        }
        all.push((name.to_string(), Entry { element, bytes: storages[view.storage].clone(), view }));
    }
    if all.is_empty() { Err("there are no tensors in it".into()) } else { Ok(all) }
}

fn dtype(element: Element) -> Dtype {
    match element {
        Element::F64 => Dtype::F64,
        Element::F32 => Dtype::F32,
        Element::F16 => Dtype::F16,
        Element::BF16 => Dtype::BF16,
        Element::I64 => Dtype::I64,
        Element::I32 => Dtype::I32,
        Element::I16 => Dtype::I16,
        Element::I8 => Dtype::I8,
        Element::U8 => Dtype::U8,
        Element::Bool => Dtype::BOOL,
    }
}
