"""Networks, security groups, key pairs, and what depends on what."""

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from checking import equal, filtered, refused, tags


def _group(cloud, vpc, name="g", **tagged):
    extra = {"TagSpecifications": [tags("security-group", **tagged)]} if tagged else {}
    return cloud.ec2.create_security_group(GroupName=name, Description="d", VpcId=vpc, **extra)["GroupId"]


def _public_key():
    key = Ed25519PrivateKey.generate().public_key()
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH) + b" me@here"


def _tcp(port, *, cidr=None, group=None, description=None):
    peer = {"CidrIp": cidr} if cidr else {"GroupId": group}
    if description:
        peer["Description"] = description
    return {
        "IpProtocol": "tcp",
        "FromPort": port,
        "ToPort": port,
        "IpRanges" if cidr else "UserIdGroupPairs": [peer],
    }


def check_default_network(cloud):
    state = cloud.state()
    vpc = next(v for v in state["vpcs"] if v["default"])
    equal((vpc["id"], vpc["cidr"]), (state["default_vpc"], "172.31.0.0/16"))
    default = {s["zone"]: s for s in state["subnets"] if s["default_for_az"]}
    equal(sorted(default), [f"us-east-1{z}" for z in "abcdef"])
    assert all(s["map_public_ip_on_launch"] and s["cidr"].endswith("/20") for s in default.values())
    table = next(t for t in state["route_tables"] if t["vpc"] == vpc["id"] and t["main"])
    equal({r["destination"] for r in table["routes"]}, {"172.31.0.0/16", "0.0.0.0/0"})
    zones = cloud.ec2.describe_availability_zones(Filters=filtered("opt-in-status", "opt-in-not-required"))
    equal(len(zones["AvailabilityZones"]), 6)
    with refused("InvalidParameterValue"):
        cloud.ec2.describe_availability_zones(ZoneNames=["us-east-1x"])


def check_network_from_nothing_to_nothing(cloud):
    ec2 = cloud.ec2
    vpc = ec2.create_vpc(CidrBlock="10.60.0.0/16", TagSpecifications=[tags("vpc", c="1")])["Vpc"]["VpcId"]
    ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})
    subnet = ec2.create_subnet(
        VpcId=vpc, CidrBlock="10.60.1.0/24", AvailabilityZone="us-east-1b", TagSpecifications=[tags("subnet", c="1")]
    )["Subnet"]["SubnetId"]
    with refused("InvalidSubnet.Conflict"):
        ec2.create_subnet(VpcId=vpc, CidrBlock="10.60.1.128/25")
    with refused("InvalidSubnet.Range"):
        ec2.create_subnet(VpcId=vpc, CidrBlock="10.61.1.0/24")
    gateway = ec2.create_internet_gateway(TagSpecifications=[tags("internet-gateway", c="1")])
    gateway = gateway["InternetGateway"]["InternetGatewayId"]
    table = ec2.create_route_table(VpcId=vpc, TagSpecifications=[tags("route-table", c="1")])
    table = table["RouteTable"]["RouteTableId"]
    with refused("InvalidParameterValue", says="belong to different networks"):
        ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    ec2.attach_internet_gateway(VpcId=vpc, InternetGatewayId=gateway)
    with refused("Resource.AlreadyAssociated"):
        ec2.attach_internet_gateway(VpcId=vpc, InternetGatewayId=gateway)
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    with refused("RouteAlreadyExists"):
        ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    association = ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)["AssociationId"]
    by_subnet = ec2.describe_route_tables(Filters=filtered("association.subnet-id", subnet))["RouteTables"]
    equal([t["RouteTableId"] for t in by_subnet], [table])
    for kind in ("vpcs", "subnets", "internet_gateways", "route_tables"):
        equal([x["tags"] for x in cloud.state()[kind] if x["tags"]], [{"c": "1"}])
    group = _group(cloud, vpc, c="1")
    ec2.modify_subnet_attribute(SubnetId=subnet, MapPublicIpOnLaunch={"Value": True})
    instance = cloud.running(SubnetId=subnet, SecurityGroupIds=[group])
    _all_in_use(ec2, vpc, subnet, gateway, table, group)
    cloud.settings(state_delay_s=1)
    ec2.terminate_instances(InstanceIds=[instance])
    # While it is going it still is in the way.
    _all_in_use(ec2, vpc, subnet, gateway, table, group)
    cloud.wait(instance, "terminated")
    ec2.detach_internet_gateway(VpcId=vpc, InternetGatewayId=gateway)
    route = [r for r in cloud.seen("route_tables", table)["routes"] if r["destination"] == "0.0.0.0/0"]
    equal(route[0]["state"], "blackhole")
    ec2.delete_internet_gateway(InternetGatewayId=gateway)
    ec2.disassociate_route_table(AssociationId=association)
    ec2.delete_route_table(RouteTableId=table)
    ec2.delete_security_group(GroupId=group)
    ec2.delete_subnet(SubnetId=subnet)
    ec2.delete_vpc(VpcId=vpc)
    with refused("InvalidVpcID.NotFound"):
        ec2.describe_vpcs(VpcIds=[vpc])
    state = cloud.state()
    for kind in ("subnets", "security_groups", "route_tables", "internet_gateways", "network_interfaces"):
        assert not [x for x in state[kind] if x.get("vpc") == vpc], kind
    equal(ec2.describe_tags(Filters=filtered("resource-id", vpc, subnet, group, gateway, table))["Tags"], [])


