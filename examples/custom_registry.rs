//! A third-party registry in one file: the whole gateway, and `type = "folder"`, where a service is a file with one
//! instance per line: its address and, if it likes, its weight and its id.
//!
//! ```sh
//! mkdir services && echo 127.0.0.1:9001 > services/orders
//! cargo run --bin custom_registry -- run examples/custom_registry.toml
//! echo 127.0.0.1:9002 3 >> services/orders        # seen within a second
//! ```
//!
//! What it does not do is done for it: the gateway keeps the last good instances while the folder cannot be read, comes
//! back with backoff, and never asks it while a request waits.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use portcullis::registry::{
    Instance, Invalid, Registry, RegistryContext, RegistryError, RegistryPlugin, Service, ServiceName,
};
use portcullis_middleware::prelude::*;

/// Reads services from a folder: each file is a service, each line an instance.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Folder {
    /// The folder.
    path: PathBuf,
    /// How often a followed service is read again.
    #[serde(default = "every_second")]
    every: Duration,
}

fn every_second() -> Duration {
    Duration::from_secs(1)
}

impl RegistryPlugin for Folder {
    const NAME: &'static str = "folder";
    const EXAMPLE: &'static str = r#"path = "services""#;

    fn build(self, context: &RegistryContext) -> Result<Arc<dyn Registry>, BuildError> {
        if self.every.get().is_zero() {
            return Err(BuildError::at("every", "is no time at all; \"1s\" is a good start"));
        }
        Ok(Arc::new(Folder { path: context.path(&self.path), ..self }))
    }
}

#[async_trait]
impl Registry for Folder {
    async fn get_service(&self, name: &ServiceName) -> Result<Service, RegistryError> {
        read(self.path.join(name.as_str()), name.clone()).await
    }

    async fn list_services(&self) -> Result<Vec<ServiceName>, RegistryError> {
        let unreadable = |error: std::io::Error| RegistryError::Unreachable(error.to_string());
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(unreadable)? {
            let name = entry.map_err(unreadable)?.file_name();
            // A hidden file is none of ours, nor one whose name cannot be a service's.
            names.extend(name.to_str().filter(|name| !name.starts_with('.')).and_then(|name| name.parse().ok()));
        }
        names.sort();
        Ok(names)
    }

    /// The whole state now, and again whenever it was read. Saying the same twice is no mistake.
    fn watch(&self, name: &ServiceName) -> BoxStream<'static, Result<Service, RegistryError>> {
        let (path, name, every) = (self.path.join(name.as_str()), name.clone(), self.every.get());
        stream::unfold(Some(std::time::Duration::ZERO), move |wait| {
            let (path, name) = (path.clone(), name.clone());
            async move {
                tokio::time::sleep(wait?).await;
                let state = read(path, name).await;
                // A failure ends the watch; the gateway comes back with a new one. That there is no service is an answer.
                let go_on = state.as_ref().err().is_none_or(RegistryError::is_answer);
                Some((state, go_on.then_some(every)))
            }
        })
        .boxed()
    }
}

async fn read(path: PathBuf, name: ServiceName) -> Result<Service, RegistryError> {
    let text = match tokio::fs::read_to_string(path).await {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(RegistryError::NotFound(name)),
        Err(error) => return Err(RegistryError::Unreachable(error.to_string())),
    };
    let instances = text.lines().filter(|line| !line.trim().is_empty()).map(instance).collect::<Result<_, _>>();
    instances.map(|instances| Service { name, instances }).map_err(RegistryError::Malformed)
}

/// `127.0.0.1:9001`, `127.0.0.1:9001 3`, or `127.0.0.1:9001 3 orders-1`.
fn instance(line: &str) -> Result<Instance, String> {
    let mut words = line.split_whitespace();
    let mut instance: Instance = words.next().unwrap_or_default().parse()?;
    if let Some(weight) = words.next() {
        instance.weight = weight.parse().map_err(|_| format!("`{weight}` is no weight"))?;
    }
    if let Some(id) = words.next() {
        instance.id = id.parse().map_err(|error: Invalid| error.to_string())?;
    }
    Ok(instance)
}

fn main() -> std::process::ExitCode {
    portcullis::main(portcullis::plugins().registry::<Folder>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis::testing::conformance::{self, Abilities};

    /// A folder that the suite fills.
    struct Subject(tempfile::TempDir);

    impl Subject {
        fn write(&self, service: &Service) {
            let lines = service
                .instances
                .iter()
                .map(|instance| format!("{} {} {}\n", instance.address, instance.weight, instance.id));
            // In one step, as anybody should who writes files that others follow.
            let draft = self.0.path().join(".draft");
            fs::write(&draft, lines.collect::<String>()).expect("the folder can be written to");
            fs::rename(draft, self.0.path().join(service.name.as_str())).expect("a file can be renamed");
        }
    }

    #[async_trait]
    impl conformance::Subject for Subject {
        async fn holding(&self, services: &[Service]) -> Arc<dyn Registry> {
            services.iter().for_each(|service| self.write(service));
            Arc::new(Folder { path: self.0.path().to_owned(), every: Duration::from_millis(10) })
        }

        async fn change(&self, _: &dyn Registry, service: &Service) {
            self.write(service);
        }

        fn abilities(&self) -> Abilities {
            Abilities { register: false, empty: true, ttl: None, metadata: false, ..Abilities::default() }
        }
    }

    #[tokio::test]
    async fn it_keeps_the_promises_of_a_registry() {
        let report = conformance::run(&Subject(tempfile::tempdir().expect("a folder"))).await;
        println!("{report}");
        assert!(!report.kept.is_empty());
    }
}
