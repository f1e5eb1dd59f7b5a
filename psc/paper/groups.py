"""When runs are the same configuration, and so are averaged; and which may be compared.

``settings`` is the one definition: what of a configuration decides a result, but for the seed. By
it a record finds its row of a table (``psc.paper.experiments``), and runs that differ in nothing
but their seed become a ``Group``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from psc.config.compose import from_plain
from psc.errors import DataError
from psc.files import entries
from psc.paper.measures import Measures, measures_of
from psc.training.folder import TRAINER_WITHOUT_EFFECT
from psc.training.hardware import stored_precision
from psc.training.provenance import code_version, is_version
from psc.training.records import FILE_NAME, Record, read_record

Settings = dict[str, Any]
"""Value by dotted key, such as ``recipe.iterations``."""

_SLABS = ("train", "validation", "test")
_PLACES = (*_SLABS, "videos", "lists", "prepared", "prepare", "folder", "csv")
"""Parts of a data set's configuration that say where it lies; what was read is in ``data``."""

_TIME_LIMIT, _PRECISION = "recipe.max_minutes", "trainer.precision"


def settings(config: Mapping[str, Any]) -> Settings:
    """What decides a result but the seed; neither where files lie, nor what only takes time."""
    without = {*_PLACES, "fold"}  # the folds of a cross-validation are one experiment
    if "images" in config["dataset"]:  # of one's own: psc.mri.finding
        without |= {"images", "labels"}
    dataset = {key: value for key, value in config["dataset"].items() if key not in without}
    for part in _SLABS:  # which part of a volume counts, where its file lies does not
        if part in config["dataset"]:
            dataset[part] = [
                {key: slab.get(key) for key in ("z", "synthetic")}
                for slab in config["dataset"][part]
            ]
    trainer = {
        k: v for k, v in config.get("trainer", {}).items() if k not in TRAINER_WITHOUT_EFFECT
    }
    parts = {key: config[key] for key in ("backbone", "block", "recipe")}
    parts |= {"dataset": dataset, "trainer": trainer, "converted": False}
    parts["fine_tuned"] = config.get("initial_weights") is not None
    if any(part in dataset for part in _SLABS):  # volumes are segmented after the network
        parts["segmentation"] = config["segmentation"]
    return dict(_flat(parts))


def record_settings(record: Record, path: Path) -> Settings:
    """The same of a record of any version of the code; keys that it did not know have defaults.

    A time limit counts where it has ended the training: without one there would be more iterations.
    """
    found = settings(asdict(from_plain(record.config, path)))
    found[_PRECISION] = precision(record)
    found["converted"] = "conversion" in record.data  # its configuration names the original block
    if found["trainer.devices"] == "auto" and record.hardware.get("accelerator") == "cpu":
        found["trainer.devices"] = 1  # Lightning's "auto" is one process on a CPU
    if record.iterations >= found["recipe.iterations"]:
        del found[_TIME_LIMIT]  # it was not reached
    return found


def step_samples(record: Record) -> int | None:
    """Of a step, on all devices together; None where a record does not say how many there were."""
    trainer, batch = record.config.get("trainer", {}), int(record.config["recipe"]["batch_size"])
    if "processes" in record.hardware:
        return batch * int(record.hardware["processes"])
    devices = trainer.get("devices", 1)  # of older records
    if devices == "auto" and record.hardware.get("accelerator") == "cpu":
        devices = 1  # Lightning's "auto" is one process on a CPU
    if not isinstance(devices, int) or devices < 1:
        return None
    return batch * devices * int(trainer.get("num_nodes", 1))


def hardware_of(record: Record) -> str:
    """What it ran on, in words."""
    name, threads = str(record.hardware["device"]), record.hardware.get("torch_threads")
    if record.hardware.get("accelerator") != "cpu" or threads is None:
        return name
    return f"{name}, {threads} thread{'' if threads == 1 else 's'}"


def precision(record: Record) -> str:
    """What it was trained in; "auto" is what its device took then."""
    stored = record.config.get("trainer", {}).get("precision", "auto")
    return stored_precision(stored, record.hardware.get("accelerator", "cpu"))


def differences(found: Settings, wanted: Settings) -> list[str]:
    """In words, where a record and a row differ; a row with precision "auto" takes any."""

    def shown(values: Settings, key: str) -> str:
        return f"{values[key]}" if key in values else "(nothing)"

    if wanted.get(_PRECISION) == "auto":
        wanted = wanted | {_PRECISION: found[_PRECISION]}
    keys = sorted(found.keys() | (wanted.keys() - {_TIME_LIMIT}))
    return [
        f"{key}={shown(found, key)} and not {shown(wanted, key)}"
        for key in keys
        if found.get(key) != wanted.get(key)
    ]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    items: list[tuple[str, Any]] = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        items += _flat(value, f"{name}.") if isinstance(value, dict) else [(name, value)]
    return items