def _all_in_use(ec2, vpc, subnet, gateway, table, group):
    with refused("DependencyViolation"):
        ec2.delete_vpc(VpcId=vpc)
    with refused("DependencyViolation"):
        ec2.delete_subnet(SubnetId=subnet)
    with refused("DependencyViolation", says="mapped public address"):
        ec2.detach_internet_gateway(VpcId=vpc, InternetGatewayId=gateway)
    with refused("DependencyViolation"):
        ec2.delete_internet_gateway(InternetGatewayId=gateway)
    with refused("DependencyViolation"):
        ec2.delete_route_table(RouteTableId=table)
    with refused("DependencyViolation", says="has a dependent object"):
        ec2.delete_security_group(GroupId=group)


def check_subnet_deletion_takes_its_association_along(cloud):
    vpc, subnet = cloud.network("10.62.0.0/16", "10.62.1.0/24")
    table = cloud.ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    cloud.ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
    cloud.ec2.delete_subnet(SubnetId=subnet)
    cloud.ec2.delete_route_table(RouteTableId=table)
    cloud.ec2.delete_vpc(VpcId=vpc)


def check_group_that_another_names(cloud):
    vpc, _ = cloud.network("10.63.0.0/16", "10.63.1.0/24")
    one, two = _group(cloud, vpc, "one"), _group(cloud, vpc, "two")
    cloud.ec2.authorize_security_group_ingress(GroupId=one, IpPermissions=[_tcp(22, group=one), _tcp(9092, group=two)])
    with refused("DependencyViolation"):
        cloud.ec2.delete_security_group(GroupId=two)
    with refused("DependencyViolation"):
        cloud.ec2.delete_vpc(VpcId=vpc)
    cloud.ec2.revoke_security_group_ingress(GroupId=one, IpPermissions=[_tcp(9092, group=two)])
    cloud.ec2.delete_security_group(GroupId=two)
    # That it names itself does not keep a group.
    cloud.ec2.delete_security_group(GroupId=one)
    default = next(g for g in cloud.state()["security_groups"] if g["vpc"] == vpc)
    with refused("CannotDelete"):
        cloud.ec2.delete_security_group(GroupId=default["id"])
    with refused("InvalidGroup.NotFound"):
        cloud.ec2.delete_security_group(GroupId=one)


