//! Mistakes in inventories, playbooks and templates: with the mistake there is the hint; with what the hint says there is no error.

use std::path::Path;

use septet::inventory::Inventory;

use crate::support::Case;

/// Where the mistake is shown below: what it is, the mistake, a part of the hint, what the hint says to write.
type Mistake<'a> = (&'a str, &'a str, &'a str);

fn inventory(text: &str) -> Result<Inventory, String> {
    Inventory::parse(Path::new("i.yml"), text).map_err(|e| e.to_string())
}

fn follow(kind: &str, mistakes: &[Mistake<'_>], check: impl Fn(&str) -> Result<(), String>) {
    for (bad, hint, good) in mistakes {
        let told = check(bad).expect_err(&format!("{kind}: no error: {bad}"));
        let hints: String = told.split("hint: ").skip(1).collect();
        assert!(hints.contains(hint), "{kind}: {bad}: no hint `{hint}` in:\n{told}");
        if let Err(e) = check(good) {
            panic!("{kind}: what the hint `{hint}` says does not help: {good}\n{e}");
        }
    }
}

#[test]
fn hints_about_groups() {
    let groups = |g: &str| format!("cluster: c\nprefix: p\ngroups: {{{g}}}\n");
    let mistakes = [
        ("all: {vars: {a: 1}}", "variables of all hosts are below `vars:`", ""),
        ("broker: {count: 3}", "did you mean `brokers`?", "brokers: {count: 3}"),
        ("brokres: {count: 3}", "did you mean `brokers`?", "brokers: {count: 3}"),
        ("coordinators: {count: 4}", "an even number fails as early as one less: take 1, 3, 5 or 7", "coordinators: {count: 3}"),
        ("a: {children: [clientz]}, clients: {count: 1}", "did you mean `clients`?", "a: {children: [clients]}, clients: {count: 1}"),
        ("a: {hosts: [p-kafka09]}", "did you mean `p-kafka01`?", "a: {hosts: [p-kafka01]}"),
        ("a: {hosts: [elsewhere]}", "one without names hosts of other groups, as `kafka01`", "a: {hosts: [kafka01]}"),
        ("a: {count: 1}, b: {children: {a: {count: 2}}}", "keep one of them", "a: {count: 1}, b: {children: {a: }}"),
        ("web: {count: 101}, web1: {count: 1}", "choose another name for the group", "web: {count: 101}, site: {count: 1}"),
    ];
    for (bad, hint, good) in mistakes {
        follow("groups", &[(&groups(bad), hint, &groups(good))], |text| inventory(text).map(drop));
    }
    let vars = "cluster: c\nprefix: p\nvars: {a: 1}\n";
    inventory(vars).unwrap();
}

#[test]
fn hints_about_static_hosts() {
    let hosts = |h: &str| format!("cluster: c\nprefix: p\nprovider: {{static: {{hosts: {{{h}}}}}}}\n");
    let all = "control: a, coordinators: [b], brokers: [c]";
    let mistakes = [
        (hosts("control: a, coordinators: [b]"), "name its hosts below `provider: {static: {hosts: {brokers: [ADDRESS]}}}`", hosts(all)),
        (hosts("control: a, coordinators: [b, c], brokers: [d]"), "name its hosts below", hosts(all)),
        (
            hosts("control: a, coordinators: [{user: x}], brokers: [c]"),
            "write its address or name",
            hosts("control: a, coordinators: [{host: b, user: x}], brokers: [c]"),
        ),
        (hosts("control: a, coordinators: [b], brokers: [b]"), "a host has one place in one group", hosts(all)),
        (
            format!("{}groups: {{brokers: {{count: 2}}}}\n", hosts(all)),
            "leave `count` out: hosts that exist are counted",
            format!("{}groups: {{brokers: {{vars: {{a: 1}}}}}}\n", hosts(all)),
        ),
    ];
    for (bad, hint, good) in mistakes {
        follow("static", &[(&bad, hint, &good)], |text| inventory(text).map(drop));
    }
}

#[test]
fn hints_about_inventories() {
    let base = "cluster: c\nprefix: p\n";
    let with = |more: &str| format!("{base}{more}\n");
    let ec2 = |settings: &str| with(&format!("provider: {{ec2: {{{settings}}}}}"));
    let apache = |settings: &str| with(&format!("engine: {{apache: {{{settings}}}}}"));
    let brokers = |settings: &str| with(&format!("groups: {{brokers: {{{settings}}}}}"));
    let sha = "0".repeat(128);
    let tags = |n: usize| ec2(&format!("tags: {{{}}}", (0..n).map(|i| format!("t{i}: x")).collect::<Vec<_>>().join(", ")));
    let long = format!("cluster: c\nprefix: {}\n", "p".repeat(60));
    let mistakes: Vec<(String, &str, String)> = vec![
        ("all:\n  hosts: {a: {}}\n".into(), "begins with `cluster: NAME` and `prefix: NAME`", base.into()),
        ("cluster: c\nprefix: Peter\n".into(), "for example `prefix: peter`", "cluster: c\nprefix: peter\n".into()),
        ("cluster: no\nprefix: p\n".into(), "write it in quotes: \"no\"", "cluster: \"no\"\nprefix: p\n".into()),
        ("cluster: c\ncluster: d\nprefix: p\n".into(), "keep one of them", base.into()),
        (with("engin: bundled"), "did you mean `engine`?", with("engine: bundled")),
        (with("quite_another: 1"), "known keys: ", with("vars: {quite_another: 1}")),
        (with("vars: {a: {{ b }}}"), "needs quotes around it", with("vars: {a: \"{{ b }}\"}")),
        (with("vars: {septet: 1}"), "choose another name", with("vars: {mine: 1}")),
        (with("groups: {coordinators: {count: 2}}"), "take 1, 3, 5 or 7", with("groups: {coordinators: {count: 3}}")),
        (with("groups: {coordinators: {count: 9}}"), "take 1, 3, 5 or 7", with("groups: {coordinators: {count: 7}}")),
        (brokers("hostname: same"), "use {{ index }} in `hostname`", brokers("hostname: \"same{{ index }}\"")),
        (long, "choose a shorter prefix", base.into()),
        (
            brokers(&format!("hostname: \"{}{{{{ index }}}}\"", "h".repeat(64))),
            "choose a shorter or simpler `hostname`",
            brokers("hostname: \"h{{ index }}\""),
        ),
        (with("provider: {docker: {}, ec2: {}}"), "write `docker: {}`, `ec2: {}` or `static: {hosts: …}`", with("provider: {ec2: {}}")),
        (with("provider: {}"), "write `docker: {}`, `ec2: {}` or `static: {hosts: …}`", with("provider: {docker: {}}")),
        (with("engine: confluent"), "this version deploys `bundled` and `apache`", with("engine: apache")),
        (with("engine: {bundled: {}, apache: {}}"), "this version deploys `bundled` and `apache`", with("engine: {bundled: {}}")),
        (apache("sha512: abc, version: 4.1.1"), "`sha512sum FILE` prints it", apache(&format!("sha512: \"{sha}\", version: 4.1.1"))),
        (apache("version: 3.8.0"), "take 3.9.0 or newer", apache("version: 3.9.0")),
        (apache("version: 3.9.77"), "give it as `sha512:`", apache(&format!("version: 3.9.77, sha512: \"{sha}\""))),
        (apache("version: 3.9.77"), "or take one of ", apache("version: 3.9.1")),
        (apache("metadata: etcd"), "zookeeper or kraft", apache("metadata: kraft")),
        (apache("metadata: zookeeper, version: 4.1.1"), "write `metadata: kraft`", apache("metadata: kraft, version: 4.1.1")),
        (apache("metadata: zookeeper, version: 4.1.1"), "or take version 3.9.1", apache("metadata: zookeeper, version: 3.9.1")),
        (ec2("ssh: {from: [203.0.113.9/24]}"), "write 203.0.113.0/24 for the network", ec2("ssh: {from: [203.0.113.0/24]}")),
        (ec2("ssh: {from: [203.0.113.9/24]}"), "or 203.0.113.9/32 for the address", ec2("ssh: {from: [203.0.113.9/32]}")),
        (ec2("ssh: {from: [\"2001:db8::1/64\"]}"), "203.0.113.7/32 or 10.0.0.0/8", ec2("ssh: {from: [10.0.0.0/8]}")),
        (ec2("ssh: {from: [home]}"), "write 203.0.113.7/32", ec2("ssh: {from: [203.0.113.7/32]}")),
        (ec2("volume: {throughput: 1000}"), "add `iops: 4000`", ec2("volume: {throughput: 1000, iops: 4000, size: 20}")),
        (ec2("tags: {Name: x}"), "`Name` are Septet's", ec2("tags: {Owner: x}")),
        (tags(36), "at most 35", tags(35)),
        (ec2("connect: tunnel"), "one of ", ec2("connect: private")),
        (ec2("image: ubuntu"), "amazon-linux-2023, debian-12", ec2("image: debian-12")),
        (ec2("image: ubuntu"), "ami-0abcdef1234567890", ec2("image: ami-0abcdef1234567890")),
        (ec2("vpc: old"), "{new: 10.86.0.0/16}", ec2("vpc: {new: 10.86.0.0/16}")),
        (ec2("vpc: old"), "vpc-0abcdef1234567890", ec2("vpc: vpc-0abcdef1234567890")),
        (ec2("vpc: new, subnets: [subnet-0abcdef1234567890]"), "leave `subnets` out", ec2("vpc: new")),
        (
            ec2("vpc: new, subnets: [subnet-0abcdef1234567890]"),
            "name the VPC that they are in",
            ec2("vpc: vpc-0abcdef1234567890, subnets: [subnet-0abcdef1234567890]"),
        ),
    ];
    let mistakes: Vec<Mistake<'_>> = mistakes.iter().map(|(a, b, c)| (a.as_str(), *b, c.as_str())).collect();
    follow("inventory", &mistakes, |text| inventory(text).map(drop));
}

#[test]
fn an_ini_inventory_becomes_yaml() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hosts");
    std::fs::write(&path, "[brokers]\na\nb\n").unwrap();
    let hint = Inventory::read(&path).unwrap_err().hint.unwrap();
    assert!(hint.contains("`groups: {brokers: {count: 3}}`"), "{hint}");
    std::fs::write(&path, "cluster: c\nprefix: p\ngroups: {brokers: {count: 3}}\n").unwrap();
    Inventory::read(&path).unwrap();
}

