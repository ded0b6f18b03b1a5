"""Launching, states, tokens, addresses of instances."""

import base64
import time
from concurrent.futures import ThreadPoolExecutor

from checking import equal, filtered, refused, tags, wait_for


def check_launch_goes_from_pending_to_running(cloud):
    cloud.settings(state_delay_s=0.3)
    made = cloud.run(TagSpecifications=[tags("instance", Name="a")])
    equal(made["State"], {"Code": 0, "Name": "pending"})
    equal(cloud.seen("instances", made["InstanceId"])["state"], "pending")
    seen = cloud.wait(made["InstanceId"], "running")
    equal((seen["name"], seen["type"], seen["zone"]), ("a", "t3.micro", "us-east-1a"))
    described = cloud.ec2.describe_instances(InstanceIds=[made["InstanceId"]])["Reservations"][0]["Instances"][0]
    equal(described["State"]["Name"], "running")
    equal(described["PrivateIpAddress"], made["PrivateIpAddress"])
    equal(described["MetadataOptions"]["HttpTokens"], "optional")


def check_token_replay_answers_the_first_result(cloud):
    asked = {"ClientToken": "token-1", "PrivateIpAddress": "172.31.0.77", "SubnetId": _subnet(cloud)}
    first = cloud.run(**asked)
    again = cloud.run(**asked)
    equal(again["InstanceId"], first["InstanceId"])
    with refused("IdempotentParameterMismatch"):
        cloud.run(**{**asked, "InstanceType": "t3.small"})
    cloud.ec2.terminate_instances(InstanceIds=[first["InstanceId"]])
    cloud.wait(first["InstanceId"], "terminated")
    dead = cloud.run(**asked)
    equal((dead["InstanceId"], dead["State"]["Name"]), (first["InstanceId"], "terminated"))
    other = cloud.run(**{**asked, "ClientToken": "token-2"})
    assert other["InstanceId"] != first["InstanceId"]
    found = cloud.ec2.describe_instances(Filters=filtered("client-token", "token-1"))["Reservations"]
    equal([i["InstanceId"] for r in found for i in r["Instances"]], [first["InstanceId"]])
    with refused("InvalidParameterValue"):
        cloud.run(ClientToken="x" * 65)


def check_token_at_the_same_time(cloud):
    image = cloud.image()
    asked = {"ImageId": image, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1, "ClientToken": "same"}
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: cloud.ec2.run_instances(**asked)["Instances"][0]["InstanceId"], range(16)))
    equal(len(set(made)), 1)


def check_failed_launch_does_not_use_its_token(cloud):
    with refused("InvalidKeyPair.NotFound", says="The key pair 'none' does not exist"):
        cloud.run(ClientToken="unused", KeyName="none")
    assert cloud.run(ClientToken="unused")["InstanceId"]


def check_private_address_in_use_out_of_range_reserved(cloud):
    vpc, subnet = cloud.network()
    first = cloud.running(SubnetId=subnet, PrivateIpAddress="10.7.1.10")
    with refused("InvalidIPAddress.InUse", says="Address 10.7.1.10 is in use."):
        cloud.run(SubnetId=subnet, PrivateIpAddress="10.7.1.10")
    for address in ("10.7.2.10", "10.7.1.0", "10.7.1.1", "10.7.1.3", "10.7.1.255", "10.7.1.256", "word"):
        with refused("InvalidParameterValue"):
            cloud.run(SubnetId=subnet, PrivateIpAddress=address)
    with refused("InvalidParameterCombination"):
        cloud.run(SubnetId=subnet, PrivateIpAddress="10.7.1.20", MaxCount=2)
    cloud.settings(state_delay_s=0.4)
    cloud.ec2.terminate_instances(InstanceIds=[first])
    with refused("InvalidIPAddress.InUse"):
        cloud.run(SubnetId=subnet, PrivateIpAddress="10.7.1.10")
    cloud.wait(first, "terminated")
    equal(cloud.run(SubnetId=subnet, PrivateIpAddress="10.7.1.10")["PrivateIpAddress"], "10.7.1.10")
    by_interface = cloud.run(
        NetworkInterfaces=[{"DeviceIndex": 0, "SubnetId": subnet, "PrivateIpAddress": "10.7.1.11"}]
    )
    equal(by_interface["PrivateIpAddress"], "10.7.1.11")


