#!/usr/bin/env python3
"""Writes `expected` of cases: what ansible-core leaves. Needs root, ansible-core 2.19, and hosts as tests/playbook_cases.rs has them.

    ANSIBLE_PLAYBOOK=/path/to/ansible-playbook tests/playbook_cases/record.py tests/playbook_cases/CASE...

A host is a namespace with its own /tmp and /etc; its Python is a script that enters it. The tests do not need this.
"""
import os
import shlex
import subprocess
import sys
import tempfile

HOSTS = {"control": ["ans-control01"], "coordinators": ["ans-zk01"], "brokers": ["ans-kafka01", "ans-kafka02", "ans-kafka03"]}
ETC = "passwd group shadow gshadow login.defs os-release debian_version nsswitch.conf pam.d security default skel ld.so.cache ld.so.conf ld.so.conf.d"
ANSIBLE = os.environ.get("ANSIBLE_PLAYBOOK", "ansible-playbook")
PYTHON = os.environ.get("PYTHON", "/usr/bin/python3")


def make_host(work, name):
    """A host's directories, and the line of the inventory that reaches it."""
    root = f"{work}/{name}"
    os.makedirs(f"{root}/tmp/case")
    os.makedirs(f"{root}/etc")
    there = [f"/etc/{n}" for n in ETC.split() if os.path.exists(f"/etc/{n}")]
    subprocess.run(["cp", "-aL", *there, f"{root}/etc"], check=True)
    with open(f"{root}/etc/hosts", "w") as f:
        f.write("127.0.0.1 localhost\n")
    enter = f"set -e; mount --make-rprivate /; hostname {name}; mount --bind {root}/etc /etc; mount --bind {root}/tmp /tmp; exec {PYTHON} \"$@\""
    python = f"{work}/python-{name}"
    with open(python, "w") as f:
        f.write(f"#!/bin/sh\nexec unshare -m -u sh -c {shlex.quote(enter)} sh \"$@\"\n")
    os.chmod(python, 0o755)
    return f"{name} ansible_connection=local ansible_python_interpreter={python}\n"


def files(directory):
    """Paths below a directory, as the record names them."""
    return sorted("./" + os.path.relpath(os.path.join(p, f), directory) for p, _, names in os.walk(directory) for f in names)


def record(case):
    out = ""
    with tempfile.TemporaryDirectory() as work:
        with open(f"{work}/hosts.ini", "w") as inventory:
            for group, hosts in HOSTS.items():
                inventory.write(f"[{group}]\n" + "".join(make_host(work, h) for h in hosts))
        env = dict(os.environ, ANSIBLE_NOCOLOR="1", ANSIBLE_LOCALHOST_WARNING="0", ANSIBLE_REMOTE_TMP="/var/tmp/ansible", ANSIBLE_BECOME_METHOD="su")
        with open(f"{case}/steps") as f:
            steps = f.read().splitlines()
        for number, flags in enumerate(steps, 1):
            command = [ANSIBLE, "-i", f"{work}/hosts.ini", "playbook.yml", *shlex.split(flags)]
            ran = subprocess.run(command, cwd=case, env=env, stdout=sys.stderr)
            out += f"### step {number}: {flags}\nrc={ran.returncode}\n"
            for host in sum(HOSTS.values(), []):
                directory = f"{work}/{host}/tmp/case"
                for file in files(directory):
                    shown = subprocess.run(["sed", "-n", "l", f"{directory}/{file}"], stdout=subprocess.PIPE, text=True, check=True)
                    out += f"--- {host} {file}\n{shown.stdout}"
    with open(f"{case}/expected", "w") as f:
        f.write(out)


for case in sys.argv[1:]:
    record(case)
