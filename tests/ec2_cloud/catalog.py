"""What AWS offers: instance types and where, images, the public parameters that name images.

Invariant: images are those of moto plus Debian's, each with a root device of 8 GiB of gp3 that goes with its
instance; images of one name differ in date, so that "the latest" is a question with one answer.
"""

import re
from datetime import datetime, timedelta

from moto.ec2.models.amis import Ami
from moto.ec2.models.availability_zones_and_regions import Zone
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS, INSTANCE_TYPES
from moto.ssm.models import Parameter, ssm_backends

from calls import ACCOUNT
from errors import AwsError

AMAZON, DEBIAN = "137112412989", "136693071363"
ROOT_GIB = 8
_DEBIAN_DATES = ("20260601-2131", "20260810-2201", "20261012-2257")
# One that is deprecated, and when it became so.
_OLD_DATE, _DEPRECATED = "20240311-1701", "2026-03-11T17:01:00.000Z"
LOCAL_ZONE = "us-east-1-bos-1a"
OWN_IMAGE = "ami-00000000000000017"
_DEBIAN_12 = {"amd64": "x86_64", "arm64": "arm64"}


def shown(images, args):
    """Images without deprecated ones, unless these are asked for or named; a filter is not a name."""
    if args.get("IncludeDeprecated"):
        return images
    named = args.get("ImageIds", [])
    return [i for i in images if not getattr(i, "deprecation_time", None) or i.id in named]


def zones(world, all_zones):
    """Zones that the account sees."""
    local = [Zone(region_name=world.region, name=LOCAL_ZONE, zone_id="use1-bos1-az1", zone_type="local-zone")]
    return all_zones + (local if world.settings.local_zones else [])


def offerings(world, kind, offered):
    """What is offered where, with the Local Zone if the account has it."""
    if not world.settings.local_zones or kind != "availability-zone":
        return offered
    return offered + [{"InstanceType": t, "LocationType": kind, "Location": LOCAL_ZONE} for t in ("t3.micro", "t3.small")]


def instance_type(name):
    """What AWS knows of a type of instance."""
    if name not in INSTANCE_TYPES:
        raise AwsError("InvalidParameterValue", f"Invalid value '{name}' for InstanceType.")
    return INSTANCE_TYPES[name]


def vcpus(name):
    return INSTANCE_TYPES[name]["VCpuInfo"]["DefaultVCpus"]


def architectures(name):
    return INSTANCE_TYPES[name]["ProcessorInfo"]["SupportedArchitectures"]


def counts_as_standard(name):
    """Whether a type is of the bucket "Standard (A, C, D, H, I, M, R, T, Z) instances" of the vCPU quota."""
    family = re.match(r"[a-z]+", name.split(".")[0])[0]
    return family in {"a", "c", "d", "h", "i", "im", "is", "m", "r", "t", "z"}


def zones_of(name, region):
    """Zones in which a type is offered."""
    offered = INSTANCE_TYPE_OFFERINGS["availability-zone"].get(region, [])
    return sorted(o["Location"] for o in offered if o["InstanceType"] == name)


def check_offered(name, zone, region):
    zones = zones_of(name, region)
    if zone not in zones:
        raise AwsError(
            "Unsupported",
            f"Your requested instance type ({name}) is not supported in your requested Availability Zone ({zone})."
            " Please retry your request by not specifying an Availability Zone or choosing " + ", ".join(zones) + ".",
        )


def check_architecture(name, image):
    if image.architecture not in architectures(name):
        raise AwsError(
            "InvalidParameterValue",
            f"The architecture '{','.join(architectures(name))}' of the specified instance type does not match the"
            f" architecture '{image.architecture}' of the specified AMI. Specify an instance type and an AMI that have"
            " matching architectures, and try again. You can use 'describe-instance-types' or 'describe-images' to"
            " discover the architecture of the instance type or AMI.",
        )


def add_images(backend):
    """Adds Debian's images and sets right what moto does not say of Amazon's."""
    # Amazon's own all have one date in moto; their numbers tell which is the newer.
    for image in backend.amis.values():
        made = re.search(r"\.(20\d{6})\.", image.name or "")
        if made:
            image.creation_date = datetime.strptime(made[1], "%Y%m%d")
        if (image.name or "").startswith("al2023-"):
            image.imds_support = "v2.0"
    for debian, architecture in _DEBIAN_12.items():
        for n, date in enumerate(_DEBIAN_DATES):
            image_id = f"ami-0deb1200000{'a' if architecture == 'arm64' else 'b'}0000{n}"
            backend.amis[image_id] = _debian(backend, image_id, f"debian-12-{debian}-{date}", architecture, date)
        _name_by_parameter(backend.region_name, f"/aws/service/debian/release/12/latest/{debian}", image_id)
        image_id = f"ami-0deb1200000{'a' if architecture == 'arm64' else 'b'}0000f"
        old = _debian(backend, image_id, f"debian-12-{debian}-{_OLD_DATE}", architecture, _OLD_DATE)
        old.deprecation_time = _DEPRECATED
        backend.amis[image_id] = old


    # One that somebody made, with a volume beside its root volume that stays by itself.
    own = _debian(backend, OWN_IMAGE, "own-with-another-volume", "x86_64", _DEBIAN_DATES[0], owner=ACCOUNT)
    own.other_volumes = {"/dev/sdb": 30}
    backend.amis[OWN_IMAGE] = own


def _debian(backend, image_id, name, architecture, date, owner=DEBIAN):
    made = datetime.strptime(date, "%Y%m%d-%H%M") + timedelta(minutes=3)
    image = Ami(
        backend,
        image_id,
        name=name,
        description=f"Debian 12 ({date})",
        owner_id=owner,
        public=owner == DEBIAN,
        virtualization_type="hvm",
        architecture=architecture,
        creation_date=made,
        image_location=f"amazon/{name}",
        hypervisor="xen",
        root_device_type="ebs",
        root_device_name="/dev/xvda",
        boot_mode="uefi" if architecture == "arm64" else "uefi-preferred",
        region_name=backend.region_name + "a",
    )
    image.owner_alias = "amazon" if owner == DEBIAN else None
    return image


def _name_by_parameter(region, name, value):
    # The names below /aws are nobody's to put, so this goes around moto's own checks.
    parameter = Parameter(
        account_id=ACCOUNT,
        name=name,
        value=value,
        parameter_type="String",
        description=None,
        allowed_pattern=None,
        keyid=None,
        last_modified_date=datetime.now().timestamp(),
        version=1,
        data_type="aws:ec2:image",
    )
    ssm_backends[ACCOUNT][region]._parameters[name] = [parameter]


def _mappings(image):
    ebs = {
        "SnapshotId": image.ebs_snapshot.id,
        "VolumeSize": ROOT_GIB,
        "DeleteOnTermination": True,
        "VolumeType": "gp3",
        "Iops": 3000,
        "Throughput": 125,
        "Encrypted": False,
    }
    others = [
        {"DeviceName": device, "Ebs": {**ebs, "VolumeSize": size, "DeleteOnTermination": False}}
        for device, size in image.other_volumes.items()
    ]
    return [{"DeviceName": image.root_device_name, "Ebs": ebs}, *others]


def install():
    Ami.imds_support = None
    Ami.deprecation_time = None
    Ami.other_volumes = {}
    Ami.block_device_mappings = property(_mappings)