def check_rules(cloud):
    vpc, _ = cloud.network("10.64.0.0/16", "10.64.1.0/24")
    group = _group(cloud, vpc, "rules")
    equal(cloud.seen("security_groups", group)["egress"], ["all 0.0.0.0/0"])
    both = [_tcp(22, cidr="10.0.0.0/8", description="ssh"), _tcp(9092, group=group, description="kafka")]
    made = cloud.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=both)["SecurityGroupRules"]
    equal([(r["FromPort"], r["IsEgress"]) for r in made], [(22, False), (9092, False)])
    seen = cloud.seen("security_groups", group)
    equal(seen["ingress"], ["tcp 22 10.0.0.0/8", f"tcp 9092 {group}"])
    equal(seen["descriptions"], {"tcp 22 10.0.0.0/8": "ssh", f"tcp 9092 {group}": "kafka"})
    # All or nothing, and a description makes no other rule of it.
    with refused("InvalidPermission.Duplicate"):
        cloud.ec2.authorize_security_group_ingress(
            GroupId=group, IpPermissions=[_tcp(80, cidr="10.0.0.0/8"), _tcp(9092, group=group, description="other")]
        )
    equal(cloud.seen("security_groups", group)["ingress"], ["tcp 22 10.0.0.0/8", f"tcp 9092 {group}"])
    with refused("InvalidPermission.NotFound"):
        cloud.ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[_tcp(23, cidr="10.0.0.0/8")])
    with refused("InvalidGroup.NotFound"):
        cloud.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[_tcp(1, group="sg-00000000000000000")])
    with refused("InvalidParameterValue"):
        cloud.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[_tcp(22, cidr="10.0.0.0/99")])
    with refused("InvalidParameterValue", says="portRange"):
        cloud.ec2.authorize_security_group_ingress(
            GroupId=group, IpPermissions=[{"IpProtocol": "tcp", "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}]
        )
    listed = cloud.ec2.describe_security_group_rules(Filters=filtered("group-id", group))["SecurityGroupRules"]
    equal(len(listed), 3)
    ids = [r["SecurityGroupRuleId"] for r in listed if not r["IsEgress"]]
    cloud.ec2.revoke_security_group_ingress(GroupId=group, SecurityGroupRuleIds=ids)
    equal(cloud.seen("security_groups", group)["ingress"], [])
    everything = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    cloud.ec2.revoke_security_group_egress(GroupId=group, IpPermissions=everything)
    equal(cloud.seen("security_groups", group)["egress"], [])
    with refused("InvalidGroup.Duplicate"):
        _group(cloud, vpc, "rules")
    by_name = filtered("vpc-id", vpc) + filtered("group-name", "rul*")
    equal([g["GroupId"] for g in cloud.ec2.describe_security_groups(Filters=by_name)["SecurityGroups"]], [group])


def check_key_pairs(cloud):
    public = _public_key()
    made = cloud.ec2.import_key_pair(
        KeyName="mine", PublicKeyMaterial=public, TagSpecifications=[tags("key-pair", owner="me")]
    )
    with refused("InvalidKeyPair.Duplicate", says="already exists"):
        cloud.ec2.import_key_pair(KeyName="mine", PublicKeyMaterial=public)
    with refused("InvalidKey.Format"):
        cloud.ec2.import_key_pair(KeyName="bad", PublicKeyMaterial=b"nonsense")
    told = cloud.ec2.describe_key_pairs(Filters=filtered("tag:owner", "me"), IncludePublicKey=True)["KeyPairs"][0]
    equal((told["KeyName"], told["KeyType"], told["KeyPairId"]), ("mine", "ed25519", made["KeyPairId"]))
    equal(told["PublicKey"].split()[1], public.decode().split()[1])
    assert len(told["KeyFingerprint"]) == 44 and told["KeyFingerprint"].endswith("="), told
    with refused("InvalidKeyPair.NotFound"):
        cloud.ec2.describe_key_pairs(KeyNames=["nobody"])
    equal(cloud.seen("instances", cloud.run(KeyName="mine")["InstanceId"])["key"], "mine")
    cloud.ec2.delete_key_pair(KeyPairId=made["KeyPairId"])
    cloud.ec2.delete_key_pair(KeyName="mine")
    with refused("InvalidKeyPair.NotFound"):
        cloud.ec2.delete_key_pair(KeyPairId=made["KeyPairId"])


def check_interfaces(cloud):
    vpc, subnet = cloud.network("10.65.0.0/16", "10.65.1.0/24")
    group = _group(cloud, vpc, "i")
    instance = cloud.running(
        SubnetId=subnet, SecurityGroupIds=[group], TagSpecifications=[tags("network-interface", c="1")]
    )
    for name, value in (("subnet-id", subnet), ("vpc-id", vpc), ("group-id", group), ("tag:c", "1")):
        found = cloud.ec2.describe_network_interfaces(Filters=filtered(name, value))["NetworkInterfaces"]
        equal([n["Attachment"]["InstanceId"] for n in found], [instance])
        equal((found[0]["PrivateIpAddress"], found[0]["TagSet"]), ("10.65.1.4", [{"Key": "c", "Value": "1"}]))
        equal(found[0]["Attachment"]["DeleteOnTermination"], True)
    other = cloud.control("POST", "bystander")
    mine = {n["PrivateIpAddress"] for n in cloud.ec2.describe_network_interfaces()["NetworkInterfaces"]}
    assert set(other["private_ips"]) <= mine


def check_tag_limits(cloud):
    instance = cloud.running()
    many = {f"k{n}": "v" for n in range(51)}
    with refused("TagLimitExceeded"):
        cloud.run(TagSpecifications=[tags("instance", **many)])
    cloud.ec2.create_tags(Resources=[instance], Tags=tags("", **dict(list(many.items())[:50]))["Tags"])
    with refused("TagLimitExceeded"):
        cloud.ec2.create_tags(Resources=[instance], Tags=[{"Key": "one-more", "Value": ""}])
    cloud.ec2.create_tags(Resources=[instance], Tags=[{"Key": "k1", "Value": "again"}])
    cloud.ec2.delete_tags(Resources=[instance], Tags=[{"Key": "k2"}])
    seen = cloud.seen("instances", instance)["tags"]
    equal((seen["k1"], "k2" in seen), ("again", False))
    for bad in ({"Key": "aws:x", "Value": ""}, {"Key": "k" * 129, "Value": ""}, {"Key": "k", "Value": "v" * 257}):
        with refused("InvalidParameterValue"):
            cloud.ec2.create_tags(Resources=[instance], Tags=[bad])
    with refused("InvalidParameterValue", says="Duplicate tag key"):
        cloud.ec2.create_tags(Resources=[instance], Tags=[{"Key": "k", "Value": ""}] * 2)
    with refused("InvalidInstanceID.NotFound"):
        cloud.ec2.create_tags(Resources=["i-00000000000000000"], Tags=[{"Key": "k", "Value": ""}])
    listed = cloud.ec2.describe_tags(Filters=filtered("resource-id", instance) + filtered("key", "k1"))["Tags"]
    equal(listed, [{"Key": "k1", "ResourceId": instance, "ResourceType": "instance", "Value": "again"}])
    with refused("InvalidParameterValue", says="not a valid taggable resource type"):
        cloud.run(TagSpecifications=[tags("vpc", a="b")])


def check_placement_groups(cloud):
    cloud.ec2.create_placement_group(
        GroupName="spread", Strategy="spread", TagSpecifications=[tags("placement-group", a="b")]
    )
    with refused("InvalidPlacementGroup.Duplicate"):
        cloud.ec2.create_placement_group(GroupName="spread", Strategy="spread")
    instance = cloud.running(Placement={"GroupName": "spread"})
    equal(cloud.seen("instances", instance)["placement_group"], "spread")
    with refused("InvalidPlacementGroup.InUse"):
        cloud.ec2.delete_placement_group(GroupName="spread")
    cloud.ec2.terminate_instances(InstanceIds=[instance])
    cloud.wait(instance, "terminated")
    cloud.ec2.delete_placement_group(GroupName="spread")
    with refused("InvalidPlacementGroup.Unknown"):
        cloud.ec2.describe_placement_groups(GroupNames=["spread"])
