"""Pairing: every instance is a container whose address is the instance's private address.

Invariant: an instance's container is worked on by one thread, in the order in which things were asked for; a machine
that cannot be had ends its instance. Volumes are directories of one Docker volume that all containers have, out of
sight; those that are attached are mounted at /data (the first by its device's name) and /data-sdX.
"""

import base64
import io
import ipaddress
import os
import queue
import random
import subprocess
import sys
import tarfile
import threading
import traceback
from pathlib import Path

import engine
import userdata

_RANGE = ipaddress.ip_network("10.190.0.0/15")
_PREFIX = 20
_EBS = "/run/ebs"
# Not a tmpfs: systemd orders those against swap.target, forgets that as soon as the cover is off, and then sometimes
# waits for ever in a shutdown.
_COVER = f"mkdir -p -m 000 {userdata.HERE}/none && mount --bind {userdata.HERE}/none {_EBS}"

_MOUNTS = f"""#!/bin/sh
while read -r volume place; do
  mkdir -p {_EBS}/$volume $place && mount --bind {_EBS}/$volume $place
done <{userdata.HERE}/volumes
{_COVER}
"""
_UNITS = {
    "septet-test-ebs.service": (
        "local-fs.target",
        "[Unit]\nDescription=EBS volumes\nDefaultDependencies=no\nBefore=local-fs.target\n"
        f"[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart={userdata.HERE}/mounts\n",
    ),
    # Before everything else, as cloud-init's own is on Debian.
    "cloud-init.service": (
        "sysinit.target",
        "[Unit]\nDescription=User data, early\nDefaultDependencies=no\nAfter=local-fs.target\n"
        "Before=sysinit.target ssh.service sshd.service\n"
        f"[Service]\nType=oneshot\nRemainAfterExit=yes\nTimeoutSec=0\nExecStart={userdata.HERE}/early\n",
    ),
    "cloud-final.service": (
        "multi-user.target",
        "[Unit]\nDescription=User data, late\nAfter=cloud-init.service ssh.service sshd.service network-online.target\n"
        f"[Service]\nType=oneshot\nRemainAfterExit=yes\nTimeoutSec=0\nExecStart={userdata.HERE}/late\n",
    ),
}


