"""EBS volumes: their states, what they are made with, attaching and detaching.

Invariant: `volume.phase` is `creating` or `deleting` or None; everything else about a volume's state follows from
its attachment.
"""

from moto.core.utils import utcnow
from moto.ec2.models.block_device import BlockDeviceType
from moto.ec2.models.elastic_block_store import Volume, VolumeAttachment

from errors import AwsError

_LIMITS = {  # smallest and largest size in GiB
    "gp2": (1, 16384),
    "gp3": (1, 65536),
    "io1": (4, 16384),
    "io2": (4, 65536),
    "st1": (125, 16384),
    "sc1": (125, 16384),
    "standard": (1, 1024),
}
_GP3_IOPS, _GP3_IOPS_MAX, _GP3_IOPS_PER_GIB = 3000, 80000, 500
_GP3_THROUGHPUT, _GP3_THROUGHPUT_MAX, _GP3_THROUGHPUT_PER_IOPS = 125, 2000, 0.25


def check(spec):
    """Raises AWS's error if there can be no such volume. `spec` has EC2's names."""
    kind, size = spec.get("VolumeType") or "gp2", spec.get("VolumeSize") or spec.get("Size")
    if kind not in _LIMITS:
        raise AwsError("InvalidParameterValue", f"Value ({kind}) for parameter volumeType is invalid.")
    if size is not None:
        smallest, largest = _LIMITS[kind]
        if size < smallest:
            raise AwsError(
                "InvalidParameterValue",
                f"Volume of {size}GiB is too small; minimum is {smallest}GiB for volume type {kind}.",
            )
        if size > largest:
            raise AwsError(
                "InvalidParameterValue",
                f"Volume of {size}GiB is too large for volume type {kind}; maximum is {largest}GiB.",
            )
    if spec.get("KmsKeyId") and not spec.get("Encrypted"):
        raise AwsError(
            "InvalidParameterDependency", "The parameter KmsKeyId requires the parameter Encrypted to be set."
        )
    _check_speed(kind, size, spec.get("Iops"), spec.get("Throughput"))


def _check_speed(kind, size, iops, throughput):
    if throughput is not None and kind != "gp3":
        raise AwsError("InvalidParameterCombination", f"The parameter throughput is not supported for {kind} volumes.")
    if kind in ("io1", "io2"):
        if iops is None:
            raise AwsError("MissingParameter", "The request must contain the parameter iops")
        return
    if kind != "gp3":
        if iops is not None:
            raise AwsError("InvalidParameterCombination", f"The parameter iops is not supported for {kind} volumes.")
        return
    iops = _GP3_IOPS if iops is None else iops
    throughput = _GP3_THROUGHPUT if throughput is None else throughput
    if not _GP3_IOPS <= iops <= _GP3_IOPS_MAX:
        bound = f"low; minimum is {_GP3_IOPS}" if iops < _GP3_IOPS else f"high; maximum is {_GP3_IOPS_MAX}"
        raise AwsError("InvalidParameterValue", f"Volume iops of {iops} is too {bound}.")
    if size and iops > _GP3_IOPS and iops > size * _GP3_IOPS_PER_GIB:
        raise AwsError(
            "InvalidParameterValue",
            f"Iops to volume size ratio of {iops / size:.6f} is too high; maximum is {_GP3_IOPS_PER_GIB} per GiB.",
        )
    if not _GP3_THROUGHPUT <= throughput <= _GP3_THROUGHPUT_MAX:
        raise AwsError(
            "InvalidParameterValue",
            f"Throughput of {throughput} is not between {_GP3_THROUGHPUT} and {_GP3_THROUGHPUT_MAX} MiBps.",
        )
    if throughput > iops * _GP3_THROUGHPUT_PER_IOPS:
        raise AwsError(
            "InvalidParameterValue",
            f"Throughput (MiBps) to iops ratio of {throughput / iops:.6f} is too high; maximum is 0.250000 MiBps per"
            " iops.",
        )


