//! Tasks, blocks and handlers.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Map, Value};

use super::{Reader, become_of, flag, key_of, names, object, strings, unknown_keys, words};
use crate::{
    error::{Error, Result, nearest},
    modules,
    playbook::{
        keywords,
        model::{Become, LoopControl, LoopKind, Task, Work},
    },
    template::{Reads, Vars, is_template},
    yaml::{Fields, Node, NodeKind},
};

const TASK_KEYS: &[&str] = &[
    "name",
    "when",
    "loop",
    "with_items",
    "with_list",
    "with_dict",
    "with_indexed_items",
    "loop_control",
    "register",
    "notify",
    "listen",
    "tags",
    "become",
    "become_user",
    "ignore_errors",
    "failed_when",
    "changed_when",
    "until",
    "retries",
    "delay",
    "vars",
    "environment",
    "check_mode",
    "diff",
    "no_log",
    "args",
    "block",
    "rescue",
    "always",
    "include_tasks",
    "import_tasks",
    "meta",
    "action",
];

/// Longest name of a variable.
const MAX_NAME: usize = 200;

/// The names that a handler answers to.
pub fn answers_of(handler: &Task) -> impl Iterator<Item = &str> {
    handler.listen.iter().map(String::as_str).chain([handler.name.as_str()])
}

/// Whether a name can be a variable's.
fn is_variable(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && name != "septet"
}

fn variable(n: &Node) -> Result<String> {
    let name = n.string()?;
    match is_variable(&name) {
        true => Ok(name),
        false if name == "septet" => Err(n.error("`septet` holds Septet's own variables and cannot be set").hint("choose another name")),
        false => Err(n.error(format!("`{name}` cannot be a variable's name")).hint("letters, digits and `_`, not beginning with a digit")),
    }
}

/// Keywords that a block hands to its tasks.
struct Inherited {
    when: Vec<Node>,
    tags: Vec<String>,
    r#become: Become,
    vars: Vars,
    environment: Vars,
    ignore_errors: Option<bool>,
    check_mode: Option<bool>,
    diff: Option<bool>,
    no_log: Option<bool>,
}

impl Inherited {
    /// Gives a task what stands around it; what it has of its own wins.
    fn give(&self, task: &mut Task) {
        if let Work::Block { tasks, rescue, always } = &mut task.work {
            tasks.iter_mut().chain(rescue).chain(always).for_each(|t| self.give(t));
            return;
        }
        task.when.splice(0..0, self.when.iter().cloned());
        task.tags.extend(self.tags.iter().filter(|t| !task.tags.contains(t)).cloned().collect::<Vec<_>>());
        task.r#become = task.r#become.or(&self.r#become);
        let own = std::mem::replace(&mut task.vars, self.vars.clone());
        task.vars.extend(own);
        let own = std::mem::replace(&mut task.environment, self.environment.clone());
        task.environment.extend(own);
        task.ignore_errors |= self.ignore_errors.unwrap_or(false);
        task.check_mode = task.check_mode.or(self.check_mode);
        task.diff = task.diff.or(self.diff);
        task.no_log |= self.no_log.unwrap_or(false);
        reads_of(task);
    }
}

