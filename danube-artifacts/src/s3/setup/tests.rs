//! What is decided about the rules of a bucket, without one.

use aws_sdk_s3::Client;

use super::super::S3Config;
use super::*;

fn setup(prefix: &str, rules: BucketRules) -> BucketSetup {
    let config = S3Config::new("team").with_prefix(prefix);
    let client = aws_sdk_s3::Config::builder().behavior_version_latest().build();
    BucketSetup::new(&S3Blobs::with_client(config, Client::from_conf(client)), rules).unwrap()
}

fn seen(lifecycle: Vec<LifecycleRule>, cors: Vec<CorsRule>) -> Seen {
    Seen { lifecycle, cors, smallest: None, versions: Versions::Kept }
}

fn foreign(id: &str, prefix: &str) -> LifecycleRule {
    LifecycleRule::builder()
        .id(id)
        .filter(LifecycleRuleFilter::builder().prefix(prefix).build())
        .status(ExpirationStatus::Disabled)
        .expiration(LifecycleExpiration::builder().days(1).build())
        .build()
        .unwrap()
}

fn actions(plan: &SetupPlan) -> Vec<(&str, RuleAction)> {
    plan.rules.iter().map(|rule| (rule.id.as_str(), rule.action)).collect()
}

#[test]
fn an_empty_bucket_gets_the_rules_of_the_documents_and_then_needs_nothing() {
    let origins = vec!["https://ci.example.com".to_owned()];
    let setup = setup("artifacts/", BucketRules::default().with_cors_origins(origins));
    let plan = setup.decide(seen(vec![], vec![])).unwrap();
    let told: Vec<_> = plan.rules.iter().map(|r| (r.id.as_str(), r.what.as_str())).collect();
    assert_eq!(
        told,
        [
            ("TransitionToIA", "to STANDARD_IA after 30 days"),
            ("TransitionToGlacier", "to GLACIER after 90 days"),
            (
                "ExpireDeletedArtifacts",
                "delete markers removed, old versions deleted after 30 days"
            ),
            ("AbortIncompleteMultipartUpload", "incomplete uploads aborted after 7 days"),
            ("DanubeLinks", "GET, HEAD, PUT from https://ci.example.com"),
        ]
    );
    assert!(plan.rules.iter().all(|rule| rule.action == RuleAction::Add) && !plan.is_empty());
    assert!(plan.lifecycle.iter().all(|rule| prefix_of(rule) == Some("artifacts/")));

    let again = setup.decide(seen(plan.lifecycle.clone(), plan.cors.clone())).unwrap();
    assert!(again.is_empty() && again.rules.iter().all(|rule| rule.action == RuleAction::Keep));
}

#[test]
fn nothing_of_the_default_deletes_what_is_there() {
    let rules = BucketRules::default().lifecycle("artifacts/");
    let deletes = |rule: &LifecycleRule| rule.expiration().is_some_and(|e| e.days().is_some());
    assert!(!rules.iter().any(deletes));
    let on = BucketRules::default().with_expire_days(365).lifecycle("artifacts/");
    let expire: Vec<_> = on.iter().filter(|rule| deletes(rule)).collect();
    assert_eq!(expire.len(), 1);
    assert_eq!(expire[0].id(), Some("ExpireOldArtifacts"));
    assert_eq!(expire[0].expiration().unwrap().days(), Some(365));
}

#[test]
fn the_rules_of_others_stay_where_and_what_they_are() {
    let theirs = [foreign("backup", "backup/"), foreign("theirs", "artifacts/")];
    let setup = setup("artifacts/", BucketRules::default());
    let first = setup.decide(seen(theirs.to_vec(), vec![])).unwrap();
    assert_eq!(first.lifecycle[..2], theirs);
    // One of ours was changed by hand, one is not wanted any more.
    let mut there = first.lifecycle.clone();
    there[2].transitions.as_mut().unwrap()[0].days = Some(45);
    let fewer = BucketSetup { rules: BucketRules::default().with_glacier_days(0), ..setup };
    let plan = fewer.decide(seen(there, vec![])).unwrap();
    assert_eq!(
        actions(&plan),
        [
            ("backup", RuleAction::Leave),
            ("theirs", RuleAction::Leave),
            ("TransitionToIA", RuleAction::Change),
            ("TransitionToGlacier", RuleAction::Remove),
            ("ExpireDeletedArtifacts", RuleAction::Keep),
            ("AbortIncompleteMultipartUpload", RuleAction::Keep),
        ]
    );
    assert_eq!(plan.lifecycle[..2], theirs);
    assert_eq!(plan.lifecycle.len(), 5);
}

#[test]
fn two_prefixes_share_a_bucket_and_an_id_in_use_for_another_is_refused() {
    let first = setup("artifacts/", BucketRules::default());
    let second = setup("team-b/", BucketRules::default());
    let rules = first.decide(seen(vec![], vec![])).unwrap().lifecycle;
    let plan = second.decide(seen(rules.clone(), vec![])).unwrap();
    assert_eq!(plan.lifecycle[..rules.len()], rules);
    assert_eq!(plan.lifecycle.len(), 2 * rules.len());

    let taken = seen(vec![foreign("TransitionToIA", "photos/")], vec![]);
    let error = first.decide(taken).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Conflict);
}

#[test]
fn what_s3_would_refuse_is_refused_by_the_name_of_the_setting() {
    let rules = BucketRules::default;
    let origin = |text: &str| rules().with_cors_origins(vec![text.to_owned()]);
    for (rules, named) in [
        (rules(), None),
        (rules().with_ia_days(0).with_glacier_days(0), None),
        (rules().with_ia_days(0).with_glacier_days(1), None),
        (rules().with_expire_days(91), None),
        (origin("https://ci.example.com:8443"), None),
        (origin("https://*.example.com"), None),
        (rules().with_ia_days(29), Some("ia_days")),
        (rules().with_glacier_days(59), Some("glacier_days")),
        (rules().with_expire_days(90), Some("expire_days")),
        (rules().with_deleted_days(36_501), Some("deleted_days")),
        (origin("ci.example.com"), Some("cors_origins")),
        (origin("https://ci.example.com/"), Some("cors_origins")),
        (origin("https://*.*.example.com"), Some("cors_origins")),
        (rules().with_cors_origins(vec!["*".to_owned(); 51]), Some("cors_origins")),
    ] {
        let told = rules.validate().err().map(|error| error.to_string());
        match named {
            None => assert_eq!(told, None, "{rules:?}"),
            Some(named) => assert!(told.unwrap().starts_with(named), "{rules:?}"),
        }
    }
}

#[test]
fn a_bucket_without_versions_is_warned_about() {
    for (versions, warns) in [
        (Versions::Kept, None),
        (Versions::NotKept, Some("is off")),
        (Versions::Untold, Some("cannot be read")),
    ] {
        let seen = Seen { versions, ..Seen::default() };
        let plan = setup("artifacts/", BucketRules::default()).decide(seen).unwrap();
        assert_eq!(plan.warnings.len(), usize::from(warns.is_some()));
        assert!(warns.is_none_or(|text| plan.warnings[0].contains(text)), "{:?}", plan.warnings);
    }
}
