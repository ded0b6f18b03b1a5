"""Policies."""

import json
import urllib.error

from checking import PUBLIC_KEY, equal, filtered, refused, tags

KEY, USER = "AKIATESTERTESTERTEST", "arn:aws:iam::123456789012:user/tester"


def _client(cloud, *statements, service="ec2"):
    policy = {"Version": "2012-10-17", "Statement": list(statements)}
    cloud.settings(iam={KEY: {"user": "tester", "policy": policy}})
    return cloud.client(service, KEY)


def _allow(action, resource="*", **condition):
    statement = {"Effect": "Allow", "Action": action, "Resource": resource}
    return {**statement, "Condition": condition} if condition else statement


def _launch(cloud, image, **parameters):
    return {"ImageId": image, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1, **parameters}


def check_nothing_is_allowed_by_default(cloud):
    ec2 = _client(cloud)
    says = (
        f"User: {USER} is not authorized to perform: ec2:DescribeVpcs on resource: * because no identity-based policy"
    )
    with refused("UnauthorizedOperation", 403, f"You are not authorized to perform this operation. {says}"):
        ec2.describe_vpcs()
    equal(cloud.client("sts", KEY).get_caller_identity()["Arn"], USER)
    with refused("AccessDeniedException"):
        cloud.client("ssm", KEY).get_parameter(Name="/aws/service/debian/release/12/latest/amd64")
    with refused("AccessDeniedException"):
        cloud.client("service-quotas", KEY).get_service_quota(ServiceCode="ec2", QuotaCode="L-1216C47A")
    with refused("AuthFailure", 401):
        cloud.client("ec2", "AKIANOBODYNOBODYNOBO").describe_vpcs()
    with refused("InvalidClientTokenId", 403):
        cloud.client("sts", "AKIANOBODYNOBODYNOBO").get_caller_identity()


def check_off_means_root(cloud):
    equal(cloud.client("sts").get_caller_identity()["Arn"], "arn:aws:iam::123456789012:root")


def check_services_beside_ec2(cloud):
    parameter = "arn:aws:ssm:*::parameter/aws/service/debian/*"
    _client(cloud, _allow("ssm:GetParameter", parameter), _allow("servicequotas:Get*"))
    ssm = cloud.client("ssm", KEY)
    assert ssm.get_parameter(Name="/aws/service/debian/release/12/latest/amd64")["Parameter"]["Value"]
    with refused("AccessDeniedException"):
        ssm.get_parameter(Name="/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64")
    cloud.client("service-quotas", KEY).get_service_quota(ServiceCode="ec2", QuotaCode="L-1216C47A")


def check_deny_beats_allow(cloud):
    ec2 = _client(cloud, _allow("ec2:*"), {"Effect": "Deny", "Action": "ec2:Delete*", "Resource": "*"})
    vpc = ec2.create_vpc(CidrBlock="10.90.0.0/16")["Vpc"]["VpcId"]
    with refused("UnauthorizedOperation", 403, "with an explicit deny"):
        ec2.delete_vpc(VpcId=vpc)
    with refused("UnauthorizedOperation", 403):
        ec2.delete_vpc(VpcId=vpc, DryRun=True)
    with refused("DryRunOperation", 412):
        ec2.create_vpc(CidrBlock="10.90.0.0/16", DryRun=True)


def check_launch_needs_all_of_its_resources(cloud):
    image, region = cloud.image(), "arn:aws:ec2:us-east-1"
    parts = {
        "instance": f"{region}:123456789012:instance/*",
        "volume": f"{region}:123456789012:volume/*",
        "network-interface": f"{region}:123456789012:network-interface/*",
        "security-group": f"{region}:123456789012:security-group/*",
        "subnet": f"{region}:123456789012:subnet/*",
        "key-pair": f"{region}:123456789012:key-pair/allowed",
        "image": f"{region}::image/*",
    }
    cloud.ec2.create_key_pair(KeyName="allowed")
    for missing in parts:
        ec2 = _client(cloud, _allow("ec2:RunInstances", [a for k, a in parts.items() if k != missing]))
        with refused("UnauthorizedOperation", 403, f"{missing}/"):
            ec2.run_instances(**_launch(cloud, image, KeyName="allowed"))
    ec2 = _client(cloud, _allow("ec2:RunInstances", list(parts.values())))
    ec2.run_instances(**_launch(cloud, image, KeyName="allowed"))
    ec2 = _client(
        cloud, _allow("ec2:RunInstances", list(parts.values()), StringEquals={"aws:RequestedRegion": "eu-west-1"})
    )
    with refused("UnauthorizedOperation", 403):
        ec2.run_instances(**_launch(cloud, image, KeyName="allowed"))


