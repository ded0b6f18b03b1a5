//! From YAML to plays. Strict: an unknown keyword or module is an error at its place, and all errors of a playbook are
//! reported together, those of its templates and missing files among them.

mod check;
mod task;
mod words;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

pub use self::{task::answers_of, words::words};
use super::{
    keywords,
    model::{Become, Play, Serial, Task, Work, is_user_name},
};
use crate::{
    error::{Error, Result, nearest},
    project::Project,
    template::{Reads, Vars},
    yaml::{Fields, Node, NodeKind},
};

/// How deep playbooks and task files may import one another.
const MAX_IMPORTS: usize = 20;
/// Errors that are shown of one playbook.
const MAX_ERRORS: usize = 20;

/// Reads a playbook with all that it imports.
pub fn playbook(project: &Project, name: &str) -> Result<Vec<Play>> {
    let mut reader = Reader::new(project);
    let mut plays = Vec::new();
    let read = reader.file(Path::new(name), &mut Vec::new(), &mut plays, None);
    reader.keep(read);
    reader.finish()?;
    if plays.is_empty() {
        return Err(Error::invalid(format!("{name}: no plays")));
    }
    Ok(plays)
}

/// Reads a file of tasks, for `include_tasks`.
pub fn task_file(project: &Project, play_dir: Option<&PathBuf>, file: &Path, dirs: &[PathBuf], at: &Node) -> Result<Vec<Task>> {
    let mut reader = Reader::new(project);
    reader.play_dir = play_dir.cloned();
    let tasks = reader.task_file(file, dirs, at);
    let tasks = reader.keep(tasks).unwrap_or_default();
    reader.finish()?;
    Ok(tasks)
}

/// What a playbook is read with: its errors are collected.
struct Reader<'p> {
    project: &'p Project,
    errors: Vec<Error>,
    /// where the playbook lies that is read
    play_dir: Option<PathBuf>,
    /// task files that are being read, against circles
    above: Vec<PathBuf>,
}

impl<'p> Reader<'p> {
    fn new(project: &'p Project) -> Self {
        Self { project, errors: Vec::new(), play_dir: None, above: Vec::new() }
    }

