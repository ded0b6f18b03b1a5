"""cloud-config user data, by cloud-init's rules: what an instance does with it at a boot.

The result is a set of files for the instance: two shell scripts (`early` runs before anything but the mounts, as
cloud-init's init stage does; `late` once the services are up, as its final stage) and what they need.

Invariant: per instance, not per boot, are users, host keys, files and runcmd; bootcmd, the host name and /etc/hosts
are done at every boot, with the user data as it is then. Keys that are not implemented are reported and the rest is
done all the same.
"""

import base64
import binascii
import gzip
import shlex
from dataclasses import dataclass, field

import yaml

HERE = "/var/lib/cloud/septet-test"
_KNOWN = {
    "hostname",
    "fqdn",
    "preserve_hostname",
    "prefer_fqdn_over_hostname",
    "manage_etc_hosts",
    "ssh_deletekeys",
    "ssh_genkeytypes",
    "ssh_keys",
    "users",
    "disable_root",
    "ssh_pwauth",
    "write_files",
    "bootcmd",
    "runcmd",
}
_USER_KNOWN = {
    "name",
    "gecos",
    "homedir",
    "primary_group",
    "groups",
    "uid",
    "shell",
    "sudo",
    "lock_passwd",
    "ssh_authorized_keys",
}
_FILE_KNOWN = {"path", "content", "permissions", "owner", "encoding", "append", "defer"}
_KEY_TYPES = ("rsa", "ecdsa", "ed25519")
# Accounts that the images have before any user data is looked at.
_SYSTEM_USERS = {"root", "daemon", "bin", "sys", "mail", "man", "nobody", "www-data", "systemd-network", "sshd"}


@dataclass
class Boot:
    files: dict = field(default_factory=dict)
    errors: list = field(default_factory=list)


def boot(text, instance_id, local_name):
    """The files for a boot, below HERE by their names, and what is wrong with the user data."""
    made = Boot()
    config = _parse(text, made.errors)
    for key in config:
        if key not in _KNOWN:
            made.errors.append(f"the key {key} is not implemented")
    parts = []
    for part in (_bootcmd, _write_files, _names, _users, _host_keys, _passwords):
        try:
            parts.append(part(config, made, local_name))
        except Exception as e:
            made.errors.append(f"{part.__name__.strip('_')}: {e}")
    early = [_HEADER, f"export INSTANCE_ID={instance_id}", *parts, f"touch {HERE}/early-done"]
    late = [_HEADER, _late(config, made), f"touch {HERE}/late-done /run/septet-test-finished"]
    made.files["early"] = "\n".join(early) + "\n"
    made.files["late"] = "\n".join(late) + "\n"
    return made


_HEADER = f"""#!/bin/sh
exec >>{HERE}/log 2>&1
failed() {{ echo "$1" >>{HERE}/errors; }}"""


def _parse(text, errors):
    if not (text or "").strip():
        return {}
    if not text.startswith("#cloud-config"):
        errors.append("only #cloud-config is implemented")
        return {}
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as e:
        errors.append(f"not YAML: {e}")
        return {}
    if config is not None and not isinstance(config, dict):
        errors.append("the cloud-config is not a mapping")
        return {}
    return config or {}


def _once(lines, stage="early"):
    """Lines for the first boot only."""
    return f"if [ ! -e {HERE}/{stage}-done ]; then\n:\n" + "\n".join(lines) + "\nfi"


def shellify(commands):
    """A list of commands as cloud-init makes a script of them: strings as they are, lists with their words quoted."""
    if not isinstance(commands, list):
        raise ValueError("must be a list")
    lines = ["#!/bin/sh"]
    for command in commands:
        if isinstance(command, list):
            lines.append(" ".join("'" + str(word).replace("'", "'\\''") + "'" for word in command))
        elif isinstance(command, str):
            lines.append(command)
        elif command is not None:
            raise ValueError(f"neither a string nor a list: {command!r}")
    return "\n".join(lines) + "\n"


def _bootcmd(config, made, _):
    if "bootcmd" not in config:
        return ""
    made.files["bootcmd"] = shellify(config["bootcmd"])
    return f'/bin/sh {HERE}/bootcmd || failed "bootcmd ended with $?"'


def _late(config, made):
    lines = _files(config, made, deferred=True)
    if "runcmd" in config:
        try:
            made.files["runcmd"] = shellify(config["runcmd"])
            lines.append(f'/bin/sh {HERE}/runcmd || failed "runcmd ended with $?"')
        except ValueError as e:
            made.errors.append(f"runcmd: {e}")
    return _once(lines, "late")


