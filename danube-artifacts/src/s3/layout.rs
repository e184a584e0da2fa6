//! Which key of the bucket a blob has:
//!
//! ```text
//! <prefix><job>/output/<name>                     an artifact
//! <prefix><job>/metadata.json                     the records of the job's artifacts
//! <prefix><job>/logs/agent.log                    the job's sealed log
//! <prefix><job>/.danube/signatures/<name>.sig     a signature
//! <prefix><job>/.danube/provenance.json           the provenance
//! <prefix><job>/.danube/provenance.dsse.json      the provenance in its envelope
//! <prefix>.uploads/<id>.json                      an upload in parts
//! <prefix>.uploads/<id>/<number>-<turn>-<sha256>  a part of it
//! ```

use danube_core::JobId;

use crate::{BlobKey, BlobPart, Error};

const OUTPUT: &str = "output/";
const RECORDS: &str = "metadata.json";
const LOG: &str = "logs/agent.log";
/// The longest key of S3, in bytes of UTF-8.
pub(super) const MAX_KEY_BYTES: usize = 1024;

/// What all keys of a job begin with.
pub(super) fn job_prefix(prefix: &str, job: &JobId) -> String {
    format!("{prefix}{job}/")
}

/// The key of a blob.
pub(super) fn object_key(prefix: &str, key: &BlobKey) -> Result<String, Error> {
    let job = job_prefix(prefix, key.job());
    let object = match key.part() {
        BlobPart::Artifact(name) => format!("{job}{OUTPUT}{name}"),
        BlobPart::Records => format!("{job}{RECORDS}"),
        BlobPart::Log => format!("{job}{LOG}"),
        BlobPart::Signature(_) | BlobPart::Provenance | BlobPart::Envelope => {
            format!("{job}{}", key.path())
        }
    };
    // What cannot be signed is not taken: its signature has the longer key.
    let longest = match key.part() {
        BlobPart::Artifact(name) => job.len() + BlobKey::signature(key.job(), name).path().len(),
        _ => object.len(),
    };
    if longest > MAX_KEY_BYTES {
        let rule = format!("makes a key of {longest} bytes, and S3 takes {MAX_KEY_BYTES}");
        return Err(Error::invalid("artifact name", &key.path(), rule));
    }
    // XML 1.0, section 2.2: a list with one of them could not be read.
    if object.contains(['\u{fffe}', '\u{ffff}']) {
        let rule = "contains U+FFFE or U+FFFF, which no list of S3 can name";
        return Err(Error::invalid("artifact name", &key.path(), rule));
    }
    Ok(object)
}

/// The blob that has this key below its job's prefix; `None` for what is not ours.
pub(super) fn blob_key(job: &JobId, below: &str) -> Option<BlobKey> {
    match below {
        RECORDS => Some(BlobKey::records(job)),
        LOG => Some(BlobKey::log(job)),
        _ => match below.strip_prefix(OUTPUT) {
            Some(name) => Some(BlobKey::artifact(job, &name.parse().ok()?)),
            None => {
                let key = BlobKey::from_path(job, below)?;
                let is_ours = matches!(
                    key.part(),
                    BlobPart::Signature(_) | BlobPart::Provenance | BlobPart::Envelope
                );
                is_ours.then_some(key)
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use danube_core::ArtifactName;
    use proptest::prelude::*;

    fn job() -> JobId {
        "job-1".parse().unwrap()
    }

    #[test]
    fn every_blob_lies_where_the_layout_says() {
        let name: ArtifactName = "out/a b.bin".parse().unwrap();
        let j = job();
        for (key, wanted) in [
            (BlobKey::artifact(&j, &name), "artifacts/job-1/output/out/a b.bin"),
            (BlobKey::records(&j), "artifacts/job-1/metadata.json"),
            (BlobKey::log(&j), "artifacts/job-1/logs/agent.log"),
            (BlobKey::signature(&j, &name), "artifacts/job-1/.danube/signatures/out/a b.bin.sig"),
            (BlobKey::provenance(&j), "artifacts/job-1/.danube/provenance.json"),
            (BlobKey::envelope(&j), "artifacts/job-1/.danube/provenance.dsse.json"),
        ] {
            assert_eq!(object_key("artifacts/", &key).unwrap(), wanted);
            let below = wanted.strip_prefix("artifacts/job-1/").unwrap();
            assert_eq!(blob_key(&j, below), Some(key));
        }
        // What other tools or other layouts leave is no blob.
        for foreign in ["", "x", "output/", "logs/other.log", ".danube/metadata.json", ".danube/x"]
        {
            assert_eq!(blob_key(&j, foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_key_that_is_too_long_or_cannot_be_listed_is_refused_with_its_name() {
        let key = |name: &str| BlobKey::artifact(&job(), &name.parse().unwrap());
        let room = MAX_KEY_BYTES - "artifacts/job-1/.danube/signatures/.sig".len();
        let exact = format!("{}e", "d/".repeat(room / 2));
        assert_eq!(exact.len(), room);
        object_key("artifacts/", &key(&exact)).unwrap();
        // Whatever is taken can be signed.
        let signature = BlobKey::signature(&job(), &exact.parse().unwrap());
        object_key("artifacts/", &signature).unwrap();
        for bad in [format!("{exact}x"), "a\u{ffff}".to_owned()] {
            let refused = object_key("artifacts/", &key(&bad)).unwrap_err();
            assert!(matches!(refused, Error::Invalid { .. }), "{refused:?}");
        }
    }

    proptest! {
        #[test]
        fn every_legal_name_comes_back(name in "[^\\p{Cc}]{1,40}(/[^\\p{Cc}]{1,20}){0,3}") {
            let Ok(name) = name.parse::<ArtifactName>() else { return Ok(()) };
            for key in [BlobKey::artifact(&job(), &name), BlobKey::signature(&job(), &name)] {
                let Ok(object) = object_key("p/", &key) else { continue };
                let below = object.strip_prefix("p/job-1/").unwrap();
                prop_assert_eq!(blob_key(&job(), below), Some(key));
            }
        }
    }
}
