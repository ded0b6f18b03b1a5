//! Variables as expressions see them: rendered when they are asked for, so that none is ever stale.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::{Arc, OnceLock, RwLock},
};

use minijinja::{
    Error, ErrorKind, Value,
    value::{Enumerator, Object, ObjectRepr},
};
use serde_json::Value as Json;

use super::{Whitespace, environment, from_json, playbook_text, render};
use crate::template::{ReadFile, Vars, holds_template, is_template};

/// How often a variable may refer to another one.
const MAX_INDIRECTIONS: usize = 16;
/// What the name of a variable's own template begins with.
pub(super) const VARIABLE: &str = "variable ";
/// The name under which functions find the scope.
const SELF: &str = "septet scope";

thread_local! {
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// The variables of all hosts, by host name; what hosts learn is added between plays.
#[derive(Default)]
pub struct Hosts(RwLock<BTreeMap<String, Arc<Scope>>>);

impl fmt::Debug for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hosts")
    }
}

impl Hosts {
    /// Sets what others see of a host, the later layers over the earlier.
    pub fn set(&self, host: &str, layers: Vec<Layer>) {
        let scope = Arc::new(Scope { layers, ..Scope::default() });
        self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner).insert(host.to_owned(), scope);
    }
    fn get(&self, host: &str) -> Option<Arc<Scope>> {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(host).cloned()
    }
    fn names(&self) -> Vec<String> {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).keys().cloned().collect()
    }
}

/// Variables of one origin. Layers are shared: a scope over them costs the same however many variables or hosts there are.
#[derive(Clone, Default)]
pub struct Layer {
    pub(in crate::template) vars: Arc<Vars>,
    /// rendered when asked for; otherwise taken as they are: facts, results
    pub(in crate::template) written: bool,
    /// the engine's form, where it is made once for all scopes
    values: Option<Arc<HashMap<String, Value>>>,
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layer").field("vars", &self.vars).field("written", &self.written).finish_non_exhaustive()
    }
}

impl Layer {
    /// Variables that are rendered when they are used.
    pub fn written(vars: impl Into<Arc<Vars>>) -> Self {
        Self { vars: vars.into(), written: true, values: None }
    }

    /// Values that are taken as they are.
    pub fn data(vars: impl Into<Arc<Vars>>) -> Self {
        Self { vars: vars.into(), written: false, values: None }
    }

    /// Values that are taken as they are and are the same for many hosts, such as lists of all of them: converted once.
    pub fn shared(vars: impl Into<Arc<Vars>>) -> Self {
        let vars = vars.into();
        let values = vars.iter().map(|(k, v)| (k.clone(), from_json(v))).collect();
        Self { vars, written: false, values: Some(Arc::new(values)) }
    }

    /// The variables.
    pub fn vars(&self) -> &Vars {
        &self.vars
    }
}

/// A variable as it was found.
pub(in crate::template) struct Found<'a> {
    pub(in crate::template) json: &'a Json,
    /// to be rendered
    pub(in crate::template) written: bool,
    value: Option<&'a Value>,
}

/// Variables in layers, the later over the earlier.
#[derive(Clone, Default)]
pub struct Scope {
    pub(in crate::template) layers: Vec<Layer>,
    /// over all layers, taken as they are: the item of a loop
    pub(in crate::template) overlay: Vars,
    pub(in crate::template) hosts: Option<Arc<Hosts>>,
    pub(in crate::template) read: Option<ReadFile>,
    /// what only Tera sees, which has no way to ask
    pub(in crate::template) for_tera: Arc<HostsForTera>,
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scope")
    }
}

impl Scope {
    /// What a name stands for.
    pub(in crate::template) fn find(&self, name: &str) -> Option<Found<'_>> {
        if let Some(json) = self.overlay.get(name) {
            return Some(Found { json, written: false, value: None });
        }
        self.layers.iter().rev().find_map(|layer| {
            let json = layer.vars.get(name)?;
            let value = layer.values.as_ref().and_then(|v| v.get(name));
            Some(Found { json, written: layer.written, value })
        })
    }

    pub(super) fn read(&self, kind: &str, name: &str) -> Result<Vec<u8>, String> {
        self.read.as_ref().map_or_else(|| Err("files cannot be read here".into()), |read| read(kind, name))
    }

    /// All names, in order.
    fn names(&self) -> BTreeSet<&str> {
        let of_layers = self.layers.iter().flat_map(|l| l.vars.keys());
        self.overlay.keys().chain(of_layers).map(String::as_str).collect()
    }
}

/// The given variables of all hosts, rendered, for Tera, which cannot ask for one of them: made when the first template wants them.
#[derive(Default)]
pub struct HostsForTera {
    made: OnceLock<Json>,
    make: Option<Box<dyn Fn() -> Json + Send + Sync>>,
}

impl fmt::Debug for HostsForTera {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostsForTera")
    }
}

impl HostsForTera {
    /// From what makes them.
    pub fn new(make: impl Fn() -> Json + Send + Sync + 'static) -> Self {
        Self { made: OnceLock::new(), make: Some(Box::new(make)) }
    }

    /// The value of `hostvars`; `None` where there are no hosts to speak of.
    pub(in crate::template) fn get(&self) -> Option<&Json> {
        let make = self.make.as_ref()?;
        Some(self.made.get_or_init(make))
    }
}

/// A scope as the root of an evaluation.
pub(super) fn root(scope: &Arc<Scope>) -> Value {
    Value::from_object(Root(scope.clone()))
}

