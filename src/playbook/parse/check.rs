//! What can be judged of a task before any host is touched: its templates, the files that it names, its arguments.

use std::path::Path;

use serde_json::Value;

use super::Reader;
use crate::{
    modules::{self, Arguments, Context},
    playbook::model::{Task, Work},
    template::{self, Renderer, Vars, Whitespace, holds_template, is_template},
    yaml::{Node, NodeKind},
};

/// Modules whose arguments can be judged without the host's variables.
const PLAIN: &[&str] = &[
    "blockinfile",
    "command",
    "copy",
    "fail",
    "file",
    "group",
    "hostname",
    "lineinfile",
    "package",
    "service",
    "shell",
    "slurp",
    "stat",
    "systemd",
    "systemd_service",
    "timezone",
    "user",
    "wait_for",
];

impl Reader<'_> {
    /// Checks the templates in the texts of a node.
    pub(super) fn templates(&mut self, n: &Node) {
        match &n.kind {
            NodeKind::Scalar(Value::String(s)) => {
                let checked = template::check_text(s).map_err(|e| e.at(n.place()));
                self.keep(checked);
            }
            NodeKind::Scalar(_) => {}
            NodeKind::List(l) => l.iter().for_each(|n| self.templates(n)),
            NodeKind::Map(m) => m.iter().for_each(|(_, n)| self.templates(n)),
        }
    }

    /// Checks the templates in arguments that come of one text.
    pub(super) fn texts(&mut self, arguments: &Value, at: &Node) {
        for text in arguments.as_object().into_iter().flat_map(|o| o.values()).filter_map(Value::as_str) {
            let checked = template::check_text(text).map_err(|e| e.at(at.place()));
            self.keep(checked);
        }
    }

    /// Checks conditions.
    pub(super) fn conditions(&mut self, conditions: &[Node]) {
        for n in conditions {
            if let NodeKind::Scalar(Value::String(s)) = &n.kind {
                let checked = template::check_expression(s).map_err(|e| e.at(n.place()));
                self.keep(checked);
            }
        }
    }

    /// Checks what a task names and is given.
    pub(super) fn work(&mut self, task: &Task) {
        let Work::Module { name, arguments, node } = &task.work else {
            if let Work::Include { file, node } = &task.work {
                self.included(task, file, node);
            }
            return;
        };
        if *name == "template" {
            self.template(task, arguments, node);
            return;
        }
        if *name == "copy" && !is_true(arguments.get("remote_src")) {
            self.source(task, "files", arguments, node);
        }
        // What is not to be logged is not quoted in an error either.
        if !PLAIN.contains(name) || holds_template(arguments) || task.no_log || self.errors_at(node) {
            return;
        }
        let (renderer, environment) = (Renderer::new(&Vars::new()), Vars::new());
        let context = Context { renderer: &renderer, project: self.project, environment: &environment, dirs: &task.dirs };
        let prepared = modules::prepare(name, Arguments::new(name, node, arguments.clone()), &context);
        self.keep(prepared.map(drop).map_err(|e| if e.place.is_some() { e } else { e.at(node.place()) }));
    }

    fn errors_at(&self, node: &Node) -> bool {
        let place = node.place();
        self.errors.iter().any(|e| e.place.as_ref().is_some_and(|p| p.file == place.file && p.line == place.line))
    }

    fn included(&mut self, task: &Task, file: &str, node: &Node) {
        if is_template(file) {
            return;
        }
        let read = self.task_file(Path::new(file), &task.dirs.clone(), node);
        self.keep(read);
    }

    /// A file that is named as it is must be there.
    fn source(&mut self, task: &Task, kind: &str, arguments: &Value, node: &Node) -> Option<crate::project::Found> {
        // A directory is the module's to refuse.
        let src = arguments.get("src")?.as_str().filter(|s| !is_template(s) && !s.ends_with('/'))?;
        let at = value_of(node, "src").unwrap_or(node);
        let found = self.project.find_from(&task.dirs, kind, Path::new(src), Some(at));
        self.keep(found)
    }

    fn template(&mut self, task: &Task, arguments: &Value, node: &Node) {
        let Some(found) = self.source(task, "templates", arguments, node) else { return };
        let on = |key: &str, otherwise: bool| arguments.get(key).map_or(otherwise, |v| is_true(Some(v)));
        let whitespace = Whitespace { trim_blocks: on("trim_blocks", true), lstrip_blocks: on("lstrip_blocks", false) };
        let checked = found.text().and_then(|text| {
            let (text, whitespace) = template::header(text, whitespace)?;
            template::check_file(&found.path.display().to_string(), text, whitespace)
        });
        self.keep(checked);
    }
}

fn is_true(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Bool(b)) => *b,
        Some(Value::String(s)) => matches!(s.to_ascii_lowercase().as_str(), "yes" | "true" | "on" | "1"),
        _ => false,
    }
}

/// The value of a key of a map.
fn value_of<'a>(map: &'a Node, key: &str) -> Option<&'a Node> {
    match &map.kind {
        NodeKind::Map(m) => m.iter().find(|(k, _)| k.string().is_ok_and(|s| s == key)).map(|(_, v)| v),
        _ => None,
    }
}
