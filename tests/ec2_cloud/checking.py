"""What the self-test is written with: a cloud of its own, clients for it, and how to say what must hold.

Invariant: botocore never retries here, so one call is one call.
"""

import json
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

PUBLIC_KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f somebody"
HERE = Path(__file__).parent
DEFAULTS = {
    "state_delay_s": 0.05,
    "consistency_ms": 0,
    "late_everywhere": False,
    "page_size": None,
    "vcpu_limit": 256,
    "iam": None,
    "clock_skew_s": 0,
    "local_zones": False,
    "metadata_tags": False,
}


class Cloud:
    """A running cloud and how to speak with it."""

    def __init__(self, *options):
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "cloud.py"), "--port", "0", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.endpoint = json.loads(self.process.stdout.readline())["endpoint"]
        self.ec2 = self.client("ec2")

    def client(self, service, key="AKIAROOTROOTROOTROOT", timeout=20, region="us-east-1"):
        return boto3.client(
            service,
            region_name=region,
            endpoint_url=self.endpoint,
            aws_access_key_id=key,
            aws_secret_access_key="secret",
            config=Config(retries={"total_max_attempts": 1}, read_timeout=timeout, connect_timeout=5),
        )

    def control(self, method, path, data=None):
        request = urllib.request.Request(
            f"{self.endpoint}/_cloud/{path}", method=method, data=None if data is None else json.dumps(data).encode()
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def settings(self, **values):
        return self.control("POST", "settings", values)

    def state(self):
        return self.control("GET", "state")

    def reset(self):
        self.settings(**DEFAULTS)
        self.control("DELETE", "faults")
        self.control("DELETE", "calls")

    def close(self):
        self.process.stdin.close()
        return self.process.wait(60)

    def seen(self, kind, resource_id):
        """A thing in the state, by its id; None if it is not there."""
        return next((x for x in self.state()[kind] if x["id"] == resource_id), None)

    def wait(self, instance_id, state, seconds=10):
        return wait_for(lambda: self.seen("instances", instance_id), lambda i: i["state"] == state, seconds)

    # What most checks need

    def image(self, architecture="x86_64"):
        name = {"x86_64": "debian-12-amd64-*", "arm64": "debian-12-arm64-*"}[architecture]
        images = self.ec2.describe_images(Owners=["136693071363"], Filters=[{"Name": "name", "Values": [name]}])
        return max(images["Images"], key=lambda i: i["CreationDate"])["ImageId"]

    def network(self, cidr="10.7.0.0/16", subnet="10.7.1.0/24", zone="us-east-1a"):
        vpc = self.ec2.create_vpc(CidrBlock=cidr)["Vpc"]["VpcId"]
        made = self.ec2.create_subnet(VpcId=vpc, CidrBlock=subnet, AvailabilityZone=zone)
        return vpc, made["Subnet"]["SubnetId"]

    def run(self, **parameters):
        basic = {"ImageId": self.image(), "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1}
        return self.ec2.run_instances(**{**basic, **parameters})["Instances"][0]

    def running(self, **parameters):
        instance = self.run(**parameters)
        self.wait(instance["InstanceId"], "running")
        return instance["InstanceId"]


def wait_for(look, good, seconds=10):
    """Looks until it is good; the last look is told if it never is."""
    end = time.monotonic() + seconds
    while True:
        seen = look()
        if seen is not None and good(seen):
            return seen
        if time.monotonic() > end:
            raise AssertionError(f"after {seconds} s still: {seen}")
        time.sleep(0.03)


@contextmanager
def refused(code, status=400, says=""):
    """The body must be refused with this code."""
    try:
        yield
    except ClientError as e:
        error = e.response["Error"]
        assert error["Code"] == code, f"{error} instead of {code}"
        got = e.response["ResponseMetadata"]["HTTPStatusCode"]
        assert got == status, f"HTTP {got} instead of {status} with {error}"
        assert says in error["Message"], f"{error['Message']!r} does not say {says!r}"
        return
    raise AssertionError(f"not refused with {code}")


def equal(got, wanted):
    assert got == wanted, f"{got!r} instead of {wanted!r}"


def tags(kind, **values):
    return {"ResourceType": kind, "Tags": [{"Key": k, "Value": v} for k, v in values.items()]}


def filtered(name, *values):
    return [{"Name": name, "Values": list(values)}]
