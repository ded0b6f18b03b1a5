//! What of Ansible is left out: each keyword, module and filter is refused with its hint, and what the hint says works.

use std::collections::BTreeMap;

use crate::support::Case;

/// Rows of a table in the sources: name and hint.
fn rows(source: &str, table: &str) -> Vec<(String, String)> {
    let from = source.split(&format!("const {table}: &[(&str, &str)] = &[")).nth(1).unwrap();
    let row = |l: &str| {
        let (name, hint) = l.trim().strip_prefix("(\"")?.strip_suffix("\"),")?.split_once("\", \"")?;
        Some((name.to_owned(), hint.replace("\\\"", "\"")))
    };
    from.split("\n];").next().unwrap().lines().filter_map(row).collect()
}

fn told(text: &str) -> String {
    Case::playbook(text).file("tasks.yml", "- debug:\n").file("files/a", "a").file("vars.yml", "a: 1\n").told()
}

fn is_refused(text: &str, hint: &str) {
    let told = told(text);
    assert!(told.contains(&format!("hint: {hint}\n")), "no hint `{hint}` in:\n{told}");
}

fn works(text: &str, hint: &str) {
    let told = told(text);
    assert!(!told.starts_with("error") && !told.contains(": Failed"), "what the hint `{hint}` says does not work: {text}\n{told}");
}

fn task(text: &str) -> String {
    format!("- hosts: control\n  gather_facts: false\n  tasks:\n    - {}\n", text.replace('\n', "\n      "))
}

const PLAIN: &str = "- hosts: control\n  gather_facts: false\n";

