"""Make weights that come with psc, of finished runs: ``python scripts/weights.py RUN_FOLDER …``.

Of each network: psc/weights/<data>_<network>.safetensors, its card beside it, its checksum in
SHA256SUMS. Of runs that differ in their seed that of the lowest VI on the validation part is taken,
and the card says of which. The weights are those that its record was evaluated with; a record that
was changed, another network's checkpoint, data whose licence does not allow passing on, and files
of more than 4 MB are refused. The data must be where the run read them: their grey values are
looked at.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import yaml

import psc
from psc.config.schema import TrainConfig, UNetConfig
from psc.download.download import SOURCES
from psc.em.data import read_splits
from psc.em.settings import FibsemConfig
from psc.errors import CheckpointError, ConfigError, DataError, told_in_a_line
from psc.files import in_words, replacing, sha256_of, write_text
from psc.networks.weights import ENDING, FOLDER, SUMS, read_safetensors, safetensors_of
from psc.paper.groups import group_records, refuse_twins
from psc.training.checkpoints import Checkpoint, read_checkpoint
from psc.training.folder import BEST
from psc.training.records import Record, read_record
from psc.volumes.intensity import full_scale

DATA = {"fibsem_sample": ("fib25", "fibsem")}
"""Data set → the beginning of a name, and its entry in data/sources.yaml. CC BY only."""

ATTRIBUTION = "FIB-25, Janelia FlyEM (janelia-flyem/neuroproof_examples), CC BY"
LARGEST = 4_000_000  # bytes

CARD = """# {name}

The network `{network}` ({parameters:,} parameters) that turns electron microscopy into affinities, from
which neurons are segmented.

```
python scripts/segment.py weights={name} input=em.h5 output=neurons
```

`psc.create("{network}", weights="{data_name}")` gives the network by itself.

| | |
| --- | --- |
| data | {title}; {kind}: {files} |
| attribution | {attribution}; {citation} |
| licence | of the data CC BY, of the weights too, with this attribution |
| trained on | {train} |
| training | {iterations:,} iterations of {batch_size} patches, Adam at {rate:g}, {precision}, seed {seed}{among}, commit `{commit}`{dirty} |
| weights | those of the lowest validation loss, after {best:,} iterations |
| input | one channel, voxels of {voxel_size} nm (z, y, x), {grey_type} whose {grey_range} become 0 and 1 |
| output | logits of {channels} |
| arguments | {arguments} |
| threshold | {threshold:g} of the agglomeration, chosen on {validation} |
| score on the held-out {test} | VI {total:.3f} bits (split {split:.3f}, merge {merge:.3f}), adapted Rand error {adapted_rand_error:.3f} |
| the same without a network | VI {floor:.3f} bits |
| checksum | `{sha256}` |

## What it must not be used for

- As the paper's network, or for comparisons with the paper's scores: it was trained on one small volume,
  by the reduced protocol of this repository, not by the paper's.
- To rank blocks: it is one seed, scored on {sections} sections of the volume that it was trained on. On another
  volume, even of the same microscope, expect worse, and measure it.
- Unchecked, for any conclusion about neurons: every segmentation has splits and merges that a person must look
  for. For anything medical: not at all.
- Other voxel sizes, other staining, other microscopes, without training it further (`initial_weights=` takes the
  file).
"""  # noqa: E501


def best_of(runs: Sequence[Path]) -> dict[Path, list[int]]:
    """Of every network the run of the lowest VI on validation data, and all its runs' seeds."""
    records = {run: read_record(run) for run in runs}
    found: dict[Path, list[int]] = {}
    networks: dict[tuple[str, ...], Path] = {}
    run_of = {id(record): run for run, record in records.items()}
    for group in group_records(list(records.values())):
        refuse_twins(group, run_of)
        best = run_of[id(min(group.records, key=_validation_vi))]
        other = networks.setdefault((group.backbone, group.block), best)
        if other != best:
            raise ConfigError(f"{other} and {best} differ in more than their seed; name one")
        found[best] = sorted(group.seeds)
    return found


def _validation_vi(record: Record) -> float:
    total = record.metrics.get("validation", {}).get("total")  # of EM only
    return math.inf if total is None else float(total)


