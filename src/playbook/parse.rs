//! From YAML to plays. Strict: an unknown keyword or module is an error at its place.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Map, Value};

use super::{
    model::{Become, Play, Serial, Task, Work, is_user_name},
    project::Project,
};
use crate::{
    error::{Error, Result, nearest},
    modules,
    template::Vars,
    yaml::{Fields, Node, NodeKind},
};

/// How deep playbooks may import one another.
const MAX_IMPORTS: usize = 20;

const PLAY_KEYS: &[&str] = &["hosts", "import_playbook"];
const TASK_KEYS: &[&str] = &[
    "name",
    "when",
    "loop",
    "with_items",
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
    "include_tasks",
];

/// Reads a playbook with all that it imports.
pub fn playbook(project: &Project, name: &str) -> Result<Vec<Play>> {
    let mut plays = Vec::new();
    read_playbook(project, Path::new(name), &mut Vec::new(), &mut plays, None)?;
    if plays.is_empty() {
        return Err(Error::invalid(format!("{name}: there is no play in it")));
    }
    Ok(plays)
}

fn read_playbook(project: &Project, file: &Path, above: &mut Vec<PathBuf>, plays: &mut Vec<Play>, at: Option<&Node>) -> Result<()> {
    let found = project.find("playbooks", file, at)?;
    if above.contains(&found.path) || above.len() >= MAX_IMPORTS {
        let chain = above.iter().chain([&found.path]).map(|p| p.display().to_string()).collect::<Vec<_>>().join(" → ");
        let e = Error::invalid(format!("playbooks import one another in a circle: {chain}"));
        return Err(at.map_or(e.clone(), |n| e.at(n.place())));
    }
    let root = found.yaml()?;
    let NodeKind::List(items) = &root.kind else {
        return Err(root.error("a playbook is a list of plays").hint("begin with `- hosts: all`"));
    };
    above.push(found.path.clone());
    for item in items {
        let mut f = item.fields()?;
        if let Some(n) = f.take("import_playbook") {
            let name = n.string()?;
            f.take("name");
            f.finish()?;
            let next = found.path.parent().map(|d| d.join(&name)).filter(|p| project.exists("playbooks", p)).unwrap_or_else(|| name.into());
            read_playbook(project, &next, above, plays, Some(n))?;
        } else {
            plays.push(play(item, f)?);
        }
    }
    above.pop();
    Ok(())
}

fn strings(n: Option<&Node>) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for one in n.map(Node::list).unwrap_or_default() {
        out.extend(one.string()?.split(',').map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()));
    }
    Ok(out)
}

fn names(n: Option<&Node>) -> Result<Vec<String>> {
    n.map(Node::list).unwrap_or_default().into_iter().map(Node::string).collect()
}

fn flag(n: Option<&Node>) -> Result<Option<bool>> {
    n.map(Node::boolean).transpose()
}

fn become_of(f: &mut Fields<'_>) -> Result<Become> {
    let on = flag(f.take("become"))?;
    let Some(n) = f.take("become_user") else { return Ok(Become { on, user: None }) };
    let user = n.string()?;
    if !crate::template::is_template(&user) && !is_user_name(&user) {
        return Err(no_user(n, &user));
    }
    Ok(Become { on, user: Some(user) })
}

/// That something is no name of a user.
fn no_user(n: &Node, name: &str) -> Error {
    n.error(format!("`{name}` is not a user's name")).hint("small letters, digits, `-` and `_`, not more than 32")
}

fn serial(n: &Node) -> Result<Serial> {
    let text = n.string()?;
    let bad = || n.error(format!("`{text}` is neither a number of hosts nor a percentage"));
    match text.strip_suffix('%') {
        Some(p) => p.parse().ok().filter(|p| (1..=100).contains(p)).map(Serial::Percent),
        None => text.parse().ok().filter(|n| *n > 0).map(Serial::Count),
    }
    .ok_or_else(bad)
}

fn object(n: Option<&Node>) -> Result<Vars> {
    n.map_or_else(|| Ok(Vars::new()), Node::object)
}

