//! The same envelope as a Sigstore bundle, for tools that read nothing else.

use serde_json::json;

use super::{Envelope, PAYLOAD_TYPE, STANDARD};
use base64::Engine as _;

/// The media type of a bundle.
pub const BUNDLE_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

impl Envelope {
    /// A Sigstore bundle v0.3 with this envelope. It names the key by its id, as the hint of the
    /// verification material and as `keyid` of the signature; the key itself is not in it, and neither
    /// is an entry of a transparency log: there is none.
    #[must_use]
    pub fn to_bundle(&self) -> Vec<u8> {
        let bundle = json!({
            "mediaType": BUNDLE_TYPE,
            // An empty list may be left out, and some readers insist on it.
            "verificationMaterial": {"publicKey": {"hint": self.key_id}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": STANDARD.encode(&self.payload),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{
                    "sig": STANDARD.encode(self.signature.as_bytes()),
                    "keyid": self.key_id,
                }],
            },
        });
        let mut bytes = serde_json::to_vec(&bundle).expect("a bundle of strings is JSON");
        bytes.push(b'\n');
        bytes
    }
}