def make(run: Path, folder: Path, seeds: Sequence[int] = ()) -> Path:
    """The weights and the card of a finished run; returns the weights' file.

    ``seeds``: of all runs that it was chosen from.
    """
    record, checkpoint = read_record(run), read_checkpoint(run / "checkpoints" / BEST)
    config = checkpoint.config
    data = config.dataset
    if data.name not in DATA or not isinstance(data, FibsemConfig):
        allowed = ", ".join(DATA)
        raise ConfigError(f"{run}: of dataset={data.name} no weights are passed on, of {allowed}")
    prefix, source = DATA[data.name]
    network, arguments = _as_created(config, checkpoint, run)
    ours = asdict(config)
    if any(record.config[part] != ours[part] for part in ("backbone", "block", "seed")):
        raise DataError(f"{run}: its record and its checkpoint are of different runs; restore them")
    name = f"{prefix}_{network}"
    told, card = _told(record, checkpoint, network, arguments), _card(record, source)
    file = folder / f"{name}{ENDING}"
    content = safetensors_of(checkpoint.weights, told)
    if len(content) > LARGEST:
        raise ConfigError(f"{name}: {in_words(len(content))}, of at most {in_words(LARGEST)}")
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(file) as unfinished:
        unfinished.write_bytes(content)
    read_safetensors(file)
    offsets, (low, high) = json.loads(told["offsets"]), json.loads(told["grey_range"])
    channels = "three affinities: with the neighbour before along z, y, x"
    if offsets[3:]:
        channels = f"affinities with the voxels at offsets (z, y, x) {offsets}"
    card |= {
        "name": name,
        "among": f" (of {', '.join(map(str, seeds))} the one of the lowest VI on validation)"
        if len(seeds) > 1
        else "",
        "network": network,
        "data_name": prefix,
        "best": checkpoint.iterations,
        "arguments": ", ".join(f"{k}={v!r}" for k, v in arguments.items()),
        "voxel_size": " × ".join(f"{s:g}" for s in json.loads(told["voxel_size"])),
        "grey_type": told["grey_type"],
        "grey_range": f"[{low:g}, {high:g}]",
        "channels": channels,
        "sha256": sha256_of(file),
    }
    write_text(CARD.format(**card), file.with_suffix(".md"))
    sums = {path.name: sha256_of(path) for path in sorted(folder.glob(f"*{ENDING}"))}
    write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()), folder / SUMS)
    return file


def _as_created(
    config: TrainConfig, checkpoint: Checkpoint, run: Path
) -> tuple[str, dict[str, Any]]:
    """The name and arguments by which ``psc.create`` makes this very network."""
    network = f"{config.backbone.name}_{config.block.name}"
    if network not in psc.list_networks() or not isinstance(config.backbone, UNetConfig):
        raise ConfigError(f"{run}: {network} is none of psc.list_networks()")
    given = {k: v for k, v in asdict(config.backbone).items() if k != "name"}
    if config.block.merge != "concatenate":
        given["merge"] = config.block.merge
    known = signature(psc.networks.UNet).parameters
    arguments = {k: v for k, v in given.items() if k not in known or v != known[k].default}
    try:
        psc.create(network, **arguments).load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        raise CheckpointError(f"{run}: not what psc.create({network!r}) makes: {error}") from error
    return network, arguments


def _told(
    record: Record, checkpoint: Checkpoint, network: str, arguments: dict[str, Any]
) -> dict[str, str]:
    """What the file says of itself: text by name, JSON where it is more than text."""
    data = checkpoint.config.dataset
    assert isinstance(data, FibsemConfig)
    volume = read_splits(data).parts["test"][0].volume
    voxel_size = data.voxel_size or volume.voxel_size
    if voxel_size is None:
        raise DataError(f"{record.run}: nothing says its voxels' size; dataset.voxel_size does")
    grey_range = data.intensity_range or [0.0, full_scale(volume.raw.dtype)]
    kept: dict[str, Any] = {
        "arguments": arguments,
        "config": {**record.config, "output_directory": "runs", "initial_weights": None},
        "grey_range": grey_range,
        "voxel_size": list(voxel_size),
        "offsets": getattr(checkpoint.config.recipe, "offsets", None),  # affinity i: v, v + o_i
        "scores": record.metrics["test"],
        "data": record.data,
    }
    return {
        "network": network,
        "grey_type": str(volume.raw.dtype),
        "threshold": str(record.metrics["threshold"]),
        "iterations": str(checkpoint.iterations),
        "seed": str(record.seed),
        "commit": str(record.git["commit"]),
        "attribution": ATTRIBUTION,
        **{name: json.dumps(value) for name, value in kept.items()},
    }


def _card(record: Record, source: str) -> dict[str, Any]:
    """What the card says beyond that."""
    entry = yaml.safe_load(SOURCES.read_text(encoding="utf-8"))[source]
    parts: dict[str, list[str]] = record.data["splits"]
    slab = record.config["dataset"]["test"][0]["z"]
    return {
        **{key: entry[key] for key in ("title", "citation")},
        **{part: ", ".join(f"`{name}`" for name in named) for part, named in parts.items()},
        **record.metrics["test"],
        "attribution": ATTRIBUTION,
        "kind": record.data["kind"],
        "files": ", ".join(
            f"{f['name']} (sha256 {f['sha256'][:12]}…)" for f in record.data["files"]
        ),
        "floor": record.metrics["baseline"]["test"]["total"],
        "sections": slab[1] - slab[0] if slab else "all",
        "threshold": record.metrics["threshold"],
        "parameters": record.parameters,
        "iterations": record.iterations,
        "batch_size": record.config["recipe"]["batch_size"],
        "rate": record.config["recipe"]["optimizer"]["learning_rate"],
        "precision": record.config["trainer"]["precision"],
        "seed": record.seed,
        "commit": record.git["commit"],
        "dirty": ", with changes that were not committed" if record.git.get("dirty") else "",
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Make them from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_FOLDER", help="finished")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder; default: psc/weights")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with told_in_a_line():
        for run, seeds in best_of(chosen.runs).items():
            print(made := make(run, chosen.output, seeds), f"({in_words(made.stat().st_size)})")


if __name__ == "__main__":
    main()