@dataclass(frozen=True, eq=False)
class Group:
    """Runs of one configuration, one kind of data and one version of the code.

    They differ in seeds, and in folds if they are of a cross-validation: its scores are those of
    the subjects, each averaged over the runs that tested it.
    """

    records: tuple[Record, ...]  # at least one

    @property
    def first(self) -> Record:
        """The record that stands for what all have in common."""
        return self.records[0]

    @property
    def block(self) -> str:
        """Name of the block, and whether its streams are summed."""
        block = self.first.config["block"]
        return f"{block['name']}{' summed' if block.get('merge') == 'sum' else ''}"

    @property
    def backbone(self) -> str:
        """Name of the backbone."""
        return str(self.first.config["backbone"]["name"])

    @property
    def version(self) -> str:
        """Version of the code."""
        return code_version(self.first.git)

    @property
    def measures(self) -> Measures:
        """How its runs are scored."""
        return measures_of(self.first)

    @property
    def control(self) -> str:
        """What was taken away from the data on purpose, if anything."""
        return "shuffled frames" if self.first.config["recipe"].get("shuffle_frames") else ""

    def scores(self, key: str) -> list[float]:
        """A test score of every run or subject, as recorded: VI in bits, accuracy as share of 1."""
        if self.folds:
            return self._of_subjects(key, [record.metrics["subjects"] for record in self.records])
        return [_float(record.metrics["test"][key]) for record in self.records]

    def floor(self, key: str) -> list[float]:
        """The same of what needs no network, which is alike in all runs but of several folds."""
        subjects = [record.metrics["baseline"].get("subjects") for record in self.folded]
        if subjects and None not in subjects:
            return self._of_subjects(key, subjects)
        records = self.folded or self.records[:1]
        return [_float(self.measures.floor(record)[key]) for record in records]

    @property
    def folded(self) -> tuple[Record, ...]:
        """Its runs if they are folds of a cross-validation."""
        return self.records if folds_of(self.first) else ()

    @property
    def folds(self) -> str:
        """Which folds of how many, and how many subjects these have tested; or nothing."""
        numbers = sorted({record.config["dataset"]["fold"] for record in self.folded})
        tested = {name for record in self.folded for name in record.data["splits"]["test"]}
        if not numbers:
            return ""
        of = f"{', '.join(map(str, numbers))} of {folds_of(self.first)}"
        return f"{of}: {len(tested)} subject{'s'[: len(tested) != 1]}"

    @property
    def seeds(self) -> list[int]:
        """Those of its runs; a seed of several folds once."""
        seeds = [record.seed for record in self.records]
        return sorted(set(seeds)) if self.folded else seeds

    @property
    def splits(self) -> str:
        """What trained, validated and tested it; of a cross-validation everything does."""
        return "" if self.folded else repr(self.first.data.get("splits"))

    @property
    def training_size(self) -> int:
        """Videos, subjects or slabs that train; 0 where its record does not say."""
        splits = self.first.data.get("splits", {})
        if "videos" in splits:
            return int(splits["videos"]["train"])
        return 0 if self.folded else len(splits.get("train", ()))

    @property
    def minutes(self) -> float | None:
        """Mean of training; None where evaluate.py wrote the records: it has trained nothing."""
        timed = [r.wall_seconds["training"] for r in self.records if "training" in r.wall_seconds]
        return mean(timed) / 60 if timed else None

    def _of_subjects(self, key: str, scores: Sequence[Mapping[str, Any]]) -> list[float]:
        found: dict[str, list[float]] = {}
        for record, of in zip(self.records, scores, strict=True):
            for name in record.data["splits"]["test"]:
                if of[name][key] is not None:  # neither truth nor prediction has the tissue
                    found.setdefault(name, []).append(float(of[name][key]))
        return [mean(values) for values in found.values()] or [math.nan]


def folds_of(record: Record) -> int | None:
    """Into how many a cross-validation cuts its subjects; None: it is none."""
    folds: int | None = record.config["dataset"].get("folds")
    return folds


def seed_and_fold(record: Record) -> tuple[int, int]:
    """What tells runs of a group apart; the fold is 0 but in a cross-validation."""
    return record.seed, record.config["dataset"]["fold"] if folds_of(record) else 0


def refuse_twins(group: Group, path_of: Mapping[int, Path]) -> None:
    """Refuse a seed that is twice in a group; ``path_of``: by ``id`` of the record."""
    seen: dict[tuple[int, int], Record] = {}
    for record in group.records:
        other = seen.setdefault(seed_and_fold(record), record)
        if other is not record:
            raise DataError(
                f"{path_of[id(other)]} and {path_of[id(record)]} are of one row and one seed; "
                "delete one or leave it out, or the seed would count twice"
            )


