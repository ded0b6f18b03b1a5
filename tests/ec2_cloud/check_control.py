"""Dry runs, faults, the log of calls, other people's things, the end."""

import signal
import socket
import threading
import time
import urllib.request

from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError

from checking import PUBLIC_KEY, Cloud, equal, filtered, refused, tags, wait_for


def check_dry_run_never_has_an_effect(cloud):
    ec2 = cloud.ec2
    vpc, subnet = cloud.network("10.80.0.0/16", "10.80.1.0/24")
    instance = cloud.running(SubnetId=subnet)
    stopped = cloud.running(SubnetId=subnet)
    ec2.stop_instances(InstanceIds=[stopped])
    cloud.wait(stopped, "stopped")
    group = ec2.create_security_group(GroupName="dry", Description="d", VpcId=vpc)["GroupId"]
    table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    volume = ec2.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]
    wait_for(lambda: cloud.seen("volumes", volume), lambda v: v["state"] == "available")
    permission = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    before = cloud.state()
    for name, parameters in {
        "run_instances": {
            "ImageId": cloud.image(),
            "InstanceType": "t3.micro",
            "MinCount": 1,
            "MaxCount": 1,
            "ClientToken": "dry",
        },
        "terminate_instances": {"InstanceIds": [instance]},
        "stop_instances": {"InstanceIds": [instance]},
        "start_instances": {"InstanceIds": [stopped]},
        "reboot_instances": {"InstanceIds": [instance]},
        "modify_instance_attribute": {"InstanceId": stopped, "InstanceType": {"Value": "t3.large"}},
        "create_vpc": {"CidrBlock": "10.81.0.0/16"},
        "create_subnet": {"VpcId": vpc, "CidrBlock": "10.80.2.0/24"},
        "create_security_group": {"GroupName": "x", "Description": "d", "VpcId": vpc},
        "authorize_security_group_ingress": {"GroupId": group, "IpPermissions": permission},
        "revoke_security_group_egress": {"GroupId": group, "IpPermissions": permission},
        "delete_security_group": {"GroupId": group},
        "create_internet_gateway": {},
        "attach_internet_gateway": {"InternetGatewayId": gateway, "VpcId": vpc},
        "delete_internet_gateway": {"InternetGatewayId": gateway},
        "create_route_table": {"VpcId": vpc},
        "create_route": {"RouteTableId": table, "DestinationCidrBlock": "1.0.0.0/8", "GatewayId": gateway},
        "associate_route_table": {"RouteTableId": table, "SubnetId": subnet},
        "delete_route_table": {"RouteTableId": table},
        "delete_subnet": {"SubnetId": subnet},
        "delete_vpc": {"VpcId": vpc},
        "create_volume": {"AvailabilityZone": "us-east-1a", "Size": 1},
        "attach_volume": {"VolumeId": volume, "InstanceId": instance, "Device": "/dev/sdf"},
        "delete_volume": {"VolumeId": volume},
        "import_key_pair": {"KeyName": "dry", "PublicKeyMaterial": PUBLIC_KEY},
        "create_key_pair": {"KeyName": "dry"},
        "delete_key_pair": {"KeyName": "dry"},
        "create_tags": {"Resources": [instance], "Tags": [{"Key": "a", "Value": "b"}]},
        "delete_tags": {"Resources": [instance], "Tags": [{"Key": "a"}]},
        "describe_instances": {},
        "describe_volumes": {},
        "create_placement_group": {"GroupName": "dry", "Strategy": "spread"},
        "modify_instance_metadata_options": {"InstanceId": instance, "HttpTokens": "required"},
    }.items():
        with refused("DryRunOperation", 412):
            getattr(ec2, name)(DryRun=True, **parameters)
    equal(cloud.state(), before)
    with refused("InvalidInstanceID.NotFound"):
        ec2.terminate_instances(InstanceIds=["i-00000000000000000"], DryRun=True)
    # A dry run does not use up its token.
    cloud.run(ClientToken="dry", SubnetId=subnet)


