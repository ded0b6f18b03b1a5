"""EBS volumes, with instances and on their own."""

from checking import equal, filtered, refused, tags, wait_for


def _data(**ebs):
    return [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 20, "VolumeType": "gp3", **ebs}}]


def _available(cloud, **parameters):
    made = cloud.ec2.create_volume(**{"AvailabilityZone": "us-east-1a", "Size": 5, "VolumeType": "gp3", **parameters})
    wait_for(lambda: cloud.seen("volumes", made["VolumeId"]), lambda v: v["state"] == "available")
    return made["VolumeId"]


def check_volumes_of_a_launch(cloud):
    spec = _data(DeleteOnTermination=False, Iops=6000, Throughput=500, Encrypted=True, KmsKeyId="alias/mine")
    root = [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 12, "Encrypted": True}}]
    instance = cloud.running(BlockDeviceMappings=spec + root, TagSpecifications=[tags("volume", c="1")])
    seen = {v["device"]: v for v in cloud.seen("instances", instance)["volumes"]}
    equal({d: v["delete_on_termination"] for d, v in seen.items()}, {"/dev/xvda": True, "/dev/sdf": False})
    data = cloud.ec2.describe_volumes(VolumeIds=[seen["/dev/sdf"]["id"]])["Volumes"][0]
    equal((data["Size"], data["Iops"], data["Throughput"], data["Encrypted"]), (20, 6000, 500, True))
    equal((data["KmsKeyId"], data["State"], data["VolumeType"]), ("alias/mine", "in-use", "gp3"))
    wait_for(lambda: cloud.seen("volumes", data["VolumeId"]), lambda v: v["attachment"]["state"] == "attached")
    base = cloud.ec2.describe_volumes(VolumeIds=[seen["/dev/xvda"]["id"]])["Volumes"][0]
    equal((base["Size"], base["VolumeType"], base["Iops"], base["Throughput"]), (12, "gp3", 3000, 125))
    equal(base["Attachments"][0]["DeleteOnTermination"], True)
    for volume in (data, base):
        equal(volume["Tags"], [{"Key": "c", "Value": "1"}])
    with refused("VolumeInUse"):
        cloud.ec2.delete_volume(VolumeId=data["VolumeId"])
    cloud.ec2.terminate_instances(InstanceIds=[instance])
    cloud.wait(instance, "terminated")
    equal(cloud.seen("volumes", base["VolumeId"]), None)
    left = cloud.seen("volumes", data["VolumeId"])
    equal((left["state"], left["tags"], left["attachment"]), ("available", {"c": "1"}, None))
    found = cloud.ec2.describe_volumes(Filters=filtered("status", "available") + filtered("tag:c", "1"))["Volumes"]
    equal([v["VolumeId"] for v in found], [data["VolumeId"]])
    cloud.ec2.delete_volume(VolumeId=data["VolumeId"])
    wait_for(lambda: cloud.state()["volumes"], lambda vs: data["VolumeId"] not in [v["id"] for v in vs])
    with refused("InvalidVolume.NotFound"):
        cloud.ec2.describe_volumes(VolumeIds=[data["VolumeId"]])


def check_data_volume_of_a_launch_goes_by_default(cloud):
    instance = cloud.running(BlockDeviceMappings=_data())
    equal({v["delete_on_termination"] for v in cloud.seen("instances", instance)["volumes"]}, {True})


def check_volume_on_its_own(cloud):
    cloud.settings(state_delay_s=0.3)
    asked = {
        "AvailabilityZone": "us-east-1b",
        "Size": 100,
        "VolumeType": "gp3",
        "ClientToken": "volume-1",
        "TagSpecifications": [tags("volume", a="b")],
    }
    made = cloud.ec2.create_volume(**asked)
    equal((made["State"], made["Iops"], made["Throughput"]), ("creating", 3000, 125))
    with refused("IncorrectState"):
        cloud.ec2.delete_volume(VolumeId=made["VolumeId"])
    equal(cloud.ec2.create_volume(**asked)["VolumeId"], made["VolumeId"])
    with refused("IdempotentParameterMismatch"):
        cloud.ec2.create_volume(**{**asked, "Size": 101})
    wait_for(lambda: cloud.seen("volumes", made["VolumeId"]), lambda v: v["state"] == "available")
    equal(cloud.ec2.create_volume(**asked)["State"], "available")
    equal(len([v for v in cloud.state()["volumes"] if v["tags"] == {"a": "b"}]), 1)


