//! `danube artifacts`: the list, and one of them.

use danube_artifacts::attest::{Envelope, MAX_PROVENANCE_BYTES};
use danube_artifacts::{ArtifactId, ArtifactIndex, ArtifactRecord, BlobKey, BlobStore, Tier};
use danube_core::{ArtifactName, ErrorClass, JobId};
use futures_util::TryStreamExt;

use crate::app::App;
use crate::cli::{ArtifactsCommand, Output, ProvenanceFormat, Which};
use crate::failure::Failure;
use crate::jobs::print_json;
use crate::terminal::{self, Sink};
use crate::{Environment, wire};

mod get;
mod links;
mod put;
mod tiers;

/// Artifacts asked for at once.
const PAGE: usize = 1000;

pub(crate) async fn artifacts(
    app: &App,
    command: ArtifactsCommand,
    environment: &Environment,
) -> Result<u8, Failure> {
    match command {
        ArtifactsCommand::List { job, output } => {
            let id = app.job(&job).await?;
            list(app, &id, output).await
        }
        ArtifactsCommand::Info { which, output } => info(app, &which, output).await,
        ArtifactsCommand::Get { which, to, unpack: None } => {
            get::write(app, &locate(app, &which).await?, to, environment).await
        }
        ArtifactsCommand::Get { which, unpack: Some(into), .. } => {
            get::unpack(app, &locate(app, &which).await?, into).await
        }
        ArtifactsCommand::Archive { job, name, warm } => {
            let id = app.job(&job).await?;
            let tier = if warm { Tier::Warm } else { Tier::Cold };
            tiers::archive(&app.artifacts().await?, &id, &name, tier).await
        }
        ArtifactsCommand::Restore { job, name, keep_for, for_good } => {
            let id = app.job(&job).await?;
            tiers::restore(&app.artifacts().await?, &id, &name, keep_for, for_good).await
        }
        ArtifactsCommand::Put(args) => put::put(app, args, environment).await,
        ArtifactsCommand::Url(args) => links::url(app, args).await,
        ArtifactsCommand::Adopt(args) => links::adopt(app, args).await,
        ArtifactsCommand::Tag(args) => put::tag(app, args).await,
        ArtifactsCommand::Delete { job, name, .. } => {
            let id = app.job(&job).await?;
            delete(app, &id, name.as_ref()).await
        }
        ArtifactsCommand::Provenance { job, format } => {
            let id = app.job(&job).await?;
            provenance(app, &id, format).await
        }
        ArtifactsCommand::Pack { .. }
        | ArtifactsCommand::Unpack { .. }
        | ArtifactsCommand::S3(_) => unreachable!("handled without a data directory"),
    }
}

/// Every artifact of a job that is stored and signed, in the order of names.
async fn kept(app: &App, job: &JobId) -> Result<Vec<ArtifactRecord>, Failure> {
    let mut all = Vec::new();
    loop {
        let after = all.last().map(|record: &ArtifactRecord| record.name.clone());
        let page = app.store.list(job, after.as_ref(), PAGE).await?;
        let is_last = page.len() < PAGE;
        all.extend(page);
        if is_last {
            all.retain(|record| record.state.is_kept());
            return Ok(all);
        }
    }
}

async fn list(app: &App, job: &JobId, output: Output) -> Result<u8, Failure> {
    let records = kept(app, job).await?;
    match output {
        Output::Json => print_json(&wire::Artifacts::from_records(records)),
        Output::Text if records.is_empty() => {
            Sink::Stderr.line(&format!("danube: job {job} kept no artifacts"));
        }
        Output::Text => {
            let row = |r: &ArtifactRecord| {
                vec![
                    terminal::safe(r.name.as_str()),
                    r.kind.to_string(),
                    r.state.to_string(),
                    terminal::size(r.size_bytes),
                    r.digest.to_string(),
                ]
            };
            let rows: Vec<_> = records.iter().map(row).collect();
            Sink::Stdout
                .text(&terminal::table(&["NAME", "TYPE", "STATE", "SIZE", "SHA-256"], &rows));
        }
    }
    Ok(0)
}

