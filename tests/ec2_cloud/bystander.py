"""Things in the account that are not the tester's: a tool that touches them has a fault.

Invariant: each call makes new ones; they are made through the same code as anybody's.
"""

import uuid

import launch
import volumes


def make(world):
    backend = world.backend()
    number = uuid.uuid4().hex[:8]
    image = next(i for i in backend.amis.values() if (i.name or "").startswith("debian-12-amd64"))
    group = backend.create_security_group(f"other-{number}", "somebody else's", vpc_id=backend.default_vpc.id)
    key = backend.import_key_pair(f"other-{number}", _PUBLIC_KEY, {})
    basic = {
        "ImageId": image.id,
        "InstanceType": "t3.micro",
        "MinCount": 1,
        "MaxCount": 1,
        "SecurityGroupIds": [group.id],
        "Placement": {"AvailabilityZone": backend.region_name + "a"},
    }
    tags = [
        {"Key": "Name", "Value": "other-host"},
        {"Key": "septet:name", "Value": "some-other-cluster"},
        {"Key": "septet:cluster", "Value": str(uuid.uuid4())},
    ]
    tagged = launch.run(
        world, backend, {**basic, "TagSpecifications": [{"ResourceType": "instance", "Tags": tags}]}
    ).instances[0]
    untagged = launch.run(world, backend, basic).instances[0]
    volume = volumes.create(backend, backend.region_name + "a", {"Size": 10, "VolumeType": "gp3"}, {})
    world.births.scan(backend)
    return {
        "instance": tagged.id,
        "untagged_instance": untagged.id,
        "volume": volume.id,
        "security_group": group.id,
        "key_pair": key.id,
        "key_name": key.key_name,
        "private_ips": [tagged.private_ip, untagged.private_ip],
    }


# Nobody has the private half.
_PUBLIC_KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f other"