def _write_files(config, made, _):
    return _once(_files(config, made, deferred=False))


def _files(config, made, deferred):
    lines = []
    users = {u["name"] for u in config.get("users") or [] if isinstance(u, dict) and "name" in u}
    for number, entry in enumerate(config.get("write_files") or []):
        if bool(entry.get("defer")) != deferred:
            continue
        unknown = set(entry) - _FILE_KNOWN
        if unknown:
            made.errors.append(f"write_files: {', '.join(sorted(unknown))} is not implemented")
        owner = str(entry.get("owner", "root:root"))
        name = owner.split(":")[0]
        if not deferred and (name in users or name not in _SYSTEM_USERS and not name.isdigit()):
            # The image of these tests may have the user, the images on EC2 do not.
            made.errors.append(f"write_files: {entry.get('path')}: there is no {name} yet; use defer")
        source = f"files-{number}"
        made.files[source] = _content(entry)
        path = shlex.quote(str(entry["path"]))
        lines += [
            f'mkdir -p "$(dirname {path})"',
            f"cat {HERE}/{source} {'>>' if entry.get('append') else '>'} {path}",
            f'chown {shlex.quote(owner)} {path} || failed "write_files: chown {owner}"',
            f"chmod {_permissions(entry.get('permissions'))} {path}",
        ]
    return lines


def _permissions(value):
    """As in cloud-init a string is octal and a number is what it is."""
    if value is None:
        return "644"
    return f"{value if isinstance(value, int) else int(str(value), 8):o}"


def _content(entry):
    content = entry.get("content") or ""
    raw = content if isinstance(content, bytes) else str(content).encode()
    encoding = str(entry.get("encoding") or "text/plain").lower().strip()
    if encoding in ("b64", "base64", "gz+base64", "gzip+base64", "gz+b64", "gzip+b64"):
        try:
            raw = base64.b64decode(raw)
        except binascii.Error as e:
            raise ValueError(f"{entry.get('path')}: {e}") from None
    if encoding.startswith(("gz", "gzip")):
        raw = gzip.decompress(raw)
    if encoding not in ("text/plain", "b64", "base64") and not encoding.startswith(("gz", "gzip")):
        raise ValueError(f"{entry.get('path')}: encoding {encoding} is not known")
    return raw


def names(config, local_name):
    """(host name, full name) as cloud-init finds them."""
    if "fqdn" in config:
        full = str(config["fqdn"])
        return str(config.get("hostname", full.split(".")[0])), full
    if "." in str(config.get("hostname", "")):
        full = str(config["hostname"])
        return full.split(".")[0], full
    return str(config.get("hostname", local_name.split(".")[0])), local_name


def _names(config, made, local_name):
    host, full = names(config, local_name)
    lines = []
    if not config.get("preserve_hostname", False):
        name = shlex.quote(full if config.get("prefer_fqdn_over_hostname") else host)
        lines.append(f'hostname {name} && echo {name} >/etc/hostname || failed "hostname ended with $?"')
    manage = config.get("manage_etc_hosts", False)
    if manage in (True, "true", "template"):
        hosts = f"127.0.1.1 {full} {host}\n127.0.0.1 localhost\n\n::1 localhost ip6-localhost ip6-loopback\n"
        made.files["hosts"] = hosts + "ff02::1 ip6-allnodes\nff02::2 ip6-allrouters\n"
        lines.append(f"cat {HERE}/hosts >/etc/hosts")
    elif manage == "localhost":
        entry = shlex.quote(f"127.0.1.1 {full} {host}")
        lines.append(f"grep -qxF {entry} /etc/hosts || echo {entry} >>/etc/hosts")
    elif manage not in (False, "false"):
        made.errors.append(f"manage_etc_hosts: {manage} is not known")
    return "\n".join(lines)


def _users(config, made, _):
    # What the image of these tests gives its users, the images on EC2 do not: only what the user data gives counts.
    lines = ["find /etc/sudoers.d -type f ! -name README -delete"]
    for entry in config.get("users") or []:
        if entry == "default":
            continue
        if isinstance(entry, str):
            entry = {"name": entry}
        entry = {k.replace("-", "_"): v for k, v in entry.items()}
        unknown = set(entry) - _USER_KNOWN
        if unknown:
            made.errors.append(f"users: {', '.join(sorted(unknown))} is not implemented")
        if "name" not in entry:
            made.errors.append("users: an entry without a name is for the default user, which is not implemented")
            continue
        lines += _user(entry)
    return _once(lines)


