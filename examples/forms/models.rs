//! Prints the catalog of models, its age, and the models whose dates need attention.
//!
//! `--models FILE` reads the facts of a saved response of the Models API first, and `--models api`
//! asks the API itself, with the key in `ANTHROPIC_API_KEY`. Differences are marked with `*`.

use std::{error::Error, process::ExitCode, time::SystemTime};

use clap::Parser;
use tower_claude_wire::{Model, ModelCatalog, Platform};

/// The age in days from which the facts are called old.
const OLD_AFTER: u64 = 30;

/// Checks the catalog of models.
#[derive(Parser)]
struct Options {
    /// A file with a response of the Models API, or `api` for the API itself.
    #[arg(long)]
    models: Option<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let builtin = ModelCatalog::builtin();
    let refreshed = match Options::parse().models.as_deref() {
        None => builtin.clone(),
        Some("api") => builtin.clone().merge_models_response(&from_api().await?)?,
        Some(file) => builtin
            .clone()
            .merge_models_response(&std::fs::read_to_string(file)?)?,
    };
    let now = SystemTime::now();
    let days = builtin.age(now).unwrap_or_default().as_secs() / 86_400;
    println!("The facts are of {}, {days} days old.", builtin.as_of());
    let mut models: Vec<&Model> = refreshed.models().collect();
    models.sort_by(|a, b| a.id.cmp(&b.id));
    models.dedup_by(|a, b| a.id == b.id);
    for model in models {
        let is_new = builtin.get(&model.id) != Some(model);
        let dead = model.is_retired(Platform::ClaudeApi, now);
        println!(
            "{} {:24} {:>9} context {:>7} output  {:11} {}{}",
            if is_new { '*' } else { ' ' },
            model.id,
            model.context,
            model.max_output,
            format!("{:?}", model.lifecycle).to_lowercase(),
            model.about.retires_on.as_deref().unwrap_or_default(),
            if dead { " retired" } else { "" },
        );
    }
    if days > OLD_AFTER {
        println!("Older than {OLD_AFTER} days: refresh with --models, or update the crate.");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the response of `GET /v1/models`, with all models on one page.
async fn from_api() -> Result<String, Box<dyn Error>> {
    let key = std::env::var("ANTHROPIC_API_KEY")?;
    let response = tower_claude_reqwest::client()?
        .get("https://api.anthropic.com/v1/models?limit=1000")
        .header("x-api-key", key)
        .header("anthropic-version", "2023-06-01")
        .send()
        .await?;
    Ok(response.error_for_status()?.text().await?)
}