def create(backend, zone, spec, tags):
    """Makes a volume of a checked specification."""
    kind = spec.get("VolumeType") or "gp2"
    size = spec.get("VolumeSize") or spec.get("Size")
    iops, throughput = spec.get("Iops"), spec.get("Throughput")
    volume = backend.create_volume(
        size=size,
        zone_name=zone,
        snapshot_id=spec.get("SnapshotId"),
        encrypted=bool(spec.get("Encrypted")),
        kms_key_id=spec.get("KmsKeyId"),
        volume_type=kind,
        iops=iops,
        throughput=throughput,
    )
    if kind == "gp2":
        volume.iops = min(max(100, 3 * volume.size), 16000)
    if kind == "gp3" and throughput is None:
        volume.throughput = _GP3_THROUGHPUT
    volume.multi_attach_enabled = False
    volume.add_tags(tags)
    return volume


def begin(world, volume):
    """A volume of its own is `creating` for a while."""
    volume.phase = "creating"
    world.later(lambda: setattr(volume, "phase", None) if volume.phase == "creating" else None)


def attach(world, volume, instance, device, delete_on_termination):
    attachment = VolumeAttachment(volume, instance, device, "attaching")
    volume.attachment = attachment
    mapping = BlockDeviceType(
        volume_id=volume.id, status="attaching", attach_time=utcnow(), delete_on_termination=delete_on_termination
    )
    instance.block_device_mapping[device] = mapping

    def attached():
        if volume.attachment is attachment and attachment.status == "attaching":
            attachment.status = mapping.status = "attached"

    world.later(attached)
    return attachment


def check_attach(volume, instance, device):
    if volume.zone.name != instance.availability_zone:
        raise AwsError(
            "InvalidVolume.ZoneMismatch",
            f"The volume '{volume.id}' is not in the same availability zone as instance '{instance.id}'",
        )
    if volume.attachment:
        raise AwsError("VolumeInUse", f"{volume.id} is already attached to an instance")
    if volume.status != "available":
        raise AwsError("IncorrectState", f"{volume.id} is not 'available'.")
    if instance.state not in ("running", "stopped"):
        raise AwsError("IncorrectState", f"Instance '{instance.id}' is not 'running'.")
    if device in instance.block_device_mapping:
        raise AwsError(
            "InvalidParameterValue",
            f"Invalid value '{device}' for unixDevice. Attachment point {device} is already in use",
        )


def check_detach(volume, instance_id, device):
    attachment = volume.attachment
    if attachment is None:
        raise AwsError("IncorrectState", f"Volume '{volume.id}' is in the 'available' state.")
    if instance_id and attachment.instance.id != instance_id or device and attachment.device != device:
        raise AwsError(
            "InvalidAttachment.NotFound", f"Volume '{volume.id}' is not attached to instance '{instance_id}' there."
        )
    instance = attachment.instance
    if attachment.device == instance.root_device_name and instance.state != "stopped":
        raise AwsError(
            "OperationNotPermitted", f"Unable to detach root volume '{volume.id}' from instance '{instance.id}'"
        )


def detach(world, backend, volume):
    attachment = volume.attachment
    attachment.status = "detaching"
    world.machines.detach(attachment.instance, volume.id)

    def detached():
        if volume.attachment is attachment:
            detach_now(backend, volume)

    world.later(detached)
    return attachment


def detach_now(backend, volume):
    attachment = volume.attachment
    attachment.instance.block_device_mapping.pop(attachment.device, None)
    attachment.status = "detached"
    volume.attachment = None


def check_delete(volume):
    if volume.attachment:
        raise AwsError("VolumeInUse", f"Volume {volume.id} is currently attached to {volume.attachment.instance.id}")
    if volume.phase == "creating":
        raise AwsError("IncorrectState", f"The volume '{volume.id}' is 'creating'")


def delete(world, backend, volume):
    volume.phase = "deleting"
    world.later(lambda: remove(world, backend, volume.id))


def remove(world, backend, volume_id):
    if backend.volumes.pop(volume_id, None):
        world.machines.delete_volume(volume_id)


def _status(volume):
    return volume.phase or ("in-use" if volume.attachment else "available")


def _goes_with_instance(attachment):
    mapping = attachment.instance.block_device_mapping.get(attachment.device)
    return bool(mapping and mapping.delete_on_termination)


def install():
    Volume.phase = None
    Volume.status = Volume.state = property(_status)
    VolumeAttachment.delete_on_termination = property(_goes_with_instance)
    # EC2 names it `State` here and `Status` in the instance.
    VolumeAttachment.state = property(lambda self: self.status)