/// A prefix that cannot be changed in its place is changed as the hint says.
#[test]
fn a_prefix_that_is_an_alias_is_written_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("i.yml");
    std::fs::write(&path, "cluster: &name peter\nprefix: *name\n").unwrap();
    let e = septet::inventory::edit::set_prefix(&path, "kisu").unwrap_err();
    assert_eq!(e.hint.as_deref(), Some("write `prefix: kisu` yourself, then run `septet up`"));
    std::fs::write(&path, "cluster: peter\nprefix: kisu\n").unwrap();
    assert_eq!(Inventory::read(&path).unwrap().prefix, "kisu");
}

/// Runs a playbook on hosts that do not exist; what is told, if something failed.
fn playbook(text: &str) -> Result<(), String> {
    let case = Case::playbook(text)
        .file("files/a.txt", "a")
        .file("files/some/a", "a")
        .file("one.yml", "- debug:\n")
        .file(
            "in.yml",
            "- debug: {msg: \"{{ x | default('none') }}\"}\n  register: r\n  loop: [1]\n  until: true\n  notify: H\n  tags: t\n",
        )
        .file("vars.yml", "a: 1\n")
        .file("templates/good.j2", "#jinja2: trim_blocks: False\nx\n")
        .file("templates/header.j2", "#jinja2: line_statement_prefix: True\nx\n")
        .file("templates/x.conf", "{{ mine | default(value=1) }}\n")
        .file("templates/y.conf", "{{ mine | default(1) }}\n")
        .file("templates/y.j2", "{{ mine | default(1) }}\n");
    let told = case.told();
    let failed = told.starts_with("error") || told.contains(": Failed") || told.contains(" unreachable: ");
    if failed { Err(told.replace("      | ", "")) } else { Ok(()) }
}

