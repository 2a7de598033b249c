//! The folder of model bundles, and which of them is the champion.
//!
//! ```text
//! models/
//!   default/            a bundle
//!   2026-11-24T09-00/   another
//!   current             names of promoted bundles, one a line; the last one is the champion, those before it can come back
//!   shadow              name of the bundle that scores in shadow; no file, or an empty one, where none does
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};

/// The file that names the champion.
const CURRENT: &str = "current";
/// The file that names the challenger.
const SHADOW: &str = "shadow";
/// Written last into every bundle: a folder without it is none.
const MANIFEST: &str = "MANIFEST.json";
/// Promotions remembered.
const HISTORY_LIMIT: usize = 100;

/// A folder of bundles.
#[derive(Debug, Clone)]
pub struct ModelStore {
    folder: PathBuf,
}

impl ModelStore {
    /// The bundles in `folder`.
    pub fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Names of all bundles, sorted. A folder without a manifest is none.
    pub fn names(&self) -> anyhow::Result<Vec<String>> {
        let entries = fs::read_dir(&self.folder)
            .with_context(|| format!("cannot read the models in `{}`", self.folder.display()))?;
        let mut names = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if let (true, Some(name)) = (path.join(MANIFEST).is_file(), path.file_name()) {
                names.push(name.to_string_lossy().into_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The folder of the bundle called `name`.
    pub fn folder_of(&self, name: &str) -> anyhow::Result<PathBuf> {
        ensure!(!name.is_empty() && !name.contains(['/', '\\']) && name != "..", "`{name}` is no name of a bundle");
        let folder = self.folder.join(name);
        if !folder.join(MANIFEST).is_file() {
            let there = self.names().map_or_else(|_| String::new(), |names| names.join(", "));
            bail!("there is no model bundle `{name}` in `{}` (there: {there})", self.folder.display());
        }
        Ok(folder)
    }

    /// Names of promoted bundles, the champion last.
    pub fn promoted(&self) -> anyhow::Result<Vec<String>> {
        match fs::read_to_string(self.folder.join(CURRENT)) {
            Ok(text) => Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error).with_context(|| format!("cannot read `{}`", self.folder.join(CURRENT).display())),
        }
    }

    /// The champion's name; `otherwise` while nothing was promoted.
    pub fn champion(&self, otherwise: &str) -> anyhow::Result<String> {
        Ok(self.promoted()?.pop().unwrap_or_else(|| otherwise.to_owned()))
    }

    /// The champion's folder.
    pub fn champion_folder(&self, otherwise: &str) -> anyhow::Result<PathBuf> {
        self.folder_of(&self.champion(otherwise)?)
    }

    /// The name of the bundle in shadow, if there is one.
    pub fn shadow(&self) -> anyhow::Result<Option<String>> {
        let place = self.folder.join(SHADOW);
        match fs::read_to_string(&place) {
            Ok(text) => Ok(Some(text.trim().to_owned()).filter(|name| !name.is_empty())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read `{}`", place.display())),
        }
    }

    /// Puts `name` into shadow in place of whatever is there; `None` ends it.
    pub fn set_shadow(&self, name: Option<&str>) -> anyhow::Result<()> {
        let text = match name {
            Some(name) => {
                self.folder_of(name)?;
                format!("{name}\n")
            }
            None => String::new(),
        };
        self.write(SHADOW, &text)
    }

    /// Makes `name` the champion, in one step: a reader sees the old name or the new one. It is no longer in shadow then.
    pub fn promote(&self, name: &str) -> anyhow::Result<()> {
        self.folder_of(name)?;
        let mut promoted = self.promoted()?;
        if promoted.last().is_none_or(|champion| champion != name) {
            promoted.push(name.to_owned());
            let oldest = promoted.len().saturating_sub(HISTORY_LIMIT);
            self.write_promoted(&promoted[oldest..])?;
        }
        if self.shadow()?.is_some_and(|shadow| shadow == name) {
            self.set_shadow(None)?;
        }
        Ok(())
    }

    /// Takes the last promotion back and returns the champion's name then; `otherwise` when nothing is left.
    pub fn roll_back(&self, otherwise: &str) -> anyhow::Result<String> {
        let mut promoted = self.promoted()?;
        ensure!(
            promoted.pop().is_some(),
            "nothing was promoted in `{}`, so nothing can be taken back",
            self.folder.display()
        );
        let champion = promoted.last().cloned().unwrap_or_else(|| otherwise.to_owned());
        self.folder_of(&champion)?;
        self.write_promoted(&promoted)?;
        Ok(champion)
    }

    fn write_promoted(&self, promoted: &[String]) -> anyhow::Result<()> {
        let text: String = promoted.iter().flat_map(|name| [name.as_str(), "\n"]).collect();
        self.write(CURRENT, &text)
    }

    fn write(&self, file: &str, text: &str) -> anyhow::Result<()> {
        let place = self.folder.join(file);
        let part = self.folder.join(format!("{file}.part"));
        let written = fs::File::create(&part).and_then(|mut file| {
            std::io::Write::write_all(&mut file, text.as_bytes())?;
            file.sync_all()
        });
        written.and_then(|()| fs::rename(&part, &place)).with_context(|| format!("cannot write `{}`", place.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(names: &[&str]) -> (tempfile::TempDir, ModelStore) {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join(MANIFEST), "{}").unwrap();
        }
        fs::create_dir(folder.path().join("torn")).unwrap();
        let store = ModelStore::at(folder.path());
        (folder, store)
    }

    #[test]
    fn a_folder_without_a_manifest_is_no_bundle() {
        let (_folder, store) = store(&["default", "a"]);
        assert_eq!(store.names().unwrap(), ["a", "default"]);
        assert!(store.promote("torn").is_err());
        assert!(store.promote("../a").is_err());
    }

    #[test]
    fn promotions_are_taken_back_one_by_one() {
        let (_folder, store) = store(&["default", "a", "b"]);
        assert_eq!(store.champion("default").unwrap(), "default");
        store.promote("a").unwrap();
        store.promote("b").unwrap();
        store.promote("b").unwrap();
        assert_eq!(store.champion("default").unwrap(), "b");
        assert_eq!(store.roll_back("default").unwrap(), "a");
        assert_eq!(store.roll_back("default").unwrap(), "default");
        assert!(store.roll_back("default").is_err());
    }

    #[test]
    fn one_bundle_is_in_shadow_until_it_is_promoted_or_taken_out() {
        let (_folder, store) = store(&["default", "a", "b"]);
        assert_eq!(store.shadow().unwrap(), None);
        assert!(store.set_shadow(Some("torn")).is_err());
        store.set_shadow(Some("a")).unwrap();
        store.set_shadow(Some("b")).unwrap();
        assert_eq!(store.shadow().unwrap().as_deref(), Some("b"));
        assert_eq!(store.champion("default").unwrap(), "default", "a shadow decides nothing");
        store.promote("a").unwrap();
        assert_eq!(store.shadow().unwrap().as_deref(), Some("b"), "another one was promoted");
        store.promote("b").unwrap();
        assert_eq!((store.champion("default").unwrap().as_str(), store.shadow().unwrap()), ("b", None));
        store.set_shadow(Some("a")).unwrap();
        store.set_shadow(None).unwrap();
        assert_eq!(store.shadow().unwrap(), None);
    }
}
