//! The part of Python's pickle format that state dicts of torch are written in.
//!
//! Nothing is executed: `GLOBAL` and `REDUCE` know a handful of names and build the plain values below; everything else is refused by name.
//! Values live in flat tables and refer to each other by number, so a hostile file can neither recurse nor grow beyond a constant times its size.
//! Reference: CPython's `pickletools` and `torch/serialization.py`.

use std::collections::HashMap;

/// Most bytes of a pickle: the weights themselves are not in it.
const LONGEST: usize = 64 << 20;
/// So many values at most are copied for each byte that was read; what a byte makes is copied once, and a shape of eight sizes costs two.
const COPIES_PER_BYTE: usize = 8;

/// A pickled value; texts, lists, dictionaries, storages and tensors by their number in [`Objects`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float,
    /// A number of more than eight bytes.
    Long(usize),
    Text(usize),
    /// A tuple or a list.
    Items(usize),
    Dict(usize),
    Known(Known),
    Storage(usize),
    Tensor(usize),
}

/// The names that a state dict may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Element),
}

/// Types of stored numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl Element {
    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            Element::F64 | Element::I64 => 8,
            Element::F32 | Element::I32 => 4,
            Element::F16 | Element::BF16 | Element::I16 => 2,
            Element::I8 | Element::U8 | Element::Bool => 1,
        }
    }
}

/// Numbers in a file, under a key of the container.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Storage {
    pub element: Element,
    pub key: usize,
    pub length: usize,
}

/// A view of a storage, in numbers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TensorView {
    pub storage: usize,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// What the values refer to.
#[derive(Debug, Default)]
pub(super) struct Objects {
    pub texts: Vec<String>,
    pub longs: Vec<Vec<u8>>,
    pub items: Vec<Vec<Value>>,
    pub dicts: Vec<Vec<(Value, Value)>>,
    pub storages: Vec<Storage>,
    pub tensors: Vec<TensorView>,
}

/// Reads one pickle at the start of `bytes`: its value, what that refers to, and the pickle's length.
pub(super) fn read(bytes: &[u8]) -> Result<(Value, Objects, usize), String> {
    let mut machine = Machine {
        input: Input { bytes, at: 0 },
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        copied: 0,
        objects: Objects::default(),
    };
    let value = loop {
        let at = machine.input.at;
        if at > LONGEST {
            return Err(format!("the pickle is longer than {} MiB, a state dict's is not", LONGEST >> 20));
        }
        if let Some(value) = machine.step().map_err(|problem| format!("at byte {at} of the pickle: {problem}"))? {
            break value;
        }
    };
    Ok((value, machine.objects, machine.input.at))
}

struct Input<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Input<'b> {
    fn take(&mut self, count: usize) -> Result<&'b [u8], String> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len()).ok_or("the file ends too early")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(self.take(N)?.try_into().expect("take gives as many bytes as were asked for"))
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.array::<1>()?[0])
    }

    fn length(&mut self) -> Result<usize, String> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    fn text(&mut self, length: usize) -> Result<String, String> {
        String::from_utf8(self.take(length)?.to_vec()).map_err(|_| "a text is not UTF-8".into())
    }

    fn line(&mut self) -> Result<String, String> {
        let length = self.bytes[self.at..].iter().take(256).position(|byte| *byte == b'\n').ok_or("a name does not end")?;
        let line = self.text(length)?;
        self.at += 1;
        Ok(line)
    }
}

struct Machine<'b> {
    input: Input<'b>,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    /// Values that were copied out of lists.
    copied: usize,
    objects: Objects,
}

