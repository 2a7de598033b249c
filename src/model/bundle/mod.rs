//! A trained model on disk: weights, feature specification, item model, metrics, probe, model card and manifest.
//!
//! Nothing of a bundle is trusted: loading checks every file's size and hash, every shape, that all numbers are finite,
//! and that the network says of the bundle's probe users what it said when it was stored.

mod ensemble;
mod manifest;
mod probe;
mod reference;
mod tensors;

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use candle_core::Device;
use serde::{Deserialize, Serialize};

use self::{
    ensemble::StoredEnsemble,
    manifest::{FORMAT, Manifest, hash},
    tensors::Array,
};
use super::{
    Calibration, CandleForward, Ensemble, ForestError, FusedError, FusedForward, HeadLanes, Model, NetworkConfig,
    Parameter, Parameters, Prediction,
    items::{ItemModel, ItemModelError},
};
use crate::{
    features::{EncodedUser, FeatureSpec, SpecError},
    score::{ModelInfo, Probability},
};

pub use probe::Probe;
pub use reference::References;

const MODEL_FILE: &str = "model.safetensors";
const CONFIG_FILE: &str = "config.json";
const FEATURES_FILE: &str = "features.json";
const METRICS_FILE: &str = "metrics.json";
const PROBE_FILE: &str = "probe.safetensors";
const CARD_FILE: &str = "README.md";
/// Absent where the training data had no items.
const ITEMS_FILE: &str = "items.safetensors";
/// Absent from bundles of form 1: they are served by the network alone.
const TREES_FILE: &str = "trees.safetensors";
const MANIFEST_FILE: &str = "MANIFEST.json";

/// Files every bundle has, besides the manifest.
const REQUIRED: [&str; 6] = [MODEL_FILE, CONFIG_FILE, FEATURES_FILE, METRICS_FILE, PROBE_FILE, CARD_FILE];

/// Largest bundle, all files together.
pub const MAX_BUNDLE_BYTES: u64 = 16 * 1024 * 1024;

/// Users kept as the probe.
const PROBE_USERS: usize = 16;