/// Notes what a task's expressions ask for.
fn reads_of(task: &mut Task) {
    let mut reads = Reads::of_value(&Value::Object(task.vars.clone()));
    reads.add_value(&Value::Object(task.environment.clone()));
    reads.add_value(&task.r#become.user.clone().into());
    reads.add_value(&task.notify.clone().into());
    reads.add_value(&task.loop_control.label.clone().into());
    if let Some(n) = &task.loop_over {
        reads.add_value(&n.value());
    }
    let lists = [Some(&task.when), task.failed_when.as_ref(), task.changed_when.as_ref(), task.until.as_ref()];
    for n in lists.into_iter().flatten().flatten() {
        if let NodeKind::Scalar(Value::String(s)) = &n.kind {
            reads.add_expression(s);
        }
    }
    match &task.work {
        Work::Module { name, arguments, .. } => {
            reads.add_value(arguments);
            let conditions = match *name {
                "assert" => arguments.get("that"),
                "debug" => arguments.get("var"),
                _ => None,
            };
            for c in conditions.into_iter().flat_map(|c| c.as_array().cloned().unwrap_or_else(|| vec![c.clone()])) {
                if let Value::String(s) = c {
                    reads.add_expression(&s);
                }
            }
        }
        Work::Include { file, .. } => reads.add_value(&file.clone().into()),
        Work::Block { .. } | Work::FlushHandlers => {}
    }
    task.reads = Arc::new(reads);
}

impl Reader<'_> {
    /// A task; a plain block and `import_tasks` are as many as are in it.
    pub(super) fn task(&mut self, node: &Node, dirs: &Arc<Vec<PathBuf>>) -> Result<Vec<Task>> {
        let mut f = node.fields()?;
        if let Some(block) = f.take("block") {
            return self.block(node, f, block, dirs);
        }
        let import = f.take("import_tasks").or(f.take("ansible.builtin.import_tasks"));
        if let Some(n) = import {
            let inherited = self.inherited(&mut f)?;
            f.take("name");
            self.errors.extend(unknown_keys(f, keywords::TASK, "task"));
            let file = file_of(n)?;
            if is_template(&file) {
                return Err(n.error("a file's name in `import_tasks` cannot be a template").hint("use `include_tasks`"));
            }
            let mut tasks = self.task_file(Path::new(&file), dirs, n)?;
            tasks.iter_mut().for_each(|t| inherited.give(t));
            return Ok(tasks);
        }
        let task = self.one(node, f, dirs)?;
        self.conditions(&task.when);
        for list in [&task.failed_when, &task.changed_when, &task.until].into_iter().flatten() {
            self.conditions(list);
        }
        task.loop_over.iter().for_each(|n| self.templates(n));
        if let Work::Module { name, arguments, node } = &task.work
            && *name != "assert"
        {
            // Of arguments in one text, the quotes and backslashes around a template are gone by now.
            match &node.kind {
                NodeKind::Scalar(_) => self.texts(arguments, node),
                _ => self.templates(node),
            }
        }
        self.work(&task);
        Ok(vec![task])
    }

    fn inherited(&mut self, f: &mut Fields<'_>) -> Result<Inherited> {
        let when = conditions(f.take("when")).unwrap_or_default();
        self.conditions(&when);
        Ok(Inherited {
            when,
            tags: strings(f.take("tags"))?,
            r#become: become_of(f)?,
            vars: self.vars(f.take("vars"))?,
            environment: self.environment(f.take("environment"))?,
            ignore_errors: flag(f.take("ignore_errors"))?,
            check_mode: flag(f.take("check_mode"))?,
            diff: flag(f.take("diff"))?,
            no_log: flag(f.take("no_log"))?,
        })
    }

    fn block(&mut self, node: &Node, mut f: Fields<'_>, block: &Node, dirs: &Arc<Vec<PathBuf>>) -> Result<Vec<Task>> {
        let name = f.take("name").map(Node::string).transpose()?;
        let inherited = self.inherited(&mut f)?;
        let (rescue, always) = (f.take("rescue"), f.take("always"));
        self.errors.extend(unknown_keys(f, keywords::TASK, "block"));
        let mut list = |n: Option<&Node>| -> Vec<Task> {
            let read = n.map_or_else(|| Ok(Vec::new()), |n| self.task_list_in(n, dirs.first().cloned()));
            let mut tasks = self.keep(read).unwrap_or_default();
            tasks.iter_mut().for_each(|t| inherited.give(t));
            tasks
        };
        let (tasks, rescue, always) = (list(Some(block)), list(rescue), list(always));
        if rescue.is_empty() && always.is_empty() {
            return Ok(tasks);
        }
        let mut task = blank(node, dirs);
        task.name = name.unwrap_or_else(|| "block".into());
        task.work = Work::Block { tasks, rescue, always };
        Ok(vec![task])
    }

    fn one(&mut self, node: &Node, mut f: Fields<'_>, dirs: &Arc<Vec<PathBuf>>) -> Result<Task> {
        let name = f.take("name").map(Node::string).transpose()?;
        let mut task = blank(node, dirs);
        task.when = conditions(f.take("when")).unwrap_or_default();
        loop_of(&mut task, &mut f)?;
        task.register = f.take("register").map(variable).transpose()?;
        task.notify = names(f.take("notify"))?;
        task.listen = names(f.take("listen"))?;
        task.tags = strings(f.take("tags"))?;
        task.r#become = become_of(&mut f)?;
        task.ignore_errors = flag(f.take("ignore_errors"))?.unwrap_or(false);
        task.failed_when = conditions(f.take("failed_when"));
        task.changed_when = conditions(f.take("changed_when"));
        task.until = conditions(f.take("until"));
        let retries = f.take("retries").map(|n| n.number(0, 10_000)).transpose()?;
        if retries.is_some() && task.until.is_none() {
            // As in Ansible: until the task succeeds.
            task.until = Some(Vec::new());
        }
        task.retries = retries.unwrap_or(3) as u32;
        task.delay_s = f.take("delay").map(|n| n.number(0, 3600)).transpose()?.unwrap_or(5) as u64;
        task.vars = self.vars(f.take("vars"))?;
        task.environment = self.environment(f.take("environment"))?;
        task.check_mode = flag(f.take("check_mode"))?;
        task.diff = flag(f.take("diff"))?;
        task.no_log = flag(f.take("no_log"))?.unwrap_or(false);
        let extra = object(f.take("args"))?;
        let include = f.take("include_tasks").or(f.take("ansible.builtin.include_tasks"));
        let meta = f.take("meta").or(f.take("ansible.builtin.meta"));
        task.work = match (include, meta) {
            (Some(n), _) => {
                self.errors.extend(unknown_keys(f, keywords::TASK, "task"));
                include_of(&task, n)?
            }
            (None, Some(n)) => {
                self.errors.extend(unknown_keys(f, keywords::TASK, "task"));
                match n.string()?.as_str() {
                    "flush_handlers" => Work::FlushHandlers,
                    "noop" => Work::Block { tasks: Vec::new(), rescue: Vec::new(), always: Vec::new() },
                    other => return Err(n.error(format!("`meta: {other}` is not supported")).hint("there is `meta: flush_handlers`")),
                }
            }
            (None, None) => self.module(node, f, extra)?,
        };
        let shown = match &task.work {
            Work::Module { name, .. } => (*name).to_owned(),
            Work::Include { file, .. } => format!("include_tasks {file}"),
            Work::Block { .. } => "meta".to_owned(),
            Work::FlushHandlers => "meta flush_handlers".to_owned(),
        };
        task.name = name.unwrap_or(shown);
        reads_of(&mut task);
        Ok(task)
    }

    fn module(&mut self, node: &Node, mut f: Fields<'_>, extra: Map<String, Value>) -> Result<Work> {
        let mut rest = f.rest();
        // Keywords that are not supported are named, and do not hide the module.
        rest.retain(|(key, at, _)| match keywords::instead(keywords::TASK, key) {
            Some(hint) => {
                self.errors.push(at.error(format!("keyword `{key}` of a task is not supported")).hint(hint));
                false
            }
            None => true,
        });
        let Some((key, _, arguments)) = rest.pop() else {
            if self.errors.iter().any(|e| e.place.as_ref().is_some_and(|p| p.file == node.source.path && p.line >= node.line)) {
                // `local_action` and the like took the module's place; that error is reported already.
                return Ok(Work::FlushHandlers);
            }
            return Err(node.error("the task has no module").hint(format!("modules: {}", modules::names().join(", "))));
        };
        for (other, at, _) in &rest {
            if modules::lookup(other).is_none() {
                return Err(unknown(at, other));
            }
            if modules::lookup(&key).is_some() {
                return Err(at.error(format!("a task has one module, this one has `{other}` and `{key}`")));
            }
        }
        let Some(module) = modules::lookup(&key) else {
            let at = key_of(node, &key).unwrap_or(node);
            return Err(unknown(at, &key));
        };
        Ok(Work::Module { name: module, arguments: arguments_of(module, arguments, extra)?, node: arguments.clone() })
    }
}