/// What each hint says, by a part of it that is in no other; where several hints say the same, the longer part wins.
fn instead() -> BTreeMap<&'static str, String> {
    let lists = "vars: {a: [1, 2], b: [3, 4], lists: [[1], [2]], users: [{n: x, keys: [k]}]}";
    let looped = |l: &str| task(&format!("debug: {{msg: \"{{{{ item }}}}\"}}\nloop: \"{{{{ {l} }}}}\"\n{lists}"));
    let on_tasks = task("block:\n  - debug:\nignore_errors: true\nno_log: true\ncheck_mode: true\ndiff: false");
    let two_plays = "- hosts: control\n  gather_facts: false\n  tasks:\n    - command: ls\n      register: r\n".to_owned()
        + "- hosts: brokers\n  gather_facts: false\n  tasks:\n    - debug: {msg: \"{{ hostvars[groups.control[0]].r is defined }}\"}\n";
    BTreeMap::from([
        ("into a file and use `include_tasks`", task("include_tasks: tasks.yml")),
        ("into a file and use `import_tasks`", task("import_tasks: tasks.yml")),
        ("use `include_tasks` or `import_tasks`", task("import_tasks: tasks.yml")),
        ("`become_user` runs tasks as another", task("debug:\nbecome_user: ann")),
        ("`hosts: control` stands for `localhost`", PLAIN.into()),
        ("remove it", PLAIN.into()),
        ("a later play", two_plays.clone()),
        ("`-e NAME=VALUE`", PLAIN.into()),
        ("`any_errors_fatal: true`", "- hosts: all\n  gather_facts: false\n  any_errors_fatal: true\n".into()),
        ("`restart_if_newer` of `systemd`", task("systemd: {name: x, state: started, restart_if_newer: [/x]}")),
        ("write the arguments in each task", task("file: {path: /x, state: directory, mode: \"0755\"}")),
        ("on the tasks, or around them with `block`", on_tasks),
        ("a host that cannot be reached ends its part", PLAIN.into()),
        ("write `hosts: control`, or name one host", PLAIN.into()),
        ("write `serial`, or name the hosts", "- hosts: peter-kafka02, peter-kafka01\n  gather_facts: false\n  serial: 1\n".into()),
        ("use `serial` on the play", "- hosts: all\n  gather_facts: false\n  serial: 1\n".into()),
        ("have an argument `timeout`", task("command: {cmd: ls, timeout: 5}")),
        ("`hosts:` for the other host", two_plays.clone()),
        ("a play with `hosts: control`", two_plays.clone()),
        ("a play of its own with `hosts: control`", two_plays),
        ("start long work as a service with `systemd`", task("systemd: {name: x, state: started}")),
        ("write it on the play", "- hosts: all\n  gather_facts: false\n  any_errors_fatal: true\n".into()),
        ("use `when` with `stat`", task("stat: {path: /x}\nregister: s\n").trim_end().to_owned() + "\n    - debug:\n      when: s.stat.exists\n"),
        ("product(b)", looped("a | product(b) | list")),
        ("zip(b)", looped("a | zip(b) | list")),
        ("range(1, 4)", looped("range(1, 4) | list")),
        ("subelements('keys')", looped("users | subelements('keys')")),
        ("lists | flatten", looped("lists | flatten")),
        ("groups['brokers']", looped("groups['brokers']")),
        ("loop over its `stdout_lines`", task("command: ls\nregister: r").trim_end().to_owned() + "\n    - debug:\n      loop: \"{{ r.stdout_lines }}\"\n"),
        ("name the files in `loop`", task("copy: {src: \"{{ item }}\", dest: /x}\nloop: [a]")),
        ("name the file, or choose it with `when`", task("copy: {src: a, dest: /x}\nwhen: true")),
        ("choose the value once", task("set_fact: {chosen: 4}")),
        ("use `package`", task("package: {name: x}")),
        ("`pip install` and `creates`", task("command: pip install x creates=/x")),
        ("/etc/apt/sources.list.d", task("copy: {content: x, dest: /etc/apt/sources.list.d/x.list}")),
        ("/etc/apt/keyrings", task("copy: {content: x, dest: /etc/apt/keyrings/x.asc}")),
        ("rpm --import", task("command: rpm --import x")),
        ("/etc/yum.repos.d", task("copy: {content: x, dest: /etc/yum.repos.d/x.repo}")),
        ("curl -fsSLo FILE URL", task("command: curl -fsSLo /x http://x creates=/x")),
        ("`command` with `curl`, and `register`", task("command: curl http://x\nregister: r")),
        ("git clone", task("command: git clone http://x /x creates=/x")),
        ("/etc/cron.d", task("copy: {content: x, dest: /etc/cron.d/x}")),
        ("mount -a", task("lineinfile: {path: /etc/fstab, line: x}").trim_end().to_owned() + "\n    - command: mount -a\n"),
        ("sysctl --system", task("copy: {content: x, dest: /etc/sysctl.d/x.conf}").trim_end().to_owned() + "\n    - command: sysctl --system\n"),
        ("authorized_keys", task("lineinfile: {path: /x/.ssh/authorized_keys, line: x, create: true}")),
        ("`lineinfile` for one line", task("lineinfile: {path: /x, regexp: a, line: b}")),
        ("use `lineinfile`, or `template`", task("lineinfile: {path: /x, regexp: ^a=, line: a=b}")),
        ("use `template` for the whole file", task("copy: {content: x, dest: /x}")),
        ("copy the script with `copy`", task("copy: {src: a, dest: /x, mode: \"0755\"}").trim_end().to_owned() + "\n    - command: /x\n"),
        ("use `shell`; no Python", task("shell: ls")),
        ("use `shell` with `stdin`", task("shell: {cmd: cat, stdin: x}")),
        ("`command: \"true\"`", task("command: \"true\"")),
        ("use `wait_for`", task("wait_for: {port: 22}")),
        ("use `slurp` with `register`", task("slurp: {src: /x}\nregister: r")),
        ("`unarchive` for directories", task("copy: {src: a, dest: /x}")),
        ("`command` with `find`", task("command: find /x\nregister: r")),
        ("`command` with `mktemp`", task("command: mktemp\nregister: r")),
        ("`command` with `getent`", task("command: getent passwd x\nregister: r")),
        ("`command` with `systemctl`", task("command: systemctl list-units\nregister: r")),
        ("the package manager, and `register`", task("command: dpkg -l\nregister: r")),
        ("services restart with `systemd`", task("systemd: {name: x, state: restarted}")),
        ("change `groups` there", PLAIN.into()),
        ("use `when` with facts", "- hosts: control\n  vars: {ansible_os_family: Debian}\n  gather_facts: false\n  tasks:\n    - debug:\n      when: ansible_os_family == 'Debian'\n".into()),
        ("use `vars_files` on the play, or `vars`", "- hosts: control\n  gather_facts: false\n  vars_files: [vars.yml]\n  vars: {b: 1}\n".into()),
        ("use `set_fact`", task("set_fact: {a: 1}")),
        ("ports are opened by the provider", PLAIN.into()),
        ("`command` with `setenforce`", task("command: setenforce 0")),
        ("`command` with `docker`", task("command: docker ps")),
    ])
}