/// The artifact that somebody typed, if it is stored and signed.
async fn locate(app: &App, which: &Which) -> Result<ArtifactRecord, Failure> {
    let Which { job_or_id, name } = which;
    let (record, missing) = match name {
        Some(name) => {
            let job = app.job(job_or_id).await?;
            let missing = format!("job {job} has no artifact {name:?}");
            (app.store.get(&job, name).await?, missing)
        }
        None => {
            let id: ArtifactId = job_or_id.parse().map_err(|_| {
                let what = terminal::safe(job_or_id);
                Failure::invalid(format!(
                    "{what} is no id of an artifact: name the artifact after its job, or give the id that \
                     `danube artifacts info` shows"
                ))
            })?;
            (app.store.find(&id).await?, format!("there is no artifact {id}"))
        }
    };
    if record.state.is_kept() {
        Ok(record)
    } else {
        Err(Failure::new(ErrorClass::NotFound, missing))
    }
}

async fn info(app: &App, which: &Which, output: Output) -> Result<u8, Failure> {
    let record = locate(app, which).await?;
    if output == Output::Json {
        print_json(&wire::Artifact::from(record));
        return Ok(0);
    }
    let access = app.blobs.stat(&BlobKey::artifact(&record.job, &record.name)).await?.access;
    let kept = match (record.keep_forever, record.expires_at()) {
        (true, _) => "for ever".to_owned(),
        (false, Some(end)) => format!("until {end}"),
        (false, None) => "as long as is configured".to_owned(),
    };
    let mut rows = vec![
        ("id", record.id.to_string()),
        ("job", record.job.to_string()),
        ("name", record.name.to_string()),
        ("type", format!("{}, {}", record.kind, record.content_type)),
        ("size", terminal::size(record.size_bytes)),
        ("sha256", record.digest.to_string()),
        ("state", format!("{}, {access}", record.state)),
        ("stored", record.created_at.to_string()),
    ];
    rows.extend(record.archived_at.map(|at| ("archived", at.to_string())));
    rows.push(("kept", kept));
    rows.extend(record.tags.iter().map(|(key, value)| ("tag", format!("{key}={value}"))));
    for (what, value) in rows {
        Sink::Stdout.line(&format!("{what:8}  {}", terminal::safe(&value)));
    }
    Ok(0)
}

async fn delete(app: &App, job: &JobId, name: Option<&ArtifactName>) -> Result<u8, Failure> {
    let artifacts = app.artifacts().await?;
    let Some(name) = name else {
        let deleted = artifacts.delete_job(job).await?;
        let kept = match deleted.kept {
            0 => String::new(),
            kept => format!(", {kept} kept for ever"),
        };
        let freed = terminal::size(deleted.bytes_freed);
        let count = deleted.artifacts;
        Sink::Stderr.line(&format!("danube: {count} deleted, {freed} freed{kept}"));
        return Ok(0);
    };
    // One that is not there is told: somebody typed its name. What was put by a link has no record yet.
    if let Err(none) = artifacts.get(job, name).await {
        app.blobs.stat(&BlobKey::artifact(job, name)).await.map_err(|_| none)?;
    }
    let freed = terminal::size(artifacts.delete(job, name).await?);
    let shown = terminal::safe(name.as_str());
    Sink::Stderr.line(&format!("danube: {shown} is deleted, {freed} freed"));
    Ok(0)
}

async fn provenance(app: &App, job: &JobId, format: ProvenanceFormat) -> Result<u8, Failure> {
    let key = match format {
        ProvenanceFormat::Statement => BlobKey::provenance(job),
        ProvenanceFormat::Envelope | ProvenanceFormat::Bundle => BlobKey::envelope(job),
    };
    let blob = app.blobs.get(&key, None).await?;
    if blob.size_bytes > MAX_PROVENANCE_BYTES {
        let message = format!("{key} is longer than {MAX_PROVENANCE_BYTES} bytes");
        return Err(Failure::new(ErrorClass::Internal, message));
    }
    let pieces = blob.body.try_fold(Vec::new(), |mut all, piece| async move {
        all.extend_from_slice(&piece);
        Ok(all)
    });
    let mut bytes =
        pieces.await.map_err(|e| Failure::new(ErrorClass::Internal, format!("{key}: {e}")))?;
    if format == ProvenanceFormat::Bundle {
        bytes = Envelope::parse(&bytes)?.to_bundle();
    }
    let text = String::from_utf8_lossy(&bytes);
    if Sink::Stdout.is_terminal() {
        text.lines().for_each(|line| Sink::Stdout.line(&terminal::safe(line)));
    } else {
        Sink::Stdout.text(&text);
    }
    Ok(0)
}
