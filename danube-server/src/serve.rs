//! `danube serve`: the HTTP side on 127.0.0.1.

use std::time::Duration;

use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::cli::ServeArgs;
use crate::failure::Failure;
use crate::http;
use crate::terminal::Sink;

/// How long open requests are given to end when the server is told to stop.
const DRAIN: Duration = Duration::from_secs(8);

/// Upper bounds of the latency histogram's buckets: from a lookup to a slow disk.
const LATENCY_SECONDS: [f64; 8] = [0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0];

/// How often jobs whose owner died are looked for.
const RECOVER: Duration = Duration::from_secs(5);

pub(crate) async fn serve(app: App, args: &ServeArgs) -> Result<u8, Failure> {
    let metrics = PrometheusBuilder::new()
        .set_buckets(&LATENCY_SECONDS)
        .map_err(|e| Failure::of(danube_core::ErrorClass::Internal, &e))?
        .install_recorder()
        .map_err(|e| Failure::of(danube_core::ErrorClass::Internal, &e))?;
    let mut address = app.config.listen;
    if let Some(port) = args.port {
        address.set_port(port);
    }
    let listener = TcpListener::bind(address)
        .await
        .map_err(|e| Failure::io(format!("cannot listen on {address}"), &e))?;
    let address = listener.local_addr().map_err(|e| Failure::io("cannot listen", &e))?;
    let state = http::HttpState {
        jobs: app.store.clone(),
        logs: app.logs.clone(),
        artifacts: app.artifacts().await?,
        links: http::Links {
            key: app.link_key().await?,
            cors_origins: app.config.cors_origins.clone(),
            max_bytes: app.config.max_artifact_bytes,
            clock: app.clock.clone(),
        },
        metrics,
    };
    let shutdown = CancellationToken::new();
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(|e| Failure::io("cannot handle signals", &e))?;
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|e| Failure::io("cannot handle signals", &e))?;
    Sink::Stdout.line(&format!("danube: serving on http://{address}"));
    let serving = http::serve(listener, http::router(state), shutdown.clone(), DRAIN);
    tokio::pin!(serving);
    let mut recover = tokio::time::interval(RECOVER);
    loop {
        tokio::select! {
            ended = &mut serving => {
                return match ended {
                    Ok(()) => Ok(0),
                    Err(e) => Err(Failure::io("serving ended", &e)),
                };
            }
            _ = interrupt.recv() => shutdown.cancel(),
            _ = terminate.recv() => shutdown.cancel(),
            _ = recover.tick() => {
                if let Err(failure) = app.recover().await {
                    Sink::Stderr.line(&format!("danube: {failure}"));
                }
            }
        }
    }
}
