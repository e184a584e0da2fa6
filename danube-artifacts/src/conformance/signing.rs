//! The laws of [`Signer`] and [`Verifier`], each over two pairs with different keys.

use crate::{KeyId, Signature, SignatureError, Signer, Verifier};

const MESSAGE: &[u8] = b"the message";

/// With the key's id and without it.
pub async fn a_signature_holds_and_names_its_key(
    (signer, verifier): (impl Signer, impl Verifier),
    _: (impl Signer, impl Verifier),
) {
    let id = signer.key_id();
    assert_eq!(id, signer.key_id());
    let signature = signer.sign(MESSAGE).await.expect("sign");
    for key in [Some(&id), None] {
        let verified = verifier.verify(key, MESSAGE, &signature).expect("it holds");
        assert_eq!(*verified, id);
    }
}

/// Empty, short, long.
pub async fn any_message_can_be_signed(
    (signer, verifier): (impl Signer, impl Verifier),
    _: (impl Signer, impl Verifier),
) {
    for len in [0, 1, 31, 32, 33, 100_000] {
        let message = vec![7; len];
        let signature = signer.sign(&message).await.expect("sign");
        verifier.verify(None, &message, &signature).expect("it holds");
    }
}

/// A longer, a shorter, a changed message.
pub async fn no_other_message_holds(
    (signer, verifier): (impl Signer, impl Verifier),
    _: (impl Signer, impl Verifier),
) {
    let signature = signer.sign(MESSAGE).await.expect("sign");
    for other in [&b""[..], b"the messag", b"the message ", b"the messagf", b"The message"] {
        let refused = verifier.verify(None, other, &signature);
        assert_eq!(refused, Err(SignatureError::Mismatch));
    }
}

/// Every bit of a signature counts.
pub async fn no_flipped_bit_holds(
    (signer, verifier): (impl Signer, impl Verifier),
    _: (impl Signer, impl Verifier),
) {
    let signature = signer.sign(MESSAGE).await.expect("sign");
    for bit in 0..signature.as_bytes().len() * 8 {
        let mut bytes = signature.as_bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let flipped = Signature::from_bytes(bytes);
        assert!(verifier.verify(None, MESSAGE, &flipped).is_err(), "bit {bit}");
    }
}

/// Nothing, a byte less, a byte more, twice.
pub async fn no_other_length_holds(
    (signer, verifier): (impl Signer, impl Verifier),
    _: (impl Signer, impl Verifier),
) {
    let signature = signer.sign(MESSAGE).await.expect("sign");
    let bytes = signature.as_bytes();
    let (shorter, longer) = (&bytes[..bytes.len() - 1], [bytes, b"\0"].concat());
    for other in [&[], shorter, &longer, &bytes.repeat(2)] {
        assert!(verifier.verify(None, MESSAGE, &Signature::from_bytes(other)).is_err());
    }
}

/// A signature of a key that is not trusted, also when it claims the id of one that is.
pub async fn no_other_key_holds(
    (signer, verifier): (impl Signer, impl Verifier),
    (stranger, _): (impl Signer, impl Verifier),
) {
    assert_ne!(signer.key_id(), stranger.key_id(), "the fixture makes a new key each time");
    let signature = stranger.sign(MESSAGE).await.expect("sign");
    for key in [None, Some(&signer.key_id())] {
        let refused = verifier.verify(key, MESSAGE, &signature);
        assert_eq!(refused, Err(SignatureError::Mismatch));
    }
}

/// A good signature under a foreign id does not hold.
pub async fn a_key_id_that_is_not_trusted_is_told(
    (signer, verifier): (impl Signer, impl Verifier),
    (stranger, _): (impl Signer, impl Verifier),
) {
    let signature = signer.sign(MESSAGE).await.expect("sign");
    let foreign: KeyId = stranger.key_id();
    let refused = verifier.verify(Some(&foreign), MESSAGE, &signature);
    assert_eq!(refused, Err(SignatureError::UnknownKey { key_id: foreign.to_string() }));
}