def check_fault_before_has_no_effect(cloud):
    cloud.control(
        "POST",
        "faults",
        {
            "action": "RunInstances",
            "code": "InsufficientInstanceCapacity",
            "status": 500,
            "message": "none left",
            "times": 2,
            "skip": 1,
            "match": {"Placement.AvailabilityZone": "us-east-1[ab]"},
        },
    )
    before = len(cloud.state()["instances"])
    cloud.run(Placement={"AvailabilityZone": "us-east-1c"})
    cloud.run(Placement={"AvailabilityZone": "us-east-1a"})
    for zone in "ab":
        with refused("InsufficientInstanceCapacity", 500, "none left"):
            cloud.run(Placement={"AvailabilityZone": f"us-east-1{zone}"})
    cloud.run(Placement={"AvailabilityZone": "us-east-1a"})
    equal(len(cloud.state()["instances"]), before + 3)


def check_fault_after_has_its_effect(cloud):
    cloud.control("POST", "faults", {"action": "RunInstances", "when": "after", "kind": "reset"})
    asked = {"ClientToken": "after-reset", "TagSpecifications": [tags("instance", fault="after")]}
    try:
        cloud.run(**asked)
        raise AssertionError("answered")
    except ConnectionClosedError:
        pass
    made = [i["id"] for i in cloud.state()["instances"] if i["tags"].get("fault") == "after"]
    equal(len(made), 1)
    equal(cloud.run(**asked)["InstanceId"], made[0])
    equal([c["result"] for c in cloud.control("GET", "calls") if c["action"] == "RunInstances"], ["reset", "ok"])
    cloud.control("POST", "faults", {"action": "*", "when": "after", "code": "InternalError", "times": -1})
    for _ in range(3):
        with refused("InternalError", 500):
            cloud.ec2.create_internet_gateway(TagSpecifications=[tags("internet-gateway", f="1")])
    equal(len([g for g in cloud.state()["internet_gateways"] if g["tags"] == {"f": "1"}]), 3)
    cloud.control("DELETE", "faults")
    cloud.ec2.describe_vpcs()


def check_reset_is_a_reset(cloud):
    cloud.control("POST", "faults", {"action": "DescribeVpcs", "kind": "reset"})
    host, port = cloud.endpoint.removeprefix("http://").split(":")
    body = b"Action=DescribeVpcs&Version=2016-11-15"
    with socket.create_connection((host, int(port)), 5) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        try:
            raise AssertionError(connection.recv(1))
        except ConnectionResetError:
            pass


def check_hang_holds_up_nobody_else(cloud):
    cloud.control("POST", "faults", {"action": "DescribeVpcs", "kind": "hang"})
    slow = cloud.client("ec2", timeout=1)
    ended = []

    def ask():
        try:
            slow.describe_vpcs()
        except ReadTimeoutError:
            ended.append(True)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.3)
    cloud.ec2.describe_subnets()
    thread.join(10)
    equal(ended, [True])
    call = [c for c in cloud.control("GET", "calls") if c["action"] == "DescribeVpcs"][0]
    equal(call["result"], "hang")


def check_faults_and_dry_runs(cloud):
    cloud.control("POST", "faults", {"action": "CreateVpc", "code": "X", "times": 1})
    with refused("DryRunOperation", 412):
        cloud.ec2.create_vpc(CidrBlock="10.82.0.0/16", DryRun=True)
    with refused("X", 500):
        cloud.ec2.create_vpc(CidrBlock="10.82.0.0/16")
    cloud.control("POST", "faults", {"action": "CreateVpc", "code": "X", "dry_run": True})
    with refused("X", 500):
        cloud.ec2.create_vpc(CidrBlock="10.82.0.0/16", DryRun=True)
    try:
        cloud.control("POST", "faults", {"action": "CreateVpc", "kind": "nonsense"})
        raise AssertionError("accepted")
    except urllib.request.HTTPError as e:
        equal(e.code, 400)


