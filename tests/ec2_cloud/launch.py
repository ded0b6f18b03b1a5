"""RunInstances: what a launch is made of, checked as AWS checks it, and the making.

Invariant: `resolve` has no effect and raises every refusal that does not depend on capacity; `run` does not fail
half way.
"""

import base64
import binascii
import re
from dataclasses import dataclass, field

from moto.ec2.models.instances import Instance, Reservation
from moto.ec2.utils import filter_iam_instance_profiles, parse_user_data, random_reservation_id

import addresses
import catalog
import resources
import spot
import volumes
from calls import ACCOUNT
from errors import AwsError

_USER_DATA_MAX = 16384


@dataclass
class Launch:
    image: object
    type: str
    subnet: object
    groups: list
    address: str | None
    public: bool
    minimum: int
    count: int
    interface: dict
    devices: list
    tags: dict = field(default_factory=dict)
    market: dict | None = None


def resolve(world, backend, args):
    """The launch that the parameters ask for, or AWS's refusal."""
    if "LaunchTemplate" in args:
        raise AwsError("UnsupportedOperation", "this test cloud has no launch templates")
    image = _image(backend, args)
    kind = args.get("InstanceType", "m1.small")
    catalog.instance_type(kind)
    catalog.check_architecture(kind, image)
    interface = _interface(args)
    subnet = _subnet(backend, args, interface, kind)
    catalog.check_offered(kind, subnet.availability_zone, backend.region_name)
    minimum, count = args["MinCount"], args["MaxCount"]
    if not 1 <= minimum <= count:
        raise AwsError("InvalidParameterValue", f"minCount ({minimum}) and maxCount ({count}) are no range")
    address = _address(args, interface)
    if address:
        if count > 1:
            raise AwsError("InvalidParameterCombination", "Only one instance can be launched with a private IP address")
        addresses.check(backend, subnet, address)
    if "KeyName" in args and args["KeyName"] not in backend.key_pairs:
        raise AwsError("InvalidKeyPair.NotFound", f"The key pair '{args['KeyName']}' does not exist")
    _check_user_data(args)
    _check_placement_group(backend, args)
    if "IamInstanceProfile" in args:
        profile = args["IamInstanceProfile"]
        filter_iam_instance_profiles(
            ACCOUNT, "aws", iam_instance_profile_arn=profile.get("Arn"), iam_instance_profile_name=profile.get("Name")
        )
    tags = {
        s["ResourceType"]: {t["Key"]: t.get("Value", "") for t in s["Tags"]} for s in args.get("TagSpecifications", [])
    }
    _check_metadata_tags(world, args, tags.get("instance", {}))
    market = spot.market(args)
    if "spot-instances-request" in tags and market is None:
        raise AwsError(
            "InvalidParameterValue",
            "'spot-instances-request' is not a valid taggable resource type for this operation.",
        )
    public = interface.get("AssociatePublicIpAddress")
    return Launch(
        image=image,
        type=kind,
        subnet=subnet,
        groups=_groups(backend, args, interface, subnet),
        address=address,
        public=subnet.map_public_ip_on_launch if public is None else public,
        minimum=minimum,
        count=count,
        interface=interface,
        devices=_devices(image, args),
        tags=tags,
        market=market,
    )


def _check_metadata_tags(world, args, tags):
    """Keys that instances see in their metadata are parts of paths there."""
    default = "enabled" if world.settings.metadata_tags else "disabled"
    if args.get("MetadataOptions", {}).get("InstanceMetadataTags", default) != "enabled":
        return
    for key in tags:
        if not re.fullmatch(r"[0-9a-zA-Z\-_+=,.@:]{1,255}", key) or key in (".", "..", "_index"):
            raise AwsError(
                "InvalidParameterValue",
                f"'{key}' is not a valid tag key. Tag keys must match pattern ([0-9a-zA-Z\\-_+=,.@:]{{1,255}}),"
                " and must not be a reserved name ('.', '..', '_index')",
            )


def _image(backend, args):
    image = backend.amis.get(args.get("ImageId"))
    if image is None:
        raise AwsError("MissingParameter", "The request must contain the parameter ImageId")
    return image


