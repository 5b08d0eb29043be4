//! Sequences of several images on one key-value cache, as rows that come and go.

use tch::{TchError, Tensor};

/// The rows' caches, all of one room.
#[derive(Debug)]
pub(super) struct Sequences {
    /// Tokens of each row so far.
    pub lengths: Vec<i64>,
    /// For each row what has to be added to a token's number to get its position.
    pub deltas: Vec<i64>,
    /// Tokens for which a row has room.
    pub room: i64,
    /// Keys and values of each layer, `[rows, kv heads, room, head]`.
    pub cache: Vec<(Tensor, Tensor)>,
}

impl Sequences {
    /// No rows.
    pub fn none() -> Sequences {
        Sequences { lengths: Vec::new(), deltas: Vec::new(), room: 0, cache: Vec::new() }
    }

    /// Puts the rows of `new` below its own; the room becomes the larger one.
    pub fn join(&mut self, new: Sequences) -> Result<(), TchError> {
        if self.lengths.is_empty() {
            *self = new;
            return Ok(());
        }
        let room = self.room.max(new.room);
        for ((key, value), (new_key, new_value)) in self.cache.iter_mut().zip(&new.cache) {
            *key = Tensor::f_cat(&[grown(key, room)?, grown(new_key, room)?], 0)?;
            *value = Tensor::f_cat(&[grown(value, room)?, grown(new_value, room)?], 0)?;
        }
        self.room = room;
        self.lengths.extend(new.lengths);
        self.deltas.extend(new.deltas);
        Ok(())
    }

    /// Keeps only these rows, in this order.
    pub fn keep(&mut self, rows: &[usize]) -> Result<(), TchError> {
        if rows.is_empty() {
            *self = Sequences::none();
            return Ok(());
        }
        let numbers: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
        for (key, value) in &mut self.cache {
            let index = Tensor::f_from_slice(&numbers)?.f_to_device(key.device())?;
            *key = key.f_index_select(0, &index)?;
            *value = value.f_index_select(0, &index)?;
        }
        self.lengths = rows.iter().map(|row| self.lengths[*row]).collect();
        self.deltas = rows.iter().map(|row| self.deltas[*row]).collect();
        Ok(())
    }
}

/// A cache with more room; what is behind a row's length is never read.
fn grown(x: &Tensor, room: i64) -> Result<Tensor, TchError> {
    let (rows, heads, own, head) = x.size4()?;
    if own == room {
        return Ok(x.shallow_clone());
    }
    Tensor::f_cat(&[x.shallow_clone(), Tensor::f_zeros([rows, heads, room - own, head], (x.kind(), x.device()))?], 2)
}
