"""The figures by processor, made from bench/results/*.json between two markers of a page:

    README.md            one line
    docs/benchmarks.md   the goals, and every step
    docs/distributed.md  what a step costs in many processes

`table.py` writes them; `table.py --check` says where a page has others, as the suite does.
"""

import sys
import textwrap
from pathlib import Path

from results import FOLDER, ROOT, load

sys.path.insert(0, str(ROOT / "bench"))
import cost_model  # noqa: E402

MODELS = {
    "vit_ti_4_32_b64": "ViT-Ti/4 of 32 × 32, batch 64",
    "vit_s_8_64_b32": "ViT-S/8 of 64 × 64, batch 32",
    "vit_b_32_224_b16": "ViT-B/32 of 224 × 224, batch 16",
    "vit_b_32_224_b64": "ViT-B/32, batch 64",
    "minilm_l6_128_b64": "MiniLM-L6, 64 pairs of 128 tokens",
    "clip_b_32_b64": "CLIP ViT-B/32, batch 64",
    "clip_b_32_b64_cached_16": "the same, cached in chunks of 16",
}
PEERS = {
    "torch-eager": "PyTorch eager",
    "torch-compile": "`torch.compile`",
    "torch-bf16": "PyTorch's autocast to bf16",
    "jax": "JAX",
}
CACHED = "clip_b_32_b64_cached_16/direct"


def eager_goal(processor):
    if "Zen 5" in processor["name"]:
        return 1.5
    return 1.3 if "avx512f" in processor["flags"] else 1.15


def steps(peer, field="ratio"):
    return [(f"{model}/{peer}", field) for model in MODELS]


def at_least(limit):
    return lambda value, processor: value >= limit


def at_most(limit):
    return lambda value, processor: value <= limit


def plain(value):
    return f"{value:.2f}"


def percent(value):
    return f"{100 * value:.0f} %"


# What is asked, the goal in words, the figures that it is asked of, whether one is enough, and how one is written.
GOALS = [
    ("f32 step against PyTorch eager, seven models", "≥ 1.5 on Zen 5, 1.3 with AVX-512, 1.15 else", steps("torch-eager"),
     lambda value, processor: value >= eager_goal(processor), plain),
    ("f32 step against `torch.compile`, seven models", "≥ 1.15", steps("torch-compile"), at_least(1.15), plain),
    ("bf16 step against autocast, seven models", "≥ 1.3 with AMX", steps("torch-bf16"),
     lambda value, processor: value >= 1.3 or "amx_bf16" not in processor["flags"], plain),
    ("share of the GEMM ceiling, ViT-B/32, batch 64", "≥ 85 %", [("vit_b_32_224_b64/torch-eager", "gemm_share")],
     at_least(0.85), percent),
    ("share of the GEMM ceiling, ViT-Ti/4", "≥ 75 %", [("vit_ti_4_32_b64/torch-eager", "gemm_share")], at_least(0.75), percent),
    ("cached 64 / 16 over direct 64, seconds: CLIP ViT-B/32", "≤ 1.27", [(CACHED, "cached_over_direct")], at_most(1.27), plain),
    ("cached 64 / 16 over direct 64, seconds: the demo's model", "≤ 1.35", [("demo_cached_over_direct", "value")],
     at_most(1.35), plain),
    ("cached in chunks of 32 over direct 256, seconds: no tape kept", "≤ 1.30", [("gradcache_no_tape_kept", "value")],
     at_most(1.30), plain),
    ("the same with a budget for all tapes", "≤ 1.02", [("gradcache_ample_budget", "value")], at_most(1.02), plain),
    ("peak memory against PyTorch eager, f32", "≤ 0.6", steps("torch-eager", "memory"), at_most(0.6), plain),
    ("activation and its gradient, share of a copy's speed, the least", "≥ 60 %", [("activation_copy_share", "value")],
     at_least(0.6), percent),
    ("cost of an op beside its arithmetic, against PyTorch eager", "≤ 0.3",
     [(f"op_overhead_{mode}", "value") for mode in ("forward", "recorded", "backward")], at_most(0.3), plain),
    ("MiniLM fine-tuned, pairs a second against sentence-transformers' cached loss", "≥ 2", [("sentences_step", "value")],
     at_least(2), plain),
    ("the same, peak memory of the process", "≤ 0.5", [("sentences_memory", "value")], at_most(0.5), plain),
    ("2,000 texts embedded, against sentence-transformers' `encode`", "≥ 1.5", [("sentences_encoding", "value")],
     at_least(1.5), plain),
    ("the same steps of each: recall@1 of 1,000 pairs held out, ours less theirs", "≥ -0.01",
     [("sentences_recall_difference", "value")], at_least(-0.01), lambda value: f"{value:+.3f}"),
    ("`tapecache train` until MiniLM's first step", "≤ 2 s", [("sentences_first_step_seconds", "value")], at_most(2),
     lambda value: f"{value:.1f} s"),
    ("texts made tokens on one thread, against the `tokenizers` package, the least of its kinds", "≥ 1",
     [("tokenizing", "value")], at_least(1), plain),
    ("share of a step that waits for 1,024 images of 224 × 224: CLIP with a ViT-Ti/16", "≤ 5 %", [("loading_share", "value")],
     at_most(0.05), lambda value: f"{100 * value:.1f} %"),
    ("two processes of one thread over one of two, seconds: CLIP ViT-B/32, cached 64 / 16", "≤ 1.05",
     [("processes_2x1_over_1x2", "value")], at_most(1.05), plain),
    ("share of gradients' journey over 1 Gbit/s that backward hides: the same steps, and 32 / 8", "≥ 70 %",
     [("reduction_hidden", "value"), ("reduction_hidden_half", "value")], at_least(0.7), percent),
    ("the library, CPU only, stripped, all instruction sets", "≤ 6 MB", [("library_megabytes", "value")], at_most(6),
     lambda value: f"{value:.1f} MB"),
    ("`./run demo` from a fresh clone to the first training line", "≤ 4 min", [("demo_minutes", "value")], at_most(4),
     lambda value: f"{value:.1f} min"),
]