/// Why a bundle cannot be written or used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The file system refused.
    #[error("cannot {action} `{path}`: {source}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file or folder.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file the manifest lists, or every bundle must have, is absent from the manifest.
    #[error("the manifest does not list `{file}`")]
    NotListed {
        /// The file.
        file: &'static str,
    },
    /// A file differs from what the manifest says.
    #[error("`{file}` does not match the manifest: {message}")]
    Mismatch {
        /// The file.
        file: String,
        /// Size or hash found and expected.
        message: String,
    },
    /// A file cannot be read as what it should be.
    #[error("`{file}` is malformed: {message}")]
    Malformed {
        /// The file.
        file: &'static str,
        /// What is wrong.
        message: String,
    },
    /// Written by another program version.
    #[error("the bundle has format `{found}`, this program reads up to `{FORMAT}`")]
    Format {
        /// Format found.
        found: u32,
    },
    /// A parameter is missing, unknown or of another shape than the configuration asks for.
    #[error("parameter `{name}`: {message}")]
    Parameter {
        /// The parameter.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// The trees cannot be used.
    #[error("`trees.safetensors`: {0}")]
    Trees(#[from] ForestError),
    /// The item model cannot be used.
    #[error("`items.safetensors`: {0}")]
    Items(#[from] ItemModelError),
    /// The feature specification cannot be used.
    #[error("`features.json`: {0}")]
    Spec(#[from] SpecError),
    /// The files are larger than [`MAX_BUNDLE_BYTES`].
    #[error("the bundle has `{bytes}` bytes, at most `{MAX_BUNDLE_BYTES}` are allowed: admit fewer items")]
    TooLarge {
        /// Bytes of all files.
        bytes: u64,
    },
    /// The network says something else of the probe than it did when stored.
    #[error("probe user `{user}` gets another answer from the {forward} forward than the stored one")]
    Probe {
        /// Place among the probe's users.
        user: usize,
        /// Which forward pass.
        forward: &'static str,
    },
    /// A tensor operation failed.
    #[error("a tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
    /// The serving form could not be built.
    #[error("the serving form cannot be built: {0}")]
    Fused(FusedError),
}

/// What training chose on validation besides the weights; all of `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredConfig {
    format: u32,
    network: NetworkConfig,
    calibration: Calibration,
    churn_threshold: f32,
    purchase_threshold: f32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ensemble: Option<StoredEnsemble>,
}

/// A loaded or freshly trained bundle. Immutable; shared by reference count.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Identity: name and content hash.
    pub version: Arc<str>,
    /// The network.
    pub model: Model,
    /// What is served for churn and purchase; `None` in bundles of form 1, where it is the network alone.
    pub ensemble: Option<Ensemble>,
    /// Features and vocabulary.
    pub spec: FeatureSpec,
    /// What ranks items; `None` where the training data had none.
    pub items: Option<Arc<ItemModel>>,
    /// Churn probability with the best F1 on validation.
    pub churn_threshold: Probability,
    /// Purchase probability with the best F1 on validation.
    pub purchase_threshold: Probability,
    /// What evaluation measured, as stored.
    pub metrics: serde_json::Value,
    /// The model card, Markdown.
    pub card: String,
    probe: Probe,
}

/// What a new bundle is made of.
#[derive(Debug, Clone)]
pub struct BundleParts {
    /// First part of the version, for example the data set's name.
    pub name: String,
    /// The network.
    pub model: Model,
    /// What is served for churn and purchase; `None` in bundles of form 1, where it is the network alone.
    pub ensemble: Option<Ensemble>,
    /// Features and vocabulary.
    pub spec: FeatureSpec,
    /// What ranks items; `None` where the training data had none.
    pub items: Option<Arc<ItemModel>>,
    /// Churn probability with the best F1 on validation.
    pub churn_threshold: Probability,
    /// Purchase probability with the best F1 on validation.
    pub purchase_threshold: Probability,
    /// What evaluation measured.
    pub metrics: serde_json::Value,
    /// The model card, Markdown.
    pub card: String,
}

impl Bundle {
    /// Makes a bundle, with up to 16 of `probe_users` and what the network says of them as its probe.
    pub fn new(parts: BundleParts, probe_users: &[&EncodedUser]) -> Result<Self, BundleError> {
        let users: Vec<EncodedUser> =
            probe_users.iter().take(PROBE_USERS).map(|user| EncodedUser::clone(user)).collect();
        let references: Vec<&EncodedUser> = users.iter().collect();
        let answers = CandleForward::new(&parts.model, Device::Cpu)?.predict(&references)?;
        let mut bundle = Self {
            version: Arc::from(""),
            model: parts.model,
            ensemble: parts.ensemble,
            spec: parts.spec,
            items: parts.items,
            churn_threshold: parts.churn_threshold,
            purchase_threshold: parts.purchase_threshold,
            metrics: parts.metrics,
            card: parts.card,
            probe: Probe { users, answers },
        };
        bundle.version = Manifest::of(&parts.name, bundle.format(), &bundle.files()?).version.into();
        bundle.check()?;
        Ok(bundle)
    }

    /// What scores say of this bundle.
    pub fn info(&self) -> ModelInfo {
        let days = |days: i32| u32::try_from(days).unwrap_or(0);
        ModelInfo {
            version: Arc::clone(&self.version),
            churn_days: days(self.spec.settings.churn_days),
            purchase_days: days(self.spec.settings.purchase_days),
            churn_threshold: self.churn_threshold,
        }
    }

    /// Calibrated log-odds of a user, given what the network says: churn, purchase.
    pub fn log_odds(&self, prediction: &Prediction, user: &EncodedUser) -> [f32; 2] {
        match &self.ensemble {
            Some(ensemble) => ensemble.log_odds(prediction, user),
            None => [
                self.model.calibration.churn.log_odds(prediction.churn_log_odds),
                self.model.calibration.purchase.log_odds(prediction.purchase_log_odds),
            ],
        }
    }

    /// What [`log_odds_of`](Self::log_odds_of) needs, made once for all users.
    pub fn lanes(&self) -> Option<HeadLanes> {
        self.ensemble.as_ref().map(Ensemble::lanes)
    }

    /// [`log_odds`](Self::log_odds) of many users bit for bit, at a fraction of the cost. `lanes` are the bundle's own.
    pub fn log_odds_of(
        &self,
        lanes: Option<&HeadLanes>,
        predictions: &[Prediction],
        users: &[&EncodedUser],
    ) -> Vec<[f32; 2]> {
        match (&self.ensemble, lanes) {
            (Some(ensemble), Some(lanes)) => ensemble.log_odds_of(lanes, predictions, users),
            _ => users.iter().zip(predictions).map(|(user, prediction)| self.log_odds(prediction, user)).collect(),
        }
    }

    /// Contribution of feature `place` to the churn log-odds over the network's linear path, against the training median.
    pub fn wide_effect(&self, user: &EncodedUser, place: usize) -> f32 {
        self.network_share() * self.model.wide_effect(user, place)
    }

    /// The contributions of all features, in their order.
    pub fn wide_effects<'a>(&'a self, user: &'a EncodedUser) -> impl Iterator<Item = f32> + 'a {
        let share = self.network_share();
        self.model.wide_effects(user).map(move |effect| share * effect)
    }

    /// What the network's churn log-odds count in the served ones.
    fn network_share(&self) -> f32 {
        match &self.ensemble {
            Some(ensemble) => ensemble.churn.network_share(),
            None => self.model.calibration.churn.scale,
        }
    }

    /// The bundle's proof.
    pub fn probe(&self) -> &Probe {
        &self.probe
    }

    /// Writes all files into `folder`, which is created; the manifest comes last, so a torn bundle is none.
    pub fn save(&self, folder: &Path) -> Result<(), BundleError> {
        let files = self.files()?;
        let name = self.version.rsplit_once('-').map_or("bundle", |(name, _)| name);
        let manifest = Manifest::of(name, self.format(), &files);
        let text = serde_json::to_vec_pretty(&manifest)
            .map_err(|error| BundleError::Malformed { file: MANIFEST_FILE, message: error.to_string() })?;
        let total = files.values().chain([&text]).map(|bytes| bytes.len() as u64).sum();
        if total > MAX_BUNDLE_BYTES {
            return Err(BundleError::TooLarge { bytes: total });
        }
        let io = |action, path: &Path| {
            let path = path.display().to_string();
            move |source| BundleError::Io { action, path, source }
        };
        fs::create_dir_all(folder).map_err(io("create", folder))?;
        for (file, bytes) in files.iter().map(|(file, bytes)| (*file, bytes)).chain([(MANIFEST_FILE, &text)]) {
            let path = folder.join(file);
            let part = folder.join(format!("{file}.part"));
            fs::write(&part, bytes).map_err(io("write", &part))?;
            fs::rename(&part, &path).map_err(io("rename", &part))?;
        }
        Ok(())
    }

    /// Reads a bundle and checks all of it.
    pub fn load(folder: &Path) -> Result<Self, BundleError> {
        let manifest: Manifest = json(MANIFEST_FILE, &read(folder, MANIFEST_FILE)?)?;
        if !(1..=FORMAT).contains(&manifest.format) {
            return Err(BundleError::Format { found: manifest.format });
        }
        if let Some(file) = REQUIRED.into_iter().find(|file| !manifest.files.contains_key(*file)) {
            return Err(BundleError::NotListed { file });
        }
        let total = manifest.files.values().fold(0_u64, |sum, entry| sum.saturating_add(entry.bytes));
        if total > MAX_BUNDLE_BYTES {
            return Err(BundleError::TooLarge { bytes: total });
        }
        let mut files = BTreeMap::new();
        let listed = REQUIRED.into_iter().chain([ITEMS_FILE, TREES_FILE]);
        for (file, entry) in listed.filter_map(|file| Some((file, manifest.files.get(file)?))) {
            let bytes = read(folder, file)?;
            if bytes.len() as u64 != entry.bytes {
                let message = format!("`{}` bytes, listed `{}`", bytes.len(), entry.bytes);
                return Err(BundleError::Mismatch { file: file.to_owned(), message });
            }
            let found = hash(&bytes);
            if found != entry.sha256 {
                let message = format!("SHA-256 `{found}`, listed `{}`", entry.sha256);
                return Err(BundleError::Mismatch { file: file.to_owned(), message });
            }
            files.insert(file, bytes);
        }
        let name = manifest.version.rsplit_once('-').map_or("", |(name, _)| name);
        let expected = Manifest::of(name, manifest.format, &files).version;
        if manifest.version != expected {
            let message = format!("version `{}`, its files make `{expected}`", manifest.version);
            return Err(BundleError::Mismatch { file: MANIFEST_FILE.to_owned(), message });
        }
        Self::from_files(&manifest, &files)
    }

    fn from_files(manifest: &Manifest, files: &BTreeMap<&'static str, Vec<u8>>) -> Result<Self, BundleError> {
        let config: StoredConfig = json(CONFIG_FILE, &files[CONFIG_FILE])?;
        if config.format != manifest.format {
            return Err(BundleError::Format { found: config.format });
        }
        if let Some(message) = config.network.problem() {
            return Err(BundleError::Malformed { file: CONFIG_FILE, message });
        }
        let threshold = |value: f32| {
            let message = format!("threshold `{value}` is no probability");
            Probability::new(value).ok_or(BundleError::Malformed { file: CONFIG_FILE, message })
        };
        let spec = FeatureSpec::from_json(&files[FEATURES_FILE])?;
        fits(&spec, &config.network)?;
        let ensemble = match (config.ensemble, files.get(TREES_FILE)) {
            (Some(stored), Some(bytes)) => Some(stored.with_trees(bytes, spec.features().len())?),
            (None, None) => None,
            _ => return Err(BundleError::NotListed { file: TREES_FILE }),
        };
        let card = String::from_utf8(files[CARD_FILE].clone())
            .map_err(|error| BundleError::Malformed { file: CARD_FILE, message: error.to_string() })?;
        let metrics: serde_json::Value = json(METRICS_FILE, &files[METRICS_FILE])?;
        if let Some(message) = reference::problem(&metrics) {
            return Err(BundleError::Malformed { file: METRICS_FILE, message });
        }
        let bundle = Self {
            version: manifest.version.as_str().into(),
            probe: Probe::from_bytes(&files[PROBE_FILE], &config.network)?,
            churn_threshold: threshold(config.churn_threshold)?,
            purchase_threshold: threshold(config.purchase_threshold)?,
            model: Model {
                parameters: parameters(&files[MODEL_FILE], &config.network)?,
                config: config.network,
                calibration: config.calibration,
            },
            ensemble,
            spec,
            items: match files.get(ITEMS_FILE) {
                Some(bytes) => Some(Arc::new(ItemModel::from_bytes(bytes)?)),
                None => None,
            },
            metrics,
            card,
        };
        bundle.check()?;
        Ok(bundle)
    }

    /// Finite numbers, and both forward passes agree with the probe.
    fn check(&self) -> Result<(), BundleError> {
        for blend in self.ensemble.iter().flat_map(|ensemble| [&ensemble.churn, &ensemble.purchase]) {
            if let Some(message) = blend.problem(self.spec.features().len()) {
                return Err(BundleError::Malformed { file: CONFIG_FILE, message });
            }
        }
        if let Some(name) = self.model.parameters.first_not_finite() {
            return Err(BundleError::Parameter { name: name.to_owned(), message: "is not finite".to_owned() });
        }
        let users: Vec<&EncodedUser> = self.probe.users.iter().collect();
        let refuse = |answers: &[Prediction], forward| match self.probe.first_difference(answers) {
            Some(user) => Err(BundleError::Probe { user, forward }),
            None => Ok(()),
        };
        refuse(&CandleForward::new(&self.model, Device::Cpu)?.predict(&users)?, "candle")?;
        match FusedForward::new(&self.model) {
            Ok(mut fused) => refuse(&fused.predict(&users), "fused"),
            // The gated form is served by candle.
            Err(FusedError::Form) => Ok(()),
            Err(error) => Err(BundleError::Fused(error)),
        }
    }

    /// Form 1 where there is nothing beside the network, so that older programs read it too.
    fn format(&self) -> u32 {
        if self.ensemble.is_some() { FORMAT } else { 1 }
    }

    fn files(&self) -> Result<BTreeMap<&'static str, Vec<u8>>, BundleError> {
        let tensor = |file: &'static str| {
            move |error: safetensors::SafeTensorError| BundleError::Malformed { file, message: error.to_string() }
        };
        let stored = StoredConfig {
            format: self.format(),
            network: self.model.config.clone(),
            calibration: self.model.calibration,
            churn_threshold: self.churn_threshold.get(),
            purchase_threshold: self.purchase_threshold.get(),
            ensemble: self.ensemble.as_ref().map(StoredEnsemble::of),
        };
        let arrays = self.model.parameters.iter().map(|(name, parameter)| {
            (name.to_owned(), (parameter.shape.clone(), Array::Floats(parameter.values.clone())))
        });
        let mut files = BTreeMap::new();
        files.insert(MODEL_FILE, tensors::write(&arrays.collect()).map_err(tensor(MODEL_FILE))?);
        files.insert(CONFIG_FILE, to_json(CONFIG_FILE, &stored)?);
        files.insert(FEATURES_FILE, self.spec.to_json()?);
        if let Some(ensemble) = &self.ensemble {
            files.insert(TREES_FILE, ensemble::trees_to_bytes(ensemble).map_err(tensor(TREES_FILE))?);
        }
        if let Some(items) = &self.items {
            files.insert(ITEMS_FILE, items.to_bytes()?);
        }
        files.insert(METRICS_FILE, to_json(METRICS_FILE, &self.metrics)?);
        files.insert(PROBE_FILE, self.probe.to_bytes().map_err(tensor(PROBE_FILE))?);
        files.insert(CARD_FILE, self.card.clone().into_bytes());
        Ok(files)
    }
}