def _interface(args):
    interfaces = args.get("NetworkInterfaces", [])
    if len(interfaces) > 1 or any(i.get("NetworkInterfaceId") for i in interfaces):
        raise AwsError("UnsupportedOperation", "this test cloud makes one new network interface for an instance")
    if not interfaces:
        return {}
    for name in ("SubnetId", "SecurityGroupIds", "SecurityGroups", "PrivateIpAddress"):
        if name in args:
            what = "subnet ID" if name == "SubnetId" else "private address" if "Address" in name else "security groups"
            raise AwsError(
                "InvalidParameterCombination",
                f"Network interfaces and an instance-level {what} may not be specified on the same request",
            )
    if interfaces[0].get("DeviceIndex") != 0:
        raise AwsError("InvalidParameterValue", "The first network interface must have device index 0")
    return interfaces[0]


def _subnet(backend, args, interface, kind):
    zone = args.get("Placement", {}).get("AvailabilityZone")
    if zone and zone not in {z.name for z in backend.describe_availability_zones()}:
        raise AwsError("InvalidParameterValue", f"Invalid availability zone: [{zone}]")
    chosen = args.get("SubnetId") or interface.get("SubnetId")
    if chosen:
        subnet = backend.get_subnet(chosen)
        if zone and subnet.availability_zone != zone:
            raise AwsError(
                "InvalidParameterValue",
                f"The specified subnet '{chosen}' is not in the availability zone '{zone}'.",
            )
        return subnet
    vpc = backend.get_default_vpc()
    if vpc is None:
        raise AwsError(
            "VPCIdNotSpecified",
            "No default VPC for this user. GroupName is only supported for EC2-Classic and default VPC.",
        )
    defaults = [s for s in resources.subnets(backend) if s.vpc_id == vpc.id and s.default_for_az]
    if not defaults:
        raise AwsError("MissingInput", f"No subnets found for the default VPC '{vpc.id}'. Please specify a subnet.")
    if zone:
        defaults = [s for s in defaults if s.availability_zone == zone]
        if not defaults:
            raise AwsError("InvalidInput", f"No default subnet for availability zone: '{zone}'.")
    offered = catalog.zones_of(kind, backend.region_name)
    return next((s for s in defaults if s.availability_zone in offered), defaults[0])


def _groups(backend, args, interface, subnet):
    ids = args.get("SecurityGroupIds") or interface.get("Groups") or []
    if "SecurityGroups" in args and "SubnetId" in args:
        raise AwsError(
            "InvalidParameterCombination", "The parameter groupName cannot be used with the parameter subnet"
        )
    groups = [backend.get_security_group_from_id(i) for i in ids]
    for name in args.get("SecurityGroups", []):
        group = backend.get_security_group_from_name(name, subnet.vpc_id)
        if group is None:
            raise AwsError(
                "InvalidGroup.NotFound", f"The security group '{name}' does not exist in VPC '{subnet.vpc_id}'"
            )
        groups.append(group)
    for group in groups:
        if group.vpc_id != subnet.vpc_id:
            raise AwsError(
                "InvalidParameter", f"Security group {group.id} and subnet {subnet.id} belong to different networks."
            )
    return groups or [backend.get_default_security_group(subnet.vpc_id)]


def _address(args, interface):
    listed = [a["PrivateIpAddress"] for a in interface.get("PrivateIpAddresses", []) if a.get("Primary")]
    return args.get("PrivateIpAddress") or interface.get("PrivateIpAddress") or next(iter(listed), None)


def _check_user_data(args):
    try:
        raw = base64.b64decode(args.get("UserData", ""), validate=True)
    except binascii.Error:
        raise AwsError("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.") from None
    if len(raw) > _USER_DATA_MAX:
        raise AwsError("InvalidParameterValue", f"User data is limited to {_USER_DATA_MAX} bytes")


def _check_placement_group(backend, args):
    name = args.get("Placement", {}).get("GroupName")
    if name and name not in {g.group_name for g in backend.placement_groups.values()}:
        raise AwsError("InvalidPlacementGroup.Unknown", f"The placement group '{name}' is unknown.")


