//! `danube keys`: the signing keys of the data directory.

use std::path::Path;

use danube_artifacts::{KeyInfo, KeyRole, SigningKeys};

use crate::cli::KeysCommand;
use crate::config::Config;
use crate::failure::Failure;
use crate::terminal::{self, Sink};

pub(crate) async fn keys(config: &Config, command: KeysCommand) -> Result<u8, Failure> {
    let dir = config.data_dir.join("keys");
    let done = tokio::task::spawn_blocking(move || match command {
        KeysCommand::List => list(&dir),
        KeysCommand::Rotate => rotate(&dir),
        KeysCommand::Revoke { id } => revoke(&dir, &id),
    });
    done.await.expect("handling keys does not panic")
}

fn list(dir: &Path) -> Result<u8, Failure> {
    let row = |KeyInfo { id, role, .. }: &KeyInfo| {
        let file = match role {
            KeyRole::Revoked => format!("signing/{id}.revoked"),
            _ => format!("signing/{id}.pub"),
        };
        vec![id.to_string(), role.to_string(), dir.join(file).display().to_string()]
    };
    let rows: Vec<_> = SigningKeys::list(dir)?.iter().map(row).collect();
    Sink::Stdout.text(&terminal::table(&["KEY", "ROLE", "PUBLIC KEY"], &rows));
    Ok(0)
}

fn rotate(dir: &Path) -> Result<u8, Failure> {
    let key = SigningKeys::rotate(dir)?;
    Sink::Stderr.line(&format!(
        "danube: {key} signs from now on; give its public part to whoever verifies: {}",
        dir.join("signing.key.pub").display()
    ));
    Ok(0)
}

fn revoke(dir: &Path, id: &str) -> Result<u8, Failure> {
    let id = id.parse()?;
    SigningKeys::revoke(dir, &id)?;
    Sink::Stderr
        .line(&format!("danube: key {id} is revoked; tell everybody who has its public part"));
    Ok(0)
}