/// Whether the network was made for the specification.
fn fits(spec: &FeatureSpec, network: &NetworkConfig) -> Result<(), BundleError> {
    let pairs = [
        ("features", spec.features().len(), network.features),
        ("item rows", spec.vocabulary().table_rows(), network.item_rows),
        ("nodes", spec.settings.node_capacity, network.node_capacity),
        ("events", spec.settings.sequence_capacity, network.sequence_capacity),
    ];
    match pairs.into_iter().find(|(_, listed, taken)| listed != taken) {
        Some((what, listed, taken)) => Err(BundleError::Malformed {
            file: CONFIG_FILE,
            message: format!("the network takes `{taken}` {what}, features.json has `{listed}`"),
        }),
        None => Ok(()),
    }
}

/// Reads the weights and holds names and shapes against the configuration.
fn parameters(bytes: &[u8], config: &NetworkConfig) -> Result<Parameters, BundleError> {
    let shapes = Parameters::shapes(config);
    let mut arrays = tensors::read(MODEL_FILE, bytes)?;
    let mut map = BTreeMap::new();
    for (name, shape) in shapes {
        let refuse = |message: String| BundleError::Parameter { name: name.clone(), message };
        match arrays.remove(&name) {
            Some((found, Array::Floats(values))) if found == shape => {
                map.insert(name, Parameter { shape, values });
            }
            Some((found, _)) => return Err(refuse(format!("has shape {found:?}, expected {shape:?} of type F32"))),
            None => return Err(refuse("is missing".to_owned())),
        }
    }
    if let Some(name) = arrays.into_keys().next() {
        return Err(BundleError::Parameter { name, message: "is unknown".to_owned() });
    }
    Ok(Parameters::from_map(map))
}

fn read(folder: &Path, file: &str) -> Result<Vec<u8>, BundleError> {
    let path = folder.join(file);
    let refuse = |source| BundleError::Io { action: "read", path: path.display().to_string(), source };
    let length = fs::metadata(&path).map_err(refuse)?.len();
    if length > MAX_BUNDLE_BYTES {
        return Err(BundleError::TooLarge { bytes: length });
    }
    fs::read(&path).map_err(refuse)
}

fn json<T: for<'de> Deserialize<'de>>(file: &'static str, bytes: &[u8]) -> Result<T, BundleError> {
    serde_json::from_slice(bytes).map_err(|error| BundleError::Malformed { file, message: error.to_string() })
}

fn to_json(file: &'static str, value: &impl Serialize) -> Result<Vec<u8>, BundleError> {
    serde_json::to_vec_pretty(value).map_err(|error| BundleError::Malformed { file, message: error.to_string() })
}