def check_terminated_instances_stay_without_addresses(cloud):
    vpc, subnet = cloud.network("10.17.0.0/16", "10.17.1.0/24")
    ids = [cloud.running(SubnetId=subnet) for _ in range(2)]
    answer = cloud.ec2.terminate_instances(InstanceIds=ids)["TerminatingInstances"]
    equal({(a["PreviousState"]["Name"], a["CurrentState"]["Name"]) for a in answer}, {("running", "shutting-down")})
    for i in ids:
        cloud.wait(i, "terminated")
    found = cloud.ec2.describe_instances(InstanceIds=ids)["Reservations"]
    for instance in [i for r in found for i in r["Instances"]]:
        equal(instance["State"], {"Code": 48, "Name": "terminated"})
        for name in ("PrivateIpAddress", "PublicIpAddress", "SubnetId", "VpcId"):
            assert name not in instance, name
        equal(instance.get("NetworkInterfaces", []), [])
        equal(instance["StateReason"]["Code"], "Client.UserInitiatedShutdown")
    again = cloud.ec2.terminate_instances(InstanceIds=ids)["TerminatingInstances"]
    equal({a["CurrentState"]["Name"] for a in again}, {"terminated"})
    equal(cloud.ec2.describe_network_interfaces(Filters=filtered("subnet-id", subnet))["NetworkInterfaces"], [])


def check_public_address_goes_with_a_stop(cloud):
    instance = cloud.running()
    before = cloud.seen("instances", instance)
    assert before["public_ip"], before
    cloud.ec2.stop_instances(InstanceIds=[instance])
    equal(cloud.wait(instance, "stopped")["public_ip"], None)
    cloud.ec2.start_instances(InstanceIds=[instance])
    after = cloud.wait(instance, "running")
    equal(after["private_ip"], before["private_ip"])
    assert after["public_ip"] and after["public_ip"] != before["public_ip"], (before, after)
    vpc, subnet = cloud.network("10.27.0.0/16", "10.27.1.0/24")
    equal(cloud.seen("instances", cloud.running(SubnetId=subnet))["public_ip"], None)
    spec = {"DeviceIndex": 0, "SubnetId": subnet, "AssociatePublicIpAddress": True}
    assert cloud.seen("instances", cloud.running(NetworkInterfaces=[spec]))["public_ip"]
    cloud.ec2.modify_subnet_attribute(SubnetId=subnet, MapPublicIpOnLaunch={"Value": True})
    assert cloud.seen("instances", cloud.running(SubnetId=subnet))["public_ip"]
    spec["AssociatePublicIpAddress"] = False
    equal(cloud.seen("instances", cloud.running(NetworkInterfaces=[spec]))["public_ip"], None)


def check_states_that_do_not_allow(cloud):
    cloud.settings(state_delay_s=0.8)
    instance = cloud.run()["InstanceId"]
    with refused("IncorrectInstanceState"):
        cloud.ec2.stop_instances(InstanceIds=[instance])
    cloud.wait(instance, "running")
    same = cloud.ec2.start_instances(InstanceIds=[instance])["StartingInstances"][0]
    equal((same["PreviousState"]["Name"], same["CurrentState"]["Name"]), ("running", "running"))
    with refused("IncorrectInstanceState"):
        cloud.ec2.modify_instance_attribute(InstanceId=instance, InstanceType={"Value": "t3.small"})
    with refused("IncorrectInstanceState"):
        cloud.ec2.modify_instance_attribute(InstanceId=instance, UserData={"Value": b"new"})
    cloud.ec2.stop_instances(InstanceIds=[instance])
    equal(cloud.seen("instances", instance)["state"], "stopping")
    with refused("IncorrectInstanceState"):
        cloud.ec2.start_instances(InstanceIds=[instance])
    with refused("IncorrectInstanceState"):
        cloud.ec2.modify_instance_attribute(InstanceId=instance, InstanceType={"Value": "t3.small"})
    cloud.wait(instance, "stopped")
    cloud.ec2.modify_instance_attribute(InstanceId=instance, InstanceType={"Value": "t3.small"})
    cloud.ec2.modify_instance_attribute(InstanceId=instance, UserData={"Value": b"#cloud-config\n{}\n"})
    with refused("InvalidParameterValue"):
        cloud.ec2.modify_instance_attribute(InstanceId=instance, InstanceType={"Value": "t4g.small"})
    seen = cloud.seen("instances", instance)
    equal((seen["type"], seen["user_data"]), ("t3.small", "#cloud-config\n{}\n"))
    told = cloud.ec2.describe_instance_attribute(InstanceId=instance, Attribute="userData")["UserData"]["Value"]
    equal(base64.b64decode(told), b"#cloud-config\n{}\n")
    cloud.ec2.terminate_instances(InstanceIds=[instance])
    for call in (cloud.ec2.start_instances, cloud.ec2.stop_instances, cloud.ec2.reboot_instances):
        with refused("IncorrectInstanceState"):
            call(InstanceIds=[instance])


