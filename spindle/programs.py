"""The services: how each is started and stopped, and where it logs."""

from __future__ import annotations

import sys

from spindle import embedded, gateway, tools
from spindle.settings import Settings
from spindle.supervisor import Program
from spindle.unprivileged import ServiceUser, launcher

DIES_WITH_PARENT = ("--death-signal", "TERM")


def program_names(settings: Settings) -> list[str]:
    """Every service there should be, in the order they start."""
    first = ["postgres"] if settings.embedded_results else []
    return [*first, "postgrest", "nginx", *(["metrics"] if settings.metrics_port else [])]


def make_programs(settings: Settings, user: ServiceUser | None) -> list[Program]:
    """The same, as supervisord is to start them."""
    makers = {"postgres": _postgres, "postgrest": _postgrest, "nginx": _nginx, "metrics": _metrics}
    return [makers[name](settings, user) for name in program_names(settings)]


def nginx_command(settings: Settings) -> list[str]:
    folder, conf = gateway.gateway_dir(settings), gateway.nginx_conf(settings)
    return [str(tools.find_nginx(settings)), "-e", "stderr", "-p", str(folder), "-c", str(conf)]


def _postgres(settings: Settings, user: ServiceUser | None) -> Program:
    # SIGINT is its fast shutdown: it does not wait for clients to leave.
    command = [*launcher(user, "--death-signal", "INT"), *embedded.server_command(settings)]
    return Program("postgres", command, settings.state_dir, "INT", 60, "postgres.log")


def _postgrest(settings: Settings, user: ServiceUser | None) -> Program:
    postgrest = [str(tools.find_postgrest(settings)), str(gateway.postgrest_conf(settings))]
    command = [*launcher(user, *DIES_WITH_PARENT), *postgrest]
    return Program("postgrest", command, gateway.gateway_dir(settings), "TERM", 10, "postgrest.log")


def _nginx(settings: Settings, user: ServiceUser | None) -> Program:
    tidy = ("--end-leftovers", "--remove-socket", str(gateway.origin_socket(settings)))
    command = [*launcher(user, *DIES_WITH_PARENT, *tidy), *nginx_command(settings)]
    folder = gateway.gateway_dir(settings)
    return Program("nginx", command, folder, "QUIT", 10, "nginx-access.log", "nginx-error.log")


def _metrics(settings: Settings, user: ServiceUser | None) -> Program:
    options = ["--user", user.name, *(["--namespace"] if user.namespaced else [])] if user else []
    paths = [str(gateway.metrics_log(settings)), str(gateway.postgrest_socket(settings))]
    # temperature is the old dialect's other spelling
    endpoints = [*gateway.endpoints(settings), "temperature"]
    command = [sys.executable, "-m", "spindle.metrics", *options, str(settings.metrics_port), *paths, *endpoints]
    return Program("metrics", command, gateway.gateway_dir(settings), "TERM", 10, "metrics.log")