/// The scope that an expression is evaluated in.
pub(super) fn of_state(state: &minijinja::State<'_, '_>) -> Option<Arc<Scope>> {
    state.lookup(SELF).and_then(|v| v.downcast_object_ref::<Root>().map(|r| r.0.clone()))
}

/// Where the argument of the failed filter has a hint of its own.
pub(super) fn hint_of(e: &Error) -> Option<String> {
    use std::error::Error as _;
    e.source().and_then(|s| s.downcast_ref::<Hint>()).map(|h| h.0.clone())
}

/// A hint that travels with an error of the engine.
#[derive(Debug)]
pub(super) struct Hint(pub(super) String);

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Hint {}

/// The value of a text that may be a template.
pub(super) fn render_text(scope: &Arc<Scope>, name: &str, text: &str) -> Value {
    if !is_template(text) {
        return Value::from(text);
    }
    let depth = DEPTH.get();
    if depth >= MAX_INDIRECTIONS {
        return Value::from(Error::new(
            ErrorKind::InvalidOperation,
            format!("`{name}` refers to itself, directly or through other variables"),
        ));
    }
    DEPTH.set(depth + 1);
    let source = playbook_text(text);
    let rendered = render(environment(), scope, &format!("{VARIABLE}{name}"), &source, Whitespace::default());
    DEPTH.set(depth);
    match rendered {
        Ok(r) => r.native.unwrap_or_else(|| Value::from(r.text)),
        // As in Ansible: a variable that needs what is not defined is not defined either.
        Err(e) if e.kind() == ErrorKind::UndefinedError => {
            let why = e.detail().unwrap_or_default().to_owned();
            UNDEFINED.with_borrow_mut(|u| u.push((name.to_owned(), why)));
            Value::UNDEFINED
        }
        Err(e) => Value::from(e),
    }
}

thread_local! {
    /// Why variables were not defined, for the message of whatever needed them.
    static UNDEFINED: std::cell::RefCell<Vec<(String, String)>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Forgets what was not defined, before an evaluation.
pub(in crate::template) fn forget_undefined() {
    UNDEFINED.with_borrow_mut(Vec::clear);
}

/// What a variable that an error names lacks itself.
pub(in crate::template) fn undefined_within(message: &str) -> Option<String> {
    UNDEFINED.with_borrow(|u| {
        let named = |name: &str| message.contains(&format!("`{name}`"));
        u.iter().rev().find(|(name, _)| named(name)).map(|(_, why)| why.replace("is undefined", "is not defined"))
    })
}

/// A value with the templates in it rendered when they are asked for.
fn lazy(scope: &Arc<Scope>, name: &str, value: &Json) -> Value {
    match value {
        Json::String(s) => render_text(scope, name, s),
        Json::Array(a) if holds_template(value) => {
            Value::from_object(LazyList { scope: scope.clone(), name: name.to_owned(), items: a.clone() })
        }
        Json::Object(o) if holds_template(value) => {
            Value::from_object(LazyMap { scope: scope.clone(), name: name.to_owned(), items: o.clone() })
        }
        plain => from_json(plain),
    }
}

/// All variables, as the root and as `vars`.
struct Root(Arc<Scope>);

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("vars")
    }
}

impl Object for Root {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let name = key.as_str()?;
        match name {
            SELF => return Some(Value::from_dyn_object(self.clone())),
            "vars" => return Some(Value::from_dyn_object(self.clone())),
            "omit" => return Some(Value::from_object(Omit)),
            "hostvars" if self.0.hosts.is_some() => {
                return self.0.hosts.clone().map(|hosts| Value::from_object(HostVars(hosts)));
            }
            _ => {}
        }
        let value = match self.0.find(name)? {
            Found { value: Some(value), .. } => value.clone(),
            Found { json, written: true, .. } => lazy(&self.0, name, json),
            Found { json, .. } => from_json(json),
        };
        (!value.is_undefined()).then_some(value)
    }
    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.names().into_iter().map(Value::from).collect())
    }
}

#[derive(Debug)]
struct LazyMap {
    scope: Arc<Scope>,
    name: String,
    items: serde_json::Map<String, Json>,
}

impl Object for LazyMap {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let key = key.as_str()?;
        let value = self.items.get(key)?;
        Some(lazy(&self.scope, &format!("{}.{key}", self.name), value)).filter(|v| !v.is_undefined())
    }
    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items.keys().map(|k| Value::from(k.as_str())).collect())
    }
}

#[derive(Debug)]
struct LazyList {
    scope: Arc<Scope>,
    name: String,
    items: Vec<Json>,
}

impl Object for LazyList {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let i = key.as_usize()?;
        let value = self.items.get(i)?;
        Some(lazy(&self.scope, &format!("{}[{i}]", self.name), value))
    }
    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.items.len())
    }
}

/// `hostvars`: a host's variables by its name.
#[derive(Debug)]
struct HostVars(Arc<Hosts>);

impl Object for HostVars {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let scope = self.0.get(key.as_str()?)?;
        Some(Value::from_object(Root(Arc::new(Scope { hosts: Some(self.0.clone()), ..(*scope).clone() }))))
    }
    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.names().into_iter().map(Value::from).collect())
    }
}

/// `omit`: an argument that is to be left out.
#[derive(Debug)]
pub(super) struct Omit;

impl Object for Omit {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
    fn render(self: &Arc<Self>, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}
