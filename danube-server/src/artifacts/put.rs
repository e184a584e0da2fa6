//! `danube artifacts put`, which can be interrupted and resumed, and `tag`.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use danube_artifacts::archive::PackOptions;
use danube_artifacts::{
    ArtifactRecord, Artifacts, BlobKey, DEFAULT_PART_BYTES, Error, KeepOptions, PutMode,
    RecordChange, UploadId, file_stream, send_file,
};
use danube_core::{ArtifactName, ErrorClass, JobId};

use crate::app::App;
use crate::cli::{PutArgs, TagArgs};
use crate::failure::Failure;
use crate::summary::CopyBar;
use crate::terminal::{self, Sink};
use crate::{Environment, archive};

pub(super) async fn put(
    app: &App,
    args: PutArgs,
    environment: &Environment,
) -> Result<u8, Failure> {
    app.config.check_kept(args.tags.keep_for, args.tags.keep_forever)?;
    let job = app.job(&args.job).await?;
    let source = open(&args.file).await?;
    let name = name_of(&args)?;
    let mut options = KeepOptions::default()
        .with_max_bytes(app.config.max_artifact_bytes)
        .with_keep_for(args.tags.keep_for)
        .with_mode(if args.replace { PutMode::Replace } else { PutMode::CreateNew });
    options.keep_forever = args.tags.keep_forever;
    options.content_type = args.content_type;
    options.kind = args.kind;
    options.tags = args.tags.tags.into_iter().collect();

    let artifacts = app.artifacts().await?;
    let bar = Arc::new(CopyBar::new(environment.colour(Sink::Stderr)));
    let (shown, called) = (Arc::clone(&bar), name.to_string());
    let watched = |options: KeepOptions| {
        options.with_progress(move |bytes, whole| shown.at(&called, bytes, whole))
    };
    let (record, upload) = match source {
        Source::Directory if args.resume => {
            let message = "a directory is packed anew each time: there is nothing to resume";
            return Err(Failure::invalid(message));
        }
        Source::Directory => {
            let options = watched(options);
            let keeping =
                artifacts.keep_dir(&job, &name, args.file, options, PackOptions::default());
            let (record, packed) = keeping.await.map_err(|error| match error {
                Error::Directory(error) => archive::failure(&error),
                other => other.into(),
            })?;
            bar.done();
            archive::say_left_out(&packed);
            (record, None)
        }
        Source::File(file, size) if size <= DEFAULT_PART_BYTES && !args.resume => {
            let options = watched(options.with_size_bytes(size));
            (artifacts.keep(&job, &name, file_stream(file), options).await?, None)
        }
        Source::File(file, size) => {
            let options = options.with_size_bytes(size);
            let upload = Upload { app, artifacts: &artifacts, job: &job, name: &name, options };
            upload.run(file, size, args.resume, &bar).await?
        }
    };
    bar.done();
    let record = artifacts.sign(&record).await?;
    artifacts.write_records(&job).await?;
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
        bar: &CopyBar,
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

/// What is to be put.
enum Source {
    File(File, u64),
    Directory,
}

async fn open(path: &Path) -> Result<Source, Failure> {
    let opened = path.to_owned();
    let opening = tokio::task::spawn_blocking(move || {
        let kind = std::fs::metadata(&opened)?;
        if !kind.is_file() {
            return Ok(kind.is_dir().then_some(Source::Directory));
        }
        let file = File::open(opened)?;
        let meta = file.metadata()?;
        Ok(meta.is_file().then(|| Source::File(file, meta.len())))
    });
    let opened: std::io::Result<_> = opening.await.expect("opening a file does not panic");
    let opened = opened.map_err(|e| Failure::io(format!("cannot open {}", path.display()), &e))?;
    opened.ok_or_else(|| {
        Failure::invalid(format!("{} is neither a regular file nor a directory", path.display()))
    })
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
    app.config.check_kept(args.tags.keep_for, args.tags.keep_forever)?;
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
