"""Checkpoint and restore: write a container's image to a folder, make a container from it."""

import asyncio
import logging
import os
import shutil
from contextlib import suppress

from shimv2.gocompat.gotext import os_error
from shimv2.io.stdio import ProcessIO
from shimv2.mounts import rootfs as rootfs_mounts
from shimv2.mounts.umount import left_by_criu
from shimv2.runtime.interface import read_pid_file
from shimv2.task.process import Scope
from shimv2.values import paths
from shimv2.values.errors import Refused, RuntimeFailed
from shimv2.values.model import CheckpointSpec, CreateSpec, Exit

log = logging.getLogger(__name__)

_DUMP_LOG = "dump.log"  # CRIU's name, in the work folder


async def dump(scope: Scope, spec: CheckpointSpec) -> None:
    """Write the container's image to `spec.path`, and remove all temporary files and mounts.

    Raises:
        RuntimeFailed: with the Go shim's text; the bundle has CRIU's log then.
        Refused: the folder for the logs cannot be made.
    """
    saved = paths.criu_dump_log(scope.bundle)
    with suppress(FileNotFoundError):
        os.unlink(saved)  # of an earlier failure: the error text names this file
    work = spec.work_path or paths.criu_work_dir(scope.bundle)
    try:
        if not spec.work_path:
            _make_folder(work)
        await scope.runtime.checkpoint(
            scope.container_id, spec, work_path=work, timeout_s=scope.settings.checkpoint_s
        )
    except RuntimeFailed as error:
        _save_log(scope, work, saved)
        await unmount_leftovers(scope)
        first, _, _ = str(error).partition("\n")
        raise RuntimeFailed(
            f"{first} path= {saved}",
            verb=error.verb,
            exit_status=error.exit_status,
            detail=error.detail,
        ) from None
    finally:
        if not (spec.work_path or _leftovers(scope)):
            shutil.rmtree(work, ignore_errors=True)


def _make_folder(path: str) -> None:
    """Make a folder and its parents: the runtime does not make them."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        raise Refused(os_error(error, op="mkdir")) from None


def _save_log(scope: Scope, work: str, saved: str) -> None:
    try:
        shutil.copyfile(os.path.join(work, _DUMP_LOG), saved)
    except OSError as error:  # no log: CRIU did not run; the runtime's error has the reason
        log.warning("CRIU's log was not saved: %s", error, extra={"container": scope.container_id})


def _leftovers(scope: Scope) -> list[str]:
    return left_by_criu(scope.bundle, scope.runtime.folder_of(scope.container_id))


async def unmount_leftovers(scope: Scope) -> bool:
    """Unmount the mounts of a killed CRIU; return whether none remains."""
    for path in _leftovers(scope):
        try:
            await rootfs_mounts.unmount_recursive(path, scope.reaper)
        except OSError as error:
            what = "what CRIU left mounted at %s could not be unmounted: %s"
            log.error(what, path, error.strerror, extra={"container": scope.container_id})
    return not _leftovers(scope)


async def restore(
    scope: Scope, spec: CreateSpec, io: ProcessIO
) -> tuple[int, "asyncio.Future[Exit]"]:
    """Make a running container from the image `spec.checkpoint`; return its init's pid and exit.

    `spec.parent_checkpoint` (an earlier image) is not passed on, because runtimes have no option
    for it.  CRIU finds it by a link in the image.

    Raises:
        RuntimeFailed, Refused: with the Go shim's texts.  The caller has to undo what was made.
    """
    pid_file = paths.init_pid_file(spec.bundle)
    with suppress(FileNotFoundError):  # of an earlier attempt
        os.unlink(pid_file)
    with scope.reaper.launching():
        await scope.runtime.restore(
            spec.id,
            image_path=spec.checkpoint,
            work_path=spec.options.criu_work_path or paths.work_dir(spec.bundle),
            bundle=spec.bundle,
            pid_file=pid_file,
            fds=io.fds,
            spawned=io.spawned,
            no_pivot=spec.options.no_pivot_root,
            console_socket=io.console_socket,
            timeout_s=scope.settings.restore_s,
        )
        pid = read_pid_file(pid_file)
        return pid, scope.reaper.claim(pid)