    /// A result, or its error kept for the end.
    fn keep<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(t) => Some(t),
            Err(e) => {
                // What is imported twice is wrong once.
                if !self.errors.contains(&e) {
                    self.errors.push(e);
                }
                None
            }
        }
    }

    /// All errors as one.
    fn finish(self) -> Result<()> {
        let count = self.errors.len();
        let mut errors = self.errors.into_iter();
        match (errors.next(), count) {
            (None, _) => Ok(()),
            (Some(e), 1) => Err(e),
            (Some(first), _) => {
                let mut text = first.to_string();
                for e in errors.take(MAX_ERRORS - 1) {
                    text += &format!("\nerror: {e}");
                }
                let more = if count > MAX_ERRORS { format!(", the first {MAX_ERRORS} are shown") } else { String::new() };
                Err(Error::invalid(format!("{text}\n{count} errors{more}; nothing was run")))
            }
        }
    }

    fn file(&mut self, file: &Path, above: &mut Vec<PathBuf>, plays: &mut Vec<Play>, at: Option<&Node>) -> Result<()> {
        let found = self.project.find("playbooks", file, at)?;
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
            self.play_dir = found.dir();
            let read = self.item(item, &found.path, above, plays);
            self.keep(read);
        }
        above.pop();
        Ok(())
    }

    /// A play, or another playbook.
    fn item(&mut self, item: &Node, path: &Path, above: &mut Vec<PathBuf>, plays: &mut Vec<Play>) -> Result<()> {
        let mut f = item.fields()?;
        let import = f.take("import_playbook").or(f.take("ansible.builtin.import_playbook"));
        let Some(n) = import else {
            plays.extend(self.play(item, f)?);
            return Ok(());
        };
        let name = n.string()?;
        f.take("name");
        f.finish()?;
        let beside = path.parent().map(|d| d.join(&name)).filter(|p| self.project.exists("playbooks", p));
        self.file(&beside.unwrap_or_else(|| name.into()), above, plays, Some(n))
    }

    /// A play; `None` where something of it is wrong, which is kept.
    fn play(&mut self, node: &Node, mut f: Fields<'_>) -> Result<Option<Play>> {
        let before = self.errors.len();
        let Some(hosts) = f.take("hosts") else {
            return Err(node.error("a play needs `hosts`").hint("a play begins with `- hosts: PATTERN` or `- import_playbook: FILE`"));
        };
        let hosts = names(Some(hosts))?.join(":");
        let name = f.take("name").map(Node::string).transpose()?.unwrap_or_else(|| hosts.clone());
        let serials = f.take("serial").map(Node::list).unwrap_or_default();
        let mut vars = self.vars(f.take("vars"))?;
        self.vars_files(f.take("vars_files"), &mut vars);
        let environment = self.environment(f.take("environment"))?;
        let r#become = become_of(&mut f)?;
        let mut reads = Reads::of_value(&environment.clone().into());
        reads.add_value(&r#become.user.clone().into());
        let mut play = Play {
            name,
            hosts,
            vars,
            serial: serials.into_iter().map(serial).collect::<Result<_>>()?,
            gather_facts: flag(f.take("gather_facts"))?.unwrap_or(true),
            r#become,
            tags: strings(f.take("tags"))?,
            rolling: flag(f.take("rolling"))?.unwrap_or(false),
            any_errors_fatal: flag(f.take("any_errors_fatal"))?.unwrap_or(false),
            environment,
            reads,
            dir: self.play_dir.clone(),
            tasks: Vec::new(),
            handlers: Vec::new(),
            node: node.clone(),
        };
        // Ansible runs the handlers between these, too; here they run once, at the end.
        let lists = ["pre_tasks", "tasks", "post_tasks"].map(|key| f.take(key));
        let handlers = f.take("handlers");
        for list in lists.into_iter().flatten() {
            play.tasks.extend(self.tasks(list));
        }
        if let Some(list) = handlers {
            play.handlers.extend(self.tasks(list));
        }
        let rest = unknown_keys(f, keywords::PLAY, "play");
        self.errors.extend(rest);
        let answers: Vec<&str> = play.handlers.iter().flat_map(answers_of).collect();
        self.notified(&play.tasks, &answers);
        self.notified(&play.handlers, &answers);
        Ok((self.errors.len() == before).then_some(play))
    }

    /// Variables, whose templates are checked.
    fn vars(&mut self, n: Option<&Node>) -> Result<Vars> {
        let vars = object(n)?;
        if let Some(n) = n {
            self.templates(n);
            if vars.contains_key("septet") {
                let at = key_of(n, "septet").unwrap_or(n);
                self.errors.push(at.error("`septet` holds Septet's own variables and cannot be set").hint("choose another name"));
            }
        }
        Ok(vars)
    }

    fn environment(&mut self, n: Option<&Node>) -> Result<Vars> {
        if let Some(n) = n {
            self.templates(n);
        }
        object(n)
    }

    /// Variables in files of their own, the later file over the earlier, all over `vars`.
    fn vars_files(&mut self, n: Option<&Node>, vars: &mut Vars) {
        for file in n.map(Node::list).unwrap_or_default() {
            let read = (|| {
                let name = file.string()?;
                if crate::template::is_template(&name) {
                    return Err(file.error("a file's name in `vars_files` cannot be a template").hint("name the file, or use `-e`"));
                }
                let dirs: Vec<PathBuf> = self.play_dir.iter().cloned().collect();
                let found = self.project.find_from(&dirs, "vars", Path::new(&name), Some(file))?;
                found.yaml()
            })();
            let more = read.and_then(|root| self.vars(Some(&root)));
            if let Some(more) = self.keep(more) {
                vars.extend(more);
            }
        }
    }

    /// Checks that there is a handler for each name that tasks notify. Names that are templates are checked once they are
    /// rendered.
    fn notified(&mut self, tasks: &[Task], answers: &[&str]) {
        self.errors.extend(missing_handlers(tasks, answers));
    }

    fn tasks(&mut self, n: &Node) -> Vec<Task> {
        let listed = self.task_list(n);
        self.keep(listed).unwrap_or_default()
    }

    fn task_file(&mut self, file: &Path, dirs: &[PathBuf], at: &Node) -> Result<Vec<Task>> {
        let beside = dirs.iter().map(|d| d.join(file)).find(|p| p.is_file());
        let near = at.source.path.parent().map(|d| d.join(file)).filter(|p| self.project.exists("playbooks", p));
        let found = self.project.find("playbooks", &near.or(beside).unwrap_or_else(|| file.to_owned()), Some(at))?;
        if self.above.len() >= MAX_IMPORTS || self.above.contains(&found.path) {
            // A file that includes itself under a condition ends when it is run; what it holds is checked already.
            return Ok(Vec::new());
        }
        let root = found.yaml()?;
        self.above.push(found.path.clone());
        let dir = found.dir();
        let outer = self.play_dir.clone();
        let tasks = self.task_list_in(&root, dir.or(outer));
        self.above.pop();
        tasks
    }

    fn task_list(&mut self, n: &Node) -> Result<Vec<Task>> {
        self.task_list_in(n, self.play_dir.clone())
    }

    fn task_list_in(&mut self, n: &Node, dir: Option<PathBuf>) -> Result<Vec<Task>> {
        let mut dirs: Vec<PathBuf> = dir.into_iter().chain(self.play_dir.clone()).collect();
        dirs.dedup();
        let dirs = Arc::new(dirs);
        match &n.kind {
            NodeKind::List(items) => {
                let mut out = Vec::new();
                for item in items {
                    let read = self.task(item, &dirs);
                    out.extend(self.keep(read).unwrap_or_default());
                }
                Ok(out)
            }
            NodeKind::Scalar(serde_json::Value::Null) => Ok(Vec::new()),
            _ => Err(n.error("expected a list of tasks")),
        }
    }
}