def check_log_of_calls(cloud):
    cloud.control("DELETE", "calls")
    cloud.client("ec2", "AKIASOMEBODYELSE0000").describe_vpcs(Filters=filtered("is-default", "true"))
    cloud.client("ssm").get_parameters(Names=["/aws/service/debian/release/12/latest/amd64"])
    try:
        cloud.ec2.delete_vpc(VpcId="vpc-00000000000000000", DryRun=True)
    except ClientError:
        pass
    first, second, third = cloud.control("GET", "calls")
    equal(
        (first["service"], first["action"], first["params"], first["access_key"], first["result"], first["dry_run"]),
        (
            "ec2",
            "DescribeVpcs",
            {"Filter.1.Name": "is-default", "Filter.1.Value.1": "true"},
            "AKIASOMEBODYELSE0000",
            "ok",
            False,
        ),
    )
    equal((second["service"], second["params"]["Names.1"]), ("ssm", "/aws/service/debian/release/12/latest/amd64"))
    equal((third["result"], third["dry_run"]), ("InvalidVpcID.NotFound", True))
    equal([c["n"] for c in (first, second, third)], list(range(first["n"], first["n"] + 3)))


def check_bystander(cloud):
    other = cloud.control("POST", "bystander")
    state = {i["id"]: i for i in cloud.state()["instances"]}
    named = state[other["instance"]]
    equal((named["name"], named["tags"]["septet:name"]), ("other-host", "some-other-cluster"))
    assert len(named["tags"]["septet:cluster"]) == 36
    equal(state[other["untagged_instance"]]["tags"], {})
    for kind, name in (("volumes", "volume"), ("security_groups", "security_group"), ("key_pairs", "key_pair")):
        equal(cloud.seen(kind, other[name])["tags"], {})


def check_what_others_do_to_instances(cloud):
    instance = cloud.running(DisableApiTermination=True)
    cloud.control("POST", f"instances/{instance}/stop")
    cloud.wait(instance, "stopped")
    cloud.control("POST", f"instances/{instance}/start")
    cloud.wait(instance, "running")
    cloud.control("POST", f"instances/{instance}/kill")
    cloud.wait(instance, "stopped")
    cloud.control("POST", f"instances/{instance}/terminate")
    cloud.wait(instance, "terminated")
    equal([c for c in cloud.control("GET", "calls") if c["action"] == "TerminateInstances"], [])


def check_errors_are_never_html(cloud):
    with refused("InvalidAction"):
        cloud.ec2.meta.events.register("before-sign.ec2.DescribeVpcs", _rename)
        try:
            cloud.ec2.describe_vpcs()
        finally:
            cloud.ec2.meta.events.unregister("before-sign.ec2.DescribeVpcs", _rename)
    request = urllib.request.Request(f"{cloud.endpoint}/", data=b"Action=DescribeVpcs&Version=2016-11-15&Nonsense=1")
    try:
        urllib.request.urlopen(request)
        raise AssertionError("accepted")
    except urllib.request.HTTPError as e:
        body = e.read()
        equal(e.code, 400)
        assert b"<Code>UnknownParameter</Code>" in body and b"html" not in body.lower(), body
    # Known to AWS and not to moto: an error that the test sees, as XML.
    with refused("InternalError", 500):
        cloud.ec2.describe_volume_status()


def _rename(request, **_):
    request.data["Action"] = "DoNothing"


def check_end_of_input_ends_it(_):
    cloud = Cloud()
    cloud.ec2.describe_vpcs()
    equal(cloud.close(), 0)


def check_signals_end_it(_):
    for number in (signal.SIGTERM, signal.SIGINT):
        cloud = Cloud()
        cloud.process.send_signal(number)
        equal(cloud.process.wait(20), 0)