def check_termination_protection(cloud):
    instance = cloud.running(DisableApiTermination=True)
    with refused("OperationNotPermitted", says="disableApiTermination"):
        cloud.ec2.terminate_instances(InstanceIds=[instance])
    cloud.ec2.modify_instance_attribute(InstanceId=instance, DisableApiTermination={"Value": False})
    cloud.ec2.modify_instance_attribute(InstanceId=instance, Attribute="disableApiTermination", Value="true")
    with refused("OperationNotPermitted"):
        cloud.ec2.terminate_instances(InstanceIds=[instance])
    cloud.ec2.modify_instance_attribute(InstanceId=instance, Attribute="disableApiTermination", Value="false")
    cloud.ec2.terminate_instances(InstanceIds=[instance])
    cloud.wait(instance, "terminated")


def check_what_shuts_itself_down(cloud):
    def volumes(instance):
        return {v["device"]: v["id"] for v in cloud.seen("instances", instance)["volumes"]}

    data = [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 10, "VolumeType": "gp3", "DeleteOnTermination": False}}]
    # What the attribute is, if nothing is asked for, and protection is against calls only.
    stops = cloud.running(DisableApiStop=True)
    ends = cloud.running(
        InstanceInitiatedShutdownBehavior="terminate", DisableApiTermination=True, BlockDeviceMappings=data
    )
    changed = cloud.running()
    terminate = {"Value": "terminate"}
    cloud.ec2.modify_instance_attribute(InstanceId=changed, InstanceInitiatedShutdownBehavior=terminate)
    with refused("InvalidParameterValue"):
        cloud.ec2.modify_instance_attribute(InstanceId=changed, InstanceInitiatedShutdownBehavior={"Value": "end"})
    behaviors = {i: cloud.seen("instances", i)["shutdown_behavior"] for i in (stops, ends, changed)}
    equal(behaviors, {stops: "stop", ends: "terminate", changed: "terminate"})
    there = volumes(ends)
    for instance in behaviors:
        cloud.control("POST", f"instances/{instance}/poweroff")
    equal(cloud.wait(stops, "stopped")["public_ip"], None)
    assert cloud.seen("volumes", volumes(stops)["/dev/xvda"]), "a stop keeps the volumes"
    for instance in (ends, changed):
        seen = cloud.wait(instance, "terminated")
        equal((seen["state_reason"], seen["private_ip"]), ("Client.InstanceInitiatedShutdown", None))
        assert instance not in [n["instance"] for n in cloud.state()["network_interfaces"]]
    equal(cloud.seen("volumes", there["/dev/xvda"]), None)
    equal(cloud.seen("volumes", there["/dev/sdf"])["state"], "available")
    # It is down: there is nothing that could shut itself down.
    cloud.control("POST", f"instances/{stops}/poweroff")
    equal(cloud.seen("instances", stops)["state"], "stopped")
    cloud.ec2.start_instances(InstanceIds=[stops])
    cloud.wait(stops, "running")


def check_filters_of_instances(cloud):
    vpc, subnet = cloud.network("10.47.0.0/16", "10.47.1.0/24")
    one = cloud.running(SubnetId=subnet, TagSpecifications=[tags("instance", Name="web-1", tier="x")])
    two = cloud.running(SubnetId=subnet, TagSpecifications=[tags("instance", Name="db-1", tier="y")])
    here = filtered("vpc-id", vpc)

    def found(*pairs):
        answer = cloud.ec2.describe_instances(Filters=here + [f for n, v in pairs for f in filtered(n, *v)])
        return {i["InstanceId"] for r in answer["Reservations"] for i in r["Instances"]}

    equal(found(("tag:Name", ["web-*"])), {one})
    equal(found(("tag:Name", ["web-*", "db-?"])), {one, two})
    equal(found(("tag:Name", ["web-*"]), ("tag:tier", ["y"])), set())
    equal(found(("tag-key", ["tier"])), {one, two})
    equal(found(("instance-state-name", ["pending", "running"])), {one, two})
    equal(found(("network-interface.subnet-id", [subnet])), {one, two})
    equal(found(("network-interface.addresses.private-ip-address", ["10.47.1.4"])), {one})
    equal(found(("private-ip-address", ["10.47.1.5"])), {two})
    equal(found(("hibernation-options.configured", ["true"])), set())
    with refused("InvalidParameterValue", says="The filter 'colour' is invalid"):
        found(("colour", ["red"]))