fn play(node: &Node, mut f: Fields<'_>) -> Result<Play> {
    let Some(hosts) = f.take("hosts") else {
        return Err(node.error("a play needs `hosts`").hint(format!("known at the beginning of a play: {}", PLAY_KEYS.join(", "))));
    };
    let hosts = names(Some(hosts))?.join(":");
    let name = f.take("name").map(Node::string).transpose()?.unwrap_or_else(|| hosts.clone());
    let serials = f.take("serial").map(Node::list).unwrap_or_default();
    let this = Play {
        name,
        hosts,
        vars: object(f.take("vars"))?,
        serial: serials.into_iter().map(serial).collect::<Result<_>>()?,
        gather_facts: flag(f.take("gather_facts"))?.unwrap_or(true),
        r#become: become_of(&mut f)?,
        tags: strings(f.take("tags"))?,
        rolling: flag(f.take("rolling"))?.unwrap_or(false),
        environment: object(f.take("environment"))?,
        tasks: tasks_of(f.take("pre_tasks"))?
            .into_iter()
            .chain(tasks_of(f.take("tasks"))?)
            .chain(tasks_of(f.take("post_tasks"))?)
            .collect(),
        handlers: tasks_of(f.take("handlers"))?,
        node: node.clone(),
    };
    f.finish()?;
    let answers: Vec<&str> = this.handlers.iter().flat_map(answers_of).collect();
    notified(this.tasks.iter().chain(&this.handlers), &answers)?;
    Ok(this)
}

/// The names that a handler answers to.
pub fn answers_of(handler: &Task) -> impl Iterator<Item = &str> {
    handler.listen.iter().map(String::as_str).chain([handler.name.as_str()])
}

/// Checks that there is a handler for each name that these tasks notify. Names that are templates are checked once they are
/// rendered.
pub fn notified<'t>(tasks: impl Iterator<Item = &'t Task>, answers: &[&str]) -> Result<()> {
    if answers.iter().any(|a| crate::template::is_template(a)) {
        return Ok(());
    }
    for task in tasks {
        if let Some(missing) = task.notify.iter().find(|n| !answers.contains(&n.as_str()) && !crate::template::is_template(n)) {
            return Err(no_handler(task, missing, answers));
        }
    }
    Ok(())
}

/// That nothing answers to a name.
pub fn no_handler(task: &Task, missing: &str, answers: &[&str]) -> Error {
    let e = task.node.error(format!("task `{}` notifies `{missing}`, and there is no such handler", task.name));
    match nearest(missing, answers.iter().copied()) {
        Some(n) => e.hint(format!("did you mean `{n}`?")),
        None => e,
    }
}

fn tasks_of(n: Option<&Node>) -> Result<Vec<Task>> {
    n.map_or_else(|| Ok(Vec::new()), tasks)
}

/// Parses a list of tasks.
pub fn tasks(n: &Node) -> Result<Vec<Task>> {
    match &n.kind {
        NodeKind::List(items) => items.iter().map(task).collect(),
        NodeKind::Scalar(Value::Null) => Ok(Vec::new()),
        _ => Err(n.error("a list of tasks is expected here")),
    }
}