def _list(value):
    return [v.strip() for v in value.split(",")] if isinstance(value, str) else list(value or [])


def _user(entry):
    name = shlex.quote(str(entry["name"]))
    groups = _list(entry.get("groups"))
    options = ["-m"]
    for key, option in (("gecos", "--comment"), ("homedir", "--home"), ("uid", "--uid"), ("shell", "--shell")):
        if entry.get(key):
            options += [option, shlex.quote(str(entry[key]))]
    primary = entry.get("primary_group")
    if primary:
        options += ["--gid", shlex.quote(primary)]
    if groups:
        options += ["--groups", shlex.quote(",".join(groups))]
    lines = [f"getent group {shlex.quote(g)} >/dev/null || groupadd {shlex.quote(g)}" for g in groups + _list(primary)]
    lines += [
        f"if ! id -u {name} >/dev/null 2>&1; then",
        f'useradd {" ".join(options)} {name} || failed "users: useradd ended with $?"',
        # cloud-init leaves a user alone who is there; the images on EC2 have none of these, so the result is the same.
        f"else\nusermod -s {shlex.quote(str(entry.get('shell') or '/bin/sh'))} {name}",
    ]
    lines += [f"usermod -a -G {shlex.quote(','.join(groups))} {name}"] if groups else []
    lines.append("fi")
    if entry.get("lock_passwd", True):
        lines.append(f"passwd -l {name}")
    rules = entry.get("sudo")
    for rule in [rules] if isinstance(rules, str) else rules or []:
        line = shlex.quote(f"{entry['name']} {rule}")
        lines.append(f"echo {line} >>/etc/sudoers.d/90-cloud-init-users")
    if rules:
        lines.append("chmod 440 /etc/sudoers.d/90-cloud-init-users")
        lines.append('visudo -cq || failed "users: sudo rules are not valid"')
    keys = entry.get("ssh_authorized_keys")
    if keys is not None:
        lines += _authorized_keys(name, [keys] if isinstance(keys, str) else list(keys))
    return lines


def _authorized_keys(name, keys):
    text = shlex.quote("".join(f"{k.strip()}\n" for k in dict.fromkeys(keys)))
    return [
        f"home=$(getent passwd {name} | cut -d: -f6)",
        'mkdir -p -m 700 "$home/.ssh"',
        f'printf %s {text} >>"$home/.ssh/authorized_keys"',
        'chmod 600 "$home/.ssh/authorized_keys"',
        f'chown {name}: "$home/.ssh" "$home/.ssh/authorized_keys"',
    ]


def _host_keys(config, made, _):
    lines = []
    if config.get("ssh_deletekeys", True):
        lines.append("rm -f /etc/ssh/ssh_host_*key*")
    if "ssh_keys" not in config:
        for kind in _list(config.get("ssh_genkeytypes", list(_KEY_TYPES))):
            path = f"/etc/ssh/ssh_host_{kind}_key"
            lines.append(
                f"[ -e {path} ] || ssh-keygen -q -t {shlex.quote(kind)} -N '' -f {path} || failed ssh_genkeytypes"
            )
        return _once(lines)
    given = config["ssh_keys"]
    for key, value in given.items():
        kind, _, half = key.rpartition("_")
        if kind not in _KEY_TYPES or half not in ("private", "public"):
            made.errors.append(f"ssh_keys: {key} is not implemented")
            continue
        path = f"/etc/ssh/ssh_host_{kind}_key" + (".pub" if half == "public" else "")
        # As in cloud-init nothing is added: a private key without its last line break is none to OpenSSH.
        made.files[f"key-{key}"] = str(value)
        lines += [f"cat {HERE}/key-{key} >{path}", f"chmod {'600' if half == 'private' else '644'} {path}"]
        if half == "private":
            lines.append(f'ssh-keygen -y -P "" -f {path} >/dev/null || failed "ssh_keys: {key} is no private key"')
            if f"{kind}_public" not in given:
                lines.append(f"ssh-keygen -y -f {path} >{path}.pub")
    return _once(lines)


def _passwords(config, made, _):
    allowed = config.get("ssh_pwauth")
    if allowed in (None, "unchanged"):
        return ""
    word = {True: "yes", "true": "yes", "yes": "yes", False: "no", "false": "no", "no": "no"}.get(allowed)
    if word is None:
        raise ValueError(f"ssh_pwauth: {allowed} is not known")
    path = "/etc/ssh/sshd_config.d/50-cloud-init.conf"
    return _once([f"echo PasswordAuthentication {word} >{path}", f"chmod 600 {path}"])
