//! `danube artifacts url` and `adopt`: links, and what came by them.

use danube_artifacts::{ArtifactState, KeepOptions, LinkOptions};

use crate::app::App;
use crate::cli::{AdoptArgs, Output, UrlArgs};
use crate::failure::Failure;
use crate::jobs::print_json;
use crate::terminal::{self, Sink};
use crate::wire;

pub(super) async fn url(app: &App, args: UrlArgs) -> Result<u8, Failure> {
    let UrlArgs { job, name, put, expires, range, size, sha256, output } = args;
    let job = app.job(&job).await?;
    let most = app.config.max_artifact_bytes;
    if size.is_some_and(|size| size > most) {
        let message = format!("--size is more than artifacts.max_file_bytes, which is {most}");
        return Err(Failure::invalid(message));
    }
    let options = if put { LinkOptions::put() } else { LinkOptions::get() };
    let mut options = options.with_expires_in(expires);
    (options.range, options.size_bytes, options.expected) = (range, size, sha256);
    let link = app.artifacts_with_links().await?.link(&job, &name, &options).await?;
    match output {
        Output::Json => print_json(&wire::Link::from(link)),
        Output::Text => {
            Sink::Stdout.line(&link.url);
            for (name, value) in &link.headers {
                Sink::Stdout.line(&format!("{name}: {value}"));
            }
        }
    }
    Ok(0)
}

pub(super) async fn adopt(app: &App, args: AdoptArgs) -> Result<u8, Failure> {
    let AdoptArgs { job, name, size, sha256, content_type, tags } = args;
    app.config.check_kept(tags.keep_for, tags.keep_forever)?;
    let job = app.job(&job).await?;
    let mut options = KeepOptions::default()
        .with_max_bytes(app.config.max_artifact_bytes)
        .with_keep_for(tags.keep_for);
    (options.size_bytes, options.expected) = (size, sha256);
    options.content_type = content_type;
    options.keep_forever = tags.keep_forever;
    options.tags = tags.tags.into_iter().collect();
    let artifacts = app.artifacts().await?;
    let mut record = artifacts.adopt(&job, &name, options).await?;
    if record.state == ArtifactState::Uploading {
        record = artifacts.sign(&record).await?;
    }
    artifacts.write_records(&job).await?;
    Sink::Stderr.line(&format!(
        "danube: {} ({}, sha256 {}) is an artifact of {job}",
        terminal::safe(record.name.as_str()),
        terminal::size(record.size_bytes),
        record.digest
    ));
    Ok(0)
}
