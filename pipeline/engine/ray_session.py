"""A Ray session: an existing cluster, or a quiet one on this machine that only this machine can reach."""

from __future__ import annotations

import logging
import os
import signal
import site
import sys
import sysconfig
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from pipeline.engine import ray_places
from pipeline.engine.fork_server import ForkServer
from pipeline.engine.warm_actors import WarmActors
from pipeline.engine.worker_settings import WorkerSettings
from storage.errors import UserError

log = logging.getLogger(__name__)

_START_ATTEMPTS = 2
_NICENESS = "RAY_worker_niceness"  # the name that Ray reads
# Workers that Ray starts before it knows what for; those of a fork server are others.
_PRESTART = "RAY_prestart_worker_first_driver"
_AUTHENTICATION = "RAY_AUTH_MODE"
_OBJECT_STORE_BYTES = 100 * 2**20


def open_warm_actors(settings: WorkerSettings, cpus: int, modules: Sequence[str] = ()) -> WarmActors:
    """The cluster at `settings.ray_address`, or a local one with `cpus` places, and no actor yet.

    Workers of a local one that need no GPU have imported `modules` when they start. Raises UserError when Ray
    does not start, and when no node can ever hold a worker with its GPUs.
    """
    local = settings.ray_address is None
    environment = local_environment() if local else {}
    mode = os.environ.get(_AUTHENTICATION)
    fork_server = _fork_server(settings, modules, environment) if modules and local else None
    if fork_server is not None:
        environment[_PRESTART] = "0"
    with _closed_on_error(fork_server):
        with _environment(environment), _own_signals():
            import ray

            with _loopback_only(ray) if local else nullcontext():
                _start(ray, _start_options(settings, cpus))
        try:
            _require_gpus(ray, settings)
        except UserError:
            ray.shutdown()
            raise
    warm_actors = WarmActors(ray, settings, cpus, fork_server)
    if local:
        warm_actors.at_close(lambda: _put_back_authentication(mode))
    return warm_actors


def _fork_server(
    settings: WorkerSettings, modules: Sequence[str], environment: Mapping[str, str]
) -> ForkServer | None:
    """None where workers cannot be forks, and then import for themselves."""
    # macOS forks, but not what has used its frameworks.
    if settings.gpus_per_worker or settings.runtime_env is not None or sys.platform != "linux":
        return None
    try:
        return ForkServer(modules, environment)
    except OSError as error:
        log.info("workers import for themselves: %s", error)
        return None


def _put_back_authentication(mode: str | None) -> None:
    """Undo that a local Ray turns tokens on for the rest of the process.

    A cluster that is joined later may have none. Ray's driver would then refuse what the cluster asks it, and
    the cluster take every actor for forgotten.
    """
    from ray._private.authentication.authentication_token_setup import AuthenticationTokenLoader, Config

    if mode is None:
        os.environ.pop(_AUTHENTICATION, None)
    else:
        os.environ[_AUTHENTICATION] = mode
    Config.initialize("")  # reads the environment again
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _closed_on_error(fork_server: ForkServer | None) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if fork_server is not None:
            fork_server.close()
        raise


def local_environment() -> dict[str, str]:
    """What the processes of a Ray on this machine are to inherit."""
    return {
        # Despite its name this is what makes Ray listen on the loopback interface only.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # Ray's own is 15, with which workers stand still beside any other program that computes.
        _NICENESS: os.environ.get(_NICENESS, "0"),
        "PYTHONPATH": _python_path(),
        **ray_places.token(),
    }


@contextmanager
def _loopback_only(ray: Any) -> Iterator[None]:
    """Keep other machines out also where Ray was imported, and read the environment, before we set it."""
    constants = ray._private.ray_constants
    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


def _start_options(settings: WorkerSettings, cpus: int) -> dict[str, Any]:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "gpa"}
    if settings.ray_address is not None:
        passed = {"PYTHONPATH": _python_path(), "OMP_WAIT_POLICY": "PASSIVE"}
        return quiet | {"address": settings.ray_address, "runtime_env": {"env_vars": passed}}
    # Ray counts the GPUs itself, so that it never promises one that is not there.
    gpus: dict[str, Any] = {} if settings.gpus_per_worker else {"num_gpus": 0}
    folder = ray_places.temporary_folder()
    return (
        quiet
        | gpus
        | ({} if folder is None else {"_temp_dir": folder})
        | {
            # Without it a Ray that somebody else runs on this machine, or RAY_ADDRESS, would be taken.
            "address": "local",
            "num_cpus": max(1, cpus),
            "include_dashboard": settings.dashboard,
            "dashboard_host": "127.0.0.1",
            "object_store_memory": _OBJECT_STORE_BYTES,
        }
    )


def _start(ray: Any, options: dict[str, Any]) -> None:
    """Start Ray; once more when that fails, because it gives up early on a machine that is busy.

    What it cannot write will not be writable then.
    """
    for attempts_left in reversed(range(_START_ATTEMPTS)):
        try:
            found = ray.init(**options)
        except Exception as error:  # Ray raises the bare class when it takes too long
            ray.shutdown()
            if not attempts_left or isinstance(error, OSError | UnicodeError):
                raise UserError(_why_not(options, error)) from error
            log.warning("Ray did not start: %s", error)
        else:
            if options.get("include_dashboard"):
                log.warning("Ray dashboard: http://%s", found.dashboard_url)
            return


def _why_not(options: dict[str, Any], error: Exception) -> str:
    if options["address"] != "local":
        remedy = "check that the cluster runs (ray status), or leave --ray-address out"
        return f"Ray does not start at {options['address']} ({error}): {remedy}"
    if options["include_dashboard"] and not isinstance(error, OSError):
        remedy = "the dashboard needs pip install 'ray[default]'; leave --dashboard out"
        return f"Ray does not start on this machine ({error}): {remedy}"
    return f"Ray does not start on this machine: {ray_places.why_not(error)}"


def _require_gpus(ray: Any, settings: WorkerSettings) -> None:
    """Refuse at once what would wait for ever; a cluster may still grow, so it is not asked."""
    wanted = settings.gpus_per_worker
    if settings.ray_address is None and wanted and (found := ray.cluster_resources().get("GPU", 0)) < wanted:
        raise UserError(
            f"--gpus-per-worker is {wanted:g} and Ray finds {found:g} GPUs on this machine: give "
            "--gpus-per-worker 0, or the --ray-address of a cluster that has them"
        )


def _python_path() -> str:
    """Workers import from where this process does, installed or not.

    What an interpreter finds by itself stays out: workers in another environment have another one.
    """
    own = {os.path.realpath(path) for path in [*sysconfig.get_paths().values(), *site.getsitepackages()]}
    paths = dict.fromkeys(os.path.realpath(path or os.getcwd()) for path in sys.path)
    standard = os.path.realpath(sysconfig.get_path("stdlib"))
    return os.pathsep.join(
        path
        for path in paths
        if path not in own and os.path.isdir(path) and not path.startswith(standard + os.sep)
    )


@contextmanager
def _own_signals() -> Iterator[None]:
    """Undo that Ray takes over SIGTERM: how a command ends is the command's business."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