/// The longest part that a hint has.
fn good(all: &BTreeMap<&str, String>, hint: &str) -> String {
    let part = all.keys().filter(|part| hint.contains(**part)).max_by_key(|p| p.len());
    all[part.unwrap_or_else(|| panic!("nothing follows the hint `{hint}`: add it to `instead`"))].clone()
}

#[test]
fn keywords_and_modules() {
    let source = include_str!("../../src/playbook/keywords.rs");
    let all = instead();
    let (plays, tasks, modules) = (rows(source, "PLAY"), rows(source, "TASK"), rows(source, "MODULES"));
    assert!(plays.len() > 20 && tasks.len() > 25 && modules.len() > 40, "{} {} {}", plays.len(), tasks.len(), modules.len());
    for (key, hint) in &plays {
        is_refused(&format!("{PLAIN}  {key}: x\n"), hint);
    }
    for (key, hint) in &tasks {
        is_refused(&task(&format!("debug:\n{key}: x")), hint);
    }
    for (name, hint) in &modules {
        is_refused(&task(&format!("{name}: {{name: x}}")), hint);
        is_refused(&task(&format!("ansible.builtin.{name}: {{name: x}}")), hint);
    }
    for (_, hint) in plays.iter().chain(&tasks).chain(&modules) {
        works(&good(&all, hint), hint);
    }
}

#[test]
fn filters() {
    let debug = |e: &str| task(&format!("debug: {{msg: \"{{{{ {e} }}}}\"}}\nvars: {{ansible_date_time: {{epoch: \"1\"}}}}"));
    let all = BTreeMap::from([
        ("`septet.address`", task("set_fact: {a: \"{{ septet.index }}\"}")),
        ("openssl passwd -6", task("user: {name: x}")),
        ("choose the value once", task("set_fact: {a: 4}")),
        ("write the order as a variable", debug("[2, 1]")),
        ("write the address as a variable", task("set_fact: {mac: \"52:54:00:00:00:01\"}")),
        ("`lookup('env', …)`", debug("lookup('env', 'SECRET')")),
        ("`selectattr`, `map(attribute=…)` and `first`", debug("[{'a': 1}] | selectattr('a', 'eq', 1) | map(attribute='a') | first")),
        ("`to_nice_json`", debug("[1] | to_nice_json")),
        ("write the link in the template", debug("'<a>'")),
        ("write the attributes in the template", debug("'<a>'")),
        ("`regex_replace('<[^>]*>', '')`", debug("'<a>b</a>' | regex_replace('<[^>]*>', '')")),
        ("`regex_replace` breaks lines", debug("'a b' | regex_replace(' ', '-')")),
        ("`ansible_date_time` has the time", debug("ansible_date_time.epoch")),
        ("which are numbers", debug("ansible_date_time.epoch | int > 0")),
        ("or use `product`", debug("[1, 2] | product([1, 2]) | list")),
        ("name the files in `loop`", task("copy: {src: \"{{ item }}\", dest: /x}\nloop: [a]")),
    ]);
    let rows = rows(include_str!("../../src/template/jinja/compile.rs"), "LEFT_OUT");
    assert!(rows.len() > 15, "{}", rows.len());
    for (name, hint) in &rows {
        is_refused(&debug(&format!("1 | {name}")), hint);
        works(&good(&all, hint), hint);
    }
}
