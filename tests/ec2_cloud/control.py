"""The control plane below /_cloud/, JSON in and out; an error is {"error": …, "message": …} with a status from 400 on.

    POST   faults     {"action": glob, "when": "before"|"after", "kind": "error"|"reset"|"hang", "code", "status",
                       "message", "times": 1 (-1: always), "skip": 0, "match": {parameter: glob or null for absent},
                       "dry_run": false (null: any call)}
    GET    faults     those that are left
    DELETE faults
    GET    calls      [{"n", "service", "action", "params", "access_key", "result", "dry_run", "at"}]; the result is
                      "ok", an error's code, "reset", "hang", or null while the call is under way
    DELETE calls
    POST   settings   any of {"state_delay_s", "consistency_ms", "late_everywhere", "page_size", "vcpu_limit", "iam", "clock_skew_s",
                       "local_zones", "metadata_tags"}; answers all
    GET    settings
    GET    state      everything there is; ?region= for another one than the default
    POST   bystander  makes somebody else's things; answers their ids
    POST   instances/ID/terminate|stop|start|kill|poweroff   (poweroff: the instance shuts itself down)

Invariant: nothing done here is in the log of calls, and no fault strikes it.
"""

import json
import traceback
from urllib.parse import parse_qs

import bystander
import iam
import inventory
import resources
from errors import AwsError


class Control:
    def __init__(self, world):
        self._world = world

    def answer(self, method, path, query, body):
        """Returns (status, JSON)."""
        try:
            data = json.loads(body) if body else {}
            return 200, self._route(method, path.removeprefix("/_cloud").strip("/").split("/"), query, data)
        except AwsError as e:
            return e.status, {"error": e.code, "message": e.message}
        except json.JSONDecodeError as e:
            return 400, {"error": "InvalidJson", "message": str(e)}
        except Exception as e:
            traceback.print_exc()
            return 500, {"error": type(e).__name__, "message": str(e)}

    def _route(self, method, parts, query, data):
        world = self._world
        match (method, *parts):
            case ("POST", "faults"):
                world.faults.add(data)
            case ("GET", "faults"):
                return world.faults.list()
            case ("DELETE", "faults"):
                world.faults.clear()
            case ("GET", "calls"):
                return world.calls.list()
            case ("DELETE", "calls"):
                world.calls.clear()
            case ("POST", "settings"):
                return self._set(data)
            case ("GET", "settings"):
                return vars(world.settings)
            case ("GET", "state"):
                with world.state():
                    return inventory.inventory(world, (parse_qs(query).get("region") or [None])[0])
            case ("POST", "bystander"):
                with world.state():
                    return bystander.make(world)
            case ("POST", "instances", instance_id, verb):
                with world.state():
                    return self._do(instance_id, verb)
            case _:
                raise AwsError("NotFound", f"{method} /_cloud/{'/'.join(parts)}", 404)
        return {}

    def _set(self, data):
        if "iam" in data:
            iam.check_settings(data["iam"])
        with self._world.state():
            self._world.settings.update(data)
        return vars(self._world.settings)

    def _do(self, instance_id, verb):
        backend, states = self._world.backend(), self._world.states
        instance = resources.find(backend, instance_id)
        if instance is None:
            raise AwsError("NotFound", f"there is no instance {instance_id}", 404)
        if verb == "terminate":
            states.terminate(backend, [instance_id], force=True)
        elif verb == "stop":
            states.stop(backend, [instance_id], force=True)
        elif verb == "start":
            states.start(backend, [instance_id])
        elif verb == "kill":
            states.kill(instance)
        elif verb == "poweroff":
            states.powered_off(instance)
        else:
            raise AwsError("NotFound", f"instances cannot be told to {verb}", 404)
        return {"id": instance_id, "state": instance.state}