fn conditions(n: Option<&Node>) -> Option<Vec<Node>> {
    n.map(|n| n.list().into_iter().cloned().collect())
}

/// A task with nothing in it.
fn blank(node: &Node, dirs: &Arc<Vec<PathBuf>>) -> Task {
    Task {
        name: String::new(),
        work: Work::FlushHandlers,
        when: Vec::new(),
        loop_over: None,
        loop_kind: LoopKind::default(),
        loop_var: "item".into(),
        loop_control: LoopControl::default(),
        register: None,
        notify: Vec::new(),
        listen: Vec::new(),
        tags: Vec::new(),
        r#become: Become::default(),
        ignore_errors: false,
        failed_when: None,
        changed_when: None,
        until: None,
        retries: 3,
        delay_s: 5,
        vars: Vars::new(),
        environment: Vars::new(),
        check_mode: None,
        diff: None,
        no_log: false,
        node: node.clone(),
        reads: Arc::default(),
        dirs: dirs.clone(),
    }
}

fn loop_of(task: &mut Task, f: &mut Fields<'_>) -> Result<()> {
    let kinds = [
        ("loop", LoopKind::List),
        ("with_list", LoopKind::List),
        ("with_items", LoopKind::Items),
        ("with_dict", LoopKind::Dict),
        ("with_indexed_items", LoopKind::Indexed),
    ];
    for (key, kind) in kinds {
        if let Some(n) = f.take(key) {
            if task.loop_over.is_some() {
                return Err(n.error("a task has one loop"));
            }
            (task.loop_over, task.loop_kind) = (Some(n.clone()), kind);
        }
    }
    let Some(c) = f.take("loop_control") else { return Ok(()) };
    let mut c = c.fields()?;
    if let Some(n) = c.take("loop_var") {
        task.loop_var = variable(n)?;
    }
    task.loop_control.index_var = c.take("index_var").map(variable).transpose()?;
    task.loop_control.label = c.take("label").map(Node::string).transpose()?;
    task.loop_control.extended = flag(c.take("extended"))?.unwrap_or(false);
    if let Some(n) = c.take("pause") {
        return Err(n.error("`pause` of `loop_control` is not supported").hint("use `until` with `delay`"));
    }
    c.finish()
}

