"""Instances as containers: user data, addresses, states, volumes. Needs an image and Docker."""

import base64
import json
import re
import socket
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

import yaml

from checking import Cloud, equal, wait_for

# Goes with this process.
_FOLDER = tempfile.TemporaryDirectory(prefix="ec2-cloud-check-")


def _docker(*arguments):
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout.strip()


@cache
def _keys():
    """[(private file, public line)] of a login and of a host."""
    folder = Path(_FOLDER.name)
    for name in ("login", "host"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", folder / name], check=True)
    return {n: (folder / n, (folder / f"{n}.pub").read_text()) for n in ("login", "host")}


def _config(**more):
    host, login = _keys()["host"], _keys()["login"]
    return {
        "hostname": "kafka01",
        "fqdn": "kafka01.example.test",
        "manage_etc_hosts": "localhost",
        "ssh_deletekeys": True,
        "ssh_keys": {"ed25519_private": host[0].read_text(), "ed25519_public": host[1]},
        "users": [
            {
                "name": "septet",
                "shell": "/bin/bash",
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "lock_passwd": True,
                "ssh_authorized_keys": [login[1].strip()],
            }
        ],
        "ssh_pwauth": False,
        **more,
    }


def _text(config):
    return "#cloud-config\n" + yaml.safe_dump(config)


def _ssh(address, command, check=True):
    known = _keys()["host"][0].with_suffix(".known")
    known.write_text(f"{address} {_keys()['host'][1]}")
    asked = ["ssh", "-i", str(_keys()["login"][0]), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]
    asked += ["-o", f"UserKnownHostsFile={known}", "-o", "ConnectTimeout=5", f"septet@{address}", command]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 or not check, f"{command}: {done.stderr}"
    return done.stdout.strip() if done.returncode == 0 else None


def _reachable(address):
    return wait_for(lambda: _ssh(address, "echo here", check=False), lambda said: said == "here", 30)


def _up(cloud, config, **parameters):
    """A running instance that can be logged in to: (id, private address)."""
    started = time.monotonic()
    made = cloud.run(UserData=_text(config), **parameters)
    assert time.monotonic() - started < 2, "RunInstances is slow"
    equal(cloud.wait(made["InstanceId"], "running", 60)["user_data_error"], None)
    _reachable(made["PrivateIpAddress"])
    return made["InstanceId"], made["PrivateIpAddress"]


def _booted(cloud, instance):
    """The instance in the state, once its user data is done."""
    name = _docker("ps", "-q", "--filter", f"label=septet.test.instance={instance}")
    subprocess.run(
        ["docker", "exec", name, "sh", "-c", "until [ -e /run/septet-test-finished ]; do sleep .1; done"], timeout=30
    )
    time.sleep(0.5)
    return cloud.seen("instances", instance)


def check_user_data_at_first_boot(cloud):
    config = _config(
        bootcmd=["id -u newcomer || echo nobody > /var/boot-users", ["sh", "-c", "echo $INSTANCE_ID >> /var/boots"]],
        write_files=[
            {"path": "/etc/a/b.conf", "content": "x=1\n", "permissions": "0640"},
            {"path": "/etc/c", "content": base64.b64encode(b"\0binary").decode(), "encoding": "b64"},
            {"path": "/home/septet/d", "content": "late", "owner": "septet:septet", "defer": True},
        ],
        runcmd=["systemctl is-active ssh > /var/ran", ["touch", "/var/it's ran"]],
    )
    config["users"].append({"name": "newcomer", "shell": "/bin/bash", "groups": "adm, fresh", "sudo": None})
    instance, address = _up(cloud, config)
    equal(_booted(cloud, instance)["user_data_error"], None)
    equal(_ssh(address, "hostname; hostname -f; whoami; sudo whoami"), "kafka01\nkafka01.example.test\nseptet\nroot")
    equal(_ssh(address, "stat -c '%a %U' /etc/a/b.conf; sudo cat /etc/a/b.conf"), "640 root\nx=1")
    equal(_ssh(address, "od -An -c /etc/c").split(), ["\\0", *"binary"])
    equal(_ssh(address, "stat -c %U /home/septet/d; cat /home/septet/d"), "septet\nlate")
    equal(_ssh(address, "cat /var/boot-users /var/boots"), f"nobody\n{instance}")
    equal(_ssh(address, "cat /var/ran; ls /var | grep ran"), "active\nit's ran\nran")
    equal(_ssh(address, "id -Gn newcomer; sudo -l -U newcomer | tail -1").split("\n")[0], "newcomer adm fresh")
    equal(
        _ssh(address, "sudo stat -c '%a %n' /etc/ssh/ssh_host_*"),
        "600 /etc/ssh/ssh_host_ed25519_key\n644 /etc/ssh/ssh_host_ed25519_key.pub",
    )
    equal(_ssh(address, "sudo cat /etc/ssh/sshd_config.d/50-cloud-init.conf"), "PasswordAuthentication no")
    equal(_ssh(address, "sudo passwd -S septet").split()[1], "L")
    equal(_ssh(address, "cat /etc/hosts | grep 127.0.1.1"), "127.0.1.1 kafka01.example.test kafka01")


def check_stop_and_start_with_other_user_data(cloud):
    config = _config(bootcmd=["echo one >> /var/boots"], runcmd=["echo ran >> /var/runs"])
    instance, address = _up(cloud, config)
    _booted(cloud, instance)
    cloud.ec2.stop_instances(InstanceIds=[instance])
    cloud.wait(instance, "stopped", 30)
    equal(_ssh(address, "true", check=False), None)
    other = _config(
        bootcmd=["echo two >> /var/boots", "sleep 2", "touch /run/boot-is-done"], runcmd=["echo again >> /var/runs"]
    )
    cloud.ec2.modify_instance_attribute(InstanceId=instance, UserData={"Value": _text(other).encode()})
    cloud.ec2.start_instances(InstanceIds=[instance])
    equal(cloud.wait(instance, "running", 30)["private_ip"], address)
    _reachable(address)
    # bootcmd is done before anybody can log in.
    equal(_ssh(address, "ls /run/boot-is-done; cat /var/boots; cat /var/runs"), "/run/boot-is-done\none\ntwo\nran")
    cloud.ec2.reboot_instances(InstanceIds=[instance])
    wait_for(lambda: _ssh(address, "wc -l < /var/boots", check=False), lambda n: n == "3", 40)


def check_volumes_survive_and_move(cloud):
    data = [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 10, "VolumeType": "gp3", "DeleteOnTermination": False}}]
    zone = {"AvailabilityZone": "us-east-1b"}
    one, address = _up(cloud, _config(), BlockDeviceMappings=data, Placement=zone)
    _ssh(address, "mountpoint -q /data && echo kept | sudo tee /data/file; ls /run/ebs | wc -l")
    volume = next(v["id"] for v in cloud.seen("instances", one)["volumes"] if v["device"] == "/dev/sdf")
    cloud.control("POST", f"instances/{one}/kill")
    cloud.wait(one, "stopped", 30)
    cloud.ec2.start_instances(InstanceIds=[one])
    cloud.wait(one, "running", 30)
    _reachable(address)
    equal(_ssh(address, "cat /data/file"), "kept")
    cloud.ec2.terminate_instances(InstanceIds=[one])
    cloud.wait(one, "terminated", 30)
    # The same address again, at once.
    two, _ = _up(cloud, _config(), PrivateIpAddress=address, Placement=zone)
    equal(_ssh(address, "mountpoint -q /data", check=False), None)
    cloud.ec2.attach_volume(VolumeId=volume, InstanceId=two, Device="/dev/sdf")
    wait_for(lambda: _ssh(address, "cat /data/file", check=False), lambda said: said == "kept", 10)
    cloud.ec2.reboot_instances(InstanceIds=[two])
    time.sleep(1)
    wait_for(
        lambda: _ssh(address, "uptime -s >/dev/null; cat /data/file", check=False), lambda said: said == "kept", 40
    )
    cloud.ec2.detach_volume(VolumeId=volume, InstanceId=two)
    wait_for(lambda: _ssh(address, "mountpoint -q /data || echo none", check=False), lambda said: said == "none", 10)


