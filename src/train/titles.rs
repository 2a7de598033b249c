//! Vectors of titles, each made once: known ones lie in memory and in a file beside the text model, by a hash of the text.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::parallel;
use crate::model::text::{TextError, TextModel};

/// First bytes of the file.
const MAGIC: &[u8; 8] = b"UCTITLE1";
/// Titles that one thread takes at a time.
const PIECE_TITLES: usize = 256;
/// Titles kept in the file at most: a later one is made anew each time.
const MAX_TITLES: usize = 1_000_000;

/// Vectors of titles by one text model. Shared by everything that trains.
#[derive(Debug)]
pub struct TitleVectors {
    model: TextModel,
    file: PathBuf,
    threads: usize,
    /// By hash of the title. Held for a look, never while texts are encoded.
    known: Mutex<HashMap<u128, Arc<[f32]>>>,
}

impl TitleVectors {
    /// Loads the model in `folder` and what was made with it before. A file of vectors that is damaged counts as none.
    pub fn open(folder: &Path, threads: usize) -> Result<Self, TextError> {
        let model = TextModel::load(folder)?;
        let file = folder.join(format!("titles-{:016x}.bin", xxh3_64(&model.version().to_le_bytes())));
        let known = std::fs::read(&file).ok().and_then(|bytes| decode(&bytes, model.width())).unwrap_or_default();
        Ok(Self { model, file, threads, known: Mutex::new(known) })
    }

    /// Which text model it is: 32 hexadecimal digits.
    pub fn version(&self) -> String {
        format!("{:032x}", self.model.version())
    }

    /// The vectors of `titles`, in order; none of an empty title. New ones are made on all threads, and kept.
    pub fn of(&self, titles: &[&str]) -> Result<Vec<Option<Arc<[f32]>>>, TextError> {
        let keys: Vec<u128> = titles.iter().map(|title| xxh3_128(title.as_bytes())).collect();
        let mut missing: Vec<(u128, &str)> = Vec::new();
        {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let mut asked = HashSet::new();
            for (key, title) in keys.iter().zip(titles) {
                if !title.is_empty() && !known.contains_key(key) && asked.insert(*key) {
                    missing.push((*key, title));
                }
            }
        }
        if !missing.is_empty() {
            // Of one length together over all pieces, too; the order does not matter for what a vector is.
            missing.sort_by_key(|(key, title)| (title.len(), *key));
            let pieces: Vec<&[(u128, &str)]> = missing.chunks(PIECE_TITLES).collect();
            let made = parallel::map(self.threads, pieces.len(), |piece| {
                let texts: Vec<&str> = pieces[piece].iter().map(|(_, title)| *title).collect();
                self.model.embed(&texts)
            });
            let made = made.into_iter().collect::<Result<Vec<_>, _>>()?;
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.extend(missing.iter().map(|(key, _)| *key).zip(made.into_iter().flatten().map(Arc::from)));
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(keys.iter().map(|key| known.get(key).cloned()).collect())
    }

    /// Writes what is known into the file, in one step.
    pub fn save(&self) -> std::io::Result<()> {
        let bytes = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            encode(&known, self.model.width())
        };
        let part = self.file.with_extension("part");
        std::fs::write(&part, bytes)?;
        std::fs::rename(&part, &self.file)
    }
}

/// Magic, width, then key and vector of each title in the order of keys, then a checksum.
fn encode(known: &HashMap<u128, Arc<[f32]>>, width: usize) -> Vec<u8> {
    let mut keys: Vec<&u128> = known.keys().collect();
    keys.sort_unstable();
    keys.truncate(MAX_TITLES);
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&(width as u64).to_le_bytes());
    for key in keys {
        bytes.extend_from_slice(&key.to_le_bytes());
        bytes.extend(known[key].iter().flat_map(|value| value.to_le_bytes()));
    }
    bytes.extend_from_slice(&xxh3_64(&bytes).to_le_bytes());
    bytes
}

/// `None` for anything but what [`encode`] writes for this width.
fn decode(bytes: &[u8], width: usize) -> Option<HashMap<u128, Arc<[f32]>>> {
    let (content, checksum) = bytes.split_last_chunk::<8>()?;
    if u64::from_le_bytes(*checksum) != xxh3_64(content) {
        return None;
    }
    let records = content.strip_prefix(MAGIC)?.strip_prefix(&(width as u64).to_le_bytes())?;
    let size = 16 + 4 * width;
    if !records.len().is_multiple_of(size) || records.len() / size > MAX_TITLES {
        return None;
    }
    let record = |record: &[u8]| {
        let (key, vector) = record.split_first_chunk::<16>()?;
        let vector: Vec<f32> = vector.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect();
        vector.iter().all(|value| value.is_finite()).then(|| (u128::from_le_bytes(*key), Arc::from(vector)))
    };
    records.chunks_exact(size).map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_read_back_and_damage_is_noticed() {
        let known: HashMap<u128, Arc<[f32]>> =
            [(7, Arc::from([0.5, -0.25])), (u128::MAX, Arc::from([1.0, 0.0]))].into_iter().collect();
        let bytes = encode(&known, 2);
        assert_eq!(decode(&bytes, 2), Some(known));
        assert_eq!(decode(&bytes, 3), None, "vectors of another width");
        for place in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[place] ^= 1;
            assert_eq!(decode(&damaged, 2), None, "a flipped bit at {place}");
            assert_eq!(decode(&bytes[..place], 2), None, "cut at {place}");
        }
        assert_eq!(decode(&encode(&HashMap::new(), 2), 2), Some(HashMap::new()));
    }
}