/// Notifications that no handler answers to.
pub fn missing_handlers(tasks: &[Task], answers: &[&str]) -> Vec<Error> {
    let mut out = Vec::new();
    if answers.iter().any(|a| crate::template::is_template(a)) {
        return out;
    }
    for task in tasks {
        if let Work::Block { tasks, rescue, always } = &task.work {
            for list in [tasks, rescue, always] {
                out.extend(missing_handlers(list, answers));
            }
        }
        if let Some(missing) = task.notify.iter().find(|n| !answers.contains(&n.as_str()) && !crate::template::is_template(n)) {
            out.push(no_handler(task, missing, answers));
        }
    }
    out
}

/// An error for each key that is left.
fn unknown_keys(mut f: Fields<'_>, left_out: &[(&'static str, &'static str)], of: &str) -> Vec<Error> {
    let mut known = f.known();
    known.retain(|k| !k.contains('.'));
    let each = |(key, at, _): (String, &Node, &Node)| match keywords::instead(left_out, &key) {
        Some(hint) => at.error(format!("keyword `{key}` of a {of} is not supported")).hint(hint),
        None => crate::yaml::unknown(at, &key, &known),
    };
    f.rest().into_iter().map(each).collect()
}

fn key_of<'a>(map: &'a Node, key: &str) -> Option<&'a Node> {
    match &map.kind {
        NodeKind::Map(m) => m.iter().map(|(k, _)| k).find(|k| k.string().is_ok_and(|s| s == key)),
        _ => None,
    }
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

/// The error that something is not a user's name.
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

/// That nothing answers to a name.
pub fn no_handler(task: &Task, missing: &str, answers: &[&str]) -> Error {
    let e = task.node.error(format!("task `{}` notifies `{missing}`, and there is no such handler", task.name));
    match nearest(missing, answers.iter().copied()) {
        Some(n) => e.hint(format!("did you mean `{n}`?")),
        None => e,
    }
}
