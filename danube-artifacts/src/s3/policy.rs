//! What the store may do in its bucket, as a policy that AWS takes.

use serde_json::{Value, json};

use super::S3Config;
use crate::Error;

/// The role that the policy names where only an account is given; FEAT-004 calls it so.
pub const DEFAULT_ROLE: &str = "claude-agent-role";

/// What the store does with objects below its prefix.
const ON_OBJECTS: &[&str] = &[
    "s3:GetObject",
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:AbortMultipartUpload",
    "s3:ListMultipartUploadParts",
    "s3:RestoreObject",
];
/// What it does with the bucket. Listing is not narrowed to the prefix: a condition on it turns the "not found" of a
/// missing object into "access denied", and the store must tell them apart.
const ON_BUCKET: &[&str] = &["s3:ListBucket", "s3:ListBucketMultipartUploads"];
/// What setting the bucket up takes besides, which an operator does and a job does not.
const ON_SETUP: &[&str] = &[
    "s3:ListBucket",
    "s3:GetLifecycleConfiguration",
    "s3:PutLifecycleConfiguration",
    "s3:GetBucketCORS",
    "s3:PutBucketCORS",
    "s3:GetBucketVersioning",
];

/// Whom a policy is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    arn: String,
}

impl std::str::FromStr for Principal {
    type Err = Error;

    /// An ARN (`arn:aws:iam::123456789012:role/builder`), or an account, which means its [`DEFAULT_ROLE`].
    fn from_str(text: &str) -> Result<Self, Error> {
        let is_account = |text: &str| text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit());
        if is_account(text) {
            return Ok(Self { arn: format!("arn:aws:iam::{text}:role/{DEFAULT_ROLE}") });
        }
        let parts: Vec<&str> = text.splitn(6, ':').collect();
        let is_arn = match parts[..] {
            ["arn", partition, "iam" | "sts", "", account, resource] => {
                partition.starts_with("aws") && is_account(account) && !resource.is_empty()
            }
            _ => false,
        };
        if is_arn && text.len() <= 2048 && !text.contains(|c: char| c.is_control() || c == ' ') {
            return Ok(Self { arn: text.to_owned() });
        }
        Err(Error::invalid(
            "principal",
            text,
            "is neither an account of 12 digits nor an ARN like arn:aws:iam::123456789012:role/builder",
        ))
    }
}

/// The policy that lets the store do what it does below its prefix, and nothing else.
///
/// With a principal it is a policy of the bucket, without one a policy of the role itself.
#[must_use]
pub fn policy(config: &S3Config, principal: Option<&Principal>) -> Value {
    let bucket = arn(config);
    let objects = format!("{bucket}/{}*", config.prefix);
    document(
        principal,
        &[("AllowAgentAccess", ON_OBJECTS, objects), ("AllowAgentListing", ON_BUCKET, bucket)],
    )
}

/// The policy that whoever sets the bucket up needs.
#[must_use]
pub fn setup_policy(config: &S3Config, principal: Option<&Principal>) -> Value {
    document(principal, &[("AllowBucketSetup", ON_SETUP, arn(config))])
}

/// The ARN of the bucket, in the partition of its region.
fn arn(config: &S3Config) -> String {
    let partition = match config.region.as_deref() {
        Some(region) if region.starts_with("cn-") => "aws-cn",
        Some(region) if region.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    };
    format!("arn:{partition}:s3:::{}", config.bucket)
}

