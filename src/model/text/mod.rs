//! Vectors of short texts by a pre-trained sentence encoder of the BERT family (all-MiniLM-L6-v2; Reimers & Gurevych, *Sentence-BERT*,
//! 2019): token states are averaged and scaled to length 1, so that a product of two vectors is their cosine.

mod bert;

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use tokenizers::{Tokenizer, TruncationParams};
use xxhash_rust::xxh3::xxh3_128;

use bert::{Bert, BertConfig};

/// Tokens of a text that are read, the two that mark its ends included; what the model was trained with.
const MAX_TOKENS: usize = 256;
/// Texts encoded at once, all of about the same length.
const BATCH_TEXTS: usize = 32;

/// Why a text model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A file cannot be read.
    #[error("cannot read `{path}` of the text model: {source}; `scripts/text-model` fetches one", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file is not what is expected.
    #[error("`{path}` is no file of a text model: {message}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A text cannot be cut into tokens.
    #[error("a text cannot be cut into tokens: {0}")]
    Tokens(String),
    /// A vector is not finite.
    #[error("the text model answers with numbers that are not finite")]
    NotFinite,
    /// A tensor operation failed.
    #[error("a tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// A sentence encoder. Immutable, so that threads share it.
pub struct TextModel {
    tokenizer: Tokenizer,
    bert: Bert,
    version: u128,
}

impl TextModel {
    /// Loads `config.json`, `model.safetensors` and `tokenizer.json` of `folder`.
    pub fn load(folder: &Path) -> Result<Self, TextError> {
        let read = |name: &str| {
            let path = folder.join(name);
            let bytes = std::fs::read(&path);
            bytes.map_err(|source| TextError::Read { path: path.clone(), source }).map(|bytes| (path, bytes))
        };
        let (config_path, config_bytes) = read("config.json")?;
        let malformed = |path: &Path, message: String| TextError::Format { path: path.to_owned(), message };
        let config: BertConfig =
            serde_json::from_slice(&config_bytes).map_err(|error| malformed(&config_path, error.to_string()))?;
        if let Some(problem) = config.problem() {
            return Err(malformed(&config_path, problem));
        }
        let (tokenizer_path, tokenizer_bytes) = read("tokenizer.json")?;
        let mut tokenizer =
            Tokenizer::from_bytes(&tokenizer_bytes).map_err(|error| malformed(&tokenizer_path, error.to_string()))?;
        tokenizer.with_padding(None);
        let max_length = MAX_TOKENS.min(config.max_position_embeddings);
        tokenizer
            .with_truncation(Some(TruncationParams { max_length, ..TruncationParams::default() }))
            .map_err(|error| malformed(&tokenizer_path, error.to_string()))?;
        let (weights_path, weights) = read("model.safetensors")?;
        let tensors = candle_core::safetensors::load_buffer(&weights, &Device::Cpu)
            .map_err(|error| malformed(&weights_path, error.to_string()))?;
        let bert = Bert::load(&tensors, &config).map_err(|error| malformed(&weights_path, error.to_string()))?;
        let hashes = [config_bytes, tokenizer_bytes, weights].map(|bytes| xxh3_128(&bytes).to_le_bytes());
        Ok(Self { tokenizer, bert, version: xxh3_128(hashes.as_flattened()) })
    }

    /// A number that changes with any of the model's files.
    pub fn version(&self) -> u128 {
        self.version
    }

    /// Numbers of a vector.
    pub fn width(&self) -> usize {
        self.bert.width()
    }

    /// The vectors of `texts`, in order, of length 1. On the caller's thread; what a vector is does not depend on the other texts
    /// beyond the rounding of sums.
    pub fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, TextError> {
        let tokens = texts
            .iter()
            .map(|text| {
                let encoding = self.tokenizer.encode_fast(*text, true);
                encoding
                    .map(|encoding| encoding.get_ids().to_vec())
                    .map_err(|error| TextError::Tokens(error.to_string()))
            })
            .collect::<Result<Vec<Vec<u32>>, _>>()?;
        // Texts of about one length together: padding is work for nothing.
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|place| tokens[*place].len());
        let mut vectors = vec![Vec::new(); texts.len()];
        for places in order.chunks(BATCH_TEXTS) {
            let batch: Vec<&[u32]> = places.iter().map(|place| tokens[*place].as_slice()).collect();
            let rows = self.bert.pooled(&batch)?.to_vec2::<f32>()?;
            for (place, row) in places.iter().zip(rows) {
                if !row.iter().all(|value| value.is_finite()) {
                    return Err(TextError::NotFinite);
                }
                vectors[*place] = row;
            }
        }
        Ok(vectors)
    }
}

impl std::fmt::Debug for TextModel {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "TextModel({:032x})", self.version)
    }
}

/// Rows of length 1.
fn normalised(rows: &Tensor) -> candle_core::Result<Tensor> {
    rows.broadcast_div(&rows.sqr()?.sum_keepdim(1)?.sqrt()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tokens of a small vocabulary, as a `tokenizer.json` of the kind that BERT models bring.
    fn tokens(text: &str) -> Vec<String> {
        let words = [
            "[PAD]", "[UNK]", "[CLS]", "[SEP]", "green", "tea", "##s", "cafe", ",", "50", "0", "##g", "un", "##a", "茶",
        ];
        let vocabulary: serde_json::Map<String, serde_json::Value> =
            words.iter().zip(0..).map(|(word, id)| ((*word).to_owned(), serde_json::Value::from(id))).collect();
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {
                    "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                    "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}
                }
            },
            "decoder": null,
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocabulary},
        });
        let tokenizer = Tokenizer::from_bytes(json.to_string()).unwrap();
        tokenizer.encode_fast(text, true).unwrap().get_ids().iter().map(|id| words[*id as usize].to_owned()).collect()
    }

    #[test]
    fn texts_are_cut_as_bert_cuts_them() {
        let check = |text: &str, expected: &[&str]| {
            let found = tokens(text);
            assert_eq!(found[1..found.len() - 1], *expected, "{text}");
            assert_eq!((found[0].as_str(), found[found.len() - 1].as_str()), ("[CLS]", "[SEP]"));
        };
        check("Green TEAS, 50g", &["green", "tea", "##s", ",", "50", "##g"]);
        check("  Café\tun\u{200b}a ", &["cafe", "un", "##a"]);
        check("茶tea", &["茶", "tea"]);
        check("coffee 0", &["[UNK]", "0"]);
        check("", &[]);
    }
}
