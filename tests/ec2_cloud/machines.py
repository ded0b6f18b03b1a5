"""What stands behind instances. Without pairing: nothing.

Invariant: every method returns at once and calls `then` exactly once when the machine has got there, under the
world's lock; `then` must bear being called when the instance has moved on meanwhile.
"""


class NoMachines:
    """Instances that exist on paper only."""

    def launch(self, instance, then):
        then()

    def start(self, instance, then):
        then()

    def stop(self, instance, then):
        then()

    def reboot(self, instance):
        pass

    def terminate(self, instance, then):
        then()

    def kill(self, instance, then):
        """The power fails: the machine stops without a word."""
        then()

    def attach(self, instance, volume_id):
        pass

    def detach(self, instance, volume_id):
        pass

    def delete_volume(self, volume_id):
        pass

    def delete_network(self, vpc_id):
        pass

    def error(self, instance):
        """What went wrong with the instance's user data, or None."""
        return None

    def close(self):
        pass
