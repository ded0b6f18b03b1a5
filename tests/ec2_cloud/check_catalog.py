"""What there is to launch: types, images, spot, limits, and what is refused."""

from checking import equal, filtered, refused, tags


def check_unknown_things_in_a_launch(cloud):
    for code, parameters in (
        ("InvalidAMIID.NotFound", {"ImageId": "ami-00000000000000000"}),
        ("InvalidAMIID.Malformed", {"ImageId": "debian"}),
        ("InvalidSubnetID.NotFound", {"SubnetId": "subnet-00000000000000000"}),
        ("InvalidGroup.NotFound", {"SecurityGroupIds": ["sg-00000000000000000"]}),
        ("InvalidKeyPair.NotFound", {"KeyName": "nobody"}),
        ("InvalidParameterValue", {"InstanceType": "t9.huge"}),
        ("InvalidParameterValue", {"ImageId": cloud.image("arm64")}),
        ("InvalidParameterValue", {"UserData": "x" * 16385}),
        ("InvalidPlacementGroup.Unknown", {"Placement": {"GroupName": "none"}}),
    ):
        with refused(code):
            cloud.run(**parameters)
    with refused("Unsupported", says="choosing us-east-1a, us-east-1b"):
        cloud.run(Placement={"AvailabilityZone": "us-east-1e"})
    vpc, subnet = cloud.network("10.37.0.0/16", "10.37.1.0/24")
    default = cloud.ec2.describe_security_groups(Filters=filtered("vpc-id", cloud.state()["default_vpc"]))
    with refused("InvalidParameter", says="belong to different networks"):
        cloud.run(SubnetId=subnet, SecurityGroupIds=[default["SecurityGroups"][0]["GroupId"]])
    with refused("InvalidInstanceID.NotFound"):
        cloud.ec2.describe_instances(InstanceIds=["i-00000000000000000"])
    with refused("InvalidInstanceID.Malformed"):
        cloud.ec2.terminate_instances(InstanceIds=["i-zzz"])


def check_instance_types_and_offerings(cloud):
    types = cloud.ec2.describe_instance_types(InstanceTypes=["t3.micro", "t4g.small"])["InstanceTypes"]
    equal({t["InstanceType"]: t["ProcessorInfo"]["SupportedArchitectures"][0] for t in types}["t4g.small"], "arm64")
    with refused("InvalidInstanceType"):
        cloud.ec2.describe_instance_types(InstanceTypes=["t9.huge"])
    offered = cloud.ec2.describe_instance_type_offerings(
        LocationType="availability-zone", Filters=filtered("instance-type", "m6i.large")
    )["InstanceTypeOfferings"]
    equal(sorted(o["Location"][-1] for o in offered), list("abcdf"))
    in_e = filtered("location", "us-east-1e") + filtered("instance-type", "t3.*")
    equal(
        cloud.ec2.describe_instance_type_offerings(LocationType="availability-zone", Filters=in_e)[
            "InstanceTypeOfferings"
        ],
        [],
    )
    arm = filtered("processor-info.supported-architecture", "arm64") + filtered("instance-type", "m7g.*")
    assert len(cloud.ec2.describe_instance_types(Filters=arm)["InstanceTypes"]) > 3
    assert (
        len(cloud.ec2.get_paginator("describe_instance_types").paginate().build_full_result()["InstanceTypes"]) > 1000
    )


def check_images_by_parameter_and_by_name(cloud):
    ssm = cloud.client("ssm")
    for name, architecture in (
        ("/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64", "x86_64"),
        ("/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64", "arm64"),
        ("/aws/service/debian/release/12/latest/amd64", "x86_64"),
        ("/aws/service/debian/release/12/latest/arm64", "arm64"),
    ):
        image = ssm.get_parameter(Name=name)["Parameter"]["Value"]
        found = cloud.ec2.describe_images(ImageIds=[image])["Images"][0]
        equal(found["Architecture"], architecture)
        equal(found["RootDeviceName"], "/dev/xvda")
        equal(found["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"], 8)
    with refused("ParameterNotFound"):
        ssm.get_parameter(Name="/aws/service/nothing")
    instance = cloud.run(
        ImageId=ssm.get_parameter(Name="/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64")[
            "Parameter"
        ]["Value"]
    )
    equal(cloud.seen("instances", instance["InstanceId"])["metadata_options"]["http_tokens"], "required")


