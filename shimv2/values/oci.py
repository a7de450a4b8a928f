"""The Go types (runtime-spec, specs-go) of the OCI values that reach the shim as JSON.  Pure.

They serve to refuse a value of a wrong type as the Go shim does.  The values themselves are passed
to the runtime unchanged, unknown fields included.
"""

from typing import Final

from shimv2.gocompat.gojson import Slice, StringMap, Struct

_STRINGS: Final = Slice("string")

_SCHEDULER: Final = Struct(
    "Scheduler",
    {
        "policy": "string",
        "nice": "int32",
        "priority": "int32",
        "flags": _STRINGS,
        "runtime": "uint64",
        "deadline": "uint64",
        "period": "uint64",
    },
)

PROCESS: Final = Struct(
    "Process",
    {
        "terminal": "bool",
        "consoleSize": Struct("Box", {"height": "uint", "width": "uint"}),
        "user": Struct(
            "User",
            {
                "uid": "uint32",
                "gid": "uint32",
                "umask": "uint32",
                "additionalGids": Slice("uint32"),
                "username": "string",
            },
        ),
        "args": _STRINGS,
        "commandLine": "string",
        "env": _STRINGS,
        "cwd": "string",
        "capabilities": Struct(
            "LinuxCapabilities",
            {
                "bounding": _STRINGS,
                "effective": _STRINGS,
                "inheritable": _STRINGS,
                "permitted": _STRINGS,
                "ambient": _STRINGS,
            },
        ),
        "rlimits": Slice(
            Struct("POSIXRlimit", {"type": "string", "hard": "uint64", "soft": "uint64"})
        ),
        "noNewPrivileges": "bool",
        "apparmorProfile": "string",
        "oomScoreAdj": "int",
        "scheduler": _SCHEDULER,
        "selinuxLabel": "string",
        "ioPriority": Struct("LinuxIOPriority", {"class": "string", "priority": "int"}),
        "execCPUAffinity": Struct("CPUAffinity", {"initial": "string", "final": "string"}),
    },
)

_THROTTLE: Final = Slice(
    Struct("LinuxThrottleDevice", {"major": "int64", "minor": "int64", "rate": "uint64"})
)

RESOURCES: Final = Struct(
    "LinuxResources",
    {
        "devices": Slice(
            Struct(
                "LinuxDeviceCgroup",
                {
                    "allow": "bool",
                    "type": "string",
                    "major": "int64",
                    "minor": "int64",
                    "access": "string",
                },
            )
        ),
        "memory": Struct(
            "LinuxMemory",
            {
                "limit": "int64",
                "reservation": "int64",
                "swap": "int64",
                "kernel": "int64",
                "kernelTCP": "int64",
                "swappiness": "uint64",
                "disableOOMKiller": "bool",
                "useHierarchy": "bool",
                "checkBeforeUpdate": "bool",
            },
        ),
        "cpu": Struct(
            "LinuxCPU",
            {
                "shares": "uint64",
                "quota": "int64",
                "burst": "uint64",
                "period": "uint64",
                "realtimeRuntime": "int64",
                "realtimePeriod": "uint64",
                "cpus": "string",
                "mems": "string",
                "idle": "int64",
            },
        ),
        "pids": Struct("LinuxPids", {"limit": "int64"}),
        "blockIO": Struct(
            "LinuxBlockIO",
            {
                "weight": "uint16",
                "leafWeight": "uint16",
                "weightDevice": Slice(
                    Struct(
                        "LinuxWeightDevice",
                        {
                            "major": "int64",
                            "minor": "int64",
                            "weight": "uint16",
                            "leafWeight": "uint16",
                        },
                    )
                ),
                "throttleReadBpsDevice": _THROTTLE,
                "throttleWriteBpsDevice": _THROTTLE,
                "throttleReadIOPSDevice": _THROTTLE,
                "throttleWriteIOPSDevice": _THROTTLE,
            },
        ),
        "hugepageLimits": Slice(
            Struct("LinuxHugepageLimit", {"pageSize": "string", "limit": "uint64"})
        ),
        "network": Struct(
            "LinuxNetwork",
            {
                "classID": "uint32",
                "priorities": Slice(
                    Struct("LinuxInterfacePriority", {"name": "string", "priority": "uint32"})
                ),
            },
        ),
        "rdma": StringMap(Struct("LinuxRdma", {"hcaHandles": "uint32", "hcaObjects": "uint32"})),
        "unified": StringMap("string"),
    },
)
