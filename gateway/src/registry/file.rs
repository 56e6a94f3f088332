//! Services in a file of their own: `type = "file"`.
//!
//! ```toml
//! [registry.default]
//! type = "file"
//! path = "services.toml"
//! ```
//!
//! The file lists instances, and is followed: an editor that renames and Kubernetes' symlink swap are seen at once, and
//! every few seconds it is looked at anyway.
//!
//! ```toml
//! [service.orders]
//! instances = ["10.0.0.7:80", { address = "10.0.0.8:80", weight = 2, metadata = { zone = "a" } }]
//! ```
//!
//! A file that cannot be read, or has a mistake in it, changes nothing: the last good instances stay, and the log has the
//! line. It cannot be registered with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use portcullis_middleware::follow::{self, Follow};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::static_::Static;
use super::{BuildError, Instance, Registry, RegistryContext, RegistryError, RegistryPlugin, Service, ServiceName};

/// Follows a file of services.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// The file; a relative path starts from the directory of the configuration file.
    path: PathBuf,
}

impl RegistryPlugin for File {
    const NAME: &'static str = "file";
    const EXAMPLE: &'static str = r#"path = "services.toml""#;

    fn build(self, context: &RegistryContext) -> Result<Arc<dyn Registry>, BuildError> {
        let path = context.path(&self.path);
        // It may come to be there, or be mended, at any time.
        if let Err(error) = load(&path) {
            context.warn("path", format!("leads to no services so far: {error}"));
        }
        Ok(Arc::new(FileRegistry { path, follower: Arc::default() }))
    }
}

/// A file of services as a registry.
#[derive(Debug)]
struct FileRegistry {
    path: PathBuf,
    /// One for all watches, for as long as there are any.
    follower: Arc<Mutex<Weak<Follower>>>,
}

#[async_trait]
impl Registry for FileRegistry {
    async fn get_service(&self, name: &ServiceName) -> Result<Service, RegistryError> {
        load(&self.path)?.get_service(name).await
    }

    async fn list_services(&self) -> Result<Vec<ServiceName>, RegistryError> {
        load(&self.path)?.list_services().await
    }

    fn watch(&self, name: &ServiceName) -> BoxStream<'static, Result<Service, RegistryError>> {
        let (path, follower, name) = (self.path.clone(), Arc::clone(&self.follower), name.clone());
        // Nothing starts before somebody waits for the first state.
        stream::once(async move { states(Follower::join(&follower, &path), name) }).flatten().boxed()
    }
}

/// What the file says about one service, from now on.
fn states(
    follower: Arc<Follower>,
    name: ServiceName,
) -> impl futures_util::Stream<Item = Result<Service, RegistryError>> + Send {
    let mut content = follower.content.subscribe();
    content.mark_changed();
    stream::unfold(Some((follower, content)), move |watch| {
        let name = name.clone();
        async move {
            let (follower, mut content) = watch?;
            content.changed().await.ok()?;
            let services = content.borrow_and_update().clone();
            match services {
                Ok(services) => Some((services.get(&name), Some((follower, content)))),
                Err(error) => Some((Err(error), None)),
            }
        }
    })
}

/// What a file says, or why it cannot be understood.
type Content = Result<Arc<Static>, RegistryError>;

/// The one who looks at the file.
#[derive(Debug)]
struct Follower {
    content: watch::Sender<Content>,
    _task: AbortOnDropHandle<()>,
}

impl Follower {
    fn join(place: &Mutex<Weak<Self>>, path: &Path) -> Arc<Self> {
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(follower) = place.upgrade() {
            return follower;
        }
        // Before the file is read, so that no change falls between.
        let mut follow = Follow::new(path);
        let content = watch::Sender::new(load(path));
        let (changes, path) = (content.clone(), path.to_owned());
        let task = tokio::spawn(async move {
            loop {
                let text = follow.changed().await;
                let _ = changes.send_replace(parse(&path, &text));
            }
        });
        let follower = Arc::new(Self { content, _task: AbortOnDropHandle::new(task) });
        *place = Arc::downgrade(&follower);
        follower
    }
}

/// Such a file is small and local, and this is not the request path: it is read where it is asked for.
fn load(path: &Path) -> Content {
    let text =
        follow::read(path).map_err(|error| RegistryError::Unreachable(format!("{}: {error}", path.display())))?;
    parse(path, &text)
}

