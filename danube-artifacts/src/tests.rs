//! Every backend of this crate against every law of its contract.

use crate::{FsBlobs, MemoryBlobs, MemoryIndex};

crate::artifact_index_conformance!(memory_index, (MemoryIndex::new(), ()));
crate::blob_store_conformance!(memory_blobs, (MemoryBlobs::new(), ()));
crate::blob_store_conformance!(fs_blobs, {
    let dir = tempfile::tempdir().unwrap();
    (FsBlobs::new(dir.path().join("artifacts")), dir)
});
crate::upload_conformance!(memory_uploads, (MemoryBlobs::new(), ()));
crate::upload_conformance!(fs_uploads, {
    let dir = tempfile::tempdir().unwrap();
    (FsBlobs::new(dir.path().join("artifacts")), dir)
});
