"""The Triton kernels compiled for GPUs that are not here: registers, spills, width of loads, instructions.

    python benchmarks/aot.py                                 every variant for every target
    python benchmarks/aot.py --check                         the same, and exit status 1 where a gate fails
    python benchmarks/aot.py --targets sm_90 gfx942 --variants jsd --json aot.json

Instructions are counted in the loops over the vocabulary, all sweeps of scoring and gradient together, and divided by
the pairs of student and teacher logits that a thread takes there. Waits and empty slots are left out.

Gates: nothing is spilled; every load of logits is 128 bits wide, in the loops and in the masked rest of a row, whether
or not the vocabulary is a multiple of 16; no more instructions per pair than the ceiling.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from unisd.kernels.rows_triton import LANES, NUM_THREADS, gradient_variant, jsd_variant
from unisd.kernels.triton_gradient import gradient_kernel
from unisd.kernels.triton_scores import jsd_kernel, kl_kernel, statistics_kernel

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
    "gfx950": GPUTarget("hip", "gfx950", 64),
}


class Part(NamedTuple):
    kernel: Any
    constants: dict[str, Any]
    tensors: tuple[int, ...]
    """Rows of logits that each loop reads, in the order of the loops."""
    stored_bytes: int = 0
    """Per logit."""


class Variant(NamedTuple):
    parts: tuple[str, ...]
    ceiling: int
    """Instructions per pair."""


def _pair(*, is_capped: bool = False, shared: bool = True, names: str = "ST") -> dict[str, bool]:
    return {f"{names[0]}_CAPPED": is_capped, f"{names[1]}_CAPPED": is_capped, "SHARED": shared}


def _scores_kl(**of_pair: bool) -> Part:
    return Part(kl_kernel, {"P_MODEL": 1, **_pair(names="PQ", **of_pair)}, (2,))


def _scores_jsd(beta: float, **of_pair: bool) -> Part:
    return Part(jsd_kernel, {**jsd_variant(beta), **_pair(**of_pair)}, (1, 1, 2))


def _gradient(kind: str, beta: float = 0.5, *, narrow: bool = False, **of_pair: bool) -> Part:
    constants = {"HAS_LOGP": True, **gradient_variant(kind, beta, narrow=narrow), **_pair(**of_pair)}
    return Part(gradient_kernel, constants, (1,) if kind == "none" else (2,), 2 if narrow else 4)


PARTS = {
    "statistics": Part(statistics_kernel, {"CAPPED": False}, (1,)),
    "kl": _scores_kl(),
    "kl capped": _scores_kl(is_capped=True),
    "kl unshared": _scores_kl(shared=False),
    "jsd": _scores_jsd(0.5),
    "jsd extreme": _scores_jsd(1e-3),
    "jsd capped": _scores_jsd(0.5, is_capped=True),
    "d logp": _gradient("none"),
    "d forward_kl": _gradient("forward_kl"),
    "d forward_kl narrow": _gradient("forward_kl", narrow=True),
    "d forward_kl capped": _gradient("forward_kl", is_capped=True),
    "d forward_kl unshared": _gradient("forward_kl", shared=False),
    "d reverse_kl": _gradient("reverse_kl"),
    "d jsd": _gradient("jsd"),
    "d jsd narrow": _gradient("jsd", narrow=True),
    "d jsd extreme": _gradient("jsd", 1e-3),
    "d jsd capped": _gradient("jsd", is_capped=True),
}

# 80 is the aim. Beyond it, with room for other versions of the compiler: gfx942 has no instruction that rounds to
# bfloat16; a beta near 0 or 1 takes logarithms of full relative accuracy; a soft cap is a tanh of every logit.
VARIANTS = {
    "log-probability": Variant(("statistics", "d logp"), 80),
    "forward_kl": Variant(("kl", "d forward_kl"), 80),
    "reverse_kl": Variant(("kl", "d reverse_kl"), 80),
    "jsd": Variant(("jsd", "d jsd"), 80),
    "forward_kl, bfloat16 gradient": Variant(("kl", "d forward_kl narrow"), 85),
    "jsd, bfloat16 gradient": Variant(("jsd", "d jsd narrow"), 85),
    "forward_kl, two scales": Variant(("kl unshared", "d forward_kl unshared"), 80),
    "jsd, beta 0.001": Variant(("jsd extreme", "d jsd extreme"), 145),
    "forward_kl, soft cap": Variant(("kl capped", "d forward_kl capped"), 150),
    "jsd, soft cap": Variant(("jsd capped", "d jsd capped"), 220),
}


class Loop(NamedTuple):
    num_instructions: int
    load_bits: list[int]


class Binary(NamedTuple):
    """What was read from one compiled kernel."""

    registers: int
    spills: int
    loops: list[Loop]
    """Those that load."""
    num_wide_elsewhere: int
    """128-bit loads outside the loops."""


@dataclass(frozen=True)
class Figures:
    """One line of the table."""

    variant: str
    target: str
    vocabulary: str
    registers: int
    spills: int
    wide_loads: int
    loads: int
    wide_tail_loads: int
    tail_loads: int
    instructions: float
    ceiling: int
    bytes: int

    def failures(self) -> list[str]:
        """Which gates do not hold."""
        num_narrow, num_narrow_in_rest = self.loads - self.wide_loads, self.tail_loads - self.wide_tail_loads
        found = {
            f"{self.spills} spills": self.spills > 0,
            f"{num_narrow} narrow loads in loops": num_narrow > 0,
            f"{num_narrow_in_rest} narrow loads in the rest": num_narrow_in_rest > 0,
            f"{self.instructions:.1f} instructions per pair": self.instructions > self.ceiling,
        }
        return [text for text, fails in found.items() if fails]


def compile_part(name: str, target: str, *, is_multiple: bool) -> Binary:
    """Compiles for a target; `is_multiple`: the compiler is told that V is a multiple of 16."""
    part, gpu = PARTS[name], TARGETS[target]
    constants = {**part.constants, "PADDED": True, "LANES": LANES, "PTX": gpu.backend == "cuda"}
    signature, attributes = {}, {}
    for position, argument in enumerate(part.kernel.arg_names):
        signature[argument] = "constexpr" if argument in constants else _type_of(argument, constants)
        is_aligned = signature[argument].startswith("*") or argument.endswith("stride")
        if is_aligned or (argument == "V" and is_multiple):
            attributes[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(part.kernel, signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": NUM_THREADS // gpu.warp_size, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=gpu, options=options)
    return _read_nvidia(compiled.asm["cubin"]) if gpu.backend == "cuda" else _read_amd(compiled.asm["amdgcn"])


def _type_of(argument: str, constants: dict[str, Any]) -> str:
    if argument == "out" and constants.get("NARROW"):
        return "*bf16"
    if argument in ("num_rows", "V") or argument.endswith("stride"):
        return "i32"
    is_pointer = argument in ("out", "context") or argument.endswith(("logits", "_weight"))
    return "*i64" if argument == "ids" else "*fp32" if is_pointer else "fp32"


def _read_nvidia(cubin: bytes) -> Binary:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        tool = triton.knobs.nvidia.cuobjdump.path
        sass, usage = (
            subprocess.run([tool, option, path], check=True, capture_output=True, text=True).stdout
            for option in ("-sass", "-res-usage")
        )
    lines = re.findall(r"^\s*/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", sass, re.MULTILINE)
    code = [text for _, text in lines]
    places = {int(address, 16): number for number, (address, _) in enumerate(lines)}
    successors = []
    for number, text in enumerate(code):
        branch = re.search(r"\bBRA\b.*?0x([0-9a-f]+)", text)
        targets = [places[int(branch[1], 16)]] if branch else []
        falls_through = not re.match(r"(BRA|EXIT)\b(?!.*\bUP)", text)
        successors.append(targets + [number + 1] * (falls_through and number + 1 < len(code)))
    registers = re.search(r"REG:(\d+)", usage)
    assert registers is not None, usage
    spills = sum(bool(re.search(r"\b(LDL|STL)\b", text)) for text in code)
    loops = [[code[number] for number in body if "NOP" not in code[number]] for body in natural_loops(successors)]
    return _binary(int(registers[1]), spills, loops, code, r"\bLDG((?:\.\w+)*)", {".64": 64, ".128": 128})


def _read_amd(assembly: str) -> Binary:
    code, labels = [], {}
    for line in assembly.splitlines():
        if label := re.match(r"(\.LBB\w+):", line):
            labels[label[1]] = len(code)
        elif re.match(r"\t[a-z]", line):
            code.append(line.strip())
    successors = []
    for number, text in enumerate(code):
        branch = re.match(r"s_c?branch\w*\s+(\.LBB\w+)", text)
        targets = [labels[branch[1]]] if branch else []
        falls_through = not text.startswith(("s_branch", "s_endpgm"))
        successors.append(targets + [number + 1] * (falls_through and number + 1 < len(code)))
    waits = ("s_nop", "s_wait", "s_delay")
    loops = [[code[at] for at in body if not code[at].startswith(waits)] for body in natural_loops(successors)]
    found = re.findall(r"\.(vgpr_count|\wgpr_spill_count):\s+(\d+)", assembly)
    counts = {name: int(value) for name, value in found}
    spills = counts["vgpr_spill_count"] + counts["sgpr_spill_count"]
    pattern, widths = r"^(?:global|buffer|flat)_load(_\w+)", {"_dwordx2": 64, "_dwordx4": 128}
    return _binary(counts["vgpr_count"], spills, loops, code, pattern, widths)


def natural_loops(successors: list[list[int]]) -> list[list[int]]:
    """The instructions of each loop, in the order of the code: what leads back to a header that nothing goes around."""
    predecessors: list[list[int]] = [[] for _ in successors]
    for number, following in enumerate(successors):
        for target in following:
            predecessors[target].append(number)
    loops = []
    for latch, following in enumerate(successors):
        for header in (target for target in following if target <= latch):
            if header == 0 or latch not in _reach(0, successors, avoiding=header):
                loops.append(sorted(_reach(latch, predecessors, avoiding=header) | {header}))
    return loops


def _reach(start: int, edges: list[list[int]], *, avoiding: int) -> set[int]:
    seen, pending = {avoiding}, [start]
    while pending:
        number = pending.pop()
        if number not in seen:
            seen.add(number)
            pending += edges[number]
    return seen - {avoiding}


def _binary(
    registers: int, spills: int, loops: list[list[str]], code: list[str], pattern: str, widths: dict[str, int]
) -> Binary:
    def load_bits(body: list[str]) -> list[int]:
        suffixes = (match[1] for text in body if (match := re.search(pattern, text)))
        return [max((bits for end, bits in widths.items() if end in suffix), default=32) for suffix in suffixes]

    loading = [Loop(len(body), bits) for body in loops if (bits := load_bits(body))]
    num_wide = sum(bits == 128 for bits in load_bits(code))
    in_loops = sum(bits == 128 for loop in loading for bits in loop.load_bits)
    return Binary(registers, spills, loading, num_wide - in_loops)


def figures_of(name: str, target: str, binaries: dict[tuple[str, str, bool], Binary], *, is_multiple: bool) -> Figures:
    """The line of a variant, from what was read of its parts."""
    variant = VARIANTS[name]
    parts = [(PARTS[part], binaries[part, target, is_multiple]) for part in variant.parts]
    instructions, num_bytes, num_tail_loads = 0.0, 0, 0
    for part, binary in parts:
        if len(binary.loops) != len(part.tensors):
            raise RuntimeError(f"{name}, {target}: {len(part.tensors)} loops should load, {len(binary.loops)} do")
        for loop, num_tensors in zip(binary.loops, part.tensors, strict=True):
            instructions += loop.num_instructions * num_tensors / (sum(loop.load_bits) / 32)
        num_bytes += 4 * sum(part.tensors) + part.stored_bytes
        num_tail_loads += sum(part.tensors) * LANES // NUM_THREADS
    loads = [bits for _, binary in parts for loop in binary.loops for bits in loop.load_bits]
    return Figures(
        variant=name,
        target=target,
        vocabulary="V % 16 = 0" if is_multiple else "any V",
        registers=max(binary.registers for _, binary in parts),
        spills=sum(binary.spills for _, binary in parts),
        wide_loads=sum(bits == 128 for bits in loads),
        loads=len(loads),
        wide_tail_loads=min(sum(binary.num_wide_elsewhere for _, binary in parts), num_tail_loads),
        tail_loads=num_tail_loads,
        instructions=instructions,
        ceiling=variant.ceiling,
        bytes=num_bytes,
    )


def measure(variants: list[str], targets: list[str], multiples: list[bool], num_processes: int) -> list[Figures]:
    """Compiles each part once for each target, and puts the variants together."""
    names = sorted({part for variant in variants for part in VARIANTS[variant].parts})
    keys = [(name, target, multiple) for name in names for target in targets for multiple in multiples]
    # Spawned: a fork would copy the compiler's threads in whatever state they are.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, mp_context=context) as pool:
        binaries = dict(zip(keys, pool.map(_compile_key, keys), strict=True))
    return [
        figures_of(variant, target, binaries, is_multiple=multiple)
        for variant in variants
        for target in targets
        for multiple in multiples
    ]


def _compile_key(key: tuple[str, str, bool]) -> Binary:
    name, target, is_multiple = key
    return compile_part(name, target, is_multiple=is_multiple)


def table(lines: list[Figures]) -> str:
    """For a terminal."""
    rows = [("variant", "target", "vocabulary", "regs", "spills", "128-bit", "in rest", "instr/pair", "bytes/pair", "")]
    for line in lines:
        rows.append(
            (
                line.variant,
                line.target,
                line.vocabulary,
                str(line.registers),
                str(line.spills),
                f"{line.wide_loads}/{line.loads}",
                f"{line.wide_tail_loads}/{line.tail_loads}",
                f"{line.instructions:.1f} of {line.ceiling}",
                str(line.bytes),
                "; ".join(line.failures()),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return "\n".join("  ".join(row).rstrip() for row in cells)


def main() -> int:
    """0, or 1 where `--check` finds a gate that fails."""
    parser = argparse.ArgumentParser(description="What the Triton kernels compile to, without a GPU.")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--vocabulary", choices=("any", "multiple", "both"), default="both")
    parser.add_argument("--check", action="store_true", help="exit status 1 where a gate fails")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes that compile")
    options = parser.parse_args()
    multiples = {"any": [False], "multiple": [True], "both": [True, False]}[options.vocabulary]
    lines = measure(options.variants, options.targets, multiples, options.jobs)
    print(table(lines))
    if options.json:
        options.json.write_text(json.dumps([asdict(line) for line in lines], indent=1) + "\n")
    failing = [line for line in lines if line.failures()]
    print(f"triton {triton.__version__}: {len(lines) - len(failing)} of {len(lines)} pass every gate")
    return 1 if options.check and failing else 0


if __name__ == "__main__":
    sys.exit(main())