class Containers:
    def __init__(self, world, image, work=None):
        engine.sweep()
        self.work = work
        if work:
            Path(work).mkdir(parents=True, exist_ok=True)
        self._world, self._image = world, image
        self._name = f"septet-test-{os.getpid()}"
        self._machines = {}
        self._networks = {}
        self._networks_lock = threading.Lock()
        self.closing = False
        try:
            world.default_cidr = self._default_network()
            engine.run("volume", "create", *engine.labels(), f"{self._name}-ebs")
        except Exception:
            engine.remove_all()
            raise

    # What the states ask for

    def launch(self, instance, then):
        machine = self._machines[instance.id] = _Machine(self, instance)
        user_data, volumes = _decoded(instance), _places(instance)
        machine.do(lambda: self._create(machine, instance, user_data, volumes), then, vital=True)

    def start(self, instance, then):
        machine, user_data, volumes = self._machines[instance.id], _decoded(instance), _places(instance)
        machine.do(lambda: self._boot(machine, user_data, volumes), then)

    def stop(self, instance, then):
        machine = self._machines[instance.id]
        machine.do(machine.halt, then)

    def reboot(self, instance):
        machine, user_data, volumes = self._machines[instance.id], _decoded(instance), _places(instance)

        def again():
            machine.halt()
            self._boot(machine, user_data, volumes)

        machine.do(again)

    def kill(self, instance, then):
        machine = self._machines[instance.id]
        machine.do(lambda: engine.run("kill", machine.name), then)

    def terminate(self, instance, then):
        machine = self._machines[instance.id]
        machine.do(lambda: engine.run("rm", "-f", "-v", machine.name), then, last=True)

    def attach(self, instance, volume_id):
        place = dict((v, p) for v, p in _places(instance)).get(volume_id)
        mount = f"mkdir -p {_EBS}/{volume_id} {place} && mount --bind {_EBS}/{volume_id} {place}"
        self._inside(instance, f"umount {_EBS}; {mount}; status=$?; {_COVER}; exit $status")

    def detach(self, instance, volume_id):
        self._inside(instance, f"umount $(findmnt -n -o TARGET,SOURCE -l | grep '{volume_id}\\]' | cut -d' ' -f1)")

    def _inside(self, instance, script):
        """Does something in the container of a running instance; a stopped one does it when it boots."""
        machine = self._machines.get(instance.id)
        # Not before the boot has mounted what was attached then: it covers the volumes when it is done.
        booted = "for i in $(seq 300); do systemctl is-active -q septet-test-ebs.service && break; sleep 0.1; done"
        if machine and instance.state == "running":
            machine.do(lambda: engine.run("exec", machine.name, "sh", "-c", f"{booted}; {script}"))

    def delete_volume(self, volume_id):
        image, volume = self._image, f"{self._name}-ebs:{_EBS}"

        def remove():
            try:
                engine.run("run", "--rm", *engine.labels(), "-v", volume, image, "rm", "-rf", f"{_EBS}/{volume_id}")
            except engine.EngineError:
                if not self.closing:
                    traceback.print_exc()

        threading.Thread(target=remove, daemon=True).start()

    def delete_network(self, vpc_id):
        with self._networks_lock:
            network = self._networks.pop(vpc_id, None)
            if network:
                engine.run("network", "rm", network)

    def error(self, instance):
        machine = self._machines.get(instance.id)
        return machine.error() if machine else None

    def close(self):
        self.closing = True
        for machine in self._machines.values():
            machine.end()
        engine.remove_all()

    # How it is done, in the machines' threads

    def failed(self, instance, error):
        if self.closing:
            return
        traceback.print_exc()
        with self._world.state() as world:
            world.states.fail(instance, str(error))

    def powered_off(self, instance):
        if self.closing:
            return
        with self._world.state() as world:
            world.states.powered_off(instance)

    def reached(self, then):
        with self._world.state():
            then()

    def _create(self, machine, instance, user_data, volumes):
        if self.closing:
            raise engine.EngineError("the cloud is ending")
        network = self._network(instance)
        engine.run(
            "create",
            *("--name", machine.name, "--hostname", f"ip-{machine.address.replace('.', '-')}"),
            *("--network", network, "--ip", machine.address),
            *("--cap-add", "SYS_ADMIN", "--cgroupns", "private"),
            *("--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"),
            *("--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp", "--stop-signal", "SIGRTMIN+3"),
            *("--env", "container=docker", "-v", f"{self._name}-ebs:{_EBS}"),
            *engine.labels(),
            *("--label", f"septet.test.instance={instance.id}"),
            self._image,
            "/sbin/init",
        )
        engine.run("cp", "-", f"{machine.name}:/", data=_units())
        self._boot(machine, user_data, volumes)

    def _boot(self, machine, user_data, volumes):
        boot = userdata.boot(user_data, machine.instance_id, f"ip-{machine.address.replace('.', '-')}.ec2.internal")
        files = {"errors": "", "mounts": _MOUNTS, "volumes": "".join(f"{v} {p}\n" for v, p in volumes), **boot.files}
        engine.run("cp", "-", f"{machine.name}:/", data=_tar({f"{userdata.HERE}/{n}": c for n, c in files.items()}))
        machine.boots(boot.errors)
        for error in boot.errors:
            print(f"user data of {machine.instance_id}: {error}", file=sys.stderr, flush=True)
        engine.run("start", machine.name)
        threading.Thread(target=machine.watch, daemon=True).start()
        threading.Thread(target=machine.await_end, args=(machine.boot,), daemon=True).start()

    def _default_network(self):
        """Makes the network of the default VPC in a range that nobody has; returns the range."""
        ranges = list(_RANGE.subnets(new_prefix=_PREFIX))
        random.shuffle(ranges)
        for chosen in ranges:
            if any(chosen.overlaps(r) for r in _routes()):
                continue
            try:
                self._make_network("default", str(chosen))
                return str(chosen)
            except engine.EngineError as e:
                if "overlap" not in str(e):
                    raise
        raise engine.EngineError(f"no free range in {_RANGE}")

    def _make_network(self, key, cidr):
        name = f"{self._name}-{key}"
        engine.run("network", "create", "--subnet", cidr, *engine.labels(), name)
        self._networks[key] = name
        return name

    def _network(self, instance):
        with self._world.lock:
            vpc = instance.ec2_backend.get_vpc(instance.vpc_id)
        key = "default" if vpc.is_default else vpc.id
        with self._networks_lock:
            return self._networks.get(key) or self._make_network(key, vpc.cidr_block)


