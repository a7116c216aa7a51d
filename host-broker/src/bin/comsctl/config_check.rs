//! `comsctl config check`: without the daemon.

use super::{Failure, print};
use coms_broker::config::{Config, ConfigError};
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;

pub fn check(json: bool, file: &Path) -> Result<ExitCode, Failure> {
    match Config::load(file) {
        Ok(config) => {
            let unwise = config.unwise();
            let value = json!({ "file": file, "usable": true, "unwise": unwise });
            print(json, &value, |_| {
                let mut out: String = unwise.iter().map(|u| format!("warn  {u}\n")).collect();
                out.push_str(&format!("{}: usable\n", file.display()));
                out
            })
        }
        Err(e) if json => {
            let (key, right) = match &e {
                ConfigError::Value { key, right, .. } => (Some(key), Some(right)),
                ConfigError::Read { .. } | ConfigError::Syntax { .. } => (None, None),
            };
            let value = json!({
                "file": file, "usable": false, "wrong": e.to_string(), "key": key, "right": right,
            });
            print(true, &value, |_| String::new())?;
            Ok(ExitCode::FAILURE)
        }
        Err(e) => Err(Failure::refused(e.to_string())),
    }
}