def check_deprecated_images(cloud):
    old = "ami-0deb1200000b0000f"
    named = cloud.ec2.describe_images(ImageIds=[old])["Images"]
    equal([i["DeprecationTime"] for i in named], ["2026-03-11T17:01:00.000Z"])
    equal(cloud.ec2.describe_images(Filters=filtered("image-id", old))["Images"], [])
    equal(len(cloud.ec2.describe_images(Filters=filtered("image-id", old), IncludeDeprecated=True)["Images"]), 1)
    cloud.run(ImageId=old)


def check_local_zones(cloud):
    def zones():
        return [z["ZoneName"] for z in cloud.ec2.describe_availability_zones()["AvailabilityZones"]]

    assert "us-east-1-bos-1a" not in zones()
    cloud.settings(local_zones=True)
    assert "us-east-1-bos-1a" in zones()
    regular = cloud.ec2.describe_availability_zones(Filters=filtered("zone-type", "availability-zone"))
    assert "us-east-1-bos-1a" not in [z["ZoneName"] for z in regular["AvailabilityZones"]]
    offered = cloud.ec2.describe_instance_type_offerings(
        LocationType="availability-zone", Filters=filtered("instance-type", "t3.small")
    )["InstanceTypeOfferings"]
    assert "us-east-1-bos-1a" in [o["Location"] for o in offered]


def check_tags_in_the_metadata(cloud):
    cloud.settings(metadata_tags=True)
    odd = [tags("instance", **{"team name": "a"})]
    with refused("InvalidParameterValue", says="is not a valid tag key"):
        cloud.run(TagSpecifications=odd)
    cloud.run(TagSpecifications=odd, MetadataOptions={"InstanceMetadataTags": "disabled"})


def check_spot(cloud):
    made = cloud.run(
        InstanceMarketOptions={"MarketType": "spot"}, TagSpecifications=[tags("spot-instances-request", a="b")]
    )
    equal(made["InstanceLifecycle"], "spot")
    request = cloud.ec2.describe_spot_instance_requests(SpotInstanceRequestIds=[made["SpotInstanceRequestId"]])
    request = request["SpotInstanceRequests"][0]
    equal((request["InstanceId"], request["State"]), (made["InstanceId"], "active"))
    equal(request["Tags"], [{"Key": "a", "Value": "b"}])
    cloud.wait(made["InstanceId"], "running")
    with refused("UnsupportedOperation"):
        cloud.ec2.stop_instances(InstanceIds=[made["InstanceId"]])
    cloud.ec2.terminate_instances(InstanceIds=[made["InstanceId"]])
    cloud.wait(made["InstanceId"], "terminated")
    equal(cloud.seen("spot_requests", made["SpotInstanceRequestId"])["state"], "closed")
    with refused("InvalidParameterValue"):
        cloud.run(TagSpecifications=[tags("spot-instances-request", a="b")])


def check_vcpu_limit(cloud):
    used = sum(2 for i in cloud.state()["instances"] if i["state"] in ("pending", "running"))
    cloud.settings(vcpu_limit=used + 3)
    quota = cloud.client("service-quotas").get_service_quota(ServiceCode="ec2", QuotaCode="L-1216C47A")["Quota"]
    equal(quota["Value"], used + 3.0)
    with refused("VcpuLimitExceeded", says=f"current vCPU limit of {used + 3}"):
        cloud.run(MinCount=2, MaxCount=2)
    cloud.run()
    with refused("VcpuLimitExceeded"):
        cloud.run()
