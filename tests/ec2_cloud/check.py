"""The self-test of this cloud: `python check.py [--pair IMAGE] [part of a name ...]`.

Prints what fails and `N passed, N failed`. The checks of pairing run only with an image.
"""

import sys
import traceback

import check_catalog
import check_control
import check_iam
import check_instances
import check_network
import check_volumes
from checking import Cloud

_MODULES = (check_instances, check_catalog, check_network, check_volumes, check_control, check_iam)


def main(arguments):
    image = None
    if arguments[:1] == ["--pair"]:
        image, arguments = arguments[1], arguments[2:]
    failed = passed = 0
    for checks, options in _groups(image):
        chosen = [c for c in checks if not arguments or any(a in c.__name__ for a in arguments)]
        if not chosen:
            continue
        cloud = Cloud(*options)
        for check in chosen:
            cloud.reset()
            try:
                check(cloud)
                passed += 1
            except Exception:
                failed += 1
                print(f"FAILED {check.__name__}\n{traceback.format_exc()}", flush=True)
        cloud.close()
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def _groups(image):
    yield [c for m in _MODULES for c in _checks(m)], []
    if image:
        import check_pairing

        yield _checks(check_pairing), ["--pair", image]


def _checks(module):
    return [v for k, v in vars(module).items() if k.startswith("check_") and callable(v)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