fn task(text: &str) -> String {
    format!("- hosts: control\n  gather_facts: false\n  tasks:\n    - {}\n", text.replace('\n', "\n      "))
}

#[test]
fn hints_about_playbooks() {
    let plain = "- hosts: all\n";
    let mistakes = [
        ("hosts: all\n", "begin with `- hosts: all`", plain),
        ("- tasks: []\n", "a play begins with `- hosts: PATTERN`", "- hosts: all\n  tasks: []\n"),
        ("- hosts: all\n  vars: {septet: 1}\n", "choose another name", "- hosts: all\n  vars: {mine: 1}\n"),
        ("- hosts: all\n  vars_files: [\"{{ x }}.yml\"]\n", "name the file", "- hosts: all\n  vars_files: [vars.yml]\n"),
        ("- hosts: all\n  become_user: \"Ann Other\"\n", "small letters, digits, `-` and `_`", "- hosts: all\n  become_user: ann_other\n"),
        ("- hosts: all\n  handler: []\n", "did you mean `handlers`?", "- hosts: all\n  handlers: []\n"),
        ("- hosts: broker\n", "did you mean `brokers`?", "- hosts: brokers\n"),
        ("- hosts: webservers_of_mine\n", "groups: all, control, coordinators, brokers", plain),
    ];
    follow("play", &mistakes, playbook);
    let notify = "import_tasks: one.yml\n";
    let mistakes = [
        ("name: nothing", "modules: assert, ", "name: nothing\nassert: {that: true}"),
        ("debgu:", "did you mean `debug`?", "debug:"),
        ("quite_another_module:", "modules: assert, ", "assert: {that: true}"),
        ("set_fact: {septet: 1}", "choose another name", "set_fact: {mine: 1}"),
        ("debug:\nregister: septet", "choose another name", "debug:\nregister: mine"),
        ("debug:\nregister: 1a", "letters, digits and `_`", "debug:\nregister: a1"),
        ("import_tasks: \"{{ x }}.yml\"\nvars: {x: one}", "use `include_tasks`", "include_tasks: \"{{ x }}.yml\"\nvars: {x: one}"),
        ("meta: end_play", "there is `meta: flush_handlers`", "meta: flush_handlers"),
        ("debug:\nloop: [1]\nloop_control: {pause: 1}", "use `until` with `delay`", "debug:\nloop: [1]\nuntil: true\ndelay: 1"),
        ("include_tasks: {file: one.yml, apply: {tags: t}}", "write its keywords on the tasks in the file", notify),
        ("include_tasks: one.yml\nloop: [1]", "put `loop` on the tasks in the file", "debug:\nloop: [1]"),
        ("copy: {content: x, dest: /x, mod: \"0644\"}", "did you mean `mode`?", "copy: {content: x, dest: /x, mode: \"0644\"}"),
        ("hostname: {name: x, frobnicate: 1}", "arguments: name", "hostname: {name: x}"),
        ("copy: {content: x, dest: /x, mode: 644}", "write it in quotes, as \"0644\"", "copy: {content: x, dest: /x, mode: \"0644\"}"),
        ("copy: {content: x, dest: /x, mode: rw}", "or \"u=rw,g=r,o=\"", "copy: {content: x, dest: /x, mode: \"u=rw,g=r,o=\"}"),
        ("copy: {content: x, dest: /x, mode: preserve}", "write the mode as digits", "copy: {content: x, dest: /x, mode: \"0644\"}"),
        ("file: {path: /x, src: /y, state: hard}", "use `command: ln SRC DEST`", "command: ln /y /x creates=/x"),
        ("command: ls creates=/x*", "name one file", "command: ls creates=/x"),
        ("copy: {src: some/, dest: /x}", "copy its files one by one", "copy: {src: some/a, dest: /x}"),
        ("copy: {src: gone.txt, dest: /x}", "searched ", "copy: {src: a.txt, dest: /x}"),
        (
            "unarchive: {src: /a.tgz, dest: /x, creates: /x/y, remote_src: yes}",
            "or use `command: tar -xf SRC -C DEST` with `creates`",
            "command: tar -xf /a.tgz -C /x creates=/x/y",
        ),
        ("lineinfile: {path: /x, line: y, regexp: z, firstmatch: yes}", "write a `regexp`", "lineinfile: {path: /x, line: y, regexp: ^z$}"),
        (
            "template: {src: good.j2, dest: /x, newline_sequence: \"\\r\\n\"}",
            "every line end is a line feed",
            "template: {src: good.j2, dest: /x}",
        ),
        ("template: {src: good.j2, dest: /x, block_start_string: \"[%\"}", "written as usual", "template: {src: good.j2, dest: /x}"),
        ("template: {src: header.j2, dest: /x}", "there are trim_blocks and lstrip_blocks", "template: {src: good.j2, dest: /x}"),
        ("template: {src: y.conf, dest: /x}", "`default(value=1)`", "template: {src: x.conf, dest: /x}"),
        ("template: {src: y.conf, dest: /x}", "ends in `.j2` is Jinja2", "template: {src: y.j2, dest: /x}"),
    ];
    let mistakes: Vec<(String, &str, String)> = mistakes.iter().map(|(a, b, c)| (task(a), *b, task(c))).collect();
    let mistakes: Vec<Mistake<'_>> = mistakes.iter().map(|(a, b, c)| (a.as_str(), *b, c.as_str())).collect();
    follow("task", &mistakes, playbook);
}

