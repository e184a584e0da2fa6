//! `danube artifacts put`, which can be interrupted and resumed, and `tag`.

use std::fs::File;
use std::path::Path;

use danube_artifacts::{
    ArtifactRecord, Artifacts, BlobKey, DEFAULT_PART_BYTES, KeepOptions, PutMode, RecordChange,
    UploadId, file_stream, send_file,
};
use danube_core::{ArtifactName, ErrorClass, JobId};

use crate::Environment;
use crate::app::App;
use crate::cli::{PutArgs, TagArgs};
use crate::failure::Failure;
use crate::summary::CopyBar;
use crate::terminal::{self, Sink};

pub(super) async fn put(
    app: &App,
    args: PutArgs,
    environment: &Environment,
) -> Result<u8, Failure> {
    let job = app.job(&args.job).await?;
    let (file, size_bytes) = open(&args.file).await?;
    let name = name_of(&args)?;
    let mut options = KeepOptions::default()
        .with_size_bytes(size_bytes)
        .with_keep_for(args.tags.keep_for)
        .with_mode(if args.replace { PutMode::Replace } else { PutMode::CreateNew });
    options.keep_forever = args.tags.keep_forever;
    options.content_type = args.content_type;
    options.tags = args.tags.tags.into_iter().collect();

    let artifacts = app.artifacts().await?;
    let mut bar = CopyBar::new(environment.colour(Sink::Stderr));
    let (record, upload) = if size_bytes <= DEFAULT_PART_BYTES && !args.resume {
        (artifacts.keep(&job, &name, file_stream(file), options).await?, None)
    } else {
        let upload = Upload { app, artifacts: &artifacts, job: &job, name: &name, options };
        upload.run(file, size_bytes, args.resume, &mut bar).await?
    };
    bar.done();
    let record = artifacts.sign(&record).await?;
    if let Some(id) = upload {
        // Last: until the artifact is signed, there is something to resume.
        app.uploads.abort(&id).await?;
    }
    Sink::Stderr.line(&format!(
        "danube: {} ({}, sha256 {}) is an artifact of {job}",
        terminal::safe(record.name.as_str()),
        terminal::size(record.size_bytes),
        record.digest
    ));
    Ok(0)
}

/// An upload in parts.
struct Upload<'a> {
    app: &'a App,
    artifacts: &'a Artifacts,
    job: &'a JobId,
    name: &'a ArtifactName,
    options: KeepOptions,
}

impl Upload<'_> {
    async fn run(
        self,
        file: File,
        size_bytes: u64,
        resume: bool,
        bar: &mut CopyBar,
    ) -> Result<(ArtifactRecord, Option<UploadId>), Failure> {
        let uploads = &*self.app.uploads;
        let found = if resume { self.find(size_bytes).await? } else { None };
        if resume && found.is_none() {
            Sink::Stderr.line("danube: there is nothing to resume; it begins anew");
        }
        let id = match found {
            Some(id) => id,
            None => {
                let key = BlobKey::artifact(self.job, self.name);
                uploads.begin(&key, self.options.put(), DEFAULT_PART_BYTES).await?
            }
        };
        let name = self.name.as_str();
        let sent = send_file(uploads, &id, file, |done| bar.at(name, done, size_bytes)).await?;
        if sent.known_bytes > 0 {
            Sink::Stderr.line(&format!(
                "danube: resumed: {} were there, {} were sent",
                terminal::size(sent.known_bytes),
                terminal::size(sent.sent_bytes)
            ));
        }
        let record = self.artifacts.keep_upload(uploads, &id, self.options).await?;
        Ok((record, Some(id)))
    }

    /// The upload of this artifact and size that has come furthest.
    async fn find(&self, size_bytes: u64) -> Result<Option<UploadId>, Failure> {
        let key = BlobKey::artifact(self.job, self.name);
        let mut best: Option<(u64, UploadId)> = None;
        for id in self.app.uploads.uploads().await? {
            // One that ended between the list and now is none.
            let Ok(state) = self.app.uploads.upload(&id).await else { continue };
            if state.key != key
                || state.options.size_bytes != Some(size_bytes)
                || state.options.mode != self.options.mode
            {
                continue;
            }
            let has_bytes = state.parts.iter().map(|part| part.size_bytes).sum();
            if best.as_ref().is_none_or(|(most, _)| has_bytes > *most) {
                best = Some((has_bytes, id));
            }
        }
        Ok(best.map(|(_, id)| id))
    }
}

async fn open(path: &Path) -> Result<(File, u64), Failure> {
    let opened = path.to_owned();
    let opening = tokio::task::spawn_blocking(move || {
        let file = File::open(opened)?;
        let meta = file.metadata()?;
        Ok((file, meta))
    });
    let opened: std::io::Result<_> = opening.await.expect("opening a file does not panic");
    let (file, meta) =
        opened.map_err(|e| Failure::io(format!("cannot open {}", path.display()), &e))?;
    if !meta.is_file() {
        let message = format!("{} is not a regular file", path.display());
        return Err(Failure::invalid(message));
    }
    Ok((file, meta.len()))
}

fn name_of(args: &PutArgs) -> Result<ArtifactName, Failure> {
    if let Some(name) = &args.name {
        return Ok(name.clone());
    }
    let file = args.file.file_name().and_then(|name| name.to_str());
    let name = file.and_then(|name| name.parse().ok());
    name.ok_or_else(|| {
        let message = format!("{} cannot be a name; give one with --name", args.file.display());
        Failure::invalid(message)
    })
}

pub(super) async fn tag(app: &App, args: TagArgs) -> Result<u8, Failure> {
    let job = app.job(&args.job).await?;
    let mut change = RecordChange::default();
    for (key, value) in args.tags.tags {
        change = change.with_tag(key, value);
    }
    for key in args.remove {
        change = change.without_tag(key);
    }
    if let Some(keep_for) = args.tags.keep_for {
        change = change.with_keep_for(Some(keep_for));
    }
    if args.tags.keep_forever || args.let_go {
        change = change.with_keep_forever(args.tags.keep_forever);
    }
    if change == RecordChange::default() {
        let message =
            "nothing to change: give --tag, --remove, --keep-for, --keep-forever or --let-go";
        return Err(Failure::new(ErrorClass::Invalid, message));
    }
    let artifacts = app.artifacts().await?;
    let record = artifacts.change(&job, &args.name, &change).await?;
    for (key, value) in &record.tags {
        Sink::Stdout.line(&format!("{}={}", terminal::safe(key), terminal::safe(value)));
    }
    Ok(0)
}