def check_power_off_from_inside(cloud):
    """What EC2 does when a system shuts itself down, and not when it is stopped from outside."""
    data = [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 10, "VolumeType": "gp3", "DeleteOnTermination": False}}]
    stops, address = _up(cloud, _config())
    ends, last = _up(cloud, _config(), InstanceInitiatedShutdownBehavior="terminate", BlockDeviceMappings=data)
    there = {v["device"]: v["id"] for v in cloud.seen("instances", ends)["volumes"]}
    # From outside: it stops, it comes back, and it reboots.
    cloud.ec2.stop_instances(InstanceIds=[ends])
    cloud.wait(ends, "stopped", 30)
    cloud.ec2.start_instances(InstanceIds=[ends])
    cloud.wait(ends, "running", 30)
    _reachable(last)
    cloud.ec2.reboot_instances(InstanceIds=[ends])
    time.sleep(1)
    _reachable(last)
    for where in (address, last):
        _ssh(where, "sudo systemctl poweroff --no-block")
    equal(cloud.wait(ends, "terminated", 30)["state_reason"], "Client.InstanceInitiatedShutdown")
    equal(cloud.wait(stops, "stopped", 30)["state_reason"], "Client.InstanceInitiatedShutdown")
    equal(cloud.seen("volumes", there["/dev/xvda"]), None)
    equal(cloud.seen("volumes", there["/dev/sdf"])["state"], "available")
    equal(_docker("ps", "-aq", "--filter", f"label=septet.test.instance={ends}"), "")
    cloud.ec2.start_instances(InstanceIds=[stops])
    cloud.wait(stops, "running", 30)
    _reachable(address)