#[test]
fn hints_about_expressions() {
    let debug = |expression: &str| task(&format!("debug: {{msg: \"{{{{ {expression} }}}}\"}}"));
    let when =
        |condition: &str| task(&format!("debug:\nwhen: {condition}\nvars: {{n: null, s: \"yes\", e: \"\", i: 3, l: [1], m: {{a: 1}}}}"));
    let mistakes = [
        (debug("'a' | uper"), "did you mean `upper`?", debug("'a' | upper")),
        (debug("'a' | frobnicate_it"), "filters: abs, ", debug("-1 | abs")),
        (debug("1 is frobnicate_it"), "tests: abs, ", debug("'/a' is abs")),
        (debug("[1].append(2)"), "`list + [item]` makes a new list", debug("[1] + [2]")),
        (debug("{'a': 1}.update({'b': 2})"), "`combine` makes a new mapping", debug("{'a': 1} | combine({'b': 2})")),
        (debug("'a'.frobnicate()"), "methods of strings: capitalize", debug("'a'.capitalize()")),
        (debug("{'a': 1}.frobnicate()"), "methods of mappings: get", debug("{'a': 1}.get('a')")),
        (debug("[1].frobnicate()"), "methods of lists: count", debug("[1].count(1)")),
        (debug("lookup('lines', 'ls')"), "read `stdout_lines`", task("command: ls\nregister: r")),
        (debug("lookup('pipe', 'ls')"), "read `stdout`", task("command: ls\nregister: r")),
        (debug("lookup('password', '/x')"), "or `lookup('env', …)`", debug("lookup('env', 'PASSWORD')")),
        (debug("lookup('url', 'http://x')"), "fetch it in a task", task("command: curl http://x\nregister: r")),
        (debug("lookup('frobnicate', 'x')"), "lookups: dict, env", debug("lookup('env', 'x')")),
        (when("n"), "compare it, as with `is not none`", when("n is not none")),
        (when("s"), "`| bool` makes true or false of it", when("s | bool")),
        (when("e"), "`| length > 0` asks whether it is empty", when("e | length > 0")),
        (when("i"), "compare it, as with `> 0`", when("i > 0")),
        (when("l"), "`| length > 0` asks whether it is empty", when("l | length > 0")),
        (when("m"), "`| length > 0` asks whether it is empty", when("m | length > 0")),
        (
            task("debug: {msg: \"{{ hostvars[groups.brokers[0]].of_another }}\"}"),
            "begin a new play",
            "- hosts: brokers\n  gather_facts: false\n  tasks: [{set_fact: {of_another: 1}}]\n".to_owned()
                + &task("debug: {msg: \"{{ hostvars[groups.brokers[0]].of_another }}\"}"),
        ),
    ];
    let mistakes: Vec<Mistake<'_>> = mistakes.iter().map(|(a, b, c)| (a.as_str(), *b, c.as_str())).collect();
    follow("expression", &mistakes, playbook);
}
