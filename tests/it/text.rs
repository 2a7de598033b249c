//! The text model against numbers that were computed otherwise. The weights are not in the repository: `scripts/text-model` fetches
//! them, and without them (or `UNDERCURRENT_TEXT_MODEL`, another folder) these tests say so and are skipped.

use std::{path::PathBuf, sync::Arc};

use undercurrent::{model::text::TextModel, train::TitleVectors};

/// Where the model is, or why there is none.
fn folder() -> Result<PathBuf, String> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let home = || variable("HOME").unwrap_or_default();
    let cache = variable("XDG_CACHE_HOME").unwrap_or_else(|| home().join(".cache"));
    let cache = variable("UNDERCURRENT_CACHE").unwrap_or_else(|| cache.join("undercurrent"));
    let folder = variable("UNDERCURRENT_TEXT_MODEL").unwrap_or_else(|| cache.join("text-model"));
    if folder.join("model.safetensors").is_file() {
        return Ok(folder);
    }
    Err(format!("skipped: no text model in `{}`; `scripts/text-model` fetches one", folder.display()))
}

fn cosine(left: &[f32], right: &[f32]) -> f32 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

/// By a `NumPy` forward pass in double precision over the same weights, with a tokenizer of its own; the three cosines are also those
/// that sentence-transformers prints for this model (0.695, 0.943, 0.257).
#[test]
fn sentences_lie_where_the_reference_puts_them() {
    let folder = match folder() {
        Ok(folder) => folder,
        Err(why) => return println!("{why}"),
    };
    let model = TextModel::load(&folder).unwrap();
    let texts = [
        "That is a happy person",
        "That is a happy dog",
        "That is a very happy person",
        "Today is a sunny day",
        "THAT is a háppy person",
        "",
    ];
    let vectors = model.embed(&texts).unwrap();
    let first =
        [-0.033_876_9, 0.091_941_6, 0.048_701_3, -0.034_883_6, -0.064_829_2, -0.026_685_7, 0.134_293_4, -0.006_915];
    for (found, expected) in vectors[0].iter().zip(first) {
        assert!((found - expected).abs() < 1e-5, "{found} instead of {expected}");
    }
    for (other, expected) in vectors[1..4].iter().zip([0.694_577, 0.942_915, 0.256_876]) {
        let found = cosine(&vectors[0], other);
        assert!((found - expected).abs() < 1e-5, "{found} instead of {expected}");
    }
    assert_eq!(model.width(), 384);
    assert!(cosine(&vectors[0], &vectors[4]) > 0.999_99, "case and accents do not matter");
    for vector in &vectors {
        assert!((cosine(vector, vector) - 1.0).abs() < 1e-5);
    }
    // A text does not mind which others it is encoded with.
    let alone = model.embed(&texts[..1]).unwrap();
    assert!(cosine(&alone[0], &vectors[0]) > 0.999_999);
}

#[test]
fn titles_are_encoded_once_and_read_back_from_the_file() {
    let source = match folder() {
        Ok(folder) => folder,
        Err(why) => return println!("{why}"),
    };
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::os::unix::fs::symlink(source.join(name), folder.path().join(name)).unwrap();
    }
    let titles = ["Green tea, 50 bags", "", "Black coffee", "Green tea, 50 bags"];
    let first = TitleVectors::open(folder.path(), 2).unwrap();
    let made = first.of(&titles).unwrap();
    assert!(made[1].is_none() && Arc::ptr_eq(made[0].as_ref().unwrap(), made[3].as_ref().unwrap()));
    first.save().unwrap();
    let file = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let file = file.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "bin")).unwrap();
    assert_eq!(TitleVectors::open(folder.path(), 1).unwrap().of(&titles).unwrap(), made);
    // What is in the file counts, so that nothing was encoded again: other vectors there are other answers.
    let mut bytes = std::fs::read(&file).unwrap();
    let place = bytes.len() - 8 - 4;
    bytes[place..place + 4].copy_from_slice(&0.5_f32.to_le_bytes());
    let checksum = xxhash_rust::xxh3::xxh3_64(&bytes[..bytes.len() - 8]);
    let end = bytes.len() - 8;
    bytes[end..].copy_from_slice(&checksum.to_le_bytes());
    std::fs::write(&file, bytes).unwrap();
    let read = TitleVectors::open(folder.path(), 1).unwrap().of(&titles).unwrap();
    assert!(read.iter().flatten().any(|vector| vector.last() == Some(&0.5)), "the file was not read");
}

#[test]
fn a_folder_without_a_model_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let error = TextModel::load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains("scripts/text-model"), "{error}");
    std::fs::write(folder.path().join("config.json"), "{\"hidden_size\": 8}").unwrap();
    let error = TextModel::load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("no file of a text model") && error.contains("num_hidden_layers"), "{error}");
}