class _Machine:
    """One container and the thread that works on it."""

    def __init__(self, containers, instance):
        self._containers, self._instance = containers, instance
        self.instance_id = instance.id
        self.name = f"septet-test-{os.getpid()}-{instance.id}"
        self.address = instance.private_ip
        self._errors = []
        # Which of its boots this is; another number, and what comes of an earlier one does not count.
        self.boot = 0
        self._jobs = queue.Queue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def do(self, job, then=None, vital=False, last=False):
        self._jobs.put((job, then, vital, last))

    def _work(self):
        while True:
            job, then, vital, last = self._jobs.get()
            if job is None or self._containers.closing:
                return
            try:
                job()
            except Exception as e:
                if vital:
                    self._containers.failed(self._instance, e)
                    continue
                if not self._containers.closing:
                    traceback.print_exc()
                self._errors.append(str(e))
            if then:
                self._containers.reached(then)
            if last:
                return

    def end(self):
        self._jobs.put((None, None, False, False))
        self._thread.join(15)

    def boots(self, errors):
        self._errors = list(errors)
        self.boot += 1

    def halt(self):
        """Stops the container from outside."""
        self.boot += 1
        engine.run("stop", "-t", "5", self.name)

    def await_end(self, boot):
        """Waits for the container to end, and reports it if its own systemd has done that: then the code is 0. (So it
        is when a host reboots itself, since a container has no right to; nothing does that here.)"""
        done = subprocess.run(["docker", "wait", self.name], capture_output=True, text=True)
        if self.boot == boot and done.stdout.strip() == "0":
            self._containers.powered_off(self._instance)

    def error(self):
        return "; ".join(self._errors) or None

    def watch(self):
        """Waits for the end of the boot and learns what went wrong in it."""
        script = f"until [ -e /run/septet-test-finished ]; do sleep 0.2; done; cat {userdata.HERE}/errors"
        done = subprocess.run(["docker", "exec", self.name, "sh", "-c", script], capture_output=True, text=True)
        # One that stops meanwhile has nothing to tell.
        if done.returncode != 0:
            return
        self._errors += done.stdout.split("\n")[:-1]
        if self._containers.work:
            said = subprocess.run(["docker", "exec", self.name, "cat", f"{userdata.HERE}/log"], capture_output=True)
            (Path(self._containers.work) / f"{self.instance_id}.log").write_bytes(said.stdout)


def _decoded(instance):
    raw = base64.b64decode(str(instance.user_data)) if instance.user_data else b""
    return raw.decode("utf-8", "replace")


def _places(instance):
    """[(volume, where it is mounted)] of an instance's data volumes."""
    data = sorted((d, m.volume_id) for d, m in instance.block_device_mapping.items() if d != instance.root_device_name)
    return [(v, "/data" if n == 0 else f"/data-{d.removeprefix('/dev/')}") for n, (d, v) in enumerate(data)]


def _units():
    files = {f"/etc/systemd/system/{name}": text for name, (_, text) in _UNITS.items()}
    links = {f"/etc/systemd/system/{target}.wants/{name}": f"../{name}" for name, (target, _) in _UNITS.items()}
    return _tar(files, links)


def _tar(files, links=None):
    """A tar of files, all of root's; those without a dot in their name are for root alone and may be run."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for path, content in files.items():
            raw = content if isinstance(content, bytes) else content.encode()
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = len(raw), 0o644 if path.endswith(".service") else 0o700
            tar.addfile(entry, io.BytesIO(raw))
        for path, target in (links or {}).items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return stream.getvalue()


def _routes():
    """Networks that this machine knows a way to, the default route aside."""
    found = []
    with open("/proc/net/route") as table:
        for line in list(table)[1:]:
            fields = line.split()
            address, mask = (int.from_bytes(bytes.fromhex(fields[n])[::-1], "big") for n in (1, 7))
            if mask:
                found.append(ipaddress.ip_network((address, bin(mask).count("1")), strict=False))
    return found