def _float(value: float | None) -> float:
    return math.nan if value is None else float(value)


def group_records(records: Sequence[Record]) -> list[Group]:
    """Runs that differ in nothing but their seed, together; groups in order of appearance."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        started = [repr(record.data.get(key)) for key in ("initial_weights", "conversion")]
        decides = repr(sorted((settings(record.config) | {_PRECISION: precision(record)}).items()))
        splits = None if folds_of(record) else repr(record.data.get("splits"))
        key = _test(record), decides, splits, *started, code_version(record.git)
        groups.setdefault(key, []).append(record)
    return [Group(tuple(group)) for group in groups.values()]


def by_application(groups: Sequence[Group]) -> dict[Measures, list[Group]]:
    """Groups that are scored in the same way, together; in order of appearance."""
    together: dict[Measures, list[Group]] = {}
    for group in groups:
        together.setdefault(group.measures, []).append(group)
    return together


def comparable(groups: Sequence[Group]) -> list[list[Group]]:
    """Groups whose scores may be compared, together: same test data, same protocol."""
    together: dict[tuple[Any, ...], list[Group]] = {}
    for group in groups:
        together.setdefault(_test(group.first), []).append(group)
    return list(together.values())


def _test(record: Record) -> tuple[Any, ...]:
    """What a score depends on beside the network."""
    files = tuple(sorted(file["sha256"] for file in record.data["files"]))
    measures = measures_of(record)
    return measures, record.config["dataset"]["name"], files, measures.test(record)


def group_names(groups: Sequence[Group]) -> list[str]:
    """What each group is called: its block, in what else they differ, and a number if need be."""
    aspects = [
        (
            g.backbone,
            f"{_trained_for(g.first):,} it.",
            f"{g.training_size} {g.measures.units[: -1 if g.training_size == 1 else None]}"
            if g.training_size
            else "",
            g.control,
            precision(g.first),
            g.version,
        )
        for g in groups
    ]
    differ = [len(set(column)) > 1 for column in zip(*aspects, strict=True)]
    names: list[str] = []
    for group, aspect in zip(groups, aspects, strict=True):
        parts = [text for text, needed in zip(aspect, differ, strict=True) if needed and text]
        name = f"{group.block} ({', '.join(parts)})" if parts else group.block
        taken = sum(other == name or other.startswith(f"{name} #") for other in names)
        names.append(f"{name} #{taken + 1}" if taken else name)
    return names


def _trained_for(record: Record) -> int:
    """Iterations; of a checkpoint that was evaluated later, those that its training was given."""
    if "training" in record.wall_seconds:
        return record.iterations
    return int(record.config["recipe"]["iterations"])


def finished_runs(folder: Path) -> dict[Path, Record]:
    """Records of all finished runs directly in a folder, by run folder, in order of name."""
    runs = sorted(entries(folder)) if folder.is_dir() else []
    records = {run: read_record(run) for run in runs if (run / FILE_NAME).is_file()}
    if not records:
        raise DataError(f"{folder} holds no finished run (no */{FILE_NAME})")
    return records


def of_one_version(
    records: Mapping[Path, Record], *, commit: str | None = None, all_commits: bool = False
) -> dict[Path, Record]:
    """The records to be compared, by run folder; several versions of the code are refused.

    ``commit`` takes those of one version, by first digits (and ``-dirty`` for uncommitted changes);
    ``all_commits`` takes all: what belongs to different versions is then never averaged.
    """
    if all_commits:
        return dict(records)
    versions: dict[str, list[str]] = {}
    for path, record in records.items():
        versions.setdefault(code_version(record.git), []).append(path.name)
    listed = "\n".join(
        f"  {version}: {len(runs)} run{'s'[: len(runs) != 1]} ({', '.join(runs)})"
        for version, runs in versions.items()
    )
    if commit is not None:
        chosen = {path: r for path, r in records.items() if is_version(r.git, commit)}
        if not chosen:
            raise DataError(f"no run here is of version {commit} of the code:\n{listed}")
        if len({code_version(record.git) for record in chosen.values()}) > 1:
            raise DataError(
                f"--commit {commit} is more than one version, say more of it:\n{listed}"
            )
        return chosen
    if len(versions) > 1:
        raise DataError(
            f"these runs are of {len(versions)} versions of the code and are not compared:\n"
            f"{listed}\n"
            f"choose one (--commit {next(reversed(versions))}), show them as rows of their own "
            "(--all-commits), or keep each version's runs in a folder of its own"
        )
    return dict(records)