impl Machine<'_> {
    /// One instruction; the value when it was the last.
    fn step(&mut self) -> Result<Option<Value>, String> {
        match self.input.byte()? {
            b'.' => return self.pop().map(Some),
            0x80 => match self.input.byte()? {
                2..=5 => {}
                version => return Err(format!("protocol {version} is not one that torch writes (2 to 5)")),
            },
            0x95 => drop(self.input.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Bool(true)),
            0x89 => self.stack.push(Value::Bool(false)),
            code @ (b'J' | b'K' | b'M' | 0x8a | b'G') => self.number(code)?,
            code @ (b'X' | 0x8c | b'T' | b'U') => self.text(code)?,
            b'c' => {
                let (module, name) = (self.input.line()?, self.input.line()?);
                self.stack.push(Value::Known(known(&module, &name)?));
            }
            0x93 => {
                let (name, module) = (self.pop_text()?, self.pop_text()?);
                self.stack.push(Value::Known(known(&module, &name)?));
            }
            code @ (b')' | b't' | 0x85..=0x87 | b']') => self.sequence(code)?,
            b'}' => {
                self.objects.dicts.push(Vec::new());
                self.stack.push(Value::Dict(self.objects.dicts.len() - 1));
            }
            code @ (b'a' | b'e' | b's' | b'u') => self.fill(code)?,
            code @ (b'q' | b'r' | 0x94 | b'h' | b'j') => self.remember(code)?,
            b'Q' => self.storage()?,
            b'R' => self.call()?,
            b'b' => self.state()?,
            code => return Err(format!("the instruction {code:#04x} has no place in a state dict")),
        }
        Ok(None)
    }

    fn number(&mut self, code: u8) -> Result<(), String> {
        let value = match code {
            b'J' => Value::Int(i64::from(i32::from_le_bytes(self.input.array()?))),
            b'K' => Value::Int(i64::from(self.input.byte()?)),
            b'M' => Value::Int(i64::from(u16::from_le_bytes(self.input.array()?))),
            b'G' => {
                self.input.take(8)?;
                Value::Float
            }
            _ => {
                let length = self.input.byte()?;
                let bytes = self.input.take(usize::from(length))?;
                self.long(bytes)
            }
        };
        self.stack.push(value);
        Ok(())
    }

    /// Little-endian, two's complement.
    fn long(&mut self, bytes: &[u8]) -> Value {
        if bytes.len() > 8 {
            self.objects.longs.push(bytes.to_vec());
            return Value::Long(self.objects.longs.len() - 1);
        }
        let sign = if bytes.last().is_some_and(|byte| *byte >= 0x80) { 0xff } else { 0 };
        let mut whole = [sign; 8];
        whole[..bytes.len()].copy_from_slice(bytes);
        Value::Int(i64::from_le_bytes(whole))
    }

    fn text(&mut self, code: u8) -> Result<(), String> {
        let length = match code {
            b'X' | b'T' => self.input.length()?,
            _ => usize::from(self.input.byte()?),
        };
        let text = self.input.text(length)?;
        self.objects.texts.push(text);
        self.stack.push(Value::Text(self.objects.texts.len() - 1));
        Ok(())
    }

    fn sequence(&mut self, code: u8) -> Result<(), String> {
        let items = match code {
            b')' | b']' => Vec::new(),
            b't' => self.since_mark()?,
            _ => {
                let count = usize::from(code - 0x84);
                let start = self.stack.len().checked_sub(count).filter(|start| *start >= self.floor()).ok_or(EMPTY)?;
                self.stack.split_off(start)
            }
        };
        self.objects.items.push(items);
        self.stack.push(Value::Items(self.objects.items.len() - 1));
        Ok(())
    }

    /// Into the list or dictionary below.
    fn fill(&mut self, code: u8) -> Result<(), String> {
        let new = match code {
            b'a' => vec![self.pop()?],
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                vec![key, value]
            }
            _ => self.since_mark()?,
        };
        match (code, self.top()?) {
            (b'a' | b'e', Value::Items(number)) => self.objects.items[number].extend(new),
            (b's' | b'u', Value::Dict(number)) if new.len() % 2 == 0 => {
                self.objects.dicts[number].extend(new.chunks_exact(2).map(|pair| (pair[0], pair[1])));
            }
            (_, other) => return Err(format!("{other:?} cannot be filled")),
        }
        Ok(())
    }

    fn remember(&mut self, code: u8) -> Result<(), String> {
        let number = match code {
            b'q' | b'h' => u32::from(self.input.byte()?),
            b'r' | b'j' => u32::from_le_bytes(self.input.array()?),
            _ => self.memo.len() as u32,
        };
        if matches!(code, b'h' | b'j') {
            let value = *self.memo.get(&number).ok_or("it refers to something that it has not made")?;
            self.stack.push(value);
        } else {
            let value = self.top()?;
            self.memo.insert(number, value);
        }
        Ok(())
    }

    /// `('storage', type, key, device, length)`, in the older format with a sixth part that must be None.
    fn storage(&mut self) -> Result<(), String> {
        let parts = self.pop_items()?;
        let (kind, key, length) = match parts.as_slice() {
            [Value::Text(what), Value::Known(Known::Storage(kind)), Value::Text(key), Value::Text(_), Value::Int(length)]
            | [
                Value::Text(what),
                Value::Known(Known::Storage(kind)),
                Value::Text(key),
                Value::Text(_),
                Value::Int(length),
                Value::None,
            ] if self.objects.texts[*what] == "storage" => (*kind, *key, *length),
            _ => return Err("a reference to something other than a plain storage".into()),
        };
        let length = usize::try_from(length).map_err(|_| "a storage of negative length")?;
        self.objects.storages.push(Storage { element: kind, key, length });
        self.stack.push(Value::Storage(self.objects.storages.len() - 1));
        Ok(())
    }

    fn call(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop_items()?, self.pop()?);
        let value = match (function, arguments.as_slice()) {
            (Value::Known(Known::OrderedDict), []) => self.dictionary(Vec::new()),
            (Value::Known(Known::OrderedDict), [Value::Items(pairs)]) => {
                let pairs = self.copy_of(*pairs)?;
                let pairs = pairs.into_iter().map(|pair| self.pair(pair)).collect::<Result<Vec<_>, String>>()?;
                self.dictionary(pairs)
            }
            (
                Value::Known(Known::RebuildTensor),
                [Value::Storage(storage), Value::Int(offset), Value::Items(shape), Value::Items(strides), ..],
            ) => self.tensor(*storage, *offset, *shape, *strides)?,
            (Value::Known(Known::RebuildParameter), [tensor @ Value::Tensor(_), ..]) => *tensor,
            (function, _) => return Err(format!("{function:?} is called with other arguments than a state dict has")),
        };
        self.stack.push(value);
        Ok(())
    }

    fn dictionary(&mut self, pairs: Vec<(Value, Value)>) -> Value {
        self.objects.dicts.push(pairs);
        Value::Dict(self.objects.dicts.len() - 1)
    }

    fn pair(&self, value: Value) -> Result<(Value, Value), String> {
        match value {
            Value::Items(number) => match self.objects.items[number].as_slice() {
                [key, value] => Ok((*key, *value)),
                _ => Err("a dictionary's entry is no pair".into()),
            },
            _ => Err("a dictionary's entry is no pair".into()),
        }
    }

    fn tensor(&mut self, storage: usize, offset: i64, shape: usize, strides: usize) -> Result<Value, String> {
        let sizes = |number: usize| -> Result<Vec<usize>, String> {
            let whole = |value: &Value| match value {
                Value::Int(size) => usize::try_from(*size).map_err(|_| "a negative size".to_string()),
                _ => Err("a size is no number".to_string()),
            };
            self.objects.items[number].iter().map(whole).collect()
        };
        let (shape, strides) = (sizes(shape)?, sizes(strides)?);
        let offset = usize::try_from(offset).map_err(|_| "a negative offset")?;
        if shape.len() != strides.len() || shape.len() > 8 {
            return Err(format!("sizes {shape:?} and strides {strides:?} make no tensor"));
        }
        let view = TensorView { storage, offset, shape, strides };
        view.check(self.objects.storages[storage].length)?;
        self.objects.tensors.push(view);
        Ok(Value::Tensor(self.objects.tensors.len() - 1))
    }

    /// What is set on an object beside its content: only a dictionary's, which is not needed.
    fn state(&mut self) -> Result<(), String> {
        self.pop()?;
        match self.top()? {
            Value::Dict(_) => Ok(()),
            other => Err(format!("{other:?} is given a state")),
        }
    }

    /// Values below belong to what an open mark has not closed.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Value, String> {
        if self.stack.len() <= self.floor() {
            return Err(EMPTY.into());
        }
        self.stack.pop().ok_or_else(|| EMPTY.into())
    }

    fn top(&self) -> Result<Value, String> {
        self.stack.last().copied().filter(|_| self.stack.len() > self.floor()).ok_or_else(|| EMPTY.into())
    }

    fn since_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.marks.pop().ok_or(EMPTY)?;
        Ok(self.stack.split_off(mark))
    }

    fn pop_text(&mut self) -> Result<String, String> {
        match self.pop()? {
            Value::Text(number) => Ok(self.objects.texts[number].clone()),
            _ => Err("a name is no text".into()),
        }
    }

    fn pop_items(&mut self) -> Result<Vec<Value>, String> {
        match self.pop()? {
            Value::Items(number) => self.copy_of(number),
            _ => Err("arguments that are no tuple".into()),
        }
    }

    /// A list is copied wherever it is used, and can be used again for two bytes: honest ones are used once or are short.
    fn copy_of(&mut self, items: usize) -> Result<Vec<Value>, String> {
        let items = &self.objects.items[items];
        self.copied += items.len();
        if self.copied > COPIES_PER_BYTE * self.input.at {
            return Err("it uses long lists again and again, which a state dict does not".into());
        }
        Ok(items.clone())
    }
}