fn document(principal: Option<&Principal>, statements: &[(&str, &[&str], String)]) -> Value {
    let statement = |(sid, actions, resource): &(&str, &[&str], String)| {
        let mut statement =
            json!({ "Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resource });
        if let Some(principal) = principal {
            statement["Principal"] = json!({ "AWS": principal.arn });
        }
        statement
    };
    let statements: Vec<Value> = statements.iter().map(statement).collect();
    json!({ "Version": "2012-10-17", "Statement": statements })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    fn actions(policy: &Value) -> BTreeSet<String> {
        let statements = policy["Statement"].as_array().unwrap();
        let lists = statements.iter().flat_map(|s| s["Action"].as_array().unwrap());
        lists.map(|action| action.as_str().unwrap().to_owned()).collect()
    }

    /// Every operation of the SDK that this module's code calls, and what each takes.
    #[test]
    fn every_operation_that_is_called_is_allowed_and_nothing_else_is() {
        const TAKES: &[(&str, &[&str])] = &[
            ("abort_multipart_upload", &["s3:AbortMultipartUpload"]),
            ("complete_multipart_upload", &["s3:PutObject"]),
            ("copy_object", &["s3:GetObject", "s3:PutObject"]),
            ("create_multipart_upload", &["s3:PutObject"]),
            ("delete_bucket_cors", &["s3:PutBucketCORS"]),
            ("delete_bucket_lifecycle", &["s3:PutLifecycleConfiguration"]),
            ("delete_object", &["s3:DeleteObject"]),
            ("delete_objects", &["s3:DeleteObject"]),
            ("get_bucket_cors", &["s3:GetBucketCORS"]),
            ("get_bucket_lifecycle_configuration", &["s3:GetLifecycleConfiguration"]),
            ("get_bucket_versioning", &["s3:GetBucketVersioning"]),
            ("get_object", &["s3:GetObject"]),
            ("get_object_attributes", &["s3:GetObject", "s3:GetObjectAttributes"]),
            ("get_object_tagging", &["s3:GetObjectTagging"]),
            ("head_bucket", &["s3:ListBucket"]),
            ("head_object", &["s3:GetObject"]),
            ("list_multipart_uploads", &["s3:ListBucketMultipartUploads"]),
            ("list_object_versions", &["s3:ListBucketVersions"]),
            ("list_objects_v2", &["s3:ListBucket"]),
            ("list_parts", &["s3:ListMultipartUploadParts"]),
            ("put_bucket_cors", &["s3:PutBucketCORS"]),
            ("put_bucket_lifecycle_configuration", &["s3:PutLifecycleConfiguration"]),
            ("put_object", &["s3:PutObject"]),
            ("put_object_tagging", &["s3:PutObjectTagging"]),
            ("restore_object", &["s3:RestoreObject"]),
            ("upload_part", &["s3:PutObject"]),
            ("upload_part_copy", &["s3:GetObject", "s3:PutObject"]),
        ];
        let config = S3Config::new("bucket");
        let mut of_setup = BTreeSet::new();
        let mut of_store = BTreeSet::new();
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let files = fs::read_dir(here.join("s3")).unwrap().map(|file| file.unwrap().path());
        for file in files.chain([here.join("s3.rs")]).filter(|file| file.is_file()) {
            let text = fs::read_to_string(&file).unwrap();
            let needs = match file.file_name().unwrap().to_str().unwrap() {
                "policy.rs" => continue,
                "setup.rs" => &mut of_setup,
                _ => &mut of_store,
            };
            for (operation, takes) in TAKES {
                if text.contains(&format!(".{operation}()")) {
                    needs.extend(takes.iter().map(ToString::to_string));
                }
            }
        }
        assert_eq!(actions(&setup_policy(&config, None)), of_setup);
        assert_eq!(actions(&policy(&config, None)), of_store);
    }

    #[test]
    fn the_policy_of_a_bucket_names_whom_it_allows_and_only_what_lies_below_the_prefix() {
        let config = S3Config::new("team").with_prefix("a/b/");
        let principal: Principal = "123456789012".parse().unwrap();
        let policy = policy(&config, Some(&principal));
        let [objects, bucket] = &policy["Statement"].as_array().unwrap()[..] else {
            panic!("{policy}")
        };
        assert_eq!(objects["Sid"], "AllowAgentAccess");
        assert_eq!(objects["Resource"], "arn:aws:s3:::team/a/b/*");
        assert_eq!(bucket["Resource"], "arn:aws:s3:::team");
        let role = "arn:aws:iam::123456789012:role/claude-agent-role";
        assert_eq!(
            (&objects["Principal"]["AWS"], &bucket["Principal"]["AWS"]),
            (&json!(role), &json!(role))
        );
        assert_eq!(super::policy(&config, None)["Statement"][0].get("Principal"), None);
        let china = S3Config::new("team").with_region("cn-north-1");
        let there = super::policy(&china, None);
        assert_eq!(there["Statement"][1]["Resource"], "arn:aws-cn:s3:::team");
    }

    #[test]
    fn a_principal_is_an_arn_or_an_account() {
        for (text, arn) in [
            ("123456789012", Some("arn:aws:iam::123456789012:role/claude-agent-role")),
            ("arn:aws:iam::123456789012:role/ci/b", Some("arn:aws:iam::123456789012:role/ci/b")),
            ("arn:aws-cn:iam::123456789012:user/x", Some("arn:aws-cn:iam::123456789012:user/x")),
            ("*", None),
            ("12345678901", None),
            ("arn:aws:s3:::bucket", None),
            ("arn:aws:iam::123456789012:", None),
        ] {
            let parsed = text.parse::<Principal>().ok().map(|principal| principal.arn);
            assert_eq!(parsed.as_deref(), arn, "{text}");
        }
    }
}
