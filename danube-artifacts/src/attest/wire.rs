//! The spellings of a statement: SLSA provenance v1, v0.2 and v0.1.
//!
//! v0.2 and v0.1 know no size of a subject, no version of the builder, no branch and no pipeline; there
//! these stand in one extension field of the predicate, which others ignore.

use std::collections::BTreeMap;

use danube_core::{JobId, Sha256Digest, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Annotations, BUILD_TYPE, EntryPoint, ProvenanceForm, ProvenanceInput, Source, Statement,
    Subject, SubjectDigest,
};

/// The annotation of the dependency that is the entry point.
const ENTRY_POINT: &str = "entryPoint";

#[derive(Serialize, Deserialize)]
struct Whole<S, P> {
    #[serde(rename = "_type")]
    statement_type: String,
    subject: Vec<S>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: P,
}

#[derive(Deserialize)]
struct Types {
    #[serde(rename = "_type")]
    statement_type: String,
    #[serde(rename = "predicateType")]
    predicate_type: String,
}

// --- v1 ---------------------------------------------------------------------------------------------

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PredicateV1 {
    build_definition: BuildDefinition,
    run_details: RunDetails,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BuildDefinition {
    build_type: String,
    external_parameters: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    internal_parameters: Option<InternalParameters>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    resolved_dependencies: Vec<Dependency>,
}

#[derive(Serialize, Deserialize)]
struct InternalParameters {
    pipeline: String,
}

#[derive(Serialize, Deserialize)]
struct Dependency {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uri: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    digest: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct RunDetails {
    builder: Builder,
    metadata: Metadata,
}

#[derive(Serialize, Deserialize)]
struct Builder {
    id: String,
    version: BuilderVersion,
}

#[derive(Serialize, Deserialize)]
struct BuilderVersion {
    danube: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    invocation_id: JobId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    started_on: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    finished_on: Option<Timestamp>,
}

// --- v0.2 and v0.1 ----------------------------------------------------------------------------------

#[derive(Serialize, Deserialize)]
struct OldSubject {
    name: String,
    digest: SubjectDigest,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PredicateV02 {
    builder: OldBuilder,
    build_type: String,
    invocation: Invocation,
    metadata: OldMetadata,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    materials: Vec<Material>,
    #[serde(rename = "urn:danube:provenance:v1")]
    extension: Extension,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Invocation {
    config_source: ConfigSource,
    parameters: Value,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct ConfigSource {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uri: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    digest: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entry_point: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct PredicateV01 {
    builder: OldBuilder,
    recipe: Recipe,
    metadata: OldMetadata,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    materials: Vec<Material>,
    #[serde(rename = "urn:danube:provenance:v1")]
    extension: Extension,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Recipe {
    #[serde(rename = "type")]
    recipe_type: String,
    /// Which of the materials the recipe is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    defined_in_material: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entry_point: Option<String>,
    arguments: Value,
}

#[derive(Serialize, Deserialize)]
struct OldBuilder {
    id: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OldMetadata {
    build_invocation_id: JobId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    build_started_on: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    build_finished_on: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
struct Material {
    uri: String,
    digest: BTreeMap<String, String>,
}

/// What the old predicates have no field for.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Extension {
    builder_version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pipeline: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    branch: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entry_point_sha256: Option<Sha256Digest>,
    /// In the order of the subjects.
    subjects: Vec<Annotations>,
}

// --- writing ----------------------------------------------------------------------------------------

/// The payload that is signed: JSON, indented for people.
pub(super) fn to_payload(statement: &Statement) -> Vec<u8> {
    let mut payload = match statement.about.form {
        ProvenanceForm::V1 => spelled(statement, statement.subjects.clone(), v1(statement)),
        ProvenanceForm::V02 => spelled(statement, old_subjects(statement), v02(statement)),
        ProvenanceForm::V01 => spelled(statement, old_subjects(statement), v01(statement)),
    };
    payload.push(b'\n');
    payload
}

fn spelled<S: Serialize, P: Serialize>(
    statement: &Statement,
    subject: Vec<S>,
    predicate: P,
) -> Vec<u8> {
    let whole = Whole {
        statement_type: statement.about.form.statement_type().to_owned(),
        subject,
        predicate_type: statement.about.form.predicate_type().to_owned(),
        predicate,
    };
    // Nothing in it can fail to become JSON: every map key is a string.
    serde_json::to_vec_pretty(&whole).expect("a statement of strings and numbers is JSON")
}

fn v1(statement: &Statement) -> PredicateV1 {
    let about = &statement.about;
    let source = about.source.iter().map(|source| Dependency {
        uri: Some(source.repository.clone()),
        name: None,
        digest: BTreeMap::from([("gitCommit".to_owned(), source.commit.clone())]),
        annotations: source.branch.iter().map(|b| ("branch".to_owned(), json!(b))).collect(),
    });
    let entry_point = about.entry_point.iter().map(|entry| Dependency {
        uri: None,
        name: Some(entry.path.clone()),
        digest: sha256(&entry.digest),
        annotations: BTreeMap::from([(ENTRY_POINT.to_owned(), json!(true))]),
    });
    PredicateV1 {
        build_definition: BuildDefinition {
            build_type: BUILD_TYPE.to_owned(),
            external_parameters: about.parameters.clone(),
            internal_parameters: about
                .pipeline
                .clone()
                .map(|pipeline| InternalParameters { pipeline }),
            resolved_dependencies: source.chain(entry_point).collect(),
        },
        run_details: RunDetails {
            builder: Builder {
                id: about.builder_id.clone(),
                version: BuilderVersion { danube: about.builder_version.clone() },
            },
            metadata: Metadata {
                invocation_id: about.job.clone(),
                started_on: about.started_at,
                finished_on: about.finished_at,
            },
        },
    }
}

fn v02(statement: &Statement) -> PredicateV02 {
    let about = &statement.about;
    PredicateV02 {
        builder: OldBuilder { id: about.builder_id.clone() },
        build_type: BUILD_TYPE.to_owned(),
        invocation: Invocation {
            config_source: ConfigSource {
                uri: about.source.as_ref().map(|source| source.repository.clone()),
                digest: about.source.as_ref().map(commit).unwrap_or_default(),
                entry_point: about.entry_point.as_ref().map(|entry| entry.path.clone()),
            },
            parameters: about.parameters.clone(),
        },
        metadata: old_metadata(about),
        materials: materials(about),
        extension: extension(statement),
    }
}

fn v01(statement: &Statement) -> PredicateV01 {
    let about = &statement.about;
    PredicateV01 {
        builder: OldBuilder { id: about.builder_id.clone() },
        recipe: Recipe {
            recipe_type: BUILD_TYPE.to_owned(),
            // The entry point lies in the source, which is the first.
            defined_in_material: (about.source.is_some() && about.entry_point.is_some())
                .then_some(0),
            entry_point: about.entry_point.as_ref().map(|entry| entry.path.clone()),
            arguments: about.parameters.clone(),
        },
        metadata: old_metadata(about),
        materials: materials(about),
        extension: extension(statement),
    }
}

fn old_subjects(statement: &Statement) -> Vec<OldSubject> {
    let old = |s: &Subject| OldSubject { name: s.name.clone(), digest: s.digest.clone() };
    statement.subjects.iter().map(old).collect()
}

fn old_metadata(about: &ProvenanceInput) -> OldMetadata {
    OldMetadata {
        build_invocation_id: about.job.clone(),
        build_started_on: about.started_at,
        build_finished_on: about.finished_at,
    }
}

fn materials(about: &ProvenanceInput) -> Vec<Material> {
    let source = about
        .source
        .iter()
        .map(|source| Material { uri: source.repository.clone(), digest: commit(source) });
    let entry_point = about
        .entry_point
        .iter()
        .map(|entry| Material { uri: entry.path.clone(), digest: sha256(&entry.digest) });
    source.chain(entry_point).collect()
}

fn extension(statement: &Statement) -> Extension {
    let about = &statement.about;
    Extension {
        builder_version: about.builder_version.clone(),
        pipeline: about.pipeline.clone(),
        branch: about.source.as_ref().and_then(|source| source.branch.clone()),
        entry_point_sha256: about.entry_point.as_ref().map(|entry| entry.digest),
        subjects: statement.subjects.iter().map(|s| s.annotations.clone()).collect(),
    }
}

/// A commit's id is a SHA-1, or in newer repositories a SHA-256.
fn commit(source: &Source) -> BTreeMap<String, String> {
    let algorithm = if source.commit.len() == 64 { "sha256" } else { "sha1" };
    BTreeMap::from([(algorithm.to_owned(), source.commit.clone())])
}

fn sha256(digest: &Sha256Digest) -> BTreeMap<String, String> {
    BTreeMap::from([("sha256".to_owned(), digest.to_string())])
}

// --- reading ----------------------------------------------------------------------------------------

/// Reads any of the spellings; the error says in words what is wrong.
pub(super) fn parse(payload: &[u8]) -> Result<Statement, String> {
    let types: Types = json_of(payload)?;
    let form = ProvenanceForm::ALL
        .into_iter()
        .find(|form| form.predicate_type() == types.predicate_type)
        .ok_or_else(|| format!("its predicateType {:?} is not known", types.predicate_type))?;
    if types.statement_type != form.statement_type() {
        return Err(format!("its _type is not {}", form.statement_type()));
    }
    let statement = match form {
        ProvenanceForm::V1 => from_v1(json_of(payload)?)?,
        ProvenanceForm::V02 => {
            let Whole { subject, predicate, .. } =
                json_of::<Whole<OldSubject, PredicateV02>>(payload)?;
            let PredicateV02 { builder, build_type, invocation, metadata, materials: _, extension } =
                predicate;
            let Invocation { config_source, parameters } = invocation;
            let ConfigSource { uri, digest, entry_point } = config_source;
            let source = uri.zip(digest.into_values().next());
            let old = Old { form, build_type, builder, parameters, source, entry_point, metadata };
            from_old(old, subject, extension)?
        }
        ProvenanceForm::V01 => {
            let Whole { subject, predicate, .. } =
                json_of::<Whole<OldSubject, PredicateV01>>(payload)?;
            let PredicateV01 { builder, recipe, metadata, materials, extension } = predicate;
            let Recipe { recipe_type, defined_in_material: _, entry_point, arguments } = recipe;
            // Without a source the first material is the entry point itself.
            let has_source = materials.len() > usize::from(entry_point.is_some());
            let source = materials.into_iter().next().filter(|_| has_source).and_then(|material| {
                material.digest.into_values().next().map(|commit| (material.uri, commit))
            });
            let old = Old {
                form,
                build_type: recipe_type,
                builder,
                parameters: arguments,
                source,
                entry_point,
                metadata,
            };
            from_old(old, subject, extension)?
        }
    };
    Ok(statement)
}

fn from_v1(whole: Whole<Subject, PredicateV1>) -> Result<Statement, String> {
    let Whole { subject: subjects, predicate, .. } = whole;
    let PredicateV1 { build_definition, run_details } = predicate;
    let BuildDefinition {
        build_type,
        external_parameters,
        internal_parameters,
        resolved_dependencies,
    } = build_definition;
    let RunDetails { builder, metadata } = run_details;
    known_build(&build_type)?;
    let mut about = ProvenanceInput::new(
        metadata.invocation_id,
        builder.id,
        builder.version.danube,
        external_parameters,
    );
    about.started_at = metadata.started_on;
    about.finished_at = metadata.finished_on;
    about.pipeline = internal_parameters.map(|internal| internal.pipeline);
    for dependency in resolved_dependencies {
        let Dependency { uri, name, digest, annotations } = dependency;
        if let (Some(repository), Some(commit)) = (uri, digest.get("gitCommit")) {
            let branch = annotations.get("branch").and_then(Value::as_str).map(str::to_owned);
            about.source = Some(Source { repository, commit: commit.clone(), branch });
        } else if annotations.contains_key(ENTRY_POINT)
            && let (Some(path), Some(digest)) = (name, digest.get("sha256"))
        {
            let digest = digest.parse().map_err(|_| "its entry point has no digest".to_owned())?;
            about.entry_point = Some(EntryPoint { path, digest });
        }
    }
    Ok(Statement { about, subjects })
}

/// What v0.2 and v0.1 have in common, in different places.
struct Old {
    form: ProvenanceForm,
    build_type: String,
    builder: OldBuilder,
    parameters: Value,
    source: Option<(String, String)>,
    entry_point: Option<String>,
    metadata: OldMetadata,
}

fn from_old(old: Old, subject: Vec<OldSubject>, extension: Extension) -> Result<Statement, String> {
    let Old { form, build_type, builder, parameters, source, entry_point, metadata } = old;
    let Extension { builder_version, pipeline, branch, entry_point_sha256, subjects } = extension;
    known_build(&build_type)?;
    if subject.len() != subjects.len() {
        return Err("it does not say of each subject what it is".to_owned());
    }
    let OldMetadata { build_invocation_id, build_started_on, build_finished_on } = metadata;
    let mut about =
        ProvenanceInput::new(build_invocation_id, builder.id, builder_version, parameters);
    about.form = form;
    about.started_at = build_started_on;
    about.finished_at = build_finished_on;
    about.pipeline = pipeline;
    about.source = source.map(|(repository, commit)| Source { repository, commit, branch });
    about.entry_point =
        entry_point.zip(entry_point_sha256).map(|(path, digest)| EntryPoint { path, digest });
    let subjects = subject.into_iter().zip(subjects).map(|(subject, annotations)| Subject {
        name: subject.name,
        digest: subject.digest,
        annotations,
    });
    Ok(Statement { about, subjects: subjects.collect() })
}

fn known_build(build_type: &str) -> Result<(), String> {
    if build_type == BUILD_TYPE {
        Ok(())
    } else {
        Err(format!("its buildType is not {BUILD_TYPE}"))
    }
}

fn json_of<T: DeserializeOwned>(payload: &[u8]) -> Result<T, String> {
    serde_json::from_slice(payload).map_err(|e| e.to_string())
}