fn parse(path: &Path, text: &[u8]) -> Content {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Services {
        #[serde(default)]
        service: BTreeMap<ServiceName, Instances>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Instances {
        instances: Vec<Instance>,
    }

    let malformed = |at: usize, why: &str| {
        let before = &text[..at.min(text.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        RegistryError::Malformed(format!("{}:{line}: {why}", path.display()))
    };
    let written = str::from_utf8(text).map_err(|error| malformed(error.valid_up_to(), "is not UTF-8"))?;
    let services: Services = toml::from_str(written)
        .map_err(|error| malformed(error.span().map_or(0, |span| span.start), error.message()))?;
    let services = services.service.into_iter().map(|(name, listed)| (name, listed.instances));
    Ok(Arc::new(Static::new(services.collect())))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::fs;
    use std::time::Duration;

    use tempfile::TempDir;
    use tokio::runtime::Handle;

    use super::*;
    use crate::registry::conformance::{self, Abilities};
    use crate::registry::{Live, LiveService};

    struct Subject(TempDir);

    impl Subject {
        fn new() -> Self {
            Self(TempDir::new().unwrap())
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("services.toml")
        }

        /// As an editor does: another file, then a rename.
        fn write(&self, text: &str) {
            let draft = self.0.path().join("draft");
            fs::write(&draft, text).unwrap();
            fs::rename(&draft, self.path()).unwrap();
        }

        fn registry(&self) -> Arc<dyn Registry> {
            File { path: self.path() }.build(&RegistryContext::new("r")).unwrap()
        }
    }

    fn toml(services: &[Service]) -> String {
        services.iter().fold(String::new(), |mut text, service| {
            let instances: Vec<_> = service.instances.iter().map(table).collect();
            writeln!(text, "[service.{:?}]\ninstances = [{}]", service.name.as_str(), instances.join(", ")).unwrap();
            text
        })
    }

    fn table(instance: &Instance) -> String {
        let Instance { id, address, weight, metadata, tags } = instance;
        let metadata: Vec<_> = metadata.iter().map(|(key, value)| format!("{key} = {value:?}")).collect();
        let tags: Vec<_> = tags.iter().map(|tag| format!("{tag:?}")).collect();
        let (metadata, tags) = (metadata.join(", "), tags.join(", "));
        format!(
            "{{ id = \"{id}\", address = \"{address}\", weight = {weight}, \
             metadata = {{ {metadata} }}, tags = [{tags}] }}"
        )
    }

    #[async_trait]
    impl conformance::Subject for Subject {
        async fn holding(&self, services: &[Service]) -> Arc<dyn Registry> {
            self.write(&toml(services));
            self.registry()
        }

        async fn change(&self, _: &dyn Registry, service: &Service) {
            self.write(&toml(std::slice::from_ref(service)));
        }

        fn abilities(&self) -> Abilities {
            Abilities { register: false, empty: true, ttl: None, ..Abilities::default() }
        }
    }

    #[tokio::test]
    async fn it_keeps_the_promises_of_a_registry() {
        println!("{}", conformance::run(&Subject::new()).await);
    }

    #[test]
    fn a_mistake_has_its_line() {
        let path = Path::new("services.toml");
        for (text, wanted) in [
            ("[service.orders]\ninstances = [\"10.0.0.7\"]\n", "services.toml:2: "),
            ("[service.orders]\ninstances = [\n", "services.toml:"),
            ("[service.orders]\n\ninstance = []\n", "services.toml:3: unknown field `instance`"),
            ("[service.orders]\n", "services.toml:1: missing field `instances`"),
            ("[service.\"a/b\"]\ninstances = []\n", "slashes"),
            ("\n\u{feff}[", "services.toml:2: "),
        ] {
            let error = parse(path, text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(wanted), "{text:?}: {error}");
        }
        let error = parse(path, b"# \n\xff\n").unwrap_err().to_string();
        assert!(error.contains("services.toml:2: is not UTF-8"), "{error}");
    }

    async fn reaches(service: &LiveService, addresses: &[&str]) {
        let mut changes = service.changes();
        let there = changes.wait_for(|_| {
            let snapshot = service.instances();
            snapshot.instances.iter().map(|instance| instance.address.to_string()).eq(addresses.iter().copied())
        });
        tokio::time::timeout(Duration::from_secs(10), there).await.expect("the instances in time").unwrap();
    }

    #[tokio::test]
    async fn a_bad_file_keeps_the_last_good_instances_and_a_good_one_is_taken() {
        let subject = Subject::new();
        subject.write("[service.orders]\ninstances = [\"a:1\"]\n");
        let live = Live::new("default", subject.registry());
        live.start(&Handle::current());
        let orders = live.service(&"orders".parse().unwrap());
        reaches(&orders, &["a:1"]).await;

        subject.write("[service.orders]\ninstances = [\"a\"]\n");
        while live.stats().failing == 0 {
            tokio::task::yield_now().await;
        }
        reaches(&orders, &["a:1"]).await;

        subject.write("[service.orders]\ninstances = [\"b:1\"]\n");
        reaches(&orders, &["b:1"]).await;
        assert_eq!(live.stats().failing, 0);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_symlink_that_is_swapped_is_a_change() {
        let subject = Subject::new();
        let volume = |version: &str, text: &str| {
            let directory = subject.0.path().join(version);
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("services.toml"), text).unwrap();
            let link = subject.0.path().join("..data_tmp");
            std::os::unix::fs::symlink(version, &link).unwrap();
            fs::rename(link, subject.0.path().join("..data")).unwrap();
        };
        volume("..1", "[service.orders]\ninstances = [\"a:1\"]\n");
        std::os::unix::fs::symlink("..data/services.toml", subject.path()).unwrap();
        let live = Live::new("default", subject.registry());
        live.start(&Handle::current());
        let orders = live.service(&"orders".parse().unwrap());
        reaches(&orders, &["a:1"]).await;
        volume("..2", "[service.orders]\ninstances = [\"b:1\"]\n");
        reaches(&orders, &["b:1"]).await;
    }

    #[test]
    fn a_file_that_cannot_be_used_yet_is_a_warning() {
        let folder = TempDir::new().unwrap();
        let said = |name: &str| {
            let context = RegistryContext::new("r").in_directory(folder.path());
            File { path: name.into() }.build(&context).unwrap();
            context.take_warnings().to_string()
        };
        fs::write(folder.path().join("wrong.toml"), "services = 3").unwrap();
        fs::write(folder.path().join("good.toml"), "[service.a]\ninstances = []").unwrap();
        assert!(said("none.toml").starts_with("`path` leads to no services so far: "), "{}", said("none.toml"));
        assert!(said("wrong.toml").contains("wrong.toml:1"), "{}", said("wrong.toml"));
        assert_eq!(said("good.toml"), "");
    }
}
