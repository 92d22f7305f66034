"""The gateway's cache, told that there are new results."""

from __future__ import annotations

import http.client
import time
from contextlib import closing

from spindle import gateway, services
from spindle.settings import Settings
from spindle.unix_http import UnixConnection

# A token's own look counts for two seconds, and for one more while the next one is under way.
REMEMBERED_SECONDS = 3
# A look that began before the run's end may still be under way and would put back what it saw: look again after it. It
# takes milliseconds, but on a busy computer more.
LOOK_AGAIN_SECONDS = (0.05, 0.25)


def refresh_cache(settings: Settings) -> bool:
    """Let the gateway look at once which generation of results is served; by itself it does within two seconds.

    For the end of a run, after its last commit. From the return on no older answer is served, unless it says so.
    Where there is a login each token has a look of its own, so what they saw is waited out.
    Returns False when the gateway is not running or has no answer: nothing is wrong with the run then.
    """
    if services.gateway_port(settings) is None:
        return False
    if settings.access.login:
        time.sleep(REMEMBERED_SECONDS + sum(LOOK_AGAIN_SECONDS))
        return True
    looked = [_look(settings)]
    for pause in LOOK_AGAIN_SECONDS:
        time.sleep(pause)
        looked.append(_look(settings))
    return all(looked)


def _look(settings: Settings) -> bool:
    with closing(UnixConnection(gateway.origin_socket(settings))) as connection:
        try:
            connection.request("GET", "/gateway/renewed")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
