"""What is measured on: the processor's name, generation, instructions, cores and caches."""

import os
import re
from pathlib import Path

# The instructions that kernels are chosen by.
FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "asimd", "sve")

# Family and range of models to generation.
AMD = [
    (0x17, 0x00, 0x2F, "Zen"), (0x17, 0x30, 0xFF, "Zen 2"),
    (0x19, 0x10, 0x1F, "Zen 4"), (0x19, 0x60, 0xAF, "Zen 4"), (0x19, 0x00, 0xFF, "Zen 3"),
    (0x1A, 0x00, 0xFF, "Zen 5"),
]
INTEL = {
    60: "Haswell", 63: "Haswell", 71: "Broadwell", 79: "Broadwell", 85: "Skylake-SP", 94: "Skylake", 106: "Ice Lake-SP",
    108: "Ice Lake-SP", 140: "Tiger Lake", 143: "Sapphire Rapids", 151: "Alder Lake", 154: "Alder Lake", 173: "Granite Rapids",
    174: "Granite Rapids", 183: "Raptor Lake", 207: "Emerald Rapids",
}


def generation(vendor, family, model, flags):
    """The usual name, or the numbers where it is not known here."""
    if vendor == "AuthenticAMD":
        for its_family, first, last, name in AMD:
            if family == its_family and first <= model <= last:
                return name
    if vendor == "GenuineIntel" and family == 6:
        if model == 85 and "avx512_bf16" in flags:
            return "Cooper Lake"
        if model == 85 and "avx512_vnni" in flags:
            return "Cascade Lake"
        if model in INTEL:
            return INTEL[model]
    return f"family {family}, model {model}"


def caches(folder="/sys/devices/system/cpu/cpu0/cache"):
    found = {}
    for index in sorted(Path(folder).glob("index*")):
        level, kind, size = ((index / part).read_text().strip() for part in ("level", "type", "size"))
        found[f"L{level}" + {"Data": "d", "Instruction": "i"}.get(kind, "")] = size
    return found


def describe(cpuinfo=None, cores=None):
    fields = {}
    for line in (cpuinfo or Path("/proc/cpuinfo").read_text()).splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    flags = [f for f in FLAGS if f in (fields.get("flags") or fields.get("Features", "")).split()]
    vendor = fields.get("vendor_id", "unknown")
    short = {"AuthenticAMD": "AMD", "GenuineIntel": "Intel"}.get(vendor, vendor)
    kind = generation(vendor, int(fields.get("cpu family", 0)), int(fields.get("model", 0)), flags)
    return {
        "name": f"{short} {kind}",
        "model_name": fields.get("model name", ""),
        "flags": flags,
        "cores": cores or len(os.sched_getaffinity(0)),
        "caches": caches(),
    }


def slug(processor):
    """Of its file. Two cores are what the figures are of, unless it says otherwise."""
    cores = "" if processor["cores"] == 2 else f" {processor['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", (processor["name"] + cores).lower()).strip("-")