def check_attach_and_detach(cloud):
    cloud.settings(state_delay_s=0.2)
    instance = cloud.running()
    volume = _available(cloud)
    elsewhere = _available(cloud, AvailabilityZone="us-east-1b")
    with refused("InvalidVolume.ZoneMismatch"):
        cloud.ec2.attach_volume(VolumeId=elsewhere, InstanceId=instance, Device="/dev/sdf")
    equal(cloud.ec2.attach_volume(VolumeId=volume, InstanceId=instance, Device="/dev/sdf")["State"], "attaching")
    wait_for(lambda: cloud.seen("volumes", volume), lambda v: v["attachment"]["state"] == "attached")
    with refused("VolumeInUse"):
        cloud.ec2.attach_volume(VolumeId=volume, InstanceId=instance, Device="/dev/sdg")
    with refused("InvalidParameterValue", says="already in use"):
        cloud.ec2.attach_volume(VolumeId=_available(cloud), InstanceId=instance, Device="/dev/sdf")
    root = next(v["id"] for v in cloud.seen("instances", instance)["volumes"] if v["device"] == "/dev/xvda")
    with refused("OperationNotPermitted"):
        cloud.ec2.detach_volume(VolumeId=root)
    equal(cloud.ec2.detach_volume(VolumeId=volume)["State"], "detaching")
    wait_for(lambda: cloud.seen("volumes", volume), lambda v: v["state"] == "available")
    equal([v["device"] for v in cloud.seen("instances", instance)["volumes"]], ["/dev/xvda"])
    with refused("IncorrectState"):
        cloud.ec2.detach_volume(VolumeId=volume)
    # One that was attached later stays when the instance goes, unless it is told otherwise.
    cloud.ec2.attach_volume(VolumeId=volume, InstanceId=instance, Device="/dev/sdf")
    cloud.ec2.modify_instance_attribute(
        InstanceId=instance, BlockDeviceMappings=[{"DeviceName": "/dev/sdf", "Ebs": {"DeleteOnTermination": True}}]
    )
    equal(cloud.seen("volumes", volume)["attachment"]["delete_on_termination"], True)
    cloud.ec2.terminate_instances(InstanceIds=[instance])
    cloud.wait(instance, "terminated")
    equal(cloud.seen("volumes", volume), None)


def check_volumes_that_cannot_be(cloud):
    for code, spec in (
        ("InvalidParameterValue", {"Iops": 2999}),
        ("InvalidParameterValue", {"Iops": 11000}),
        ("InvalidParameterValue", {"Throughput": 124}),
        ("InvalidParameterValue", {"Throughput": 1000}),
        ("InvalidParameterValue", {"VolumeSize": 70000}),
        ("InvalidParameterValue", {"VolumeType": "gp9"}),
        ("InvalidParameterCombination", {"VolumeType": "gp2", "Throughput": 200}),
        ("MissingParameter", {"VolumeType": "io2"}),
        ("InvalidParameterDependency", {"KmsKeyId": "alias/mine"}),
    ):
        with refused(code):
            cloud.run(BlockDeviceMappings=_data(**spec))
    with refused("InvalidBlockDeviceMapping", says="smaller than snapshot"):
        cloud.run(BlockDeviceMappings=[{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 4}}])
    with refused("InvalidZone.NotFound"):
        cloud.ec2.create_volume(AvailabilityZone="us-east-1x", Size=1)


def check_modify_volume(cloud):
    volume = _available(cloud)
    cloud.ec2.modify_volume(VolumeId=volume, Size=9, Iops=3500)
    seen = cloud.seen("volumes", volume)
    equal((seen["size"], seen["iops"]), (9, 3500))
