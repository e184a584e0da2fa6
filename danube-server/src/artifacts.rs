//! `danube artifacts`: the list, and one of them.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use danube_artifacts::attest::{Envelope, MAX_PROVENANCE_BYTES};
use danube_artifacts::{ArtifactIndex, ArtifactRecord, ArtifactState, BlobKey, BlobStore};
use danube_core::files::{Existing, TemporaryFile};
use danube_core::{ArtifactName, ErrorClass, JobId};
use futures_util::TryStreamExt;

use crate::app::App;
use crate::cli::{ArtifactsCommand, Output, ProvenanceFormat};
use crate::failure::Failure;
use crate::jobs::print_json;
use crate::summary::CopyBar;
use crate::terminal::{self, Sink};
use crate::view;
use crate::{Environment, wire};

mod links;
mod put;

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
        ArtifactsCommand::Get { job, name, to } => {
            let id = app.job(&job).await?;
            let name: ArtifactName =
                name.parse().map_err(|e| Failure::of(ErrorClass::Invalid, &e))?;
            get(app, &id, &name, to, environment).await
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
        ArtifactsCommand::Pack { .. } | ArtifactsCommand::Unpack { .. } => {
            unreachable!("handled without a data directory")
        }
    }
}

/// Every active artifact of a job, in the order of names.
pub(crate) async fn active(app: &App, job: &JobId) -> Result<Vec<ArtifactRecord>, Failure> {
    let mut all = Vec::new();
    loop {
        let after = all.last().map(|record: &ArtifactRecord| record.name.clone());
        let page = app.store.list(job, after.as_ref(), PAGE).await?;
        let is_last = page.len() < PAGE;
        all.extend(page);
        if is_last {
            all.retain(|record| record.state == ArtifactState::Active);
            return Ok(all);
        }
    }
}

async fn list(app: &App, job: &JobId, output: Output) -> Result<u8, Failure> {
    let records = active(app, job).await?;
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
                    terminal::size(r.size_bytes),
                    r.digest.to_string(),
                ]
            };
            let rows: Vec<_> = records.iter().map(row).collect();
            Sink::Stdout.text(&terminal::table(&["NAME", "TYPE", "SIZE", "SHA-256"], &rows));
        }
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

async fn get(
    app: &App,
    job: &JobId,
    name: &ArtifactName,
    to: Option<PathBuf>,
    environment: &Environment,
) -> Result<u8, Failure> {
    let record = app.store.get(job, name).await?;
    if record.state != ArtifactState::Active {
        return Err(Failure::new(
            ErrorClass::NotFound,
            format!("job {job} has no artifact {name:?}"),
        ));
    }
    let blob = app.blobs.get(&BlobKey::artifact(job, name), None).await?;
    let mut body = blob.body;
    let broken = |e: danube_core::BoxError| Failure::of(ErrorClass::Internal, e.as_ref());
    if to.as_deref() == Some(Path::new("-")) {
        while let Some(bytes) = body.try_next().await.map_err(broken)? {
            if !view::write(Sink::Stdout, bytes.to_vec()).await? {
                break;
            }
        }
        return Ok(0);
    }
    let path = to.unwrap_or_else(|| name.file_name().into());
    let failed = |e: &io::Error| {
        let why = match e.kind() {
            io::ErrorKind::AlreadyExists => {
                "it exists already and is left as it is; name another with --to".to_owned()
            }
            _ => e.to_string(),
        };
        Failure::new(ErrorClass::of_io(e), format!("cannot write {}: {why}", path.display()))
    };
    if fs::symlink_metadata(&path).is_ok() {
        return Err(failed(&io::ErrorKind::AlreadyExists.into()));
    }
    let mut bar = CopyBar::new(environment.colour(Sink::Stderr));
    let mut file = TemporaryFile::create_beside(&path, 0o644).map_err(|e| failed(&e))?;
    let mut copied = 0;
    while let Some(bytes) = body.try_next().await.map_err(broken)? {
        copied += bytes.len() as u64;
        let written = tokio::task::spawn_blocking(move || {
            let result = file.file().write_all(&bytes);
            (file, result)
        });
        let (back, result) = written.await.expect("writing a file does not panic");
        file = back;
        result.map_err(|e| failed(&e))?;
        bar.at(name.as_str(), copied, record.size_bytes);
    }
    bar.done();
    let target = path.clone();
    let committed = tokio::task::spawn_blocking(move || file.commit(&target, Existing::Refuse));
    committed.await.expect("writing a file does not panic").map_err(|e| failed(&e))?;
    Sink::Stderr.line(&format!(
        "danube: {} ({}) is written to {}",
        terminal::safe(name.as_str()),
        terminal::size(copied),
        path.display()
    ));
    Ok(0)
}