def bold(text, met):
    return text if met else f"**{text}**"


def figures_of(result, wanted):
    return [result["figures"][name][field] for name, field in wanted if field in result["figures"].get(name, {})]


def span(figures, written):
    least, most = written(min(figures)), written(max(figures))
    return least if least == most else f"{least} to {most}"


def cell(result, wanted, met, written):
    """The figures' least and most; – where there are none. In bold where one misses the goal."""
    found = figures_of(result, wanted)
    if not found:
        return "–"
    text = span(found, written)
    if 1 < len(found) < len(wanted):
        text += f" ({len(found)} of {len(wanted)})"
    return bold(text, all(met(value, result["processor"]) for value in found))


def row(cells):
    return "| " + " | ".join(cells) + " |"


def header(first, results):
    return [row([*first, *(r["processor"]["name"] for r in results)]), "|" + "---|" * (len(first) + len(results))]


def dates(results):
    spans = []
    for r in results:
        days = [figure["date"] for figure in r["figures"].values()]
        spans.append(min(days) if min(days) == max(days) else f"{min(days)} to {max(days)}")
    return spans


def goals_table(results):
    lines = header(["figure", "goal"], results)
    for name, goal, wanted, met, written in GOALS:
        lines.append(row([name, goal, *(cell(r, wanted, met, written) for r in results)]))
    return lines + [row(["measured", "", *dates(results)])]


def step_cell(result, name):
    figure = result["figures"].get(name)
    return f"{figure['ratio']:.2f}" + (f" ({figure['memory']:.2f})" if "memory" in figure else "") if figure else "–"


def steps_table(results):
    lines = []
    for peer, peer_name in PEERS.items():
        lines += ["", f"Against {peer_name}:", "", *header(["step"], results)]
        lines += [row([text, *(step_cell(r, f"{model}/{peer}") for r in results)]) for model, text in MODELS.items()]
    lines += ["", "Each file has also: seconds, shares of the GEMM ceiling, compiler and version.", "",
              *header([""], results)]
    for label, value in (
            ("instructions", lambda r: ", ".join(r["processor"]["flags"])),
            ("cores", lambda r: str(r["processor"]["cores"])),
            ("caches", lambda r: ", ".join(f"{k} {v}" for k, v in r["processor"]["caches"].items()) or "–"),
    ):
        lines.append(row([label, *(value(r) for r in results)]))
    return lines[1:] + [row(["measured", *dates(results)])]


def summary(results):
    """Of the f32 steps against PyTorch eager, the least and the most of each processor."""
    spans = [(r["processor"]["name"], figures_of(r, steps("torch-eager"))) for r in results]
    text = ", ".join(f"{name} {span(found, plain)}" for name, found in spans if found)
    return textwrap.wrap(f"Whole f32 training steps on two cores against PyTorch eager's, seconds theirs / ours: {text}.", 128)


BENCHMARKS = ROOT / "docs" / "benchmarks.md"
PLACES = [(ROOT / "README.md", "summary", summary), (BENCHMARKS, "goals", goals_table), (BENCHMARKS, "steps", steps_table),
          (ROOT / "docs" / "distributed.md", "many processes", cost_model.pages)]


def with_table(page, name, lines):
    """The page's text with these lines between its markers."""
    begin, end = (f"<!-- {word} of {name}, by bench/peers/table.py -->" for word in ("begin", "end"))
    if page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(f"expected one '{begin}' and one '{end}'")
    before, rest = page.split(begin)
    return "\n".join([before + begin, *lines, end + rest.split(end)[1]])


def stored_results(folder=FOLDER):
    return sorted((load(path) for path in Path(folder).glob("*.json")), key=lambda r: r["processor"]["name"])


def write(check=False):
    """Puts the pages in order. With `check` changes nothing; the places that are not in order."""
    stale = []
    for path, name, make in PLACES:
        old = path.read_text()
        new = with_table(old, name, make(stored_results()))
        if new != old:
            stale.append(f"{path.name}, {name}")
            if not check:
                path.write_text(new)
    return stale


if __name__ == "__main__":
    checking = sys.argv[1:] == ["--check"]
    stale_pages = write(checking)
    if checking and stale_pages:
        sys.exit(f"{'; '.join(stale_pages)}: not the figures of bench/results; run bench/peers/table.py")