const EMPTY: &str = "it takes a value where there is none";

impl TensorView {
    /// Number of numbers.
    pub fn numbers(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the view lies within a storage of `length` numbers and shows none of them twice over.
    fn check(&self, length: usize) -> Result<(), String> {
        let count = self.shape.iter().try_fold(1_usize, |count, size| count.checked_mul(*size)).ok_or("a size that overflows")?;
        if count == 0 {
            return Ok(());
        }
        let last = self
            .shape
            .iter()
            .zip(&self.strides)
            .try_fold(self.offset, |last, (size, stride)| last.checked_add((size - 1).checked_mul(*stride)?));
        match last {
            Some(last) if last < length && count <= length => Ok(()),
            _ => {
                Err(format!("a tensor of sizes {:?} at {} does not fit its storage of {length} numbers", self.shape, self.offset))
            }
        }
    }

    /// Whether its numbers lie one after the other.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(size, stride)| {
            let fits = *size == 1 || *stride == expected;
            expected *= size;
            fits
        })
    }
}

/// The only names that are understood.
fn known(module: &str, name: &str) -> Result<Known, String> {
    let storage = |element| Ok(Known::Storage(element));
    match (module, name) {
        ("collections", "OrderedDict") => Ok(Known::OrderedDict),
        ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => Ok(Known::RebuildTensor),
        ("torch._utils", "_rebuild_parameter") => Ok(Known::RebuildParameter),
        ("torch", "DoubleStorage") => storage(Element::F64),
        ("torch", "FloatStorage") => storage(Element::F32),
        ("torch", "HalfStorage") => storage(Element::F16),
        ("torch", "BFloat16Storage") => storage(Element::BF16),
        ("torch", "LongStorage") => storage(Element::I64),
        ("torch", "IntStorage") => storage(Element::I32),
        ("torch", "ShortStorage") => storage(Element::I16),
        ("torch", "CharStorage") => storage(Element::I8),
        ("torch", "ByteStorage") => storage(Element::U8),
        ("torch", "BoolStorage") => storage(Element::Bool),
        _ => Err(format!(
            "it names `{module}.{name}`, which is not part of a state dict and is not run here; save `model.state_dict()` alone"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_of_another_function_is_refused_by_name() {
        let hostile = b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.";
        let problem = read(hostile).unwrap_err();
        assert!(problem.contains("posix.system"), "{problem}");
    }

    #[test]
    fn damage_is_an_error_whatever_the_byte() {
        let good: &[u8] =
            b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01(X\x01\x00\x00\x00aK\x01u}X\x09\x00\x00\x00_metadataNsb.";
        assert_eq!(read(good).map(|(_, _, length)| length), Ok(good.len()));
        for at in 0..good.len() {
            assert!(read(&good[..at]).is_err(), "cut at {at}");
            for byte in 0..=255 {
                let mut damaged = good.to_vec();
                damaged[at] = byte;
                // Whatever comes out, it comes out: no panic, no endless loop.
                let _ = read(&damaged);
            }
        }
    }

    #[test]
    fn depth_is_no_danger() {
        let mut deep = b"\x80\x02N".to_vec();
        deep.extend(std::iter::repeat_n(0x85, 1 << 20));
        deep.push(b'.');
        assert!(matches!(read(&deep), Ok((Value::Items(_), _, _))));
    }

    #[test]
    fn a_list_that_is_used_again_and_again_is_refused() {
        // A list that holds a list of pairs and dictionaries made from that.
        let file = |dictionaries: usize| {
            let mut bytes = b"\x80\x02](]q\x00(".to_vec();
            bytes.extend(std::iter::repeat_n(b"K\x01K\x01\x86", 10_000).flatten());
            bytes.push(b'e');
            bytes.extend(std::iter::repeat_n(b"ccollections\nOrderedDict\nh\x00\x85R", dictionaries).flatten());
            bytes.extend(b"e.");
            bytes
        };
        assert!(matches!(read(&file(1)), Ok((Value::Items(_), _, _))));
        let problem = read(&file(100)).unwrap_err();
        assert!(problem.contains("again and again"), "{problem}");
    }

    #[test]
    fn a_tensor_stays_within_its_storage() {
        let view = |offset, shape: &[usize], strides: &[usize]| TensorView {
            storage: 0,
            offset,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
        };
        assert!(view(0, &[2, 3], &[3, 1]).check(6).is_ok());
        assert!(view(0, &[2, 3], &[1, 2]).check(6).is_ok());
        assert!(view(1, &[2, 3], &[3, 1]).check(6).is_err());
        assert!(view(0, &[usize::MAX, 2], &[1, 1]).check(6).is_err());
        assert!(view(0, &[1000], &[0]).check(6).is_err());
        assert!(view(usize::MAX, &[2], &[usize::MAX]).check(6).is_err());
    }
}
