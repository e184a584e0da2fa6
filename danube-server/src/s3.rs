//! The bucket of `[artifacts.s3]`: connecting to it, and `danube artifacts s3`.

use danube_artifacts::s3::{
    BucketRules, BucketSetup, PlannedRule, Principal, S3Blobs, S3Config, policy, setup_policy,
};
use danube_artifacts::{ArtifactIndex, ArtifactRecord, ArtifactState};
use serde::Serialize;

use crate::app::App;
use crate::cli::{Output, S3Command};
use crate::config::{Bucket, Config};
use crate::failure::Failure;
use crate::jobs::print_json;
use crate::terminal::{self, Sink};

/// Records asked for at once.
const PAGE: usize = 1000;

/// What is wrong with it.
pub(crate) fn check(bucket: &Bucket) -> Result<(), String> {
    config_of(bucket).validate().map_err(|e| e.to_string())?;
    rules_of(bucket, Vec::new()).validate().map_err(|e| e.to_string())
}

/// The store of it. It sends nothing to the bucket.
pub(crate) async fn connect(bucket: &Bucket) -> Result<S3Blobs, Failure> {
    Ok(S3Blobs::connect(config_of(bucket)).await?)
}

fn config_of(bucket: &Bucket) -> S3Config {
    let mut config = S3Config::new(&bucket.bucket).with_prefix(&bucket.prefix);
    if !bucket.region.is_empty() {
        config = config.with_region(&bucket.region);
    }
    if !bucket.endpoint.is_empty() {
        config = config.with_endpoint(&bucket.endpoint);
    }
    match bucket.path_style {
        Some(path_style) => config.with_path_style(path_style),
        None => config,
    }
}

fn rules_of(bucket: &Bucket, cors_origins: Vec<String>) -> BucketRules {
    BucketRules::default()
        .with_ia_days(bucket.ia_days)
        .with_glacier_days(bucket.glacier_days)
        .with_expire_days(bucket.expire_days)
        .with_deleted_days(bucket.deleted_days)
        .with_abort_upload_days(bucket.abort_upload_days)
        .with_cors_origins(cors_origins)
}

pub(crate) async fn command(config: Config, command: S3Command) -> Result<u8, Failure> {
    let Some(bucket) = config.s3.clone() else {
        return Err(Failure::invalid(
            "no bucket is configured: name it as bucket in [artifacts.s3] of the configuration",
        ));
    };
    match command {
        S3Command::Setup { apply, output, .. } => setup(config, &bucket, apply, output).await,
        S3Command::Policy { principal, setup } => {
            let principal = principal.map(|text| text.parse::<Principal>()).transpose()?;
            let which = if setup { setup_policy } else { policy };
            print_json(&which(&config_of(&bucket), principal.as_ref()));
            Ok(0)
        }
    }
}

/// What `setup --output json` prints.
#[derive(Serialize)]
struct Setup<'a> {
    bucket: &'a str,
    prefix: &'a str,
    /// Whether the bucket has these rules now.
    done: bool,
    rules: &'a [PlannedRule],
    warnings: &'a [String],
}

async fn setup(
    config: Config,
    bucket: &Bucket,
    apply: bool,
    output: Output,
) -> Result<u8, Failure> {
    // They were checked when the file was read, and are what a page's browser sends.
    let origins = config.cors_origins.iter().filter_map(|origin| origin.to_str().ok());
    let rules = rules_of(bucket, origins.map(str::to_owned).collect());
    let blobs = connect(bucket).await?;
    let setup = BucketSetup::new(&blobs, rules)?;
    let plan = setup.plan().await?;
    if apply {
        // Only now: a dry run writes nothing, not even for a moment.
        blobs.check().await?;
        if bucket.expire_days > 0 {
            check_nothing_is_kept_longer(config, bucket).await?;
        }
        setup.apply(&plan).await?;
    }
    let done = apply || plan.is_empty();
    for warning in &plan.warnings {
        Sink::Stderr.line(&format!("danube: warning: {}", terminal::safe(warning)));
    }
    match output {
        Output::Json => print_json(&Setup {
            bucket: &bucket.bucket,
            prefix: &bucket.prefix,
            done,
            rules: &plan.rules,
            warnings: &plan.warnings,
        }),
        Output::Text => {
            let row = |rule: &PlannedRule| {
                vec![
                    rule.action.to_string(),
                    rule.kind.to_string(),
                    terminal::safe(&rule.id),
                    terminal::safe(&rule.what),
                ]
            };
            let rows: Vec<_> = plan.rules.iter().map(row).collect();
            Sink::Stdout.text(&terminal::table(&["ACTION", "KIND", "RULE", "WHAT"], &rows));
            let said = match (plan.is_empty(), apply) {
                (true, _) => "has its rules: nothing to do",
                (false, true) => "has its rules now",
                (false, false) => "is not changed; --apply does it",
            };
            Sink::Stderr.line(&format!("danube: bucket {} {said}", bucket.bucket));
        }
    }
    Ok(0)
}

/// A rule that deletes everything is refused while something is promised a longer life.
async fn check_nothing_is_kept_longer(config: Config, bucket: &Bucket) -> Result<(), Failure> {
    let app = App::open(config).await?;
    let mut last: Option<ArtifactRecord> = None;
    loop {
        let after = last.as_ref().map(|record| (&record.job, &record.name));
        let page = app.store.all(after, PAGE).await?;
        for record in &page {
            if record.state != ArtifactState::Deleted {
                bucket.check_kept(record.keep_for, record.keep_forever).map_err(|failure| {
                    let name = terminal::safe(record.name.as_str());
                    let job = &record.job;
                    Failure::invalid(format!(
                        "artifact {name} of job {job} is to be kept longer, but {failure}"
                    ))
                })?;
            }
        }
        match page.into_iter().next_back() {
            Some(record) => last = Some(record),
            None => return Ok(()),
        }
    }
}
