//! Every backend of this crate against every law of its contract.

use std::sync::Arc;

use danube_core::SystemClock;

use crate::{FsBlobs, LinkKey, Linked, MemoryBlobs, MemoryIndex};

crate::artifact_index_conformance!(memory_index, (MemoryIndex::new(), ()));
crate::blob_store_conformance!(memory_blobs, (MemoryBlobs::new(), ()));
crate::blob_store_conformance!(fs_blobs, {
    let dir = tempfile::tempdir().unwrap();
    (FsBlobs::new(dir.path().join("artifacts")), dir)
});
crate::blob_store_conformance!(linked_blobs, {
    let key = LinkKey::generate().unwrap();
    (Linked::new(MemoryBlobs::new(), "http://127.0.0.1:8080", key, Arc::new(SystemClock)), ())
});
crate::upload_conformance!(memory_uploads, (MemoryBlobs::new(), ()));
crate::upload_conformance!(fs_uploads, {
    let dir = tempfile::tempdir().unwrap();
    (FsBlobs::new(dir.path().join("artifacts")), dir)
});