def check_tags_at_creation(cloud):
    image = cloud.image()
    tagged = _launch(cloud, image, TagSpecifications=[tags(k, **{"septet:name": "c"}) for k in ("instance", "volume")])
    ec2 = _client(cloud, _allow("ec2:RunInstances"))
    with refused(
        "UnauthorizedOperation", 403, "ec2:CreateTags on resource: arn:aws:ec2:us-east-1:123456789012:instance/*"
    ):
        ec2.run_instances(**tagged)
    creating = _allow("ec2:CreateTags", StringEquals={"ec2:CreateAction": ["RunInstances", "CreateVolume"]})
    ec2 = _client(cloud, _allow(["ec2:RunInstances", "ec2:DescribeInstances"]), creating)
    made = ec2.run_instances(**tagged)["Instances"][0]["InstanceId"]
    with refused("UnauthorizedOperation", 403):
        ec2.create_tags(Resources=[made], Tags=[{"Key": "a", "Value": "b"}])
    named = {"aws:RequestTag/septet:name": "c"}
    keys = {"aws:TagKeys": ["septet:name", "Name"]}
    ec2 = _client(
        cloud,
        _allow(
            "ec2:RunInstances", "arn:aws:ec2:*:*:instance/*", StringEquals=named, **{"ForAllValues:StringEquals": keys}
        ),
        _allow("ec2:RunInstances", ["arn:aws:ec2:*:*:volume/*", "arn:aws:ec2:*:*:network-interface/*"]),
        _allow("ec2:RunInstances", ["arn:aws:ec2:*:*:s*", "arn:aws:ec2:*::image/*"]),
        creating,
    )
    ec2.run_instances(**tagged)
    with refused("UnauthorizedOperation", 403, "instance/*"):
        ec2.run_instances(**_launch(cloud, image))
    for other in ({"septet:name": "d"}, {"septet:name": "c", "more": "x"}):
        with refused("UnauthorizedOperation", 403, "instance/*"):
            ec2.run_instances(**_launch(cloud, image, TagSpecifications=[tags("instance", **other)]))


def check_tags_of_what_is_there(cloud):
    mine = cloud.running(TagSpecifications=[tags("instance", **{"septet:name": "mine"})])
    other = cloud.control("POST", "bystander")["instance"]
    own = {"aws:ResourceTag/septet:name": "mine"}
    ec2 = _client(
        cloud,
        _allow("ec2:TerminateInstances", StringEquals=own),
        _allow("ec2:StopInstances", StringEquals={"ec2:ResourceTag/septet:name": "mine"}),
        _allow("ec2:CreateTags", StringEquals=own, **{"ForAnyValue:StringEquals": {"aws:TagKeys": ["ok"]}}),
    )
    with refused("UnauthorizedOperation", 403, f"instance/{other}"):
        ec2.terminate_instances(InstanceIds=[mine, other])
    with refused("UnauthorizedOperation", 403):
        ec2.stop_instances(InstanceIds=[other])
    ec2.create_tags(Resources=[mine], Tags=[{"Key": "ok", "Value": ""}])
    with refused("UnauthorizedOperation", 403):
        ec2.create_tags(Resources=[mine], Tags=[{"Key": "not", "Value": ""}])
    ec2.terminate_instances(InstanceIds=[mine])


def check_other_creating_calls(cloud):
    group = "arn:aws:ec2:*:*:security-group/*"
    tagged = {"TagSpecifications": [tags("security-group", **{"septet:name": "c"})]}
    vpc, _ = cloud.network("10.91.0.0/16", "10.91.1.0/24")
    asked = {"GroupName": "iam", "Description": "d", "VpcId": vpc, **tagged}
    ec2 = _client(cloud, _allow("ec2:CreateSecurityGroup", group), _allow("ec2:CreateTags"))
    with refused("UnauthorizedOperation", 403, f"vpc/{vpc}"):
        ec2.create_security_group(**asked)
    create = _allow("ec2:CreateSecurityGroup", [group, "arn:aws:ec2:*:*:vpc/*"])
    ec2 = _client(cloud, create)
    with refused("UnauthorizedOperation", 403, "ec2:CreateTags"):
        ec2.create_security_group(**asked)
    ec2 = _client(
        cloud, create, _allow("ec2:CreateTags", group, StringEquals={"ec2:CreateAction": "CreateSecurityGroup"})
    )
    ec2.create_security_group(**asked)
    ec2 = _client(cloud, _allow("ec2:ImportKeyPair", "arn:aws:ec2:*:*:key-pair/septet-*"))
    with refused("UnauthorizedOperation", 403, "key-pair/other"):
        ec2.import_key_pair(KeyName="other", PublicKeyMaterial=PUBLIC_KEY)
    ec2.import_key_pair(KeyName="septet-1", PublicKeyMaterial=PUBLIC_KEY)


def check_policies_that_are_not_understood(cloud):
    for statement in (
        {"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {"DateLessThan": {"aws:CurrentTime": "x"}}},
        {"Effect": "Perhaps", "Action": "*", "Resource": "*"},
        {"Effect": "Allow", "Action": "*", "Resource": "*", "Principal": "*"},
    ):
        try:
            _client(cloud, statement)
            raise AssertionError(f"accepted {json.dumps(statement)}")
        except urllib.error.HTTPError as e:
            equal(e.code, 400)


def check_policy_of_describing_only(cloud):
    ec2 = _client(cloud, _allow("ec2:Describe*"))
    ec2.describe_instances(Filters=filtered("instance-state-name", "running"))
    with refused("UnauthorizedOperation", 403):
        ec2.create_vpc(CidrBlock="10.92.0.0/16")