def _devices(image, args):
    """Block devices of the image with those of the request over them."""
    devices = {m["DeviceName"]: dict(m["Ebs"]) for m in image.block_device_mappings}
    named = [m.get("DeviceName") for m in args.get("BlockDeviceMappings", [])]
    for mapping in args.get("BlockDeviceMappings", []):
        name, asked = mapping.get("DeviceName"), mapping.get("Ebs")
        if not name or named.count(name) > 1:
            raise AwsError(
                "InvalidBlockDeviceMapping", f"The device '{name}' is used in more than one block-device mapping"
            )
        if "NoDevice" in mapping:
            devices.pop(name, None)
            continue
        if asked is None:
            raise AwsError("UnsupportedOperation", "this test cloud has no instance store volumes")
        base = devices.get(name)
        if base is None:
            if not asked.get("VolumeSize"):
                raise AwsError("MissingParameter", "The request must contain the parameter size or snapshotId")
            # By the API, unlike in the console, volumes made by a launch go with the instance.
            devices[name] = {"DeleteOnTermination": True, "VolumeType": "gp2", **asked}
            continue
        if asked.get("VolumeSize", base["VolumeSize"]) < base["VolumeSize"]:
            raise AwsError(
                "InvalidBlockDeviceMapping",
                f"Volume of size {asked['VolumeSize']}GB is smaller than snapshot '{base['SnapshotId']}', expect size"
                f" >= {base['VolumeSize']}GB",
            )
        if asked.get("VolumeType", "gp3") != "gp3":
            base = {k: v for k, v in base.items() if k not in ("Iops", "Throughput")}
        devices[name] = {**base, **asked}
    for spec in devices.values():
        volumes.check(spec)
    return list(devices.items())


def fitting(world, backend, launch):
    """How many of the instances the vCPU limit leaves room for."""
    limit = world.settings.vcpu_limit
    if limit is None or not catalog.counts_as_standard(launch.type):
        return launch.count
    used = sum(
        catalog.vcpus(i.instance_type)
        for i in resources.instances(backend)
        if i.state in ("pending", "running") and catalog.counts_as_standard(i.instance_type)
    )
    room = (int(limit) - used) // catalog.vcpus(launch.type)
    if room < launch.minimum:
        raise AwsError(
            "VcpuLimitExceeded",
            f"You have requested more vCPU capacity than your current vCPU limit of {limit} allows for the instance"
            " bucket that the specified instance type belongs to. Please visit"
            " http://aws.amazon.com/contact-us/ec2-request to request an adjustment to this limit.",
        )
    return min(launch.count, room)


def run(world, backend, args):
    """Launches; returns the reservation."""
    launch = resolve(world, backend, args)
    count = fitting(world, backend, launch)
    chosen = [launch.address] if launch.address else addresses.pick(backend, launch.subnet, count)
    reservation = Reservation(random_reservation_id(), owner_id=ACCOUNT)
    backend.reservations[reservation.id] = reservation
    for index, address in enumerate(chosen):
        instance = _make(world, backend, args, launch, address, index)
        instance.reservation_id = reservation.id
        reservation.instances.append(instance)
        if "IamInstanceProfile" in args:
            profile = args["IamInstanceProfile"]
            backend.associate_iam_instance_profile(instance.id, profile.get("Name"), profile.get("Arn"))
    for instance in reservation.instances:
        world.states.launch(instance)
    return reservation


def _make(world, backend, args, launch, address, index):
    metadata = dict(args.get("MetadataOptions", {}))
    if launch.image.imds_support == "v2.0":
        metadata = {"HttpTokens": "required", "HttpPutResponseHopLimit": 2, **metadata}
    instance = Instance(
        backend,
        launch.image.id,
        parse_user_data(args.get("UserData")),
        launch.groups,
        instance_type=launch.type,
        region_name=backend.region_name,
        subnet_id=launch.subnet.id,
        key_name=args.get("KeyName"),
        ebs_optimized=args.get("EbsOptimized", False),
        monitoring_state="enabled" if args.get("Monitoring", {}).get("Enabled") else "disabled",
        ami_launch_index=index,
        disable_api_termination=args.get("DisableApiTermination", False),
        disable_api_stop=args.get("DisableApiStop", False),
        instance_initiated_shutdown_behavior=args.get("InstanceInitiatedShutdownBehavior"),
        private_ip=address,
        metadata_options=metadata,
        client_token=args.get("ClientToken", ""),
    )
    instance.placement.tenancy = args.get("Placement", {}).get("Tenancy", "default")
    instance.placement.group_name = args.get("Placement", {}).get("GroupName", "")
    instance.add_tags(launch.tags.get("instance", {}))
    eni = instance.nics[0]
    eni.delete_on_termination = launch.interface.get("DeleteOnTermination", True)
    eni.description = launch.interface.get("Description", "")
    eni.add_tags(launch.tags.get("network-interface", {}))
    instance.wants_public_ip = launch.public
    if launch.public:
        eni.public_ip = addresses.public(backend)
    for device, spec in launch.devices:
        volume = volumes.create(backend, launch.subnet.availability_zone, spec, launch.tags.get("volume", {}))
        volumes.attach(world, volume, instance, device, spec["DeleteOnTermination"])
    if launch.market is not None:
        spot.request(backend, instance, launch.market, launch.tags.get("spot-instances-request", {}))
    return instance