fn file_of(n: &Node) -> Result<String> {
    match &n.kind {
        NodeKind::Map(_) => {
            let mut inner = n.fields()?;
            let file = inner.need("file")?.string()?;
            if let Some(apply) = inner.take("apply") {
                return Err(apply.error("`apply` is not supported").hint("write its keywords on the tasks in the file"));
            }
            inner.finish()?;
            Ok(file)
        }
        _ => n.string(),
    }
}

fn include_of(task: &Task, n: &Node) -> Result<Work> {
    let refused = [
        (task.loop_over.is_some(), "loop"),
        (task.register.is_some(), "register"),
        (task.until.is_some(), "until"),
        (!task.notify.is_empty(), "notify"),
    ];
    if let Some((_, keyword)) = refused.iter().find(|(given, _)| *given) {
        return Err(n
            .error(format!("`{keyword}` has no effect on include_tasks in this version"))
            .hint(format!("put `{keyword}` on the tasks in the file")));
    }
    Ok(Work::Include { file: file_of(n)?, node: n.clone() })
}

fn unknown(at: &Node, key: &str) -> Error {
    if let Some(hint) = keywords::instead_of_module(key) {
        return at.error(format!("module `{key}` is not supported")).hint(hint);
    }
    let e = at.error(format!("`{key}` is neither a module nor a keyword of a task"));
    let known = modules::names();
    match nearest(key, known.iter().copied().chain(TASK_KEYS.iter().copied())) {
        Some(n) => e.hint(format!("did you mean `{n}`?")),
        None => e.hint(format!("modules: {}", known.join(", "))),
    }
}

/// Arguments as an object: given as one, as `key=value` words, or as the free text of `command` and `shell`.
fn arguments_of(module: &str, n: &Node, extra: Map<String, Value>) -> Result<Value> {
    let mut out = match &n.kind {
        NodeKind::Map(_) => n.object()?,
        NodeKind::Scalar(Value::Null) => Map::new(),
        NodeKind::Scalar(_) => {
            let text = n.string()?;
            let mut m = Map::new();
            match modules::free_form(module) {
                Some(key) => {
                    let (rest, options) = words::free_text(&text);
                    m.insert(key.to_owned(), rest.into());
                    m.extend(options.into_iter().map(|(k, v)| (k.to_owned(), v.into())));
                }
                None => {
                    for word in words::words(&text) {
                        let Some((k, v)) = word.split_once('=') else {
                            return Err(n.error(format!("`{word}` is not key=value")));
                        };
                        m.insert(k.to_owned(), v.into());
                    }
                }
            }
            m
        }
        NodeKind::List(_) => {
            return Err(n.error(format!("arguments of `{module}`: expected a mapping")));
        }
    };
    // What stands in the task itself wins, as in Ansible.
    for (k, v) in extra {
        out.entry(k).or_insert(v);
    }
    Ok(Value::Object(out))
}