fn task(node: &Node) -> Result<Task> {
    let mut f = node.fields()?;
    let conditions = |n: Option<&Node>| n.map(|n| n.list().into_iter().cloned().collect::<Vec<_>>());
    let name = f.take("name").map(Node::string).transpose()?;
    let when = conditions(f.take("when")).unwrap_or_default();
    let loop_over = f.take("loop").or(f.take("with_items")).cloned();
    let mut loop_var = "item".to_owned();
    if let Some(c) = f.take("loop_control") {
        let mut c = c.fields()?;
        if let Some(n) = c.take("loop_var") {
            loop_var = n.string()?;
        }
        c.take("label");
        c.finish()?;
    }
    let register = f.take("register").map(Node::string).transpose()?;
    let notify = names(f.take("notify"))?;
    let listen = names(f.take("listen"))?;
    let tags = strings(f.take("tags"))?;
    let r#become = become_of(&mut f)?;
    let ignore_errors = flag(f.take("ignore_errors"))?.unwrap_or(false);
    let failed_when = conditions(f.take("failed_when"));
    let changed_when = conditions(f.take("changed_when"));
    let until = conditions(f.take("until"));
    let retries = f.take("retries").map(|n| n.number(0, 10_000)).transpose()?.unwrap_or(3) as u32;
    let delay_s = f.take("delay").map(|n| n.number(0, 3600)).transpose()?.unwrap_or(5) as u64;
    let vars = object(f.take("vars"))?;
    let environment = object(f.take("environment"))?;
    let check_mode = flag(f.take("check_mode"))?;
    let diff = flag(f.take("diff"))?;
    let no_log = flag(f.take("no_log"))?.unwrap_or(false);
    let extra = object(f.take("args"))?;
    let include = f.take("include_tasks").or(f.take("ansible.builtin.include_tasks"));

    let work = if let Some(n) = include {
        f.finish()?;
        let refused =
            [(loop_over.is_some(), "loop"), (register.is_some(), "register"), (until.is_some(), "until"), (!notify.is_empty(), "notify")];
        if let Some((_, keyword)) = refused.iter().find(|(given, _)| *given) {
            return Err(n
                .error(format!("`{keyword}` has no effect on include_tasks in this version"))
                .hint(format!("put `{keyword}` on the tasks in the file")));
        }
        let file = match &n.kind {
            NodeKind::Map(_) => {
                let mut inner = n.fields()?;
                let file = inner.need("file")?.string()?;
                inner.finish()?;
                file
            }
            _ => n.string()?,
        };
        Work::Include { file, node: n.clone() }
    } else {
        let mut rest = f.rest();
        let Some((key, _, arguments)) = rest.pop() else {
            return Err(node
                .error("this task does nothing: a module is missing")
                .hint(format!("modules: {}", modules::names().join(", "))));
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
            let at = node_of_key(node, &key).unwrap_or(node);
            return Err(unknown(at, &key));
        };
        Work::Module { name: module, arguments: arguments_of(module, arguments, extra)?, node: arguments.clone() }
    };
    let shown = match &work {
        Work::Module { name, .. } => (*name).to_owned(),
        Work::Include { file, .. } => format!("include_tasks {file}"),
    };
    let mut reads = HashSet::new();
    identifiers(&node.value(), &mut reads);
    Ok(Task {
        name: name.unwrap_or(shown),
        work,
        when,
        loop_over,
        loop_var,
        register,
        notify,
        listen,
        tags,
        r#become,
        ignore_errors,
        failed_when,
        changed_when,
        until,
        retries,
        delay_s,
        vars,
        environment,
        check_mode,
        diff,
        no_log,
        node: node.clone(),
        reads: Arc::new(reads),
    })
}

fn node_of_key<'a>(map: &'a Node, key: &str) -> Option<&'a Node> {
    match &map.kind {
        NodeKind::Map(m) => m.iter().map(|(k, _)| k).find(|k| k.string().is_ok_and(|s| s == key)),
        _ => None,
    }
}

fn unknown(at: &Node, key: &str) -> Error {
    let e = at.error(format!("`{key}` is neither a module nor a keyword of a task"));
    let known = modules::names();
    match nearest(key, known.iter().copied().chain(TASK_KEYS.iter().copied())) {
        Some(n) => e.hint(format!("did you mean `{n}`?")),
        None => e.hint(format!("modules: {}", known.join(", "))),
    }
}

/// All words in the texts of a value; a superset of the variables that it reads.
fn identifiers(v: &Value, out: &mut HashSet<String>) {
    match v {
        Value::String(s) => {
            for word in s.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|w| !w.is_empty()) {
                out.insert(word.to_owned());
            }
        }
        Value::Array(a) => a.iter().for_each(|v| identifiers(v, out)),
        Value::Object(o) => o.values().for_each(|v| identifiers(v, out)),
        _ => {}
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
                    m.insert(key.to_owned(), text.into());
                }
                None => {
                    for word in words(&text) {
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
            return Err(n.error(format!("arguments of `{module}` are keys and values")));
        }
    };
    for (k, v) in extra {
        out.insert(k, v);
    }
    Ok(Value::Object(out))
}

/// Splits at blanks outside of quotes and of `{{ }}`.
pub fn words(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut word = String::new();
    let (mut quote, mut depth, mut any) = (None, 0usize, false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '{' if chars.peek() == Some(&'{') => {
                depth += 1;
                word.push_str("{{");
                chars.next();
            }
            '}' if chars.peek() == Some(&'}') && depth > 0 => {
                depth -= 1;
                word.push_str("}}");
                chars.next();
            }
            '\\' if quote.is_none() && depth == 0 => {
                any = true;
                word.extend(chars.next());
            }
            '"' | '\'' if depth == 0 && (quote.is_none() || quote == Some(c)) => {
                quote = if quote.is_none() { Some(c) } else { None };
                any = true;
            }
            c if c.is_whitespace() && quote.is_none() && depth == 0 => {
                if any || !word.is_empty() {
                    out.push(std::mem::take(&mut word));
                }
                any = false;
            }
            c => word.push(c),
        }
    }
    if any || !word.is_empty() {
        out.push(word);
    }
    out
}