def check_errors_of_user_data(cloud):
    broken = _config(packages=["curl"], bootcmd=["exit 3"], write_files=[{"path": "/x", "owner": "septet"}])
    made = cloud.run(UserData=_text(broken))
    cloud.wait(made["InstanceId"], "running", 60)
    said = _booted(cloud, made["InstanceId"])["user_data_error"]
    for part in ("packages is not implemented", "bootcmd ended with 3", "there is no septet yet"):
        assert part in said, said
    script = cloud.run(UserData="#!/bin/sh\ntrue\n")
    assert "only #cloud-config" in cloud.wait(script["InstanceId"], "running", 60)["user_data_error"]


def check_without_user_data_nobody_gets_in(cloud):
    made = cloud.run()
    cloud.wait(made["InstanceId"], "running", 60)
    address = made["PrivateIpAddress"]

    def listens():
        try:
            return socket.create_connection((address, 22), 1).close() or True
        except OSError:
            return None

    wait_for(listens, lambda up: up, 30)
    equal(_ssh(address, "true", check=False), None)


def check_instances_reach_each_other_across_zones(cloud):
    network = next(v for v in cloud.state()["vpcs"] if v["default"])["cidr"]
    assert re.match(r"10\.19[01]\.\d+\.0/20$", network), network
    made = [cloud.run(UserData=_text(_config()), Placement={"AvailabilityZone": f"us-east-1{z}"}) for z in "abc"]
    equal([m["Placement"]["AvailabilityZone"][-1] for m in made], list("abc"))
    for m in made:
        cloud.wait(m["InstanceId"], "running", 60)
        _reachable(m["PrivateIpAddress"])
    for m in made:
        _ssh(made[0]["PrivateIpAddress"], f"timeout 5 bash -c '</dev/tcp/{m['PrivateIpAddress']}/22'")


def check_network_of_ones_own(cloud):
    vpc, subnet = cloud.network("10.197.240.0/20", "10.197.241.0/24")
    instance, address = _up(cloud, _config(), SubnetId=subnet, PrivateIpAddress="10.197.241.20")
    equal(address, "10.197.241.20")
    cloud.ec2.terminate_instances(InstanceIds=[instance])
    cloud.wait(instance, "terminated", 30)
    cloud.ec2.delete_subnet(SubnetId=subnet)
    cloud.ec2.delete_vpc(VpcId=vpc)


def check_what_a_cloud_leaves(other):
    cloud = Cloud("--pair", other.process.args[-1])
    pid = cloud.process.pid
    made = cloud.run(UserData=_text(_config()))
    cloud.wait(made["InstanceId"], "running", 60)
    label = f"label=septet.test.cloud={pid}"
    container = _docker("ps", "-q", "--filter", label)
    labels = json.loads(_docker("inspect", "-f", "{{json .Config.Labels}}", container))
    assert "septet.cluster" not in labels, labels
    cloud.run(UserData=_text(_config()))
    cloud.close()
    for listing in (["ps", "-aq"], ["network", "ls", "-q"], ["volume", "ls", "-q"]):
        equal(_docker(*listing, "--filter", label), "")
    # One that is killed leaves things, which the next one removes.
    killed = Cloud("--pair", cloud.process.args[-1])
    killed.process.kill()
    killed.process.wait()
    label = f"label=septet.test.cloud={killed.process.pid}"
    assert _docker("network", "ls", "-q", "--filter", label)
    Cloud("--pair", cloud.process.args[-1]).close()
    equal(_docker("network", "ls", "-q", "--filter", label), "")
