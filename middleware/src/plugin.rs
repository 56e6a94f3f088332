//! A plugin: settings that become a middleware.
//!
//! The settings struct *is* the plugin. [`Plugin::build`] runs at start, at every reload and in `portcullis check`, so it
//! touches no network and starts no task: what must run beside the requests is handed to [`Context::spawn`], what must
//! outlive a reload to [`Context::shared`].

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};

use portcullis_config::{Document, Faults, Raw, Step};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::{Next, RouteLayer};

/// A middleware's settings, and how they become the middleware.
pub trait Plugin: DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// The `type` it has in the file, in `snake_case`.
    const NAME: &'static str;

    /// Settings that work, in TOML, without the `type`. They are documentation, and a test builds them.
    const EXAMPLE: &'static str;

    /// Whether it decides who may pass, whatever its shape. `portcullis check` then warns of sibling routes that lead
    /// around it; unless it says so, nobody does.
    const DECIDES_ACCESS: bool = false;

    /// Turns the settings into a middleware, or says which setting is wrong and what to do about it.
    fn build(self, context: &Context) -> Result<RouteLayer, BuildError>;
}

/// What is wrong with a plugin's settings beyond their types. Points at the settings, so that the user sees the line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildError {
    /// Each fault: where in the plugin's own table, and the sentence.
    pub faults: Vec<(Vec<Step>, String)>,
}

impl BuildError {
    /// A fault of one setting: `BuildError::at("allow", "is empty, so nobody could pass")`.
    ///
    /// The sentence goes on from the key's name. `at(["sampling", "rate"], …)` and `at(("allow", 3), …)` reach further in.
    pub fn at(key: impl IntoKeyPath, sentence: impl Into<String>) -> Self {
        Self { faults: vec![(key.into_key_path(), sentence.into())] }
    }

    /// A fault of the settings as a whole.
    pub fn whole(sentence: impl Into<String>) -> Self {
        Self { faults: vec![(Vec::new(), sentence.into())] }
    }

    /// Adds a fault of one setting, named as by [`at`](BuildError::at): for builders that say all that is wrong at once.
    pub fn add(&mut self, key: impl IntoKeyPath, sentence: impl Into<String>) {
        self.faults.push((key.into_key_path(), sentence.into()));
    }

    /// Both these faults.
    #[must_use]
    pub fn and(mut self, other: BuildError) -> Self {
        self.faults.extend(other.faults);
        self
    }

    /// `Ok` if there is no fault at all: for builders that collect.
    pub fn into_result(self) -> Result<(), BuildError> {
        if self.faults.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (path, sentence)) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            f.write_str(&fault_sentence(path, sentence))?;
        }
        Ok(())
    }
}

impl std::error::Error for BuildError {}

fn fault_sentence(path: &[Step], sentence: &str) -> String {
    match path.iter().rev().find_map(|step| if let Step::Key(key) = step { Some(key) } else { None }) {
        Some(key) => format!("`{key}` {sentence}"),
        None => sentence.to_owned(),
    }
}

/// What names a place in a plugin's settings: a key, a list of keys, or a key and an index.
pub trait IntoKeyPath {
    /// The steps from the plugin's table to the value.
    fn into_key_path(self) -> Vec<Step>;
}

impl IntoKeyPath for &str {
    fn into_key_path(self) -> Vec<Step> {
        vec![Step::Key(self.to_owned())]
    }
}

impl<const N: usize> IntoKeyPath for [&str; N] {
    fn into_key_path(self) -> Vec<Step> {
        self.iter().map(|key| Step::Key((*key).to_owned())).collect()
    }
}

impl IntoKeyPath for (&str, usize) {
    fn into_key_path(self) -> Vec<Step> {
        vec![Step::Key(self.0.to_owned()), Step::Index(self.1)]
    }
}

impl IntoKeyPath for Vec<Step> {
    fn into_key_path(self) -> Vec<Step> {
        self
    }
}

/// A task that a plugin wants to run while its plan is live.
pub type Task = Box<dyn FnOnce(CancellationToken) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// Sends requests to services. The gateway implements it; plugins that send copies elsewhere ask for it.
pub trait Services: Send + Sync {
    /// The end of a chain that sends to this service, or `None` if no such service can exist.
    fn service(&self, name: &str) -> Option<Next>;
}

/// What a plugin may use while it is built.
pub struct Context<'a> {
    name: String,
    directory: PathBuf,
    shared: &'a Shared,
    services: Option<&'a dyn Services>,
    routes: Option<Arc<crate::router::Table>>,
    tasks: RefCell<Vec<Task>>,
    warnings: RefCell<BuildError>,
}

impl<'a> Context<'a> {
    /// A context for the middleware that the file calls `name`.
    pub fn new(name: impl Into<String>, shared: &'a Shared) -> Self {
        Self {
            name: name.into(),
            directory: PathBuf::from("."),
            shared,
            services: None,
            routes: None,
            tasks: RefCell::default(),
            warnings: RefCell::default(),
        }
    }

