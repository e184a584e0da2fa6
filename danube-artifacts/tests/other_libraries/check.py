"""What libraries that are not ours make of the case folder: DSSE (securesystemslib), Ed25519 and SHA-256
(cryptography), in-toto and SLSA (in-toto-attestation, and JSON schemas for the older forms), Sigstore
bundles (sigstore-models). Run by tests/other_libraries.rs."""

import base64
import hashlib
import json
import pathlib
import sys

import jsonschema
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey
from sigstore_models.bundle.v1 import Bundle

folder, bundles = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
schemas = pathlib.Path(__file__).parent
SCHEMAS = {
    "https://slsa.dev/provenance/v0.2": json.loads((schemas / "provenance-v0.2.schema.json").read_text()),
    "https://slsa.dev/provenance/v0.1": json.loads((schemas / "provenance-v0.1.schema.json").read_text()),
}
# Cases in which nothing but the envelope's signature is wrong.
FORGED = {
    "envelope_no_signatures", "envelope_by_a_stranger", "envelope_with_a_trusted_keyid", "envelope_without_keyid",
    "envelope_keyid_of_another_trusted_key", "envelope_payload_changed", "envelope_signature_without_pae",
    "envelope_signature_of_another_type", "envelope_signature_is_the_files", "key_of_a_stranger", "key_revoked",
}


def tree_of(name):
    tree = {}
    for part in (folder / "base", folder / name / "tree"):
        for path in part.rglob("*"):
            if path.is_file():
                tree[str(path.relative_to(part))] = path.read_bytes()
    return tree


def trusted(case, tree):
    options = case["options"]
    if "--public-key" in options:
        pems = [tree[options[options.index("--public-key") + 1]]]
    else:
        pems = [text for path, text in tree.items() if path.startswith("keys/") and path.endswith(".pub")]
    keys = {}
    for pem in pems:
        key = load_pem_public_key(pem)
        der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        keys[hashlib.sha256(der).hexdigest()[:16]] = key
    return keys


def dsse_accepts(envelope, keys):
    raw = lambda key: key.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
    known = [SSlibKey(id, "ed25519", "ed25519", {"public": raw(key)}) for id, key in keys.items()]
    try:
        Envelope.from_dict(json.loads(envelope)).verify(known, 1)
        return True
    except Exception as error:
        return False


def signature_holds(data, signature, keys):
    for key in keys.values():
        try:
            key.verify(signature, hashlib.sha256(data).digest())
            return True
        except InvalidSignature:
            pass
    return False


def check_schema(payload):
    statement = json.loads(payload)
    schema = SCHEMAS.get(statement["predicateType"])
    if schema:
        jsonschema.validate(statement, schema, jsonschema.Draft202012Validator)
        return
    parsed = json_format.Parse(payload, statement_pb2.Statement())
    Statement.copy_from_pb(parsed).validate()
    predicate = json_format.Parse(json.dumps(statement["predicate"]), provenance_pb2.Provenance())
    assert predicate.build_definition.build_type == "urn:danube:job:v1"
    assert predicate.run_details.metadata.invocation_id


seen = {"accepted": 0, "forged": 0, "signatures": 0, "schemas": 0, "bundles": 0}
for path in sorted(folder.glob("*/case.json")):
    name, case = path.parent.name, json.loads(path.read_text())
    tree = tree_of(name)
    for removed in case["removed"]:
        del tree[removed]
    envelope = tree.get("artifacts/j/.danube/provenance.dsse.json")
    if case["expect"]["verified"]:
        keys = trusted(case, tree)
        if envelope is not None:
            assert dsse_accepts(envelope, keys), f"{name}: we accept what securesystemslib refuses"
            payload = base64.b64decode(json.loads(envelope)["payload"], validate=True)
            assert payload == tree["artifacts/j/.danube/provenance.json"], name
            check_schema(payload)
            seen["accepted"] += 1
            seen["schemas"] += 1
        if case["path"].startswith("artifacts/j/"):
            signature = tree[case["path"].replace("artifacts/j/", "artifacts/j/.danube/signatures/") + ".sig"]
            assert signature_holds(tree[case["path"]], signature, keys), name
            seen["signatures"] += 1
    elif name in FORGED:
        assert not dsse_accepts(envelope, trusted(case, tree)), f"{name}: securesystemslib accepts it"
        FORGED.discard(name)
        seen["forged"] += 1
    elif name.startswith(("file_", "signature_")) and case["expect"]["failure"] == "mismatch" and name != "file_swapped":
        keys = trusted(case, tree)
        signature = tree["artifacts/j/.danube/signatures/out/report.txt.sig"]
        assert not signature_holds(tree["artifacts/j/out/report.txt"], signature, keys), name
        seen["signatures"] += 1
assert not FORGED, FORGED

# The schemas refuse what they should: a recipe in v0.2, a statement without its type.
for name, spoil in (("good_v02", lambda s: s["predicate"].update(recipe={})), ("good_v01", lambda s: s.pop("_type"))):
    statement = json.loads(tree_of(name)["artifacts/j/.danube/provenance.json"])
    spoil(statement)
    try:
        jsonschema.validate(statement, SCHEMAS["https://slsa.dev/provenance/v0." + name[-1]])
    except jsonschema.ValidationError:
        continue
    raise AssertionError(f"the schema accepts a spoiled {name}")

for path in sorted(bundles.glob("*.json")):
    bundle = Bundle.from_json(path.read_bytes())
    text = json.loads(path.read_text())
    assert text["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert text["verificationMaterial"]["publicKey"]["hint"] == text["dsseEnvelope"]["signatures"][0]["keyid"]
    keys = trusted({"options": []}, tree_of("good"))
    assert dsse_accepts(json.dumps(text["dsseEnvelope"]), keys), path
    assert bundle.dsse_envelope is not None
    seen["bundles"] += 1
print(json.dumps(seen))
