"""Client tokens: the same call again has no second effect.

Invariant: a token belongs to its action and to the parameters it was first used with, for as long as the server
lives; a call that failed has not used its token.
"""

from errors import AwsError

_NOT_COMPARED = ("ClientToken", "DryRun")


class Tokens:
    def __init__(self):
        self._used = {}

    def replay(self, call):
        """What the first call with this token made, or None if this is the first."""
        used = self._used.get(self._key(call))
        if used is None:
            return None
        parameters, made = used
        if parameters != _compared(call):
            raise AwsError(
                "IdempotentParameterMismatch",
                "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
            )
        return made

    def remember(self, call, made):
        if "ClientToken" in call.params:
            self._used[self._key(call)] = (_compared(call), made)

    @staticmethod
    def _key(call):
        return call.region, call.action, call.params.get("ClientToken")


def _compared(call):
    return {k: v for k, v in call.params.items() if k not in _NOT_COMPARED}


def check(call):
    token = call.params.get("ClientToken")
    if token is not None and not (0 < len(token) <= 64 and token.isascii()):
        raise AwsError("InvalidParameterValue", "ClientToken must be 1 to 64 ASCII characters")