    /// The directory that relative paths in the settings start from.
    #[must_use]
    pub fn in_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = directory.into();
        self
    }

    /// The services that can be sent to.
    #[must_use]
    pub fn with_services(mut self, services: &'a dyn Services) -> Self {
        self.services = Some(services);
        self
    }

    /// The compiled routes of the listener whose chain is being built.
    #[must_use]
    pub fn with_routes(mut self, routes: Arc<crate::router::Table>) -> Self {
        self.routes = Some(routes);
        self
    }

    /// The name the file gives to this middleware (its type, for one without a name). Good for logs and labels.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path from the settings, taken relative to the configuration file's directory.
    pub fn path(&self, path: &Path) -> PathBuf {
        self.directory.join(path)
    }

    /// State that survives reloads: as long as some plan uses it, whoever asks with the same key gets the same.
    ///
    /// Keys of different types never meet. Put what must not be shared, such as the middleware's name, into the key.
    pub fn shared<T: Send + Sync + 'static>(&self, key: &str, make: impl FnOnce() -> T) -> Arc<T> {
        self.shared.get(key, make)
    }

    /// Hands over a task that starts when the plan goes live.
    ///
    /// The token is cancelled when the plan is replaced or the gateway stops; the task then has two seconds to finish.
    pub fn spawn<F>(&self, task: impl FnOnce(CancellationToken) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.borrow_mut().push(Box::new(move |stop| Box::pin(task(stop))));
    }

    /// Says that a setting works and is probably not what was meant.
    pub fn warn(&self, key: impl IntoKeyPath, sentence: impl Into<String>) {
        self.warnings.borrow_mut().add(key, sentence);
    }

    /// The end of a chain that sends to this service, or `None` if no such service can exist.
    pub fn service(&self, name: &str) -> Option<Next> {
        self.services?.service(name)
    }

    /// The compiled routes, for the plugin that routes; `None` in a route's own chain, where there is nothing to route.
    pub fn routes(&self) -> Option<Arc<crate::router::Table>> {
        self.routes.clone()
    }

    /// The tasks that were handed over so far; leaves none.
    pub fn take_tasks(&self) -> Vec<Task> {
        self.tasks.take()
    }

    /// The warnings that were made so far; leaves none.
    pub fn take_warnings(&self) -> BuildError {
        self.warnings.take()
    }
}

/// Keyed state that outlives a plan. It holds nothing alive by itself: what no plan uses any more is gone.
#[derive(Default)]
pub struct Shared(Mutex<HashMap<(TypeId, String), Weak<dyn Any + Send + Sync>>>);

impl Shared {
    fn get<T: Send + Sync + 'static>(&self, key: &str, make: impl FnOnce() -> T) -> Arc<T> {
        let mut entries = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        entries.retain(|_, entry| entry.strong_count() > 0);
        let slot = (TypeId::of::<T>(), key.to_owned());
        if let Some(entry) = entries.get(&slot).and_then(Weak::upgrade) {
            return entry.downcast::<T>().expect("the key holds the type's id");
        }
        let entry = Arc::new(make());
        let erased: Arc<dyn Any + Send + Sync> = entry.clone();
        entries.insert(slot, Arc::downgrade(&erased));
        entry
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

/// A plugin as a row of the list: everything the gateway needs to know of it, without its type.
#[derive(Clone, Copy)]
pub struct PluginRow {
    /// [`Plugin::NAME`].
    pub name: &'static str,
    /// The Rust type, to tell two plugins of one name apart.
    pub type_name: &'static str,
    /// [`Plugin::EXAMPLE`].
    pub example: &'static str,
    /// [`Plugin::DECIDES_ACCESS`].
    pub decides_access: bool,
    /// The settings' JSON Schema.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    /// Decodes the settings and builds the middleware; whatever is wrong goes to the faults.
    pub build: fn(&Raw, &Document, &Context<'_>, &mut Faults) -> Option<RouteLayer>,
}

impl PluginRow {
    /// The row of one plugin.
    pub fn of<P: Plugin>() -> Self {
        Self {
            name: P::NAME,
            type_name: std::any::type_name::<P>(),
            example: P::EXAMPLE,
            decides_access: P::DECIDES_ACCESS,
            schema: |generator| P::json_schema(generator),
            build: build::<P>,
        }
    }
}

fn build<P: Plugin>(raw: &Raw, document: &Document, context: &Context<'_>, faults: &mut Faults) -> Option<RouteLayer> {
    let whom = describe("middleware", context.name(), P::NAME);
    let settings: P = raw.decode(&whom, document, faults)?;
    let built = settings.build(context);
    warn(context.take_warnings(), &whom, raw, document, faults);
    report(built, &whom, raw, document, faults)
}

/// Puts a builder's warnings where the user wrote the settings.
pub fn warn(warnings: BuildError, whom: &str, raw: &Raw, document: &Document, faults: &mut Faults) {
    for (path, sentence) in warnings.faults {
        faults.warning(document, raw.span_of(&path), fault_sentence(&path, &sentence)).label(whom.to_owned());
    }
}

/// Puts a build error's faults where the user wrote the settings.
pub fn report<T>(
    built: Result<T, BuildError>,
    whom: &str,
    raw: &Raw,
    document: &Document,
    faults: &mut Faults,
) -> Option<T> {
    match built {
        Ok(built) => Some(built),
        Err(error) => {
            for (path, sentence) in error.faults {
                faults.error(document, raw.span_of(&path), fault_sentence(&path, &sentence)).label(whom.to_owned());
            }
            None
        }
    }
}

/// How diagnostics name a plugin's instance: ``middleware `office` (ip_whitelist)``.
pub fn describe(kind: &str, name: &str, type_name: &str) -> String {
    if name == type_name { format!("{kind} `{type_name}`") } else { format!("{kind} `{name}` ({type_name})") }
}

impl fmt::Debug for PluginRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginRow")
            .field("name", &self.name)
            .field("type_name", &self.type_name)
            .finish_non_exhaustive()
    }
}