def check_pages(cloud):
    vpc, subnet = cloud.network("10.57.0.0/16", "10.57.1.0/24")
    made = {cloud.run(SubnetId=subnet)["InstanceId"] for _ in range(7)}

    def pages(**options):
        asked = cloud.ec2.get_paginator("describe_instances").paginate(Filters=filtered("vpc-id", vpc), **options)
        return [{i["InstanceId"] for r in p["Reservations"] for i in r["Instances"]} for p in asked]

    equal([len(p) for p in pages()], [7])
    cut = pages(PaginationConfig={"PageSize": 5})
    equal(([len(p) for p in cut], set().union(*cut)), ([5, 2], made))
    cloud.settings(page_size=2)
    cut = pages()
    equal(([len(p) for p in cut], set().union(*cut)), ([2, 2, 2, 1], made))
    volumes = cloud.ec2.describe_volumes(MaxResults=100)
    equal((len(volumes["Volumes"]), "NextToken" in volumes), (2, True))
    with refused("InvalidParameterValue"):
        cloud.ec2.describe_instances(MaxResults=2)
    with refused("InvalidParameterCombination"):
        cloud.ec2.describe_instances(InstanceIds=list(made), MaxResults=10)


def check_eventual_consistency(cloud):
    cloud.settings(consistency_ms=1500)
    made = cloud.run(TagSpecifications=[tags("instance", wait="yes")])["InstanceId"]
    started = time.monotonic()
    with refused("InvalidInstanceID.NotFound", says=f"The instance ID '{made}' does not exist"):
        cloud.ec2.describe_instances(InstanceIds=[made])
    by_tag = filtered("tag:wait", "yes")
    equal(cloud.ec2.describe_instances(Filters=by_tag)["Reservations"], [])
    wait_for(lambda: cloud.ec2.describe_instances(Filters=by_tag)["Reservations"], lambda r: len(r) == 1)
    assert time.monotonic() - started > 1
    cloud.ec2.describe_instances(InstanceIds=[made])
    vpc = cloud.ec2.create_vpc(CidrBlock="10.66.0.0/16")["Vpc"]["VpcId"]
    for call in (
        lambda: cloud.ec2.describe_vpcs(VpcIds=[vpc]),
        lambda: cloud.ec2.describe_vpc_attribute(VpcId=vpc, Attribute="enableDnsSupport"),
    ):
        with refused("InvalidVpcID.NotFound"):
            call()
    # A call that changes something knows it, unless it is asked to be as late.
    cloud.ec2.create_subnet(VpcId=vpc, CidrBlock="10.66.1.0/24")
    cloud.settings(late_everywhere=True)
    with refused("InvalidVpcID.NotFound"):
        cloud.ec2.create_subnet(VpcId=vpc, CidrBlock="10.66.2.0/24")


def check_what_an_account_has_anyway_is_not_new(cloud):
    cloud.settings(consistency_ms=60_000)
    untouched = cloud.client("ec2", region="eu-central-1")
    for _ in range(2):
        equal(len(untouched.describe_vpcs(Filters=filtered("is-default", "true"))["Vpcs"]), 1)
        equal(len(untouched.describe_subnets()["Subnets"]), 3)


def check_metadata_options_and_groups_change(cloud):
    instance = cloud.running(MetadataOptions={"HttpTokens": "required", "HttpPutResponseHopLimit": 3})
    cloud.ec2.modify_instance_metadata_options(InstanceId=instance, InstanceMetadataTags="enabled")
    equal(
        cloud.seen("instances", instance)["metadata_options"],
        {
            "http_tokens": "required",
            "http_endpoint": "enabled",
            "http_put_response_hop_limit": 3,
            "instance_metadata_tags": "enabled",
        },
    )
    groups = [cloud.ec2.create_security_group(GroupName=f"change-{n}", Description="d")["GroupId"] for n in range(2)]
    cloud.ec2.modify_instance_attribute(InstanceId=instance, Groups=[groups[0]])
    equal(cloud.seen("instances", instance)["groups"], [groups[0]])
    eni = next(n["id"] for n in cloud.state()["network_interfaces"] if n["instance"] == instance)
    cloud.ec2.modify_network_interface_attribute(NetworkInterfaceId=eni, Groups=[groups[1]])
    equal(cloud.seen("instances", instance)["groups"], [groups[1]])
    cloud.ec2.delete_security_group(GroupId=groups[0])
    with refused("DependencyViolation"):
        cloud.ec2.delete_security_group(GroupId=groups[1])


def _subnet(cloud):
    chosen = filtered("default-for-az", "true") + filtered("availability-zone", "us-east-1a")
    return cloud.ec2.describe_subnets(Filters=chosen)["Subnets"][0]["SubnetId"]
