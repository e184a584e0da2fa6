//! Where a file lies, and where its evidence is looked for.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::parts::{absent, read_part};
use super::{Failure, Part, VerifyError, VerifyOptions};
use crate::Signature;
use crate::blob::{ENVELOPE_FILE, METADATA_DIR, PROVENANCE_FILE, SIGNATURES_DIR};

/// No signature of any algorithm in use is longer.
const MAX_SIGNATURE_BYTES: u64 = 16 * 1024;

/// Where a file lies.
pub(super) struct Place {
    path: PathBuf,
    parent: PathBuf,
    file_name: String,
    /// The directory above it that has a `.danube/`, and the path of the file below that directory.
    tree: Option<(PathBuf, String)>,
}

impl Place {
    pub(super) fn of(path: &Path) -> Result<Self, VerifyError> {
        let unreadable = |why: &dyn std::fmt::Display| {
            let reason = format!("cannot open {}: {why}", path.display());
            VerifyError::new(Part::Artifact, Failure::Unreadable, reason)
        };
        let name = path.file_name().ok_or_else(|| unreadable(&"it is not the path of a file"))?;
        let name = name.to_str().ok_or_else(|| unreadable(&"its name is not UTF-8"))?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let parent = fs::canonicalize(parent).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => absent(Part::Artifact, path),
            _ => unreadable(&e),
        })?;
        let tree = parent.ancestors().find(|dir| dir.join(METADATA_DIR).is_dir());
        let tree = tree.and_then(|tree| {
            let below = parent.strip_prefix(tree).ok()?.join(name);
            Some((tree.to_owned(), below.to_str()?.to_owned()))
        });
        Ok(Self { path: path.to_owned(), parent, file_name: name.to_owned(), tree })
    }

    /// The signatures to try, each with where it was found.
    pub(super) fn signatures(
        &self,
        options: &VerifyOptions,
    ) -> Result<Vec<(PathBuf, Signature)>, VerifyError> {
        let read = |path: PathBuf| {
            let bytes = read_part(Part::Signature, &path, MAX_SIGNATURE_BYTES)?;
            Ok((path, Signature::from_bytes(bytes)))
        };
        if let Some(path) = &options.signature {
            return Ok(vec![read(path.clone())?]);
        }
        let mut beside = self.path.clone().into_os_string();
        beside.push(".sig");
        let mut places = vec![PathBuf::from(beside)];
        if let Some((tree, name)) = &self.tree {
            let signatures = tree.join(METADATA_DIR).join(SIGNATURES_DIR);
            places.push(signatures.join(format!("{name}.sig")));
        }
        let looked = places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>();
        places.retain(|place| fs::symlink_metadata(place).is_ok());
        if places.is_empty() {
            let reason = format!("there is none: looked for {}", looked.join(" and "));
            return Err(VerifyError::new(Part::Signature, Failure::Missing, reason));
        }
        // One that cannot be read does not hide one that can.
        let (good, bad): (Vec<_>, Vec<_>) = places.into_iter().map(read).partition(Result::is_ok);
        match bad.into_iter().next() {
            Some(Err(error)) if good.is_empty() => Err(error),
            _ => Ok(good.into_iter().flatten().collect()),
        }
    }

    /// The envelope and the payload.
    pub(super) fn provenance(
        &self,
        options: &VerifyOptions,
    ) -> Result<(PathBuf, PathBuf), VerifyError> {
        let Some(given) = &options.provenance else {
            let dir = match &self.tree {
                Some((tree, _)) => tree.join(METADATA_DIR),
                None => self.parent.clone(),
            };
            return Ok((dir.join(ENVELOPE_FILE), dir.join(PROVENANCE_FILE)));
        };
        let name = given.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(stem) = name.strip_suffix(".dsse.json") {
            Ok((given.clone(), given.with_file_name(format!("{stem}.json"))))
        } else if let Some(stem) = name.strip_suffix(".json") {
            Ok((given.with_file_name(format!("{stem}.dsse.json")), given.clone()))
        } else {
            let reason = format!(
                "{} is called neither .dsse.json nor .json, so the other file cannot be found",
                given.display()
            );
            Err(VerifyError::new(Part::Envelope, Failure::Unanswerable, reason))
        }
    }

    /// The envelope and the payload for a log: where Danube keeps them, else beside it.
    pub(super) fn provenance_of_log(
        &self,
        options: &VerifyOptions,
    ) -> Result<(PathBuf, PathBuf), VerifyError> {
        if options.provenance.is_some() {
            return self.provenance(options);
        }
        let kept = self
            .file_name
            .strip_suffix(".zst")
            .unwrap_or(&self.file_name)
            .strip_suffix(".log")
            .zip(self.parent.parent())
            .map(|(job, data_dir)| data_dir.join("artifacts").join(job).join(METADATA_DIR));
        let dir = kept.filter(|dir| dir.is_dir()).unwrap_or_else(|| self.parent.clone());
        Ok((dir.join(ENVELOPE_FILE), dir.join(PROVENANCE_FILE)))
    }

    /// The name that the provenance must bind, and whether it is the whole one.
    pub(super) fn name<'a>(&'a self, options: &'a VerifyOptions) -> (&'a str, bool) {
        match (&options.expected_name, &self.tree) {
            (Some(name), _) => (name.as_str(), true),
            (None, Some((_, name))) if options.provenance.is_none() => (name, true),
            _ => (&self.file_name, false),
        }
    }
}
